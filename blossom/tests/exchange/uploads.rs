//! PUT /upload (BUD-02), PUT /<sha256> (BUD-13), HEAD /upload (BUD-06), preflights (OPTIONS, BUD-01); quotas and races of uploads.

use relay_blossom::exchange::StepError;
use relay_blossom::index::Refusal;
use relay_blossom::testing::{Host, Request};
use relay_blossom::{Command, Outcome};
use relay_site::blossom::RetentionRule;
use serde_json::json;

use crate::world::{NOW, PNG, URL, check, draft, get, hash, header, host, pubkey, stored, token, upload};

const BODY: &[u8] = b"hello, blossom";

#[test]
fn a_new_blob_is_201_with_a_descriptor_and_an_old_one_200() {
    let mut host = host();
    let x = hash(BODY).to_string();
    let url = format!("{URL}/{x}.txt");
    let want = json!({
        "url": url, "sha256": x, "size": 14, "type": "text/plain", "uploaded": NOW,
        "nip94": [["url", url], ["m", "text/plain"], ["x", x], ["ox", x], ["size", "14"]],
    });
    let request = upload(1, BODY).with("content-type", "text/plain");
    let reply = host.send(&request);
    check("new", &reply, 201);
    assert_eq!(reply.header("content-type"), Some("application/json"));
    assert_eq!(reply.json(), want);
    assert_eq!(reply.steps, ["Ask(Begin)", "Receive", "Ask(Finish)"]);
    assert_eq!(host.objects[&x].bytes, BODY, "not a byte is changed");

    host.now += 100;
    let reply = host.send(&request);
    check("old", &reply, 200);
    assert_eq!(reply.json(), want);
    assert_eq!(reply.steps, ["Ask(Begin)"], "the body of one's own blob is not read");
    // By another key, too, who is an owner when the same bytes have come.
    let before = host.objects.clone();
    let reply = host.send(&upload(2, BODY).with("content-type", "text/html"));
    check("another owner", &reply, 200);
    assert_eq!(reply.json(), want);
    assert_eq!(reply.steps, ["Ask(Begin)", "Receive", "Ask(Finish)"]);
    assert_eq!(host.objects, before, "nothing is stored again");
    for owner in [1, 2] {
        let list = get(&mut host, &format!("/list/{}", crate::world::pubkey(owner)));
        assert_eq!(list.json()[0]["sha256"], json!(x), "{owner}");
    }
    let path = url.strip_prefix(URL).unwrap();
    assert_eq!(get(&mut host, path).body, BODY, "the descriptor's URL is the blob's");
}

/// Regression: hashes are in lists that anybody may read. Whoever announced an upload of one owned the blob without a byte, and its
/// owner could not delete it.
#[test]
fn nobody_owns_what_they_do_not_have() {
    let mut host = host();
    let path = stored(&mut host, "text/plain", BODY);
    let x = hash(BODY);
    let other = &b"other bytes...".as_slice()[..BODY.len()];
    let put = |target: &str, bytes: &'static [u8]| {
        let token = token(2, "upload", &[hash(BODY)]);
        Request::new("PUT", target).with("authorization", &token).body(bytes)
    };
    let cases = [
        ("other bytes", put("/upload", other), 401),
        ("other bytes, announced", put("/upload", other).with("x-sha-256", &x.to_string()), 409),
        ("no bytes", put("/upload", b""), 401),
        ("by path", put(&path, other), 409),
    ];
    for (what, request, status) in cases {
        let reply = host.send(&request);
        check(what, &reply, status);
        assert_eq!(reply.steps, ["Ask(Begin)", "Receive", "Ask(Abort)"], "{what}");
    }
    let head = Request::new("HEAD", "/upload").with("authorization", &token(2, "upload", &[x]));
    let head = head.with("x-content-length", &BODY.len().to_string()).with("x-sha-256", &x.to_string());
    check("they may send them", &host.send(&head), 200);
    let list = get(&mut host, &format!("/list/{}", crate::world::pubkey(2)));
    assert_eq!(list.json(), json!([]));
    let delete = Request::new("DELETE", &path).with("authorization", &token(1, "delete", &[x]));
    check("its owner deletes it", &host.send(&delete), 204);
    check("gone", &get(&mut host, &path), 404);
    assert!(host.objects.is_empty());
}

#[test]
fn the_type_is_what_is_declared_or_told_by_the_bytes() {
    let cases: [(Option<&str>, &'static [u8], &str, &str); 11] = [
        (Some("text/plain; charset=utf-8"), b"a", "text/plain; charset=utf-8", "txt"),
        (Some("Image/PNG"), b"b", "image/png", "png"),
        (Some("application/octet-stream"), PNG, "image/png", "png"),
        (Some("text/plain"), b"\x89PNG\r\n\x1a\n\0, not a text", "image/png", "png"),
        (Some("application/octet-stream"), b"encrypted", "application/octet-stream", "bin"),
        (Some("application/x-own"), b"c", "application/x-own", "bin"),
        (Some("image/gif"), b"\x89PNG\r\n\x1a\n, not a gif", "image/gif", "gif"),
        (None, b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "image/png", "png"),
        (None, b"no magic number", "application/octet-stream", "bin"),
        (None, b"", "application/octet-stream", "bin"),
        (Some(""), b"an empty header", "application/octet-stream", "bin"),
    ];
    let mut host = host();
    for (declared, body, mime, extension) in cases {
        let mut request = upload(1, body);
        if let Some(declared) = declared {
            request = request.with("content-type", declared);
        }
        let reply = host.send(&request);
        check(mime, &reply, 201);
        assert_eq!(reply.json()["type"], json!(mime), "{declared:?}");
        assert_eq!(reply.json()["url"], json!(format!("{URL}/{}.{extension}", hash(body))));
        assert_eq!(get(&mut host, &format!("/{}", hash(body))).header("content-type"), Some(mime));
    }
    // The path of BUD-13 may have an extension.
    let target = format!("/{}.mp4", hash(b"video"));
    let request = Request { target, ..upload(1, b"video".as_slice()) };
    assert_eq!(host.send(&request).json()["type"], json!("video/mp4"));
}

/// Regression: if the first upload of a blob declared no type, it was served as octet-stream for ever, whatever later owners declared.
#[test]
fn an_owner_who_uploads_again_tells_an_unknown_type() {
    let mut host = host();
    let again = |number, mime: &str| upload(number, BODY).with("content-type", mime);
    let mut check_type = |request: &Request, status, mime: &str| {
        let reply = host.send(request);
        check(mime, &reply, status);
        assert_eq!(reply.json()["type"], json!(mime));
        assert_eq!(get(&mut host, &format!("/{}", hash(BODY))).header("content-type"), Some(mime));
    };
    check_type(&upload(1, BODY), 201, "application/octet-stream");
    check_type(&again(2, "text/plain"), 200, "application/octet-stream");
    check_type(&again(1, "application/octet-stream"), 200, "application/octet-stream");
    check_type(&again(2, "text/markdown"), 200, "text/markdown");
    check_type(&again(1, "text/plain"), 200, "text/markdown");
    assert_eq!(host.objects[&hash(BODY).to_string()].mime, "text/markdown", "the store's is the same");
}

/// What a store answers from its own type, where the index knows another.
#[test]
fn a_type_that_the_store_does_not_take_the_index_does_not_either() {
    let mut host = host();
    check("unknown", &host.send(&upload(1, BODY)), 201);
    let again = upload(1, BODY).with("content-type", "text/plain");
    host.failure = Some(StepError::Store("the bucket".to_owned()));
    let reply = host.send(&again);
    check("as it was", &reply, 200);
    assert_eq!(reply.steps, ["Ask(Begin)", "SetObjectType"]);
    assert_eq!(reply.json()["type"], json!("application/octet-stream"));
    let reply = host.send(&again);
    assert_eq!(reply.steps, ["Ask(Begin)", "SetObjectType", "Ask(SetMime)"]);
    assert_eq!(reply.json()["type"], json!("text/plain"));
    assert_eq!(host.send(&again).steps, ["Ask(Begin)"]);
    let set = |number: u64, mime: &str| Command::SetMime {
        sha256: hash(BODY),
        owner: pubkey(number).to_string(),
        mime: mime.to_owned(),
    };
    assert_eq!(host.index.run(NOW, set(2, "text/html")), Ok(Outcome::Refused(Refusal::NotOwner)));
    let Ok(Outcome::Exists(blob)) = host.index.run(NOW, set(1, "text/html")) else { panic!("it is here") };
    assert_eq!(blob.mime, "text/plain", "what is known stays");
}

/// Regression: who lost a race owned a blob without proof of having its bytes.
#[test]
fn who_loses_a_race_owns_nothing_that_was_not_looked_at() {
    let mut host = host();
    host.meanwhile = Some(|host| check("the faster one", &host.send(&upload(2, BODY)), 201));
    host.is_raced = true;
    let reply = host.send(&upload(1, BODY));
    check("the slower one", &reply, 503);
    assert_eq!(reply.steps, ["Ask(Begin)", "Receive", "Ask(Abort)", "Ask(Begin)", "Ask(Abort)"]);
    assert_eq!(reply.header("retry-after"), Some("5"));
    assert_eq!(owners(&mut host), [pubkey(2).to_string()]);
    check("again", &host.send(&upload(1, BODY)), 200);
    assert_eq!(owners(&mut host).len(), 2);
}

/// The same key over two connections.
#[test]
fn who_loses_a_race_against_oneself_owns_it() {
    let mut host = host();
    host.meanwhile = Some(|host| check("the faster one", &host.send(&upload(1, BODY)), 201));
    host.is_raced = true;
    let reply = host.send(&upload(1, BODY));
    check("the slower one", &reply, 200);
    assert_eq!(reply.steps, ["Ask(Begin)", "Receive", "Ask(Abort)", "Ask(Begin)"]);
}

fn owners(host: &mut Host<'_>) -> Vec<String> {
    match host.index.run(NOW, Command::Stat(hash(BODY))) {
        Ok(Outcome::Info(info)) => info.owners,
        other => panic!("{other:?}"),
    }
}

fn expires_at(host: &mut Host<'_>) -> Option<u64> {
    match host.index.run(host.now, Command::Get(hash(BODY))) {
        Ok(Outcome::Blob(blob)) => blob.expires_at,
        other => panic!("{other:?}"),
    }
}

/// Regression: where videos end after a day, whoever uploaded one again as something else, or as shorter, kept it for ever.
#[test]
fn a_blob_that_is_here_is_kept_by_its_own_type_and_size() {
    let mut host = host();
    let rule = |types: &[&str], bytes_min, age| RetentionRule {
        types: types.iter().map(|text| (*text).to_owned()).collect(),
        bytes_min,
        age_seconds: Some(age),
        unused_seconds: None,
    };
    host.settings.retention = vec![rule(&["video/*"], 10, 100), rule(&["text/*"], 0, 5_000)];
    let put = |mime: &str| upload(1, BODY).with("content-type", mime);
    check("new", &host.send(&put("video/mp4")), 201);
    assert_eq!(expires_at(&mut host), Some(NOW + 100));
    host.now += 10;
    let short = |mime: &str| {
        Request::new("PUT", "/upload")
            .with("authorization", &token(1, "upload", &[hash(BODY)]))
            .with("content-type", mime)
            .with("content-length", "0")
    };
    let token = token(1, "upload", &[hash(BODY), hash(b"other")]);
    let staged = Request::new("PUT", "/upload").with("authorization", &token).body(BODY);
    let part = Request::new("PATCH", &format!("/{}", hash(BODY)))
        .with("authorization", &token)
        .with("content-type", "application/octet-stream")
        .with("upload-type", "x/y")
        .with("upload-length", "14")
        .with("upload-offset", "0")
        .body(BODY);
    for request in
        [staged.with("content-type", "x/y"), put("x/y"), put("text/plain"), short("video/mp4"), part]
    {
        let reply = host.send(&request);
        check("again", &reply, 200);
        let at = expires_at(&mut host);
        assert!([Some(NOW + 100), Some(NOW + 110)].contains(&at), "{request:?} {at:?}");
    }
    check("again", &host.send(&put("video/mp4")), 200);
    assert_eq!(expires_at(&mut host), Some(NOW + 110), "it is kept as if it came now");
    // By another key, whose bytes are only hashed: they kept it by the type that they declared.
    host.now += 20;
    let other = upload(2, BODY).with("content-type", "x/y");
    check("by another", &host.send(&other), 200);
    assert_eq!(owners(&mut host).len(), 2);
    assert_eq!(expires_at(&mut host), Some(NOW + 130), "a type without a rule keeps no video for ever");
}

#[test]
fn heads_of_uploads_are_checked_before_anything_is_read() {
    let hashes = [hash(BODY)];
    let plain = |headers: &[(&str, &str)]| {
        let request = Request::new("PUT", "/upload").with("authorization", &token(1, "upload", &hashes));
        let request = headers.iter().fold(request, |request, (name, value)| request.with(name, value));
        Request { body: BODY.into(), ..request }
    };
    let (own, other) = (hash(BODY).to_string(), hash(b"other").to_string());
    let cases = [
        ("no length", plain(&[]), 411),
        ("chunked", plain(&[("transfer-encoding", "chunked")]), 411),
        ("a length that is no number", plain(&[("content-length", "many")]), 400),
        ("a negative length", plain(&[("content-length", "-1")]), 400),
        ("a length with a sign", plain(&[("content-length", "+14")]), 400),
        ("no length in it", plain(&[("content-length", "")]), 400),
        ("too long", plain(&[("content-length", "1001")]), 413),
        ("absurdly long", plain(&[("content-length", "99999999999999999999999999")]), 413),
        ("no type", plain(&[("content-length", "14"), ("content-type", "picture")]), 400),
        ("a pattern of types", plain(&[("content-length", "14"), ("content-type", "image/*")]), 400),
        ("a refused type", plain(&[("content-length", "14"), ("content-type", "text/html")]), 415),
        ("no hash", plain(&[("content-length", "14"), ("x-sha-256", "abc")]), 400),
        ("capitals", plain(&[("content-length", "14"), ("x-sha-256", &own.to_uppercase())]), 400),
        ("a hash not in the token", plain(&[("content-length", "14"), ("x-sha-256", &other)]), 401),
        ("no token", Request::new("PUT", "/upload").body(BODY), 401),
        (
            "another scheme",
            Request::new("PUT", "/upload").with("authorization", "Basic dTpw").body(BODY),
            401,
        ),
        (
            "a token for lists",
            Request::new("PUT", "/upload").with("authorization", &token(1, "list", &hashes)).body(BODY),
            401,
        ),
        (
            "a token without x",
            Request::new("PUT", "/upload").with("authorization", &token(1, "upload", &[])).body(BODY),
            401,
        ),
        (
            "a token for another server",
            Request::new("PUT", "/upload")
                .with("authorization", &header(draft(1, "upload", &hashes).tag(["server", "other.example"])))
                .body(BODY),
            401,
        ),
    ];
    let mut host = host();
    host.settings.blob_bytes_max = 1_000;
    host.settings.deny_types = vec!["text/html".to_owned()];
    for (what, request, status) in cases {
        let reply = host.send(&request);
        check(what, &reply, status);
        assert!(reply.steps.is_empty(), "{what}: {:?}", reply.steps);
    }
    assert!(host.objects.is_empty());
    check("and then", &host.send(&upload(1, BODY)), 201);
}

#[test]
fn bytes_that_are_not_what_was_said_are_not_stored() {
    let (own, other) = (hash(BODY), hash(b"other"));
    let put = |target: &str, hashes: &[_]| {
        Request::new("PUT", target).with("authorization", &token(1, "upload", hashes)).body(BODY)
    };
    let path = |hash| format!("/{hash}");
    let cases = [
        // What the client says of the bytes is wrong: 409. What the token says is: 401, and it may sign again.
        ("X-SHA-256 of other bytes", put("/upload", &[other]).with("x-sha-256", &other.to_string()), 409),
        ("the path of other bytes", put(&path(other), &[other]), 409),
        ("one x of other bytes", put("/upload", &[other]), 401),
        ("two x of other bytes", put("/upload", &[other, hash(b"third")]), 401),
        ("path and header differ", put(&path(own), &[own]).with("x-sha-256", &other.to_string()), 409),
        ("the path is not in x", put(&path(own), &[other]), 401),
        ("the path is no hash", put("/word", &[own]), 404),
        ("the path is a malformed hash", put(&path(own).to_uppercase(), &[own]), 400),
        ("ends early", Request { body: BODY.slice_from(5), ..put("/upload", &[own]) }, 400),
    ];
    for (what, request, status) in cases {
        let mut host = host();
        check(what, &host.send(&request), status);
        assert!(host.objects.is_empty(), "{what}");
        for hash in [own, other] {
            check(what, &get(&mut host, &path(hash)), 404);
        }
        check(what, &host.send(&put("/upload", &[own])), 201);
    }
}

trait SliceFrom {
    fn slice_from(&self, start: usize) -> bytes::Bytes;
}

impl SliceFrom for &'static [u8] {
    fn slice_from(&self, start: usize) -> bytes::Bytes {
        bytes::Bytes::from_static(&self[start..])
    }
}

#[test]
fn a_token_for_several_blobs_uploads_each_of_them() {
    let bodies: [&[u8]; 3] = [b"first", b"second", b"third"];
    let token = token(1, "upload", &bodies.map(hash));
    let mut host = host();
    for body in bodies {
        let request = Request::new("PUT", "/upload").with("authorization", &token).body(body);
        let reply = host.send(&request);
        check("new", &reply, 201);
        let want = ["Ask(Begin)", "Receive", "Ask(SetHash)", "Promote", "Ask(Finish)"];
        assert_eq!(reply.steps, want, "the hash is learnt from the bytes");
        let reply = host.send(&request);
        check("old", &reply, 200);
        assert_eq!(reply.steps, ["Ask(Begin)", "Receive", "Ask(SetHash)", "Discard"]);
        // With X-SHA-256 it is known before.
        let reply = host.send(&request.with("x-sha-256", &hash(body).to_string()));
        assert_eq!((reply.status, reply.steps.len()), (200, 1));
        assert_eq!(get(&mut host, &format!("/{}", hash(body))).body, body);
    }
    assert_eq!(host.objects.len(), 3);
}

#[test]
fn a_put_to_the_hash_is_an_upload() {
    let mut host = host();
    let target = format!("/{}", hash(BODY));
    let request = Request { target: target.clone(), ..upload(1, BODY) }.with("content-type", "image/webp");
    let reply = host.send(&request);
    check("new", &reply, 201);
    assert_eq!(reply.json()["url"], json!(format!("{URL}{target}.webp")));
    check("old", &host.send(&request), 200);
    assert_eq!(get(&mut host, &target).body, BODY);
}

#[test]
fn whether_an_upload_would_be_accepted() {
    let own = hash(BODY).to_string();
    let ask = |headers: &[(&str, &str)]| {
        let request =
            Request::new("HEAD", "/upload").with("authorization", &token(1, "upload", &[hash(BODY)]));
        headers.iter().fold(request, |request, (name, value)| request.with(name, value))
    };
    let length = ("x-content-length", "14");
    let sha = ("x-sha-256", own.as_str());
    let cases = [
        ("accepted", ask(&[length, sha, ("x-content-type", "image/png")]), 200),
        ("without a type", ask(&[length, sha]), 200),
        ("the hash from the token", ask(&[length]), 200),
        ("no length", ask(&[sha]), 411),
        ("a length that is no number", ask(&[sha, ("x-content-length", "1e3")]), 400),
        ("too long", ask(&[sha, ("x-content-length", "1001")]), 413),
        ("no hash", ask(&[length, ("x-sha-256", "a string")]), 400),
        ("no type", ask(&[length, sha, ("x-content-type", "png")]), 400),
        ("a refused type", ask(&[length, sha, ("x-content-type", "text/html")]), 415),
        ("another hash", ask(&[length, ("x-sha-256", &hash(b"other").to_string())]), 401),
        ("no token", Request::new("HEAD", "/upload").with("x-content-length", "14"), 401),
    ];
    let mut host = host();
    host.settings.blob_bytes_max = 1_000;
    host.settings.deny_types = vec!["text/html".to_owned()];
    for (what, request, status) in &cases {
        check(what, &host.send(request), *status);
    }
    check("stored since", &host.send(&upload(1, BODY)), 201);
    check("it is here", &host.send(&cases[0].1), 200);
    host.settings.key_bytes_max = Some(20);
    let other = Request::new("HEAD", "/upload")
        .with("authorization", &token(1, "upload", &[hash(b"0123456")]))
        .with("x-content-length", "7");
    check("no room", &host.send(&other), 429);
}

#[test]
fn types_that_are_refused_are_found_in_the_bytes_too() {
    let mut host = host();
    host.settings.deny_types = vec!["image/png".to_owned()];
    let cases = [("declared", Some("image/png")), ("undeclared", None), ("a lie", Some("text/plain"))];
    for (what, declared) in cases {
        let request = upload(1, PNG);
        let request = declared.map_or(request.clone(), |mime| request.with("content-type", mime));
        check(what, &host.send(&request), 415);
        assert!(host.objects.is_empty(), "{what}");
    }
    host.settings.deny_types.clear();
    host.settings.allow_types = vec!["image/*".to_owned()];
    check("unknown where only pictures are taken", &host.send(&upload(1, BODY)), 415);
    check("a picture", &host.send(&upload(1, PNG)), 201);
    assert_eq!(host.objects.len(), 1);
}

#[test]
fn quotas_bans_and_busy_blobs() {
    let mut host = host();
    host.settings.key_bytes_max = Some(10);
    check("within", &host.send(&upload(1, b"0123456789".as_slice())), 201);
    check("beyond the key's", &host.send(&upload(1, b"a".as_slice())), 429);
    check("another key", &host.send(&upload(2, b"b".as_slice())), 201);
    host.settings.total_bytes_max = Some(11);
    check("beyond all", &host.send(&upload(3, b"c".as_slice())), 507);
    host.settings.total_bytes_max = None;
    let ban = relay_blossom::Command::Ban { sha256: hash(BODY), reason: "spam".to_owned() };
    host.index.run(NOW, ban).unwrap();
    let reply = host.send(&upload(4, b"d".as_slice()));
    check("not banned", &reply, 201);
    host.settings.key_bytes_max = None;
    let reply = host.send(&upload(4, BODY));
    check("banned", &reply, 403);
    assert_eq!(reply.steps, ["Ask(Begin)"]);
    host.busy = 1;
    let reply = host.send(&upload(4, b"e".as_slice()));
    check("busy", &reply, 503);
    assert!(reply.header("retry-after").is_some());
    check("and then", &host.send(&upload(4, b"e".as_slice())), 201);
}

#[test]
fn failures_leave_nothing() {
    let cases = [
        (StepError::TooLong, 413),
        (StepError::Incomplete, 400),
        (StepError::Stalled, 408),
        (StepError::WrongHash, 401),
        (StepError::Full, 507),
        (StepError::Store("secret: /data".to_owned()), 503),
        (StepError::Unsupported, 501),
    ];
    for (failure, status) in cases {
        let mut host = host();
        host.failure = Some(failure.clone());
        let reply = host.send(&upload(1, BODY));
        check(&format!("{failure:?}"), &reply, status);
        assert!(!format!("{reply:?}").contains("secret"));
        assert_eq!(reply.steps, ["Ask(Begin)", "Receive", "Ask(Abort)"]);
        let relay_blossom::Outcome::Totals(totals) =
            host.index.run(NOW, relay_blossom::Command::Totals).unwrap()
        else {
            panic!("totals")
        };
        assert_eq!((totals.blobs, totals.uploads, totals.removals), (0, 0, 0), "{failure:?}");
        check("again", &host.send(&upload(1, BODY)), 201);
    }
}

#[test]
fn the_index_may_fail_at_any_statement() {
    let bodies = [hash(BODY), hash(b"another")];
    let request =
        Request::new("PUT", "/upload").with("authorization", &token(1, "upload", &bodies)).body(BODY);
    let mut failed = 0;
    for n in 1.. {
        let mut host = host();
        host.database.fail_at(n);
        let reply = host.send(&request);
        if host.database.is_armed() {
            break;
        }
        host.database.fail_at(u64::MAX);
        if reply.status == 503 {
            failed += 1;
        } else {
            check("in a removal", &reply, 201);
        }
        // What an Abort that failed has left, the next start clears.
        host.index.run(NOW, relay_blossom::Command::Restart).unwrap();
        host.remove();
        let is_live = get(&mut host, &format!("/{}", bodies[0])).status == 200;
        assert_eq!(host.objects.len(), usize::from(is_live), "{n}: {:?}", host.objects.keys());
        assert!(matches!(host.send(&request).status, 200 | 201), "{n}");
    }
    assert!(failed > 5, "{failed}");
}

#[test]
fn preflights_name_what_is_allowed() {
    let mut host = host();
    for target in ["/upload", "/mirror", "/media", "/report", &format!("/{}", hash(BODY))] {
        let reply = host.send(&Request::new("OPTIONS", target));
        check(target, &reply, 204);
        assert_eq!(reply.header("access-control-allow-headers"), Some("Authorization, *"));
        let methods = reply.header("access-control-allow-methods").unwrap();
        for method in ["GET", "HEAD", "PUT", "DELETE", "PATCH"] {
            assert!(methods.split(", ").any(|own| own == method), "{methods}");
        }
        assert_eq!(reply.header("access-control-max-age"), Some("86400"));
    }
    let reply = host.send(&Request::new("OPTIONS", &format!("/{}.png", hash(BODY))));
    assert!(reply.header("allow").unwrap().contains("PATCH"));
    stored(&mut host, "image/png", BODY);
}
