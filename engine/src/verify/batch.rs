//! A batch on its way to the verifier and back.

use super::{Claim, Verified, Verifier};
use crate::types::Event;

/// Events that wait for their signatures to be checked, each with the place `T` it must return to.
#[derive(Debug)]
pub struct Batch<T> {
    claims: Vec<Claim>,
    events: Vec<(Event, T)>,
}

/// A batch whose signatures have been checked; only [`Batch::check`] makes one.
#[derive(Debug)]
pub struct Checked<T> {
    verdicts: Vec<(Verdict, T)>,
}

/// What became of one event.
#[derive(Debug)]
pub enum Verdict {
    /// The signature is the author's.
    Valid(Verified),
    /// It is not.
    Invalid(Event),
}

impl<T> Default for Batch<T> {
    fn default() -> Self {
        Batch { claims: Vec::new(), events: Vec::new() }
    }
}

impl<T> Batch<T> {
    /// Adds an event whose id is known to be its hash.
    pub fn push(&mut self, event: Event, place: T) {
        self.claims.push(Claim { pubkey: event.pubkey, id: event.id, sig: event.sig() });
        self.events.push((event, place));
    }

    /// Events in the batch.
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// Checks every signature, in one call to `verifier`.
    pub fn check(self, verifier: &dyn Verifier) -> Checked<T> {
        let mut valid = vec![false; self.claims.len()];
        verifier.verify(&self.claims, &mut valid);
        let verdicts = self
            .events
            .into_iter()
            .zip(valid)
            .map(|((event, place), valid)| {
                let verdict = if valid { Verdict::Valid(Verified(event)) } else { Verdict::Invalid(event) };
                (verdict, place)
            })
            .collect();
        Checked { verdicts }
    }
}

impl<T> Checked<T> {
    /// Events in the batch.
    pub fn len(&self) -> usize {
        self.verdicts.len()
    }

    /// Whether the batch was empty.
    pub fn is_empty(&self) -> bool {
        self.verdicts.is_empty()
    }
}

impl<T> IntoIterator for Checked<T> {
    type Item = (Verdict, T);
    type IntoIter = std::vec::IntoIter<(Verdict, T)>;

    /// The verdicts in the order the events were pushed.
    fn into_iter(self) -> Self::IntoIter {
        self.verdicts.into_iter()
    }
}
