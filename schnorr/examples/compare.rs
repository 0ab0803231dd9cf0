//! Measures every tier of this machine and libsecp256k1 (which parses the key each time), alternating in one thread.
//!
//!     cargo run --release -p relay-schnorr --example compare [-- [--json] [--tier adx] [--rounds 25]]
//!     cargo run --release -p relay-schnorr --example compare -- --bad | --hostile
//!
//! CPU time of the thread, medians over rounds. Each round has another order, and each tier has claims of its own: a second tier
//! with the same claims would find the tables' entries in the CPU cache, which is worth up to a fifth.
//! `unseen`: every key is new and there is no author cache.
//! `zipf`: authors drawn from 1,000 with weight 1 / rank, all of them known to the author cache.
//! `auto` is what `Verifier::new()` picks. Every verdict is checked. With `--json` a line is a figure, and no two
//! have the same tier, batch and keys.
//!
//! `--bad` instead compares a batch with one invalid signature with the same batch without one.
//! `--hostile` instead compares batches made to be slow with one of as many valid claims of unseen keys.
#![allow(clippy::print_stdout, reason = "printing is what it is for")]

use std::time::Duration;

use relay_schnorr::{Claim, Tier, Verifier};
use rustix::time::{ClockId, clock_gettime};
use secp256k1::{Keypair, schnorr};
use sha2::{Digest, Sha256};

const BATCHES: [usize; 7] = [1, 4, 8, 16, 64, 256, 1024];
const AUTHORS: usize = 1_000;
/// Batch size of `--bad` and `--hostile`.
const BATCH: usize = 64;
/// Claims to draw batches from.
const POOL: usize = 4_096;
/// Minimum number of claims of a sample, so that reading the clock costs nothing in comparison.
const SAMPLE_CLAIMS_MIN: usize = 64;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let option = |name: &str| args.iter().position(|arg| arg == name).and_then(|at| args.get(at + 1));
    let json = args.iter().any(|arg| arg == "--json");
    let rounds = option("--rounds").map_or(25, |text| text.parse().expect("--rounds takes a number"));
    let only = option("--tier");
    let named = Tier::ALL
        .iter()
        .filter(|tier| tier.is_available() && **tier != Tier::Libsecp256k1 && tier.name() != "emulated")
        .map(|tier| Candidate(Some(*tier)));
    let tiers: Vec<Candidate> = std::iter::once(Candidate(None))
        .chain(named)
        .filter(|tier| only.is_none_or(|only| only == tier.name()))
        .collect();
    assert!(!tiers.is_empty(), "no such tier here");

    if args.iter().any(|arg| arg == "--hostile") {
        return tiers.iter().for_each(|tier| hostile(*tier, rounds));
    }
    let pools = [("unseen", unseen()), ("zipf", zipf())];
    if args.iter().any(|arg| arg == "--bad") {
        return pools.iter().for_each(|(keys, pool)| bad_one(&tiers, keys, pool, rounds));
    }
    let mut lines = Vec::new();
    for (keys, pool) in &pools {
        for batch in BATCHES {
            lines.extend(measure(&tiers, keys, pool, batch, rounds, json));
        }
    }
    if !json {
        for keys in ["unseen", "zipf"] {
            for tier in &tiers {
                let wins = |line: &&Line| line.tier == *tier && line.keys == keys && line.ratio >= 1.0;
                let from = lines.iter().filter(wins).map(|line| line.batch).min();
                match from {
                    Some(batch) => println!("{tier}, {keys}: as fast as libsecp256k1 from {batch}"),
                    None => println!("{tier}, {keys}: never as fast as libsecp256k1"),
                }
            }
        }
    }
}

/// What is measured: a tier, or the choice of `Verifier::new()`.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Candidate(Option<Tier>);

impl Candidate {
    fn name(self) -> &'static str {
        self.0.map_or("auto", Tier::name)
    }

    fn verifier(self) -> Verifier {
        self.0.map_or_else(Verifier::new, |tier| Verifier::with_tier(tier).expect("it is there"))
    }
}

impl std::fmt::Display for Candidate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// The time that a tier takes for a batch.
struct Line {
    tier: Candidate,
    keys: &'static str,
    batch: usize,
    ratio: f64,
}

fn measure(
    tiers: &[Candidate],
    keys: &'static str,
    pool: &[Claim],
    batch: usize,
    rounds: usize,
    json: bool,
) -> Vec<Line> {
    let mut verifiers: Vec<Verifier> = tiers.iter().map(|tier| verifier(*tier, keys, pool)).collect();
    let sample = SAMPLE_CLAIMS_MIN.max(batch);
    let mut times: Vec<Vec<f64>> = vec![Vec::new(); tiers.len() + 1];
    let mut valid = vec![false; sample];
    let mut samples = (0..).map(|n| (n * sample) % (pool.len() - sample + 1));
    let mut order: Vec<usize> = (0..times.len()).collect();
    let mut chance = Chance(11);
    for _ in 0..rounds {
        chance.shuffle(&mut order);
        for (&entrant, start) in order.iter().zip(&mut samples) {
            let claims = &pool[start..start + sample];
            let time = match entrant.checked_sub(1) {
                None => cpu_time(|| claims.iter().for_each(|claim| assert!(is_valid(claim)))),
                Some(tier) => cpu_time(|| {
                    for (claims, valid) in claims.chunks(batch).zip(valid.chunks_mut(batch)) {
                        verifiers[tier].verify(claims, valid);
                    }
                }),
            };
            assert!(entrant == 0 || valid.iter().all(|valid| *valid), "all of these hold");
            valid.fill(false);
            times[entrant].push(time.as_nanos() as f64 / sample as f64);
        }
    }
    let medians: Vec<f64> = times.iter_mut().map(|times| median(times)).collect();
    let mut lines = Vec::new();
    for (tier, ns) in tiers.iter().zip(&medians[1..]) {
        let ratio = medians[0] / ns;
        if json {
            println!(
                r#"{{"tier":"{tier}","batch":{batch},"keys":"{keys}","ns_per_sig":{ns:.0},"ratio":{ratio:.2}}}"#
            );
        } else {
            println!("{:12} {keys:7} {batch:5}  {ns:8.0} ns  {ratio:6.2}x", tier.name());
        }
        lines.push(Line { tier: *tier, keys, batch, ratio });
    }
    if json {
        let ns = medians[0];
        println!(
            r#"{{"tier":"libsecp256k1","batch":{batch},"keys":"{keys}","ns_per_sig":{ns:.0},"ratio":1.00}}"#
        );
    } else {
        println!("{:12} {keys:7} {batch:5}  {:8.0} ns", "libsecp256k1", medians[0]);
    }
    lines
}

/// A batch of 64 with one signature that does not hold against the same with none.
fn bad_one(tiers: &[Candidate], keys: &'static str, pool: &[Claim], rounds: usize) {
    for tier in tiers {
        let mut verifier = verifier(*tier, keys, pool);
        let (mut good, mut bad) = (Vec::new(), Vec::new());
        for round in 0..rounds {
            let start = (round * BATCH) % (pool.len() - BATCH);
            let mut claims = pool[start..start + BATCH].to_vec();
            for times in [&mut good, &mut bad] {
                let mut valid = [false; BATCH];
                times
                    .push(cpu_time(|| verifier.verify(&claims, &mut valid)).as_nanos() as f64 / BATCH as f64);
                let valid_count = valid.iter().filter(|valid| **valid).count();
                assert_eq!(valid_count, claims.iter().filter(|claim| is_valid(claim)).count());
                claims[round % BATCH].signature[40] ^= 1;
            }
        }
        let (good, bad) = (median(&mut good), median(&mut bad));
        let ratio = bad / good;
        println!(
            "{:12} {keys:7} {BATCH:5}  {bad:8.0} ns with a bad one, {ratio:.3} of all good",
            tier.name()
        );
    }
}

/// Batches of 64 that an attacker makes to be slow, compared with 64 valid claims of unseen keys.
fn hostile(tier: Candidate, rounds: usize) {
    /// A way to be slow: prepares a verifier for a round, then returns what to measure.
    type Attack = fn(&mut Verifier, usize) -> Vec<Claim>;
    let unseen: Attack = |_, round| (0..BATCH).map(|i| signed(number(round, i), 0)).collect();
    let attacks: [(&str, Attack); 8] = [
        ("forged, third claim of each key", |verifier, round| {
            let claims = |message| (0..BATCH).map(|i| forged(signed(number(round, i), message))).collect();
            let claims: [Vec<Claim>; 3] = [0, 1, 2].map(claims);
            verifier.verify(&claims[0], &mut [false; BATCH]);
            verifier.verify(&claims[1], &mut [false; BATCH]);
            claims[2].clone()
        }),
        ("forged, third claim, two valid", |verifier, round| third(verifier, round, forged)),
        ("valid, third claim of each key", |verifier, round| third(verifier, round, |claim| claim)),
        ("forged, three of each key", |_, round| {
            (0..BATCH).map(|i| forged(signed(number(round, i / 3), i as u64))).collect()
        }),
        ("forged, six of each key", |_, round| {
            (0..BATCH).map(|i| forged(signed(number(round, i / 6), i as u64))).collect()
        }),
        ("keys without a point", |_, round| {
            let claim = |i| Claim { key: off_curve(number(round, i)), ..signed(1, 0) };
            (0..BATCH).map(claim).collect()
        }),
        ("opposite points", |_, round| (0..BATCH).map(|i| colliding(number(round, i), false)).collect()),
        ("equal points", |_, round| (0..BATCH).map(|i| colliding(number(round, i), true)).collect()),
    ];
    let mut verifiers: Vec<Verifier> =
        (0..=attacks.len()).map(|_| tier.verifier().with_author_cache(64 << 20)).collect();
    let mut times: Vec<Vec<f64>> = vec![Vec::new(); attacks.len() + 1];
    for round in 0..rounds {
        let all = std::iter::once(unseen).chain(attacks.iter().map(|(_, attack)| *attack));
        for ((attack, verifier), times) in all.zip(&mut verifiers).zip(&mut times) {
            let claims = attack(verifier, round);
            let mut valid = [false; BATCH];
            times.push(cpu_time(|| verifier.verify(&claims, &mut valid)).as_nanos() as f64 / BATCH as f64);
            claims.iter().zip(valid).for_each(|(claim, valid)| assert_eq!(valid, is_valid(claim)));
        }
    }
    let medians: Vec<f64> = times.iter_mut().map(|times| median(times)).collect();
    println!("{:12} {:31} {:8.0} ns", tier.name(), "unseen", medians[0]);
    for ((name, _), ns) in attacks.iter().zip(&medians[1..]) {
        println!("{:12} {name:31} {ns:8.0} ns  {:5.2} of unseen", tier.name(), ns / medians[0]);
    }
}

/// An author used in no other round.
fn number(round: usize, i: usize) -> u64 {
    1_000_000 + (round * BATCH + i) as u64
}

/// The third claims of authors with two valid ones before.
fn third(verifier: &mut Verifier, round: usize, change: fn(Claim) -> Claim) -> Vec<Claim> {
    for message in 0..2 {
        let claims: Vec<Claim> = (0..BATCH).map(|i| signed(number(round, i), message)).collect();
        let mut valid = [false; BATCH];
        verifier.verify(&claims, &mut valid);
        assert_eq!(valid, [true; BATCH]);
    }
    (0..BATCH).map(|i| change(signed(number(round, i), 2))).collect()
}

fn forged(mut claim: Claim) -> Claim {
    claim.signature[40] ^= 1;
    claim
}

/// A key that is the abscissa of no point.
fn off_curve(number: u64) -> [u8; 32] {
    (0u64..)
        .map(|i| Sha256::digest([number.to_le_bytes(), i.to_le_bytes()].concat()).into())
        .find(|key| secp256k1::XOnlyPublicKey::from_byte_array(*key).is_err())
        .expect("every second one is")
}

/// A claim with s G and e P opposite, so that their sum is infinity, or equal. Whoever has the secret key can make it.
fn colliding(author: u64, is_equal: bool) -> Claim {
    let secret: [u8; 32] = Sha256::digest(author.to_le_bytes()).into();
    let keypair = Keypair::from_secret_bytes(secret).expect("in range");
    let (key, parity) = keypair.x_only_public_key();
    let (key, message) = (key.to_byte_array(), [0; 32]);
    let r: [u8; 32] = Sha256::digest(secret).into();
    let tag = Sha256::digest(b"BIP0340/challenge");
    let e: [u8; 32] = Sha256::digest([&tag[..], &tag, &r, &key, &message].concat()).into();
    let e = secp256k1::Scalar::from_be_bytes(e).expect("almost never above n");
    let product = keypair.secret_key().mul_tweak(&e).expect("almost never zero");
    let is_even = parity == secp256k1::Parity::Even;
    // s - e times the secret of the even point is nothing; the negative doubles.
    let s = if is_even == is_equal { product.negate() } else { product };
    let mut signature = [0; 64];
    signature[..32].copy_from_slice(&r);
    signature[32..].copy_from_slice(&s.to_secret_bytes());
    Claim { key, message, signature }
}

fn verifier(tier: Candidate, keys: &str, pool: &[Claim]) -> Verifier {
    let mut verifier = tier.verifier();
    if keys == "zipf" {
        verifier = verifier.with_author_cache(AUTHORS * 40_000);
        // Every author often enough to be warm.
        let mut valid = vec![false; pool.len()];
        for _ in 0..3 {
            verifier.verify(pool, &mut valid);
        }
    }
    verifier
}

fn unseen() -> Vec<Claim> {
    (0..POOL).map(|i| signed(i as u64 + 1, i as u64)).collect()
}

fn zipf() -> Vec<Claim> {
    let total: f64 = (1..=AUTHORS).map(|rank| 1.0 / rank as f64).sum();
    let mut chance = Chance(7);
    let mut draw = || {
        let mut left = chance.below_one() * total;
        (1..AUTHORS).find(|rank| {
            left -= 1.0 / *rank as f64;
            left < 0.0
        })
    };
    (0..POOL).map(|i| signed(draw().unwrap_or(AUTHORS) as u64, i as u64)).collect()
}

/// A seeded random generator.
struct Chance(u64);

impl Chance {
    fn below_one(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }

    fn shuffle(&mut self, list: &mut [usize]) {
        for last in (1..list.len()).rev() {
            list.swap(last, (self.below_one() * (last + 1) as f64) as usize);
        }
    }
}

fn signed(author: u64, message: u64) -> Claim {
    let secret: [u8; 32] = Sha256::digest(author.to_le_bytes()).into();
    let keypair = Keypair::from_secret_bytes(secret).expect("in range");
    let message: [u8; 32] = Sha256::digest(message.to_be_bytes()).into();
    let signature = schnorr::sign_no_aux_rand(&message, &keypair).to_byte_array();
    Claim { key: keypair.x_only_public_key().0.to_byte_array(), message, signature }
}

fn is_valid(claim: &Claim) -> bool {
    let Ok(key) = secp256k1::XOnlyPublicKey::from_byte_array(claim.key) else { return false };
    let signature = schnorr::Signature::from_byte_array(claim.signature);
    schnorr::verify(&signature, &claim.message, &key).is_ok()
}

fn cpu_time(work: impl FnOnce()) -> Duration {
    let now = || {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
    };
    let begun = now();
    work();
    now() - begun
}

fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
