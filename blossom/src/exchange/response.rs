//! Responses.

use std::borrow::Cow;
use std::ops::Range;

use bytes::Bytes;
use relay_site::HttpResponse;
use serde::Serialize;

use super::step::StepError;
use crate::blob::Blob;
use crate::descriptor::Descriptor;
use crate::index::Refusal;
use crate::token::TokenError;

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
        HttpResponse::empty(status).into()
    }

    /// An error: `{"error": message}`, and the message in `X-Reason`.
    pub(super) fn error(status: u16, message: &str) -> Self {
        HttpResponse::error(status, message).into()
    }

    /// A document.
    pub(super) fn json(status: u16, document: &impl Serialize) -> Self {
        let text = serde_json::to_string(document).expect("documents are serialisable");
        HttpResponse::new(status, "application/json", format!("{text}\n")).into()
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

impl From<HttpResponse> for Response {
    fn from(HttpResponse { status, headers, body }: HttpResponse) -> Self {
        Response { status, headers, body: Body::Bytes(body) }
    }
}

impl From<TokenError> for Response {
    /// 401 for every defect of a token, because clients sign a new token only then.
    fn from(defect: TokenError) -> Self {
        Self::error(401, defect.message()).with("www-authenticate", "Nostr")
    }
}

impl From<Refusal> for Response {
    fn from(refusal: Refusal) -> Self {
        let (status, message) = match refusal {
            Refusal::Banned => (403, "this blob is banned here"),
            Refusal::KeyQuota => (429, "storage quota exceeded"),
            Refusal::TotalQuota => (507, "this server has no room left"),
            Refusal::TooMany => (429, "too many of your uploads are in progress"),
            Refusal::NotOwner => (403, "this blob belongs to others"),
            Refusal::Gone => {
                (503, "the blob was deleted meanwhile, or the upload took too long: begin again")
            }
            Refusal::Unpaid => (
                503,
                "the blob was here and free, and was deleted meanwhile: send it again to be told the price",
            ),
            Refusal::OtherLength => (400, "Upload-Length differs from that of the parts before"),
        };
        let response = Self::error(status, message);
        match refusal {
            Refusal::TooMany | Refusal::Gone | Refusal::Unpaid => response.with("retry-after", "5"),
            _ => response,
        }
    }
}

impl From<StepError> for Response {
    /// What has failed, in plain words. The messages of stores are for the operator's log only.
    fn from(failure: StepError) -> Self {
        match failure {
            StepError::TooLong => Self::error(413, "the body is too long"),
            StepError::Incomplete => Self::error(400, "the body ended before its length"),
            StepError::Stalled => Self::error(408, "no data received for too long"),
            StepError::WrongHash => Self::error(409, "SHA-256 does not match"),
            StepError::Raced => unavailable("somebody else has uploaded the blob meanwhile; send it again"),
            StepError::Refused(refusal) => refusal.into(),
            StepError::Full => Self::error(507, "this server has no room left"),
            StepError::Store(_) => unavailable("the store has failed; try again"),
            StepError::Forbidden(why) => Self::error(403, &format!("that address may not be fetched: {why}")),
            StepError::Origin(why) => Self::error(502, &format!("the origin returned no blob: {why}")),
            StepError::Unprocessable(why) => Self::error(422, &why),
            StepError::Unsupported => Self::error(501, "this server cannot do that"),
        }
    }
}

/// 503: the client is to try again soon.
pub(super) fn unavailable(message: &str) -> Response {
    Response::error(503, message).with("retry-after", "5")
}

/// Another request fetches the blob from other servers, and that takes longer than the host has waited.
pub(super) fn pulling() -> Response {
    unavailable("the blob is being fetched from another server; try again")
}

/// The bytes of the blob are being removed at this moment, and that takes longer than the host has waited.
pub(super) fn busy() -> Response {
    unavailable("the blob is being removed; try again")
}
