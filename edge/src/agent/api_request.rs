//! A request to the agents' API on its way from the Worker to the object that answers it.
//!
//! The Worker routes it and checks its signature; the object of an agent, or the relay's for what concerns all agents, answers
//! it ([`relay_agent::api`]). Between them it is a line of JSON, and then the body.

use relay_agent::api::{Caller, Deployment, Relay, Request};
use relay_agent::machine::AgentState;
use relay_agent::manifest::Manifest;
use relay_agent::router::AgentEntry;
use relay_engine::types::PubKey;
use relay_site::{AgentRoute, FEATURES, Route};
use serde::{Deserialize, Serialize};

use super::message::{Malformed, head_of, json, parse};
use crate::used_auth_events::SignedBy;

/// The path of requests to the API, in both kinds of objects.
pub const API_PATH: &str = "/agents/api";
/// The path of the entry of an agent that has changed, in the relay's object.
pub const ENTRY_PATH: &str = "/agents/entry";
/// The path that checks whether the caller may make a request to an agent, before its body is read, in the relay's
/// object. The request is an [`ApiRequest`] with the agent's key in hexadecimal as the body; the response is empty, or the client's.
pub const ADMIT_PATH: &str = "/agents/admit";
/// The path that stores the removal record of a deleted agent, in the relay's object: 200, or 409 if the agent has
/// been deployed again.
pub const STORE_REMOVAL_PATH: &str = "/agents/removal/store";
/// The path of the removal record (`RemovalRecord`) of an agent, in the relay's object. The body is its key in
/// hexadecimal; the response is the record, or empty.
pub const REMOVAL_PATH: &str = "/agents/removal";
/// The path of a request to a deleted agent whose database is removed, in the relay's object, which answers it; as [`ADMIT_PATH`].
pub const REMOVED_PATH: &str = "/agents/removed";
/// The path that checks whether another agent may be deployed, in the relay's object.
pub const CAPACITY_PATH: &str = "/agents/capacity";

/// A request to the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiRequest {
    /// What is wanted.
    pub route: AgentRoute,
    /// `{id}` or `{command}` of the path.
    pub id: Option<String>,
    /// The query, without `?`.
    pub query: String,
    /// Who asks.
    pub caller: Caller,
    /// The event that has signed it, if it may change something: then it is carried out once.
    pub signed: Option<SignedBy>,
    /// The relay's name.
    pub relay_name: String,
    /// The relay's WebSocket URL, as far as known.
    pub relay_url: String,
}

#[derive(Deserialize, Serialize)]
struct Head {
    route: String,
    id: Option<String>,
    query: String,
    key: Option<String>,
    is_admin: bool,
    signed: Option<SignedBy>,
    relay_name: String,
    relay_url: String,
}

impl ApiRequest {
    /// As the API takes it.
    pub fn request<'a>(&'a self, body: &'a [u8]) -> Request<'a> {
        Request {
            route: self.route,
            id: self.id.as_deref(),
            query: &self.query,
            body,
            caller: self.caller,
            relay: Relay { name: &self.relay_name, url: &self.relay_url, version: env!("CARGO_PKG_VERSION") },
        }
    }

    /// The body of a request to an object; `body` is that of the client's.
    pub fn encode(&self, body: &[u8]) -> Vec<u8> {
        let head = Head {
            route: format!("{:?}", self.route),
            id: self.id.clone(),
            query: self.query.clone(),
            key: self.caller.signer().map(|key| key.to_string()),
            is_admin: self.caller.is_admin(),
            signed: self.signed.clone(),
            relay_name: self.relay_name.clone(),
            relay_url: self.relay_url.clone(),
        };
        let mut bytes = json(&head);
        bytes.push(b'\n');
        bytes.extend_from_slice(body);
        bytes
    }

    /// Reads the body of a request to an object; also returns that of the client's.
    ///
    /// # Errors
    /// [`Malformed`].
    pub fn decode(bytes: &[u8]) -> Result<(Self, &[u8]), Malformed> {
        let (head, body) = head_of::<Head>(bytes)?;
        let key = head.key.map(|key| PubKey::from_hex(key.as_bytes()).map_err(Malformed::new)).transpose()?;
        let caller = match key {
            None => Caller::Anyone,
            Some(key) if head.is_admin => Caller::Admin(key),
            Some(key) => Caller::Key(key),
        };
        let ask = ApiRequest {
            route: route_of(&head.route).ok_or_else(|| Malformed::new("an unknown route"))?,
            id: head.id,
            query: head.query,
            caller,
            signed: head.signed,
            relay_name: head.relay_name,
            relay_url: head.relay_url,
        };
        Ok((ask, body))
    }
}

/// The route of this name.
fn route_of(name: &str) -> Option<AgentRoute> {
    let endpoints = FEATURES.iter().flat_map(|feature| feature.endpoints);
    endpoints
        .filter_map(|endpoint| match endpoint.route {
            Route::Agents(route) => Some(route),
            _ => None,
        })
        .find(|route| format!("{route:?}") == name)
}

/// [`AgentEntry`] in JSON.
#[derive(Deserialize, Serialize)]
pub(super) struct EntryJson {
    pubkey: String,
    owner: String,
    state: AgentState,
    version: u32,
    manifest: Manifest,
    deployed_at: u64,
}

impl From<&AgentEntry> for EntryJson {
    fn from(entry: &AgentEntry) -> Self {
        EntryJson {
            pubkey: entry.pubkey.to_string(),
            owner: entry.owner.to_string(),
            state: entry.state,
            version: entry.version,
            manifest: entry.manifest.clone(),
            deployed_at: entry.deployed_at,
        }
    }
}

impl TryFrom<EntryJson> for AgentEntry {
    type Error = Malformed;

    fn try_from(json: EntryJson) -> Result<Self, Malformed> {
        let EntryJson { pubkey, owner, state, version, manifest, deployed_at } = json;
        let key = |hex: String| PubKey::from_hex(hex.as_bytes()).map_err(Malformed::new);
        Ok(AgentEntry { pubkey: key(pubkey)?, owner: key(owner)?, state, version, manifest, deployed_at })
    }
}

/// An entry, as an agent's object sends it to the relay's.
pub fn encode_entry(entry: &AgentEntry) -> Vec<u8> {
    json(&EntryJson::from(entry))
}

/// Reads an entry.
///
/// # Errors
/// [`Malformed`].
pub fn decode_entry(body: &[u8]) -> Result<AgentEntry, Malformed> {
    parse::<EntryJson>(body)?.try_into()
}

#[derive(Deserialize, Serialize)]
struct DeploymentJson {
    pubkey: String,
    manifest: Manifest,
}

/// A deployment that the Worker has accepted, for the agent's object.
pub fn encode_deployment(deployment: &Deployment) -> Vec<u8> {
    json(&DeploymentJson { pubkey: deployment.pubkey.to_string(), manifest: deployment.manifest.clone() })
}

/// Reads a deployment.
///
/// # Errors
/// [`Malformed`].
pub fn decode_deployment(body: &[u8]) -> Result<Deployment, Malformed> {
    let DeploymentJson { pubkey, manifest } = parse(body)?;
    Ok(Deployment { manifest, pubkey: PubKey::from_hex(pubkey.as_bytes()).map_err(Malformed::new)? })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn asks_for_every_route_survive_the_way_to_their_object() {
        let callers = [Caller::Anyone, Caller::Key(PubKey([1; 32])), Caller::Admin(PubKey([2; 32]))];
        let endpoints = FEATURES.iter().flat_map(|feature| feature.endpoints);
        let routes = endpoints.filter_map(|endpoint| match endpoint.route {
            Route::Agents(route) => Some(route),
            _ => None,
        });
        let mut count = 0;
        for (route, caller) in routes.flat_map(|route| callers.map(|caller| (route, caller))) {
            count += 1;
            let ask = ApiRequest {
                route,
                id: (count % 2 == 0).then(|| "a \"b\"\n".into()),
                query: "limit=1&x=%0A".into(),
                caller,
                signed: caller.signer().map(|key| SignedBy { id: key.to_string(), created_at: count }),
                relay_name: "relay\n".into(),
                relay_url: String::new(),
            };
            for body in [&b""[..], b"{}\n{}", &[0, 10, 255]] {
                assert_eq!(ApiRequest::decode(&ask.encode(body)).unwrap(), (ask.clone(), body));
            }
        }
        assert!(count >= 60, "{count}");
    }
}
