//! Requests of the model's owners, as clients make them.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use relay_engine::testing::{Rng, signing};
use relay_site::blossom::{BlossomSettings, RetentionRule};

use super::{HASHES, KEY_MAX, TOTAL_MAX, body, sha, size};
use crate::blob::Sha256;
use crate::testing::Request;

/// Types of blobs; each has a rule of its own, or none.
pub const TYPES: [&str; 3] = ["text/plain", "text/html", "application/x-test"];

/// Settings with the model's quotas, and rules by which blobs of the first two types end after as many seconds.
pub fn settings(ages: [u64; 2]) -> BlossomSettings {
    let rule = |(mime, age): (&str, u64)| RetentionRule {
        types: vec![mime.to_owned()],
        bytes_min: 0,
        age_seconds: Some(age),
        unused_seconds: None,
    };
    BlossomSettings {
        key_bytes_max: Some(KEY_MAX),
        total_bytes_max: Some(TOTAL_MAX),
        retention: TYPES.into_iter().zip(ages).map(rule).collect(),
        ..BlossomSettings::default()
    }
}

/// A token of an owner, made at a time in Unix seconds.
fn token(owner: u8, verb: &str, hashes: &[Sha256], now: u64) -> String {
    let expiration = (now + 1_000_000).to_string();
    let draft = signing::event(&signing::key(owner.into())).kind(24_242).at(now - 1);
    let draft = draft.tag(["t", verb]).tag(["expiration", &expiration]);
    let draft = hashes.iter().fold(draft, |draft, hash| draft.tag(["x", &hash.to_string()]));
    format!("Nostr {}", BASE64_URL_SAFE_NO_PAD.encode(draft.sign().json()))
}

/// An upload of a blob whose hash is known.
pub fn put(owner: u8, n: u32, mime: &str, now: u64) -> Request {
    let token = token(owner, "upload", &[sha(n)], now);
    Request::new("PUT", "/upload").with("authorization", &token).with("content-type", mime).body(body(n))
}

/// An upload in some way: with the hash or without it, in a part, or with other bytes than it names.
pub fn upload(rng: &mut Rng, owner: u8, n: u32, now: u64) -> Request {
    let mime = *rng.pick(&TYPES);
    match rng.below(8) {
        // The hash is not known before the bytes have come.
        0 | 1 => {
            let token = token(owner, "upload", &[sha(n), sha((n + 1) % HASHES)], now);
            let request = Request::new("PUT", "/upload").with("authorization", &token);
            request.with("content-type", mime).body(body(n))
        }
        2..5 => {
            // Halves and more, so that they overlap and some cover all.
            let offset = *rng.pick(&[0, 0, size(n) / 2, size(n) / 3]);
            let length = (size(n) - offset).min(size(n) / 2 + rng.below(size(n)));
            let bytes = body(n)[offset as usize..(offset + length) as usize].to_vec();
            Request::new("PATCH", &format!("/{}", sha(n)))
                .with("authorization", &token(owner, "upload", &[sha(n)], now))
                .with("content-type", "application/octet-stream")
                .with("upload-type", mime)
                .with("upload-length", &size(n).to_string())
                .with("upload-offset", &offset.to_string())
                .body(bytes)
        }
        // Of somebody who has only others.
        5 => Request { body: vec![b'z'; size(n) as usize].into(), ..put(owner, n, mime, now) },
        _ => put(owner, n, mime, now),
    }
}

/// An owner lets a blob go.
pub fn delete(owner: u8, n: u32, now: u64) -> Request {
    let token = token(owner, "delete", &[sha(n)], now);
    Request::new("DELETE", &format!("/{}", sha(n))).with("authorization", &token)
}
