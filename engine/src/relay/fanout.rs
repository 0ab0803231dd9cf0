//! From a committed or ephemeral event to the connections that asked for it.
//!
//! A subscription is live, scanning, or lagging. While it scans what is stored, newer matches are only recorded;
//! once the scan is done they are read back from the store by sequence number. The same happens to a reader that is
//! slow: its events wait in the store, and it resumes after the last sequence number it was sent. So there is no gap,
//! no duplicate and no queue that grows with a reader's slowness. Only ephemeral events cannot be read
//! back: past `outbox_bytes_max` (or less, see [`super::queued_output`]) they are not sent, and a NOTICE says how many were missed.

use std::sync::Arc;

use super::costs::EVENT_COST;
use super::deliveries::Matched;
use super::ids::ConnId;
use super::queries::Query;
use super::subscriptions::{Owner, State};
use super::{LiveEvent, Relay, messages};
use crate::index::SubSlot;
use crate::policy::may_see;
use crate::store::{Backend, Seq};
use crate::types::{Event, Now};

/// Ephemeral events kept for a subscription until its EOSE.
const PENDING_EPHEMERAL_MAX: usize = 256;

impl<B: Backend> Relay<B> {
    /// Queues an event for subscriptions that match, as far as `budget` allows; returns those that are left.
    /// `matched`: those that an earlier call left. Costs what matches, not what is subscribed; that is charged to the address that
    /// published it.
    pub(super) fn deliver_some(
        &mut self,
        now: Now,
        live: &LiveEvent,
        matched: Option<Matched>,
        budget: &mut usize,
    ) -> Option<Matched> {
        let LiveEvent { seq, event, .. } = live;
        if event.is_expired(now.seconds()) && seq.is_some() {
            matched.into_iter().for_each(|matched| self.subscriptions.reuse(matched));
            return None;
        }
        let mut matched = matched.unwrap_or_else(|| self.match_live(now, live, budget));
        let delivery_cost = 1 + self.config.frame_cost;
        while let Some(slot) = matched.slots.get(matched.done) {
            if *budget == 0 {
                return Some(matched);
            }
            *budget = budget.saturating_sub(delivery_cost);
            matched.done += 1;
            match seq {
                Some(seq) => self.deliver_stored(*slot, matched.serial, *seq, event),
                None => self.deliver_ephemeral(*slot, matched.serial, event),
            }
        }
        self.subscriptions.reuse(matched);
        None
    }

    /// Finds the subscriptions that an event is for, and charges for its delivery to them.
    fn match_live(&mut self, now: Now, live: &LiveEvent, budget: &mut usize) -> Matched {
        self.advance_subscriptions(now);
        let (stats, matched) = self.subscriptions.matches(&live.event);
        self.metrics.fanout_candidates.record(stats.candidates as u64);
        self.metrics.fanout_matches.record(stats.matches as u64);
        *budget = budget.saturating_sub(stats.candidates);
        let cost = (stats.candidates + stats.matches * (1 + self.config.frame_cost)) as u64;
        self.costs.charge_address(now, live.publisher_address, cost);
        if cost > EVENT_COST {
            self.address_rates.spend_fanout(live.publisher_address, cost, &self.config.limits, now);
        }
        matched
    }

    /// Queues a stored event for one subscription, or records that it is to be read back from the store.
    fn deliver_stored(&mut self, slot: SubSlot, serial: u64, seq: Seq, event: &Event) {
        let limits = &self.config.limits;
        let subscription = self.subscriptions.matched_mut(slot, serial);
        let Some(subscription) = subscription.filter(|subscription| seq > subscription.covered) else {
            return;
        };
        let key = subscription.key;
        let conn = match &subscription.owner {
            Owner::Stream(stream) => {
                let Some(stream) = self.streams.get_mut(*stream) else { return };
                if let State::Live = subscription.state {
                    if stream.is_full(limits) {
                        subscription.start_lagging(seq);
                        stream.paused = Some(Query::StreamReplay(key));
                        self.metrics.streams_lagged += 1;
                    } else {
                        stream.push(Some(seq), event.clone());
                        subscription.covered = seq;
                    }
                }
                return;
            }
            Owner::Client { conn, .. } => *conn,
        };
        let Some(session) = self.sessions.get_mut(conn) else { return };
        if !may_see(event.view(), &self.config.policy.guarded_kinds, session.auth.keys()) {
            return;
        }
        match &mut subscription.state {
            State::Scanning { missed, .. } => *missed = true,
            State::Lagging => {}
            State::Live if session.is_slow(self.queued_output, limits) => {
                subscription.start_lagging(seq);
                self.catch_up(conn, key);
                self.metrics.subscriptions_lagged += 1;
                self.mark_changed(conn);
            }
            State::Live => {
                subscription.covered = seq;
                let head = Arc::clone(&subscription.head);
                self.push_live(conn, head, event);
            }
        }
    }

    /// Queues an ephemeral event for one subscription: it cannot be read back later.
    fn deliver_ephemeral(&mut self, slot: SubSlot, serial: u64, event: &Event) {
        let limits = &self.config.limits;
        let Some(subscription) = self.subscriptions.matched_mut(slot, serial) else { return };
        let conn = match &subscription.owner {
            Owner::Stream(stream) => {
                let fitted = self
                    .streams
                    .get_mut(*stream)
                    .is_none_or(|stream| stream.push_ephemeral(event.clone(), limits));
                self.metrics.ephemeral_missed += u64::from(!fitted);
                return;
            }
            Owner::Client { conn, .. } => *conn,
        };
        let Some(session) = self.sessions.get_mut(conn) else { return };
        if !may_see(event.view(), &self.config.policy.guarded_kinds, session.auth.keys()) {
            return;
        }
        let full = session.queued_bytes() + session.pending_ephemeral_bytes
            >= self.queued_output.ephemeral_threshold(limits);
        let frame_bytes = subscription.frame_bytes(event);
        match &mut subscription.state {
            State::Scanning { pending_ephemeral, .. }
                if pending_ephemeral.len() < PENDING_EPHEMERAL_MAX
                    && !full
                    && !self.queued_output.is_over_half(limits) =>
            {
                session.pending_ephemeral_bytes += frame_bytes;
                pending_ephemeral.push(event.clone());
                session.update_queued_total(&mut self.queued_output);
            }
            State::Live | State::Lagging if !full => {
                let head = Arc::clone(&subscription.head);
                self.push_live(conn, head, event);
            }
            _ => {
                session.ephemeral_missed += 1;
                self.metrics.ephemeral_missed += 1;
                self.mark_changed(conn);
            }
        }
    }

    fn push_live(&mut self, conn: ConnId, head: Arc<[u8]>, event: &Event) {
        let Some(session) = self.sessions.get_mut(conn) else { return };
        session.outbox.push_event(head, event.shared_json());
        self.metrics.sent_event += 1;
        self.mark_ready(conn);
    }

    /// The reader has taken some output: queries that waited for that are queued again.
    pub(super) fn after_drain(&mut self, conn: ConnId) {
        let limits = &self.config.limits;
        let Some(session) = self.sessions.get_mut(conn) else { return };
        if session.queued_bytes() > self.queued_output.pause_threshold(limits) / 2 {
            return;
        }
        let paused = std::mem::take(&mut session.paused);
        let missed = std::mem::take(&mut session.ephemeral_missed);
        for query in paused {
            self.enqueue(query);
        }
        if missed > 0 {
            self.mark_changed(conn);
            self.send_notice(conn, &messages::ephemeral_missed(missed));
        }
        self.resume_input(conn);
    }
}
