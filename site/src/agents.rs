//! Agents as a feature: the API that deploys and reads them, their documents and pages, NIP-05.

use relay_engine::types::PubKey;
use serde::{Deserialize, Serialize};

use crate::feature::Feature;
use crate::nip11::RelayDescription;
use crate::route::{Bounds, Endpoint, HeaderCondition, Route};

/// The settings of agents: `[agents]` of the server, `agents` in the Worker's `RELAY_CONFIG`. The server has none with `store.engine
/// = "memory"`, and the edge none in builds without libsecp256k1.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct AgentSettings {
    /// Whether there may be any. Without one that is deployed, all that this costs is an eighth of the server's file descriptors, which
    /// are reserved for their databases.
    pub enabled: bool,
    /// Keys that may deploy agents, beside administrators (`policy.admin_pubkeys`, and on the server the owner's key in the data
    /// folder). The secrets that their manifests name begin with `AGENT_`, the first 16 digits of their own key in upper case, and
    /// `_`.
    #[serde(with = "crate::settings::pubkeys")]
    pub deploy_pubkeys: Vec<PubKey>,
    /// Hosts with ports (`127.0.0.1:11434`) that manifests may name although their addresses are private. URLs of customers
    /// never lead there. Cloudflare's network has no private addresses: on the edge this is for local workerd.
    pub allow_private_hosts: Vec<String>,
    /// Most agents.
    pub agents_max: usize,
    /// Jobs that an address may order over HTTP in a minute (`POST /agent/{npub}/jobs`). Orders are published by keys that the relay makes,
    /// on the server whatever `policy` says of the authors of events; agents' own `access` holds. 0: nobody may.
    pub http_jobs_per_minute_max: u32,
}

impl Default for AgentSettings {
    fn default() -> Self {
        AgentSettings {
            enabled: true,
            deploy_pubkeys: Vec::new(),
            allow_private_hosts: Vec::new(),
            agents_max: 10_000,
            http_jobs_per_minute_max: 30,
        }
    }
}

/// What an endpoint of the agents serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AgentRoute {
    /// All agents, as JSON.
    List,
    /// All agents, as a page.
    ListPage,
    /// Deploy a manifest (NIP-98).
    Deploy,
    /// State, version and manifest of an agent.
    Show,
    /// Deploy a new version of an agent (NIP-98).
    Update,
    /// Delete an agent (NIP-98).
    Delete,
    /// `pause`, `resume` or `drain` an agent, `rollback?version=N`, or `approve` or `decline` a refund, `?refund=<payment hash>` (NIP-98).
    Command,
    /// Its versions (NIP-98).
    Versions,
    /// Its log as JSON lines; `follow=1` keeps the response open (NIP-98).
    Logs,
    /// Everything it knows, but no keys (NIP-98).
    Export,
    /// Take over what another relay has exported (NIP-98).
    Import,
    /// Delete the data of a customer (NIP-98, the customer or the owner).
    DeleteCustomer,
    /// Its page.
    Page,
    /// Its public manifest.
    Manifest,
    /// Its sessions (NIP-98; customers see only their own).
    Sessions,
    /// A session (NIP-98).
    Session,
    /// Its jobs, newest first (NIP-98; customers see only their own).
    History,
    /// A job with its request and all that was sent about it (NIP-98).
    Job,
    /// What it keeps of its customers (NIP-98; customers see only their own).
    Memory,
    /// Pay a customer's credit out (NIP-98, the customer).
    Refund,
    /// Order a job, or ask for its result (L402).
    Order,
    /// Its counters (NIP-98).
    Metrics,
    /// NIP-05.
    Names,
}

pub(crate) const FEATURE: Feature = Feature { endpoints: ENDPOINTS, nips, settings: &["agents"], section };

/// A read, answered from a few rows.
const READ: Endpoint = Endpoint {
    method: "GET",
    path: "/agents",
    header: HeaderCondition::Anything,
    route: Route::Agents(AgentRoute::List),
    any_origin: true,
    bounds: Bounds { body_bytes_max: 4 << 10, idle_seconds: 10, total_seconds: 60 },
};

/// A manifest has at most 64 KiB.
const DEPLOY: Endpoint = Endpoint {
    method: "POST",
    route: Route::Agents(AgentRoute::Deploy),
    bounds: Bounds { body_bytes_max: 64 << 10, idle_seconds: 10, total_seconds: 60 },
    ..READ
};

const fn read(path: &'static str, route: AgentRoute) -> Endpoint {
    Endpoint { path, route: Route::Agents(route), ..READ }
}

const ENDPOINTS: &[Endpoint] = &[
    Endpoint {
        header: HeaderCondition::Type("text/html"),
        route: Route::Agents(AgentRoute::ListPage),
        ..READ
    },
    READ,
    DEPLOY,
    read("/agents/{npub}", AgentRoute::Show),
    Endpoint { method: "PUT", path: "/agents/{npub}", route: Route::Agents(AgentRoute::Update), ..DEPLOY },
    Endpoint { method: "DELETE", ..read("/agents/{npub}", AgentRoute::Delete) },
    Endpoint { method: "POST", ..read("/agents/{npub}/{command}", AgentRoute::Command) },
    read("/agents/{npub}/versions", AgentRoute::Versions),
    Endpoint {
        bounds: Bounds { body_bytes_max: 4 << 10, idle_seconds: 10, total_seconds: 24 * 3_600 },
        ..read("/agents/{npub}/logs", AgentRoute::Logs)
    },
    read("/agents/{npub}/export", AgentRoute::Export),
    Endpoint {
        method: "POST",
        bounds: Bounds { body_bytes_max: 16 << 20, idle_seconds: 10, total_seconds: 300 },
        ..read("/agents/{npub}/import", AgentRoute::Import)
    },
    Endpoint { method: "DELETE", ..read("/agents/{npub}/customers/{id}", AgentRoute::DeleteCustomer) },
    read("/agent/{npub}", AgentRoute::Page),
    read("/agent/{npub}/manifest.json", AgentRoute::Manifest),
    read("/agent/{npub}/sessions", AgentRoute::Sessions),
    read("/agent/{npub}/sessions/{id}", AgentRoute::Session),
    read("/agent/{npub}/history", AgentRoute::History),
    read("/agent/{npub}/history/{id}", AgentRoute::Job),
    read("/agent/{npub}/memory", AgentRoute::Memory),
    // An invoice has at most 7,089 characters.
    Endpoint {
        method: "POST",
        bounds: Bounds { body_bytes_max: 16 << 10, idle_seconds: 10, total_seconds: 60 },
        ..read("/agent/{npub}/refund", AgentRoute::Refund)
    },
    // As large as a job request may be where limits are the usual ones.
    Endpoint {
        method: "POST",
        bounds: Bounds { body_bytes_max: 64 << 10, idle_seconds: 10, total_seconds: 75 },
        ..read("/agent/{npub}/jobs", AgentRoute::Order)
    },
    read("/agent/{npub}/metrics", AgentRoute::Metrics),
    read("/.well-known/nostr.json", AgentRoute::Names),
];

/// NIP-90 with its announcements (NIP-89), names (NIP-05) and ciphers (NIP-04, NIP-44); the API is signed by NIP-98.
const NIPS: [u16; 6] = [4, 5, 44, 89, 90, 98];

fn nips(relay: &RelayDescription<'_>) -> Vec<u16> {
    if relay.has_agents { NIPS.to_vec() } else { Vec::new() }
}

fn section(relay: &RelayDescription<'_>) -> String {
    if !relay.has_agents {
        return String::new();
    }
    "<h2>Agents</h2>\n<p><a href=\"/agents\">The agents of this relay</a> answer job requests (NIP-90).</p>\n"
        .to_owned()
}
