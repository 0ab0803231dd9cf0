//! Fetches blobs from other servers, by the client of the agents and its rules of addresses.

use relay_agent::executor::{HttpError, HttpEvent, HttpLimits, HttpRequest};
use relay_blossom::exchange::{Receive, Reservation, StepError};

use super::Blossom;
use super::store::Writing;
use crate::host::now;

/// Longest time of a fetch, in seconds.
const SECONDS_MAX: u64 = 600;
/// Redirects that are followed, each checked like the first URL.
const REDIRECTS_MAX: u32 = 3;

/// Writes what a URL answers with, and returns its type.
pub(super) async fn fetch(
    blossom: &Blossom,
    url: &str,
    receive: &Receive,
    reservation: &mut Reservation,
    writing: &mut Writing,
) -> Result<Option<String>, StepError> {
    let request = HttpRequest {
        method: "GET",
        url: url.to_owned(),
        headers: Vec::new(),
        body: hyper::body::Bytes::new(),
        access: blossom.access(),
        allow_domains: Vec::new(),
        limits: HttpLimits {
            response_bytes_max: usize::try_from(receive.bytes_max).unwrap_or(usize::MAX),
            deadline: now().seconds() + SECONDS_MAX,
            redirects_max: REDIRECTS_MAX,
        },
    };
    let mut call = blossom.client.run(request);
    let mut mime = None;
    let mut announced = None;
    while let Some(event) = call.next().await {
        match event {
            HttpEvent::Head(status, headers) => {
                if status != 200 {
                    return Err(StepError::Origin(format!("status {status}")));
                }
                let header =
                    |name: &str| headers.iter().find(|(own, _)| own == name).map(|(_, value)| value.clone());
                mime = header("content-type");
                announced = header("content-length").and_then(|length| length.parse().ok());
                if let Some(length) = announced {
                    blossom.reserve(reservation.announced(length), length).await?;
                }
            }
            HttpEvent::Chunk(bytes) => {
                writing.write(&bytes).await?;
                blossom.reserve(reservation.received(writing.size()), 0).await?;
            }
            HttpEvent::End if announced.is_some_and(|length: u64| length != writing.size()) => {
                return Err(StepError::Origin("the response ended early".to_owned()));
            }
            HttpEvent::End => return Ok(mime),
            HttpEvent::Failed(HttpError::Forbidden(why)) => return Err(StepError::Forbidden(why)),
            HttpEvent::Failed(HttpError::TooLarge) => return Err(StepError::TooLong),
            HttpEvent::Failed(HttpError::Timeout) => {
                return Err(StepError::Origin("timed out".to_owned()));
            }
            HttpEvent::Failed(HttpError::Connection(why)) => return Err(StepError::Origin(why)),
            HttpEvent::Failed(HttpError::Unsupported) => return Err(StepError::Unsupported),
        }
    }
    Err(StepError::Origin("the connection ended".to_owned()))
}
