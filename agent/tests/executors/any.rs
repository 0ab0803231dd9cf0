//! What a machine relies on, whatever comes of the calls: an attempt has one end and nothing after it, until then a call is
//! open, and calls are few.

use bytes::Bytes;
use proptest::prelude::*;
use relay_agent::executor::failure::CAUSES;
use relay_agent::executor::{HttpError, HttpEvent, Step};
use serde_json::{Value, json};

use crate::support::{Attempt, NOW, TestTools, handler, head, task};

/// Bodies that some executor understands, and pieces of them.
const PIECES: &[&str] = &[
    "",
    "\n\n",
    "data: ",
    "data: [DONE]\n\n",
    r#"{"choices":[{"delta":{"content":"a"}}]}"#,
    r#"{"choices":[{"message":{"content":"a"},"finish_reason":"stop"}]}"#,
    r#"{"response":"a"}"#,
    r#"{"content":"a"}"#,
    r#"{"error":"a"}"#,
    r#"{"jsonrpc":"2.0","id":1,"result":{"tools":[],"nextCursor":"a","protocolVersion":"2025-11-25"}}"#,
    r#"{"jsonrpc":"2.0","id":2,"result":{"tools":[],"nextCursor":"a","protocolVersion":"2025-11-25"}}"#,
    r#"{"jsonrpc":"2.0","id":2,"result":{"tools":[{"name":"t"}]}}"#,
    r#"{"jsonrpc":"2.0","id":3,"result":{"content":[{"type":"text","text":"a"}]}}"#,
    r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32000}}"#,
    r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32020}}"#,
    "stream_options max_completion_tokens",
    "\u{e4}",
];

fn executors() -> impl Strategy<Value = Value> {
    prop::sample::select(vec![
        json!({"executor": "openai_http", "config": {"base_url": "https://a.example/v1", "model": "m", "max_tokens": 9}}),
        json!({"executor": "openai_http", "config": {"base_url": "https://a.example", "model": "m", "stream": false}}),
        json!({"executor": "workers_ai", "config": {"model": "m"}}),
        json!({"executor": "webhook", "config": {"url": "https://a.example/"}}),
        json!({"executor": "mcp", "config": {"url": "https://a.example/", "tool": "t"}, "params": {"p": {}}}),
        json!({"executor": "echo", "config": {}}),
    ])
}

/// A response: what precedes its end, and its end.
fn responses() -> impl Strategy<Value = Vec<HttpEvent>> {
    let status =
        prop::sample::select(vec![200u16, 200, 200, 202, 204, 302, 400, 400, 401, 404, 422, 429, 500]);
    let media_type = prop::sample::select(vec![
        "application/json",
        "application/json",
        "text/event-stream",
        "text/plain",
        "image/png",
    ]);
    let piece = prop_oneof![
        4 => prop::sample::select(PIECES).prop_map(|piece| Bytes::from_static(piece.as_bytes())),
        1 => prop::collection::vec(any::<u8>(), 1..20).prop_map(Bytes::from),
    ];
    let end = prop_oneof![
        6 => Just(HttpEvent::End),
        1 => Just(HttpEvent::Failed(HttpError::Timeout)),
        1 => Just(HttpEvent::Failed(HttpError::Connection("reset".to_owned()))),
    ];
    let body = prop::collection::vec(piece, 0..4);
    (prop::option::weighted(0.95, (status, media_type, body, any::<bool>())), end).prop_map(
        |(response, end)| {
            let mut events = Vec::new();
            if let Some((status, media_type, body, has_session)) = response {
                let session = if has_session { "mcp-session-id" } else { "x-other" };
                events.push(head(status, &[("content-type", media_type), (session, "s")]));
                events.extend(body.into_iter().map(HttpEvent::Chunk));
            }
            events.push(end);
            events
        },
    )
}

fn is_end(step: &Step) -> bool {
    matches!(step, Step::Done(_) | Step::Failed(_))
}

fn calls(steps: &[Step]) -> usize {
    steps.iter().filter(|step| matches!(step, Step::Call(_) | Step::Ai { .. })).count()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]
    #[test]
    fn an_attempt_has_one_end_and_a_call_open_before_it(
        executor in executors(),
        has_params in any::<bool>(),
        responses in prop::collection::vec(responses(), 40),
    ) {
        let mut manifest = json!({"kind": 5050});
        manifest.as_object_mut().unwrap().extend(executor.as_object().unwrap().clone());
        let mut task = task(&["Hi"]);
        if has_params {
            task.params = vec![("p".to_owned(), vec!["1".to_owned()])];
        }
        let mut attempt = Attempt::start(&handler(manifest), &task, TestTools { now: NOW, ..TestTools::default() });
        for response in responses {
            if attempt.steps.iter().any(is_end) {
                break;
            }
            let before = calls(&attempt.steps);
            prop_assert!(before > 0, "neither a call nor an end");
            for event in response {
                // A host passes on no event of a call that another one, or the end, has replaced.
                if calls(&attempt.steps) > before || attempt.steps.iter().any(is_end) {
                    break;
                }
                attempt.handle([event]);
            }
            let ended = attempt.steps.iter().any(is_end);
            prop_assert!(ended || calls(&attempt.steps) == before + 1, "{:?}", attempt.steps);
        }
        prop_assert!(calls(&attempt.steps) <= 26, "{:?}", attempt.steps);
        match attempt.outcome() {
            Ok(output) => prop_assert!(output.content.len() <= task.output_bytes_max),
            Err(failure) => {
                prop_assert!(CAUSES.contains(&failure.cause));
                prop_assert!(!failure.message.is_empty() && failure.message.len() < 1_500, "{failure:?}");
            }
        }
        let steps = attempt.steps.len();
        attempt.handle([HttpEvent::Chunk(Bytes::from_static(b"late")), HttpEvent::End]);
        prop_assert_eq!(attempt.steps.len(), steps);
    }
}
