//! Requests whose work is done away from the threads that serve WebSockets.
//!
//! The thread that has the socket reads the head and writes the answer; the handler runs on the API's own runtime. Both
//! bodies come in pieces and neither is ever whole in memory: hyper reads the next piece of a request when the handler
//! asks for it, and of an answer at most [`PIECES_WAITING`] wait for the client.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::time::Duration;

use http_body_util::channel::{Channel, Sender};
use http_body_util::{BodyExt, Either, LengthLimitError, Limited};
use hyper::body::{Body as _, Bytes, Incoming};
use hyper::header;
use hyper::{Request, Response};
use relay_site::HttpResponse;
use relay_site::route::Bounds;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::task::JoinHandle;
use tower_http::timeout::{TimeoutBody, TimeoutError};

use super::response::{Body, Error, response, whole};

/// Threads that run handlers. What blocks belongs into `spawn_blocking`.
const THREADS: usize = 2;
const BLOCKING_THREADS_MAX: usize = 16;

/// Answers of up to this many bytes are handed over whole.
const WHOLE_BYTES_MAX: u64 = 64 << 10;

/// Pieces of an answer that wait for its client.
const PIECES_WAITING: usize = 2;

/// Bytes of a body that is not wanted, which are read all the same, and for how long.
const DISCARD_BYTES: usize = 16 << 20;
const DISCARD_TIME: Duration = Duration::from_secs(5);

/// The body of a request, within its endpoint's bounds.
pub(crate) type Upload = Pin<Box<TimeoutBody<Limited<Incoming>>>>;

/// The runtime of the handlers.
pub(crate) fn runtime() -> io::Result<Runtime> {
    Builder::new_multi_thread()
        .worker_threads(THREADS)
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .thread_name("relay-api")
        .enable_all()
        .build()
}

/// A task that is aborted when the one that awaits it is dropped.
struct Task<T>(JoinHandle<T>);

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Has a request handled. If the client leaves, or its time is over, the handler is dropped where it waits.
pub(super) async fn run<B, T>(
    api: &Handle,
    bounds: Bounds,
    request: Request<Incoming>,
    handler: impl FnOnce(Request<Upload>) -> T + Send + 'static,
) -> Response<Body>
where
    B: hyper::body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Error> + Send,
    T: Future<Output = Response<B>> + Send,
{
    let bytes_max = bounds.body_bytes_max;
    if request.body().size_hint().lower() > bytes_max as u64 {
        let _runtime = api.enter();
        discard(request);
        return response(too_long(bytes_max));
    }
    let idle = Duration::from_secs(bounds.idle_seconds.into());
    let total = Duration::from_secs(bounds.total_seconds.into());
    let request = request.map(|body| Box::pin(TimeoutBody::new(idle, Limited::new(body, bytes_max))));
    let work = async move {
        let handled = async { forward_response(handler(request).await).await };
        tokio::time::timeout(total, handled).await
    };
    let mut task = Task(api.spawn(work));
    match (&mut task.0).await {
        Ok(Ok(answered)) => answered,
        Ok(Err(_)) => response(HttpResponse::error(503, "request timed out")),
        Err(error) => {
            tracing::error!(%error, "a handler of the API failed");
            response(HttpResponse::error(500, "internal error"))
        }
    }
}

/// What to answer when the body of a request ends with an error.
fn fault_of_body(error: &Error, bounds: Bounds) -> HttpResponse {
    if error.is::<TimeoutError>() {
        let seconds = bounds.idle_seconds;
        return HttpResponse::error_in(408, "body", &format!("no data arrived for {seconds} seconds"));
    }
    match error.downcast_ref::<LengthLimitError>() {
        Some(_) => too_long(bounds.body_bytes_max),
        None => HttpResponse::error_in(400, "body", &format!("the body ended early: {error}")),
    }
}

fn too_long(bytes_max: usize) -> HttpResponse {
    HttpResponse::error_in(413, "body", &format!("is longer than {bytes_max} bytes"))
}

/// Reads what is left of the body of a request that is answered without it, beside the answer: a socket that closes with unread
/// input is reset, and the answer may be lost. A client that has asked whether to send its body (`Expect`) is not told to.
///
/// # Panics
/// Outside of a Tokio runtime.
pub(crate) fn discard<B>(request: Request<B>)
where
    B: hyper::body::Body<Data = Bytes> + Send + Unpin + 'static,
{
    if !request.headers().contains_key(header::EXPECT) {
        discard_body(request.into_body());
    }
}

/// [`discard`] for a body whose client has not asked whether to send it.
///
/// # Panics
/// Outside of a Tokio runtime.
pub(crate) fn discard_body<B>(mut body: B)
where
    B: hyper::body::Body<Data = Bytes> + Send + Unpin + 'static,
{
    if body.is_end_stream() {
        return;
    }
    let reading = async move {
        let mut left = DISCARD_BYTES;
        while let Some(Ok(frame)) = body.frame().await {
            left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
            if left == 0 {
                break;
            }
        }
    };
    tokio::spawn(tokio::time::timeout(DISCARD_TIME, reading));
}

/// Takes a body as it comes.
///
/// # Errors
/// What to answer if it ends early, is too long, or makes no progress.
pub(super) async fn receive(
    body: &mut Upload,
    bounds: Bounds,
    mut take: impl FnMut(&[u8]),
) -> Result<(), HttpResponse> {
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| fault_of_body(&error, bounds))?;
        if let Some(piece) = frame.data_ref() {
            take(piece);
        }
    }
    Ok(())
}

/// A handler's answer on its way to the thread that writes it: in one piece if it is small, else from a task that polls
/// its body here.
async fn forward_response<B>(answered: Response<B>) -> Response<Body>
where
    B: hyper::body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Error> + Send,
{
    let (mut head, body) = answered.into_parts();
    let bytes = body.size_hint().exact();
    if bytes.is_some_and(|bytes| bytes <= WHOLE_BYTES_MAX) {
        return match body.collect().await {
            Ok(collected) => Response::from_parts(head, whole(collected.to_bytes())),
            Err(error) => {
                tracing::error!(error = %error.into(), "a handler of the API failed");
                response(HttpResponse::error(500, "internal error"))
            }
        };
    }
    if let Some(bytes) = bytes {
        head.headers.entry(header::CONTENT_LENGTH).or_insert_with(|| bytes.into());
    }
    let (sender, channel) = Channel::new(PIECES_WAITING);
    tokio::spawn(forward_body(body, sender));
    Response::from_parts(head, Either::Right(channel))
}

/// Sends a body. Ends with it, with its first error, or when the client is gone.
async fn forward_body<B>(mut body: B, mut to: Sender<Bytes, Error>)
where
    B: hyper::body::Body<Data = Bytes> + Unpin,
    B::Error: Into<Error> + Send,
{
    while let Some(piece) = body.frame().await {
        let sent = match piece {
            Ok(frame) => to.send(frame).await,
            Err(error) => return to.abort(error.into()),
        };
        if sent.is_err() {
            return;
        }
    }
}
