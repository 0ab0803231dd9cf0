//! The subscriptions of clients and streams: the owner of each, its progress, and the index that finds the subscriptions
//! that an event matches.

use std::sync::Arc;

use super::deliveries::Matched;
use super::future_filters::FutureFilters;
use super::ids::{ConnId, StreamId};
use super::outbox::Frame;
use crate::index::{Index, MatchStats, SubSlot};
use crate::store::{Replayed, Seq};
use crate::types::{Event, EventId, Filter, SubId, Timestamp};
use crate::wire::frames;

/// Postings of ended subscriptions swept at a time: some 20 us.
const SWEEP_POSTINGS: usize = 2_000;

/// The owner of a subscription.
#[derive(Debug)]
pub(super) enum Owner {
    Client { conn: ConnId, sub: SubId },
    Stream(StreamId),
}

/// A position in the order of answers: newest first, ties by lowest id.
pub(super) type FullRank = (Timestamp, EventId);

/// The progress of a subscription.
#[derive(Debug)]
pub(super) enum State {
    /// Stored events are being sent, up to a horizon. `missed`: a newer one has matched since. `pending_ephemeral`:
    /// events to send after EOSE. `last`: the position of the last stored event that was sent, if any was.
    Scanning { missed: bool, pending_ephemeral: Vec<Event>, last: Option<FullRank> },
    /// Events are sent as they come.
    Live,
    /// Events above `covered` are being read back from the store.
    Lagging,
}

impl State {
    /// Of a new subscription.
    pub(super) fn scanning() -> Self {
        State::Scanning { missed: false, pending_ephemeral: Vec::new(), last: None }
    }
}

/// Names a subscription; never means another one later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SubKey {
    slot: SubSlot,
    serial: u64,
}

#[derive(Debug)]
pub(super) struct Subscription {
    pub(super) key: SubKey,
    pub(super) owner: Owner,
    /// `["EVENT","sub",`
    pub(super) head: Arc<[u8]>,
    pub(super) filters: Arc<[Filter]>,
    pub(super) state: State,
    /// Events up to this sequence number have been sent, or will be by the scan.
    pub(super) covered: Seq,
}

impl Subscription {
    /// Bytes that the events it holds will take in its reader's outbox.
    pub(super) fn pending_ephemeral_bytes(&self) -> usize {
        match &self.state {
            State::Scanning { pending_ephemeral, .. } => {
                pending_ephemeral.iter().map(|event| self.frame_bytes(event)).sum()
            }
            State::Live | State::Lagging => 0,
        }
    }

    /// Bytes of an event's frame.
    pub(super) fn frame_bytes(&self, event: &Event) -> usize {
        Frame { head: &self.head, body: Some(&event.shared_json()) }.len()
    }

    /// Its reader cannot take this stored event now: it is read back from the store later.
    pub(super) fn start_lagging(&mut self, seq: Seq) {
        self.state = State::Lagging;
        self.covered = Seq(seq.0 - 1);
    }

    /// A replay has come this far. Whether it is done, and the subscription live.
    pub(super) fn record_progress(&mut self, replayed: Replayed) -> bool {
        self.covered = self.covered.max(replayed.covered);
        if replayed.caught_up {
            self.state = State::Live;
        }
        replayed.caught_up
    }
}

/// All subscriptions of a shard.
#[derive(Debug)]
pub(super) struct Subscriptions {
    index: Index,
    /// Filters that are not in the index yet.
    future: FutureFilters,
    index_seed: u64,
    /// By index slot.
    slots: Vec<Option<Subscription>>,
    serial: u64,
    clients: usize,
    /// The last stored event that was delivered.
    delivered: Seq,
    /// Of the last event that was matched; its memory serves the next.
    matched: Vec<SubSlot>,
}

impl Subscriptions {
    pub(super) fn new(index_seed: u64) -> Self {
        Subscriptions {
            index: Index::with_seed(index_seed),
            future: FutureFilters::default(),
            index_seed,
            slots: Vec::new(),
            serial: 0,
            clients: 0,
            delivered: Seq(0),
            matched: Vec::new(),
        }
    }

    /// The secret by which indexes hash.
    pub(super) fn index_seed(&self) -> u64 {
        self.index_seed
    }

    /// Adds a subscription: from now on new events are matched with its filters.
    pub(super) fn insert(
        &mut self,
        owner: Owner,
        filters: Arc<[Filter]>,
        state: State,
        covered: Seq,
    ) -> SubKey {
        let mut head = Vec::new();
        if let Owner::Client { sub, .. } = &owner {
            frames::event_head(&mut head, sub);
            self.clients += 1;
        }
        let future = &self.future;
        let slot = self.index.subscribe(filters.iter().filter(|filter| future.is_due(filter)));
        self.future.keep(slot, &filters);
        self.serial += 1;
        let key = SubKey { slot, serial: self.serial };
        let index = slot.0 as usize;
        if self.slots.len() <= index {
            self.slots.resize_with(index + 1, || None);
        }
        debug_assert!(self.slots[index].is_none(), "a slot has one subscription");
        self.slots[index] = Some(Subscription { key, owner, head: head.into(), filters, state, covered });
        key
    }

    /// Takes a subscription out of the index and the table; its queries find it gone.
    pub(super) fn remove(&mut self, key: SubKey) -> Option<Subscription> {
        let filters = Arc::clone(&self.get(key)?.filters);
        self.future.forget(key.slot, &filters);
        self.index.unsubscribe(key.slot);
        self.index.sweep(SWEEP_POSTINGS);
        let removed = self.slots[key.slot.0 as usize].take();
        if let Some(Subscription { owner: Owner::Client { .. }, .. }) = removed {
            self.clients -= 1;
        }
        removed
    }

    pub(super) fn get(&self, key: SubKey) -> Option<&Subscription> {
        self.slots.get(key.slot.0 as usize)?.as_ref().filter(|sub| sub.key == key)
    }

    pub(super) fn get_mut(&mut self, key: SubKey) -> Option<&mut Subscription> {
        self.slots.get_mut(key.slot.0 as usize)?.as_mut().filter(|sub| sub.key == key)
    }

    /// Events may be dated up to `created_at_max` now: filters that can match them enter the index.
    pub(super) fn advance(&mut self, created_at_max: Timestamp) {
        self.future.advance(created_at_max);
        self.enter(created_at_max);
    }

    /// Filters that can match an event with this `created_at` enter the index.
    fn enter(&mut self, created_at: Timestamp) {
        while let Some((since, slot)) = self.future.pop(created_at) {
            let Some(subscription) = &self.slots[slot.0 as usize] else { continue };
            let due = subscription.filters.iter().filter(|filter| filter.since == Some(since));
            self.future.record_values(due.clone().map(|filter| 1 + filter.value_count()).sum());
            self.index.extend(slot, due);
        }
    }

    /// Finds the subscriptions that match `event`, to be given back by [`Subscriptions::reuse`].
    pub(super) fn matches(&mut self, event: &Event) -> (MatchStats, Matched) {
        let mut slots = std::mem::take(&mut self.matched);
        slots.clear();
        // Another clock, or an operator, may have let it in. This does not make filters that come later enter early.
        self.enter(event.created_at);
        let stats = self.index.matches(event, &mut slots);
        (stats, Matched { slots, done: 0, serial: self.serial })
    }

    pub(super) fn reuse(&mut self, matched: Matched) {
        self.matched = matched.slots;
    }

    /// The subscription that was matched in this slot when `serial` was the last; `None` if it has ended since.
    pub(super) fn matched_mut(&mut self, slot: SubSlot, serial: u64) -> Option<&mut Subscription> {
        self.slots.get_mut(slot.0 as usize)?.as_mut().filter(|sub| sub.key.serial <= serial)
    }

    /// A stored event has been delivered to all that it is for; they come in the order of commits.
    pub(super) fn record_delivered(&mut self, seq: Seq) {
        self.delivered = self.delivered.max(seq);
    }

    /// Every stored event up to this number has been delivered, or was before this machine.
    pub(super) fn delivered(&self) -> Seq {
        self.delivered
    }

    /// Subscriptions of clients; streams are not counted.
    pub(super) fn client_subscriptions(&self) -> usize {
        self.clients
    }

    /// Whether ended subscriptions have left much in the index.
    pub(super) fn is_sweep_due(&self) -> bool {
        self.index.is_sweep_due()
    }

    /// Bytes of the index.
    pub(super) fn index_bytes(&self) -> usize {
        self.index.bytes()
    }

    /// Sweeps some of what ended subscriptions left in the index.
    pub(super) fn sweep(&mut self) {
        self.index.sweep(SWEEP_POSTINGS);
    }
}
