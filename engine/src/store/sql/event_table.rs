//! The table of events: reading and writing its rows, whose format is in `event_row`, and the last sequence number.

use std::sync::Arc;

use super::cache::BlobCache;
use super::event_row;
use super::queries::{Bulk, LARGE_ROWS, each_row, event_row, int, malformed_event, row_id};
use crate::sql::{SqlConn, SqlValue};
use crate::store::backend::{Seq, StoreError};
use crate::store::kv::Overlay;

/// Largest event in bytes: a row of a Durable Object is at most 2 MB.
pub const EVENT_BYTES_MAX: usize = 2_000_000 - 1024;

const READ_ROW_OF: &str = "SELECT seq, json FROM relay_event WHERE seq <= ? ORDER BY seq DESC LIMIT 1";
const READ_AFTER: &str = "SELECT seq, json FROM relay_event WHERE seq > ? ORDER BY seq LIMIT ?";
const READ_NEWEST: &str = "SELECT seq, json FROM relay_event ORDER BY seq DESC LIMIT 1";
const WRITE: Bulk = Bulk {
    before: "INSERT INTO relay_event (seq, json) VALUES ",
    row: "(?,?)",
    after: " ON CONFLICT (seq) DO UPDATE SET json = excluded.json",
};
const DELETE: Bulk = Bulk { before: "DELETE FROM relay_event WHERE seq IN (", row: "?", after: ")" };

/// Bytes of rows that are put together before they are written.
const PENDING_BYTES: usize = 1 << 20;

/// The sequence number of a row's first event, and the row.
pub(super) type EventRow = (Seq, Arc<[u8]>);

#[derive(Debug)]
pub(super) struct EventTable {
    /// The last sequence number given.
    last_seq: Seq,
    /// The row that has it. It says what the last number is, so without events it is kept until there is a newer row.
    newest_row: Seq,
    newest_row_is_empty: bool,
    cache: BlobCache,
}

/// What a write changes in the table.
#[derive(Debug, Default)]
pub(super) struct EventChanges {
    /// The last sequence number given, and the row that has it.
    last: Option<(Seq, Seq)>,
    pub(super) added: u64,
    pub(super) added_bytes: usize,
    /// Stored events that are removed, ascending.
    pub(super) removed: Vec<Seq>,
    /// Whether the newest row has no events any more.
    empties_newest_row: bool,
    /// Rows that are not what they were.
    rows: Vec<Seq>,
}

/// Calls `each` with the events after `after`, ascending.
pub(super) fn each_event<C: SqlConn>(
    conn: &C,
    after: Seq,
    each: &mut dyn FnMut(Seq, &[u8]),
) -> Result<(), StoreError> {
    each_row(conn, READ_AFTER, after.0 as i64, LARGE_ROWS, &mut |row| match *row {
        [SqlValue::Int(first), SqlValue::Blob(row)] => {
            event_row::events(row, Seq(first as u64)).for_each(|(seq, json)| each(seq, json));
            Ok(first)
        }
        _ => Err(malformed_event()),
    })
}

impl EventTable {
    /// Reads the newest row. `flushed_up_to` is a sequence number that was given, though its row may be gone.
    pub(super) fn load<C: SqlConn>(
        conn: &C,
        flushed_up_to: Seq,
        cache_bytes: usize,
    ) -> Result<Self, StoreError> {
        let (mut newest_row, mut count, mut newest_row_is_empty) = (Seq(0), 0, false);
        event_row(conn, READ_NEWEST, &[], &mut |first, row| {
            (newest_row, count) = (first, event_row::count(row));
            newest_row_is_empty = event_row::events(row, first).next().is_none();
        })?;
        let last_seq = Seq((newest_row.0 + count).saturating_sub(1)).max(flushed_up_to);
        Ok(EventTable { last_seq, newest_row, newest_row_is_empty, cache: BlobCache::new(cache_bytes) })
    }

    /// The last sequence number given.
    pub(super) fn last_seq(&self) -> Seq {
        self.last_seq
    }

    /// The row that event `seq` would be in.
    pub(super) fn row_of<C: SqlConn>(&mut self, conn: &C, seq: Seq) -> Result<Option<EventRow>, StoreError> {
        if let Some((first, row)) = self.cache.get_before(row_id(seq)) {
            let first = Seq(first as u64);
            if seq.0 - first.0 < event_row::count(&row) {
                return Ok(Some((first, row)));
            }
        }
        let mut found = None;
        event_row(conn, READ_ROW_OF, &[int(seq)], &mut |first, row| {
            found = Some((first, Arc::<[u8]>::from(row)));
        })?;
        if let Some((first, row)) = &found {
            self.cache.put(row_id(*first), Arc::clone(row));
        }
        Ok(found)
    }

    /// Appends the sequence numbers of up to `max` events after `after`, ascending.
    pub(super) fn seqs_after<C: SqlConn>(
        &mut self,
        conn: &C,
        after: Seq,
        max: usize,
        out: &mut Vec<Seq>,
    ) -> Result<(), StoreError> {
        if max == 0 || after >= self.last_seq {
            return Ok(());
        }
        let known = out.len();
        let take = |first: Seq, row: &[u8], out: &mut Vec<Seq>| {
            let seqs = event_row::events(row, first).map(|(seq, _)| seq).filter(|seq| *seq > after);
            out.extend(seqs.take(max - (out.len() - known)));
        };
        let mut last = after;
        if let Some((first, row)) = self.row_of(conn, after)? {
            take(first, &row, out);
            last = first;
        }
        let mut is_more = true;
        while is_more && out.len() - known < max {
            let mut rows = 0;
            event_row(conn, READ_AFTER, &[int(last), SqlValue::Int(LARGE_ROWS)], &mut |first, row| {
                rows += 1;
                last = first;
                take(first, row, out);
                // A caller that asks for the numbers reads the events next.
                self.cache.put(row_id(first), row.into());
            })?;
            is_more = rows == LARGE_ROWS;
        }
        Ok(())
    }

    /// Writes the events of a write down: those it removes, then those it adds. Runs inside a transaction;
    /// [`EventTable::commit`] follows it.
    pub(super) fn write<C: SqlConn>(
        &mut self,
        conn: &C,
        overlay: &Overlay,
        row_bytes: usize,
    ) -> Result<EventChanges, StoreError> {
        let mut changes = EventChanges::default();
        self.remove(conn, overlay, &mut changes)?;
        self.add(conn, overlay, row_bytes, &mut changes)?;
        Ok(changes)
    }

    /// Takes over a write that is durable.
    pub(super) fn commit(&mut self, changes: &EventChanges) {
        changes.rows.iter().for_each(|first| self.cache.remove(row_id(*first)));
        self.newest_row_is_empty |= changes.empties_newest_row;
        if let Some(last) = changes.last {
            (self.last_seq, self.newest_row) = last;
            self.newest_row_is_empty = changes.added == 0;
        }
    }

    fn remove<C: SqlConn>(
        &mut self,
        conn: &C,
        overlay: &Overlay,
        changes: &mut EventChanges,
    ) -> Result<(), StoreError> {
        let seqs: Vec<Seq> =
            overlay.bodies().filter(|(_, body)| body.is_none()).map(|(seq, _)| seq).collect();
        let has_newer = overlay.last_seq() > self.last_seq;
        let kept_row = (!has_newer).then_some(self.newest_row);
        let (mut pending, mut deleted) = (Pending::default(), Vec::new());
        let mut left = &seqs[..];
        while let Some(seq) = left.first() {
            let Some((first, row)) = self.row_of(conn, *seq)? else {
                left = &left[1..];
                continue;
            };
            let end = Seq(first.0 + event_row::count(&row));
            let (here, others) = left.split_at(left.partition_point(|seq| *seq < end).max(1));
            left = others;
            let rest = event_row::remove_lines(&row, first, here);
            if rest.removed.is_empty() {
                continue;
            }
            changes.removed.extend(rest.removed);
            changes.empties_newest_row |= kept_row == Some(first) && !rest.has_events;
            changes.rows.push(first);
            if rest.has_events || kept_row == Some(first) {
                pending.push(first, rest.row);
                pending.write(conn, PENDING_BYTES)?;
            } else {
                deleted.push(first);
            }
        }
        pending.write(conn, 0)?;
        DELETE.run(conn, deleted.into_iter().map(|first| [int(first)]))
    }

    fn add<C: SqlConn>(
        &self,
        conn: &C,
        overlay: &Overlay,
        row_bytes: usize,
        changes: &mut EventChanges,
    ) -> Result<(), StoreError> {
        let mut pending = Pending::default();
        let mut open: Option<(Seq, Vec<u8>)> = None;
        let mut newest = None;
        for (seq, json) in overlay.bodies().filter_map(|(seq, body)| Some((seq, body?))) {
            if json.len() > EVENT_BYTES_MAX {
                return Err(StoreError::Failed(format!("an event is longer than {EVENT_BYTES_MAX} bytes")));
            }
            changes.added += 1;
            changes.added_bytes += json.len();
            let fits = |(first, row): &(Seq, Vec<u8>)| event_row::fits(row, *first, seq, json, row_bytes);
            if !open.as_ref().is_some_and(fits)
                && let Some((first, row)) = open.take()
            {
                pending.push(first, row);
                pending.write(conn, PENDING_BYTES)?;
            }
            let (first, row) = open.get_or_insert_with(|| (seq, Vec::new()));
            event_row::push(row, json);
            newest = Some((seq, *first));
        }
        if let Some((first, row)) = open {
            pending.push(first, row);
        }
        let given = overlay.last_seq();
        if given > self.last_seq && self.newest_row_is_empty {
            DELETE.run(conn, [[int(self.newest_row)]].into_iter())?;
            changes.rows.push(self.newest_row);
        }
        if given > newest.map_or(self.last_seq, |(seq, _)| seq) {
            // The last event was removed in the write that brought it; its sequence number stays used.
            pending.push(given, b"\n".to_vec());
            newest = Some((given, given));
        }
        changes.last = newest;
        pending.write(conn, 0)
    }
}

/// Rows of events on their way into the table.
#[derive(Default)]
struct Pending {
    rows: Vec<(Seq, Vec<u8>)>,
    bytes: usize,
}

impl Pending {
    fn push(&mut self, first: Seq, row: Vec<u8>) {
        self.bytes += row.len();
        self.rows.push((first, row));
    }

    fn write<C: SqlConn>(&mut self, conn: &C, bytes_min: usize) -> Result<(), StoreError> {
        if self.bytes >= bytes_min {
            WRITE.run(conn, self.rows.iter().map(|(first, row)| [int(*first), SqlValue::Blob(row)]))?;
            *self = Pending::default();
        }
        Ok(())
    }
}
