//! What became of events that were given to the store.

use relay_engine::store::{Outcome, Refusal};
use relay_sync::outcome_counts::OutcomeCounts;

/// Counts one.
pub(crate) fn count(counts: &mut OutcomeCounts, outcome: Outcome) {
    *match outcome {
        Outcome::Stored(_) => &mut counts.stored,
        Outcome::Duplicate => &mut counts.duplicate,
        Outcome::Refused(Refusal::Superseded) => &mut counts.superseded,
        Outcome::Refused(Refusal::Deleted | Refusal::Vanished) => &mut counts.deleted,
        Outcome::Refused(Refusal::Expired) => &mut counts.expired,
        Outcome::Refused(Refusal::Ephemeral) => &mut counts.ephemeral,
    } += 1;
}
