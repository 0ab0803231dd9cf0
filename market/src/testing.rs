//! For tests of this crate and of others: an SQLite database in memory, and invoices.

use bech32::primitives::iter::{ByteIterExt, Fe32IterExt};
use bech32::{Bech32, Fe32, Hrp};
use sha2::{Digest, Sha256};

pub use relay_engine::testing::Sqlite;

/// An invoice (BOLT 11) for what is described, with a signature of zeros, which nobody here checks.
pub fn invoice(msat: Option<u64>, described: &[u8], payment_hash: [u8; 32]) -> String {
    let amount = msat.map_or_else(String::new, |msat| format!("{}p", u128::from(msat) * 10));
    let prefix = Hrp::parse(&format!("lnbcrt{amount}")).unwrap_or(bech32::hrp::BC);
    let field = |kind: Fe32, hash: [u8; 32]| {
        // 52 groups of five bits.
        [kind, Fe32::P, Fe32::_5].into_iter().chain(hash.into_iter().bytes_to_fes())
    };
    let time = [Fe32::Q; 7].into_iter();
    let hashes = field(Fe32::P, payment_hash).chain(field(Fe32::H, Sha256::digest(described).into()));
    let signature = [Fe32::Q; 104].into_iter();
    time.chain(hashes).chain(signature).with_checksum::<Bech32>(&prefix).chars().collect()
}
