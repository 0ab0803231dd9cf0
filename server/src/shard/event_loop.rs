//! The event loop: what a shard does after its sockets have had their turn.
//!
//! Woken once by however many tasks fed the machine, it lets every other ready task run first. So one iteration
//! sees what all sockets brought: signatures are checked in one batch, changes leave as one commit, and each
//! connection gets its frames in one write. An iteration writes to as many connections as some milliseconds allow; the others
//! get theirs in the next ones ([`super::flush_queue`]).

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use relay_engine::relay::{Commit, ConnId, LiveEvent, Output};
use relay_engine::store::Backend;
use relay_engine::types::Now;

use super::{Shard, SocketSlot};
use crate::host::{Inbound, Socket, now};
use crate::net::conn::State;
use crate::net::http;
use crate::writer::ToWriter;

/// Time between checks of connections' deadlines.
const DEADLINE_CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Time between checks whether a congestion is over.
const CONGESTION_CHECK_INTERVAL: Duration = Duration::from_millis(5);
/// Time that an iteration may spend on scans before the tasks of the sockets run; a single step may take a little longer.
const WORK_MAX: Duration = Duration::from_micros(500);
/// Pings without an answer, after which a connection is closed.
const UNANSWERED_PINGS_MAX: u32 = 3;

/// The stages of a shutdown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Stop {
    /// The shard serves.
    #[default]
    No,
    /// Nothing new is read; what has been read takes effect.
    Finishing,
    /// Close frames are out; connections end.
    Closing,
}

impl Stop {
    pub(super) fn is_closing(self) -> bool {
        self == Stop::Closing
    }
}

/// Runs until a stop is complete.
pub(super) async fn run<B: Backend + 'static>(shard: Rc<Shard<B>>) {
    let mut check_at = Instant::now() + DEADLINE_CHECK_INTERVAL;
    loop {
        let to_tick = check_at.saturating_duration_since(Instant::now());
        let wait = shard.wait().unwrap_or(to_tick).min(to_tick);
        tokio::select! {
            () = shard.inbox().wake.notified() => {}
            () = tokio::time::sleep(wait) => {}
        }
        loop {
            tokio::task::yield_now().await;
            // A shard that always has work must check its deadlines too.
            if check_at <= Instant::now() {
                shard.check_deadlines();
                check_at = Instant::now() + DEADLINE_CHECK_INTERVAL;
            }
            if !iteration(&shard) {
                break;
            }
        }
        if shard.stop.get() == Stop::Closing && shard.conns.borrow().is_empty() {
            shard.inbox().close();
            return;
        }
    }
}

/// One iteration. True if there is more to do at once.
fn iteration<B: Backend + 'static>(shard: &Rc<Shard<B>>) -> bool {
    let now = now();
    for inbound in shard.inbox().take() {
        handle_inbound(shard, now, inbound);
    }
    shard.handle_output(now);
    shard.work();
    // Events that had waited for a request, and answers of requests.
    shard.handle_output(now);
    shard.flush_round();
    // Draining may have resumed input, or queued a notice.
    shard.handle_output(now);
    shard.forward_streams();
    shard.watch_congestion();
    // Draining may have given the machine work: a scan continues when its reader has caught up.
    let has_work = shard.relay.borrow().has_work();
    shard.advance_stop(has_work);
    has_work || !shard.to_flush.borrow().is_empty()
}

fn handle_inbound<B: Backend + 'static>(shard: &Rc<Shard<B>>, now: Now, inbound: Inbound) {
    match inbound {
        Inbound::Socket(Socket { stream, peer, permit }) => {
            let slot = SocketSlot { shard: Rc::clone(shard), _permit: permit };
            match tokio::net::TcpStream::from_std(stream) {
                Ok(stream) => {
                    tracing::debug!(address = %peer, shard = shard.number, "connection accepted");
                    tokio::task::spawn_local(http::serve(slot, stream, peer.ip()));
                }
                Err(error) => tracing::debug!(%error, "connection lost before it was set up"),
            }
        }
        Inbound::Committed(reply) => {
            shard.commits_out.set(shard.commits_out.get() - 1);
            shard.relay.borrow_mut().handle_committed(now, reply);
        }
        Inbound::Live(live) => shard.relay.borrow_mut().handle_live(now, &live),
        Inbound::Snapshot(sender) => drop(sender.send(shard.snapshot())),
        Inbound::Publish(event, sender) => shard.publish(now, &event, sender),
        Inbound::PublishCopy(event, sender) => shard.publish_copy(now, &event, sender),
        Inbound::OpenStream { filters, after, sender, opened } => {
            let _ = opened.send(shard.open_stream(&filters, after, sender));
        }
        Inbound::Stop => {
            if shard.stop.get() == Stop::No {
                shard.stop.set(Stop::Finishing);
            }
        }
    }
}

impl<B: Backend> Shard<B> {
    /// How long the event loop may sleep, if something besides a wake ends it.
    fn wait(&self) -> Option<Duration> {
        if self.is_congested.get() {
            return Some(CONGESTION_CHECK_INTERVAL);
        }
        let deadline = self.relay.borrow().poll_timeout()?;
        Some(Duration::from_millis(deadline.millis_since(now())))
    }

    /// Does what the machine wants done; connections are flushed later, each once an iteration.
    fn handle_output(&self, now: Now) {
        let mut relay = self.relay.borrow_mut();
        if relay.poll_timeout().is_some_and(|deadline| deadline <= now) {
            relay.handle_timeout(now);
        }
        let is_idle = self.more_input.get() == 0;
        let mut ephemeral = Vec::new();
        while let Some(output) = relay.poll_output(now, is_idle) {
            match output {
                Output::Verify(batch) => {
                    let begun = Instant::now();
                    let checked = batch.verify(&*self.verifier);
                    self.metrics.borrow_mut().verify_us.record(begun.elapsed().as_micros() as u64);
                    relay.handle_verified(now, checked);
                }
                Output::Commit(commit) => self.send_commit(commit),
                Output::Forward(live) => ephemeral.push(live),
                Output::Ready(id) => self.to_flush.borrow_mut().push(id),
                Output::Close(id, close) => self.close(id, close),
                Output::Resume(id) => self.resume_input(id),
                Output::Published(ticket, outcome) => self.notify_publisher(ticket, outcome),
                Output::StoreFailed(error) => {
                    if let Some(times) = self.store_errors.record(Instant::now()) {
                        tracing::error!(%error, times, "a read of the store failed");
                    }
                }
            }
        }
        while let Some((ticket, outcome)) = relay.poll_copied() {
            self.notify_publisher(ticket, outcome);
        }
        self.forward_ephemeral(ephemeral);
    }

    /// Steps of waiting scans, for as long as sockets can well wait.
    fn work(&self) {
        let mut relay = self.relay.borrow_mut();
        let begun = Instant::now();
        while relay.has_work() && begun.elapsed() < WORK_MAX {
            relay.work(now());
        }
    }

    fn send_commit(&self, commit: Commit) {
        self.commits_out.set(self.commits_out.get() + 1);
        let message = ToWriter::Commit { shard: self.number, commit };
        // The writer outlives the shards; were it gone, nothing would ever be acknowledged.
        if self.host.writer.send(message).is_err() {
            self.host.fail("the writer has ended".to_owned());
        }
    }

    /// Hands ephemeral events that were accepted here to the other shards.
    fn forward_ephemeral(&self, live: Vec<LiveEvent>) {
        if live.is_empty() {
            return;
        }
        let live: Arc<[LiveEvent]> = live.into();
        for (number, inbox) in self.host.inboxes.iter().enumerate() {
            if number != self.number {
                inbox.push(Inbound::Live(Arc::clone(&live)));
            }
        }
    }

    fn resume_input(&self, id: ConnId) {
        if let Some(conn) = self.conns.borrow().get(&id) {
            conn.is_paused.set(false);
            conn.signal();
        }
    }

    /// Writes to the connections whose turn it is, in a round of bounded cost.
    fn flush_round(&self) {
        let mut round = self.to_flush.borrow_mut().begin_round();
        loop {
            let next = self.to_flush.borrow_mut().next(&round);
            let Some(id) = next else { break };
            let bytes = self.flush(id);
            round.charge(bytes);
        }
        // Until then an EOSE may wait for its connection's turn.
        if self.to_flush.borrow().is_pass_over() {
            self.relay.borrow_mut().handle_flushed(now());
        }
    }

    /// Stops reading from sockets while some shard is behind with live events, and wakes them afterwards.
    fn watch_congestion(&self) {
        let is_congested = self.host.is_congested();
        if self.is_congested.replace(is_congested) && !is_congested {
            self.signal_all();
        }
    }

    fn signal_all(&self) {
        for conn in self.conns.borrow().values() {
            conn.signal();
        }
    }

    /// Once everything that was read has been answered, connections are closed. So they are
    /// when the store has failed, for then its answers may never come.
    fn advance_stop(&self, has_work: bool) {
        let has_failed = self.host.failure().is_some();
        let is_done = self.stop.get() == Stop::Finishing
            && !has_work
            && (self.commits_out.get() == 0 || has_failed)
            && !self.relay.borrow().has_unverified()
            && self.to_flush.borrow().is_empty();
        if is_done {
            self.stop.set(Stop::Closing);
            for conn in self.conns.borrow().values() {
                self.close_for_shutdown(conn);
            }
            self.wake_event_loop();
        }
    }

    /// Pings connections, and closes those that do not answer.
    fn check_deadlines(&self) {
        self.relay.borrow_mut().handle_timeout(now());
        let now = Instant::now();
        let network = &self.host.settings.network;
        let stall_max = Duration::from_secs(network.write_stall_seconds);
        let ping_every = self.host.ping_interval();
        let mut to_ping = Vec::new();
        for conn in self.conns.borrow().values() {
            match conn.state.get() {
                State::Closed(until) if until <= now => conn.end(),
                State::Closed(_) | State::Gone => {}
                State::Open | State::Closing if conn.stall(now) >= stall_max => {
                    if let Some(times) = self.stalled.record(now) {
                        tracing::info!(times, "slow client disconnected");
                    }
                    self.metrics.borrow_mut().closed_stalled += 1;
                    conn.end();
                }
                State::Open | State::Closing if conn.has_backlog() || conn.is_paused.get() => {}
                State::Open | State::Closing if conn.silence(now) >= ping_every * UNANSWERED_PINGS_MAX => {
                    tracing::debug!("connection closed: no answer to pings");
                    self.metrics.borrow_mut().closed_unresponsive += 1;
                    conn.end();
                }
                State::Open | State::Closing => {
                    if conn.is_ping_due(now, ping_every) {
                        to_ping.push(Rc::clone(conn));
                    }
                }
            }
        }
        // Thousands may be due at once: pings are written in their turn, as everything is.
        for conn in to_ping {
            conn.is_ping_queued.set(true);
            self.request_flush(conn.id);
        }
        self.inbox().wake.notify_one();
        debug_assert!(self.inbox().sockets.load(Ordering::Relaxed) >= self.conns.borrow().len());
    }
}
