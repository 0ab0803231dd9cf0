//! What only the inside shows: the tables' own counts, and the wrap-around of the epoch.

use super::*;
use crate::types::{Kind, PubKey, Timestamp};

fn note(author: u8, created_at: Timestamp, kind: Kind) -> Event {
    let (id, sig) = ("0".repeat(64), "0".repeat(128));
    let pubkey = PubKey([author; 32]);
    let json = format!(
        r#"{{"id":"{id}","pubkey":"{pubkey}","created_at":{created_at},"kind":{kind},"tags":[],"content":"","sig":"{sig}"}}"#
    );
    Event::from_canonical(json.into_bytes().into())
}

fn of_author(author: u8, kinds: Option<&[Kind]>) -> Filter {
    Filter { authors: Some([PubKey([author; 32])].into()), kinds: kinds.map(Into::into), ..Filter::default() }
}

fn matched(index: &mut Index, event: &Event) -> Vec<SubSlot> {
    let mut out = Vec::new();
    index.matches(event, &mut out);
    out.sort_unstable();
    out
}

#[test]
fn epoch_wraparound_loses_no_match_and_revives_no_slot() {
    let mut index = Index::new();
    let one = index.subscribe(&[of_author(1, None)]);
    let dead = index.subscribe(&[of_author(1, None)]);
    let also = index.subscribe(&[of_author(1, Some(&[1])), of_author(1, None)]);
    index.unsubscribe(dead);
    index.epoch = u32::MAX - 3;
    for _ in 0..6 {
        assert_eq!(matched(&mut index, &note(1, 5, 1)), [one, also]);
        assert_eq!(matched(&mut index, &note(2, 5, 1)), []);
    }
    assert!(index.epoch < 20, "it turned");
}

#[test]
fn a_key_with_too_many_kind_lists_still_answers_right() {
    let mut index = Index::new();
    let lists: Vec<[Kind; 2]> = (0..200).map(|kind| [kind, 1_000 + kind]).collect();
    let slots: Vec<SubSlot> = lists.iter().map(|list| index.subscribe(&[of_author(1, Some(list))])).collect();
    let timed = Filter { since: Some(5), ..of_author(1, Some(&[150, 7_000])) };
    let timed = index.subscribe(&[timed]);
    let key = index.keys.find(&term::IndexTerm::author(&PubKey([1; 32]))).unwrap();
    assert_eq!(index.keys.groups(key).len(), postings::GROUPS_MAX + 1);
    for kind in 0..200 {
        assert_eq!(matched(&mut index, &note(1, 4, kind)), [slots[usize::from(kind)]]);
        assert_eq!(matched(&mut index, &note(1, 4, 1_000 + kind)), [slots[usize::from(kind)]]);
    }
    assert_eq!(matched(&mut index, &note(1, 5, 150)), [slots[150], timed]);
    assert_eq!(matched(&mut index, &note(1, 5, 7_000)), [timed]);
    for slot in slots.into_iter().chain([timed]) {
        index.unsubscribe(slot);
    }
    while index.sweep(10) {}
    check_empty(&index);
}

#[test]
fn a_sweep_stops_at_its_budget_and_goes_on_where_it_stopped() {
    let mut index = Index::new();
    let slots: Vec<SubSlot> = (0..1_000).map(|_| index.subscribe(&[of_author(1, None)])).collect();
    for slot in &slots[..500] {
        index.unsubscribe(*slot);
    }
    let mut calls = 0;
    while index.sweep(10) {
        calls += 1;
        assert_eq!(matched(&mut index, &note(1, 1, 1)), slots[500..]);
    }
    assert!((100..300).contains(&calls), "1,000 postings and 500 slots by 10 took {calls} calls");
    assert_eq!((index.postings, index.dead_references), (500, 0));
}

#[test]
fn a_slot_has_no_new_owner_before_its_postings_are_gone() {
    let mut index = Index::new();
    let keep: Vec<SubSlot> = (0..100).map(|_| index.subscribe(&[of_author(1, None)])).collect();
    let old = index.subscribe(&[of_author(2, None)]);
    index.unsubscribe(old);
    for _ in 0..20 {
        let new = index.subscribe(&[of_author(3, None)]);
        assert_ne!(new, old, "no sweep has been due");
    }
    for slot in keep {
        index.unsubscribe(slot);
    }
    while index.sweep(1) {}
    let new: Vec<SubSlot> = (0..101).map(|_| index.subscribe(&[of_author(3, None)])).collect();
    assert!(new.contains(&old));
    assert_eq!(matched(&mut index, &note(2, 1, 1)), []);
    assert_eq!(matched(&mut index, &note(1, 1, 1)), []);
}

#[test]
fn conditions_hold_keys_and_let_them_go() {
    let mut index = Index::new();
    let authors = (0..50).map(|author| PubKey([author; 32])).collect();
    let topic = crate::types::TagFilter { letter: b'e', values: [b"topic".as_slice().into()].into() };
    let both = Filter { authors: Some(authors), tags: [topic].into(), ..Filter::default() };
    let slot = index.subscribe(&[both]);
    assert_eq!(index.postings, 1, "one tag value is fewer than fifty authors");
    assert_eq!(index.keys.slots(), 51);
    index.unsubscribe(slot);
    while index.sweep(1) {}
    check_empty(&index);
}

/// Regression: no posting of theirs was ever swept, so the table of slots kept its largest size. Found by the fuzzer.
#[test]
fn subscriptions_without_postings_give_their_memory_back() {
    let mut index = Index::new();
    let slots: Vec<SubSlot> = (0..100_000).map(|_| index.subscribe(&[])).collect();
    let full = index.slots.bytes();
    for slot in &slots[1..] {
        index.unsubscribe(*slot);
    }
    while index.sweep(64) {}
    assert!(index.slots.bytes() * 100 < full, "{} of {full} bytes are left", index.slots.bytes());
    assert_eq!(index.len(), 1);
    let found = index.subscribe(&[of_author(1, None)]);
    assert_eq!(matched(&mut index, &note(1, 1, 1)), [found]);
}

fn check_empty(index: &Index) {
    assert_eq!(index.keys.slots(), 0);
    assert_eq!((index.postings, index.dead_references, index.posting_bytes, index.group_bytes), (0, 0, 0, 0));
    assert_eq!(index.checked.bytes(), 0);
    assert_eq!(index.kind_sets.bytes(), 0);
    assert_eq!(index.slots.bytes(), 0);
}
