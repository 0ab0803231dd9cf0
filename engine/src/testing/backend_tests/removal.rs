//! Large removals: what is deleted is nowhere as soon as the deletion is committed, is removed in steps of bounded work that
//! may fail at any moment, and leaves nothing.

use super::{ask, remove_all_pending, stored};
use crate::store::{
    Backend, Completeness, Count, CountStep, Hit, Op, Outcome, Rank, Reader, Refusal, Removed, ScanLimits,
    Seq, SinkResult, StartAt, Term, Unrestricted, commit, remove_pending, replay, sweep_expired, terms_of,
};
use crate::testing::{Draft, EventGenerator, FailingBackend};
use crate::types::{Event, EventId, Filter, Timestamp};

const NOW: Timestamp = 1_000;
const LIMITS: ScanLimits = ScanLimits { limit_default: 1_000, limit_max: 1_000 };
/// Large events of a case.
const LARGE: u64 = 8;

pub(super) fn run<B: Backend + 'static>(make: &impl Fn() -> B) {
    deleted_events_are_not_served(&make());
    steps_are_bounded_and_leave_nothing(&make());
    a_step_that_fails_keeps_everything(&FailingBackend::new(make()));
    a_version_pending_removal_is_no_version(&make());
    an_event_pending_removal_can_be_stored_again(&make());
    who_has_vanished_may_come_back(&make());
    events_pending_removal_expire(&make());
    small_deletions_are_done_at_once(&make());
}

/// Tags of a large event: three such events are more than the backend removes in one change.
fn tags(backend: &impl Backend) -> usize {
    20 + backend.removed_keys_max() / 3
}

fn with_tags(draft: Draft, tags: usize) -> Draft {
    let name = draft.created_at;
    (0..tags).fold(draft, |draft, tag| draft.tag(&["t", &format!("{tag} of {name}")]))
}

fn large(backend: &impl Backend, n: u64) -> Draft {
    with_tags(Draft::new(1, 1, 100 + n).tag(&["t", "x"]), tags(backend))
}

fn delete<'a>(events: impl IntoIterator<Item = &'a Event>) -> Op {
    let request = Draft::new(1, 5, 500);
    events.into_iter().fold(request, |request, event| request.tag(&["e", &event.id.to_string()])).put()
}

/// Large events, a note of another author, and the request that deletes the large ones.
fn delete_large(backend: &impl Backend) -> (Vec<Event>, Event, Event) {
    let large: Vec<Op> = (0..LARGE).map(|n| large(backend, n).put()).collect();
    let other = Draft::new(2, 1, 100).tag(&["t", "x"]).put();
    commit(backend, NOW, &large).expect("commit");
    commit(backend, NOW, std::slice::from_ref(&other)).expect("commit");
    let large: Vec<Event> = large.iter().map(|op| op.event().clone()).collect();
    let request = delete(&large);
    commit(backend, NOW, std::slice::from_ref(&request)).expect("commit");
    (large, other.event().clone(), request.event().clone())
}

fn pending_removal(backend: &impl Backend) -> Vec<Seq> {
    let mut seqs = Vec::new();
    backend
        .reader()
        .and_then(|reader| reader.pending_removal(usize::MAX, &mut seqs))
        .expect("pending removals");
    seqs
}

fn answer(backend: &impl Backend, filter: &Filter) -> Vec<EventId> {
    let (events, completeness) =
        ask(backend, std::slice::from_ref(filter), LIMITS, NOW, usize::MAX, &Unrestricted);
    assert_eq!(completeness, Completeness::Finish, "{filter:?}");
    events.iter().map(|event| event.id).collect()
}

fn count(backend: &impl Backend, filter: &Filter) -> u64 {
    let last = backend.reader().and_then(|reader| reader.last_seq()).expect("last_seq");
    let mut count = Count::new([filter.clone()].into(), backend.classes(), last, u64::MAX);
    let reader = backend.reader().expect("reader");
    match count.step(&reader, NOW, &mut usize::MAX.clone(), &Unrestricted).expect("count") {
        CountStep::Done(counted) if !counted.approximate => counted.count,
        other => panic!("{other:?}"),
    }
}

fn replayed(backend: &impl Backend) -> Vec<EventId> {
    let reader = backend.reader().expect("reader");
    let (mut ids, mut budget) = (Vec::new(), usize::MAX);
    let mut sink = |hit: Hit<'_>| {
        ids.push(hit.event.id());
        SinkResult::Continue
    };
    let done = replay(&reader, &[Filter::default()], Seq(0), &mut budget, NOW, &Unrestricted, &mut sink);
    assert!(done.expect("replay").caught_up);
    ids
}

/// None of `gone` can be found in any way, and all of `left` in each.
fn check_found(backend: &impl Backend, gone: &[Event], left: &[&Event]) {
    let tagged: Vec<&Event> = left
        .iter()
        .filter(|event| event.tags().indexed().any(|tag| (tag.0, &*tag.1) == (b't', b"x")))
        .copied()
        .collect();
    let ids = |events: &[&Event]| {
        let mut ids: Vec<EventId> = events.iter().map(|event| event.id).collect();
        ids.sort_unstable();
        ids
    };
    let sorted = |mut ids: Vec<EventId>| {
        ids.sort_unstable();
        ids
    };
    let by_tag =
        crate::wire::parse_filter(br##"{"#t":["x"]}"##).expect("a filter that is answered by postings");
    let authors = [1, 2].map(EventGenerator::pubkey);
    let by_author = Filter { authors: Some(authors.into()), ..Filter::default() };
    let by_id = |events: &mut dyn Iterator<Item = &Event>| {
        let mut filter = Filter { ids: Some(events.map(|event| event.id).collect()), ..Filter::default() };
        filter.normalise();
        filter
    };
    assert_eq!(sorted(answer(backend, &Filter::default())), ids(left));
    assert_eq!(sorted(answer(backend, &by_tag)), ids(&tagged));
    assert_eq!(answer(backend, &by_id(&mut gone.iter())), [], "by id");
    assert_eq!(sorted(answer(backend, &by_id(&mut left.iter().copied()))), ids(left));
    assert_eq!(count(backend, &Filter::default()), left.len() as u64, "counted by postings alone");
    assert_eq!(count(backend, &by_tag), tagged.len() as u64);
    assert_eq!(count(backend, &by_author), left.len() as u64);
    assert_eq!(count(backend, &by_id(&mut gone.iter())), 0);
    assert_eq!(sorted(replayed(backend)), ids(left));
    assert_eq!(stored(backend).len(), left.len());
    let reader = backend.reader().expect("reader");
    assert_eq!(reader.stats().map(|stats| stats.events), Ok(left.len() as u64));
    assert!(gone.iter().all(|event| reader.seq_of(&event.id) == Ok(None)), "looked up by id");
}

/// Nothing of `gone` is left in the store.
fn check_no_trace(backend: &impl Backend, gone: &[Event], left: usize) {
    assert_eq!(pending_removal(backend), []);
    let reader = backend.reader().expect("reader");
    let mut log = Vec::new();
    reader.log(Seq(0), usize::MAX, &mut log).expect("log");
    assert_eq!(log.len(), left, "numbers");
    let newest = StartAt::Rank(Rank::newest(Timestamp::MAX));
    for event in gone {
        for term in terms_of(event.view(), backend.classes()) {
            let mut postings = Vec::new();
            reader.postings(&term, newest, 0, usize::MAX, &mut postings).expect("postings");
            assert!(postings.iter().all(|posting| log.contains(&posting.seq)), "{term:?}");
            let is_own = matches!(&term, Term::Tag(b't', value) if **value != *b"x");
            assert!(!is_own || postings.is_empty(), "{term:?}");
        }
    }
}

fn deleted_events_are_not_served(backend: &impl Backend) {
    let (large, other, request) = delete_large(backend);
    assert!(pending_removal(backend).len() >= 5, "no backend removes all that at once");
    check_found(backend, &large, &[&other, &request]);
    // Sent again it is refused: it is deleted, not stored already.
    let again: Vec<Op> = (0..LARGE).map(|n| self::large(backend, n).put()).collect();
    let refused = vec![Outcome::Refused(Refusal::Deleted); again.len()];
    assert_eq!(commit(backend, NOW, &again), Ok(refused.clone()));
    // And deleted again it stays what it is.
    let undo = Draft::new(1, 5, 501).tag(&["e", &large[0].id.to_string()]).put();
    commit(backend, NOW, std::slice::from_ref(&undo)).expect("commit");
    remove_all_pending(backend);
    check_found(backend, &large, &[&other, &request, undo.event()]);
    check_no_trace(backend, &large, 3);
    assert_eq!(commit(backend, NOW, &again), Ok(refused));
}

fn steps_are_bounded_and_leave_nothing(backend: &impl Backend) {
    let (large, other, request) = delete_large(backend);
    let of_one = terms_of(large[0].view(), backend.classes()).len() + 1;
    let mut left = pending_removal(backend);
    loop {
        let step = remove_pending(backend).expect("remove");
        assert!(step.events >= 1 && step.keys == step.events * of_one, "{step:?}");
        assert!(step.keys <= backend.removed_keys_max().max(of_one), "{step:?}");
        // Those stored first go first.
        left.drain(..step.events);
        assert_eq!(pending_removal(backend), left);
        check_found(backend, &large, &[&other, &request]);
        assert_eq!(step.more, !left.is_empty());
        if !step.more {
            break;
        }
    }
    check_no_trace(backend, &large, 2);
    assert_eq!(remove_pending(backend), Ok(Removed::default()), "nothing is done twice");
}

fn a_step_that_fails_keeps_everything<B: Backend + 'static>(backend: &FailingBackend<B>) {
    let (large, other, request) = delete_large(backend);
    let mut failures = 0;
    for n in 1.. {
        let before = pending_removal(backend);
        backend.fail_at(n);
        let step = remove_pending(backend);
        let is_armed = backend.is_armed();
        backend.fail_at(0);
        match step {
            Err(_) => {
                assert_eq!(pending_removal(backend), before, "a failed step removes nothing");
                failures += 1;
            }
            Ok(step) => {
                assert!(is_armed, "a failure is reported");
                assert_eq!(pending_removal(backend).len() + step.events, before.len());
                if !step.more {
                    break;
                }
            }
        }
        check_found(backend, &large, &[&other, &request]);
    }
    assert!(failures > 3);
    check_no_trace(backend, &large, 2);
}

/// A large article is replaced by a small one: the one pending removal is not a version any more.
fn a_version_pending_removal_is_no_version(backend: &impl Backend) {
    let article =
        |n: u64, tags: usize| with_tags(Draft::new(1, 30_023, 100 + n).tag(&["d", "x"]), tags).put();
    let many = 4 * tags(backend);
    let versions = [article(0, many), article(1, many), article(2, 0)];
    let stored = |seq| Ok(vec![Outcome::Stored(Seq(seq))]);
    let superseded = Ok(vec![Outcome::Refused(Refusal::Superseded)]);
    assert_eq!(commit(backend, NOW, &versions[..1]), stored(1));
    assert_eq!(commit(backend, NOW, &versions[1..2]), stored(2));
    assert_eq!(commit(backend, NOW, &versions[2..]), stored(3));
    assert_eq!(pending_removal(backend), [Seq(1), Seq(2)]);
    assert_eq!(commit(backend, NOW, &versions[..1]), superseded, "as if it had been removed");
    let address = format!("30023:{}:x", EventGenerator::pubkey(1));
    let before = Draft::new(1, 5, 101).tag(&["a", &address]).put();
    assert_eq!(commit(backend, NOW, std::slice::from_ref(&before)), stored(4));
    let kept = versions[2].event();
    let gone: Vec<Event> = versions[..2].iter().map(|op| op.event().clone()).collect();
    check_found(backend, &gone, &[kept, before.event()]);
    remove_all_pending(backend);
    check_found(backend, &gone, &[kept, before.event()]);
    check_no_trace(backend, &gone, 2);
}

/// A version was replaced and marked as removed, and what had replaced it is deleted: it may come again before it is removed.
fn an_event_pending_removal_can_be_stored_again(backend: &impl Backend) {
    let old = with_tags(Draft::new(1, 0, 100), 4 * tags(backend)).tag(&["t", "x"]).put();
    let newer = Draft::new(1, 0, 200).put();
    let deletes = Draft::new(1, 5, 300).tag(&["e", &newer.event().id.to_string()]).put();
    for (seq, op) in (1..).zip([&old, &newer, &deletes, &old]) {
        assert_eq!(commit(backend, NOW, std::slice::from_ref(op)), Ok(vec![Outcome::Stored(Seq(seq))]));
    }
    assert_eq!(pending_removal(backend).first(), Some(&Seq(1)));
    assert_eq!(commit(backend, NOW, std::slice::from_ref(&old)), Ok(vec![Outcome::Duplicate]));
    for is_removed in [false, true] {
        if is_removed {
            remove_all_pending(backend);
        }
        check_found(backend, &[newer.event().clone()], &[old.event(), deletes.event()]);
        let reader = backend.reader().expect("reader");
        assert_eq!(reader.seq_of(&old.event().id), Ok(Some(Seq(4))));
        assert_eq!(reader.event(Seq(4)).expect("read").as_deref(), Some(old.event().json()));
    }
    check_no_trace(backend, &[newer.event().clone()], 2);
}

fn who_has_vanished_may_come_back(backend: &impl Backend) {
    let key = EventGenerator::pubkey(1).to_string();
    let wrap = |n: u64| Draft::new(8, 1_059, 100).content(&n.to_string()).tag(&["p", &key]);
    let gone: Vec<Op> = (0..200)
        .map(|n| match n % 4 {
            0 => wrap(n).put(),
            1 => Draft::new(1, 5, 100).content(&n.to_string()).put(),
            _ => Draft::new(1, 1, 100).content(&n.to_string()).put(),
        })
        .collect();
    let other = Draft::new(2, 1, 100).tag(&["p", &key]).put();
    commit(backend, NOW, &gone).expect("commit");
    commit(backend, NOW, std::slice::from_ref(&other)).expect("commit");
    let request = Draft::new(1, 62, 300).vanish();
    commit(backend, NOW, std::slice::from_ref(&request)).expect("commit");
    assert!(pending_removal(backend).len() > 50);
    let back = Draft::new(1, 1, 301).put();
    let wrapped = Draft::new(8, 1_059, 301).tag(&["p", &key]).put();
    commit(backend, NOW, &[back.clone(), wrapped.clone()]).expect("commit");
    let gone_events: Vec<Event> = gone.iter().map(|op| op.event().clone()).collect();
    let left = [other.event(), request.event(), back.event(), wrapped.event()];
    for is_removed in [false, true] {
        if is_removed {
            remove_all_pending(backend);
        }
        let seen: Vec<EventId> = answer(backend, &Filter::default());
        assert_eq!(seen.len(), left.len());
        assert!(left.iter().all(|event| seen.contains(&event.id)));
        assert_eq!(count(backend, &Filter::default()), 4);
        assert_eq!(stored(backend).len(), 4);
        assert_eq!(replayed(backend).len(), 4);
        let refused = commit(backend, NOW, &gone).expect("commit");
        assert!(refused.iter().all(|is| *is == Outcome::Refused(Refusal::Vanished)), "{refused:?}");
    }
    check_no_trace(backend, &gone_events, 4);
}

/// A sweep removes what is pending removal too, and does not count it: it was gone before.
fn events_pending_removal_expire(backend: &impl Backend) {
    let draft = |n| large(backend, n).tag(&["expiration", "2000"]).put();
    let ops: Vec<Op> = (0..LARGE).map(draft).collect();
    commit(backend, NOW, &ops).expect("commit");
    let deleted: Vec<Event> = ops[1..].iter().map(|op| op.event().clone()).collect();
    commit(backend, NOW, &[delete(&deleted)]).expect("commit");
    assert!(pending_removal(backend).len() >= 4);
    assert_eq!(super::sweep(backend, 2_000), 1);
    assert_eq!(sweep_expired(backend, 2_000, 9), Ok(Removed::default()));
    let all: Vec<Event> = ops.iter().map(|op| op.event().clone()).collect();
    check_no_trace(backend, &all, 1);
}

fn small_deletions_are_done_at_once(backend: &impl Backend) {
    if backend.removed_keys_max() < 1_000 {
        return;
    }
    let notes: Vec<Op> = (0..20).map(|n| Draft::new(1, 1, 100 + n).put()).collect();
    commit(backend, NOW, &notes).expect("commit");
    commit(backend, NOW, &[delete(notes.iter().map(Op::event))]).expect("commit");
    assert_eq!(pending_removal(backend), []);
    // As many versions as there are replaceable events in a commit.
    let profiles = |at| (0..250).map(move |author| Draft::new(author, 0, at).put()).collect::<Vec<Op>>();
    commit(backend, NOW, &profiles(1)).expect("commit");
    commit(backend, NOW, &profiles(2)).expect("commit");
    assert_eq!(pending_removal(backend), []);
    assert_eq!(stored(backend).len(), 251);
}
