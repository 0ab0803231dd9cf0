//! Writes: what is stored, replaced, deleted or refused (NIPs 01, 09, 40, 59, 62).
//!
//! Each operation is decided by [`plan`], a pure function from what the store knows ([`facts`]) to what is
//! to be stored and deleted, and the tombstones to put. Nothing here checks signatures, policies or who may write.

mod facts;
mod plan;
mod removal;
mod requests;

use super::{Backend, Seq, StoreError, Writer, terms_of};
use crate::types::{Event, Timestamp, is_removal_request};
use crate::verify::Verified;
use plan::{Plan, Verdict};
use removal::Removal;
pub use removal::{Removed, remove, remove_hidden, sweep_aged, sweep_expired};

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
/// Outcomes do not depend on whether expired events have been swept or hidden ones removed yet. Costs a few point reads an
/// event; a deletion request some for each target it names; a request to vanish a posting for each event of its author
/// and each mention of its author since the last one. What is deleted beyond [`Backend::removed_keys_max`] keys and what
/// the events of `ops` are found by themselves is hidden, at the cost of a bit, and is left to [`remove_hidden`].
///
/// # Errors
/// The backend's. Then nothing of `ops` was kept.
pub fn commit<B: Backend>(backend: &B, now: Timestamp, ops: &[Op]) -> Result<Vec<Outcome>, StoreError> {
    if ops.is_empty() {
        return Ok(Vec::new());
    }
    let mut removal = Removal::new(backend);
    backend.write(|writer| carry_out(writer, &mut removal, now, ops))
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
    let mut removal = Removal::for_room(backend);
    let done = match removals.is_empty() {
        true => Ok(Vec::new()),
        false => backend.write_from_reserve(|writer| carry_out(writer, &mut removal, now, &removals)),
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
    removal: &mut Removal,
    now: Timestamp,
    ops: &[Op],
) -> Result<Vec<Outcome>, StoreError> {
    let mut last = writer.last_seq()?;
    ops.iter()
        .map(|op| {
            let plan = plan::plan(op, now, &facts::gather(writer, op, now)?);
            apply(writer, removal, op.event(), plan, &mut last)
        })
        .collect()
}

fn apply(
    writer: &mut impl Writer,
    removal: &mut Removal,
    event: &Event,
    plan: Plan,
    last: &mut Seq,
) -> Result<Outcome, StoreError> {
    if plan.verdict == Verdict::Store {
        removal.credit(event);
    }
    for seq in plan.delete {
        removal.remove_or_hide(writer, seq)?;
    }
    for (key, until) in plan.tombstones {
        writer.put_tombstone(&key, until)?;
    }
    Ok(match plan.verdict {
        Verdict::Store => {
            *last = Seq(last.0 + 1);
            writer.insert(*last, event, &terms_of(event.view(), removal.classes()))?;
            Outcome::Stored(*last)
        }
        Verdict::Duplicate => Outcome::Duplicate,
        Verdict::Refuse(refusal) => Outcome::Refused(refusal),
    })
}
