//! Batch verification of BIP340 Schnorr signatures, with a verdict for each that is exactly libsecp256k1's.
//!
//! ```
//! use relay_schnorr::{Claim, Verifier};
//!
//! let mut verifier = Verifier::new().with_author_cache(32 << 20);
//! let claims = [Claim { key: [2; 32], message: [0; 32], signature: [0; 64] }];
//! let mut valid = [true];
//! verifier.verify(&claims, &mut valid);
//! assert_eq!(valid, [false]);
//! ```
//!
//! There are no random coefficients and no combined equation: every signature is computed, so an invalid one costs as much as
//! a valid one. It is fast because a batch shares inversions, so that points are added in affine coordinates; because of
//! vector lanes; and because of tables of the keys of known authors. See the README for figures.
//!
//! Everything verified is public, so nothing here runs in constant time.

#![warn(unsafe_op_in_unsafe_fn)]
#![allow(clippy::needless_range_loop, reason = "limbs, lanes and slots are numbered")]

mod authors;
mod challenge;
mod curve;
mod field;
mod key_hash;
#[cfg(feature = "libsecp256k1")]
mod libsecp256k1;
mod scalar;
pub mod sha256;
mod tier;
mod verifier;

pub use tier::{Tier, UnknownTier};
pub use verifier::{Claim, Verifier};
