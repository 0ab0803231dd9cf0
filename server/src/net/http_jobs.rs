//! `POST /agent/{npub}/jobs`: the answer waits for the job, or is a stream of server-sent events.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use http_body_util::Either;
use http_body_util::channel::Channel;
use hyper::Response;
use hyper::body::Bytes;
use hyper::header::CONTENT_LENGTH;
use relay_agent::http_jobs::{STREAM_SECONDS, Wanted, answer};
use relay_engine::types::PubKey;
use relay_site::HttpResponse;
use tokio::time::{Instant, timeout_at};

use super::response::{Body, Error, response};
use crate::agents::{Agents, OrderRequest, Watch};
use crate::host::ServerState;

/// Events that wait for their client.
const PIECES_WAITING: usize = 2;
/// After how long without an event a comment is sent, so that proxies keep the connection open.
const COMMENT_AFTER: Duration = Duration::from_secs(15);

/// Takes an order, or finds an earlier one, and tells how far it is.
pub(super) async fn respond(
    host: &Arc<ServerState>,
    agents: &Agents,
    agent: PubKey,
    request: OrderRequest,
    wanted: Wanted,
) -> Response<Body> {
    let until = Instant::now() + Duration::from_secs(wanted.wait_seconds);
    let mut watch = match agents.order(agent, &request).await {
        Ok(watch) => watch,
        Err(answer) => return response(answer),
    };
    let mut progress = match watch.read().await {
        Ok(progress) => progress,
        Err(answer) => return response(answer),
    };
    // The first word decides whether there is something to pay; a stream begins after it.
    while !progress.is_final() {
        match timeout_at(until, watch.next()).await {
            Ok(Some(next)) => progress = next,
            Ok(None) => return response(HttpResponse::error(503, "the relay is stopping")),
            Err(_) => break,
        }
        if wanted.as_stream {
            break;
        }
    }
    if wanted.as_stream && !progress.is_final() {
        let first = answer::piece(&watch.secret, &watch.agent, &watch.token, &progress);
        return stream(host, watch, first);
    }
    response(answer::answer(&watch.secret, &watch.agent, &watch.token, &progress))
}

/// What the agent says from now on, until the job ends, the client leaves, or the relay stops.
fn stream(host: &Arc<ServerState>, mut watch: Watch, first: String) -> Response<Body> {
    let mut answered = response(answer::stream());
    let (mut sender, channel) = Channel::<Bytes, Error>::new(PIECES_WAITING);
    *answered.body_mut() = Either::Right(channel);
    answered.headers_mut().remove(CONTENT_LENGTH);
    let (host, until) = (Arc::clone(host), Instant::now() + Duration::from_secs(STREAM_SECONDS));
    tokio::spawn(async move {
        let mut piece = first;
        while sender.send_data(piece.into()).await.is_ok()
            && Instant::now() < until
            && !host.is_stopping.load(Ordering::Relaxed)
        {
            piece = match timeout_at(until.min(Instant::now() + COMMENT_AFTER), watch.next()).await {
                Ok(Some(progress)) => {
                    let piece = answer::piece(&watch.secret, &watch.agent, &watch.token, &progress);
                    if progress.is_final() {
                        let _ = sender.send_data(piece.into()).await;
                        return;
                    }
                    piece
                }
                Ok(None) => return,
                Err(_) => ":\n\n".to_owned(),
            };
        }
    });
    answered
}
