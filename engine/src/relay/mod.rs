//! The relay as a machine: frames and verdicts in, frames and commits out.
//!
//! One [`Relay`] is one shard. A host owns it, feeds it and carries out what it wants, all on one thread:
//!
//! ```text
//! connect, handle_text, publish, ... --> [ machine ] --> poll_output -> Verify, Commit, Forward, Ready, Close, Resume,
//! handle_verified, handle_committed, -->                                Published, StoreFailed
//! handle_live, work, handle_timeout                  --> drain, poll_stream, poll_changed, poll_timeout
//! ```
//!
//! [`Relay::run`] is the whole loop for a host with one shard on one thread; `examples/embed.rs` is such a host.
//!
//! The machine reads its store directly and writes it only through [`commit()`], which a host may run on
//! another thread, for several shards at once. Mutate first, then drain: every `handle_*` only changes
//! state, every `poll_*` only hands out the work that this left. Nothing is dropped silently: what is
//! over a bound is refused with a reason, and a slow reader's events wait in the store, not in memory.

mod addresses;
mod catch_up;
mod commit;
mod config;
mod costs;
mod deliveries;
mod fair_batches;
mod fanout;
mod future_filters;
mod hash;
mod ids;
mod ingest;
mod input;
mod members;
mod messages;
mod metrics;
mod neg;
mod outbox;
mod output;
mod publish;
mod queries;
mod query_memory;
mod query_steps;
mod queued_output;
mod reply;
mod requests;
mod scheduler;
mod session;
mod snapshot;
mod streams;
mod subscriptions;
mod values;

use std::collections::VecDeque;
use std::sync::Arc;

use rustc_hash::FxHashMap;
use sha2::{Digest, Sha256};

pub use commit::{Commit, CommitReply, Committed, LiveEvent, commit};
pub use config::{ClientInfo, Config};
pub use costs::TopCosts;
pub use ids::{ConnId, StreamId, Ticket};
pub use ingest::InFlightId;
pub use metrics::{Histogram, Metrics};
pub use outbox::Frame;
pub use output::Output;
pub use publish::PublishOutcome;
pub use query_steps::ClientViewer;
pub use session::Close;
pub use snapshot::{Progress, SessionSnapshot, SubSnapshot};

use crate::policy::Auth;
use crate::store::{Backend, Reader, Seq, StoreError};
use crate::types::Now;
use crate::verify::{Batch, VerifiedBatch, Verifier};

use addresses::SharedRates;
use commit::CommitQueue;
use costs::Costs;
use deliveries::Deliveries;
use ingest::Ingest;
use members::KnownMembers;
use neg::{Holdings, Preparation, SetCache};
use publish::Published;
use queries::{FairnessKey, Queries};
use queued_output::QueuedOutput;
use session::{Session, Sessions};
use streams::Streams;
use subscriptions::Subscriptions;
use values::FilterValues;

/// Events on their way to the verifier.
pub type VerifyBatch = Batch<InFlightId>;
/// Events whose signatures have been checked.
pub type VerifyResult = VerifiedBatch<InFlightId>;

/// One shard of a relay.
pub struct Relay<B> {
    config: Arc<Config>,
    store: B,
    verifier: Arc<dyn Verifier>,
    seed: [u8; 32],
    challenges: u64,
    sessions: Sessions,
    /// What waits for all readers; each session says how much of it is its own.
    queued_output: QueuedOutput,
    address_rates: SharedRates,
    costs: Costs,
    ingest: Ingest,
    commit_queue: CommitQueue,
    subscriptions: Subscriptions,
    deliveries: Deliveries,
    values: FilterValues,
    queries: Queries,
    /// Sets of events for NIP-77.
    neg_sets: SetCache,
    /// The one that is collected before it is asked for.
    prepared: Preparation,
    /// Which addresses hold them.
    neg_holdings: Holdings,
    /// Of the last NEG-OPEN.
    neg_serial: u64,
    streams: Streams,
    published: Published,
    /// Who may write, if that is for members.
    members: KnownMembers,
    /// Connections with output, not yet reported to the host.
    ready: VecDeque<ConnId>,
    closing: VecDeque<(ConnId, Close)>,
    resumed: VecDeque<ConnId>,
    /// Connections that wait for the number of events in flight to fall.
    waiting_for_ingest: Vec<ConnId>,
    forwarded: VecDeque<LiveEvent>,
    /// Connections whose snapshots are not what they were.
    changed: VecDeque<ConnId>,
    store_error: Option<StoreError>,
    metrics: Metrics,
}

impl<B: Backend> Relay<B> {
    /// A shard without connections. `seed` is secret and random: challenges and hash keys come from it.
    pub fn new(config: Arc<Config>, store: B, verifier: Arc<dyn Verifier>, seed: [u8; 32]) -> Self {
        let queries = Queries::new(config.limits.address_queries_max);
        let index_seed = u64::from_le_bytes(Sha256::digest(seed)[..8].try_into().expect("eight bytes"));
        Relay {
            config,
            store,
            verifier,
            seed,
            challenges: 0,
            sessions: Sessions::default(),
            queued_output: QueuedOutput::default(),
            address_rates: SharedRates::default(),
            costs: Costs::default(),
            ingest: Ingest::new(index_seed),
            commit_queue: CommitQueue::default(),
            subscriptions: Subscriptions::new(index_seed),
            deliveries: Deliveries::default(),
            values: FilterValues::default(),
            queries,
            neg_sets: SetCache::default(),
            prepared: Preparation::default(),
            neg_holdings: Holdings::default(),
            neg_serial: 0,
            streams: Streams::default(),
            published: Published::default(),
            members: KnownMembers::default(),
            ready: VecDeque::new(),
            closing: VecDeque::new(),
            resumed: VecDeque::new(),
            waiting_for_ingest: Vec::new(),
            forwarded: VecDeque::new(),
            changed: VecDeque::new(),
            store_error: None,
            metrics: Metrics::default(),
        }
    }

    /// A client has connected. `None` if the shard holds as many as it may.
    pub fn connect(&mut self, now: Now, client: ClientInfo) -> Option<ConnId> {
        if self.sessions.len() >= self.config.limits.connections_max {
            self.metrics.connections_refused += 1;
            return None;
        }
        let url = self.config.url.clone().or(client.host_header).map(String::into_boxed_str);
        let mut session = Session::new(now, Auth::new(None, url), &self.config.limits);
        session.address = client.address;
        let conn = self.sessions.insert(session);
        self.metrics.connections_opened += 1;
        self.update_gauges();
        self.mark_changed(conn);
        if self.config.policy.auth_required || self.config.policy.challenge_on_connect {
            self.send_challenge(conn);
        }
        Some(conn)
    }

    /// A challenge that no client was sent before, and that none can guess.
    fn next_challenge(&mut self) -> Box<str> {
        self.challenges += 1;
        let challenge = Sha256::new()
            .chain_update(self.seed)
            .chain_update(b"challenge")
            .chain_update(self.challenges.to_le_bytes())
            .finalize();
        faster_hex::hex_string(&challenge[..16]).into()
    }

    /// A client is gone. What it published still takes effect; what it asked is forgotten.
    pub fn disconnect(&mut self, conn: ConnId) {
        let Some(mut session) = self.sessions.remove(conn) else { return };
        self.queued_output.change(session.counted_output_bytes, 0);
        for key in session.subs.into_values() {
            self.subscriptions.remove(key);
        }
        self.queries.remove_connection(conn, session.address);
        self.metrics.query_bytes = self.queries.query_bytes();
        self.values.remove_connection(conn);
        let key = FairnessKey::of(conn, session.address);
        for ended in std::mem::take(&mut session.reconciliations).into_values() {
            self.release_reconciliation(key, &ended);
        }
        self.metrics.deferred_bytes -= session.deferred_bytes as u64;
        self.update_gauges();
    }

    /// A connection that has output since it was last drained.
    pub fn poll_ready(&mut self) -> Option<ConnId> {
        while let Some(conn) = self.ready.pop_front() {
            if let Some(session) = self.sessions.get_mut(conn) {
                session.in_ready = false;
                return Some(conn);
            }
        }
        None
    }

    /// Hands up to about `bytes_max` bytes of frames to `write`, at least one frame if there is any.
    /// True if more is left.
    pub fn drain(&mut self, conn: ConnId, bytes_max: usize, write: &mut dyn FnMut(Frame<'_>)) -> bool {
        let Some(session) = self.sessions.get_mut(conn) else { return false };
        let sent = session.outbox.drain(bytes_max, write);
        self.metrics.bytes_sent += sent as u64;
        let more = !session.outbox.is_empty();
        session.update_queued_total(&mut self.queued_output);
        self.metrics.outbox_bytes = self.queued_output.bytes() as u64;
        self.after_drain(conn);
        more
    }

    /// Reports that the host still holds `bytes` of what it drained for this reader; 0 is assumed until it says
    /// so. They count as if they were in the outbox: the reader is as slow as both together make it.
    pub fn handle_backlog(&mut self, conn: ConnId, bytes: usize) {
        let Some(session) = self.sessions.get_mut(conn) else { return };
        let fell = std::mem::replace(&mut session.backlog_bytes, bytes) > bytes;
        session.update_queued_total(&mut self.queued_output);
        self.metrics.outbox_bytes = self.queued_output.bytes() as u64;
        if fell || session.ephemeral_missed > 0 {
            self.after_drain(conn);
        }
    }

    /// Output that one reader may leave waiting now, in bytes, before its answers pause: `outbox_pause_bytes`, or less where
    /// much waits for all of them.
    pub fn outbox_pause_bytes(&self) -> usize {
        self.queued_output.pause_threshold(&self.config.limits)
    }

    /// Changes `shard_outbox_bytes_max`, for a host that keeps output of its own in the same memory.
    pub fn set_shard_outbox_bytes_max(&mut self, bytes: usize) {
        if self.config.limits.shard_outbox_bytes_max != bytes {
            Arc::make_mut(&mut self.config).limits.shard_outbox_bytes_max = bytes;
        }
    }

    /// A connection that the host should close once its output is out.
    pub fn poll_close(&mut self) -> Option<(ConnId, Close)> {
        self.closing.pop_front()
    }

    /// An ephemeral event that was accepted here and is for the other shards' [`Relay::handle_live`].
    pub fn poll_forwarded(&mut self) -> Option<LiveEvent> {
        self.forwarded.pop_front()
    }

    /// When [`Relay::handle_timeout`] wants to be called at the latest.
    pub fn poll_timeout(&self) -> Option<Now> {
        let deadline = self.ingest.batch_deadline(&self.config.limits);
        let prepared = self.prepared.poll_timeout(self.config.limits.neg_prepared_events_max);
        let times = deadline.into_iter().chain(self.streams.retry_at()).chain(prepared);
        times.chain(self.queries.resume_at()).min()
    }

    /// Whether events wait for [`Relay::poll_verify`].
    pub fn has_unverified(&self) -> bool {
        self.ingest.has_batch()
    }

    /// Time has passed. A full or old verification batch comes out of [`Relay::poll_verify`].
    pub fn handle_timeout(&mut self, now: Now) {
        self.advance_subscriptions(now);
        self.sweep();
        self.prepare_set(now);
        for replay in self.streams.take_failed(now) {
            self.enqueue(replay);
        }
        for query in self.queries.take_due(now) {
            self.enqueue(query);
        }
    }

    /// Counters and histograms.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The store the machine reads.
    pub fn store(&self) -> &B {
        &self.store
    }

    /// The configuration it runs under.
    pub fn config(&self) -> &Arc<Config> {
        &self.config
    }

    fn mark_changed(&mut self, conn: ConnId) {
        if let Some(session) = self.sessions.get_mut(conn)
            && !session.changed
        {
            session.changed = true;
            self.changed.push_back(conn);
            // A host that keeps no snapshots never asks, and connections come and go.
            if self.changed.len() > 64 + 2 * self.sessions.len() {
                let sessions = &mut self.sessions;
                self.changed.retain(|conn| sessions.get_mut(*conn).is_some());
            }
        }
    }

    /// To be called whenever something has been put into an outbox.
    fn mark_ready(&mut self, conn: ConnId) {
        let Some(session) = self.sessions.get_mut(conn) else { return };
        session.update_queued_total(&mut self.queued_output);
        self.metrics.outbox_bytes = self.queued_output.bytes() as u64;
        if !session.in_ready && !session.outbox.is_empty() {
            session.in_ready = true;
            self.ready.push_back(conn);
        }
    }

    /// Filters whose time has come enter the index; see [`future_filters`].
    fn advance_subscriptions(&mut self, now: Now) {
        let ahead = self.config.limits.created_at_ahead_seconds_max;
        self.subscriptions.advance(now.seconds().saturating_add(ahead));
    }

    /// Takes out some of what ended subscriptions left in the index.
    fn sweep(&mut self) {
        if self.subscriptions.is_sweep_due() {
            self.subscriptions.sweep();
            self.metrics.index_bytes = self.subscriptions.index_bytes() as u64;
        }
    }

    /// A read of the store failed. Returns what its client is told; the host is told everything by [`Output::StoreFailed`].
    fn record_store_error(&mut self, error: &StoreError) -> &'static str {
        self.metrics.store_read_errors += 1;
        self.store_error.get_or_insert_with(|| error.clone());
        messages::store(error)
    }

    /// A failed read of the store, for the operator's log: of those since the last call the first.
    pub fn poll_store_error(&mut self) -> Option<StoreError> {
        self.store_error.take()
    }

    fn last_seq(&self) -> Result<Seq, StoreError> {
        self.store.reader()?.last_seq()
    }
}

/// A map whose keys the machine numbers itself; see [`hash`] for others.
type FastMap<K, V> = FxHashMap<K, V>;
