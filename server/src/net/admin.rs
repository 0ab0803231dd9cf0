//! The administrators' endpoints: health, metrics and the effective configuration. They are handled on the API's runtime.

use std::net::IpAddr;
use std::time::Instant;

use hyper::Request;
use hyper::header::{AUTHORIZATION, HOST};
use relay_site::nip98::{self, Payload, ServerUrl};
use relay_site::route::Bounds;
use relay_site::{AdminRequest, HttpResponse, Route, settings};
use serde_json::json;

use super::api::{self, Upload};
use crate::host::{ServerState, now};

pub(super) const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Answers a request to one of them.
pub(super) async fn answer(
    host: &ServerState,
    route: Route,
    bounds: Bounds,
    mut request: Request<Upload>,
    peer: IpAddr,
) -> HttpResponse {
    let allowed = match route {
        Route::Metrics => {
            host.admin_auth.metrics(&admin_request(host, &request), host.may_read_metrics(peer))
        }
        Route::Config => host.admin_auth.admin(&admin_request(host, &request)).map(Some),
        _ => Ok(None),
    };
    let signed = match allowed {
        Ok(signed) => signed,
        Err(answer) => return answer,
    };
    let is_for_admin = signed.is_some() || host.settings.metrics.is_restricted();
    if let Some(payload) = signed
        && let Err(answer) = check_body(request.body_mut(), bounds, payload).await
    {
        return answer;
    }
    match route {
        Route::Metrics => HttpResponse::new(200, OPEN_METRICS, host.metrics_text(is_for_admin).await),
        Route::Config => {
            let config = settings::effective_config(host.settings.without_secrets());
            HttpResponse::new(200, "application/json", config)
        }
        _ => health(host).await,
    }
}

fn admin_request<'a>(host: &'a ServerState, request: &'a Request<Upload>) -> AdminRequest<'a> {
    let header = |name| request.headers().get(name).and_then(|value| value.to_str().ok());
    let origin = match &host.settings.url {
        Some(url) => ServerUrl::Url(url),
        None => ServerUrl::Host(header(HOST).unwrap_or_default()),
    };
    let path_and_query = request.uri().path_and_query().map_or("/", |both| both.as_str());
    AdminRequest {
        request: nip98::Request { method: request.method().as_str(), origin, path_and_query },
        authorization: header(AUTHORIZATION),
        now: now().seconds(),
        verifier: &*host.verifier,
    }
}

/// The body of a signed request, which may have signed its hash.
async fn check_body(body: &mut Upload, bounds: Bounds, mut payload: Payload) -> Result<(), HttpResponse> {
    api::receive(body, bounds, |piece| payload.update(piece)).await?;
    payload.finish().map_err(HttpResponse::from)
}

async fn health(host: &ServerState) -> HttpResponse {
    // Any client may ask as often as it likes.
    let ask = async { host.snapshots().await.into_iter().find_map(|shard| shard.store) };
    let store = host.store_health.get(Instant::now(), ask).await;
    let is_stopping = host.is_stopping.load(std::sync::atomic::Ordering::Relaxed);
    let (status, state) = match (host.failure(), &store) {
        (Some(why), _) => (503, format!("the store can't be written: {why}")),
        (None, _) if is_stopping => (503, "stopping".to_owned()),
        (None, Some(Err(error))) => (503, error.to_string()),
        (None, None) => (503, "no shard answers".to_owned()),
        (None, Some(Ok(_))) => (200, "ok".to_owned()),
    };
    let stats = store.and_then(Result::ok);
    let document = json!({
        "status": state,
        "events": stats.as_ref().map(|stats| stats.events),
        "store_bytes": stats.as_ref().map(|stats| stats.bytes),
        "uptime_seconds": host.started.elapsed().as_secs(),
        "version": env!("CARGO_PKG_VERSION"),
    });
    HttpResponse::new(status, "application/json", format!("{document}\n"))
}
