//! `webhook`: what a program is posted, and what it may answer.

use bytes::Bytes;
use relay_agent::executor::{Access, HttpError, HttpEvent, PromptMessage, Role, Task};
use relay_agent::job::InputKind;
use relay_engine::testing::signing;
use relay_engine::verify::Libsecp256k1;
use relay_site::nip98::{self, Request, ServerUrl};
use serde_json::json;

use crate::support::{Attempt, NOW, TestTools, handler, head, response, task};

fn start(url: &str, task: &Task) -> Attempt {
    let handler = handler(json!({"kind": 5050, "executor": "webhook", "config": {"url": url}}));
    Attempt::start(&handler, task, TestTools::default())
}

#[test]
fn a_program_is_posted_the_whole_job() {
    let mut task = task(&["Hi", "served"]);
    task.inputs[1].input.kind = InputKind::Url;
    task.inputs[1].input.data = "https://a.example/".to_owned();
    task.inputs[1].input.marker = Some("source".to_owned());
    let param = |name: &str, value: &str| (name.to_owned(), vec![value.to_owned()]);
    task.params = vec![param("lang", "en"), param("lang", "de"), param("size", "1024")];
    task.output = Some("text/markdown".to_owned());
    task.history = vec![PromptMessage { role: Role::Assistant, text: "before".to_owned() }];
    task.attempt = 2;
    let attempt = start("http://127.0.0.1:9000/jobs?a=1#x", &task);
    let (request, body) = &attempt.calls()[0];
    assert_eq!((request.method, &*request.url), ("POST", "http://127.0.0.1:9000/jobs?a=1"));
    assert_eq!((request.access, request.limits.redirects_max), (Access::Configured, 0));
    assert_eq!(
        *body,
        json!({
            "job": "01".repeat(32), "attempt": 2, "agent": "02".repeat(32), "customer": "03".repeat(32), "kind": 5050,
            "inputs": [
                {"type": "text", "data": "Hi", "text": "Hi"},
                {"type": "url", "data": "https://a.example/", "marker": "source", "text": "served"},
            ],
            "params": {"lang": ["en", "de"], "size": ["1024"]},
            "output": "text/markdown",
            "history": [{"role": "assistant", "content": "before"}],
        })
    );
}

/// The relay's own check of NIP-98 is that of any program.
#[test]
fn the_request_is_signed_by_the_agent() {
    let attempt = start("http://127.0.0.1:9000/jobs?a=1", &task(&["Hi"]));
    let (request, _) = &attempt.calls()[0];
    let authorization = &request.headers.iter().find(|(name, _)| name == "authorization").unwrap().1;
    let check = |method, path_and_query| {
        let request = Request { method, origin: ServerUrl::Url("http://127.0.0.1:9000"), path_and_query };
        nip98::check(Some(authorization), &request, NOW, &Libsecp256k1, |_| true)
    };
    let signed = check("POST", "/jobs?a=1").unwrap();
    assert_eq!(signed.pubkey.0, signing::key(7).bytes());
    let mut payload = signed.payload();
    payload.update(&request.body);
    payload.finish().unwrap();
    let mut forged = signed.payload();
    forged.update(b"{}");
    forged.finish().unwrap_err();
    check("GET", "/jobs?a=1").unwrap_err();
    check("POST", "/jobs?a=2").unwrap_err();
}

fn answered(events: Vec<HttpEvent>) -> Attempt {
    let mut attempt = start("https://hooks.example/a", &task(&[]));
    attempt.handle(events);
    // What comes afterwards changes nothing.
    attempt.handle([HttpEvent::Chunk(Bytes::from_static(b"x")), HttpEvent::End]);
    attempt
}

#[test]
fn a_result_is_json_or_a_text() {
    for (status, media_type, body, want) in [
        (200, "application/json", r#"{"content":"Hi"}"#, "Hi"),
        (201, "Application/JSON; charset=utf-8", r#"{"content":"Hi","more":1,"error":null}"#, "Hi"),
        (200, "application/json", r#"{"content":""}"#, ""),
        (200, "", r#"{"content":"Hi"}"#, "Hi"),
        (200, "text/plain", "Hi", "Hi"),
        (200, "text/markdown; charset=utf-8", "# Hä", "# Hä"),
        (200, "text/plain", r#"{"content":"Hi"}"#, r#"{"content":"Hi"}"#),
        (200, "", "Hi", "Hi"),
    ] {
        let attempt = answered(response(status, media_type, body));
        assert_eq!(attempt.outcome().map(|output| &*output.content), Ok(want), "{media_type}: {body}");
    }
    let cut = vec![
        head(200, &[("content-type", "text/plain")]),
        HttpEvent::Chunk(Bytes::from_static(b"H\xc3")),
        HttpEvent::Chunk(Bytes::from_static(b"\xa4")),
        HttpEvent::End,
    ];
    assert_eq!(answered(cut).outcome().unwrap().content, "Hä");
}

#[test]
fn anything_else_is_a_failure() {
    let invalid = "the agent's backend gave no valid answer";
    let failed = "the agent's backend has an error";
    let check = |events: Vec<HttpEvent>, cause: &str, is_retryable: bool, message: &str| {
        let said = format!("{events:?}");
        let attempt = answered(events);
        let failure = attempt.outcome().expect_err(&said);
        assert_eq!(
            (failure.cause, failure.is_retryable, &*failure.message),
            (cause, is_retryable, message),
            "{said}"
        );
        assert!(
            failure.cause == "refused" || failure.detail.contains("https://hooks.example/a"),
            "{failure:?}"
        );
    };
    let json = |body: &str| response(200, "application/json", body);
    check(json(r#"{"error":"no such city"}"#), "refused", false, "no such city");
    check(json(r#"{"error":"stop","content":"x"}"#), "refused", false, "stop");
    for body in ["", "Hi", "{}", "[]", "null", r#""Hi""#, r#"{"content":1}"#, r#"{"content":"Hi""#] {
        check(json(body), "response", false, invalid);
    }
    check(response(200, "text/plain", ""), "response", false, invalid);
    check(response(204, "", ""), "response", false, invalid);
    check(response(202, "application/json", r#"{"content":"Hi"}"#), "response", false, invalid);
    check(response(200, "image/png", "x"), "response", false, invalid);
    check(response(200, "application/octet-stream", "x"), "response", false, invalid);
    let binary = vec![head(200, &[]), HttpEvent::Chunk(Bytes::from_static(b"\xff\0")), HttpEvent::End];
    check(binary, "response", false, invalid);
    check(response(401, "", ""), "secret", false, "the agent is not configured correctly");
    check(response(302, "", ""), "http_status", false, "the agent is not configured correctly");
    check(response(404, "", ""), "http_status", false, "the agent's backend refuses the request");
    check(response(429, "", ""), "rate_limited", true, "the agent's backend is busy");
    check(response(500, "", ""), "http_status", true, failed);
    check(vec![HttpEvent::Failed(HttpError::Timeout)], "timeout", true, "the agent's backend took too long");
    let dropped = HttpEvent::Failed(HttpError::Connection("reset".to_owned()));
    let mid = vec![
        head(200, &[("content-type", "text/plain")]),
        HttpEvent::Chunk(Bytes::from_static(b"H")),
        dropped,
    ];
    check(mid, "connection", true, "the agent's backend cannot be reached");
    check(vec![HttpEvent::End], "connection", true, "the agent's backend cannot be reached");

    let attempt = answered(response(200, "text/plain", &"x".repeat(10_001)));
    assert_eq!(attempt.outcome().unwrap_err().cause, "output_size");
    let attempt = start("nowhere", &task(&[]));
    assert_eq!(attempt.outcome().unwrap_err().cause, "address");
}
