//! Fairness, limits and large queries.

use std::cell::Cell;
use std::collections::BTreeMap;

use super::QueryClass::{First, FirstLarge, Further, FurtherLarge};
use super::class_queue::ADDRESSES_ASKED;
use super::*;
use crate::testing::Rng;

type Queue = Scheduler<char, u32, u32>;

/// No address is bounded.
fn queue() -> Queue {
    Scheduler::new(1, |_| false)
}

/// Those in capitals may have three queries with further steps.
fn bounded_queue() -> Queue {
    Scheduler::new(3, |address| address.is_ascii_uppercase())
}

/// Takes a turn of this cost; its address, connection and query.
fn turn(queue: &mut Queue, cost: u64) -> Option<(char, u32, u32)> {
    let (turn, query) = queue.take(|_, _| QueryAdmission::Start)?;
    let taken = (turn.fairness_key, turn.conn, query);
    queue.charge(turn, cost);
    Some(taken)
}

/// Takes a turn of a query that has more to do.
fn turn_again(queue: &mut Queue, cost: impl Fn(char) -> u64) -> (char, u32) {
    let (turn, query) = queue.take(|_, _| QueryAdmission::Start).expect("a query waits");
    let taken = (turn.fairness_key, turn.conn);
    queue.push(Further, turn.fairness_key, turn.conn, query);
    queue.charge(turn, cost(taken.0));
    taken
}

fn is_cleared<A: Ord + Copy, C: Ord + Copy, Q>(queue: &Scheduler<A, C, Q>) -> bool {
    let Scheduler { first, first_large, further_large, further, .. } = queue;
    queue.is_empty() && [first, first_large, further_large, further].into_iter().all(ClassQueue::is_cleared)
}

#[test]
fn a_connection_is_served_in_its_order() {
    let mut queue = queue();
    (0..5).for_each(|query| queue.push(First, 'a', 1, query));
    let queries: Vec<_> = std::iter::from_fn(|| turn(&mut queue, 1)).map(|(.., query)| query).collect();
    assert_eq!(queries, [0, 1, 2, 3, 4]);
    assert!(queue.is_empty());
}

#[test]
fn turns_go_round_by_address_and_then_by_connection() {
    let mut queue = queue();
    for conn in 0..3 {
        (0..2).for_each(|query| queue.push(First, 'a', conn, query));
    }
    (0..3).for_each(|query| queue.push(First, 'b', 9, query));
    let turns: Vec<_> =
        std::iter::from_fn(|| turn(&mut queue, 10)).map(|(address, conn, _)| (address, conn)).collect();
    let expected = [('a', 0), ('b', 9), ('a', 1), ('b', 9), ('a', 2), ('b', 9), ('a', 0), ('a', 1), ('a', 2)];
    assert_eq!(turns, expected);
}

/// One address with dear turns and one with cheap ones get the same out of it, also if one has a single query, which
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
            (0..31).for_each(|query| queue.push(First, address, conn, query));
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
fn newcomers_do_not_starve_others() {
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
    (0..10).for_each(|query| queue.push(Further, 'a', 0, query));
    (100..110).for_each(|query| queue.push(First, 'a', 0, query));
    let queries: Vec<_> = std::iter::from_fn(|| turn(&mut queue, 1)).map(|(.., query)| query).collect();
    let both = [100, 101, 102, 103, 0, 104, 105, 106, 107, 1, 108, 109];
    assert_eq!(queries[..12], both);
    assert_eq!(queries[12..], [2, 3, 4, 5, 6, 7, 8, 9]);
}

#[test]
fn large_queries_wait_for_memory_and_for_those_before_them() {
    use QueryAdmission::{AddressFull, ShardFull, Start};
    let mut queue = queue();
    for (class, address) in [(FirstLarge, 'a'), (FirstLarge, 'b'), (Further, 'a'), (Further, 'c')] {
        queue.push(class, address, 1, 0);
    }
    let next = |queue: &mut Queue, of_a: QueryAdmission, of_b: QueryAdmission| {
        let (turn, _) = queue.take(|address, _| if address == 'a' { of_a } else { of_b })?;
        let address = turn.fairness_key;
        queue.charge(turn, 1);
        Some(address)
    };
    assert_eq!(next(&mut queue, AddressFull, Start), Some('b'), "a has too much running");
    queue.push(FirstLarge, 'b', 1, 0);
    assert_eq!(next(&mut queue, AddressFull, ShardFull), Some('a'), "what it was running has ended");
    let taken = next(&mut queue, Start, ShardFull);
    assert_eq!(taken, Some('c'), "no other large query takes what memory becomes free");
    let taken = next(&mut queue, Start, ShardFull);
    assert_eq!(taken, Some('b'), "and with nothing else to do it is taken");
    assert_eq!(next(&mut queue, Start, Start), Some('a'));
    assert!(is_cleared(&queue));
}

/// Regression: queries that waited for memory after their first step were not counted, so an address could begin any number.
#[test]
fn queries_that_have_begun_and_wait_for_memory_are_unfinished() {
    let mut queue = bounded_queue();
    (0..10).for_each(|query| queue.push(First, 'A', query % 2, query));
    queue.push(FirstLarge, 'A', 0, 10);
    queue.push(Further, 'b', 0, 99);
    let (mut begun, mut has_memory) = (Vec::new(), false);
    for step in 0..100 {
        has_memory |= step == 50;
        let may = |_, _: &u32| if has_memory { QueryAdmission::Start } else { QueryAdmission::ShardFull };
        let Some((turn, query)) = queue.take(may) else { break };
        match (turn.fairness_key, turn.class) {
            // There is no memory for its second step.
            ('A', First | FirstLarge) => {
                begun.push(query);
                queue.push(FurtherLarge, 'A', turn.conn, query);
            }
            ('A', _) => assert!(has_memory),
            _ if step < 90 => queue.push(Further, 'b', 0, query),
            _ => {}
        }
        queue.charge(turn, 1);
        assert!(queue.further_large.len_of('A') <= 3);
        assert!(has_memory || begun.len() <= 3, "{begun:?}");
    }
    begun.sort_unstable();
    assert_eq!(begun, (0..=10).collect::<Vec<_>>(), "all have their turn in the end");
    assert!(is_cleared(&queue));
}

#[test]
fn nothing_is_kept_of_those_that_do_not_wait() {
    let mut queue = queue();
    for conn in 0..1_000 {
        let address = char::from_u32(0x4e00 + conn).unwrap();
        queue.push(First, address, conn, 0);
        queue.push(Further, address, conn, 1);
        if conn % 2 == 0 {
            queue.remove_connection(address, conn);
            assert_eq!(queue.of(address, conn).count(), 0);
        } else {
            assert_eq!(queue.of(address, conn).collect::<Vec<_>>(), [&1, &0]);
        }
    }
    assert_eq!(std::iter::from_fn(|| turn(&mut queue, 1)).count(), 1_000);
    for class in [&queue.first, &queue.further] {
        assert!(class.is_cleared());
    }
}

#[test]
fn queries_beyond_the_limit_of_an_address_wait_until_others_finish() {
    let mut queue = bounded_queue();
    for address in ['A', 'b'] {
        (0..40).for_each(|query| queue.push(First, address, query % 4, query));
    }
    let mut done = BTreeMap::from([('A', 0), ('b', 0)]);
    let mut most = done.clone();
    // Each query takes a first step and three further ones.
    while let Some((turn, query)) = queue.take(|_, _| QueryAdmission::Start) {
        let address = turn.fairness_key;
        if query < 300 {
            queue.push(Further, address, turn.conn, query + 100);
        } else {
            *done.get_mut(&address).unwrap() += 1;
        }
        queue.charge(turn, 1);
        let most = most.get_mut(&address).unwrap();
        *most = queue.further.len_of(address).max(*most);
    }
    assert_eq!(done, BTreeMap::from([('A', 40), ('b', 40)]), "blocked, and then let go");
    assert!(most[&'A'] == 3 && most[&'b'] > 20, "{most:?}");
    assert!(is_cleared(&queue));
}

#[test]
fn an_address_over_its_limit_on_another_connection_takes_no_first_steps() {
    let mut queue = bounded_queue();
    queue.push(First, 'A', 1, 0);
    queue.push(First, 'A', 2, 1);
    (10..14).for_each(|replay| queue.push(Further, 'A', 3, replay));
    assert_eq!(queue.of('A', 1).collect::<Vec<_>>(), [&0], "blocked, not lost");
    // A connection that leaves takes what it had there with it.
    queue.remove_connection('A', 2);
    let queries: Vec<_> = std::iter::from_fn(|| turn(&mut queue, 1)).map(|(.., query)| query).collect();
    assert_eq!(queries, [10, 11, 0, 12, 13], "as soon as two are left");
    assert!(is_cleared(&queue));

    (10..14).for_each(|replay| queue.push(Further, 'A', 3, replay));
    queue.push(First, 'A', 1, 0);
    queue.remove_connection('A', 3);
    assert_eq!(turn(&mut queue, 1), Some(('A', 1, 0)), "its other connection has left");
    queue.push(First, 'A', 1, 0);
    (10..14).for_each(|replay| queue.push(Further, 'A', 3, replay));
    queue.remove_connection('A', 1);
    std::iter::from_fn(|| turn(&mut queue, 1)).for_each(drop);
    assert!(is_cleared(&queue));
}

/// Regression: an address that was full was asked again in every turn, and up to sixty-four of them were moved behind the
/// others.
#[test]
fn full_addresses_are_asked_once_for_each_of_their_turns() {
    const FULL: usize = 1_000;
    const ROUNDS: usize = 5_000;
    let mut queue = Scheduler::<usize, u32, usize>::new(100, |_| false);
    for address in 0..FULL {
        queue.push(FirstLarge, address, 0, address);
    }
    queue.push(FirstLarge, FULL, 0, FULL);
    // What the full ones are running.
    (0..FULL).for_each(|address| queue.push(Further, address, 0, FULL + 1));
    let (asked, mut begun_in) = (Cell::new(0), None);
    for round in 0..ROUNDS {
        let before = asked.get();
        let may = |address, _: &usize| {
            asked.set(asked.get() + 1);
            if address == FULL { QueryAdmission::Start } else { QueryAdmission::AddressFull }
        };
        let (turn, query) = queue.take(may).expect("a query waits");
        assert!(asked.get() - before <= 2 * ADDRESSES_ASKED);
        if query == FULL {
            begun_in = Some(round);
        } else {
            queue.push(Further, turn.fairness_key, turn.conn, query);
        }
        queue.charge(turn, 1);
    }
    assert!(begun_in.is_some_and(|round| round <= FULL / ADDRESSES_ASKED + 1), "{begun_in:?}");
    let bound = FULL + 1 + ROUNDS;
    assert!(asked.get() <= bound, "{} asked, {bound} joined", asked.get());
}

/// Queries of many addresses in little memory, with connections that leave: each has all its turns, no address has more
/// unfinished queries than it may, and nothing is blocked for ever.
#[test]
fn every_query_ends_within_the_limits() {
    /// A query: its number, the steps it has left, and whether it holds memory.
    type Steps = (u32, u32, bool);
    const MEMORY: usize = 6;
    const OF_ADDRESS: usize = 2;
    for seed in 0..200 {
        let mut rng = Rng::new(seed);
        let mut queue = Scheduler::<char, u32, Steps>::new(3, |address| address.is_ascii_uppercase());
        let (mut query_memory, mut waiting) =
            (BTreeMap::<char, usize>::new(), BTreeMap::<u32, (char, u32)>::new());
        for round in 0..4_000 {
            if round < 1_000 && rng.below(3) == 0 {
                let address = char::from(b"ABCdef"[rng.below(6) as usize]);
                let (conn, steps) = (rng.below(3) as u32, 1 + rng.below(6) as u32);
                let class = if rng.below(2) == 0 { First } else { FirstLarge };
                queue.push(class, address, conn, (round, steps, false));
                waiting.insert(round, (address, conn));
            }
            if rng.below(40) == 0 {
                let (address, conn) = (char::from(b"ABCdef"[rng.below(6) as usize]), rng.below(3) as u32);
                let freed = queue.of(address, conn).filter(|(.., holds)| *holds).count();
                *query_memory.entry(address).or_default() -= freed;
                queue.remove_connection(address, conn);
                waiting.retain(|_, of| *of != (address, conn));
            }
            let all: usize = query_memory.values().sum();
            let may = |address, _: &Steps| match query_memory.get(&address) {
                Some(of) if *of >= OF_ADDRESS => QueryAdmission::AddressFull,
                _ if all >= MEMORY => QueryAdmission::ShardFull,
                _ => QueryAdmission::Start,
            };
            let Some((turn, (query, steps, holds))) = queue.take(may) else {
                assert!(waiting.is_empty(), "seed {seed}: {waiting:?} wait and none is taken");
                continue;
            };
            let address = turn.fairness_key;
            let of = query_memory.entry(address).or_default();
            assert_eq!(holds, turn.class == Further);
            *of += usize::from(!holds);
            let keeps = turn.class != First || *of <= OF_ADDRESS;
            if steps == 1 || !keeps {
                *of -= 1;
            }
            match (steps, keeps) {
                (1, _) => drop(waiting.remove(&query)),
                (_, true) => queue.push(Further, address, turn.conn, (query, steps - 1, true)),
                (_, false) => queue.push(FurtherLarge, address, turn.conn, (query, steps - 1, false)),
            }
            queue.charge(turn, 1 + rng.below(50));
            let unfinished = queue.further.len_of(address) + queue.further_large.len_of(address);
            assert!(
                !address.is_ascii_uppercase() || unfinished <= 3,
                "seed {seed}: {unfinished} of {address}"
            );
        }
        assert!(waiting.is_empty() && is_cleared(&queue), "seed {seed}");
    }
}
