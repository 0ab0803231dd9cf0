//! Replay: events in the order they were committed, for a live reader that fell behind.

use super::{Hit, Reader, Seq, StoreError, Take, Viewer, cost};
use crate::types::{CanonicalEvent, EventMatcher, Filter, MatchWork, Timestamp, parse_expiration};

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
/// in the order they were committed. Spends a cost of up to `cost`, subtracting what it reads, as [`super::Scan::step`]
/// does; `limit` is ignored.
///
/// # Errors
/// The backend's. What was handed out before it stays handed out, so after an error
/// go on from the last [`Hit::seq`].
pub fn replay<R: Reader>(
    reader: &R,
    filters: &[Filter],
    after: Seq,
    rows: &mut usize,
    now: Timestamp,
    viewer: &dyn Viewer,
    sink: &mut dyn FnMut(Hit<'_>) -> Take,
) -> Result<Replayed, StoreError> {
    read_log(reader, after, rows, &mut |hit| {
        let mut matcher = EventMatcher::new(hit.event);
        let wanted = filters.iter().any(|filter| matcher.matches(filter))
            && parse_expiration(hit.event.tags()).is_none_or(|at| at > now)
            && (viewer.sees_all_of(hit.event.kind()) || viewer.sees(hit.event));
        (if wanted { sink(hit) } else { Take::Counted }, matcher.cost())
    })
}

/// Shows `examine` all stored events with sequence numbers above `after`, in the order they were committed, expired ones
/// too, until it pauses or what may be read for `rows` has been; they are counted down by that and by what `examine` says
/// that matching took.
///
/// # Errors
/// The backend's. What was shown before it is not shown again if reading goes on from the last [`Hit::seq`].
pub fn read_log<R: Reader>(
    reader: &R,
    after: Seq,
    rows: &mut usize,
    examine: &mut dyn FnMut(Hit<'_>) -> (Take, MatchWork),
) -> Result<Replayed, StoreError> {
    let mut covered = after;
    let mut seqs = Vec::new();
    'chunks: while *rows > 0 {
        let max = CHUNK.min(*rows);
        seqs.clear();
        reader.log(covered, max, &mut seqs)?;
        for &seq in &seqs {
            // An event may have cost more than one.
            if *rows == 0 {
                break 'chunks;
            }
            *rows -= 1;
            covered = seq;
            let Some(json) = reader.event(seq)? else {
                continue;
            };
            let event = CanonicalEvent::trusted(&json);
            let (take, cost) = examine(Hit { seq, event });
            *rows = rows.saturating_sub(cost::of_match(json.len(), cost));
            if take == Take::CountedAndPause {
                return Ok(Replayed { covered, caught_up: covered == reader.last_seq()? });
            }
        }
        if seqs.len() < max {
            return Ok(Replayed { covered: reader.last_seq()?.max(after), caught_up: true });
        }
    }
    Ok(Replayed { covered, caught_up: covered >= reader.last_seq()? })
}
