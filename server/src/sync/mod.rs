//! This relay as a client of other relays: sets of events are compared (NIP-77), and what one side lacks is copied.
//!
//! The session is `relay_sync`'s, which knows neither a socket nor a store.
//!
//! | module | role |
//! |---|---|
//! | `peer` | connections to other relays |
//! | `local` | the store here |
//! | `driver` | everything together, for one relay |
//! | `stream` | following relays live |

mod driver;
mod local;
pub(crate) mod peer;
pub(crate) mod stream;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use relay_agent::identity::Keys;
use relay_engine::store::Backend;
use relay_engine::types::Timestamp;
#[cfg(test)]
use relay_sync::testing;
use relay_sync::{auth, backoff, counts, frames, information, ranges, session, upload};

pub(crate) use self::counts::Counts;
pub(crate) use self::driver::{Method, Outcome, Report, SyncProgress};
pub(crate) use self::peer::RelayUrl;

use self::backoff::Backoff;
use self::driver::Driver;
use self::local::Local;
use self::peer::Connector;
use self::ranges::Scope;
use self::session::Plan;
use crate::cli::command_store::CommandStore;
use crate::cli::exit::Failure;
use crate::config::Settings;
use crate::signals::Interrupt;

/// What is to be done with other relays.
pub(crate) struct Options<'a> {
    /// The events that are to be on both sides: a filter (NIP-01), without `limit`.
    pub(crate) filter: &'a str,
    /// Not older than this second.
    pub(crate) since: Option<Timestamp>,
    /// Not newer than this second.
    pub(crate) until: Option<Timestamp>,
    /// Fetch what is there and not here.
    pub(crate) down: bool,
    /// Send what is here and not there.
    pub(crate) up: bool,
    /// Only count.
    pub(crate) dry_run: bool,
    /// Longest time without an answer.
    pub(crate) timeout: Duration,
    /// Connections without progress before a relay is given up.
    pub(crate) tries: u32,
    /// Signs for relays that ask for authentication (NIP-42).
    pub(crate) keys: Option<Keys>,
}

impl Options<'_> {
    /// # Errors
    /// If the filter is wrong.
    pub(crate) fn task(self) -> Result<Task, Failure> {
        let Options { filter, since, until, down, up, dry_run, timeout, tries, keys } = self;
        let scope =
            Scope::new(filter, since, until).map_err(|why| Failure::Usage(format!("--filter {why}")))?;
        let plan = Plan { scope, down, up, dry_run, timeout, has_key: keys.is_some() };
        Ok(Task { plan, keys, backoff: Backoff::new(tries) })
    }
}

/// Checked options.
pub(crate) struct Task {
    plan: Plan,
    keys: Option<Keys>,
    backoff: Backoff,
}

/// The store here, and what is to be done with other relays.
pub(crate) struct SyncClient<B>(Driver<B>);

impl<B: Backend + Send + Sync + 'static> SyncClient<B> {
    /// # Errors
    /// If TLS cannot be set up.
    pub(crate) fn new(
        task: Task,
        store: CommandStore<B>,
        settings: &Settings,
        interrupt: Interrupt,
    ) -> Result<Self, Failure> {
        let Task { plan, keys, backoff } = task;
        let (connector, local) = (Arc::new(Connector::new()?), Arc::new(Local::new(store, settings)));
        Ok(SyncClient(Driver {
            connector,
            local,
            plan: Arc::new(plan),
            keys,
            peer_has: None,
            backoff,
            interrupt,
        }))
    }

    /// Deals with one relay, and tells what happens.
    ///
    /// # Errors
    /// If the local store fails. All else is in the report.
    pub(crate) async fn run(
        &self,
        url: &RelayUrl,
        tell: &mut (dyn FnMut(SyncProgress<'_>) + Send),
    ) -> Result<Report, Failure> {
        self.0.run(url, tell).await
    }

    /// Removes what was deleted by requests that came.
    ///
    /// # Errors
    /// The store's.
    pub(crate) fn finish(&self) -> Result<(), Failure> {
        self.0.local.remove_pending(|| self.0.interrupt.has_come())
    }
}
