//! The memtable: keys that are not in pages yet. They are not stored but derived again, when the backend is opened, from
//! the events and tombstones since the last flush.

use rustc_hash::FxHashSet;

use super::event_table::{self, EventChanges};
use super::queries::{int, integers};
use super::sizes::SqlSizes;
use super::tombstones;
use crate::sql::{SqlConn, SqlValue};
use crate::store::backend::{Seq, StoreError};
use crate::store::kv::{Key, Overlay};
use crate::store::lsm::{self, push_keys_of, sort_keys, tombstone_keys};
use crate::store::terms::TermClasses;

const FLUSHES: &str = "SELECT value FROM relay_meta WHERE name = 'folds'";
const FLUSHED: &str = "SELECT value FROM relay_meta WHERE name = 'folded'";
const FLUSHED_EVENTS: &str = "SELECT value FROM relay_meta WHERE name = 'folded_events'";
const WRITE: &str = "INSERT INTO relay_meta (name, value) VALUES ('folds', ?), ('folded', ?), ('folded_events', ?) \
                     ON CONFLICT (name) DO UPDATE SET value = excluded.value";

#[derive(Debug, Default)]
pub(super) struct Memtable {
    /// Keys of the events above [`Flushed::up_to`], and of tombstones put since.
    keys: lsm::Memtable,
    /// Those of these events that were removed since the backend was opened. Their keys are skipped.
    removed: FxHashSet<Seq>,
    /// Events left, and bytes of all.
    events: u64,
    event_bytes: usize,
    /// Rows of tombstones since the last flush.
    tombstone_rows: i64,
    flushed: Flushed,
}

/// What has been flushed so far; `relay_meta` has it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Flushed {
    /// How often.
    flushes: i64,
    /// The last sequence number whose keys are in pages.
    up_to: Seq,
    /// Events whose keys were flushed, whether or not they were removed afterwards.
    events: u64,
}

/// Tombstones that a write put.
#[derive(Debug)]
pub(super) struct NewTombstones {
    keys: Vec<Key>,
    rows: i64,
}

impl Memtable {
    /// Reads the rows of events and tombstones since the last flush.
    pub(super) fn load<C: SqlConn>(conn: &C, classes: TermClasses) -> Result<Self, StoreError> {
        let mut memtable = Memtable { flushed: Flushed::load(conn)?, ..Memtable::default() };
        let Memtable { events, event_bytes, flushed, .. } = &mut memtable;
        let mut keys = Vec::new();
        let rows = tombstones::load(conn, flushed.flushes, &mut |key| keys.push(key))?;
        // Rows are of one write, and a flush is between writes: no row has events of both sides.
        event_table::each_event(conn, flushed.up_to, &mut |seq, json| {
            *event_bytes += json.len();
            *events += 1;
            push_keys_of(seq, json, classes, &mut keys);
        })?;
        keys.sort();
        memtable.keys.add(keys);
        memtable.tombstone_rows = rows;
        Ok(memtable)
    }

    /// The last sequence number whose keys are in pages.
    pub(super) fn flushed_up_to(&self) -> Seq {
        self.flushed.up_to
    }

    /// Events whose keys are here or were flushed, except those removed before their flush.
    pub(super) fn events_ever(&self) -> u64 {
        self.flushed.events + self.events
    }

    /// Whether it has grown to `times` the size at which it is flushed.
    pub(super) fn is_full(&self, sizes: &SqlSizes, times: usize) -> bool {
        self.keys.len() >= sizes.memtable_keys.saturating_mul(times)
            || self.event_bytes >= sizes.memtable_bytes.saturating_mul(times)
    }

    /// The keys, those of removed events included.
    pub(super) fn keys(&self) -> &lsm::Memtable {
        &self.keys
    }

    /// Whether an event whose keys are here was removed.
    pub(super) fn is_removed(&self, seq: Seq) -> bool {
        self.removed.contains(&seq)
    }

    /// All keys to flush, sorted.
    pub(super) fn live_keys(&self) -> Vec<Key> {
        let is_live = |key: &Key| key.seq().is_none_or(|seq| !self.is_removed(seq));
        let mut keys = self.keys.keys_where(is_live);
        sort_keys(&mut keys);
        keys
    }

    /// What will have been flushed when all that is here, up to `last_seq`, is.
    pub(super) fn after_flush(&self, last_seq: Seq) -> Flushed {
        Flushed { flushes: self.flushed.flushes + 1, up_to: last_seq, events: self.events_ever() }
    }

    /// Empties it after a flush.
    pub(super) fn clear(&mut self, flushed: Flushed) {
        *self = Memtable { flushed, ..Memtable::default() };
    }

    /// Writes the tombstones of a write. Runs inside a transaction; [`Memtable::commit`] follows it.
    pub(super) fn write_tombstones<C: SqlConn>(
        &self,
        conn: &C,
        overlay: &Overlay,
    ) -> Result<NewTombstones, StoreError> {
        let keys = tombstone_keys(overlay);
        let rows = tombstones::write(conn, self.flushed.flushes, self.tombstone_rows, &keys)?;
        Ok(NewTombstones { keys, rows })
    }

    /// Takes over a write that is durable; `removed` are those it removed of the events whose keys are here.
    pub(super) fn commit(
        &mut self,
        overlay: &Overlay,
        added: &EventChanges,
        removed: &[Seq],
        tombstones: NewTombstones,
    ) {
        let mut keys: Vec<Key> = overlay.added_keys().copied().chain(tombstones.keys).collect();
        keys.sort();
        self.keys.add(keys);
        self.tombstone_rows += tombstones.rows;
        self.event_bytes += added.added_bytes;
        self.events = (self.events + added.added).saturating_sub(removed.len() as u64);
        self.removed.extend(removed);
    }
}

impl Flushed {
    fn load<C: SqlConn>(conn: &C) -> Result<Self, StoreError> {
        let value = |sql| Ok::<_, StoreError>(integers(conn, sql, &[])?.first().copied().unwrap_or(0));
        Ok(Flushed {
            flushes: value(FLUSHES)?,
            up_to: Seq(value(FLUSHED)? as u64),
            events: value(FLUSHED_EVENTS)? as u64,
        })
    }

    /// Runs inside the transaction of the flush.
    pub(super) fn write<C: SqlConn>(&self, conn: &C) -> Result<(), StoreError> {
        conn.exec(WRITE, &[SqlValue::Int(self.flushes), int(self.up_to), SqlValue::Int(self.events as i64)])
    }
}
