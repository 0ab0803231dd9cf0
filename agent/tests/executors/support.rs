//! A task, tools, and a handler from its JSON.

use bytes::Bytes;
use relay_agent::executor::{
    Executor, ExecutorContext, ExecutorError, HttpEvent, HttpRequest, Output, PromptMessage, ResolvedInput,
    Step, Task, executor,
};
use relay_agent::identity::Draft;
use relay_agent::job::{Input, InputKind};
use relay_agent::manifest::Handler;
use relay_engine::testing::signing;
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
        history: Vec::<PromptMessage>::new(),
        output_bytes_max: 10_000,
        deadline: NOW + 60,
        attempt: 1,
    }
}

/// Tools with these secrets, at this time.
pub(crate) struct TestTools {
    pub(crate) secrets: Vec<(&'static str, &'static str)>,
    pub(crate) now: Timestamp,
}

impl Default for TestTools {
    fn default() -> Self {
        TestTools { secrets: Vec::new(), now: NOW }
    }
}

impl ExecutorContext for TestTools {
    fn secret(&self, name: &str) -> Option<String> {
        self.secrets.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
    }

    fn sign(&self, draft: &Draft) -> Event {
        let signed = signing::event(&signing::key(7)).kind(draft.kind).at(draft.created_at);
        let signed = draft.tags.iter().fold(signed, |signed, tag| match &tag[..] {
            [name, value] => signed.tag([name, value]),
            _ => panic!("a tag of another length: {tag:?}"),
        });
        let json = signed.content(&draft.content).sign().json();
        Event::from_canonical(json.into_bytes().into())
    }

    fn now(&self) -> Timestamp {
        self.now
    }
}

/// An attempt at a task.
pub(crate) struct Attempt {
    executor: Box<dyn Executor + Send>,
    /// The tools it is given.
    pub(crate) tools: TestTools,
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
    pub(crate) fn handle(&mut self, events: impl IntoIterator<Item = HttpEvent>) {
        for event in events {
            self.executor.handle(&self.tools, event, &mut self.steps);
        }
    }

    /// The requests so far, and their JSON bodies.
    pub(crate) fn calls(&self) -> Vec<(&HttpRequest, Value)> {
        let calls = self.steps.iter().filter_map(|step| match step {
            Step::Call(request) => {
                Some((request, serde_json::from_slice(&request.body).unwrap_or(Value::Null)))
            }
            _ => None,
        });
        calls.collect()
    }

    /// The outcome, which must be the last step.
    pub(crate) fn outcome(&self) -> Result<&Output, &ExecutorError> {
        let is_end = |step: &Step| matches!(step, Step::Done(_) | Step::Failed(_));
        assert_eq!(self.steps.iter().filter(|step| is_end(step)).count(), 1, "{:?}", self.steps);
        match self.steps.last() {
            Some(Step::Done(output)) => Ok(output),
            Some(Step::Failed(failure)) => Err(failure),
            step => panic!("{step:?}"),
        }
    }
}

/// Status, content type and body, all at once.
pub(crate) fn response(status: u16, media_type: &str, body: &str) -> Vec<HttpEvent> {
    let chunk = HttpEvent::Chunk(Bytes::copy_from_slice(body.as_bytes()));
    vec![head(status, &[("content-type", media_type)]), chunk, HttpEvent::End]
}

/// Status and headers.
pub(crate) fn head(status: u16, headers: &[(&str, &str)]) -> HttpEvent {
    let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    HttpEvent::Head(status, headers.collect())
}
