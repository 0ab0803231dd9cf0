//! A batch on its way to the verifier and back.

use super::{Claim, Verified, Verifier};
use crate::types::Event;

/// Events whose ids are hashed in one call: enough to find messages of one length, few enough for the cache.
const HASHED_AT_ONCE: usize = 64;
/// Bytes from which a call takes no further event.
const HASHED_BYTES_AT_ONCE: usize = 128 << 10;

/// Events that wait for their signatures to be checked. `T` is handed back with each event's verdict: what the caller
/// needs to go on with it.
#[derive(Debug)]
pub struct Batch<T> {
    claims: Vec<Claim>,
    events: Vec<(Event, T)>,
    /// Indices of events whose ids have not been compared with their hashes.
    unhashed: Vec<usize>,
}

/// A batch whose signatures have been checked; only [`Batch::verify`] makes one.
#[derive(Debug)]
pub struct VerifiedBatch<T> {
    verdicts: Vec<(Verdict, T)>,
}

/// What became of one event.
#[derive(Debug)]
pub enum Verdict {
    /// The signature is the author's.
    Valid(Verified),
    /// It is not.
    Invalid(Event),
    /// The id is not the hash of the event; the signature has not been checked.
    WrongId(Event),
}

impl<T> Default for Batch<T> {
    fn default() -> Self {
        Batch { claims: Vec::new(), events: Vec::new(), unhashed: Vec::new() }
    }
}

impl<T> Batch<T> {
    /// Adds an event whose id is known to be its hash.
    pub fn push(&mut self, event: Event, context: T) {
        self.claims.push(Claim { pubkey: event.pubkey, id: event.id, sig: event.sig() });
        self.events.push((event, context));
    }

    /// Adds an event whose id has not been compared with its hash.
    pub fn push_unhashed(&mut self, event: Event, context: T) {
        self.unhashed.push(self.events.len());
        self.push(event, context);
    }

    /// Events in the batch.
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// Checks the ids that have not been, some at a time, then every signature, in one call to `verifier`.
    pub fn verify(mut self, verifier: &dyn Verifier) -> VerifiedBatch<T> {
        let wrong = self.wrong_ids(verifier);
        let has_wrong_id = |at: usize| wrong.get(at).is_some_and(|wrong| *wrong);
        let mut indices = 0..;
        self.claims.retain(|_| !indices.next().is_some_and(has_wrong_id));
        let mut valid = vec![false; self.claims.len()];
        verifier.verify(&self.claims, &mut valid);
        let mut valid = valid.into_iter();
        let verdict_of = |(at, (event, context)): (usize, (Event, T))| {
            let verdict = if has_wrong_id(at) {
                Verdict::WrongId(event)
            } else if valid.next() == Some(true) {
                Verdict::Valid(Verified(event))
            } else {
                Verdict::Invalid(event)
            };
            (verdict, context)
        };
        VerifiedBatch { verdicts: self.events.into_iter().enumerate().map(verdict_of).collect() }
    }

    /// By index, whether the id is not the hash; may be shorter than the batch: the rest are right.
    fn wrong_ids(&self, verifier: &dyn Verifier) -> Vec<bool> {
        let mut wrong = Vec::new();
        let (mut text, mut ends) = (Vec::new(), Vec::new());
        let mut rest = self.unhashed.as_slice();
        while !rest.is_empty() {
            text.clear();
            ends.clear();
            for at in rest.iter().take(HASHED_AT_ONCE) {
                self.events[*at].0.view().serialisation(|piece| text.extend_from_slice(piece));
                ends.push(text.len());
                if text.len() >= HASHED_BYTES_AT_ONCE {
                    break;
                }
            }
            let (indices, later) = rest.split_at(ends.len());
            rest = later;
            let starts = std::iter::once(0).chain(ends.iter().copied());
            let messages: Vec<&[u8]> = starts.zip(&ends).map(|(start, end)| &text[start..*end]).collect();
            let mut hashes = [[0; 32]; HASHED_AT_ONCE];
            verifier.hash(&messages, &mut hashes[..messages.len()]);
            for (at, hash) in indices.iter().zip(hashes) {
                if self.events[*at].0.id.0 != hash {
                    wrong.resize(at + 1, false);
                    wrong[*at] = true;
                }
            }
        }
        wrong
    }
}

impl<T> VerifiedBatch<T> {
    /// Events in the batch.
    pub fn len(&self) -> usize {
        self.verdicts.len()
    }

    /// Whether the batch was empty.
    pub fn is_empty(&self) -> bool {
        self.verdicts.is_empty()
    }
}

impl<T> IntoIterator for VerifiedBatch<T> {
    type Item = (Verdict, T);
    type IntoIter = std::vec::IntoIter<(Verdict, T)>;

    /// The verdicts in the order the events were pushed.
    fn into_iter(self) -> Self::IntoIter {
        self.verdicts.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::real_event_lines;
    use crate::wire;

    /// Holds signatures of events with odd ids to be right, so that a verdict shows whose it is.
    struct Odd;

    impl Verifier for Odd {
        fn verify(&self, claims: &[Claim], valid: &mut [bool]) {
            for (claim, valid) in claims.iter().zip(valid) {
                *valid = claim.id.0[0] % 2 == 1;
            }
        }
    }

    #[test]
    fn wrong_ids_are_found_and_the_rest_keep_their_verdicts() {
        let mut batch = Batch::default();
        let mut expected = Vec::new();
        for (at, line) in real_event_lines().iter().enumerate() {
            let original = wire::parse_event(line.as_bytes()).expect("a real event").to_event();
            let is_wrong = at % 5 == 3;
            let mut text = String::from_utf8(original.json().to_vec()).expect("JSON");
            if is_wrong {
                // Another second under the id of the original.
                let second = |at| format!(r#""created_at":{at},"#);
                text = text.replacen(&second(original.created_at), &second(original.created_at + 1), 1);
            }
            let event = wire::parse_event(text.as_bytes()).expect("still one").to_event();
            expected.push(match event.id.0[0] % 2 == 1 {
                _ if is_wrong => "wrong id",
                true => "valid",
                false => "invalid",
            });
            // Some are known to be right and are not hashed.
            match is_wrong || at % 7 != 0 {
                true => batch.push_unhashed(event, at),
                false => batch.push(event, at),
            }
        }
        assert_eq!(batch.len(), expected.len());
        for (at, (verdict, context)) in batch.verify(&Odd).into_iter().enumerate() {
            let name = match verdict {
                Verdict::Valid(_) => "valid",
                Verdict::Invalid(_) => "invalid",
                Verdict::WrongId(_) => "wrong id",
            };
            assert_eq!((context, name), (at, expected[at]));
        }
    }
}
