//! What a backend holds in memory: the keys that are not in pages yet, and where everything else is.

use std::collections::{BTreeMap, BTreeSet};

use rustc_hash::FxHashSet;

use super::conn::{SqlConn, SqlValue};
use super::directory::{Directory, PageRef};
use super::gone::{Bits, Gone};
use super::{buried, lines};
use crate::store::backend::{Seq, StoreError};
use crate::store::keyed::{Key, Overlay, keys_of};
use crate::store::terms::{TermClasses, terms_of};
use crate::types::Event;

const FOLDS: &str = "SELECT value FROM relay_meta WHERE name = 'folds'";
const FOLDED: &str = "SELECT value FROM relay_meta WHERE name = 'folded'";
const FOLDED_EVENTS: &str = "SELECT value FROM relay_meta WHERE name = 'folded_events'";
const PAGES: &str =
    "SELECT page, level, run, first, last, filter FROM relay_page WHERE page > ? ORDER BY page LIMIT ?";
const GONE: &str = "SELECT chunk, bits FROM relay_gone WHERE chunk > ? ORDER BY chunk LIMIT ?";
const TOMBSTONES: &str =
    "SELECT keys FROM relay_tombstone WHERE row > ? AND row <= ? AND fold = ? ORDER BY row";
const EVENTS: &str = "SELECT seq, json FROM relay_event WHERE seq > ? ORDER BY seq LIMIT ?";
const NEWEST: &str = "SELECT seq, json FROM relay_event ORDER BY seq DESC LIMIT 1";

/// Rows read at once, of those that are small and of those that may have 2 MB.
const SMALL_ROWS: i64 = 500;
const LARGE_ROWS: i64 = 16;

#[derive(Debug, Default)]
pub(super) struct State {
    /// Keys of the events above `folded`, and of tombstones set since.
    pub(super) recent: BTreeSet<Key>,
    /// Those events that were taken out since the backend was opened.
    pub(super) recent_gone: FxHashSet<Seq>,
    /// How many are left, and bytes of all.
    pub(super) recent_events: u64,
    pub(super) recent_bytes: usize,
    /// How often keys were folded, and rows of tombstones since.
    pub(super) folds: i64,
    pub(super) buried_rows: i64,
    /// The last number whose keys are in pages.
    pub(super) folded: Seq,
    /// Events whose keys were ever folded, those taken out before not counted.
    pub(super) folded_events: u64,
    /// Which of those are gone.
    pub(super) gone: Gone,
    pub(super) directory: Directory,
    /// The last number given.
    pub(super) last_seq: Seq,
    /// The row that has it, which is kept when it has no events any more until there is a newer one.
    pub(super) newest_row: Seq,
    pub(super) newest_row_is_empty: bool,
    /// Where merging level 0 goes on, while it is being merged.
    pub(super) merge_from: Option<Key>,
    /// Pages in which many keys of events that are gone were passed by.
    pub(super) worn: BTreeSet<i64>,
    /// Events that went after their keys had been folded, and for which no page has been looked at yet.
    pub(super) gone_since_look: u64,
    /// The page that is looked at next, in the order of levels, runs and keys.
    pub(super) look_at: usize,
}

/// What a write changed, beside keys.
#[derive(Debug, Default)]
pub(super) struct Written {
    /// The last number given, and the row that has it.
    pub(super) last: Option<(Seq, Seq)>,
    pub(super) added: u64,
    pub(super) added_bytes: usize,
    /// Events taken out of those whose keys are recent, and how many others.
    pub(super) removed: Vec<Seq>,
    pub(super) removed_folded: u64,
    /// Whether the newest row has no events any more.
    pub(super) empties_newest_row: bool,
    /// Rows of [`Gone`] as they are now.
    pub(super) gone: Vec<(u64, Box<Bits>)>,
    /// Keys of tombstones, and their rows.
    pub(super) buried: Vec<Key>,
    pub(super) buried_rows: i64,
    /// Rows of events that are not what they were.
    pub(super) rows: Vec<i64>,
}

impl State {
    /// Reads everything from the tables. Costs a row for each page, and each row of events and tombstones since the
    /// last fold.
    pub(super) fn load<C: SqlConn>(conn: &C, classes: TermClasses) -> Result<Self, StoreError> {
        let mut state = State::default();
        let number =
            |sql| Ok(super::conn::integers(conn, sql, &[])?.first().map_or(0, |value| *value as u64));
        state.folds = number(FOLDS)? as i64;
        state.folded = Seq(number(FOLDED)?);
        state.folded_events = number(FOLDED_EVENTS)?;
        let mut runs: BTreeMap<_, Vec<PageRef>> = BTreeMap::new();
        each_row(conn, PAGES, 0, SMALL_ROWS, &mut |row| match *row {
            [
                SqlValue::Int(number),
                SqlValue::Int(level),
                SqlValue::Int(run),
                SqlValue::Blob(first),
                SqlValue::Blob(last),
                SqlValue::Blob(filter),
            ] => {
                let (Some(first), Some(last)) = (Key::read(first), Key::read(last)) else {
                    return Err(StoreError::Corrupt("a page begins or ends with no key".into()));
                };
                let page = PageRef { number, first, last, filter: filter.into() };
                runs.entry((level as usize, run)).or_default().push(page);
                Ok(number)
            }
            _ => Err(StoreError::Corrupt("a page's columns are of other types".into())),
        })?;
        runs.into_iter().for_each(|(place, pages)| state.directory.insert(place, pages));
        each_row(conn, GONE, -1, SMALL_ROWS, &mut |row| match *row {
            [SqlValue::Int(chunk), SqlValue::Blob(bits)] => {
                state.gone.load(chunk as u64, bits)?;
                Ok(chunk)
            }
            _ => Err(StoreError::Corrupt("the columns of what is gone are of other types".into())),
        })?;
        state.load_buried(conn)?;
        state.load_events(conn, classes)?;
        Ok(state)
    }

    /// Rows of tombstones are filled from the first after each fold: behind those of this one are older ones.
    fn load_buried<C: SqlConn>(&mut self, conn: &C) -> Result<(), StoreError> {
        let mut end = 0;
        while self.buried_rows == end {
            end += LARGE_ROWS;
            let params = [SqlValue::Int(self.buried_rows), SqlValue::Int(end), SqlValue::Int(self.folds)];
            conn.query(TOMBSTONES, &params, &mut |row| match row {
                [SqlValue::Blob(keys)] => {
                    self.recent.extend(buried::keys(keys)?);
                    self.buried_rows += 1;
                    Ok(())
                }
                _ => Err(StoreError::Corrupt("a row of tombstones is no BLOB".into())),
            })?;
        }
        Ok(())
    }

    fn load_events<C: SqlConn>(&mut self, conn: &C, classes: TermClasses) -> Result<(), StoreError> {
        let mut newest = None;
        event_row(conn, NEWEST, &[], &mut |seq, json| {
            newest = Some((seq, lines::count(json)));
            self.newest_row_is_empty = lines::events(json, seq).next().is_none();
        })?;
        let (row, count) = newest.unwrap_or_default();
        self.newest_row = row;
        self.last_seq = Seq((row.0 + count).saturating_sub(1)).max(self.folded);
        // Rows are of one write, and a fold is between writes: none is on both sides of it.
        each_row(conn, EVENTS, self.folded.0 as i64, LARGE_ROWS, &mut |row| match *row {
            [SqlValue::Int(first), SqlValue::Blob(json)] => {
                for (seq, json) in lines::events(json, Seq(first as u64)) {
                    self.recent_bytes += json.len();
                    self.recent_events += 1;
                    let event = Event::from_canonical(json.into());
                    self.recent.extend(keys_of(seq, &event, &terms_of(event.view(), classes)));
                }
                Ok(first)
            }
            _ => Err(malformed_event()),
        })
    }

    /// Takes over a write that is durable.
    pub(super) fn take_over(&mut self, overlay: &Overlay, written: Written) {
        // This source is not told of keys to remove.
        self.recent.extend(overlay.keys().map(|(key, _)| *key));
        self.recent.extend(written.buried);
        self.buried_rows += written.buried_rows;
        self.newest_row_is_empty |= written.empties_newest_row;
        if let Some(last) = written.last {
            (self.last_seq, self.newest_row) = last;
            self.newest_row_is_empty = written.added == 0;
        }
        self.recent_bytes += written.added_bytes;
        self.recent_events =
            (self.recent_events + written.added).saturating_sub(written.removed.len() as u64);
        self.recent_gone.extend(written.removed);
        self.gone_since_look += written.removed_folded;
        written.gone.into_iter().for_each(|(chunk, bits)| self.gone.set(chunk, bits));
    }

    pub(super) fn events(&self) -> u64 {
        (self.folded_events + self.recent_events).saturating_sub(self.gone.len())
    }
}

/// Reads all rows by pages of `rows`; `take` answers with the key of each, which the next page begins behind.
fn each_row<C: SqlConn>(
    conn: &C,
    sql: &str,
    after: i64,
    rows: i64,
    take: &mut dyn FnMut(&[SqlValue<'_>]) -> Result<i64, StoreError>,
) -> Result<(), StoreError> {
    let mut after = after;
    loop {
        let mut left = rows;
        conn.query(sql, &[SqlValue::Int(after), SqlValue::Int(rows)], &mut |row| {
            after = take(row)?;
            left -= 1;
            Ok(())
        })?;
        if left > 0 {
            return Ok(());
        }
    }
}

/// A row or some of events.
pub(super) fn event_row<C: SqlConn>(
    conn: &C,
    sql: &str,
    params: &[SqlValue<'_>],
    each: &mut dyn FnMut(Seq, &[u8]),
) -> Result<(), StoreError> {
    conn.query(sql, params, &mut |row| match *row {
        [SqlValue::Int(seq), SqlValue::Blob(json)] => {
            each(Seq(seq as u64), json);
            Ok(())
        }
        _ => Err(malformed_event()),
    })
}

fn malformed_event() -> StoreError {
    StoreError::Corrupt("the columns of an event are of other types".into())
}
