//! The order of jobs: they wait in a queue that is fair to client addresses, and within one to its connections.
//!
//! ```text
//! first steps  ---\      address (least cost first) --> connection (least cost first) --> job (first come, first served)
//! further steps --/
//! ```
//!
//! Every waiting address and connection has a virtual clock that advances by the cost of its turns; the lowest is next
//! (start-time fair queueing), so a client gets the same share with a thousand jobs on forty connections as with one. A
//! newcomer's clock starts at the highest one: behind those that already wait, by at most one turn of
//! each. So nothing need be remembered of those that do not wait, and no stream of newcomers keeps another from
//! its turn.
//!
//! First steps go before further ones, since most requests need no other; of every five turns one is a further step's if
//! there are both.
//!
//! An address that is at its limit of jobs with further steps takes no first steps: its new jobs are held outside the
//! queue, until one of them is done. Jobs that have not begun hold no cursors.
//!
//! Wide jobs wait for memory in a queue of their own ([`super::running`]); where both begin, every other first step is of one.

mod fair_queue;

use std::collections::{BTreeMap, VecDeque};

use fair_queue::FairQueue;

/// First steps in a row while further ones wait.
const FIRSTS_IN_A_ROW_MAX: u32 = 4;

/// Addresses asked for a wide job that may start.
const ADDRESSES_ASKED: usize = 64;

/// The queue of a job: by whether it has taken a step, and whether it waits for memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum JobClass {
    First,
    /// It has to wait until there is memory for what it holds.
    Wide,
    Further,
}

/// Whether a wide job may start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum JobAdmission {
    Start,
    /// Its address is at its memory limit; jobs of other addresses may start before it.
    AddressFull,
    /// There is not enough memory yet; no other wide job may start before it.
    ShardFull,
}

/// The jobs of one address.
struct AddressQueue<C, J> {
    conns: FairQueue<C, VecDeque<J>>,
    len: usize,
}

impl<C: Ord + Copy, J> AddressQueue<C, J> {
    fn new() -> Self {
        AddressQueue { conns: FairQueue::new(), len: 0 }
    }

    fn push(&mut self, conn: C, job: J) {
        self.conns.join(conn, VecDeque::new).push_back(job);
        self.len += 1;
    }

    /// Drops the jobs of a connection, and says how many.
    fn remove_connection(&mut self, conn: C) -> usize {
        let dropped = self.conns.remove(&conn).map_or(0, |jobs| jobs.len());
        self.len -= dropped;
        dropped
    }

    fn of(&self, conn: C) -> impl Iterator<Item = &J> {
        self.conns.get(&conn).into_iter().flatten()
    }
}

/// The jobs of one class.
struct ClassQueue<A, C, J> {
    addresses: FairQueue<A, AddressQueue<C, J>>,
    len: usize,
}

impl<A: Ord + Copy, C: Ord + Copy, J> ClassQueue<A, C, J> {
    fn new() -> Self {
        ClassQueue { addresses: FairQueue::new(), len: 0 }
    }

    fn push(&mut self, address: A, conn: C, job: J) {
        self.addresses.join(address, AddressQueue::new).push(conn, job);
        self.len += 1;
    }

    fn len_of(&self, address: A) -> usize {
        self.addresses.get(&address).map_or(0, |queue| queue.len)
    }

    /// Takes an address out of the queue, with what waits there.
    fn remove(&mut self, address: A) -> Option<AddressQueue<C, J>> {
        let queue = self.addresses.remove(&address)?;
        self.len -= queue.len;
        Some(queue)
    }

    /// Lets an address join that is not in the queue.
    fn insert(&mut self, address: A, queue: AddressQueue<C, J>) {
        self.len += queue.len;
        self.addresses.join(address, || queue);
    }

    /// Takes the next job. Its connection keeps its place until it is charged, so that what this job leaves finds it there.
    fn take(&mut self, class: JobClass) -> Option<(Turn<A, C>, J)> {
        let (address, _) = self.addresses.next()?;
        self.take_of(class, address)
    }

    fn take_of(&mut self, class: JobClass, address: A) -> Option<(Turn<A, C>, J)> {
        let queue = self.addresses.get_mut(&address)?;
        let (conn, jobs) = queue.conns.next()?;
        let job = jobs.pop_front()?;
        queue.len -= 1;
        self.len -= 1;
        Some((Turn { class, address, conn }, job))
    }

    fn charge(&mut self, turn: Turn<A, C>, cost: u64) {
        if let Some(queue) = self.addresses.get_mut(&turn.address) {
            queue.conns.charge(turn.conn, cost, VecDeque::is_empty);
        }
        self.addresses.charge(turn.address, cost, |queue| queue.conns.is_empty());
    }

    /// The first address whose next job `may` start. At most [`ADDRESSES_ASKED`] are asked; if none of them
    /// may start, they move behind the others.
    fn find(&mut self, may: impl Fn(A, &J) -> JobAdmission) -> Option<A> {
        let mut skipped = Vec::new();
        for address in self.addresses.keys().take(ADDRESSES_ASKED) {
            let queue = self.addresses.get(address)?;
            match may(*address, queue.conns.first()?.front()?) {
                JobAdmission::Start => return Some(*address),
                JobAdmission::AddressFull => skipped.push(*address),
                JobAdmission::ShardFull => return None,
            }
        }
        if skipped.len() == ADDRESSES_ASKED {
            skipped.into_iter().for_each(|address| self.addresses.move_to_end(address));
        }
        None
    }

    fn remove_connection(&mut self, address: A, conn: C) {
        let Some(queue) = self.addresses.get_mut(&address) else { return };
        self.len -= queue.remove_connection(conn);
        if queue.conns.is_empty() {
            self.addresses.remove(&address);
        }
    }

    fn of(&self, address: A, conn: C) -> impl Iterator<Item = &J> {
        self.addresses.get(&address).into_iter().flat_map(move |queue| queue.of(conn))
    }
}

/// A turn that is being taken: what it costs is not known before it is over.
#[must_use = "a turn is charged"]
pub(super) struct Turn<A, C> {
    class: JobClass,
    pub(super) address: A,
    conn: C,
}

/// How many jobs with further steps an address may have.
struct Limit<A> {
    unfinished_max: usize,
    /// Whether the limit is for this address.
    is_bounded: fn(&A) -> bool,
}

impl<A: Ord + Copy> Limit<A> {
    fn is_reached<C: Ord + Copy, J>(&self, address: A, further: &ClassQueue<A, C, J>) -> bool {
        (self.is_bounded)(&address) && further.len_of(address) >= self.unfinished_max
    }
}

/// Jobs that wait for their turn. Every operation costs the logarithm of how many wait; what does not wait costs nothing.
pub(super) struct Turns<A, C, J> {
    first: ClassQueue<A, C, J>,
    wide: ClassQueue<A, C, J>,
    further: ClassQueue<A, C, J>,
    /// First steps of addresses that are at their limit of unfinished jobs.
    held: BTreeMap<A, AddressQueue<C, J>>,
    limit: Limit<A>,
    /// The address whose turn is being taken.
    in_turn: Option<A>,
    /// First steps taken while further ones waited.
    firsts_in_a_row: u32,
    /// The last first step was not a wide job's.
    is_wide_next: bool,
}

impl<A: Ord + Copy, C: Ord + Copy, J> Turns<A, C, J> {
    /// Empty. An address that `is_bounded` takes no first steps while it has `unfinished_max` jobs (at least 1) with
    /// further steps.
    pub(super) fn new(unfinished_max: usize, is_bounded: fn(&A) -> bool) -> Self {
        Turns {
            first: ClassQueue::new(),
            wide: ClassQueue::new(),
            further: ClassQueue::new(),
            held: BTreeMap::new(),
            limit: Limit { unfinished_max: unfinished_max.max(1), is_bounded },
            in_turn: None,
            firsts_in_a_row: 0,
            is_wide_next: false,
        }
    }

    /// Queues a job after those of its connection.
    pub(super) fn push(&mut self, class: JobClass, address: A, conn: C, job: J) {
        match self.held.get_mut(&address) {
            Some(queue) if class == JobClass::First => queue.push(conn, job),
            _ => self.queue_of(class).push(address, conn, job),
        }
        self.hold_or_release(address);
    }

    /// Holds an address's first steps, or lets them join the queue. Not while it has its turn: it keeps its place until then.
    fn hold_or_release(&mut self, address: A) {
        if self.in_turn == Some(address) || !(self.limit.is_bounded)(&address) {
            return;
        }
        if !self.limit.is_reached(address, &self.further) {
            if let Some(queue) = self.held.remove(&address) {
                self.first.insert(address, queue);
            }
        } else if let Some(queue) = self.first.remove(address) {
            self.held.insert(address, queue);
        }
    }

    /// The job whose turn it is. The turn is to be handed to [`Turns::charge`] when it is over and what it left has been
    /// pushed; no other is taken before.
    ///
    /// Whether a wide job may start, `may` says. Where none may and nothing else waits, the next one is taken all the same.
    pub(super) fn take(&mut self, may: impl Fn(A, &J) -> JobAdmission) -> Option<(Turn<A, C>, J)> {
        let taken = self.take_next(may);
        self.in_turn = taken.as_ref().map(|(turn, _)| turn.address);
        taken
    }

    fn take_next(&mut self, may: impl Fn(A, &J) -> JobAdmission) -> Option<(Turn<A, C>, J)> {
        let Turns { wide, limit, further, .. } = self;
        let wide = wide.find(|address, job| match limit.is_reached(address, further) {
            true => JobAdmission::AddressFull,
            false => may(address, job),
        });
        let has_first = self.first.len > 0;
        let both = (has_first || wide.is_some()) && self.further.len > 0;
        if self.further.len > 0 && (!both || self.firsts_in_a_row >= FIRSTS_IN_A_ROW_MAX) {
            self.firsts_in_a_row = 0;
            return self.further.take(JobClass::Further);
        }
        self.firsts_in_a_row = if both { self.firsts_in_a_row + 1 } else { 0 };
        match wide {
            Some(address) if !has_first || self.is_wide_next => {
                self.is_wide_next = false;
                self.wide.take_of(JobClass::Wide, address)
            }
            _ if has_first => {
                self.is_wide_next = true;
                self.first.take(JobClass::First)
            }
            _ => self.wide.take(JobClass::Wide),
        }
    }

    /// What a turn has cost, to be paid by its connection and its address.
    pub(super) fn charge(&mut self, turn: Turn<A, C>, cost: u64) {
        let address = turn.address;
        self.queue_of(turn.class).charge(turn, cost);
        self.in_turn = None;
        self.hold_or_release(address);
    }

    /// Queues the job of a turn again, in another class, and ends the turn, which costs nothing.
    pub(super) fn defer(&mut self, turn: Turn<A, C>, class: JobClass, job: J) {
        self.push(class, turn.address, turn.conn, job);
        self.charge(turn, 0);
    }

    /// Drops the jobs of a connection that is gone.
    pub(super) fn remove_connection(&mut self, address: A, conn: C) {
        self.first.remove_connection(address, conn);
        self.wide.remove_connection(address, conn);
        self.further.remove_connection(address, conn);
        if let Some(queue) = self.held.get_mut(&address) {
            queue.remove_connection(conn);
            if queue.conns.is_empty() {
                self.held.remove(&address);
            }
        }
        self.hold_or_release(address);
    }

    /// The jobs of a connection.
    pub(super) fn of(&self, address: A, conn: C) -> impl Iterator<Item = &J> {
        let held = self.held.get(&address).into_iter().flat_map(move |queue| queue.of(conn));
        self.further
            .of(address, conn)
            .chain(self.first.of(address, conn))
            .chain(self.wide.of(address, conn))
            .chain(held)
    }

    /// Whether no job waits. Held jobs are not checked: they are held only while further steps wait.
    pub(super) fn is_empty(&self) -> bool {
        self.first.len == 0 && self.wide.len == 0 && self.further.len == 0
    }

    fn queue_of(&mut self, class: JobClass) -> &mut ClassQueue<A, C, J> {
        match class {
            JobClass::First => &mut self.first,
            JobClass::Wide => &mut self.wide,
            JobClass::Further => &mut self.further,
        }
    }
}

#[cfg(test)]
mod tests;
