//! Bitcoin Core's libsecp256k1, one signature at a time: about 30 us each.

use secp256k1::{XOnlyPublicKey, schnorr::Signature};

use super::{Claim, Verifier};

/// libsecp256k1 as a [`Verifier`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Libsecp256k1;

impl Verifier for Libsecp256k1 {
    fn verify(&self, claims: &[Claim], valid: &mut [bool]) {
        for (claim, valid) in claims.iter().zip(valid) {
            *valid = is_valid(claim);
        }
    }
}

fn is_valid(claim: &Claim) -> bool {
    let Ok(pubkey) = XOnlyPublicKey::from_byte_array(claim.pubkey.0) else {
        return false;
    };
    let signature = Signature::from_byte_array(claim.sig.0);
    secp256k1::schnorr::verify(&signature, &claim.id.0, &pubkey).is_ok()
}
