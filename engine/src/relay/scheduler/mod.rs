//! The order of queries: they wait in a queue that is fair to client addresses, and within one to its connections.
//!
//! ```text
//! first steps  ---\      address (least cost first) --> connection (least cost first) --> query (first come, first served)
//! further steps --/
//! ```
//!
//! Every waiting address and connection has a virtual clock that advances by the cost of its turns; the lowest is next
//! (start-time fair queueing), so a client gets the same share with a thousand queries on forty connections as with one. A
//! newcomer's clock starts at the highest one: behind those that already wait, by at most one turn of
//! each. So nothing need be remembered of those that do not wait, and no stream of newcomers keeps another from
//! its turn.
//!
//! First steps go before further ones, since most requests need no other; of every five turns one is a further step's if
//! there are both.
//!
//! Queries that need more memory than there may be wait for it in two queues of their own ([`super::query_memory`]): large ones that
//! have not begun, and those that have. Where both wait, they take turns; every other first step is one of theirs.
//!
//! An address that is at its limit of unfinished queries, which are those that have begun, takes no first steps: its new
//! queries are *blocked*, outside the queue, until one of the others is done. Queries that have not begun hold no cursors.
//! An address that is at its limit of memory is blocked too, until one of its turns is over or a connection of its own is
//! gone: only then can it have freed some. So an address at its limit is checked once for each of its own turns, however
//! many others are at theirs.

mod class_queue;
mod fair_queue;

use class_queue::{ClassQueue, Found};

/// First steps in a row while further ones wait.
const FIRSTS_IN_A_ROW_MAX: u32 = 4;

/// The queue of a query: by whether it has taken a step, and whether it waits for memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum QueryClass {
    /// Its first step.
    First,
    /// Its first step, which has to wait until there is memory for what it holds.
    FirstLarge,
    /// A further step, which has to wait likewise.
    FurtherLarge,
    /// A further step.
    Further,
}

/// Whether a query that waits for memory may start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum QueryAdmission {
    Start,
    /// What its address is running leaves no memory for it; queries of other addresses may start before it.
    AddressFull,
    /// There is not enough memory yet; no other such query may start before it.
    ShardFull,
}

/// A turn that has begun. What it costs is known when it is over.
#[must_use = "a turn is charged"]
pub(super) struct Turn<A, C> {
    class: QueryClass,
    /// What turns are shared by, called an address here; the relay has other keys where there is no address.
    pub(super) fairness_key: A,
    conn: C,
}

/// How many unfinished queries an address may have.
struct Limit<A> {
    unfinished_max: usize,
    /// Whether the limit is for this address.
    is_bounded: fn(&A) -> bool,
}

/// Queries that wait for their turn. Every operation costs the logarithm of how many wait; what does not wait costs nothing.
pub(super) struct Scheduler<A, C, Q> {
    first: ClassQueue<A, C, Q>,
    first_large: ClassQueue<A, C, Q>,
    further_large: ClassQueue<A, C, Q>,
    further: ClassQueue<A, C, Q>,
    limit: Limit<A>,
    /// The address whose turn is being taken.
    in_turn: Option<A>,
    /// First steps taken while further ones waited.
    firsts_in_a_row: u32,
    /// The last first step was not of a query that has waited for memory.
    is_large_next: bool,
    /// The last query that has waited for memory had not begun.
    is_further_large_next: bool,
}

impl<A: Ord + Copy, C: Ord + Copy, Q> Scheduler<A, C, Q> {
    /// Empty. An address that `is_bounded` takes no first steps while it has `unfinished_max` queries (at least 1) that have
    /// begun.
    pub(super) fn new(unfinished_max: usize, is_bounded: fn(&A) -> bool) -> Self {
        Scheduler {
            first: ClassQueue::new(),
            first_large: ClassQueue::new(),
            further_large: ClassQueue::new(),
            further: ClassQueue::new(),
            limit: Limit { unfinished_max: unfinished_max.max(1), is_bounded },
            in_turn: None,
            firsts_in_a_row: 0,
            is_large_next: false,
            is_further_large_next: false,
        }
    }

    /// Queues a query after those of its connection.
    pub(super) fn push(&mut self, class: QueryClass, address: A, conn: C, query: Q) {
        self.queue_of(class).push(address, conn, query);
        if self.is_at_limit(address) {
            self.block_first_steps(address);
        }
    }

    fn is_at_limit(&self, address: A) -> bool {
        (self.limit.is_bounded)(&address)
            && self.further.len_of(address) + self.further_large.len_of(address) >= self.limit.unfinished_max
    }

    /// Not while the address has its turn: it keeps its place until then.
    fn block_first_steps(&mut self, address: A) {
        if self.in_turn != Some(address) {
            self.first.block(address);
            self.first_large.block(address);
        }
    }

    /// Queries of an address may have ended or freed memory: what was blocked joins the queue.
    fn unblock(&mut self, address: A) {
        if self.in_turn == Some(address) {
            return;
        }
        self.further_large.unblock(address);
        if self.is_at_limit(address) {
            self.block_first_steps(address);
        } else {
            self.first.unblock(address);
            self.first_large.unblock(address);
        }
    }

    /// The query whose turn it is. The turn is to be handed to [`Scheduler::charge`] when it is over and what it left has been
    /// pushed; no other is taken before.
    ///
    /// Whether a query that waits for memory may start, `may` says; an address is full only while it has a query with further
    /// steps. Where none may and nothing else waits, the next one is taken all the same.
    pub(super) fn take(&mut self, may: impl Fn(A, &Q) -> QueryAdmission) -> Option<(Turn<A, C>, Q)> {
        let taken = self.take_next(may);
        self.in_turn = taken.as_ref().map(|(turn, _)| turn.fairness_key);
        taken
    }

    fn take_next(&mut self, may: impl Fn(A, &Q) -> QueryAdmission) -> Option<(Turn<A, C>, Q)> {
        let large = self.find_large(may);
        let (has_first, has_further) = (!self.first.is_empty(), !self.further.is_empty());
        let both = (has_first || large.is_some()) && has_further;
        if has_further && (!both || self.firsts_in_a_row >= FIRSTS_IN_A_ROW_MAX) {
            self.firsts_in_a_row = 0;
            return self.further.take(QueryClass::Further);
        }
        self.firsts_in_a_row = if both { self.firsts_in_a_row + 1 } else { 0 };
        match large {
            Some((class, address)) if !has_first || self.is_large_next => {
                self.is_large_next = false;
                self.is_further_large_next = class == QueryClass::FirstLarge;
                self.queue_of(class).take_of(class, address)
            }
            _ if has_first => {
                self.is_large_next = true;
                self.first.take(QueryClass::First)
            }
            _ => {
                let taken = self.further_large.take(QueryClass::FurtherLarge);
                taken.or_else(|| self.first_large.take(QueryClass::FirstLarge))
            }
        }
    }

    /// The next query that has waited for memory and may start: its queue and address.
    fn find_large(&mut self, may: impl Fn(A, &Q) -> QueryAdmission) -> Option<(QueryClass, A)> {
        let mut classes = [QueryClass::FirstLarge, QueryClass::FurtherLarge];
        if self.is_further_large_next {
            classes.reverse();
        }
        for class in classes {
            match self.queue_of(class).find(&may) {
                Found::Start(address) => return Some((class, address)),
                Found::ShardFull => return None,
                Found::Nothing => {}
            }
        }
        None
    }

    /// Ends a turn, and charges its connection and its address for what it has cost.
    pub(super) fn charge(&mut self, turn: Turn<A, C>, cost: u64) {
        let address = turn.fairness_key;
        self.queue_of(turn.class).charge(turn, cost);
        self.in_turn = None;
        self.unblock(address);
    }

    /// Queues the query of a turn again, in another class, and ends the turn, which costs nothing.
    pub(super) fn defer(&mut self, turn: Turn<A, C>, class: QueryClass, query: Q) {
        self.push(class, turn.fairness_key, turn.conn, query);
        self.charge(turn, 0);
    }

    /// Drops the queries of a connection that is gone.
    pub(super) fn remove_connection(&mut self, address: A, conn: C) {
        for queue in [&mut self.first, &mut self.first_large, &mut self.further_large, &mut self.further] {
            queue.remove_connection(address, conn);
        }
        self.unblock(address);
    }

    /// The queries of a connection.
    pub(super) fn of(&self, address: A, conn: C) -> impl Iterator<Item = &Q> {
        let queues = [&self.further, &self.further_large, &self.first, &self.first_large];
        queues.into_iter().flat_map(move |queue| queue.of(address, conn))
    }

    /// Whether no query waits. Blocked queries are not checked: an address is blocked only while it has other queries, which
    /// wait in a queue.
    pub(super) fn is_empty(&self) -> bool {
        let queues = [&self.first, &self.first_large, &self.further_large, &self.further];
        queues.into_iter().all(ClassQueue::is_empty)
    }

    fn queue_of(&mut self, class: QueryClass) -> &mut ClassQueue<A, C, Q> {
        match class {
            QueryClass::First => &mut self.first,
            QueryClass::FirstLarge => &mut self.first_large,
            QueryClass::FurtherLarge => &mut self.further_large,
            QueryClass::Further => &mut self.further,
        }
    }
}

#[cfg(test)]
mod tests;
