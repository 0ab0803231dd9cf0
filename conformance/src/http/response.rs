//! A response: its head parsed strictly, its body as it came.

use std::io;

use serde_json::Value;

/// A response as it was received.
#[derive(Clone, Debug)]
pub struct Response {
    /// The final status.
    pub status: u16,
    /// Names in lower case, values trimmed, in order.
    pub headers: Vec<(String, String)>,
    /// The body without framing.
    pub body: Vec<u8>,
    /// Interim statuses (1xx) before the final one.
    pub interim: Vec<u16>,
    /// `HTTP/1.1` or `HTTP/1.0`.
    pub version: String,
    /// The request, in short, for messages.
    pub request: String,
}

impl Response {
    /// The first header of that name (lower case).
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Every header of that name (lower case).
    #[must_use]
    pub fn all(&self, name: &str) -> Vec<&str> {
        self.headers.iter().filter(|(key, _)| key == name).map(|(_, value)| value.as_str()).collect()
    }

    /// Whether a comma-separated header contains a token, in any case.
    #[must_use]
    pub fn lists(&self, name: &str, token: &str) -> bool {
        let lists = |value: &str| value.split(',').any(|part| part.trim().eq_ignore_ascii_case(token));
        self.all(name).into_iter().any(lists)
    }

    /// The MIME type without parameters, in lower case; empty if there is none.
    #[must_use]
    pub fn mime(&self) -> String {
        let value = self.header("content-type").unwrap_or_default();
        value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
    }

    /// The body as JSON.
    #[must_use]
    pub fn json(&self) -> Option<Value> {
        serde_json::from_slice(&self.body).ok()
    }

    /// Whether the status is 2xx.
    #[must_use]
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// Status, reason and the request that led to it.
    #[must_use]
    pub fn summary(&self) -> String {
        let reason = self.header("x-reason").map_or_else(String::new, |reason| format!(" ({reason})"));
        format!("{} -> {}{reason}", self.request, self.status)
    }
}

pub(super) struct Head {
    pub(super) version: String,
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
}

impl Head {
    pub(super) fn parse(bytes: &[u8]) -> io::Result<Self> {
        let text = String::from_utf8_lossy(bytes);
        let mut lines = text.split("\r\n");
        let first = lines.next().unwrap_or_default();
        let bad = |line: &str| io::Error::other(format!("{:?} is no line of HTTP", cut(line)));
        let (version, rest) = first.split_once(' ').ok_or_else(|| bad(first))?;
        let digits = rest.get(..3).ok_or_else(|| bad(first))?;
        if !matches!(version, "HTTP/1.1" | "HTTP/1.0") || !matches!(rest.as_bytes().get(3), None | Some(b' '))
        {
            return Err(bad(first));
        }
        let status = digits.parse().map_err(|_| bad(first))?;
        let mut headers = Vec::new();
        for line in lines {
            let (name, value) = line.split_once(':').ok_or_else(|| bad(line))?;
            if name.is_empty() || name.bytes().any(|byte| byte <= b' ') {
                return Err(bad(line));
            }
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        Ok(Head { version: version.to_owned(), status, headers })
    }

    pub(super) fn has(&self, name: &str, token: &str) -> bool {
        let named = self.headers.iter().filter(|(key, _)| key == name);
        named.flat_map(|(_, value)| value.split(',')).any(|part| part.trim().eq_ignore_ascii_case(token))
    }

    pub(super) fn length(&self) -> io::Result<Option<usize>> {
        let mut found = None;
        for (_, value) in self.headers.iter().filter(|(key, _)| key == "content-length") {
            let length = value.parse().map_err(|_| io::Error::other(format!("Content-Length: {value}")))?;
            if found.is_some_and(|other| other != length) {
                return Err(io::Error::other("two Content-Length headers that differ"));
            }
            found = Some(length);
        }
        Ok(found)
    }
}

fn cut(text: &str) -> String {
    text.chars().take(60).collect()
}
