//! All tables together, each with what is kept of it in memory: how a write goes through them.

use super::event_table::{EventChanges, EventTable};
use super::memtable::{Memtable, NewTombstones};
use super::pending_removal::{self, ChangedRows};
use super::removed;
use super::sizes::SqlSizes;
use super::tree::Tree;
use crate::sql::SqlConn;
use crate::store::backend::{Seq, StoreError};
use crate::store::kv::{Overlay, PendingRemovals};
use crate::store::lsm::ChangedBits;
use crate::store::terms::TermClasses;

#[derive(Debug)]
pub(super) struct Tables {
    pub(super) events: EventTable,
    pub(super) memtable: Memtable,
    pub(super) tree: Tree,
    pub(super) pending_removal: PendingRemovals,
    /// Changes that no commit names, since it was opened: nobody else writes to the database.
    pub(super) unlogged_removals: u64,
}

/// What a write changes, until it is durable.
#[derive(Debug)]
pub(super) struct Changes {
    events: EventChanges,
    tombstones: NewTombstones,
    removed: ChangedBits,
    pending_removal: ChangedRows,
}

impl Tables {
    /// Reads a row for each page, and each row of events and tombstones since the last flush.
    pub(super) fn load<C: SqlConn>(
        conn: &C,
        sizes: &SqlSizes,
        classes: TermClasses,
        has_pending_removal_table: bool,
    ) -> Result<Self, StoreError> {
        let memtable = Memtable::load(conn, classes)?;
        let tree = Tree::load(conn, sizes.page_cache_bytes, memtable.flushed_up_to())?;
        let events = EventTable::load(conn, memtable.flushed_up_to(), sizes.row_cache_bytes)?;
        let pending_removal =
            if has_pending_removal_table { pending_removal::load(conn)? } else { PendingRemovals::default() };
        Ok(Tables { events, memtable, tree, pending_removal, unlogged_removals: 0 })
    }

    /// How many events are stored, without ones pending removal.
    pub(super) fn event_count(&self) -> u64 {
        self.memtable.events_ever().saturating_sub(self.tree.removed.len() + self.pending_removal.len())
    }

    /// Writes an overlay down. Runs inside a transaction; [`Tables::commit`] follows it.
    pub(super) fn write<C: SqlConn>(
        &mut self,
        conn: &C,
        sizes: &SqlSizes,
        overlay: &Overlay,
    ) -> Result<Changes, StoreError> {
        let events = self.events.write(conn, overlay, sizes.row_bytes)?;
        let removed = removed::write(conn, &self.tree.removed, self.split_removed(&events).0)?;
        let tombstones = self.memtable.write_tombstones(conn, overlay)?;
        let pending_removal = pending_removal::write(conn, &self.pending_removal, overlay)?;
        Ok(Changes { events, tombstones, removed, pending_removal })
    }

    /// Takes over a write that is durable.
    pub(super) fn commit(&mut self, overlay: &Overlay, changes: Changes) {
        let Changes { events, tombstones, removed, pending_removal } = changes;
        self.unlogged_removals += u64::from(overlay.has_unlogged_removal());
        pending_removal::commit(&mut self.pending_removal, pending_removal);
        let (flushed, recent) = self.split_removed(&events);
        self.tree.removed.commit(removed);
        self.tree.counts.subtract(&self.tree.directory, overlay.removed_keys());
        self.tree.rewrites.count_removed(flushed.len() as u64);
        self.events.commit(&events);
        self.memtable.commit(overlay, &events, recent, tombstones);
    }

    /// The events that a write removes: those whose keys are in pages, and those whose keys are in the memtable.
    fn split_removed<'a>(&self, changes: &'a EventChanges) -> (&'a [Seq], &'a [Seq]) {
        let up_to = self.memtable.flushed_up_to();
        changes.removed.split_at(changes.removed.partition_point(|seq| *seq <= up_to))
    }
}
