//! HTTP on the relay's port: what the routing table says is answered here, handed to the API, or becomes a WebSocket.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use hyper::body::Incoming;
use hyper::{Request, Response};
use relay_engine::store::Backend;
use relay_site::route::Bounds;
use relay_site::{Answer, Route};
use tokio::net::TcpStream;

use super::deadline::{self, Deadline};
use super::response::{Body, HeaderLines, add_headers, response};
use super::{api, operator, upgrade};
use crate::host::Host;
use crate::shard::Seat;

/// Serves one socket until it closes or becomes a WebSocket.
pub(crate) async fn serve<B: Backend + 'static>(seat: Seat<B>, stream: TcpStream, peer: IpAddr) {
    let seat = Rc::new(seat);
    let timeouts = seat.shard().host.timeouts();
    // Ends with the handshake of a WebSocket; who only speaks HTTP, or does not read, gives the seat back.
    deadline::serve(stream, timeouts, |request, deadline| {
        let seat = Rc::clone(&seat);
        async move { respond(&seat, request, peer, &deadline).await }
    })
    .await;
}

async fn respond<B: Backend + 'static>(
    seat: &Rc<Seat<B>>,
    request: Request<Incoming>,
    peer: IpAddr,
    deadline: &Deadline,
) -> Response<Body> {
    let shard = seat.shard();
    let host = &shard.host;
    let (method, path) = (request.method().as_str(), request.uri().path());
    let found = host.table.find(method, path, &HeaderLines(request.headers()));
    let shared = found.headers();
    let endpoint = found.endpoint.map(|endpoint| (endpoint.route, endpoint.bounds));
    if let Ok((Route::Socket, _)) = endpoint {
        return upgrade::upgrade(seat, request, peer);
    }
    shard.count_http_request();
    let mut answered = match endpoint {
        Ok((route, bounds)) => {
            deadline.extend(bounds);
            match route {
                Route::Socket => unreachable!("it has been upgraded"),
                Route::Information => response(Answer::information(host.documents.information.clone())),
                Route::Page => response(Answer::page(host.documents.page.clone())),
                Route::Icon => response(Answer::icon()),
                Route::Health | Route::Metrics | Route::Config => {
                    operate(host, route, bounds, request, peer).await
                }
            }
        }
        Err(answer) => response(answer),
    };
    add_headers(answered.headers_mut(), shared);
    answered
}

/// Has one of the operator's endpoints answered.
pub(super) async fn operate(
    host: &Arc<Host>,
    route: Route,
    bounds: Bounds,
    request: Request<Incoming>,
    peer: IpAddr,
) -> Response<Body> {
    let handler = {
        let host = Arc::clone(host);
        move |request| async move { response(operator::answer(&host, route, bounds, request, peer).await) }
    };
    api::run(&host.api, bounds, request, handler).await
}
