//! Endpoints with the API of OpenAI's chat completions, streamed or not.

use bytes::Bytes;
use relay_engine::types::Timestamp;
use serde_json::{Map, Value, json};

use super::call::{self, Bearer, ErrorResponse};
use super::chat::{self, CompletionText};
use super::failure::cause;
use super::response::{Received, ResponseReader};
use super::sse::{Sse, SseEvent};
use super::{
    Access, Executor, ExecutorContext, ExecutorError, HttpEvent, HttpLimits, HttpRequest, Output, Step, Task,
};
use crate::manifest::OpenaiConfig;

/// A streamed token of some bytes comes in an object of some hundred.
const STREAM_BYTES_PER_BYTE: usize = 100;

/// Bytes of a response beside the text.
const OVERHEAD_BYTES: usize = 256 << 10;

/// One attempt.
pub(super) struct Openai {
    config: OpenaiConfig,
    /// The parameters that the handler lists.
    listed: Vec<String>,
    /// The open call, until there is a result or a failure.
    call: Option<Call>,
}

struct Call {
    url: String,
    bearer: Option<Bearer>,
    deadline: Timestamp,
    output_bytes_max: usize,
    /// The body of the request.
    body: Map<String, Value>,
    response: ResponseReader,
    answer: CompletionText,
    /// Bytes of the text that were sent as partial results, and when.
    sent: usize,
    sent_at: Timestamp,
}

/// Whether more is to come.
enum Progress {
    More,
    Again,
    Done(Output),
}

impl Openai {
    pub(super) fn new(config: OpenaiConfig, listed: Vec<String>) -> Self {
        Openai { config, listed, call: None }
    }

    fn call(&self, task: &Task, context: &dyn ExecutorContext) -> Result<Call, ExecutorError> {
        let config = &self.config;
        let mut body = Map::new();
        body.insert("messages".to_owned(), chat::messages(config.system.as_deref(), &self.listed, task)?);
        body.insert("model".to_owned(), config.model.clone().into());
        body.insert("stream".to_owned(), config.stream.into());
        if config.stream {
            body.insert("stream_options".to_owned(), json!({"include_usage": true}));
        }
        let set = [
            ("max_tokens", config.max_tokens.map(Value::from)),
            ("temperature", config.temperature.map(Value::from)),
        ];
        body.extend(set.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
        body.extend(chat::options(&self.listed, config.max_tokens, task)?);
        Ok(Call {
            url: call::endpoint(&config.base_url, &["chat", "completions"])?.into(),
            bearer: call::bearer(config.api_key.as_deref(), context)?,
            deadline: task.deadline,
            output_bytes_max: task.output_bytes_max,
            body,
            response: ResponseReader::new(whole_bytes_max(task.output_bytes_max)),
            answer: CompletionText::default(),
            sent: 0,
            sent_at: context.now(),
        })
    }
}

/// Largest response that is kept whole: escapes in JSON take three times the space of common text.
fn whole_bytes_max(output_bytes_max: usize) -> usize {
    output_bytes_max.saturating_mul(3).saturating_add(OVERHEAD_BYTES)
}

impl Executor for Openai {
    fn start(&mut self, task: &Task, context: &dyn ExecutorContext, steps: &mut Vec<Step>) {
        match self.call(task, context) {
            Ok(call) => {
                steps.push(Step::Call(call.request()));
                self.call = Some(call);
            }
            Err(failure) => steps.push(Step::Failed(failure)),
        }
    }

    fn handle(&mut self, context: &dyn ExecutorContext, event: HttpEvent, steps: &mut Vec<Step>) {
        let Some(call) = &mut self.call else { return };
        match call.handle(event) {
            Ok(Progress::More) => steps.extend(call.partial(context.now())),
            Ok(Progress::Again) => steps.push(Step::Call(call.request())),
            Ok(Progress::Done(output)) => {
                self.call = None;
                steps.push(Step::Done(output));
            }
            Err(failure) => {
                let bearer = call.bearer.take();
                self.call = None;
                steps.push(Step::Failed(Bearer::redact(bearer.as_ref(), failure)));
            }
        }
    }
}

impl Call {
    fn request(&self) -> HttpRequest {
        let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let mut headers = vec![
            header("content-type", "application/json"),
            header("accept", "application/json, text/event-stream"),
        ];
        headers.extend(self.bearer.as_ref().map(Bearer::header));
        HttpRequest {
            method: "POST",
            url: self.url.clone(),
            headers,
            body: Bytes::from(Value::Object(self.body.clone()).to_string()),
            access: Access::Configured,
            allow_domains: Vec::new(),
            limits: HttpLimits {
                response_bytes_max: self
                    .output_bytes_max
                    .saturating_mul(STREAM_BYTES_PER_BYTE)
                    .saturating_add(OVERHEAD_BYTES),
                deadline: self.deadline,
                redirects_max: 0,
            },
        }
    }

    fn handle(&mut self, event: HttpEvent) -> Result<Progress, ExecutorError> {
        match self.response.handle(event) {
            None => Ok(Progress::More),
            Some(Received::Events(events)) => self.add(events),
            Some(Received::StreamEnd(last)) => match self.add(last)? {
                Progress::More => self.end(),
                done => Ok(done),
            },
            Some(Received::Whole(body)) => {
                // Some servers stream without the media type of it.
                if body.starts_with(b"data:") {
                    let mut sse = Sse::default();
                    let events = sse.push(&body).into_iter().chain(sse.finish());
                    if let done @ Progress::Done(_) = self.add(events.collect::<Vec<_>>())? {
                        return Ok(done);
                    }
                    return self.end();
                }
                self.answer.add(&body, self.output_bytes_max)?;
                Ok(Progress::Done(std::mem::take(&mut self.answer).result()?))
            }
            Some(Received::Error(error)) => {
                if self.adapt(&error) {
                    self.response = ResponseReader::new(whole_bytes_max(self.output_bytes_max));
                    return Ok(Progress::Again);
                }
                Err(error.failure(&self.url, &Bearer::hint(self.bearer.as_ref())))
            }
            Some(Received::Failed(error)) => Err(ExecutorError::of_http_error(error, &self.url)),
            Some(Received::Nothing) => Err(chat::malformed("no response")),
        }
    }

    /// Events of the stream.
    fn add(&mut self, events: impl IntoIterator<Item = SseEvent>) -> Result<Progress, ExecutorError> {
        for event in events {
            let data = event.data.trim();
            if data == "[DONE]" {
                return Ok(Progress::Done(std::mem::take(&mut self.answer).result()?));
            }
            if !data.is_empty() {
                self.answer.add(data.as_bytes(), self.output_bytes_max)?;
            }
        }
        Ok(Progress::More)
    }

    /// The stream has ended without `[DONE]`, which some servers leave out.
    fn end(&mut self) -> Result<Progress, ExecutorError> {
        if !self.answer.is_finished() {
            return Err(ExecutorError::retryable(
                cause::CONNECTION,
                "the agent's backend stopped in the middle of its answer",
                format!("{}: the stream ended without finish_reason and [DONE]", self.url),
            ));
        }
        Ok(Progress::Done(std::mem::take(&mut self.answer).result()?))
    }

    /// What has come since the last partial result; at most one a second.
    fn partial(&mut self, now: Timestamp) -> Option<Step> {
        let piece = &self.answer.content[self.sent..];
        if piece.is_empty() || now <= self.sent_at {
            return None;
        }
        self.sent = self.answer.content.len();
        self.sent_at = now;
        Some(Step::Partial(piece.to_owned()))
    }

    /// Whether the request can be changed into one that this endpoint takes: not all know `stream_options`, and for some
    /// models `max_tokens` has another name. Each change is made once.
    fn adapt(&mut self, error: &ErrorResponse) -> bool {
        let names = |name: &str| memchr::memmem::find(error.body(), name.as_bytes()).is_some();
        if !matches!(error.status(), 400 | 422) {
            return false;
        }
        if names("stream_options") {
            return self.body.remove("stream_options").is_some();
        }
        if names("max_completion_tokens")
            && let Some(tokens) = self.body.remove("max_tokens")
        {
            self.body.insert("max_completion_tokens".to_owned(), tokens);
            return true;
        }
        false
    }
}
