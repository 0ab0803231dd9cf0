//! Building one request, sending it on a connection of its own, and what may be said of the response.

use std::time::Duration;

use serde_json::Value;

use crate::blob::Blob;
use crate::context::{Context, lock};
use crate::http::{Connection, Endpoint, Response};
use crate::nostr::{Form, Key, Token, header};
use crate::suite::{Check, TestError, fail};

/// How often a request that is answered with 429 is sent again.
const RETRIES: usize = 3;

/// Longest wait before a retry.
const RETRY_WAIT_MAX: Duration = Duration::from_secs(10);

/// A request that will be sent.
#[derive(Clone, Debug)]
pub(crate) struct Request<'a> {
    context: &'a Context,
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    body: Option<Vec<u8>>,
    keep: bool,
    malformed: bool,
}

impl<'a> Request<'a> {
    pub(crate) fn new(context: &'a Context, method: &str, path: &str) -> Self {
        Request {
            context,
            method: method.to_owned(),
            path: path.to_owned(),
            headers: Vec::new(),
            body: None,
            keep: false,
            malformed: false,
        }
    }

    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Removes a header that another method has set.
    pub(crate) fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(key, _)| !key.eq_ignore_ascii_case(name));
        self
    }

    pub(crate) fn token(self, token: &Token, key: &Key) -> Self {
        self.header("Authorization", &token.header(key))
    }

    pub(crate) fn event(self, event: &Value) -> Self {
        self.header("Authorization", &header(event, Form::Url))
    }

    /// A body with its length.
    pub(crate) fn body(mut self, bytes: &[u8]) -> Self {
        self.body = Some(bytes.to_vec());
        self
    }

    /// Only the head will be sent, without a length.
    pub(crate) fn without_body(mut self) -> Self {
        self.body = None;
        self
    }

    pub(crate) fn json(self, value: &Value) -> Self {
        self.header("Content-Type", "application/json").body(value.to_string().as_bytes())
    }

    /// A blob as body, with its type and hash.
    pub(crate) fn blob(self, blob: &Blob) -> Self {
        self.header("Content-Type", &blob.mime).header("X-SHA-256", &blob.sha256).body(&blob.bytes)
    }

    /// Keeps the connection open after the response.
    pub(crate) fn keep_alive(mut self) -> Self {
        self.keep = true;
        self
    }

    /// The head is no valid HTTP, so that the server may refuse it before it is a request: no headers are expected.
    pub(crate) fn malformed(mut self) -> Self {
        self.malformed = true;
        self
    }

    /// The head as it is sent; a body's length is in it.
    pub(crate) fn head_bytes(&self, server: &Endpoint) -> Vec<u8> {
        let mut head = format!("{} {} HTTP/1.1\r\n", self.method, self.path);
        let mut add = |name: &str, value: &str| {
            head.push_str(&format!("{name}: {value}\r\n"));
        };
        if !self.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            add("Host", &server.authority);
        }
        for (name, value) in &self.headers {
            add(name, value);
        }
        if let Some(body) = &self.body {
            add("Content-Length", &body.len().to_string());
        }
        if !self.keep {
            add("Connection", "close");
        }
        head.push_str("\r\n");
        head.into_bytes()
    }

    /// Head and body as they are sent to the server under test.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.head_bytes(&self.context.server);
        bytes.extend_from_slice(self.body.as_deref().unwrap_or_default());
        bytes
    }

    pub(crate) fn send(&self) -> Result<Response, TestError> {
        self.send_to(&self.context.server)
    }

    pub(crate) fn send_to(&self, server: &Endpoint) -> Result<Response, TestError> {
        let mut tries = 0;
        loop {
            let response = self.send_once(server)?;
            tries += 1;
            if response.status != 429 || tries > RETRIES {
                return Ok(response);
            }
            let seconds = response.header("retry-after").and_then(|value| value.parse().ok());
            std::thread::sleep(Duration::from_secs(seconds.unwrap_or(1)).min(RETRY_WAIT_MAX));
        }
    }

    fn send_once(&self, server: &Endpoint) -> Result<Response, TestError> {
        let mut connection = server.connect().map_err(|error| self.failed(&error))?;
        self.send_on(&mut connection, server)
    }

    /// Sends on a connection that is open, and reads the response.
    pub(crate) fn send_on(
        &self,
        connection: &mut Connection,
        server: &Endpoint,
    ) -> Result<Response, TestError> {
        connection.send_body(&self.head_bytes(server));
        if let Some(body) = &self.body {
            connection.send_body(body);
        }
        self.receive(connection)
    }

    /// Reads the response to this request, which was sent.
    pub(crate) fn receive(&self, connection: &mut Connection) -> Result<Response, TestError> {
        let mut response = connection.response(&self.method).map_err(|error| self.failed(&error))?;
        response.request = self.summary();
        let judged = !self.malformed && !matches!(response.status, 414 | 431);
        if judged && response.all("access-control-allow-origin") != ["*"] {
            lock(&self.context.without_cors).push(response.summary());
        }
        Ok(response)
    }

    fn failed(&self, error: &std::io::Error) -> TestError {
        TestError::Fail(format!("{}: {error}", self.summary()))
    }

    /// The request in one line: method, path, headers but for the token's text, size of the body.
    pub(crate) fn summary(&self) -> String {
        let mut text = format!("{} {}", self.method, shorten(&self.path, 100));
        for (name, value) in &self.headers {
            let value = if name == "Authorization" { describe(value) } else { shorten(value, 80) };
            text.push_str(&format!(" [{name}: {value}]"));
        }
        if let Some(body) = &self.body {
            text.push_str(&format!(" ({} bytes)", body.len()));
        }
        text
    }
}

/// What a token says, for messages.
fn describe(value: &str) -> String {
    use base64::Engine as _;
    let text = value.split_once(' ').map_or(value, |(_, text)| text);
    let url_safe = text.trim_end_matches('=').replace('+', "-").replace('/', "_");
    let event = base64::engine::general_purpose::URL_SAFE_NO_PAD
        .decode(url_safe)
        .ok()
        .and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
    match event {
        Some(event) => format!(
            "Nostr kind {} created_at {} tags {}",
            event["kind"],
            event["created_at"],
            shorten(&event["tags"].to_string(), 300)
        ),
        None => shorten(value, 60),
    }
}

fn shorten(text: &str, max: usize) -> String {
    if text.chars().count() <= max {
        return text.escape_debug().to_string().replace("\\\"", "\"");
    }
    let start: String = text.chars().take(max).collect();
    format!("{}...({} bytes)", start.escape_debug(), text.len())
}

impl Response {
    /// Fails unless the status is one of these.
    pub(crate) fn expect(&self, statuses: &[u16]) -> Result<&Self, TestError> {
        if statuses.contains(&self.status) {
            return Ok(self);
        }
        let wanted: Vec<String> = statuses.iter().map(u16::to_string).collect();
        fail(format!("{}; expected {}", self.summary(), wanted.join(" or ")))
    }

    /// Skips if the blob is served by another server.
    pub(crate) fn here(&self) -> Result<&Self, TestError> {
        if matches!(self.status, 301 | 302 | 307 | 308) {
            return Err(TestError::Skip(format!("{}: served elsewhere", self.summary())));
        }
        Ok(self)
    }

    /// Fails unless the request was refused with some 4xx, or with 501 or 507.
    pub(crate) fn expect_refusal(&self) -> Result<&Self, TestError> {
        if (400..500).contains(&self.status) || matches!(self.status, 501 | 507) {
            return Ok(self);
        }
        fail(format!("{}; expected a refusal (4xx)", self.summary()))
    }

    /// Fails if the server has broken down.
    pub(crate) fn expect_no_breakdown(&self) -> Result<&Self, TestError> {
        if self.status < 500 || matches!(self.status, 501 | 507) {
            return Ok(self);
        }
        fail(format!("{}; expected an answer below 500", self.summary()))
    }

    /// Fails unless there is such a header with this value.
    pub(crate) fn expect_header(&self, name: &str, value: &str) -> Result<&Self, TestError> {
        if self.header(name) == Some(value) {
            return Ok(self);
        }
        fail(format!("{}; expected {name}: {value}, got {:?}", self.summary(), self.all(name)))
    }

    /// Fails with the request and a text unless `holds`.
    pub(crate) fn ensure(&self, holds: bool, text: &str) -> Check {
        if holds { Ok(()) } else { fail(format!("{}; {text}", self.summary())) }
    }
}
