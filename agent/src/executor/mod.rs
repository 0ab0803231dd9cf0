//! What does the work of a job. Each kind of executor is a small state machine: it is given the task and what its calls
//! returned, and says what to do next. Which calls it may make, and how long, the machine and the host decide.

mod blob_payment;
mod call;
mod chat;
mod echo;
pub mod failure;
mod http;
mod mcp;
mod membership;
mod openai;
mod response;
mod sse;
mod text;
mod webhook;
mod workers_ai;

pub use http::{Access, HttpError, HttpEvent, HttpLimits, HttpRequest};
pub(crate) use membership::wanted as membership_wanted;

use bytes::Bytes;
use relay_engine::types::{Event, EventId, Kind, PubKey, Timestamp};

use crate::identity::Draft;
use crate::job::Input;
use crate::manifest::{ExecutorConfig, Handler};

/// What is to be done: a job with its inputs resolved.
#[derive(Clone, Debug)]
pub struct Task {
    /// The job.
    pub job: EventId,
    /// The agent.
    pub agent: PubKey,
    /// Who asked.
    pub customer: PubKey,
    /// The kind of the request.
    pub kind: Kind,
    /// Inputs in order, with their text.
    pub inputs: Vec<ResolvedInput>,
    /// Parameters, keys spelled as in the handler's schema.
    pub params: Vec<(String, Vec<String>)>,
    /// The wanted MIME type.
    pub output: Option<String>,
    /// Earlier messages of this customer and the agent, oldest first; empty without memory.
    pub history: Vec<PromptMessage>,
    /// The largest result, in bytes.
    pub output_bytes_max: usize,
    /// When its calls time out: the next full second after the deadline of the attempt, so that the attempt ends first.
    pub deadline: Timestamp,
    /// 1 for the first attempt.
    pub attempt: u32,
}

/// An input with its text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedInput {
    /// As the customer wrote it.
    pub input: Input,
    /// The text: of the event, of the other job's result, of what the URL serves, or the data itself.
    pub text: String,
}

/// An earlier message of a session, as executors get it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PromptMessage {
    /// `user` or `assistant`.
    pub role: Role,
    /// What was said.
    pub text: String,
}

/// Who said a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The customer.
    User,
    /// The agent.
    Assistant,
}

/// What an executor wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A call over HTTP. Its events are passed to [`Executor::handle`]. At most one call is open at a time: if another one is
    /// still open, it is of no use any more.
    Call(HttpRequest),
    /// A call of a model of Workers AI; answered like a call over HTTP. Hosts without it answer [`HttpError::Unsupported`].
    Ai {
        /// For instance `@cf/meta/llama-3.1-8b-instruct`.
        model: String,
        /// The JSON input of the model.
        input: Bytes,
    },
    /// A partial result, to be sent as feedback.
    Partial(String),
    /// The result.
    Done(Output),
    /// The attempt has failed.
    Failed(ExecutorError),
}

/// A result.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Output {
    /// The content of the result.
    pub content: String,
    /// Tokens read and written, if the executor knows.
    pub tokens: Option<(u64, u64)>,
}

/// Why an attempt failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecutorError {
    /// For the customer: short, and without anything secret.
    pub message: String,
    /// For the owner's log.
    pub detail: String,
    /// For metrics: a short fixed word, such as `http_status`.
    pub cause: &'static str,
    /// Whether another attempt may succeed.
    pub is_retryable: bool,
    /// Seconds to wait at least before another attempt (`Retry-After`).
    pub retry_after: Option<u64>,
}

/// What an executor is given of its agent.
pub trait ExecutorContext {
    /// The value of a secret, if the host has one of that name.
    fn secret(&self, name: &str) -> Option<String>;

    /// Signs an event with the agent's key: authorisation of HTTP requests (NIP-98).
    fn sign(&self, draft: &Draft) -> Event;

    /// Unix seconds.
    fn now(&self) -> Timestamp;
}

/// One attempt at a job.
pub trait Executor {
    /// Begins. Everything that is to happen next is pushed to `steps`; after [`Step::Done`] or [`Step::Failed`] nothing
    /// more is, and a call that is still open is of no use.
    fn start(&mut self, task: &Task, context: &dyn ExecutorContext, steps: &mut Vec<Step>);

    /// Something has come of the open call. Events after [`Step::Done`] or [`Step::Failed`] are ignored.
    fn handle(&mut self, context: &dyn ExecutorContext, event: HttpEvent, steps: &mut Vec<Step>);
}

/// The executor of a handler.
pub fn executor(handler: &Handler) -> Box<dyn Executor + Send> {
    let listed = || handler.params.keys().cloned().collect();
    match &handler.executor {
        ExecutorConfig::Echo(config) => Box::new(echo::Echo { config: config.clone() }),
        ExecutorConfig::Text(config) => Box::new(text::Text { config: config.clone() }),
        ExecutorConfig::OpenaiHttp(config) => Box::new(openai::Openai::new(config.clone(), listed())),
        ExecutorConfig::WorkersAi(config) => Box::new(workers_ai::WorkersAi::new(config.clone(), listed())),
        ExecutorConfig::Webhook(config) => Box::new(webhook::Webhook::new(config.clone())),
        ExecutorConfig::Membership(_) => Box::new(membership::Membership),
        ExecutorConfig::BlobPayment(_) => Box::new(blob_payment::BlobPayment),
        ExecutorConfig::Mcp(config) => Box::new(mcp::Mcp::new(config.clone(), listed())),
    }
}

impl Task {
    /// The first value of a parameter.
    fn param(&self, name: &str) -> Option<&str> {
        self.params
            .iter()
            .find(|(key, _)| key == name)
            .and_then(|(_, values)| values.first())
            .map(String::as_str)
    }
}

/// The texts of all inputs, joined by line feeds.
fn joined_inputs(task: &Task) -> String {
    task.inputs.iter().map(|input| input.text.as_str()).collect::<Vec<_>>().join("\n")
}

/// The last step of an attempt that has a result.
fn finish(output_bytes_max: usize, output: Output) -> Step {
    if output.content.len() > output_bytes_max {
        return Step::Failed(ExecutorError::output_size(output.content.len(), output_bytes_max));
    }
    Step::Done(output)
}
