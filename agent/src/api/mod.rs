//! The HTTP API of agents as functions. For a request a host calls in this order: [`signature()`] (NIP-98), [`admit`], then
//! [`directory`] for all agents, [`deployment`] and [`deploy`] for a manifest, or [`agent`] for one agent.
//!
//! Documents are JSON, errors as [`HttpResponse::error`] makes them. The lists of agents and of jobs
//! have `?limit=`, up to 500, and a cursor in `next`; that of sessions has `?limit=` only.
//! `tests/api_requests.json` has requests with their answers; both hosts are tested with it.

mod access;
mod agent;
mod directory;
mod follow;
mod kinds;
pub mod page;
mod signature;

pub use access::{Caller, Permission, admit, needs_signature};
pub use agent::{Reply, agent, answer_for_deleted, deploy, entry, no_agent};
pub use directory::directory;
pub use follow::{Follower, Piece, too_many_followers};
pub use kinds::kind_name;
pub use relay_site::authorization::is_loopback;
pub use signature::{may_deploy, signature};

use relay_engine::types::PubKey;
use relay_site::{AgentRoute, HttpResponse};
use serde_json::Value;

use crate::identity::{self, Sign};
use crate::manifest::{Manifest, ManifestError};
use crate::secrets::Secrets;

/// Readers who may follow the log of one agent at a time.
pub const FOLLOWERS_MAX: usize = 16;

/// A request, routed and with its signature checked.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// What is wanted.
    pub route: AgentRoute,
    /// `{id}` or `{command}` of the path.
    pub id: Option<&'a str>,
    /// The query, without `?`.
    pub query: &'a str,
    /// The body; only [`AgentRoute::Import`] reads it here.
    pub body: &'a [u8],
    /// Who asks.
    pub caller: Caller,
    /// The relay whose agents these are.
    pub relay: Relay<'a>,
}

/// The relay, as its pages and documents name it.
#[derive(Clone, Copy, Debug)]
pub struct Relay<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its WebSocket URL, as far as known.
    pub url: &'a str,
    /// The version of the software.
    pub version: &'a str,
}

impl Request<'_> {
    /// The value of a parameter of the query.
    fn query_value(&self, name: &str) -> Option<String> {
        url::form_urlencoded::parse(self.query.as_bytes())
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.into_owned())
    }

    /// A number in the query; `None` if there is none of that name.
    fn query_number(&self, name: &str) -> Result<Option<u64>, HttpResponse> {
        self.query_value(name)
            .map(|value| value.parse().map_err(|_| HttpResponse::error_in(400, name, "must be a number")))
            .transpose()
    }
}

/// A manifest that somebody wants to deploy, and the key it will have.
#[derive(Clone, Debug)]
pub struct Deployment {
    /// The manifest, validated.
    pub manifest: Manifest,
    /// The agent's public key.
    pub pubkey: PubKey,
}

/// Reads the body of a deployment, and finds out which agent it is for. `to`: the agent that the path names, for an update.
///
/// # Errors
/// 400 with the path of the field, 403 if the caller may not deploy; 409 if the manifest is another agent's than `to`.
pub fn deployment(
    body: &[u8],
    caller: Caller,
    may_deploy: bool,
    secrets: &dyn Secrets,
    to: Option<&PubKey>,
) -> Result<Deployment, HttpResponse> {
    let signer =
        caller.signer().ok_or_else(|| HttpResponse::error(401, "authorization required (NIP-98)"))?;
    if to.is_none() && !may_deploy && !caller.is_admin() {
        return Err(HttpResponse::error(403, "this key may not deploy agents here"));
    }
    let manifest = Manifest::parse(body).map_err(|error| refusal(&error))?;
    if !caller.is_admin() {
        if manifest.owner.as_ref().is_some_and(|owner| *owner != signer.to_string()) {
            return Err(HttpResponse::error_in(
                403,
                "owner",
                "only an administrator deploys for another owner",
            ));
        }
        // Deployers do not trust each other: the secrets of one are not another's.
        let prefix = secret_prefix(&signer);
        if manifest.secret_names().any(|name| !name.starts_with(&prefix)) {
            let message = format!("only an administrator may use other secrets than {prefix}...");
            return Err(HttpResponse::error_in(403, "secret", &message));
        }
    }
    let author = identity::event_signer(&manifest, secrets)
        .map_err(|message| HttpResponse::error_in(400, "identity", &message))?;
    let pubkey = author.pubkey();
    manifest.check_pubkey(&pubkey).map_err(|error| refusal(&error))?;
    if to.is_some_and(|to| *to != pubkey) {
        return Err(HttpResponse::error_in(409, "identity", "this manifest's key is not this agent's"));
    }
    Ok(Deployment { manifest, pubkey })
}

/// How the secrets begin that a deployer may use who is not an administrator: `AGENT_`, the first 16 digits of the public key
/// in upper case, `_`.
pub fn secret_prefix(deployer: &PubKey) -> String {
    let key = deployer.to_string().to_ascii_uppercase();
    format!("AGENT_{}_", key.get(..16).unwrap_or(&key))
}

/// The response to a manifest that is refused.
pub fn refusal(error: &ManifestError) -> HttpResponse {
    HttpResponse::error_in(400, &error.path, &error.message)
}

fn json(document: &Value) -> HttpResponse {
    HttpResponse::new(200, "application/json", format!("{document}\n"))
}
