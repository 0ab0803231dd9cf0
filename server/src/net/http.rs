//! HTTP on the relay's port: what the routing table says is answered here, handed to the API, or becomes a WebSocket.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::HOST;
use hyper::{Request, Response, Version};
use relay_engine::store::Backend;
use relay_site::route::Bounds;
use relay_site::{HttpResponse, Route};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::addresses::{AddressPermit, TooMany};
use super::deadline::{self, Deadline};
use super::proxy_protocol::{self, HeaderError};
use super::response::{Body, HeaderLines, add_headers, raw_response, response};
use super::{admin, agents, api, blossom, market, upgrade};
use crate::host::ServerState;
use crate::shard::SocketSlot;

/// How long the request of a rejected client is still read.
const LINGER: Duration = Duration::from_secs(1);

/// Serves one socket until it closes or becomes a WebSocket.
pub(crate) async fn serve<B: Backend + 'static>(
    mut slot: SocketSlot<B>,
    mut stream: TcpStream,
    mut peer: IpAddr,
) {
    let host = Arc::clone(&slot.shard().host);
    let timeouts = host.timeouts();
    if host.settings.network.proxy_protocol && host.addresses.trusts(peer) {
        match read_proxy_header(&host, &mut stream, peer, timeouts.head).await {
            Ok((client, permit)) => {
                peer = client;
                slot.set_permit(permit);
            }
            Err(None) => return,
            Err(Some(answer)) => {
                // The slot is free for others while the rest of this client's request is read.
                drop(slot);
                return reject(&host, stream, &answer).await;
            }
        }
    }
    let slot = Rc::new(slot);
    // Ends with the handshake of a WebSocket; a client that only speaks HTTP, or does not read, releases the slot.
    deadline::serve(stream, timeouts, |request, deadline| {
        let slot = Rc::clone(&slot);
        async move { respond(&slot, request, peer, &deadline).await }
    })
    .await;
}

/// Reads the PROXY protocol header of a trusted proxy. Returns the client and its slot among the connections of its
/// address, or, on failure, the response to send, if any.
async fn read_proxy_header(
    host: &ServerState,
    stream: &mut TcpStream,
    proxy: IpAddr,
    time: Duration,
) -> Result<(IpAddr, Option<AddressPermit>), Option<HttpResponse>> {
    let found = match tokio::time::timeout(time, proxy_protocol::read(stream)).await {
        Ok(Ok(found)) => found,
        Ok(Err(HeaderError::Io(error))) => {
            tracing::debug!(%proxy, %error, "a proxy connected and said nothing");
            return Err(None);
        }
        Ok(Err(HeaderError::Malformed)) => {
            host.warn_of_missing_proxy_header(proxy);
            return Err(Some(HttpResponse::error(
                400,
                "a PROXY protocol header is expected from this address",
            )));
        }
        Err(_) => {
            tracing::debug!(%proxy, "a PROXY protocol header took too long");
            return Err(None);
        }
    };
    let Some(client) = found else { return Ok((proxy, None)) };
    match host.addresses.admit_socket(client) {
        Ok(permit) => Ok((client, permit)),
        Err(TooMany(address)) => {
            tracing::debug!(%address, "too many connections from one address");
            Err(Some(TooMany::answer()))
        }
    }
}

/// Sends an answer to a client that is rejected, as much of it as its socket accepts without blocking, and shuts the
/// socket down.
async fn reject(host: &ServerState, mut stream: TcpStream, answer: &HttpResponse) {
    let _ = stream.try_write(&raw_response(answer));
    let _ = stream.shutdown().await;
    // Closing a socket with unread input resets it, which may discard the response; so the request is read first; while
    // many clients are waited for, only what has come of it.
    let mut request = [0; 4096];
    match host.lingering.try_acquire() {
        Ok(_permit) => drop(tokio::time::timeout(LINGER, stream.read(&mut request)).await),
        Err(_) => drop(stream.try_read(&mut request)),
    }
}

async fn respond<B: Backend + 'static>(
    slot: &Rc<SocketSlot<B>>,
    request: Request<Incoming>,
    peer: IpAddr,
    deadline: &Deadline,
) -> Response<Body> {
    let shard = slot.shard();
    let host = &shard.host;
    if names_no_host(&request) {
        return response(HttpResponse::error(400, "exactly one Host header is required"));
    }
    let (method, path) = (request.method().as_str(), request.uri().path());
    let found = host.table.find(method, path, &HeaderLines(request.headers()));
    let (shared, params, param) =
        (found.headers(), agents::Params::of(&found), relay_blossom::exchange::path_param(&found));
    let npub = found.param("npub").map(str::to_owned);
    let endpoint = found.endpoint.map(|endpoint| (endpoint.route, endpoint.bounds));
    if let Ok((Route::Socket, _)) = endpoint {
        return upgrade::upgrade(slot, request, peer);
    }
    shard.count_http_request();
    // Behind a proxy a client is known by its request only; it counts as a connection of its address until it is answered.
    let Ok(client) = host.addresses.admit_client(peer, request.headers()) else {
        return response(TooMany::answer());
    };
    let mut answered = match endpoint {
        Ok((route, bounds)) => {
            deadline.extend(bounds);
            match route {
                Route::Socket => unreachable!("it has been upgraded"),
                Route::Information => response(HttpResponse::information(host.documents.information.clone())),
                Route::Page => response(HttpResponse::page(host.documents.page.clone())),
                Route::Icon => response(HttpResponse::icon()),
                Route::Join => response(relay_site::admission::respond(&host.settings.description())),
                Route::InvoiceCode => {
                    response(relay_site::invoice_code::respond(request.uri().query().unwrap_or_default()))
                }
                Route::Blossom(route) => {
                    blossom::respond(host, route, param, bounds, request, peer, client.address).await
                }
                Route::Agents(route) => {
                    agents::respond(host, route, params, bounds, client.address, request).await
                }
                Route::Market(route) => {
                    market::respond(host, route, npub, bounds, client.address, request).await
                }
                Route::Health | Route::Metrics | Route::Config => {
                    serve_admin_endpoint(host, route, bounds, request, peer).await
                }
            }
        }
        Err(answer) => response(answer),
    };
    add_headers(answered.headers_mut(), shared);
    answered
}

/// Whether an HTTP/1.1 request lacks the one Host header that it must have (RFC 9112, 3.2).
fn names_no_host(request: &Request<Incoming>) -> bool {
    let hosts = request.headers().get_all(HOST).iter().count();
    hosts > 1 || (hosts == 0 && request.version() == Version::HTTP_11)
}

/// Serves one of the administrators' endpoints.
pub(super) async fn serve_admin_endpoint(
    host: &Arc<ServerState>,
    route: Route,
    bounds: Bounds,
    request: Request<Incoming>,
    peer: IpAddr,
) -> Response<Body> {
    let handler = {
        let host = Arc::clone(host);
        move |request| async move { response(admin::answer(&host, route, bounds, request, peer).await) }
    };
    api::run(&host.api, bounds, request, handler).await
}
