//! Answers to JSON-RPC requests over MCP's streamable HTTP: a JSON body, or a stream of server-sent events.

use serde::Deserialize;
use serde_json::Value;

use crate::executor::call::{self, ErrorResponse};
use crate::executor::failure::cause;
use crate::executor::response::{Received, ResponseReader};
use crate::executor::{ExecutorError, HttpError, HttpEvent};

/// What has come of a request.
#[derive(Debug)]
pub(super) enum Reply {
    /// Its result, and the session that the server has opened.
    Result(Value, Option<String>),
    /// An error of JSON-RPC, with the status of the response.
    Error(u16, RpcError),
    /// Another status than 2xx, without an error of JSON-RPC.
    Status(ErrorResponse),
    /// A notification was accepted.
    Accepted,
}

/// An error of JSON-RPC.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct RpcError {
    /// Negative numbers; see the specification of MCP.
    pub(super) code: i64,
    /// The error's message.
    pub(super) message: String,
    /// More about it.
    pub(super) data: Value,
}

/// A message of the server.
#[derive(Deserialize)]
struct Message {
    #[serde(default)]
    id: Value,
    method: Option<String>,
    result: Option<Value>,
    error: Option<RpcError>,
}

/// Reads the response to one request.
#[derive(Debug)]
pub(super) struct Response {
    /// The id of the request; `None` for a notification.
    id: Option<u64>,
    session: Option<String>,
    status: u16,
    reader: ResponseReader,
}

impl Response {
    /// To the request with this id, or a notification; its body has at most `bytes_max` bytes.
    pub(super) fn new(id: Option<u64>, bytes_max: usize) -> Self {
        Response { id, session: None, status: 0, reader: ResponseReader::new(bytes_max) }
    }

    /// The next event of the call. `None`: more is to come.
    pub(super) fn handle(&mut self, event: HttpEvent) -> Option<Result<Reply, CallError>> {
        if let HttpEvent::Head(status, headers) = &event {
            self.status = *status;
            self.session = call::header(headers, "mcp-session-id")
                .filter(|id| !id.is_empty() && id.bytes().all(|byte| (0x21..=0x7e).contains(&byte)))
                .map(str::to_owned);
        }
        match self.reader.handle(event)? {
            Received::Events(events) => {
                events.into_iter().find_map(|event| self.reply(event.data.as_bytes()).map(Ok))
            }
            // A modern server tells with a status what is wrong, and with an error what it is.
            Received::Error(error) => Some(Ok(match self.reply(error.body()) {
                Some(reply @ Reply::Error(..)) => reply,
                _ => Reply::Status(error),
            })),
            Received::Failed(error) => Some(Err(CallError::Call(error))),
            _ if self.id.is_none() => Some(Ok(Reply::Accepted)),
            Received::Nothing => Some(Err(CallError::Malformed("no response".to_owned()))),
            Received::Whole(body) => Some(self.reply(&body).ok_or_else(|| {
                CallError::Malformed(format!("no answer of JSON-RPC: {}", call::excerpt(&body)))
            })),
            Received::StreamEnd(last) => {
                let reply = last.and_then(|event| self.reply(event.data.as_bytes()));
                Some(reply.ok_or(CallError::Cut))
            }
        }
    }

    /// The answer, if this message is it. Others are notifications and requests of the server; none is expected, as the
    /// client has declared no capability.
    fn reply(&mut self, json: &[u8]) -> Option<Reply> {
        let message: Message = serde_json::from_slice(json).ok()?;
        if message.method.is_some() {
            return None;
        }
        if let Some(error) = message.error {
            // An error that could not be attributed has no id.
            let is_ours = message.id.is_null() || self.is_id(&message.id);
            return is_ours.then_some(Reply::Error(self.status, error));
        }
        if !self.is_id(&message.id) {
            return None;
        }
        message.result.map(|result| Reply::Result(result, self.session.take()))
    }

    fn is_id(&self, id: &Value) -> bool {
        self.id.is_some() && id.as_u64() == self.id
    }
}

/// Why there is no reply.
#[derive(Debug)]
pub(super) enum CallError {
    /// The call has failed.
    Call(HttpError),
    /// The response is not what MCP says.
    Malformed(String),
    /// The stream has ended without an answer.
    Cut,
}

impl CallError {
    pub(super) fn failure(self, url: &str) -> ExecutorError {
        match self {
            CallError::Call(error) => ExecutorError::of_http_error(error, url),
            CallError::Malformed(detail) => ExecutorError::retryable(
                cause::RESPONSE,
                "the agent's backend gave no valid answer",
                format!("{url}: {detail}"),
            ),
            CallError::Cut => ExecutorError::retryable(
                cause::CONNECTION,
                "the agent's backend stopped in the middle of its answer",
                format!("{url}: the stream ended without an answer"),
            ),
        }
    }
}
