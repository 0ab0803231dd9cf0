//! Conversion of answers into hyper's responses.

use std::fmt::Write as _;

use http_body_util::channel::Channel;
use http_body_util::{Either, Full};
use hyper::body::Bytes;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::{Response, StatusCode};
use relay_site::{Headers, HttpResponse};

/// Any error of a body.
pub(crate) type Error = Box<dyn std::error::Error + Send + Sync>;

/// A body of one piece, or one that comes from another thread.
pub(super) type Body = Either<Full<Bytes>, Channel<Bytes, Error>>;

/// A body of one piece.
pub(super) fn whole(bytes: Bytes) -> Body {
    Either::Left(Full::new(bytes))
}

/// An answer, which has a body of one piece.
pub(super) fn response(answer: HttpResponse) -> Response<Body> {
    let mut response = Response::new(whole(answer.body));
    *response.status_mut() = StatusCode::from_u16(answer.status).expect("a status code");
    add_headers(response.headers_mut(), answer.headers.iter().map(|(name, value)| (*name, &**value)));
    response
}

/// A response as bytes, after which the connection closes: for a socket whose request is not read.
pub(super) fn raw_response(answer: &HttpResponse) -> Vec<u8> {
    let reason = StatusCode::from_u16(answer.status).ok().and_then(|status| status.canonical_reason());
    let mut bytes = format!("HTTP/1.1 {} {}\r\n", answer.status, reason.unwrap_or_default());
    for (name, value) in &answer.headers {
        let _ = write!(bytes, "{name}: {value}\r\n");
    }
    let _ = write!(bytes, "content-length: {}\r\nconnection: close\r\n\r\n", answer.body.len());
    let mut bytes = bytes.into_bytes();
    bytes.extend_from_slice(&answer.body);
    bytes
}

/// Adds headers that the relay itself sets.
pub(super) fn add_headers<'a>(headers: &mut HeaderMap, more: impl Iterator<Item = (&'static str, &'a str)>) {
    for (name, value) in more {
        let value = HeaderValue::from_str(value).expect("a header of ours is visible ASCII");
        headers.append(HeaderName::from_static(name), value);
    }
}

/// The headers of a request, as hyper keeps them.
pub(super) struct HeaderLines<'a>(pub(super) &'a HeaderMap);

impl Headers for HeaderLines<'_> {
    fn any(&self, name: &str, test: &mut dyn FnMut(&str) -> bool) -> bool {
        self.0.get_all(name).iter().any(|value| value.to_str().is_ok_and(&mut *test))
    }
}
