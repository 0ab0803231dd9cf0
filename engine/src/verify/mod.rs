//! Signature checks, many at once.
//!
//! The machine collects events into a [`Batch`]; a host runs it, inline or on another thread, and hands the
//! [`VerifiedBatch`] back. Only a check makes a [`Verified`], or
//! [`Verified::assume_verified`] where an operator vouches for the event, so nothing that a client sent is stored or sent unverified.
//!
//! Ids are hashed when a message is read, from the sender's bytes, unless the verifier hashes many at once
//! faster ([`Verifier::prefers_batch_hashing`]): then the batch does it.

mod batch;
#[cfg(feature = "libsecp256k1")]
mod libsecp256k1;
#[cfg(feature = "schnorr")]
mod schnorr;

pub use batch::{Batch, Verdict, VerifiedBatch};
#[cfg(feature = "libsecp256k1")]
pub use libsecp256k1::Libsecp256k1;
#[cfg(feature = "schnorr")]
pub use schnorr::Schnorr;

use sha2::{Digest, Sha256};

use crate::types::{Event, EventId, PubKey, Sig};

/// One signature to check: BIP340 over the 32 bytes of the event id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The x-only public key.
    pub pubkey: PubKey,
    /// The message, already hashed: it is signed as it is.
    pub id: EventId,
    /// The signature.
    pub sig: Sig,
}

/// Checks many signatures and answers for each.
pub trait Verifier: Send + Sync {
    /// Sets `valid[i]` to whether `claims[i]` holds, exactly as BIP340 says. The lists are equally long.
    fn verify(&self, claims: &[Claim], valid: &mut [bool]);

    /// Whether [`hash`](Verifier::hash) takes less time on many messages than `sha2` does one by one.
    fn prefers_batch_hashing(&self) -> bool {
        false
    }

    /// Sets `hashes[i]` to the SHA-256 of `messages[i]`. The lists are equally long.
    fn hash(&self, messages: &[&[u8]], hashes: &mut [[u8; 32]]) {
        for (hash, message) in hashes.iter_mut().zip(messages) {
            *hash = Sha256::digest(message).into();
        }
    }
}

/// An event whose id is its hash and whose signature is its author's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified(Event);

impl Verified {
    /// Takes an event for verified without a check, for an operator who says so (`relay import --no-verify`). Never for what a
    /// client sent.
    pub fn assume_verified(event: Event) -> Self {
        Verified(event)
    }

    /// The event.
    pub fn event(&self) -> &Event {
        &self.0
    }

    /// The event, owned.
    pub fn into_event(self) -> Event {
        self.0
    }
}

/// Checks one event's signature at once.
pub fn verify_one(verifier: &dyn Verifier, event: Event) -> Option<Verified> {
    let claim = Claim { pubkey: event.pubkey, id: event.id, sig: event.sig() };
    let mut valid = [false];
    verifier.verify(&[claim], &mut valid);
    valid[0].then_some(Verified(event))
}
