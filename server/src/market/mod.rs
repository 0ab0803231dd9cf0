//! The market in this process: a registry of job providers in `<data>/market.sqlite`. What events mean and requests are answered is
//! decided in `relay-market`.
//!
//! ```text
//! cache    answers that are given again
//! follow   the relay's stream, figures, sweeps
//! ```

mod cache;
mod follow;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use relay_agent::api::Relay;
use relay_agent::identity::parse_pubkey;
use relay_engine::sql::StoreError;
use relay_engine::types::ClientAddress;
use relay_market::Registry;
use relay_market::http::{Request, answer};
use relay_site::{HttpResponse, MarketRoute};
use tokio::runtime::Handle;

use crate::agents::sqlite::Sqlite;
use crate::config::Settings;
use crate::handle::RelayHandle;
use crate::host::now;
use crate::permits::{Holder, Permits};
use cache::Cache;

/// Requests of an address that wait.
const WAITING_MAX: usize = 8;

/// The market of a relay.
pub(crate) struct Market {
    settings: Settings,
    relay: RelayHandle,
    writer: Mutex<Registry<Sqlite>>,
    /// Requests wait without a thread, so that they never have more than one, and clients have turns.
    turns: Permits,
    cache: Mutex<Cache>,
    reader: Arc<tokio::sync::Mutex<Registry<Sqlite>>>,
}

impl Market {
    /// Opens the file, or makes it.
    ///
    /// # Errors
    /// If it cannot be read or written, or is of another version.
    pub(crate) fn open(settings: &Settings, relay: RelayHandle) -> Result<Self, StoreError> {
        let path = settings.data.join("market.sqlite");
        let conn = Sqlite::open_shared(&path)?;
        // What power loss takes is read from the relay's stream again.
        conn.wait_for_disk(false)?;
        let writer = Registry::open(conn)?;
        let reader = Registry::open_to_read(Sqlite::open_shared(&path)?)?;
        Ok(Market {
            settings: settings.clone(),
            relay,
            writer: Mutex::new(writer),
            turns: Permits::new(1, WAITING_MAX),
            cache: Mutex::new(Cache::new(Instant::now())),
            reader: Arc::new(tokio::sync::Mutex::new(reader)),
        })
    }

    /// Follows the relay from where the last process ended; the first one from the beginning.
    pub(crate) fn start(self: &Arc<Self>, on: &Handle) {
        on.spawn(follow::run(Arc::clone(self)));
    }

    /// Answers a request of a client with this address, if it is not exempt.
    pub(crate) async fn answer(
        &self,
        route: MarketRoute,
        npub: Option<String>,
        query: String,
        address: Option<ClientAddress>,
    ) -> HttpResponse {
        let asked = asked(route, npub.as_deref(), &query);
        let holder = address.map_or_else(|| Holder::Key(String::new()), Holder::Address);
        let Some(_turn) = self.turns.acquire(holder).await else {
            return HttpResponse::error(429, "too many requests of this address wait")
                .with("retry-after", "1");
        };
        if let Some(answer) = self.cache().get(&asked, Instant::now()) {
            return answer;
        }
        let reader = Arc::clone(&self.reader).lock_owned().await;
        let (name, url) = (self.settings.info.name.clone(), self.settings.url.clone().unwrap_or_default());
        let begun = Instant::now();
        let answered = tokio::task::spawn_blocking(move || {
            let relay = Relay { name: &name, url: &url, version: env!("CARGO_PKG_VERSION") };
            let request = Request { route, npub: npub.as_deref(), query: &query, relay };
            answer(&reader, &request, now().seconds())
        });
        match answered.await {
            Ok(Ok(answered)) => {
                self.cache().put(asked, &answered, begun.elapsed(), Instant::now());
                answered
            }
            Ok(Err(error)) => unavailable(&error.to_string()),
            Err(error) => unavailable(&error.to_string()),
        }
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn writer(&self) -> MutexGuard<'_, Registry<Sqlite>> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a request asks for. Of a proof its query means nothing.
fn asked(route: MarketRoute, npub: Option<&str>, query: &str) -> String {
    match (route, npub.and_then(parse_pubkey)) {
        (MarketRoute::Proof, Some(provider)) => format!("proof {provider}"),
        (MarketRoute::Proof, None) => "no proof".to_owned(),
        (MarketRoute::List, _) => format!("list {query}"),
        (MarketRoute::ListPage, _) => format!("page {query}"),
    }
}

fn unavailable(error: &str) -> HttpResponse {
    tracing::error!(error, "a request to the market failed");
    HttpResponse::error(503, "the market's registry cannot be read").with("retry-after", "5")
}
