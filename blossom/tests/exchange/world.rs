//! A host, keys, and requests as clients make them.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use bytes::Bytes;
use relay_blossom::Sha256;
use relay_blossom::testing::{Host, Reply, Request};
use relay_engine::testing::signing::{Draft, event, key};
use relay_engine::types::{PubKey, Timestamp};
use relay_engine::verify::Libsecp256k1;
use sha2::{Digest, Sha256 as Hasher};

pub(crate) const NOW: Timestamp = 1_800_000_000;
pub(crate) const URL: &str = "https://cdn.example.com";

/// The first bytes of a PNG.
pub(crate) const PNG: &[u8] = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR and what follows";

pub(crate) fn host() -> Host<'static> {
    Host::new(URL, NOW, &Libsecp256k1)
}

pub(crate) fn hash(bytes: &[u8]) -> Sha256 {
    Sha256(Hasher::digest(bytes).into())
}

pub(crate) fn pubkey(number: u64) -> PubKey {
    PubKey(key(number).bytes())
}

/// A token of key `number`, valid for an hour.
pub(crate) fn draft(number: u64, verb: &str, hashes: &[Sha256]) -> Draft {
    let expiration = (NOW + 3_600).to_string();
    let draft =
        event(&key(number)).kind(24_242).at(NOW - 1).tag(["t", verb]).tag(["expiration", &expiration]);
    hashes.iter().fold(draft, |draft, hash| draft.tag(["x", &hash.to_string()]))
}

pub(crate) fn header(draft: Draft) -> String {
    format!("Nostr {}", BASE64_URL_SAFE_NO_PAD.encode(draft.sign().json()))
}

pub(crate) fn token(number: u64, verb: &str, hashes: &[Sha256]) -> String {
    header(draft(number, verb, hashes))
}

/// An upload of these bytes by key `number`, with a token for them.
pub(crate) fn upload(number: u64, bytes: impl Into<Bytes>) -> Request {
    let bytes = bytes.into();
    let token = token(number, "upload", &[hash(&bytes)]);
    Request::new("PUT", "/upload").with("authorization", &token).body(bytes)
}

/// Uploads bytes and returns the path of the blob.
pub(crate) fn stored(host: &mut Host<'_>, mime: &str, bytes: &'static [u8]) -> String {
    let reply = host.send(&upload(1, bytes).with("content-type", mime));
    assert_eq!(reply.status, 201, "{reply:?}");
    format!("/{}", hash(bytes))
}

pub(crate) fn get(host: &mut Host<'_>, target: &str) -> Reply {
    host.send(&Request::new("GET", target))
}

/// A request of an administrator, key `number`, by NIP-98.
pub(crate) fn signed(number: u64, method: &str, target: &str, body: &'static [u8]) -> Request {
    signed_at(URL, number, method, target, body)
}

/// The same at another URL.
pub(crate) fn signed_at(url: &str, number: u64, method: &str, target: &str, body: &'static [u8]) -> Request {
    let mut draft = event(&key(number)).kind(27_235).at(NOW).tag(["u", &format!("{url}{target}")]);
    draft = draft.tag(["method", method]);
    if method != "GET" {
        draft = draft.tag(["payload", &hash(body).to_string()]);
    }
    Request::new(method, target).with("authorization", &header(draft)).body(body)
}

/// Checks a status, the reason of an error, and what every response has.
pub(crate) fn check(what: &str, reply: &Reply, status: u16) {
    assert_eq!(reply.status, status, "{what}: {reply:?}");
    assert_eq!(reply.header("access-control-allow-origin"), Some("*"), "{what}");
    assert_eq!(reply.header("x-reason").is_some(), status >= 400, "{what}: {reply:?}");
    assert_eq!(reply.header("www-authenticate").is_some(), status == 401, "{what}");
    assert_eq!(reply.header("cache-control") == Some("no-store"), status >= 400, "{what}: {reply:?}");
    let length = reply.header("content-length").map(|length| length.parse::<usize>().unwrap());
    assert!(length.is_none_or(|length| length == reply.body.len()), "{what}: {reply:?}");
}
