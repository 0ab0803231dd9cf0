//! Sets of events and answers of the Negentropy protocol, compared with a sorted list and with the crate's own storage.

use std::collections::BTreeSet;

use negentropy::{Id, Negentropy, NegentropyStorageBase as _, NegentropyStorageVector};
use proptest::prelude::*;
use relay_engine::reconcile::{
    AnswerError, CALLS_MAX, EventSet, IdSum, Item, LOOKUPS_MAX, MutableSet, RANGES_MAX, SortedSet,
    StoreError, TotalBytes, answer,
};
use relay_engine::types::EventId;

/// No two events of different seconds have the same id.
fn item(created_at: u64, n: u64) -> Item {
    let n = n << 20 | (created_at & 0xf_ffff);
    let mut id = [0; 32];
    // Spread over all bytes, so that ids are not in the order of numbers.
    for (word, bytes) in id.chunks_mut(8).enumerate() {
        let mixed = (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17 * word as u32 + 5) ^ n;
        bytes.copy_from_slice(&mixed.to_le_bytes());
    }
    Item { created_at, id: EventId(id) }
}

fn built(items: impl IntoIterator<Item = Item>) -> SortedSet {
    let mut builder = MutableSet::new(&TotalBytes::default());
    items.into_iter().for_each(|item| {
        builder.insert(item);
    });
    builder.version()
}

fn vector<'a>(items: impl IntoIterator<Item = &'a Item>) -> NegentropyStorageVector {
    let mut storage = NegentropyStorageVector::new();
    for item in items {
        storage.insert(item.created_at, Id::from_byte_array(item.id.0)).unwrap();
    }
    storage.seal().unwrap();
    storage
}

/// Checks everything that a set can be asked against a list.
fn check_set(set: &SortedSet, expected: &BTreeSet<Item>) {
    let expected: Vec<Item> = expected.iter().copied().collect();
    assert_eq!((set.len(), set.is_empty()), (expected.len(), expected.is_empty()));
    let len = expected.len();
    for (start, end) in [(0, len), (0, len / 2), (len / 3, len), (len / 2, len / 2), (len / 3, 2 * len / 3)] {
        let mut listed = Vec::new();
        set.list(start..end, &mut |item| {
            listed.push(item);
            true
        })
        .unwrap();
        assert_eq!(listed, expected[start..end]);
        let mut sum = IdSum::default();
        expected[start..end].iter().for_each(|item| sum.add(IdSum::of(&item.id)));
        assert_eq!(set.sum(start..end).unwrap(), sum);
        for bound in
            [item(0, 0), item(5, 7), item(u64::MAX, 0)].into_iter().chain(expected.get(len / 2).copied())
        {
            let position = start + expected[start..end].partition_point(|item| *item < bound);
            assert_eq!(set.position(start..end, &bound).unwrap(), position);
        }
    }
}

/// Orders in which events come: as scans find them, as they are published, and any.
fn orders() -> impl Strategy<Value = Vec<Item>> {
    let numbered = prop::collection::vec((0_u64..40, 0_u64..3_000), 0..2_500);
    (numbered, 0..3).prop_map(|(numbered, order)| {
        let mut items: Vec<Item> = numbered.into_iter().map(|(second, n)| item(second, n)).collect();
        match order {
            0 => items.sort_by_key(|item| (std::cmp::Reverse(item.created_at), item.id)),
            1 => items.sort(),
            _ => {}
        }
        items
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_set_is_a_sorted_list_and_versions_do_not_change(items in orders(), removed in any::<u64>()) {
        let total = TotalBytes::default();
        let mut builder = MutableSet::new(&total);
        let mut expected = BTreeSet::new();
        for item in &items {
            prop_assert_eq!(builder.insert(*item), expected.insert(*item));
        }
        let (before, all) = (builder.version(), expected.clone());
        check_set(&before, &all);
        prop_assert_eq!(total.get(), before.bytes(), "what versions share is counted once");
        for (at, item) in items.iter().enumerate() {
            if removed.rotate_right(at as u32) & 3 == 0 {
                prop_assert_eq!(builder.remove(item), expected.remove(item));
            }
        }
        check_set(&builder.version(), &expected);
        check_set(&before, &all);
        drop((before, builder));
        prop_assert_eq!(total.get(), 0, "all memory is given back");
    }

    /// Both sides, the relay's answers byte by byte as the crate's own storage gives them.
    #[test]
    fn a_reconciliation_finds_every_difference(
        items in orders(), side in any::<u64>(), spread in 0_u32..30, client_bytes in 0_u64..3, relay_bytes in 4_096_usize..9_000,
    ) {
        let (mut ours, mut theirs) = (BTreeSet::new(), BTreeSet::new());
        for (at, item) in items.iter().enumerate() {
            let choice = side.rotate_right(at as u32) & ((1 << spread) - 1).max(3);
            if choice != 1 { ours.insert(*item); }
            if choice != 2 { theirs.insert(*item); }
        }
        let (relay, client) = (built(ours.iter().copied()), vector(&theirs));
        let of_the_crate = vector(&ours);
        let mut client = Negentropy::borrowed(&client, client_bytes * 5_000).unwrap();
        let mut message = client.initiate().unwrap();
        let (mut have, mut need) = (Vec::new(), Vec::new());
        loop {
            let answered = answer(&relay, &message, relay_bytes).message.unwrap();
            let mut same = Negentropy::borrowed(&of_the_crate, relay_bytes as u64).unwrap();
            prop_assert_eq!(&answered, &same.reconcile(&message).unwrap());
            prop_assert!(answered.len() <= relay_bytes);
            match client.reconcile_with_ids(&answered, &mut have, &mut need).unwrap() {
                Some(next) => message = next,
                None => break,
            }
        }
        let ids = |items: Vec<Item>| items.into_iter().map(|item| item.id.0).collect::<BTreeSet<_>>();
        let found = |ids: &[Id]| ids.iter().map(|id| *id.as_bytes()).collect::<BTreeSet<_>>();
        prop_assert_eq!(found(&have), ids(theirs.difference(&ours).copied().collect()));
        prop_assert_eq!(found(&need), ids(ours.difference(&theirs).copied().collect()));
    }

    /// Any bytes: never a panic, and the same answer as the crate's own storage gives.
    #[test]
    fn hostile_messages_are_answered_or_refused(
        mut message in prop::collection::vec(prop_oneof![0_u8..4, any::<u8>()], 0..600), len in 0_u64..600,
    ) {
        if let Some(version) = message.first_mut() { *version = 0x61; }
        let items: Vec<Item> = (0..len).map(|n| item(n / 3, n)).collect();
        let of_the_crate = vector(&items);
        let answered = answer(&built(items), &message, 4_096);
        let same = Negentropy::borrowed(&of_the_crate, 4_096).unwrap().reconcile(&message);
        prop_assert_eq!(answered.message.clone().ok(), same.ok());
        prop_assert!(answered.message.is_ok() || answered.message == Err(AnswerError::Malformed));
        prop_assert!(answered.cost <= CALLS_MAX);
    }
}

/// Regression: the copy of a shared chunk has no spare capacity, and adding an event to one that lacked one to three events of
/// being full panicked, which ended the shard. Found by fuzzing.
#[test]
fn a_chunk_that_a_version_shares_takes_events_until_it_is_full() {
    for len in 500..=520 {
        for new in [item(0, 1), item(len, 1)] {
            let mut builder = MutableSet::new(&TotalBytes::default());
            let mut expected: BTreeSet<Item> = (1..=len).map(|n| item(2 * n, n)).collect();
            expected.iter().for_each(|item| assert!(builder.insert(*item)));
            let before = builder.version();
            assert_eq!(builder.insert(new), expected.insert(new), "{len}");
            check_set(&builder.version(), &expected);
            assert_eq!(before.len() as u64, len);
        }
    }
}

/// A fingerprint over everything, in the form of the protocol: to infinity, without an id.
fn everything(mode: &[u8]) -> Vec<u8> {
    [&[0x61, 0, 0], mode].concat()
}

#[test]
fn ranges_cost_little_however_long_they_are() {
    let large = built((0..200_000).map(|n| item(n, n)));
    let wrong = answer(&large, &everything(&[[1].as_slice(), &[0; 16]].concat()), 60_000);
    // 17 fingerprints of 32 events one by one, and the sum of the others.
    assert!(wrong.cost < 75, "a cost of {}", wrong.cost);
    assert!(wrong.message.is_ok());
    // A client that has nothing: as many ids as fit.
    let listed = answer(&large, &everything(&[2, 0]), 60_000);
    assert!(listed.cost < 50, "a cost of {}", listed.cost);
    let bytes = listed.message.unwrap().len();
    assert!((59_000..=60_000).contains(&bytes), "{bytes} bytes");
}

/// A message whose ranges follow each other.
fn ranges(count: usize, range: &[u8]) -> Vec<u8> {
    [&[0x61][..], &range.repeat(count)].concat()
}

#[test]
fn a_message_of_very_many_ranges_is_refused_before_any_is_looked_up() {
    let set = built((0..1_000).map(|n| item(n, n)));
    // Each bound is the same second, without an id, so all are empty.
    let skip = [1, 0, 0];
    let fingerprint = [&[1, 0, 1][..], &[0; 16]].concat();
    let no_ids = [1, 0, 2, 0];
    for range in [&skip[..], &fingerprint, &no_ids] {
        let refused = Failing(set.clone(), 0.into());
        for count in [RANGES_MAX + 1, 10 * RANGES_MAX] {
            let message = ranges(count, range);
            let answered = answer(&refused, &message, 60_000);
            assert_eq!(answered.message, Err(AnswerError::TooMuch), "{count} of {range:?}");
            assert_eq!(answered.cost, message.len() / 32, "what was sent is charged");
        }
    }
}

/// The ranges beyond those that are answered are answered as one that reaches to infinity.
#[test]
fn of_very_many_ranges_the_first_are_answered_and_the_rest_as_one() {
    let items: Vec<Item> = (0..1_000).map(|n| item(n, n)).collect();
    let (set, of_the_crate) = (built(items.iter().copied()), vector(&items));
    let rest = [&[0, 0, 1][..], &[0; 16]].concat();
    let right = of_the_crate.fingerprint(0, 0).unwrap().to_bytes();
    for (range, lookups) in [
        (&[1, 0, 0][..], 1),
        (&[&[1, 0, 1][..], &right].concat(), 2),
        (&[&[1, 0, 1][..], &[0; 16]].concat(), 2),
        (&[1, 0, 2, 0], 2),
    ] {
        let all = LOOKUPS_MAX / lookups;
        let same =
            |message: &[u8]| Negentropy::borrowed(&of_the_crate, 60_000).unwrap().reconcile(message).unwrap();
        let message = ranges(all, range);
        assert_eq!(answer(&set, &message, 60_000).message.unwrap(), same(&message), "{range:?}");
        for count in [all + 1, RANGES_MAX] {
            let cut = [&*message, &rest].concat();
            let message = ranges(count, range);
            let answered = answer(&set, &message, 60_000);
            assert_eq!(answered.message.unwrap(), same(&cut), "{count} of {range:?}");
            assert!(answered.cost <= CALLS_MAX + message.len() / 32, "a cost of {}", answered.cost);
        }
    }
}

/// A client whose messages have more ranges than are answered at once finds all differences nevertheless.
#[test]
fn a_reconciliation_of_many_ranges_finds_every_difference() {
    let all: Vec<Item> = (0..100_000).map(|n| item(n / 3, n)).collect();
    let without =
        |rest: usize| all.iter().enumerate().filter(move |(at, _)| at % 390 != rest).map(|(_, item)| *item);
    let (ours, theirs): (Vec<Item>, Vec<Item>) = (without(7).collect(), without(200).collect());
    let (relay, storage) = (built(ours), vector(&theirs));
    let mut client = Negentropy::borrowed(&storage, 0).unwrap();
    let (mut have, mut need, mut longest) = (Vec::new(), Vec::new(), 0);
    let mut message = client.initiate().unwrap();
    loop {
        longest = longest.max(message.len() / 19);
        let answered = answer(&relay, &message, 60_000).message.unwrap();
        match client.reconcile_with_ids(&answered, &mut have, &mut need).unwrap() {
            Some(next) => message = next,
            None => break,
        }
    }
    assert!(longest > LOOKUPS_MAX / 2, "{longest} ranges");
    let ids = |rest: usize| all.iter().skip(rest).step_by(390).map(|item| item.id.0).collect::<BTreeSet<_>>();
    let found = |ids: &[Id]| ids.iter().map(|id| *id.as_bytes()).collect::<BTreeSet<_>>();
    assert_eq!((found(&have), found(&need)), (ids(7), ids(200)));
}

/// Ranges that differ, each answered by 16 fingerprints: what is listed of each does not grow with the set.
#[test]
fn fingerprints_of_a_large_set_cost_what_those_of_a_small_one_do() {
    const RANGES: u64 = 20;
    // Each is 1,000 seconds long: the difference, plus one, in two bytes.
    let range = [&[0x87, 0x69, 0, 1][..], &[0; 16]].concat();
    let cost_of = |events: u64| {
        let set = built((0..RANGES * events).map(|n| item(n * 1_000 / events, n)));
        let answered = answer(&set, &ranges(RANGES as usize, &range), 60_000);
        assert!(answered.message.unwrap().len() > 16 * 16 * RANGES as usize);
        answered.cost
    };
    let (small, large) = (cost_of(1_600), cost_of(16_000));
    assert_eq!(small, large);
    // Of each range the bound, a fingerprint, 16 of its parts and the 15 bounds between these; 32 events of a fingerprint, and a
    // sum, are one and an eighth.
    assert!(large < RANGES as usize * 56, "a cost of {large}");
}

#[test]
fn messages_of_other_versions_and_malformed_ones() {
    let set = built((0..100).map(|n| item(n, n)));
    let malformed = Err(AnswerError::Malformed);
    let long_id = [vec![0x61, 1, 33], vec![0; 33], vec![0]].concat();
    for (message, expected) in [
        (vec![], malformed.clone()),
        (vec![0x61], Ok(vec![0x61])),
        (vec![0x60], Ok(vec![0x61])),
        (vec![0x62, 1, 2, 3], Ok(vec![0x61])),
        (vec![0x00], malformed.clone()),
        (vec![0x70], malformed.clone()),
        (everything(&[3]), malformed.clone()),
        (everything(&[1, 0, 0]), malformed.clone()),
        (everything(&[2, 5]), malformed.clone()),
        (everything(&[2, 0x81, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0]), malformed.clone()),
        (long_id, malformed),
    ] {
        assert_eq!(answer(&set, &message, 60_000).message, expected, "{message:?}");
    }
}

/// A set whose store fails after some reads.
struct Failing(SortedSet, std::cell::Cell<usize>);

impl Failing {
    fn read<T>(&self, read: impl FnOnce(&SortedSet) -> Result<T, StoreError>) -> Result<T, StoreError> {
        match self.1.get() {
            0 => Err(StoreError::Failed("the disk is gone".into())),
            left => {
                self.1.set(left - 1);
                read(&self.0)
            }
        }
    }
}

impl EventSet for Failing {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn position(&self, range: std::ops::Range<usize>, bound: &Item) -> Result<usize, StoreError> {
        self.read(|set| set.position(range, bound))
    }

    fn list(
        &self,
        range: std::ops::Range<usize>,
        each: &mut dyn FnMut(Item) -> bool,
    ) -> Result<(), StoreError> {
        self.read(|set| set.list(range, each))
    }

    fn sum(&self, range: std::ops::Range<usize>) -> Result<IdSum, StoreError> {
        self.read(|set| set.sum(range))
    }
}

#[test]
fn an_error_of_the_store_is_the_answer() {
    let set = built((0..5_000).map(|n| item(n, n)));
    let message = everything(&[[1].as_slice(), &[0; 16]].concat());
    let reads =
        (0..).find(|reads| answer(&Failing(set.clone(), (*reads).into()), &message, 4_096).message.is_ok());
    for fails_after in 0..reads.unwrap() {
        let answered = answer(&Failing(set.clone(), fails_after.into()), &message, 4_096).message;
        assert!(
            matches!(answered, Err(AnswerError::Store(StoreError::Failed(_)))),
            "{answered:?} after {fails_after}"
        );
    }
}

#[test]
fn ranges_that_skip_events_are_charged_by_their_bytes() {
    let set = MutableSet::new(&TotalBytes::default()).version();
    let mut message = vec![0x61];
    message.extend([2, 0, 0].repeat(100_000));
    for end in [None, Some(0xff)] {
        message.extend(end);
        let cost = answer(&set, &message, 60_000).cost;
        assert!(cost >= 300_000 / 32, "a cost of {cost}, whether it is answered or not");
    }
}
