//! `echo` and `text`.

use proptest::prelude::*;
use relay_agent::executor::{ExecutorError, Output, Step, Task};
use serde_json::{Value, json};

use crate::support::{Attempt, TestTools, handler, task};

/// The only step of an executor that makes no call.
fn only_step(json: Value, task: &Task) -> Step {
    let mut attempt = Attempt::start(&handler(json), task, TestTools::default());
    assert_eq!(attempt.steps.len(), 1, "{:?}", attempt.steps);
    attempt.steps.remove(0)
}

fn check(json: Value, task: &Task, want: &str) {
    assert_eq!(only_step(json, task), Step::Done(Output { content: want.to_owned(), tokens: None }));
}

fn check_failed(json: Value, task: &Task, cause: &str, message: &str) {
    match only_step(json, task) {
        Step::Failed(ExecutorError { message: said, cause: is, is_retryable: false, .. }) => {
            assert_eq!((is, &*said), (cause, message));
        }
        step => panic!("{step:?}"),
    }
}

fn echo(prefix: &str) -> Value {
    json!({"kind": 5050, "executor": "echo", "config": {"prefix": prefix}})
}

fn tool(name: &str) -> Value {
    json!({"kind": 5050, "executor": "text", "config": {"tool": name}})
}

#[test]
fn echo_returns_its_inputs_and_greets_whoever_sends_none() {
    check(echo(""), &task(&["Hi"]), "Hi");
    check(echo("echo: "), &task(&["a", "b\n", ""]), "echo: a\nb\n\n");
    check(echo(""), &task(&[]), "Hello! I answer jobs of kind 5050 with the inputs I am sent.");
    check(
        echo(""),
        &Task { kind: 5300, ..task(&[]) },
        "Hello! I answer jobs of kind 5300 with the inputs I am sent.",
    );
    check(echo(""), &Task { output_bytes_max: 2, ..task(&["Hi"]) }, "Hi");
    let long = Task { output_bytes_max: 1, ..task(&["Hi"]) };
    check_failed(echo(""), &long, "output_size", "the result is larger than 1 bytes");
}

#[test]
fn tools_do_what_their_names_say() {
    for (name, inputs, want) in [
        ("uppercase", &["straße", "ijs"][..], "STRASSE\nIJS"),
        ("lowercase", &["ΟΔΟΣ"], "οδος"),
        ("reverse", &["ab c"], "c ba"),
        // A letter with its accent, a family of four, a flag: one character each.
        ("reverse", &["e\u{301}👨‍👩‍👧‍👦🇦🇹x"], "x🇦🇹👨‍👩‍👧‍👦e\u{301}"),
        ("reverse", &["a\r\nb"], "b\r\na"),
        ("reverse", &[""], ""),
        ("sha256", &["abc"], "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
        ("sha256", &[""], "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
        ("count", &[""], r#"{"bytes":0,"characters":0,"lines":0,"words":0}"#),
        ("count", &["Ça va?\nJa."], r#"{"bytes":11,"characters":10,"lines":2,"words":3}"#),
        ("count", &["don't", "3.14"], r#"{"bytes":10,"characters":10,"lines":2,"words":2}"#),
        ("count", &["🇦🇹e\u{301}"], r#"{"bytes":11,"characters":2,"lines":1,"words":1}"#),
    ] {
        check(tool(name), &task(inputs), want);
    }
}

#[test]
fn a_tool_without_a_text_says_so() {
    for name in ["count", "extract", "uppercase", "lowercase", "reverse", "sha256"] {
        check_failed(tool(name), &task(&[]), "input", "this agent works on a text: send an input");
    }
}

#[test]
fn an_extract_is_made_of_the_sentences_with_the_most_frequent_words() {
    let text = "The relay stores events. It rained. Events reach an agent from the relay. \
                The agent signs events for the relay. Lunch was good. A cat slept. The end.";
    let sentences = |number: &str| Task {
        params: vec![("sentences".to_owned(), vec![number.to_owned()])],
        ..task(&[text])
    };
    check(tool("extract"), &sentences("1"), "The relay stores events.");
    check(
        tool("extract"),
        &task(&[text]),
        "The relay stores events. Events reach an agent from the relay. The agent signs events for the relay.",
    );
    check(tool("extract"), &sentences("100"), text);
    for wrong in ["0", "101", "-1", "many", ""] {
        check_failed(
            tool("extract"),
            &sentences(wrong),
            "input",
            "the parameter sentences must be a number from 1 to 100",
        );
    }
    check(tool("extract"), &task(&["  \n "]), "");
    check(tool("extract"), &task(&["今日は雨です。明日は晴れです。"]), "今日は雨です。 明日は晴れです。");
}

proptest! {
    /// Whatever the text, tools answer, and reversing twice gives the text back.
    #[test]
    fn tools_take_any_text(text in any::<String>()) {
        for name in ["count", "extract", "uppercase", "lowercase", "sha256"] {
            let step = only_step(tool(name), &task(&[&text]));
            prop_assert!(matches!(step, Step::Done(_)), "{name}: {step:?}");
        }
    }
}
