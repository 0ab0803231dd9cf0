//! The Worker's variables, parsed and validated.
//!
//! | variable | meaning |
//! |---|---|
//! | `RELAY_NAME`, `RELAY_DESCRIPTION`, `RELAY_PUBKEY`, `RELAY_CONTACT` | NIP-11 |
//! | `RELAY_PRIVATE_KEY` | secret, 64 hex digits: the relay's own key; NIP-11 shows its public key as `self` |
//! | `ADMIN_PUBKEYS` | secret: public keys of administrators, separated by commas, added to `policy.admin_pubkeys` |
//! | `METRICS_TOKEN` | secret: `/metrics` then requires it as `Authorization: Bearer`, or an administrator's NIP-98 event |
//! | `RELAY_URL` | public `wss://` URL, which AUTH events must name; without it they are compared with the Host header |
//! | `RELAY_SHARDS` | number of shards; must be 1 in this version |
//! | `RELAY_LOCATION_HINT` | where new objects are placed: `weur`, `enam`, ... |
//! | `RELAY_JURISDICTION` | where objects must stay: `eu`, `us`, `fedramp` |
//! | `RELAY_CONFIG` | JSON with `info`, `limits`, `policy`, `agents`, `blossom` and `market`, which have the keys of the native server's file, and `network`, `store`, `object`, `consumers` and `sync`, whose keys are those below |
//!
//! A variable of its own overrides the same setting in `RELAY_CONFIG`. `blossom` needs the bindings `BLOBS` (an R2
//! bucket) and `BLOSSOM` (`BlossomDurableObject`): without them there are no blobs; `market` needs `MARKET` (`MarketDurableObject`).

mod peers;

use relay_engine::policy::{Policy, is_relay_url};
use relay_engine::relay::Config;
use relay_engine::store::sql::EVENT_BYTES_MAX;
use relay_engine::types::{
    Class, Filter, KIND_ADD_USER, KIND_REMOVE_USER, Kind, Limits, PubKey, is_removal_request,
};
use relay_engine::wire::parse_filter;
use relay_site::networks::{CONNECTIONS_PER_ADDRESS_MAX, LOOPBACK};
use relay_site::{
    AgentSettings, BlossomSettings, Info, LimitsDef, MarketSettings, Networks, PolicyDef, RelayDescription,
    admission,
};
use serde::{Deserialize, Serialize};
use serde_json::json;

pub use self::peers::{PeerSettings, SyncSettings};
use crate::relay_key;
use crate::shard::Shards;

/// Largest WebSocket message that workerd accepts, in bytes.
const MESSAGE_BYTES_MAX: usize = 32 << 20;
/// Most connections of an object: the platform allows 32,768 sockets, and some of them may be closing.
const SOCKETS_MAX: usize = 32_000;
/// Most values in the filters of one connection: it must not take more than a fraction of an object's 128 MB.
const CONNECTION_VALUES_MAX: usize = 20_000;
/// Most values of a request: those of a connection, less some for the filters themselves, which count too.
const REQUEST_VALUES_MAX: usize = CONNECTION_VALUES_MAX - 100;
/// Memory of the filters of all connections together, in bytes.
const SHARD_FILTER_BYTES_MAX: usize = 36 << 20;
/// Most values in the filters of all connections together.
const SHARD_VALUES_MAX: usize = 120_000;
/// Most bytes of output that wait for all readers, in the machine and in sockets.
pub(crate) const OUTPUT_BYTES_MAX: usize = 32 << 20;
/// Most cost of a step: an object has one thread, and takes several times a native shard's time for a unit.
const STEP_COST_MAX: usize = 250;
/// What sending a frame costs: each is a call of JavaScript and a message of workerd, measured at 4 to 5.5 us of CPU for
/// up to 500 bytes and at 13 for 5,000.
const FRAME_COST: usize = 5;
/// Most bytes of events between arrival and commit.
const IN_FLIGHT_BYTES_MAX: usize = 16 << 20;
/// Bytes of messages that wait for earlier ones.
const DEFERRED_BYTES_MAX: usize = 8 << 20;
/// Bytes of what running requests hold.
const QUERY_BYTES_MAX: usize = 16 << 20;
/// Bytes of sets of events of reconciliations (NIP-77): some 200,000 events.
const NEG_SETS_BYTES_MAX: usize = 8 << 20;
/// Relays that may be copied from: each has metrics of its own.
const PEERS_MAX: usize = 16;
/// Bytes of a picture for `/media`: it is in memory several times while its metadata is removed, and an isolate has 128 MB.
const MEDIA_BYTES_MAX: u64 = 8 << 20;

/// Cloudflare's location hints. It ignores unknown ones, so they are checked here.
const LOCATION_HINTS: [&str; 9] = ["wnam", "enam", "sam", "weur", "eeur", "apac", "oc", "afr", "me"];

/// The effective settings.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// NIP-11: the relay information document.
    pub info: Info,
    /// Bounds, enforced and advertised.
    #[serde(with = "LimitsDef")]
    pub limits: Limits,
    /// Who may write and read what.
    #[serde(with = "PolicyDef")]
    pub policy: Policy,
    /// Public URL.
    pub url: Option<String>,
    /// Limits of connections.
    pub network: NetworkSettings,
    /// Removal of events.
    pub store: StoreSettings,
    /// Work of objects.
    pub object: ObjectSettings,
    /// Durable Objects that receive the events that match their filters; see [`ConsumerSettings`].
    pub consumers: Vec<ConsumerSettings>,
    /// Other relays that events are copied from.
    pub sync: SyncSettings,
    /// Agents beside the relay.
    pub agents: AgentSettings,
    /// Blossom beside the relay. `media_bytes_max` is 8 MiB at most.
    pub blossom: BlossomSettings,
    /// The market of job providers.
    pub market: MarketSettings,
    /// The number of shards, and where their objects are.
    #[serde(skip)]
    pub placement: Placement,
    /// The bearer token for `/metrics`.
    #[serde(skip)]
    pub metrics_token: Option<Secret>,
}

/// A string that `Debug` does not show.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The text.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

/// Limits by client address: `CF-Connecting-IP`. The native server's `network` has these keys too.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct NetworkSettings {
    /// Addresses and networks (`10.0.0.0/8`) that have no limits by address.
    pub exempt_addresses: Vec<String>,
    /// Connections that an IPv4 address, or the /64 of an IPv6 address, may have to an object. Carriers put many phones
    /// behind one address.
    pub connections_per_address_max: usize,
    /// A client that reads nothing for this many seconds, while output is queued for it, is closed. While output is
    /// queued, the object cannot hibernate.
    pub write_stall_seconds: u64,
}

impl Default for NetworkSettings {
    fn default() -> Self {
        NetworkSettings {
            exempt_addresses: LOOPBACK.map(str::to_owned).into(),
            connections_per_address_max: CONNECTIONS_PER_ADDRESS_MAX,
            write_stall_seconds: 120,
        }
    }
}

impl NetworkSettings {
    /// Clients that have no limits by address.
    ///
    /// # Errors
    /// Names the first that is neither an address nor a network.
    pub fn exempt(&self) -> Result<Networks, String> {
        Networks::new(&self.exempt_addresses)
    }
}

/// When events are removed that have expired or are old. Of these keys the native server's `store` has only `sweep_seconds`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoreSettings {
    /// Expired events are removed at most this often, in seconds. They are never sent in the meantime.
    pub sweep_seconds: u64,
    /// Regular events older than this many seconds are removed; 0 keeps them for ever. Replaceable and addressable events
    /// stay.
    pub retention_seconds: u64,
    /// Kinds that are not removed by age.
    pub retention_kinds_spared: Vec<Kind>,
}

impl StoreSettings {
    /// Whether events of this kind are removed when they are older than the retention.
    pub fn is_removed_by_age(&self, kind: Kind) -> bool {
        self.retention_seconds > 0
            && Class::of(kind) == Class::Regular
            && !is_removal_request(kind)
            && !self.retention_kinds_spared.contains(&kind)
    }
}

impl Default for StoreSettings {
    fn default() -> Self {
        StoreSettings { sweep_seconds: 60, retention_seconds: 0, retention_kinds_spared: Vec::new() }
    }
}

/// How an object shares its thread.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct ObjectSettings {
    /// Steps of requests in one tick; then new messages are received before the next tick.
    pub tick_steps_max: usize,
}

impl Default for ObjectSettings {
    fn default() -> Self {
        ObjectSettings { tick_steps_max: 4 }
    }
}

/// A Durable Object that receives stored events in commit order, at least once each, and ephemeral ones as they come.
///
/// Batches are sent as `POST https://consumer/events` with a line of JSON for each event: `{"seq":7,"event":{...}}`, `seq`
/// null for ephemeral ones. A batch that is answered 2xx is confirmed; any other is sent again later. The first event
/// is the first that is stored after the consumer was configured.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ConsumerSettings {
    /// Binding of the Durable Object's namespace in the Worker's configuration.
    pub binding: String,
    /// Name of the object in it.
    pub object: String,
    /// NIP-01 filters; an event must match one of them.
    pub filters: Vec<serde_json::Value>,
    /// If there is a number, the first event is the first of all, also when the number has changed. For consumers of this Worker.
    #[serde(skip)]
    pub replay: Option<u64>,
}

impl ConsumerSettings {
    /// Its name: `BINDING/OBJECT`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.binding, self.object)
    }

    /// The name under which the store has what it has confirmed.
    pub(crate) fn stored_name(&self) -> String {
        self.replay.map_or_else(|| self.name(), |replay| format!("{} {replay}", self.name()))
    }

    /// Its filters, parsed.
    ///
    /// # Errors
    /// Names the first invalid filter.
    pub fn filters(&self) -> Result<Vec<Filter>, String> {
        let filter = |value: &serde_json::Value| {
            parse_filter(value.to_string().as_bytes()).map_err(|error| format!("{value}: {error}"))
        };
        self.filters.iter().map(filter).collect()
    }
}

/// The number of shards and the location of their objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    /// The number of shards.
    pub shards: Shards,
    /// The location hint for new objects; best effort.
    pub location_hint: Option<String>,
    /// The jurisdiction that objects must stay in; another jurisdiction has its own set of objects.
    pub jurisdiction: Option<String>,
}

impl Default for Placement {
    fn default() -> Self {
        Placement { shards: Shards::ONE, location_hint: None, jurisdiction: None }
    }
}

/// Reads the JSON of `RELAY_CONFIG`. Errors name the field.
fn read_config(text: &str) -> Result<Settings, String> {
    let mut json = serde_json::Deserializer::from_str(text);
    let settings = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        match path.contains(['.', '[']) {
            true => format!("{path}: {}", error.into_inner()),
            false => error.into_inner().to_string(),
        }
    })?;
    json.end().map_err(|error| error.to_string())?;
    Ok(settings)
}

impl Settings {
    /// Loads settings from variables; `variable` returns `None` for those that are not set.
    ///
    /// # Errors
    /// Names the first invalid variable, for the operator.
    pub fn load(variable: &dyn Fn(&str) -> Option<String>) -> Result<Self, String> {
        let variable = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
        let mut settings: Settings = match variable("RELAY_CONFIG") {
            Some(text) => read_config(&text).map_err(|error| format!("RELAY_CONFIG: {error}"))?,
            None => Settings::default(),
        };
        let info = &mut settings.info;
        for (name, place) in [("RELAY_NAME", &mut info.name), ("RELAY_DESCRIPTION", &mut info.description)] {
            if let Some(value) = variable(name) {
                *place = value;
            }
        }
        for (name, place) in [
            ("RELAY_PUBKEY", &mut info.pubkey),
            ("RELAY_CONTACT", &mut info.contact),
            ("RELAY_URL", &mut settings.url),
            ("RELAY_LOCATION_HINT", &mut settings.placement.location_hint),
            ("RELAY_JURISDICTION", &mut settings.placement.jurisdiction),
        ] {
            if let Some(value) = variable(name) {
                *place = Some(value);
            }
        }
        if let Some(hint) = &settings.placement.location_hint
            && !LOCATION_HINTS.contains(&hint.as_str())
        {
            return Err(format!("RELAY_LOCATION_HINT: `{hint}` is none of {}", LOCATION_HINTS.join(", ")));
        }
        if let Some(count) = variable("RELAY_SHARDS") {
            let shards = count.trim().parse().ok().and_then(Shards::new);
            settings.placement.shards = shards.ok_or_else(|| {
                format!("RELAY_SHARDS: {count} is not a power of two from 1 to {}", Shards::MAX)
            })?;
        }
        if let Some(secret) = variable("RELAY_PRIVATE_KEY") {
            // The message must not show the key.
            let invalid =
                || "RELAY_PRIVATE_KEY: is not a private key in 64 lowercase hexadecimal digits".to_owned();
            if let Some(pubkey) = relay_key::public_key(secret.trim()).map_err(|_| invalid())? {
                settings.info.own_pubkey = Some(pubkey.to_string());
            }
        }
        if let Some(token) = variable("METRICS_TOKEN") {
            let token = token.trim();
            if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err("METRICS_TOKEN: must be of visible ASCII characters".into());
            }
            settings.metrics_token = Some(Secret(token.to_owned()));
        }
        if let Some(admins) = variable("ADMIN_PUBKEYS") {
            for admin in admins.split([',', ' ', '\n']).map(str::trim).filter(|admin| !admin.is_empty()) {
                let admin = PubKey::from_hex(admin.as_bytes())
                    .map_err(|error| format!("ADMIN_PUBKEYS: `{admin}`: {error}"))?;
                settings.policy.admin_pubkeys.push(admin);
            }
        }
        settings.blossom.media_bytes_max = settings.blossom.media_bytes_max.min(MEDIA_BYTES_MAX);
        settings.check()?;
        Ok(settings)
    }

    fn check(&mut self) -> Result<(), String> {
        for (name, pubkey) in [("RELAY_PUBKEY", &self.info.pubkey), ("info.self", &self.info.own_pubkey)] {
            if let Some(pubkey) = pubkey {
                PubKey::from_hex(pubkey.as_bytes()).map_err(|error| format!("{name}: {error}"))?;
            }
        }
        if let Some(url) = &self.url
            && !is_relay_url(url)
        {
            return Err(format!("RELAY_URL: `{url}` is not a ws:// or wss:// URL with a host"));
        }
        if self.placement.shards != Shards::ONE {
            return Err("RELAY_SHARDS: this version serves one shard only".into());
        }
        let mut names = std::collections::BTreeSet::new();
        for consumer in &self.consumers {
            let name = consumer.name();
            consumer.filters().map_err(|message| format!("consumers: {name}: {message}"))?;
            if !names.insert(name.clone()) {
                return Err(format!(
                    "consumers: {name}: is configured twice; a consumer may have several filters"
                ));
            }
        }
        if self.sync.peers.len() > PEERS_MAX {
            return Err(format!("sync.peers: {} relays; {PEERS_MAX} are allowed", self.sync.peers.len()));
        }
        for (at, peer) in self.sync.peers.iter().enumerate() {
            peer.check(self.url.as_deref())
                .map_err(|(field, why)| format!("sync.peers[{at}].{field}: {why}"))?;
            if self.sync.peers.iter().take(at).any(|earlier| earlier.name() == peer.name()) {
                return Err(format!("sync.peers[{at}]: is configured twice, with the same filter"));
            }
        }
        #[cfg(feature = "libsecp256k1")]
        relay_agent::fetch::PrivateHosts::parse(&self.agents.allow_private_hosts)
            .map_err(|message| format!("agents.allow_private_hosts: {message}"))?;
        admission::check(&self.policy, &self.info, self.has_agents())
            .map_err(|(name, message)| format!("{name}: {message}"))?;
        self.blossom
            .payment
            .check(self.has_agents())
            .map_err(|(name, message)| format!("{name}: {message}"))?;
        admission::fill_payments_url(&mut self.policy, self.url.as_deref());
        if self.policy.admission.is_some() {
            // Who has paid stays a member.
            self.store.retention_kinds_spared.extend([KIND_ADD_USER, KIND_REMOVE_USER]);
        }
        self.network.exempt().map_err(|message| format!("network.exempt_addresses: {message}"))?;
        let limits = &mut self.limits;
        if limits.limit_default > limits.limit_max {
            return Err("limits.limit_default: is above limits.limit_max".into());
        }
        if limits.outbox_pause_bytes > limits.outbox_bytes_max {
            return Err("limits.outbox_pause_bytes: is above limits.outbox_bytes_max".into());
        }
        for (name, value) in [
            ("limits.step_cost_max", limits.step_cost_max),
            ("limits.verify_batch_max", limits.verify_batch_max),
            ("limits.in_flight_events_max", limits.in_flight_events_max),
            ("limits.deferred_messages_max", limits.deferred_messages_max),
            ("limits.connections_max", limits.connections_max),
            ("limits.filters_max", limits.filters_max),
            ("limits.address_queries_max", limits.address_queries_max),
            ("network.connections_per_address_max", self.network.connections_per_address_max),
            ("object.tick_steps_max", self.object.tick_steps_max),
        ] {
            if value == 0 {
                return Err(format!("{name}: must be at least 1"));
            }
        }
        // Never above the platform's own limits: its refusals would not be NIP-01 messages.
        limits.event_bytes_max = limits.event_bytes_max.min(EVENT_BYTES_MAX);
        limits.message_bytes_max = limits.message_bytes_max.min(MESSAGE_BYTES_MAX);
        limits.connections_max = limits.connections_max.min(SOCKETS_MAX);
        limits.connection_values_max = limits.connection_values_max.min(CONNECTION_VALUES_MAX);
        limits.shard_values_max = limits.shard_values_max.min(SHARD_VALUES_MAX);
        limits.shard_filter_bytes_max = limits.shard_filter_bytes_max.min(SHARD_FILTER_BYTES_MAX);
        limits.shard_outbox_bytes_max = limits.shard_outbox_bytes_max.min(OUTPUT_BYTES_MAX);
        limits.filter_values_max = limits.filter_values_max.min(REQUEST_VALUES_MAX);
        limits.in_flight_bytes_max = limits.in_flight_bytes_max.min(IN_FLIGHT_BYTES_MAX);
        limits.step_cost_max = limits.step_cost_max.min(STEP_COST_MAX);
        limits.deferred_bytes_max = limits.deferred_bytes_max.min(DEFERRED_BYTES_MAX);
        limits.query_bytes_max = limits.query_bytes_max.min(QUERY_BYTES_MAX);
        limits.neg_sets_bytes_max = limits.neg_sets_bytes_max.min(NEG_SETS_BYTES_MAX);
        // An object that sleeps loses it.
        limits.neg_prepared_events_max = 0;
        limits.check().map_err(|(name, message)| format!("{name}: {message}"))?;
        self.store.sweep_seconds = self.store.sweep_seconds.max(1);
        self.network.write_stall_seconds = self.network.write_stall_seconds.max(1);
        Ok(())
    }

    /// The machine's configuration.
    pub fn config(&self) -> Config {
        Config {
            limits: self.limits.clone(),
            policy: self.policy.clone(),
            url: self.url.clone(),
            frame_cost: FRAME_COST,
        }
    }

    /// The settings as JSON, without secrets.
    pub fn without_secrets(&self) -> serde_json::Value {
        let mut document = json!(self);
        if let Some(document) = document.as_object_mut() {
            let Placement { shards, location_hint, jurisdiction } = &self.placement;
            let placement = json!({
                "shards": shards.count(), "location_hint": location_hint, "jurisdiction": jurisdiction,
            });
            document.insert("placement".to_owned(), placement);
        }
        document
    }

    /// Whether there is a market.
    pub fn has_market(&self) -> bool {
        cfg!(feature = "libsecp256k1") && self.market.enabled
    }

    /// Whether agents can be deployed.
    pub fn has_agents(&self) -> bool {
        cfg!(feature = "libsecp256k1") && self.agents.enabled
    }

    /// The relay's description of itself: NIP-11 document and page.
    pub fn description(&self) -> RelayDescription<'_> {
        RelayDescription {
            info: &self.info,
            limits: &self.limits,
            policy: &self.policy,
            url: self.url.as_deref(),
            has_agents: self.has_agents(),
            has_market: self.has_market(),
            blossom: self.blossom.enabled.then_some(&self.blossom),
        }
    }
}

#[cfg(test)]
mod tests;
