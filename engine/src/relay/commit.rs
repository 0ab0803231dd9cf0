//! Commits: verified events are made durable, and only then answered.

use super::ingest::InFlight;
use super::publish::PublishOutcome;
use super::{Relay, words};
use crate::store::{self, Backend, Op, Outcome, Refusal, Seq, StoreError};
use crate::types::{Event, Now};

/// Bytes of events at which a [`Commit`] ends. An event of many tags is found by a key for each, so that a store may
/// need twenty times its size while it is written.
const COMMIT_BYTES: usize = 1 << 20;

/// Verified changes of one shard, to be made durable in one go.
#[derive(Debug)]
pub struct Commit {
    ops: Vec<Op>,
    places: Vec<InFlight>,
}

/// What became of a [`Commit`], for the shard it came from.
#[derive(Debug)]
pub struct CommitReply {
    places: Vec<InFlight>,
    outcomes: Vec<Result<Outcome, StoreError>>,
}

/// An event to deliver to live subscriptions.
#[derive(Clone, Debug)]
pub struct Live {
    /// Its sequence number; `None` for ephemeral events, which have none.
    pub seq: Option<Seq>,
    /// The event.
    pub event: Event,
}

/// What [`commit`] did.
#[derive(Debug)]
pub struct Committed {
    /// One reply a commit, in their order.
    pub replies: Vec<CommitReply>,
    /// What was stored, in order, for every shard's [`Relay::handle_live`].
    pub live: Vec<Live>,
    /// The last error of the store, if there was one.
    pub error: Option<StoreError>,
}

impl Commit {
    /// Changes in it.
    pub fn len(&self) -> usize {
        self.ops.len()
    }

    /// Whether it changes nothing; the machine makes none such.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }
}

/// Makes `commits` durable in one change of `store`; when it returns, what it says is stored survives power
/// loss. If there is no room for it, what removes events is tried without the rest, with the room that the store keeps
/// for that. If the one change fails for another reason, each commit is tried alone, so that one that cannot be stored
/// does not take the others with it.
pub fn commit<B: Backend>(store: &B, now: Now, commits: Vec<Commit>) -> Committed {
    let mut ops = Vec::with_capacity(commits.iter().map(Commit::len).sum());
    let mut lens = Vec::with_capacity(commits.len());
    let mut places = Vec::with_capacity(commits.len());
    for commit in commits {
        lens.push(commit.ops.len());
        ops.extend(commit.ops);
        places.push(commit.places);
    }
    let mut results = Vec::with_capacity(ops.len());
    let failed = |ops: &[Op], error: &StoreError| ops.iter().map(|_| Err(error.clone())).collect::<Vec<_>>();
    match store::commit(store, now.seconds(), &ops) {
        Ok(outcomes) => results.extend(outcomes.into_iter().map(Ok)),
        Err(full @ StoreError::Full(_)) => {
            results = store::commit_removals(store, now.seconds(), &ops, &full);
        }
        Err(_) if lens.len() > 1 => {
            let mut rest = &ops[..];
            for len in &lens {
                let (own, others) = rest.split_at(*len);
                match store::commit(store, now.seconds(), own) {
                    Ok(outcomes) => results.extend(outcomes.into_iter().map(Ok)),
                    Err(error) => results.extend(failed(own, &error)),
                }
                rest = others;
            }
        }
        Err(error) => results = failed(&ops, &error),
    }
    let error = results.iter().rev().find_map(|result| result.as_ref().err()).cloned();
    let live = ops
        .into_iter()
        .zip(&results)
        .filter_map(|(op, result)| match result {
            Ok(Outcome::Stored(seq)) => Some(Live { seq: Some(*seq), event: into_event(op) }),
            _ => None,
        })
        .collect();
    let mut results = results.into_iter();
    let replies = places
        .into_iter()
        .zip(lens)
        .map(|(places, len)| CommitReply { places, outcomes: results.by_ref().take(len).collect() })
        .collect();
    Committed { replies, live, error }
}

fn into_event(op: Op) -> Event {
    match op {
        Op::Put(verified) | Op::Vanish(verified) => verified.into_event(),
    }
}

/// Changes that wait for the host to fetch them.
#[derive(Debug, Default)]
pub(super) struct Pending {
    ops: Vec<Op>,
    places: Vec<InFlight>,
}

impl Pending {
    pub(super) fn push(&mut self, op: Op, place: InFlight) {
        self.ops.push(op);
        self.places.push(place);
    }
}

impl<B: Backend> Relay<B> {
    /// What has been verified and awaits its commit: everything, or what comes first of it if that is more than a
    /// mebibyte. To be called until there is nothing.
    pub fn poll_commit(&mut self) -> Option<Commit> {
        if self.pending.ops.is_empty() {
            return None;
        }
        let Pending { mut ops, mut places } = std::mem::take(&mut self.pending);
        let mut bytes = 0;
        let full = ops.iter().position(|op| {
            bytes += op.event().json().len();
            bytes >= COMMIT_BYTES
        });
        if let Some(last) = full.filter(|last| last + 1 < ops.len()) {
            self.pending = Pending { ops: ops.split_off(last + 1), places: places.split_off(last + 1) };
        }
        Some(Commit { ops, places })
    }

    /// The reply to a commit of this shard.
    pub fn handle_committed(&mut self, now: Now, reply: CommitReply) {
        debug_assert_eq!(reply.outcomes.len(), reply.places.len(), "an outcome for each change");
        for (place, outcome) in reply.places.into_iter().zip(reply.outcomes) {
            match &outcome {
                Ok(Outcome::Stored(_)) => self.metrics.events_stored += 1,
                Ok(Outcome::Duplicate) => self.metrics.events_duplicate += 1,
                Ok(Outcome::Refused(_)) | Err(_) => {}
            }
            let outcome = match outcome {
                Ok(outcome) => publish_outcome(&outcome),
                Err(error) => PublishOutcome::Failed(words::store(&error)),
            };
            self.finish(now, place, outcome);
        }
        self.resume_after_ingest();
    }
}

/// A store's outcome as its publisher is answered.
fn publish_outcome(outcome: &Outcome) -> PublishOutcome {
    match outcome {
        Outcome::Stored(seq) => PublishOutcome::Stored(*seq),
        Outcome::Duplicate => PublishOutcome::Duplicate,
        Outcome::Refused(Refusal::Superseded) => PublishOutcome::Superseded,
        Outcome::Refused(refusal) => PublishOutcome::Refused(words::refusal(*refusal).into()),
    }
}
