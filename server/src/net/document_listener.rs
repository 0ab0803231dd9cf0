//! A small HTTP address that serves one document at `/metrics`, for programs that are no relay.

use std::sync::Arc;
use std::time::Duration;

use hyper::body::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Method, Response, StatusCode};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

use super::admin::OPEN_METRICS;
use super::deadline::{self, Timeouts};
use super::response::{Body, whole};

/// Sockets served at a time; others wait.
const SOCKETS_MAX: usize = 8;
const TIMEOUTS: Timeouts = Timeouts { head: Duration::from_secs(10), stall: Duration::from_secs(10) };

/// Serves what `document` makes at the time of the request, for ever.
pub(crate) async fn run(listener: TcpListener, document: Arc<dyn Fn() -> String + Send + Sync>) {
    let permits = Arc::new(Semaphore::new(SOCKETS_MAX));
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let document = Arc::clone(&document);
        tokio::spawn(async move {
            let _permit = permit;
            deadline::serve(stream, TIMEOUTS, |request, _| {
                let is_known = request.uri().path() == "/metrics";
                let answer = match (is_known, request.method()) {
                    (false, _) => refusal(StatusCode::NOT_FOUND),
                    (true, &Method::GET | &Method::HEAD) => {
                        let mut answer = Response::new(whole(Bytes::from(document())));
                        answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(OPEN_METRICS));
                        answer
                    }
                    (true, _) => refusal(StatusCode::METHOD_NOT_ALLOWED),
                };
                std::future::ready(answer)
            })
            .await;
        });
    }
}

fn refusal(status: StatusCode) -> Response<Body> {
    let mut answer = Response::new(whole(Bytes::new()));
    *answer.status_mut() = status;
    answer
}
