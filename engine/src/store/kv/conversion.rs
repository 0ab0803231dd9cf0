//! What copying a whole store into one of another kind needs beyond [`Reader`](crate::store::Reader) and
//! [`Writer`](crate::store::Writer): its tombstones, and its last sequence number.
//!
//! Stores that keep tombstones among their keys know only their hashes, so hashes are what is copied.

use super::key::hashed_tombstone;
use super::{KeySource, KvTransaction, Overlay, WriteState};
use crate::store::backend::{Seq, StoreError};
use crate::types::Timestamp;

/// SHA-256 of a tombstone.
pub type TombstoneHash = [u8; 32];

/// A reader of a store that is copied.
pub trait ConversionReader {
    /// Calls `each` with every tombstone and the timestamp up to which it deletes. One tombstone may come twice, with two timestamps:
    /// the later one is true. An error ends it and is returned.
    ///
    /// # Errors
    /// The store's, and those of `each`.
    fn tombstones(
        &self,
        each: &mut dyn FnMut(TombstoneHash, Timestamp) -> Result<(), StoreError>,
    ) -> Result<(), StoreError>;
}

/// A writer of the store that is made.
pub trait ConversionWriter {
    /// Puts a tombstone of which only the hash is known, unless there is one with a later timestamp.
    ///
    /// # Errors
    /// The store's.
    fn put_tombstone_hash(&mut self, hash: &TombstoneHash, until: Timestamp) -> Result<(), StoreError>;

    /// From now on the highest sequence number ever given to an event is at least this one.
    fn raise_last_seq(&mut self, seq: Seq);
}

impl<S: KeySource, O: WriteState> ConversionReader for KvTransaction<S, O> {
    fn tombstones(
        &self,
        each: &mut dyn FnMut(TombstoneHash, Timestamp) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        self.source.tombstones(each)
    }
}

impl<S: KeySource> ConversionWriter for KvTransaction<S, Overlay> {
    fn put_tombstone_hash(&mut self, hash: &TombstoneHash, until: Timestamp) -> Result<(), StoreError> {
        let key = hashed_tombstone(hash);
        let known = match self.overlay.tombstone(&key) {
            Some(until) => Some(until),
            None => self.source.tombstone(&key)?,
        };
        if known.is_none_or(|known| until > known) {
            self.overlay.put_tombstone_key(&key, until);
        }
        Ok(())
    }

    fn raise_last_seq(&mut self, seq: Seq) {
        self.overlay.raise_last_seq(seq);
    }
}
