//! Test claims: validly signed ones, and ones made invalid in every way that is known to matter.
#![allow(dead_code, reason = "each test uses its part")]

use relay_schnorr::Claim;
use secp256k1::schnorr::Signature;
use secp256k1::{Keypair, Scalar, SecretKey, XOnlyPublicKey, schnorr};
use sha2::{Digest, Sha256};

/// The group order, big-endian.
pub(crate) const N: [u8; 32] = [
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe, 0xba,
    0xae, 0xdc, 0xe6, 0xaf, 0x48, 0xa0, 0x3b, 0xbf, 0xd2, 0x5e, 0x8c, 0xd0, 0x36, 0x41, 0x41,
];

/// The field's prime, big-endian.
pub(crate) const P: [u8; 32] = [
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe, 0xff, 0xff, 0xfc, 0x2f,
];

/// The endomorphism's eigenvalue, big-endian.
const LAMBDA: [u8; 32] = [
    0x53, 0x63, 0xad, 0x4c, 0xc0, 0x5c, 0x30, 0xe0, 0xa5, 0x26, 0x1c, 0x02, 0x88, 0x12, 0x64, 0x5a, 0x12,
    0x2e, 0x22, 0xea, 0x20, 0x81, 0x66, 0x78, 0xdf, 0x02, 0x96, 0x7c, 0x1b, 0x23, 0xbd, 0x72,
];

/// The verdict of libsecp256k1.
pub(crate) fn oracle(claim: &Claim) -> bool {
    let Ok(key) = XOnlyPublicKey::from_byte_array(claim.key) else { return false };
    schnorr::verify(&Signature::from_byte_array(claim.signature), &claim.message, &key).is_ok()
}

/// SplitMix64: the same seed is the same claims.
#[derive(Clone, Debug)]
pub(crate) struct Chance(pub(crate) u64);

impl Chance {
    pub(crate) fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.word()) * bound as u128) >> 64) as usize
    }

    pub(crate) fn bytes(&mut self) -> [u8; 32] {
        let mut bytes = [0; 32];
        for chunk in bytes.as_chunks_mut::<8>().0 {
            *chunk = self.word().to_le_bytes();
        }
        bytes
    }

    /// Bytes that make limbs of any width full or empty: runs of ones and zeros.
    pub(crate) fn edge_bytes(&mut self) -> [u8; 32] {
        let mut bytes = [0u8; 32];
        let (mut at, mut bit) = (0, self.below(2));
        while at < 256 {
            let run = match self.below(4) {
                0 => 26,
                1 => 52,
                2 => 64,
                _ => 1 + self.below(90),
            };
            for i in at..(at + run).min(256) {
                bytes[31 - i / 8] |= (bit as u8) << (i % 8);
            }
            at += run;
            bit ^= 1;
        }
        bytes
    }
}

/// Makes claims, about half of them wrong.
pub(crate) struct Claims {
    pub(crate) chance: Chance,
    keypairs: Vec<Keypair>,
    last: Claim,
}

impl Claims {
    pub(crate) fn new(seed: u64) -> Self {
        let mut chance = Chance(seed);
        let mut keypairs: Vec<Keypair> = (1..=16u8).map(|n| keypair(small(n))).collect();
        let lambda = SecretKey::from_secret_bytes(LAMBDA).expect("in range");
        for doublings in 0..=132 {
            keypairs.push(keypair(power(doublings)));
        }
        for secret in [lambda, lambda.negate(), small_key(1).negate(), small_key(3).negate()] {
            keypairs.push(Keypair::from_secret_key(&secret));
        }
        for _ in 0..100 {
            keypairs.push(keypair(chance.bytes()));
        }
        let last = sign(&keypairs[0], [0; 32]);
        Claims { chance, keypairs, last }
    }

    fn keypair(&mut self) -> Keypair {
        match self.chance.below(4) {
            // Never seen before.
            0 => keypair(self.chance.bytes()),
            // Few and often: these get combs.
            1 => self.keypairs[self.chance.below(8)],
            _ => self.keypairs[self.chance.below(self.keypairs.len())],
        }
    }

    /// A claim that is valid.
    pub(crate) fn good(&mut self) -> Claim {
        let keypair = self.keypair();
        let message = if self.chance.below(8) == 0 { self.chance.edge_bytes() } else { self.chance.bytes() };
        sign(&keypair, message)
    }

    /// Any claim.
    pub(crate) fn any(&mut self) -> Claim {
        let claim = if self.chance.below(2) == 0 { self.good() } else { self.broken() };
        self.last = claim;
        claim
    }

    fn broken(&mut self) -> Claim {
        let mut claim = self.good();
        let (r, s) = claim.signature.split_at_mut(32);
        match self.chance.below(18) {
            0 => flip(&mut self.chance, r),
            1 => flip(&mut self.chance, s),
            2 => flip(&mut self.chance, &mut claim.key),
            3 => flip(&mut self.chance, &mut claim.message),
            // n - s: the other root.
            4 => negate(s),
            // s + n, where it fits, and s at the edges of the range.
            5 => match self.chance.below(5) {
                0 => s.copy_from_slice(&N),
                1 => s.copy_from_slice(&less_one(N)),
                2 => s.fill(0),
                3 => s.fill(0xff),
                _ => s.copy_from_slice(&small(1 + self.chance.below(5) as u8)),
            },
            6 => match self.chance.below(5) {
                0 => r.copy_from_slice(&P),
                1 => r.copy_from_slice(&less_one(P)),
                2 => r.fill(0),
                3 => r.fill(0xff),
                _ => r.copy_from_slice(&small(1 + self.chance.below(5) as u8)),
            },
            // Off the curve, half of the time.
            7 => claim.key = self.chance.bytes(),
            8 => claim.key = self.chance.edge_bytes(),
            9 => match self.chance.below(4) {
                0 => claim.key = P,
                1 => claim.key = [0; 32],
                2 => claim.key = [0xff; 32],
                _ => claim.key = less_one(P),
            },
            // Keys that are 1 and 2 times G.
            10 => claim.key = self.keypairs[self.chance.below(2)].x_only_public_key().0.to_byte_array(),
            // The same again, or with another's part.
            11 => return self.last,
            12 => claim.key = self.last.key,
            13 => r.copy_from_slice(&self.last.signature[..32]),
            14 => s.copy_from_slice(&self.last.signature[32..]),
            15 => s.copy_from_slice(&self.chance.edge_bytes()),
            // s G = e P: the sum is infinity. And s G = -e P: the same point twice.
            16 => return self.related(false),
            _ => return self.related(true),
        }
        claim
    }

    /// A claim whose two products are opposite or equal points.
    fn related(&mut self, equal: bool) -> Claim {
        let keypair = self.keypair();
        let (key, parity) = keypair.x_only_public_key();
        let mut secret = keypair.secret_key();
        if parity == secp256k1::Parity::Odd {
            secret = secret.negate();
        }
        let (r, message) = (self.chance.bytes(), self.chance.bytes());
        let key = key.to_byte_array();
        let e = Scalar::from_be_bytes(challenge(&r, &key, &message)).expect("almost never above n");
        let mut s = secret.mul_tweak(&e).expect("almost never zero");
        if equal {
            s = s.negate();
        }
        let mut signature = [0; 64];
        signature[..32].copy_from_slice(&r);
        signature[32..].copy_from_slice(&s.to_secret_bytes());
        Claim { key, message, signature }
    }
}

/// The tagged SHA-256 of BIP340.
pub(crate) fn challenge(r: &[u8], key: &[u8], message: &[u8]) -> [u8; 32] {
    let tag = Sha256::digest(b"BIP0340/challenge");
    Sha256::new()
        .chain_update(tag)
        .chain_update(tag)
        .chain_update(r)
        .chain_update(key)
        .chain_update(message)
        .finalize()
        .into()
}

pub(crate) fn sign(keypair: &Keypair, message: [u8; 32]) -> Claim {
    let signature = schnorr::sign_no_aux_rand(&message, keypair).to_byte_array();
    Claim { key: keypair.x_only_public_key().0.to_byte_array(), message, signature }
}

pub(crate) fn keypair(secret: [u8; 32]) -> Keypair {
    Keypair::from_secret_bytes(secret).expect("almost never zero or above n")
}

fn small(number: u8) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes[31] = number;
    bytes
}

fn small_key(number: u8) -> SecretKey {
    SecretKey::from_secret_bytes(small(number)).expect("in range")
}

fn power(exponent: usize) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes[31 - exponent / 8] = 1 << (exponent % 8);
    bytes
}

fn flip(chance: &mut Chance, bytes: &mut [u8]) {
    let bit = chance.below(bytes.len() * 8);
    bytes[bit / 8] ^= 1 << (bit % 8);
}

fn less_one(mut bytes: [u8; 32]) -> [u8; 32] {
    bytes[31] -= 1;
    bytes
}

fn negate(s: &mut [u8]) {
    let mut borrow = 0i32;
    for i in (0..32).rev() {
        let digit = i32::from(N[i]) - i32::from(s[i]) - borrow;
        borrow = i32::from(digit < 0);
        s[i] = (digit + 256 * borrow) as u8;
    }
}
