//! How the lagging subscriptions of one connection catch up: in one replay of the log that they share.
//!
//! Each knows the last sequence number that it has been served. The replay begins at the smallest of these and sends an
//! event to those that match it and have not been served it yet, which an index of their filters finds. One that joins
//! further behind moves the replay back; subscriptions that were already sent an event are skipped. At the end of the
//! log all are live. So catching up costs one read of the log for each connection, plus the matches.
//!
//! The index costs as much memory as those filters do in the index of live subscriptions, so there is one only while the
//! replay runs: it is dropped when the reader is slow, and rebuilt, at its cost, once the reader has read. It takes
//! [`REPLAY_VALUES_MAX`] values and counts as memory of running work ([`super::query_memory`]); subscriptions beyond have the
//! next replay.

use std::collections::VecDeque;
use std::sync::Arc;

use super::Relay;
use super::ids::ConnId;
use super::queries::{Query, ReplayQuery, StepResult};
use super::query_memory::{LARGE_FROM_BYTES, Reservation};
use super::session::Session;
use super::subscriptions::{SubKey, Subscriptions};
use crate::index::Index;
use crate::policy::may_see;
use crate::store::{Backend, Replayed, Seq, SinkResult, StoreError, in_comparisons, read_log};
use crate::types::{Now, parse_expiration};

/// Most filter values in a replay's index; each filter counts as one more. A single subscription may exceed it.
const REPLAY_VALUES_MAX: usize = 20_000;
/// Bytes of a value in the index.
const VALUE_BYTES: usize = 300;
/// Values that enter the index for one unit of cost.
const VALUES_PER_COST: usize = 4;
/// What queueing an event costs, in comparisons (`store/cost.rs`). What sending it costs is the host's to say.
const QUEUED_COMPARISONS: usize = 2;

/// One replay of the log for several subscriptions of a connection.
pub(super) struct SharedReplay {
    index: Index,
    /// By index slot.
    keys: Vec<Option<SubKey>>,
    values: usize,
    /// Values from which on no more subscriptions join.
    values_max: usize,
}

impl SharedReplay {
    fn new(index_seed: u64, bytes_max: usize) -> Self {
        let index = Index::with_seed(index_seed);
        SharedReplay { index, keys: Vec::new(), values: 0, values_max: bytes_max / VALUE_BYTES }
    }

    /// Adds the subscriptions of `lagging`, while there are values and budget left.
    fn add_subscriptions(
        &mut self,
        lagging: &mut VecDeque<SubKey>,
        subscriptions: &Subscriptions,
        budget: &mut usize,
    ) {
        while *budget > 0
            && let Some(&key) = lagging.front()
        {
            let values = values_of(subscriptions, key);
            if self.values > 0 && self.values + values > self.values_max {
                break;
            }
            lagging.pop_front();
            let Some(subscription) = subscriptions.get(key) else { continue };
            self.values += values;
            *budget = budget.saturating_sub(1 + values / VALUES_PER_COST);
            let slot = self.index.subscribe(&*subscription.filters).0 as usize;
            if self.keys.len() <= slot {
                self.keys.resize(slot + 1, None);
            }
            self.keys[slot] = Some(key);
        }
    }

    /// Bytes of its index.
    pub(super) fn bytes(&self) -> usize {
        self.index.bytes()
    }

    fn keys(&self) -> impl Iterator<Item = SubKey> {
        self.keys.iter().copied().flatten()
    }

    /// The sequence number up to which all its subscriptions have been served; `None` if all have ended.
    fn covered(&self, subscriptions: &Subscriptions) -> Option<Seq> {
        self.keys().filter_map(|key| subscriptions.get(key)).map(|sub| sub.covered).min()
    }
}

/// Values in the filters of a subscription; each filter counts as one more.
fn values_of(subscriptions: &Subscriptions, key: SubKey) -> usize {
    let filters = subscriptions.get(key).map_or(&[][..], |sub| &sub.filters);
    filters.iter().map(|filter| 1 + filter.value_count()).sum()
}

/// A replay that has not begun.
fn new_replay_query(conn: ConnId) -> Query {
    Query::Replay(Box::new(ReplayQuery { conn, replay: None, reservation: Reservation::of(0) }))
}

impl<B: Backend> Relay<B> {
    /// A client's subscription is lagging: events above its `covered` are read back when its reader reads.
    pub(super) fn catch_up(&mut self, conn: ConnId, key: SubKey) {
        let Some(session) = self.sessions.get_mut(conn) else { return };
        session.lagging.push_back(key);
        if std::mem::replace(&mut session.is_replaying, true) {
            return;
        }
        let replay = new_replay_query(conn);
        if session.is_slow(self.queued_output, &self.config.limits) {
            session.paused.push(replay);
        } else {
            self.enqueue(replay);
        }
    }

    /// Bytes that the next replay of a connection may come to hold.
    pub(super) fn replay_bytes_max(&self, conn: ConnId) -> usize {
        let lagging = self.sessions.get(conn).into_iter().flat_map(|session| &session.lagging);
        let values = lagging.map(|key| values_of(&self.subscriptions, *key));
        let (all, most) = values.fold((0, 0), |(all, most), values| (all + values, values.max(most)));
        (VALUE_BYTES * all.min(REPLAY_VALUES_MAX.max(most))).max(LARGE_FROM_BYTES / 2)
    }

    /// Reads back from the store what a client was not sent live.
    pub(super) fn replay_to_client(
        &mut self,
        now: Now,
        mut query: Box<ReplayQuery>,
        budget: &mut usize,
    ) -> StepResult {
        let conn = query.conn;
        let Some(session) = self.sessions.get_mut(conn) else { return StepResult::Done };
        if session.is_slow(self.queued_output, &self.config.limits) {
            return self.stall_replay(query);
        }
        let seed = self.subscriptions.index_seed();
        let mut replay =
            query.replay.take().unwrap_or_else(|| SharedReplay::new(seed, query.reservation.bytes));
        replay.add_subscriptions(&mut session.lagging, &self.subscriptions, budget);
        let Some(after) = replay.covered(&self.subscriptions) else { return self.finish_replay(conn) };
        let replayed = self.continue_replay(now, conn, &mut replay, after, budget);
        self.mark_ready(conn);
        self.mark_changed(conn);
        let replayed = match replayed {
            Ok(replayed) => replayed,
            Err(error) => {
                replay.keys().for_each(|key| self.fail_subscription(key, &error));
                return self.finish_replay(conn);
            }
        };
        for key in replay.keys() {
            if let Some(subscription) = self.subscriptions.get_mut(key) {
                subscription.record_progress(replayed);
            }
        }
        let is_slow = self
            .sessions
            .get(conn)
            .is_some_and(|session| session.is_slow(self.queued_output, &self.config.limits));
        match replayed.caught_up {
            true => self.finish_replay(conn),
            false => {
                query.replay = Some(replay);
                if is_slow { self.stall_replay(query) } else { StepResult::Again(Query::Replay(query)) }
            }
        }
    }

    /// Continues the replay after `after`, and queues matches until the reader is slow or the budget is used up, which may be
    /// between two subscriptions that an event is for.
    fn continue_replay(
        &mut self,
        now: Now,
        conn: ConnId,
        replay: &mut SharedReplay,
        after: Seq,
        budget: &mut usize,
    ) -> Result<Replayed, StoreError> {
        let config = &*self.config;
        let here = Replayed { covered: after, caught_up: false };
        let Some(session) = self.sessions.get_mut(conn) else { return Ok(here) };
        let mut queued_output = self.queued_output;
        let (frame_cost, budget_max) = (config.frame_cost, *budget);
        let Session { auth, outbox, backlog_bytes, .. } = &mut *session;
        let (subscriptions, SharedReplay { index, keys, .. }) = (&mut self.subscriptions, replay);
        let (mut matched, mut sent, mut cut_short) = (Vec::new(), 0_usize, None);
        let replayed = read_log(&self.store.reader()?, after, budget, &mut |hit| {
            matched.clear();
            let mut cost = index.matches_stored(hit.event, &mut matched).cost;
            let is_withheld = || {
                parse_expiration(hit.event.tags()).is_some_and(|at| at <= now.seconds())
                    || !may_see(hit.event, &config.policy.guarded_kinds, auth.keys())
            };
            if matched.is_empty() || is_withheld() {
                return (SinkResult::Continue, cost);
            }
            let (mut body, mut result) = (None, SinkResult::Continue);
            for slot in &matched {
                let key = keys.get(slot.0 as usize).copied().flatten();
                let sub = key.and_then(|key| subscriptions.get_mut(key));
                let Some(sub) = sub.filter(|sub| sub.covered < hit.seq) else { continue };
                if result == SinkResult::Pause {
                    // Other subscriptions have yet to receive this event, when it is read again.
                    cut_short = Some(Seq(hit.seq.0 - 1));
                    break;
                }
                sub.covered = hit.seq;
                let body = body.get_or_insert_with(|| Arc::<[u8]>::from(hit.event.json()));
                let before = outbox.bytes();
                outbox.push_event(Arc::clone(&sub.head), Arc::clone(body));
                queued_output.change(before, outbox.bytes());
                sent += 1;
                cost.comparisons += QUEUED_COMPARISONS + in_comparisons(frame_cost);
                // One event may be for hundreds of subscriptions.
                let is_spent = frame_cost > 0 && sent.saturating_mul(frame_cost) >= budget_max;
                if is_spent
                    || outbox.bytes() + *backlog_bytes >= queued_output.pause_threshold(&config.limits)
                {
                    result = SinkResult::Pause;
                }
            }
            (result, cost)
        });
        self.metrics.sent_event += sent as u64;
        session.update_queued_total(&mut self.queued_output);
        replayed.map(|replayed| match cut_short {
            Some(covered) => Replayed { covered, caught_up: false },
            None => replayed,
        })
    }

    /// The reader is slow: its subscriptions wait without an index.
    fn stall_replay(&mut self, mut query: Box<ReplayQuery>) -> StepResult {
        let replay = query.replay.take();
        if let Some(session) = self.sessions.get_mut(query.conn) {
            session.lagging.extend(replay.iter().flat_map(SharedReplay::keys));
        }
        StepResult::Pause(query.conn, Query::Replay(query))
    }

    /// All subscriptions of a replay are live or closed. Starts another replay for those that are lagging still.
    fn finish_replay(&mut self, conn: ConnId) -> StepResult {
        let Some(session) = self.sessions.get_mut(conn) else { return StepResult::Done };
        session.is_replaying = !session.lagging.is_empty();
        if session.is_replaying { StepResult::Again(new_replay_query(conn)) } else { StepResult::Done }
    }
}
