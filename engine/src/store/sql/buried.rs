//! Tombstones that are not in pages yet: the keys of those that a write set, one behind the other, in a row or two.

use crate::store::backend::StoreError;
use crate::store::keyed::{Key, Overlay, buried};

/// `'d' hash:32 not until:8`
const KEY_BYTES: usize = 41;
/// A row is at most 2 MB.
const ROW_KEYS: usize = 16 << 10;

/// The keys of the tombstones of a write.
pub(super) fn keys_of(overlay: &Overlay) -> impl Iterator<Item = Key> {
    overlay.tombstones().map(|(tombstone, until)| buried(tombstone, until))
}

/// Rows of them.
pub(super) fn rows(overlay: &Overlay) -> Vec<Vec<u8>> {
    let keys: Vec<Key> = keys_of(overlay).collect();
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
