//! Reading: keys from memory and from the pages of all runs, merged; events from their rows.

use std::borrow::Cow;
use std::collections::btree_set;
use std::iter::Peekable;
use std::sync::Arc;

use super::conn::{SqlConn, SqlValue};
use super::directory::PageRef;
use super::page::Cursor;
use super::state::{State, event_row};
use super::{SqlBackend, filter, int, lines};
use crate::store::backend::{Seq, Stats, StoreError};
use crate::store::keyed::{Key, KeySource, buried_key, read_until};
use crate::types::Timestamp;

const PAGE: &str = "SELECT keys FROM relay_page WHERE page = ?";
const EVENT_ROW: &str = "SELECT seq, json FROM relay_event WHERE seq <= ? ORDER BY seq DESC LIMIT 1";
const EVENT_ROWS_AFTER: &str = "SELECT seq, json FROM relay_event WHERE seq > ? ORDER BY seq LIMIT ?";

/// Rows of events read at once when many are wanted.
const EVENT_ROWS: i64 = 16;

/// The number of a row's first event, and the row; drawn in `lines`.
pub(super) type EventRow = (Seq, Arc<[u8]>);

/// The tables as they are now.
#[derive(Debug)]
pub struct Rows<'a, C> {
    backend: &'a SqlBackend<C>,
}

impl<'a, C: SqlConn> Rows<'a, C> {
    pub(super) fn new(backend: &'a SqlBackend<C>) -> Self {
        Rows { backend }
    }

    /// The keys of a page.
    pub(super) fn page(&self, number: i64) -> Result<Arc<[u8]>, StoreError> {
        if let Some(page) = self.backend.pages.borrow_mut().get(number) {
            return Ok(page);
        }
        let mut found: Option<Arc<[u8]>> = None;
        self.blobs(PAGE, &[SqlValue::Int(number)], &mut |keys| found = Some(keys.into()))?;
        let page = found.ok_or_else(|| StoreError::Corrupt(format!("page {number} is missing")))?;
        self.backend.pages.borrow_mut().put(number, Arc::clone(&page));
        Ok(page)
    }

    /// The row that number `seq` would be in.
    pub(super) fn event_row(&self, seq: Seq) -> Result<Option<EventRow>, StoreError> {
        let mut rows = self.backend.rows.borrow_mut();
        if let Some((first, row)) = rows.get_before(number(seq)) {
            let first = Seq(first as u64);
            if seq.0 - first.0 < lines::count(&row) {
                return Ok(Some((first, row)));
            }
        }
        let mut found = None;
        event_row(&self.backend.conn, EVENT_ROW, &[int(seq)], &mut |first, row| {
            found = Some((first, Arc::<[u8]>::from(row)));
        })?;
        if let Some((first, row)) = &found {
            rows.put(number(*first), Arc::clone(row));
        }
        Ok(found)
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
    const WANTS_REMOVED_KEYS: bool = false;

    fn keys(
        &self,
        from: &[u8],
        to: &[u8],
        max: usize,
        each: &mut dyn FnMut(&[u8]),
    ) -> Result<(), StoreError> {
        let mut worn = Vec::new();
        {
            let state = self.backend.state.borrow();
            let mut merged = Merged::new(&state, from, to)?;
            for _ in 0..max {
                let Some(key) = merged.next(self, &mut worn)? else { break };
                each(key.as_bytes());
            }
        }
        if !worn.is_empty() {
            self.backend.state.borrow_mut().worn.extend(worn);
        }
        Ok(())
    }

    fn body(&self, seq: Seq) -> Result<Option<Cow<'_, [u8]>>, StoreError> {
        let Some((first, row)) = self.event_row(seq)? else { return Ok(None) };
        Ok(lines::find(&row, first, seq).map(|json| Cow::Owned(json.to_vec())))
    }

    fn bodies_after(&self, after: Seq, max: usize, out: &mut Vec<Seq>) -> Result<(), StoreError> {
        if max == 0 || after >= self.backend.state.borrow().last_seq {
            return Ok(());
        }
        let known = out.len();
        let take = |first: Seq, row: &[u8], out: &mut Vec<Seq>| {
            let seqs = lines::events(row, first).map(|(seq, _)| seq).filter(|seq| *seq > after);
            out.extend(seqs.take(max - (out.len() - known)));
        };
        let mut last = after;
        if let Some((first, row)) = self.event_row(after)? {
            take(first, &row, out);
            last = first;
        }
        let mut is_more = true;
        while is_more && out.len() - known < max {
            let mut rows = 0;
            let params = [int(last), SqlValue::Int(EVENT_ROWS)];
            event_row(&self.backend.conn, EVENT_ROWS_AFTER, &params, &mut |first, row| {
                rows += 1;
                last = first;
                take(first, row, out);
                // Whoever asks for the numbers reads the events next.
                self.backend.rows.borrow_mut().put(number(first), row.into());
            })?;
            is_more = rows == EVENT_ROWS;
        }
        Ok(())
    }

    fn tombstone(&self, key: &[u8]) -> Result<Option<Timestamp>, StoreError> {
        // The latest second comes first.
        let (from, to) = (buried_key(key, Timestamp::MAX), buried_key(key, 0));
        let mut found = None;
        self.keys(from.as_bytes(), to.as_bytes(), 1, &mut |key| found = read_until(key))?;
        Ok(found)
    }

    fn last_seq(&self) -> Result<Seq, StoreError> {
        Ok(self.backend.state.borrow().last_seq)
    }

    fn stats(&self) -> Result<Stats, StoreError> {
        let events = self.backend.state.borrow().events();
        Ok(Stats { events, bytes: self.backend.conn.bytes()? })
    }
}

fn number(seq: Seq) -> i64 {
    seq.0.min(1 << 52) as i64
}

/// The keys of a range, from memory and from all runs.
struct Merged<'a> {
    state: &'a State,
    range: (&'a [u8], &'a [u8]),
    /// The id or tombstone, if that is what is looked for.
    sought: Option<[u8; 32]>,
    recent: Peekable<btree_set::Range<'a, Key>>,
    lanes: Vec<Lane<'a>>,
}

/// The keys of one run.
struct Lane<'a> {
    pages: &'a [PageRef],
    /// The page that is open, and how many keys of events that are gone were passed by in it.
    open: Option<(i64, Cursor, usize)>,
    head: Option<Key>,
}

impl<'a> Merged<'a> {
    fn new(state: &'a State, from: &'a [u8], to: &'a [u8]) -> Result<Self, StoreError> {
        let (Some(first), Some(last)) = (Key::read(from), Key::read(to)) else {
            return Err(StoreError::Failed("a key that is looked for is too long".into()));
        };
        let lanes = state.directory.runs().iter().filter_map(|run| {
            let pages = run.pages_from(from);
            let reaches = pages.first().is_some_and(|page| page.first <= last);
            reaches.then_some(Lane { pages, open: None, head: None })
        });
        let is_one = from.first() == to.first() && first.sought() == last.sought();
        let sought = first.sought().copied().filter(|_| is_one);
        Ok(Merged {
            state,
            range: (from, to),
            sought,
            recent: state.recent.range(first..=last).peekable(),
            lanes: lanes.collect(),
        })
    }

    fn next<C: SqlConn>(
        &mut self,
        rows: &Rows<'_, C>,
        worn: &mut Vec<i64>,
    ) -> Result<Option<Key>, StoreError> {
        let mut least: Option<(Key, usize)> = None;
        for (place, lane) in self.lanes.iter_mut().enumerate() {
            if lane.head.is_none() {
                lane.advance(rows, self.state, self.range, self.sought.as_ref(), worn)?;
            }
            if let Some(head) = lane.head
                && least.is_none_or(|(key, _)| head < key)
            {
                least = Some((head, place));
            }
        }
        let is_gone = |key: &Key| key.seq().is_some_and(|seq| self.state.recent_gone.contains(&seq));
        while self.recent.next_if(|key| is_gone(key)).is_some() {}
        match (self.recent.peek(), least) {
            (Some(recent), Some((key, _))) if **recent < key => Ok(self.recent.next().copied()),
            (_, Some((_, place))) => Ok(self.lanes[place].head.take()),
            (_, None) => Ok(self.recent.next().copied()),
        }
    }
}

impl Lane<'_> {
    /// Puts the next key into `head`, if there is one.
    fn advance<C: SqlConn>(
        &mut self,
        rows: &Rows<'_, C>,
        state: &State,
        (from, to): (&[u8], &[u8]),
        sought: Option<&[u8; 32]>,
        worn: &mut Vec<i64>,
    ) -> Result<(), StoreError> {
        loop {
            if let Some((number, cursor, passed)) = &mut self.open {
                while let Some(key) = cursor.next()? {
                    if key.as_bytes() > to {
                        (self.open, self.pages) = (None, &[]);
                        return Ok(());
                    }
                    if key.seq().is_some_and(|seq| state.gone.contains(seq)) {
                        *passed += 1;
                        if *passed == rows.backend.sizes.gone_keys {
                            worn.push(*number);
                        }
                        continue;
                    }
                    self.head = Some(key);
                    return Ok(());
                }
                self.open = None;
            }
            let Some((page, others)) = self.pages.split_first() else { return Ok(()) };
            if page.first.as_bytes() > to {
                self.pages = &[];
                return Ok(());
            }
            self.pages = others;
            if sought.is_none_or(|hash| filter::may_hold(&page.filter, hash)) {
                self.open = Some((page.number, Cursor::at(rows.page(page.number)?, from)?, 0));
            }
        }
    }
}
