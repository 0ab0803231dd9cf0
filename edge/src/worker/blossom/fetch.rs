//! Fetches blobs of other servers into the bucket, and reads the relay's lists of servers.
//!
//! The runtime connects to public addresses only, whatever a name resolves to; what a URL says is checked here, and each
//! redirect.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::{Either, select};
use js_sys::Uint8Array;
use relay_agent::executor::{Access, HttpLimits, HttpRequest};
use relay_agent::fetch::{PrivateHosts, check_url, redirect};
use relay_blossom::exchange::{Receive, Received, StepError, listed_servers, server_lists};
use worker::{
    AbortController, AbortSignal, Data, Delay, Env, Error, Method, Request, RequestInit, Response,
    ResponseBody,
};

use super::bucket::{BlobStore, is_lost};
use crate::agent::message::{QUERY_PATH, decode_events, encode_filter};
use crate::settings::Settings;
use crate::worker::{calls, shards};

/// Longest time of a fetch.
const TIME_MAX: Duration = Duration::from_secs(600);
/// Longest time in which an origin tells how long a blob is.
const MEASURE_TIME_MAX: Duration = Duration::from_secs(20);
/// Redirects that are followed, each checked like the first URL.
const REDIRECTS_MAX: u32 = 3;
/// Most bytes of a blob whose origin does not say how many they are: the bucket takes only streams of known length, so that
/// these are in memory.
const UNKNOWN_BYTES_MAX: u64 = 8 << 20;

/// Stores what the first of these URLs answers with that answers. `make_room` is told how many bytes it has before they are stored.
pub(super) async fn fetch(
    bodies: &BlobStore,
    access: Access,
    urls: &[String],
    receive: &Receive,
    mut make_room: impl AsyncFnMut(u64) -> Result<(), StepError>,
) -> Result<Received, StepError> {
    let mut last = StepError::Origin("no URL".to_owned());
    for url in urls {
        let call = AbortController::default();
        let signal = call.signal();
        let fetched = Box::pin(fetch_one(bodies, access, url, receive, &signal, &mut make_room));
        last = match select(fetched, Delay::from(TIME_MAX)).await {
            Either::Left((Ok(received), _)) => return Ok(received),
            Either::Left((Err(failure), _)) => {
                // What is left of the response is not read.
                call.abort();
                if let StepError::Refused(_) | StepError::Raced = failure {
                    return Err(failure);
                }
                failure
            }
            Either::Right((_, fetched)) => {
                call.abort();
                // The put ends with its source; only then may another one begin.
                let _ = fetched.await;
                StepError::Origin("it takes too long".to_owned())
            }
        };
    }
    Err(last)
}

async fn fetch_one(
    bodies: &BlobStore,
    access: Access,
    url: &str,
    receive: &Receive,
    signal: &AbortSignal,
    make_room: &mut impl AsyncFnMut(u64) -> Result<(), StepError>,
) -> Result<Received, StepError> {
    let response = open("GET", access, url, signal).await?;
    let header = |name: &str| response.headers().get(name).ok().flatten();
    let mime = header("content-type");
    // The runtime decodes what is compressed.
    let is_encoded = header("content-encoding").is_some_and(|coding| coding != "identity");
    let announced = header("content-length").and_then(|length| length.parse::<u64>().ok());
    let length = announced.filter(|_| !is_encoded);
    if length.is_some_and(|length| length > receive.bytes_max) {
        return Err(StepError::TooLong);
    }
    let receive = Receive { length, mime: receive.mime_from(mime.as_deref()), ..receive.clone() };
    let data = match (length, response.body()) {
        (Some(0), _) => Data::Empty,
        (Some(_), ResponseBody::Stream(stream)) => Data::ReadableStream(stream.clone()),
        _ => Data::Bytes(read(response, receive.bytes_max.min(UNKNOWN_BYTES_MAX)).await?),
    };
    match &data {
        Data::Bytes(bytes) => make_room(bytes.len() as u64).await?,
        _ => make_room(length.unwrap_or(0)).await?,
    }
    match bodies.store(data, &receive).await {
        Ok(received) => Ok(Received { mime, ..received }),
        Err(failure) if failure == StepError::Incomplete || is_lost(&failure) => {
            Err(StepError::Origin("its answer ended early".to_owned()))
        }
        Err(failure) => Err(failure),
    }
}

/// The length that a URL tells of what it serves.
pub(super) async fn measure(access: Access, url: &str) -> Result<u64, StepError> {
    let call = AbortController::default();
    let signal = call.signal();
    let asked = Box::pin(open("HEAD", access, url, &signal));
    let response = match select(asked, Delay::from(MEASURE_TIME_MAX)).await {
        Either::Left((response, _)) => response?,
        Either::Right(_) => {
            call.abort();
            return Err(StepError::Origin("it takes too long".to_owned()));
        }
    };
    let length = response.headers().get("content-length").ok().flatten();
    length
        .and_then(|length| length.parse().ok())
        .ok_or_else(|| StepError::Origin("it does not tell how long the blob is".to_owned()))
}

/// The response to a request that follows redirects.
async fn open(
    method: &'static str,
    access: Access,
    url: &str,
    signal: &AbortSignal,
) -> Result<Response, StepError> {
    let mut request = HttpRequest {
        method,
        url: url.to_owned(),
        headers: vec![("accept-encoding".to_owned(), "identity".to_owned())],
        body: bytes::Bytes::new(),
        access,
        allow_domains: Vec::new(),
        limits: HttpLimits { response_bytes_max: 0, deadline: 0, redirects_max: REDIRECTS_MAX },
    };
    loop {
        check_url(&request.url, access, &PrivateHosts::default(), &[])
            .map_err(|forbidden| StepError::Forbidden(forbidden.0))?;
        let response = calls::send(&request, signal).await.map_err(origin)?;
        let (status, location) = (response.status_code(), response.headers().get("location").ok().flatten());
        match redirect(&request, status, location.as_deref()) {
            Some(next) => request = next,
            None if status == 200 => return Ok(response),
            None => return Err(StepError::Origin(format!("it answers with status {status}"))),
        }
    }
}

async fn read(mut response: Response, bytes_max: u64) -> Result<Vec<u8>, StepError> {
    let mut bytes = Vec::new();
    // A response without a body has no stream.
    let Ok(mut body) = response.stream() else { return Ok(bytes) };
    while let Some(piece) = body.next().await {
        let piece = piece.map_err(origin)?;
        if (bytes.len() + piece.len()) as u64 > bytes_max {
            return Err(StepError::TooLong);
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

fn origin(error: Error) -> StepError {
    StepError::Origin(error.to_string())
}

/// The servers that these keys name in their lists on the relay.
///
/// # Errors
/// If the relay's object does not answer.
pub(super) async fn servers(
    env: &Env,
    settings: &Settings,
    authors: &[String],
) -> Result<Vec<String>, String> {
    let message = |error: Error| error.to_string();
    let placement = &settings.placement;
    let stub = shards::stub(env, placement, placement.shards.for_connection()).map_err(message)?;
    let mut init = RequestInit::new();
    let body = Uint8Array::from(encode_filter(&server_lists(authors)).as_slice());
    init.with_method(Method::Post).with_body(Some(body.into()));
    let request = Request::new_with_init(&format!("https://relay{QUERY_PATH}"), &init).map_err(message)?;
    let mut response = stub.fetch_with_request(request).await.map_err(message)?;
    let body = response.bytes().await.map_err(message)?;
    if response.status_code() != 200 {
        return Err(format!("the relay answers with status {}", response.status_code()));
    }
    let found = decode_events(&body).map_err(|error| error.to_string())?;
    Ok(listed_servers(&found))
}
