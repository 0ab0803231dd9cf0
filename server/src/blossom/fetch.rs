//! Fetches blobs from other servers, by the client of the agents and its rules of addresses.

use relay_agent::executor::{HttpError, HttpEvent, HttpLimits, HttpRequest};
use relay_blossom::exchange::{Receive, Reservation, StepError};

use super::Blossom;
use super::store::Writing;
use crate::host::now;

/// Longest time of a fetch, in seconds.
const SECONDS_MAX: u64 = 600;
/// Longest time in which an origin tells how long a blob is, in seconds.
const MEASURE_SECONDS_MAX: u64 = 20;
/// Redirects that are followed, each checked like the first URL.
const REDIRECTS_MAX: u32 = 3;

/// The length that a URL tells of what it serves.
pub(super) async fn measure(blossom: &Blossom, url: &str) -> Result<u64, StepError> {
    let mut call = blossom.client.run(request(blossom, "HEAD", url, usize::MAX, MEASURE_SECONDS_MAX));
    let length = |headers: &[(String, String)]| {
        headers.iter().find(|(name, _)| name == "content-length").and_then(|(_, value)| value.parse().ok())
    };
    match call.next().await {
        Some(HttpEvent::Head(200, headers)) => length(&headers)
            .ok_or_else(|| StepError::Origin("it does not tell how long the blob is".to_owned())),
        Some(HttpEvent::Head(status, _)) => Err(StepError::Origin(format!("status {status}"))),
        Some(HttpEvent::Failed(error)) => Err(failed(error)),
        Some(HttpEvent::Chunk(_) | HttpEvent::End) | None => {
            Err(StepError::Origin("the connection ended".to_owned()))
        }
    }
}

fn request(
    blossom: &Blossom,
    method: &'static str,
    url: &str,
    bytes_max: usize,
    seconds: u64,
) -> HttpRequest {
    HttpRequest {
        method,
        url: url.to_owned(),
        headers: Vec::new(),
        body: hyper::body::Bytes::new(),
        access: blossom.access(),
        allow_domains: Vec::new(),
        limits: HttpLimits {
            response_bytes_max: bytes_max,
            deadline: now().seconds() + seconds,
            redirects_max: REDIRECTS_MAX,
        },
    }
}

fn failed(error: HttpError) -> StepError {
    match error {
        HttpError::Forbidden(why) => StepError::Forbidden(why),
        HttpError::TooLarge => StepError::TooLong,
        HttpError::Timeout => StepError::Origin("timed out".to_owned()),
        HttpError::Connection(why) => StepError::Origin(why),
        HttpError::Unsupported => StepError::Unsupported,
    }
}

/// Writes what a URL answers with, and returns its type.
pub(super) async fn fetch(
    blossom: &Blossom,
    url: &str,
    receive: &Receive,
    reservation: &mut Reservation,
    writing: &mut Writing,
) -> Result<Option<String>, StepError> {
    let bytes_max = usize::try_from(receive.bytes_max).unwrap_or(usize::MAX);
    let mut call = blossom.client.run(request(blossom, "GET", url, bytes_max, SECONDS_MAX));
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
            HttpEvent::Failed(error) => return Err(failed(error)),
        }
    }
    Err(StepError::Origin("the connection ended".to_owned()))
}
