//! Live events that are still being delivered, so that none holds the shard for long, however many subscriptions want it.
//!
//! An event is delivered at once to as many subscriptions as `step_cost_max` allows; the others get it in the next steps of
//! [`Relay::work`]. Events that come meanwhile wait behind it, ephemeral ones too, so each subscription gets its events in
//! the order of their commits. An event is matched when it is first in line. A subscription that is created after that has
//! found it in the store already, so it is skipped.
//!
//! At most [`EVENTS_MAX`] events and [`BYTES_MAX`] bytes wait. Beyond that the events in front are delivered to all their
//! remaining subscriptions at once, in the call that brought the new one: the shard is held for longer, and nothing is lost.

use std::collections::VecDeque;

use super::commit::ALREADY_DELIVERED;
use super::{LiveEvent, Relay};
use crate::index::SubSlot;
use crate::store::{Backend, Seq};
use crate::types::Now;

/// Events that may wait for their delivery.
const EVENTS_MAX: usize = 1_024;
/// Bytes of those events.
const BYTES_MAX: usize = 4 << 20;

/// The subscriptions that an event matched.
#[derive(Debug)]
pub(super) struct Matched {
    pub(super) slots: Vec<SubSlot>,
    /// How many of them have been dealt with.
    pub(super) done: usize,
    /// The serial number of the last subscription there was; slots may be given to newer ones.
    pub(super) serial: u64,
}

/// Events on their way to their subscriptions, in order.
#[derive(Debug, Default)]
pub(super) struct Deliveries {
    waiting: VecDeque<LiveEvent>,
    /// Bytes of the events that wait.
    bytes: usize,
    /// Of the first event, if it has been delivered in part.
    matched: Option<Matched>,
    /// The last step of [`Relay::work`] was a delivery's.
    was_last: bool,
}

impl Deliveries {
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    fn is_full(&self) -> bool {
        self.waiting.len() > EVENTS_MAX || self.bytes > BYTES_MAX
    }

    fn push(&mut self, live: LiveEvent) {
        self.bytes += live.event.json().len();
        self.waiting.push_back(live);
    }

    /// The first event, and the subscriptions that it matched if it has been delivered in part.
    fn take(&mut self) -> Option<(LiveEvent, Option<Matched>)> {
        let live = self.waiting.pop_front()?;
        self.bytes -= live.event.json().len();
        Some((live, self.matched.take()))
    }

    /// Puts back the first event, which has been delivered in part.
    fn put_back(&mut self, live: LiveEvent, matched: Matched) {
        self.bytes += live.event.json().len();
        self.waiting.push_front(live);
        self.matched = Some(matched);
    }

    /// Whether the next step is a delivery's; every other one is, while there are queries too. Records the answer.
    pub(super) fn is_next(&mut self, has_queries: bool) -> bool {
        let is_turn_of_queries = has_queries && self.was_last;
        self.was_last = !self.is_empty() && !is_turn_of_queries;
        self.was_last
    }
}

impl<B: Backend> Relay<B> {
    /// Events committed by any shard, this one's own included, in commit order; ephemeral events of other shards in any. What
    /// takes more than a step is delivered by [`Relay::work`], unless more than 1,024 events or 4 MiB wait for that: then the
    /// first of them are delivered to all their remaining subscriptions in this call.
    pub fn handle_live(&mut self, now: Now, live: &[LiveEvent]) {
        let mut budget = self.delivery_budget();
        for live in live {
            self.neg_sets.record_live(live, &mut budget);
            self.members.record_live(self.config.policy.admission.as_ref(), live);
        }
        let mut budget = self.delivery_budget();
        for live in live.iter().filter(|live| live.seq != Some(ALREADY_DELIVERED)) {
            self.deliver(now, live, &mut budget);
        }
    }

    /// What a step of delivery may cost.
    pub(super) fn delivery_budget(&self) -> usize {
        self.config.limits.step_cost_max.max(1)
    }

    /// Delivers an event to as many subscriptions as `budget` allows, which is counted down; the others get it later.
    pub(super) fn deliver(&mut self, now: Now, live: &LiveEvent, budget: &mut usize) {
        if !self.deliveries.is_empty() || *budget == 0 {
            self.deliveries.push(live.clone());
            while self.deliveries.is_full() {
                self.continue_delivery(now, &mut { usize::MAX });
            }
        } else if let Some(matched) = self.deliver_some(now, live, None, budget) {
            self.deliveries.put_back(live.clone(), matched);
        } else {
            return self.subscriptions.record_delivered(live.seq.unwrap_or_default());
        }
        self.metrics.deliveries_deferred += 1;
        self.metrics.deliveries_waiting = self.deliveries.len() as u64;
    }

    /// A step of the deliveries that wait.
    pub(super) fn step_deliveries(&mut self, now: Now) {
        let mut budget = self.delivery_budget();
        while budget > 0 && !self.deliveries.is_empty() {
            self.continue_delivery(now, &mut budget);
        }
        self.metrics.deliveries_waiting = self.deliveries.len() as u64;
    }

    /// Continues the delivery of the event in front.
    fn continue_delivery(&mut self, now: Now, budget: &mut usize) {
        let Some((live, matched)) = self.deliveries.take() else { return };
        match self.deliver_some(now, &live, matched, budget) {
            Some(matched) => self.deliveries.put_back(live, matched),
            None => self.subscriptions.record_delivered(live.seq.unwrap_or_default()),
        }
    }

    /// While stored events are being delivered: the sequence number up to which all subscriptions have been sent theirs. A host
    /// that loses its memory then restores its sessions behind it
    /// ([`SessionSnapshot::mark_undelivered_after`](super::SessionSnapshot::mark_undelivered_after)), so that nothing is
    /// missed; some subscriptions may be sent events again.
    pub fn delivered_up_to(&self) -> Option<Seq> {
        let next = self.deliveries.waiting.iter().find_map(|live| live.seq)?;
        Some(Seq(next.0 - 1))
    }
}
