//! Every tier compared with libsecp256k1, on claims half of which are invalid by construction.
//!
//! `RELAY_SCHNORR_CASES` sets the number of cases, `RELAY_SCHNORR_SEED` the seed, `RELAY_SCHNORR_TIERS` the tiers, by name,
//! separated by commas.

mod common;

use common::{Claims, oracle};
use relay_schnorr::{Claim, Tier, Verifier};

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |text| text.parse().expect("a number"))
}

/// Batches of every length around the lanes, then larger ones.
fn batch_len(claims: &mut Claims, round: usize) -> usize {
    match round {
        0..=33 => round,
        _ if round.is_multiple_of(50) => 200 + claims.chance.below(300),
        _ => claims.chance.below(140),
    }
}

fn compare(tier: Tier, cases: u64, seed: u64) {
    let Some(plain) = Verifier::with_tier(tier) else {
        eprintln!("{tier}: this machine lacks the instructions, nothing was compared");
        return;
    };
    // No cache, one that evicts all the time, one that keeps all authors.
    let with_cache = |bytes| Verifier::with_tier(tier).expect("as before").with_author_cache(bytes);
    let mut verifiers = [plain, with_cache(200_000), with_cache(64 << 20)];
    let mut claims = Claims::new(seed);
    let (mut compared, mut valid_count, mut round) = (0, 0, 0);
    while compared < cases || round < 40 {
        let batch: Vec<Claim> = (0..batch_len(&mut claims, round)).map(|_| claims.any()).collect();
        let expected: Vec<bool> = batch.iter().map(oracle).collect();
        let mut valid: Vec<bool> = (0..batch.len()).map(|i| i % 2 == 0).collect();
        let verifier = &mut verifiers[round % 3];
        verifier.verify(&batch, &mut valid);
        for ((claim, valid), expected) in batch.iter().zip(&valid).zip(&expected) {
            assert_eq!(valid, expected, "{tier}, seed {seed}, round {round}: {claim:x?}");
        }
        compared += batch.len() as u64;
        valid_count += expected.iter().filter(|expected| **expected).count() as u64;
        round += 1;
    }
    assert!(
        compared / 3 < valid_count && valid_count < compared * 2 / 3,
        "{valid_count} of {compared} are valid: no fair mix"
    );
    eprintln!("{tier}: {compared} verdicts agree, {valid_count} of them valid (seed {seed})");
}

/// Every tier for its share of the cases; software lanes are too slow for as many.
#[test]
fn every_tier_agrees_with_libsecp256k1() {
    let cases = number("RELAY_SCHNORR_CASES", 64_000);
    let seed = number("RELAY_SCHNORR_SEED", 1);
    let named = std::env::var("RELAY_SCHNORR_TIERS").ok();
    let is_wanted = |tier: &Tier| {
        named.as_ref().is_none_or(|named| named.split(',').any(|name| name == tier.to_string()))
    };
    std::thread::scope(|scope| {
        for (number, tier) in (1u64..).zip(Tier::ALL).filter(|(_, tier)| is_wanted(tier)) {
            let cases = match tier {
                Tier::Emulated | Tier::Libsecp256k1 => cases / 50,
                _ => cases / 4,
            };
            scope.spawn(move || compare(*tier, cases, seed ^ number << 32));
        }
    });
}
