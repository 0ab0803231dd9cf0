//! How a buyer wants the answer.

use relay_site::HttpResponse;

use super::{WAIT_SECONDS, WAIT_SECONDS_MAX};

/// How the answer is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// As server-sent events.
    pub as_stream: bool,
    /// Seconds to wait for something final.
    pub wait_seconds: u64,
}

impl Wanted {
    /// By the header `Accept` and the query.
    ///
    /// # Errors
    /// 400.
    pub fn of(accept: Option<&str>, query: &str) -> Result<Self, HttpResponse> {
        let as_stream = accept.is_some_and(|accept| accept.contains("text/event-stream"));
        let wait = url::form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "wait");
        let wait_seconds = match wait.map(|(_, value)| value.parse::<u64>()) {
            None => WAIT_SECONDS,
            Some(Ok(seconds)) => seconds.min(WAIT_SECONDS_MAX),
            Some(Err(_)) => return Err(HttpResponse::error_in(400, "wait", "must be a number of seconds")),
        };
        Ok(Wanted { as_stream, wait_seconds })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_query_and_accept_say_how() {
        for (accept, query, as_stream, wait_seconds) in [
            (None, "", false, 25),
            (Some("application/json"), "wait=3", false, 3),
            (Some("text/event-stream"), "x=1&wait=0", true, 0),
            (Some("application/json, text/event-stream;q=0.5"), "wait=999", true, 50),
        ] {
            assert_eq!(Wanted::of(accept, query).unwrap(), Wanted { as_stream, wait_seconds }, "{query}");
        }
        assert_eq!(Wanted::of(None, "wait=soon").unwrap_err().status, 400);
    }
}
