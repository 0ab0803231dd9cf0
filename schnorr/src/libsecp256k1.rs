//! Bitcoin Core's C library libsecp256k1: the reference in tests, and used where it is faster.

use secp256k1::XOnlyPublicKey;
use secp256k1::schnorr::Signature;

use crate::Claim;

/// Whether the claim is valid, by libsecp256k1; the key is parsed each time.
pub(crate) fn is_valid(claim: &Claim) -> bool {
    let Ok(key) = XOnlyPublicKey::from_byte_array(claim.key) else { return false };
    let signature = Signature::from_byte_array(claim.signature);
    secp256k1::schnorr::verify(&signature, &claim.message, &key).is_ok()
}
