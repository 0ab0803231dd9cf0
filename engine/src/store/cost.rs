//! What reading stored events costs, in units of cost.
//!
//! A **unit of cost** is about a microsecond of work: a posting or a small event read. What takes longer costs more:
//!
//! | work | cost |
//! |---|---|
//! | a posting read, a cursor opened, an id looked up | 1 |
//! | an event read | 1, and 1 for every [`READ_BYTES`] of it |
//! | its tags read for a filter | 1 for every [`TAG_BYTES`] of them |
//! | an event sent, if sending is charged (`Config::frame_cost`) | as many as configured |
//! | values compared, filters asked, filters of a request that a candidate is not for | 1 for every [`COMPARISONS`] |
//!
//! Fractions are dropped for each event, so that an ordinary one against a few filters costs one.

use crate::types::{EventMatcher, MatchCost};

/// Bytes of an event that are read, checked for expiry and handed on for one unit.
const READ_BYTES: usize = 4 << 10;
/// Bytes of short tags that are read for one unit.
const TAG_BYTES: usize = 512;
/// Values that are compared for one unit.
const COMPARISONS: usize = 64;

/// A cost, in comparisons.
pub(crate) fn in_comparisons(cost: usize) -> usize {
    cost.saturating_mul(COMPARISONS)
}

/// What a candidate of a request of `filters` filters costs beyond its first unit: each filter is looked at for how far it has
/// come.
pub(super) fn of_filters(filters: usize) -> usize {
    filters / COMPARISONS
}

/// What an event of `bytes` bytes costs beyond its first unit, once `matcher` has been asked all there is to ask.
pub(super) fn of_event(bytes: usize, matcher: &EventMatcher<'_>) -> usize {
    of_match(bytes, matcher.cost())
}

/// What an event of `bytes` bytes costs beyond its first unit, if matching it took this.
pub(super) fn of_match(bytes: usize, MatchCost { bytes: tag_bytes, comparisons }: MatchCost) -> usize {
    bytes / READ_BYTES + tag_bytes / TAG_BYTES + comparisons / COMPARISONS
}
