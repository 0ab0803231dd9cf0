//! The model's `PUT /mirror`, with SSRF protection.

use std::net::IpAddr;
use std::time::Duration;

use relay_conformance::http::Endpoint;
use relay_conformance::nostr::sha256;
use serde_json::Value;
use url::Url;

use super::http::{BLOB_BYTES_MAX, Request, Response};
use super::tokens::Hash;
use super::{Bug, Model};

fn refuse<T>(status: u16, reason: &str) -> Result<T, Box<Response>> {
    Err(Box::new(Response::error(status, reason)))
}

impl Model {
    pub(crate) fn mirror(&self, request: &Request) -> Result<Response, Box<Response>> {
        let early = self.token(request, "upload", &Hash::Later)?;
        if early.is_none() && !self.setup.open {
            return refuse(401, "a token is needed");
        }
        let body: Value = serde_json::from_slice(&request.body).unwrap_or_default();
        let Some(text) = body["url"].as_str().filter(|text| text.contains("://")) else {
            return refuse(400, "no url");
        };
        let strict = text.split("://").nth(1).is_some_and(|rest| !rest.starts_with('/') && !rest.is_empty());
        let Ok(url) = Url::parse(text) else { return refuse(400, "no url") };
        if !strict && url.scheme().starts_with("http") {
            return refuse(400, "no host");
        }
        if self.has(Bug::MirrorNeedsHashInPath) && url.path().len() < 60 {
            return refuse(400, "no hash in the url");
        }
        let (bytes, mime) = self.fetch(&url, 0)?;
        let hash = sha256(&bytes);
        let owner = match self.token(request, "upload", &Hash::Required(&hash)) {
            Ok(owner) => owner,
            Err(_) if self.has(Bug::MirrorsAnyHash) => early,
            Err(_) => {
                if self.has(Bug::StoresMirrorMismatch) {
                    self.keep(&hash, &bytes, &mime, None);
                }
                return refuse(409, "not the blob of the token");
            }
        };
        let mime = if self.has(Bug::MirrorUntyped) { "application/octet-stream" } else { &mime };
        Ok(self.keep(&hash, &bytes, mime, owner.as_deref()))
    }

    fn fetch(&self, url: &Url, hops: usize) -> Result<(Vec<u8>, String), Box<Response>> {
        let untyped =
            if self.has(Bug::MirrorsUntypedAsText) { "text/plain" } else { "application/octet-stream" };
        if !matches!(url.scheme(), "http" | "https") {
            if self.has(Bug::AnyScheme) || (self.has(Bug::FollowsFiles) && hops > 0) {
                let bytes = std::fs::read(url.path()).unwrap_or_else(|_| b"x".to_vec());
                return Ok((bytes, "text/plain".to_owned()));
            }
            return refuse(400, "http and https only");
        }
        if hops > 3 && !(self.has(Bug::EndlessRedirects) && hops < 30) {
            return refuse(502, "too many redirects");
        }
        if !self.may_reach(url) {
            return refuse(403, "not a public address");
        }
        let plain = url.as_str().replacen("https://", "http://", 1);
        let Ok(server) = Endpoint::new(&plain, Duration::from_secs(2)) else { return refuse(502, "no host") };
        let Ok(mut connection) = server.connect() else { return refuse(502, "no answer") };
        let head = format!("GET {} HTTP/1.1\r\nHost: {}\r\n\r\n", url.path(), server.authority);
        connection.send_body(head.as_bytes());
        let response = match connection.response("GET") {
            Ok(response) => response,
            Err(_) if self.has(Bug::HugeMirrors) => return Ok((Vec::new(), untyped.to_owned())),
            Err(error) if self.has(Bug::StoresCutMirrors) && error.to_string().contains("300 of") => {
                return self.fetch_cut(url);
            }
            Err(_) => return refuse(502, "the origin broke off"),
        };
        if let Some(location) = response.header("location") {
            if self.has(Bug::NoRedirects) {
                return refuse(502, "a redirect");
            }
            let Ok(next) = url.join(location) else { return refuse(502, "a bad redirect") };
            return self.fetch(&next, hops + 1);
        }
        if self.has(Bug::MirrorNeedsLength) && response.header("content-length").is_none() {
            return refuse(502, "no length");
        }
        if response.status != 200 || response.body.len() as u64 > BLOB_BYTES_MAX {
            return refuse(502, "the origin does not have it");
        }
        let mime = response.header("content-type").unwrap_or(untyped).to_owned();
        Ok((response.body, mime))
    }

    /// What an origin sent before it broke off.
    fn fetch_cut(&self, url: &Url) -> Result<(Vec<u8>, String), Box<Response>> {
        use std::io::{Read, Write};
        let address = (url.host_str().unwrap_or_default(), url.port().unwrap_or(80));
        let Ok(mut socket) = std::net::TcpStream::connect(address) else { return refuse(502, "no answer") };
        let _ = write!(socket, "GET {} HTTP/1.1\r\n\r\n", url.path());
        let mut bytes = Vec::new();
        let _ = socket.read_to_end(&mut bytes);
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n").unwrap_or_default();
        Ok((bytes[end + 4..].to_vec(), "application/octet-stream".to_owned()))
    }

    fn may_reach(&self, url: &Url) -> bool {
        if self.setup.private_allowed || self.has(Bug::Unguarded) {
            return true;
        }
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
        let is_literal = host.parse::<IpAddr>().is_ok();
        if self.has(Bug::GuardsLiteralsOnly) && !is_literal {
            return true;
        }
        if self.has(Bug::GuardsNamesOnly) && is_literal {
            return true;
        }
        self.has(Bug::GuardsV4Only) && host.contains(':')
    }
}
