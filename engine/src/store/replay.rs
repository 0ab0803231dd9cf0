//! Replay: events in the order they were committed, for a live reader that fell behind.

use super::{Hit, Reader, Seq, StoreError, Take, Viewer, cost};
use crate::types::{CanonicalEvent, Filter, FoundBy, Timestamp, parse_expiration};

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

/// Hands out stored events with sequence numbers above `after` that match any of `filters` and that `viewer` may see, in
/// the order they were committed. Reads what may be read for `rows`, counting them down as [`super::Scan::step`] does; `limit` plays no part.
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
            let mut found_by = FoundBy::new(event);
            let matches = filters.iter().any(|filter| found_by.matches(filter));
            *rows = rows.saturating_sub(cost::of_event(json.len(), &found_by));
            if matches
                && parse_expiration(event.tags()).is_none_or(|at| at > now)
                && (viewer.sees_all_of(event.kind()) || viewer.sees(event))
                && sink(Hit { seq, event }) == Take::CountedAndPause
            {
                return Ok(Replayed { covered, caught_up: covered == reader.last_seq()? });
            }
        }
        if seqs.len() < max {
            return Ok(Replayed { covered: reader.last_seq()?.max(after), caught_up: true });
        }
    }
    Ok(Replayed { covered, caught_up: covered >= reader.last_seq()? })
}
