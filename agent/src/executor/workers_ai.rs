//! Models of Cloudflare Workers AI, through the binding of the host.

use bytes::Bytes;
use serde_json::{Map, Value};

use super::chat::{self, CompletionText};
use super::response::{Received, ResponseReader};
use super::{Executor, ExecutorContext, ExecutorError, HttpEvent, Step, Task};
use crate::manifest::WorkersAiConfig;

/// One attempt.
pub(super) struct WorkersAi {
    config: WorkersAiConfig,
    /// The parameters that the handler lists.
    listed: Vec<String>,
    output_bytes_max: usize,
    /// Of the open call, until there is a result or a failure.
    response: Option<ResponseReader>,
}

impl WorkersAi {
    pub(super) fn new(config: WorkersAiConfig, listed: Vec<String>) -> Self {
        WorkersAi { config, listed, output_bytes_max: 0, response: None }
    }

    fn input(&self, task: &Task) -> Result<Bytes, ExecutorError> {
        let config = &self.config;
        let mut input = Map::new();
        input.insert("messages".to_owned(), chat::messages(config.system.as_deref(), &self.listed, task)?);
        input.extend(config.max_tokens.map(|tokens| ("max_tokens".to_owned(), Value::from(tokens))));
        input.extend(chat::options(&self.listed, config.max_tokens, task)?);
        Ok(Bytes::from(Value::Object(input).to_string()))
    }

    /// `None`: more is to come.
    fn progress(&mut self, event: HttpEvent) -> Option<Result<Step, ExecutorError>> {
        let model = &self.config.model;
        match self.response.as_mut()?.handle(event)? {
            // `ResponseReader::whole` gives no stream events.
            Received::Events(_) | Received::StreamEnd(_) => None,
            Received::Whole(body) => {
                let mut answer = CompletionText::default();
                let added = answer.add(&body, self.output_bytes_max);
                Some(added.and_then(|()| answer.result()).map(Step::Done))
            }
            Received::Error(error) => Some(Err(error.failure(model, "check the binding AI of the Worker"))),
            Received::Failed(error) => Some(Err(ExecutorError::of_http_error(error, model))),
            Received::Nothing => Some(Err(chat::malformed("no response"))),
        }
    }
}

impl Executor for WorkersAi {
    fn start(&mut self, task: &Task, _context: &dyn ExecutorContext, steps: &mut Vec<Step>) {
        self.output_bytes_max = task.output_bytes_max;
        // Escapes in JSON take three times the space of common text.
        self.response = Some(ResponseReader::whole(task.output_bytes_max.saturating_mul(3) + (64 << 10)));
        steps.push(match self.input(task) {
            Ok(input) => Step::Ai { model: self.config.model.clone(), input },
            Err(failure) => Step::Failed(failure),
        });
    }

    fn handle(&mut self, _context: &dyn ExecutorContext, event: HttpEvent, steps: &mut Vec<Step>) {
        if let Some(outcome) = self.progress(event) {
            self.response = None;
            steps.push(outcome.unwrap_or_else(Step::Failed));
        }
    }
}
