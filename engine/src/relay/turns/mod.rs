//! Whose turn it is: jobs wait in a queue that is fair to client addresses, and within one to its connections.
//!
//! ```text
//! first steps  ---\      address (least cost first) --> connection (least cost first) --> job (first come, first served)
//! further steps --/
//! ```
//!
//! Every waiting address and connection has a virtual clock that advances by the cost of its turns; the lowest is next
//! (start-time fair queueing), so a client gets the same share with a thousand jobs on forty connections as with one. A
//! newcomer's clock starts at the highest one: behind those that already wait, by at most one turn of
//! each. So nothing need be remembered of those who do not wait, and no stream of newcomers keeps another from
//! its turn.
//!
//! First steps go before further ones, since most requests need no other; of every five turns one is a further step's if
//! there are both.
//!
//! An address that is at its limit of jobs with further steps takes no first steps: its new jobs are held outside the
//! queue, until one of them is done. Jobs that have not begun hold no cursors.
//!
//! Wide jobs wait for room in a queue of their own ([`super::running`]); where both begin, every other first step is of one.

mod ring;

use std::collections::{BTreeMap, VecDeque};

use ring::Ring;

/// First steps in a row while further ones wait.
const FIRSTS_IN_A_ROW_MAX: u32 = 4;

/// Addresses asked for a wide job that may start.
const ADDRESSES_ASKED: usize = 64;

/// Whether a job has taken a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    First,
    /// It has to wait until there is room for what it holds.
    Wide,
    Further,
}

/// Whether a wide job may start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum May {
    Start,
    /// Its address is at its memory limit; jobs of other addresses may start before it.
    LetOthers,
    /// There is not enough room yet; no other wide job may start before it.
    Wait,
}

/// The jobs of one address.
struct Own<C, J> {
    conns: Ring<C, VecDeque<J>>,
    len: usize,
}

impl<C: Ord + Copy, J> Own<C, J> {
    fn new() -> Self {
        Own { conns: Ring::new(), len: 0 }
    }

    fn push(&mut self, conn: C, job: J) {
        self.conns.join(conn, VecDeque::new).push_back(job);
        self.len += 1;
    }

    /// Drops the jobs of a connection, and says how many.
    fn forget(&mut self, conn: C) -> usize {
        let dropped = self.conns.remove(&conn).map_or(0, |jobs| jobs.len());
        self.len -= dropped;
        dropped
    }

    fn of(&self, conn: C) -> impl Iterator<Item = &J> {
        self.conns.get(&conn).into_iter().flatten()
    }
}

/// The jobs of one class.
struct Round<A, C, J> {
    addresses: Ring<A, Own<C, J>>,
    len: usize,
}

impl<A: Ord + Copy, C: Ord + Copy, J> Round<A, C, J> {
    fn new() -> Self {
        Round { addresses: Ring::new(), len: 0 }
    }

    fn push(&mut self, address: A, conn: C, job: J) {
        self.addresses.join(address, Own::new).push(conn, job);
        self.len += 1;
    }

    fn len_of(&self, address: A) -> usize {
        self.addresses.get(&address).map_or(0, |own| own.len)
    }

    /// Takes an address out of the queue, with what waits there.
    fn remove(&mut self, address: A) -> Option<Own<C, J>> {
        let own = self.addresses.remove(&address)?;
        self.len -= own.len;
        Some(own)
    }

    /// Lets an address join that is not in the queue.
    fn insert(&mut self, address: A, own: Own<C, J>) {
        self.len += own.len;
        self.addresses.join(address, || own);
    }

    /// Takes the next job. Whose it is keeps its place until it is charged, so that what this job leaves finds it there.
    fn take(&mut self, class: Class) -> Option<(Turn<A, C>, J)> {
        let (address, _) = self.addresses.next()?;
        self.take_of(class, address)
    }

    fn take_of(&mut self, class: Class, address: A) -> Option<(Turn<A, C>, J)> {
        let own = self.addresses.get_mut(&address)?;
        let (conn, jobs) = own.conns.next()?;
        let job = jobs.pop_front()?;
        own.len -= 1;
        self.len -= 1;
        Some((Turn { class, address, conn }, job))
    }

    fn charge(&mut self, turn: Turn<A, C>, cost: u64) {
        if let Some(own) = self.addresses.get_mut(&turn.address) {
            own.conns.charge(turn.conn, cost, VecDeque::is_empty);
        }
        self.addresses.charge(turn.address, cost, |own| own.conns.is_empty());
    }

    /// The address that is first of those whose next job `may` be taken. At most [`ADDRESSES_ASKED`] are asked; if none of so
    /// many may, they make way for others.
    fn find(&mut self, may: impl Fn(A, &J) -> May) -> Option<A> {
        let mut passed = Vec::new();
        for address in self.addresses.keys().take(ADDRESSES_ASKED) {
            let own = self.addresses.get(address)?;
            match may(*address, own.conns.first()?.front()?) {
                May::Start => return Some(*address),
                May::LetOthers => passed.push(*address),
                May::Wait => return None,
            }
        }
        if passed.len() == ADDRESSES_ASKED {
            passed.into_iter().for_each(|address| self.addresses.move_to_end(address));
        }
        None
    }

    fn forget(&mut self, address: A, conn: C) {
        let Some(own) = self.addresses.get_mut(&address) else { return };
        self.len -= own.forget(conn);
        if own.conns.is_empty() {
            self.addresses.remove(&address);
        }
    }

    fn of(&self, address: A, conn: C) -> impl Iterator<Item = &J> {
        self.addresses.get(&address).into_iter().flat_map(move |own| own.of(conn))
    }
}

/// A turn that is being taken: what it costs is not known before it is over.
#[must_use = "a turn is charged"]
pub(super) struct Turn<A, C> {
    class: Class,
    pub(super) address: A,
    conn: C,
}

/// How many jobs with further steps an address may have.
struct Limit<A> {
    further_max: usize,
    /// Whether the limit is for this address.
    is_bounded: fn(&A) -> bool,
}

impl<A: Ord + Copy> Limit<A> {
    fn is_reached<C: Ord + Copy, J>(&self, address: A, further: &Round<A, C, J>) -> bool {
        (self.is_bounded)(&address) && further.len_of(address) >= self.further_max
    }
}

/// Jobs that wait for their turn. Every operation costs the logarithm of how many wait; who does not wait costs nothing.
pub(super) struct Turns<A, C, J> {
    first: Round<A, C, J>,
    wide: Round<A, C, J>,
    further: Round<A, C, J>,
    /// First steps of addresses that have as many jobs with further ones as they may have.
    held: BTreeMap<A, Own<C, J>>,
    limit: Limit<A>,
    /// Whose turn is being taken.
    in_turn: Option<A>,
    /// First steps taken while further ones waited.
    firsts_in_a_row: u32,
    /// The last first step was not a wide job's.
    is_wide_next: bool,
}

impl<A: Ord + Copy, C: Ord + Copy, J> Turns<A, C, J> {
    /// None. An address that `is_bounded` takes no first steps while it has `further_max` jobs with further ones, at least one.
    pub(super) fn new(further_max: usize, is_bounded: fn(&A) -> bool) -> Self {
        Turns {
            first: Round::new(),
            wide: Round::new(),
            further: Round::new(),
            held: BTreeMap::new(),
            limit: Limit { further_max: further_max.max(1), is_bounded },
            in_turn: None,
            firsts_in_a_row: 0,
            is_wide_next: false,
        }
    }

    /// Queues a job after those of its connection.
    pub(super) fn push(&mut self, class: Class, address: A, conn: C, job: J) {
        match self.held.get_mut(&address) {
            Some(own) if class == Class::First => own.push(conn, job),
            _ => self.round(class).push(address, conn, job),
        }
        self.hold_or_release(address);
    }

    /// Holds an address's first steps, or lets them join the queue. Not while it has its turn: it keeps its place until then.
    fn hold_or_release(&mut self, address: A) {
        if self.in_turn == Some(address) || !(self.limit.is_bounded)(&address) {
            return;
        }
        if !self.limit.is_reached(address, &self.further) {
            if let Some(own) = self.held.remove(&address) {
                self.first.insert(address, own);
            }
        } else if let Some(own) = self.first.remove(address) {
            self.held.insert(address, own);
        }
    }

    /// The job whose turn it is. The turn is to be handed to [`Turns::charge`] when it is over and what it left has been
    /// pushed; no other is taken before.
    ///
    /// Whether a wide job may start, `may` says. Where none may and nothing else waits, the next one is taken all the same.
    pub(super) fn take(&mut self, may: impl Fn(A, &J) -> May) -> Option<(Turn<A, C>, J)> {
        let taken = self.take_next(may);
        self.in_turn = taken.as_ref().map(|(turn, _)| turn.address);
        taken
    }

    fn take_next(&mut self, may: impl Fn(A, &J) -> May) -> Option<(Turn<A, C>, J)> {
        let Turns { wide, limit, further, .. } = self;
        let wide = wide.find(|address, job| match limit.is_reached(address, further) {
            true => May::LetOthers,
            false => may(address, job),
        });
        let has_first = self.first.len > 0;
        let both = (has_first || wide.is_some()) && self.further.len > 0;
        if self.further.len > 0 && (!both || self.firsts_in_a_row >= FIRSTS_IN_A_ROW_MAX) {
            self.firsts_in_a_row = 0;
            return self.further.take(Class::Further);
        }
        self.firsts_in_a_row = if both { self.firsts_in_a_row + 1 } else { 0 };
        match wide {
            Some(address) if !has_first || self.is_wide_next => {
                self.is_wide_next = false;
                self.wide.take_of(Class::Wide, address)
            }
            _ if has_first => {
                self.is_wide_next = true;
                self.first.take(Class::First)
            }
            _ => self.wide.take(Class::Wide),
        }
    }

    /// What a turn has cost, to be paid by its connection and its address.
    pub(super) fn charge(&mut self, turn: Turn<A, C>, cost: u64) {
        let address = turn.address;
        self.round(turn.class).charge(turn, cost);
        self.in_turn = None;
        self.hold_or_release(address);
    }

    /// Drops the jobs of a connection that is gone.
    pub(super) fn forget(&mut self, address: A, conn: C) {
        self.first.forget(address, conn);
        self.wide.forget(address, conn);
        self.further.forget(address, conn);
        if let Some(own) = self.held.get_mut(&address) {
            own.forget(conn);
            if own.conns.is_empty() {
                self.held.remove(&address);
            }
        }
        self.hold_or_release(address);
    }

    /// The jobs of a connection, those that have taken a step before those that have not.
    pub(super) fn of(&self, address: A, conn: C) -> impl Iterator<Item = &J> {
        let held = self.held.get(&address).into_iter().flat_map(move |own| own.of(conn));
        self.further
            .of(address, conn)
            .chain(self.first.of(address, conn))
            .chain(self.wide.of(address, conn))
            .chain(held)
    }

    /// Whether nobody waits. Where something is held, further steps are there that it waits for.
    pub(super) fn is_empty(&self) -> bool {
        self.first.len == 0 && self.wide.len == 0 && self.further.len == 0
    }

    fn round(&mut self, class: Class) -> &mut Round<A, C, J> {
        match class {
            Class::First => &mut self.first,
            Class::Wide => &mut self.wide,
            Class::Further => &mut self.further,
        }
    }
}

#[cfg(test)]
mod tests;
