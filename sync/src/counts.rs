//! What was done with one relay, in numbers.

use serde::Serialize;

use super::session::Outcomes;
use crate::outcome_counts::OutcomeCounts;

/// Events, by what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Events of the other relay that are missing here, when only counting.
    pub need: u64,
    /// Events here that the other relay does not have, when only counting.
    pub have: u64,
    /// Received, by what the store made of them.
    #[serde(flatten)]
    pub outcomes: OutcomeCounts,
    /// Not stored: the id or the signature is wrong, or it is not an event.
    pub invalid: u64,
    /// Not stored: came without being asked for.
    pub unasked: u64,
    /// Not stored: do not match the filter.
    pub mismatched: u64,
    /// The other relay listed their ids and did not send them.
    pub missing: u64,
    /// Accepted by the other relay.
    pub sent: u64,
    /// Refused by the other relay.
    pub refused: u64,
    /// Not sent: guarded or protected.
    pub withheld: u64,
    /// Seconds with more events than the other relay gives in a page: it may have others.
    pub incomplete_seconds: u64,
    /// Messages of reconciliations (NIP-77) that the other relay has answered.
    pub rounds: u64,
    /// Pages that were read where it cannot reconcile.
    pub pages: u64,
}

/// Events in a hundred that may be wrong before a relay is asked no more, and the number that always may.
const WRONG_SHARE: u64 = 100;
const WRONG_FREE: u64 = 100;

impl Counts {
    /// Why a relay is not believed any more.
    pub fn lie(&self) -> Option<&'static str> {
        match () {
            () if self.is_wrong_too_often() => {
                Some("it sends too many events that are invalid, not asked for, or not of the filter")
            }
            () if self.is_missing_too_many() => Some("it does not send the events that it says it has"),
            () => None,
        }
    }

    /// Whether a relay sends too much that is wrong.
    fn is_wrong_too_often(&self) -> bool {
        let OutcomeCounts { stored, duplicate, superseded, .. } = self.outcomes;
        let came = stored + duplicate + superseded;
        self.invalid + self.unasked + self.mismatched > WRONG_FREE + came / WRONG_SHARE
    }

    /// Whether a relay promises too many events that it does not send.
    fn is_missing_too_many(&self) -> bool {
        let OutcomeCounts { stored, duplicate, superseded, deleted, .. } = self.outcomes;
        let came = stored + duplicate + superseded + deleted;
        self.missing > 1_000 + came
    }

    /// Whether something was refused on either side, or may be missing.
    pub fn has_refused(&self) -> bool {
        self.invalid + self.unasked + self.mismatched + self.missing + self.refused + self.incomplete_seconds
            > 0
    }

    /// Adds all counts of another comparison.
    pub fn add(&mut self, more: &Counts) {
        self.outcomes += more.outcomes;
        for (count, more) in [
            (&mut self.need, more.need),
            (&mut self.have, more.have),
            (&mut self.invalid, more.invalid),
            (&mut self.unasked, more.unasked),
            (&mut self.mismatched, more.mismatched),
            (&mut self.missing, more.missing),
            (&mut self.sent, more.sent),
            (&mut self.refused, more.refused),
            (&mut self.withheld, more.withheld),
            (&mut self.incomplete_seconds, more.incomplete_seconds),
            (&mut self.rounds, more.rounds),
            (&mut self.pages, more.pages),
        ] {
            *count += more;
        }
    }

    /// Adds what became of events in the store.
    pub fn add_outcomes(&mut self, outcomes: &Outcomes) {
        self.outcomes += outcomes.counts;
        self.invalid += outcomes.invalid;
    }

    /// In words, without what did not happen.
    pub fn words(&self, is_dry_run: bool) -> String {
        let first = match is_dry_run {
            true => format!("{} to fetch, {} to send", self.need, self.have),
            false => format!("{} stored, {} sent", self.outcomes.stored, self.sent),
        };
        let others = [
            (self.invalid, "invalid"),
            (self.unasked, "not asked for"),
            (self.mismatched, "not of the filter"),
            (self.missing, "announced and not sent by it"),
            (self.refused, "refused by it"),
            (self.withheld, "guarded or protected and therefore not sent"),
            (
                self.incomplete_seconds,
                "seconds with more events than a page of that relay: some of them may be missing",
            ),
        ];
        with_counts(first, self.outcomes.not_stored().into_iter().chain(others))
    }
}

/// `first`, and each count that is not zero with what it counts.
pub fn with_counts<'a>(first: String, counts: impl IntoIterator<Item = (u64, &'a str)>) -> String {
    counts
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .fold(first, |words, (count, what)| format!("{words}, {count} {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_leave_out_what_did_not_happen() {
        let outcomes = OutcomeCounts { stored: 3, ..OutcomeCounts::default() };
        let counts = Counts { outcomes, sent: 2, refused: 1, need: 9, ..Counts::default() };
        assert_eq!(counts.words(false), "3 stored, 2 sent, 1 refused by it");
        assert_eq!(counts.words(true), "9 to fetch, 0 to send, 1 refused by it");
        assert!(counts.has_refused() && !Counts { outcomes, ..Counts::default() }.has_refused());
    }
}
