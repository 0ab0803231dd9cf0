//! The queries of one class: a queue that is fair to client addresses, and within one to its connections. An address can be
//! blocked: its queries wait outside the queue, and cost nothing there.

use std::collections::{BTreeMap, VecDeque};

use super::fair_queue::FairQueue;
use super::{QueryAdmission, QueryClass, Turn};

/// Addresses asked in one turn for a query that may start.
pub(super) const ADDRESSES_ASKED: usize = 64;

/// The queries of one address.
struct AddressQueue<C, Q> {
    conns: FairQueue<C, VecDeque<Q>>,
    len: usize,
}

impl<C: Ord + Copy, Q> AddressQueue<C, Q> {
    fn new() -> Self {
        AddressQueue { conns: FairQueue::new(), len: 0 }
    }

    fn push(&mut self, conn: C, query: Q) {
        self.conns.join(conn, VecDeque::new).push_back(query);
        self.len += 1;
    }

    fn of(&self, conn: C) -> impl Iterator<Item = &Q> {
        self.conns.get(&conn).into_iter().flatten()
    }
}

/// The queries of one class.
pub(super) struct ClassQueue<A, C, Q> {
    addresses: FairQueue<A, AddressQueue<C, Q>>,
    /// Queries in the queue, without those of blocked addresses.
    len: usize,
    blocked: BTreeMap<A, AddressQueue<C, Q>>,
}

/// What was found in a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found<A> {
    /// The next query of this address may start.
    Start(A),
    /// There is not enough memory for the next query, which no other may overtake.
    ShardFull,
    /// None that may start.
    Nothing,
}

impl<A: Ord + Copy, C: Ord + Copy, Q> ClassQueue<A, C, Q> {
    pub(super) fn new() -> Self {
        ClassQueue { addresses: FairQueue::new(), len: 0, blocked: BTreeMap::new() }
    }

    /// Whether no query waits, but those of blocked addresses.
    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Queues a query after those of its connection.
    pub(super) fn push(&mut self, address: A, conn: C, query: Q) {
        match self.blocked.get_mut(&address) {
            Some(queue) => queue.push(conn, query),
            None => {
                self.addresses.join(address, AddressQueue::new).push(conn, query);
                self.len += 1;
            }
        }
    }

    fn queue_of(&self, address: A) -> Option<&AddressQueue<C, Q>> {
        self.addresses.get(&address).or_else(|| self.blocked.get(&address))
    }

    /// Queries of an address, blocked or not.
    pub(super) fn len_of(&self, address: A) -> usize {
        self.queue_of(address).map_or(0, |queue| queue.len)
    }

    /// The queries of a connection.
    pub(super) fn of(&self, address: A, conn: C) -> impl Iterator<Item = &Q> {
        self.queue_of(address).into_iter().flat_map(move |queue| queue.of(conn))
    }

    /// Takes an address out of the queue.
    pub(super) fn block(&mut self, address: A) {
        if let Some(queue) = self.addresses.remove(&address) {
            self.len -= queue.len;
            self.blocked.insert(address, queue);
        }
    }

    /// Lets an address join the queue again, if it was blocked.
    pub(super) fn unblock(&mut self, address: A) {
        if let Some(queue) = self.blocked.remove(&address) {
            self.len += queue.len;
            self.addresses.join(address, || queue);
        }
    }

    /// Takes the next query. Its connection keeps its place until it is charged, so that what this query leaves finds it there.
    pub(super) fn take(&mut self, class: QueryClass) -> Option<(Turn<A, C>, Q)> {
        let (address, _) = self.addresses.next()?;
        self.take_of(class, address)
    }

    pub(super) fn take_of(&mut self, class: QueryClass, address: A) -> Option<(Turn<A, C>, Q)> {
        let queue = self.addresses.get_mut(&address)?;
        let (conn, queries) = queue.conns.next()?;
        let query = queries.pop_front()?;
        queue.len -= 1;
        self.len -= 1;
        Some((Turn { class, fairness_key: address, conn }, query))
    }

    pub(super) fn charge(&mut self, turn: Turn<A, C>, cost: u64) {
        if let Some(queue) = self.addresses.get_mut(&turn.fairness_key) {
            queue.conns.charge(turn.conn, cost, VecDeque::is_empty);
        }
        self.addresses.charge(turn.fairness_key, cost, |queue| queue.conns.is_empty());
    }

    /// The first address whose next query `may` start. Those that are full are blocked, so that they are not asked again
    /// before something has changed; at most [`ADDRESSES_ASKED`] at a time.
    pub(super) fn find(&mut self, may: impl Fn(A, &Q) -> QueryAdmission) -> Found<A> {
        for _ in 0..ADDRESSES_ASKED {
            let Some((address, queue)) = self.addresses.next() else { return Found::Nothing };
            let Some(query) = queue.conns.first().and_then(VecDeque::front) else { return Found::Nothing };
            match may(address, query) {
                QueryAdmission::Start => return Found::Start(address),
                QueryAdmission::ShardFull => return Found::ShardFull,
                QueryAdmission::AddressFull => self.block(address),
            }
        }
        Found::Nothing
    }

    /// Drops the queries of a connection that is gone.
    pub(super) fn remove_connection(&mut self, address: A, conn: C) {
        let dropped = |queue: &mut AddressQueue<C, Q>| {
            let queries = queue.conns.remove(&conn).map_or(0, |queries| queries.len());
            queue.len -= queries;
            (queries, queue.conns.is_empty())
        };
        if let Some(queue) = self.addresses.get_mut(&address) {
            let (queries, is_empty) = dropped(queue);
            self.len -= queries;
            if is_empty {
                self.addresses.remove(&address);
            }
        } else if let Some(queue) = self.blocked.get_mut(&address)
            && dropped(queue).1
        {
            self.blocked.remove(&address);
        }
    }

    /// Whether nothing is left of any address.
    #[cfg(test)]
    pub(super) fn is_cleared(&self) -> bool {
        self.addresses.is_cleared() && self.blocked.is_empty() && self.len == 0
    }
}
