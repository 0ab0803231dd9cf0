//! The steps that queries take: a step has a bounded cost, so no query starves another, and holds no read
//! transaction when it is over, so no slow reader pins one.

use std::cmp::Reverse;
use std::sync::Arc;

use super::ids::{ConnId, StreamId};
use super::outbox::Outbox;
use super::queries::{CountQuery, Query, ScanQuery, StepResult};
use super::queued_output::QueuedOutput;
use super::session::Session;
use super::subscriptions::{FullRank, Owner, State, SubKey};
use super::{Relay, messages};
use crate::policy::{may_match_withheld, may_see};
use crate::store::{
    Backend, Completeness, CountStep, ScanStep, SinkResult, StoreError, Unrestricted, Viewer, replay,
};
use crate::types::{CanonicalEvent, Event, Filter, Kind, Limits, Now, PubKey, SubId};
use crate::wire::frames::EoseHint;

/// What a connection may see, by the read guard.
#[derive(Clone, Copy, Debug)]
pub struct ClientViewer<'a> {
    /// The kinds that only their parties see (`policy.guarded_kinds`).
    pub guarded_kinds: &'a [Kind],
    /// The keys of the viewer; without any it sees what everybody sees.
    pub keys: &'a [PubKey],
}

impl Viewer for ClientViewer<'_> {
    fn guarded_kinds(&self) -> &[Kind] {
        self.guarded_kinds
    }

    fn may_see_guarded(&self) -> bool {
        !self.keys.is_empty()
    }

    fn sees(&self, event: CanonicalEvent<'_>) -> bool {
        may_see(event, self.guarded_kinds, self.keys)
    }

    fn sees_all_matches(&self, filter: &Filter) -> bool {
        !may_match_withheld(filter, self.guarded_kinds, self.keys)
    }
}

/// Where stored events of one subscription go, until its reader is slow.
struct Sink<'a> {
    head: &'a Arc<[u8]>,
    outbox: &'a mut Outbox,
    backlog_bytes: usize,
    /// What waits for all readers.
    queued_output: QueuedOutput,
    limits: &'a Limits,
    sent: u64,
}

impl Sink<'_> {
    fn push(&mut self, event: CanonicalEvent<'_>) -> SinkResult {
        let before = self.outbox.bytes();
        self.outbox.push_event(self.head.clone(), event.json().into());
        self.queued_output.change(before, self.outbox.bytes());
        self.sent += 1;
        if self.outbox.bytes() + self.backlog_bytes >= self.queued_output.pause_threshold(self.limits) {
            SinkResult::Pause
        } else {
            SinkResult::Continue
        }
    }
}

impl<B: Backend> Relay<B> {
    /// One step of a query, which counts down the cost that it may have.
    pub(super) fn step(&mut self, now: Now, query: Query, budget: &mut usize) -> StepResult {
        match query {
            Query::Scan(query) => self.step_scan(now, query, budget),
            Query::Count(query) => self.step_count(now, query, budget),
            Query::Replay(query) => self.replay_to_client(now, query, budget),
            Query::Neg(query) => self.step_neg(now, query, budget),
            Query::PrepareSet(set) => self.step_prepare(now, set, budget),
            Query::StreamReplay(key) => {
                match self.subscriptions.get(key).map(|subscription| &subscription.owner) {
                    Some(Owner::Stream(stream)) => self.replay_to_stream(now, *stream, key, budget),
                    _ => StepResult::Done,
                }
            }
        }
    }

    fn step_scan(&mut self, now: Now, mut query: Box<ScanQuery>, budget: &mut usize) -> StepResult {
        let config = &*self.config;
        let Some(subscription) = self.subscriptions.get_mut(query.key) else { return StepResult::Done };
        let Some(session) = self.sessions.get_mut(query.conn) else { return StepResult::Done };
        if session.is_slow(self.queued_output, &config.limits) {
            query.scan.release_cursors();
            return StepResult::Pause(query.conn, Query::Scan(query));
        }
        let Session { auth, outbox, backlog_bytes, .. } = &mut *session;
        let (backlog_bytes, queued_output, limits) = (*backlog_bytes, self.queued_output, &config.limits);
        let viewer = ClientViewer { guarded_kinds: &config.policy.guarded_kinds, keys: auth.keys() };
        let mut sink =
            Sink { head: &subscription.head, outbox, backlog_bytes, queued_output, limits, sent: 0 };
        let mut last = None;
        let sent_before = query.sent_before;
        let step = self.store.reader().and_then(|reader| {
            query.scan.step(&reader, now.seconds(), budget, &viewer, &mut |hit| {
                let position = (hit.event.created_at(), hit.event.id());
                if sent_before.is_some_and(|before| !comes_after(position, before)) {
                    return SinkResult::AlreadySent;
                }
                last = Some(position);
                sink.push(hit.event)
            })
        });
        self.metrics.sent_event += sink.sent;
        session.update_queued_total(&mut self.queued_output);
        let slow = session.is_slow(self.queued_output, &config.limits);
        if let (State::Scanning { last: sent_last, .. }, Some(last)) = (&mut subscription.state, last) {
            *sent_last = Some(last);
        }
        self.mark_ready(query.conn);
        self.mark_changed(query.conn);
        match step {
            Ok(ScanStep::More) if slow => {
                query.scan.release_cursors();
                StepResult::Pause(query.conn, Query::Scan(query))
            }
            Ok(ScanStep::More) => StepResult::Again(Query::Scan(query)),
            Ok(ScanStep::Done(completeness)) => {
                self.record_answered(now, query.asked_at);
                self.end_scan(query.key, completeness);
                StepResult::Done
            }
            Err(error) => {
                self.fail_subscription(query.key, &error);
                StepResult::Done
            }
        }
    }

    /// EOSE, and then what came meanwhile.
    fn end_scan(&mut self, key: SubKey, completeness: Completeness) {
        let Some(subscription) = self.subscriptions.get_mut(key) else { return };
        let Owner::Client { conn, sub } = &subscription.owner else { return };
        let (conn, sub) = (*conn, sub.clone());
        if completeness == Completeness::Withheld {
            self.end_subscription(conn, &sub);
            return self.refuse_withheld(conn, &sub);
        }
        let (head, pending_ephemeral_bytes) =
            (subscription.head.clone(), subscription.pending_ephemeral_bytes());
        let State::Scanning { missed, pending_ephemeral, .. } =
            std::mem::replace(&mut subscription.state, State::Live)
        else {
            return;
        };
        if missed {
            subscription.state = State::Lagging;
            self.catch_up(conn, key);
        }
        let hint = match completeness {
            _ if !self.config.policy.eose_hints => None,
            Completeness::Finish => Some(EoseHint::Finish),
            Completeness::More => Some(EoseHint::More),
            Completeness::Unknown | Completeness::Withheld => None,
        };
        self.send_eose(conn, &sub, hint);
        self.metrics.sent_event += pending_ephemeral.len() as u64;
        if let Some(session) = self.sessions.get_mut(conn) {
            session.pending_ephemeral_bytes -= pending_ephemeral_bytes;
            for event in pending_ephemeral {
                session.outbox.push_event(head.clone(), event.shared_json());
            }
        }
        self.mark_ready(conn);
    }

    fn step_count(&mut self, now: Now, mut query: Box<CountQuery>, budget: &mut usize) -> StepResult {
        let config = &*self.config;
        let Some(session) = self.sessions.get_mut(query.conn) else { return StepResult::Done };
        let viewer = ClientViewer { guarded_kinds: &config.policy.guarded_kinds, keys: session.auth.keys() };
        let step =
            self.store.reader().and_then(|reader| query.count.step(&reader, now.seconds(), budget, &viewer));
        match step {
            Ok(CountStep::More) => return StepResult::Again(Query::Count(query)),
            Ok(CountStep::Done(counted)) => {
                self.end_count(&query);
                if counted.withheld {
                    self.refuse_withheld(query.conn, &query.id);
                } else {
                    let hll = counted.hll.as_deref();
                    self.send_count(query.conn, &query.id, counted.count, counted.approximate, hll);
                }
            }
            Err(error) => {
                self.end_count(&query);
                let message = self.record_store_error(&error);
                self.send_closed(query.conn, &query.id, message);
            }
        }
        StepResult::Done
    }

    /// Reads back from the store what a stream has not handed out.
    fn replay_to_stream(
        &mut self,
        now: Now,
        stream: StreamId,
        key: SubKey,
        budget: &mut usize,
    ) -> StepResult {
        let Some(subscription) = self.subscriptions.get_mut(key) else { return StepResult::Done };
        let Some(stream) = self.streams.get_mut(stream) else { return StepResult::Done };
        let limits = &self.config.limits;
        if stream.is_full(limits) {
            stream.paused = Some(Query::StreamReplay(key));
            return StepResult::Done;
        }
        let mut last = subscription.covered;
        let replayed = self.store.reader().and_then(|reader| {
            replay(&reader, &subscription.filters, last, budget, now.seconds(), &Unrestricted, &mut |hit| {
                stream.push(Some(hit.seq), Event::from_canonical(hit.event.json().into()));
                last = hit.seq;
                if stream.is_full(limits) { SinkResult::Pause } else { SinkResult::Continue }
            })
        });
        match replayed {
            Ok(replayed) if subscription.record_progress(replayed) => StepResult::Done,
            Ok(_) => StepResult::Again(Query::StreamReplay(key)),
            Err(error) => {
                // A stream has no client to answer, and nothing may be left out: it is tried again later.
                subscription.covered = last;
                self.record_store_error(&error);
                self.metrics.stream_errors += 1;
                self.streams.retry(now, Query::StreamReplay(key));
                StepResult::Done
            }
        }
    }

    /// Refuses a request for ids of which all that is stored is guarded: a client that knows an id may know that it is stored.
    fn refuse_withheld(&mut self, conn: ConnId, id: &SubId) {
        let message = self.withheld_message(conn);
        self.send_closed(conn, id, message);
    }

    /// The message of such a refusal, which a challenge precedes if the client may authenticate.
    pub(super) fn withheld_message(&mut self, conn: ConnId) -> &'static str {
        match self.sessions.get(conn) {
            Some(session) if session.auth.keys().is_empty() => {
                self.send_challenge(conn);
                messages::PARTIES_ONLY
            }
            _ => messages::NOT_A_PARTY,
        }
    }

    /// The store returned an error to a subscription: it ends with a CLOSED.
    pub(super) fn fail_subscription(&mut self, key: SubKey, error: &StoreError) {
        let Some(Owner::Client { conn, sub }) =
            self.subscriptions.get(key).map(|subscription| &subscription.owner)
        else {
            return;
        };
        let (conn, sub) = (*conn, sub.clone());
        self.end_subscription(conn, &sub);
        let message = self.record_store_error(error);
        self.send_closed(conn, &sub, message);
    }
}

/// Whether `position` comes after `other` in the order of answers.
fn comes_after(position: FullRank, other: FullRank) -> bool {
    (Reverse(position.0), position.1) > (Reverse(other.0), other.1)
}
