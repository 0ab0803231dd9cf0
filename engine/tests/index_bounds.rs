//! Limits of the index: large filters, and memory while subscriptions come and go.
#![cfg(feature = "testing")]

use relay_engine::index::{Index, SubSlot};
use relay_engine::testing::index_ops::{EMPTY_BYTES_MAX, event};
use relay_engine::types::{Event, EventId, Filter, PubKey, TagFilter};

fn bytes(number: u64) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    bytes
}

fn author(number: u64) -> PubKey {
    PubKey(bytes(number))
}

fn note(number: u64, tags: &[(&str, &[u8])]) -> Event {
    event(EventId([0; 32]), author(number), 1, 1, tags)
}

fn of_authors(authors: impl Iterator<Item = u64>) -> Filter {
    let mut filter = Filter { authors: Some(authors.map(author).collect()), ..Filter::default() };
    filter.normalise();
    filter
}

fn matched(index: &mut Index, event: &Event) -> Vec<SubSlot> {
    let mut out = Vec::new();
    index.matches(event, &mut out);
    out.sort_unstable();
    out
}

#[test]
fn ten_thousand_authors_are_ten_thousand_postings() {
    let mut index = Index::new();
    let even = index.subscribe(&[of_authors((0..10_000).map(|number| number * 2))]);
    let all = index.subscribe(&[of_authors(0..20_000)]);
    // As an additional condition of a tag filter, the list is looked up, not iterated.
    let topic = TagFilter { letter: b't', values: [b"x".as_slice().into()].into() };
    let tagged = Filter { tags: [topic].into(), ..of_authors((0..10_000).map(|number| number * 2)) };
    let tagged = index.subscribe(&[tagged]);
    for number in [0, 1, 2, 9_999, 10_000, 19_998, 19_999, 20_000] {
        let mut expected = Vec::new();
        if number % 2 == 0 && number < 20_000 {
            expected.push(even);
        }
        if number < 20_000 {
            expected.push(all);
        }
        assert_eq!(matched(&mut index, &note(number, &[])), expected, "author {number}");
        if number % 2 == 0 && number < 20_000 {
            expected.push(tagged);
        }
        assert_eq!(
            matched(&mut index, &note(number, &[("t", b"x"), ("t", b"x")])),
            expected,
            "author {number}"
        );
    }
    assert!(index.bytes() < 20_000 * 200, "{} bytes", index.bytes());
}

#[test]
fn candidates_depend_on_matches_and_not_on_the_number_of_subscriptions() {
    let mut index = Index::new();
    for number in 0..5_000 {
        index.subscribe(&[of_authors(number..number + 3)]);
        index.subscribe(&[Filter { kinds: Some([7].into()), ..of_authors(number..number + 3) }]);
    }
    let mut out = Vec::new();
    let stats = index.matches(&note(2_500, &[]), &mut out);
    assert_eq!((stats.candidates, stats.matches, out.len()), (3, 3, 3));
}

#[test]
fn a_filter_with_authors_and_an_empty_d_is_a_candidate_for_these_authors_only() {
    let mut index = Index::new();
    for number in 0..5_000 {
        let empty = TagFilter { letter: b'd', values: [Box::default()].into() };
        index.subscribe(&[Filter { tags: [empty].into(), ..of_authors(number..number + 3) }]);
    }
    let mut out = Vec::new();
    let profile = event(EventId([0; 32]), author(2_500), 1, 0, &[]);
    let stats = index.matches(&profile, &mut out);
    assert_eq!((stats.candidates, stats.matches), (3, 3), "every profile has that d");
    assert_eq!(index.matches(&note(2_500, &[]), &mut out).matches, 0);
}

/// A million subscriptions with ever new keys are added and removed, without a call of `sweep`.
#[test]
fn memory_stays_bounded_under_a_million_random_filters() {
    const LIVE: u64 = 500;
    let mut index = Index::new();
    let (mut live, mut bytes_max) = (std::collections::VecDeque::new(), 0);
    for number in 0..1_000_000u64 {
        let filter = match number % 4 {
            0 => {
                Filter { kinds: Some([number as u16, 1, 2].into()), ..of_authors(number * 8..number * 8 + 5) }
            }
            1 => Filter { ids: Some([EventId(bytes(number))].into()), ..Filter::default() },
            2 => {
                let value = format!("value {number} of more than thirty-two bytes").into_bytes();
                let tag = TagFilter { letter: b't', values: [value.into()].into() };
                Filter { tags: [tag].into(), since: Some(number), ..Filter::default() }
            }
            _ => {
                let tag = TagFilter { letter: b'e', values: [number.to_string().into_bytes().into()].into() };
                Filter { tags: [tag].into(), ..of_authors(number * 8..number * 8 + 3) }
            }
        };
        live.push_back(index.subscribe(&[filter]));
        if live.len() as u64 > LIVE {
            index.unsubscribe(live.pop_front().expect("it is not empty"));
        }
        bytes_max = bytes_max.max(index.bytes());
    }
    // 500 filters of up to eight values.
    assert!(bytes_max < 1 << 20, "{bytes_max} bytes at most");
    live.into_iter().for_each(|slot| index.unsubscribe(slot));
    while index.sweep(100) {}
    assert!(index.bytes() <= EMPTY_BYTES_MAX, "{} bytes at the end", index.bytes());
}

/// Regression: a subscription of a hundred filters with fifty conditions each, replaced again and again, filled the memory:
/// sweeps were triggered by the number of its postings, a hundred, and not by the number of keys in its conditions.
#[test]
fn memory_stays_bounded_under_conditions_that_come_and_go() {
    let letters = || (b'a'..=b'z').chain(b'A'..=b'Z').filter(|letter| !b"ep".contains(letter));
    let filter = |round: u64, number: u64| {
        let tag = |letter| {
            let value = format!("{round} {number}").into_bytes();
            TagFilter { letter, values: [value.into()].into() }
        };
        let mut filter = Filter { tags: letters().map(tag).collect(), ..Filter::default() };
        filter.normalise();
        filter
    };
    // With the same values each time, with new ones each time, and together with many small subscriptions.
    for (others, same) in [(0, true), (0, false), (3_000, false)] {
        let mut index = Index::new();
        for number in 0..others {
            index.subscribe(&[of_authors(number..number + 1)]);
        }
        let alone = index.bytes();
        let (mut bytes_first, mut bytes_max) = (0, 0);
        for round in 0..200 {
            let filters: Vec<_> =
                (0..100).map(|number| filter(if same { 0 } else { round }, number)).collect();
            let slot = index.subscribe(&filters);
            index.unsubscribe(slot);
            bytes_max = bytes_max.max(index.bytes() - alone);
            if round == 0 {
                bytes_first = bytes_max;
            }
        }
        assert!(
            bytes_max < 8 * bytes_first,
            "{bytes_max} bytes, {bytes_first} for one of them, beside {others}"
        );
    }
}

/// [`Index::bytes`] is counted incrementally and must not drift: it depends only on the current subscriptions.
#[test]
fn memory_after_a_peak_is_given_back() {
    let mut index = Index::new();
    let slots: Vec<SubSlot> =
        (0..2_000).map(|number| index.subscribe(&[of_authors(number * 50..number * 50 + 100)])).collect();
    let peak = index.bytes();
    assert!(peak > 4 << 20, "{peak} bytes");
    for slot in &slots[10..] {
        index.unsubscribe(*slot);
    }
    while index.sweep(1_000) {}
    assert!(index.bytes() < peak / 20, "{} bytes of {peak}", index.bytes());
    assert_eq!(matched(&mut index, &note(55, &[])), slots[..2]);
    assert_eq!(matched(&mut index, &note(70_000, &[])), []);
}

/// Regression: the tables of keys were lists that are cut from the end: the last one held the memory of all that had been there
/// before.
#[test]
fn a_late_subscription_does_not_hold_the_memory_of_those_before_it() {
    let mut index = Index::new();
    let crowd: Vec<SubSlot> =
        (0..100).map(|from| index.subscribe(&[of_authors(from * 1_000..(from + 1) * 1_000)])).collect();
    let topics = TagFilter { letter: b't', values: [b"x".as_slice().into()].into() };
    let late = index.subscribe(&[Filter { tags: [topics].into(), ..of_authors(200_000..200_100) }]);
    let full = index.bytes();
    for slot in crowd {
        index.unsubscribe(slot);
    }
    while index.sweep(1_000) {}
    assert!(index.bytes() * 10 < full, "{} of {full} bytes are left", index.bytes());
    assert_eq!(matched(&mut index, &note(200_050, &[("t", b"x")])), [late]);
    let next = index.subscribe(&[of_authors(0..5_000)]);
    assert_eq!(matched(&mut index, &note(4_999, &[("t", b"x")])), [next]);
}
