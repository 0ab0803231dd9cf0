//! The WebSocket handshake (RFC 6455, 4.2), after which the plain socket is taken out of hyper.

use std::net::IpAddr;
use std::rc::Rc;

use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode, Version};
use hyper_util::rt::TokioIo;
use relay_engine::relay::{ClientInfo, ConnId};
use relay_engine::store::Backend;
use relay_site::HttpResponse;
use tokio::net::TcpStream;
use tungstenite::handshake::derive_accept_key;

use super::addresses::{AddressPermit, Client, TooMany};
use super::conn;
use super::forwarded::FORWARDED_FOR;
use super::response::{Body, response, whole};
use crate::host::WebSocketPermit;
use crate::shard::{Shard, SocketSlot};

/// Whether a comma-separated header has this word, in any case.
fn has_token(headers: &HeaderMap, name: HeaderName, token: &str) -> bool {
    let has_it = |value: &HeaderValue| {
        value.to_str().is_ok_and(|text| text.split(',').any(|word| word.trim().eq_ignore_ascii_case(token)))
    };
    headers.get_all(name).iter().any(has_it)
}

/// Answers the handshake. If it is sound and a connection is free, the connection becomes a WebSocket.
pub(super) fn upgrade<B: Backend + 'static>(
    slot: &Rc<SocketSlot<B>>,
    mut request: Request<Incoming>,
    peer: IpAddr,
) -> Response<Body> {
    let key = match handshake_key(&request) {
        Ok(key) => key,
        Err(error) => return refuse(error),
    };
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()).map(str::to_owned);
    let shard = slot.shard();
    let is_forwarded = ["forwarded", "x-forwarded-for", "x-real-ip"];
    if is_forwarded.iter().any(|name| request.headers().contains_key(*name)) {
        shard.host.warn_of_proxy(host.as_deref());
    }
    let addresses = &shard.host.addresses;
    if request.headers().contains_key(FORWARDED_FOR) && !addresses.trusts(peer) {
        shard.host.warn_of_untrusted_proxy(peer);
    }
    let Client { address, permit } = match addresses.admit_client(peer, request.headers()) {
        Ok(client) => client,
        Err(TooMany(address)) => {
            tracing::debug!(%address, "too many connections from one address");
            return response(TooMany::answer());
        }
    };
    let connected = shard
        .host
        .websocket_permit()
        .and_then(|permit| Some((permit, shard.connect(ClientInfo { host_header: host, address })?)));
    let Some((websocket_permit, id)) = connected else {
        return response(HttpResponse::too_many_connections());
    };
    let session =
        Session { shard: Rc::clone(shard), id, _websocket_permit: websocket_permit, _address_permit: permit };
    let upgraded = hyper::upgrade::on(&mut request);
    let slot = Rc::clone(slot);
    tokio::task::spawn_local(async move {
        // Kept for as long as the socket is.
        let _slot = slot;
        match upgraded.await.map(|upgraded| upgraded.downcast::<TokioIo<TcpStream>>()) {
            Ok(Ok(parts)) => {
                conn::run(&session.shard, id, parts.io.into_inner(), &parts.read_buf).await;
            }
            Ok(Err(_)) => tracing::error!("an upgraded connection is not a TCP stream"),
            Err(error) => tracing::debug!(%error, "a client left during its handshake"),
        }
    });

    let mut response = Response::new(whole(Bytes::new()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    let accept = HeaderValue::from_str(&derive_accept_key(&key)).expect("base64 is a header value");
    headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
    response
}

/// Why a handshake is refused.
enum HandshakeError {
    /// It breaks the rules in this way.
    Malformed(&'static str),
    /// It is for another version of the protocol.
    Version,
}

fn refuse(error: HandshakeError) -> Response<Body> {
    response(match error {
        HandshakeError::Malformed(message) => HttpResponse::error(400, message),
        HandshakeError::Version => HttpResponse::error(426, "only WebSocket version 13 is supported")
            .with("sec-websocket-version", "13")
            .with("upgrade", "websocket"),
    })
}

/// The client's key, if its handshake keeps the rules.
fn handshake_key(request: &Request<Incoming>) -> Result<Vec<u8>, HandshakeError> {
    let headers = request.headers();
    if request.method() != Method::GET || request.version() != Version::HTTP_11 {
        return Err(HandshakeError::Malformed("a WebSocket begins with GET and HTTP/1.1"));
    }
    if !has_token(headers, header::CONNECTION, "upgrade") {
        return Err(HandshakeError::Malformed("the Connection header must say Upgrade"));
    }
    if headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(HandshakeError::Version);
    }
    match headers.get(header::SEC_WEBSOCKET_KEY).map(HeaderValue::as_bytes) {
        // Base64 of sixteen bytes.
        Some(key) if key.len() == 24 => Ok(key.to_vec()),
        _ => Err(HandshakeError::Malformed("Sec-WebSocket-Key must be 24 characters")),
    }
}

/// The machine's side of a connection, which ends with it however that comes about.
struct Session<B: Backend> {
    shard: Rc<Shard<B>>,
    id: ConnId,
    _websocket_permit: WebSocketPermit,
    _address_permit: Option<AddressPermit>,
}

impl<B: Backend> Drop for Session<B> {
    fn drop(&mut self) {
        self.shard.disconnect(self.id);
    }
}
