//! Writing: the events of a write into rows, those that it takes out of theirs, and its tombstones.

use std::collections::BTreeSet;

use super::conn::{Bulk, SqlConn, SqlValue};
use super::rows::Rows;
use super::state::Written;
use super::{EVENT_BYTES_MAX, SqlBackend, buried, int, lines};
use crate::store::backend::{Seq, StoreError};
use crate::store::keyed::{Overlay, buried_key};

const WRITE_EVENTS: Bulk = Bulk {
    before: "INSERT INTO relay_event (seq, json) VALUES ",
    row: "(?,?)",
    after: " ON CONFLICT (seq) DO UPDATE SET json = excluded.json",
};
const DELETE_EVENTS: Bulk = Bulk { before: "DELETE FROM relay_event WHERE seq IN (", row: "?", after: ")" };
const WRITE_GONE: Bulk = Bulk {
    before: "INSERT INTO relay_gone (chunk, bits) VALUES ",
    row: "(?,?)",
    after: " ON CONFLICT (chunk) DO UPDATE SET bits = excluded.bits",
};
const BURY: Bulk = Bulk {
    before: "INSERT INTO relay_tombstone (row, fold, keys) VALUES ",
    row: "(?,?,?)",
    after: " ON CONFLICT (row) DO UPDATE SET fold = excluded.fold, keys = excluded.keys",
};

/// Bytes of rows that are put together before they are written.
const PENDING_BYTES: usize = 1 << 20;

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
            WRITE_EVENTS
                .run(conn, self.rows.iter().map(|(first, row)| [int(*first), SqlValue::Blob(row)]))?;
            *self = Pending::default();
        }
        Ok(())
    }
}

impl<C: SqlConn> SqlBackend<C> {
    /// Runs inside a transaction.
    pub(super) fn apply(&self, overlay: &Overlay) -> Result<Written, StoreError> {
        let mut written = Written::default();
        if overlay.is_empty() {
            return Ok(written);
        }
        self.take_out(overlay, &mut written)?;
        self.put_in(overlay, &mut written)?;
        let conn = &self.conn;
        let gone = written.gone.iter();
        WRITE_GONE
            .run(conn, gone.map(|(chunk, bits)| [SqlValue::Int(*chunk as i64), SqlValue::Blob(&**bits)]))?;
        self.bury(overlay, &mut written)?;
        Ok(written)
    }

    fn bury(&self, overlay: &Overlay, written: &mut Written) -> Result<(), StoreError> {
        written.buried = overlay.tombstones().map(|(key, until)| buried_key(key, until)).collect();
        let rows = buried::rows(&written.buried);
        written.buried_rows = rows.len() as i64;
        let (folds, last) = {
            let state = self.state.borrow();
            (state.folds, state.buried_rows)
        };
        let rows = rows.iter().zip(last + 1..);
        BURY.run(
            &self.conn,
            rows.map(|(keys, row)| [SqlValue::Int(row), SqlValue::Int(folds), SqlValue::Blob(keys)]),
        )
    }

    fn put_in(&self, overlay: &Overlay, written: &mut Written) -> Result<(), StoreError> {
        let mut pending = Pending::default();
        let mut open: Option<(Seq, Vec<u8>)> = None;
        let mut newest = None;
        for (seq, json) in overlay.bodies().filter_map(|(seq, body)| Some((seq, body?))) {
            if json.len() > EVENT_BYTES_MAX {
                return Err(StoreError::Failed(format!("an event is longer than {EVENT_BYTES_MAX} bytes")));
            }
            written.added += 1;
            written.added_bytes += json.len();
            let fits =
                |(first, row): &(Seq, Vec<u8>)| lines::fits(row, *first, seq, json, self.sizes.row_bytes);
            if !open.as_ref().is_some_and(fits)
                && let Some((first, row)) = open.take()
            {
                pending.push(first, row);
                pending.write(&self.conn, PENDING_BYTES)?;
            }
            let (first, row) = open.get_or_insert_with(|| (seq, Vec::new()));
            lines::push(row, json);
            newest = Some((seq, *first));
        }
        if let Some((first, row)) = open {
            pending.push(first, row);
        }
        let old = self.state.borrow();
        if overlay.last_seq() > old.last_seq && old.newest_row_is_empty {
            DELETE_EVENTS.run(&self.conn, [[int(old.newest_row)]].into_iter())?;
            written.rows.push(old.newest_row.0 as i64);
        }
        let given = overlay.last_seq();
        if given > newest.map_or(old.last_seq, |(seq, _)| seq) {
            // The last event was taken out in the write that brought it; its number stays used.
            pending.push(given, b"\n".to_vec());
            newest = Some((given, given));
        }
        written.last = newest;
        pending.write(&self.conn, 0)
    }

    fn take_out(&self, overlay: &Overlay, written: &mut Written) -> Result<(), StoreError> {
        let seqs: Vec<Seq> =
            overlay.bodies().filter(|(_, body)| body.is_none()).map(|(seq, _)| seq).collect();
        let (folded, newest_row) = {
            let state = self.state.borrow();
            // The newest row tells the last number, so it stays until there is a newer one.
            let has_newer = overlay.last_seq() > state.last_seq;
            (state.folded, (!has_newer).then_some(state.newest_row))
        };
        let rows = Rows::new(self);
        let (mut pending, mut deleted, mut gone) = (Pending::default(), Vec::new(), BTreeSet::new());
        let mut left = &seqs[..];
        while let Some(seq) = left.first() {
            let Some((first, row)) = rows.event_row(*seq)? else {
                left = &left[1..];
                continue;
            };
            let end = Seq(first.0 + lines::count(&row));
            let (here, others) = left.split_at(left.partition_point(|seq| *seq < end).max(1));
            left = others;
            let rest = lines::without(&row, first, here);
            if rest.taken.is_empty() {
                continue;
            }
            let (recent, others): (Vec<Seq>, Vec<Seq>) = rest.taken.iter().partition(|seq| **seq > folded);
            written.removed.extend(recent);
            written.removed_folded += others.len() as u64;
            gone.extend(others);
            written.empties_newest_row |= newest_row == Some(first) && !rest.has_events;
            written.rows.push(first.0 as i64);
            if rest.has_events || newest_row == Some(first) {
                pending.push(first, rest.row);
                pending.write(&self.conn, PENDING_BYTES)?;
            } else {
                deleted.push(first);
            }
        }
        pending.write(&self.conn, 0)?;
        DELETE_EVENTS.run(&self.conn, deleted.into_iter().map(|first| [int(first)]))?;
        written.gone = self.state.borrow().gone.with(gone.into_iter());
        Ok(())
    }
}
