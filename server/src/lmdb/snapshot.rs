//! A snapshot of the database: a read transaction, or a write transaction before its changes are applied.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::ops::Bound;

use heed::types::{Bytes, DecodeIgnore};
use heed::{AnyTls, Database, RoTxn, RwTxn, WithoutTls};
use relay_engine::store::kv::{
    KeySource, PendingRemovalRow, TombstoneHash, hash_of_tombstone, hashed_tombstone,
};
use relay_engine::store::{Seq, Stats, StoreError};
use relay_engine::types::Timestamp;

use super::error::store_error;
use super::{Be64, LAST_SEQ_KEY, LmdbBackend, UNLOGGED_REMOVALS_KEY, is_hashed_tombstone};

/// The database as a transaction sees it.
pub struct Snapshot<'a, T> {
    backend: &'a LmdbBackend,
    txn: T,
    /// Whether any event is pending removal, once that has been asked.
    has_pending_removals: OnceCell<bool>,
    /// Whether there are tombstones of which only the hash is known, likewise.
    has_hashed_tombstones: OnceCell<bool>,
}

impl<'a, T> Snapshot<'a, T> {
    pub(super) fn new(backend: &'a LmdbBackend, txn: T) -> Self {
        Snapshot {
            backend,
            txn,
            has_pending_removals: OnceCell::new(),
            has_hashed_tombstones: OnceCell::new(),
        }
    }

    pub(super) fn into_txn(self) -> T {
        self.txn
    }
}

/// A read or a write transaction.
pub trait Txn {
    /// Use it for reading.
    fn read(&self) -> &RoTxn<'_, AnyTls>;
}

impl Txn for RoTxn<'_, WithoutTls> {
    fn read(&self) -> &RoTxn<'_, AnyTls> {
        self
    }
}

impl Txn for RwTxn<'_> {
    fn read(&self) -> &RoTxn<'_, AnyTls> {
        self
    }
}

impl<T: Txn> Snapshot<'_, T> {
    /// The database of events pending removal, if there are any.
    fn find_pending_removals(&self) -> Result<Option<Database<'static, Be64, Bytes>>, StoreError> {
        let Some(pending_removal) = self.backend.databases.pending_removal else { return Ok(None) };
        let has_pending_removals = !pending_removal.is_empty(self.txn.read()).map_err(store_error)?;
        Ok(Some(pending_removal).filter(|_| *self.has_pending_removals.get_or_init(|| has_pending_removals)))
    }

    /// A row of events pending removal.
    pub(super) fn pending_removal_row(&self, number: u64) -> Result<PendingRemovalRow, StoreError> {
        let Some(pending_removal) = self.backend.databases.pending_removal else {
            return Ok(PendingRemovalRow::EMPTY);
        };
        let row = pending_removal.get(self.txn.read(), &number).map_err(store_error)?;
        row.map_or(Ok(PendingRemovalRow::EMPTY), PendingRemovalRow::read)
    }

    fn has_hashed_tombstones(&self) -> Result<bool, StoreError> {
        if let Some(known) = self.has_hashed_tombstones.get() {
            return Ok(*known);
        }
        let first = self.backend.databases.tombstone.first(self.txn.read()).map_err(store_error)?;
        Ok(*self.has_hashed_tombstones.get_or_init(|| first.is_some_and(|(key, _)| is_hashed_tombstone(key))))
    }

    fn pending_removal_count(&self) -> Result<u64, StoreError> {
        let Some(pending_removal) = self.find_pending_removals()? else { return Ok(0) };
        let rows = pending_removal.iter(self.txn.read()).map_err(store_error)?;
        rows.map(|row| row.map(|(_, row)| PendingRemovalRow::count(row)).map_err(store_error)).sum()
    }
}

impl<T: Txn> KeySource for Snapshot<'_, T> {
    const WANTS_REMOVED_KEYS: bool = true;

    fn keys(
        &self,
        from: &[u8],
        to: &[u8],
        max: usize,
        each: &mut dyn FnMut(&[u8]),
    ) -> Result<(), StoreError> {
        self.backend.databases.key.keys(self.txn.read(), from, to, max, each).map_err(store_error)
    }

    fn body(&self, seq: Seq) -> Result<Option<Cow<'_, [u8]>>, StoreError> {
        let body = self.backend.databases.event.get(self.txn.read(), &seq.0).map_err(store_error)?;
        // LMDB does not validate overflow pages, which hold only a body. A lost part of the file reads as zeros.
        if body.is_some_and(|body| body.first() != Some(&b'{') || body.last() != Some(&b'}')) {
            return Err(StoreError::Corrupt(format!("event {} is not a JSON object", seq.0)));
        }
        Ok(body.map(Cow::Borrowed))
    }

    fn bodies_after(&self, after: Seq, max: usize, out: &mut Vec<Seq>) -> Result<(), StoreError> {
        let events = self.backend.databases.event.remap_data_type::<DecodeIgnore>();
        let range = (Bound::Excluded(after.0), Bound::Unbounded);
        for entry in events.range(self.txn.read(), &range).map_err(store_error)?.take(max) {
            let (seq, ()) = entry.map_err(store_error)?;
            out.push(Seq(seq));
        }
        Ok(())
    }

    fn is_pending_removal(&self, seq: Seq) -> Result<bool, StoreError> {
        let pending_removal = match self.has_pending_removals.get() {
            Some(false) => None,
            Some(true) => self.backend.databases.pending_removal,
            None => self.find_pending_removals()?,
        };
        let Some(pending_removal) = pending_removal else { return Ok(false) };
        let row =
            pending_removal.get(self.txn.read(), &PendingRemovalRow::number_of(seq)).map_err(store_error)?;
        Ok(row.is_some_and(|row| PendingRemovalRow::has(row, seq)))
    }

    fn pending_removal(&self, max: usize, out: &mut Vec<Seq>) -> Result<(), StoreError> {
        let Some(pending_removal) = self.find_pending_removals()? else { return Ok(()) };
        let end = out.len().saturating_add(max);
        for row in pending_removal.iter(self.txn.read()).map_err(store_error)? {
            let (number, row) = row.map_err(store_error)?;
            out.extend(PendingRemovalRow::seqs(number, row).take(end - out.len()));
            if out.len() == end {
                break;
            }
        }
        Ok(())
    }

    fn tombstone(&self, key: &[u8]) -> Result<Option<Timestamp>, StoreError> {
        let (txn, tombstones) = (self.txn.read(), self.backend.databases.tombstone);
        let until = tombstones.get(txn, key).map_err(store_error)?;
        let hashed = match self.has_hashed_tombstones()? {
            true => tombstones.get(txn, &hashed_tombstone(&hash_of_tombstone(key))).map_err(store_error)?,
            false => None,
        };
        Ok(until.max(hashed))
    }

    fn tombstones(
        &self,
        each: &mut dyn FnMut(TombstoneHash, Timestamp) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let stored = self.backend.databases.tombstone.iter(self.txn.read()).map_err(store_error)?;
        for tombstone in stored {
            let (key, until) = tombstone.map_err(store_error)?;
            each(hash_of_tombstone(key), until)?;
        }
        Ok(())
    }

    fn last_seq(&self) -> Result<Seq, StoreError> {
        let (txn, databases) = (self.txn.read(), &self.backend.databases);
        let events = databases.event.remap_data_type::<DecodeIgnore>();
        let newest = events.last(txn).map_err(store_error)?.map_or(0, |(seq, ())| seq);
        let removed = databases.meta.get(txn, LAST_SEQ_KEY).map_err(store_error)?.unwrap_or(0);
        Ok(Seq(newest.max(removed)))
    }

    fn unlogged_removals(&self) -> Result<u64, StoreError> {
        let found = self.backend.databases.meta.get(self.txn.read(), UNLOGGED_REMOVALS_KEY);
        Ok(found.map_err(store_error)?.unwrap_or(0))
    }

    /// `bytes` is the length of the file up to its last used page, free pages included.
    fn stats(&self) -> Result<Stats, StoreError> {
        let LmdbBackend { env, databases, .. } = self.backend;
        let page_bytes = u64::from(env.unnamed_database_stat().page_size);
        let pages = env.info().last_page_number as u64 + 1;
        let events = databases.event.len(self.txn.read()).map_err(store_error)?;
        let pending_removal = self.pending_removal_count()?;
        Ok(Stats {
            events: events.saturating_sub(pending_removal),
            pending_removal,
            bytes: pages * page_bytes,
        })
    }
}
