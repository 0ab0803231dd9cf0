//! A consumer of a stream: slow, asleep or dead at times, and yet it is to see all that is stored.

use std::collections::BTreeSet;

use relay_engine::relay::{Relay, StreamId};
use relay_engine::store::Seq;
use relay_engine::types::{Class, Filter, Timestamp};

use super::history::{FOREVER, History, Store};
use super::pool::is_signed;

/// What lives beside one shard.
#[derive(Debug)]
pub(super) struct Consumer {
    filter: Filter,
    /// `None` while it sleeps.
    stream: Option<StreamId>,
    /// What it would find again after a crash.
    confirmed: Seq,
    /// The last it was handed since its stream was opened.
    last: Seq,
    /// All that it was ever handed.
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

    /// Opens its stream behind what it has confirmed, if it sleeps and the store can be read.
    pub(super) fn wake(&mut self, relay: &mut Relay<Store>) {
        if self.stream.is_none() {
            self.last = self.confirmed;
            self.stream = relay.open_stream(std::slice::from_ref(&self.filter), Some(self.confirmed)).ok();
        }
    }

    /// It is evicted: what it was handed and has not confirmed is as good as not seen.
    pub(super) fn sleep(&mut self, relay: &mut Relay<Store>) {
        if let Some(stream) = self.stream.take() {
            relay.close_stream(stream);
        }
    }

    /// Its whole process is dead.
    pub(super) fn die(&mut self) {
        self.stream = None;
    }

    /// Confirms as much as it may.
    pub(super) fn confirm(&mut self, relay: &Relay<Store>) {
        if let Some(stream) = self.stream {
            let position = relay.stream_position(stream).expect("the stream is open");
            assert!(position >= self.confirmed, "a position does not fall");
            self.confirmed = position;
        }
    }

    /// Takes up to `max` events. True if there were any.
    pub(super) fn take(&mut self, relay: &mut Relay<Store>, max: usize) -> bool {
        let Some(stream) = self.stream else { return false };
        for taken in 0..max {
            let Some((seq, event)) = relay.poll_stream(stream) else { return taken > 0 };
            assert!(is_signed(&event), "only what was verified is streamed");
            assert!(self.filter.matches(&event), "only what matches is streamed");
            assert_eq!(seq.is_none(), event.class() == Class::Ephemeral, "what is stored has a number");
            if let Some(seq) = seq {
                assert!(self.last < seq, "a stream is in commit order");
                self.last = seq;
                self.redelivered += usize::from(!self.seen.insert(seq));
            }
        }
        max > 0
    }

    /// How often it was handed what it had been handed before.
    pub(super) fn redelivered(&self) -> usize {
        self.redelivered
    }

    /// # Panics
    /// If it has not seen something that matches and is stored, or has confirmed what it never saw.
    pub(super) fn check(&self, history: &History, now: Timestamp) {
        for stay in history.stays.iter().filter(|stay| self.filter.matches(&stay.event)) {
            let may_be_missing = stay.to != FOREVER || stay.event.is_expired(now);
            assert!(
                self.seen.contains(&stay.seq) || may_be_missing,
                "a stream misses {:?} {:?}",
                stay.seq,
                stay.event
            );
        }
        for seq in &self.seen {
            assert!(history.stays.iter().any(|stay| stay.seq == *seq), "{seq:?} was never stored");
        }
        let last = history.alive().map(|stay| stay.seq).max().unwrap_or_default();
        assert!(self.confirmed >= last, "a stream at rest is at the end: {:?}, {last:?}", self.confirmed);
    }
}
