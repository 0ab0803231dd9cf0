//! Signed requests to a relay's API.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use relay_agent::api::is_loopback;
use relay_agent::identity::{Draft, Keys};
use relay_site::nip98;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::exit::Failure;
use super::remote::refused;
use crate::agents::tls;

/// Where a relay is.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Base {
    /// `http://host:port`, where it is reached.
    at: String,
    /// The public URL that signatures name.
    signed: String,
}

impl Base {
    /// A URL that the user gave: `http(s)://` or `ws(s)://`.
    pub(super) fn of_url(url: &str) -> Result<Self, Failure> {
        let at = as_http(url)
            .ok_or_else(|| Failure::Usage(format!("--url {url}: expected http:// or https://")))?;
        Ok(Base { signed: at.clone(), at })
    }

    /// The relay that listens here. Its signatures name `url` if it has one.
    pub(super) fn of_local(listen: &str, url: Option<&str>) -> Self {
        let (host, port) = listen.rsplit_once(':').unwrap_or((listen, "7777"));
        // Nobody connects to «all addresses».
        let host = match host {
            "0.0.0.0" => "127.0.0.1",
            "[::]" => "[::1]",
            host => host,
        };
        let at = format!("http://{host}:{port}");
        Base { signed: url.and_then(as_http).unwrap_or_else(|| at.clone()), at }
    }

    /// Whether it is on this machine.
    fn is_local(&self) -> bool {
        is_loopback(self.at.split_once("://").map_or(&*self.at, |(_, host)| host))
    }
}

fn as_http(url: &str) -> Option<String> {
    let (scheme, rest) = url.trim().split_once("://")?;
    let scheme = match &*scheme.to_ascii_lowercase() {
        "http" | "ws" => "http",
        "https" | "wss" => "https",
        _ => return None,
    };
    Some(format!("{scheme}://{}", rest.trim_end_matches('/')))
}

/// A client of one relay, with a key.
pub(super) struct Client {
    base: Base,
    keys: Keys,
    http: reqwest::Client,
}

impl Client {
    pub(super) fn new(base: Base, keys: Keys) -> Result<Self, Failure> {
        let failed = |error: &dyn std::fmt::Display| Failure::External(format!("cannot set up TLS: {error}"));
        let tls = tls::config(tls::roots()).map_err(|error| failed(&error))?;
        let mut http = reqwest::Client::builder();
        if base.is_local() {
            // Proxies of the environment are for other machines.
            http = http.no_proxy();
        }
        let http = http
            .tls_backend_preconfigured(tls)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| failed(&error))?;
        Ok(Client { base, keys, http })
    }

    /// Sends a request and returns the document of the response; null if it has none.
    pub(super) async fn send(
        &self,
        method: &str,
        path: &str,
        body: Option<Vec<u8>>,
    ) -> Result<Value, Failure> {
        let response = self.response(method, path, body).await?;
        let bytes = response.bytes().await.map_err(|error| self.unreachable(&error))?;
        if bytes.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&bytes).map_err(|error| {
            Failure::External(format!("{} does not answer with JSON: {error}", self.base.at))
        })
    }

    /// Passes on the lines of a response as they come. Ends with it, or when `line` fails.
    pub(super) async fn lines(
        &self,
        path: &str,
        mut line: impl FnMut(&str) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let mut response = self.response("GET", path, None).await?;
        let mut rest = Vec::new();
        while let Some(piece) = response.chunk().await.map_err(|error| self.unreachable(&error))? {
            rest.extend_from_slice(&piece);
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let whole: Vec<u8> = rest.drain(..=end).collect();
                let text = String::from_utf8_lossy(&whole);
                // A relay that has nothing to say sends empty lines from time to time.
                if !text.trim().is_empty() {
                    line(text.trim_end())?;
                }
            }
        }
        Ok(())
    }

    async fn response(
        &self,
        method: &str,
        path: &str,
        body: Option<Vec<u8>>,
    ) -> Result<reqwest::Response, Failure> {
        let body = body.unwrap_or_default();
        let verb = method.parse().map_err(|_| Failure::Usage(format!("{method} is not an HTTP method")))?;
        let response = self
            .http
            .request(verb, format!("{}{path}", self.base.at))
            .header("authorization", self.authorization(method, path, &body))
            .header("content-type", "application/json")
            .body(body)
            .send()
            .await
            .map_err(|error| self.unreachable(&error))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = response.bytes().await.unwrap_or_default();
        let document: Value = serde_json::from_slice(&body).unwrap_or_default();
        let words = document["error"].as_str().unwrap_or("no reason is given");
        let words = match document["field"].as_str() {
            Some(field) => format!("{field}: {words}"),
            None => words.to_owned(),
        };
        match status.is_client_error() {
            true => Err(refused(&format!("refused ({}): {words}", status.as_u16()))),
            false => Err(Failure::External(format!("the relay failed ({}): {words}", status.as_u16()))),
        }
    }

    /// An event that authorises this request only.
    fn authorization(&self, method: &str, path: &str, body: &[u8]) -> String {
        let tag = |name: &str, value: String| vec![name.to_owned(), value];
        let mut nonce = [0; 8];
        // Two requests of one second need events that differ; if they do not, the second is refused.
        let _ = getrandom::fill(&mut nonce);
        let event = self.keys.sign(&Draft {
            created_at: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            kind: nip98::KIND,
            tags: vec![
                tag("u", format!("{}{path}", self.base.signed)),
                tag("method", method.to_owned()),
                tag("payload", Sha256::digest(body).iter().map(|byte| format!("{byte:02x}")).collect()),
                tag("nonce", u64::from_le_bytes(nonce).to_string()),
            ],
            content: String::new(),
        });
        format!("Nostr {}", BASE64_STANDARD.encode(event.json()))
    }

    fn unreachable(&self, error: &reqwest::Error) -> Failure {
        let mut words = Vec::new();
        let mut next: Option<&(dyn std::error::Error + 'static)> = std::error::Error::source(error);
        while let Some(error) = next {
            words.push(error.to_string());
            next = error.source();
        }
        let why = words.pop().unwrap_or_else(|| error.to_string());
        Failure::External(format!("no answer from {}: {why}", self.base.at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_local_relay_is_reached_where_it_listens_and_named_by_its_url() {
        let base = |at: &str, signed: &str| Base { at: at.to_owned(), signed: signed.to_owned() };
        let cases = [
            (("127.0.0.1:7777", None), base("http://127.0.0.1:7777", "http://127.0.0.1:7777")),
            (("0.0.0.0:80", None), base("http://127.0.0.1:80", "http://127.0.0.1:80")),
            (("[::]:80", None), base("http://[::1]:80", "http://[::1]:80")),
            (
                ("0.0.0.0:80", Some("wss://relay.example/")),
                base("http://127.0.0.1:80", "https://relay.example"),
            ),
        ];
        for ((listen, url), want) in cases {
            assert_eq!(Base::of_local(listen, url), want);
        }
        assert_eq!(
            Base::of_url("wss://relay.example/").unwrap(),
            base("https://relay.example", "https://relay.example")
        );
        assert!(Base::of_url("relay.example").is_err());
    }
}
