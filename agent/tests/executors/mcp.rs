//! `mcp`: servers of the revision without sessions, of the earlier ones, and those that follow none.

use bytes::Bytes;
use relay_agent::executor::{Access, HttpError, HttpEvent, HttpRequest, Step, Task};
use serde_json::{Value, json};

use crate::support::{Attempt, NOW, TestTools, handler, head, response, task};

const JSON: &str = "application/json";
const SSE: &str = "text/event-stream";

fn start(task: &Task) -> Attempt {
    let handler = handler(json!({
        "kind": 5050,
        "executor": "mcp",
        "config": {"url": "https://mcp.example/mcp", "tool": "search", "token": "AGENT_TOKEN"},
        "params": {"limit": {}, "exact": {}, "tags": {}, "region": {}, "filter": {}},
    }));
    Attempt::start(&handler, task, TestTools { secrets: vec![("AGENT_TOKEN", "tok-secret")], now: NOW })
}

fn header<'a>(request: &'a HttpRequest, name: &str) -> Option<&'a str> {
    request.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
}

fn result(id: u64, result: Value) -> String {
    json!({"jsonrpc": "2.0", "id": id, "result": result}).to_string()
}

fn error(id: Value, code: i64, data: Value) -> String {
    let error = json!({"code": code, "message": "words of tok-secret", "data": data});
    json!({"jsonrpc": "2.0", "id": id, "error": error}).to_string()
}

fn text(text: &str) -> Value {
    json!({"content": [{"type": "text", "text": text}]})
}

fn check_done(attempt: &Attempt, content: &str) {
    assert_eq!(attempt.outcome().map(|output| &*output.content), Ok(content));
}

fn check_failed(attempt: &Attempt, cause: &str, is_retryable: bool, detail: &str) {
    let failure = attempt.outcome().unwrap_err();
    assert_eq!((failure.cause, failure.is_retryable), (cause, is_retryable), "{failure:?}");
    assert!(failure.detail.contains(detail), "{failure:?}");
    assert!(!format!("{failure:?}").contains("tok-secret"), "{failure:?}");
    assert!(!failure.message.contains("mcp.example"), "{failure:?}");
}

#[test]
fn a_modern_server_is_called_once() {
    let mut attempt = start(&task(&["cats", "dogs"]));
    let [(request, body)] = &attempt.calls()[..] else { panic!() };
    assert_eq!((request.method, &*request.url), ("POST", "https://mcp.example/mcp"));
    assert_eq!((request.access, request.limits.redirects_max), (Access::Configured, 0));
    for (name, value) in [
        ("content-type", JSON),
        ("accept", "application/json, text/event-stream"),
        ("mcp-protocol-version", "2026-07-28"),
        ("mcp-method", "tools/call"),
        ("mcp-name", "search"),
        ("authorization", "Bearer tok-secret"),
    ] {
        assert_eq!(header(request, name), Some(value), "{name}");
    }
    let meta = &body["params"]["_meta"];
    assert_eq!(meta["io.modelcontextprotocol/protocolVersion"], "2026-07-28");
    assert_eq!(meta["io.modelcontextprotocol/clientInfo"]["name"], "openagents-relay");
    assert_eq!(meta["io.modelcontextprotocol/clientCapabilities"], json!({}));
    assert_eq!(
        (&body["method"], &body["id"], &body["jsonrpc"]),
        (&json!("tools/call"), &json!(1), &json!("2.0"))
    );
    assert_eq!(body["params"]["name"], "search");
    assert_eq!(body["params"]["arguments"], json!({"text": "cats\ndogs"}));

    attempt.handle(response(200, JSON, &result(1, text("found"))));
    check_done(&attempt, "found");
    assert_eq!(attempt.calls().len(), 1);
}

#[test]
fn results_are_texts() {
    for (value, want) in [
        (
            json!({"content": [{"type": "text", "text": "a"}, {"type": "image", "data": "x"}, {"type": "text", "text": "b"}]}),
            Ok("a\nb"),
        ),
        (
            json!({"content": [{"type": "resource", "resource": {"uri": "x:y", "text": "inside"}}]}),
            Ok("inside"),
        ),
        (
            json!({"content": [{"type": "resource_link", "uri": "https://a.example/"}]}),
            Ok("https://a.example/"),
        ),
        (json!({"content": [], "structuredContent": {"n": 1}}), Ok(r#"{"n":1}"#)),
        (
            json!({"content": [{"type": "text", "text": "a"}], "structuredContent": {"n": 1}, "isError": false}),
            Ok("a"),
        ),
        (json!({"resultType": "complete", "content": [{"type": "text", "text": ""}]}), Ok("")),
        (json!({"content": []}), Err(("response", "the agent's tool has returned no text"))),
        (json!({"content": [{"type": "audio"}]}), Err(("response", "the agent's tool has returned no text"))),
        (json!({}), Err(("response", "the agent's tool has returned no text"))),
        (json!("text"), Err(("response", "the agent's tool has returned no text"))),
        (
            json!({"content": [{"type": "text", "text": "no\nluck"}], "isError": true}),
            Err(("refused", "the agent's tool has failed: no luck")),
        ),
        (
            json!({"resultType": "input_required"}),
            Err(("refused", "the agent's tool asks for further input")),
        ),
    ] {
        let mut attempt = start(&task(&["cats"]));
        attempt.handle(response(200, JSON, &result(1, value.clone())));
        let found = attempt.outcome().map(|output| &*output.content);
        assert_eq!(found.map_err(|failure| (failure.cause, &*failure.message)), want, "{value}");
    }
    let mut attempt = start(&task(&["cats"]));
    attempt.handle(response(200, JSON, &result(1, text(&"x".repeat(10_001)))));
    assert_eq!(attempt.outcome().unwrap_err().cause, "output_size");
}

#[test]
fn a_stream_may_hold_other_messages_before_the_answer() {
    let stream = format!(
        "id: 1\ndata:\n\ndata: {}\n\ndata: {}\n\ndata: not json\n\ndata: {}\n\nevent: message\ndata: {}\n\n",
        json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progress": 1}}),
        json!({"jsonrpc": "2.0", "id": 1, "method": "ping"}),
        result(9, text("another request's")),
        result(1, text("found")),
    );
    for size in [1, 7, 10_000] {
        let mut attempt = start(&task(&["cats"]));
        attempt.handle([head(200, &[("content-type", SSE)])]);
        // It is not waited for the end of the stream.
        attempt.handle(
            stream.as_bytes().chunks(size).map(|piece| HttpEvent::Chunk(Bytes::copy_from_slice(piece))),
        );
        check_done(&attempt, "found");
    }
    let mut cut = start(&task(&["cats"]));
    cut.handle(response(200, SSE, ": ping\n\n"));
    check_failed(&cut, "connection", true, "the stream ended without an answer");
}

/// Opens a session: answers of a server of an earlier revision, up to the call.
fn in_session(task: &Task) -> Attempt {
    let mut attempt = start(task);
    attempt.handle(response(400, JSON, &error(Value::Null, -32000, Value::Null)));
    let init =
        result(2, json!({"protocolVersion": "2025-06-18", "capabilities": {"tools": {}}, "serverInfo": {}}));
    attempt.handle([
        head(200, &[("content-type", SSE), ("mcp-session-id", "s-1")]),
        HttpEvent::Chunk(Bytes::from(format!("data: {init}\n\n"))),
    ]);
    attempt.handle([head(202, &[]), HttpEvent::End]);
    attempt
}

#[test]
fn an_earlier_server_gets_its_session() {
    let mut attempt = in_session(&task(&["cats"]));
    {
        let calls = attempt.calls();
        let [_, (init, init_body), (ready, ready_body), (call, call_body)] = &calls[..] else {
            panic!("{calls:?}")
        };
        assert_eq!(init_body["method"], "initialize");
        assert_eq!(init_body["params"]["protocolVersion"], "2025-11-25");
        assert_eq!(init_body["params"]["clientInfo"]["name"], "openagents-relay");
        assert_eq!(*ready_body, json!({"jsonrpc": "2.0", "method": "notifications/initialized"}));
        assert_eq!(call_body["params"], json!({"name": "search", "arguments": {"text": "cats"}}));
        for (request, version, session) in [
            (init, None, None),
            (ready, Some("2025-06-18"), Some("s-1")),
            (call, Some("2025-06-18"), Some("s-1")),
        ] {
            assert_eq!(header(request, "mcp-protocol-version"), version);
            assert_eq!(header(request, "mcp-session-id"), session);
            assert_eq!(header(request, "mcp-method"), None);
            assert_eq!(header(request, "authorization"), Some("Bearer tok-secret"));
        }
    }
    attempt.tools.now = NOW + 2;
    attempt.handle(response(200, JSON, &result(3, text("found"))));
    // The result waits until the session is closed, but not longer than five seconds.
    assert!(!attempt.steps.iter().any(|step| matches!(step, Step::Done(_))));
    let calls = attempt.calls();
    let (close, _) = calls.last().unwrap();
    assert_eq!((close.method, close.body.len(), close.limits.deadline), ("DELETE", 0, NOW + 7));
    assert_eq!(header(close, "mcp-session-id"), Some("s-1"));
    drop(calls);
    attempt.handle([head(405, &[]), HttpEvent::End]);
    check_done(&attempt, "found");
}

#[test]
fn a_session_is_closed_after_a_failure_too_if_the_server_is_there() {
    let mut attempt = in_session(&task(&["cats"]));
    attempt.handle(response(200, JSON, &result(3, json!({"isError": true}))));
    assert_eq!(attempt.calls().last().unwrap().0.method, "DELETE");
    attempt.handle([HttpEvent::Failed(HttpError::Timeout)]);
    check_failed(&attempt, "refused", false, "the agent's tool has failed");

    let mut gone = in_session(&task(&["cats"]));
    gone.handle([HttpEvent::Failed(HttpError::Connection("reset".to_owned()))]);
    assert_eq!(gone.calls().len(), 4);
    check_failed(&gone, "connection", true, "reset");

    // A session that the server has ended: another attempt opens a new one.
    let mut lost = in_session(&task(&["cats"]));
    lost.handle(response(404, JSON, ""));
    lost.handle([HttpEvent::End]);
    check_failed(&lost, "http_status", true, "404");
}

#[test]
fn a_server_without_sessions_needs_no_close() {
    let mut attempt = start(&task(&["cats"]));
    attempt.handle(response(405, "text/html", ""));
    attempt.handle(response(200, JSON, &result(2, json!({"protocolVersion": "2025-11-25"}))));
    attempt.handle([head(202, &[]), HttpEvent::End]);
    attempt.handle(response(200, JSON, &result(3, text("found"))));
    check_done(&attempt, "found");
    let methods: Vec<&str> = attempt.calls().iter().map(|(request, _)| request.method).collect();
    assert_eq!(methods, ["POST"; 4]);
}

#[test]
fn only_answers_of_earlier_servers_lead_to_a_session() {
    let supported = |version: &str| json!({"supported": [version], "requested": "2026-07-28"});
    let id = || json!(1);
    for (status, body) in [
        (400, String::new()),
        (400, "Bad Request: No valid session ID provided".to_owned()),
        (400, error(Value::Null, -32000, Value::Null)),
        (400, error(id(), -32600, Value::Null)),
        (400, error(id(), -32602, Value::Null)),
        (400, error(id(), -32022, supported("2025-06-18"))),
        (404, String::new()),
        (405, String::new()),
        (406, String::new()),
        (415, String::new()),
        (422, "Unexpected message, expect initialize request".to_owned()),
        (200, error(id(), -32600, Value::Null)),
        (200, error(id(), -32002, Value::Null)),
    ] {
        let mut attempt = start(&task(&["cats"]));
        attempt.handle(response(status, JSON, &body));
        let calls = attempt.calls();
        assert_eq!(calls.last().unwrap().1["method"], "initialize", "{status} {body}");
    }
    for (status, body, cause, is_retryable) in [
        (401, String::new(), "secret", false),
        (403, String::new(), "secret", false),
        (429, String::new(), "rate_limited", true),
        (413, String::new(), "http_status", false),
        (500, String::new(), "http_status", true),
        (307, String::new(), "http_status", false),
        (400, error(id(), -32022, supported("2027-01-01")), "refused", false),
        (400, error(id(), -32021, Value::Null), "refused", false),
        (404, error(id(), -32601, Value::Null), "refused", false),
        (200, error(id(), -32602, Value::Null), "refused", false),
        (200, error(id(), -32603, Value::Null), "refused", true),
        (200, String::new(), "response", true),
        (200, "<html>".to_owned(), "response", true),
        (200, result(2, text("another request's")), "response", true),
        (202, String::new(), "response", true),
    ] {
        let mut attempt = start(&task(&["cats"]));
        attempt.handle(response(status, JSON, &body));
        check_failed(&attempt, cause, is_retryable, "https://mcp.example/mcp");
        assert_eq!(attempt.calls().len(), 1);
    }
    // Neither of a known revision.
    let mut attempt = start(&task(&["cats"]));
    attempt.handle(response(400, JSON, ""));
    attempt.handle(response(200, JSON, &result(2, json!({"protocolVersion": "1.0"}))));
    check_failed(&attempt, "response", false, "speaks version `1.0` of MCP");
    let mut attempt = start(&task(&["cats"]));
    attempt.handle(response(404, JSON, ""));
    attempt.handle(response(404, JSON, ""));
    check_failed(&attempt, "http_status", false, "404");
}

fn tools(cursor: Option<&str>, name: &str) -> Value {
    json!({
        "tools": [{"name": "other"}, {"name": name, "inputSchema": {"type": "object", "properties": {
            "text": {"type": "string", "x-mcp-header": "Query"},
            "limit": {"type": "integer"},
            "exact": {"type": "boolean"},
            "tags": {"type": "array"},
            "region": {"type": "string", "x-mcp-header": "Region"},
            "filter": {"type": "object", "properties": {"year": {"type": "integer", "x-mcp-header": "Year"}}},
        }}}],
        "nextCursor": cursor,
    })
}

fn with_params(params: &[(&str, &[&str])]) -> Task {
    let params = params
        .iter()
        .map(|(name, values)| ((*name).to_owned(), values.iter().map(|value| (*value).to_owned()).collect()));
    Task { params: params.collect(), ..task(&["cats"]) }
}

#[test]
fn parameters_have_the_types_of_the_tools_schema() {
    let mut attempt = start(&with_params(&[
        ("limit", &["3"]),
        ("exact", &["true"]),
        ("tags", &["a"]),
        ("region", &["12"]),
        ("filter", &[r#"{"year":1999}"#]),
        ("unlisted", &["x"]),
    ]));
    assert_eq!(attempt.calls()[0].1["method"], "tools/list");
    attempt.handle(response(200, JSON, &result(1, tools(Some("next"), "another"))));
    assert_eq!(attempt.calls()[1].1["params"]["cursor"], "next");
    attempt.handle(response(200, JSON, &result(2, tools(None, "search"))));
    let calls = attempt.calls();
    let (request, body) = calls.last().unwrap();
    assert_eq!(
        body["params"]["arguments"],
        json!({"text": "cats", "limit": 3, "exact": true, "tags": ["a"], "region": "12", "filter": {"year": 1999}})
    );
    for (name, value) in [("mcp-param-region", "12"), ("mcp-param-query", "cats"), ("mcp-param-year", "1999")]
    {
        assert_eq!(header(request, name), Some(value), "{name}");
    }
    assert_eq!(request.headers.iter().filter(|(name, _)| name.starts_with("mcp-param-")).count(), 3);

    for (name, value, kind) in [
        ("limit", "many", "integer"),
        ("limit", "1.5", "integer"),
        ("exact", "yes", "boolean"),
        ("filter", "[]", "object"),
    ] {
        let mut attempt = start(&with_params(&[(name, &[value])]));
        attempt.handle(response(200, JSON, &result(1, tools(None, "search"))));
        let failure = attempt.outcome().unwrap_err();
        assert_eq!(failure.message, format!("the parameter {name} must be of type {kind}"));
        assert_eq!(failure.cause, "input");
    }
}

#[test]
fn headers_that_a_server_misses_are_sent_once() {
    let mut attempt = start(&task(&["häß"]));
    assert_eq!(header(attempt.calls()[0].0, "mcp-param-query"), None);
    attempt.handle(response(400, JSON, &error(json!(1), -32020, Value::Null)));
    attempt.handle(response(200, JSON, &result(2, tools(None, "search"))));
    assert_eq!(header(attempt.calls()[2].0, "mcp-param-query"), Some("=?base64?aMOkw58=?="));
    attempt.handle(response(400, JSON, &error(json!(3), -32020, Value::Null)));
    check_failed(&attempt, "refused", false, "error -32020");
    assert_eq!(attempt.calls().len(), 3);
}

#[test]
fn a_tool_that_is_not_there_is_the_owners_mistake() {
    let task = with_params(&[("limit", &["3"])]);
    let mut attempt = start(&task);
    attempt.handle(response(200, JSON, &result(1, tools(None, "another"))));
    check_failed(&attempt, "refused", false, "no tool search");
    // A list without end.
    let mut attempt = start(&task);
    for id in 1..=20 {
        attempt.handle(response(200, JSON, &result(id, tools(Some("next"), "another"))));
    }
    check_failed(&attempt, "refused", false, "no tool search");
    assert_eq!(attempt.calls().len(), 20);
}
