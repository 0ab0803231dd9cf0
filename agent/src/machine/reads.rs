//! What the API reads of an agent. Lists are bounded by whoever asks.

use relay_engine::sql::{SqlConn, StoreError};
use relay_engine::types::{EventId, Now, PubKey};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::limits::RateLimitKind;
use super::{Agent, AgentState, CommandError, CustomerMetrics, LogLine, Metrics, MetricsDelta};
use crate::job::{JobEvent, JobState};
use crate::manifest::Manifest;
use crate::store::{self, Account, JobPayment, JobRow, SentEvent, SessionMessage, Trace, VersionRow};

/// A version of a manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Version {
    /// Its number, from 1.
    pub version: u32,
    /// Unix seconds.
    pub deployed_at: u64,
    /// The public key that deployed it, in hexadecimal.
    pub deployed_by: String,
    /// Whether it is the current one.
    pub is_current: bool,
}

/// A job, with all that was done about it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobRecord {
    /// Its number: the order in which jobs came.
    pub number: u64,
    /// Its id, in hexadecimal: for NIP-90 that of the request.
    pub id: String,
    /// The public key of whoever asked, in hexadecimal.
    pub customer: String,
    /// The kind of the request.
    pub kind: u16,
    /// Where it is.
    pub state: JobState,
    /// Milliseconds since 1970.
    pub received_at: u64,
    /// When its last attempt began, in milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<u64>,
    /// Milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<u64>,
    /// The version of the manifest that it follows; 0 before its first attempt.
    pub version: u32,
    /// Attempts that have begun.
    pub attempts: u32,
    /// Why it failed or was refused, in a word.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub cause: String,
    /// Tokens read and written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<(u64, u64)>,
    /// What it cost its customer, in millisatoshis.
    pub cost_msat: u64,
    /// Partial results that were sent before it.
    pub partials: u32,
    /// The request's event, encrypted if it was; or what a job of the agent's own is made of. Null once it is forgotten, and if it was refused.
    pub request: Value,
    /// What was sent, in order, in the clear.
    pub sent: Vec<SentEvent>,
}

/// What was said with a customer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRecord {
    /// The customer's public key, in hexadecimal; the session's id.
    pub customer: String,
    /// Unix seconds.
    pub updated_at: u64,
    /// Oldest first.
    pub messages: Vec<SessionMessage>,
}

/// How much is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct MemoryRecord {
    /// Sessions with customers.
    pub sessions: u64,
    /// Bytes of all of them, about.
    pub bytes: u64,
    /// Jobs of the history, open ones too.
    pub jobs: u64,
    /// Bytes of the agent's database.
    pub database_bytes: u64,
    /// What customers have paid and not spent, of all of them, in millisatoshis.
    pub credit_msat: u64,
    /// What is the agent's, in millisatoshis.
    pub income_msat: i64,
}

impl<C: SqlConn> Agent<C> {
    /// Its state; `None` before the first manifest.
    pub fn state(&self) -> Option<AgentState> {
        self.record.as_ref().map(|record| record.state)
    }

    /// Its public key; `None` before the first manifest.
    pub fn pubkey(&self) -> Option<PubKey> {
        self.record.as_ref()?.pubkey.parse().ok()
    }

    /// Its owner; `None` before the first manifest.
    pub fn owner(&self) -> Option<PubKey> {
        self.record.as_ref()?.owner.parse().ok()
    }

    /// Its current manifest; `None` without one, and when it is deleted.
    pub fn manifest(&self) -> Option<&Manifest> {
        self.deployed.as_ref().map(|deployed| &*deployed.manifest)
    }

    /// The current version; 0 without one.
    pub fn version(&self) -> u32 {
        self.record.as_ref().map_or(0, |record| record.version)
    }

    /// When it was first deployed, in Unix seconds; 0 before.
    pub fn deployed_at(&self) -> u64 {
        self.record.as_ref().map_or(0, |record| record.deployed_at)
    }

    /// Why it cannot work: the secret of its key is missing or wrong, until it is opened with the secret; or what is wrong with its
    /// remote signer, perhaps a URL where it is to be allowed; or with its wallets, or its Lightning address.
    pub fn error(&self) -> Option<&str> {
        let secret = self.deployed.as_ref().and_then(|deployed| deployed.event_signer.as_ref().err());
        let signer = secret.map(String::as_str).or_else(|| self.signer.as_ref()?.error());
        signer.or_else(|| self.wallet_trouble()).or(self.payments.zaps.error.as_deref())
    }

    /// All versions, oldest first.
    ///
    /// # Errors
    /// If the store fails.
    pub fn versions(&self) -> Result<Vec<Version>, StoreError> {
        let current = self.version();
        let version = |row: VersionRow| Version {
            version: row.version,
            deployed_at: row.deployed_at,
            deployed_by: row.deployed_by.to_string(),
            is_current: row.version == current,
        };
        Ok(store::version_rows(&self.conn)?.into_iter().map(version).collect())
    }

    /// The manifest of a version.
    ///
    /// # Errors
    /// If the store fails.
    pub fn manifest_of_version(&self, version: u32) -> Result<Option<Manifest>, StoreError> {
        store::version(&self.conn, version)
    }

    /// At most `limit` jobs that came before the one with number `before`, newest first. `u64::MAX` begins with the newest.
    ///
    /// # Errors
    /// If the store fails.
    pub fn history(&self, before: u64, limit: usize) -> Result<Vec<JobRecord>, StoreError> {
        store::history(&self.conn, before, limit)?.into_iter().map(|row| self.record(row)).collect()
    }

    /// [`Agent::history`] of one customer. Reads the customer of every job until it has found enough.
    ///
    /// # Errors
    /// If the store fails.
    pub fn history_of_customer(
        &self,
        customer: &PubKey,
        before: u64,
        limit: usize,
    ) -> Result<Vec<JobRecord>, StoreError> {
        let rows = store::history_of(&self.conn, customer, before, limit)?;
        rows.into_iter().map(|row| self.record(row)).collect()
    }

    /// A job by its id.
    ///
    /// # Errors
    /// If the store fails.
    pub fn job(&self, id: &EventId) -> Result<Option<JobRecord>, StoreError> {
        store::job_by_id(&self.conn, id)?.map(|row| self.record(row)).transpose()
    }

    fn record(&self, row: JobRow) -> Result<JobRecord, StoreError> {
        let state = match row.state.after(JobEvent::Publish) {
            Some(published) if !store::is_in_outbox(&self.conn, row.result_outbox_row)? => published,
            _ => row.state,
        };
        Ok(JobRecord {
            number: row.seq,
            id: row.id.to_string(),
            customer: row.customer.to_string(),
            kind: row.kind,
            state,
            received_at: row.received_at,
            started_at: row.trace.started_at,
            finished_at: (row.finished_at > 0).then_some(row.finished_at),
            version: row.version,
            attempts: row.attempts,
            cause: row.cause,
            tokens: row.trace.tokens,
            cost_msat: row.trace.payment.map_or(0, |payment| payment.paid),
            partials: row.trace.partials,
            request: serde_json::from_slice(&row.source).unwrap_or(Value::Null),
            sent: row.trace.sent,
        })
    }

    /// At most `limit` sessions.
    ///
    /// # Errors
    /// If the store fails.
    pub fn sessions(&self, limit: usize) -> Result<Vec<SessionRecord>, StoreError> {
        let sessions = store::all_sessions(&self.conn, limit)?;
        Ok(sessions.into_iter().map(|(customer, session)| session_record(&customer, session)).collect())
    }

    /// The session with a customer.
    ///
    /// # Errors
    /// If the store fails.
    pub fn session(&self, customer: &PubKey) -> Result<Option<SessionRecord>, StoreError> {
        Ok(store::session(&self.conn, customer)?.map(|session| session_record(customer, session)))
    }

    /// How much is remembered. Reads all sessions.
    ///
    /// # Errors
    /// If the store fails.
    pub fn memory(&self) -> Result<MemoryRecord, StoreError> {
        let (sessions, bytes, jobs) = store::sizes(&self.conn)?;
        let credit_msat = self.credits()?.iter().map(|(_, msat)| msat).sum();
        let income_msat = -self.balance(&Account::Income)?;
        let database_bytes = self.conn.bytes()?;
        Ok(MemoryRecord { sessions, bytes, jobs, database_bytes, credit_msat, income_msat })
    }

    /// Counts a request of a customer to the API; whether it may be answered.
    pub(crate) fn count_read(&mut self, now: Now, customer: &PubKey) -> bool {
        self.rates.count(now, customer, RateLimitKind::ApiRead)
    }

    /// Forgets a customer: the session, and of finished jobs everything but that they were done. Open ones go on.
    ///
    /// # Errors
    /// [`CommandError::Store`]; then nothing is forgotten.
    pub fn forget(&mut self, now: Now, customer: &PubKey) -> Result<(), CommandError> {
        self.settle(now).map_err(CommandError::Store)?;
        let before = self.batch.clone();
        self.batch.put_session(*customer, None);
        store::forget_jobs(&mut self.batch, customer, u64::MAX);
        self.store().map_err(|error| {
            self.take_back(before);
            CommandError::Store(error)
        })
    }

    /// At most `limit` lines of the log after line `after`, oldest first; the last 1,000 are kept.
    ///
    /// # Errors
    /// If the store fails.
    pub fn logs(&self, after: u64, limit: usize) -> Result<Vec<LogLine>, StoreError> {
        let lines = store::lines(&self.conn, after, limit)?;
        let lines = lines.into_iter().map(|(number, at_millis, job, message)| {
            let job = job.map(|id| id.to_string());
            LogLine { number, at_millis, job, message }
        });
        Ok(lines.collect())
    }

    /// Its counters, and how many jobs it has now.
    pub fn metrics(&self) -> Metrics {
        let (queued, running) = self.jobs_now();
        let mut metrics = self.metrics.clone();
        (metrics.queued, metrics.running, metrics.unreported) = (queued, running, MetricsDelta::default());
        metrics
    }

    /// What it has done for one customer: of the newest 10,000 of his jobs in the history. Reads no other customer's.
    ///
    /// # Errors
    /// If the store fails.
    pub fn metrics_of(&self, customer: &PubKey) -> Result<CustomerMetrics, StoreError> {
        let mut metrics = CustomerMetrics::default();
        store::figures_of(&self.conn, customer, &mut |job| metrics.add(job))?;
        Ok(metrics)
    }

    /// How many jobs wait, and how many executors work on.
    fn jobs_now(&self) -> (usize, usize) {
        let running = self.active.values().filter(|active| active.is_running()).count();
        (self.jobs.len() - running, running)
    }

    /// What it has counted since this was last called, or since it was opened. `None`: nothing has changed. Counters that
    /// were imported are not among it.
    pub fn take_metrics_delta(&mut self) -> Option<MetricsDelta> {
        let now = self.jobs_now();
        if now == std::mem::replace(&mut self.reported, now)
            && self.metrics.unreported == MetricsDelta::default()
        {
            return None;
        }
        let counted = std::mem::take(&mut self.metrics.unreported);
        Some(MetricsDelta { queued: now.0 as u64, running: now.1 as u64, ..counted })
    }
}

impl JobRecord {
    /// The row of a finished job that another host has exported; its number is not set.
    ///
    /// # Errors
    /// The field that is wrong.
    pub(super) fn into_row(self) -> Result<JobRow, &'static str> {
        let source = if self.request.is_null() { Vec::new() } else { self.request.to_string().into_bytes() };
        Ok(JobRow {
            seq: 0,
            id: self.id.parse().map_err(|_| "id")?,
            customer: self.customer.parse().map_err(|_| "customer")?,
            kind: self.kind,
            state: self.state.after(JobEvent::Publish).unwrap_or(self.state),
            received_at: self.received_at,
            finished_at: self.finished_at.unwrap_or_default(),
            wake_at: 0,
            version: self.version,
            attempts: self.attempts,
            created_at_max: self.sent.iter().map(|sent| sent.created_at).max().unwrap_or_default(),
            result_outbox_row: 0,
            cause: self.cause,
            source,
            inputs: None,
            trace: Trace {
                decrypted: None,
                payment: (self.cost_msat > 0).then_some(JobPayment {
                    price: self.cost_msat,
                    paid: self.cost_msat,
                    invoiced: 0,
                    is_postpaid: false,
                    is_hold: false,
                }),
                started_at: self.started_at,
                tokens: self.tokens,
                partials: self.partials,
                sent: self.sent,
            },
            is_stored: false,
        })
    }
}

fn session_record(customer: &PubKey, session: store::Session) -> SessionRecord {
    SessionRecord {
        customer: customer.to_string(),
        updated_at: session.updated_at,
        messages: session.messages.into(),
    }
}
