//! The agents' API over HTTP: signatures, bodies, and logs that go on.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http_body_util::Either;
use http_body_util::channel::{Channel, Sender};
use hyper::body::{Bytes, Incoming};
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Request, Response};
use relay_agent::api::{Caller, signature};
use relay_agent::identity::parse_pubkey;
use relay_engine::types::PubKey;
use relay_site::nip98::{self, Author, Origin};
use relay_site::route::Bounds;
use relay_site::{AgentRoute, Answer, Found};

use super::api::{self, Upload};
use super::response::{Body, Error, response};
use crate::agents::{Agents, Ask};
use crate::host::{Host, now};

/// How often a log that is followed is read.
const FOLLOW: Duration = Duration::from_millis(500);
/// Reads without a new line after which an empty one is sent.
const SILENT_MAX: u32 = 30;
/// Pieces of a log that wait for its client.
const PIECES_WAITING: usize = 2;

/// The variable parts of a path.
pub(super) struct Params {
    agent: Option<String>,
    id: Option<String>,
}

impl Params {
    pub(super) fn of(found: &Found<'_, '_>) -> Self {
        let param = |name| found.param(name).map(str::to_owned);
        Params { agent: param("npub"), id: param("id").or_else(|| param("command")) }
    }
}

/// Answers a request.
pub(super) async fn respond(
    host: &Arc<Host>,
    route: AgentRoute,
    params: Params,
    bounds: Bounds,
    request: Request<Incoming>,
) -> Response<Body> {
    let Some(agents) = host.agents.get() else {
        return response(Answer::error(503, "the relay is starting"));
    };
    let handler = {
        let (host, agents) = (Arc::clone(host), Arc::clone(agents));
        move |request| async move { answer(&host, &agents, route, params, bounds, request).await }
    };
    api::run(&host.api, bounds, request, handler).await
}

async fn answer(
    host: &Arc<Host>,
    agents: &Arc<Agents>,
    route: AgentRoute,
    params: Params,
    bounds: Bounds,
    mut request: Request<Upload>,
) -> Response<Body> {
    let agent = params.agent.as_deref().map(parse_pubkey);
    if let Some(None) = agent {
        return response(Answer::error_in(400, "npub", "must be an npub or 64 hexadecimal digits"));
    }
    let agent = agent.flatten();
    let may = |caller| agents.check(route, agent.as_ref(), params.id.as_deref(), caller);
    let (caller, body) = match authorize(host, agents, route, bounds, &mut request, may).await {
        Ok(authorized) => authorized,
        Err(answer) => return response(answer),
    };
    let query = request.uri().query().unwrap_or_default().to_owned();
    let ask = Ask { route, id: params.id, query, body, caller };
    let answer = match (route, agent) {
        (AgentRoute::Deploy, _) => agents.deploy(ask, None).await,
        (AgentRoute::Update, agent) => agents.deploy(ask, agent).await,
        (_, None) => agents.directory(&ask),
        (AgentRoute::Logs, Some(agent)) if wants_more(&ask.query) => {
            return follow(host, agents, agent, ask).await;
        }
        (_, Some(agent)) => agents.ask(agent, ask).await,
    };
    response(answer)
}

/// Checks the signature, if there is one or must be one, and whether its author `may` do this; then takes the body.
async fn authorize(
    host: &Host,
    agents: &Agents,
    route: AgentRoute,
    bounds: Bounds,
    request: &mut Request<Upload>,
    may: impl FnOnce(Caller) -> Result<Author, Answer>,
) -> Result<(Caller, Vec<u8>), Answer> {
    let header = |name| request.headers().get(name).and_then(|value| value.to_str().ok());
    let local;
    let origin = match (&host.settings.url, header(HOST).unwrap_or_default()) {
        (Some(url), _) => Origin::Url(url),
        // It can have been signed for this relay only.
        (None, name) if name == host.settings.listen => {
            local = format!("http://{name}");
            Origin::Url(&local)
        }
        (None, name) => Origin::Host(name),
    };
    let path_and_query = request.uri().path_and_query().map_or("/", |both| both.as_str());
    let parts = nip98::Request { method: request.method().as_str(), origin, path_and_query };
    let seconds = now().seconds();
    let signed = signature(route, header(AUTHORIZATION), &parts, seconds, &*host.verifier)?;
    let caller = signed.as_ref().map_or(Caller::Anyone, |signed| agents.caller(signed.pubkey));
    let author = may(caller)?;
    if let Some(signed) = &signed {
        // After the permission, so that strangers cannot fill the memory of others' used events.
        agents.use_event(signed, author, seconds)?;
    }
    let mut payload = signed.as_ref().map(nip98::Signed::payload);
    let mut body = Vec::new();
    api::receive(request.body_mut(), bounds, |piece| {
        if let Some(payload) = &mut payload {
            payload.update(piece);
        }
        body.extend_from_slice(piece);
    })
    .await?;
    if let Some(payload) = payload {
        payload.finish()?;
    }
    Ok((caller, body))
}

/// A number in a query; 0 without it.
fn url_number(query: &str, name: &str) -> u64 {
    let pair = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    pair.and_then(|value| value.parse().ok()).unwrap_or_default()
}

fn wants_more(query: &str) -> bool {
    query.split('&').any(|pair| pair == "follow=1")
}

/// The log so far, and then what is added to it, until the client leaves or the relay stops.
async fn follow(host: &Arc<Host>, agents: &Arc<Agents>, agent: PubKey, ask: Ask) -> Response<Body> {
    let after = url_number(&ask.query, "after");
    let mut first = response(agents.ask(agent, ask).await);
    if !first.status().is_success() {
        return first;
    }
    let (sender, channel) = Channel::new(PIECES_WAITING);
    let (host, agents) = (Arc::clone(host), Arc::clone(agents));
    let body = std::mem::replace(first.body_mut(), Either::Right(channel));
    tokio::spawn(async move {
        let mut sender: Sender<Bytes, Error> = sender;
        let mut last = after;
        let mut silent = 0;
        let mut text = match body {
            Either::Left(whole) => match http_body_util::BodyExt::collect(whole).await {
                Ok(whole) => whole.to_bytes(),
                Err(never) => match never {},
            },
            Either::Right(_) => Bytes::new(),
        };
        loop {
            last = last_line(&text).unwrap_or(last);
            silent += 1;
            if text.is_empty() && silent >= SILENT_MAX {
                // An empty line: it shows whether the client is there.
                text = Bytes::from_static(b"\n");
            }
            if !text.is_empty() {
                silent = 0;
                if sender.send_data(text).await.is_err() {
                    return;
                }
            }
            tokio::time::sleep(FOLLOW).await;
            if host.is_stopping.load(Ordering::Relaxed) {
                return;
            }
            text = match agents.logs_after(agent, last).await {
                Ok((text, _)) => text.into(),
                Err(_) => return,
            };
        }
    });
    first.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    first
}

/// The number of the last line of a log.
fn last_line(text: &[u8]) -> Option<u64> {
    let last = text.trim_ascii_end().rsplit(|byte| *byte == b'\n').next()?;
    serde_json::from_slice::<serde_json::Value>(last).ok()?["number"].as_u64()
}
