//! `/metrics`: who may read it, and the address of its own that it may have.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::header::{self, HeaderMap};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use relay_site::{Answer, ROOMS, Route, Table};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use super::http::{HEAD_BYTES_MAX, HeaderLines, response};
use crate::host::Host;

/// Sockets served at a time on the address of its own; others wait.
const SOCKETS_MAX: usize = 32;

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Answers a read of `/metrics`.
pub(super) async fn answer(host: &Host, headers: &HeaderMap, peer: IpAddr) -> Answer {
    if !host.metrics_readers.include(peer) {
        return Answer::error(403, "metrics are not for this address");
    }
    if let Some(token) = &host.settings.metrics.token
        && !bears(headers, token)
    {
        return Answer::error(401, "metrics want a bearer token").with("www-authenticate", "Bearer");
    }
    Answer::new(200, OPEN_METRICS, host.metrics_text().await)
}

/// Whether the Authorization header bears `token`. Takes as long whatever of it is right.
fn bears(headers: &HeaderMap, token: &str) -> bool {
    let Some(given) = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()) else {
        return false;
    };
    let Some((scheme, given)) = given.split_once(' ') else { return false };
    let (given, token) = (given.trim().as_bytes(), token.as_bytes());
    let differing = given.iter().zip(token).fold(0, |all, (a, b)| all | (a ^ b));
    scheme.eq_ignore_ascii_case("bearer")
        && given.len() == token.len()
        && std::hint::black_box(differing) == 0
}

/// Serves `/metrics`, and nothing else, on an address of its own.
pub(crate) async fn run(host: Arc<Host>, listener: TcpListener) {
    let network = &host.settings.network;
    let handshake = Duration::from_secs(network.handshake_seconds);
    let all = handshake.saturating_add(Duration::from_secs(network.write_stall_seconds));
    let table = Arc::new(Table::new(ROOMS, |route| route == Route::Metrics));
    let seats = Arc::new(Semaphore::new(SOCKETS_MAX));
    loop {
        let Ok(seat) = Arc::clone(&seats).acquire_owned().await else { return };
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(%error, "can't accept a reader of metrics");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (host, table) = (Arc::clone(&host), Arc::clone(&table));
        tokio::spawn(async move {
            let _seat = seat;
            let service = service_fn(|request: hyper::Request<hyper::body::Incoming>| {
                let (host, table) = (Arc::clone(&host), Arc::clone(&table));
                async move {
                    let (method, path) = (request.method().as_str(), request.uri().path());
                    let found = table.find(method, path, &HeaderLines(request.headers()));
                    Ok::<_, Infallible>(response(match found.endpoint {
                        Ok(_) => answer(&host, request.headers(), peer.ip()).await,
                        Err(answer) => answer,
                    }))
                }
            });
            let served = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(handshake)
                .max_buf_size(HEAD_BYTES_MAX)
                .half_close(true)
                .serve_connection(TokioIo::new(stream), service);
            let _ = tokio::time::timeout(all, served).await;
        });
    }
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderValue;

    use super::*;

    #[test]
    fn a_token_is_taken_whole() {
        let bears = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, HeaderValue::from_static(value));
            super::bears(&headers, "s3cret")
        };
        assert!(bears("Bearer s3cret") && bears("bearer  s3cret "));
        for wrong in
            ["s3cret", "Bearer", "Bearer ", "Bearer s3cre", "Bearer s3cret2", "Bearer S3cret", "Basic s3cret"]
        {
            assert!(!bears(wrong), "{wrong}");
        }
        assert!(!super::bears(&HeaderMap::new(), "s3cret"));
    }
}
