//! The bytes of a page: sorted keys, each without what it shares with the one before it.
//!
//! ```text
//! page     = entry*  restart:2*  count of restarts:2
//! entry    = shared:1  length of rest:1  rest
//! ```
//!
//! Every sixteenth entry shares nothing, and `restart` is where it is, so that a key is found by halving. Numbers are
//! big-endian.

use std::sync::Arc;

use crate::store::backend::StoreError;
use crate::store::keyed::Key;

const RESTART_KEYS: usize = 16;

/// A page being written.
pub(super) struct Builder {
    bytes: Vec<u8>,
    restarts: Vec<u16>,
    keys: usize,
    last: Key,
}

impl Builder {
    pub(super) fn new() -> Self {
        Builder { bytes: Vec::new(), restarts: Vec::new(), keys: 0, last: Key::EMPTY }
    }

    /// Adds a key above all others.
    pub(super) fn push(&mut self, key: &Key) {
        let shared = if self.keys.is_multiple_of(RESTART_KEYS) {
            self.restarts.push(self.bytes.len() as u16);
            0
        } else {
            self.last.shared(key)
        };
        let rest = &key.as_bytes()[shared..];
        self.bytes.extend([shared as u8, rest.len() as u8]);
        self.bytes.extend_from_slice(rest);
        self.last = *key;
        self.keys += 1;
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len() + 2 * self.restarts.len() + 2
    }

    pub(super) fn finish(mut self) -> Vec<u8> {
        for restart in &self.restarts {
            self.bytes.extend(restart.to_be_bytes());
        }
        self.bytes.extend((self.restarts.len() as u16).to_be_bytes());
        self.bytes
    }
}

/// About how many bytes sorted keys take in pages.
pub(super) fn bytes(keys: &[Key]) -> usize {
    let before = [None].into_iter().chain(keys.iter().map(Some));
    let entry = |(place, (key, before)): (usize, (&Key, Option<&Key>))| match before {
        Some(before) if !place.is_multiple_of(RESTART_KEYS) => 2 + key.as_bytes().len() - before.shared(key),
        _ => 4 + key.as_bytes().len(),
    };
    keys.iter().zip(before).enumerate().map(entry).sum()
}

/// A place in a page.
pub(super) struct Cursor {
    page: Arc<[u8]>,
    /// Where the entries end.
    end: usize,
    at: usize,
    last: Key,
    /// The key that was looked for, or the first behind it, until it is taken.
    found: Option<Key>,
}

impl Cursor {
    /// Before the first key.
    pub(super) fn first(page: Arc<[u8]>) -> Result<Self, StoreError> {
        let (end, _) = parts(&page).ok_or_else(malformed)?;
        Ok(Cursor { page, end, at: 0, last: Key::EMPTY, found: None })
    }

    /// Before the first key that is not below `from`.
    pub(super) fn at(page: Arc<[u8]>, from: &[u8]) -> Result<Self, StoreError> {
        let (end, restarts) = parts(&page).ok_or_else(malformed)?;
        let (restarts, _) = restarts.as_chunks::<2>();
        let below = restarts.partition_point(|at| {
            let entry = usize::from(u16::from_be_bytes(*at));
            read(&page[..end], entry, &Key::EMPTY).is_some_and(|(key, _)| key.as_bytes() < from)
        });
        let at = below.checked_sub(1).map_or(0, |place| usize::from(u16::from_be_bytes(restarts[place])));
        let mut cursor = Cursor { page, end, at, last: Key::EMPTY, found: None };
        while let Some(key) = cursor.next()? {
            if key.as_bytes() >= from {
                cursor.found = Some(key);
                break;
            }
        }
        Ok(cursor)
    }

    /// The next key.
    pub(super) fn next(&mut self) -> Result<Option<Key>, StoreError> {
        if let Some(found) = self.found.take() {
            return Ok(Some(found));
        }
        if self.at == self.end {
            return Ok(None);
        }
        let (key, next) = read(&self.page[..self.end], self.at, &self.last).ok_or_else(malformed)?;
        (self.last, self.at) = (key, next);
        Ok(Some(key))
    }
}

/// Where the entries end, and the restarts.
fn parts(page: &[u8]) -> Option<(usize, &[u8])> {
    let (rest, count) = page.split_last_chunk()?;
    let end = rest.len().checked_sub(2 * usize::from(u16::from_be_bytes(*count)))?;
    Some((end, &rest[end..]))
}

/// The key of the entry at `at`, and where the next one is.
fn read(entries: &[u8], at: usize, before: &Key) -> Option<(Key, usize)> {
    let (&[shared, len], rest) = entries.get(at..)?.split_first_chunk()?;
    let rest = rest.get(..usize::from(len))?;
    let key = before.splice(usize::from(shared), rest)?;
    Some((key, at + 2 + rest.len()))
}

fn malformed() -> StoreError {
    StoreError::Corrupt("a page of keys is malformed".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn keys_from(page: &Arc<[u8]>, from: &[u8]) -> Vec<Vec<u8>> {
        let mut cursor = Cursor::at(Arc::clone(page), from).expect("well-formed");
        let mut keys = Vec::new();
        while let Some(key) = cursor.next().expect("well-formed") {
            keys.push(key.as_bytes().to_vec());
        }
        keys
    }

    fn any_key() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(prop_oneof![0..3u8, any::<u8>()], 0..62)
    }

    proptest! {
        #[test]
        fn a_page_holds_what_was_put_in(
            keys in prop::collection::btree_set(any_key(), 0..80),
            from in any_key(),
        ) {
            let mut builder = Builder::new();
            for key in &keys {
                builder.push(&Key::read(key).expect("short enough"));
            }
            let len = builder.len();
            let page: Arc<[u8]> = builder.finish().into();
            prop_assert_eq!(page.len(), len);
            let all: Vec<_> = keys.iter().cloned().collect();
            prop_assert_eq!(&keys_from(&page, b""), &all);
            let behind: Vec<_> = keys.range(from.clone()..).cloned().collect();
            prop_assert_eq!(keys_from(&page, &from), behind);
        }

        #[test]
        fn any_bytes_are_a_page_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200), from in any_key()) {
            let page: Arc<[u8]> = bytes.into();
            if let Ok(mut cursor) = Cursor::at(page, &from) {
                while let Ok(Some(_)) = cursor.next() {}
            }
        }
    }
}
