//! Work that takes several steps: scans and counts that answer requests, and replays of what a subscription was not
//! sent live. Each takes a step in turn ([`super::turns`]), so none starves another.

use std::sync::Arc;

use super::Relay;
use super::catch_up::SharedReplay;
use super::ids::{ConnId, StreamId};
use super::neg::NegJob;
use super::running::{Reservation, Running};
use super::subscriptions::{AnswerPosition, Owner, SubKey};
use super::turns::{JobClass, Turn, Turns};
use crate::store::{Backend, Count, Scan};
use crate::types::{ClientAddress, Filter, Now, SubId};

/// Requests of one connection that may wait for their turn; then reading pauses.
pub(super) const JOBS_WAITING_MAX: usize = 32;
/// REQs whose time to EOSE is still to be measured, when the host has flushed.
const ANSWERED_MAX: usize = 1_024;
/// What a turn costs beside its rows, in rows: a read transaction and cursors.
const TURN_ROWS: u64 = 20;

/// Something with steps to take.
pub(super) enum Job {
    /// The stored part of a REQ's answer.
    Scan(Box<ScanJob>),
    /// A COUNT.
    Count(Box<CountJob>),
    /// What was stored while subscriptions of this connection were behind.
    Replay(Box<ReplayJob>),
    /// What was stored while a stream was behind.
    StreamReplay(SubKey),
    /// An answer of NIP-77.
    Neg(Box<NegJob>),
}

pub(super) struct ScanJob {
    pub(super) key: SubKey,
    pub(super) conn: ConnId,
    pub(super) scan: Scan,
    pub(super) asked_at: Now,
    /// The position of the last event sent before the session was restored: only what comes after it is sent.
    pub(super) sent_before: Option<AnswerPosition>,
    /// Whether it has taken a step.
    pub(super) has_started: bool,
    pub(super) reservation: Reservation,
}

pub(super) struct CountJob {
    pub(super) conn: ConnId,
    pub(super) query: SubId,
    pub(super) count: Count,
    /// Whether it has taken a step.
    pub(super) has_started: bool,
    pub(super) reservation: Reservation,
}

pub(super) struct ReplayJob {
    pub(super) conn: ConnId,
    /// None until it begins, and again when the reader is slow.
    pub(super) replay: Option<SharedReplay>,
    pub(super) reservation: Reservation,
}

impl Job {
    /// What it may come to hold. A stream's replay holds nothing.
    fn reservation(&self) -> Reservation {
        match self {
            Job::Scan(job) => job.reservation,
            Job::Count(job) => job.reservation,
            Job::Replay(job) => job.reservation,
            Job::Neg(job) => job.reservation,
            Job::StreamReplay(_) => Reservation::of(0),
        }
    }

    /// What it holds now.
    fn held_bytes(&self) -> usize {
        match self {
            Job::Scan(job) => job.scan.cursor_bytes(),
            Job::Count(job) => job.count.cursor_bytes(),
            Job::Replay(job) => job.replay.as_ref().map_or(0, SharedReplay::bytes),
            Job::Neg(job) => job.cursor_bytes,
            Job::StreamReplay(_) => 0,
        }
    }

    fn reservation_mut(&mut self) -> Option<&mut Reservation> {
        match self {
            Job::Scan(job) => Some(&mut job.reservation),
            Job::Count(job) => Some(&mut job.reservation),
            Job::Replay(job) => Some(&mut job.reservation),
            Job::Neg(job) => Some(&mut job.reservation),
            Job::StreamReplay(_) => None,
        }
    }

    /// The connection whose input pauses while too many of these wait.
    fn asked_by(&self) -> Option<ConnId> {
        match self {
            Job::Scan(job) => Some(job.conn),
            Job::Count(job) => Some(job.conn),
            Job::Neg(job) => Some(job.conn),
            Job::Replay(..) | Job::StreamReplay(_) => None,
        }
    }

    /// Whether it answers this subscription.
    pub(super) fn is_for(&self, sub: SubKey) -> bool {
        match self {
            Job::Scan(job) => job.key == sub,
            Job::Count(_) | Job::Replay(..) | Job::Neg(_) => false,
            Job::StreamReplay(key) => *key == sub,
        }
    }

    /// By whether it has taken a step, and whether it must wait for memory. A replay continues an earlier answer,
    /// so all its steps are further ones.
    fn class(&self) -> JobClass {
        let reservation = self.reservation();
        let waits_for_memory = reservation.is_wide && !reservation.is_running;
        match (self.has_started(), waits_for_memory) {
            (false, false) => JobClass::First,
            (false, true) => JobClass::FirstWide,
            (true, true) => JobClass::FurtherWide,
            (true, false) => JobClass::Further,
        }
    }

    /// Frees its cursors, because there is no memory for it beyond its first step; it then waits like a wide job.
    fn wait_for_memory(&mut self) {
        match self {
            Job::Scan(job) => job.scan.release_cursors(),
            Job::Count(job) => job.count.release_cursors(),
            // Those of a set are dropped beside it.
            Job::Neg(_) => {}
            Job::Replay(..) | Job::StreamReplay(_) => return,
        }
        if let Some(reservation) = self.reservation_mut() {
            (reservation.is_wide, reservation.is_running) = (true, false);
        }
    }

    fn has_started(&self) -> bool {
        match self {
            Job::Scan(job) => job.has_started,
            Job::Count(job) => job.has_started,
            Job::Neg(job) => job.has_started,
            Job::Replay(..) | Job::StreamReplay(_) => true,
        }
    }

    /// Notes that it takes a step. True if that is its first.
    fn starts(&mut self) -> bool {
        match self {
            Job::Scan(job) => !std::mem::replace(&mut job.has_started, true),
            Job::Count(job) => !std::mem::replace(&mut job.has_started, true),
            Job::Neg(job) => !std::mem::replace(&mut job.has_started, true),
            Job::Replay(..) | Job::StreamReplay(_) => false,
        }
    }
}

/// What remains of a job after a step.
pub(super) enum StepResult {
    /// More steps.
    Again(Job),
    /// More steps, once the reader has caught up.
    Stall(ConnId, Job),
    /// Nothing.
    Done,
}

/// The first key of fair turns: the client address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Origin {
    Address(ClientAddress),
    /// A client whose address the host does not give.
    Unknown(ConnId),
    /// The host: its streams, and what it publishes.
    Host,
}

/// The second key: the connection.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Requester {
    Client(ConnId),
    Stream(StreamId),
}

/// Jobs that wait for their turn.
pub(super) struct Jobs {
    turns: Turns<Origin, Requester, Job>,
    running: Running,
    /// When the REQs arrived whose EOSE has been queued and not yet flushed by the host.
    answered: Vec<Now>,
}

impl Origin {
    pub(super) fn of(conn: ConnId, address: Option<ClientAddress>) -> Self {
        address.map_or(Origin::Unknown(conn), Origin::Address)
    }

    /// The client address, if it has one.
    pub(super) fn address(self) -> Option<ClientAddress> {
        match self {
            Origin::Address(address) => Some(address),
            Origin::Unknown(_) | Origin::Host => None,
        }
    }
}

impl Jobs {
    /// No jobs yet. An address may have `address_jobs_max` unfinished ones.
    pub(super) fn new(address_jobs_max: usize) -> Self {
        let is_bounded = |origin: &Origin| matches!(origin, Origin::Address(_));
        let turns = Turns::new(address_jobs_max, is_bounded);
        Jobs { turns, running: Running::default(), answered: Vec::new() }
    }

    /// The COUNTs of a connection that have not been answered.
    pub(super) fn counts_of(
        &self,
        conn: ConnId,
        address: Option<ClientAddress>,
    ) -> Vec<(SubId, Arc<[Filter]>)> {
        let jobs = self.turns.of(Origin::of(conn, address), Requester::Client(conn));
        let counts = jobs.filter_map(|job| match job {
            Job::Count(job) => Some((job.query.clone(), Arc::clone(job.count.filters()))),
            _ => None,
        });
        counts.collect()
    }

    /// What running jobs may hold.
    pub(super) fn running_bytes(&self) -> u64 {
        self.running.all() as u64
    }

    /// Drops the jobs of a connection that is gone, with the filters and cursors that they hold.
    pub(super) fn remove_connection(&mut self, conn: ConnId, address: Option<ClientAddress>) {
        let (origin, requester) = (Origin::of(conn, address), Requester::Client(conn));
        for job in self.turns.of(origin, requester) {
            self.running.release(origin, job.reservation());
        }
        self.turns.remove_connection(origin, requester);
    }

    /// The job whose turn it is, if what all may hold is `bytes_max`; it is running from now on.
    fn take(&mut self, bytes_max: usize) -> Option<(Turn<Origin, Requester>, Job)> {
        let Jobs { turns, running, .. } = self;
        loop {
            let may =
                |origin: Origin, job: &Job| running.may_start(origin, job.reservation().bytes, bytes_max);
            let (turn, mut job) = turns.take(may)?;
            let has_started = job.has_started();
            let Some(reservation) = job.reservation_mut().filter(|reservation| !reservation.is_running)
            else {
                return Some((turn, job));
            };
            // Jobs that were queued with it may have taken the memory.
            let max = has_started.then_some(bytes_max);
            if !reservation.is_wide && running.is_wide(turn.address, reservation.bytes, max) {
                reservation.is_wide = true;
                turns.defer(turn, job.class(), job);
                continue;
            }
            running.acquire(turn.address, reservation);
            return Some((turn, job));
        }
    }

    /// Releases what was reserved for a job before its step, unless it keeps its memory.
    fn update_reservation(&mut self, origin: Origin, before: Reservation, next: &mut StepResult) {
        match next {
            StepResult::Again(job) if job.reservation().is_running => {
                let more = job.held_bytes().saturating_sub(before.bytes);
                if let Some(reservation) = job.reservation_mut().filter(|_| more > 0) {
                    self.running.extend(origin, reservation, more);
                }
                return;
            }
            StepResult::Stall(_, job) => {
                if let Some(reservation) = job.reservation_mut() {
                    reservation.is_running = false;
                }
            }
            _ => {}
        }
        self.running.release(origin, before);
    }
}

impl<B: Backend> Relay<B> {
    /// One step of the job whose turn it is, or of the delivery of live events, and some of what ended subscriptions left to
    /// sweep. True if anything of that has more to do, or if a message that had waited for this job left events to be verified.
    ///
    /// Turns go round by client address, then by connection, weighed by the rows they read; first steps go first, but
    /// every fifth turn is a further step's. While live events are being delivered, every other turn is theirs.
    pub fn work(&mut self, now: Now) -> bool {
        if self.deliveries.take_turn(!self.jobs.turns.is_empty()) {
            self.step_deliveries(now);
        } else if let Some((turn, mut job)) = self.jobs.take(self.config.limits.running_bytes_max) {
            let (conn, starts) = (job.asked_by(), job.starts());
            if let Some(session) = conn.and_then(|conn| self.sessions.get_mut(conn)) {
                session.jobs_waiting -= 1;
                session.not_started -= usize::from(starts);
            }
            let rows_max = self.config.limits.scan_rows_max;
            let mut rows = rows_max;
            let reservation = job.reservation();
            let mut next = self.step(now, job, &mut rows);
            let bytes_max = self.config.limits.running_bytes_max;
            if let StepResult::Again(job) = &mut next
                && starts
                && !reservation.is_wide
                && self.jobs.running.is_over(turn.address, bytes_max)
            {
                job.wait_for_memory();
                if let Job::Neg(job) = job {
                    self.release_neg_cursors(job);
                }
            }
            self.jobs.update_reservation(turn.address, reservation, &mut next);
            match next {
                StepResult::Again(job) => self.enqueue(job),
                StepResult::Stall(conn, job) => {
                    if let Some(session) = self.sessions.get_mut(conn) {
                        session.stalled.push(job);
                    }
                }
                StepResult::Done => {}
            }
            if let Some(conn) = conn {
                self.run_deferred(now, conn);
            }
            self.metrics.running_bytes = self.jobs.running_bytes();
            let cost = TURN_ROWS + (rows_max - rows) as u64;
            self.costs.charge_address(now, turn.address.address(), cost);
            self.jobs.turns.charge(turn, cost);
        }
        self.sweep();
        self.has_work() || self.has_unverified()
    }

    /// Whether [`Relay::work`] would do anything. Draining a slow reader's output may make it so.
    pub fn has_work(&self) -> bool {
        !self.jobs.turns.is_empty() || !self.deliveries.is_empty() || self.subscriptions.is_sweep_due()
    }

    /// Starts the job of a request. What its connection sends next waits for its first step: frames take effect in
    /// order.
    pub(super) fn start(&mut self, job: Job) {
        if let Some(session) = job.asked_by().and_then(|conn| self.sessions.get_mut(conn)) {
            session.not_started += 1;
        }
        self.enqueue(job);
    }

    /// Queues a job after all others of its connection. Does nothing if that is gone.
    pub(super) fn enqueue(&mut self, mut job: Job) {
        let requester = match &job {
            Job::Scan(job) => Some(Requester::Client(job.conn)),
            Job::Count(job) => Some(Requester::Client(job.conn)),
            Job::Replay(job) => Some(Requester::Client(job.conn)),
            Job::Neg(job) => Some(Requester::Client(job.conn)),
            Job::StreamReplay(key) => match self.subscriptions.get(*key).map(|sub| &sub.owner) {
                Some(Owner::Stream(stream)) => Some(Requester::Stream(*stream)),
                _ => None,
            },
        };
        let Some(requester) = requester else { return };
        let origin = match requester {
            Requester::Stream(_) => Origin::Host,
            Requester::Client(conn) => {
                let Some(session) = self.sessions.get_mut(conn) else { return };
                session.jobs_waiting += usize::from(job.asked_by().is_some());
                Origin::of(conn, session.address)
            }
        };
        if let Job::Replay(job) = &mut job
            && !job.reservation.is_running
        {
            job.reservation = Reservation::of(self.replay_bytes_max(job.conn));
        }
        let bytes_max = job.has_started().then_some(self.config.limits.running_bytes_max);
        if let Some(reservation) = job.reservation_mut().filter(|reservation| !reservation.is_running) {
            reservation.is_wide |= self.jobs.running.is_wide(origin, reservation.bytes, bytes_max);
        }
        self.jobs.turns.push(job.class(), origin, requester, job);
    }

    /// EOSE of a REQ that was asked at `asked_at` is on its way to the host.
    pub(super) fn note_answered(&mut self, now: Now, asked_at: Now) {
        if self.jobs.answered.len() >= ANSWERED_MAX {
            self.handle_flushed(now);
        }
        self.jobs.answered.push(asked_at);
    }

    /// What was drained until now has been given to the sockets: REQs whose EOSE was in it took until `now`.
    pub fn handle_flushed(&mut self, now: Now) {
        for asked_at in self.jobs.answered.drain(..) {
            self.metrics.req_to_eose_us.record(now.micros_since(asked_at));
        }
    }
}
