//! Responses that are the same on both hosts: documents and errors, complete in memory.

use std::borrow::Cow;

use bytes::Bytes;
use serde_json::json;

use crate::page::{CONTENT_POLICY, ICON_SVG};

/// An HTTP response with its whole body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpResponse {
    /// The status code.
    pub status: u16,
    /// Names, in lowercase, and values.
    pub headers: Vec<(&'static str, Cow<'static, str>)>,
    /// The body.
    pub body: Bytes,
}

impl HttpResponse {
    /// A response with a body of this type.
    pub fn new(status: u16, content_type: &'static str, body: impl Into<Bytes>) -> Self {
        let headers =
            vec![("content-type", content_type.into()), ("x-content-type-options", "nosniff".into())];
        HttpResponse { status, headers, body: body.into() }
    }

    /// A response without a body.
    pub fn empty(status: u16) -> Self {
        HttpResponse { status, headers: Vec::new(), body: Bytes::new() }
    }

    /// An error: `{"error": message}`, and the message in `X-Reason`.
    pub fn error(status: u16, message: &str) -> Self {
        Self::error_document(status, json!({ "error": message }), message)
    }

    /// An error in this field of the request: `{"error": message, "field": field}`, and `field: message` in `X-Reason`.
    pub fn error_in(status: u16, field: &str, message: &str) -> Self {
        let document = json!({ "error": message, "field": field });
        Self::error_document(status, document, &format!("{field}: {message}"))
    }

    fn error_document(status: u16, document: serde_json::Value, message: &str) -> Self {
        // A header value is visible ASCII.
        let visible = |character: char| if matches!(character, ' '..='~') { character } else { '?' };
        let reason: String = message.chars().map(visible).collect();
        // Caches keep some of them otherwise (404 and 410): a client that looks before it uploads would be told so afterwards.
        HttpResponse::new(status, "application/json", format!("{document}\n"))
            .with("x-reason", reason)
            .with("cache-control", "no-store")
    }

    /// The refusal of a connection where there is no room for another.
    pub fn too_many_connections() -> Self {
        HttpResponse::error(503, "too many connections").with("retry-after", "30")
    }

    /// The refusal of a connection of an address that has `network.connections_per_address_max`.
    pub fn too_many_from_address() -> Self {
        HttpResponse::error(429, "too many connections from your address").with("retry-after", "30")
    }

    /// Adds a header.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<Cow<'static, str>>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// The NIP-11 document.
    pub fn information(document: impl Into<Bytes>) -> Self {
        HttpResponse::new(200, "application/nostr+json", document)
    }

    /// A web page, with what it may load and do.
    pub fn page(page: impl Into<Bytes>) -> Self {
        HttpResponse::new(200, "text/html; charset=utf-8", page)
            .with("content-security-policy", CONTENT_POLICY)
    }

    /// The relay's icon.
    pub fn icon() -> Self {
        HttpResponse::new(200, "image/svg+xml", ICON_SVG).with("cache-control", "public, max-age=86400")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_has_a_message_a_field_and_x_reason() {
        let answer = HttpResponse::error_in(413, "body", "too long: «é»\r\nX-Evil: 1");
        assert_eq!(answer.body, "{\"error\":\"too long: «é»\\r\\nX-Evil: 1\",\"field\":\"body\"}\n");
        let reason = answer.headers.iter().find(|(name, _)| *name == "x-reason").unwrap();
        assert_eq!(reason.1, "body: too long: ?????X-Evil: 1");
        assert_eq!(HttpResponse::error(404, "not found").body, "{\"error\":\"not found\"}\n");
    }
}
