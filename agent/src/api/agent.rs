//! What concerns one agent: its commands, documents and page.

use relay_engine::sql::{SqlConn, StoreError};
use relay_engine::types::{EventId, Now, PubKey};
use relay_site::{AgentRoute, HttpResponse};
use serde::Deserialize;
use serde_json::{Value, json};

use super::access::{self, Permission};
use super::directory::summary;
use super::page::{self, Figures};
use super::{Deployment, Request, json, refusal};
use crate::identity;
use crate::machine::{
    Agent, AgentState, CommandError, JobRecord, LATENCY_BOUNDS_MILLIS, Metrics, RemovalRecord,
};
use crate::manifest::Identity;
use crate::router::AgentEntry;

/// Entries of a list, at most, and if a request does not say.
const LIMIT_MAX: u64 = 500;
const LIMIT: u64 = 100;
const READ_AT_ONCE: usize = 64;
/// Refunds of a customer that are shown.
const REFUNDS_MAX: usize = 20;

/// The answer to a request.
#[derive(Debug)]
pub struct Reply {
    /// The response.
    pub answer: HttpResponse,
    /// The agent has changed: the router must be given this entry before the response is sent.
    pub changed: Option<AgentEntry>,
}

/// The entry of an agent, for the router. `None` before the first manifest.
pub fn entry<C: SqlConn>(agent: &Agent<C>) -> Option<AgentEntry> {
    Some(AgentEntry {
        pubkey: agent.pubkey()?,
        owner: agent.owner()?,
        state: agent.state()?,
        version: agent.version(),
        manifest: agent.manifest()?.clone(),
        deployed_at: agent.deployed_at(),
    })
}

/// Deploys a manifest that [`deployment`](super::deployment) has accepted. 201 for a new agent, 200 for a new version.
pub fn deploy<C: SqlConn>(
    agent: &mut Agent<C>,
    now: Now,
    request: &Request<'_>,
    wanted: &Deployment,
) -> Reply {
    let is_new = agent.manifest().is_none();
    if is_new && request.route == AgentRoute::Update {
        // Only POST has been checked for the permission to deploy: a PUT must not create an agent.
        return Reply { answer: no_agent(), changed: None };
    }
    if !is_new {
        // The permission to deploy is no permission to replace another owner's agent.
        let allowed =
            entry(agent).map(|entry| access::check(AgentRoute::Update, None, request.caller, &entry));
        if let Some(Err(answer)) = allowed {
            return Reply { answer, changed: None };
        }
        // Two names may have one account, and so one key.
        let is_others = agent.manifest().is_some_and(|manifest| manifest.name != wanted.manifest.name);
        if is_others && wanted.manifest.identity == (Identity::Derived { account: None }) {
            let message =
                "another agent's name leads to the same key: choose a number in identity.derived.account";
            return Reply { answer: HttpResponse::error_in(409, "identity", message), changed: None };
        }
    } else if agent.owner().is_some_and(|owner| Some(owner) != request.caller.signer())
        && !request.caller.is_admin()
    {
        // It has been deleted, and its key is known to its customers.
        let answer = HttpResponse::error(403, "this key was another owner's agent");
        return Reply { answer, changed: None };
    }
    let Some(by) = request.caller.signer() else {
        return Reply { answer: HttpResponse::error(401, "authorization required (NIP-98)"), changed: None };
    };
    if let Err(error) = agent.deploy(now, &wanted.manifest, &by) {
        return Reply { answer: command_error(error), changed: None };
    }
    let Some(entry) = entry(agent) else {
        return Reply { answer: HttpResponse::error(500, "the agent has no manifest"), changed: None };
    };
    let mut answer = json(&summary(&entry));
    if is_new {
        answer.status = 201;
    }
    Reply { answer, changed: Some(entry) }
}

/// Answers a request to one agent, deployments excepted. 404 where none is deployed.
pub fn agent<C: SqlConn>(agent: &mut Agent<C>, now: Now, request: &Request<'_>) -> Reply {
    match answer(agent, now, request) {
        Ok(reply) => reply,
        Err(answer) => Reply { answer, changed: None },
    }
}

fn answer<C: SqlConn>(agent: &mut Agent<C>, now: Now, request: &Request<'_>) -> Result<Reply, HttpResponse> {
    if request.route == AgentRoute::Delete
        && let Some(deleted) = agent.removal_record()
    {
        return delete_again(&deleted, request);
    }
    let entry_before = entry(agent).ok_or_else(no_agent)?;
    let permission = access::check(request.route, request.id, request.caller, &entry_before)?;
    if let Permission::OfCustomer(customer) = permission
        && !agent.count_read(now, &customer)
    {
        return Err(
            HttpResponse::error(429, "too many requests; try again in a minute").with("retry-after", "60")
        );
    }
    let answer = match request.route {
        AgentRoute::Show => json(&show(agent, &entry_before)),
        AgentRoute::Page => page::agent(&entry_before, &figures(&agent.metrics()), &request.relay),
        AgentRoute::Manifest => json(&public(&entry_before)),
        AgentRoute::Versions => json(&versions(agent, request)?),
        AgentRoute::Logs => HttpResponse::new(200, "application/x-ndjson", logs(agent, request)?),
        AgentRoute::Export => json(&agent.export().map_err(store_error)?),
        AgentRoute::Import => {
            let document: Value = serde_json::from_slice(request.body)
                .map_err(|error| HttpResponse::error_in(400, "body", &format!("is not JSON: {error}")))?;
            agent.import(now, &document).map_err(command_error)?;
            json(&show(agent, &entry_before))
        }
        AgentRoute::Metrics => json(&metrics(agent, permission)?),
        AgentRoute::Memory => json(&memory(agent, permission)?),
        AgentRoute::Sessions => json(&sessions(agent, request, permission)?),
        AgentRoute::Session => json(&session(agent, request, permission)?),
        AgentRoute::History => json(&history(agent, request, permission)?),
        AgentRoute::Job => json(&job(agent, request, permission)?),
        AgentRoute::Refund => refund(agent, now, request)?,
        AgentRoute::DeleteCustomer => {
            let customer = customer_of(request, permission)?;
            agent.forget(now, &customer).map_err(command_error)?;
            HttpResponse::empty(204)
        }
        AgentRoute::Delete => return delete(agent, now, entry_before),
        AgentRoute::Command => return command(agent, now, request),
        _ => return Err(HttpResponse::error(404, "not found")),
    };
    Ok(Reply { answer, changed: None })
}

/// The public form of a manifest, with its owner.
fn public(entry: &AgentEntry) -> Value {
    let mut document = entry.manifest.public_json(&entry.pubkey);
    document["owner"] = json!(entry.owner.to_string());
    document
}

fn show<C: SqlConn>(agent: &Agent<C>, entry: &AgentEntry) -> Value {
    let mut document = summary(entry);
    let metrics = agent.metrics();
    let Figures { done, failed, median_ms, .. } = figures(&metrics);
    document["manifest"] = public(entry);
    document["jobs"] = json!({
        "done": done, "failed": failed, "queued": metrics.queued, "running": metrics.running, "median_ms": median_ms,
    });
    if let Some(error) = agent.error() {
        document["error"] = json!(error);
    }
    document
}

fn delete<C: SqlConn>(agent: &mut Agent<C>, now: Now, mut entry: AgentEntry) -> Result<Reply, HttpResponse> {
    agent.set_state(now, AgentState::Deleted).map_err(command_error)?;
    entry.state = AgentState::Deleted;
    Ok(Reply { answer: json(&summary(&entry)), changed: Some(entry) })
}

/// Answers a request to an agent whose database is removed: a repeated DELETE as the agent did, any other request with 404.
pub fn answer_for_deleted(deleted: &RemovalRecord, request: &Request<'_>) -> HttpResponse {
    match request.route {
        AgentRoute::Delete => match delete_again(deleted, request) {
            Ok(Reply { answer, .. }) | Err(answer) => answer,
        },
        _ => no_agent(),
    }
}

/// A client repeats a DELETE, perhaps because the router's entry could not be written: it is written again, without a manifest.
fn delete_again(deleted: &RemovalRecord, request: &Request<'_>) -> Result<Reply, HttpResponse> {
    let manifest = serde_json::from_value(json!({ "name": "", "handlers": [] })).map_err(|_| no_agent())?;
    let entry = AgentEntry {
        pubkey: deleted.pubkey(),
        owner: deleted.owner(),
        state: AgentState::Deleted,
        version: 0,
        manifest,
        deployed_at: deleted.deployed_at(),
    };
    access::check(request.route, request.id, request.caller, &entry)?;
    Ok(Reply { answer: json(&summary(&entry)), changed: Some(entry) })
}

/// `pause`, `resume`, `drain`, `rollback?version=N`, `approve?refund=HASH`, `decline?refund=HASH`.
fn command<C: SqlConn>(agent: &mut Agent<C>, now: Now, request: &Request<'_>) -> Result<Reply, HttpResponse> {
    let state = match request.id {
        Some("pause") => AgentState::Paused,
        Some("resume") => AgentState::Active,
        Some("drain") => AgentState::Draining,
        Some("rollback") => {
            let version = request.query_number("version")?;
            let version = version.ok_or_else(|| HttpResponse::error_in(400, "version", "is missing"))?;
            let version = u32::try_from(version).map_err(|_| no("version"))?;
            let by = request
                .caller
                .signer()
                .ok_or_else(|| HttpResponse::error(401, "authorization required (NIP-98)"))?;
            agent.rollback(now, version, &by).map_err(command_error)?;
            return changed(agent);
        }
        Some(word @ ("approve" | "decline")) => {
            let hash = request.query_value("refund").unwrap_or_default();
            let mut bytes = [0; 32];
            if hash.len() != 64 || faster_hex::hex_decode(hash.as_bytes(), &mut bytes).is_err() {
                let message = "must be a payment hash, 64 hexadecimal digits";
                return Err(HttpResponse::error_in(400, "refund", message));
            }
            let record =
                agent.decide_refund(now, &bytes, word == "approve").map_err(|error| match error {
                    CommandError::NotFound => no("refund"),
                    other => command_error(other),
                })?;
            return Ok(Reply { answer: json(&json!(record)), changed: None });
        }
        _ => {
            let message = "the commands are pause, resume, drain, rollback, approve and decline";
            return Err(HttpResponse::error(404, message));
        }
    };
    agent.set_state(now, state).map_err(command_error)?;
    changed(agent)
}

fn changed<C: SqlConn>(agent: &Agent<C>) -> Result<Reply, HttpResponse> {
    let entry = entry(agent).ok_or_else(no_agent)?;
    Ok(Reply { answer: json(&summary(&entry)), changed: Some(entry) })
}

/// `?version=N` adds the manifest of that version.
fn versions<C: SqlConn>(agent: &Agent<C>, request: &Request<'_>) -> Result<Value, HttpResponse> {
    let mut document = json!({ "versions": agent.versions().map_err(store_error)? });
    if let Some(version) = request.query_number("version")? {
        let version = u32::try_from(version).map_err(|_| no("version"))?;
        let manifest = agent.manifest_of_version(version).map_err(store_error)?;
        document["manifest"] = json!(manifest.ok_or_else(|| no("version"))?);
    }
    Ok(document)
}

/// Lines of the log after `?after=`, as JSON lines.
fn logs<C: SqlConn>(agent: &Agent<C>, request: &Request<'_>) -> Result<String, HttpResponse> {
    let after = request.query_number("after")?.unwrap_or(0);
    logs_after(agent, after, limit(request)?).map(|(text, _)| text)
}

/// Lines of the log after a line, and the number of the last one.
pub(super) fn logs_after<C: SqlConn>(
    agent: &Agent<C>,
    after: u64,
    limit: u64,
) -> Result<(String, u64), HttpResponse> {
    let lines = agent.logs(after, limit as usize).map_err(store_error)?;
    let last = lines.last().map_or(after, |line| line.number);
    let mut text = String::new();
    for line in lines {
        text.push_str(&json!(line).to_string());
        text.push('\n');
    }
    Ok((text, last))
}

/// A customer's are those of the jobs in the history that he has ordered.
fn metrics<C: SqlConn>(agent: &Agent<C>, permission: Permission) -> Result<Value, HttpResponse> {
    let mut document = match permission {
        Permission::Everything => {
            let mut document = serde_json::to_value(agent.metrics())
                .map_err(|error| HttpResponse::error(500, &error.to_string()))?;
            document["version"] = json!(agent.version());
            document
        }
        Permission::OfCustomer(customer) => json!(agent.metrics_of(&customer).map_err(store_error)?),
    };
    document["latency_bounds_millis"] = json!(LATENCY_BOUNDS_MILLIS);
    Ok(document)
}

fn memory<C: SqlConn>(agent: &Agent<C>, permission: Permission) -> Result<Value, HttpResponse> {
    match permission {
        Permission::Everything => {
            let mut document = json!(agent.memory().map_err(store_error)?);
            document["refunds_to_approve"] = json!(agent.refunds_to_approve());
            document["shares"] = json!(agent.shares().map_err(store_error)?);
            Ok(document)
        }
        Permission::OfCustomer(customer) => {
            let session = agent.session(&customer).map_err(store_error)?;
            let credit = agent.credit_of(&customer).map_err(store_error)?;
            let refunds = agent.refunds_of(&customer, REFUNDS_MAX).map_err(store_error)?;
            Ok(json!({
                "sessions": u32::from(session.is_some()),
                "session": session,
                "credit_msat": credit,
                "refunds": refunds,
            }))
        }
    }
}

/// Pays the caller's credit out. `{"invoice": "ln..."}`; 202 while it is under way.
fn refund<C: SqlConn>(
    agent: &mut Agent<C>,
    now: Now,
    request: &Request<'_>,
) -> Result<HttpResponse, HttpResponse> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Wanted {
        invoice: String,
    }
    let Wanted { invoice } = serde_json::from_slice(request.body)
        .map_err(|error| HttpResponse::error_in(400, "body", &error.to_string()))?;
    // The owner, too, has only their own credit.
    let customer =
        request.caller.signer().ok_or_else(|| HttpResponse::error(401, "authorization required (NIP-98)"))?;
    let record = agent.refund(now, &customer, &invoice).map_err(command_error)?;
    let mut answer = json(&json!(record));
    if matches!(record.state, "awaiting_approval" | "pending") {
        answer.status = 202;
    }
    Ok(answer)
}

fn sessions<C: SqlConn>(
    agent: &Agent<C>,
    request: &Request<'_>,
    permission: Permission,
) -> Result<Value, HttpResponse> {
    let sessions = match permission {
        Permission::Everything => agent.sessions(limit(request)? as usize),
        Permission::OfCustomer(customer) => {
            agent.session(&customer).map(|session| session.into_iter().collect())
        }
    };
    Ok(json!({ "sessions": sessions.map_err(store_error)? }))
}

fn session<C: SqlConn>(
    agent: &Agent<C>,
    request: &Request<'_>,
    permission: Permission,
) -> Result<Value, HttpResponse> {
    let customer = customer_of(request, permission)?;
    let session = agent.session(&customer).map_err(store_error)?;
    Ok(json!(session.ok_or_else(|| no("session"))?))
}

/// The customer that the path names, by an npub or 64 digits, with or without `.json`.
fn customer_of(request: &Request<'_>, permission: Permission) -> Result<PubKey, HttpResponse> {
    let named = identity::parse_pubkey(document_id(request)).ok_or_else(|| no("customer"))?;
    match permission {
        Permission::OfCustomer(customer) if customer != named => {
            Err(HttpResponse::error(403, "only the owner and that customer may do this"))
        }
        _ => Ok(named),
    }
}

fn document_id<'a>(request: &Request<'a>) -> &'a str {
    let id = request.id.unwrap_or_default();
    id.strip_suffix(".json").unwrap_or(id)
}

/// `{"jobs": [...], "next": N}`; `?before=` is the last `next`, `?customer=` narrows the list.
fn history<C: SqlConn>(
    agent: &Agent<C>,
    request: &Request<'_>,
    permission: Permission,
) -> Result<Value, HttpResponse> {
    let limit = limit(request)? as usize;
    let mut before = request.query_number("before")?.unwrap_or(u64::MAX);
    let customer = match (permission, request.query_value("customer")) {
        (Permission::OfCustomer(customer), _) => Some(customer),
        (Permission::Everything, Some(named)) => {
            let customer = identity::parse_pubkey(&named);
            Some(customer.ok_or_else(|| HttpResponse::error_in(400, "customer", "must be a public key"))?)
        }
        (Permission::Everything, None) => None,
    };
    let (mut jobs, mut is_complete) = (Vec::new(), false);
    // A job may be large: few are in memory at a time, and only what is listed of the others.
    while jobs.len() < limit && !is_complete {
        let at_once = READ_AT_ONCE.min(limit - jobs.len());
        let found = match &customer {
            Some(customer) => agent.history_of_customer(customer, before, at_once),
            None => agent.history(before, at_once),
        }
        .map_err(store_error)?;
        is_complete = found.len() < at_once;
        before = found.last().map_or(before, |job| job.number);
        jobs.extend(found.iter().map(list_item));
    }
    let mut document = json!({ "jobs": jobs });
    if !is_complete {
        document["next"] = json!(before);
    }
    Ok(document)
}

/// A job as lists show it: without `request` and `sent`, which may be large.
fn list_item(job: &JobRecord) -> Value {
    let mut document = json!(job);
    if let Some(fields) = document.as_object_mut() {
        fields.remove("request");
        fields.remove("sent");
    }
    document
}

fn job<C: SqlConn>(
    agent: &Agent<C>,
    request: &Request<'_>,
    permission: Permission,
) -> Result<Value, HttpResponse> {
    let id: EventId = document_id(request).parse().map_err(|_| no("job"))?;
    let job = agent.job(&id).map_err(store_error)?;
    let is_visible = |job: &JobRecord| match permission {
        Permission::Everything => true,
        Permission::OfCustomer(customer) => job.customer == customer.to_string(),
    };
    Ok(json!(job.filter(is_visible).ok_or_else(|| no("job"))?))
}

fn limit(request: &Request<'_>) -> Result<u64, HttpResponse> {
    Ok(request.query_number("limit")?.unwrap_or(LIMIT).clamp(1, LIMIT_MAX))
}

/// What an agent's page shows of its counters.
fn figures(metrics: &Metrics) -> Figures {
    let done = metrics.jobs.get("done").copied().unwrap_or_default();
    // Imported counters may be any numbers.
    let sum =
        |counts: &mut dyn Iterator<Item = &u64>| counts.fold(0, |all: u64, count| all.saturating_add(*count));
    let all = sum(&mut metrics.jobs.values());
    let answered = sum(&mut metrics.latency.iter());
    let mut seen: u64 = 0;
    let median = metrics.latency.iter().position(|count| {
        seen = seen.saturating_add(*count);
        seen >= answered.div_ceil(2)
    });
    let median_ms =
        median.filter(|_| answered > 0).and_then(|bucket| LATENCY_BOUNDS_MILLIS.get(bucket).copied());
    let unfinished = (metrics.queued + metrics.running) as u64;
    Figures { done, failed: all.saturating_sub(done), unfinished, median_ms }
}

/// The response where no agent with this key is deployed.
pub fn no_agent() -> HttpResponse {
    HttpResponse::error(404, "no agent with this key is deployed here")
}

fn no(what: &str) -> HttpResponse {
    HttpResponse::error(404, &format!("no such {what}"))
}

fn store_error(error: StoreError) -> HttpResponse {
    let status = if matches!(error, StoreError::Full(_)) { 507 } else { 503 };
    HttpResponse::error(status, &error.to_string())
}

fn command_error(error: CommandError) -> HttpResponse {
    match error {
        CommandError::Manifest(error) => refusal(&error),
        CommandError::Identity(message) => HttpResponse::error_in(400, "identity", &message),
        CommandError::OtherKey => {
            HttpResponse::error_in(409, "identity", "this manifest's key is not this agent's")
        }
        CommandError::NotFound => no("version"),
        CommandError::State(state) => {
            HttpResponse::error(409, &format!("this cannot be done while the agent is {}", state.name()))
        }
        CommandError::Store(error) => store_error(error),
    }
}
