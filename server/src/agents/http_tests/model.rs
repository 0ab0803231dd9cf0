//! The executor of OpenAI-compatible endpoints and the client together, against a server that misbehaves.

use std::sync::Arc;

use relay_agent::executor::{ExecutorContext, ExecutorError, Output, ResolvedInput, Step, Task, executor};
use relay_agent::identity::Draft;
use relay_agent::job::{Input, InputKind};
use relay_agent::manifest::Handler;
use relay_engine::types::{Event, EventId, PubKey, Timestamp};

use super::server::{Act, Server, respond, send};
use super::{client, no_names, now};

struct NoSecrets;

impl ExecutorContext for NoSecrets {
    fn secret(&self, _name: &str) -> Option<String> {
        None
    }

    fn sign(&self, _draft: &Draft) -> Event {
        unreachable!("models need no signature")
    }

    fn now(&self) -> Timestamp {
        now()
    }
}

/// One attempt: executor and client, as a host runs them.
async fn attempt(server: &Server, seconds: u64) -> Result<Output, ExecutorError> {
    let handler: Handler = serde_json::from_value(serde_json::json!({
        "kind": 5050,
        "executor": "openai_http",
        "config": {"base_url": server.url("/v1"), "model": "m"},
    }))
    .unwrap();
    let input = Input { data: "Hi".to_owned(), kind: InputKind::Text, relay: None, marker: None };
    let task = Task {
        job: EventId([1; 32]),
        agent: PubKey([2; 32]),
        customer: PubKey([3; 32]),
        kind: 5050,
        inputs: vec![ResolvedInput { input, text: "Hi".to_owned() }],
        params: Vec::new(),
        output: None,
        history: Vec::new(),
        output_bytes_max: 2_000,
        deadline: now() + seconds,
        attempt: 1,
    };
    let client = client(&[server.host()], Arc::new(no_names));
    let mut executor = executor(&handler);
    let mut steps = Vec::new();
    executor.start(&task, &NoSecrets, &mut steps);
    loop {
        let mut call = None;
        for step in steps.drain(..) {
            match step {
                Step::Call(request) => call = Some(client.run(request)),
                Step::Partial(_) => {}
                Step::Done(output) => return Ok(output),
                Step::Failed(failure) => return Err(failure),
                Step::Ai { .. } => panic!("a model of Workers AI"),
            }
        }
        let mut call = call.expect("a call, a result or a failure");
        while steps.iter().all(|step| matches!(step, Step::Partial(_))) {
            let event = call.next().await.expect("an event until the executor is content");
            executor.handle(&NoSecrets, event, &mut steps);
        }
    }
}

const SSE: &str = "content-type: text/event-stream\r\n";
const PIECE: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"Hello\"}}]}\n\n";

fn stream() -> Act {
    send(format!("HTTP/1.1 200 OK\r\n{SSE}\r\n{PIECE}"))
}

async fn check_failed(script: Vec<Act>, cause: &str, is_retryable: bool) -> Server {
    let said = format!("{:.300}", format!("{script:?}"));
    let server = Server::start(vec![script]).await;
    let failure = attempt(&server, 60).await.expect_err(&said);
    assert_eq!((failure.cause, failure.is_retryable), (cause, is_retryable), "{said}: {failure:?}");
    assert!(!failure.message.contains("127.0.0.1"), "{failure:?}");
    server
}

#[tokio::test]
async fn a_good_server_is_understood() {
    for script in [
        vec![stream(), send("data: [DONE]\n\n")],
        // Byte by byte.
        std::iter::once(send(format!("HTTP/1.1 200 OK\r\n{SSE}\r\n")))
            .chain(format!("{PIECE}data: [DONE]\r\n\r\n").bytes().map(|byte| Act::Send(vec![byte])))
            .collect(),
        // It does not close the connection after [DONE].
        vec![stream(), send("data: [DONE]\n\n"), Act::Hang],
    ] {
        let server = Server::start(vec![script]).await;
        assert_eq!(attempt(&server, 60).await.unwrap().content, "Hello");
        let request = &server.requests()[0];
        assert!(request.starts_with("POST /v1/chat/completions HTTP/1.1\r\n"), "{request}");
    }
}

#[tokio::test]
async fn it_hangs_before_it_answers() {
    let server = Server::start(vec![vec![Act::Hang]]).await;
    let failure = attempt(&server, 1).await.unwrap_err();
    assert_eq!((failure.cause, failure.is_retryable), ("timeout", true));
    server.client_closed().await;
}

#[tokio::test]
async fn it_hangs_in_the_middle() {
    check_failed(vec![stream(), Act::Hang], "timeout", true).await.client_closed().await;
}

#[tokio::test]
async fn it_floods() {
    let pieces =
        vec![send(format!("HTTP/1.1 200 OK\r\n{SSE}\r\n")), Act::Flood(PIECE.as_bytes().repeat(1000))];
    check_failed(pieces, "output_size", false).await.client_closed().await;
    let comments = vec![stream(), Act::Flood(b": wait\n\n".repeat(1000))];
    check_failed(comments, "response_size", false).await.client_closed().await;
    let one_line = vec![send(format!("HTTP/1.1 200 OK\r\n{SSE}\r\ndata: ")), Act::Flood(vec![b'x'; 1 << 16])];
    check_failed(one_line, "response_size", false).await.client_closed().await;
}

#[tokio::test]
async fn it_sends_bytes_that_are_no_text() {
    let binary = Act::Send([b"HTTP/1.1 200 OK\r\n\r\n".to_vec(), (0..=255).collect()].concat());
    check_failed(vec![binary], "response", true).await;
    let lines = Act::Send(format!("HTTP/1.1 200 OK\r\n{SSE}\r\ndata: ").into_bytes());
    check_failed(vec![lines, Act::Send(b"\xff\xfe\x00\n\n".to_vec())], "response", true).await;
}

#[tokio::test]
async fn it_says_nothing() {
    check_failed(vec![], "connection", true).await;
    check_failed(vec![respond("200 OK", SSE, "")], "connection", true).await;
    check_failed(vec![respond("200 OK", "content-type: application/json\r\n", "")], "response", true).await;
}

#[tokio::test]
async fn it_serves_a_page_instead() {
    check_failed(
        vec![respond("200 OK", "content-type: text/html\r\n", "<html>Sign in</html>")],
        "response",
        true,
    )
    .await;
}

#[tokio::test]
async fn it_fails_and_then_works() {
    let failing = vec![respond("500 Internal Server Error", "retry-after: 3\r\n", "oops")];
    let server = Server::start(vec![failing, vec![stream(), send("data: [DONE]\n\n")]]).await;
    let failure = attempt(&server, 60).await.unwrap_err();
    assert_eq!((failure.cause, failure.is_retryable, failure.retry_after), ("http_status", true, Some(3)));
    assert_eq!(attempt(&server, 60).await.unwrap().content, "Hello");
}

#[tokio::test]
async fn it_closes_in_the_middle() {
    check_failed(vec![stream()], "connection", true).await;
    let chunked =
        format!("HTTP/1.1 200 OK\r\n{SSE}transfer-encoding: chunked\r\n\r\n{:x}\r\n{PIECE}\r\n", PIECE.len());
    check_failed(vec![send(chunked)], "connection", true).await;
    check_failed(vec![send("HTTP/1.1 200 OK\r\n\r\n{\"choices\":[{\"mess")], "response", true).await;
}

#[tokio::test]
async fn it_lies_about_the_length() {
    let whole = r#"{"choices":[{"message":{"content":"Hello"}}]}"#;
    let long = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{whole}", whole.len() + 5);
    check_failed(vec![send(long)], "connection", true).await;
    let short = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{whole}", whole.len() - 5);
    check_failed(vec![send(short)], "response", true).await;
    let huge = "HTTP/1.1 200 OK\r\ncontent-length: 1000000000000\r\n\r\n{}";
    check_failed(vec![send(huge), Act::Hang], "response_size", false).await;
}

#[tokio::test]
async fn it_redirects_to_loopback() {
    let trap = Server::trap().await;
    for status in ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"] {
        let response = respond(status, &format!("location: {}\r\n", trap.url("/v1/chat/completions")), "");
        check_failed(vec![response], "http_status", false).await;
    }
    assert_eq!(trap.connections(), 0);
}
