//! The index compared with the oracle: random sequences of operations.
#![cfg(feature = "testing")]

use proptest::prelude::*;
use relay_engine::index::Index;
use relay_engine::testing::index_ops::{Ran, run};

/// Pseudorandom bytes from a seed.
fn program(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as u8
    };
    (0..len).map(|_| next()).collect()
}

#[test]
fn long_programs_agree_with_the_oracle() {
    let mut total = Ran::default();
    for seed in 0..12 {
        let ran = run(&mut Index::with_seed(seed), &program(seed, 20_000));
        total.subscriptions += ran.subscriptions;
        total.events += ran.events;
        total.matches += ran.matches;
        total.reused += ran.reused;
    }
    assert!(total.subscriptions > 5_000 && total.events > 5_000, "{total:?}");
    assert!(total.matches > 50_000 && total.reused > 500, "{total:?}");
}

#[test]
fn many_programs_on_one_index_agree_with_the_oracle() {
    let mut index = Index::new();
    for seed in 0..100 {
        run(&mut index, &program(1_000 + seed, 2_000));
    }
}

proptest! {
    #[test]
    fn short_programs_agree_with_the_oracle(program in proptest::collection::vec(any::<u8>(), 0..400)) {
        run(&mut Index::new(), &program);
    }
}
