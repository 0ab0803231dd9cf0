//! Blossom in this process: blobs in `<data>/blobs` or a bucket, and their index in `<data>/blossom.sqlite`. What requests mean
//! is decided in `relay-blossom`.
//!
//! ```text
//! exchange    carries out the steps of a request; fetch: blobs of other servers
//! media       pictures: how many are in memory and processed at a time
//! store       bytes, in a folder or a bucket; index: which blobs there are
//! announce    what the start-up lines say
//! tidy        what an earlier process has left; keeper: removals, sweeps, the relay's events
//! ```

mod announce;
mod bucket;
mod exchange;
mod fetch;
mod index;
mod keeper;
mod media;
mod store;
mod tidy;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use relay_agent::executor::Access;
use relay_agent::fetch::PrivateHosts;
use relay_blossom::exchange::{Context, Keys};
use relay_blossom::{Command, Outcome};
use relay_engine::types::PubKey;
use relay_engine::verify::Verifier;
use relay_site::nip98::{Origin, UsedEvents};
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore};

use self::index::Indexed;
use self::media::Media;
use self::store::Bodies;
use crate::agents::http::Client;
use crate::agents::owner;
use crate::config::Settings;
use crate::handle::RelayHandle;
use crate::host::now;

pub(crate) use self::exchange::Answered;
pub(crate) use self::store::Reading;

/// Blobs that are fetched from other servers at a time.
const FETCHES_MAX: usize = 16;
/// How long the owner's key of a local relay is remembered.
const OWNER_AGE: Duration = Duration::from_secs(1);

/// The blobs of a relay.
pub(crate) struct Blossom {
    settings: Settings,
    verifier: Arc<dyn Verifier>,
    relay: RelayHandle,
    bodies: Bodies,
    index: Indexed,
    client: Client,
    uploads: Semaphore,
    /// Blobs of other servers that are fetched at a time; their servers may be slow.
    fetches: Semaphore,
    media: Media,
    /// Something may be removed.
    wake: Notify,
    owner: Mutex<Option<(Instant, Option<PubKey>)>>,
    /// Events that have signed requests of operators.
    used: Mutex<UsedEvents>,
}

/// Where a request came from.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// Where its client reaches this server, without a slash at the end.
    pub(crate) base_url: String,
    /// Whether it came from this machine, as far as can be told.
    pub(crate) is_local: bool,
    /// The URL to which it was sent, or else its Host header.
    pub(crate) url: Result<String, String>,
}

impl Seen {
    fn origin(&self) -> Origin<'_> {
        match &self.url {
            Ok(url) => Origin::Url(url),
            Err(host) => Origin::Host(host),
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
    ) -> Result<Self, String> {
        let words = |error: std::io::Error| error.to_string();
        let bodies = match &settings.blobs.bucket {
            Some(name) => Bodies::bucket(bucket::open(name, &settings.blobs)?),
            None => Bodies::folder(&settings.data.join("blobs")).map_err(words)?,
        };
        let index =
            Indexed::open(&settings.data.join("blossom.sqlite")).map_err(|error| error.to_string())?;
        Ok(Blossom {
            settings: settings.clone(),
            verifier,
            relay,
            uploads: Semaphore::new(bodies.uploads_max()),
            fetches: Semaphore::new(FETCHES_MAX),
            bodies,
            index,
            client: Client::new(PrivateHosts::default()).map_err(words)?,
            media: Media::new(),
            wake: Notify::new(),
            owner: Mutex::default(),
            used: Mutex::default(),
        })
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
            tidy::unfinished_files(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        }
        on.block_on(tidy::unknown_keys(&self.index, &self.bodies))?;
        on.spawn(keeper::keep(Arc::clone(self)));
        on.spawn(keeper::follow(Arc::clone(self)));
        Ok(())
    }

    /// Says where blobs are and who may upload.
    pub(crate) fn announce(&self) {
        announce::announce(&self.settings, self.admins().len());
    }

    fn context<'a>(&'a self, seen: &'a Seen, admins: &'a [PubKey]) -> Context<'a> {
        let policy = &self.settings.policy;
        Context {
            settings: &self.settings.blossom,
            keys: Keys { admins, allowed: policy.allow_pubkeys.as_deref(), denied: &policy.deny_pubkeys },
            base_url: &seen.base_url,
            origin: seen.origin(),
            name: &self.settings.info.name,
            is_local: seen.is_local,
            processes_media: true,
            upload_seconds_max: 13 * 3_600,
            now: now().seconds(),
            verifier: &*self.verifier,
            payments: None,
        }
    }

    /// Administrators, and the owner of a local relay.
    fn admins(&self) -> Vec<PubKey> {
        let mut admins = self.settings.policy.admin_pubkeys.clone();
        let mut known = self.owner.lock().unwrap_or_else(PoisonError::into_inner);
        let owner = match *known {
            Some((at, owner)) if at.elapsed() < OWNER_AGE => owner,
            _ => {
                let owner = owner::pubkey(&self.settings.data);
                *known = Some((Instant::now(), owner));
                owner
            }
        };
        admins.extend(owner);
        admins
    }

    fn access(&self) -> Access {
        if self.settings.blossom.allow_private_addresses { Access::Anywhere } else { Access::Public }
    }
}
