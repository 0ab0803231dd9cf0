//! The market over HTTP.

use std::sync::Arc;

use hyper::body::Incoming;
use hyper::{Request, Response};
use relay_engine::types::ClientAddress;
use relay_site::route::Bounds;
use relay_site::{HttpResponse, MarketRoute};

use super::api;
use super::response::{Body, response};
use crate::host::ServerState;

/// Has a request answered.
pub(super) async fn respond(
    host: &Arc<ServerState>,
    route: MarketRoute,
    npub: Option<String>,
    bounds: Bounds,
    address: Option<ClientAddress>,
    request: Request<Incoming>,
) -> Response<Body> {
    let Some(market) = host.market.get() else {
        return response(
            HttpResponse::error(503, "the market's registry is not open").with("retry-after", "5"),
        );
    };
    let market = Arc::clone(market);
    let query = request.uri().query().unwrap_or_default().to_owned();
    let handler = move |request: Request<api::Upload>| async move {
        let answered = response(market.answer(route, npub, query, address).await);
        api::discard(request);
        answered
    };
    api::run(&host.api, bounds, request, handler).await
}
