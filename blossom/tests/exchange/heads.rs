//! Heads of any content: no request panics, and no response has a header that HTTP cannot carry or a client has written.

use proptest::collection::vec;
use proptest::prelude::*;
use relay_blossom::testing::Request;
use serde_json::Value;

use crate::world::{check, hash, host, stored, token};

const METHODS: [&str; 6] = ["GET", "HEAD", "PUT", "PATCH", "DELETE", "POST"];

const NAMES: [&str; 22] = [
    "authorization",
    "content-length",
    "content-type",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "range",
    "upload-length",
    "upload-offset",
    "upload-type",
    "x-cashu",
    "x-content-length",
    "x-content-type",
    "x-lightning",
    "x-sha-256",
    "content-encoding",
    "expect",
    "host",
    "origin",
    "transfer-encoding",
];

/// Values that mean something somewhere, and any text.
fn value() -> impl Strategy<Value = String> {
    let known = prop::sample::select(vec![
        token(1, "upload", &[hash(b"a"), hash(b"b")]),
        token(1, "media", &[hash(b"a")]),
        token(1, "delete", &[hash(b"a")]),
        hash(b"a").to_string(),
        format!("\"{}\"", hash(b"a")),
        "Nostr e30".to_owned(),
        "bytes=0-0".to_owned(),
        "bytes=-1".to_owned(),
        "0".to_owned(),
        "1".to_owned(),
        "18446744073709551615".to_owned(),
        "image/png".to_owned(),
        "application/octet-stream".to_owned(),
        "text/html\r\nx-evil: 1".to_owned(),
        "Sun, 06 Nov 1994 08:49:37 GMT".to_owned(),
    ]);
    prop_oneof![4 => known, 1 => "\\PC{0,40}", 1 => "(bytes|items)=[0-9,-]{0,12}", 1 => "[Ww/\"*, a-f0-9]{0,20}"]
}

fn target() -> impl Strategy<Value = String> {
    let (a, other) = (hash(b"a"), hash(b"other"));
    let known = prop::sample::select(vec![
        format!("/{a}"),
        format!("/{a}.png"),
        format!("/{other}?xs=away.example&as={a}&sz=1"),
        format!("/list/{a}?limit=1&cursor={other}&since=1&until=2"),
        "/upload".to_owned(),
        "/media".to_owned(),
        "/mirror".to_owned(),
        "/report".to_owned(),
        "/blossom".to_owned(),
        "/blossom/blobs?owner=x".to_owned(),
        format!("/blossom/bans/{a}"),
        "/blossom/gc".to_owned(),
    ]);
    prop_oneof![4 => known, 1 => "/\\PC{0,80}", 1 => "/[0-9a-fA-F]{60,66}(\\.[a-z%/]{0,5})?"]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_head_breaks_an_exchange(
        method in prop::sample::select(METHODS.to_vec()),
        target in target(),
        headers in vec((prop::sample::select(NAMES.to_vec()), value()), 0..8),
        body in prop::sample::select(vec!["", "a", "{}", "{\"url\":\"https://away.example/\"}"]),
    ) {
        let mut host = host();
        host.settings.pull_through = true;
        let headers = headers.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let request = Request { method: method.to_owned(), target, headers, body: body.into() };
        let reply = host.send(&request);
        prop_assert!((200..600).contains(&reply.status) && reply.status != 500, "{request:?}: {reply:?}");
        prop_assert_eq!(reply.header("access-control-allow-origin"), Some("*"));
        prop_assert_eq!(reply.header("x-reason").is_some(), reply.status >= 400);
        for (name, value) in &reply.headers {
            prop_assert!(value.bytes().all(|byte| matches!(byte, b' '..=b'~')), "{name}: {value:?}");
        }
        for (name, object) in &host.objects {
            prop_assert_eq!(name, &hash(&object.bytes).to_string(), "only blobs of their hash are stored");
        }
    }
}

#[test]
fn a_type_brings_no_header_along() {
    let mut host = host();
    let path = stored(&mut host, "text/plain; name=\"a;b\"; a=b", b"a");
    let reply = crate::world::get(&mut host, &path);
    assert_eq!(reply.header("content-type"), Some("text/plain; a=b"));
    for mime in ["text/plain\r\nx-evil: 1", "text/plain; a=\nb", "text/plain; a=\u{7f}", "text/\u{e9}"] {
        let request = crate::world::upload(1, b"b".as_slice()).with("content-type", mime);
        check(mime, &host.send(&request), 400);
    }
    let document: Value = crate::world::get(&mut host, &format!("/list/{}", crate::world::pubkey(1))).json();
    assert_eq!(document.as_array().unwrap().len(), 1);
}
