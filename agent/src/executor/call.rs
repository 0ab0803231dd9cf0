//! What executors that make calls have in common: URLs, headers with secrets, and what a response's status means.

use url::Url;

use super::failure::cause;
use super::{ExecutorContext, ExecutorError};

/// Bytes of the body of a failed response that are kept, for the owner's log.
const ERROR_BODY_MAX: usize = 4 << 10;

/// Characters of it that are told.
const EXCERPT_MAX: usize = 300;

/// Words for customers: what went wrong is the owner's business.
const NOT_CONFIGURED: &str = "the agent is not configured correctly";

/// The value of a header: the first of its name, which is lowercase.
pub(super) fn header<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
}

/// The media type of a response in lowercase, without parameters; empty if there is none.
pub(super) fn media_type(headers: &[(String, String)]) -> String {
    let value = header(headers, "content-type").unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// The header that authorises with the token in a secret, and the token.
pub(super) fn bearer(
    name: Option<&str>,
    context: &dyn ExecutorContext,
) -> Result<Option<Bearer>, ExecutorError> {
    let Some(name) = name else { return Ok(None) };
    let wrong =
        |what: &str| ExecutorError::fatal(cause::SECRET, NOT_CONFIGURED, format!("the secret {name} {what}"));
    let token = context.secret(name).ok_or_else(|| wrong("is missing"))?.trim().to_owned();
    if token.is_empty() || !token.bytes().all(|byte| (0x21..0x7f).contains(&byte)) {
        return Err(wrong("is not a token: it is empty, or has spaces or other characters than ASCII"));
    }
    Ok(Some(Bearer { name: name.to_owned(), token }))
}

/// A token and the name of its secret.
#[derive(Clone)]
pub(super) struct Bearer {
    name: String,
    token: String,
}

impl Bearer {
    /// `authorization: Bearer ...`
    pub(super) fn header(&self) -> (String, String) {
        ("authorization".to_owned(), format!("Bearer {}", self.token))
    }

    /// What the owner should check if the token is not accepted.
    pub(super) fn hint(bearer: Option<&Self>) -> String {
        match bearer {
            Some(bearer) => format!("check the secret {}", bearer.name),
            None => "no secret is configured for it".to_owned(),
        }
    }

    /// The failure without the token, which the endpoint may have quoted.
    pub(super) fn redact(bearer: Option<&Self>, failure: ExecutorError) -> ExecutorError {
        let Some(bearer) = bearer else { return failure };
        let redact = |text: String| text.replace(&bearer.token, "***");
        ExecutorError { message: redact(failure.message), detail: redact(failure.detail), ..failure }
    }
}

/// A URL of a manifest, with further path segments.
pub(super) fn endpoint(base: &str, segments: &[&str]) -> Result<Url, ExecutorError> {
    let wrong = || ExecutorError::fatal(cause::ADDRESS, NOT_CONFIGURED, format!("{base} is not an http URL"));
    let mut url = Url::parse(base).map_err(|_| wrong())?;
    if !matches!(url.scheme(), "https" | "http") {
        return Err(wrong());
    }
    if !segments.is_empty() {
        url.path_segments_mut().map_err(|()| wrong())?.pop_if_empty().extend(segments);
    }
    url.set_fragment(None);
    Ok(url)
}

/// A response whose status is not 2xx, until its body has come.
#[derive(Clone, Debug, Default)]
pub(super) struct ErrorResponse {
    status: u16,
    retry_after: Option<u64>,
    location: Option<String>,
    body: Vec<u8>,
}

impl ErrorResponse {
    /// From status and headers.
    pub(super) fn new(status: u16, headers: &[(String, String)]) -> Self {
        ErrorResponse {
            status,
            // A date is left out: the machine waits by its own rule then.
            retry_after: header(headers, "retry-after").and_then(|value| value.trim().parse().ok()),
            location: header(headers, "location").map(str::to_owned),
            body: Vec::new(),
        }
    }

    /// The status.
    pub(super) fn status(&self) -> u16 {
        self.status
    }

    /// A piece of the body.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        let room = ERROR_BODY_MAX - self.body.len();
        self.body.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    /// The beginning of the body.
    pub(super) fn body(&self) -> &[u8] {
        &self.body
    }

    /// Why the attempt failed. `endpoint` is named in the detail; `unauthorized` is what the owner should check if the
    /// agent is not let in.
    pub(super) fn failure(&self, endpoint: &str, unauthorized: &str) -> ExecutorError {
        let detail = format!("{endpoint}: status {}: {}", self.status, excerpt(&self.body));
        match self.status {
            300..=399 => {
                let to = self.location.as_deref().unwrap_or("nowhere");
                let detail =
                    format!("{endpoint}: status {}: redirects to {to} are not followed", self.status);
                ExecutorError::fatal(cause::HTTP_STATUS, NOT_CONFIGURED, detail)
            }
            401 | 403 => {
                ExecutorError::fatal(cause::SECRET, NOT_CONFIGURED, format!("{detail} ({unauthorized})"))
            }
            429 => ExecutorError {
                is_retryable: !is_out_of_quota(&self.body),
                retry_after: self.retry_after,
                ..ExecutorError::fatal(cause::RATE_LIMITED, "the agent's backend is busy", detail)
            },
            408 | 425 | 500..=599 => ExecutorError {
                retry_after: self.retry_after,
                ..ExecutorError::retryable(cause::HTTP_STATUS, "the agent's backend has an error", detail)
            },
            _ => ExecutorError::fatal(cause::HTTP_STATUS, "the agent's backend refuses the request", detail),
        }
    }
}

/// Status 429 also stands for an account without money, where waiting does not help.
fn is_out_of_quota(body: &[u8]) -> bool {
    memchr::memmem::find(body, b"insufficient_quota").is_some()
}

/// The beginning of a body on one line.
pub(super) fn excerpt(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(ERROR_BODY_MAX)]);
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(EXCERPT_MAX).collect()
}
