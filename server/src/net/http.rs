//! HTTP on the relay's port: NIP-11, a page and its picture, `/health`, `/metrics`, and the door to WebSocket.

use std::convert::Infallible;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use relay_about::ICON_SVG;
use relay_engine::store::{Backend, Reader};
use serde_json::json;
use tokio::net::TcpStream;

use super::{metrics_door, upgrade};
use crate::shard::{Seat, Shard};

pub(super) type Body = Full<Bytes>;

/// Largest head of a request, in bytes.
pub(super) const HEAD_BYTES_MAX: usize = 16 << 10;

const JSON: &str = "application/json";
pub(super) const TEXT: &str = "text/plain; charset=utf-8";
const HTML: &str = "text/html; charset=utf-8";
const NOSTR_JSON: &str = "application/nostr+json";
const SVG: &str = "image/svg+xml";

/// Serves one socket until it closes or becomes a WebSocket.
pub(crate) async fn serve<B: Backend + 'static>(seat: Seat<B>, stream: TcpStream, peer: IpAddr) {
    let seat = Rc::new(seat);
    let network = &seat.shard().host.settings.network;
    let handshake = Duration::from_secs(network.handshake_seconds);
    let all = handshake.saturating_add(Duration::from_secs(network.write_stall_seconds));
    let service = service_fn(move |request| {
        let seat = Rc::clone(&seat);
        async move { Ok::<_, Infallible>(respond(&seat, request, peer).await) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(handshake)
        .max_buf_size(HEAD_BYTES_MAX)
        // A client may have nothing more to say and still wait for its answer.
        .half_close(true)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    // Ends with the handshake of a WebSocket; who only speaks HTTP, or does not read, gives the seat back.
    match tokio::time::timeout(all, served).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "an HTTP connection ended badly"),
        Err(_) => tracing::debug!("an HTTP connection took too long"),
    }
}

async fn respond<B: Backend + 'static>(
    seat: &Rc<Seat<B>>,
    request: Request<Incoming>,
    peer: IpAddr,
) -> Response<Body> {
    let shard = seat.shard();
    let path = request.uri().path();
    if path == "/" && upgrade::is_wanted(&request) {
        return upgrade::upgrade(seat, request);
    }
    shard.count_http_request();
    let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
    match path {
        "/" if request.method() == Method::OPTIONS => {
            with_cors(answer(StatusCode::NO_CONTENT, TEXT, Bytes::new()))
        }
        "/" if is_read => with_cors(root(shard, &request)),
        "/health" if is_read => health(shard),
        // It has an address of its own.
        "/metrics" if shard.host.settings.metrics.listen.is_some() => {
            answer(StatusCode::NOT_FOUND, TEXT, "not found\n".into())
        }
        "/metrics" if is_read => metrics_door::respond(&shard.host, request.headers(), peer).await,
        "/icon.svg" | "/favicon.ico" if is_read => with_cors(icon()),
        "/" | "/health" | "/metrics" | "/icon.svg" | "/favicon.ico" => method_not_allowed(),
        _ => answer(StatusCode::NOT_FOUND, TEXT, "not found\n".into()),
    }
}

fn root<B: Backend>(shard: &Shard<B>, request: &Request<Incoming>) -> Response<Body> {
    let documents = &shard.host.documents;
    let accepts = request.headers().get_all(header::ACCEPT);
    let wants_information = accepts.iter().any(|value| {
        value.to_str().is_ok_and(|value| value.to_ascii_lowercase().contains("application/nostr+json"))
    });
    let mut response = if wants_information {
        answer(StatusCode::OK, NOSTR_JSON, documents.information.clone())
    } else {
        answer(StatusCode::OK, HTML, documents.page.clone())
    };
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("accept"));
    response
}

/// NIP-11: «Relays MUST accept CORS requests».
fn with_cors(mut response: Response<Body>) -> Response<Body> {
    let headers: [(HeaderName, &str); 3] = [
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, "*"),
        (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, HEAD, OPTIONS"),
    ];
    for (name, value) in headers {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

fn health<B: Backend>(shard: &Shard<B>) -> Response<Body> {
    let host = &shard.host;
    let store = shard.with_store(|store| store.reader()?.stats());
    let is_stopping = host.is_stopping.load(std::sync::atomic::Ordering::Relaxed);
    let (status, state) = match (host.failure(), &store) {
        (Some(why), _) => (StatusCode::SERVICE_UNAVAILABLE, format!("the store can't be written: {why}")),
        (None, Err(error)) => (StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
        (None, Ok(_)) if is_stopping => (StatusCode::SERVICE_UNAVAILABLE, "stopping".to_owned()),
        (None, Ok(_)) => (StatusCode::OK, "ok".to_owned()),
    };
    let document = json!({
        "status": state,
        "events": store.as_ref().ok().map(|stats| stats.events),
        "store_bytes": store.as_ref().ok().map(|stats| stats.bytes),
        "uptime_seconds": host.started.elapsed().as_secs(),
        "version": env!("CARGO_PKG_VERSION"),
    });
    answer(status, JSON, format!("{document}\n").into())
}

/// The relay's picture; browsers ask for it under its old name too.
fn icon() -> Response<Body> {
    let mut response = answer(StatusCode::OK, SVG, Bytes::from_static(ICON_SVG.as_bytes()));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=86400"));
    response
}

pub(super) fn method_not_allowed() -> Response<Body> {
    let mut response = answer(StatusCode::METHOD_NOT_ALLOWED, TEXT, "method not allowed\n".into());
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD, OPTIONS"));
    response
}

/// A response of one piece.
pub(super) fn answer(status: StatusCode, content_type: &'static str, body: Bytes) -> Response<Body> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}
