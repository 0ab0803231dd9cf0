//! Tombstones that are not in pages yet: the keys of those that a write set, one behind the other, in rows.
//!
//! Rows are numbered from 1 after each fold and hold how many folds there were, so what a fold has taken over is
//! written over instead of deleted, which would be another row written.

use crate::store::backend::StoreError;
use crate::store::keyed::Key;

/// `'d' hash:32 not until:8`
const KEY_BYTES: usize = 41;
/// A row is at most 2 MB.
const ROW_KEYS: usize = 16 << 10;

/// Rows of keys.
pub(super) fn rows(keys: &[Key]) -> Vec<Vec<u8>> {
    keys.chunks(ROW_KEYS).map(|keys| keys.iter().flat_map(Key::as_bytes).copied().collect()).collect()
}

/// The keys of a row.
pub(super) fn keys(row: &[u8]) -> Result<impl Iterator<Item = Key>, StoreError> {
    let (keys, rest) = row.as_chunks::<KEY_BYTES>();
    if !rest.is_empty() || keys.iter().any(|key| key[0] != b'd') {
        return Err(StoreError::Corrupt("a row of tombstones is malformed".into()));
    }
    Ok(keys.iter().filter_map(|key| Key::read(key)))
}
