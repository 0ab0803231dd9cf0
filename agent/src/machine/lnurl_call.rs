//! A call to the service of a Lightning address (LUD-16), by the same way as those of executors.

use relay_engine::types::{Now, Timestamp};

use super::EffectId;
use crate::executor::{Access, HttpError, HttpEvent, HttpLimits, HttpRequest};

/// Seconds after which the host ends a call; and milliseconds after which the agent gives it up, should the host not say that it has ended.
const ANSWER_SECONDS: Timestamp = 10;
const ANSWER_MILLIS_MAX: u64 = 15_000;
/// Largest answer, in bytes: its metadata (LUD-06) may have a picture.
const ANSWER_BYTES_MAX: usize = 256 << 10;
/// Redirects that are followed: people redirect `/.well-known` of their own domain to a service.
const REDIRECTS_MAX: u32 = 3;
/// Why there is no answer, if it does not come.
pub(super) const TOO_LONG: &str = "it takes too long";

/// A call that is under way.
#[derive(Debug)]
pub(super) struct LnurlCall {
    pub(super) id: EffectId,
    /// In milliseconds since 1970.
    pub(super) deadline: u64,
    status: u16,
    body: Vec<u8>,
}

impl LnurlCall {
    pub(super) fn new(now: Now, id: EffectId) -> Self {
        LnurlCall { id, deadline: now.millis() + ANSWER_MILLIS_MAX, status: 0, body: Vec::new() }
    }

    /// The request. A service on this machine is the owner's choice; targets of redirects are not, so none is followed then.
    pub(super) fn request(now: Now, url: &str, is_loopback: bool) -> HttpRequest {
        HttpRequest {
            method: "GET",
            url: url.to_owned(),
            headers: vec![("accept".to_owned(), "application/json".to_owned())],
            body: bytes::Bytes::new(),
            access: if is_loopback { Access::Configured } else { Access::Public },
            allow_domains: Vec::new(),
            limits: HttpLimits {
                response_bytes_max: ANSWER_BYTES_MAX,
                deadline: now.seconds() + ANSWER_SECONDS,
                redirects_max: if is_loopback { 0 } else { REDIRECTS_MAX },
            },
        }
    }

    /// Something has come of the call; the body once it is whole, or why there is none.
    pub(super) fn answer(&mut self, event: HttpEvent) -> Option<Result<Vec<u8>, String>> {
        Some(match event {
            HttpEvent::Head(status, _) => {
                self.status = status;
                return None;
            }
            HttpEvent::Chunk(bytes) if self.body.len() + bytes.len() <= ANSWER_BYTES_MAX => {
                self.body.extend_from_slice(&bytes);
                return None;
            }
            HttpEvent::Chunk(_) | HttpEvent::Failed(HttpError::TooLarge) => {
                Err("its answer is too large".to_owned())
            }
            HttpEvent::End if (200..300).contains(&self.status) => Ok(std::mem::take(&mut self.body)),
            HttpEvent::End => Err(format!("it answers with status {}", self.status)),
            HttpEvent::Failed(HttpError::Forbidden(why)) => Err(format!("it may not be called: {why}")),
            HttpEvent::Failed(HttpError::Connection(_)) => Err("it cannot be reached".to_owned()),
            HttpEvent::Failed(HttpError::Timeout) => Err(TOO_LONG.to_owned()),
            HttpEvent::Failed(HttpError::Unsupported) => Err("this host makes no calls".to_owned()),
        })
    }
}
