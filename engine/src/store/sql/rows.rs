//! Reading the tables.

use std::borrow::Cow;

use super::conn::{SqlConn, SqlValue, integers};
use super::{SqlBackend, int};
use crate::store::backend::{Seq, Stats, StoreError};
use crate::store::keyed::KeySource;
use crate::types::Timestamp;

const KEYS: &str = "SELECT key FROM relay_key WHERE key BETWEEN ? AND ? ORDER BY key LIMIT ?";
const EVENT: &str = "SELECT json FROM relay_event WHERE seq = ?";
const EVENTS_AFTER: &str = "SELECT seq FROM relay_event WHERE seq > ? ORDER BY seq LIMIT ?";
const TOMBSTONE: &str = "SELECT until FROM relay_tombstone WHERE key = ?";
const NEWEST_EVENT: &str = "SELECT seq FROM relay_event ORDER BY seq DESC LIMIT 1";
const LAST_SEQ: &str = "SELECT value FROM relay_meta WHERE name = 'last_seq'";
/// Over the ids, which are far smaller than the events.
const COUNT_EVENTS: &str = "SELECT count(*) FROM relay_key WHERE key >= x'69' AND key < x'6a'";

/// The tables as they are now.
#[derive(Debug)]
pub struct Rows<'a, C> {
    backend: &'a SqlBackend<C>,
}

impl<'a, C: SqlConn> Rows<'a, C> {
    pub(super) fn new(backend: &'a SqlBackend<C>) -> Self {
        Rows { backend }
    }

    /// What the tables say.
    pub(super) fn stored_last_seq(&self) -> Result<Seq, StoreError> {
        let newest = self.integers(NEWEST_EVENT, &[])?;
        let taken_out = self.integers(LAST_SEQ, &[])?;
        Ok(Seq(newest.into_iter().chain(taken_out).max().unwrap_or(0) as u64))
    }

    fn integers(&self, sql: &str, params: &[SqlValue<'_>]) -> Result<Vec<i64>, StoreError> {
        integers(&self.backend.conn, sql, params)
    }

    fn blobs(
        &self,
        sql: &str,
        params: &[SqlValue<'_>],
        each: &mut dyn FnMut(&[u8]),
    ) -> Result<(), StoreError> {
        self.backend.conn.query(sql, params, &mut |row| match row {
            [SqlValue::Blob(blob), ..] => {
                each(blob);
                Ok(())
            }
            _ => Err(StoreError::Corrupt("a column is no BLOB".into())),
        })
    }
}

impl<C: SqlConn> KeySource for Rows<'_, C> {
    fn keys(
        &self,
        from: &[u8],
        to: &[u8],
        max: usize,
        each: &mut dyn FnMut(&[u8]),
    ) -> Result<(), StoreError> {
        self.blobs(KEYS, &[SqlValue::Blob(from), SqlValue::Blob(to), limit(max)], each)
    }

    fn body(&self, seq: Seq) -> Result<Option<Cow<'_, [u8]>>, StoreError> {
        let mut found = None;
        self.blobs(EVENT, &[int(seq)], &mut |json| found = Some(Cow::Owned(json.to_vec())))?;
        Ok(found)
    }

    fn bodies_after(&self, after: Seq, max: usize, out: &mut Vec<Seq>) -> Result<(), StoreError> {
        let seqs = self.integers(EVENTS_AFTER, &[int(after), limit(max)])?;
        out.extend(seqs.into_iter().map(|seq| Seq(seq as u64)));
        Ok(())
    }

    fn tombstone(&self, key: &[u8]) -> Result<Option<Timestamp>, StoreError> {
        let mut found = Ok(None);
        self.blobs(TOMBSTONE, &[SqlValue::Blob(key)], &mut |until| {
            found = match until.try_into() {
                Ok(bytes) => Ok(Some(Timestamp::from_be_bytes(bytes))),
                Err(_) => Err(StoreError::Corrupt("a tombstone's second has not eight bytes".into())),
            };
        })?;
        found
    }

    fn last_seq(&self) -> Result<Seq, StoreError> {
        if let Some(known) = self.backend.last_seq.get() {
            return Ok(known);
        }
        let last = self.stored_last_seq()?;
        self.backend.last_seq.set(Some(last));
        Ok(last)
    }

    fn stats(&self) -> Result<Stats, StoreError> {
        let events = match self.backend.events.get() {
            Some(events) => events,
            None => {
                let counted = self.integers(COUNT_EVENTS, &[])?;
                let events = counted.first().map_or(0, |events| *events as u64);
                self.backend.events.set(Some(events));
                events
            }
        };
        Ok(Stats { events, bytes: self.backend.conn.bytes()? })
    }
}

fn limit(max: usize) -> SqlValue<'static> {
    SqlValue::Int(i64::try_from(max).unwrap_or(i64::MAX).min(1 << 52))
}
