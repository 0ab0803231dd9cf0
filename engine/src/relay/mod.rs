//! The relay as a machine: frames and verdicts in, frames and commits out.
//!
//! One [`Relay`] is one shard. A host owns it, feeds it and carries out what it wants, all on one thread:
//!
//! ```text
//! connect, handle_text, publish, ... --> [ machine ] --> poll_output -> Verify, Commit, Relay, Ready, Close, Resume,
//! handle_verified, handle_committed, -->                                Published
//! handle_live, work, handle_timeout                  --> drain, poll_stream, poll_changed, poll_timeout
//! ```
//!
//! [`Relay::run`] is the whole loop for a host with one shard on one thread; `examples/embed.rs` is such a host.
//!
//! The machine reads its store directly and writes it only through [`commit`], which a host may run on
//! another thread, for several shards at once. Mutate first, then drain: every `handle_*` only changes
//! state, every `poll_*` only hands out what that left to do. Nothing is ever dropped in silence: what is
//! over a bound is refused in words, and a slow reader's events wait in the store, not in memory.

mod commit;
mod config;
mod fanout;
mod ingest;
mod metrics;
mod outbox;
mod output;
mod publish;
mod reply;
mod request;
mod session;
mod snapshot;
mod stream;
mod words;

use std::collections::VecDeque;
use std::sync::Arc;

use rustc_hash::FxHashMap;
use sha2::{Digest, Sha256};

pub use commit::{Commit, CommitReply, Committed, Live, commit};
pub use config::{Config, Peer};
pub use ingest::InFlight;
pub use metrics::{Histogram, Metrics};
pub use outbox::Frame;
pub use output::Output;
pub use publish::{Outcome, Ticket};
pub use session::{Close, ConnId};
pub use snapshot::{Progress, SessionSnapshot, SubSnapshot};
pub use stream::StreamId;

use crate::index::Index;
use crate::policy::Auth;
use crate::store::{Backend, Seq};
use crate::types::{Event, Now};
use crate::verify::{Batch, Checked, Verifier};
use crate::wire::{self, About, ClientMessage, Fault, Skimmer, WireError};

use commit::Pending;
use fanout::LiveSubs;
use ingest::Ingest;
use publish::Published;
use request::Request;
use session::{Deferred, Session, Sessions};
use stream::Streams;

/// Events on their way to the verifier.
pub type VerifyBatch = Batch<InFlight>;
/// Events on their way back.
pub type VerifyChecked = Checked<InFlight>;

/// One shard of a relay.
pub struct Relay<B> {
    config: Arc<Config>,
    store: B,
    verifier: Arc<dyn Verifier>,
    seed: [u8; 32],
    challenges: u64,
    sessions: Sessions,
    ingest: Ingest,
    pending: Pending,
    index: Index,
    live: LiveSubs,
    /// Values in the filters of all sessions.
    filter_values: usize,
    /// Requests with work to do, each taking a step in turn.
    requests: VecDeque<Request>,
    /// When those REQs began whose EOSE the host has not yet been handed.
    answered: Vec<Now>,
    streams: Streams,
    published: Published,
    /// Connections with output that the host has not been told of.
    ready: VecDeque<ConnId>,
    closing: VecDeque<(ConnId, Close)>,
    resumed: VecDeque<ConnId>,
    /// Connections that wait for the number of events in flight to fall.
    waiting_for_ingest: Vec<ConnId>,
    relayed: VecDeque<Event>,
    /// Connections whose snapshots are not what they were.
    changed: VecDeque<ConnId>,
    metrics: Metrics,
}

impl<B: Backend> Relay<B> {
    /// A shard without connections. `seed` is secret and random: challenges and hash keys come from it.
    pub fn new(config: Arc<Config>, store: B, verifier: Arc<dyn Verifier>, seed: [u8; 32]) -> Self {
        let index_seed = u64::from_le_bytes(Sha256::digest(seed)[..8].try_into().expect("eight bytes"));
        Relay {
            config,
            store,
            verifier,
            seed,
            challenges: 0,
            sessions: Sessions::default(),
            ingest: Ingest::new(index_seed),
            pending: Pending::default(),
            index: Index::with_seed(index_seed),
            live: LiveSubs::default(),
            filter_values: 0,
            requests: VecDeque::new(),
            answered: Vec::new(),
            streams: Streams::default(),
            published: Published::default(),
            ready: VecDeque::new(),
            closing: VecDeque::new(),
            resumed: VecDeque::new(),
            waiting_for_ingest: Vec::new(),
            relayed: VecDeque::new(),
            changed: VecDeque::new(),
            metrics: Metrics::default(),
        }
    }

    /// A client has connected. `None` if the shard holds as many as it may.
    pub fn connect(&mut self, now: Now, peer: Peer) -> Option<ConnId> {
        if self.sessions.len() >= self.config.limits.connections_max {
            self.metrics.connections_refused += 1;
            return None;
        }
        let url = self.config.url.clone().or(peer.host).map(String::into_boxed_str);
        let conn =
            self.sessions.insert(|conn| Session::new(conn, now, Auth::new(None, url), &self.config.limits));
        self.metrics.connections_opened += 1;
        self.metrics.connections = self.sessions.len() as u64;
        self.mark_changed(conn);
        if self.config.policy.auth_required || self.config.policy.challenge_on_connect {
            self.send_challenge(conn);
        }
        Some(conn)
    }

    /// A challenge that nobody was sent before, and nobody can guess.
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
        let Some(session) = self.sessions.remove(conn) else { return };
        self.filter_values -= session.filter_values + session.count_values;
        self.metrics.filter_values = self.filter_values as u64;
        for (_, slot) in session.subs {
            self.drop_slot(slot);
        }
        self.metrics.connections = self.sessions.len() as u64;
        self.metrics.subscriptions = self.live.clients() as u64;
    }

    /// One whole text message.
    pub fn handle_text(&mut self, now: Now, conn: ConnId, text: &[u8]) {
        self.metrics.bytes_received += text.len() as u64;
        let limits = &self.config.limits;
        let Some(session) = self.sessions.get_mut(conn) else { return };
        if text.len() > limits.message_bytes_max {
            return self.handle_oversized(conn, text.len() as u64, Skimmer::skim(text));
        }
        let message = wire::parse_client_message(text, limits);
        // Frames of one connection take effect in order: what follows an event that is still on its way
        // waits for it, but for further events, which may share its batch; and whatever follows a request waits
        // for its first step.
        let waits = !session.deferred.is_empty()
            || session.unbegun > 0
            || (session.in_flight > 0 && !matches!(message, Ok(ClientMessage::Event(_)) | Err(_)));
        if waits {
            session.defer(Deferred::Text(text.into()));
            self.metrics.messages_deferred += 1;
            return;
        }
        self.handle_message(now, conn, message);
    }

    /// A binary message: there are none in Nostr.
    pub fn handle_binary(&mut self, conn: ConnId) {
        self.bad_message(conn, words::BINARY);
    }

    /// A message of `bytes` bytes that the host skipped because it is over `message_bytes_max`. What it is `about`
    /// a [`Skimmer`] has seen.
    pub fn handle_oversized(&mut self, conn: ConnId, bytes: u64, about: About) {
        let bytes_max = self.config.limits.message_bytes_max;
        let error = WireError { at: bytes_max, fault: Fault::MessageTooLong { bytes, bytes_max }, about };
        let Some(session) = self.sessions.get_mut(conn) else { return };
        if session.deferred.is_empty() && session.unbegun == 0 {
            return self.handle_malformed(conn, &error);
        }
        session.defer(Deferred::Malformed(error));
        self.metrics.messages_deferred += 1;
    }

    /// Whether the host should go on reading from this connection. After `false` the connection will
    /// come out of [`Relay::poll_input_resumed`].
    pub fn wants_input(&mut self, conn: ConnId) -> bool {
        let Some(session) = self.sessions.get_mut(conn) else { return false };
        session.input_paused = true;
        self.may_resume(conn)
    }

    /// A connection whose reading was paused and may go on.
    pub fn poll_input_resumed(&mut self) -> Option<ConnId> {
        self.resumed.pop_front()
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
        self.after_drain(conn);
        more
    }

    /// The host still holds `bytes` of what it drained for this reader; nothing is assumed until it says
    /// so. They count as if they were in the outbox: the reader is as slow as both together make it.
    pub fn handle_backlog(&mut self, conn: ConnId, bytes: usize) {
        let Some(session) = self.sessions.get_mut(conn) else { return };
        let fell = std::mem::replace(&mut session.backlog_bytes, bytes) > bytes;
        if fell || session.ephemeral_missed > 0 {
            self.after_drain(conn);
        }
    }

    /// Changes `outbox_bytes_pause`: a host with little memory gives a reader the less, the more there are.
    pub fn set_outbox_bytes_pause(&mut self, bytes: usize) {
        if self.config.limits.outbox_bytes_pause != bytes {
            Arc::make_mut(&mut self.config).limits.outbox_bytes_pause = bytes;
        }
    }

    /// A connection that the host should close once its output is out.
    pub fn poll_close(&mut self) -> Option<(ConnId, Close)> {
        self.closing.pop_front()
    }

    /// An ephemeral event that was accepted here and is for the other shards' [`Relay::handle_live`].
    pub fn poll_relayed(&mut self) -> Option<Event> {
        self.relayed.pop_front()
    }

    /// When [`Relay::handle_timeout`] wants to be called at the latest.
    pub fn poll_timeout(&self) -> Option<Now> {
        let deadline = self.ingest.batch_deadline(&self.config.limits);
        deadline.into_iter().chain(self.streams.retry_at()).min()
    }

    /// Whether events wait for [`Relay::poll_verify`].
    pub fn has_unverified(&self) -> bool {
        self.ingest.has_batch()
    }

    /// Time has passed. A full or old verification batch comes out of [`Relay::poll_verify`].
    pub fn handle_timeout(&mut self, now: Now) {
        self.index.sweep(SWEEP_POSTINGS);
        for replay in self.streams.take_failed(now) {
            self.enqueue(replay);
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

    /// Runs what waited behind this connection's events and requests, as far as they have taken effect.
    fn run_deferred(&mut self, now: Now, conn: ConnId) {
        loop {
            let Some(session) = self.sessions.get_mut(conn) else { return };
            let waits_for_events = match session.deferred.front() {
                None => break,
                Some(Deferred::Malformed(_)) => false,
                Some(Deferred::Text(text)) => {
                    let message = wire::parse_client_message(text, &self.config.limits);
                    !matches!(message, Ok(ClientMessage::Event(_)))
                }
            };
            if session.unbegun > 0 || (session.in_flight > 0 && waits_for_events) {
                break;
            }
            match session.take_deferred().expect("it was at the front") {
                Deferred::Text(text) => {
                    let message = wire::parse_client_message(&text, &self.config.limits);
                    self.handle_message(now, conn, message);
                }
                Deferred::Malformed(error) => self.handle_malformed(conn, &error),
            }
        }
        self.resume_input(conn);
    }

    fn handle_message(
        &mut self,
        now: Now,
        conn: ConnId,
        message: Result<ClientMessage<'_>, wire::WireError>,
    ) {
        let Some(session) = self.sessions.get_mut(conn) else { return };
        match message {
            Ok(message) => {
                let was_bad = std::mem::take(&mut session.bad_messages) > 0;
                if was_bad || self.config.limits.counts_messages() {
                    self.mark_changed(conn);
                }
                match message {
                    ClientMessage::Event(raw) => self.handle_event(now, conn, &raw),
                    ClientMessage::Auth(raw) => self.handle_auth(now, conn, &raw),
                    ClientMessage::Req { sub, filters } => self.handle_req(now, conn, sub, filters),
                    ClientMessage::Count { query, filters } => self.handle_count(now, conn, query, filters),
                    ClientMessage::Close { sub } => self.handle_close(conn, &sub),
                    ClientMessage::Neg { query } => {
                        self.metrics.messages_bad += 1;
                        self.send_neg_err(conn, &query, words::NO_RECONCILIATION);
                    }
                    // Nothing is open, and nobody waits for an answer.
                    ClientMessage::NegClose => self.metrics.messages_bad += 1,
                }
            }
            Err(error) => self.handle_malformed(conn, &error),
        }
    }

    /// Lets the host read on if it was told to pause and the reason is gone.
    fn resume_input(&mut self, conn: ConnId) {
        if self.may_resume(conn) {
            self.resumed.push_back(conn);
        }
    }

    /// Ends the pause of a connection's input if nothing stands against it. What does will call again: its
    /// own output and deferred messages always do, events in flight if the connection is on their list.
    fn may_resume(&mut self, conn: ConnId) -> bool {
        let limits = &self.config.limits;
        let Some(session) = self.sessions.get_mut(conn) else { return false };
        if !session.input_paused || !session.takes_input(limits) {
            return false;
        }
        if self.ingest.has_room(limits) {
            session.input_paused = false;
            return true;
        }
        if !session.waits_for_ingest {
            session.waits_for_ingest = true;
            self.waiting_for_ingest.push(conn);
        }
        false
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

    fn mark_ready(&mut self, conn: ConnId) {
        if let Some(session) = self.sessions.get_mut(conn)
            && !session.in_ready
            && !session.outbox.is_empty()
        {
            session.in_ready = true;
            self.ready.push_back(conn);
        }
    }

    fn last_seq(&self) -> Result<Seq, crate::store::StoreError> {
        use crate::store::Reader;
        self.store.reader()?.last_seq()
    }
}

/// Postings of ended subscriptions swept at a time: some 20 us.
const SWEEP_POSTINGS: usize = 2_000;

/// Maps whose keys a client can choose are keyed by the shard's seed.
type SeededMap<K, V> = std::collections::HashMap<K, V, rustc_hash::FxSeededState>;
type FastMap<K, V> = FxHashMap<K, V>;
