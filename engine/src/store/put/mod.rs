//! Writes: what is stored, replaced, deleted or refused (NIPs 01, 09, 40, 59, 62).
//!
//! Each operation is decided by [`plan`], a pure function from what the store knows ([`facts`]) to what is
//! to be stored and deleted, and the tombstones to put. Nothing here checks signatures, policies or who may write.

mod facts;
mod plan;
mod removal;
mod request_tags;

use super::{Backend, Seq, StoreError, Writer, terms_of};
use crate::types::{Event, EventId, Timestamp, is_removal_request};
use crate::verify::Verified;
use plan::{Plan, Verdict};
use removal::RemovalBudget;
pub use removal::{Removed, remove, remove_pending, sweep_expired, sweep_first, sweep_older_than};

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
    /// The event was not stored, and is not stored now.
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

/// What an operation has removed from what is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RemovedEvents {
    /// These events, each by its `created_at` and id; usually none.
    Listed(Vec<(Timestamp, EventId)>),
    /// More events than were read.
    Unknown,
}

impl RemovedEvents {
    /// Nothing.
    pub const NOTHING: RemovedEvents = RemovedEvents::Listed(Vec::new());

    /// Whether it is nothing.
    pub fn is_nothing(&self) -> bool {
        matches!(self, RemovedEvents::Listed(events) if events.is_empty())
    }
}

/// The result of one operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpResult {
    /// What became of it.
    pub outcome: Outcome,
    /// What it removed.
    pub removed: RemovedEvents,
}

/// Carries out `ops` in order as one change, durable when this returns; later ones see what earlier ones did.
///
/// Outcomes do not depend on whether expired events have been swept or ones pending removal removed yet. Costs a few point reads an
/// event; a deletion request some for each target it names; a request to vanish a posting for each event of its author
/// and each mention of its author since the last one. What is deleted beyond [`Backend::removed_keys_max`] keys and what
/// the events of `ops` are found by themselves is pending removal, at the cost of a bit, and is left to [`remove_pending`].
///
/// # Errors
/// The backend's. Then nothing of `ops` was kept.
pub fn commit<B: Backend>(backend: &B, now: Timestamp, ops: &[Op]) -> Result<Vec<Outcome>, StoreError> {
    Ok(commit_with_removals(backend, now, ops)?.into_iter().map(|done| done.outcome).collect())
}

/// As [`commit`], and returns what each of `ops` removed, at no further cost.
///
/// # Errors
/// As [`commit`].
pub fn commit_with_removals<B: Backend>(
    backend: &B,
    now: Timestamp,
    ops: &[Op],
) -> Result<Vec<OpResult>, StoreError> {
    if ops.is_empty() {
        return Ok(Vec::new());
    }
    let mut budget = RemovalBudget::new(backend);
    let done = backend.write(|writer| execute(writer, &mut budget, now, ops, false))?;
    Ok(done.into_iter().flatten().collect())
}

/// [`commit`] after it found the disk full: carries out those of `ops` that remove events (kinds 5 and 62), if there are any,
/// in the space that the backend reserves for that. The others fail with `full`; so do requests that remove no event, or few
/// for the tombstones that they leave, because the reserve is for what frees space.
pub fn commit_removals<B: Backend>(
    backend: &B,
    now: Timestamp,
    ops: &[Op],
    full: &StoreError,
) -> Vec<Result<OpResult, StoreError>> {
    let removes = |op: &Op| is_removal_request(op.event().kind);
    let removals: Vec<Op> = ops.iter().filter(|op| removes(op)).cloned().collect();
    let mut done = Vec::with_capacity(removals.len());
    if !removals.is_empty() {
        remove_from_reserve(backend, now, &removals, RemovalBudget::on_full_disk(backend), &mut done);
    }
    let mut done = done.into_iter();
    let refused = || Err(full.clone());
    ops.iter()
        .map(|op| match removes(op) {
            true => done.next().and_then(Result::transpose).unwrap_or_else(refused),
            false => refused(),
        })
        .collect()
}

/// Carries out `ops` in the space reserved for that. If that takes too much space, events are marked as pending removal instead
/// of being removed; if even that does, each half of `ops` is tried alone.
fn remove_from_reserve<B: Backend>(
    backend: &B,
    now: Timestamp,
    ops: &[Op],
    mut budget: RemovalBudget,
    done: &mut Vec<Result<Option<OpResult>, StoreError>>,
) {
    match backend.write_from_reserve(|writer| execute(writer, &mut budget, now, ops, true)) {
        Ok(outcomes) => done.extend(outcomes.into_iter().map(Ok)),
        Err(StoreError::Full(_)) if !budget.is_least() => {
            remove_from_reserve(backend, now, ops, RemovalBudget::least(backend), done);
        }
        Err(StoreError::Full(_)) if ops.len() > 1 => {
            let (first, second) = ops.split_at(ops.len() / 2);
            for half in [first, second] {
                remove_from_reserve(backend, now, half, RemovalBudget::least(backend), done);
            }
        }
        Err(error) => done.extend(ops.iter().map(|_| Err(error.clone()))),
    }
}

/// Carries out `ops`. `None` is for one that would be stored and does not free space, where it must.
fn execute<W: Writer>(
    writer: &mut W,
    budget: &mut RemovalBudget,
    now: Timestamp,
    ops: &[Op],
    must_free_space: bool,
) -> Result<Vec<Option<OpResult>>, StoreError> {
    let mut last = writer.last_seq()?;
    ops.iter()
        .map(|op| {
            let plan = plan::plan(op, now, &facts::gather(writer, op, now)?);
            let frees_space = !plan.delete.is_empty() && 2 * plan.delete.len() >= plan.tombstones.len();
            if must_free_space && plan.verdict == Verdict::Store && !frees_space {
                return Ok(None);
            }
            apply(writer, budget, op.event(), plan, &mut last).map(Some)
        })
        .collect()
}

fn apply(
    writer: &mut impl Writer,
    budget: &mut RemovalBudget,
    event: &Event,
    plan: Plan,
    last: &mut Seq,
) -> Result<OpResult, StoreError> {
    if plan.verdict == Verdict::Store {
        budget.credit(event);
    }
    let mut removed = Some(Vec::new());
    for seq in plan.delete {
        let listed = budget.remove_or_mark(writer, seq)?;
        removed = removed.zip(listed).map(|(mut events, event)| {
            events.push(event);
            events
        });
    }
    for (key, until) in plan.tombstones {
        writer.put_tombstone(&key, until)?;
    }
    let outcome = match plan.verdict {
        Verdict::Store => {
            *last = Seq(last.0 + 1);
            writer.insert(*last, event, &terms_of(event.view(), budget.classes()))?;
            Outcome::Stored(*last)
        }
        Verdict::Duplicate => Outcome::Duplicate,
        Verdict::Refuse(refusal) => Outcome::Refused(refusal),
    };
    Ok(OpResult { outcome, removed: removed.map_or(RemovedEvents::Unknown, RemovedEvents::Listed) })
}
