//! Webhooks: a program of the owner's does the work. It is posted the job, and its response is the result.
//!
//! ```json
//! {"job": "<id>", "attempt": 1, "agent": "<pubkey>", "customer": "<pubkey>", "kind": 5050,
//!  "inputs": [{"type": "url", "data": "https://...", "marker": "source", "text": "what the URL serves"}],
//!  "params": {"language": ["en"]}, "output": "text/plain", "history": [{"role": "user", "content": "..."}]}
//! ```
//!
//! The request is signed by the agent (NIP-98, with the hash of the body), so the program can know who calls it. It answers with
//! `{"content": "..."}`, with `{"error": "a message for the customer"}`, or with a text.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::call;
use super::failure::cause;
use super::response::{Received, ResponseReader};
use super::{
    Access, Executor, ExecutorContext, ExecutorError, HttpError, HttpEvent, HttpLimits, HttpRequest, Output,
    ResolvedInput, Role, Step, Task, finish,
};
use crate::identity::Draft;
use crate::manifest::WebhookConfig;

/// Bytes of a response beside the text.
const OVERHEAD_BYTES: usize = 64 << 10;

/// One attempt.
pub(super) struct Webhook {
    url: String,
    output_bytes_max: usize,
    /// Of the open call, until there is a result or a failure.
    response: Option<Response>,
}

struct Response {
    reader: ResponseReader,
    status: u16,
    media_type: String,
}

impl Webhook {
    pub(super) fn new(config: WebhookConfig) -> Self {
        Webhook { url: config.url, output_bytes_max: 0, response: None }
    }

    fn request(&mut self, task: &Task, context: &dyn ExecutorContext) -> Result<HttpRequest, ExecutorError> {
        self.url = call::endpoint(&self.url, &[])?.into();
        self.output_bytes_max = task.output_bytes_max;
        let body = Bytes::from(job(task).to_string());
        let tag = |name: &str, value: &str| vec![name.to_owned(), value.to_owned()];
        let authorization = context.sign(&Draft {
            created_at: context.now(),
            kind: relay_site::nip98::KIND,
            tags: vec![
                tag("u", &self.url),
                tag("method", "POST"),
                tag("payload", &faster_hex::hex_string(&Sha256::digest(&body))),
            ],
            content: String::new(),
        });
        let authorization = BASE64_STANDARD.encode(authorization.json());
        let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        Ok(HttpRequest {
            method: "POST",
            url: self.url.clone(),
            headers: vec![
                header("content-type", "application/json"),
                header("accept", "application/json, text/plain"),
                header("authorization", &format!("Nostr {authorization}")),
            ],
            body,
            access: Access::Configured,
            allow_domains: Vec::new(),
            limits: HttpLimits {
                // Escapes in JSON take up to six times the space.
                response_bytes_max: task.output_bytes_max.saturating_mul(6).saturating_add(OVERHEAD_BYTES),
                deadline: task.deadline,
                redirects_max: 0,
            },
        })
    }

    /// `None`: more is to come.
    fn progress(&mut self, event: HttpEvent) -> Option<Result<String, ExecutorError>> {
        let Response { reader, status, media_type } = self.response.as_mut()?;
        if let HttpEvent::Head(told, headers) = &event {
            (*status, *media_type) = (*told, call::media_type(headers));
        }
        let failed = |error| Some(Err(ExecutorError::of_http_error(error, &self.url)));
        match reader.handle(event)? {
            // `ResponseReader::whole` gives no stream events.
            Received::Events(_) | Received::StreamEnd(_) => None,
            Received::Whole(body) => Some(content(*status, media_type, &body).map_err(|failure| {
                ExecutorError { detail: format!("{}: {}", self.url, failure.detail), ..failure }
            })),
            Received::Error(error) => {
                Some(Err(error.failure(&self.url, "check that it knows the agent's public key")))
            }
            Received::Failed(error) => failed(error),
            Received::Nothing => failed(HttpError::Connection("no response".to_owned())),
        }
    }
}

impl Executor for Webhook {
    fn start(&mut self, task: &Task, context: &dyn ExecutorContext, steps: &mut Vec<Step>) {
        steps.push(match self.request(task, context) {
            Ok(request) => {
                let reader = ResponseReader::whole(request.limits.response_bytes_max);
                self.response = Some(Response { reader, status: 0, media_type: String::new() });
                Step::Call(request)
            }
            Err(failure) => Step::Failed(failure),
        });
    }

    fn handle(&mut self, _context: &dyn ExecutorContext, event: HttpEvent, steps: &mut Vec<Step>) {
        if let Some(outcome) = self.progress(event) {
            self.response = None;
            steps.push(match outcome {
                Ok(content) => finish(self.output_bytes_max, Output { content, tokens: None }),
                Err(failure) => Step::Failed(failure),
            });
        }
    }
}

/// The job as the program reads it.
fn job(task: &Task) -> Value {
    let mut params: Map<String, Value> = Map::new();
    for (name, values) in &task.params {
        let known = params.entry(name.clone()).or_insert_with(|| Value::Array(Vec::new()));
        if let Value::Array(known) = known {
            known.extend(values.iter().cloned().map(Value::from));
        }
    }
    let history = task.history.iter().map(|message| {
        let role = match message.role {
            Role::User => "user",
            Role::Assistant => "assistant",
        };
        json!({"role": role, "content": message.text})
    });
    json!({
        "job": faster_hex::hex_string(&task.job.0),
        "attempt": task.attempt,
        "agent": faster_hex::hex_string(&task.agent.0),
        "customer": faster_hex::hex_string(&task.customer.0),
        "kind": task.kind,
        "inputs": task.inputs.iter().map(input).collect::<Vec<_>>(),
        "params": params,
        "output": task.output,
        "history": history.collect::<Vec<_>>(),
    })
}

fn input(resolved: &ResolvedInput) -> Value {
    let input = &resolved.input;
    let mut json = json!({"type": input.kind, "data": input.data, "text": resolved.text});
    if let Some(marker) = &input.marker {
        json["marker"] = Value::from(marker.clone());
    }
    json
}

/// What programs answer in JSON.
#[derive(Deserialize)]
struct WebhookResponse {
    content: Option<String>,
    error: Option<String>,
}

/// The content of the result in a response of status 2xx.
fn content(status: u16, media_type: &str, body: &[u8]) -> Result<String, ExecutorError> {
    let wrong = |detail: String| {
        ExecutorError::fatal(cause::RESPONSE, "the agent's backend gave no valid answer", detail)
    };
    if status == 202 {
        return Err(wrong("status 202: the result must be in the response".to_owned()));
    }
    if media_type == "application/json" || (media_type.is_empty() && body.starts_with(b"{")) {
        let answer: WebhookResponse = serde_json::from_slice(body)
            .map_err(|error| wrong(format!("no JSON with content: {error}: {}", call::excerpt(body))))?;
        return match (answer.content, answer.error) {
            (Some(content), None) => Ok(content),
            (_, Some(error)) => {
                let message = call::excerpt(error.as_bytes());
                Err(ExecutorError::fatal(cause::REFUSED, message.clone(), message))
            }
            (None, None) => Err(wrong("neither content nor error in the JSON".to_owned())),
        };
    }
    if !media_type.is_empty() && !media_type.starts_with("text/") {
        return Err(wrong(format!("content type {media_type}, neither JSON nor a text")));
    }
    match std::str::from_utf8(body) {
        Ok("") => Err(wrong("an empty response".to_owned())),
        Ok(text) => Ok(text.to_owned()),
        Err(_) => Err(wrong("the text is not UTF-8".to_owned())),
    }
}
