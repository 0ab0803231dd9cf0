//! Signed events in `Authorization: Nostr` headers: what NIP-98 and Blossom (BUD-11) have in common.

use base64::Engine as _;
use base64::alphabet::{Alphabet, STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use relay_engine::types::Event;
use relay_engine::verify::{Verifier, verify_one};
use relay_engine::wire::parse_event;

/// The event of a header, read but not verified: [`AuthEvent::is_authentic`] does that.
#[derive(Clone, Debug)]
pub struct AuthEvent {
    /// The event.
    pub event: Event,
    /// Whether its id is its hash.
    id_is_right: bool,
}

/// A header or body holds no event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAnEvent;

impl AuthEvent {
    /// Reads an event as JSON.
    ///
    /// # Errors
    /// If it is none.
    pub fn parse(json: &[u8]) -> Result<Self, NotAnEvent> {
        let raw = parse_event(json).map_err(|_| NotAnEvent)?;
        let event = raw.to_event();
        Ok(AuthEvent { id_is_right: raw.compute_id() == event.id, event })
    }

    /// Reads the token of a header: the Base64 of an event, in any of its four forms ([`decode`]).
    ///
    /// # Errors
    /// If it is none.
    pub fn decode(token: &str) -> Result<Self, NotAnEvent> {
        Self::parse(&decode(token).ok_or(NotAnEvent)?)
    }

    /// Whether the id is the event's hash and the signature its author's.
    pub fn is_authentic(&self, verifier: &dyn Verifier) -> bool {
        self.id_is_right && verify_one(verifier, self.event.clone()).is_some()
    }
}

/// The token of an `Authorization: Nostr` header; `None` if there is no header or it is of another scheme.
pub fn token(authorization: Option<&str>) -> Option<&str> {
    let (scheme, token) = authorization?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("nostr").then(|| token.trim())
}

/// Decodes Base64 with the standard or the URL-safe alphabet, with or without padding: clients write all four.
pub fn decode(token: &str) -> Option<Vec<u8>> {
    let is_url_safe = token.contains(['-', '_']);
    engine(if is_url_safe { &URL_SAFE } else { &STANDARD }).decode(token).ok()
}

const fn engine(alphabet: &Alphabet) -> GeneralPurpose {
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    GeneralPurpose::new(alphabet, config)
}

/// Whether a Host header names this machine. A server without a configured URL does not know its own name: by any other name than
/// loopback a request may have been signed for another server, which forwards it.
pub fn is_loopback(host: &str) -> bool {
    use url::Host;
    let Ok(url) = url::Url::parse(&format!("http://{host}")) else { return false };
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use base64::prelude::{BASE64_STANDARD, BASE64_STANDARD_NO_PAD, BASE64_URL_SAFE, BASE64_URL_SAFE_NO_PAD};
    use relay_engine::testing::signing::{event, key};
    use relay_engine::verify::Libsecp256k1;

    use super::*;

    #[test]
    fn all_four_forms_of_base64_are_read() {
        // These bytes have `+` and `/` in one alphabet, `-` and `_` in the other, and need padding.
        let bytes: &[u8] = &[0xfb, 0xef, 0xff, 0xff, 0xfe, 0, 1];
        for engine in [BASE64_STANDARD, BASE64_STANDARD_NO_PAD, BASE64_URL_SAFE, BASE64_URL_SAFE_NO_PAD] {
            let text = engine.encode(bytes);
            assert_eq!(decode(&text).as_deref(), Some(bytes), "{text}");
        }
        for text in ["+-AA", "{}", "A", "AA=A", "AA AA"] {
            assert_eq!(decode(text), None, "{text}");
        }
    }

    #[test]
    fn a_token_is_what_follows_the_scheme() {
        let cases = [
            (Some("Nostr abc"), Some("abc")),
            (Some("nostr  abc "), Some("abc")),
            (Some("Nostr"), None),
            (Some("Bearer abc"), None),
            (None, None),
        ];
        for (header, want) in cases {
            assert_eq!(token(header), want, "{header:?}");
        }
    }

    #[test]
    fn an_event_is_genuine_if_id_and_signature_are() {
        let signed = event(&key(1)).content("hello").sign();
        let cases = [
            (signed.json(), true),
            (signed.forged().json(), false),
            (signed.fields().set("content", "\"changed\"").json(), false),
        ];
        for (json, want) in cases {
            let event = AuthEvent::decode(&BASE64_URL_SAFE_NO_PAD.encode(&json)).unwrap();
            assert_eq!(event.is_authentic(&Libsecp256k1), want, "{json}");
        }
        assert_eq!(AuthEvent::decode("e30").map(|_| ()), Err(NotAnEvent));
    }

    #[test]
    fn this_machines_own_names() {
        let cases = [
            ("localhost", true),
            ("127.0.0.1:7777", true),
            ("[::1]:80", true),
            ("relay.example", false),
            ("localhost@relay.example", false),
            ("", false),
        ];
        for (host, want) in cases {
            assert_eq!(is_loopback(host), want, "{host}");
        }
    }
}
