//! HTTP on the relay's port: NIP-11, a page and its picture, `/health`, `/metrics`, and the door to WebSocket.

use std::convert::Infallible;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use relay_engine::store::{Backend, Reader};
use relay_site::{Answer, Headers, Route};
use serde_json::json;
use tokio::net::TcpStream;

use super::{metrics_door, upgrade};
use crate::shard::{Seat, Shard};

pub(super) type Body = Full<Bytes>;

/// Largest head of a request, in bytes.
pub(super) const HEAD_BYTES_MAX: usize = 16 << 10;

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
    let table = &shard.host.table;
    let found = table.find(request.method().as_str(), request.uri().path(), &HeaderLines(request.headers()));
    let shared = found.headers();
    let route = found.endpoint.map(|endpoint| endpoint.route);
    if route == Ok(Route::Socket) {
        return upgrade::upgrade(seat, request);
    }
    shard.count_http_request();
    let documents = &shard.host.documents;
    let mut answer = match route {
        Ok(Route::Information) => Answer::information(documents.information.clone()),
        Ok(Route::Page) => Answer::page(documents.page.clone()),
        Ok(Route::Icon) => Answer::icon(),
        Ok(Route::Health) => health(shard),
        Ok(Route::Metrics) => metrics_door::answer(&shard.host, request.headers(), peer).await,
        Ok(Route::Socket) => Answer::error(500, "unreachable"),
        Err(answer) => answer,
    };
    answer.headers.extend(shared.map(|(name, value)| (name, value.to_owned().into())));
    response(answer)
}

/// The headers of a request, as hyper keeps them.
pub(super) struct HeaderLines<'a>(pub(super) &'a HeaderMap);

impl Headers for HeaderLines<'_> {
    fn any(&self, name: &str, test: &mut dyn FnMut(&str) -> bool) -> bool {
        self.0.get_all(name).iter().any(|value| value.to_str().is_ok_and(&mut *test))
    }
}

fn health<B: Backend>(shard: &Shard<B>) -> Answer {
    let host = &shard.host;
    let store = shard.with_store(|store| store.reader()?.stats());
    let is_stopping = host.is_stopping.load(std::sync::atomic::Ordering::Relaxed);
    let (status, state) = match (host.failure(), &store) {
        (Some(why), _) => (503, format!("the store can't be written: {why}")),
        (None, Err(error)) => (503, error.to_string()),
        (None, Ok(_)) if is_stopping => (503, "stopping".to_owned()),
        (None, Ok(_)) => (200, "ok".to_owned()),
    };
    let document = json!({
        "status": state,
        "events": store.as_ref().ok().map(|stats| stats.events),
        "store_bytes": store.as_ref().ok().map(|stats| stats.bytes),
        "uptime_seconds": host.started.elapsed().as_secs(),
        "version": env!("CARGO_PKG_VERSION"),
    });
    Answer::new(status, "application/json", format!("{document}\n"))
}

/// An answer in hyper's terms.
pub(super) fn response(answer: Answer) -> Response<Body> {
    let mut response = Response::new(Full::new(answer.body));
    *response.status_mut() = StatusCode::from_u16(answer.status).expect("a status code");
    for (name, value) in answer.headers {
        let value = HeaderValue::from_str(&value).expect("a header of ours is visible ASCII");
        response.headers_mut().append(HeaderName::from_static(name), value);
    }
    response
}
