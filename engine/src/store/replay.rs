//! Replay: events in the order they were committed, for a live reader that fell behind.

use super::{Hit, Reader, Seq, SinkResult, StoreError, Viewer, cost};
use crate::types::{CanonicalEvent, EventMatcher, Filter, MatchCost, Timestamp, parse_expiration};

/// How far a replay has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replayed {
    /// Every event up to this sequence number has been examined; where to go on.
    pub covered: Seq,
    /// Whether the reader had nothing after it.
    pub caught_up: bool,
}

/// Sequence numbers read at once.
const CHUNK: usize = 256;

/// Hands out stored events with sequence numbers above `after` that match any of `filters` and that `viewer` may see,
/// in the order they were committed. Spends up to `budget` units of cost, which are subtracted from it, as
/// [`super::Scan::step`] does; `limit` is ignored.
///
/// # Errors
/// The backend's. What was handed out before it stays handed out, so after an error
/// go on from the last [`Hit::seq`].
pub fn replay<R: Reader>(
    reader: &R,
    filters: &[Filter],
    after: Seq,
    budget: &mut usize,
    now: Timestamp,
    viewer: &dyn Viewer,
    sink: &mut dyn FnMut(Hit<'_>) -> SinkResult,
) -> Result<Replayed, StoreError> {
    read_log(reader, after, budget, &mut |hit| {
        let mut matcher = EventMatcher::new(hit.event);
        let wanted = filters.iter().any(|filter| matcher.matches(filter))
            && parse_expiration(hit.event.tags()).is_none_or(|at| at > now)
            && (viewer.sees_all_of(hit.event.kind()) || viewer.sees(hit.event));
        (if wanted { sink(hit) } else { SinkResult::Continue }, matcher.cost())
    })
}

/// Shows `examine` all stored events with sequence numbers above `after`, in the order they were committed, expired ones too,
/// until it pauses or `budget` is used up. The cost of reading, and what `examine` says that matching cost, are subtracted from
/// `budget`.
///
/// # Errors
/// The backend's. What was shown before it is not shown again if reading goes on from the last [`Hit::seq`].
pub fn read_log<R: Reader>(
    reader: &R,
    after: Seq,
    budget: &mut usize,
    examine: &mut dyn FnMut(Hit<'_>) -> (SinkResult, MatchCost),
) -> Result<Replayed, StoreError> {
    let mut covered = after;
    let mut seqs = Vec::new();
    'chunks: while *budget > 0 {
        let max = CHUNK.min(*budget);
        seqs.clear();
        reader.log(covered, max, &mut seqs)?;
        for &seq in &seqs {
            // An event may have cost more than one.
            if *budget == 0 {
                break 'chunks;
            }
            *budget -= 1;
            covered = seq;
            let Some(json) = reader.event(seq)? else {
                continue;
            };
            let event = CanonicalEvent::trusted(&json);
            let (result, cost) = examine(Hit { seq, event });
            *budget = budget.saturating_sub(cost::of_match(json.len(), cost));
            if result == SinkResult::Pause {
                return Ok(Replayed { covered, caught_up: covered == reader.last_seq()? });
            }
        }
        if seqs.len() < max {
            return Ok(Replayed { covered: reader.last_seq()?.max(after), caught_up: true });
        }
    }
    Ok(Replayed { covered, caught_up: covered >= reader.last_seq()? })
}
