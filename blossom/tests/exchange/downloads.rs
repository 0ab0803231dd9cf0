//! GET and HEAD (BUD-01, RFC 9110).

use relay_blossom::testing::Request;
use relay_site::blossom::RetentionRule;

use crate::world::{NOW, check, get, hash, host, pubkey, stored, token, upload};

const BODY: &[u8] = b"0123456789";

#[test]
fn a_blob_has_its_type_length_and_validators() {
    let mut host = host();
    let path = stored(&mut host, "image/png", BODY);
    let want = [
        ("content-type", "image/png".to_owned()),
        ("content-length", "10".to_owned()),
        ("accept-ranges", "bytes".to_owned()),
        ("etag", format!("\"{}\"", &path[1..])),
        ("last-modified", "Fri, 15 Jan 2027 08:00:00 GMT".to_owned()),
        ("cache-control", "public, max-age=31536000, s-maxage=3600, immutable, no-transform".to_owned()),
        ("x-content-type-options", "nosniff".to_owned()),
        ("access-control-allow-origin", "*".to_owned()),
        ("access-control-expose-headers", "*".to_owned()),
    ];
    // The extension says nothing: a blob has its own type.
    for target in [path.clone(), format!("{path}.png"), format!("{path}.tar.gz"), format!("{path}.html?x=1")]
    {
        for method in ["GET", "HEAD"] {
            let reply = host.send(&Request::new(method, &target));
            check(&target, &reply, 200);
            for (name, value) in &want {
                assert_eq!(reply.header(name), Some(value.as_str()), "{name} of {method} {target}");
            }
            assert_eq!(reply.header("sunset"), None);
            assert_eq!(reply.body, BODY);
        }
    }
}

#[test]
fn names_are_hashes_or_they_are_refused() {
    let mut host = host();
    let path = stored(&mut host, "image/png", BODY);
    let other = "0".repeat(64);
    let cases = [
        ("another blob", format!("/{other}"), 404),
        ("another blob with extension", format!("/{other}.png"), 404),
        ("a word", "/favicon".to_owned(), 404),
        ("a short hex word", "/cafe".to_owned(), 404),
        ("uppercase", path.to_ascii_uppercase(), 400),
        ("a digit short", path[..64].to_owned(), 400),
        ("a digit more", format!("{path}0"), 400),
        ("half", format!("/{}", "ab".repeat(16)), 400),
        ("no hex", format!("/{}", "g".repeat(64)), 400),
        ("an empty extension", format!("{path}."), 400),
        ("an odd extension", format!("{path}.p%20ng"), 400),
        ("a long extension", format!("{path}.{}", "a".repeat(33)), 400),
        ("a slash", format!("{path}/png"), 404),
        ("up", format!("/..%2f{}", &path[1..]), 404),
    ];
    for (what, target, status) in cases {
        for method in ["GET", "HEAD"] {
            check(what, &host.send(&Request::new(method, &target)), status);
        }
    }
}

#[test]
fn ranges_are_served() {
    let mut host = host();
    let path = stored(&mut host, "video/mp4", BODY);
    let cases: [(&str, u16, &str, Option<&str>); 9] = [
        ("bytes=0-1", 206, "01", Some("bytes 0-1/10")),
        ("bytes=2-", 206, "23456789", Some("bytes 2-9/10")),
        ("bytes=0-", 206, "0123456789", Some("bytes 0-9/10")),
        ("bytes=8-1000", 206, "89", Some("bytes 8-9/10")),
        ("bytes=-3", 206, "789", Some("bytes 7-9/10")),
        ("bytes=-1000", 206, "0123456789", Some("bytes 0-9/10")),
        ("bytes=0-1,3-4", 200, "0123456789", None),
        ("items=0-1", 200, "0123456789", None),
        ("bytes=x", 200, "0123456789", None),
    ];
    for (range, status, body, content_range) in cases {
        let reply = host.send(&Request::new("GET", &path).with("range", range));
        check(range, &reply, status);
        assert_eq!(reply.body, body, "{range}");
        assert_eq!(reply.header("content-range"), content_range, "{range}");
        assert_eq!(reply.header("content-type"), Some("video/mp4"), "{range}");
    }
    let reply = host.send(&Request::new("GET", &path).with("range", "bytes=10-"));
    check("past the end", &reply, 416);
    assert_eq!(reply.header("content-range"), Some("bytes */10"));
    let head = host.send(&Request::new("HEAD", &path).with("range", "bytes=0-1"));
    assert_eq!((head.status, head.header("content-length")), (200, Some("10")));
}

#[test]
fn conditions_are_kept() {
    let mut host = host();
    let path = stored(&mut host, "image/png", BODY);
    let (own, weak) = (format!("\"{}\"", &path[1..]), format!("W/\"{}\"", &path[1..]));
    let cases: [(&[(&str, &str)], u16); 9] = [
        (&[("if-none-match", &own)], 304),
        (&[("if-none-match", &weak)], 304),
        (&[("if-none-match", "\"a\", *")], 200),
        (&[("if-none-match", "*")], 304),
        (&[("if-none-match", "\"other\"")], 200),
        (&[("if-match", &own)], 200),
        (&[("if-match", "\"other\"")], 412),
        (&[("range", "bytes=0-1"), ("if-range", &own)], 206),
        (&[("range", "bytes=0-1"), ("if-range", &weak)], 200),
    ];
    for (headers, status) in cases {
        for method in ["GET", "HEAD"] {
            let mut request = Request::new(method, &path);
            for (name, value) in headers {
                request = request.with(name, value);
            }
            let status = if method == "HEAD" && status == 206 { 200 } else { status };
            let reply = host.send(&request);
            check(&format!("{method} {headers:?}"), &reply, status);
            if status == 304 {
                assert!(reply.body.is_empty() && reply.header("content-length").is_none());
                assert_eq!(reply.header("etag"), Some(own.as_str()));
                assert!(reply.header("cache-control").is_some() && reply.header("last-modified").is_some());
            }
        }
    }
}

#[test]
fn an_empty_blob_is_a_blob() {
    let mut host = host();
    let path = stored(&mut host, "text/plain", b"");
    for (range, status) in [(None, 200), (Some("bytes=0-"), 416), (Some("bytes=-5"), 200)] {
        let mut request = Request::new("GET", &path);
        if let Some(range) = range {
            request = request.with("range", range);
        }
        let reply = host.send(&request);
        check("empty", &reply, status);
        if status == 200 {
            assert!(reply.body.is_empty());
            assert_eq!(reply.header("content-type"), Some("text/plain"));
        }
    }
    let head = host.send(&Request::new("HEAD", &path));
    assert_eq!((head.status, head.header("content-length")), (200, Some("0")));
}

#[test]
fn everything_but_pdf_is_put_in_a_sandbox() {
    let mut host = host();
    let cases: [(&str, &[u8], bool); 7] = [
        ("text/html", b"<script>alert(1)</script>", true),
        ("text/html; charset=utf-8", b"<p>", true),
        ("image/svg+xml", b"<svg onload='alert(1)'/>", true),
        ("text/javascript", b"alert(1)", true),
        ("image/jpeg", b"jpeg", true),
        ("application/octet-stream", b"bytes", true),
        ("application/pdf", b"%PDF-1.7", false),
    ];
    for (mime, body, has_policy) in cases {
        let path = stored(&mut host, mime, body);
        let reply = get(&mut host, &path);
        assert_eq!(reply.header("x-content-type-options"), Some("nosniff"), "{mime}");
        assert_eq!(reply.header("content-type"), Some(mime));
        let policy = reply.header("content-security-policy");
        assert_eq!(policy.is_some(), has_policy, "{mime}");
        if let Some(policy) = policy {
            assert!(policy.starts_with("default-src 'none'; sandbox; "), "{policy}");
            assert!(!policy.contains("script") && !policy.contains("allow-"), "{policy}");
        }
    }
}

/// Regression: a browser splits a `Content-Type` at commas and takes the last type. `image/png; x=1, text/html` is a page, whose
/// script ran with the relay's origin.
#[test]
fn no_second_type_hides_in_the_parameters_of_the_first() {
    let types = [
        "image/png; x=1, text/html",
        "image/png; x=1,text/html; charset=utf-8",
        "image/png;, text/html",
        "image/png; x=\"1, text/html\"",
        "image/png; x=\"; y=1, text/html",
        "image/png; x=\"\\\", text/html",
    ];
    let at = |body: &[u8]| format!("/{}", hash(body));
    for mime in types {
        let mut host = host();
        let token = |body: &[u8]| token(1, "upload", &[hash(body)]);
        let put = upload(1, b"a page".as_slice()).with("content-type", mime);
        check(mime, &host.send(&put), 201);
        let patch = Request::new("PATCH", &at(b"in parts"))
            .with("authorization", &token(b"in parts"))
            .with("content-type", "application/octet-stream")
            .with("upload-type", mime)
            .with("upload-length", "8")
            .with("upload-offset", "0")
            .body(b"in parts".as_slice());
        check(mime, &host.send(&patch), 201);
        let url = "https://away.example/file";
        host.origins.insert(url.to_owned(), Ok((b"mirrored".as_slice().into(), Some(mime.to_owned()))));
        let mirror = Request::new("PUT", "/mirror").with("authorization", &token(b"mirrored"));
        check(mime, &host.send(&mirror.body(format!("{{\"url\":\"{url}\"}}"))), 201);
        for body in [b"a page".as_slice(), b"in parts", b"mirrored"] {
            let reply = get(&mut host, &at(body));
            let served = reply.header("content-type").unwrap();
            assert!(served.starts_with("image/png") && !served.contains([',', '"', '\\']), "{served}");
            assert!(reply.header("content-security-policy").is_some(), "{served}");
            let kept = &host.objects[&hash(body).to_string()].mime;
            assert!(!kept.contains([',', '"', '\\']), "{kept}");
        }
    }
}

#[test]
fn a_bad_token_does_not_hide_a_public_blob() {
    let mut host = host();
    let path = stored(&mut host, "image/png", BODY);
    for authorization in ["Nostr e30", "Nostr", "Bearer x", "Basic dTpw"] {
        let reply = host.send(&Request::new("GET", &path).with("authorization", authorization));
        check(authorization, &reply, 200);
    }
}

#[test]
fn a_blob_that_expires_says_when() {
    let mut host = host();
    let rule = |types: &[&str], age_seconds| RetentionRule {
        types: types.iter().map(|text| (*text).to_owned()).collect(),
        bytes_min: 0,
        age_seconds: Some(age_seconds),
        unused_seconds: None,
    };
    host.settings.retention = vec![rule(&["video/*"], 60), rule(&["image/*"], 400 * 86_400)];
    let path = stored(&mut host, "video/mp4", BODY);
    host.now += 20;
    for method in ["GET", "HEAD"] {
        let reply = host.send(&Request::new(method, &path));
        assert_eq!(reply.header("sunset"), Some("Fri, 15 Jan 2027 08:01:00 GMT"));
        assert_eq!(
            reply.header("cache-control"),
            Some("public, max-age=40, s-maxage=40, immutable, no-transform")
        );
    }
    // Caches may keep it for a year, which is sooner.
    let path = stored(&mut host, "image/png", b"picture");
    let reply = get(&mut host, &path);
    assert_eq!(
        reply.header("cache-control"),
        Some("public, max-age=31536000, s-maxage=3600, immutable, no-transform")
    );
    let object = &host.objects[&path[1..]];
    assert_eq!((object.mime.as_str(), object.expires_at), ("image/png", Some(NOW + 20 + 400 * 86_400)));
}

#[test]
fn an_index_that_fails_is_503_without_details() {
    let mut host = host();
    let path = stored(&mut host, "image/png", BODY);
    host.database.fail_with(Some(relay_engine::sql::StoreError::Failed("secret detail".into())));
    for reply in [get(&mut host, &path), host.send(&upload(1, b"other".as_slice()))] {
        check("failure", &reply, 503);
        assert!(reply.header("retry-after").is_some());
        assert!(!format!("{reply:?}").contains("secret"));
    }
    host.database.fail_with(None);
    check("again", &get(&mut host, &path), 200);
    assert_eq!(hash(BODY).to_string(), path[1..]);
}

/// BUD-11: `get` is the verb, and `x` is optional.
#[test]
fn where_downloads_are_not_public_a_token_of_a_key_that_may_upload_is_needed() {
    let mut host = host();
    host.settings.open = Some(true);
    host.denied = vec![pubkey(3)];
    let path = format!("/{}", hash(b"private"));
    check("stored", &host.send(&upload(1, b"private".as_slice())), 201);
    assert!(get(&mut host, &path).header("cache-control").unwrap().starts_with("public,"));
    host.settings.get_public = false;
    let other = hash(b"other");
    for method in ["GET", "HEAD"] {
        let mut ask = |what: &str, status, token: Option<String>| {
            let request = Request::new(method, &path);
            let request = token.iter().fold(request, |request, token| request.with("authorization", token));
            let reply = host.send(&request);
            check(what, &reply, status);
            assert_eq!(reply.steps.is_empty(), status != 200, "{what}: the store is not asked");
            reply
        };
        ask("no token", 401, None);
        ask("another verb", 401, Some(token(1, "upload", &[hash(b"private")])));
        ask("another blob", 401, Some(token(1, "get", &[other])));
        ask("a key that may not", 403, Some(token(3, "get", &[])));
        ask("one of several", 200, Some(token(2, "get", &[other, hash(b"private")])));
        let reply = ask("any blob", 200, Some(token(2, "get", &[])));
        assert!(reply.header("cache-control").unwrap().starts_with("private,"), "{reply:?}");
    }
    host.settings.open = Some(false);
    host.admins = vec![pubkey(9)];
    for (number, status) in [(1, 403), (9, 200)] {
        let request = Request::new("GET", &path).with("authorization", &token(number, "get", &[]));
        check("only listed keys", &host.send(&request), status);
    }
}
