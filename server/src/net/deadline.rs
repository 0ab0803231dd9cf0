//! One HTTP/1 connection, given up when its client or its answer takes too long.
//!
//! hyper bounds the time of a head, which is also the time a connection may be idle. From the head on there is a
//! [`Deadline`], which moves: at first the endpoint's whole time, and while an answer is written also the time its client
//! may take nothing of it.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::body::{Bytes, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use relay_site::route::Bounds;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until};

use super::response::{Body, Error};

/// Largest head of a request, in bytes.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// For telling a client that its request has taken too long.
const GRACE: Duration = Duration::from_secs(5);

/// How long clients may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timeouts {
    /// To send the head of a request.
    pub(crate) head: Duration,
    /// To take something of an answer.
    pub(crate) stall: Duration,
}

/// When a connection is given up.
#[derive(Clone, Debug)]
pub(super) struct Deadline(Arc<Times>);

#[derive(Debug)]
struct Times {
    start: Instant,
    stall: Duration,
    /// The end of the request that is served, in microseconds from `start`.
    request_us: AtomicU64,
    /// When the connection is given up, likewise.
    at_us: AtomicU64,
}

impl Deadline {
    fn new(timeouts: Timeouts) -> Self {
        // hyper ends a head that takes too long first.
        let at = timeouts.head.saturating_add(timeouts.stall).as_micros() as u64;
        let times = Times {
            start: Instant::now(),
            stall: timeouts.stall,
            request_us: AtomicU64::new(at),
            at_us: AtomicU64::new(at),
        };
        Deadline(Arc::new(times))
    }

    /// The request that has come is for an endpoint with these bounds.
    pub(super) fn extend(&self, bounds: Bounds) {
        self.begin(Duration::from_secs(bounds.total_seconds.into()) + GRACE);
    }

    /// A request has come that may take so long.
    fn begin(&self, total: Duration) {
        let at = self.elapsed_us().saturating_add(total.as_micros() as u64);
        self.0.request_us.store(at, Ordering::Relaxed);
        self.0.at_us.store(at, Ordering::Relaxed);
    }

    /// The client has something of the answer to take.
    fn on_body_poll(&self) {
        let stalled = self.stalled_us();
        self.0.at_us.store(stalled.min(self.0.request_us.load(Ordering::Relaxed)), Ordering::Relaxed);
    }

    /// There is nothing to take yet.
    fn on_body_pending(&self) {
        self.0.at_us.store(self.0.request_us.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// The client has only the last of the answer to take.
    fn on_body_end(&self) {
        self.0.at_us.store(self.stalled_us(), Ordering::Relaxed);
    }

    fn stalled_us(&self) -> u64 {
        self.elapsed_us().saturating_add(self.0.stall.as_micros() as u64)
    }

    fn elapsed_us(&self) -> u64 {
        self.0.start.elapsed().as_micros() as u64
    }

    fn at(&self) -> Instant {
        self.0.start + Duration::from_micros(self.0.at_us.load(Ordering::Relaxed))
    }
}

/// An answer's body, which moves the deadline as it is taken.
struct Watched {
    body: Body,
    deadline: Deadline,
}

impl hyper::body::Body for Watched {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        match &polled {
            Poll::Ready(_) => self.deadline.on_body_poll(),
            Poll::Pending => self.deadline.on_body_pending(),
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.deadline.on_body_end();
    }
}

/// Serves one socket until it closes, becomes something else, or its time is over.
pub(super) async fn serve<T>(
    stream: TcpStream,
    timeouts: Timeouts,
    respond: impl Fn(Request<Incoming>, Deadline) -> T,
) where
    T: Future<Output = Response<Body>>,
{
    let deadline = Deadline::new(timeouts);
    let service = service_fn(|request| {
        let deadline = deadline.clone();
        deadline.begin(timeouts.stall);
        let answered = respond(request, deadline.clone());
        async move { Ok::<_, Infallible>(answered.await.map(|body| Watched { body, deadline })) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(timeouts.head)
        .max_buf_size(HEAD_BYTES_MAX)
        // A client may have nothing more to say and still wait for its answer.
        .half_close(true)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut served = pin!(served);
    let mut sleep = pin!(sleep_until(deadline.at()));
    let ended = poll_fn(|cx| {
        if let Poll::Ready(ended) = served.as_mut().poll(cx) {
            return Poll::Ready(Some(ended));
        }
        // Serving is what moves the deadline.
        if sleep.deadline() != deadline.at() {
            sleep.as_mut().reset(deadline.at());
        }
        ready!(sleep.as_mut().poll(cx));
        Poll::Ready(None)
    });
    match ended.await {
        Some(Ok(())) => {}
        Some(Err(error)) => tracing::debug!(%error, "an HTTP connection failed"),
        None => tracing::debug!("an HTTP connection took too long"),
    }
}
