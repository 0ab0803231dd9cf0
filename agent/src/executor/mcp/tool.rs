//! A tool: its arguments, the headers that repeat some of them, and its result as a text.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Map, Value};

use crate::executor::call::excerpt;
use crate::executor::failure::cause;
use crate::executor::{ExecutorError, Task, joined_inputs};
use crate::manifest::McpConfig;

/// The arguments of a call: the inputs joined by line feeds, and the parameters that the handler lists. A parameter has the type
/// that the tool's schema says, if it is known; otherwise it is a string, or an array of strings if it has several values.
///
/// # Errors
/// Names the parameter that is not of its type.
pub(super) fn arguments(
    config: &McpConfig,
    listed: &[String],
    task: &Task,
    schema: Option<&Value>,
) -> Result<Map<String, Value>, ExecutorError> {
    let mut arguments = Map::new();
    for (name, values) in task.params.iter().filter(|(name, _)| listed.contains(name)) {
        let kind = schema.and_then(|schema| schema["properties"][name]["type"].as_str()).unwrap_or_default();
        let value = argument(kind, values).ok_or_else(|| {
            let message = format!("the parameter {name} must be of type {kind}");
            ExecutorError::fatal(cause::INPUT, message.clone(), message)
        })?;
        arguments.insert(name.clone(), value);
    }
    if !task.inputs.is_empty() {
        arguments.insert(config.input_argument.clone(), Value::from(joined_inputs(task)));
    }
    Ok(arguments)
}

/// `kind` is a type of JSON Schema, or empty.
fn argument(kind: &str, values: &[String]) -> Option<Value> {
    let strings = || values.iter().cloned().map(Value::from).collect();
    match (kind, values) {
        ("array", _) => Some(strings()),
        ("boolean" | "integer" | "number" | "object", [value]) => {
            let value: Value = serde_json::from_str(value).ok()?;
            let is_kind = match kind {
                "boolean" => value.is_boolean(),
                "integer" => value.is_i64() || value.is_u64(),
                "number" => value.is_number(),
                _ => value.is_object(),
            };
            is_kind.then_some(value)
        }
        ("boolean" | "integer" | "number" | "object", _) => None,
        (_, [value]) => Some(Value::from(value.as_str())),
        (_, _) => Some(strings()),
    }
}

/// The headers `mcp-param-*` that repeat arguments: those that the schema marks with `x-mcp-header`.
pub(super) fn headers(schema: &Value, arguments: &Map<String, Value>) -> Vec<(String, String)> {
    let mut headers = Vec::new();
    let properties = schema["properties"].as_object();
    for (name, property) in properties.into_iter().flatten() {
        let Some(value) = arguments.get(name) else { continue };
        if let Some(inner) = value.as_object() {
            headers.extend(self::headers(property, inner));
        }
        let is_token = |name: &&str| {
            !name.is_empty()
                && name.bytes().all(|c| c.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&c))
        };
        if let Some(header) = property["x-mcp-header"].as_str().filter(is_token)
            && let Value::String(_) | Value::Bool(_) | Value::Number(_) = value
        {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            headers.push((format!("mcp-param-{}", header.to_ascii_lowercase()), header_value(&text)));
        }
    }
    headers
}

/// A text as the value of a header: itself if it is plain, otherwise in Base64 with MCP's marks.
pub(super) fn header_value(text: &str) -> String {
    let is_plain = text.bytes().all(|byte| matches!(byte, b' '..=b'~' | b'\t'))
        && text.trim() == text
        && !(text.starts_with("=?base64?") && text.ends_with("?="));
    if is_plain { text.to_owned() } else { format!("=?base64?{}?=", BASE64_STANDARD.encode(text)) }
}

/// The text of a tool's result.
///
/// # Errors
/// If the tool has failed, asks for further input, or returns no text.
pub(super) fn text(result: &Value) -> Result<String, ExecutorError> {
    if result["resultType"] == "input_required" {
        let message = "the agent's tool asks for further input";
        return Err(ExecutorError::fatal(cause::REFUSED, message, message));
    }
    let mut texts: Vec<&str> = Vec::new();
    for item in result["content"].as_array().into_iter().flatten() {
        let text = match item["type"].as_str() {
            Some("text") => &item["text"],
            Some("resource") => &item["resource"]["text"],
            Some("resource_link") => &item["uri"],
            _ => continue,
        };
        texts.extend(text.as_str());
    }
    if result["isError"] == true {
        let message = format!("the agent's tool has failed: {}", excerpt(texts.join("\n").as_bytes()));
        return Err(ExecutorError::fatal(cause::REFUSED, message.clone(), message));
    }
    match &result["structuredContent"] {
        Value::Null if texts.is_empty() => Err(ExecutorError::fatal(
            cause::RESPONSE,
            "the agent's tool has returned no text",
            format!("no text in the result of the tool: {}", excerpt(result.to_string().as_bytes())),
        )),
        structured if texts.is_empty() => Ok(structured.to_string()),
        _ => Ok(texts.join("\n")),
    }
}
