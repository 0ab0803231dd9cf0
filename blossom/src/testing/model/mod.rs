//! A naive model of the index, for tests that run hosts against it: seven blobs, four owners, quotas that they exceed. Each answer
//! of the index is checked, and at any time the bytes that the host has.

mod oracle;
mod requests;

use std::sync::LazyLock;

use relay_engine::testing::signing;
use sha2::{Digest, Sha256 as Hasher};

pub use self::oracle::{Live, Oracle, Parts, Pending};
pub use self::requests::{TYPES, delete, put, settings, upload};
use crate::blob::Sha256;

/// Quotas of every upload: bytes of an owner.
pub const KEY_MAX: u64 = 130;
/// Bytes of all blobs.
pub const TOTAL_MAX: u64 = 230;
/// Blobs there are, by numbers from 0.
pub const HASHES: u32 = 7;
/// Owners there are, by numbers from 1.
pub const OWNERS: u8 = 4;

/// Bytes of the `n`th blob.
pub fn size(n: u32) -> u64 {
    10 * (u64::from(n) + 1)
}

/// The `n`th blob.
pub fn body(n: u32) -> Vec<u8> {
    vec![b'a' + n as u8; size(n) as usize]
}

/// Its hash.
pub fn sha(n: u32) -> Sha256 {
    static HASHED: LazyLock<Vec<Sha256>> =
        LazyLock::new(|| (0..HASHES).map(|n| Sha256(Hasher::digest(body(n)).into())).collect());
    HASHED[n as usize]
}

/// The public key of the `n`th owner, whose secret is that number; of nobody, if it is 0.
pub fn key(n: u8) -> &'static str {
    static KEYS: LazyLock<Vec<String>> = LazyLock::new(|| {
        let nobody = "0".repeat(64);
        let owners = (1..=OWNERS).map(|n| signing::key(u64::from(n)).hex().to_owned());
        std::iter::once(nobody).chain(owners).collect()
    });
    &KEYS[usize::from(n)]
}
