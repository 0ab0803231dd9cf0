//! NIP-42: at most one challenge a connection, any number of keys.

use crate::types::{Event, Limits, PubKey, Timestamp};

/// The kind of AUTH events.
pub(super) const AUTH_KIND: u16 = 22242;

/// What a connection has proven about itself.
#[derive(Clone, Debug)]
pub struct Auth {
    challenge: Option<Box<str>>,
    relay: Option<Box<str>>,
    keys: Vec<PubKey>,
}

/// The first rule that an AUTH event breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthRefused {
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
    pub fn check(&self, event: &Event, limits: &Limits, now: Timestamp) -> Result<(), AuthRefused> {
        if event.kind != AUTH_KIND {
            return Err(AuthRefused::Kind);
        }
        if event.created_at.abs_diff(now) > limits.auth_age_seconds_max {
            return Err(AuthRefused::Time);
        }
        let value = |name: &[u8]| event.tags().find(name);
        let challenge = self.challenge().map(str::as_bytes);
        if challenge.is_none() || value(b"challenge").as_deref() != challenge {
            return Err(AuthRefused::Challenge);
        }
        let names_us = value(b"relay").is_some_and(|url| {
            let url = String::from_utf8_lossy(&url);
            self.relay.as_deref().is_some_and(|own| same_relay(own, &url))
        });
        if !names_us {
            return Err(AuthRefused::Relay);
        }
        if self.keys.len() >= limits.auth_keys_max && !self.keys.contains(&event.pubkey) {
            return Err(AuthRefused::Keys);
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

/// Whether two relay URLs name one relay: same host, ports equal where neither is a scheme's default.
/// Scheme, path and letter case do not count, as behind a TLS proxy they differ honestly.
pub fn same_relay(a: &str, b: &str) -> bool {
    fn authority(url: &str) -> String {
        let url = url.trim();
        let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let authority = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        let authority = authority.to_ascii_lowercase();
        let bare = authority.strip_suffix(":443").or_else(|| authority.strip_suffix(":80"));
        let bare = bare.unwrap_or(&authority);
        bare.strip_suffix('.').unwrap_or(bare).to_owned()
    }
    let (a, b) = (authority(a), authority(b));
    !a.is_empty() && a == b
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
            ("ws://127.0.0.1:7777", "ws://127.0.0.1:7777/", true),
            ("127.0.0.1:7777", "ws://127.0.0.1:7778", false),
            ("127.0.0.1:7777", "ws://127.0.0.1", false),
            ("relay.example.com", "wss://evil.example.com/relay.example.com", false),
            ("relay.example.com", "wss://relay.example.com.evil.com", false),
            ("relay.example.com", "wss://relay.example.com@evil.com", false),
            ("", "", false),
        ];
        for (a, b, same) in cases {
            assert_eq!(same_relay(a, b), same, "{a} {b}");
        }
    }
}
