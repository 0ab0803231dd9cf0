//! The Worker's entry: answers HTTP requests, asks the objects of shards where needed, and passes WebSocket upgrades to
//! them.

use std::sync::{Mutex, OnceLock, PoisonError};

use relay_site::nip98::{self, ServerUrl};
use relay_site::{AdminAuth, AdminRequest, FEATURES, HttpResponse, Route, Table, settings as names};
use serde_json::json;
use worker::ResponseBody;
use worker::{Context, Date, Env, Headers, Request, Response, Result, event};

#[cfg(feature = "libsecp256k1")]
use super::agents_api::{self, Params};

use super::blossom;
#[cfg(feature = "libsecp256k1")]
use super::market;
use super::shards::stub;
use super::{variables, verifier};
use crate::metrics::{self, Family};
use crate::settings::{Placement, Secret, Settings};
use crate::shard::Shard;

const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The routing table. The settings of an isolate do not change.
static TABLE: OnceLock<Table> = OnceLock::new();

fn table(settings: &Settings) -> Table {
    Table::new(FEATURES, |route| match route {
        Route::Agents(_) => settings.has_agents(),
        Route::Blossom(_) => settings.blossom.enabled,
        Route::Market(_) => settings.has_market(),
        _ => true,
    })
}

/// Authorisation of administrators. It remembers used NIP-98 events for as long as the isolate lives: another isolate would
/// accept the same event again, which can only repeat a read.
static ADMIN_AUTH: OnceLock<AdminAuth> = OnceLock::new();

/// The isolate's last answer about health, and when it was asked for, in milliseconds.
static HEALTH: Mutex<Option<(u64, HttpResponse)>> = Mutex::new(None);
/// How old that answer may be.
const HEALTH_AGE_MILLIS_MAX: u64 = 1_000;

/// The headers of a request. The runtime joins the values of one name by commas.
struct HeaderLines<'a>(&'a Headers);

impl relay_site::Headers for HeaderLines<'_> {
    fn any(&self, name: &str, test: &mut dyn FnMut(&str) -> bool) -> bool {
        self.0.get(name).ok().flatten().is_some_and(|value| test(&value))
    }
}

#[event(fetch)]
async fn fetch(mut request: Request, env: Env, context: Context) -> Result<Response> {
    let settings = match variables::settings(&env) {
        Ok(settings) => settings,
        Err(message) => return response(HttpResponse::error(500, &message)),
    };
    let (method, path) = (request.method().to_string(), request.path());
    let found = TABLE.get_or_init(|| table(&settings)).find(&method, &path, &HeaderLines(request.headers()));
    let shared = found.headers();
    #[cfg(feature = "libsecp256k1")]
    if let Ok(endpoint) = &found.endpoint
        && let Route::Agents(route) = endpoint.route
    {
        let params = Params::of(&found);
        let answered = agents_api::respond(request, &env, &context, &settings, endpoint, route, params).await;
        let answered = answered.or_else(|error| response(agents_api::unavailable(&error)))?;
        return with_headers(&answered, shared);
    }
    if let Ok(endpoint) = &found.endpoint
        && let Route::Blossom(route) = endpoint.route
    {
        let param = relay_blossom::exchange::path_param(&found);
        let answered = blossom::respond(request, &env, &context, &settings, route, param).await;
        let answered = answered.or_else(|error| {
            worker::console_error!("Blossom: {error}");
            response(HttpResponse::error(503, "temporarily unavailable, try again"))
        })?;
        return with_headers(&answered, shared);
    }
    #[cfg(feature = "libsecp256k1")]
    if let Ok(endpoint) = &found.endpoint
        && let Route::Market(route) = endpoint.route
    {
        let answered = market::respond(&request, &env, &settings, route, found.param("npub")).await;
        let answered = answered.or_else(|error| {
            worker::console_error!("the market: {error}");
            let unread = HttpResponse::error(503, "the market's registry cannot be read");
            response(unread.with("retry-after", "5"))
        })?;
        return with_headers(&answered, shared);
    }
    let mut answer = match found.endpoint.map(|endpoint| endpoint.route) {
        Ok(Route::Socket) => return connect(request, &env, &settings).await,
        Ok(Route::Information) => HttpResponse::information(settings.description().information()),
        Ok(Route::Page) => HttpResponse::page(settings.description().page(&address(&request))),
        Ok(Route::Icon) => HttpResponse::icon(),
        Ok(Route::Join) => relay_site::admission::respond(&settings.description()),
        Ok(Route::InvoiceCode) => {
            relay_site::invoice_code::respond(request.url()?.query().unwrap_or_default())
        }
        Ok(Route::Health) => health(&env, &settings).await,
        Ok(Route::Agents(_) | Route::Blossom(_) | Route::Market(_)) => HttpResponse::error(404, "not found"),
        Ok(route @ (Route::Metrics | Route::Config)) => {
            match (authorise(&mut request, &method, &settings, route).await?, route) {
                (Err(answer), _) => answer,
                (Ok(_), Route::Config) => {
                    let config = names::effective_config(settings.without_secrets());
                    HttpResponse::new(200, "application/json", config)
                }
                (Ok(is_signed), _) => {
                    let is_for_admin = is_signed || settings.metrics_token.is_some();
                    HttpResponse::new(200, PROMETHEUS, metrics_text(&env, &settings, is_for_admin).await)
                }
            }
        }
        Err(answer) => answer,
    };
    answer.headers.extend(shared.map(|(name, value)| (name, value.to_owned().into())));
    response(answer)
}

/// Whether a request is authorised for an endpoint of administrators (`/metrics` or `/relay/config.json`), and whether an
/// administrator has signed it.
async fn authorise(
    request: &mut Request,
    method: &str,
    settings: &Settings,
    route: Route,
) -> Result<std::result::Result<bool, HttpResponse>> {
    let admin_auth = ADMIN_AUTH.get_or_init(|| {
        let token = settings.metrics_token.as_ref().map(Secret::reveal);
        AdminAuth::new(token, &settings.policy.admin_pubkeys)
    });
    let url = request.url()?;
    let path_and_query = match url.query() {
        Some(query) => format!("{}?{query}", url.path()),
        None => url.path().to_owned(),
    };
    let (authorization, address) = (request.headers().get("authorization")?, address(request));
    let verifier = verifier(0)?;
    let admin_request = AdminRequest {
        request: nip98::Request {
            method,
            origin: ServerUrl::Url(settings.url.as_deref().unwrap_or(&address)),
            path_and_query: &path_and_query,
        },
        authorization: authorization.as_deref(),
        now: (Date::now().as_millis()) / 1000,
        verifier: &*verifier,
    };
    let payload = match route {
        Route::Config => admin_auth.admin(&admin_request).map(Some),
        _ => admin_auth.metrics(&admin_request, true),
    };
    Ok(match payload {
        Ok(Some(mut payload)) => {
            payload.update(&request.bytes().await?);
            payload.finish().map(|()| true).map_err(HttpResponse::from)
        }
        Ok(None) => Ok(false),
        Err(answer) => Err(answer),
    })
}

/// The response of an object, which cannot be changed, with further headers.
fn with_headers<'a>(
    answered: &Response,
    further: impl Iterator<Item = (&'static str, &'a str)>,
) -> Result<Response> {
    let headers = Headers::new();
    for (name, value) in answered.headers().entries() {
        headers.append(&name, &value)?;
    }
    for (name, value) in further {
        headers.append(name, value)?;
    }
    let built = Response::builder().with_status(answered.status_code()).with_headers(headers);
    Ok(match answered.body() {
        ResponseBody::Empty => built.empty(),
        ResponseBody::Body(body) => built.fixed(body.clone()),
        ResponseBody::Stream(body) => built.stream(body.clone()),
    })
}

/// Converts an answer into a response of the runtime.
pub(super) fn response(answer: HttpResponse) -> Result<Response> {
    let headers = Headers::new();
    for (name, value) in &answer.headers {
        headers.append(name, value)?;
    }
    let body =
        if answer.body.is_empty() { Response::empty() } else { Response::from_bytes(answer.body.into()) };
    Ok(body?.with_status(answer.status).with_headers(headers))
}

pub(super) fn address(request: &Request) -> String {
    let Ok(url) = request.url() else { return String::new() };
    let scheme = if url.scheme() == "https" { "wss" } else { "ws" };
    let port = url.port().map_or_else(String::new, |port| format!(":{port}"));
    format!("{scheme}://{}{port}", url.host_str().unwrap_or_default())
}

async fn connect(request: Request, env: &Env, settings: &Settings) -> Result<Response> {
    let placement = &settings.placement;
    stub(env, placement, placement.shards.for_connection())?.fetch_with_request(request).await
}

async fn ask<T: serde::de::DeserializeOwned>(
    env: &Env,
    placement: &Placement,
    shard: Shard,
    path: &str,
) -> std::result::Result<T, String> {
    let message = |error: worker::Error| error.to_string();
    let stub = stub(env, placement, shard).map_err(message)?;
    let mut response = stub.fetch_with_str(&format!("http://{shard}{path}")).await.map_err(message)?;
    if response.status_code() != 200 {
        return Err(response.text().await.unwrap_or_default());
    }
    response.json().await.map_err(message)
}

/// The health of all shards, cached for a second, so that frequent requests wake no objects.
async fn health(env: &Env, settings: &Settings) -> HttpResponse {
    let now = Date::now().as_millis();
    let last = HEALTH.lock().unwrap_or_else(PoisonError::into_inner).clone();
    if let Some((at, answer)) = last
        && now.abs_diff(at) < HEALTH_AGE_MILLIS_MAX
    {
        return answer;
    }
    let answer = ask_health(env, settings).await;
    *HEALTH.lock().unwrap_or_else(PoisonError::into_inner) = Some((now, answer.clone()));
    answer
}

async fn ask_health(env: &Env, settings: &Settings) -> HttpResponse {
    let placement = &settings.placement;
    let (mut events, mut bytes, mut state) = (0, 0, "ok".to_owned());
    let ask_one = |shard| ask::<serde_json::Value>(env, placement, shard, "/stats");
    for (shard, stats) in placement.shards.ask_all(ask_one).await {
        match stats {
            Ok(stats) => {
                let value = |name: &str| stats.get(name).and_then(serde_json::Value::as_u64).unwrap_or(0);
                events += value("events");
                bytes += value("store_bytes");
            }
            Err(message) => state = format!("{shard}: {message}"),
        }
    }
    let document = json!({
        "status": state,
        "events": events,
        "store_bytes": bytes,
        "shards": placement.shards.count(),
        "version": env!("CARGO_PKG_VERSION"),
    });
    HttpResponse::new(if state == "ok" { 200 } else { 503 }, "application/json", format!("{document}\n"))
}

async fn metrics_text(env: &Env, settings: &Settings, is_for_admin: bool) -> String {
    let placement = &settings.placement;
    let ask_one = |shard| ask::<Vec<Family>>(env, placement, shard, "/metric-families");
    let mut shards = placement.shards.ask_all(ask_one).await;
    if !is_for_admin {
        shards = shards.into_iter().map(|(shard, answer)| (shard, metrics::without_names(answer))).collect();
    }
    metrics::render(&shards)
}
