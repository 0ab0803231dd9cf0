//! All that an agent is and remembers, as one JSON document, and back: to keep it elsewhere, or to move it to another host. No key
//! is in it, and no secret.

use std::collections::BTreeMap;

use relay_engine::sql::{SqlConn, StoreError};
use relay_engine::types::{Now, PubKey};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Agent, CommandError, JobRecord, Metrics, SessionRecord, ShareRecord};
use crate::lnurl::LightningAddress;
use crate::manifest::ManifestError;
use crate::store::{self, Account, Reason, Session, VersionRow};

/// The format.
const FORMAT: u32 = 1;
/// Jobs and sessions that are exported, newest jobs first.
const JOBS_MAX: usize = 10_000;
const SESSIONS_MAX: usize = 10_000;
/// Largest credit of all customers together: all the bitcoin that a Durable Object's integers can count. Millisatoshis.
const CREDIT_MSAT_MAX: u64 = 1 << 52;
/// Jobs read at a time.
const PAGE: usize = 500;

/// A version with its manifest.
#[derive(Serialize)]
struct ExportedVersion {
    version: u32,
    deployed_at: u64,
    deployed_by: String,
    manifest: Value,
}

/// What is read of an export.
#[derive(Deserialize)]
struct Export {
    format: u32,
    pubkey: String,
    sessions: Vec<SessionRecord>,
    jobs: Vec<JobRecord>,
    metrics: Metrics,
    /// Exports of earlier versions have none.
    #[serde(default)]
    credits: Vec<CreditRecord>,
    /// Exports of earlier versions have none.
    #[serde(default)]
    shares: Vec<DueShare>,
}

/// A share that is not paid out.
#[derive(Serialize, Deserialize)]
struct DueShare {
    /// The Lightning address.
    address: String,
    /// Below zero if more was paid out than was due.
    msat: i64,
}

/// What a customer has paid and not spent.
#[derive(Serialize, Deserialize)]
struct CreditRecord {
    /// In hexadecimal.
    customer: String,
    msat: u64,
}

impl<C: SqlConn> Agent<C> {
    /// Everything but keys: versions of the manifest, sessions, the history, counters, customers' credit, recipients' shares. Of the history the newest 10,000 jobs, and
    /// 10,000 sessions. Drain the agent first: unfinished jobs are not exported.
    ///
    /// # Errors
    /// If the store fails.
    pub fn export(&self) -> Result<Value, StoreError> {
        let mut versions = Vec::new();
        for VersionRow { version, deployed_at, deployed_by } in store::version_rows(&self.conn)? {
            let manifest = store::version(&self.conn, version)?;
            versions.push(ExportedVersion {
                version,
                deployed_at,
                deployed_by: deployed_by.to_string(),
                manifest: to_value(&manifest),
            });
        }
        let mut jobs = Vec::new();
        let mut before = u64::MAX;
        while jobs.len() < JOBS_MAX {
            let page = self.history(before, PAGE)?;
            let Some(last) = page.last() else { break };
            before = last.number;
            jobs.extend(page.iter().map(to_value));
        }
        Ok(json!({
            "format": FORMAT,
            "pubkey": self.pubkey().map(|key| key.to_string()),
            "owner": self.owner().map(|key| key.to_string()),
            "state": self.state(),
            "version": self.version(),
            "versions": versions,
            "sessions": self.sessions(SESSIONS_MAX)?,
            "jobs": jobs,
            "metrics": self.metrics(),
            "credits": self.credit_records()?,
            "shares": self.due_shares()?,
            "log": self.logs(0, 1_000)?,
        }))
    }

    fn credit_records(&self) -> Result<Vec<CreditRecord>, StoreError> {
        let credits = self.credits()?.into_iter();
        Ok(credits.map(|(customer, msat)| CreditRecord { customer: customer.to_string(), msat }).collect())
    }

    fn due_shares(&self) -> Result<Vec<DueShare>, StoreError> {
        let due = |record: ShareRecord| DueShare { address: record.address, msat: record.due_msat };
        Ok(self.shares()?.into_iter().map(due).filter(|due| due.msat != 0).collect())
    }

    /// Takes over what another host has exported: sessions, history, counters, credit, shares that are due. The agent must have been deployed here, have the
    /// same key, and have done nothing yet: no job, no entry in its books, no open invoice. Its manifest stays as it is: versions are listed in the export, and deployed
    /// like any other.
    ///
    /// # Errors
    /// [`CommandError::Manifest`] with the path of what is wrong in the document, [`CommandError::OtherKey`],
    /// [`CommandError::State`] if it has a history already; then nothing has changed.
    pub fn import(&mut self, now: Now, document: &Value) -> Result<(), CommandError> {
        self.settle(now).map_err(CommandError::Store)?;
        let state = self.state().ok_or(CommandError::NotFound)?;
        let export: Export = serde_path_to_error::deserialize(document)
            .map_err(|error| invalid(&error.path().to_string(), &error.inner().to_string()))?;
        if export.format != FORMAT {
            return Err(invalid("format", "is not known"));
        }
        if self.pubkey().is_none_or(|key| key.to_string() != export.pubkey) {
            return Err(CommandError::OtherKey);
        }
        if self.jobs.last_seq() > 0 {
            return Err(CommandError::State(state));
        }
        let mut jobs = Vec::new();
        for (at, job) in export.jobs.into_iter().enumerate() {
            if !job.state.is_unfinished() {
                jobs.push(
                    job.into_row()
                        .map_err(|field| invalid(&format!("jobs[{at}].{field}"), "is not hexadecimal"))?,
                );
            }
        }
        let credits = self.read_credits(export.credits, &export.shares)?;
        let mut sessions = Vec::new();
        for (at, SessionRecord { customer, updated_at, messages }) in export.sessions.into_iter().enumerate()
        {
            let customer: PubKey = customer
                .parse()
                .map_err(|_| invalid(&format!("sessions[{at}].customer"), "is not hexadecimal"))?;
            sessions.push((customer, Session { updated_at, messages: messages.into() }));
        }
        let (before, last_transfer) = (self.batch.clone(), self.payments.last_transfer);
        for (customer, session) in sessions {
            self.batch.put_session(customer, Some(session));
        }
        // The newest come first.
        for mut row in jobs.into_iter().rev() {
            row.seq = self.jobs.next_seq();
            self.batch.put_job(row);
        }
        for (customer, msat) in credits {
            self.transfer(now, (Account::Wallet, Account::Customer(customer)), msat, Reason::Import, None);
        }
        for DueShare { address, msat } in &export.shares {
            self.import_share(now, address, *msat);
        }
        let zap_memory = self.payments.zaps.memory.clone();
        self.zaps_count_from_now(now);
        let metrics = std::mem::replace(&mut self.metrics, export.metrics);
        self.metrics.count(|_| ());
        self.log(now, None, format!("imported {} jobs", self.jobs.last_seq()));
        self.store().map_err(|error| {
            self.metrics = metrics;
            self.take_back(before);
            self.jobs = super::Jobs::open(0);
            self.payments.last_transfer = last_transfer;
            self.payments.zaps.memory = zap_memory;
            CommandError::Store(error)
        })?;
        Ok(())
    }

    /// The credit in an export. It is added to what there is, so there must be nothing.
    fn read_credits(
        &self,
        records: Vec<CreditRecord>,
        shares: &[DueShare],
    ) -> Result<Vec<(PubKey, u64)>, CommandError> {
        let payments = &self.payments;
        if payments.last_transfer > 0 || !payments.invoices.is_empty() || !payments.zaps.is_empty() {
            let message = "cannot be imported: this agent has books, open invoices or zaps, and credit would count twice";
            return Err(invalid("credits", message));
        }
        let (mut credits, mut sum) = (BTreeMap::new(), 0u64);
        for (at, CreditRecord { customer, msat }) in records.into_iter().enumerate() {
            let path = |field: &str| format!("credits[{at}].{field}");
            let customer: PubKey =
                customer.parse().map_err(|_| invalid(&path("customer"), "is not hexadecimal"))?;
            sum = sum.saturating_add(msat);
            if sum > CREDIT_MSAT_MAX {
                return Err(invalid(&path("msat"), "is more than there is"));
            }
            if credits.insert(customer, msat).is_some() {
                return Err(invalid(&path("customer"), "is there twice"));
            }
        }
        for (at, DueShare { address, msat }) in shares.iter().enumerate() {
            let path = |field: &str| format!("shares[{at}].{field}");
            LightningAddress::parse(address).map_err(|error| invalid(&path("address"), error.0))?;
            sum = sum.saturating_add(msat.unsigned_abs());
            if sum > CREDIT_MSAT_MAX {
                return Err(invalid(&path("msat"), "is more than there is"));
            }
            if shares[..at].iter().any(|other| other.address == *address) {
                return Err(invalid(&path("address"), "is there twice"));
            }
        }
        Ok(credits.into_iter().collect())
    }
}

fn invalid(path: &str, message: &str) -> CommandError {
    CommandError::Manifest(ManifestError { path: path.to_owned(), message: message.to_owned() })
}

/// Our own types are written; none of them can fail.
fn to_value(value: &impl Serialize) -> Value {
    serde_json::to_value(value).unwrap_or_default()
}
