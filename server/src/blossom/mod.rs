//! Blossom in this process: blobs in `<data>/blobs` or a bucket, and their index in `<data>/blossom.sqlite`. What requests mean
//! is decided in `relay-blossom`.
//!
//! ```text
//! exchange    carries out the steps of a request; fetch: blobs of other servers
//! payment     an agent makes invoices and says whether they are paid
//! media       pictures: how many are in memory and processed at a time
//! store       bytes, in a folder or a bucket; index: which blobs there are
//! internal_upload: blobs that agents store and read, without HTTP
//! counters    for /metrics; startup_log: what the start-up lines say
//! startup_cleanup: what an earlier process has left; background: removals, sweeps, the relay's events
//! ```

mod background;
mod bucket;
mod counters;
mod exchange;
mod fetch;
mod index;
mod internal_upload;
mod media;
mod payment;
mod startup_cleanup;
mod startup_log;
mod store;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use relay_agent::executor::Access;
use relay_agent::fetch::PrivateHosts;
use relay_agent::quotes::Quotes;
use relay_blossom::exchange::{Context, Keys};
use relay_blossom::{Command, Outcome, Sha256};
use relay_engine::types::{ClientAddress, PubKey};
use relay_engine::verify::Verifier;
use relay_site::nip98::{ServerUrl, UsedEvents};
use tokio::runtime::Handle;
use tokio::sync::Notify;

use self::counters::Counters;
use self::index::IndexHandle;
use self::media::Media;
use self::store::BlobStore;
use crate::agents::http::Client;
use crate::agents::{Agents, owner};
use crate::config::Settings;
use crate::handle::RelayHandle;
use crate::host::now;
use crate::permits::Permits;

pub(crate) use self::counters::{BlossomSnapshot, OPERATIONS, STATUSES};
pub(crate) use self::exchange::Answered;
pub(crate) use self::store::Reading;

/// Blobs that are fetched from other servers at a time.
const FETCHES_MAX: usize = 16;
/// Fetches of a key or an address that wait.
const FETCHES_WAITING_MAX: usize = 16;
/// Downloaded blobs that wait until the index is told; at so many it is told at once.
const DOWNLOADS_MAX: usize = 10_000;
/// After this an upload that has not ended counts as abandoned, and is given up even if its bytes still come: 4 GiB, the default of
/// `blob_bytes_max`, come in time at 92 kB/s.
const UPLOAD_SECONDS_MAX: u64 = 13 * 3_600;
/// How long the owner's key of a local relay is remembered.
const OWNER_AGE: Duration = Duration::from_secs(1);

/// The blobs of a relay.
pub(crate) struct Blossom {
    settings: Settings,
    verifier: Arc<dyn Verifier>,
    relay: RelayHandle,
    bodies: BlobStore,
    index: IndexHandle,
    client: Client,
    /// Those of the relay, one of whom may be paid; set once they have been started.
    agents: Arc<OnceLock<Arc<Agents>>>,
    /// Invoices that addresses have asked for.
    quotes: Mutex<Quotes>,
    /// Bodies that are taken at a time.
    uploads: Permits,
    /// Blobs of other servers that are fetched at a time; their servers may be slow.
    fetches: Permits,
    media: Media,
    counters: Counters,
    /// Blobs that have been downloaded since the index was told.
    downloads: Mutex<HashSet<Sha256>>,
    /// Something may be removed.
    wake: Notify,
    owner: Mutex<Option<(Instant, PubKey)>>,
    /// Events that have signed requests of administrators.
    used: Mutex<UsedEvents>,
}

/// Where a request came from.
#[derive(Clone, Debug)]
pub(crate) struct RequestOrigin {
    /// Where its client reaches this server, without a slash at the end.
    pub(crate) base_url: String,
    /// Whether it came from this machine, as far as can be told.
    pub(crate) is_local: bool,
    /// The URL to which it was sent, or else its Host header.
    pub(crate) url: Result<String, String>,
    /// Its client's address; none if that has no limits.
    pub(crate) client: Option<ClientAddress>,
}

impl RequestOrigin {
    fn origin(&self) -> ServerUrl<'_> {
        match &self.url {
            Ok(url) => ServerUrl::Url(url),
            Err(host) => ServerUrl::Host(host),
        }
    }
}

impl Blossom {
    /// Opens the files.
    ///
    /// # Errors
    /// If they cannot be read or written.
    pub(crate) fn open(
        settings: &Settings,
        verifier: Arc<dyn Verifier>,
        relay: RelayHandle,
        agents: Arc<OnceLock<Arc<Agents>>>,
    ) -> Result<Self, String> {
        let words = |error: std::io::Error| error.to_string();
        let bodies = match &settings.blobs.bucket {
            Some(name) => BlobStore::bucket(bucket::open(name, &settings.blobs)?),
            None => BlobStore::folder(&settings.data.join("blobs")).map_err(words)?,
        };
        let file = settings.data.join("blossom.sqlite");
        if settings.blobs.bucket.is_none() && !file.exists() && bodies.has_any().map_err(words)? {
            return Err(format!(
                "{} has blobs and their index {} is not there: restore it, or move the blobs away",
                settings.data.join("blobs").display(),
                file.display()
            ));
        }
        let index =
            IndexHandle::open(&file, bodies.own_folder().is_some()).map_err(|error| error.to_string())?;
        let client = Client::new(PrivateHosts::default()).map_err(words)?;
        Ok(Blossom { agents, ..Blossom::with(settings.clone(), verifier, relay, bodies, index, client) })
    }

    fn with(
        settings: Settings,
        verifier: Arc<dyn Verifier>,
        relay: RelayHandle,
        bodies: BlobStore,
        index: IndexHandle,
        client: Client,
    ) -> Self {
        Blossom {
            settings,
            verifier,
            relay,
            uploads: Permits::new(bodies.uploads_max(), usize::MAX),
            fetches: Permits::new(FETCHES_MAX, FETCHES_WAITING_MAX),
            bodies,
            index,
            client,
            agents: Arc::default(),
            quotes: Mutex::default(),
            media: Media::new(),
            counters: Counters::default(),
            downloads: Mutex::default(),
            wake: Notify::new(),
            owner: Mutex::default(),
            used: Mutex::default(),
        }
    }

    /// Tidies up after an earlier process, and starts what goes on beside requests.
    ///
    /// # Errors
    /// If the index fails.
    pub(crate) fn start(self: &Arc<Self>, on: &Handle) -> Result<(), String> {
        match on.block_on(self.index.run(Command::Restart)) {
            Ok(Outcome::Done) => {}
            Ok(other) => return Err(format!("{other:?}")),
            Err(error) => return Err(error.to_string()),
        }
        // Nothing is being written yet.
        if let Some(folder) = self.bodies.own_folder() {
            startup_cleanup::remove_unfinished_files(folder)
                .map_err(|error| format!("{}: {error}", folder.display()))?;
        }
        on.block_on(startup_cleanup::remove_unknown_keys(&self.index, &self.bodies))?;
        on.spawn(background::run(Arc::clone(self)));
        on.spawn(background::follow(Arc::clone(self)));
        Ok(())
    }

    /// Says where blobs are and who may upload.
    pub(crate) fn log_settings(&self) {
        startup_log::log_settings(&self.settings, self.admins().len());
    }

    /// What is counted.
    pub(crate) async fn metrics(&self) -> BlossomSnapshot {
        let totals = match self.index.run(Command::Totals).await {
            Ok(Outcome::Totals(totals)) => Some(totals),
            _ => None,
        };
        self.counters.snapshot(self.uploads.given() as u64, totals)
    }

    /// A blob is sent. The index is told later, of many at once, if retention goes by downloads.
    fn note_download(&self, sha256: Sha256) {
        if self.settings.blossom.retention.iter().any(|rule| rule.unused_seconds.is_some()) {
            let mut downloads = self.downloads.lock().unwrap_or_else(PoisonError::into_inner);
            downloads.insert(sha256);
            if downloads.len() == DOWNLOADS_MAX {
                self.wake.notify_one();
            }
        }
    }

    /// The blobs that have been sent since the last call.
    fn take_downloads(&self) -> Vec<Sha256> {
        let mut downloads = self.downloads.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *downloads).into_iter().collect()
    }

    fn context<'a>(&'a self, seen: &'a RequestOrigin, admins: &'a [PubKey]) -> Context<'a> {
        let policy = &self.settings.policy;
        Context {
            settings: &self.settings.blossom,
            keys: Keys { admins, allowed: policy.allow_pubkeys.as_deref(), denied: &policy.deny_pubkeys },
            base_url: &seen.base_url,
            origin: seen.origin(),
            name: &self.settings.info.name,
            is_local: seen.is_local,
            processes_media: true,
            upload_seconds_max: UPLOAD_SECONDS_MAX,
            now: now().seconds(),
            verifier: &*self.verifier,
        }
    }

    /// Administrators, and the owner of a local relay.
    fn admins(&self) -> Vec<PubKey> {
        let mut admins = self.settings.policy.admin_pubkeys.clone();
        let mut known = self.owner.lock().unwrap_or_else(PoisonError::into_inner);
        if known.is_none_or(|(at, _)| at.elapsed() >= OWNER_AGE) {
            // One that is not there yet is looked for each time: it may be made at any moment.
            *known = owner::pubkey(&self.settings.data).map(|owner| (Instant::now(), owner));
        }
        admins.extend(known.map(|(_, owner)| owner));
        admins
    }

    fn access(&self) -> Access {
        if self.settings.blossom.allow_private_addresses { Access::Anywhere } else { Access::Public }
    }
}
