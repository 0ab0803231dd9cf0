//! Blossom in this process: blobs in `<data>/blobs` or a bucket, and their index in `<data>/blossom.sqlite`. What requests mean
//! is decided in `relay-blossom`.
//!
//! ```text
//! exchange    carries out the steps of a request; fetch: blobs of other servers
//! store       bytes; index: which blobs there are
//! keeper      start-up, removals, sweeps, the relay's events
//! ```

mod exchange;
mod fetch;
mod index;
mod keeper;
mod store;

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
use self::store::Bodies;
use crate::agents::http::Client;
use crate::agents::owner;
use crate::config::Settings;
use crate::handle::RelayHandle;
use crate::host::now;

pub(crate) use self::exchange::Answered;
pub(crate) use self::store::Reading;

/// Uploads whose bytes are taken at a time; further ones wait. Each has a file open.
const UPLOADS_MAX: usize = 128;
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
        let bodies = Bodies::folder(&settings.data.join("blobs")).map_err(words)?;
        let index =
            Indexed::open(&settings.data.join("blossom.sqlite")).map_err(|error| error.to_string())?;
        Ok(Blossom {
            settings: settings.clone(),
            verifier,
            relay,
            bodies,
            index,
            client: Client::new(PrivateHosts::default()).map_err(words)?,
            uploads: Semaphore::new(UPLOADS_MAX),
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
        on.spawn(keeper::sweep_files(Arc::clone(self)));
        on.spawn(keeper::keep(Arc::clone(self)));
        on.spawn(keeper::follow(Arc::clone(self)));
        Ok(())
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
            processes_media: false,
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
            _ => owner::pubkey(&self.settings.data),
        };
        *known = Some((Instant::now(), owner));
        admins.extend(owner);
        admins
    }

    fn access(&self) -> Access {
        if self.settings.blossom.allow_private_addresses { Access::Anywhere } else { Access::Public }
    }
}
