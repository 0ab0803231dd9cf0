//! Calls over HTTP, as executors make them and hosts carry them out.

use bytes::Bytes;
use relay_engine::types::Timestamp;

/// A request.
#[derive(Clone, PartialEq, Eq)]
pub struct HttpRequest {
    /// In uppercase.
    pub method: &'static str,
    /// `https://...`, or `http://` where `access` allows it.
    pub url: String,
    /// Names in lowercase. May hold secrets, so requests are not printed.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Bytes,
    /// Where it may go.
    pub access: Access,
    /// The domains to which it may go, redirects too, with their subdomains; any if empty.
    pub allow_domains: Vec<String>,
    /// How large and how long.
    pub limits: HttpLimits,
}

impl std::fmt::Debug for HttpRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("HttpRequest")
            .field("method", &self.method)
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

/// Where a request may go. Hosts check every address that a name resolves to, and every redirect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// A URL that a stranger chose: https, public addresses only.
    Public,
    /// An endpoint that the manifest names: public addresses, and those that the operator allows
    /// (`agents.allow_private_hosts`).
    Configured,
    /// Anywhere, over http too: for tests and private networks.
    Anywhere,
}

/// Limits of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HttpLimits {
    /// Largest body of a response, in bytes; a longer one is [`HttpError::TooLarge`].
    pub response_bytes_max: usize,
    /// When it must be over.
    pub deadline: Timestamp,
    /// Redirects that are followed; a further one is passed on like any response.
    pub redirects_max: u32,
}

/// What comes of a call, in this order: `Head`, `Chunk`s, `End`; or `Failed` at any time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HttpEvent {
    /// Status and headers; names in lowercase.
    Head(u16, Vec<(String, String)>),
    /// A piece of the body.
    Chunk(Bytes),
    /// The body is complete.
    End,
    /// The call has failed.
    Failed(HttpError),
}

/// Why a call failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HttpError {
    /// Its address is not allowed.
    Forbidden(String),
    /// No connection, or it broke.
    Connection(String),
    /// The time was over.
    Timeout,
    /// The response is larger than allowed.
    TooLarge,
    /// This host cannot make such calls.
    Unsupported,
}
