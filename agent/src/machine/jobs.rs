//! Unfinished jobs in memory: little of those that wait, which are in the database, and everything of those that are
//! worked on.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use relay_engine::types::{Event, EventId, PubKey, Timestamp};

use super::EffectId;
use super::inputs::Resolver;
use super::ready::Ready;
use crate::executor::Executor;
use crate::job::JobRequest;
use crate::manifest::{KIND_BLOB_PAYMENT, Manifest, Schedule};
use crate::nip90;
use crate::store::{JobRow, UnfinishedRow};

/// All unfinished jobs.
#[derive(Debug, Default)]
pub(super) struct Jobs {
    unfinished: HashMap<EventId, UnfinishedRow>,
    /// Those that can be started.
    ready: Ready,
    /// Timers of jobs, in milliseconds since 1970; at most one for each job.
    timers: BTreeSet<(u64, EventId)>,
    timer_of: HashMap<EventId, u64>,
    of_customer: HashMap<PubKey, usize>,
    last_seq: u64,
}

impl Jobs {
    /// None; `last_seq` is the number of the newest job ever.
    pub(super) fn open(last_seq: u64) -> Self {
        Jobs { last_seq, ..Jobs::default() }
    }

    /// The number of the next job.
    pub(super) fn next_seq(&mut self) -> u64 {
        self.last_seq += 1;
        self.last_seq
    }

    /// The number of the newest job.
    pub(super) fn last_seq(&self) -> u64 {
        self.last_seq
    }

    pub(super) fn get(&self, id: &EventId) -> Option<&UnfinishedRow> {
        self.unfinished.get(id)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &UnfinishedRow> {
        self.unfinished.values()
    }

    pub(super) fn len(&self) -> usize {
        self.unfinished.len()
    }

    /// Unfinished jobs of a customer.
    pub(super) fn of_customer(&self, customer: &PubKey) -> usize {
        self.of_customer.get(customer).copied().unwrap_or(0)
    }

    /// Adds a job, or notes its new state. Nothing happens with it until [`Jobs::set_ready`] or [`Jobs::set_timer`].
    pub(super) fn put(&mut self, row: UnfinishedRow) {
        if self.unfinished.insert(row.id, row).is_none() {
            *self.of_customer.entry(row.customer).or_default() += 1;
        }
        self.ready.remove(&row);
        self.set_timer(row.id, None);
    }

    /// It has ended.
    pub(super) fn remove(&mut self, id: &EventId) {
        let Some(row) = self.unfinished.remove(id) else { return };
        self.ready.remove(&row);
        self.set_timer(*id, None);
        if let Some(count) = self.of_customer.get_mut(&row.customer) {
            *count -= 1;
            if *count == 0 {
                self.of_customer.remove(&row.customer);
            }
        }
    }

    /// It waits for its turn only.
    pub(super) fn set_ready(&mut self, id: &EventId) {
        if let Some(row) = self.unfinished.get(id) {
            self.ready.insert(row);
        }
    }

    /// The job whose turn is next.
    pub(super) fn first_ready(&self) -> Option<UnfinishedRow> {
        self.ready.first().and_then(|id| self.unfinished.get(&id)).copied()
    }

    /// A job of this customer is started.
    pub(super) fn turn_taken(&mut self, customer: &PubKey) {
        self.ready.turn_taken(customer);
    }

    /// Sets or removes the timer of a job.
    pub(super) fn set_timer(&mut self, id: EventId, at: Option<u64>) {
        if let Some(before) = self.timer_of.remove(&id) {
            self.timers.remove(&(before, id));
        }
        if let Some(at) = at {
            self.timers.insert((at, id));
            self.timer_of.insert(id, at);
        }
    }

    /// The earliest of these times.
    pub(super) fn next_timer(&self) -> Option<u64> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// A job whose timer is due; the timer is removed.
    pub(super) fn pop_due(&mut self, now: u64) -> Option<EventId> {
        let (_, id) = self.timers.first().filter(|(at, _)| *at <= now).copied()?;
        self.set_timer(id, None);
        Some(id)
    }
}

/// A job that is worked on.
pub(super) struct Active {
    pub(super) row: JobRow,
    pub(super) request: JobRequest,
    pub(super) source: Source,
    /// The time of the last event about it.
    pub(super) last_created_at: Timestamp,
    pub(super) stage: Stage,
}

/// What asks for a job.
pub(super) enum Source {
    /// A customer's event.
    Event(Event),
    /// The agent itself.
    Schedule(Schedule),
    /// The relay's Blossom server, by an event that nobody but it has seen. Nobody is sent anything about it: who has bought what is not
    /// published.
    Purchase(Event),
}

impl Source {
    /// What asks for a job by an event. Orders of purchases that come from elsewhere are refused before; what the manifest says now does
    /// not count, since an order may be of a version before.
    pub(super) fn of(event: Event) -> Self {
        match event.kind == KIND_BLOB_PAYMENT && !nip90::is_encrypted(&event) {
            true => Source::Purchase(event),
            false => Source::Event(event),
        }
    }
}

/// What is being done about it.
pub(super) enum Stage {
    /// Nothing yet.
    Waiting,
    /// Its inputs are fetched.
    Resolving(Resolver),
    /// An executor works.
    Running(Attempt),
}

/// An attempt.
pub(super) struct Attempt {
    pub(super) manifest: Arc<Manifest>,
    pub(super) executor: Box<dyn Executor + Send>,
    /// The call, or other effect, that is open.
    pub(super) call: Option<EffectId>,
    /// Milliseconds since 1970.
    pub(super) deadline: u64,
    /// The texts of the inputs, for the session.
    pub(super) said: String,
    /// The part of the result that has not been sent yet.
    pub(super) partial: String,
    /// When the next partial result may be sent, in milliseconds since 1970.
    pub(super) partial_at: u64,
    /// Partial results that were sent in this attempt.
    pub(super) partials: u32,
    /// The result, while it is stored; `call` is the effect.
    pub(super) stored: Option<PendingBlob>,
}

/// A result that is being stored.
pub(super) struct PendingBlob {
    pub(super) bytes: Bytes,
    /// Tokens read and written, if the executor knows.
    pub(super) tokens: Option<(u64, u64)>,
}

impl Active {
    pub(super) fn id(&self) -> EventId {
        self.row.id
    }

    /// What is kept in memory of it.
    pub(super) fn unfinished_row(&self) -> UnfinishedRow {
        let JobRow { seq, id, customer, state, received_at, wake_at, .. } = self.row;
        UnfinishedRow { seq, id, customer, state, received_at, wake_at }
    }

    /// The customer's event.
    pub(super) fn event(&self) -> Option<&Event> {
        match &self.source {
            Source::Event(event) | Source::Purchase(event) => Some(event),
            Source::Schedule(_) => None,
        }
    }

    pub(super) fn is_running(&self) -> bool {
        matches!(self.stage, Stage::Running(_))
    }
}
