//! The one writer thread: group commit and, between commits, steps that remove expired events and those pending
//! removal, each of a few milliseconds.
//!
//! Between them it also does what commands in other processes want, each request in one step ([`crate::served`]).
//!
//! Whatever waits when a commit begins is made durable by that one commit; what arrives meanwhile forms the
//! next. It decides nothing about events: [`relay_engine::relay::commit`] does.
//!
//! # When the disk fails
//!
//! A full disk: the events are answered `OK false error:`, reading and serving go on, and writing works again as
//! soon as there is space. Any other failure: the events are answered `OK false error:` too, and a write that
//! asks for nothing but a sync is tried. If that fails as well, what the disk holds is unknown, so
//! the process stops in order with exit code 3 and leaves recovery to the next start. It takes no new
//! connections meanwhile.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use relay_engine::relay::{self, Commit, CommitReply, Committed, LiveEvent};
use relay_engine::store::{Backend, Reader, StoreError, Tombstone, Writer, remove_pending, sweep_expired};
use relay_engine::types::{EventId, PubKey};

use crate::foreign_commits::ForeignCommits;
use crate::host::{Inbound, ServerState, now};
use crate::log_throttle::LogThrottle;
use crate::retention::Retention;
use crate::served::{self, Answer, Waiting};

/// What the commits that are made durable together may cost, see [`Commit::cost`]: some 4,000 usual events.
const BATCH_COST_MAX: usize = 65_536;
/// Interval at which events that other processes have stored are looked for.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Events removed by one sweep step, so that no commit waits for long.
const SWEEP_EVENTS_MAX: usize = 512;
/// Wait for shards that are behind, before what commands store is given to them.
const CONGESTION_WAIT: Duration = Duration::from_millis(5);

/// Something for the writer.
pub(crate) enum ToWriter {
    /// Changes of a shard.
    Commit {
        /// Which shard.
        shard: usize,
        /// The changes.
        commit: Commit,
    },
    /// What a command in another process wants.
    Served(Waiting),
    /// Everything has been sent.
    Stop,
}

/// Runs until it is stopped; everything sent before is durable then.
pub(crate) fn run<B: Backend>(host: &ServerState, store: &B, receiver: &Receiver<ToWriter>) {
    let sweep_every = Duration::from_secs(host.settings.store.sweep_seconds);
    let mut sweep_at = Instant::now() + sweep_every;
    // What was pending removal when the process last ended is removed first.
    let mut removes_pending = true;
    let mut batch = Batch::default();
    let disk_full_log = LogThrottle::default();
    let mut retention = Retention::new(&host.settings.store, Instant::now());
    let mut foreign = ForeignCommits::new(store);
    let mut served = VecDeque::new();
    loop {
        let idle_for = match (removes_pending, served.is_empty()) {
            (_, false) if host.is_congested() => CONGESTION_WAIT,
            (true, _) | (_, false) => Duration::ZERO,
            (false, true) => {
                let due_at = retention.due_at().map_or(sweep_at, |at| at.min(sweep_at));
                due_at.saturating_duration_since(Instant::now()).min(LOOK_EVERY)
            }
        };
        match receiver.recv_timeout(idle_for) {
            Ok(message) => {
                batch.add(message);
                // What arrived while the last commit was under way joins this one.
                while batch.events < host.settings.store.commit_events_max
                    && batch.cost < BATCH_COST_MAX
                    && !batch.is_last
                {
                    let Ok(message) = receiver.try_recv() else { break };
                    batch.add(message);
                }
                let is_last = batch.is_last;
                served.extend(batch.served.drain(..));
                if !batch.commits.is_empty() {
                    commit(host, store, std::mem::take(&mut batch), &mut foreign, &disk_full_log);
                    removes_pending = true;
                }
                if is_last {
                    // Nobody waits for deliveries any more.
                    for waiting in served {
                        serve(host, store, waiting, &disk_full_log);
                    }
                    return;
                }
            }
            // Shards that are behind are not given more than must be.
            Err(RecvTimeoutError::Timeout) if host.is_congested() => {}
            Err(RecvTimeoutError::Timeout) => deliver(host, store, Vec::new(), Vec::new(), &mut foreign),
            Err(RecvTimeoutError::Disconnected) => return,
        }
        // One after each commit, so that clients do not wait for long. Commands wait for shards that are behind.
        if !host.is_congested()
            && let Some(waiting) = served.pop_front()
        {
            serve(host, store, waiting, &disk_full_log);
            deliver(host, store, Vec::new(), Vec::new(), &mut foreign);
            removes_pending = true;
        }
        // One step of each, then what has arrived meanwhile is committed.
        if removes_pending {
            removes_pending = remove(host, store, &disk_full_log);
        }
        if Instant::now() >= sweep_at {
            let more = sweep(host, store, &disk_full_log);
            sweep_at = Instant::now() + if more { Duration::ZERO } else { sweep_every };
            // A step that failed is tried again now and then.
            removes_pending = true;
        }
        if retention.due_at().is_some_and(|at| at <= Instant::now()) {
            match retention.step(store, now().seconds(), Instant::now()) {
                Ok(events) => {
                    let mut metrics =
                        host.writer_metrics.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    metrics.events_removed_by_retention += events as u64;
                }
                Err(error) => handle_store_error(host, store, &error, &disk_full_log),
            }
        }
    }
}

/// Does what a command wants, unless that has ended.
fn serve<B: Backend>(host: &ServerState, store: &B, waiting: Waiting, disk_full_log: &LogThrottle) {
    let Waiting { request, answer } = waiting;
    if answer.is_closed() {
        return;
    }
    let done = served::execute(store, now().seconds(), &request).unwrap_or_else(|error| {
        handle_store_error(host, store, &error, disk_full_log);
        Answer::Failed(error.to_string())
    });
    // If it has ended meanwhile, what was done stays.
    let _ = answer.send(done);
}

#[derive(Default)]
struct Batch {
    shards: Vec<usize>,
    commits: Vec<Commit>,
    served: Vec<Waiting>,
    events: usize,
    cost: usize,
    is_last: bool,
}

impl Batch {
    fn add(&mut self, message: ToWriter) {
        match message {
            ToWriter::Commit { shard, commit } => {
                self.events += commit.len();
                self.cost += commit.cost();
                self.shards.push(shard);
                self.commits.push(commit);
            }
            ToWriter::Served(waiting) => self.served.push(waiting),
            ToWriter::Stop => self.is_last = true,
        }
    }
}

fn commit<B: Backend>(
    host: &ServerState,
    store: &B,
    batch: Batch,
    foreign: &mut ForeignCommits,
    disk_full_log: &LogThrottle,
) {
    let Batch { shards, commits, events, .. } = batch;
    let begun = Instant::now();
    let Committed { replies, live, error } = relay::commit(store, now(), commits);
    let took = begun.elapsed();
    {
        let mut metrics = host.writer_metrics.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        metrics.batch_events.record(events as u64);
        metrics.commit_us.record(took.as_micros() as u64);
        metrics.events_offered += events as u64;
        metrics.events_written += live.len() as u64;
        metrics.last_batch_events = events as u64;
        metrics.errors += u64::from(error.is_some());
    }
    deliver(host, store, shards.into_iter().zip(replies).collect(), live, foreign);
    if let Some(error) = error {
        handle_store_error(host, store, &error, disk_full_log);
    }
}

/// Gives shards their replies, and all of them the events of this process and of others.
fn deliver<B: Backend>(
    host: &ServerState,
    store: &B,
    replies: Vec<(usize, CommitReply)>,
    mut live: Vec<LiveEvent>,
    foreign: &mut ForeignCommits,
) {
    if let Err(error) = foreign.add_to(store, &mut live) {
        tracing::debug!(%error, "cannot look for what others have stored");
    }
    // Replies first, then the events, to every shard in the same order.
    let mut messages: Vec<Vec<Inbound>> = host.inboxes.iter().map(|_| Vec::new()).collect();
    for (shard, reply) in replies {
        messages[shard].push(Inbound::Committed(reply));
    }
    if !live.is_empty() {
        let live: Arc<[_]> = live.into();
        messages.iter_mut().for_each(|inbound| inbound.push(Inbound::Live(Arc::clone(&live))));
    }
    for (inbox, inbound) in host.inboxes.iter().zip(messages) {
        if !inbound.is_empty() {
            inbox.push_all(inbound);
        }
    }
}

/// One step towards removing what is pending removal. True if there is more.
fn remove<B: Backend>(host: &ServerState, store: &B, disk_full_log: &LogThrottle) -> bool {
    match remove_pending(store) {
        Ok(removed) => removed.more,
        Err(error) => {
            handle_store_error(host, store, &error, disk_full_log);
            false
        }
    }
}

/// One step of the sweep of expired events. True if there is more.
fn sweep<B: Backend>(host: &ServerState, store: &B, disk_full_log: &LogThrottle) -> bool {
    match sweep_expired(store, now().seconds(), SWEEP_EVENTS_MAX) {
        Ok(swept) => {
            let mut metrics = host.writer_metrics.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            metrics.events_expired += swept.events as u64;
            swept.more
        }
        Err(error) => {
            handle_store_error(host, store, &error, disk_full_log);
            false
        }
    }
}

/// Reports a failure of the store, and decides whether the process can continue.
fn handle_store_error<B: Backend>(
    host: &ServerState,
    store: &B,
    error: &StoreError,
    disk_full_log: &LogThrottle,
) {
    let fatal = match error {
        StoreError::Full(what) => {
            if let Some(times) = disk_full_log.record(Instant::now()) {
                tracing::error!(what, times, "no space left: new events are refused until there is some");
            }
            return;
        }
        StoreError::Corrupt(what) => Some(what.clone()),
        StoreError::Failed(what) => {
            tracing::error!(what, "a write failed");
            // A later second each time: what changes nothing would not reach the disk.
            let probed = store.write(|writer| {
                let last = writer.tombstone(&probe())?.unwrap_or(0);
                writer.put_tombstone(&probe(), last + 1)
            });
            match probed {
                Err(StoreError::Failed(what) | StoreError::Corrupt(what)) => Some(what),
                Ok(()) | Err(StoreError::Full(_)) => None,
            }
        }
    };
    if let Some(what) = fatal {
        tracing::error!(what, "the store can't be written any more; stopping");
        host.fail(what);
    }
}

/// A tombstone of nothing, for a write that changes nothing and yet needs the disk.
fn probe() -> Tombstone {
    Tombstone::Id(EventId([0; 32]), PubKey([0; 32]))
}
