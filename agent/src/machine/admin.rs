//! What its owner does with an agent: deploy a manifest, roll back, pause, resume, drain, delete.

use std::sync::Arc;

use relay_engine::sql::{SqlConn, StoreError};
use relay_engine::types::{Now, PubKey};
use serde::{Deserialize, Serialize};

use super::jobs::Jobs;
use super::schedules::{self, Schedules};
use super::signer::RemoteSigner;
use super::wallet::Wallet;
use super::{Agent, AgentState, Awaited, CommandError, Deployed};
use crate::identity::{self, EventSigner, Sign};
use crate::job::{Command, JobState};
use crate::manifest::{Identity, Manifest, ManifestError};
use crate::nip47;
use crate::nip90::Feedback;
use crate::store::{self, Batch, JobRow, UnfinishedRow, VersionRow};

/// Wallets before the present one that are asked for their invoices.
const FORMER_WALLETS_MAX: usize = 4;

/// The stored record of an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct AgentRecord {
    pub(super) state: AgentState,
    /// The current version; 0 when it is deleted.
    pub(super) version: u32,
    /// The number of the newest version.
    pub(super) last_version: u32,
    /// In hexadecimal.
    pub(super) pubkey: String,
    pub(super) owner: String,
    /// When it was first deployed, in Unix seconds.
    pub(super) deployed_at: u64,
    /// A digest of what is announced.
    pub(super) announcement: Option<String>,
    /// The time of the last announcement or retraction.
    pub(super) announced_at: u64,
    /// The secret of the remote signer that has its key. It is asked also for what a deleted agent has still to publish.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) bunker: Option<String>,
    /// The secret of the last wallet. It is asked also for invoices of a deleted agent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) wallet: Option<String>,
    /// The secrets of wallets before it, oldest first. They are asked for their invoices.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) former_wallets: Vec<String>,
}

impl AgentRecord {
    /// Where it is stored. The type was called so once.
    pub(super) const NAME: &'static str = "head";

    /// The wallet of this secret makes invoices from now on.
    fn change_wallet(&mut self, secret: &str) {
        let Some(before) = self.wallet.replace(secret.to_owned()) else { return };
        self.former_wallets.retain(|former| *former != before && former != secret);
        if before != secret {
            self.former_wallets.push(before);
        }
        let excess = self.former_wallets.len().saturating_sub(FORMER_WALLETS_MAX);
        self.former_wallets.drain(..excess);
    }
}

impl<C: SqlConn> Agent<C> {
    /// Reads the manifest that is deployed, and the key.
    pub(super) fn load_deployed(&mut self, now: Now) -> Result<(), StoreError> {
        let Some(record) = &self.record else { return Ok(()) };
        self.signer = RemoteSigner::open(&self.conn, record, &*self.context.secrets)?;
        let (state, version, pubkey) = (record.state, record.version, record.pubkey.clone());
        let wallets = Wallet::open_all(&self.conn, record, &*self.context.secrets)?;
        self.adopt_invoices(&wallets);
        self.set_wallets(now, wallets);
        if state == AgentState::Deleted {
            return Ok(());
        }
        let Some(manifest) = store::version(&self.conn, version)? else {
            return Err(StoreError::Corrupt(format!("version {version} is missing")));
        };
        let author = identity::event_signer(&manifest, &*self.context.secrets);
        let author = author.and_then(|author| match author.pubkey().to_string() == pubkey {
            true => Ok(author),
            false => Err("its private key is not the one it was deployed with".to_owned()),
        });
        self.deployed = Some(Deployed::new(Arc::new(manifest), author));
        self.set_zap_address(now, false);
        self.set_splits(now, false);
        Ok(())
    }

    /// Deploys a validated manifest as a new version, or the first one. The same manifest again changes nothing. Returns
    /// the number of the version. Jobs that run finish with the version with which they began.
    ///
    /// # Errors
    /// [`CommandError`]; then nothing has changed.
    pub fn deploy(&mut self, now: Now, manifest: &Manifest, by: &PubKey) -> Result<u32, CommandError> {
        self.settle(now).map_err(CommandError::Store)?;
        let author =
            identity::event_signer(manifest, &*self.context.secrets).map_err(CommandError::Identity)?;
        manifest.check_pubkey(&author.pubkey()).map_err(CommandError::Manifest)?;
        if let Some(secret) = &manifest.payment.wallet_ref {
            nip47::Client::of(secret, &*self.context.secrets).map_err(|message| {
                CommandError::Manifest(ManifestError { path: "payment.wallet_ref".to_owned(), message })
            })?;
        }
        let pubkey = author.pubkey().to_string();
        if self.record.as_ref().is_some_and(|record| record.pubkey != pubkey) {
            return Err(CommandError::OtherKey);
        }
        if let (Some(deployed), Some(record)) = (&mut self.deployed, &self.record)
            && *deployed.manifest == *manifest
        {
            // The secret may have come back meanwhile.
            deployed.event_signer = Ok(author);
            let signer = RemoteSigner::open(&self.conn, record, &*self.context.secrets);
            let version = record.version;
            let wallets = Wallet::open_all(&self.conn, record, &*self.context.secrets);
            let wallets = wallets.map_err(CommandError::Store)?;
            self.replace_signer(now, signer.map_err(CommandError::Store)?);
            self.replace_wallets(now, wallets);
            self.set_zap_address(now, true);
            self.set_splits(now, true);
            let _ = self.settle(now);
            return Ok(version);
        }
        let owner = self.owner_of(manifest, by)?;
        let mut record = match self.record.clone() {
            Some(record) => record,
            None => AgentRecord {
                state: AgentState::Deleted,
                version: 0,
                last_version: 0,
                pubkey,
                owner: String::new(),
                deployed_at: now.seconds(),
                announcement: None,
                announced_at: 0,
                bunker: None,
                wallet: None,
                former_wallets: Vec::new(),
            },
        };
        if record.state == AgentState::Deleted {
            record.deployed_at = now.seconds();
        }
        record.state = record.state.after(Command::Deploy).ok_or(CommandError::State(record.state))?;
        record.last_version += 1;
        record.version = record.last_version;
        record.owner = owner.to_string();
        record.bunker = match &manifest.identity {
            Identity::Bunker { secret } => Some(secret.clone()),
            Identity::Derived { .. } | Identity::Imported { .. } => None,
        };
        if let Some(secret) = &manifest.payment.wallet_ref {
            record.change_wallet(secret);
        }
        let signer =
            RemoteSigner::open(&self.conn, &record, &*self.context.secrets).map_err(CommandError::Store)?;
        let wallets =
            Wallet::open_all(&self.conn, &record, &*self.context.secrets).map_err(CommandError::Store)?;
        let before = self.batch.clone();
        let row = VersionRow { version: record.version, deployed_at: now.seconds(), deployed_by: *by };
        store::put_version(&mut self.batch, &row, manifest);
        let message = format!("version {} deployed by {by}", record.version);
        self.log(now, None, message);
        let schedules = self.schedules.clone();
        self.set_schedules(now, &manifest.schedules);
        self.announce(now, &author, manifest, &mut record);
        let deployed = Deployed::new(Arc::new(manifest.clone()), Ok(author));
        let version = record.version;
        if let Err(error) = self.change_record(before, record) {
            self.schedules = schedules;
            return Err(error);
        }
        self.deployed = Some(deployed);
        self.replace_signer(now, signer);
        self.replace_wallets(now, wallets);
        self.set_zap_address(now, true);
        self.set_splits(now, true);
        let _ = self.settle(now);
        Ok(version)
    }

    /// The owner: who the manifest says, else who it was, else who deploys it first.
    fn owner_of(&self, manifest: &Manifest, by: &PubKey) -> Result<PubKey, CommandError> {
        match &manifest.owner {
            Some(owner) => identity::parse_pubkey(owner).ok_or_else(|| {
                CommandError::Manifest(ManifestError {
                    path: "owner".to_owned(),
                    message: "must be a public key".to_owned(),
                })
            }),
            None => Ok(self.owner().unwrap_or(*by)),
        }
    }

    /// Makes an earlier version the current one again, as a new version.
    ///
    /// # Errors
    /// [`CommandError`].
    pub fn rollback(&mut self, now: Now, version: u32, by: &PubKey) -> Result<u32, CommandError> {
        let manifest = store::version(&self.conn, version).map_err(CommandError::Store)?;
        self.deploy(now, &manifest.ok_or(CommandError::NotFound)?, by)
    }

    /// Changes its state: pause, resume ([`AgentState::Active`]), drain, delete.
    ///
    /// Deleting answers all unfinished jobs with an error, retracts the announcement, and forgets everything but what is still to be
    /// published. Earlier writes that the store still refuses do not prevent a change of state; when the agent is deleted they are dropped.
    ///
    /// # Errors
    /// [`CommandError::State`] if it cannot be done from the present state; [`CommandError::Store`], then nothing has changed.
    pub fn set_state(&mut self, now: Now, state: AgentState) -> Result<(), CommandError> {
        let settled = self.settle(now);
        let mut record = self.record.clone().ok_or(CommandError::NotFound)?;
        let after = record.state.after(Command::to(state)).ok_or(CommandError::State(record.state))?;
        if after == record.state {
            return Ok(());
        }
        record.state = after;
        if after == AgentState::Deleted {
            return self.delete(now, record);
        }
        if settled.is_err() {
            let mut alone = Batch::default();
            store::put_meta(&mut alone, AgentRecord::NAME, &record);
            alone.commit(&self.conn).map_err(CommandError::Store)?;
            self.record = Some(record);
            return Ok(());
        }
        let before = self.batch.clone();
        self.log(now, None, format!("now {}", after.name()));
        self.change_record(before, record)?;
        let _ = self.settle(now);
        Ok(())
    }

    /// Stores a changed record together with what is in the batch; or neither, and `before` is what waits to be stored.
    pub(super) fn change_record(&mut self, before: Batch, record: AgentRecord) -> Result<(), CommandError> {
        store::put_meta(&mut self.batch, AgentRecord::NAME, &record);
        if let Err(error) = self.store() {
            self.take_back(before);
            return Err(CommandError::Store(error));
        }
        self.record = Some(record);
        Ok(())
    }

    /// What has been added to the batch is not stored: `before` is what waits to be stored.
    pub(super) fn take_back(&mut self, before: Batch) {
        self.batch = before;
        self.outbox.unstage();
        // Counters may have been in the batch.
        self.metrics.count(|_| ());
    }

    fn delete(&mut self, now: Now, record: AgentRecord) -> Result<(), CommandError> {
        let open: Vec<UnfinishedRow> = self.jobs.iter().copied().collect();
        // What cannot be read is deleted all the same.
        let open: Vec<_> = open.into_iter().map(|open| (open, self.read_row(open.seq).ok())).collect();
        // The writes that the store does not accept are dropped, except those about money: the rows of the jobs follow from them.
        let (batch, unsent) = (std::mem::take(&mut self.batch), self.outbox.set_aside());
        let last_transfer = self.payments.last_transfer;
        let mut deleted = Ok(());
        for are_answered in [true, false] {
            self.batch = batch.money();
            deleted = self.try_delete(now, record.clone(), &open, are_answered);
            if deleted.is_ok() {
                break;
            }
            self.payments.last_transfer = last_transfer;
        }
        if deleted.is_err() {
            self.batch = batch;
            self.outbox.put_back(unsent);
            return deleted;
        }
        self.forget_memory(now);
        let _ = self.settle(now);
        Ok(())
    }

    /// Deletes everything, with the retraction and, if they are answered, an error for each of these jobs; or changes nothing but the batch.
    fn try_delete(
        &mut self,
        now: Now,
        mut record: AgentRecord,
        open: &[(UnfinishedRow, Option<JobRow>)],
        are_answered: bool,
    ) -> Result<(), CommandError> {
        // First, so that there is room for what has to be published.
        store::delete_all(&mut self.batch);
        if self.payments.splits.has_recipients() {
            // What is due to them is kept.
            self.store_splits();
        }
        for (open, row) in open {
            let Some(mut row) = row.clone() else {
                self.return_reserved(now, open).map_err(CommandError::Store)?;
                continue;
            };
            // It has no result.
            row.state = JobState::Failed;
            self.close_account(now, &mut row);
            if are_answered && let Ok(mut active) = self.load(row) {
                // What is in memory may be later than what is stored.
                let last = self.active.get(&active.id()).map_or(0, |active| active.last_created_at);
                active.last_created_at = active.last_created_at.max(last);
                self.send_feedback(now, &mut active, Feedback::Error("the agent has been deleted"));
            }
        }
        if let Some(Deployed { manifest, event_signer: Ok(author), .. }) = &self.deployed {
            let (author, relays) = (author.clone(), manifest.relays.clone());
            self.retract(now, &author, &relays, &mut record);
        }
        record.version = 0;
        self.change_record(Batch::default(), record)
    }

    /// What is in memory of a deleted agent.
    fn forget_memory(&mut self, now: Now) {
        let is_of_job =
            |what: &Awaited| matches!(what, Awaited::Call(_) | Awaited::Input(_) | Awaited::StoreBlob(_));
        let open = self.awaited.iter().filter(|(_, what)| is_of_job(what)).map(|(id, _)| *id);
        for id in open.collect::<Vec<_>>() {
            self.cancel_effect(id);
        }
        self.active.clear();
        self.jobs = Jobs::open(0);
        self.schedules = Schedules::default();
        self.payments.uninvoiced.clear();
        let invoices: Vec<_> = self.payments.invoices.keys().copied().collect();
        invoices.iter().for_each(|job| self.cancel_hold(now, job));
        (self.metrics, self.reported) = Default::default();
        self.deployed = None;
    }
}

impl Deployed {
    fn new(manifest: Arc<Manifest>, event_signer: Result<EventSigner, String>) -> Self {
        let (allow, deny) = Deployed::lists(&manifest.access);
        let schedule_keys = manifest.schedules.iter().map(schedules::key).collect();
        Deployed { manifest, event_signer, allow, deny, schedule_keys }
    }
}
