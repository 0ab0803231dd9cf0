//! One agent.
//!
//! ```text
//! intake     events become jobs, or are refused (limits); cancel: cancellations, requests to vanish
//! inputs     the texts of events, other jobs (job_results) and URLs that a request names
//! run        attempts: executors and their calls, time limits, retries; load: jobs from the database
//! payments   what a job costs, when it is paid; invoices: from the wallet to the customer and back; books: what becomes of the money;
//!            postpay: results that wait for their payment; holds: payments that are held until there is a result; refunds: credit is paid out (approvals: if the owner
//!            agrees); splits: so are shares of the income; zaps: receipts of zaps (zap_key: who must have signed them); lnurl_call: calls to services of Lightning
//!            addresses; wallet: wallets are asked (wallet_requests) and answer (wallet_answers)
//! respond    feedback, results, failures; stored_result: results that are too large for an event
//! signer     a remote signer is asked, if it has the key; remote_signing: for what, and what is made of its answers
//! outbox     what is signed leaves in order, and is published again after a crash; read_relays: the relays where customers read;
//!            expired: feedback that waited too long
//! admin      deploy, roll back, pause, delete; announce: how it is found, again and again; removal_record: what is kept of a deleted one
//! purchases  what Blossom sells: an invoice for each, and whether it is paid
//! sessions   what was said before; schedules: jobs of its own
//! reads      history, sessions, metrics, logs, for the API; export: all of it
//! sweep      deletes old rows
//! effect     what an agent wants from its host
//! jobs       what is kept in memory of unfinished jobs; ready: whose turn it is
//! commit     one transaction a call; heartbeats: those of an agent with a remote signer
//! ```
//!
//! **Writes and memory.** A call changes what is in memory and collects its writes, and its last act is one transaction. Effects are
//! held until then, so nothing is seen outside that is not stored. If the transaction fails, writes and effects stay
//! where they are and are tried again, with later ones, while what is in memory goes on being right: a result is not lost because a
//! disk was full for a while. A process that ends instead finds in the database what was stored before, which is a state in
//! which no effect of the lost writes has happened either.

mod admin;
mod announce;
mod approvals;
mod books;
mod cancel;
mod commit;
mod effect;
mod expired;
mod export;
mod heartbeats;
mod holds;
mod inputs;
mod intake;
mod invoices;
mod job_results;
mod jobs;
mod limits;
mod lnurl_call;
mod load;
mod log;
mod members;
mod metrics;
mod outbox;
mod payments;
mod postpay;
mod purchases;
mod read_relays;
mod reads;
mod ready;
mod refunds;
mod remote_signing;
mod removal_record;
mod respond;
mod run;
mod schedules;
mod sessions;
mod signer;
mod splits;
mod stored_result;
mod sweep;
mod wallet;
mod wallet_answers;
mod wallet_requests;
mod zap_key;
mod zaps;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use relay_engine::sql::{SqlConn, StoreError};
use relay_engine::types::{Event, EventId, Now, PubKey};
use serde::{Deserialize, Serialize};

use self::admin::AgentRecord;
use self::jobs::{Active, Jobs};
use self::limits::Rates;
use self::outbox::Outbox;
use self::payments::Payments;
use self::purchases::Purchases;
use self::read_relays::ReadRelays;
use self::schedules::Schedules;
use self::signer::RemoteSigner;
use self::sweep::Sweep;
use crate::executor::{Executor, HttpEvent};
use crate::identity::{EventSigner, Keys};
use crate::manifest::{Handler, Manifest, ManifestError};
use crate::secrets::Secrets;
use crate::store::{self, Batch};

pub use self::approvals::RefundToApprove;
pub use self::effect::{Effect, EffectId, ExchangeEvent, Published};
pub(crate) use self::metrics::known_cause;
pub use self::metrics::{CAUSES, CustomerMetrics, LATENCY_BOUNDS_MILLIS, Metrics, MetricsDelta, PAYMENTS};
pub use self::purchases::PaymentReply;
pub use self::reads::{JobRecord, MemoryRecord, SessionRecord, Version};
pub use self::refunds::RefundRecord;
pub use self::removal_record::RemovalRecord;
pub use self::splits::ShareRecord;
pub use crate::store::{Account, Reason, RecipientKey, SentEvent, SessionMessage, Transfer};

/// The state of an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AgentState {
    /// It takes jobs.
    Active,
    /// It takes no new jobs; those it has wait.
    Paused,
    /// It takes no new jobs and finishes those it has.
    Draining,
    /// It is deleted; its announcements are retracted.
    Deleted,
}

/// A line of an agent's log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LogLine {
    /// Its number; lines are numbered from 1.
    pub number: u64,
    /// Milliseconds since 1970.
    pub at_millis: u64,
    /// The id of the job it is about, in hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job: Option<String>,
    /// What happened.
    pub message: String,
}

/// What an agent's machine is given by its host.
pub struct Context {
    /// Secrets by name; [`identity::MASTER_SECRET`](crate::identity::MASTER_SECRET) among them.
    pub secrets: Arc<dyn Secrets + Send + Sync>,
    /// The host's relay, `wss://...`, if its URL is known: named in announcements and in `e` tags.
    pub relay_url: Option<String>,
    /// The Blossom server beside the host's relay, if it has one whose URL is known.
    pub blossom: Option<BlobServer>,
    /// Secret, random and new for each opening: nonces are made of it.
    pub seed: [u8; 32],
}

/// A Blossom server on which agents store what is too large for an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlobServer {
    /// Where its blobs are, without a slash at the end: `https://relay.example`.
    pub base_url: String,
    /// Largest blob, in bytes.
    pub blob_bytes_max: u64,
}

/// Why a manifest cannot be deployed, or a command not be carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CommandError {
    /// The manifest, with the path of the field.
    Manifest(ManifestError),
    /// The secret of its identity is missing or no key.
    Identity(String),
    /// It has been deployed with another key.
    OtherKey,
    /// No such version, job, session; or nothing is deployed.
    NotFound,
    /// Not in this state.
    State(AgentState),
    /// The store failed.
    Store(StoreError),
}

/// One agent: a manifest, a key, jobs, and a database of its own.
///
/// What a call has accepted is durable when it returns. A host calls [`Agent::poll_effect`] until `None` after each call,
/// and [`Agent::handle_timeout`] when [`Agent::poll_timeout`] says so. An agent that [`Agent::is_idle`] can be dropped and opened
/// again when it is needed.
pub struct Agent<C> {
    conn: C,
    context: Context,
    executors: ExecutorFactory,
    /// `None` before the first manifest.
    record: Option<AgentRecord>,
    /// `None` without one, and when it is deleted.
    deployed: Option<Deployed>,
    jobs: Jobs,
    /// Jobs that are worked on.
    active: HashMap<EventId, Active>,
    /// What the effects are for whose outcome is awaited.
    awaited: HashMap<EffectId, Awaited>,
    /// If a remote signer has its key.
    signer: Option<RemoteSigner>,
    payments: Payments,
    purchases: Purchases,
    outbox: Outbox,
    /// The last round of heartbeats, if a remote signer has its key.
    heartbeat_round: u64,
    read_relays: ReadRelays,
    schedules: Schedules,
    rates: Rates,
    metrics: Metrics,
    /// The jobs that waited and ran when [`Agent::take_metrics_delta`] last returned something.
    reported: (usize, usize),
    last_line: u64,
    sweep: Sweep,
    batch: Batch,
    /// Effects to release when the batch is stored.
    held: Vec<Effect>,
    effects: VecDeque<Effect>,
    /// When the batch is tried again, in milliseconds since 1970, and how often that has been done.
    store_retry: Option<(u64, u32)>,
    /// Whether jobs are left to start that were too many for one call.
    has_more_to_start: bool,
    last_effect: u64,
    last_nonce: u64,
}

/// Makes the executor of a handler.
pub(crate) type ExecutorFactory = Box<dyn Fn(&Handler) -> Box<dyn Executor + Send> + Send>;

/// The deployed manifest, with its signer and parsed access lists.
struct Deployed {
    manifest: Arc<Manifest>,
    /// `Err`: a secret is missing or wrong. Then nothing is accepted, so that nothing is lost.
    event_signer: Result<EventSigner, String>,
    allow: Vec<PubKey>,
    deny: Vec<PubKey>,
    /// What [`Schedules`] knows the manifest's schedules by, in their order.
    schedule_keys: Vec<String>,
}

/// What an effect in flight is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Awaited {
    /// The call of an executor.
    Call(EventId),
    /// An input of a job.
    Input(EventId),
    /// The result of a job, while it is stored.
    StoreBlob(EventId),
    /// What was published.
    Publish,
    /// The list of a customer's relays.
    RelayList(PubKey),
    /// A remote signer.
    Signer,
    /// The wallet.
    Wallet,
    /// The service of the Lightning address.
    ZapKey,
    /// The service of a recipient of shares.
    Split,
}

impl<C: SqlConn> Agent<C> {
    /// Opens the database in `conn`; an empty one holds no agent until [`Agent::deploy`]. Work that a crash has interrupted
    /// is resumed.
    ///
    /// # Errors
    /// If the store fails.
    pub fn open(now: Now, conn: C, context: Context) -> Result<Self, StoreError> {
        Self::open_with(now, conn, context, Box::new(crate::executor::executor))
    }

    /// [`Agent::open`] with other executors, for tests.
    ///
    /// # Errors
    /// If the store fails.
    #[cfg(feature = "testing")]
    pub fn open_with_executors(
        now: Now,
        conn: C,
        context: Context,
        executors: impl Fn(&Handler) -> Box<dyn Executor + Send> + Send + 'static,
    ) -> Result<Self, StoreError> {
        Self::open_with(now, conn, context, Box::new(executors))
    }

    fn open_with(
        now: Now,
        conn: C,
        context: Context,
        executors: ExecutorFactory,
    ) -> Result<Self, StoreError> {
        store::open(&conn)?;
        let metrics: Metrics = store::get_meta(&conn, Metrics::NAME)?.unwrap_or_default();
        let mut agent = Agent {
            record: store::get_meta(&conn, AgentRecord::NAME)?,
            deployed: None,
            jobs: Jobs::open(store::last_seq(&conn)?),
            active: HashMap::new(),
            awaited: HashMap::new(),
            signer: None,
            payments: Payments::open(now, &conn)?,
            purchases: Purchases::default(),
            outbox: Outbox::open(&conn)?,
            heartbeat_round: store::get_meta(&conn, Self::HEARTBEAT_KEY)?.unwrap_or_default(),
            read_relays: ReadRelays::default(),
            schedules: Schedules::open(&conn)?,
            rates: Rates::open(now, &conn)?,
            reported: (0, 0),
            metrics,
            last_line: store::last_line(&conn)?,
            sweep: store::get_meta(&conn, Sweep::NAME)?.unwrap_or_default(),
            batch: Batch::default(),
            held: Vec::new(),
            effects: VecDeque::new(),
            store_retry: None,
            has_more_to_start: false,
            last_effect: 0,
            last_nonce: 0,
            conn,
            context,
            executors,
        };
        agent.load_deployed(now)?;
        agent.load_jobs(now)?;
        agent.cancel_orphaned_holds(now);
        // What is stored is resumed; if that needs a write which fails, it is tried again like any other.
        let _ = agent.settle(now);
        Ok(agent)
    }

    /// Events that concern it: requests, cancellations, pings, zap receipts. What was delivered before is recognised. When it returns
    /// `Ok`, all of them are durable.
    ///
    /// # Errors
    /// If the store fails, or the secret of its key is missing, or a remote signer has left too much unsigned; they have to be
    /// delivered again.
    pub fn deliver(&mut self, now: Now, events: &[Event]) -> Result<(), StoreError> {
        self.settle(now)?;
        if let Some(Deployed { event_signer: Err(error), .. }) = &self.deployed {
            return Err(StoreError::Failed(error.clone()));
        }
        if let Some(error) = self.signer_is_behind() {
            return Err(StoreError::Failed(error));
        }
        for event in events {
            self.handle_event(now, event)?;
        }
        self.sweep(now);
        self.settle(now)
    }

    /// The next effect.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// The outcome of an [`Effect::Publish`], one for each event.
    pub fn handle_published(&mut self, now: Now, id: EffectId, outcomes: &[Published]) {
        if self.awaited.remove(&id) == Some(Awaited::Publish) {
            self.published(now, outcomes);
        }
        let _ = self.settle(now);
    }

    /// Something has come of an [`Effect::Http`], [`Effect::Ai`] or [`Effect::ReadBlob`].
    pub fn handle_http(&mut self, now: Now, id: EffectId, event: HttpEvent) {
        let is_last = matches!(event, HttpEvent::End | HttpEvent::Failed(_));
        let awaited = self.awaited.get(&id).copied();
        if is_last && !matches!(awaited, Some(Awaited::StoreBlob(_))) {
            self.awaited.remove(&id);
        }
        match awaited {
            Some(Awaited::Call(job)) => self.call_event(now, job, id, event),
            Some(Awaited::Input(job)) => self.fetch_event(now, job, id, event),
            Some(Awaited::ZapKey) => self.zap_key_event(now, id, event),
            Some(Awaited::Split) => self.split_event(now, id, event),
            Some(
                Awaited::Publish
                | Awaited::RelayList(_)
                | Awaited::Signer
                | Awaited::Wallet
                | Awaited::StoreBlob(_),
            )
            | None => {}
        }
        let _ = self.settle(now);
    }

    /// The answer to an [`Effect::Query`]. `Err`: the host could not read.
    pub fn handle_events(&mut self, now: Now, id: EffectId, events: Result<Vec<Event>, String>) {
        match self.awaited.remove(&id) {
            Some(Awaited::Input(job)) => self.query_answer(now, job, id, events),
            Some(Awaited::RelayList(customer)) => self.relay_list(customer, events),
            _ => {}
        }
        let _ = self.settle(now);
    }

    /// The outcome of an [`Effect::StoreBlob`]: the blob's URL, or why it is not stored, as a message for the customer. Another outcome
    /// of the same effect changes nothing.
    pub fn handle_stored(&mut self, now: Now, id: EffectId, outcome: Result<String, String>) {
        if let Some(Awaited::StoreBlob(job)) = self.awaited.get(&id).copied() {
            self.awaited.remove(&id);
            self.result_stored(now, job, id, outcome);
        }
        let _ = self.settle(now);
    }

    /// Something has come of an [`Effect::Exchange`].
    pub fn handle_exchange(&mut self, now: Now, id: EffectId, event: ExchangeEvent) {
        match self.awaited.get(&id) {
            Some(Awaited::Signer) => self.signer_event(now, id, event),
            Some(Awaited::Wallet) => self.wallet_event(now, id, event),
            _ => {}
        }
        let _ = self.settle(now);
    }

    /// When [`Agent::handle_timeout`] is to be called.
    pub fn poll_timeout(&self) -> Option<Now> {
        if self.store_retry.is_none() && self.has_more_to_start {
            return Some(Now::default());
        }
        let mut times = vec![self.store_retry.map(|(at, _)| at)];
        if self.store_retry.is_none() {
            let wake = self.jobs.next_timer().filter(|_| self.event_signer().is_some());
            times.extend([wake, self.outbox.retry_at(), self.signer_retry_at(), self.next_schedule()]);
            times.extend([self.renewal_at(), self.heartbeat_due_at()]);
            times.extend([self.wallets_due_at(), self.invoices_end_at(), self.unsent_refunds_end_at()]);
            times.extend([self.zap_key_due_at(), self.payments.zaps.due_at(), self.splits_due_at()]);
            times.push(self.held_work_ends_at().filter(|_| self.event_signer().is_some()));
        }
        times.into_iter().flatten().min().map(Now::from_millis)
    }

    /// Time has passed: retries, deadlines, schedules.
    pub fn handle_timeout(&mut self, now: Now) {
        self.signer_timeout(now);
        self.wallets_timeout(now);
        self.give_up_old_invoices(now);
        self.end_unsent_refunds(now);
        self.zap_key_timeout(now);
        self.zaps_timeout(now);
        self.splits_timeout(now);
        // Without a signer nothing can be answered, so jobs do not expire either.
        if self.event_signer().is_some() {
            self.handle_due_jobs(now);
            self.end_held_work(now);
            self.run_schedules(now);
            self.renew_announcement(now);
            self.heartbeat(now);
            self.sweep(now);
        }
        let _ = self.settle(now);
    }

    /// Whether it has nothing to do but wait for [`Agent::poll_timeout`] or the next call: no effect is open.
    pub fn is_idle(&self) -> bool {
        self.effects.is_empty()
            && self.held.is_empty()
            && self.batch.is_empty()
            && self.awaited.is_empty()
            && self.active.is_empty()
            && !self.has_more_to_start
    }

    /// Whether it works on jobs, or has more to publish once what is being published is answered.
    pub fn is_busy(&self) -> bool {
        !self.active.is_empty() || self.has_more_to_start || self.outbox.has_waiting()
    }

    /// Who signs; `deliver` has checked that there is somebody.
    fn event_signer(&self) -> Option<&EventSigner> {
        self.deployed.as_ref()?.event_signer.as_ref().ok()
    }

    /// Its key, if the host has it.
    fn keys(&self) -> Option<&Keys> {
        self.event_signer()?.keys()
    }

    fn new_effect(&mut self, awaited: Awaited) -> EffectId {
        self.last_effect += 1;
        let id = EffectId(self.last_effect);
        self.awaited.insert(id, awaited);
        id
    }

    /// Ends a call of which nothing more is expected. One that the host has not been told of is not made.
    fn cancel_effect(&mut self, id: EffectId) {
        if self.awaited.remove(&id).is_none() {
            return;
        }
        let before = self.held.len() + self.effects.len();
        self.held.retain(|effect| effect.id() != id);
        self.effects.retain(|effect| effect.id() != id);
        if self.held.len() + self.effects.len() == before {
            self.held.push(Effect::Cancel { id });
        }
    }

    /// A number that is used once: the hash of the host's secret seed and a counter.
    fn nonce(&mut self) -> [u8; 32] {
        use sha2::{Digest, Sha256};
        self.last_nonce += 1;
        Sha256::new()
            .chain_update(self.context.seed)
            .chain_update(self.last_nonce.to_be_bytes())
            .finalize()
            .into()
    }
}
