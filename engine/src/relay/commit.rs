//! Commits: verified events are made durable, and only then answered.

use super::fair_batches::FairBatches;
use super::ingest::InFlightId;
use super::publish::PublishOutcome;
use super::queries::FairnessKey;
use super::{Relay, messages};
use crate::store::{self, Backend, Op, OpResult, Outcome, Refusal, RemovedEvents, Seq, StoreError};
use crate::types::{ClientAddress, Event, Now};

/// Cost at which a [`Commit`] ends, in keys written (see [`commit_keys`]): a mebibyte of content, or 16,000 tags. An event
/// is stored under a key for each of its tags, so that a store may need twenty times its size, and most of its time, for
/// them.
const COMMIT_KEYS_MAX: usize = 16_384;
/// What an event without tags costs: its body, and the keys it always has.
const EVENT_KEYS: usize = 8;
/// Bytes of an event that cost as much as a key.
const KEY_BYTES: usize = 64;
/// What the commits of a shard that are under way may cost together: one that is being made durable, and the next one.
/// Small ones are not counted one by one, because a writer makes all that wait durable together.
const IN_FLIGHT_KEYS_MAX: usize = 2 * COMMIT_KEYS_MAX;

/// What storing an event costs, in keys.
fn commit_keys(bytes: usize, tags: usize) -> usize {
    EVENT_KEYS + tags + bytes / KEY_BYTES
}

/// Verified changes of one shard, to be made durable in one go.
#[derive(Debug)]
pub struct Commit {
    ops: Vec<Op>,
    /// The client addresses that they come from.
    publisher_addresses: Vec<Option<ClientAddress>>,
    ids: Vec<InFlightId>,
    cost: usize,
}

/// What became of a [`Commit`], for the shard it came from.
#[derive(Debug)]
pub struct CommitReply {
    cost: usize,
    ids: Vec<InFlightId>,
    outcomes: Vec<Result<Outcome, StoreError>>,
}

/// An event to deliver to live subscriptions.
#[derive(Clone, Debug)]
pub struct LiveEvent {
    /// Its sequence number; `None` for ephemeral events, which have none.
    pub seq: Option<Seq>,
    /// The event.
    pub event: Event,
    /// The client address that published it, which its delivery is charged to. `None`: the host, a client without one, or
    /// unknown.
    pub publisher_address: Option<ClientAddress>,
    /// What storing it removed.
    pub removed: RemovedEvents,
}

impl LiveEvent {
    /// An ephemeral event.
    pub fn ephemeral(event: Event, publisher_address: Option<ClientAddress>) -> Self {
        LiveEvent { seq: None, event, publisher_address, removed: RemovedEvents::NOTHING }
    }
}

/// The sequence number in a [`LiveEvent`] whose event was delivered when it was stored: only what it removes now is news.
pub(super) const ALREADY_DELIVERED: Seq = Seq(0);

/// What [`commit`] did.
#[derive(Debug)]
pub struct Committed {
    /// One reply a commit, in their order.
    pub replies: Vec<CommitReply>,
    /// What was stored, in order, for every shard's [`Relay::handle_live`].
    pub live: Vec<LiveEvent>,
    /// An error of the store, if there was one: of several, one that is not a full disk.
    pub error: Option<StoreError>,
}

impl Commit {
    /// Changes in it.
    pub fn len(&self) -> usize {
        self.ops.len()
    }

    /// What it costs to store, in keys, about: each tag is one, each event eight more, and 64 bytes as much as one.
    pub fn cost(&self) -> usize {
        self.cost
    }

    /// Whether it changes nothing; the machine never returns such a commit.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }
}

/// Makes `commits` durable in one change of `store`; when it returns, what it says is stored survives power
/// loss. If the disk is full, what removes events is tried without the rest, in the space that the store reserves
/// for that. If the one change fails for another reason, each commit is tried alone, so that one that cannot be stored
/// does not take the others with it.
pub fn commit<B: Backend>(store: &B, now: Now, commits: Vec<Commit>) -> Committed {
    let mut ops = Vec::with_capacity(commits.iter().map(Commit::len).sum());
    let mut lens = Vec::with_capacity(commits.len());
    let mut ids = Vec::with_capacity(commits.len());
    let mut publisher_addresses = Vec::with_capacity(ops.capacity());
    for commit in commits {
        lens.push(commit.ops.len());
        ops.extend(commit.ops);
        publisher_addresses.extend(commit.publisher_addresses);
        ids.push((commit.ids, commit.cost));
    }
    let mut results = Vec::with_capacity(ops.len());
    let failed = |ops: &[Op], error: &StoreError| ops.iter().map(|_| Err(error.clone())).collect::<Vec<_>>();
    match store::commit_with_removals(store, now.seconds(), &ops) {
        Ok(outcomes) => results.extend(outcomes.into_iter().map(Ok)),
        Err(full @ StoreError::Full(_)) => {
            results = store::commit_removals(store, now.seconds(), &ops, &full);
        }
        Err(_) if lens.len() > 1 => {
            let mut rest = &ops[..];
            for len in &lens {
                let (commit_ops, others) = rest.split_at(*len);
                match store::commit_with_removals(store, now.seconds(), commit_ops) {
                    Ok(outcomes) => results.extend(outcomes.into_iter().map(Ok)),
                    Err(full @ StoreError::Full(_)) => {
                        results.extend(store::commit_removals(store, now.seconds(), commit_ops, &full));
                    }
                    Err(error) => results.extend(failed(commit_ops, &error)),
                }
                rest = others;
            }
        }
        Err(error) => results = failed(&ops, &error),
    }
    let errors = || results.iter().rev().filter_map(|result| result.as_ref().err());
    let is_worse = |error: &&StoreError| !matches!(error, StoreError::Full(_));
    let error = errors().find(is_worse).or_else(|| errors().next()).cloned();
    let live = ops
        .into_iter()
        .zip(publisher_addresses)
        .zip(&mut results)
        .filter_map(|((op, publisher_address), result)| {
            let Ok(OpResult { outcome, removed }) = result else { return None };
            let removed = std::mem::replace(removed, RemovedEvents::NOTHING);
            let seq = match outcome {
                Outcome::Stored(seq) => *seq,
                // A request to vanish that was stored before this relay had the URL that it names.
                Outcome::Duplicate if !removed.is_nothing() => ALREADY_DELIVERED,
                _ => return None,
            };
            Some(LiveEvent { seq: Some(seq), event: into_event(op), publisher_address, removed })
        })
        .collect();
    let mut results = results.into_iter().map(|result| result.map(|done| done.outcome));
    let replies = ids
        .into_iter()
        .zip(lens)
        .map(|((ids, cost), len)| CommitReply { cost, ids, outcomes: results.by_ref().take(len).collect() })
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
pub(super) struct CommitQueue {
    waiting: FairBatches<FairnessKey, Change>,
    /// The cost of the commits that the host has fetched and not yet answered.
    in_flight: usize,
}

#[derive(Debug)]
struct Change {
    op: Op,
    publisher_address: Option<ClientAddress>,
    id: InFlightId,
}

impl CommitQueue {
    pub(super) fn push(&mut self, op: Op, id: InFlightId, fairness_key: FairnessKey, tags: usize) {
        let cost = commit_keys(op.event().json().len(), tags);
        self.waiting.push(fairness_key, cost, Change { op, publisher_address: fairness_key.address(), id });
    }

    /// All changes, or as many as fit into a commit, shared fairly between their origins.
    fn take(&mut self) -> Commit {
        let len = self.waiting.arrived();
        let mut commit = Commit {
            ops: Vec::with_capacity(len),
            publisher_addresses: Vec::with_capacity(len),
            ids: Vec::with_capacity(len),
            cost: 0,
        };
        commit.cost = self.waiting.take(COMMIT_KEYS_MAX, |Change { op, publisher_address, id }| {
            commit.ops.push(op);
            commit.publisher_addresses.push(publisher_address);
            commit.ids.push(id);
        });
        self.in_flight += commit.cost;
        commit
    }
}

impl<B: Backend> Relay<B> {
    /// The next commit: all verified changes, or, if they exceed about a mebibyte or 16,000 tags, as
    /// many, shared fairly between client addresses. To be called until it returns `None`: a shard has at most two
    /// commits of that size under way, and the next one follows when [`Relay::handle_committed`] has been called for one of them.
    pub fn poll_commit(&mut self) -> Option<Commit> {
        if self.commit_queue.waiting.is_empty() || self.commit_queue.in_flight >= IN_FLIGHT_KEYS_MAX {
            return None;
        }
        Some(self.commit_queue.take())
    }

    /// The reply to a commit of this shard.
    pub fn handle_committed(&mut self, now: Now, reply: CommitReply) {
        self.commit_queue.in_flight -= reply.cost;
        debug_assert_eq!(reply.outcomes.len(), reply.ids.len(), "an outcome for each change");
        for (id, outcome) in reply.ids.into_iter().zip(reply.outcomes) {
            match &outcome {
                Ok(Outcome::Stored(_)) => self.metrics.events_stored += 1,
                Ok(Outcome::Duplicate) => self.metrics.events_duplicate += 1,
                Ok(Outcome::Refused(_)) | Err(_) => {}
            }
            let outcome = match outcome {
                Ok(outcome) => publish_outcome(&outcome),
                Err(error) => PublishOutcome::Failed(messages::store(&error).into()),
            };
            self.finish(now, id, outcome);
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
        Outcome::Refused(refusal) => PublishOutcome::Refused(messages::refusal(*refusal).into()),
    }
}
