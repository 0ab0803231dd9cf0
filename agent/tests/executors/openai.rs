//! `openai_http`, with what endpoints answer in the wild.

use bytes::Bytes;
use proptest::prelude::*;
use relay_agent::executor::{Access, HttpError, HttpEvent, Output, PromptMessage, Role, Step, Task};
use relay_agent::manifest::Handler;
use serde_json::{Value, json};

use crate::support::{Attempt, NOW, TestTools, handler, head, response, task};

const SSE: &str = "text/event-stream; charset=utf-8";
const JSON: &str = "application/json";

fn model(config: Value) -> Handler {
    let mut all = json!({"base_url": "https://api.example.com/v1", "model": "m"});
    all.as_object_mut().unwrap().extend(config.as_object().unwrap().clone());
    handler(json!({
        "kind": 5050,
        "executor": "openai_http",
        "config": all,
        "params": {"temperature": {}, "max_tokens": {}, "stop": {}, "seed": {}, "language": {}},
    }))
}

fn tools() -> TestTools {
    TestTools {
        secrets: vec![("AGENT_KEY", "sk-secret"), ("AGENT_EMPTY", " \n"), ("AGENT_LINES", "a\nb")],
        ..TestTools::default()
    }
}

fn start(config: Value, task: &Task) -> Attempt {
    Attempt::start(&model(config), task, tools())
}

fn param(name: &str, values: &[&str]) -> (String, Vec<String>) {
    (name.to_owned(), values.iter().map(|value| (*value).to_owned()).collect())
}

#[test]
fn the_request_is_a_chat() {
    let mut task = task(&["Hi", "there"]);
    let said = |role, text: &str| PromptMessage { role, text: text.to_owned() };
    task.history = vec![said(Role::User, "1+1?"), said(Role::Assistant, "2")];
    task.params = vec![
        param("temperature", &["0.25"]),
        param("max_tokens", &["9000"]),
        param("stop", &["a", "b"]),
        param("language", &["de"]),
        param("top_p", &["1"]),
        param("model", &["gpt-expensive"]),
    ];
    let config = json!({
        "api_key": "AGENT_KEY", "system": "Be kind.", "max_tokens": 500, "temperature": 1.5,
        "base_url": "https://api.example.com/v1/",
    });
    let attempt = start(config, &task);
    let [(request, body)] = &attempt.calls()[..] else { panic!("{:?}", attempt.steps) };
    assert_eq!((request.method, &*request.url), ("POST", "https://api.example.com/v1/chat/completions"));
    assert_eq!((request.access, request.limits.redirects_max), (Access::Configured, 0));
    assert_eq!(request.limits.deadline, NOW + 60);
    let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(
        request.headers,
        [
            header("content-type", "application/json"),
            header("accept", "application/json, text/event-stream"),
            header("authorization", "Bearer sk-secret"),
        ]
    );
    assert_eq!(
        *body,
        json!({
            "model": "m",
            "stream": true,
            "stream_options": {"include_usage": true},
            "max_tokens": 500,
            "temperature": 0.25,
            "stop": ["a", "b"],
            "messages": [
                {"role": "system", "content": "Be kind."},
                {"role": "user", "content": "1+1?"},
                {"role": "assistant", "content": "2"},
                {"role": "user", "content": "language: de\nHi\nthere"},
            ],
        })
    );
    assert!(!format!("{:?}", attempt.steps).contains("sk-secret"));
}

#[test]
fn a_request_without_options_or_key_is_small() {
    let attempt = start(json!({"stream": false, "base_url": "http://127.0.0.1:1/v1?v=2"}), &task(&["Hi"]));
    let (request, body) = &attempt.calls()[0];
    assert_eq!(request.url, "http://127.0.0.1:1/v1/chat/completions?v=2");
    assert!(request.headers.iter().all(|(name, _)| name != "authorization"));
    assert_eq!(
        *body,
        json!({"model": "m", "stream": false, "messages": [{"role": "user", "content": "Hi"}]})
    );
    // Customers send no input; an agent that was told what to do does it.
    let attempt = start(json!({"system": "Tell a joke."}), &task(&[]));
    assert_eq!(attempt.calls()[0].1["messages"][1], json!({"role": "user", "content": "(no input)"}));
}

#[test]
fn invalid_requests_are_not_sent() {
    let check = |config: Value, task: &Task, cause: &str, message: &str, detail: &str| {
        let attempt = start(config, task);
        let failure = attempt.outcome().unwrap_err();
        assert_eq!((failure.cause, &*failure.message, &*failure.detail), (cause, message, detail));
        assert!(!failure.is_retryable);
        assert!(attempt.calls().is_empty());
    };
    let with = |name: &str, value: &str| Task { params: vec![param(name, &[value])], ..task(&["Hi"]) };
    let input = |task: &Task, message: &str| check(json!({}), task, "input", message, message);
    input(&task(&[]), "this agent answers a text: send an input");
    input(&task(&["", " "]), "this agent answers a text: send an input");
    input(&with("temperature", "hot"), "the parameter temperature must be a number");
    input(&with("temperature", "NaN"), "the parameter temperature must be a number");
    input(&with("max_tokens", "0"), "the parameter max_tokens must be a positive integer");
    input(&with("max_tokens", "1e9"), "the parameter max_tokens must be a positive integer");
    input(&with("seed", "1.5"), "the parameter seed must be an integer");
    let config = |name: &str, value: &str, cause, detail: &str| {
        check(json!({name: value}), &task(&["Hi"]), cause, "the agent is not configured correctly", detail);
    };
    config("api_key", "AGENT_GONE", "secret", "the secret AGENT_GONE is missing");
    let no_token = |name| {
        format!("the secret {name} is not a token: it is empty, or has spaces or other characters than ASCII")
    };
    config("api_key", "AGENT_EMPTY", "secret", &no_token("AGENT_EMPTY"));
    config("api_key", "AGENT_LINES", "secret", &no_token("AGENT_LINES"));
    config("base_url", "nowhere", "address", "nowhere is not an http URL");
    config("base_url", "data:x", "address", "data:x is not an http URL");
}

/// Answers the first call with these events.
fn answered(events: Vec<HttpEvent>) -> Attempt {
    let mut attempt = start(json!({"api_key": "AGENT_KEY"}), &task(&["Hi"]));
    attempt.handle(events);
    attempt
}

fn check(events: Vec<HttpEvent>, content: &str, tokens: Option<(u64, u64)>) {
    let said = format!("{events:?}");
    let attempt = answered(events);
    assert_eq!(attempt.outcome(), Ok(&Output { content: content.to_owned(), tokens }), "{said}");
}

fn check_failed(events: Vec<HttpEvent>, cause: &str, is_retryable: bool, detail: &str) {
    let said = format!("{events:?}");
    let attempt = answered(events);
    let failure = attempt.outcome().expect_err(&said);
    assert_eq!((failure.cause, failure.is_retryable), (cause, is_retryable), "{said}: {failure:?}");
    assert!(failure.detail.contains(detail), "{said}: {failure:?}");
    let told = format!("{failure:?}");
    assert!(!told.contains("sk-secret"), "{told}");
    assert!(!failure.message.contains("example.com") && !failure.message.contains("AGENT_"), "{failure:?}");
}

fn data(events: &[&str]) -> String {
    events.iter().map(|event| format!("data: {event}\n\n")).collect()
}

fn piece(text: &str) -> String {
    json!({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": null}], "usage": null})
        .to_string()
}

const STOP: &str = r#"{"choices":[{"delta":{},"finish_reason":"stop"}]}"#;
const USAGE: &str = r#"{"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3}}"#;

#[test]
fn streams_are_read_as_servers_write_them() {
    let stream = |events: &[&str]| response(200, SSE, &data(events));
    let (a, b) = (&*piece("Häl"), &*piece("lo"));
    let role = r#"{"choices":[{"delta":{"role":"assistant","content":""}}]}"#;
    check(stream(&[role, a, b, STOP, USAGE, "[DONE]"]), "Hällo", Some((7, 3)));
    check(stream(&[a, STOP, "[DONE]"]), "Häl", None);
    // After [DONE] nothing counts.
    check(stream(&[a, "[DONE]", "{nonsense"]), "Häl", None);
    // [DONE] is missing, but the model has said that it has finished.
    check(stream(&[a, STOP]), "Häl", None);
    check(response(200, SSE, &format!("{}data: {STOP}", data(&[a]))), "Häl", None);
    // The text and its end in one chunk; a finish_reason of a token limit.
    let end =
        r#"{"choices":[{"delta":{"content":"x"},"finish_reason":"length"}],"usage":{"prompt_tokens":1}}"#;
    check(stream(&[end]), "x", Some((1, 0)));
    check(
        response(200, SSE, &format!(": wait\r\n\r\nevent: message\r\ndata: {a}\r\n\r\ndata:[DONE]\r\n\r\n")),
        "Häl",
        None,
    );
    // Streamed without its media type, or not streamed although asked.
    check(response(200, "text/plain", &data(&[a, "[DONE]"])), "Häl", None);
    let whole = r#"{"choices":[{"message":{"role":"assistant","content":"Hi"},"finish_reason":"stop"}],
                    "usage":{"prompt_tokens":1,"completion_tokens":2}}"#;
    check(response(200, JSON, whole), "Hi", Some((1, 2)));
    check(vec![head(200, &[]), HttpEvent::Chunk(Bytes::from(whole)), HttpEvent::End], "Hi", Some((1, 2)));
    let parts = r#"{"choices":[{"message":{"content":[{"type":"thinking","thinking":[]},{"type":"text","text":"a"},
                    {"type":"text","text":"b"}]},"finish_reason":"stop"}]}"#;
    check(response(200, JSON, parts), "ab", None);
}

#[test]
fn broken_answers_are_failures() {
    let stream = |events: &[&str]| response(200, SSE, &data(events));
    let a = &*piece("a");
    check_failed(stream(&[a]), "connection", true, "without finish_reason and [DONE]");
    check_failed(stream(&[]), "connection", true, "without finish_reason and [DONE]");
    check_failed(stream(&[a, "{\"choices\":"]), "response", true, "not a completion");
    check_failed(stream(&[a, "hello"]), "response", true, "hello");
    check_failed(stream(&["[DONE]"]), "response", true, "no text; finish_reason: none");
    check_failed(
        stream(&[a, r#"{"error":{"message":"overloaded: sk-secret","type":"server_error"}}"#]),
        "refused",
        true,
        "overloaded",
    );
    check_failed(stream(&[r#"{"error":"out of memory"}"#]), "refused", true, "out of memory");
    let context =
        r#"{"error":{"message":"too long","type":"invalid_request_error","code":"context_length_exceeded"}}"#;
    check_failed(stream(&[context]), "refused", false, "too long");
    for (body, cause, is_retryable, detail) in [
        ("", "response", true, "EOF"),
        ("<html>sign in</html>", "response", true, "<html>sign in"),
        ("null", "response", true, "not a completion"),
        ("[]", "response", true, "no text"),
        ("{}", "response", true, "no text; finish_reason: none"),
        (r#"{"choices":[]}"#, "response", true, "no text"),
        (r#"{"choices":null}"#, "response", true, "no text"),
        (r#"{"choices":[{"message":null}]}"#, "response", true, "no text"),
        (
            r#"{"choices":[{"message":{"content":null},"finish_reason":"tool_calls"}]}"#,
            "response",
            true,
            "tool_calls",
        ),
        (r#"{"choices":[{"message":{"content":""},"finish_reason":"length"}]}"#, "response", true, "length"),
        (
            r#"{"choices":[{"message":{"content":"x"},"finish_reason":"content_filter"}]}"#,
            "refused",
            false,
            "filter",
        ),
        (
            r#"{"choices":[{"message":{"content":null,"refusal":"No."},"finish_reason":"stop"}]}"#,
            "refused",
            false,
            "No.",
        ),
        (r#"{"error":{"message":"no such model"}}"#, "refused", true, "no such model"),
    ] {
        check_failed(response(200, JSON, body), cause, is_retryable, detail);
    }
    let binary = vec![
        head(200, &[("content-type", SSE)]),
        HttpEvent::Chunk(Bytes::from_static(b"\0\xff\n\n\x80")),
        HttpEvent::End,
    ];
    check_failed(binary, "connection", true, "without finish_reason");
}

#[test]
fn a_status_says_whose_fault_it_is() {
    let quoting = r#"{"error":{"message":"Incorrect API key provided: sk-secret"}}"#;
    check_failed(response(401, JSON, quoting), "secret", false, "check the secret AGENT_KEY");
    check_failed(response(403, JSON, ""), "secret", false, "check the secret AGENT_KEY");
    check_failed(response(404, JSON, "no such model"), "http_status", false, "no such model");
    check_failed(response(400, JSON, "bad\r\nrequest"), "http_status", false, "bad  request");
    check_failed(response(408, JSON, ""), "http_status", true, "408");
    check_failed(response(500, "text/html", "<html>"), "http_status", true, "<html>");
    check_failed(response(503, JSON, &"x".repeat(100_000)), "http_status", true, "503");
    check_failed(response(429, JSON, "slow down"), "rate_limited", true, "slow down");
    check_failed(
        response(429, JSON, r#"{"error":{"code":"insufficient_quota"}}"#),
        "rate_limited",
        false,
        "quota",
    );
    let to = head(307, &[("location", "https://other.example/")]);
    check_failed(
        vec![to, HttpEvent::End],
        "http_status",
        false,
        "redirects to https://other.example/ are not followed",
    );
    // The body breaks off: the status counts.
    let failed = HttpEvent::Failed(HttpError::TooLarge);
    check_failed(vec![head(500, &[]), failed], "http_status", true, "500");
    for (value, want) in
        [("7", Some(7)), (" 7 ", Some(7)), ("Sun, 06 Nov 1994 08:49:37 GMT", None), ("-1", None)]
    {
        for status in [429, 503] {
            let attempt = answered(vec![head(status, &[("retry-after", value)]), HttpEvent::End]);
            assert_eq!(attempt.outcome().unwrap_err().retry_after, want, "{status} {value}");
        }
    }
}

#[test]
fn a_call_fails_in_the_machines_words() {
    let failed = |error| vec![HttpEvent::Failed(error)];
    let refused = HttpError::Forbidden("10.0.0.1 is not public".to_owned());
    check_failed(
        failed(refused),
        "address",
        false,
        "https://api.example.com/v1/chat/completions: not allowed: 10.0.0.1",
    );
    check_failed(failed(HttpError::Unsupported), "address", false, "this host cannot");
    check_failed(failed(HttpError::Timeout), "timeout", true, "time-out");
    check_failed(failed(HttpError::TooLarge), "response_size", false, "larger");
    check_failed(failed(HttpError::Connection("reset".to_owned())), "connection", true, "reset");
    let mid = vec![
        head(200, &[("content-type", SSE)]),
        HttpEvent::Chunk(Bytes::from(data(&[&piece("a")]))),
        HttpEvent::Failed(HttpError::Connection("reset".to_owned())),
    ];
    check_failed(mid, "connection", true, "reset");
    check_failed(vec![HttpEvent::End], "response", true, "no response");
}

#[test]
fn results_are_bounded_whatever_the_server_sends() {
    let long = "x".repeat(10_001);
    check_failed(
        response(200, SSE, &data(&[&piece(&long)])),
        "output_size",
        false,
        "limits.output_bytes is 10000",
    );
    let whole = json!({"choices": [{"message": {"content": long}}]}).to_string();
    check_failed(response(200, JSON, &whole), "output_size", false, "10001");
    // The rest of the flood is not kept.
    let chunk = HttpEvent::Chunk(Bytes::from(vec![b' '; 64 << 10]));
    let flood = std::iter::once(head(200, &[("content-type", JSON)])).chain(std::iter::repeat_n(chunk, 100));
    check_failed(flood.collect(), "response_size", false, "larger than allowed");
    // Exactly the limit is a result.
    let fits = "x".repeat(10_000);
    check(response(200, SSE, &data(&[&piece(&fits), "[DONE]"])), &fits, None);
}

#[test]
fn partial_results_come_at_most_once_a_second() {
    let mut attempt = start(json!({}), &task(&["Hi"]));
    let chunk = |text: &str| HttpEvent::Chunk(Bytes::from(data(&[&piece(text)])));
    attempt.handle([head(200, &[("content-type", SSE)]), chunk("a"), chunk("b")]);
    attempt.tools.now = NOW + 1;
    attempt.handle([chunk("c"), chunk("d")]);
    attempt.tools.now = NOW + 3;
    attempt.handle([
        HttpEvent::Chunk(Bytes::from(": ping\n\n")),
        chunk("e"),
        HttpEvent::Chunk(Bytes::from(data(&["[DONE]"]))),
    ]);
    let pieces: Vec<&str> = attempt
        .steps
        .iter()
        .filter_map(|step| match step {
            Step::Partial(text) => Some(&**text),
            _ => None,
        })
        .collect();
    assert_eq!(pieces, ["abc", "d"]);
    assert_eq!(attempt.outcome().unwrap().content, "abcde");
    // What comes afterwards changes nothing.
    attempt.handle([chunk("f"), HttpEvent::End, HttpEvent::Failed(HttpError::Timeout)]);
    assert_eq!(attempt.outcome().unwrap().content, "abcde");
}

#[test]
fn a_request_is_adapted_once_to_what_an_endpoint_knows() {
    let mut attempt = start(json!({"max_tokens": 5}), &task(&["Hi"]));
    attempt.handle(response(422, JSON, "Unrecognized request argument: stream_options"));
    attempt.handle(response(400, JSON, "Unsupported parameter: use 'max_completion_tokens' instead."));
    attempt.handle(response(200, SSE, &data(&[&piece("a"), "[DONE]"])));
    assert_eq!(attempt.outcome().unwrap().content, "a");
    let bodies: Vec<Value> = attempt.calls().into_iter().map(|(_, body)| body).collect();
    assert_eq!(bodies.len(), 3);
    assert_eq!((&bodies[1]["stream_options"], &bodies[1]["max_tokens"]), (&Value::Null, &json!(5)));
    assert_eq!((&bodies[2]["max_completion_tokens"], &bodies[2]["max_tokens"]), (&json!(5), &Value::Null));

    let mut stubborn = start(json!({}), &task(&["Hi"]));
    stubborn.handle(response(400, JSON, "stream_options"));
    stubborn.handle(response(400, JSON, "stream_options"));
    assert_eq!(stubborn.outcome().unwrap_err().cause, "http_status");
    assert_eq!(stubborn.calls().len(), 2);
}

proptest! {
    /// The outcome does not depend on where the network cuts a stream, valid or not.
    #[test]
    fn cuts_of_a_stream_change_nothing(
        events in proptest::collection::vec(
            prop_oneof![
                "[a-zä👨\u{200d}👩]{0,4}".prop_map(|text| piece(&text)),
                Just(STOP.to_owned()), Just(USAGE.to_owned()), Just("[DONE]".to_owned()), Just("{".to_owned()),
                Just(r#"{"error":{"message":"no"}}"#.to_owned()),
            ],
            0..8,
        ),
        ends in prop_oneof![Just("\n\n"), Just("\r\n\r\n"), Just("\r\r"), Just("\n: x\n\n")],
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..10),
    ) {
        let stream: String = events.iter().map(|event| format!("data: {event}{ends}")).collect();
        let stream = Bytes::from(stream);
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
        cuts.extend([0, stream.len()]);
        cuts.sort_unstable();
        let head = || head(200, &[("content-type", SSE)]);
        let cut = cuts.windows(2).map(|at| HttpEvent::Chunk(stream.slice(at[0]..at[1])));
        let cut: Vec<_> = std::iter::once(head()).chain(cut).chain([HttpEvent::End]).collect();
        let whole = vec![head(), HttpEvent::Chunk(stream.clone()), HttpEvent::End];
        let (cut, whole) = (answered(cut), answered(whole));
        prop_assert_eq!(cut.outcome(), whole.outcome());
    }
}
