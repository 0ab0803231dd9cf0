//! NIP-42: one challenge a connection, and up to `auth_keys_max` keys.

use url::Url;

use crate::types::{Event, Limits, PubKey, Timestamp};

/// The kind of AUTH events.
pub(super) const AUTH_KIND: u16 = 22242;

/// The NIP-42 state of a connection: its challenge, and the keys it has authenticated.
#[derive(Clone, Debug)]
pub struct Auth {
    challenge: Option<Box<str>>,
    relay: Option<Box<str>>,
    keys: Vec<PubKey>,
}

/// The first rule that an AUTH event breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthError {
    /// It is of another kind than 22242.
    Kind,
    /// Its `created_at` is too far off.
    Time,
    /// It does not have the connection's challenge, or none was sent.
    Challenge,
    /// It names another relay.
    Relay,
    /// The connection has as many keys as it may.
    Keys,
}

impl Auth {
    /// A connection's state before any AUTH. `challenge` is what it has been sent, `relay` the URL or host clients
    /// know the relay by.
    pub fn new(challenge: Option<Box<str>>, relay: Option<Box<str>>) -> Self {
        Auth { challenge, relay, keys: Vec::new() }
    }

    /// The challenge it was sent, if it was.
    pub fn challenge(&self) -> Option<&str> {
        self.challenge.as_deref()
    }

    /// Notes the challenge that it is sent. There is one, for as long as the connection lives.
    pub fn set_challenge(&mut self, challenge: Box<str>) {
        debug_assert!(
            self.challenge.is_none() && !challenge.is_empty(),
            "one challenge, that says something"
        );
        self.challenge = Some(challenge);
    }

    /// The URL or host that clients know the relay by, on this connection.
    pub fn relay(&self) -> Option<&str> {
        self.relay.as_deref()
    }

    /// The keys proven so far.
    pub fn keys(&self) -> &[PubKey] {
        &self.keys
    }

    /// Checks everything about an AUTH event but its id and signature, which the caller checks next.
    ///
    /// # Errors
    /// The first rule of NIP-42 that it breaks.
    pub fn check(&self, event: &Event, limits: &Limits, now: Timestamp) -> Result<(), AuthError> {
        if event.kind != AUTH_KIND {
            return Err(AuthError::Kind);
        }
        if event.created_at.abs_diff(now) > limits.auth_age_seconds_max {
            return Err(AuthError::Time);
        }
        let value = |name: &[u8]| event.tags().find(name);
        let challenge = self.challenge().map(str::as_bytes);
        if challenge.is_none() || value(b"challenge").as_deref() != challenge {
            return Err(AuthError::Challenge);
        }
        let names_us = value(b"relay").is_some_and(|url| {
            let url = String::from_utf8_lossy(&url);
            self.relay.as_deref().is_some_and(|own| same_relay(own, &url))
        });
        if !names_us {
            return Err(AuthError::Relay);
        }
        if self.keys.len() >= limits.auth_keys_max && !self.keys.contains(&event.pubkey) {
            return Err(AuthError::Keys);
        }
        Ok(())
    }

    /// Counts a key as proven.
    pub fn add(&mut self, key: PubKey) {
        if !self.keys.contains(&key) {
            self.keys.push(key);
        }
    }
}

/// Whether two URLs or hosts name the same relay, as a browser reads them: the same host, and the same port, where the
/// default ports 80 and 443 count as none. Each is a `ws`, `wss`, `http` or `https` URL or a bare host with or without
/// a port, as the Host header gives it, and is read as the WHATWG URL standard says. Scheme, path and user do not
/// count: behind a TLS proxy the first two may well differ.
pub fn same_relay(a: &str, b: &str) -> bool {
    matches!((host_and_port(a), host_and_port(b)), (Some(a), Some(b)) if a == b)
}

/// Whether `url` can be the public URL of a relay: `ws://` or `wss://` and a host.
pub fn is_relay_url(url: &str) -> bool {
    let is_ws = |scheme: &str| scheme.eq_ignore_ascii_case("ws") || scheme.eq_ignore_ascii_case("wss");
    url.split_once("://").is_some_and(|(scheme, _)| is_ws(scheme)) && host_and_port(url).is_some()
}

/// Host and port; the port of a scheme is none. In ASCII: a Unicode host is the same as its punycode.
fn host_and_port(name: &str) -> Option<(String, Option<u16>)> {
    let name = name.trim();
    let url = match name.contains("://") {
        true => Url::parse(name),
        // No user: in `mailto:me@relay` the scheme would be taken for one.
        false if name.contains('@') => return None,
        false => Url::parse(&format!("wss://{name}")),
    };
    let url = url.ok().filter(|url| matches!(url.scheme(), "ws" | "wss" | "http" | "https"))?;
    let host = url.host_str()?;
    let host = host.strip_suffix('.').unwrap_or(host).to_owned();
    let port = url.port().filter(|port| !matches!(port, 80 | 443));
    (!host.is_empty()).then_some((host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relay_urls_are_compared_by_host_and_port() {
        let cases = [
            ("wss://relay.example.com", "wss://relay.example.com/", true),
            ("relay.example.com", "wss://Relay.Example.com", true),
            ("relay.example.com:443", "wss://relay.example.com", true),
            ("wss://relay.example.com", "wss://relay.example.com:0443/", true),
            ("wss://relay.example.com", "ws://relay.example.com:80", true),
            ("wss://relay.example.com", "ws://relay.example.com:443", true),
            ("wss://relay.example.com", "WSS://relay.example.com:/", true),
            ("wss://relay.example.com", "https://relay.example.com", true),
            ("wss://relay.example.com", " wss://relay.example.com./nostr?a=b#c ", true),
            ("wss://relay.example.com", "wss://relay.example.com//", true),
            ("wss://relay.example.com/nostr/", "wss://relay.example.com", true),
            ("wss://relay.example.com", "wss://me:secret@relay.example.com", true),
            ("wss://relay.example.com", "wss:\\\\relay.example.com\\", false),
            ("wss://relay.example.com", "wss://relay%2Eexample.com", true),
            ("wss://relay.example.com", "wss://relay。example。com", true),
            ("wss://relay.exämple.com", "wss://relay.xn--exmple-cua.com", true),
            ("wss://relay.xn--exmple-cua.com", "wss://relay.EXÄMPLE.com/", true),
            ("relay.exämple.com", "wss://relay.example.com", false),
            ("ws://127.0.0.1:7777", "ws://127.0.0.1:7777/", true),
            ("127.0.0.1:7777", "ws://127.0.0.1:7778", false),
            ("127.0.0.1:7777", "ws://127.0.0.1", false),
            ("127.0.0.1:7777", "ws://127.0.0.1:07777", true),
            ("[::1]:7777", "ws://[0:0::1]:7777/", true),
            ("[::1]:7777", "ws://[::2]:7777/", false),
            ("relay.example.com", "wss://evil.example.com/relay.example.com", false),
            ("relay.example.com", "wss://relay.example.com.evil.com", false),
            ("relay.example.com", "wss://relay.example.com@evil.com", false),
            ("relay.example.com", "wss://evil.com\\@relay.example.com/", false),
            ("relay.example.com", "evil.com\\@relay.example.com/", false),
            ("relay.example.com", "wss://evil.com/@relay.example.com/", false),
            ("relay.example.com", "wss://evil.com#@relay.example.com/", false),
            ("relay.example.com", "wss://evil.com?@relay.example.com/", false),
            ("relay.example.com", "wss://relay.example.com:70000", false),
            ("relay.example.com", "wss://relay.example.com:x", false),
            ("relay.example.com", "wss://relay.example .com", false),
            ("relay.example.com", "ftp://relay.example.com", false),
            ("relay.example.com", "nostr://relay.example.com", false),
            ("relay.example.com", "mailto:me@relay.example.com", false),
            ("relay.example.com", "://relay.example.com", false),
            ("wss://", "wss://", false),
            ("wss://.", "wss://.", false),
            ("", "", false),
        ];
        for (a, b, same) in cases {
            assert_eq!(same_relay(a, b), same, "{a} {b}");
            assert_eq!(same_relay(b, a), same, "{b} {a}");
        }
    }

    #[test]
    fn a_public_url_has_a_scheme_of_websockets_and_a_host() {
        for url in ["wss://relay.example.com", "WS://[::1]:7777/", "wss://relay.exämple.com/nostr"] {
            assert!(is_relay_url(url), "{url}");
        }
        for url in
            ["", "wss://", "wss:///", "ws://a b", "ws://.", "wss://:443", "wss://a:99999", "wss:a", "a"]
        {
            assert!(!is_relay_url(url), "{url}");
        }
        assert!(!is_relay_url("https://relay.example.com"));
    }
}
