//! Queries, which take several steps: scans and counts that answer requests, and replays of what a subscription was not
//! sent live. Each takes a step in turn ([`super::scheduler`]), so none starves another.

use std::sync::Arc;

use super::Relay;
use super::catch_up::SharedReplay;
use super::ids::{ConnId, StreamId};
use super::neg::{NegQuery, SetUse};
use super::query_memory::{QueryMemory, Reservation};
use super::scheduler::{QueryClass, Scheduler, Turn};
use super::subscriptions::{FullRank, Owner, SubKey};
use crate::store::{Backend, Count, Scan};
use crate::types::{ClientAddress, Filter, Now, SubId};

/// Requests of one connection that may wait for their turn; then reading pauses.
pub(super) const QUERIES_WAITING_MAX: usize = 32;
/// REQs whose time to EOSE is still to be measured, when the host has flushed.
const ANSWERED_MAX: usize = 1_024;
/// What a turn costs beside what is read: a read transaction and cursors.
const TURN_COST: u64 = 20;

/// Something with steps to take.
pub(super) enum Query {
    /// The stored part of a REQ's answer.
    Scan(Box<ScanQuery>),
    /// A COUNT.
    Count(Box<CountQuery>),
    /// What was stored while subscriptions of this connection were lagging.
    Replay(Box<ReplayQuery>),
    /// What was stored while a stream was lagging.
    StreamReplay(SubKey),
    /// An answer of NIP-77.
    Neg(Box<NegQuery>),
    /// A set for answers of NIP-77 that nobody has asked for yet.
    PrepareSet(Option<SetUse>),
}

pub(super) struct ScanQuery {
    pub(super) key: SubKey,
    pub(super) conn: ConnId,
    pub(super) scan: Scan,
    pub(super) asked_at: Now,
    /// The position of the last event sent before the session was restored: only what comes after it is sent.
    pub(super) sent_before: Option<FullRank>,
    /// Whether it has taken a step.
    pub(super) has_started: bool,
    pub(super) reservation: Reservation,
}

pub(super) struct CountQuery {
    pub(super) conn: ConnId,
    pub(super) id: SubId,
    pub(super) count: Count,
    /// Whether it has taken a step.
    pub(super) has_started: bool,
    pub(super) reservation: Reservation,
}

pub(super) struct ReplayQuery {
    pub(super) conn: ConnId,
    /// None until it begins, and again when the reader is slow.
    pub(super) replay: Option<SharedReplay>,
    pub(super) reservation: Reservation,
}

impl Query {
    /// What it may come to hold. A stream's replay holds nothing, and the cursor of the set of all events next to nothing.
    fn reservation(&self) -> Reservation {
        match self {
            Query::Scan(query) => query.reservation,
            Query::Count(query) => query.reservation,
            Query::Replay(query) => query.reservation,
            Query::Neg(query) => query.reservation,
            Query::StreamReplay(_) | Query::PrepareSet(_) => Reservation::of(0),
        }
    }

    /// What it holds now.
    fn held_bytes(&self) -> usize {
        match self {
            Query::Scan(query) => query.scan.cursor_bytes(),
            Query::Count(query) => query.count.cursor_bytes(),
            Query::Replay(query) => query.replay.as_ref().map_or(0, SharedReplay::bytes),
            Query::Neg(query) => query.cursor_bytes,
            Query::StreamReplay(_) | Query::PrepareSet(_) => 0,
        }
    }

    fn reservation_mut(&mut self) -> Option<&mut Reservation> {
        match self {
            Query::Scan(query) => Some(&mut query.reservation),
            Query::Count(query) => Some(&mut query.reservation),
            Query::Replay(query) => Some(&mut query.reservation),
            Query::Neg(query) => Some(&mut query.reservation),
            Query::StreamReplay(_) | Query::PrepareSet(_) => None,
        }
    }

    /// The connection whose input pauses while too many of these wait.
    fn asked_by(&self) -> Option<ConnId> {
        match self {
            Query::Scan(query) => Some(query.conn),
            Query::Count(query) => Some(query.conn),
            Query::Neg(query) => Some(query.conn),
            Query::Replay(..) | Query::StreamReplay(_) | Query::PrepareSet(_) => None,
        }
    }

    /// Whether it answers this subscription.
    pub(super) fn is_for(&self, sub: SubKey) -> bool {
        match self {
            Query::Scan(query) => query.key == sub,
            Query::Count(_) | Query::Replay(..) | Query::Neg(_) | Query::PrepareSet(_) => false,
            Query::StreamReplay(key) => *key == sub,
        }
    }

    /// By whether it has taken a step, and whether it must wait for memory. A replay continues an earlier answer,
    /// so all its steps are further ones.
    fn class(&self) -> QueryClass {
        let reservation = self.reservation();
        let waits_for_memory = reservation.must_wait && !reservation.is_running;
        match (self.has_started(), waits_for_memory) {
            (false, false) => QueryClass::First,
            (false, true) => QueryClass::FirstLarge,
            (true, true) => QueryClass::FurtherLarge,
            (true, false) => QueryClass::Further,
        }
    }

    /// Frees its cursors, because there is no memory for it beyond its first step; it then waits like a large query.
    fn wait_for_memory(&mut self) {
        match self {
            Query::Scan(query) => query.scan.release_cursors(),
            Query::Count(query) => query.count.release_cursors(),
            // Its cursors belong to its set: `release_neg_cursors` drops them.
            Query::Neg(_) => {}
            Query::Replay(..) | Query::StreamReplay(_) | Query::PrepareSet(_) => return,
        }
        if let Some(reservation) = self.reservation_mut() {
            (reservation.must_wait, reservation.is_running) = (true, false);
        }
    }

    fn has_started(&self) -> bool {
        match self {
            Query::Scan(query) => query.has_started,
            Query::Count(query) => query.has_started,
            Query::Neg(query) => query.has_started,
            Query::Replay(..) | Query::StreamReplay(_) | Query::PrepareSet(_) => true,
        }
    }

    /// Records that it takes a step. True if that is its first.
    fn starts(&mut self) -> bool {
        match self {
            Query::Scan(query) => !std::mem::replace(&mut query.has_started, true),
            Query::Count(query) => !std::mem::replace(&mut query.has_started, true),
            Query::Neg(query) => !std::mem::replace(&mut query.has_started, true),
            Query::Replay(..) | Query::StreamReplay(_) | Query::PrepareSet(_) => false,
        }
    }
}

/// What remains of a query after a step.
pub(super) enum StepResult {
    /// More steps.
    Again(Query),
    /// More steps, once the reader has caught up.
    Pause(ConnId, Query),
    /// More steps, but not before that time.
    Later(Now, Query),
    /// Nothing.
    Done,
}

/// What turns and commits are shared fairly by: the client address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum FairnessKey {
    Address(ClientAddress),
    /// A client whose address the host does not give.
    Unknown(ConnId),
    /// The host: its streams, what it publishes, and what is prepared.
    Host,
    /// Events that the host copies from other relays.
    Peer,
}

/// The second key: the connection.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Requester {
    Client(ConnId),
    Stream(StreamId),
    Host,
}

/// Queries that wait for their turn.
pub(super) struct Queries {
    scheduler: Scheduler<FairnessKey, Requester, Query>,
    query_memory: QueryMemory,
    /// When the REQs arrived whose EOSE has been queued and not yet flushed by the host.
    answered: Vec<Now>,
    /// Queries that go on at a time, in no order: at most one of each reconciliation.
    later: Vec<(Now, Query)>,
}

impl FairnessKey {
    pub(super) fn of(conn: ConnId, address: Option<ClientAddress>) -> Self {
        address.map_or(FairnessKey::Unknown(conn), FairnessKey::Address)
    }

    /// The client address, if it has one.
    pub(super) fn address(self) -> Option<ClientAddress> {
        match self {
            FairnessKey::Address(address) => Some(address),
            FairnessKey::Unknown(_) | FairnessKey::Host | FairnessKey::Peer => None,
        }
    }
}

impl Queries {
    /// No queries yet. An address may have `address_queries_max` unfinished ones.
    pub(super) fn new(address_queries_max: usize) -> Self {
        let is_bounded = |fairness_key: &FairnessKey| matches!(fairness_key, FairnessKey::Address(_));
        let scheduler = Scheduler::new(address_queries_max, is_bounded);
        Queries { scheduler, query_memory: QueryMemory::default(), answered: Vec::new(), later: Vec::new() }
    }

    /// The COUNTs of a connection that have not been answered.
    pub(super) fn counts_of(
        &self,
        conn: ConnId,
        address: Option<ClientAddress>,
    ) -> Vec<(SubId, Arc<[Filter]>)> {
        let queries = self.scheduler.of(FairnessKey::of(conn, address), Requester::Client(conn));
        let counts = queries.filter_map(|query| match query {
            Query::Count(query) => Some((query.id.clone(), Arc::clone(query.count.filters()))),
            _ => None,
        });
        counts.collect()
    }

    /// What running queries may hold.
    pub(super) fn query_bytes(&self) -> u64 {
        self.query_memory.all() as u64
    }

    /// Drops the queries of a connection that is gone, with the filters and cursors that they hold.
    pub(super) fn remove_connection(&mut self, conn: ConnId, address: Option<ClientAddress>) {
        let (fairness_key, requester) = (FairnessKey::of(conn, address), Requester::Client(conn));
        for query in self.scheduler.of(fairness_key, requester) {
            self.query_memory.release(fairness_key, query.reservation());
        }
        self.scheduler.remove_connection(fairness_key, requester);
    }

    /// The query whose turn it is, if what all may hold is `bytes_max`; it is running from now on.
    fn take(&mut self, bytes_max: usize) -> Option<(Turn<FairnessKey, Requester>, Query)> {
        let Queries { scheduler, query_memory, .. } = self;
        loop {
            let may = |fairness_key: FairnessKey, query: &Query| {
                query_memory.may_start(fairness_key, query.reservation().bytes, bytes_max)
            };
            let (turn, mut query) = scheduler.take(may)?;
            let has_started = query.has_started();
            let Some(reservation) = query.reservation_mut().filter(|reservation| !reservation.is_running)
            else {
                return Some((turn, query));
            };
            // Queries that were queued with it may have taken the memory.
            let max = has_started.then_some(bytes_max);
            if !reservation.must_wait && query_memory.must_wait(turn.fairness_key, reservation.bytes, max) {
                reservation.must_wait = true;
                scheduler.defer(turn, query.class(), query);
                continue;
            }
            query_memory.acquire(turn.fairness_key, reservation);
            return Some((turn, query));
        }
    }

    /// Releases what was reserved for a query before its step, unless it keeps its memory.
    fn update_reservation(&mut self, fairness_key: FairnessKey, before: Reservation, next: &mut StepResult) {
        match next {
            StepResult::Again(query) if query.reservation().is_running => {
                let more = query.held_bytes().saturating_sub(before.bytes);
                if let Some(reservation) = query.reservation_mut().filter(|_| more > 0) {
                    self.query_memory.extend(fairness_key, reservation, more);
                }
                return;
            }
            StepResult::Pause(_, query) | StepResult::Later(_, query) => {
                if let Some(reservation) = query.reservation_mut() {
                    reservation.is_running = false;
                }
            }
            _ => {}
        }
        self.query_memory.release(fairness_key, before);
    }
}

impl Queries {
    /// When a query goes on that waits for a time.
    pub(super) fn resume_at(&self) -> Option<Now> {
        self.later.iter().map(|(at, _)| *at).min()
    }

    /// Those whose time has come.
    pub(super) fn take_due(&mut self, now: Now) -> Vec<Query> {
        self.later.extract_if(.., |(at, _)| *at <= now).map(|(_, query)| query).collect()
    }
}

impl<B: Backend> Relay<B> {
    /// One step of the query whose turn it is, or of the delivery of live events, and some of what ended subscriptions left to
    /// sweep. True if anything of that has more to do, or if a message that had waited for this query left events to be verified.
    ///
    /// Turns go round by client address, then by connection, weighed by their cost; first steps go first, but
    /// every fifth turn is a further step's. While live events are being delivered, every other turn is theirs.
    pub fn work(&mut self, now: Now) -> bool {
        if self.deliveries.is_next(!self.queries.scheduler.is_empty()) {
            self.step_deliveries(now);
        } else if let Some((turn, mut query)) = self.queries.take(self.config.limits.query_bytes_max) {
            let (conn, starts) = (query.asked_by(), query.starts());
            if let Some(session) = conn.and_then(|conn| self.sessions.get_mut(conn)) {
                session.queries_waiting -= 1;
                session.not_started -= usize::from(starts);
            }
            let budget_max = self.config.limits.step_cost_max;
            let mut budget = budget_max;
            let reservation = query.reservation();
            let mut next = self.step(now, query, &mut budget);
            let bytes_max = self.config.limits.query_bytes_max;
            if let StepResult::Again(query) = &mut next
                && starts
                && !reservation.must_wait
                && self.queries.query_memory.is_over(turn.fairness_key, bytes_max)
            {
                query.wait_for_memory();
                if let Query::Neg(query) = query {
                    self.release_neg_cursors(query);
                }
            }
            self.queries.update_reservation(turn.fairness_key, reservation, &mut next);
            match next {
                StepResult::Again(query) => self.enqueue(query),
                StepResult::Pause(conn, query) => {
                    if let Some(session) = self.sessions.get_mut(conn) {
                        session.paused.push(query);
                    }
                }
                StepResult::Later(at, query) => self.queries.later.push((at, query)),
                StepResult::Done => {}
            }
            if let Some(conn) = conn {
                self.run_deferred(now, conn);
            }
            self.metrics.query_bytes = self.queries.query_bytes();
            let cost = TURN_COST + (budget_max - budget) as u64;
            self.costs.charge_address(now, turn.fairness_key.address(), cost);
            self.queries.scheduler.charge(turn, cost);
        }
        self.sweep();
        self.has_work() || self.has_unverified()
    }

    /// Whether [`Relay::work`] would do anything. Draining a slow reader's output may make it so.
    pub fn has_work(&self) -> bool {
        !self.queries.scheduler.is_empty() || !self.deliveries.is_empty() || self.subscriptions.is_sweep_due()
    }

    /// Starts the query of a request. What its connection sends next waits for its first step: frames take effect in
    /// order.
    pub(super) fn start(&mut self, query: Query) {
        if let Some(session) = query.asked_by().and_then(|conn| self.sessions.get_mut(conn)) {
            session.not_started += 1;
        }
        self.enqueue(query);
    }

    /// Queues a query after all others of its connection. Does nothing if that is gone.
    pub(super) fn enqueue(&mut self, mut query: Query) {
        let requester = match &query {
            Query::Scan(query) => Some(Requester::Client(query.conn)),
            Query::Count(query) => Some(Requester::Client(query.conn)),
            Query::Replay(query) => Some(Requester::Client(query.conn)),
            Query::Neg(query) => Some(Requester::Client(query.conn)),
            Query::StreamReplay(key) => match self.subscriptions.get(*key).map(|sub| &sub.owner) {
                Some(Owner::Stream(stream)) => Some(Requester::Stream(*stream)),
                _ => None,
            },
            Query::PrepareSet(_) => Some(Requester::Host),
        };
        let Some(requester) = requester else { return };
        let fairness_key = match requester {
            Requester::Stream(_) | Requester::Host => FairnessKey::Host,
            Requester::Client(conn) => {
                let Some(session) = self.sessions.get_mut(conn) else { return };
                session.queries_waiting += usize::from(query.asked_by().is_some());
                FairnessKey::of(conn, session.address)
            }
        };
        if let Query::Replay(query) = &mut query
            && !query.reservation.is_running
        {
            query.reservation = Reservation::of(self.replay_bytes_max(query.conn));
        }
        let bytes_max = query.has_started().then_some(self.config.limits.query_bytes_max);
        if let Some(reservation) = query.reservation_mut().filter(|reservation| !reservation.is_running) {
            reservation.must_wait |=
                self.queries.query_memory.must_wait(fairness_key, reservation.bytes, bytes_max);
        }
        self.queries.scheduler.push(query.class(), fairness_key, requester, query);
    }

    /// EOSE of a REQ that was asked at `asked_at` is on its way to the host.
    pub(super) fn record_answered(&mut self, now: Now, asked_at: Now) {
        if self.queries.answered.len() >= ANSWERED_MAX {
            self.handle_flushed(now);
        }
        self.queries.answered.push(asked_at);
    }

    /// What was drained until now has been given to the sockets: REQs whose EOSE was in it took until `now`.
    pub fn handle_flushed(&mut self, now: Now) {
        for asked_at in self.queries.answered.drain(..) {
            self.metrics.req_to_eose_us.record(now.micros_since(asked_at));
        }
    }
}
