//! What reading stored events costs, in rows of cost (not SQL rows).
//!
//! A **row** is about a microsecond of work: a posting or a small event read. What takes longer is more rows:
//!
//! | work | rows |
//! |---|---|
//! | a posting read, a cursor opened, an id looked up | 1 |
//! | an event read | 1, and 1 for every [`READ_BYTES`] of it |
//! | its tags read for a filter | 1 for every [`TAG_BYTES`] of them |
//! | an event sent, if sending is charged (`Config::frame_rows`) | as many as configured |
//! | values compared, filters asked, filters of a request that a candidate is not for | 1 for every [`COMPARISONS`] |
//!
//! Fractions are dropped for each event, so that an ordinary one against a few filters is one row.

use crate::types::{FoundBy, MatchCost};

/// Bytes of an event that are read, checked for expiry and handed on in the time of a row.
const READ_BYTES: usize = 4 << 10;
/// Bytes of short tags that are read in the time of a row.
const TAG_BYTES: usize = 512;
/// Values that are compared in the time of a row.
const COMPARISONS: usize = 64;

/// What costs as much as `rows`, in comparisons.
pub(crate) fn in_comparisons(rows: usize) -> usize {
    rows.saturating_mul(COMPARISONS)
}

/// Rows to charge for a candidate of a request of `filters` filters beyond the first: each is looked at for how far it
/// has come.
pub(super) fn of_filters(filters: usize) -> usize {
    filters / COMPARISONS
}

/// Rows to charge for an event of `bytes` beyond the first, once `found_by` has been asked all there is to ask.
pub(super) fn of_event(bytes: usize, found_by: &FoundBy<'_>) -> usize {
    of_match(bytes, found_by.cost())
}

/// Rows to charge for an event of `bytes` beyond the first, if matching it took this.
pub(super) fn of_match(bytes: usize, MatchCost { bytes: tag_bytes, comparisons }: MatchCost) -> usize {
    bytes / READ_BYTES + tag_bytes / TAG_BYTES + comparisons / COMPARISONS
}
