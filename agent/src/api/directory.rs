//! What concerns all agents of a relay: the list, its page, NIP-05.

use relay_engine::sql::SqlConn;
use relay_site::{AgentRoute, HttpResponse};
use serde_json::{Map, Value, json};

use super::Request;
use super::page::{self, Part};
use crate::identity;
use crate::machine::AgentState;
use crate::router::{AgentEntry, Router};

/// Agents of a page of the list, at most.
const LIMIT_MAX: u64 = 500;
/// Agents of a web page of the list.
const PAGE: usize = 50;

/// Answers a request that concerns all agents; 404 to others.
pub fn directory<C: SqlConn>(router: &Router<C>, request: &Request<'_>) -> HttpResponse {
    let answered = match request.route {
        AgentRoute::List => list(router, request),
        AgentRoute::ListPage => list_page(router, request),
        AgentRoute::Names => Ok(names(router, request)),
        _ => Err(HttpResponse::error(404, "not found")),
    };
    answered.unwrap_or_else(|answer| answer)
}

fn is_shown(entry: &AgentEntry) -> bool {
    entry.manifest.announce && entry.state != AgentState::Deleted
}

/// `{"agents": [...], "next": N}`; `?offset=` is the last `next`.
fn list<C: SqlConn>(router: &Router<C>, request: &Request<'_>) -> Result<HttpResponse, HttpResponse> {
    let offset = request.query_number("offset")?.unwrap_or(0);
    let limit = request.query_number("limit")?.unwrap_or(100).clamp(1, LIMIT_MAX);
    // Owners and administrators also see those that are not announced.
    let is_listed = |entry: &&AgentEntry| {
        is_shown(entry) || request.caller.is_admin() || (Some(entry.owner) == request.caller.signer())
    };
    let mut listed = router.agents().filter(is_listed).skip(offset.try_into().unwrap_or(usize::MAX));
    let agents: Vec<Value> = listed.by_ref().take(limit as usize).map(summary).collect();
    let mut document = json!({ "agents": agents });
    if listed.next().is_some() {
        document["next"] = json!(offset + limit);
    }
    Ok(super::json(&document))
}

/// The list as a web page. Its own links set `?offset=`.
fn list_page<C: SqlConn>(router: &Router<C>, request: &Request<'_>) -> Result<HttpResponse, HttpResponse> {
    let wanted = request.query_number("offset")?.unwrap_or(0).try_into().unwrap_or(usize::MAX);
    let shown = || router.agents().filter(|entry| is_shown(entry));
    let total = shown().count();
    // Agents may have gone since the link was made: there is always a page to see.
    let offset = wanted.min(total.saturating_sub(1)) / PAGE * PAGE;
    let entries = shown().skip(offset).take(PAGE).collect();
    Ok(HttpResponse::page(page::list(&Part { entries, offset, total, size: PAGE }, &request.relay)))
}

/// An agent in the list.
pub(super) fn summary(entry: &AgentEntry) -> Value {
    let AgentEntry { pubkey, owner, state, version, manifest, deployed_at } = entry;
    json!({
        "npub": identity::npub(pubkey),
        "pubkey": pubkey.to_string(),
        "name": manifest.name,
        "about": manifest.about,
        "picture": manifest.picture,
        "state": state.name(),
        "version": version,
        "kinds": manifest.handlers.iter().map(|handler| handler.kind).collect::<Vec<_>>(),
        "owner": owner.to_string(),
        "deployed_at": deployed_at,
    })
}

/// NIP-05: `{"names": {"echo": "<hex>"}, "relays": {"<hex>": ["wss://..."]}}`, for `?name=` only.
fn names<C: SqlConn>(router: &Router<C>, request: &Request<'_>) -> HttpResponse {
    let (mut names, mut relays) = (Map::new(), Map::new());
    if let Some(wanted) = request.query_value("name") {
        let wanted = wanted.to_ascii_lowercase();
        // Of several agents of one name the first that was deployed has it.
        let found = router
            .agents()
            .filter(|entry| {
                is_shown(entry) && identity::nip05_name(&entry.manifest.name, &entry.pubkey) == wanted
            })
            .min_by_key(|entry| (entry.deployed_at, entry.pubkey));
        if let Some(entry) = found {
            names.insert(wanted, json!(entry.pubkey.to_string()));
            if !request.relay.url.is_empty() {
                relays.insert(entry.pubkey.to_string(), json!([request.relay.url]));
            }
        }
    }
    super::json(&json!({ "names": names, "relays": relays }))
}
