//! Everything an operator can set, with its defaults. Only values: where they come from is
//! [`super::layers`]'s business, and what they mean for the relay is the engine's.

use std::path::PathBuf;
use std::sync::Arc;

use relay_agent::fetch::PrivateHosts;
use relay_engine::policy::{Admission, Policy, is_relay_url};
use relay_engine::types::{Class, KIND_ADD_USER, KIND_REMOVE_USER, Kind, Limits, PubKey, is_removal_request};
use relay_engine::verify::{Libsecp256k1, Schnorr, Verifier};
use relay_site::networks::{CONNECTIONS_PER_ADDRESS_MAX, LOOPBACK};
use relay_site::{
    AgentSettings, BlossomSettings, Info, LimitsDef, MarketSettings, Networks, PolicyDef, RelayDescription,
    admission,
};
use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;

use super::blobs::Blobs;

/// Longest time that any setting may ask for: sums of such times stay far from overflow.
const YEAR_SECONDS: u64 = 366 * 86_400;

/// The effective configuration. Field names are the keys of the TOML file.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Address and port to listen on; port 0 takes any free one.
    pub listen: String,
    /// Folder that holds the database; made if it is not there.
    pub data: PathBuf,
    /// Public `ws://` or `wss://` URL of the relay, as NIP-42 and NIP-62 compare it. Unset: AUTH goes by the Host
    /// header, and only requests to vanish from all relays count.
    pub url: Option<String>,
    /// Threads that serve connections; 0 takes one per core.
    pub shards: usize,
    /// NIP-11: what the relay says about itself.
    pub info: Info,
    /// Timeouts and bounds of sockets.
    pub network: Network,
    /// Where events are kept.
    pub store: Store,
    /// How signatures are checked.
    pub verify: Verify,
    /// Log lines on stderr.
    pub log: Log,
    /// Where `/metrics` is served, and who may read it.
    pub metrics: MetricsAccess,
    /// Agents on this relay: programs that answer job requests (NIP-90).
    pub agents: AgentSettings,
    /// Blossom.
    pub blossom: BlossomSettings,
    /// The registry of job providers.
    pub market: MarketSettings,
    /// Where the bytes of blobs are kept.
    pub blobs: Blobs,
    /// Bounds, enforced and advertised; see [`Limits`].
    #[serde(with = "LimitsDef")]
    pub limits: Limits,
    /// Who may write and read what; see [`Policy`].
    #[serde(with = "PolicyDef")]
    pub policy: Policy,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            listen: "127.0.0.1:7777".into(),
            data: "relay-data".into(),
            url: None,
            shards: 0,
            info: Info::default(),
            network: Network::default(),
            store: Store::default(),
            verify: Verify::default(),
            log: Log::default(),
            metrics: MetricsAccess::default(),
            agents: AgentSettings::default(),
            blossom: BlossomSettings::default(),
            market: MarketSettings::default(),
            blobs: Blobs::default(),
            limits: Limits::default(),
            policy: Policy::default(),
        }
    }
}

/// Timeouts and bounds of sockets; no relay rule among them.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Network {
    /// Seconds between pings; a connection that answers none of three is closed.
    pub ping_seconds: u64,
    /// Seconds a reader may take nothing of what waits for it before it is closed.
    pub write_stall_seconds: u64,
    /// Seconds a client may take to send the head of an HTTP request.
    pub handshake_seconds: u64,
    /// Seconds a graceful stop may take.
    pub shutdown_seconds: u64,
    /// Bytes taken from one connection's output in an iteration of the event loop; also the most the host buffers for a slow reader,
    /// give or take one message.
    pub iteration_bytes_max: usize,
    /// Live events that may wait in the inbox of any shard; beyond that no shard reads from its sockets.
    pub inbox_events_max: usize,
    /// Addresses and networks (`10.0.0.0/8`) whose `X-Forwarded-For` is believed: a client is then the rightmost entry
    /// that is not itself one of these.
    pub trusted_proxies: Vec<String>,
    /// Whether every trusted proxy begins each connection with a PROXY protocol header, version 1 or 2, which names the
    /// client. Then one that does not is refused, and from all others such a header is malformed HTTP.
    pub proxy_protocol: bool,
    /// Addresses and networks that have no limits by address.
    pub exempt_addresses: Vec<String>,
    /// Connections that an IPv4 address, or the /64 of an IPv6 address, may have. Carriers put many phones behind one
    /// address.
    pub connections_per_address_max: usize,
}

impl Network {
    /// The proxies whose statement of the client's address is trusted.
    ///
    /// # Errors
    /// Names the first that is neither an address nor a network.
    pub(crate) fn trusted(&self) -> Result<Networks, String> {
        Networks::new(&self.trusted_proxies)
    }

    /// Clients that have no limits by address.
    ///
    /// # Errors
    /// Names the first that is neither an address nor a network.
    pub(crate) fn exempt(&self) -> Result<Networks, String> {
        Networks::new(&self.exempt_addresses)
    }
}

impl Default for Network {
    fn default() -> Self {
        Network {
            ping_seconds: 30,
            write_stall_seconds: 120,
            handshake_seconds: 10,
            shutdown_seconds: 10,
            iteration_bytes_max: 256 << 10,
            inbox_events_max: 65_536,
            trusted_proxies: LOOPBACK.map(str::to_owned).into(),
            proxy_protocol: false,
            exempt_addresses: LOOPBACK.map(str::to_owned).into(),
            connections_per_address_max: CONNECTIONS_PER_ADDRESS_MAX,
        }
    }
}

/// Which backend keeps the events, and how.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Store {
    /// `auto` (the one that the folder has, `log` in a new folder), `log`, `lmdb`, or `memory`, which forgets everything at the end.
    pub engine: StoreEngine,
    /// LMDB: largest size the database may reach, in bytes. Address space, not disk: reserve generously.
    pub map_bytes_max: u64,
    /// Bytes of the disk, and of LMDB's map, that are kept for deletions when nothing else fits. 0: none.
    pub reserve_bytes: u64,
    /// Log: whether old events are compressed. It costs CPU where they are read.
    pub pack: bool,
    /// Most events made durable by one sync.
    pub commit_events_max: usize,
    /// Seconds between sweeps of expired events. Retention, by age and by number, is swept at sixty times this interval.
    pub sweep_seconds: u64,
    /// Retention by age and kind: the first matching rule applies, and an event that matches none is kept.
    pub retention: Vec<RetentionRule>,
    /// Retention by number: if more events are stored, those of regular kinds are removed that were stored first. 0: no limit.
    pub retention_events_max: u64,
}

/// How long events of some kinds are kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetentionRule {
    /// The kinds; all regular ones if there are none.
    #[serde(default)]
    pub kinds: Vec<Kind>,
    /// Seconds after its `created_at` after which an event is removed. 0 keeps it.
    pub age_seconds: u64,
}

impl Store {
    /// How long events of a kind are kept, in seconds; `None` if they are kept for ever.
    pub fn age_of(&self, kind: Kind) -> Option<u64> {
        self.rule_of(kind).map(|rule| rule.age_seconds).filter(|age| *age > 0)
    }

    /// Whether events of a kind are removed if there are too many: regular ones that no rule keeps for ever.
    pub fn is_removed_by_number(&self, kind: Kind) -> bool {
        is_regular(kind) && self.rule_of(kind).is_none_or(|rule| rule.age_seconds > 0)
    }

    fn rule_of(&self, kind: Kind) -> Option<&RetentionRule> {
        let is_regular = is_regular(kind);
        self.retention.iter().find(|rule| match rule.kinds.is_empty() {
            true => is_regular,
            false => rule.kinds.contains(&kind),
        })
    }
}

/// Whether a rule without kinds is about this one. Who is a member the relay must not forget.
fn is_regular(kind: Kind) -> bool {
    Class::of(kind) == Class::Regular && !matches!(kind, KIND_ADD_USER | KIND_REMOVE_USER)
}

/// A storage backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StoreEngine {
    /// The one that the data folder has a database of, files in a new folder.
    #[default]
    Auto,
    /// LMDB in the data folder.
    Lmdb,
    /// Files in the data folder, a log and pages, which one process writes at a time.
    Log,
    /// Memory only.
    Memory,
}

impl Default for Store {
    fn default() -> Self {
        Store {
            engine: StoreEngine::Auto,
            map_bytes_max: 1 << 40,
            reserve_bytes: 32 << 20,
            pack: false,
            commit_events_max: 4_096,
            sweep_seconds: 1,
            retention: Vec::new(),
            retention_events_max: 0,
        }
    }
}

/// How signatures are checked. Verdicts are the same either way.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Verify {
    /// `batch`, many at once, or `libsecp256k1`, Bitcoin Core's library, one after the other.
    pub verifier: VerifierKind,
    /// `batch`: bytes to remember authors in, over all shards; about 30 KB for an author who comes again and
    /// again, whose signatures then cost a third. 0 remembers none.
    pub author_cache_bytes: usize,
}

/// What checks signatures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VerifierKind {
    /// The `relay-schnorr` crate.
    #[default]
    Batch,
    /// Bitcoin Core's libsecp256k1.
    Libsecp256k1,
}

impl Default for Verify {
    fn default() -> Self {
        Verify { verifier: VerifierKind::Batch, author_cache_bytes: 64 << 20 }
    }
}

impl Verify {
    /// One of `count` verifiers that work side by side and share the memory.
    pub(crate) fn verifier(&self, count: usize) -> Arc<dyn Verifier> {
        match self.verifier {
            VerifierKind::Batch => Arc::new(Schnorr::new(self.author_cache_bytes / count.max(1))),
            VerifierKind::Libsecp256k1 => Arc::new(Libsecp256k1),
        }
    }
}

/// What is logged, and in which shape.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// `text` or `json`, one object a line.
    pub format: LogFormat,
    /// A `tracing` filter such as `info` or `relay_server=debug`.
    pub filter: String,
}

/// Shape of a log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For machines.
    Json,
}

impl Default for Log {
    fn default() -> Self {
        Log { format: LogFormat::Text, filter: "info".into() }
    }
}

/// Where `/metrics` is, and who may read it. By default everyone who reaches the relay's port may. Administrators
/// (`policy.admin_pubkeys`) always may, from any address, by requests that they sign (NIP-98).
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MetricsAccess {
    /// Address and port of its own; then the relay's port has no `/metrics`.
    pub listen: Option<String>,
    /// If set, readers must send `Authorization: Bearer` and this.
    pub token: Option<String>,
    /// Addresses or networks (`10.0.0.0/8`) that may read; empty: all. Behind a proxy every reader has the proxy's address, unless
    /// `network.proxy_protocol` names them.
    pub allow: Vec<String>,
}

impl MetricsAccess {
    /// Whether they are closed to some that reach the relay's port.
    pub(crate) fn is_restricted(&self) -> bool {
        self.listen.is_some() || self.token.is_some() || !self.allow.is_empty()
    }

    /// The addresses that may read; an empty list lets all read.
    ///
    /// # Errors
    /// Names the first entry that is neither an address nor a network.
    pub(crate) fn readers(&self) -> Result<Networks, String> {
        Networks::new(&self.allow)
    }
}

/// Whether this is a host and a port, as they are listened on.
fn is_address(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| {
        let is_bare_v6 = host.contains(':') && !(host.starts_with('[') && host.ends_with(']'));
        !host.is_empty() && !is_bare_v6 && !host.contains(char::is_whitespace) && port.parse::<u16>().is_ok()
    })
}

impl Settings {
    /// Settings in which every key has a value, so that all keys and their types are known.
    pub(super) fn example() -> Self {
        let mut all = Settings { url: Some("wss://relay.example".into()), ..Settings::default() };
        let some = || Some(String::new());
        all.info = Info {
            pubkey: some(),
            own_pubkey: some(),
            contact: some(),
            icon: some(),
            banner: some(),
            terms_of_service: some(),
            ..all.info
        };
        all.metrics.listen = some();
        all.metrics.token = some();
        all.limits.created_at_age_seconds_max = Some(0);
        all.policy.allow_pubkeys = Some(Vec::new());
        all.policy.admission =
            Some(Admission { pubkey: PubKey([0; 32]), msat: 0, payments_url: Some(String::new()) });
        all.policy.allow_kinds = Some(Vec::new());
        all.blossom.open = Some(false);
        all.blossom.key_bytes_max = Some(0);
        all.blossom.total_bytes_max = Some(0);
        all.blossom.payment.pubkey = Some(PubKey([0; 32]));
        all.blobs = Blobs::example();
        all
    }

    /// Whether agents can be deployed. They need a store that keeps its events.
    pub(crate) fn has_agents(&self) -> bool {
        self.agents.enabled && self.store.engine != StoreEngine::Memory
    }

    /// Whether there is a market. Its registry follows a store that keeps its events.
    pub(crate) fn has_market(&self) -> bool {
        self.market.enabled && self.store.engine != StoreEngine::Memory
    }

    /// Whether blobs are served. They need a folder.
    pub(crate) fn has_blossom(&self) -> bool {
        self.blossom.enabled && self.store.engine != StoreEngine::Memory
    }

    /// Whether only this machine can connect.
    pub(crate) fn is_loopback(&self) -> bool {
        let host = self.listen.rsplit_once(':').map_or("", |(host, _)| host);
        let name = host.trim_start_matches('[').trim_end_matches(']');
        name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
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
            blossom: self.has_blossom().then_some(&self.blossom),
        }
    }

    /// How many shards to run.
    pub fn shard_count(&self) -> usize {
        match self.shards {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            count => count,
        }
    }

    /// Checks what types cannot: ranges, URLs, addresses, and limits that depend on each other.
    pub(super) fn check(&self) -> Result<(), (&'static str, String)> {
        let ensure = |holds: bool, key, why: &str| if holds { Ok(()) } else { Err((key, why.to_owned())) };
        let limits = &self.limits;
        if let Some(url) = &self.url {
            ensure(is_relay_url(url), "url", "must be a ws:// or wss:// URL with a host")?;
        }
        ensure(is_address(&self.listen), "listen", "must be a host and a port, such as 127.0.0.1:7777")?;
        EnvFilter::try_new(&self.log.filter)
            .map_err(|error| ("log.filter", format!("`{}`: {error}", self.log.filter)))?;
        if let Some(listen) = &self.metrics.listen {
            ensure(
                is_address(listen),
                "metrics.listen",
                "must be a host and a port, such as 127.0.0.1:9464",
            )?;
        }
        if let Some(token) = &self.metrics.token {
            let is_sendable = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
            ensure(is_sendable, "metrics.token", "must be of visible ASCII characters, and not empty")?;
        }
        PrivateHosts::parse(&self.agents.allow_private_hosts)
            .map_err(|message| ("agents.allow_private_hosts", message))?;
        self.metrics.readers().map_err(|message| ("metrics.allow", message))?;
        admission::check(&self.policy, &self.info, self.has_agents())?;
        self.blossom.payment.check(self.has_agents())?;
        self.blobs.check()?;
        for (key, pubkey) in [("info.pubkey", &self.info.pubkey), ("info.self", &self.info.own_pubkey)] {
            if let Some(pubkey) = pubkey {
                relay_engine::types::PubKey::from_hex(pubkey.as_bytes())
                    .map_err(|error| (key, error.to_string()))?;
            }
        }
        ensure(self.shards <= 1024, "shards", "more than 1024 is surely a mistake")?;
        for (key, seconds) in [
            ("network.ping_seconds", self.network.ping_seconds),
            ("network.write_stall_seconds", self.network.write_stall_seconds),
            ("network.handshake_seconds", self.network.handshake_seconds),
            ("store.sweep_seconds", self.store.sweep_seconds),
        ] {
            ensure(seconds > 0, key, "must be at least 1")?;
            ensure(seconds <= YEAR_SECONDS, key, "more than a year is surely a mistake")?;
        }
        for rule in &self.store.retention {
            ensure(
                !rule.kinds.iter().any(|kind| is_removal_request(*kind)),
                "store.retention",
                "kinds 5 and 62 are always kept, because their effect lasts",
            )?;
        }
        ensure(
            self.network.shutdown_seconds <= YEAR_SECONDS,
            "network.shutdown_seconds",
            "more than a year is surely a mistake",
        )?;
        ensure(
            self.network.iteration_bytes_max >= 4096,
            "network.iteration_bytes_max",
            "must be at least 4096",
        )?;
        ensure(self.network.inbox_events_max > 0, "network.inbox_events_max", "must be at least 1")?;
        self.network.trusted().map_err(|message| ("network.trusted_proxies", message))?;
        self.network.exempt().map_err(|message| ("network.exempt_addresses", message))?;
        ensure(
            self.network.connections_per_address_max > 0,
            "network.connections_per_address_max",
            "must be at least 1",
        )?;
        ensure(self.store.commit_events_max > 0, "store.commit_events_max", "must be at least 1")?;
        ensure(self.store.map_bytes_max >= 1 << 20, "store.map_bytes_max", "must be at least 1048576")?;
        ensure(limits.message_bytes_max >= 512, "limits.message_bytes_max", "must be at least 512")?;
        limits.check()?;
        ensure(
            limits.limit_default <= limits.limit_max,
            "limits.limit_default",
            "is above limits.limit_max",
        )?;
        ensure(limits.outbox_pause_bytes > 0, "limits.outbox_pause_bytes", "must be at least 1")?;
        ensure(
            limits.outbox_pause_bytes <= limits.outbox_bytes_max,
            "limits.outbox_pause_bytes",
            "is above limits.outbox_bytes_max",
        )?;
        for (key, value) in [
            ("limits.step_cost_max", limits.step_cost_max),
            ("limits.verify_batch_max", limits.verify_batch_max),
            ("limits.in_flight_events_max", limits.in_flight_events_max),
            ("limits.in_flight_bytes_max", limits.in_flight_bytes_max),
            ("limits.deferred_messages_max", limits.deferred_messages_max),
            ("limits.connections_max", limits.connections_max),
            ("limits.filters_max", limits.filters_max),
            ("limits.address_queries_max", limits.address_queries_max),
        ] {
            ensure(value > 0, key, "must be at least 1")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Regression: there was no market on the store on files.
    #[test]
    fn every_store_that_keeps_its_events_has_a_market() {
        for engine in [StoreEngine::Auto, StoreEngine::Lmdb, StoreEngine::Log, StoreEngine::Memory] {
            let mut settings = Settings::default();
            settings.market.enabled = true;
            settings.store.engine = engine;
            assert_eq!(settings.has_market(), engine != StoreEngine::Memory, "{engine:?}");
        }
    }
}
