//! The queries of one class: a queue that is fair to client addresses, and within one to its connections. An address can be
//! parked: its queries wait outside the queue, and cost nothing there.

use std::collections::{BTreeMap, VecDeque};

use super::fair_queue::FairQueue;
use super::{QueryAdmission, QueryClass, Slot};

/// Addresses asked in one turn for a query that may start.
pub(super) const ADDRESSES_ASKED: usize = 64;

/// The queries of one address.
struct AddressQueue<C, J> {
    conns: FairQueue<C, VecDeque<J>>,
    len: usize,
}

impl<C: Ord + Copy, J> AddressQueue<C, J> {
    fn new() -> Self {
        AddressQueue { conns: FairQueue::new(), len: 0 }
    }

    fn push(&mut self, conn: C, query: J) {
        self.conns.join(conn, VecDeque::new).push_back(query);
        self.len += 1;
    }

    fn of(&self, conn: C) -> impl Iterator<Item = &J> {
        self.conns.get(&conn).into_iter().flatten()
    }
}

/// The queries of one class.
pub(super) struct ClassQueue<A, C, J> {
    addresses: FairQueue<A, AddressQueue<C, J>>,
    /// Queries in the queue, without those of parked addresses.
    len: usize,
    parked: BTreeMap<A, AddressQueue<C, J>>,
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

impl<A: Ord + Copy, C: Ord + Copy, J> ClassQueue<A, C, J> {
    pub(super) fn new() -> Self {
        ClassQueue { addresses: FairQueue::new(), len: 0, parked: BTreeMap::new() }
    }

    /// Whether no query waits, but those of parked addresses.
    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Queues a query after those of its connection.
    pub(super) fn push(&mut self, address: A, conn: C, query: J) {
        match self.parked.get_mut(&address) {
            Some(queue) => queue.push(conn, query),
            None => {
                self.addresses.join(address, AddressQueue::new).push(conn, query);
                self.len += 1;
            }
        }
    }

    fn queue_of(&self, address: A) -> Option<&AddressQueue<C, J>> {
        self.addresses.get(&address).or_else(|| self.parked.get(&address))
    }

    /// Queries of an address, parked or not.
    pub(super) fn len_of(&self, address: A) -> usize {
        self.queue_of(address).map_or(0, |queue| queue.len)
    }

    /// The queries of a connection.
    pub(super) fn of(&self, address: A, conn: C) -> impl Iterator<Item = &J> {
        self.queue_of(address).into_iter().flat_map(move |queue| queue.of(conn))
    }

    /// Takes an address out of the queue.
    pub(super) fn park(&mut self, address: A) {
        if let Some(queue) = self.addresses.remove(&address) {
            self.len -= queue.len;
            self.parked.insert(address, queue);
        }
    }

    /// Lets an address join the queue again, if it was parked.
    pub(super) fn unpark(&mut self, address: A) {
        if let Some(queue) = self.parked.remove(&address) {
            self.len += queue.len;
            self.addresses.join(address, || queue);
        }
    }

    /// Takes the next query. Its connection keeps its place until it is charged, so that what this query leaves finds it there.
    pub(super) fn take(&mut self, class: QueryClass) -> Option<(Slot<A, C>, J)> {
        let (address, _) = self.addresses.next()?;
        self.take_of(class, address)
    }

    pub(super) fn take_of(&mut self, class: QueryClass, address: A) -> Option<(Slot<A, C>, J)> {
        let queue = self.addresses.get_mut(&address)?;
        let (conn, queries) = queue.conns.next()?;
        let query = queries.pop_front()?;
        queue.len -= 1;
        self.len -= 1;
        Some((Slot { class, address, conn }, query))
    }

    pub(super) fn charge(&mut self, turn: Slot<A, C>, cost: u64) {
        if let Some(queue) = self.addresses.get_mut(&turn.address) {
            queue.conns.charge(turn.conn, cost, VecDeque::is_empty);
        }
        self.addresses.charge(turn.address, cost, |queue| queue.conns.is_empty());
    }

    /// The first address whose next query `may` start. Those that are full are parked, so that they are not asked again
    /// before something has changed; at most [`ADDRESSES_ASKED`] at a time.
    pub(super) fn find(&mut self, may: impl Fn(A, &J) -> QueryAdmission) -> Found<A> {
        for _ in 0..ADDRESSES_ASKED {
            let Some((address, queue)) = self.addresses.next() else { return Found::Nothing };
            let Some(query) = queue.conns.first().and_then(VecDeque::front) else { return Found::Nothing };
            match may(address, query) {
                QueryAdmission::Start => return Found::Start(address),
                QueryAdmission::ShardFull => return Found::ShardFull,
                QueryAdmission::AddressFull => self.park(address),
            }
        }
        Found::Nothing
    }

    /// Drops the queries of a connection that is gone.
    pub(super) fn remove_connection(&mut self, address: A, conn: C) {
        let dropped = |queue: &mut AddressQueue<C, J>| {
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
        } else if let Some(queue) = self.parked.get_mut(&address)
            && dropped(queue).1
        {
            self.parked.remove(&address);
        }
    }

    /// Whether nothing is left of any address.
    #[cfg(test)]
    pub(super) fn is_cleared(&self) -> bool {
        self.addresses.is_cleared() && self.parked.is_empty() && self.len == 0
    }
}
