//! NIP-19: npub and nsec.

use bech32::primitives::decode::CheckedHrpstring;
use bech32::{Bech32, Hrp};
use relay_engine::types::PubKey;

/// The prefix of public keys.
pub(super) const NPUB: Hrp = Hrp::parse_unchecked("npub");
/// The prefix of private keys.
pub(super) const NSEC: Hrp = Hrp::parse_unchecked("nsec");

/// A public key as an npub.
pub fn npub(key: &PubKey) -> String {
    encode(NPUB, &key.0)
}

/// Reads a public key: an npub or 64 hexadecimal digits. `None` also if it is not the x of a point on the curve, so nobody
/// can have it.
pub fn parse_pubkey(text: &str) -> Option<PubKey> {
    let key = decode(NPUB, text).or_else(|| decode_hex(text))?;
    secp256k1::XOnlyPublicKey::from_byte_array(key).ok()?;
    Some(PubKey(key))
}

pub(super) fn encode(prefix: Hrp, key: &[u8; 32]) -> String {
    bech32::encode::<Bech32>(prefix, key).expect("32 bytes are not too long")
}

/// The 32 bytes behind a prefix; Bech32m and other lengths are refused.
pub(super) fn decode(prefix: Hrp, text: &str) -> Option<[u8; 32]> {
    // Longer texts are not keys; 63 characters are an npub.
    if text.len() > 90 {
        return None;
    }
    let checked = CheckedHrpstring::new::<Bech32>(text).ok()?;
    if checked.hrp() != prefix {
        return None;
    }
    let bytes: Vec<u8> = checked.byte_iter().collect();
    bytes.try_into().ok()
}

/// 64 hexadecimal digits, in either case.
pub(super) fn decode_hex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    let is_hex = text.len() == 64 && faster_hex::hex_decode(text.as_bytes(), &mut bytes).is_ok();
    is_hex.then_some(bytes)
}
