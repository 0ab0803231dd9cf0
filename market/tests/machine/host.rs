//! A registry alone, with a clock of its own, and events for it.

use relay_agent::api::Relay;
use relay_agent::identity::npub;
use relay_engine::types::{Event, Timestamp};
use relay_market::Registry;
use relay_market::http::{Request, answer};
use relay_market::proof::Proof;
use relay_market::registry::Bounds;
use relay_market::testing::Sqlite;
use relay_site::{HttpResponse, MarketRoute};
use serde_json::{Value, json};

use super::common::{Draft, pubkey};

pub(crate) const NOW: Timestamp = 2_000_000_000;
pub(crate) const HOUR: Timestamp = 3_600;
pub(crate) const DAY: Timestamp = 86_400;
const RELAY: Relay<'static> = Relay { name: "test", url: "", version: "0" };

/// A registry with a relay that numbers events.
pub(crate) struct Host {
    pub(crate) db: Sqlite,
    pub(crate) registry: Registry<Sqlite>,
    pub(crate) seq: u64,
    pub(crate) now: Timestamp,
}

impl Host {
    pub(crate) fn new() -> Self {
        let db = Sqlite::new();
        Host { registry: Registry::open(db.clone()).unwrap(), db, seq: 0, now: NOW }
    }

    pub(crate) fn apply(&mut self, events: &[Draft]) {
        let events: Vec<Event> = events.iter().map(Draft::event).collect();
        self.apply_events(&events);
    }

    pub(crate) fn apply_events(&mut self, events: &[Event]) {
        let items: Vec<_> = events
            .iter()
            .map(|event| {
                self.seq += 1;
                (self.seq, Some(event.clone()))
            })
            .collect();
        self.registry.apply(&items, self.now, &|_| true).unwrap();
        self.count();
    }

    pub(crate) fn count(&mut self) {
        while self.registry.refresh(self.now).unwrap() {}
    }

    pub(crate) fn pass(&mut self, seconds: Timestamp) {
        self.now += seconds;
        while self.registry.sweep(self.now).unwrap() {
            self.count();
        }
        self.count();
    }

    pub(crate) fn get(&self, route: MarketRoute, npub: Option<&str>, query: &str) -> HttpResponse {
        answer(&self.registry, &Request { route, npub, query, relay: RELAY }, self.now).unwrap()
    }

    pub(crate) fn list(&self, query: &str) -> Value {
        let response = self.get(MarketRoute::List, None, query);
        assert_eq!(response.status, 200, "{query}: {response:?}");
        serde_json::from_slice(&response.body).unwrap()
    }

    pub(crate) fn names(&self, query: &str) -> Vec<String> {
        let listed = self.list(query);
        let providers = listed["providers"].as_array().unwrap();
        providers.iter().map(|provider| provider["name"].as_str().unwrap().to_owned()).collect()
    }

    pub(crate) fn only(&self) -> Value {
        let listed = self.list("");
        assert_eq!(listed["providers"].as_array().unwrap().len(), 1, "{listed}");
        listed["providers"][0].clone()
    }

    /// `[delivered, failed, unpaid, pending, customers]` of the only provider.
    pub(crate) fn counts(&self) -> [u64; 5] {
        let figures = &self.only()["figures"];
        ["jobs_delivered", "jobs_failed", "jobs_unpaid", "jobs_pending", "distinct_customers_served"]
            .map(|name| figures[name].as_u64().unwrap())
    }

    pub(crate) fn proof(&self, author: u8) -> Value {
        let response = self.get(MarketRoute::Proof, Some(&npub(&pubkey(author))), "");
        assert_eq!(response.status, 200, "{response:?}");
        serde_json::from_slice(&response.body).unwrap()
    }
}

pub(crate) fn key(author: u8) -> String {
    pubkey(author).to_string()
}

pub(crate) fn announcement(author: u8, name: &str, kinds: &[&str], amount: &str) -> Draft {
    let content = json!({ "name": name, "about": format!("About {name}"), "amount": amount }).to_string();
    let draft = Draft::new(author, 31_990, NOW - DAY).tag(&["d", name]).content(&content);
    kinds.iter().fold(draft, |draft, kind| draft.tag(&["k", kind]))
}

pub(crate) fn request(customer: u8, provider: u8, at: Timestamp) -> Draft {
    Draft::new(customer, 5_050, at).tag(&["p", &key(provider)])
}

pub(crate) fn reply(provider: u8, to: &Draft, kind: u16, at: Timestamp) -> Draft {
    let to = to.event();
    Draft::new(provider, kind, at).tag(&["e", &to.id.to_string()]).tag(&["p", &to.pubkey.to_string()])
}

pub(crate) fn result(provider: u8, to: &Draft, at: Timestamp) -> Draft {
    reply(provider, to, 6_050, at)
}

/// A registry with bounds that a test can reach.
pub(crate) fn bounded(bounds: Bounds) -> Host {
    let db = Sqlite::new();
    Host { registry: Registry::open_bounded(db.clone(), bounds).unwrap(), db, seq: 0, now: NOW }
}

/// What the proof of a provider and all that a relay has say together.
pub(crate) fn recomputed(host: &Host, author: u8, served: &[Draft]) -> (Value, Value) {
    let document = host.proof(author);
    let proof = Proof::read(&document).unwrap();
    let served: Vec<Event> = served.iter().map(Draft::event).collect();
    let all = proof.events.iter().chain(&served);
    (proof.recompute(all), document["figures"].clone())
}
