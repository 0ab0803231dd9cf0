//! The agents' API over HTTP: signatures, bodies, and logs that go on.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http_body_util::Either;
use http_body_util::channel::Channel;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_LENGTH, HOST};
use hyper::{Request, Response};
use relay_agent::api::{Caller, Follower, signature, too_many_followers};
use relay_agent::http_jobs::Wanted;
use relay_agent::identity::parse_pubkey;
use relay_engine::types::{ClientAddress, PubKey};
use relay_site::nip98::{self, ServerUrl, SignerTrust};
use relay_site::route::Bounds;
use relay_site::{AgentRoute, Found, HttpResponse};

use super::api::{self, Upload};
use super::http_jobs;
use super::response::{Body, Error, response};
use crate::agents::{Agents, ApiRequest, OrderRequest};
use crate::host::{ServerState, now};

/// How often a log that is followed is read.
const FOLLOW: Duration = Duration::from_millis(500);
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
    host: &Arc<ServerState>,
    route: AgentRoute,
    params: Params,
    bounds: Bounds,
    address: Option<ClientAddress>,
    request: Request<Incoming>,
) -> Response<Body> {
    let Some(agents) = host.agents.get() else {
        return response(HttpResponse::error(503, "the relay is starting"));
    };
    let handler = {
        let (host, agents) = (Arc::clone(host), Arc::clone(agents));
        move |mut request| async move {
            let answer = match route {
                AgentRoute::Order => order(&host, &agents, params, bounds, address, &mut request).await,
                _ => answer(&host, &agents, route, params, bounds, &mut request).await,
            };
            api::discard(request);
            answer
        }
    };
    api::run(&host.api, bounds, request, handler).await
}

/// A job that is ordered over HTTP. It is not signed: what its `Authorization` is, [`http_jobs`] reads.
async fn order(
    host: &Arc<ServerState>,
    agents: &Arc<Agents>,
    params: Params,
    bounds: Bounds,
    address: Option<ClientAddress>,
    request: &mut Request<Upload>,
) -> Response<Body> {
    let Some(agent) = params.agent.as_deref().and_then(parse_pubkey) else {
        return response(not_a_key());
    };
    let header = |name| request.headers().get(name).and_then(|value| value.to_str().ok());
    let wanted = match Wanted::of(header(ACCEPT), request.uri().query().unwrap_or_default()) {
        Ok(wanted) => wanted,
        Err(answer) => return response(answer),
    };
    let authorization = header(AUTHORIZATION).map(str::to_owned);
    let mut body = Vec::new();
    if let Err(answer) = api::receive(request.body_mut(), bounds, |piece| body.extend_from_slice(piece)).await
    {
        return response(answer);
    }
    http_jobs::respond(host, agents, agent, OrderRequest { authorization, body, address }, wanted).await
}

fn not_a_key() -> HttpResponse {
    HttpResponse::error_in(400, "npub", "must be an npub or 64 hexadecimal digits")
}

async fn answer(
    host: &Arc<ServerState>,
    agents: &Arc<Agents>,
    route: AgentRoute,
    params: Params,
    bounds: Bounds,
    request: &mut Request<Upload>,
) -> Response<Body> {
    let agent = params.agent.as_deref().map(parse_pubkey);
    if let Some(None) = agent {
        return response(not_a_key());
    }
    let agent = agent.flatten();
    let may = |caller| agents.check(route, agent.as_ref(), params.id.as_deref(), caller);
    let (caller, body) = match authorize(host, agents, route, bounds, request, may).await {
        Ok(authorized) => authorized,
        Err(answer) => return response(answer),
    };
    let query = request.uri().query().unwrap_or_default().to_owned();
    let ask = ApiRequest { route, id: params.id, query, body, caller };
    let answer = match (route, agent) {
        (AgentRoute::Deploy, _) => agents.deploy(ask, None).await,
        (AgentRoute::Update, agent) => agents.deploy(ask, agent).await,
        (_, None) => agents.directory(&ask),
        (_, Some(agent)) => match agents.follower(&ask) {
            Some(follower) => return follow(host, agents, agent, ask, follower).await,
            None => agents.ask(agent, ask).await,
        },
    };
    response(answer)
}

/// Checks the signature, if there is one or must be one, and whether its author `may` do this; then takes the body.
async fn authorize(
    host: &ServerState,
    agents: &Agents,
    route: AgentRoute,
    bounds: Bounds,
    request: &mut Request<Upload>,
    may: impl FnOnce(Caller) -> Result<SignerTrust, HttpResponse>,
) -> Result<(Caller, Vec<u8>), HttpResponse> {
    let header = |name| request.headers().get(name).and_then(|value| value.to_str().ok());
    let local;
    let origin = match (&host.settings.url, header(HOST).unwrap_or_default()) {
        (Some(url), _) => ServerUrl::Url(url),
        // It can have been signed for this relay only.
        (None, name) if name == host.settings.listen => {
            local = format!("http://{name}");
            ServerUrl::Url(&local)
        }
        (None, name) => ServerUrl::Host(name),
    };
    let path_and_query = request.uri().path_and_query().map_or("/", |both| both.as_str());
    let parts = nip98::Request { method: request.method().as_str(), origin, path_and_query };
    let seconds = now().seconds();
    let signed = signature(route, header(AUTHORIZATION), &parts, seconds, &*host.verifier)?;
    let caller = signed.as_ref().map_or(Caller::Anyone, |signed| agents.caller(signed.pubkey));
    let author = may(caller)?;
    if let Some(signed) = &signed {
        // After the permission, so that unknown signers cannot fill the memory of used events.
        agents.use_event(signed, author, seconds)?;
    }
    let mut payload = signed.as_ref().map(nip98::VerifiedRequest::payload);
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

/// The log so far, and then what is added to it, until the client leaves, the relay stops, or the reader may no longer.
async fn follow(
    host: &Arc<ServerState>,
    agents: &Arc<Agents>,
    agent: PubKey,
    ask: ApiRequest,
    mut follower: Follower,
) -> Response<Body> {
    let mut first = response(agents.ask(agent, ask).await);
    if !first.status().is_success() {
        return first;
    }
    let Some(place) = agents.place_to_follow(agent) else { return response(too_many_followers()) };
    let (mut sender, channel) = Channel::<Bytes, Error>::new(PIECES_WAITING);
    // It is read once more, as the first piece.
    *first.body_mut() = Either::Right(channel);
    first.headers_mut().remove(CONTENT_LENGTH);
    let (host, agents) = (Arc::clone(host), Arc::clone(agents));
    tokio::spawn(async move {
        let _place = place;
        while !host.is_stopping.load(Ordering::Relaxed)
            && let Some(piece) = agents.read_log(agent, follower).await
        {
            if !piece.text.is_empty() {
                follower.sent(now(), &piece);
                if sender.send_data(piece.text.into()).await.is_err() {
                    return;
                }
            }
            tokio::time::sleep(FOLLOW).await;
        }
    });
    first
}
