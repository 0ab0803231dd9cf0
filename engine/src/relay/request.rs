//! REQ, COUNT and CLOSE, and the row-budgeted steps that answer them.
//!
//! The subscription goes live first, noting the last committed number; the scan answers up to that number
//! and no further. A step looks at a bounded number of rows, so no request starves another, and holds no
//! read transaction when it is over, so no slow reader pins one.

use std::cmp::Reverse;
use std::sync::Arc;

use super::fanout::{Owner, Place, State};
use super::session::ConnId;
use super::snapshot::{Progress, SubSnapshot};
use super::stream::StreamId;
use super::{Relay, words};
use crate::index::SubSlot;
use crate::policy::{Access, access, may_hide, may_see};
use crate::store::{
    Backend, Completeness, Count, CountStep, Everyone, Scan, ScanLimits, Seq, Step, StoreError, Take, Viewer,
    replay,
};
use crate::types::{CanonicalEvent, Event, Filter, Kind, Now, PubKey, SubId};
use crate::wire::frames::Complete;

/// COUNTs one connection may have under way.
const COUNTS_MAX: usize = 16;
/// Values that the subscriptions of a connection may hold however much others do, while the shard has any left.
const SMALL_VALUES_MAX: usize = 500;
/// Requests of one connection that may wait for their turn; then reading pauses.
pub(super) const REQUESTS_WAITING_MAX: usize = 32;
/// REQs kept to be timed when the host has flushed.
const ANSWERED_MAX: usize = 1_024;

/// A request with steps to take.
pub(super) enum Request {
    Scan(Box<ScanJob>),
    Count(Box<CountJob>),
    Replay { slot: SubSlot, serial: u64 },
}

impl Request {
    /// Whose input pauses while too many of these wait.
    fn asker(&self) -> Option<ConnId> {
        match self {
            Request::Scan(job) => Some(job.conn),
            Request::Count(job) => Some(job.conn),
            Request::Replay { .. } => None,
        }
    }

    /// Whether it answers a subscription in this slot.
    fn is_for(&self, own: SubSlot) -> bool {
        match self {
            Request::Scan(job) => job.slot == own,
            Request::Count(_) => false,
            Request::Replay { slot, .. } => *slot == own,
        }
    }

    /// Whether this is the first time that it is asked.
    fn begins(&mut self) -> bool {
        match self {
            Request::Scan(job) => !std::mem::replace(&mut job.begun, true),
            Request::Count(job) => !std::mem::replace(&mut job.begun, true),
            Request::Replay { .. } => false,
        }
    }
}

pub(super) struct ScanJob {
    slot: SubSlot,
    serial: u64,
    conn: ConnId,
    scan: Scan,
    begun: bool,
    started: Now,
    /// What was sent up to here before the machine was rebuilt.
    sent_before: Option<Place>,
}

pub(super) struct CountJob {
    conn: ConnId,
    query: SubId,
    count: Count,
    begun: bool,
}

/// One connection's eyes, by the read guard.
struct Party<'a> {
    guarded_kinds: &'a [Kind],
    keys: &'a [PubKey],
}

impl Viewer for Party<'_> {
    fn sees_all_of(&self, kind: Kind) -> bool {
        !self.guarded_kinds.contains(&kind)
    }

    fn sees(&self, event: CanonicalEvent<'_>) -> bool {
        may_see(event, self.guarded_kinds, self.keys)
    }

    fn sees_all_matches(&self, filter: &Filter) -> bool {
        !may_hide(filter, self.guarded_kinds, self.keys)
    }
}

/// What a step left.
enum Next {
    /// More steps.
    Again(Request),
    /// More steps, once the reader has caught up.
    Stall(ConnId, Request),
    /// Nothing.
    Done,
}

impl<B: Backend> Relay<B> {
    pub(super) fn handle_req(&mut self, now: Now, conn: ConnId, sub: SubId, filters: Vec<Filter>) {
        self.metrics.messages_req += 1;
        // A REQ of a known id replaces it, also when it is refused.
        let before = self.filter_values;
        self.end_subscription(conn, &sub);
        let ended = before - self.filter_values;
        if let Err(words) = self.admit_request(now, conn, &filters) {
            return self.send_closed(conn, &sub, &words);
        }
        let limits = &self.config.limits;
        let Some(session) = self.sessions.get_mut(conn) else { return };
        if session.subs.len() >= limits.subscriptions_max {
            let words = words::too_many_subscriptions(session.subs.len());
            return self.send_closed(conn, &sub, &words);
        }
        let (own, counted, new) = (session.filter_values, session.count_values, value_count(&filters));
        let own_max = limits.connection_values_max;
        if own + new > own_max {
            return self.send_closed(conn, &sub, &words::too_many_values(own_max));
        }
        // What replaces as much as it brings is no burden.
        if new > ended
            && let Err(words) = self.admit_values(own + counted, new)
        {
            return self.send_closed(conn, &sub, &words);
        }
        let filters: Arc<[Filter]> = filters.into();
        let horizon = match self.last_seq() {
            Ok(horizon) => horizon,
            Err(error) => return self.send_closed(conn, &sub, &words::store(&error)),
        };
        let state = State::Scanning { missed: false, held: Vec::new(), last: None };
        let Some((slot, serial)) = self.subscribe(conn, sub, &filters, state, horizon) else { return };
        let scan = self.scan(filters, horizon);
        let job = ScanJob { slot, serial, conn, scan, begun: false, started: now, sent_before: None };
        self.begin(Request::Scan(Box::new(job)));
    }

    fn scan(&self, filters: Arc<[Filter]>, horizon: Seq) -> Scan {
        let limits = ScanLimits {
            limit_default: self.config.limits.limit_default,
            limit_max: self.config.limits.limit_max,
        };
        Scan::new(filters, limits, self.store.classes(), horizon)
    }

    /// Whether there is room for `new` values more, for a connection that holds `own`.
    fn admit_values(&self, own: usize, new: usize) -> Result<(), String> {
        let all_max = self.config.limits.shard_values_max;
        let small = SMALL_VALUES_MAX.saturating_sub(own).min(all_max.saturating_sub(self.filter_values));
        let large = (all_max / 2).saturating_sub(self.filter_values) / 3;
        match small.max(large) {
            free if new > free => Err(words::too_busy(free)),
            _ => Ok(()),
        }
    }

    /// Puts a subscription into the index and the table. `None` if its connection is gone.
    fn subscribe(
        &mut self,
        conn: ConnId,
        sub: SubId,
        filters: &Arc<[Filter]>,
        state: State,
        live_after: Seq,
    ) -> Option<(SubSlot, u64)> {
        self.sessions.get_mut(conn)?;
        let slot = self.index.subscribe(filters);
        let session = self.sessions.get_mut(conn)?;
        session.subs.insert(sub.clone(), slot);
        session.filter_values += value_count(filters);
        self.filter_values += value_count(filters);
        self.metrics.filter_values = self.filter_values as u64;
        let serial = self.live.insert_client(slot, conn, sub, Arc::clone(filters), state, live_after);
        self.metrics.subscriptions = self.live.clients() as u64;
        self.mark_changed(conn);
        Some((slot, serial))
    }

    /// Takes up a subscription of a session that lived before, where it stood.
    pub(super) fn resume(&mut self, now: Now, conn: ConnId, sub: SubId, resumed: &SubSnapshot) {
        let filters = &resumed.filters;
        match resumed.progress {
            Progress::Live => {
                self.subscribe(conn, sub, filters, State::Live, Seq(0));
            }
            Progress::Behind { after } => {
                if let Some((slot, serial)) = self.subscribe(conn, sub, filters, State::Behind, after) {
                    self.enqueue(Request::Replay { slot, serial });
                }
            }
            // Newer matches may have been noted before: asking the store costs little if not.
            Progress::Scanning { horizon, last } => {
                let state = State::Scanning { missed: true, held: Vec::new(), last };
                let Some((slot, serial)) = self.subscribe(conn, sub, filters, state, horizon) else { return };
                let mut scan = self.scan(Arc::clone(filters), horizon);
                if last.is_some() {
                    // What it passed over before is not looked at again, whoever has authenticated since.
                    scan.begin_for(&Party { guarded_kinds: &self.config.policy.guarded_kinds, keys: &[] });
                }
                let job = ScanJob { slot, serial, conn, scan, begun: false, started: now, sent_before: last };
                self.begin(Request::Scan(Box::new(job)));
            }
        }
    }

    pub(super) fn handle_count(&mut self, now: Now, conn: ConnId, query: SubId, filters: Vec<Filter>) {
        self.metrics.messages_count += 1;
        let admitted = self.admit_request(now, conn, &filters);
        let Some(session) = self.sessions.get_mut(conn) else { return };
        let admitted = match admitted {
            Ok(()) if session.counts >= COUNTS_MAX => Err(words::TOO_MANY_COUNTS.into()),
            other => other,
        };
        let own = session.filter_values + session.count_values;
        let admitted = admitted.and_then(|()| self.admit_values(own, value_count(&filters)));
        if let Err(words) = admitted {
            return self.send_closed(conn, &query, &words);
        }
        self.count(conn, query, filters.into());
    }

    /// Begins a COUNT that has been admitted.
    pub(super) fn count(&mut self, conn: ConnId, query: SubId, filters: Arc<[Filter]>) {
        let horizon = match self.last_seq() {
            Ok(horizon) => horizon,
            Err(error) => return self.send_closed(conn, &query, &words::store(&error)),
        };
        let Some(session) = self.sessions.get_mut(conn) else { return };
        session.counts += 1;
        session.count_values += value_count(&filters);
        self.filter_values += value_count(&filters);
        self.metrics.filter_values = self.filter_values as u64;
        self.mark_changed(conn);
        let rows_max = self.config.limits.count_rows_max;
        let count = Count::new(filters, self.store.classes(), horizon, rows_max);
        self.begin(Request::Count(Box::new(CountJob { conn, query, count, begun: false })));
    }

    pub(super) fn handle_close(&mut self, conn: ConnId, sub: &SubId) {
        self.metrics.messages_close += 1;
        self.end_subscription(conn, sub);
    }

    fn admit_request(&mut self, now: Now, conn: ConnId, filters: &[Filter]) -> Result<(), String> {
        let config = &*self.config;
        let Some(session) = self.sessions.get_mut(conn) else { return Ok(()) };
        if !session.request_rate.take(config.limits.requests_per_minute_max, now) {
            return Err(words::TOO_MANY_REQUESTS.into());
        }
        let keys = session.auth.keys();
        let words = if config.policy.auth_required && keys.is_empty() {
            words::AUTHENTICATED_ONLY
        } else {
            match access(filters, &config.policy.guarded_kinds, keys) {
                Access::Open => return Ok(()),
                Access::NeedsAuth => words::PARTIES_ONLY,
                Access::Restricted => return Err(words::NOT_A_PARTY.into()),
            }
        };
        self.send_challenge(conn);
        Err(words.into())
    }

    /// Refuses a request for ids of which all that is stored is guarded: who knows an id may know that it is here.
    fn refuse_withheld(&mut self, conn: ConnId, id: &SubId) {
        let words = match self.sessions.get(conn) {
            Some(session) if session.auth.keys().is_empty() => {
                self.send_challenge(conn);
                words::PARTIES_ONLY
            }
            _ => words::NOT_A_PARTY,
        };
        self.send_closed(conn, id, words);
    }

    /// Ends a subscription if there is one of this id.
    pub(super) fn end_subscription(&mut self, conn: ConnId, sub: &SubId) {
        let Some(session) = self.sessions.get_mut(conn) else { return };
        if let Some(slot) = session.subs.remove(sub) {
            self.drop_slot(slot);
            self.mark_changed(conn);
        }
    }

    /// Takes a subscription out of the index and the table; its requests find it gone.
    pub(super) fn drop_slot(&mut self, slot: SubSlot) {
        self.index.unsubscribe(slot);
        let removed = self.live.remove(slot);
        if let Some(live) = &removed
            && let Owner::Client { conn, .. } = &live.owner
            && let Some(session) = self.sessions.get_mut(*conn)
        {
            session.held_bytes -= live.held_bytes();
            // They hold its filters, and cursors for them.
            session.stalled.retain(|request| !request.is_for(slot));
            session.filter_values -= value_count(&live.filters);
            self.filter_values -= value_count(&live.filters);
            self.metrics.filter_values = self.filter_values as u64;
        }
        self.index.sweep(super::SWEEP_POSTINGS);
        self.metrics.subscriptions = self.live.clients() as u64;
    }

    /// One step of the request whose turn it is. True if any request has more to do, or if what had waited behind
    /// this one left events to be verified.
    pub fn work(&mut self, now: Now) -> bool {
        if let Some(mut request) = self.requests.pop_front() {
            let (asker, begins) = (request.asker(), request.begins());
            if let Some(session) = asker.and_then(|conn| self.sessions.get_mut(conn)) {
                session.requests_waiting -= 1;
                session.unbegun -= usize::from(begins);
            }
            self.advance(now, request);
            if let Some(conn) = asker {
                self.run_deferred(now, conn);
            }
        }
        !self.requests.is_empty() || self.has_unverified()
    }

    /// Takes up a request. What its connection sends next waits for its first step: frames take effect in order.
    fn begin(&mut self, request: Request) {
        if let Some(session) = request.asker().and_then(|conn| self.sessions.get_mut(conn)) {
            session.unbegun += 1;
        }
        self.enqueue(request);
    }

    /// Puts a request behind all others.
    pub(super) fn enqueue(&mut self, request: Request) {
        if let Some(session) = request.asker().and_then(|conn| self.sessions.get_mut(conn)) {
            session.requests_waiting += 1;
        }
        self.requests.push_back(request);
    }

    /// What was drained until now has been given to the sockets: REQs whose EOSE was in it took until `now`.
    pub fn handle_flushed(&mut self, now: Now) {
        for started in self.answered.drain(..) {
            self.metrics.req_to_eose_us.record(now.micros_since(started));
        }
    }

    /// Whether a connection has sent events or messages behind them or behind requests that have not been answered:
    /// they are in no snapshot.
    pub fn owes(&self, conn: ConnId) -> bool {
        self.sessions.get(conn).is_some_and(|session| session.in_flight > 0 || !session.deferred.is_empty())
    }

    /// Whether [`Relay::work`] would do anything. Draining a slow reader's output may make it so.
    pub fn has_work(&self) -> bool {
        !self.requests.is_empty()
    }

    /// The COUNTs of a connection that have not been answered.
    pub(super) fn counts_of(&self, conn: ConnId) -> Vec<(SubId, Arc<[Filter]>)> {
        let mine = self.requests.iter().filter_map(|request| match request {
            Request::Count(job) if job.conn == conn => {
                Some((job.query.clone(), Arc::clone(job.count.filters())))
            }
            _ => None,
        });
        mine.collect()
    }

    fn advance(&mut self, now: Now, request: Request) {
        let next = match request {
            Request::Scan(job) => self.step_scan(now, job),
            Request::Count(job) => self.step_count(now, job),
            Request::Replay { slot, serial } => self.step_replay(now, slot, serial),
        };
        match next {
            Next::Again(request) => self.enqueue(request),
            Next::Stall(conn, request) => {
                if let Some(session) = self.sessions.get_mut(conn) {
                    session.stalled.push(request);
                }
            }
            Next::Done => {}
        }
    }

    fn step_scan(&mut self, now: Now, mut job: Box<ScanJob>) -> Next {
        let config = &*self.config;
        let Some(live) = self.live.get_mut(job.slot, job.serial) else { return Next::Done };
        let Some(session) = self.sessions.get_mut(job.conn) else { return Next::Done };
        if session.is_slow(&config.limits) {
            return Next::Stall(job.conn, Request::Scan(job));
        }
        let mut rows = config.limits.scan_rows_max;
        let viewer = Party { guarded_kinds: &config.policy.guarded_kinds, keys: session.auth.keys() };
        let (outbox, backlog_bytes) = (&mut session.outbox, session.backlog_bytes);
        let mut sent = 0;
        let mut last = None;
        let sent_before = job.sent_before;
        let step = self.store.reader().and_then(|reader| {
            job.scan.step(&reader, now.seconds(), &mut rows, &viewer, &mut |hit| {
                let place = (hit.event.created_at(), hit.event.id());
                if sent_before.is_some_and(|before| !is_behind(place, before)) {
                    return Take::Counted;
                }
                outbox.push_event(live.head.clone(), hit.event.json().into());
                sent += 1;
                last = Some(place);
                if outbox.bytes() + backlog_bytes >= config.limits.outbox_bytes_pause {
                    Take::CountedAndPause
                } else {
                    Take::Counted
                }
            })
        });
        let slow = session.is_slow(&config.limits);
        if let (State::Scanning { last: place, .. }, Some(last)) = (&mut live.state, last) {
            *place = Some(last);
        }
        self.metrics.sent_event += sent;
        self.mark_ready(job.conn);
        self.mark_changed(job.conn);
        match step {
            Ok(Step::More) if slow => Next::Stall(job.conn, Request::Scan(job)),
            Ok(Step::More) => Next::Again(Request::Scan(job)),
            Ok(Step::Done(completeness)) => {
                if self.answered.len() >= ANSWERED_MAX {
                    self.handle_flushed(now);
                }
                self.answered.push(job.started);
                self.end_scan(&job, completeness);
                Next::Done
            }
            Err(error) => {
                self.fail_subscription(job.slot, job.serial, &error);
                Next::Done
            }
        }
    }

    /// EOSE, and then what came meanwhile.
    fn end_scan(&mut self, job: &ScanJob, completeness: Completeness) {
        let Some(live) = self.live.get_mut(job.slot, job.serial) else { return };
        let Owner::Client { conn, sub } = &live.owner else { return };
        let (conn, sub) = (*conn, sub.clone());
        if completeness == Completeness::Withheld {
            self.end_subscription(conn, &sub);
            return self.refuse_withheld(conn, &sub);
        }
        let held_bytes = live.held_bytes();
        let State::Scanning { missed, held, .. } = std::mem::replace(&mut live.state, State::Live) else {
            return;
        };
        if missed {
            live.state = State::Behind;
        }
        let head = live.head.clone();
        if missed {
            self.enqueue(Request::Replay { slot: job.slot, serial: job.serial });
        }
        let hint = match completeness {
            _ if !self.config.policy.eose_hints => None,
            Completeness::Finish => Some(Complete::Finish),
            Completeness::More => Some(Complete::More),
            Completeness::Unknown | Completeness::Withheld => None,
        };
        self.send_eose(conn, &sub, hint);
        self.metrics.sent_event += held.len() as u64;
        if let Some(session) = self.sessions.get_mut(conn) {
            session.held_bytes -= held_bytes;
            for event in held {
                session.outbox.push_event(head.clone(), event.shared_json());
            }
        }
        self.mark_ready(conn);
    }

    fn step_count(&mut self, now: Now, mut job: Box<CountJob>) -> Next {
        let config = &*self.config;
        let Some(session) = self.sessions.get_mut(job.conn) else { return Next::Done };
        let mut rows = config.limits.scan_rows_max;
        let viewer = Party { guarded_kinds: &config.policy.guarded_kinds, keys: session.auth.keys() };
        let step =
            self.store.reader().and_then(|reader| job.count.step(&reader, now.seconds(), &mut rows, &viewer));
        match step {
            Ok(CountStep::More) => return Next::Again(Request::Count(job)),
            Ok(CountStep::Done(counted)) => {
                self.end_count(&job);
                if counted.withheld {
                    self.refuse_withheld(job.conn, &job.query);
                    return Next::Done;
                }
                let hll = counted.hll.as_deref();
                self.send_count(job.conn, &job.query, counted.count, counted.approximate, hll);
            }
            Err(error) => {
                self.end_count(&job);
                self.send_closed(job.conn, &job.query, &words::store(&error));
            }
        }
        Next::Done
    }

    fn end_count(&mut self, job: &CountJob) {
        let Some(session) = self.sessions.get_mut(job.conn) else { return };
        let values = value_count(job.count.filters());
        session.counts -= 1;
        session.count_values -= values;
        self.filter_values -= values;
        self.metrics.filter_values = self.filter_values as u64;
        self.mark_changed(job.conn);
    }

    /// Reads back from the store what a subscription was not sent live.
    fn step_replay(&mut self, now: Now, slot: SubSlot, serial: u64) -> Next {
        let Some(live) = self.live.get_mut(slot, serial) else { return Next::Done };
        match live.owner {
            Owner::Client { conn, .. } => self.replay_to_client(now, conn, slot, serial),
            Owner::Stream(stream) => self.replay_to_stream(now, stream, slot, serial),
        }
    }

    fn replay_to_client(&mut self, now: Now, conn: ConnId, slot: SubSlot, serial: u64) -> Next {
        let config = &*self.config;
        let Some(live) = self.live.get_mut(slot, serial) else { return Next::Done };
        let Some(session) = self.sessions.get_mut(conn) else { return Next::Done };
        let request = Request::Replay { slot, serial };
        if session.is_slow(&config.limits) {
            return Next::Stall(conn, request);
        }
        let mut rows = config.limits.scan_rows_max;
        let viewer = Party { guarded_kinds: &config.policy.guarded_kinds, keys: session.auth.keys() };
        let (outbox, backlog_bytes) = (&mut session.outbox, session.backlog_bytes);
        let mut sent = 0;
        let replayed = self.store.reader().and_then(|reader| {
            let (filters, after) = (&live.filters, live.live_after);
            replay(&reader, filters, after, &mut rows, now.seconds(), &viewer, &mut |hit| {
                outbox.push_event(live.head.clone(), hit.event.json().into());
                sent += 1;
                if outbox.bytes() + backlog_bytes >= config.limits.outbox_bytes_pause {
                    Take::CountedAndPause
                } else {
                    Take::Counted
                }
            })
        });
        let slow = session.is_slow(&config.limits);
        let next = match replayed {
            Ok(replayed) if live.caught_up(replayed) => Next::Done,
            Ok(_) if slow => Next::Stall(conn, request),
            Ok(_) => Next::Again(request),
            Err(error) => {
                self.fail_subscription(slot, serial, &error);
                Next::Done
            }
        };
        self.metrics.sent_event += sent;
        self.mark_ready(conn);
        self.mark_changed(conn);
        next
    }

    fn replay_to_stream(&mut self, now: Now, stream: StreamId, slot: SubSlot, serial: u64) -> Next {
        let Some(live) = self.live.get_mut(slot, serial) else { return Next::Done };
        let Some(stream) = self.streams.get_mut(stream) else { return Next::Done };
        let request = Request::Replay { slot, serial };
        let limits = &self.config.limits;
        if stream.is_full(limits) {
            stream.stalled = Some(request);
            return Next::Done;
        }
        let mut rows = limits.scan_rows_max;
        let mut last = live.live_after;
        let replayed = self.store.reader().and_then(|reader| {
            replay(&reader, &live.filters, last, &mut rows, now.seconds(), &Everyone, &mut |hit| {
                stream.push(Some(hit.seq), Event::from_canonical(hit.event.json().into()));
                last = hit.seq;
                if stream.is_full(limits) { Take::CountedAndPause } else { Take::Counted }
            })
        });
        match replayed {
            Ok(replayed) if live.caught_up(replayed) => Next::Done,
            Ok(_) => Next::Again(request),
            Err(_) => {
                // Nobody is there to be told, and nothing may be left out: it is tried again when time passes.
                live.live_after = last;
                self.metrics.stream_errors += 1;
                self.streams.retry(now, request);
                Next::Done
            }
        }
    }

    /// The store failed a subscription: it ends in words.
    fn fail_subscription(&mut self, slot: SubSlot, serial: u64, error: &StoreError) {
        let Some(live) = self.live.get_mut(slot, serial) else { return };
        let Owner::Client { conn, sub } = &live.owner else { return };
        let (conn, sub) = (*conn, sub.clone());
        self.end_subscription(conn, &sub);
        self.send_closed(conn, &sub, &words::store(error));
    }
}

/// What filters cost to keep, in values: one that holds none is not free.
fn value_count(filters: &[Filter]) -> usize {
    filters.iter().map(|filter| 1 + filter.value_count()).sum()
}

/// Whether `place` comes after `other` in the order of answers.
fn is_behind(place: Place, other: Place) -> bool {
    (Reverse(place.0), place.1) > (Reverse(other.0), other.1)
}
