//! Batches of signatures on every tier, in batches and one by one, compared with libsecp256k1.

use relay_schnorr::{Claim, Tier, Verifier};
use secp256k1::{Keypair, XOnlyPublicKey, schnorr};

use relay_simulator::Choices;

/// Upper bound of claims per input: more would only be slower.
const CLAIMS_MAX: usize = 48;

/// Runs `data` as a list of claims: signed ones, random ones, and mixtures of earlier ones.
///
/// # Panics
/// If a batch, a single claim and libsecp256k1 disagree on any tier of this machine.
pub fn schnorr(data: &[u8]) {
    let mut choices = Choices::from_bytes(data);
    let author_cache_bytes = [0, 1_000, 100_000, 1 << 24][choices.index(4)];
    let batch_len = 1 + choices.index(20);
    let mut claims: Vec<Claim> = Vec::new();
    while !choices.is_exhausted() && claims.len() < CLAIMS_MAX {
        let claim = claim(&mut choices, &claims);
        claims.push(claim);
    }
    let expected: Vec<bool> = claims.iter().map(holds).collect();
    for tier in Tier::ALL {
        let Some(verifier) = Verifier::with_tier(*tier) else { continue };
        let mut verifier = verifier.with_author_cache(author_cache_bytes);
        let mut valid = vec![false; claims.len()];
        for (claims, valid) in claims.chunks(batch_len).zip(valid.chunks_mut(batch_len)) {
            verifier.verify(claims, valid);
        }
        assert_eq!(valid, expected, "{tier}, in batches of {batch_len}");
        for (claim, expected) in claims.iter().zip(&expected) {
            let mut valid = [!expected];
            verifier.verify(&[*claim], &mut valid);
            assert_eq!(valid, [*expected], "{tier}, alone");
        }
    }
}

fn claim(choices: &mut Choices<'_>, before: &[Claim]) -> Claim {
    let mut claim = match choices.below(4) {
        0 => raw(choices),
        1 if !before.is_empty() => {
            let parts: [Claim; 3] = std::array::from_fn(|_| before[choices.index(before.len())]);
            let mut signature = parts[0].signature;
            if choices.one_in(2) {
                signature[32..].copy_from_slice(&parts[2].signature[32..]);
            }
            Claim { key: parts[0].key, message: parts[1].message, signature }
        }
        _ => signed(choices),
    };
    if choices.one_in(2) {
        for _ in 0..1 + choices.index(3) {
            let byte = choices.below(256) as u8;
            let part = [&mut claim.key[..], &mut claim.message[..], &mut claim.signature[..]]
                .into_iter()
                .nth(choices.index(3))
                .expect("one of three");
            let at = choices.index(part.len());
            part[at] ^= byte;
        }
    }
    claim
}

fn raw(choices: &mut Choices<'_>) -> Claim {
    let mut claim = Claim { key: [0; 32], message: [0; 32], signature: [0; 64] };
    let fill = [0, 0xff][choices.index(2)];
    for part in [&mut claim.key[..], &mut claim.message[..], &mut claim.signature[..]] {
        part.fill(fill);
        for _ in 0..choices.index(8) {
            let at = choices.index(part.len());
            part[at] = choices.below(256) as u8;
        }
    }
    claim
}

fn signed(choices: &mut Choices<'_>) -> Claim {
    let mut secret = [0; 32];
    secret[choices.index(32)] = 1 + choices.below(255) as u8;
    let message = [choices.below(256) as u8; 32];
    // A power of 256 times a byte, all below the group order but for the highest bytes.
    let Ok(keypair) = Keypair::from_secret_bytes(secret) else { return raw(choices) };
    let signature = schnorr::sign_no_aux_rand(&message, &keypair).to_byte_array();
    Claim { key: keypair.x_only_public_key().0.to_byte_array(), message, signature }
}

fn holds(claim: &Claim) -> bool {
    let Ok(key) = XOnlyPublicKey::from_byte_array(claim.key) else { return false };
    let signature = schnorr::Signature::from_byte_array(claim.signature);
    schnorr::verify(&signature, &claim.message, &key).is_ok()
}
