//! The official vectors of BIP340 (github.com/bitcoin/bips, bip-0340/test-vectors.csv at 7fe0b03), on every tier.
//! Those with messages of other lengths than 32 bytes are left out, because the interface verifies 32-byte messages.

use relay_schnorr::{Claim, Tier, Verifier};

const VECTORS: &str = include_str!("data/bip340-test-vectors.csv");

fn bytes<const LEN: usize>(hex: &str) -> Option<[u8; LEN]> {
    let digits: Option<Vec<u8>> =
        hex.chars().map(|digit| digit.to_digit(16).map(|digit| digit as u8)).collect();
    let bytes: Vec<u8> = digits?.as_chunks::<2>().0.iter().map(|[high, low]| high << 4 | low).collect();
    bytes.try_into().ok()
}

fn vectors() -> Vec<(Claim, bool)> {
    let mut vectors = Vec::new();
    for line in VECTORS.lines().skip(1) {
        let fields: Vec<&str> = line.split(',').collect();
        let Some(message) = bytes(fields[4]) else { continue };
        let key = bytes(fields[2]).expect("a key");
        let signature = bytes(fields[5]).expect("a signature");
        vectors.push((Claim { key, message, signature }, fields[6] == "TRUE"));
    }
    vectors
}

#[test]
fn every_tier_gives_the_verdicts_of_the_bip() {
    let vectors = vectors();
    assert_eq!(vectors.len(), 15, "vectors with a message of 32 bytes");
    assert_eq!(vectors.iter().filter(|(_, is_valid)| *is_valid).count(), 5);
    for tier in Tier::ALL {
        let Some(verifier) = Verifier::with_tier(*tier) else { continue };
        let mut verifier = verifier.with_author_cache(1 << 20);
        // All at once, until authors are warm, then each alone.
        for _ in 0..5 {
            let claims: Vec<Claim> = vectors.iter().map(|(claim, _)| *claim).collect();
            let mut valid = vec![false; claims.len()];
            verifier.verify(&claims, &mut valid);
            for (i, ((_, expected), valid)) in vectors.iter().zip(valid).enumerate() {
                assert_eq!(valid, *expected, "{tier}, vector {i}");
            }
        }
        for (i, (claim, expected)) in vectors.iter().enumerate() {
            let mut valid = [!expected];
            verifier.verify(&[*claim], &mut valid);
            assert_eq!(valid, [*expected], "{tier}, vector {i} alone");
        }
    }
}
