//! A task, tools, and a handler from its JSON.

use relay_agent::executor::{Executor, HttpEvent, Message, ResolvedInput, Step, Task, Tools, executor};
use relay_agent::identity::Draft;
use relay_agent::job::{Input, InputKind};
use relay_agent::manifest::Handler;
use relay_engine::types::{Event, EventId, PubKey, Timestamp};
use serde_json::Value;

/// The time of all tests.
pub(crate) const NOW: Timestamp = 1_700_000_000;

/// The handler of this JSON.
pub(crate) fn handler(json: Value) -> Handler {
    serde_json::from_value(json).expect("a handler")
}

/// A task with these text inputs.
pub(crate) fn task(inputs: &[&str]) -> Task {
    let input = |text: &&str| ResolvedInput {
        input: Input { data: (*text).to_owned(), kind: InputKind::Text, relay: None, marker: None },
        text: (*text).to_owned(),
    };
    Task {
        job: EventId([1; 32]),
        agent: PubKey([2; 32]),
        customer: PubKey([3; 32]),
        kind: 5050,
        inputs: inputs.iter().map(input).collect(),
        params: Vec::new(),
        output: None,
        history: Vec::<Message>::new(),
        output_bytes_max: 10_000,
        deadline: NOW + 60,
        attempt: 1,
    }
}

/// Tools with these secrets.
pub(crate) struct TestTools {
    pub(crate) secrets: Vec<(&'static str, &'static str)>,
}

impl Tools for TestTools {
    fn secret(&self, name: &str) -> Option<String> {
        self.secrets.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
    }

    fn sign(&self, _draft: &Draft) -> Event {
        unreachable!("nothing is signed here")
    }

    fn now(&self) -> Timestamp {
        NOW
    }
}

/// An attempt at a task.
pub(crate) struct Attempt {
    executor: Box<dyn Executor + Send>,
    tools: TestTools,
    /// All steps so far.
    pub(crate) steps: Vec<Step>,
}

impl Attempt {
    /// Starts one.
    pub(crate) fn start(handler: &Handler, task: &Task, tools: TestTools) -> Self {
        let mut attempt = Attempt { executor: executor(handler), tools, steps: Vec::new() };
        attempt.executor.start(task, &attempt.tools, &mut attempt.steps);
        attempt
    }

    /// Passes events of the open call to it.
    #[allow(dead_code)]
    pub(crate) fn handle(&mut self, events: impl IntoIterator<Item = HttpEvent>) {
        for event in events {
            self.executor.handle(&self.tools, event, &mut self.steps);
        }
    }
}
