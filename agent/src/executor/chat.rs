//! Chat models: messages and options from a task, texts from completions.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::call::excerpt;
use super::failure::cause;
use super::{ExecutorError, Output, Role, Task, joined_inputs};

/// Options of models that customers may choose, if the handler lists them: name and type.
const OPTIONS: [(&str, Type); 8] = [
    ("frequency_penalty", Type::Number),
    ("max_tokens", Type::Tokens),
    ("presence_penalty", Type::Number),
    ("seed", Type::Integer),
    ("stop", Type::Strings),
    ("temperature", Type::Number),
    ("top_k", Type::Integer),
    ("top_p", Type::Number),
];

#[derive(Clone, Copy)]
enum Type {
    Number,
    Integer,
    /// A positive integer, at most what the manifest says.
    Tokens,
    Strings,
}

/// The messages of a chat: the system message, the session, and the inputs as the user's message. Parameters that the
/// handler lists and that are not [`OPTIONS`] precede the inputs as lines `name: value`.
///
/// # Errors
/// Without a system message, there must be something to say.
pub(super) fn messages(system: Option<&str>, listed: &[String], task: &Task) -> Result<Value, ExecutorError> {
    let told = task.params.iter().filter(|(name, _)| listed.contains(name) && option(name).is_none());
    let mut user: Vec<String> = told.map(|(name, values)| format!("{name}: {}", values.join(", "))).collect();
    if !task.inputs.is_empty() {
        user.push(joined_inputs(task));
    }
    let user = match (user.join("\n"), system) {
        (text, None) if text.trim().is_empty() => {
            let message = "this agent answers a text: send an input";
            return Err(ExecutorError::fatal(cause::INPUT, message, message));
        }
        // Endpoints want a message of the user.
        (text, Some(_)) if text.trim().is_empty() => "(no input)".to_owned(),
        (text, _) => text,
    };
    let mut messages = Vec::new();
    messages.extend(system.map(|text| json!({"role": "system", "content": text})));
    messages.extend(task.history.iter().map(|message| {
        let role = match message.role {
            Role::User => "user",
            Role::Assistant => "assistant",
        };
        json!({"role": role, "content": message.text})
    }));
    messages.push(json!({"role": "user", "content": user}));
    Ok(Value::Array(messages))
}

fn option(name: &str) -> Option<Type> {
    OPTIONS.iter().find(|(known, _)| *known == name).map(|(_, kind)| *kind)
}

/// The [`OPTIONS`] among the task's parameters that the handler lists. `tokens_max`: what the manifest says.
///
/// # Errors
/// Names the parameter that has no such value.
pub(super) fn options(
    listed: &[String],
    tokens_max: Option<u32>,
    task: &Task,
) -> Result<Map<String, Value>, ExecutorError> {
    let mut options = Map::new();
    for (name, values) in task.params.iter().filter(|(name, _)| listed.contains(name)) {
        let Some(kind) = option(name) else { continue };
        let first = values.first().map(|value| value.trim()).unwrap_or_default();
        let (value, wanted) = match kind {
            Type::Number => {
                (first.parse().ok().filter(|number: &f64| number.is_finite()).map(Value::from), "a number")
            }
            Type::Integer => (first.parse::<i64>().ok().map(Value::from), "an integer"),
            Type::Tokens => (
                first
                    .parse::<u32>()
                    .ok()
                    .filter(|number| *number > 0)
                    .map(|number| Value::from(number.min(tokens_max.unwrap_or(u32::MAX)))),
                "a positive integer",
            ),
            Type::Strings => (Some(Value::from(values.clone())), "texts"),
        };
        let Some(value) = value else {
            let message = format!("the parameter {name} must be {wanted}");
            return Err(ExecutorError::fatal(cause::INPUT, message.clone(), message));
        };
        options.insert(name.clone(), value);
    }
    Ok(options)
}

/// A completion, whole or a chunk of one, as far as it matters here. What is left out, or `null`, has its default.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Completion {
    choices: Option<Vec<Choice>>,
    usage: Option<Usage>,
    error: Option<Value>,
    /// Workers AI.
    response: Option<Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Choice {
    #[serde(alias = "delta")]
    message: Option<ChatMessage>,
    finish_reason: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ChatMessage {
    content: Option<Value>,
    refusal: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Usage {
    prompt_tokens: Option<u64>,
    completion_tokens: Option<u64>,
}

/// What completions have said so far.
#[derive(Debug, Default)]
pub(super) struct CompletionText {
    /// The text.
    pub(super) content: String,
    refusal: String,
    tokens: Option<(u64, u64)>,
    finish_reason: Option<String>,
}

impl CompletionText {
    /// Adds a completion or a chunk of one.
    ///
    /// # Errors
    /// If it is none, tells of an error, or makes the text larger than `output_bytes_max`.
    pub(super) fn add(&mut self, json: &[u8], output_bytes_max: usize) -> Result<(), ExecutorError> {
        let completion: Completion = serde_json::from_slice(json)
            .map_err(|error| malformed(&format!("{error}: {}", excerpt(json))))?;
        if let Some(error) = completion.error.filter(|error| !error.is_null()) {
            return Err(reported(&error));
        }
        if let Some(usage) = completion.usage {
            self.tokens =
                usage.prompt_tokens.zip(Some(usage.completion_tokens.unwrap_or_default())).or(self.tokens);
        }
        if let Some(response) = completion.response {
            self.finish_reason = Some("stop".to_owned());
            push_text(&mut self.content, &response);
        }
        // Further choices are not asked for.
        if let Some(choice) = completion.choices.into_iter().flatten().next() {
            let message = choice.message.unwrap_or_default();
            push_text(&mut self.content, &message.content.unwrap_or_default());
            self.refusal.extend(message.refusal);
            self.finish_reason = choice.finish_reason.or(self.finish_reason.take());
        }
        if self.content.len() > output_bytes_max {
            return Err(ExecutorError::output_size(self.content.len(), output_bytes_max));
        }
        Ok(())
    }

    /// Whether the model has said that it has finished.
    pub(super) fn is_finished(&self) -> bool {
        self.finish_reason.is_some()
    }

    /// The result, if there is one.
    pub(super) fn result(self) -> Result<Output, ExecutorError> {
        let reason = self.finish_reason.as_deref().unwrap_or("none");
        if reason == "content_filter" {
            let message = "the content filter of the model has stopped the answer";
            return Err(ExecutorError::fatal(cause::REFUSED, message, message));
        }
        if self.content.is_empty() && !self.refusal.is_empty() {
            let message = format!("the model refuses: {}", excerpt(self.refusal.as_bytes()));
            return Err(ExecutorError::fatal(cause::REFUSED, message.clone(), message));
        }
        if self.content.is_empty() {
            return Err(ExecutorError::retryable(
                cause::RESPONSE,
                "the model has returned no text",
                format!("no text; finish_reason: {reason}"),
            ));
        }
        Ok(Output { content: self.content, tokens: self.tokens })
    }
}

/// Content is a string, or a list of parts of which the texts count.
fn push_text(content: &mut String, value: &Value) {
    match value {
        Value::String(text) => content.push_str(text),
        Value::Array(parts) => {
            for part in parts {
                content.push_str(part.get("text").and_then(Value::as_str).unwrap_or_default());
            }
        }
        _ => {}
    }
}

/// A response that is not what the API says.
pub(super) fn malformed(detail: &str) -> ExecutorError {
    ExecutorError::retryable(
        cause::RESPONSE,
        "the agent's backend gave no valid answer",
        format!("not a completion: {detail}"),
    )
}

/// An error object in a response of status 200 or inside a stream.
fn reported(error: &Value) -> ExecutorError {
    let text = |name: &str| error.get(name).and_then(Value::as_str);
    let detail = text("message").or(error.as_str()).map_or_else(|| error.to_string(), str::to_owned);
    let detail = excerpt(detail.as_bytes());
    ExecutorError {
        is_retryable: text("type") != Some("invalid_request_error"),
        ..ExecutorError::fatal(
            cause::REFUSED,
            "the agent's backend has an error",
            format!("error object: {detail}"),
        )
    }
}
