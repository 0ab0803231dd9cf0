//! Bodies both ways, and clients that take their time, over sockets: an echoing handler is served by the same
//! connections and bounds as the relay's own endpoints.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http_body_util::channel::Channel;
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response};
use relay_site::HttpResponse;
use relay_site::route::Bounds;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep, timeout};

use super::api::{self, Upload, receive};
use super::deadline::{self, Timeouts};
use super::response::{Body, Error, response};

const BOUNDS: Bounds = Bounds { body_bytes_max: 8 << 20, idle_seconds: 1, total_seconds: 4 };

/// What tests may inspect of a server.
#[derive(Default)]
struct Seen {
    /// Handlers that are at work.
    handlers: AtomicUsize,
    /// Pieces of an endless answer that were made.
    pieces: AtomicUsize,
}

struct AtWork(Arc<Seen>);

impl Drop for AtWork {
    fn drop(&mut self) {
        self.0.handlers.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn handle(mut request: Request<Upload>, seen: Arc<Seen>) -> Response<Body> {
    seen.handlers.fetch_add(1, Ordering::Relaxed);
    let at_work = AtWork(Arc::clone(&seen));
    match request.uri().path() {
        // The number of bytes that came.
        "/count" => {
            let mut bytes = 0;
            let received = receive(request.body_mut(), BOUNDS, |piece| bytes += piece.len()).await;
            response(
                received.map_or_else(
                    |answer| answer,
                    |()| HttpResponse::new(200, "text/plain", bytes.to_string()),
                ),
            )
        }
        // Each piece, as it comes.
        "/echo" => {
            let (mut sender, channel) = Channel::<Bytes, Error>::new(1);
            tokio::spawn(async move {
                use http_body_util::BodyExt as _;
                let _at_work = at_work;
                while let Some(Ok(frame)) = request.body_mut().frame().await {
                    if sender.send(frame).await.is_err() {
                        return;
                    }
                }
            });
            Response::new(http_body_util::Either::Right(channel))
        }
        "/endless" => {
            let (mut sender, channel) = Channel::<Bytes, Error>::new(1);
            tokio::spawn(async move {
                let _at_work = at_work;
                while sender.send_data(vec![b'x'; 1 << 16].into()).await.is_ok() {
                    seen.pieces.fetch_add(1, Ordering::Relaxed);
                }
            });
            Response::new(http_body_util::Either::Right(channel))
        }
        "/slow" => {
            sleep(Duration::from_secs(3600)).await;
            response(HttpResponse::empty(204))
        }
        "/large" => response(HttpResponse::new(200, "text/plain", vec![b'x'; 1 << 20])),
        _ => panic!("a handler's panic"),
    }
}

/// A server on a free port, whose connections are on this thread and whose handlers on their own.
async fn start() -> (std::net::SocketAddr, Arc<Seen>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, seen) = (listener.local_addr().unwrap(), Arc::new(Seen::default()));
    let timeouts = Timeouts { head: Duration::from_secs(1), stall: Duration::from_secs(2) };
    let shared = Arc::clone(&seen);
    tokio::spawn(async move {
        let runtime = api::runtime().unwrap();
        let api = runtime.handle().clone();
        // Dropping it here would wait in vain.
        std::mem::forget(runtime);
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (api, seen) = (api.clone(), Arc::clone(&shared));
            tokio::spawn(deadline::serve(stream, timeouts, move |request, deadline| {
                let (api, seen) = (api.clone(), Arc::clone(&seen));
                async move {
                    deadline.extend(BOUNDS);
                    run(&api, request, seen).await
                }
            }));
        }
    });
    (address, seen)
}

async fn run(api: &Handle, request: Request<Incoming>, seen: Arc<Seen>) -> Response<Body> {
    api::run(api, BOUNDS, request, move |request| handle(request, seen)).await
}

/// Sends these bytes and reads until the server closes.
async fn talk(address: std::net::SocketAddr, bytes: &str) -> (String, Duration) {
    let started = Instant::now();
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes.as_bytes()).await.unwrap();
    let mut response = Vec::new();
    timeout(Duration::from_secs(20), stream.read_to_end(&mut response)).await.expect("it closes").unwrap();
    (String::from_utf8_lossy(&response).into_owned(), started.elapsed())
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < Duration::from_secs(20), "{what}");
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_head_that_does_not_end_and_an_idle_connection_are_closed() {
    let (address, _) = start().await;
    let (response, took) = talk(address, "GET /count HTTP/1.1\r\nHost: ").await;
    assert!(!response.contains("200 OK") && took < Duration::from_secs(4), "{response:?} after {took:?}");
    // Kept alive after a response, but not for ever.
    let (response, took) = talk(address, "GET /count HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert!(response.ends_with("\r\n\r\n0") && took < Duration::from_secs(4), "{response:?} after {took:?}");
}

#[tokio::test]
async fn a_body_that_stops_or_has_no_end_is_refused_in_words() {
    let (address, seen) = start().await;
    let (response, took) =
        talk(address, "POST /count HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc").await;
    assert!(response.starts_with("HTTP/1.1 408") && response.contains(r#""field":"body""#), "{response}");
    assert!(took >= Duration::from_secs(1) && took < Duration::from_secs(4), "{took:?}");

    let (response, _) =
        talk(address, "POST /count HTTP/1.1\r\nHost: a\r\nContent-Length: 8388609\r\n\r\n").await;
    assert!(
        response.starts_with("HTTP/1.1 413")
            && response.contains("x-reason: body: is longer than 8388608 bytes"),
        "{response}"
    );

    // Not said beforehand: as much as may be is taken, and no more.
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").await.unwrap();
    let (mut read, mut write) = stream.split();
    let sending = async {
        let piece = vec![b'x'; 1 << 16];
        while write.write_all(b"10000\r\n").await.is_ok() && write.write_all(&piece).await.is_ok() {
            if write.write_all(b"\r\n").await.is_err() {
                break;
            }
        }
        std::future::pending::<()>().await;
    };
    let mut head = [0; 12];
    tokio::select! {
        () = sending => unreachable!(),
        read = timeout(Duration::from_secs(20), read.read_exact(&mut head)) => drop(read.expect("an answer").unwrap()),
    }
    assert_eq!(&head, b"HTTP/1.1 413");
    until("handlers end", || seen.handlers.load(Ordering::Relaxed) == 0).await;
}

#[tokio::test]
async fn what_takes_too_long_or_panics_is_answered() {
    let (address, seen) = start().await;
    let (response, took) = talk(address, "GET /slow HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    assert!(response.starts_with("HTTP/1.1 503") && response.contains("request timed out"), "{response}");
    assert!(took >= Duration::from_secs(4) && took < Duration::from_secs(9), "{took:?}");
    until("the handler ends", || seen.handlers.load(Ordering::Relaxed) == 0).await;
    let (response, _) = talk(address, "GET /panic HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    assert!(
        response.starts_with("HTTP/1.1 500") && response.contains(r#"{"error":"internal error"}"#),
        "{response}"
    );
}

#[tokio::test]
async fn bodies_go_both_ways_at_once() {
    let (address, _) = start().await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = "POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nConnection: close\r\n\r\nab";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut response = String::new();
    // The first half is back before the second has been sent.
    while !response.ends_with("2\r\nab\r\n") {
        let mut buffer = [0; 1024];
        let read =
            timeout(Duration::from_secs(20), stream.read(&mut buffer)).await.expect("an echo").unwrap();
        assert!(read > 0, "{response}");
        response.push_str(std::str::from_utf8(&buffer[..read]).unwrap());
    }
    stream.write_all(b"cd").await.unwrap();
    let mut rest = String::new();
    stream.read_to_string(&mut rest).await.unwrap();
    assert_eq!(rest, "2\r\ncd\r\n0\r\n\r\n");

    let (response, _) = talk(address, "GET /large HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    assert!(response.contains("content-length: 1048576\r\n") && response.ends_with("xxx"));
    assert_eq!(response.split_once("\r\n\r\n").unwrap().1.len(), 1 << 20);
}

#[tokio::test]
async fn a_client_that_takes_nothing_holds_up_its_own_answer_only_and_not_for_ever() {
    let (address, seen) = start().await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /endless HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    sleep(Duration::from_millis(700)).await;
    let made = seen.pieces.load(Ordering::Relaxed);
    sleep(Duration::from_millis(300)).await;
    assert_eq!(seen.pieces.load(Ordering::Relaxed), made, "no more is made than sockets and channels hold");
    let started = Instant::now();
    until("the answer is given up", || seen.handlers.load(Ordering::Relaxed) == 0).await;
    assert!(started.elapsed() < Duration::from_secs(5), "long before hyper would notice");

    // One that reads gets as much as it can until the endpoint's time is over.
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"GET /endless HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let (mut buffer, started) = (vec![0; 1 << 16], Instant::now());
    while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {
        assert!(started.elapsed() < Duration::from_secs(20), "it ends");
    }
    assert!(started.elapsed() > Duration::from_secs(4), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_client_that_leaves_takes_its_handler_with_it() {
    let (address, seen) = start().await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"POST /count HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc").await.unwrap();
    until("the handler begins", || seen.handlers.load(Ordering::Relaxed) == 1).await;
    let started = Instant::now();
    drop(stream);
    until("the handler ends", || seen.handlers.load(Ordering::Relaxed) == 0).await;
    assert!(started.elapsed() < Duration::from_millis(900), "before its body had been idle for too long");
}
