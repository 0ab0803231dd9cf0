//! What the Worker and the object of the market say to each other, and the object as a consumer of the relay's events.

mod object;

use relay_agent::api::Relay;
use relay_agent::identity::parse_pubkey;
use relay_engine::types::{Kind, Timestamp};
use relay_engine::wire;
use relay_market::http::Request;
use relay_market::registry::{self, Bounds, Item};
use relay_site::MarketRoute;
use serde::{Deserialize, Serialize};
use serde_json::json;

pub use self::object::{MarketHost, MarketObject};
use crate::settings::ConsumerSettings;

/// The binding of `MarketDurableObject`.
pub const MARKET: &str = "MARKET";
/// The name of its one object.
pub const OBJECT: &str = "market";
/// Where the object takes events, as every consumer does.
pub const EVENTS_PATH: &str = "/events";
/// Where it is asked: a POST with [`Asked`].
pub const ASK_PATH: &str = "/ask";

/// How long the Worker and the object give an answer again, in milliseconds.
pub const KEPT_MILLIS: u64 = 2_000;
/// Bytes of the answers that each of them keeps.
pub const KEPT_BYTES_MAX: usize = 4 << 20;

/// A fifth of what the server keeps: an isolate has 128 MB, perhaps with the relay's object in it, a list reads all announcements, a
/// count all jobs of a provider, and rows that are read cost something.
pub const BOUNDS: Bounds = Bounds {
    events: 20_000,
    author_events: 2_000,
    kept_bytes: 2 << 20,
    receipts: 20_000,
    providers: 1_000,
    offers: 2_000,
    provider_offers: 16,
    heartbeats: 4_000,
};

/// The object as a consumer of the events of every shard. When the registry's tables are made again, all is delivered again.
pub fn consumer(guarded: &[Kind], now: Timestamp) -> ConsumerSettings {
    let filters = registry::filters(guarded, now).into_iter();
    let filters = filters.map(|filter| match filter.since {
        Some(since) => json!({ "kinds": filter.kinds, "since": since }),
        None => json!({ "kinds": filter.kinds }),
    });
    ConsumerSettings {
        binding: MARKET.to_owned(),
        object: OBJECT.to_owned(),
        filters: filters.collect(),
        replay: Some(registry::SCHEMA),
    }
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum What {
    List,
    Page,
    Proof,
}

/// A request, and how pages name the relay.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    what: What,
    npub: Option<String>,
    query: String,
    relay_name: String,
    relay_url: String,
}

impl Asked {
    /// Of a request, routed.
    pub fn new(
        route: MarketRoute,
        npub: Option<&str>,
        query: &str,
        relay_name: &str,
        relay_url: &str,
    ) -> Self {
        let what = match route {
            MarketRoute::List => What::List,
            MarketRoute::ListPage => What::Page,
            MarketRoute::Proof => What::Proof,
        };
        // A key has one name, and of a proof the query means nothing.
        let npub = npub.map(|npub| parse_pubkey(npub).map_or_else(|| npub.to_owned(), |key| key.to_string()));
        let query = if what == What::Proof { "" } else { query };
        Asked {
            what,
            npub,
            query: query.to_owned(),
            relay_name: relay_name.to_owned(),
            relay_url: relay_url.to_owned(),
        }
    }

    /// As JSON.
    pub fn encode(&self) -> String {
        json!(self).to_string()
    }

    /// Reads what [`Asked::encode`] has made.
    ///
    /// # Errors
    /// If it is something else.
    pub fn decode(body: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(body).map_err(|error| error.to_string())
    }

    fn request(&self) -> Request<'_> {
        let route = match self.what {
            What::List => MarketRoute::List,
            What::Page => MarketRoute::ListPage,
            What::Proof => MarketRoute::Proof,
        };
        let relay =
            Relay { name: &self.relay_name, url: &self.relay_url, version: env!("CARGO_PKG_VERSION") };
        Request { route, npub: self.npub.as_deref(), query: &self.query, relay }
    }
}

/// A line of a batch for a consumer.
#[derive(Deserialize)]
struct Line {
    seq: Option<u64>,
    event: serde_json::Value,
}

/// The stored events of a batch. What is no event would be none the next time either, so it is passed over.
fn items(body: &[u8]) -> Vec<Item> {
    let lines = body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let item = |line: &[u8]| {
        let Line { seq, event } = serde_json::from_slice(line).ok()?;
        let event = wire::parse_event(event.to_string().as_bytes()).ok()?.to_event();
        Some((seq?, Some(event)))
    };
    lines.filter_map(item).collect()
}
