//! Fairness, limits and wide jobs.

use super::JobClass::{First, Further, Wide};
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

/// Takes a turn of this cost; its address, connection and job.
fn turn(queue: &mut Queue, cost: u64) -> Option<(char, u32, u32)> {
    let (turn, job) = queue.take(|_, _| JobAdmission::Start)?;
    let taken = (turn.address, turn.conn, job);
    queue.charge(turn, cost);
    Some(taken)
}

/// Takes a turn of a job that has more to do.
fn turn_again(queue: &mut Queue, cost: impl Fn(char) -> u64) -> (char, u32) {
    let (turn, job) = queue.take(|_, _| JobAdmission::Start).expect("a job waits");
    let taken = (turn.address, turn.conn);
    queue.push(Further, turn.address, turn.conn, job);
    queue.charge(turn, cost(taken.0));
    taken
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
    let expected = [('a', 0), ('b', 9), ('a', 1), ('b', 9), ('a', 2), ('b', 9), ('a', 0), ('a', 1), ('a', 2)];
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
    (0..10).for_each(|job| queue.push(Further, 'a', 0, job));
    (100..110).for_each(|job| queue.push(First, 'a', 0, job));
    let jobs: Vec<_> = std::iter::from_fn(|| turn(&mut queue, 1)).map(|(.., job)| job).collect();
    let both = [100, 101, 102, 103, 0, 104, 105, 106, 107, 1, 108, 109];
    assert_eq!(jobs[..12], both);
    assert_eq!(jobs[12..], [2, 3, 4, 5, 6, 7, 8, 9]);
}

#[test]
fn wide_jobs_wait_for_memory_and_for_those_before_them() {
    let mut queue = queue();
    queue.push(Wide, 'a', 1, 0);
    queue.push(Wide, 'b', 2, 0);
    queue.push(Further, 'c', 3, 0);
    let next = |queue: &mut Queue, of_a: JobAdmission| {
        let (turn, _) = queue.take(|address, _| if address == 'a' { of_a } else { JobAdmission::Start })?;
        let address = turn.address;
        queue.charge(turn, 1);
        Some(address)
    };
    assert_eq!(next(&mut queue, JobAdmission::AddressFull), Some('b'), "its address has too much running");
    queue.push(Wide, 'b', 2, 0);
    assert_eq!(
        next(&mut queue, JobAdmission::ShardFull),
        Some('c'),
        "no other wide job takes what memory becomes free"
    );
    assert_eq!(
        next(&mut queue, JobAdmission::ShardFull),
        Some('a'),
        "and with nothing else to do it is taken"
    );
    assert_eq!(next(&mut queue, JobAdmission::Start), Some('b'));
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
            queue.remove_connection(address, conn);
            assert_eq!(queue.of(address, conn).count(), 0);
        } else {
            assert_eq!(queue.of(address, conn).collect::<Vec<_>>(), [&1, &0]);
        }
    }
    assert_eq!(std::iter::from_fn(|| turn(&mut queue, 1)).count(), 1_000);
    for class in [&queue.first, &queue.further] {
        assert!(class.addresses.is_cleared());
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
    while let Some((turn, job)) = queue.take(|_, _| JobAdmission::Start) {
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
    queue.remove_connection('A', 2);
    let jobs: Vec<_> = std::iter::from_fn(|| turn(&mut queue, 1)).map(|(.., job)| job).collect();
    assert_eq!(jobs, [10, 11, 0, 12, 13], "as soon as two are left");
    assert!(queue.is_empty() && queue.held.is_empty());

    (10..14).for_each(|replay| queue.push(Further, 'A', 3, replay));
    queue.push(First, 'A', 1, 0);
    queue.remove_connection('A', 3);
    assert_eq!(turn(&mut queue, 1), Some(('A', 1, 0)), "its other connection has left");
    queue.push(First, 'A', 1, 0);
    (10..14).for_each(|replay| queue.push(Further, 'A', 3, replay));
    queue.remove_connection('A', 1);
    assert!(queue.held.is_empty());
}

/// Sixty-four addresses that had reached their limits kept their place before all others, and no other was asked.
#[test]
fn wide_jobs_that_may_not_start_make_way() {
    let mut queue = Turns::<usize, u32, usize>::new(100, |_| false);
    for address in 0..=ADDRESSES_ASKED {
        queue.push(JobClass::Wide, address, 0, address);
    }
    queue.push(JobClass::Further, 1_000, 0, 1_000);
    let may = |address, _: &usize| {
        if address == ADDRESSES_ASKED { JobAdmission::Start } else { JobAdmission::AddressFull }
    };
    let mut taken = Vec::new();
    for _ in 0..3 {
        let (turn, job) = queue.take(may).expect("a job waits");
        taken.push(job);
        if job == 1_000 {
            queue.push(JobClass::Further, 1_000, 0, job);
        }
        queue.charge(turn, 1);
    }
    assert!(taken.contains(&ADDRESSES_ASKED), "{taken:?}");
}
