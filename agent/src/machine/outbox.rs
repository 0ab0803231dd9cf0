//! Signed events leave in the order in which they were signed, one publication at a time, each of as many events as
//! wait by then. They are in the database until the relay has them; after a crash they are published again as they are, also feedback
//! of which the relay had taken only what follows it: its time says that it is older. What a remote signer has to sign waits here for it, too.

use std::collections::{HashSet, VecDeque};

use relay_engine::sql::{SqlConn, StoreError};
use relay_engine::types::{Event, EventId, Now};

use super::{Agent, Awaited, Effect, Published};
use crate::identity::missing;
use crate::nip90;
use crate::store::{self, Batch, OutboxRow};

/// Events of one publication, and of one row.
const EVENTS_MAX: usize = 64;
/// Bytes of one publication, and of one row but for its last event.
const BYTES_MAX: usize = 512 << 10;
/// Entries kept in memory; further ones are read again when their turn comes.
const ENTRIES_MAX: usize = 128;
/// Milliseconds until the relay is asked again, at first and at most.
const RETRY_MILLIS: u64 = 1_000;
const RETRY_MILLIS_MAX: u64 = 30_000;

/// Seconds that an event may be ahead of the clock. What is further ahead was signed while the clock was wrong; the relay would refuse it
/// until then, and it would block the others.
const AHEAD_SECONDS_MAX: u64 = 3_600;

/// Events that go to the same relays.
#[derive(Clone, Debug)]
struct Entry {
    /// Their row in the database. `None`: a partial result or a heartbeat, which is lost in a crash.
    row: Option<u64>,
    relays: Vec<String>,
    /// Those that the relay has neither stored nor refused for good.
    events: Vec<Event>,
    /// Whether a remote signer has to finish some of them.
    is_unsigned: bool,
    /// Whether they are others than in the database.
    is_changed: bool,
}

impl Entry {
    fn new(row: Option<u64>, relays: Vec<String>, events: Vec<Event>) -> Self {
        let is_unsigned = events.iter().any(|event| missing(event).is_some());
        Entry { row, relays, events, is_unsigned, is_changed: false }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    /// Of this call; not yet in the batch.
    staged: Vec<Entry>,
    /// In the batch.
    batched: Vec<Entry>,
    /// In the database.
    queue: VecDeque<Entry>,
    /// At the relay; or, as long as something lacks a signature, at the signer.
    in_flight: Vec<Entry>,
    /// Rows after this one are in the database only.
    read_to: u64,
    has_more: bool,
    last_row: u64,
    retry_at: Option<u64>,
    tries: u32,
}

/// What was signed and is not stored.
pub(super) struct Unsent {
    staged: Vec<Entry>,
    batched: Vec<Entry>,
}

impl Outbox {
    pub(super) fn open(conn: &impl SqlConn) -> Result<Self, StoreError> {
        let mut outbox = Outbox { has_more: true, ..Outbox::default() };
        outbox.read_more(conn)?;
        Ok(outbox)
    }

    /// The number of a new row: it has not been used before, also not by rows that are gone.
    fn next_row(&mut self, now: Now) -> u64 {
        self.last_row = now.micros().max(self.last_row + 1);
        self.last_row
    }

    /// Adds an event; returns its row.
    pub(super) fn stage(&mut self, now: Now, relays: &[String], event: Event) -> u64 {
        // The last entry for these relays, so that the events of a job stay in order.
        let last = self.staged.iter_mut().rev().find(|entry| entry.relays == relays);
        let has_room = |entry: &&mut Entry| {
            entry.row.is_some() && entry.events.len() < EVENTS_MAX && entry.bytes() < BYTES_MAX
        };
        if let Some(entry) = last.filter(has_room) {
            entry.is_unsigned |= missing(&event).is_some();
            entry.events.push(event);
            return entry.row.unwrap_or_default();
        }
        let row = self.next_row(now);
        self.staged.push(Entry::new(Some(row), relays.to_owned(), vec![event]));
        row
    }

    /// Adds a partial result or a heartbeat, which is not stored.
    pub(super) fn stage_partial(&mut self, relays: &[String], event: Event) {
        if !self.has_more && self.queue.len() < ENTRIES_MAX {
            self.staged.push(Entry::new(None, relays.to_owned(), vec![event]));
        }
    }

    /// Takes back the partial results of a job that have not been sent.
    pub(super) fn drop_partials(&mut self, job: &EventId) {
        let is_of_job = |entry: &Entry| {
            entry.row.is_none() && entry.events.iter().any(|event| job_of(event) == Some(*job))
        };
        self.staged.retain(|entry| !is_of_job(entry));
        self.batched.retain(|entry| !is_of_job(entry));
        self.queue.retain(|entry| !is_of_job(entry));
    }

    /// Drops partial results and heartbeats that a remote signer has not signed at once.
    pub(super) fn drop_unsigned_partials(&mut self) {
        self.in_flight.retain(|entry| entry.row.is_some() || !entry.is_unsigned);
    }

    /// Takes back what has been added since the last [`Outbox::release`].
    pub(super) fn unstage(&mut self) {
        self.staged.clear();
        self.batched.clear();
    }

    /// Takes out what is not stored.
    pub(super) fn set_aside(&mut self) -> Unsent {
        Unsent { staged: std::mem::take(&mut self.staged), batched: std::mem::take(&mut self.batched) }
    }

    /// Takes back what was set aside.
    pub(super) fn put_back(&mut self, unsent: Unsent) {
        Unsent { staged: self.staged, batched: self.batched } = unsent;
    }

    /// Adds what was staged to the batch.
    pub(super) fn add_to_batch(&mut self, batch: &mut Batch) {
        for entry in self.staged.drain(..) {
            if let Some(row) = entry.row {
                let Entry { relays, events, .. } = entry.clone();
                store::put_outbox(batch, &OutboxRow { row, relays, events });
            }
            self.batched.push(entry);
        }
    }

    /// The batch is stored.
    pub(super) fn release(&mut self) {
        for entry in self.batched.drain(..) {
            if self.has_more || self.queue.len() >= ENTRIES_MAX {
                self.has_more = true;
                continue;
            }
            self.read_to = entry.row.unwrap_or(self.read_to);
            self.queue.push_back(entry);
        }
    }

    fn read_more(&mut self, conn: &impl SqlConn) -> Result<(), StoreError> {
        if self.has_more && self.queue.is_empty() {
            let rows = store::outbox_page(conn, self.read_to, ENTRIES_MAX)?;
            self.has_more = rows.len() == ENTRIES_MAX;
            for OutboxRow { row, relays, events } in rows {
                self.read_to = row;
                self.last_row = self.last_row.max(row);
                self.queue.push_back(Entry::new(Some(row), relays, events));
            }
        }
        Ok(())
    }

    /// The next publication: the first entry, and with it others for the same relays; all are signed, or all first go to the signer.
    pub(super) fn take_next(&mut self) {
        let Some(first) = self.queue.pop_front() else { return };
        let (mut events, mut bytes) = (first.events.len(), first.bytes());
        let (relays, is_unsigned) = (first.relays.clone(), first.is_unsigned);
        self.in_flight.push(first);
        let mut rest = VecDeque::with_capacity(self.queue.len());
        // Jobs have the same relays from first to last, so what is passed over is about others.
        let mut is_full = false;
        while let Some(entry) = self.queue.pop_front() {
            is_full |= entry.relays == relays
                && (entry.is_unsigned != is_unsigned
                    || events + entry.events.len() > EVENTS_MAX
                    || bytes + entry.bytes() > BYTES_MAX);
            if is_full || entry.relays != relays {
                rest.push_back(entry);
                continue;
            }
            events += entry.events.len();
            bytes += entry.bytes();
            self.in_flight.push(entry);
        }
        self.queue = rest;
    }

    /// Whether there is more than what is at the relay.
    pub(super) fn has_waiting(&self) -> bool {
        self.has_more || !self.queue.is_empty()
    }

    /// Whether nothing is to be published.
    pub(super) fn is_empty(&self) -> bool {
        self.staged.is_empty() && self.batched.is_empty() && self.in_flight.is_empty() && !self.has_waiting()
    }

    /// Feedback that has expired while it waited, and whether later events of its job wait behind it.
    pub(super) fn expired(&self, now: Now) -> Vec<(Event, bool)> {
        let is_expired = |event: &Event| nip90::has_expired(event, now.seconds());
        let waiting = || self.queue.iter().flat_map(|entry| &entry.events);
        if !waiting().any(is_expired) {
            return Vec::new();
        }
        let mut later = HashSet::new();
        let all = self.queue.iter().rev().flat_map(|entry| entry.events.iter().rev());
        let is_followed =
            |event: &Event, later: &mut HashSet<EventId>| job_of(event).is_some_and(|job| !later.insert(job));
        let all = all.map(|event| (event, is_followed(event, &mut later)));
        all.filter(|(event, _)| is_expired(event))
            .map(|(event, is_followed)| (event.clone(), is_followed))
            .collect()
    }

    /// Puts an event in the place of one that waits; `None` drops that.
    pub(super) fn replace_waiting(&mut self, batch: &mut Batch, id: &EventId, with: Option<Event>) {
        for entry in &mut self.queue {
            if entry.replace(id, with.as_ref()) {
                entry.store_change(batch);
            }
        }
        self.queue.retain(|entry| !entry.events.is_empty());
    }

    /// Whether more waits than is kept in memory.
    pub(super) fn is_long(&self) -> bool {
        self.has_more || self.queue.len() >= ENTRIES_MAX
    }

    /// Whether what leaves next has to be signed first.
    pub(super) fn is_next_unsigned(&self) -> bool {
        self.in_flight.is_empty() && self.queue.front().is_some_and(|entry| entry.is_unsigned)
    }

    /// What is at the signer and not finished.
    pub(super) fn unsigned(&self) -> Vec<Event> {
        unsigned_of(self.in_flight.iter())
    }

    /// What is at the signer and not finished, and was written before this microsecond.
    pub(super) fn unsigned_before(&self, micros: u64) -> Vec<Event> {
        unsigned_of(self.in_flight.iter().filter(|entry| entry.row.is_some_and(|row| row < micros)))
    }

    /// Puts an event in the place of one that is at the signer; `None` drops that.
    pub(super) fn replace(&mut self, id: &EventId, with: Option<Event>) {
        for entry in self.in_flight.iter_mut().filter(|entry| entry.is_unsigned) {
            entry.replace(id, with.as_ref());
        }
    }

    /// Takes back what was at the signer; what has changed is added to the batch.
    pub(super) fn put_in_front(&mut self, batch: &mut Batch) {
        if self.in_flight.iter().all(|entry| !entry.is_unsigned) {
            return;
        }
        for mut entry in std::mem::take(&mut self.in_flight).into_iter().rev() {
            entry.store_change(batch);
            if !entry.events.is_empty() {
                self.queue.push_front(entry);
            }
        }
    }

    /// When the relay is asked again, in milliseconds since 1970.
    pub(super) fn retry_at(&self) -> Option<u64> {
        self.retry_at
    }
}

impl Entry {
    /// Puts an event in the place of another, if it has that.
    fn replace(&mut self, id: &EventId, with: Option<&Event>) -> bool {
        let Some(at) = self.events.iter().position(|event| event.id == *id) else { return false };
        match with {
            Some(event) => self.events[at] = event.clone(),
            None => drop(self.events.remove(at)),
        }
        self.is_changed = true;
        true
    }

    /// If events have been replaced or taken out, the database has to know.
    fn store_change(&mut self, batch: &mut Batch) {
        self.is_unsigned = self.events.iter().any(|event| missing(event).is_some());
        if let Some(row) = self.row.filter(|_| std::mem::take(&mut self.is_changed)) {
            match self.events.is_empty() {
                true => store::delete_outbox(batch, row),
                false => {
                    let (relays, events) = (self.relays.clone(), self.events.clone());
                    store::put_outbox(batch, &OutboxRow { row, relays, events });
                }
            }
        }
    }

    fn bytes(&self) -> usize {
        self.events.iter().map(|event| event.json().len()).sum()
    }
}

fn unsigned_of<'a>(entries: impl Iterator<Item = &'a Entry>) -> Vec<Event> {
    let events = entries.filter(|entry| entry.is_unsigned).flat_map(|entry| &entry.events);
    events.filter(|event| missing(event).is_some()).cloned().collect()
}

/// The request that an answer is about.
pub(super) fn job_of(event: &Event) -> Option<EventId> {
    EventId::from_hex(&event.tags().find(b"e")?).ok()
}

/// Feedback that failed although later events of its job were accepted is not tried again: nothing should follow a result.
fn drop_overtaken<'a>(events: impl DoubleEndedIterator<Item = &'a Event>, outcomes: &mut [Published]) {
    let mut ahead = HashSet::new();
    for (event, outcome) in events.rev().zip(outcomes.iter_mut().rev()) {
        let Some(job) = job_of(event) else { continue };
        match outcome {
            Published::Accepted => drop(ahead.insert(job)),
            Published::Failed(_) if event.kind == nip90::KIND_FEEDBACK && ahead.contains(&job) => {
                *outcome = Published::Accepted;
            }
            Published::Failed(_) | Published::Refused(_) => {}
        }
    }
}

impl<C: SqlConn> Agent<C> {
    /// Publishes what waits, unless something is being published or the relay was not able to a moment ago.
    pub(super) fn publish(&mut self, now: Now) -> Result<(), StoreError> {
        let waits = self.outbox.retry_at.is_some_and(|at| now.millis() < at);
        if waits || !self.outbox.in_flight.is_empty() {
            return Ok(());
        }
        self.outbox.retry_at = None;
        self.outbox.read_more(&self.conn)?;
        if self.replace_expired(now)? {
            self.store()?;
            self.outbox.read_more(&self.conn)?;
        }
        if self.outbox.is_next_unsigned() {
            return self.take_unsigned(now);
        }
        self.outbox.take_next();
        let Some(first) = self.outbox.in_flight.first() else {
            return Ok(());
        };
        let relays = first.relays.clone();
        let events = self.outbox.in_flight.iter().flat_map(|entry| entry.events.iter().cloned()).collect();
        let id = self.new_effect(Awaited::Publish);
        self.effects.push_back(Effect::Publish { id, events, relays });
        Ok(())
    }

    /// What the relay says to what is being published.
    pub(super) fn published(&mut self, now: Now, outcomes: &[Published]) {
        let entries = std::mem::take(&mut self.outbox.in_flight);
        let mut outcomes: Vec<Published> = outcomes.to_vec();
        let count = entries.iter().map(|entry| entry.events.len()).sum();
        outcomes.resize(count, Published::Failed("no answer".to_owned()));
        drop_overtaken(entries.iter().flat_map(|entry| &entry.events), &mut outcomes);
        let mut outcomes = outcomes.into_iter();
        let mut again = VecDeque::new();
        let (mut refused, mut results) = (Vec::new(), Vec::new());
        for mut entry in entries {
            let mut failed = Vec::new();
            for event in entry.events.drain(..) {
                match outcomes.next() {
                    Some(Published::Accepted) if entry.relays.is_empty() && nip90::is_result(event.kind) => {
                        results.push(event);
                    }
                    Some(Published::Accepted) => {}
                    Some(Published::Failed(_))
                        if event.created_at <= now.seconds().saturating_add(AHEAD_SECONDS_MAX) =>
                    {
                        failed.push(event);
                    }
                    Some(Published::Refused(reason) | Published::Failed(reason)) => {
                        let job = job_of(&event).filter(|_| nip90::is_result(event.kind));
                        match job.map(|job| self.read_unpublished(&job)).transpose() {
                            Ok(unpublished) => {
                                // It must not be published after a restart: it has been given back.
                                entry.is_changed = true;
                                refused.push((event, reason, unpublished));
                            }
                            // It is told again: what it means for the job, and for the money, cannot be written down now.
                            Err(_) => failed.push(event),
                        }
                    }
                    None => failed.push(event),
                }
            }
            entry.events = failed;
            match entry.row {
                Some(row) if entry.events.is_empty() => store::delete_outbox(&mut self.batch, row),
                Some(_) => {
                    entry.store_change(&mut self.batch);
                    again.push_back(entry);
                }
                None => {}
            }
        }
        if again.is_empty() {
            self.outbox.tries = 0;
        } else {
            let wait = (RETRY_MILLIS << self.outbox.tries.min(6)).min(RETRY_MILLIS_MAX);
            self.outbox.tries += 1;
            self.outbox.retry_at = Some(now.millis() + wait);
        }
        again.append(&mut self.outbox.queue);
        self.outbox.queue = again;
        results.into_iter().for_each(|result| self.send_to_read_relays(result));
        for (event, reason, unpublished) in refused {
            let job = job_of(&event);
            self.log(now, job, format!("the relay refuses an event of kind {}: {reason}", event.kind));
            if let (Some(job), Some(unpublished)) = (job, unpublished) {
                let reason: String = reason.chars().take(200).collect();
                let message = format!("the relay does not take the result: {reason}");
                self.result_refused(now, &job, unpublished, "result_refused", &message);
            }
        }
    }
}
