//! PUT /mirror (BUD-04).

use bytes::Bytes;
use relay_blossom::Sha256;
use relay_blossom::exchange::StepError;
use relay_blossom::testing::{Host, Request};

use crate::world::{PNG, check, get, hash, host, stored, token, upload};

const BODY: &[u8] = b"from far away";
const AWAY: &str = "https://away.example/file";

fn mirror(url: &str, hashes: &[Sha256]) -> Request {
    Request::new("PUT", "/mirror")
        .with("authorization", &token(1, "upload", hashes))
        .body(format!("{{\"url\":\"{url}\"}}"))
}

/// The host with an origin of [`BODY`].
fn with_origin(url: &str, mime: Option<&str>) -> Host<'static> {
    let mut host = host();
    host.origins.insert(url.to_owned(), Ok((Bytes::from_static(BODY), mime.map(str::to_owned))));
    host
}

#[test]
fn a_blob_is_fetched_from_elsewhere() {
    let mut host = with_origin(AWAY, Some("image/webp"));
    let reply = host.send(&mirror(AWAY, &[hash(BODY)]));
    check("new", &reply, 201);
    assert_eq!(reply.steps, ["Read", "Ask(Begin)", "Fetch", "Ask(Finish)"]);
    assert_eq!(reply.json()["type"], "image/webp");
    let reply = host.send(&mirror(AWAY, &[hash(BODY)]));
    check("old", &reply, 200);
    assert_eq!(reply.steps, ["Read", "Ask(Begin)"], "nothing is fetched");
    // For another owner it is fetched and not stored.
    let before = host.objects.clone();
    let of = |number| {
        let token = token(number, "upload", &[hash(BODY)]);
        let body = format!("{{\"url\":\"{AWAY}\"}}");
        Request::new("PUT", "/mirror").with("authorization", &token).body(body)
    };
    check("of another", &host.send(&of(2)), 200);
    host.origins.insert(AWAY.to_owned(), Ok((Bytes::from_static(b"another blob"), None)));
    check("other bytes", &host.send(&of(3)), 409);
    assert_eq!(host.objects, before);
    for (number, count) in [(1, 1), (2, 1), (3, 0)] {
        let list = get(&mut host, &format!("/list/{}", crate::world::pubkey(number)));
        assert_eq!(list.json().as_array().map(Vec::len), Some(count), "{number}");
    }
    assert_eq!(get(&mut host, &format!("/{}", hash(BODY))).body, BODY);
}

#[test]
fn of_several_hashes_the_url_names_one_or_the_bytes_do() {
    let hashes = [hash(b"other"), hash(BODY)];
    let mut host = with_origin(AWAY, None);
    let reply = host.send(&mirror(AWAY, &hashes));
    check("by the bytes", &reply, 201);
    assert_eq!(reply.steps, ["Read", "Ask(Begin)", "Fetch", "Ask(SetHash)", "Promote", "Ask(Finish)"]);
    let url = format!("https://away.example/{}.png", hash(BODY));
    let mut host = with_origin(&url, None);
    let reply = host.send(&mirror(&url, &hashes));
    check("by the URL", &reply, 201);
    assert_eq!(reply.steps, ["Read", "Ask(Begin)", "Fetch", "Ask(Finish)"]);
    assert_eq!(reply.json()["type"], "image/png", "by the extension");
}

#[test]
fn the_type_is_the_origins_or_told() {
    let cases: [(Option<&str>, &'static [u8], &str, &str); 6] = [
        (Some("Image/GIF"), PNG, AWAY, "image/gif"),
        (Some("application/octet-stream"), PNG, AWAY, "image/png"),
        (Some("nonsense"), PNG, AWAY, "image/png"),
        (None, PNG, AWAY, "image/png"),
        (None, BODY, "https://away.example/film.mp4?x=1", "video/mp4"),
        (None, BODY, AWAY, "application/octet-stream"),
    ];
    for (mime, bytes, url, want) in cases {
        let mut host = host();
        host.origins.insert(url.to_owned(), Ok((Bytes::from_static(bytes), mime.map(str::to_owned))));
        let reply = host.send(&mirror(url, &[hash(bytes)]));
        check(url, &reply, 201);
        assert_eq!(reply.json()["type"], want, "{mime:?} {url}");
        // The store keeps the same, as far as it is told without looking at the bytes.
        let kept = &host.objects[&hash(bytes).to_string()].mime;
        assert!(kept == want || (kept == "application/octet-stream" && bytes == PNG), "{kept}");
    }
}

#[test]
fn what_cannot_be_mirrored() {
    let own = [hash(BODY)];
    let raw = |body: &'static str| {
        Request::new("PUT", "/mirror").with("authorization", &token(1, "upload", &own)).body(body)
    };
    let cases = [
        ("no JSON", raw("https://away.example/file"), 400),
        ("no url", raw("{\"uri\":\"https://away.example/file\"}"), 400),
        ("an empty body", raw(""), 400),
        ("no URL", mirror("file", &own), 400),
        ("http", mirror("http://away.example/file", &own), 400),
        ("a file", mirror("file:///etc/passwd", &own), 400),
        ("data", mirror("data:text/plain,hello", &own), 400),
        ("no such server", mirror("https://nowhere.example/", &own), 502),
        ("another blob", mirror(AWAY, &[hash(b"other")]), 409),
        ("another blob of two", mirror(AWAY, &[hash(b"other"), hash(b"third")]), 409),
        ("no x", mirror(AWAY, &[]), 401),
        ("no token", Request::new("PUT", "/mirror").body("{\"url\":\"https://away.example/file\"}"), 401),
    ];
    for (what, request, status) in cases {
        let mut host = with_origin(AWAY, None);
        check(what, &host.send(&request), status);
        assert!(host.objects.is_empty(), "{what}");
    }
    let failures = [
        (StepError::Forbidden("a private address".to_owned()), 403),
        (StepError::Origin("404".to_owned()), 502),
        (StepError::TooLong, 413),
        (StepError::Incomplete, 502),
        (StepError::Stalled, 502),
        (StepError::Full, 507),
        (StepError::Store("secret".to_owned()), 503),
    ];
    for (failure, status) in failures {
        let mut host = host();
        host.origins.insert(AWAY.to_owned(), Err(failure.clone()));
        let reply = host.send(&mirror(AWAY, &own));
        check(&format!("{failure:?}"), &reply, status);
        assert_eq!(reply.steps, ["Read", "Ask(Begin)", "Fetch", "Ask(Abort)"]);
    }
    let mut host = with_origin(AWAY, None);
    host.settings.mirror = false;
    check("turned off", &host.send(&mirror(AWAY, &own)), 403);
    host.settings.mirror = true;
    host.settings.blob_bytes_max = 5;
    check("too long", &host.send(&mirror(AWAY, &own)), 413);
    host.settings.blob_bytes_max = 1_000;
    host.settings.deny_types = vec!["application/octet-stream".to_owned()];
    check("a refused type", &host.send(&mirror(AWAY, &own)), 415);
    host.settings.deny_types.clear();
    assert!(host.objects.is_empty());
}

/// Regression: 128 mirrors of 4 GiB put 512 GB above the quota on the disk before the index was asked.
#[test]
fn quotas_stop_a_mirror_before_its_bytes_are_stored() {
    let own = [hash(BODY)];
    for (key_max, total_max, status) in [(Some(5), None, 429), (None, Some(5), 507)] {
        let mut host = with_origin(AWAY, None);
        (host.settings.key_bytes_max, host.settings.total_bytes_max) = (key_max, total_max);
        let reply = host.send(&mirror(AWAY, &own));
        check("announced", &reply, status);
        assert_eq!(reply.steps, ["Read", "Ask(Begin)", "Fetch", "Ask(Abort)"], "the fetch has failed");
        // A small blob of unknown length is judged when it is there.
        host.announces_length = false;
        let reply = host.send(&mirror(AWAY, &own));
        check("not announced", &reply, status);
        assert_eq!(reply.steps, ["Read", "Ask(Begin)", "Fetch", "Ask(Finish)"]);
        assert!(host.objects.is_empty());
    }
    let mut host = with_origin(AWAY, None);
    host.settings.key_bytes_max = Some(BODY.len() as u64);
    check("it fits", &host.send(&mirror(AWAY, &own)), 201);
    // It needs no room where it is.
    host.settings.total_bytes_max = Some(1);
    let request = Request::new("PUT", "/mirror").with("authorization", &token(2, "upload", &own));
    check("of another", &host.send(&request.body(format!("{{\"url\":\"{AWAY}\"}}"))), 200);
}

#[test]
fn private_networks_may_allow_http() {
    let url = "http://127.0.0.1:1/file";
    let mut host = with_origin(url, None);
    host.settings.allow_private_addresses = true;
    check("http", &host.send(&mirror(url, &[hash(BODY)])), 201);
    check("an upload too", &host.send(&upload(1, BODY)), 200);
    stored(&mut host, "image/png", b"other");
}
