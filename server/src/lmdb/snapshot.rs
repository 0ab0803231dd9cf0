//! A snapshot of the database: a read transaction, or a write transaction before its changes are applied.

use std::borrow::Cow;
use std::ops::Bound;

use heed::types::DecodeIgnore;
use heed::{AnyTls, RoTxn, RwTxn, WithoutTls};
use relay_engine::store::keyed::KeySource;
use relay_engine::store::{Seq, Stats, StoreError};
use relay_engine::types::Timestamp;

use super::error::store_error;
use super::{LAST_SEQ_KEY, LmdbBackend};

/// The database as a transaction sees it.
pub struct Snapshot<'a, T> {
    backend: &'a LmdbBackend,
    txn: T,
}

impl<'a, T> Snapshot<'a, T> {
    pub(super) fn new(backend: &'a LmdbBackend, txn: T) -> Self {
        Snapshot { backend, txn }
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
            return Err(StoreError::Corrupt(format!("event {} is no JSON object", seq.0)));
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

    fn tombstone(&self, key: &[u8]) -> Result<Option<Timestamp>, StoreError> {
        self.backend.databases.tombstone.get(self.txn.read(), key).map_err(store_error)
    }

    fn last_seq(&self) -> Result<Seq, StoreError> {
        let (txn, databases) = (self.txn.read(), &self.backend.databases);
        let events = databases.event.remap_data_type::<DecodeIgnore>();
        let newest = events.last(txn).map_err(store_error)?.map_or(0, |(seq, ())| seq);
        let removed = databases.meta.get(txn, LAST_SEQ_KEY).map_err(store_error)?.unwrap_or(0);
        Ok(Seq(newest.max(removed)))
    }

    /// `bytes` is the length of the file up to its last used page, free pages included.
    fn stats(&self) -> Result<Stats, StoreError> {
        let LmdbBackend { env, databases, .. } = self.backend;
        let page_bytes = u64::from(env.unnamed_database_stat().page_size);
        let pages = env.info().last_page_number as u64 + 1;
        Ok(Stats {
            events: databases.event.len(self.txn.read()).map_err(store_error)?,
            bytes: pages * page_bytes,
        })
    }
}
