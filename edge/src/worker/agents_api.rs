//! The agents' API, as the Worker's entry takes it: it checks who asks, and has the object answer that knows.

use std::sync::{LazyLock, Mutex, PoisonError};

use futures_util::StreamExt;
use js_sys::Uint8Array;
use relay_agent::api::{self, Caller};
use relay_agent::identity::{npub, parse_pubkey};
use relay_engine::types::PubKey;
use relay_site::nip98::{self, ServerUrl, SignerTrust, UsedEvents, VerifiedRequest};
use relay_site::route::Endpoint;
use relay_site::{AgentRoute, Found, HttpResponse};
use wasm_bindgen::JsValue;
use worker::{Context, Date, Env, Error, Method, Request, RequestInit, Response, Result, Stub};

use super::agent::AGENT;
use super::entry::{address, response};
use super::shards::{stub, stub_of};
use super::{http_jobs, variables, verifier};
use crate::agent::api_request::{
    ADMIT_PATH, API_PATH, ApiRequest, CAPACITY_PATH, REMOVED_PATH, encode_deployment,
};
use crate::settings::Settings;
use crate::used_auth_events::SignedBy;

/// Used NIP-98 events, as far as this isolate of the Worker has seen them. Another isolate lets the same event pass once more: then
/// a read is repeated, but nothing that changes an agent, since its object remembers those ([`SignedBy`]).
static USED: LazyLock<Mutex<UsedEvents>> = LazyLock::new(Mutex::default);

/// Bytes of a body, at most: it is in the memory of the Worker and of the agent's object several times, and an isolate has
/// 128 MB for all of them.
const BODY_BYTES_MAX: usize = 4 << 20;

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

/// Answers a request. Strangers' bodies are not taken where one may be large.
pub(super) async fn respond(
    mut request: Request,
    env: &Env,
    context: &Context,
    settings: &Settings,
    endpoint: &Endpoint,
    route: AgentRoute,
    params: Params,
) -> Result<Response> {
    let agent = match params.agent.as_deref().map(parse_pubkey) {
        Some(None) => {
            let message = "must be an npub or 64 hexadecimal digits";
            return response(HttpResponse::error_in(400, "npub", message));
        }
        agent => agent.flatten(),
    };
    let (signed, caller) = match authenticate(&request, settings, route)? {
        Ok(authenticated) => authenticated,
        Err(answer) => return response(answer),
    };
    let ask = ApiRequest {
        route,
        id: params.id,
        query: request.url()?.query().unwrap_or_default().to_owned(),
        caller,
        signed: signed.as_ref().filter(|_| endpoint.method != "GET").map(SignedBy::from),
        relay_name: settings.info.name.clone(),
        relay_url: settings.url.clone().unwrap_or_else(|| address(&request)),
    };
    let relay = || stub(env, &settings.placement, settings.placement.shards.for_connection());
    let object = |agent: &PubKey| stub_of(env, &settings.placement, AGENT, &npub(agent));
    let may_deploy = api::may_deploy(caller, &settings.agents.deploy_pubkeys);
    let author = match (route, &agent) {
        (AgentRoute::Deploy, _) => match api::admit(route, None, caller, may_deploy, None) {
            Ok(author) => author,
            Err(answer) => return response(answer),
        },
        // Only owners and administrators import and update.
        (AgentRoute::Update | AgentRoute::Import, Some(agent)) => {
            let admitted = post(&relay()?, ADMIT_PATH, &ask.encode(agent.to_string().as_bytes())).await?;
            if admitted.status_code() != 200 {
                return Ok(admitted);
            }
            SignerTrust::Permitted
        }
        // An owner who reads or commands is known to the agent's object only, and is a stranger here.
        _ if may_deploy => SignerTrust::Permitted,
        _ => SignerTrust::Unknown,
    };
    if let Some(signed) = &signed {
        // After the permission, so that unknown signers cannot fill the memory of used events.
        let now = Date::now().as_millis() / 1_000;
        let used = USED.lock().unwrap_or_else(PoisonError::into_inner).take(signed, author, now);
        if let Err(rejection) = used {
            return response(rejection.into());
        }
    }
    let order =
        match (route == AgentRoute::Order).then(|| http_jobs::Asked::of(&request)).transpose()?.transpose() {
            Ok(order) => order,
            Err(answer) => return response(answer),
        };
    let body = match receive(&mut request, endpoint, signed.as_ref()).await? {
        Ok(body) => body,
        Err(answer) => return response(answer),
    };
    match (route, agent) {
        (AgentRoute::Deploy | AgentRoute::Update, to) => {
            let secrets = variables::agent_secrets(env);
            let deployment = match api::deployment(&body, caller, may_deploy, &secrets, to.as_ref()) {
                Ok(deployment) => deployment,
                Err(answer) => return response(answer),
            };
            let key = deployment.pubkey.to_string();
            if route == AgentRoute::Deploy
                && post(&relay()?, CAPACITY_PATH, key.as_bytes()).await?.status_code() == 409
            {
                let message =
                    format!("this relay has {} agents, the most that it takes", settings.agents.agents_max);
                return response(HttpResponse::error(409, &message));
            }
            let body = encode_deployment(&deployment);
            post(&object(&deployment.pubkey)?, API_PATH, &ask.encode(&body)).await
        }
        (_, None) => post(&relay()?, API_PATH, &ask.encode(&body)).await,
        (AgentRoute::Order, Some(agent)) => {
            let Some(order) = order else { return response(HttpResponse::error(404, "not found")) };
            if order.is_new() {
                let show = ApiRequest { route: AgentRoute::Show, ..ask };
                let shown = post(&object(&agent)?, API_PATH, &show.encode(&[])).await?;
                if shown.status_code() != 200 {
                    return Ok(shown);
                }
            }
            http_jobs::respond(env, context, settings, agent, order, &body).await
        }
        (_, Some(agent)) => {
            let answer = post(&object(&agent)?, API_PATH, &ask.encode(&body)).await?;
            if route == AgentRoute::Delete && answer.status_code() == 404 {
                // Of a deleted agent nothing is left but what the relay keeps.
                return post(&relay()?, REMOVED_PATH, &ask.encode(agent.to_string().as_bytes())).await;
            }
            Ok(answer)
        }
    }
}

async fn post(to: &Stub, path: &str, body: &[u8]) -> Result<Response> {
    let body: JsValue = Uint8Array::from(body).into();
    let mut init = RequestInit::new();
    init.with_method(Method::Post).with_body(Some(body));
    to.fetch_with_request(Request::new_with_init(&format!("https://object{path}"), &init)?).await
}

/// Checks the signature, if there is one or must be one.
fn authenticate(
    request: &Request,
    settings: &Settings,
    route: AgentRoute,
) -> Result<std::result::Result<(Option<VerifiedRequest>, Caller), HttpResponse>> {
    let authorization = request.headers().get("authorization")?;
    let (method, url, address) = (request.method(), request.url()?, address(request));
    let path_and_query = match url.query() {
        Some(query) => format!("{}?{query}", url.path()),
        None => url.path().to_owned(),
    };
    let parts = nip98::Request {
        method: method.as_ref(),
        origin: ServerUrl::Url(settings.url.as_deref().unwrap_or(&address)),
        path_and_query: &path_and_query,
    };
    let now = Date::now().as_millis() / 1_000;
    let signed = match api::signature(route, authorization.as_deref(), &parts, now, &*verifier(0)?) {
        Ok(signed) => signed,
        Err(answer) => return Ok(Err(answer)),
    };
    let caller = signed.as_ref().map_or(Caller::Anyone, |event| {
        let is_admin = settings.policy.admin_pubkeys.contains(&event.pubkey);
        if is_admin { Caller::Admin(event.pubkey) } else { Caller::Key(event.pubkey) }
    });
    Ok(Ok((signed, caller)))
}

/// Takes the body, and checks that it is the signed one.
async fn receive(
    request: &mut Request,
    endpoint: &Endpoint,
    signed: Option<&VerifiedRequest>,
) -> Result<std::result::Result<Vec<u8>, HttpResponse>> {
    let bytes_max = endpoint.bounds.body_bytes_max.min(BODY_BYTES_MAX);
    let mut body = Vec::new();
    // A request without a body has no stream.
    if let Ok(mut pieces) = request.stream() {
        while let Some(piece) = pieces.next().await {
            body.extend_from_slice(&piece?);
            if body.len() > bytes_max {
                let message = format!("is longer than {bytes_max} bytes");
                return Ok(Err(HttpResponse::error_in(413, "body", &message)));
            }
        }
    }
    if let Some(signed) = signed {
        let mut payload = signed.payload();
        payload.update(&body);
        if let Err(rejection) = payload.finish() {
            return Ok(Err(rejection.into()));
        }
    }
    Ok(Ok(body))
}

/// Failures of other objects, in a response.
pub(super) fn unavailable(error: &Error) -> HttpResponse {
    worker::console_error!("the agents' API: {error}");
    HttpResponse::error(503, "temporarily unavailable, try again")
}
