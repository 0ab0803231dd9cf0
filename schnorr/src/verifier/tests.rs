//! Tests of batches against libsecp256k1, author by author.

use super::*;
use secp256k1::{Keypair, schnorr};

/// A claim of author `author`; `message` varies it.
fn signed(author: u16, message: u16) -> Claim {
    let mut secret = [1; 32];
    secret[..2].copy_from_slice(&author.to_be_bytes());
    let keypair = Keypair::from_secret_bytes(secret).expect("in range");
    let mut bytes = [0; 32];
    bytes[..2].copy_from_slice(&message.to_be_bytes());
    let signature = schnorr::sign_no_aux_rand(&bytes, &keypair).to_byte_array();
    Claim { key: keypair.x_only_public_key().0.to_byte_array(), message: bytes, signature }
}

fn forged(author: u16, message: u16) -> Claim {
    let mut claim = signed(author, message);
    claim.signature[40] ^= 1;
    claim
}

/// Verifies, checks the verdicts and returns how many combs were made.
fn combs_made(verifier: &mut Verifier, claims: &[Claim], are_valid: bool) -> usize {
    let before = verifier.combs_made;
    let mut valid = vec![!are_valid; claims.len()];
    verifier.verify(claims, &mut valid);
    assert!(valid.iter().all(|valid| *valid == are_valid), "{}", verifier.tier());
    verifier.combs_made - before
}

fn has_comb(verifier: &Verifier, author: u16) -> bool {
    let authors = verifier.authors.as_ref().expect("there is a cache");
    authors.look_up(&signed(author, 0).key).is_some_and(|(_, known)| known.comb.is_some())
}

/// The default verifier, and one for every tier with a kernel.
fn verifiers(cache: usize) -> impl Iterator<Item = Verifier> {
    let tiers = Tier::ALL.iter().filter(|tier| **tier != Tier::Emulated);
    let named = tiers.filter_map(|tier| Verifier::with_tier(*tier).filter(|v| v.kernel.is_some()));
    std::iter::once(Verifier::new()).chain(named).map(move |v| v.with_author_cache(cache))
}

fn all(authors: std::ops::Range<u16>, message: u16, claim: fn(u16, u16) -> Claim) -> Vec<Claim> {
    authors.map(|author| claim(author, message)).collect()
}

#[test]
fn a_hash_seed_is_that_of_both_tables_and_keeps_the_size_of_the_cache() {
    use std::hash::BuildHasher;
    let hash = |state: &KeyState| state.hash_one([7u8; 32]);
    let wanted = hash(&KeyState::new([9; 16]));
    for verifier in [
        Verifier::new().with_author_cache(1 << 20).with_hash_seed([9; 16]),
        Verifier::new().with_hash_seed([9; 16]).with_author_cache(1 << 20),
    ] {
        let authors = verifier.authors.as_ref().expect("an author cache");
        assert_eq!([hash(verifier.author_indices.hasher()), hash(authors.hasher())], [wanted; 2]);
        assert_eq!(authors.bytes_max(), 1 << 20);
    }
    assert!(Verifier::new().with_hash_seed([9; 16]).authors.is_none());
}

#[test]
fn a_cache_too_small_for_combs_remembers_authors() {
    for mut verifier in verifiers(COMB_BYTES) {
        let claims: Vec<Claim> = (0..COMB_COST as u16).map(|message| signed(0, message)).collect();
        combs_made(&mut verifier, &claims, true);
        let knows = |verifier: &Verifier, author: u16| {
            let authors = verifier.authors.as_ref().expect("there is a cache");
            let (_, known) = authors.look_up(&signed(author, 0).key).expect("it is cached");
            assert!(known.comb.is_none());
            known.point.is_some()
        };
        assert!(knows(&verifier, 0), "{}", verifier.tier());
        // One whose first claim came alone, and was left to libsecp256k1, is lifted once.
        combs_made(&mut verifier, &[signed(1, 0)], true);
        combs_made(&mut verifier, &all(1..70, 1, signed), true);
        let is_left = verifier.fallback_max == usize::MAX;
        assert!(is_left || knows(&verifier, 1), "{}", verifier.tier());
    }
}

#[test]
fn invalid_claims_evict_no_author() {
    // Room for a few combs.
    for mut verifier in verifiers(4 * (AUTHOR_BYTES + COMB_BYTES)) {
        for message in 0..COMB_COST as u16 {
            combs_made(&mut verifier, &[signed(0, message)], true);
        }
        assert!(has_comb(&verifier, 0));
        let bytes = verifier.author_cache_bytes();
        for message in 0..4 {
            for first in (1..1_000).step_by(64) {
                let claims = all(first..first + 64, message, forged);
                assert_eq!(combs_made(&mut verifier, &claims, false), 0);
            }
        }
        assert!(has_comb(&verifier, 0), "{}", verifier.tier());
        assert_eq!(verifier.author_cache_bytes(), bytes);
    }
}

#[test]
fn invalid_claims_do_not_refresh_the_lru() {
    let mut verifier = Verifier::new().with_author_cache(3 * AUTHOR_BYTES);
    combs_made(&mut verifier, &[signed(0, 0)], true);
    combs_made(&mut verifier, &[signed(1, 0), signed(2, 0)], true);
    combs_made(&mut verifier, &[forged(0, 1)], false);
    combs_made(&mut verifier, &[signed(3, 0)], true);
    let authors = verifier.authors.as_ref().expect("there is a cache");
    let kept = |author| authors.look_up(&signed(author, 0).key).is_some();
    assert_eq!([0, 1, 2, 3].map(kept), [false, true, true, true]);
}

#[test]
fn forged_third_claims_make_no_combs() {
    for mut verifier in verifiers(64 << 20) {
        for message in 0..2 {
            combs_made(&mut verifier, &all(0..64, message, forged), false);
            combs_made(&mut verifier, &all(100..164, message, signed), true);
        }
        // Nor do they after two valid ones.
        assert_eq!(combs_made(&mut verifier, &all(0..64, 2, forged), false), 0);
        assert_eq!(combs_made(&mut verifier, &all(100..164, 2, forged), false), 0);
        assert!(combs_made(&mut verifier, &all(100..164, 3, signed), true) > 0);
    }
}

#[test]
fn combs_are_made_at_the_rate_of_claims() {
    for mut verifier in verifiers(64 << 20) {
        for message in 0..2 {
            combs_made(&mut verifier, &all(0..60, message, signed), true);
        }
        // Sixty claims are enough for one. Those left over before allow one more.
        let most = 60 / COMB_COST + 1;
        for message in 2..5 {
            let made = combs_made(&mut verifier, &all(0..60, message, signed), true);
            assert!((1..=most).contains(&made), "{}: {made} of {most}", verifier.tier());
        }
    }
}

#[test]
fn claims_that_come_one_by_one_get_combs() {
    for mut verifier in verifiers(64 << 20) {
        for message in 0..COMB_COST as u16 {
            combs_made(&mut verifier, &[signed(0, message)], true);
        }
        assert!(has_comb(&verifier, 0), "{}", verifier.tier());
        assert_eq!(combs_made(&mut verifier, &[signed(0, 7)], true), 0);
    }
}

#[test]
fn many_claims_of_one_author_share_a_comb_that_is_kept_if_they_hold() {
    for mut verifier in verifiers(64 << 20) {
        let claims = |claim: fn(u16, u16) -> Claim| -> Vec<Claim> { (0..6).map(|i| claim(0, i)).collect() };
        assert_eq!(combs_made(&mut verifier, &claims(forged), false), 1);
        assert_eq!(verifier.author_cache_bytes(), 0);
        assert_eq!(combs_made(&mut verifier, &claims(signed), true), 1);
        assert!(has_comb(&verifier, 0));
    }
}
