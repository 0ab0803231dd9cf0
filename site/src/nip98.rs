//! NIP-98: an HTTP request authorised by a signed event. Pure: the caller supplies time and verifier.
//!
//! It uses the engine's parser and verifier. The `nostr` crate would add a second C libsecp256k1 and its own event types to
//! the Worker.

use std::collections::BTreeSet;

use relay_engine::types::{Event, EventId, Kind, PubKey, Timestamp};
use relay_engine::verify::Verifier;
use sha2::{Digest, Sha256};
use url::Url;

use crate::authorization::{AuthEvent, token};

/// Whether an Authorization header is of NIP-98's scheme.
pub fn is_nostr(authorization: &str) -> bool {
    authorization.get(..6).is_some_and(|scheme| scheme.eq_ignore_ascii_case("nostr "))
}

/// The kind of the events.
pub const KIND: Kind = 27235;

/// Largest difference between an event's `created_at` and now, in seconds.
pub const AGE_SECONDS_MAX: Timestamp = 60;

/// Largest number of used events remembered at a time, of permitted signers and of unknown ones each. When there are
/// that many of permitted signers, new requests are refused until the oldest is two minutes old; of unknown signers the oldest is forgotten.
pub const USED_EVENTS_MAX: usize = 16_384;

/// The relay's own URL, to which a request was sent, as far as the relay knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerUrl<'a> {
    /// The public URL, `http(s)` or `ws(s)`; its path precedes the request's.
    Url(&'a str),
    /// The Host header, if no URL is configured. Then the scheme is not compared, and the client chooses the host.
    Host(&'a str),
}

/// The parts of a request that an event must match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request<'a> {
    /// In uppercase.
    pub method: &'a str,
    /// The host it was sent to.
    pub origin: ServerUrl<'a>,
    /// Path and query, from the first slash on.
    pub path_and_query: &'a str,
}

/// The first rule of NIP-98 that a request breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nip98Error {
    /// No `Authorization: Nostr`.
    Missing,
    /// The token is not the Base64 of an event.
    Malformed,
    /// The kind is not 27235.
    Kind,
    /// `created_at` is more than a minute from now.
    Time,
    /// The `u` tag names another URL.
    Url,
    /// The `method` tag names another method.
    Method,
    /// The `payload` tag is not 64 hexadecimal digits, or not the SHA-256 of the body.
    Payload,
    /// The id is not the event's hash, or the signature not its author's.
    Signature,
    /// The author is not authorised.
    Author,
    /// The event has already authorised a request.
    Replayed,
    /// [`USED_EVENTS_MAX`] events were used within two minutes, so no further one can be remembered.
    Busy,
}

impl Nip98Error {
    /// The status of the response.
    pub fn status(self) -> u16 {
        match self {
            Nip98Error::Author => 403,
            Nip98Error::Busy => 503,
            _ => 401,
        }
    }

    /// The message for the client.
    pub fn message(self) -> &'static str {
        match self {
            Nip98Error::Missing => {
                "authorization required (NIP-98): send `Authorization: Nostr` with a signed event in Base64"
            }
            Nip98Error::Malformed => "the Authorization header has no event in Base64",
            Nip98Error::Kind => "the event is not of kind 27235",
            Nip98Error::Time => "the event's created_at is more than 60 seconds from now",
            Nip98Error::Url => "the event's u tag is not the URL of this request",
            Nip98Error::Method => "the event's method tag is not the method of this request",
            Nip98Error::Payload => "the event's payload tag is not the SHA-256 of the body",
            Nip98Error::Signature => "the event's id or signature is wrong",
            Nip98Error::Author => "the event's author is not authorised",
            Nip98Error::Replayed => "the event has been used: each authorises one request",
            Nip98Error::Busy => "too many signed requests; try again in two minutes",
        }
    }
}

/// A request with a verified signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifiedRequest {
    /// The event's author.
    pub pubkey: PubKey,
    /// The hash in the `payload` tag, if there is one.
    payload: Option<[u8; 32]>,
    id: EventId,
    created_at: Timestamp,
}

impl VerifiedRequest {
    /// The event's id.
    pub fn id(&self) -> EventId {
        self.id
    }

    /// The event's time.
    pub fn created_at(&self) -> Timestamp {
        self.created_at
    }

    /// Whether the event names the hash of the body.
    pub fn has_payload(&self) -> bool {
        self.payload.is_some()
    }

    /// The check of the body, to which the body is passed in pieces.
    pub fn payload(&self) -> Payload {
        Payload { hash: Sha256::new(), want: self.payload }
    }
}

/// Compares a body, passed in pieces, with the signed hash.
#[derive(Clone, Debug)]
pub struct Payload {
    hash: Sha256,
    want: Option<[u8; 32]>,
}

impl Payload {
    /// The next bytes of the body.
    pub fn update(&mut self, bytes: &[u8]) {
        if self.want.is_some() {
            self.hash.update(bytes);
        }
    }

    /// The body has ended. Only now may its effects become visible. An event without a `payload` tag matches any body.
    ///
    /// # Errors
    /// [`Nip98Error::Payload`].
    pub fn finish(self) -> Result<(), Nip98Error> {
        match self.want {
            Some(want) if want != <[u8; 32]>::from(self.hash.finalize()) => Err(Nip98Error::Payload),
            _ => Ok(()),
        }
    }
}

/// Checks everything except whether the event has been used before, which [`UsedEvents::take`] does. `may` says which authors are
/// authorised.
///
/// # Errors
/// The first rule that is broken.
pub fn check(
    authorization: Option<&str>,
    request: &Request<'_>,
    now: Timestamp,
    verifier: &dyn Verifier,
    may: impl FnOnce(&PubKey) -> bool,
) -> Result<VerifiedRequest, Nip98Error> {
    let token = token(authorization).ok_or(Nip98Error::Missing)?;
    let signed = AuthEvent::decode(token).map_err(|_| Nip98Error::Malformed)?;
    let event = &signed.event;
    if event.kind != KIND {
        return Err(Nip98Error::Kind);
    }
    if event.created_at.abs_diff(now) > AGE_SECONDS_MAX {
        return Err(Nip98Error::Time);
    }
    let tag = |name: &[u8]| event.tags().find(name).map(|value| String::from_utf8_lossy(&value).into_owned());
    if !tag(b"u").is_some_and(|url| request.is_at(&url)) {
        return Err(Nip98Error::Url);
    }
    if !tag(b"method").is_some_and(|method| method.eq_ignore_ascii_case(request.method)) {
        return Err(Nip98Error::Method);
    }
    let payload = tag(b"payload").map(|hex| hash(&hex)).transpose()?;
    let Event { id, pubkey, created_at, .. } = *event;
    if !signed.is_authentic(verifier) {
        return Err(Nip98Error::Signature);
    }
    // Checked last, so that forged events do not reveal which authors are authorised.
    if !may(&pubkey) {
        return Err(Nip98Error::Author);
    }
    Ok(VerifiedRequest { pubkey, payload, id, created_at })
}

fn hash(hex: &str) -> Result<[u8; 32], Nip98Error> {
    // An event id has the form of a SHA-256.
    let id = EventId::from_hex(hex.to_ascii_lowercase().as_bytes()).map_err(|_| Nip98Error::Payload)?;
    Ok(id.0)
}

impl Request<'_> {
    /// Whether `named` is the URL of this request. Both are parsed by the WHATWG URL standard: schemes and hosts in any case,
    /// with or without the default port. A fragment is ignored, since it is never sent to a server.
    fn is_at(&self, named: &str) -> bool {
        let Ok(mut named) = Url::parse(named) else { return false };
        named.set_fragment(None);
        let url = match self.origin {
            ServerUrl::Url(url) => {
                let Some((scheme, rest)) = url.trim().split_once("://") else { return false };
                let is_secure = matches!(&*scheme.to_ascii_lowercase(), "wss" | "https");
                let base = rest.split(['?', '#']).next().unwrap_or_default().trim_end_matches('/');
                format!("{}://{base}{}", if is_secure { "https" } else { "http" }, self.path_and_query)
            }
            ServerUrl::Host(host) if matches!(named.scheme(), "http" | "https") => {
                format!("{}://{host}{}", named.scheme(), self.path_and_query)
            }
            ServerUrl::Host(_) => return false,
        };
        Url::parse(&url).is_ok_and(|url| url == named)
    }
}

/// Events that have authorised a request and are still recent enough to be replayed. Those of unknown signers are in a
/// set of their own: any key may sign a request for its own data, so a flood of them must not refuse others.
#[derive(Debug, Default)]
pub struct UsedEvents {
    permitted: BTreeSet<(Timestamp, EventId)>,
    unknown: BTreeSet<(Timestamp, EventId)>,
}

/// How far the signer of an event is trusted, for [`UsedEvents::take`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignerTrust {
    /// A key with permissions that not every key has: administrators, deployers, owners, operators.
    Permitted,
    /// Any key.
    Unknown,
}

impl UsedEvents {
    /// Marks an event as used. It is forgotten once it is too old to be accepted, or earlier if its signer is unknown
    /// and [`USED_EVENTS_MAX`] newer ones of unknown signers are remembered.
    ///
    /// # Errors
    /// [`Nip98Error::Replayed`] if it was used before, [`Nip98Error::Busy`] if [`USED_EVENTS_MAX`] others of permitted
    /// signers are remembered.
    pub fn take(
        &mut self,
        signed: &VerifiedRequest,
        author: SignerTrust,
        now: Timestamp,
    ) -> Result<(), Nip98Error> {
        let oldest = now.saturating_sub(AGE_SECONDS_MAX);
        for used in [&mut self.permitted, &mut self.unknown] {
            while used.first().is_some_and(|(created_at, _)| *created_at < oldest) {
                used.pop_first();
            }
        }
        let entry = (signed.created_at, signed.id);
        if self.permitted.contains(&entry) || self.unknown.contains(&entry) {
            return Err(Nip98Error::Replayed);
        }
        match author {
            SignerTrust::Permitted if self.permitted.len() >= USED_EVENTS_MAX => {
                return Err(Nip98Error::Busy);
            }
            SignerTrust::Permitted => self.permitted.insert(entry),
            SignerTrust::Unknown => {
                if self.unknown.len() >= USED_EVENTS_MAX {
                    self.unknown.pop_first();
                }
                self.unknown.insert(entry)
            }
        };
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use base64::prelude::{BASE64_STANDARD as BASE64, Engine as _};
    use relay_engine::testing::signing::{Draft, event, key, lower_hex};
    use relay_engine::verify::Libsecp256k1;

    use super::*;

    const NOW: Timestamp = 1_700_000_000;
    const URL: &str = "https://relay.example/metrics?all=1";

    fn draft() -> Draft {
        event(&key(1)).kind(KIND).at(NOW).tag(["u", URL]).tag(["method", "GET"])
    }

    fn header(json: &str) -> String {
        format!("Nostr {}", BASE64.encode(json))
    }

    fn checked(header: &str, origin: ServerUrl<'_>) -> Result<VerifiedRequest, Nip98Error> {
        let request = Request { method: "GET", origin, path_and_query: "/metrics?all=1" };
        let own = PubKey::from_hex(draft().sign().pubkey.as_bytes()).unwrap();
        check(Some(header), &request, NOW, &Libsecp256k1, |author| *author == own)
    }

    #[test]
    fn each_rule_of_nip98_is_checked() {
        let sign = |draft: Draft| header(&draft.sign().json());
        let plain = event(&key(1)).kind(KIND).at(NOW);
        let good = draft().sign();
        let cases = [
            ("as it should be", sign(draft()), Ok(())),
            ("scheme in any case", sign(draft()).replacen("Nostr", "nostr", 1), Ok(())),
            ("without padding", sign(draft()).trim_end_matches('=').to_owned(), Ok(())),
            ("a minute old", sign(draft().at(NOW - 60)), Ok(())),
            ("a minute ahead", sign(draft().at(NOW + 60)), Ok(())),
            ("method in any case", sign(plain.clone().tag(["u", URL]).tag(["method", "get"])), Ok(())),
            ("with content", sign(draft().content("hello")), Ok(())),
            ("the hash of a body", sign(draft().tag(["payload", &"AB".repeat(32)])), Ok(())),
            ("no token", "Nostr".to_owned(), Err(Nip98Error::Missing)),
            ("another scheme", "Bearer abc".to_owned(), Err(Nip98Error::Missing)),
            ("no base64", "Nostr {}".to_owned(), Err(Nip98Error::Malformed)),
            ("no event", header("{}"), Err(Nip98Error::Malformed)),
            ("another kind", sign(draft().kind(22242)), Err(Nip98Error::Kind)),
            ("too old", sign(draft().at(NOW - 61)), Err(Nip98Error::Time)),
            ("too far ahead", sign(draft().at(NOW + 61)), Err(Nip98Error::Time)),
            ("no url", sign(plain.clone().tag(["method", "GET"])), Err(Nip98Error::Url)),
            ("no method", sign(plain.clone().tag(["u", URL])), Err(Nip98Error::Method)),
            (
                "another method",
                sign(plain.clone().tag(["u", URL]).tag(["method", "POST"])),
                Err(Nip98Error::Method),
            ),
            ("no hash of a body", sign(draft().tag(["payload", "abc"])), Err(Nip98Error::Payload)),
            (
                "another author",
                sign(event(&key(2)).kind(KIND).at(NOW).tag(["u", URL]).tag(["method", "GET"])),
                Err(Nip98Error::Author),
            ),
            ("a forged signature", header(&good.forged().json()), Err(Nip98Error::Signature)),
            (
                "another id",
                header(&good.fields().set("content", "\"changed\"").json()),
                Err(Nip98Error::Signature),
            ),
        ];
        for (what, header, want) in cases {
            let got = checked(&header, ServerUrl::Url("wss://relay.example"));
            assert_eq!(got.map(|_| ()), want, "{what}");
        }
        let request = Request { method: "GET", origin: ServerUrl::Host("a"), path_and_query: "/" };
        assert_eq!(check(None, &request, NOW, &Libsecp256k1, |_| true), Err(Nip98Error::Missing));
    }

    #[test]
    fn urls_are_compared_as_urls() {
        use ServerUrl::{Host, Url};
        let at = "https://relay.example/metrics?all=1";
        let cases = [
            (Url("wss://relay.example"), at, true),
            (Url("https://Relay.Example:443/"), at, true),
            (Url("wss://relay.example"), "HTTPS://RELAY.example:443/metrics?all=1#part", true),
            (Url("wss://relay.example/nostr/"), "https://relay.example/nostr/metrics?all=1", true),
            (Url("ws://relay.example:7777"), "http://relay.example:7777/metrics?all=1", true),
            (Url("wss://relay.example"), "http://relay.example/metrics?all=1", false),
            (Url("wss://relay.example"), "wss://relay.example/metrics?all=1", false),
            (Url("wss://relay.example"), "https://relay.example/metrics", false),
            (Url("wss://relay.example"), "https://relay.example/metrics?all=2", false),
            (Url("wss://relay.example"), "https://relay.example/METRICS?all=1", false),
            (Url("wss://relay.example"), "https://relay.example:444/metrics?all=1", false),
            (Url("wss://relay.example"), "https://user@relay.example/metrics?all=1", false),
            (Url("wss://relay.example"), "https://relay.example.evil/metrics?all=1", false),
            (Url("wss://relay.example"), "/metrics?all=1", false),
            (Host("relay.example"), at, true),
            (Host("relay.example"), "http://relay.example/metrics?all=1", true),
            (Host("127.0.0.1:7777"), "http://127.0.0.1:7777/metrics?all=1", true),
            (Host("relay.example"), "https://other.example/metrics?all=1", false),
            (Host(""), at, false),
        ];
        for (origin, named, want) in cases {
            let request = Request { method: "GET", origin, path_and_query: "/metrics?all=1" };
            assert_eq!(request.is_at(named), want, "{named} at {origin:?}");
        }
    }

    #[test]
    fn a_body_is_hashed_in_pieces() {
        let body = b"a body that comes in pieces";
        let hash = lower_hex(&Sha256::digest(body));
        let signed =
            |draft: Draft| checked(&header(&draft.sign().json()), ServerUrl::Host("relay.example")).unwrap();
        let finish = |signed: &VerifiedRequest, body: &[u8]| {
            let mut payload = signed.payload();
            body.chunks(5).for_each(|piece| payload.update(piece));
            payload.finish()
        };
        let with = signed(draft().tag(["payload", &hash]));
        assert_eq!(finish(&with, body), Ok(()));
        assert_eq!(finish(&with, b""), Err(Nip98Error::Payload));
        assert_eq!(finish(&with, &body[1..]), Err(Nip98Error::Payload));
        assert_eq!(finish(&signed(draft()), body), Ok(()), "an event without a payload tag matches any body");
    }

    #[test]
    fn a_header_of_another_scheme_is_not_nip_98s() {
        for (header, want) in [
            ("Nostr e30=", true),
            ("nostr e30=", true),
            ("Basic dXNlcg==", false),
            ("Nostr", false),
            ("Nostré", false),
            ("", false),
        ] {
            assert_eq!(is_nostr(header), want, "{header}");
        }
    }

    #[test]
    fn an_event_authorises_one_request() {
        let mut used = UsedEvents::default();
        assert_eq!(used.take(&signed(0, NOW + 60), SignerTrust::Permitted, NOW), Ok(()));
        for later in [0, 60, 120] {
            for author in [SignerTrust::Permitted, SignerTrust::Unknown] {
                assert_eq!(used.take(&signed(0, NOW + 60), author, NOW + later), Err(Nip98Error::Replayed));
            }
        }
        for serial in 1..USED_EVENTS_MAX as u64 {
            assert_eq!(used.take(&signed(serial, NOW), SignerTrust::Permitted, NOW), Ok(()));
        }
        let one_more = signed(USED_EVENTS_MAX as u64, NOW);
        assert_eq!(used.take(&one_more, SignerTrust::Permitted, NOW), Err(Nip98Error::Busy));
        let later = used.take(&one_more, SignerTrust::Permitted, NOW + 61);
        assert_eq!(later, Ok(()), "the others are too old to be replayed");
        assert_eq!(used.permitted.len(), 2);
    }

    /// Regression: with one set for all, 140 signed requests a second by throwaway keys locked out owners and administrators.
    #[test]
    fn unknown_signers_do_not_fill_the_memory_of_permitted_ones() {
        let mut used = UsedEvents::default();
        let count = USED_EVENTS_MAX as u64;
        for serial in 0..count + 1 {
            assert_eq!(used.take(&signed(serial, NOW), SignerTrust::Unknown, NOW), Ok(()));
        }
        assert_eq!(used.unknown.len(), USED_EVENTS_MAX);
        let replayed = (0..count + 1).filter(|serial| {
            let entry = signed(*serial, NOW);
            used.unknown.contains(&(entry.created_at, entry.id))
        });
        assert_eq!(replayed.count(), USED_EVENTS_MAX, "one was forgotten");
        assert_eq!(used.take(&signed(count + 1, NOW), SignerTrust::Permitted, NOW), Ok(()));
    }

    fn signed(serial: u64, created_at: Timestamp) -> VerifiedRequest {
        let id = EventId(Sha256::digest(serial.to_le_bytes()).into());
        VerifiedRequest { pubkey: PubKey([0; 32]), payload: None, id, created_at }
    }
}
