//! Authorization of the administrators' endpoints: metrics and configuration.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use relay_engine::types::{PubKey, Timestamp};
use relay_engine::verify::Verifier;

use crate::http_response::HttpResponse;
use crate::nip98::{self, Nip98Error, Payload, SignerTrust, UsedEvents};

/// The rules for administrators' endpoints, and the NIP-98 events used so far.
pub struct AdminAuth {
    token: Option<String>,
    admins: Vec<PubKey>,
    used: Mutex<UsedEvents>,
}

/// A request for an administrators' endpoint.
#[derive(Clone, Copy)]
pub struct AdminRequest<'a> {
    /// The parts of the request that a NIP-98 event must match.
    pub request: nip98::Request<'a>,
    /// The Authorization header.
    pub authorization: Option<&'a str>,
    /// Unix seconds.
    pub now: Timestamp,
    /// The verifier of signatures.
    pub verifier: &'a dyn Verifier,
}

impl fmt::Debug for AdminAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdminAuth").field("admins", &self.admins).finish_non_exhaustive()
    }
}

impl AdminAuth {
    /// `token` is for `/metrics` only; the keys in `admins` (`policy.admin_pubkeys`) may read everything.
    pub fn new(token: Option<&str>, admins: &[PubKey]) -> Self {
        AdminAuth { token: token.map(str::to_owned), admins: admins.to_vec(), used: Mutex::default() }
    }

    /// Checks that an administrator has signed this request (NIP-98). The host must pass the body to the [`Payload`].
    ///
    /// # Errors
    /// The response.
    pub fn admin(&self, asked: &AdminRequest<'_>) -> Result<Payload, HttpResponse> {
        let AdminRequest { request, authorization, now, verifier } = asked;
        let may = |author: &PubKey| self.admins.contains(author);
        let signed = nip98::check(*authorization, request, *now, *verifier, may)?;
        self.used.lock().unwrap_or_else(PoisonError::into_inner).take(
            &signed,
            SignerTrust::Permitted,
            *now,
        )?;
        Ok(signed.payload())
    }

    /// Checks whether `/metrics` may be read: by an administrator who has signed the request ([`AdminAuth::admin`], whose
    /// payload is returned then), or from an address that `is_listed`, with the token if one is configured.
    ///
    /// # Errors
    /// The response.
    pub fn metrics(
        &self,
        asked: &AdminRequest<'_>,
        is_listed: bool,
    ) -> Result<Option<Payload>, HttpResponse> {
        let is_open = is_listed && self.token.is_none();
        let is_nostr = asked.authorization.is_some_and(nip98::is_nostr);
        if is_nostr {
            match self.admin(asked) {
                Ok(payload) => return Ok(Some(payload)),
                Err(answer) if !is_open => return Err(answer),
                // Open metrics are served even if the signature is refused.
                Err(_) => {}
            }
        }
        if !is_listed {
            return Err(HttpResponse::error(403, "metrics are not available to this address"));
        }
        match &self.token {
            Some(token) if !asked.authorization.is_some_and(|given| bears(given, token)) => {
                let schemes = if self.admins.is_empty() { "Bearer" } else { "Bearer, Nostr" };
                Err(HttpResponse::error(401, "metrics require a bearer token")
                    .with("www-authenticate", schemes))
            }
            _ => Ok(None),
        }
    }
}

impl From<Nip98Error> for HttpResponse {
    fn from(refused: Nip98Error) -> Self {
        let answer = HttpResponse::error(refused.status(), refused.message());
        if refused.status() == 401 { answer.with("www-authenticate", "Nostr") } else { answer }
    }
}

/// Whether an Authorization header has the bearer `token`. Compares in constant time.
fn bears(authorization: &str, token: &str) -> bool {
    let Some((scheme, given)) = authorization.split_once(' ') else { return false };
    let (given, token) = (given.trim().as_bytes(), token.as_bytes());
    let differing = given.iter().zip(token).fold(0, |all, (a, b)| all | (a ^ b));
    scheme.eq_ignore_ascii_case("bearer")
        && given.len() == token.len()
        && std::hint::black_box(differing) == 0
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::prelude::BASE64_STANDARD;
    use relay_engine::testing::signing::{event, key};
    use relay_engine::verify::Libsecp256k1;

    use super::*;
    use crate::nip98::{KIND, Request, ServerUrl};

    const NOW: Timestamp = 1_700_000_000;

    fn status(admin_auth: &AdminAuth, authorization: Option<&str>, is_listed: bool) -> u16 {
        let request =
            Request { method: "GET", origin: ServerUrl::Host("relay.example"), path_and_query: "/metrics" };
        let asked = AdminRequest { request, authorization, now: NOW, verifier: &Libsecp256k1 };
        admin_auth.metrics(&asked, is_listed).map_or_else(|answer| answer.status, |_| 200)
    }

    fn signed_by(number: u64, serial: u64) -> String {
        let event = event(&key(number)).kind(KIND).at(NOW).content(serial.to_string());
        let event = event.tag(["u", "https://relay.example/metrics"]).tag(["method", "GET"]);
        format!("Nostr {}", BASE64_STANDARD.encode(event.sign().json()))
    }

    #[test]
    fn metrics_are_for_listed_addresses_tokens_and_administrators() {
        let admin = PubKey::from_hex(event(&key(1)).sign().pubkey.as_bytes()).unwrap();
        let open = AdminAuth::new(None, &[]);
        let closed = AdminAuth::new(Some("s3cret"), &[admin]);
        let (own, other) = (signed_by(1, 0), signed_by(2, 0));
        let cases = [
            (&open, None, true, 200),
            (&open, Some("Bearer whatever"), true, 200),
            (&open, Some("Nostr whatever"), true, 200),
            (&open, None, false, 403),
            (&open, Some(&*signed_by(1, 1)), false, 403),
            (&closed, None, true, 401),
            (&closed, Some("Bearer s3cret"), true, 200),
            (&closed, Some("Bearer s3cret"), false, 403),
            (&closed, Some("Bearer wrong"), true, 401),
            (&closed, Some(&*own), true, 200),
            // Each event authorises one request.
            (&closed, Some(&*own), true, 401),
            (&closed, Some(&*signed_by(1, 2)), false, 200),
            (&closed, Some(&*other), true, 403),
            (&closed, Some("Nostr bm8="), true, 401),
            (&closed, Some("Nostr"), true, 401),
        ];
        for (admin_auth, authorization, is_listed, want) in cases {
            assert_eq!(
                status(admin_auth, authorization, is_listed),
                want,
                "{authorization:?}, listed: {is_listed}"
            );
        }
    }

    #[test]
    fn a_token_must_match_whole() {
        let bears = |value: &str| super::bears(value, "s3cret");
        assert!(bears("Bearer s3cret") && bears("bearer  s3cret "));
        for wrong in
            ["s3cret", "Bearer", "Bearer ", "Bearer s3cre", "Bearer s3cret2", "Bearer S3cret", "Basic s3cret"]
        {
            assert!(!bears(wrong), "{wrong}");
        }
    }
}
