//! Redirects, as far as they are followed.

use bytes::Bytes;
use url::Url;

use crate::executor::HttpRequest;

/// Headers that another origin may see; every other one may be a secret.
const HARMLESS_HEADERS: [&str; 3] = ["accept", "accept-language", "user-agent"];

/// The request that follows a response with this status and `location` header, or `None` if that response is the answer: it
/// is not a redirect, as many redirects as allowed have been followed, or a body would be sent to another origin.
///
/// The host checks the new URL like the first one ([`check_url`](super::check_url)).
pub fn redirect(request: &HttpRequest, status: u16, location: Option<&str>) -> Option<HttpRequest> {
    let redirects_max = request.limits.redirects_max.checked_sub(1)?;
    let keeps_method = match status {
        301 | 302 => matches!(request.method, "GET" | "HEAD"),
        303 => request.method == "HEAD",
        307 | 308 => true,
        _ => return None,
    };
    let from = Url::parse(&request.url).ok()?;
    let mut to = from.join(location?).ok()?;
    to.set_fragment(None);
    let mut next = HttpRequest { url: to.as_str().to_owned(), ..request.clone() };
    next.limits.redirects_max = redirects_max;
    if !keeps_method {
        next.method = "GET";
        next.body = Bytes::new();
        next.headers.retain(|(name, _)| name != "content-type");
    }
    if from.origin() != to.origin() {
        if !next.body.is_empty() {
            return None;
        }
        next.headers.retain(|(name, _)| HARMLESS_HEADERS.contains(&name.as_str()));
    }
    Some(next)
}
