//! Models of Cloudflare Workers AI, through the binding of the host.

use bytes::Bytes;
use serde_json::{Map, Value};

use super::call::ErrorResponse;
use super::chat::{self, Answer};
use super::{Executor, Failure, HttpEvent, HttpFault, Step, Task, Tools};
use crate::manifest::WorkersAiConfig;

/// One attempt.
pub(super) struct WorkersAi {
    config: WorkersAiConfig,
    /// The parameters that the handler lists.
    listed: Vec<String>,
    output_bytes_max: usize,
    error: Option<ErrorResponse>,
    body: Vec<u8>,
    is_done: bool,
}

impl WorkersAi {
    pub(super) fn new(config: WorkersAiConfig, listed: Vec<String>) -> Self {
        WorkersAi { config, listed, output_bytes_max: 0, error: None, body: Vec::new(), is_done: false }
    }

    fn input(&self, task: &Task) -> Result<Bytes, Failure> {
        let config = &self.config;
        let mut input = Map::new();
        input.insert("messages".to_owned(), chat::messages(config.system.as_deref(), &self.listed, task)?);
        input.extend(config.max_tokens.map(|tokens| ("max_tokens".to_owned(), Value::from(tokens))));
        input.extend(chat::options(&self.listed, config.max_tokens, task)?);
        Ok(Bytes::from(Value::Object(input).to_string()))
    }

    /// `None`: more is to come.
    fn progress(&mut self, event: HttpEvent) -> Option<Result<Step, Failure>> {
        let model = &self.config.model;
        match event {
            HttpEvent::Head(status, headers) => {
                self.error = (!(200..300).contains(&status)).then(|| ErrorResponse::new(status, &headers));
                None
            }
            HttpEvent::Chunk(bytes) => match &mut self.error {
                Some(error) => {
                    error.push(&bytes);
                    None
                }
                // Escapes in JSON take three times the space of common text.
                None if self.body.len() + bytes.len()
                    > self.output_bytes_max.saturating_mul(3) + (64 << 10) =>
                {
                    Some(Err(Failure::of_fault(HttpFault::TooLarge, model)))
                }
                None => {
                    self.body.extend_from_slice(&bytes);
                    None
                }
            },
            HttpEvent::Failed(_) | HttpEvent::End if self.error.is_some() => {
                self.error.take().map(|error| Err(error.failure(model, "check the binding AI of the Worker")))
            }
            HttpEvent::Failed(fault) => Some(Err(Failure::of_fault(fault, model))),
            HttpEvent::End => {
                let mut answer = Answer::default();
                let added = answer.add(&self.body, self.output_bytes_max);
                Some(added.and_then(|()| answer.result()).map(Step::Done))
            }
        }
    }
}

impl Executor for WorkersAi {
    fn start(&mut self, task: &Task, _tools: &dyn Tools, steps: &mut Vec<Step>) {
        self.output_bytes_max = task.output_bytes_max;
        steps.push(match self.input(task) {
            Ok(input) => Step::Ai { model: self.config.model.clone(), input },
            Err(failure) => Step::Failed(failure),
        });
    }

    fn handle(&mut self, _tools: &dyn Tools, event: HttpEvent, steps: &mut Vec<Step>) {
        if self.is_done {
            return;
        }
        if let Some(outcome) = self.progress(event) {
            self.is_done = true;
            steps.push(outcome.unwrap_or_else(Step::Failed));
        }
    }
}
