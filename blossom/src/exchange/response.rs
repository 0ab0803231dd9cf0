//! Responses.

use std::borrow::Cow;
use std::ops::Range;

use bytes::Bytes;
use relay_site::Answer;
use serde::Serialize;

use super::step::Failure;
use crate::blob::Blob;
use crate::descriptor::Descriptor;
use crate::index::Refusal;
use crate::token::Defect;

/// A response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Names in lowercase, and values. `content-length` is among them where the body is not empty or the response is to HEAD.
    pub headers: Vec<(&'static str, Cow<'static, str>)>,
    /// The body. Never sent to HEAD.
    pub body: Body,
}

/// The body of a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// In memory.
    Bytes(Bytes),
    /// A stored blob, or a range of it.
    Blob {
        /// The blob.
        blob: Box<Blob>,
        /// Bytes of it, not empty; all without it.
        range: Option<Range<u64>>,
    },
}

impl Response {
    /// A response without a body.
    pub(super) fn empty(status: u16) -> Self {
        Answer::empty(status).into()
    }

    /// An error: `{"error": message}`, and the message in `X-Reason`.
    pub(super) fn error(status: u16, message: &str) -> Self {
        Answer::error(status, message).into()
    }

    /// A document.
    pub(super) fn json(status: u16, document: &impl Serialize) -> Self {
        let text = serde_json::to_string(document).expect("documents are serialisable");
        Answer::new(status, "application/json", format!("{text}\n")).into()
    }

    /// The descriptor of a blob.
    pub(super) fn descriptor(status: u16, base_url: &str, blob: &Blob) -> Self {
        Self::json(status, &Descriptor::new(base_url, blob))
    }

    /// The host has given an input that does not follow from the step, or goes on after the end.
    pub(super) fn internal() -> Self {
        Self::error(500, "internal error")
    }

    /// Adds a header.
    #[must_use]
    pub(super) fn with(mut self, name: &'static str, value: impl Into<Cow<'static, str>>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// With the length, which responses to HEAD have too.
    pub(super) fn complete(mut self, is_head: bool) -> Self {
        let length = match &self.body {
            Body::Bytes(bytes) => bytes.len() as u64,
            Body::Blob { range: Some(range), .. } => range.end - range.start,
            Body::Blob { blob, range: None } => blob.size,
        };
        if (length > 0 || is_head) && !matches!(self.status, 204 | 304) {
            self.headers.push(("content-length", length.to_string().into()));
        }
        self
    }
}

impl From<Answer> for Response {
    fn from(Answer { status, headers, body }: Answer) -> Self {
        Response { status, headers, body: Body::Bytes(body) }
    }
}

impl From<Defect> for Response {
    /// 401 for every defect of a token: at that clients sign again.
    fn from(defect: Defect) -> Self {
        Self::error(401, defect.message()).with("www-authenticate", "Nostr")
    }
}

impl From<Refusal> for Response {
    fn from(refusal: Refusal) -> Self {
        let (status, message) = match refusal {
            Refusal::Banned => (403, "this blob is banned here"),
            Refusal::KeyQuota => (429, "your blobs here have as many bytes as a key may have"),
            Refusal::TotalQuota => (507, "this server has no room left"),
            Refusal::TooMany => (429, "too many uploads of yours, or for you, are under way"),
            Refusal::NotOwner => (403, "this blob belongs to others"),
            Refusal::Gone => {
                (503, "the blob was deleted meanwhile, or the upload took too long: begin again")
            }
            Refusal::OtherLength => (400, "Upload-Length differs from that of the parts before"),
        };
        let response = Self::error(status, message);
        match refusal {
            Refusal::TooMany | Refusal::Gone => response.with("retry-after", "5"),
            _ => response,
        }
    }
}

impl From<Failure> for Response {
    /// What has failed, in plain words. The messages of stores are for the operator's log only.
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::TooLong => Self::error(413, "the body is too long"),
            Failure::Incomplete => Self::error(400, "the body ended before its length"),
            Failure::Stalled => Self::error(408, "the body did not go on for too long"),
            Failure::WrongHash => Self::error(409, "the SHA-256 of the bytes is another one"),
            Failure::Refused(refusal) => refusal.into(),
            Failure::Full => Self::error(507, "this server has no room left"),
            Failure::Store(_) => unavailable("the store has failed; try again"),
            Failure::Forbidden(why) => Self::error(403, &format!("that address may not be fetched: {why}")),
            Failure::Origin(why) => Self::error(502, &format!("the origin gives no blob: {why}")),
            Failure::Unprocessable(why) => Self::error(422, &why),
            Failure::Unsupported => Self::error(501, "this server cannot do that"),
        }
    }
}

/// 503: the client is to try again soon.
pub(super) fn unavailable(message: &str) -> Response {
    Response::error(503, message).with("retry-after", "5")
}

/// The bytes of the blob are being removed at this moment, and that takes longer than the host has waited.
pub(super) fn busy() -> Response {
    unavailable("the blob is being removed; try again")
}
