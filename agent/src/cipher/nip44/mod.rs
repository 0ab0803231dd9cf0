//! NIP-44, version 2: HKDF, padding, ChaCha20, HMAC-SHA256, base64.

#[cfg(test)]
mod vectors;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use chacha20::ChaCha20;
use chacha20::cipher::{KeyIvInit as _, StreamCipher as _};
use hkdf::Hkdf;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use super::{CipherError, TEXT_MAX};

const VERSION: u8 = 2;
/// Version, nonce and MAC.
const OVERHEAD: usize = 1 + 32 + 32;
/// Of one byte of text: the overhead, its length in two bytes, and 32 bytes of padded text.
const PAYLOAD_MIN: usize = OVERHEAD + 2 + 32;
/// Of [`TEXT_MAX`] bytes, whose length takes six.
const PAYLOAD_MAX: usize = OVERHEAD + 6 + TEXT_MAX;
/// From this many bytes on a text has the long form of the length (six bytes).
const LONG: usize = 1 << 16;

/// What all messages between two keys are encrypted under.
pub(super) fn conversation_key(shared_x: &[u8; 32]) -> [u8; 32] {
    Hkdf::<Sha256>::extract(Some(b"nip44-v2"), shared_x).0.into()
}

struct MessageKeys {
    chacha_key: [u8; 32],
    chacha_nonce: [u8; 12],
    hmac_key: [u8; 32],
}

impl MessageKeys {
    fn new(conversation_key: &[u8; 32], nonce: &[u8; 32]) -> Self {
        let mut keys = [0; 76];
        Hkdf::<Sha256>::from_prk(conversation_key)
            .expect("as long as a hash")
            .expand(nonce, &mut keys)
            .expect("shorter than 255 hashes");
        let (chacha_key, rest) = keys.split_first_chunk().expect("76 bytes");
        let (chacha_nonce, hmac_key) = rest.split_first_chunk().expect("44 bytes");
        let hmac_key = hmac_key.try_into().expect("32 bytes");
        MessageKeys { chacha_key: *chacha_key, chacha_nonce: *chacha_nonce, hmac_key }
    }

    fn apply(&self, text: &mut [u8]) {
        ChaCha20::new(&self.chacha_key.into(), &self.chacha_nonce.into()).apply_keystream(text);
    }

    /// The MAC of nonce and encrypted text.
    fn mac(&self, nonce: &[u8; 32], text: &[u8]) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.hmac_key).expect("any length");
        mac.update(nonce);
        mac.update(text);
        mac
    }
}

pub(super) fn encrypt(
    conversation_key: &[u8; 32],
    text: &str,
    nonce: &[u8; 32],
) -> Result<String, CipherError> {
    let keys = MessageKeys::new(conversation_key, nonce);
    let mut text = pad(text)?;
    keys.apply(&mut text);
    let mac = keys.mac(nonce, &text).finalize().into_bytes();
    Ok(BASE64_STANDARD.encode([&[VERSION], &nonce[..], &text, &mac].concat()))
}

/// A payload, decoded.
pub(super) struct Payload {
    nonce: [u8; 32],
    text: Vec<u8>,
    mac: [u8; 32],
}

/// Decodes a payload and checks its version and bounds.
pub(super) fn decode(payload: &str) -> Result<Payload, CipherError> {
    if payload.starts_with('#') {
        return Err(CipherError::Version(b'#'));
    }
    if payload.len() > PAYLOAD_MAX.div_ceil(3) * 4 {
        return Err(CipherError::Length);
    }
    let bytes = BASE64_STANDARD.decode(payload).map_err(|_| CipherError::Malformed)?;
    if bytes.len() < PAYLOAD_MIN {
        return Err(CipherError::Malformed);
    }
    let (&version, rest) = bytes.split_first().expect("checked above");
    if version != VERSION {
        return Err(CipherError::Version(version));
    }
    let (nonce, rest) = rest.split_first_chunk().expect("checked above");
    let (text, mac) = rest.split_last_chunk().expect("checked above");
    Ok(Payload { nonce: *nonce, text: text.to_vec(), mac: *mac })
}

pub(super) fn decrypt(conversation_key: &[u8; 32], payload: Payload) -> Result<String, CipherError> {
    let keys = MessageKeys::new(conversation_key, &payload.nonce);
    // In constant time.
    keys.mac(&payload.nonce, &payload.text)
        .verify_slice(&payload.mac)
        .map_err(|_| CipherError::Unauthentic)?;
    let mut text = payload.text;
    keys.apply(&mut text);
    unpad(&text)
}

/// The length to which a text is padded, without its length field.
fn padded_len(len: usize) -> usize {
    let chunk = (len.next_power_of_two() / 8).max(32);
    len.next_multiple_of(chunk)
}

fn pad(text: &str) -> Result<Vec<u8>, CipherError> {
    let len = text.len();
    if len == 0 || len > TEXT_MAX {
        return Err(CipherError::Length);
    }
    let mut padded = Vec::with_capacity(6 + padded_len(len));
    if len < LONG {
        padded.extend_from_slice(&(len as u16).to_be_bytes());
    } else {
        padded.extend_from_slice(&[0, 0]);
        padded.extend_from_slice(&(len as u32).to_be_bytes());
    }
    padded.extend_from_slice(text.as_bytes());
    padded.resize(padded.len() - len + padded_len(len), 0);
    Ok(padded)
}

fn unpad(padded: &[u8]) -> Result<String, CipherError> {
    let (short, rest) = padded.split_first_chunk().ok_or(CipherError::Malformed)?;
    let (len, rest) = match u16::from_be_bytes(*short) {
        0 => {
            let (long, rest) = rest.split_first_chunk().ok_or(CipherError::Malformed)?;
            let len = u32::from_be_bytes(*long) as usize;
            if len < LONG {
                return Err(CipherError::Malformed);
            }
            (len, rest)
        }
        len => (usize::from(len), rest),
    };
    if len > TEXT_MAX || rest.len() != padded_len(len) {
        return Err(CipherError::Malformed);
    }
    String::from_utf8(rest[..len].to_vec()).map_err(|_| CipherError::Malformed)
}
