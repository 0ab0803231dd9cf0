//! What was counted for one relay that is followed, in all its connections.

use serde::Serialize;

use super::super::counts::{Counts, with_counts};
use super::super::session::Outcomes;
use relay_sync::outcome_counts::OutcomeCounts;

/// Events that may be wrong before a relay is cut off, and further ones for each that was right.
const WRONG_FREE: u64 = 100;
const WRONG_SHARE: u64 = 100;
/// Bytes of messages of no use, likewise.
const WASTED_FREE: u64 = 8 << 20;
const WASTED_SHARE: u64 = 4;

/// Events, bytes and connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct StreamCounts {
    /// Events of its subscription that came.
    pub(crate) received: u64,
    /// Of those and of those that were fetched: what became of them.
    #[serde(flatten)]
    pub(crate) outcomes: OutcomeCounts,
    /// The id or the signature is wrong, or it is not an event.
    pub(crate) invalid: u64,
    /// Came without being asked for.
    pub(crate) unasked: u64,
    /// Do not match the filter.
    pub(crate) mismatched: u64,
    /// Events that were sent to it.
    pub(crate) sent: u64,
    /// Of those, the ones that it has taken, or had.
    pub(crate) accepted: u64,
    /// Of those, the ones that it has refused.
    pub(crate) rejected: u64,
    /// Not sent: guarded or protected.
    pub(crate) withheld: u64,
    /// Ephemeral events that could not be passed on.
    pub(crate) ephemeral_missed: u64,
    /// Bytes of its messages.
    pub(crate) bytes_in: u64,
    /// Bytes of messages to it.
    pub(crate) bytes_out: u64,
    /// Bytes of its messages that were of no use.
    pub(crate) bytes_wasted: u64,
    /// Connections that were opened, or tried.
    pub(crate) connections: u64,
    /// How often it was cut off.
    pub(crate) cut_offs: u64,
}

impl StreamCounts {
    /// Adds what became of events that came.
    pub(super) fn add_outcomes(&mut self, outcomes: &Outcomes) {
        self.outcomes += outcomes.counts;
        self.invalid += outcomes.invalid;
    }

    /// Adds what a comparison has brought.
    pub(super) fn add_compared(&mut self, counts: &Counts) {
        self.outcomes += counts.outcomes;
        self.invalid += counts.invalid;
        self.unasked += counts.unasked;
        self.mismatched += counts.mismatched;
        self.sent += counts.sent + counts.refused;
        self.accepted += counts.sent;
        self.rejected += counts.refused;
        self.withheld += counts.withheld;
    }

    /// Why the relay is to be cut off, by what was counted since `before`; `None` if it is not.
    pub(super) fn offence(&self, before: &StreamCounts) -> Option<&'static str> {
        let since = |of: fn(&StreamCounts) -> u64| of(self) - of(before);
        let wrong = since(|counts| counts.invalid + counts.unasked + counts.mismatched);
        let right = since(|counts| counts.received);
        let wasted = since(|counts| counts.bytes_wasted);
        let useful = since(|counts| counts.bytes_in).saturating_sub(wasted);
        match () {
            () if wrong > WRONG_FREE + right / WRONG_SHARE => {
                Some("it sends too many events that are invalid, not asked for, or not of the filter")
            }
            () if wasted > WASTED_FREE + useful / WASTED_SHARE => {
                Some("it floods: too many bytes that nobody has asked for")
            }
            () => None,
        }
    }

    /// In words, without what did not happen.
    pub(crate) fn words(&self) -> String {
        let first = format!("{} stored, {} sent", self.outcomes.stored, self.accepted);
        let others = [
            (self.invalid, "invalid"),
            (self.unasked, "not asked for"),
            (self.mismatched, "not of the filter"),
            (self.rejected, "refused by it"),
            (self.withheld, "guarded or protected and therefore not sent"),
            (self.ephemeral_missed, "ephemeral events missed"),
            (self.connections.saturating_sub(1), "reconnects"),
            (self.cut_offs, "times cut off"),
        ];
        with_counts(first, self.outcomes.not_stored().into_iter().chain(others))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_relay_is_cut_off_by_its_share_of_what_is_wrong() {
        let of = |received, invalid, bytes_in, bytes_wasted| StreamCounts {
            received,
            invalid,
            bytes_in,
            bytes_wasted,
            ..StreamCounts::default()
        };
        let none = StreamCounts::default();
        for (counts, want) in [
            (of(0, 100, 0, 0), None),
            (of(0, 101, 0, 0), Some("invalid")),
            (of(10_000, 200, 0, 0), None),
            (of(10_000, 201, 0, 0), Some("invalid")),
            (of(0, 0, 8 << 20, 8 << 20), None),
            (of(0, 0, 9 << 20, 9 << 20), Some("floods")),
            (of(0, 0, 100 << 20, 9 << 20), None),
        ] {
            match (counts.offence(&none), want) {
                (None, None) => {}
                (Some(words), Some(want)) => assert!(words.contains(want), "{words}"),
                (got, _) => panic!("{counts:?}: {got:?}"),
            }
            assert_eq!(counts.offence(&counts), None, "what was before counts no more");
        }
    }

    #[test]
    fn words_leave_out_what_did_not_happen() {
        let counts = StreamCounts { accepted: 2, rejected: 1, connections: 3, ..StreamCounts::default() };
        assert_eq!(counts.words(), "0 stored, 2 sent, 1 refused by it, 2 reconnects");
    }
}
