//! Blossom over HTTP: heads for its exchanges, and their responses.

use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::Stream;
use futures_util::stream;
use http_body_util::{Either, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::header::HOST;
use hyper::{Request, Response, StatusCode};
use relay_blossom::exchange::{Body as BlossomBody, Head, base_url, is_local_origin};
use relay_engine::types::ClientAddress;
use relay_site::authorization::is_loopback;
use relay_site::route::Bounds;
use relay_site::{BlossomRoute, HttpResponse};

use super::api;
use super::response::{Body, add_headers, response};
use crate::blossom::{Answered, Blossom, Reading, RequestOrigin};
use crate::host::ServerState;

/// Has a request answered.
pub(super) async fn respond(
    host: &Arc<ServerState>,
    route: BlossomRoute,
    param: Option<String>,
    bounds: Bounds,
    request: Request<Incoming>,
    peer: IpAddr,
    client: Option<ClientAddress>,
) -> Response<Body> {
    let Some(blossom) = host.blossom.get() else {
        return response(HttpResponse::error(503, "the store of blobs is not open").with("retry-after", "5"));
    };
    let headers = request.headers().iter();
    let head = Head {
        route,
        method: request.method().as_str().to_owned(),
        path_and_query: request.uri().path_and_query().map_or("/", |both| both.as_str()).to_owned(),
        param,
        headers: headers
            .map(|(name, value)| {
                (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
            })
            .collect(),
    };
    let seen = RequestOrigin { client, ..seen(host, &request, peer) };
    let blossom = Arc::clone(blossom);
    let handler = move |request: Request<api::Upload>| async move {
        let answered = Arc::clone(&blossom).answer(head, seen, request.into_body()).await;
        rendered(answered, blossom)
    };
    api::run(&host.api, bounds, request, handler).await
}

/// Where the client is, and where it reaches this server.
fn seen(host: &ServerState, request: &Request<Incoming>, peer: IpAddr) -> RequestOrigin {
    let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
    let name = request.headers().get(HOST).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let base_url = match &host.settings.url {
        Some(url) => base_url(url),
        None => {
            let is_secure = host.addresses.trusts(peer) && header("x-forwarded-proto") == Some("https");
            format!("{}://{name}", if is_secure { "https" } else { "http" })
        }
    };
    // A proxy on this machine makes all its clients look local.
    let proxied =
        ["forwarded", "x-forwarded-for", "via", "x-real-ip"].iter().any(|name| header(name).is_some());
    let is_local = host.settings.url.is_none()
        && host.settings.is_loopback()
        && peer.is_loopback()
        && !proxied
        && is_loopback(name)
        && is_local_origin(header("origin"));
    // Requests can have been signed for this relay only if they name it.
    let url = match &host.settings.url {
        Some(url) => Ok(url.clone()),
        None if name == host.settings.listen => Ok(format!("http://{name}")),
        None => Err(name.to_owned()),
    };
    RequestOrigin { base_url, is_local, url, client: None }
}

type Pieces = StreamBody<BoxedPieces>;
struct BoxedPieces(Pin<Box<dyn Stream<Item = io::Result<Frame<Bytes>>> + Send>>);

impl Stream for BoxedPieces {
    type Item = io::Result<Frame<Bytes>>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.as_mut().poll_next(cx)
    }
}

fn rendered(answered: Answered, blossom: Arc<Blossom>) -> Response<Either<Full<Bytes>, Pieces>> {
    let Answered { response: answer, reading } = answered;
    let body = match (answer.body, reading) {
        (BlossomBody::Blob { .. }, Some(reading)) => Either::Right(StreamBody::new(pieces(reading, blossom))),
        (BlossomBody::Bytes(bytes), _) => Either::Left(Full::new(bytes)),
        (BlossomBody::Blob { .. }, None) => Either::Left(Full::default()),
    };
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(answer.status).expect("a status code");
    add_headers(response.headers_mut(), answer.headers.iter().map(|(name, value)| (*name, &**value)));
    response
}

fn pieces(reading: Reading, blossom: Arc<Blossom>) -> BoxedPieces {
    BoxedPieces(Box::pin(stream::unfold((reading, blossom), |(mut reading, blossom)| async move {
        let piece = reading.next().await?;
        if let Ok(bytes) = &piece {
            blossom.count_sent(bytes.len());
        }
        Some((piece.map(Frame::data), (reading, blossom)))
    })))
}
