//! What a buyer comes back with: a token that the relay has signed, and the preimage of its invoice.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use relay_engine::types::{EventId, Kind, PubKey, Timestamp};
use relay_site::HttpResponse;
use sha2::{Digest as _, Sha256};

use super::JOB_SECONDS;
use crate::identity::Keys;

/// Bytes of a token before its signature, and of the signature.
const BODY_BYTES: usize = 2 + 8 + 32 + 32;
const MAC_BYTES: usize = 16;

/// The relay's key for tokens, and for the keys of buyers.
#[derive(Clone)]
pub struct Secret([u8; 32]);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// A job that was ordered over HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    /// The kind of its request.
    pub kind: Kind,
    /// When that was made.
    pub created_at: Timestamp,
    /// Its request.
    pub request: EventId,
    /// The payment hash of the invoice; `None` while none was sent.
    pub payment_hash: Option<[u8; 32]>,
}

impl Secret {
    /// From 32 random bytes.
    pub fn new(bytes: [u8; 32]) -> Self {
        Secret(bytes)
    }

    fn mac(&self, purpose: &[u8], agent: &PubKey, data: &[u8]) -> [u8; 32] {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("any length");
        mac.update(purpose);
        mac.update(&agent.0);
        mac.update(data);
        mac.finalize().into_bytes().into()
    }

    /// The key that signs one request to an agent; `nonce` is random and used once.
    ///
    /// # Errors
    /// Once in 2^128.
    pub fn buyer(&self, agent: &PubKey, nonce: &[u8; 32]) -> Result<Keys, HttpResponse> {
        let key = Keys::from_secret_bytes(self.mac(b"buyer", agent, nonce));
        key.map_err(|_| HttpResponse::error(503, "no key was made: try again"))
    }

    /// A token as text, for this agent only.
    pub fn write(&self, agent: &PubKey, token: &Token) -> String {
        let mut bytes = Vec::with_capacity(BODY_BYTES + MAC_BYTES);
        bytes.extend(token.kind.to_be_bytes());
        bytes.extend(token.created_at.to_be_bytes());
        bytes.extend(token.request.0);
        // No invoice has this payment hash.
        bytes.extend(token.payment_hash.unwrap_or_default());
        let mac = self.mac(b"token", agent, &bytes);
        bytes.extend_from_slice(&mac[..MAC_BYTES]);
        BASE64_URL_SAFE_NO_PAD.encode(bytes)
    }

    /// The token of a text that this relay has made for this agent.
    fn read(&self, agent: &PubKey, text: &str) -> Option<Token> {
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(text).ok()?;
        let (body, mac) = bytes.split_at_checked(BODY_BYTES)?;
        let mut expected = Hmac::<Sha256>::new_from_slice(&self.0).expect("any length");
        expected.update(b"token");
        expected.update(&agent.0);
        expected.update(body);
        (mac.len() == MAC_BYTES).then_some(())?;
        expected.verify_truncated_left(mac).ok()?;
        let hash: [u8; 32] = *body[42..].first_chunk()?;
        Some(Token {
            kind: u16::from_be_bytes(*body.first_chunk()?),
            created_at: u64::from_be_bytes(*body[2..].first_chunk()?),
            request: EventId(*body[10..].first_chunk()?),
            payment_hash: (hash != [0; 32]).then_some(hash),
        })
    }
}

/// What the header `Authorization` of a request to `/jobs` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authorization {
    /// There is none: the body is a new order.
    None,
    /// An earlier order, whose invoice, if there was one, its bearer has paid.
    Job(Token),
}

impl Authorization {
    /// Reads the header: `L402 <token>:<preimage>`, or with the older name `LSAT`. The preimage is empty where there was no invoice.
    ///
    /// # Errors
    /// 401, 410.
    pub fn read(
        header: Option<&str>,
        secret: &Secret,
        agent: &PubKey,
        now: Timestamp,
    ) -> Result<Self, HttpResponse> {
        let refused = |message| {
            Err(HttpResponse::error_in(401, "authorization", message).with("www-authenticate", "L402"))
        };
        let Some(header) = header else { return Ok(Authorization::None) };
        let scheme = |name: &str| {
            let (start, rest) = header.split_at_checked(name.len())?;
            start.eq_ignore_ascii_case(name).then_some(rest)
        };
        let Some(rest) = scheme("L402 ").or_else(|| scheme("LSAT ")) else {
            return refused("must be L402 <token>:<preimage>");
        };
        let (token, preimage) = rest.trim().split_once(':').unwrap_or((rest.trim(), ""));
        let Some(token) = secret.read(agent, token) else {
            return refused("this relay has made no such token for this agent");
        };
        if let Some(payment_hash) = token.payment_hash {
            let mut bytes = [0; 32];
            let is_hex =
                preimage.len() == 64 && faster_hex::hex_decode(preimage.as_bytes(), &mut bytes).is_ok();
            if !is_hex || Sha256::digest(bytes)[..] != payment_hash {
                return refused("the preimage is not that of the invoice");
            }
        }
        if now > token.created_at.saturating_add(JOB_SECONDS) {
            return Err(HttpResponse::error(410, "the job is over: its answers are kept for a day"));
        }
        Ok(Authorization::Job(token))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGENT: PubKey = PubKey([7; 32]);

    fn token(payment_hash: Option<[u8; 32]>) -> Token {
        Token { kind: 5050, created_at: 1_000, request: EventId([3; 32]), payment_hash }
    }

    #[test]
    fn a_token_with_its_preimage_is_its_job() {
        let secret = Secret::new([1; 32]);
        let preimage = [9; 32];
        let paid = token(Some(Sha256::digest(preimage).into()));
        let text = secret.write(&AGENT, &paid);
        let hex = "09".repeat(32);
        let read = |header: &str, now| Authorization::read(Some(header), &secret, &AGENT, now);
        for header in
            [format!("L402 {text}:{hex}"), format!("lsat  {text}:{hex}"), format!("L402 {text}:{hex} ")]
        {
            assert_eq!(read(&header, 1_001).unwrap(), Authorization::Job(paid), "{header}");
        }
        let free = secret.write(&AGENT, &token(None));
        for header in [format!("L402 {free}:"), format!("L402 {free}")] {
            assert_eq!(read(&header, 1_001).unwrap(), Authorization::Job(token(None)));
        }
        assert_eq!(Authorization::read(None, &secret, &AGENT, 0).unwrap(), Authorization::None);
        assert_eq!(read(&format!("L402 {free}:"), 1_001 + JOB_SECONDS).unwrap_err().status, 410);
    }

    #[test]
    fn another_token_or_preimage_is_refused() {
        let secret = Secret::new([1; 32]);
        let text = secret.write(&AGENT, &token(Some(Sha256::digest([9; 32]).into())));
        let hex = "09".repeat(32);
        let other_agent = secret.write(&PubKey([8; 32]), &token(None));
        let other_relay = Secret::new([2; 32]).write(&AGENT, &token(None));
        for header in [
            "".to_owned(),
            "Bearer x".to_owned(),
            "L402 ".to_owned(),
            format!("Nostr {text}:{hex}"),
            format!("L402 {text}"),
            format!("L402 {text}:{}", "08".repeat(32)),
            format!("L402 {text}:{}", &hex[2..]),
            format!("L402 {}:{hex}", &text[1..]),
            format!("L402 {other_agent}:"),
            format!("L402 {other_relay}:"),
        ] {
            let refused = Authorization::read(Some(&header), &secret, &AGENT, 1_001).unwrap_err();
            assert_eq!(refused.status, 401, "{header}");
            assert!(refused.headers.iter().any(|(name, _)| *name == "www-authenticate"));
        }
        // No bit of it may change.
        let bytes = BASE64_URL_SAFE_NO_PAD.decode(&text).unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(secret.read(&AGENT, &BASE64_URL_SAFE_NO_PAD.encode(changed)), None, "bit {bit}");
        }
    }

    #[test]
    fn every_order_has_a_key_of_its_own() {
        let secret = Secret::new([1; 32]);
        let key = |agent: u8, nonce: u8| secret.buyer(&PubKey([agent; 32]), &[nonce; 32]).unwrap().pubkey();
        assert_eq!(key(1, 1), key(1, 1));
        assert!(key(1, 1) != key(1, 2) && key(1, 1) != key(2, 1));
    }
}
