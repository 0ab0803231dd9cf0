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

use std::collections::{BTreeMap, VecDeque};

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

/// Keys whose turns come in the order of what they have cost, each with what waits there.
struct Ring<K, W> {
    /// By clock, then by who has been waiting longer.
    order: BTreeMap<Place, K>,
    waiting: BTreeMap<K, (Place, W)>,
    /// The clock that is furthest ahead.
    ahead: u64,
    serial: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    clock: u64,
    serial: u64,
}

impl<K: Ord + Copy, W> Ring<K, W> {
    fn new() -> Self {
        Ring { order: BTreeMap::new(), waiting: BTreeMap::new(), ahead: 0, serial: 0 }
    }

    fn place(&mut self, clock: u64) -> Place {
        self.serial += 1;
        Place { clock, serial: self.serial }
    }

    /// Puts `key` after all others.
    fn move_to_end(&mut self, key: K) {
        let moved = self.place(self.ahead);
        if let Some((place, _)) = self.waiting.get_mut(&key) {
            self.order.remove(place);
            *place = moved;
            self.order.insert(moved, key);
        }
    }

    /// What waits at `key`, which joins if nothing does.
    fn join(&mut self, key: K, none: impl FnOnce() -> W) -> &mut W {
        if !self.waiting.contains_key(&key) {
            let place = self.place(self.ahead);
            self.order.insert(place, key);
            self.waiting.insert(key, (place, none()));
        }
        &mut self.waiting.get_mut(&key).expect("it has joined").1
    }

    /// Whose turn it is, and what waits there.
    fn next(&mut self) -> Option<(K, &mut W)> {
        let key = *self.order.first_key_value()?.1;
        self.waiting.get_mut(&key).map(|(_, waiting)| (key, waiting))
    }

    /// What waits at the key whose turn it is.
    fn first(&self) -> Option<&W> {
        self.get(self.order.first_key_value()?.1)
    }

    fn get(&self, key: &K) -> Option<&W> {
        self.waiting.get(key).map(|(_, waiting)| waiting)
    }

    fn get_mut(&mut self, key: &K) -> Option<&mut W> {
        self.waiting.get_mut(key).map(|(_, waiting)| waiting)
    }

    fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    fn remove(&mut self, key: &K) -> Option<W> {
        let (place, waiting) = self.waiting.remove(key)?;
        self.order.remove(&place);
        Some(waiting)
    }

    /// A turn of `key` is over and has cost this much. Its other jobs keep waiting, unless it `is_empty`.
    fn charge(&mut self, key: K, cost: u64, is_empty: impl Fn(&W) -> bool) {
        let Some((place, waiting)) = self.waiting.get(&key) else { return };
        let (place, is_empty) = (*place, is_empty(waiting));
        let moved = self.place(place.clock + cost);
        self.ahead = self.ahead.max(moved.clock);
        if is_empty {
            self.remove(&key);
        } else if let Some((place, _)) = self.waiting.get_mut(&key) {
            self.order.remove(place);
            *place = moved;
            self.order.insert(moved, key);
        }
    }
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
        let address = *self.addresses.order.first_key_value()?.1;
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
        for address in self.addresses.order.values().take(ADDRESSES_ASKED) {
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

/// Jobs that wait for their turn. Every operation costs the logarithm of how many wait; who does not wait costs nothing.
pub(super) struct Turns<A, C, J> {
    first: Round<A, C, J>,
    wide: Round<A, C, J>,
    further: Round<A, C, J>,
    /// First steps of addresses that have as many jobs with further ones as they may have.
    held: BTreeMap<A, Own<C, J>>,
    /// Jobs with further steps that an address may have, if it is bounded.
    further_max: usize,
    is_bounded: fn(&A) -> bool,
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
            further_max: further_max.max(1),
            is_bounded,
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
        if self.in_turn == Some(address) || !(self.is_bounded)(&address) {
            return;
        }
        if !self.is_at_limit(address) {
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
        let Turns { wide, further, further_max, is_bounded, .. } = self;
        let is_at_limit = |address| is_bounded(&address) && further.len_of(address) >= *further_max;
        let wide = wide.find(|address, job| match is_at_limit(address) {
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

    /// Whether an address has as many jobs with further steps as it may have.
    fn is_at_limit(&self, address: A) -> bool {
        (self.is_bounded)(&address) && self.further.len_of(address) >= self.further_max
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
mod tests {
    use super::Class::{First, Further, Wide};
    use super::*;

    type Queue = Turns<char, u32, u32>;

    /// No address is bounded.
    fn queue() -> Queue {
        Turns::new(1, |_| false)
    }

    /// Those in capitals may have three jobs with further steps.
    fn bounded_queue() -> Queue {
        Turns::new(3, |address| address.is_ascii_uppercase())
    }

    /// Takes a turn of this cost; whose it was and which job's.
    fn turn(queue: &mut Queue, cost: u64) -> Option<(char, u32, u32)> {
        let (turn, job) = queue.take(|_, _| May::Start)?;
        let whose = (turn.address, turn.conn, job);
        queue.charge(turn, cost);
        Some(whose)
    }

    /// Takes a turn of a job that has more to do.
    fn turn_again(queue: &mut Queue, cost: impl Fn(char) -> u64) -> (char, u32) {
        let (turn, job) = queue.take(|_, _| May::Start).expect("a job waits");
        let whose = (turn.address, turn.conn);
        queue.push(Further, turn.address, turn.conn, job);
        queue.charge(turn, cost(whose.0));
        whose
    }

    #[test]
    fn a_connection_is_served_in_its_order() {
        let mut queue = queue();
        (0..5).for_each(|job| queue.push(First, 'a', 1, job));
        let jobs: Vec<_> = std::iter::from_fn(|| turn(&mut queue, 1)).map(|(.., job)| job).collect();
        assert_eq!(jobs, [0, 1, 2, 3, 4]);
        assert!(queue.is_empty());
    }

    #[test]
    fn turns_go_round_by_address_and_then_by_connection() {
        let mut queue = queue();
        for conn in 0..3 {
            (0..2).for_each(|job| queue.push(First, 'a', conn, job));
        }
        (0..3).for_each(|job| queue.push(First, 'b', 9, job));
        let turns: Vec<_> =
            std::iter::from_fn(|| turn(&mut queue, 10)).map(|(address, conn, _)| (address, conn)).collect();
        let expected =
            [('a', 0), ('b', 9), ('a', 1), ('b', 9), ('a', 2), ('b', 9), ('a', 0), ('a', 1), ('a', 2)];
        assert_eq!(turns, expected);
    }

    /// One address with dear turns and one with cheap ones get the same out of it, also if one has a single job, which
    /// does not wait while it has its turn.
    #[test]
    fn turns_are_weighed_by_their_cost() {
        for conns in [1, 30] {
            let mut queue = queue();
            (0..conns).for_each(|conn| queue.push(Further, 'a', conn, 0));
            queue.push(Further, 'b', 99, 0);
            let cost = |address| if address == 'a' { 100 } else { 7 };
            let mut spent = BTreeMap::from([('a', 0), ('b', 0)]);
            for _ in 0..2_000 {
                let (address, _) = turn_again(&mut queue, cost);
                *spent.get_mut(&address).unwrap() += cost(address);
            }
            assert!(spent[&'a'].abs_diff(spent[&'b']) <= 100, "{spent:?}");
        }
    }

    #[test]
    fn a_newcomer_waits_for_one_turn_of_each_at_most() {
        let mut queue = queue();
        for address in 'a'..='j' {
            for conn in 0..40 {
                (0..31).for_each(|job| queue.push(First, address, conn, job));
            }
        }
        for _ in 0..57 {
            turn(&mut queue, 2_000);
        }
        queue.push(First, 'z', 0, 0);
        let waited = (0..).find(|_| turn(&mut queue, 2_000).unwrap().0 == 'z').unwrap();
        assert!(waited <= 10, "{waited}");
    }

    /// Addresses that ask again and again, one thing at a time, are newcomers each time.
    #[test]
    fn newcomers_keep_nobody_from_its_turn() {
        let mut queue = queue();
        queue.push(Further, 'z', 0, 0);
        queue.push(Further, 'z', 1, 0);
        assert_eq!(turn(&mut queue, 50).unwrap().0, 'z');
        for address in ('a'..='y').cycle().take(1_000) {
            queue.push(Further, address, 0, 0);
            if turn(&mut queue, 1).unwrap().0 == 'z' {
                return;
            }
        }
        panic!("z has waited for a thousand others");
    }

    #[test]
    fn first_steps_go_first_and_starve_no_other() {
        let mut queue = queue();
        (0..10).for_each(|job| queue.push(Further, 'a', 0, job));
        (100..110).for_each(|job| queue.push(First, 'a', 0, job));
        let jobs: Vec<_> = std::iter::from_fn(|| turn(&mut queue, 1)).map(|(.., job)| job).collect();
        let both = [100, 101, 102, 103, 0, 104, 105, 106, 107, 1, 108, 109];
        assert_eq!(jobs[..12], both);
        assert_eq!(jobs[12..], [2, 3, 4, 5, 6, 7, 8, 9]);
    }

    #[test]
    fn wide_jobs_wait_for_room_and_for_those_before_them() {
        let mut queue = queue();
        queue.push(Wide, 'a', 1, 0);
        queue.push(Wide, 'b', 2, 0);
        queue.push(Further, 'c', 3, 0);
        let next = |queue: &mut Queue, of_a: May| {
            let (turn, _) = queue.take(|address, _| if address == 'a' { of_a } else { May::Start })?;
            let address = turn.address;
            queue.charge(turn, 1);
            Some(address)
        };
        assert_eq!(next(&mut queue, May::LetOthers), Some('b'), "its address has too much running");
        queue.push(Wide, 'b', 2, 0);
        assert_eq!(next(&mut queue, May::Wait), Some('c'), "nobody else takes what room comes");
        assert_eq!(next(&mut queue, May::Wait), Some('a'), "and with nothing else to do it is taken");
        assert_eq!(next(&mut queue, May::Start), Some('b'));
        assert!(queue.is_empty());
    }

    #[test]
    fn nothing_is_kept_of_those_that_do_not_wait() {
        let mut queue = queue();
        for conn in 0..1_000 {
            let address = char::from_u32(0x4e00 + conn).unwrap();
            queue.push(First, address, conn, 0);
            queue.push(Further, address, conn, 1);
            if conn % 2 == 0 {
                queue.forget(address, conn);
                assert_eq!(queue.of(address, conn).count(), 0);
            } else {
                assert_eq!(queue.of(address, conn).collect::<Vec<_>>(), [&1, &0]);
            }
        }
        assert_eq!(std::iter::from_fn(|| turn(&mut queue, 1)).count(), 1_000);
        for round in [&queue.first, &queue.further] {
            assert!(round.addresses.order.is_empty() && round.addresses.waiting.is_empty());
        }
    }
    #[test]
    fn jobs_beyond_the_limit_of_an_address_are_held_until_others_finish() {
        let mut queue = bounded_queue();
        for address in ['A', 'b'] {
            (0..40).for_each(|job| queue.push(First, address, job % 4, job));
        }
        let mut done = BTreeMap::from([('A', 0), ('b', 0)]);
        let mut most = done.clone();
        // Each job takes a first step and three further ones.
        while let Some((turn, job)) = queue.take(|_, _| May::Start) {
            let address = turn.address;
            if job < 300 {
                queue.push(Further, address, turn.conn, job + 100);
            } else {
                *done.get_mut(&address).unwrap() += 1;
            }
            queue.charge(turn, 1);
            let most = most.get_mut(&address).unwrap();
            *most = queue.further.len_of(address).max(*most);
        }
        assert_eq!(done, BTreeMap::from([('A', 40), ('b', 40)]), "held, and then let go");
        assert!(most[&'A'] == 3 && most[&'b'] > 20, "{most:?}");
        assert!(queue.is_empty() && queue.held.is_empty());
    }

    #[test]
    fn an_address_over_its_limit_on_another_connection_takes_no_first_steps() {
        let mut queue = bounded_queue();
        queue.push(First, 'A', 1, 0);
        queue.push(First, 'A', 2, 1);
        (10..14).for_each(|replay| queue.push(Further, 'A', 3, replay));
        assert_eq!(queue.of('A', 1).collect::<Vec<_>>(), [&0], "held, not lost");
        // A connection that leaves takes what it had there with it.
        queue.forget('A', 2);
        let jobs: Vec<_> = std::iter::from_fn(|| turn(&mut queue, 1)).map(|(.., job)| job).collect();
        assert_eq!(jobs, [10, 11, 0, 12, 13], "as soon as two are left");
        assert!(queue.is_empty() && queue.held.is_empty());

        (10..14).for_each(|replay| queue.push(Further, 'A', 3, replay));
        queue.push(First, 'A', 1, 0);
        queue.forget('A', 3);
        assert_eq!(turn(&mut queue, 1), Some(('A', 1, 0)), "its other connection has left");
        queue.push(First, 'A', 1, 0);
        (10..14).for_each(|replay| queue.push(Further, 'A', 3, replay));
        queue.forget('A', 1);
        assert!(queue.held.is_empty());
    }

    /// Sixty-four addresses that had reached their limits kept their place before all others, and no one else was asked.
    #[test]
    fn wide_jobs_that_may_not_start_make_way() {
        let mut queue = Turns::<usize, u32, usize>::new(100, |_| false);
        for address in 0..=ADDRESSES_ASKED {
            queue.push(Class::Wide, address, 0, address);
        }
        queue.push(Class::Further, 1_000, 0, 1_000);
        let may = |address, _: &usize| if address == ADDRESSES_ASKED { May::Start } else { May::LetOthers };
        let mut taken = Vec::new();
        for _ in 0..3 {
            let (turn, job) = queue.take(may).expect("a job waits");
            taken.push(job);
            if job == 1_000 {
                queue.push(Class::Further, 1_000, 0, job);
            }
            queue.charge(turn, 1);
        }
        assert!(taken.contains(&ADDRESSES_ASKED), "{taken:?}");
    }
}
