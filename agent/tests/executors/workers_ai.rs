//! `workers_ai`: the binding's answers.

use relay_agent::executor::{HttpError, HttpEvent, Step, Task};
use serde_json::{Value, json};

use crate::support::{Attempt, TestTools, handler, response, task};

fn start(task: &Task) -> Attempt {
    let handler = handler(json!({
        "kind": 5050,
        "executor": "workers_ai",
        "config": {"model": "@cf/meta/llama-3.1-8b-instruct", "system": "Be brief.", "max_tokens": 64},
        "params": {"max_tokens": {}},
    }));
    Attempt::start(&handler, task, TestTools::default())
}

#[test]
fn the_input_is_a_chat() {
    let mut task = task(&["Hi"]);
    task.params = vec![("max_tokens".to_owned(), vec!["8".to_owned()])];
    let attempt = start(&task);
    let [Step::Ai { model, input }] = &attempt.steps[..] else { panic!("{:?}", attempt.steps) };
    assert_eq!(model, "@cf/meta/llama-3.1-8b-instruct");
    assert_eq!(
        serde_json::from_slice::<Value>(input).unwrap(),
        json!({
            "max_tokens": 8,
            "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
        })
    );
}

#[test]
fn both_shapes_of_answers_are_read() {
    for (body, want) in [
        (r#"{"response":"Hello"}"#, Ok(("Hello", None))),
        (
            r#"{"response":"Hello","usage":{"prompt_tokens":3,"completion_tokens":1}}"#,
            Ok(("Hello", Some((3, 1)))),
        ),
        (r#"{"choices":[{"message":{"content":"Hello"},"finish_reason":"stop"}]}"#, Ok(("Hello", None))),
        (r#"{"response":""}"#, Err("response")),
        (r#"{"response":null}"#, Err("response")),
        (r#"{"tool_calls":[]}"#, Err("response")),
        (r#"{"error":"overloaded"}"#, Err("refused")),
        ("", Err("response")),
        ("Hello", Err("response")),
    ] {
        let mut attempt = start(&task(&["Hi"]));
        attempt.handle(response(200, "application/json", body));
        let found = attempt.outcome().map(|output| (&*output.content, output.tokens));
        assert_eq!(found.map_err(|failure| failure.cause), want, "{body}");
    }
}

#[test]
fn failures_are_named() {
    for (events, cause, is_retryable) in [
        (vec![HttpEvent::Failed(HttpError::Unsupported)], "address", false),
        (vec![HttpEvent::Failed(HttpError::Connection("3040: capacity".to_owned()))], "connection", true),
        (vec![HttpEvent::Failed(HttpError::Timeout)], "timeout", true),
        (response(429, "application/json", ""), "rate_limited", true),
        (response(500, "application/json", "{}"), "http_status", true),
        (response(200, "application/json", &" ".repeat(100_000)), "response_size", false),
        (
            response(200, "application/json", &json!({"response": "x".repeat(10_001)}).to_string()),
            "output_size",
            false,
        ),
    ] {
        let mut attempt = start(&task(&["Hi"]));
        attempt.handle(events);
        let failure = attempt.outcome().unwrap_err();
        assert_eq!((failure.cause, failure.is_retryable), (cause, is_retryable), "{failure:?}");
    }
}
