//! Reading the response to a call: its body whole, or as a stream of events; and what comes in place of them.

use super::call::{self, ErrorResponse};
use super::sse::{Sse, SseEvent};
use super::{HttpError, HttpEvent};

/// Reads one response.
#[derive(Debug)]
pub(super) struct ResponseReader {
    whole_bytes_max: usize,
    reads_streams: bool,
    body: Body,
}

#[derive(Debug)]
enum Body {
    Awaited,
    Error(ErrorResponse),
    Stream(Sse),
    Whole(Vec<u8>),
}

/// What has come of a response. After all but [`Received::Events`] nothing more does.
#[derive(Debug)]
pub(super) enum Received {
    /// Events of a stream (`text/event-stream`), in order.
    Events(Vec<SseEvent>),
    /// The stream has ended, perhaps with an event that no blank line follows.
    StreamEnd(Option<SseEvent>),
    /// The body of a response of another type.
    Whole(Vec<u8>),
    /// A status that is not 2xx; what else became of the call does not matter.
    Error(ErrorResponse),
    /// The call has failed, or the body is larger than allowed.
    Failed(HttpError),
    /// The call has ended without a response.
    Nothing,
}

impl ResponseReader {
    /// Reads a stream event by event, which has the bound of its call, and other bodies whole, up to so many bytes.
    pub(super) fn new(whole_bytes_max: usize) -> Self {
        ResponseReader { whole_bytes_max, reads_streams: true, body: Body::Awaited }
    }

    /// Reads every body whole, up to so many bytes.
    pub(super) fn whole(whole_bytes_max: usize) -> Self {
        ResponseReader { reads_streams: false, ..ResponseReader::new(whole_bytes_max) }
    }

    /// The next event of the call. `None`: more is to come.
    pub(super) fn handle(&mut self, event: HttpEvent) -> Option<Received> {
        match (&mut self.body, event) {
            (body, HttpEvent::Head(status, headers)) => {
                *body = if !(200..300).contains(&status) {
                    Body::Error(ErrorResponse::new(status, &headers))
                } else if self.reads_streams && call::media_type(&headers) == "text/event-stream" {
                    Body::Stream(Sse::default())
                } else {
                    Body::Whole(Vec::new())
                };
                None
            }
            (Body::Awaited, HttpEvent::Chunk(_)) => None,
            (Body::Error(error), HttpEvent::Chunk(bytes)) => {
                error.push(&bytes);
                None
            }
            (Body::Stream(sse), HttpEvent::Chunk(bytes)) => Some(Received::Events(sse.push(&bytes))),
            (Body::Whole(body), HttpEvent::Chunk(bytes)) => {
                if body.len() + bytes.len() > self.whole_bytes_max {
                    return Some(Received::Failed(HttpError::TooLarge));
                }
                body.extend_from_slice(&bytes);
                None
            }
            (Body::Error(error), HttpEvent::End | HttpEvent::Failed(_)) => {
                Some(Received::Error(std::mem::take(error)))
            }
            (_, HttpEvent::Failed(error)) => Some(Received::Failed(error)),
            (Body::Awaited, HttpEvent::End) => Some(Received::Nothing),
            (Body::Stream(sse), HttpEvent::End) => Some(Received::StreamEnd(sse.finish())),
            (Body::Whole(body), HttpEvent::End) => Some(Received::Whole(std::mem::take(body))),
        }
    }
}
