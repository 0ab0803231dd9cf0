//! The Worker's entry: HTTP and WebSocket, passed to the objects of shards where they are needed.

use relay_about::ICON_SVG;
use serde_json::json;
use worker::{Context, Env, Headers, Request, Response, Result, event};

use super::shards::stub;
use super::variables;
use crate::front::{Asked, Route};
use crate::metrics::{self, Family};
use crate::settings::{Placement, Settings};
use crate::shard::Shard;

const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";
const HTML: &str = "text/html; charset=utf-8";
const SVG: &str = "image/svg+xml";
const NOSTR_JSON: &str = "application/nostr+json";
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

#[event(fetch)]
async fn fetch(request: Request, env: Env, _: Context) -> Result<Response> {
    let header = |name: &str| request.headers().get(name).ok().flatten().unwrap_or_default();
    let (path, method) = (request.path(), request.method().to_string());
    let (accept, upgrade) = (header("accept"), header("upgrade"));
    let asked = Asked { method: &method, path: &path, accept: &accept, upgrade: &upgrade };
    let settings = match variables::settings(&env) {
        Ok(settings) => settings,
        Err(words) => return answer(500, TEXT, &format!("{words}\n")),
    };
    match asked.route() {
        Route::Socket => connect(request, &env, &settings).await,
        Route::Information => with_cors(answer(200, NOSTR_JSON, &settings.about().information())?),
        Route::Page => with_cors(answer(200, HTML, &settings.about().page(&address(&request)))?),
        Route::Preflight => with_cors(Response::empty()?.with_status(204)),
        Route::Health => health(&env, &settings).await,
        Route::Icon => {
            let response = with_cors(answer(200, SVG, ICON_SVG)?)?;
            response.headers().set("cache-control", "public, max-age=86400")?;
            Ok(response)
        }
        Route::Metrics => answer(200, PROMETHEUS, &metrics_text(&env, &settings).await),
        Route::MethodNotAllowed => {
            let response = answer(405, TEXT, "method not allowed\n")?;
            response.headers().set("allow", "GET, HEAD, OPTIONS")?;
            Ok(response)
        }
        Route::NotFound => answer(404, TEXT, "not found\n"),
    }
}

fn answer(status: u16, content_type: &str, body: &str) -> Result<Response> {
    let headers = Headers::new();
    headers.set("content-type", content_type)?;
    headers.set("x-content-type-options", "nosniff")?;
    Ok(Response::ok(body)?.with_status(status).with_headers(headers))
}

/// NIP-11: «Relays MUST accept CORS requests».
fn with_cors(response: Response) -> Result<Response> {
    let headers = response.headers();
    headers.set("access-control-allow-origin", "*")?;
    headers.set("access-control-allow-headers", "*")?;
    headers.set("access-control-allow-methods", "GET, HEAD, OPTIONS")?;
    headers.set("vary", "accept")?;
    Ok(response)
}

fn address(request: &Request) -> String {
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
    let words = |error: worker::Error| error.to_string();
    let stub = stub(env, placement, shard).map_err(words)?;
    let mut response = stub.fetch_with_str(&format!("http://{shard}{path}")).await.map_err(words)?;
    if response.status_code() != 200 {
        return Err(response.text().await.unwrap_or_default());
    }
    response.json().await.map_err(words)
}

async fn health(env: &Env, settings: &Settings) -> Result<Response> {
    let placement = &settings.placement;
    let (mut events, mut bytes, mut state) = (0, 0, "ok".to_owned());
    let ask_one = |shard| ask::<serde_json::Value>(env, placement, shard, "/stats");
    for (shard, stats) in placement.shards.ask_all(ask_one).await {
        match stats {
            Ok(stats) => {
                let number = |name: &str| stats.get(name).and_then(serde_json::Value::as_u64).unwrap_or(0);
                events += number("events");
                bytes += number("store_bytes");
            }
            Err(words) => state = format!("{shard}: {words}"),
        }
    }
    let document = json!({
        "status": state,
        "events": events,
        "store_bytes": bytes,
        "shards": placement.shards.count(),
        "version": env!("CARGO_PKG_VERSION"),
    });
    answer(if state == "ok" { 200 } else { 503 }, JSON, &format!("{document}\n"))
}

async fn metrics_text(env: &Env, settings: &Settings) -> String {
    let placement = &settings.placement;
    let ask_one = |shard| ask::<Vec<Family>>(env, placement, shard, "/samples");
    metrics::render(&placement.shards.ask_all(ask_one).await)
}
