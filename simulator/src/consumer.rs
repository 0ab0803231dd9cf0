//! A consumer of a stream: it lags, is evicted and crashes at times, and must still receive every stored match.

use std::collections::BTreeSet;

use relay_engine::relay::{Relay, StreamId};
use relay_engine::store::Seq;
use relay_engine::types::{Class, Filter, Timestamp};

use super::history::{History, NOT_REMOVED, Store};
use super::pool::is_signed;

/// A consumer of one shard's stream.
#[derive(Debug)]
pub(super) struct Consumer {
    filter: Filter,
    /// `None` while it is evicted.
    stream: Option<StreamId>,
    /// The last sequence number that it has confirmed, which survives a crash.
    confirmed: Seq,
    /// The last sequence number received since its stream was opened.
    last: Seq,
    /// Every sequence number ever received.
    seen: BTreeSet<Seq>,
    redelivered: usize,
}

impl Consumer {
    pub(super) fn new(filter: Filter) -> Self {
        Consumer {
            filter,
            stream: None,
            confirmed: Seq(0),
            last: Seq(0),
            seen: BTreeSet::new(),
            redelivered: 0,
        }
    }

    /// Opens its stream after the last confirmed number, if it has none and the store can be read.
    pub(super) fn open(&mut self, relay: &mut Relay<Store>) {
        if self.stream.is_none() {
            self.last = self.confirmed;
            self.stream = relay.open_stream(std::slice::from_ref(&self.filter), Some(self.confirmed)).ok();
        }
    }

    /// It is evicted: events that it has received but not confirmed will be delivered again.
    pub(super) fn close(&mut self, relay: &mut Relay<Store>) {
        if let Some(stream) = self.stream.take() {
            relay.close_stream(stream);
        }
    }

    /// Its process has crashed.
    pub(super) fn crash(&mut self) {
        self.stream = None;
    }

    /// Confirms everything up to the stream's position.
    pub(super) fn confirm(&mut self, relay: &Relay<Store>) {
        if let Some(stream) = self.stream {
            let position = relay.stream_position(stream).expect("the stream is open");
            assert!(position >= self.confirmed, "the position does not fall");
            self.confirmed = position;
        }
    }

    /// Receives up to `max` events. True if there were any.
    pub(super) fn receive(&mut self, relay: &mut Relay<Store>, max: usize) -> bool {
        let Some(stream) = self.stream else { return false };
        for received in 0..max {
            let Some((seq, event)) = relay.poll_stream(stream) else { return received > 0 };
            assert!(is_signed(&event), "only verified events are streamed");
            assert!(self.filter.matches(&event), "only matches are streamed");
            assert_eq!(
                seq.is_none(),
                event.class() == Class::Ephemeral,
                "exactly the stored events have a sequence number"
            );
            if let Some(seq) = seq {
                assert!(self.last < seq, "a stream is in commit order");
                self.last = seq;
                self.redelivered += usize::from(!self.seen.insert(seq));
            }
        }
        max > 0
    }

    /// Events received again.
    pub(super) fn redelivered(&self) -> usize {
        self.redelivered
    }

    /// # Panics
    /// If it has not received a stored match, has received what was never stored, or has not reached the end.
    pub(super) fn check(&self, history: &History, now: Timestamp) {
        for entry in history.entries.iter().filter(|entry| self.filter.matches(&entry.event)) {
            let may_be_missing = entry.removed_in != NOT_REMOVED || entry.event.is_expired(now);
            assert!(
                self.seen.contains(&entry.seq) || may_be_missing,
                "a stream misses {:?} {:?}",
                entry.seq,
                entry.event
            );
        }
        for seq in &self.seen {
            assert!(history.entries.iter().any(|entry| entry.seq == *seq), "{seq:?} was never stored");
        }
        let last = history.present().map(|entry| entry.seq).max().unwrap_or_default();
        assert!(
            self.confirmed >= last,
            "the position is behind the last event: {:?}, {last:?}",
            self.confirmed
        );
    }
}
