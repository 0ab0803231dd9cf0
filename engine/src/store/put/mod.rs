//! Writes: what is stored, replaced, deleted or refused (NIPs 01, 09, 40, 59, 62).
//!
//! Each operation is decided by [`plan`], a pure function from what the store knows ([`facts`]) to what is
//! to be stored and deleted, and the tombstones to put. Nothing here checks signatures, policies or who may write.

mod facts;
mod plan;
mod requests;

use std::sync::Arc;

use super::{Backend, Bound, Posting, Rank, Reader, Seq, StoreError, Term, TermClasses, Writer, terms_of};
use crate::types::{Event, EventId, Kind, Timestamp, is_removal_request};
use crate::verify::Verified;
use plan::{Plan, Verdict};

/// One thing to do to the store.
#[derive(Clone, Debug)]
pub enum Op {
    /// Store an event, and do what it asks for if it is a deletion request (NIP-09).
    Put(Verified),
    /// Fulfil a request to vanish (NIP-62): kind 62, tagged with this relay's URL or `ALL_RELAYS`, which
    /// the caller has checked.
    Vanish(Verified),
}

impl Op {
    /// The event.
    pub fn event(&self) -> &Event {
        match self {
            Op::Put(event) | Op::Vanish(event) => event.event(),
        }
    }
}

/// What became of one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The event is stored under this sequence number.
    Stored(Seq),
    /// The event was stored already.
    Duplicate,
    /// It is not stored, and never was.
    Refused(Refusal),
}

/// Why an event is not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Its author, or the recipient of a gift wrap, deleted it (NIP-09).
    Deleted,
    /// Its author, or the recipient of a gift wrap, vanished (NIP-62).
    Vanished,
    /// A newer version of the replaceable or addressable event is stored (NIP-01).
    Superseded,
    /// It had expired when it arrived (NIP-40).
    Expired,
    /// Events of its kind are only delivered live (NIP-01). Callers do not offer such events.
    Ephemeral,
}

/// Carries out `ops` in order as one change, durable when this returns; later ones see what earlier ones did.
///
/// Outcomes do not depend on whether expired events have been swept yet. Costs a few point reads an event; a
/// deletion request some for each target it names; a request to vanish as much as there are events of its author
/// and mentions of its author since the last one.
///
/// # Errors
/// The backend's. Then nothing of `ops` was kept.
pub fn commit<B: Backend>(backend: &B, now: Timestamp, ops: &[Op]) -> Result<Vec<Outcome>, StoreError> {
    if ops.is_empty() {
        return Ok(Vec::new());
    }
    let classes = backend.classes();
    backend.write(|writer| carry_out(writer, classes, now, ops))
}

/// [`commit`] after it found no room: carries out those of `ops` that remove events (kinds 5 and 62), if there are any,
/// with the room that the backend keeps for that. The others fail with `full`.
pub fn commit_removals<B: Backend>(
    backend: &B,
    now: Timestamp,
    ops: &[Op],
    full: &StoreError,
) -> Vec<Result<Outcome, StoreError>> {
    let removes = |op: &Op| is_removal_request(op.event().kind);
    let removals: Vec<Op> = ops.iter().filter(|op| removes(op)).cloned().collect();
    let classes = backend.classes();
    let done = match removals.is_empty() {
        true => Ok(Vec::new()),
        false => backend.write_from_reserve(|writer| carry_out(writer, classes, now, &removals)),
    };
    match done {
        Ok(outcomes) => {
            let mut outcomes = outcomes.into_iter();
            let outcome = |op| removes(op).then(|| outcomes.next()).flatten().ok_or_else(|| full.clone());
            ops.iter().map(outcome).collect()
        }
        Err(error) => ops.iter().map(|_| Err(error.clone())).collect(),
    }
}

fn carry_out<W: Writer>(
    writer: &mut W,
    classes: TermClasses,
    now: Timestamp,
    ops: &[Op],
) -> Result<Vec<Outcome>, StoreError> {
    let mut last = writer.last_seq()?;
    ops.iter()
        .map(|op| {
            let plan = plan::plan(op, now, &facts::gather(writer, op, now)?);
            apply(writer, classes, op.event(), plan, &mut last)
        })
        .collect()
}

/// Removes events without tombstones: they may be stored again. Returns how many there were.
///
/// # Errors
/// The backend's. Then none was removed.
pub fn remove<B: Backend>(backend: &B, ids: &[EventId]) -> Result<usize, StoreError> {
    let classes = backend.classes();
    backend.write(|writer| {
        let mut removed = 0;
        for id in ids {
            if let Some(seq) = writer.seq_of(id)? {
                remove_event(writer, classes, seq)?;
                removed += 1;
            }
        }
        Ok(removed)
    })
}

/// Removes up to `events_max` events that have expired at second `now` (NIP-40), soonest first. Returns
/// how many; fewer than `events_max` means that none is left. Removal requests stay, unserved
/// ([`is_removal_request`]); those that an earlier version of this program listed for
/// sweeping are stored again under a new sequence number, unlisted.
///
/// # Errors
/// The backend's. Then none was removed.
pub fn sweep_expired<B: Backend>(
    backend: &B,
    now: Timestamp,
    events_max: usize,
) -> Result<usize, StoreError> {
    let classes = backend.classes();
    let mut expired = Vec::new();
    // A read first, so that an idle relay does not open a write transaction.
    backend.reader()?.expiring(now, 1, &mut expired)?;
    if expired.is_empty() || events_max == 0 {
        return Ok(0);
    }
    backend.write(|writer| {
        expired.clear();
        writer.expiring(now, events_max, &mut expired)?;
        let mut last = writer.last_seq()?;
        for &seq in &expired {
            let event = remove_event(writer, classes, seq)?;
            if is_removal_request(event.kind) {
                last = Seq(last.0 + 1);
                writer.insert(last, &event, &terms_of(event.view(), classes))?;
            }
        }
        Ok(expired.len())
    })
}

/// Retention: removes up to `events_max` events that are older than second `before` and of a kind that `is_swept`
/// accepts, without tombstones: they may be stored again. Removal requests ([`is_removal_request`]) are never swept, because
/// their effect must last. Returns how many; fewer than `events_max` means that none is left.
///
/// Costs one look-up a kind where the backend keeps no term over all events, and otherwise a read for each
/// old event that is kept.
///
/// # Errors
/// The backend's. Then none was removed.
pub fn sweep_aged<B: Backend>(
    backend: &B,
    before: Timestamp,
    is_swept: &dyn Fn(Kind) -> bool,
    events_max: usize,
) -> Result<usize, StoreError> {
    let (classes, Some(newest)) = (backend.classes(), before.checked_sub(1)) else { return Ok(0) };
    let is_swept = |kind: Kind| !is_removal_request(kind) && is_swept(kind);
    let mut aged = Vec::new();
    {
        let reader = backend.reader()?;
        let terms = match classes.all {
            true => vec![Term::All],
            false => reader.kinds()?.into_iter().filter(|kind| is_swept(*kind)).map(Term::Kind).collect(),
        };
        for term in &terms {
            let mut start = Bound::From(Rank::newest(newest));
            let mut page: Vec<Posting> = Vec::new();
            while aged.len() < events_max {
                page.clear();
                reader.postings(term, start, 0, SWEEP_PAGE, &mut page)?;
                aged.extend(page.iter().filter(|posting| is_swept(posting.kind)).map(|posting| posting.seq));
                match page.last() {
                    Some(last) if page.len() == SWEEP_PAGE => start = Bound::After(last.rank, last.seq),
                    _ => break,
                }
            }
        }
    }
    aged.truncate(events_max);
    if aged.is_empty() {
        return Ok(0);
    }
    backend.write(|writer| {
        for &seq in &aged {
            remove_event(writer, classes, seq)?;
        }
        Ok(aged.len())
    })
}

/// Postings that a retention sweep reads at once.
const SWEEP_PAGE: usize = 256;

fn apply(
    writer: &mut impl Writer,
    classes: TermClasses,
    event: &Event,
    plan: Plan,
    last: &mut Seq,
) -> Result<Outcome, StoreError> {
    for seq in plan.delete {
        remove_event(writer, classes, seq)?;
    }
    for (key, until) in plan.tombstones {
        writer.put_tombstone(&key, until)?;
    }
    Ok(match plan.verdict {
        Verdict::Store => {
            *last = Seq(last.0 + 1);
            writer.insert(*last, event, &terms_of(event.view(), classes))?;
            Outcome::Stored(*last)
        }
        Verdict::Duplicate => Outcome::Duplicate,
        Verdict::Refuse(refusal) => Outcome::Refused(refusal),
    })
}

fn remove_event(writer: &mut impl Writer, classes: TermClasses, seq: Seq) -> Result<Event, StoreError> {
    let json: Arc<[u8]> = match writer.event(seq)? {
        Some(json) => json.as_ref().into(),
        None => return Err(StoreError::Corrupt(format!("event {} is listed but not stored", seq.0))),
    };
    let event = Event::from_canonical(json);
    writer.remove(seq, &event, &terms_of(event.view(), classes))?;
    Ok(event)
}
