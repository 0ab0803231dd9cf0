//! A tool of an MCP server, over streamable HTTP.
//!
//! Since the revision of 2026-07-28 there are neither sessions nor a handshake: `tools/call` is the only request. Servers of
//! earlier revisions refuse it with a status 4xx, as the specification expects; then a session is opened (`initialize`,
//! `notifications/initialized`), used for one call and closed (DELETE). The tool's schema is asked for only if it is needed: for
//! the types of parameters, and for arguments that have to be repeated in headers.

mod rpc;
mod tool;

use bytes::Bytes;
use relay_engine::types::Timestamp;
use serde_json::{Map, Value, json};

use self::rpc::{Reply, Response, RpcError};
use super::call::{self, Bearer};
use super::failure::cause;
use super::{
    Access, Executor, ExecutorContext, ExecutorError, HttpEvent, HttpLimits, HttpRequest, Output, Step, Task,
    finish,
};
use crate::manifest::McpConfig;

/// The revision without sessions.
const MODERN: &str = "2026-07-28";

/// The revisions with sessions, the newest first.
const LEGACY: [&str; 4] = ["2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05"];

/// Errors that only servers of the modern revision know: header mismatch, missing capability, unsupported version.
const MODERN_ERRORS: std::ops::RangeInclusive<i64> = -32029..=-32020;
const HEADER_MISMATCH: i64 = -32020;
const UNSUPPORTED_VERSION: i64 = -32022;

/// Pages of a list of tools that are read.
const PAGES_MAX: u32 = 20;

/// Bytes of a response beside the text; lists of tools are large.
const OVERHEAD_BYTES: usize = 1 << 20;

/// Seconds in which a session is to be closed. The result waits for it.
const CLOSE_SECONDS: Timestamp = 5;

/// One attempt.
pub(super) struct Mcp {
    config: McpConfig,
    /// The parameters that the handler lists.
    listed: Vec<String>,
    /// The open call, until there is a result or a failure.
    client: Option<Client>,
}

struct Client {
    config: McpConfig,
    listed: Vec<String>,
    task: Task,
    bearer: Option<Bearer>,
    /// The revision that is spoken.
    version: &'static str,
    session: Option<String>,
    /// The input schema of the tool, once it has been asked for.
    schema: Option<Value>,
    pages: u32,
    request: Request,
    response: Response,
    next_id: u64,
}

/// The request that is open.
#[derive(Clone, Debug)]
enum Request {
    Initialize,
    Initialized,
    List,
    Call,
    /// The session is closed; then comes this step.
    Close(Step),
}

impl Mcp {
    pub(super) fn new(config: McpConfig, listed: Vec<String>) -> Self {
        Mcp { config, listed, client: None }
    }

    fn client(&self, task: &Task, context: &dyn ExecutorContext) -> Result<Client, ExecutorError> {
        let mut config = self.config.clone();
        config.url = call::endpoint(&config.url, &[])?.into();
        Ok(Client {
            bearer: call::bearer(config.token.as_deref(), context)?,
            config,
            listed: self.listed.clone(),
            task: task.clone(),
            version: MODERN,
            session: None,
            schema: None,
            pages: 0,
            request: Request::Call,
            response: Response::new(None, 0),
            next_id: 1,
        })
    }
}

impl Executor for Mcp {
    fn start(&mut self, task: &Task, context: &dyn ExecutorContext, steps: &mut Vec<Step>) {
        let first = self.client(task, context).and_then(|mut client| {
            let first = client.call_or_list()?;
            self.client = Some(client);
            Ok(first)
        });
        steps.push(first.map_or_else(Step::Failed, Step::Call));
    }

    fn handle(&mut self, context: &dyn ExecutorContext, event: HttpEvent, steps: &mut Vec<Step>) {
        let Some(client) = &mut self.client else { return };
        if let Request::Close(step) = &client.request {
            // Whether the server has closed the session is its own business.
            if matches!(event, HttpEvent::End | HttpEvent::Failed(_)) {
                steps.push(step.clone());
                self.client = None;
            }
            return;
        }
        let Some(reply) = client.response.handle(event) else { return };
        let reply = reply.map_err(|error| error.failure(&client.config.url));
        let (step, is_reachable) = match reply {
            Ok(reply) => (client.next(reply), true),
            Err(failure) => (Err(failure), false),
        };
        let end = match step {
            Ok(Next::Call(request)) => return steps.push(Step::Call(request)),
            Ok(Next::Done(content)) => finish(client.task.output_bytes_max, Output { content, tokens: None }),
            Err(failure) => Step::Failed(Bearer::redact(client.bearer.as_ref(), failure)),
        };
        if client.session.is_some() && is_reachable {
            client.request = Request::Close(end);
            steps.push(Step::Call(client.close(context.now())));
        } else {
            steps.push(end);
            self.client = None;
        }
    }
}

/// What follows a reply.
enum Next {
    Call(HttpRequest),
    Done(String),
}

impl Client {
    fn next(&mut self, reply: Reply) -> Result<Next, ExecutorError> {
        let reply = match self.fall_back(reply) {
            Ok(next) => return next.map(Next::Call),
            Err(reply) => reply,
        };
        match (&self.request, reply) {
            (_, Reply::Status(error)) => {
                let url = &self.config.url;
                let failure = error.failure(url, &Bearer::hint(self.bearer.as_ref()));
                // The server has ended the session: another attempt begins a new one.
                let is_lost = error.status() == 404 && self.session.is_some();
                Err(ExecutorError { is_retryable: failure.is_retryable || is_lost, ..failure })
            }
            (Request::Call, Reply::Error(_, error))
                if error.code == HEADER_MISMATCH && self.schema.is_none() =>
            {
                self.list(None).map(Next::Call)
            }
            (_, Reply::Error(_, error)) => Err(self.refused(&error)),
            (Request::Initialize, Reply::Result(result, session)) => {
                self.session = session;
                let version = result["protocolVersion"].as_str().unwrap_or_default();
                let Some(version) = LEGACY.into_iter().find(|known| *known == version) else {
                    return Err(self.unsupported(version));
                };
                self.version = version;
                self.request = Request::Initialized;
                Ok(Next::Call(self.send("notifications/initialized", None, Vec::new())))
            }
            (Request::Initialized, _) => self.call_or_list().map(Next::Call),
            (Request::List, Reply::Result(result, _)) => self.listed(&result).map(Next::Call),
            (_, Reply::Result(result, _)) => tool::text(&result).map(Next::Done),
            (_, Reply::Accepted) => Err(self.refused(&RpcError::default())),
        }
    }

    /// If the reply is that of a server of an earlier revision, the request that opens a session.
    fn fall_back(&mut self, reply: Reply) -> Result<Result<HttpRequest, ExecutorError>, Reply> {
        if self.version != MODERN {
            return Err(reply);
        }
        let is_legacy = match &reply {
            Reply::Status(error) => {
                matches!(error.status(), 400..=499)
                    && !matches!(error.status(), 401 | 403 | 408 | 413 | 425 | 429)
            }
            // Which codes servers use for requests without a session is not specified.
            Reply::Error(status, error) => match error.code {
                UNSUPPORTED_VERSION => self.supports_legacy(error),
                -32601 => *status != 404,
                -32603 | -32602 => matches!(status, 400..=499),
                code => !MODERN_ERRORS.contains(&code),
            },
            Reply::Result(..) | Reply::Accepted => false,
        };
        if !is_legacy {
            return Err(reply);
        }
        self.version = LEGACY[0];
        self.request = Request::Initialize;
        let params =
            json!({"protocolVersion": self.version, "capabilities": {}, "clientInfo": client_info()});
        Ok(Ok(self.send("initialize", Some(params), Vec::new())))
    }

    fn supports_legacy(&self, error: &RpcError) -> bool {
        let supported = error.data["supported"].as_array();
        supported.into_iter().flatten().filter_map(Value::as_str).any(|version| LEGACY.contains(&version))
    }

    /// The call of the tool; before it, its schema if parameters need types.
    fn call_or_list(&mut self) -> Result<HttpRequest, ExecutorError> {
        let has_params = self.task.params.iter().any(|(name, _)| self.listed.contains(name));
        if has_params && self.schema.is_none() { self.list(None) } else { self.call() }
    }

    fn list(&mut self, cursor: Option<&Value>) -> Result<HttpRequest, ExecutorError> {
        self.request = Request::List;
        self.pages += 1;
        let params = cursor.map_or_else(|| json!({}), |cursor| json!({"cursor": cursor}));
        Ok(self.send("tools/list", Some(params), Vec::new()))
    }

    /// A page of the list of tools has come.
    fn listed(&mut self, result: &Value) -> Result<HttpRequest, ExecutorError> {
        let tools = result["tools"].as_array();
        if let Some(tool) = tools.into_iter().flatten().find(|tool| tool["name"] == *self.config.tool) {
            self.schema = Some(tool["inputSchema"].clone());
            return self.call();
        }
        let cursor = &result["nextCursor"];
        if cursor.is_string() && self.pages < PAGES_MAX {
            return self.list(Some(cursor));
        }
        let detail = format!("{}: no tool {} in the list of tools", self.config.url, self.config.tool);
        Err(ExecutorError::fatal(cause::REFUSED, "the agent is not configured correctly", detail))
    }

    fn call(&mut self) -> Result<HttpRequest, ExecutorError> {
        self.request = Request::Call;
        let arguments = tool::arguments(&self.config, &self.listed, &self.task, self.schema.as_ref())?;
        let mut headers = Vec::new();
        if self.version == MODERN {
            headers.push(("mcp-name".to_owned(), tool::header_value(&self.config.tool)));
            headers.extend(self.schema.iter().flat_map(|schema| tool::headers(schema, &arguments)));
        }
        let params = json!({"name": self.config.tool, "arguments": arguments});
        Ok(self.send("tools/call", Some(params), headers))
    }

    /// A request, or a notification without `params`.
    fn send(&mut self, method: &str, params: Option<Value>, headers: Vec<(String, String)>) -> HttpRequest {
        let mut message = Map::new();
        message.insert("jsonrpc".to_owned(), Value::from("2.0"));
        message.insert("method".to_owned(), Value::from(method));
        let mut id = None;
        if let Some(mut params) = params {
            if self.version == MODERN {
                params["_meta"] = json!({
                    "io.modelcontextprotocol/protocolVersion": MODERN,
                    "io.modelcontextprotocol/clientInfo": client_info(),
                    "io.modelcontextprotocol/clientCapabilities": {},
                });
            }
            id = Some(self.next_id);
            self.next_id += 1;
            message.insert("id".to_owned(), Value::from(id));
            message.insert("params".to_owned(), params);
        }
        self.response = Response::new(id, self.response_bytes_max());
        let mut all = vec![
            ("content-type".to_owned(), "application/json".to_owned()),
            ("accept".to_owned(), "application/json, text/event-stream".to_owned()),
        ];
        if self.version == MODERN {
            all.push(("mcp-method".to_owned(), method.to_owned()));
        }
        all.extend(headers);
        self.http("POST", all, Value::Object(message).to_string(), self.task.deadline)
    }

    fn close(&self, now: Timestamp) -> HttpRequest {
        let deadline = self.task.deadline.min(now.saturating_add(CLOSE_SECONDS));
        self.http("DELETE", Vec::new(), String::new(), deadline)
    }

    fn http(
        &self,
        method: &'static str,
        mut headers: Vec<(String, String)>,
        body: String,
        deadline: Timestamp,
    ) -> HttpRequest {
        // The revision is negotiated by `initialize`, so that has no such header.
        if !matches!(self.request, Request::Initialize) {
            headers.push(("mcp-protocol-version".to_owned(), self.version.to_owned()));
        }
        headers.extend(self.session.iter().map(|id| ("mcp-session-id".to_owned(), id.clone())));
        headers.extend(self.bearer.as_ref().map(Bearer::header));
        HttpRequest {
            method,
            url: self.config.url.clone(),
            headers,
            body: Bytes::from(body),
            access: Access::Configured,
            allow_domains: Vec::new(),
            limits: HttpLimits { response_bytes_max: self.response_bytes_max(), deadline, redirects_max: 0 },
        }
    }

    /// Escapes in JSON take up to six times the space.
    fn response_bytes_max(&self) -> usize {
        self.task.output_bytes_max.saturating_mul(6).saturating_add(OVERHEAD_BYTES)
    }

    fn refused(&self, error: &RpcError) -> ExecutorError {
        let detail =
            format!("{}: error {}: {}", self.config.url, error.code, call::excerpt(error.message.as_bytes()));
        // -32603: internal error.
        ExecutorError {
            is_retryable: error.code == -32603,
            ..ExecutorError::fatal(cause::REFUSED, "the agent's backend refuses the request", detail)
        }
    }

    fn unsupported(&self, version: &str) -> ExecutorError {
        let version = call::excerpt(version.as_bytes());
        let detail = format!("{}: speaks version `{version}` of MCP, which is not known", self.config.url);
        ExecutorError::fatal(cause::RESPONSE, "the agent's backend gave no valid answer", detail)
    }
}

fn client_info() -> Value {
    json!({"name": "openagents-relay", "version": env!("CARGO_PKG_VERSION")})
}
