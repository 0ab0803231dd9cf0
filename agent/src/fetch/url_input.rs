//! URL inputs: texts from the web.

use bytes::Bytes;
use relay_engine::types::Timestamp;

use super::{Forbidden, PrivateHosts, check_url};
use crate::executor::{Access, HttpError, HttpEvent, HttpLimits, HttpRequest};
use crate::manifest::Network;

/// Seconds that a page may take.
const SECONDS_MAX: Timestamp = 10;

/// Redirects that are followed.
const REDIRECTS_MAX: u32 = 5;

/// The request for a URL input. It ends at `deadline`, and ten seconds after `now`.
///
/// # Errors
/// If the URL is not allowed.
pub fn get(
    url: &str,
    network: &Network,
    now: Timestamp,
    deadline: Timestamp,
) -> Result<HttpRequest, Forbidden> {
    let destination = check_url(url, Access::Public, &PrivateHosts::default(), &network.allow_domains)?;
    Ok(HttpRequest {
        method: "GET",
        url: destination.url.into(),
        headers: vec![("accept".to_owned(), "text/plain, text/*;q=0.9, application/json;q=0.9".to_owned())],
        body: Bytes::new(),
        access: Access::Public,
        allow_domains: network.allow_domains.clone(),
        limits: HttpLimits {
            response_bytes_max: network.max_fetch_bytes,
            deadline: deadline.min(now.saturating_add(SECONDS_MAX)),
            redirects_max: REDIRECTS_MAX,
        },
    })
}

/// Makes a text of what comes of such a request.
#[derive(Clone, Debug, Default)]
pub struct UrlInput {
    body: Vec<u8>,
}

impl UrlInput {
    /// The next event of the call. `Some`: the text, or why there is none, as a message for the customer; nothing more is
    /// needed then.
    pub fn handle(&mut self, event: HttpEvent) -> Option<Result<String, String>> {
        match event {
            HttpEvent::Head(status, headers) => {
                let media_type = headers.iter().find(|(name, _)| name == "content-type");
                if !(200..300).contains(&status) {
                    return Some(Err(format!("the URL answers with status {status}")));
                }
                if media_type.is_some_and(|(_, value)| !is_text(value)) {
                    return Some(Err("the URL does not serve a text".to_owned()));
                }
                None
            }
            HttpEvent::Chunk(bytes) => {
                self.body.extend_from_slice(&bytes);
                None
            }
            HttpEvent::End => Some(
                String::from_utf8(std::mem::take(&mut self.body))
                    .map(|text| text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
                    .map_err(|_| "the text of the URL is not UTF-8".to_owned()),
            ),
            HttpEvent::Failed(error) => Some(Err(match error {
                HttpError::Forbidden(_) => "the URL leads to an address that is not allowed".to_owned(),
                HttpError::Connection(_) => "the URL cannot be reached".to_owned(),
                HttpError::Timeout => "the URL takes too long".to_owned(),
                HttpError::TooLarge => "the text of the URL is too large".to_owned(),
                HttpError::Unsupported => "this agent does not read URLs".to_owned(),
            })),
        }
    }
}

/// Whether a media type is that of a text.
fn is_text(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence.starts_with("text/")
        || essence.ends_with("+json")
        || essence.ends_with("+xml")
        || ["application/json", "application/xml", "application/javascript", "application/x-ndjson"]
            .contains(&essence.as_str())
}
