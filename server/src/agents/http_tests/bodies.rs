//! Heads and bodies as they come, their limits, and calls that are given up.

use std::sync::Arc;

use hyper::body::Bytes;
use relay_agent::executor::{HttpError, HttpEvent, HttpRequest};

use super::server::{Act, Server, respond, send};
use super::{call, client, get, no_names, now};

async fn served(script: Vec<Act>, change: impl FnOnce(&mut HttpRequest)) -> (super::Outcome, Server) {
    let server = Server::start(vec![script]).await;
    let client = client(&[server.host()], Arc::new(no_names));
    let mut request = get(&server.url("/"));
    change(&mut request);
    (call(&client, request).await, server)
}

fn connection(words: &str) -> impl Fn(&HttpError) -> bool + '_ {
    move |error| matches!(error, HttpError::Connection(why) if why.contains(words))
}

#[tokio::test]
async fn a_request_is_sent_as_it_is_and_its_response_passed_on() {
    let server = Server::start(vec![vec![respond("418 I'm a teapot", "X-Kind: Tea\r\n", "short")]]).await;
    let client = client(&[server.host()], Arc::new(no_names));
    let request = HttpRequest {
        method: "POST",
        headers: vec![("x-first".to_owned(), "a".to_owned()), ("x-first".to_owned(), "b".to_owned())],
        body: Bytes::from_static(b"{}"),
        ..get(&server.url("/a/b?c=d"))
    };
    let mut call = client.run(request);
    let Some(HttpEvent::Head(418, headers)) = call.next().await else { panic!("no head") };
    assert!(headers.contains(&("x-kind".to_owned(), "Tea".to_owned())), "{headers:?}");
    assert_eq!(call.next().await, Some(HttpEvent::Chunk(Bytes::from_static(b"short"))));
    assert_eq!(call.next().await, Some(HttpEvent::End));
    assert_eq!(call.next().await, None);
    let request = &server.requests()[0];
    assert!(request.starts_with("POST /a/b?c=d HTTP/1.1\r\n"), "{request}");
    assert!(request.ends_with("\r\n\r\n{}"), "{request}");
    for header in
        ["x-first: a\r\n", "x-first: b\r\n", "content-length: 2\r\n", "user-agent: openagents-relay/"]
    {
        assert!(request.contains(header), "{request}");
    }
    for header in ["accept-encoding", "cookie", "referer"] {
        assert!(!request.contains(header), "{request}");
    }
}

/// The second piece is sent when the first has been received.
#[tokio::test]
async fn pieces_are_passed_on_as_they_come() {
    let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n";
    let server = Server::start(vec![vec![send(head), Act::Wait, send("1\r\nb\r\n0\r\n\r\n")]]).await;
    let client = client(&[server.host()], Arc::new(no_names));
    let mut call = client.run(get(&server.url("/")));
    assert!(matches!(call.next().await, Some(HttpEvent::Head(200, _))));
    assert_eq!(call.next().await, Some(HttpEvent::Chunk(Bytes::from_static(b"a"))));
    server.go_on();
    assert_eq!(call.next().await, Some(HttpEvent::Chunk(Bytes::from_static(b"b"))));
    assert_eq!(call.next().await, Some(HttpEvent::End));
}

#[tokio::test]
async fn connections_are_kept_for_the_next_call() {
    let server = Server::start(vec![vec![
        respond("200 OK", "", "1"),
        Act::Read,
        respond("200 OK", "", "2"),
        Act::Hang,
    ]])
    .await;
    let client = client(&[server.host()], Arc::new(no_names));
    assert_eq!(call(&client, get(&server.url("/a"))).await.body, b"1");
    assert_eq!(call(&client, get(&server.url("/b"))).await.body, b"2");
    assert_eq!((server.connections(), server.requests().len()), (1, 2));
}

#[tokio::test]
async fn a_body_is_bounded_announced_or_not() {
    let limit = |request: &mut HttpRequest| request.limits.response_bytes_max = 10;
    let (fits, _) = served(vec![respond("200 OK", "", "0123456789")], limit).await;
    assert_eq!((fits.body.len(), fits.error), (10, None));
    let (announced, _) = served(vec![respond("200 OK", "", "0123456789a")], limit).await;
    assert_eq!(
        (announced.status, announced.body.len(), announced.error),
        (Some(200), 0, Some(HttpError::TooLarge))
    );
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nb\r\n0123456789a\r\n0\r\n\r\n";
    let (chunked, _) = served(vec![send(chunked)], limit).await;
    assert_eq!((chunked.body.len(), chunked.error), (0, Some(HttpError::TooLarge)));
    let endless = vec![send("HTTP/1.1 200 OK\r\n\r\n"), Act::Flood(vec![b'x'; 1 << 16])];
    let (endless, server) = served(endless, |request| request.limits.response_bytes_max = 1 << 20).await;
    assert_eq!(endless.error, Some(HttpError::TooLarge));
    assert!(endless.body.len() <= 1 << 20);
    server.client_closed().await;
    // What the sockets of both sides hold is beyond the limit.
    assert!(server.sent() < 32 << 20, "{}", server.sent());
}

#[tokio::test]
async fn a_head_is_bounded() {
    let endless = vec![send("HTTP/1.1 200 OK\r\n"), Act::Flood(b"x-more: of the same\r\n".repeat(1000))];
    let (outcome, server) = served(endless, |_| {}).await;
    assert!(
        outcome.status.is_none() && matches!(outcome.error, Some(HttpError::Connection(_))),
        "{outcome:?}"
    );
    server.client_closed().await;
    assert!(server.sent() < 32 << 20, "{}", server.sent());
}

#[tokio::test]
async fn what_is_no_response_is_a_broken_connection() {
    for (script, words) in [
        (vec![], ""),
        (vec![send("SSH-2.0-OpenSSH_9.2\r\n")], "HTTP"),
        (vec![send("\0\u{1}\u{2}\u{3}\u{4}\u{5}\r\n\r\n")], "HTTP"),
        (vec![send("HTTP/1.1 200 OK\r\nno colon\r\n\r\n")], "header"),
        (vec![send("HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab")], ""),
    ] {
        let said = format!("{script:?}");
        let (outcome, _) = served(script, |_| {}).await;
        assert_eq!(outcome.status, None, "{said}");
        assert!(connection(words)(outcome.error.as_ref().unwrap()), "{said}: {outcome:?}");
    }
    for script in [
        // Fewer bytes than announced, and chunks that break off.
        vec![send("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc")],
        vec![send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n")],
        vec![send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\nnonsense\r\n")],
    ] {
        let said = format!("{script:?}");
        let (outcome, _) = served(script, |_| {}).await;
        assert_eq!((outcome.status, &outcome.body[..]), (Some(200), &b"abc"[..]), "{said}");
        assert!(matches!(outcome.error, Some(HttpError::Connection(_))), "{said}: {outcome:?}");
    }
    // More bytes than announced: they are not this response's.
    let (outcome, _) = served(vec![send("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabcdef")], |_| {}).await;
    assert_eq!((outcome.body, outcome.error), (b"abc".to_vec(), None));
}

#[tokio::test]
async fn silence_ends_at_the_deadline_and_within_a_body_before() {
    let soon = |request: &mut HttpRequest| request.limits.deadline = now() + 1;
    let (before, server) = served(vec![Act::Hang], soon).await;
    assert_eq!((before.status, before.error), (None, Some(HttpError::Timeout)));
    server.client_closed().await;
    let head = "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc";
    let (within, server) = served(vec![send(head), Act::Hang], |_| {}).await;
    assert_eq!((&within.body[..], within.error), (&b"abc"[..], Some(HttpError::Timeout)));
    server.client_closed().await;
    let (over, server) =
        served(vec![respond("200 OK", "", "")], |request| request.limits.deadline = now() - 1).await;
    assert_eq!(over.error, Some(HttpError::Timeout));
    assert_eq!(server.requests().len(), 0);
}

#[tokio::test]
async fn a_call_that_is_dropped_ends() {
    let head = "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc";
    for script in [vec![send(head), Act::Hang], vec![send(head), Act::Flood(vec![b'x'; 1 << 16])]] {
        let server = Server::start(vec![script]).await;
        let client = client(&[server.host()], Arc::new(no_names));
        let mut call = client.run(get(&server.url("/")));
        assert!(matches!(call.next().await, Some(HttpEvent::Head(200, _))));
        drop(call);
        server.client_closed().await;
    }
}

#[tokio::test]
async fn nothing_listens_there() {
    let server = Server::trap().await;
    let (free, host) = (server.url("/"), server.host());
    drop(server);
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let client = client(&[host, closed.to_string()], Arc::new(no_names));
    let outcome = call(&client, get(&format!("http://{closed}/?key=secret"))).await;
    let Some(HttpError::Connection(why)) = outcome.error else { panic!("{outcome:?}") };
    assert!(why.contains("refused") && !why.contains("secret"), "{why}");
    let wrong = HttpRequest { headers: vec![("x-key".to_owned(), "a\nsecret".to_owned())], ..get(&free) };
    let Some(HttpError::Connection(why)) = call(&client, wrong).await.error else { panic!() };
    assert_eq!(why, "the header x-key is not valid");
}

/// Lets every task that can go on do so, many times.
async fn settle() {
    for _ in 0..20_000 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_body_that_nobody_reads_is_not_read_from_the_socket() {
    let endless = vec![send("HTTP/1.1 200 OK\r\n\r\n"), Act::Flood(vec![b'x'; 1 << 16])];
    let server = Server::start(vec![endless]).await;
    let client = client(&[server.host()], Arc::new(no_names));
    let mut request = get(&server.url("/"));
    request.limits.response_bytes_max = usize::MAX;
    let mut call = client.run(request);
    assert!(matches!(call.next().await, Some(HttpEvent::Head(200, _))));
    settle().await;
    let unread = server.sent();
    assert!(unread < 32 << 20, "{unread}");
    let mut read = 0;
    while read < 64 << 20 {
        let Some(HttpEvent::Chunk(bytes)) = call.next().await else { panic!("no piece") };
        read += bytes.len();
    }
    assert!(server.sent() > unread);
}

#[tokio::test]
async fn calls_that_are_too_many_wait() {
    let server = Server::start(vec![vec![Act::Hang]]).await;
    let client = client(&[server.host()], Arc::new(no_names));
    let mut calls: Vec<_> = (0..10).map(|_| client.run(get(&server.url("/")))).collect();
    settle().await;
    assert_eq!(server.requests().len(), 8);
    calls.truncate(6);
    server.client_closed().await;
    calls.push(client.run(get(&server.url("/"))));
    settle().await;
    assert_eq!(server.requests().len(), 9);
}

/// Runs another test of this file in a process of its own, with a proxy in its environment that nobody serves.
#[test]
fn proxies_of_the_environment_are_not_used() {
    let test = concat!(module_path!(), "::a_request_is_sent_as_it_is_and_its_response_passed_on");
    let test = test.split_once("::").expect("the name of the crate").1;
    let mut command = std::process::Command::new(std::env::current_exe().unwrap());
    for name in ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"] {
        command.env(name, "http://127.0.0.1:1");
    }
    let output =
        command.args(["--exact", test]).env_remove("no_proxy").env_remove("NO_PROXY").output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}
