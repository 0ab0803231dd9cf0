//! The cost of queries, which shows the choices of the planner.
//!
//! A unit of cost is a posting or an event that is read. The store has 30,000 events by 2,000 authors; those with low numbers have
//! most.

use relay_engine::store::{
    Backend, Completeness, Count, CountStep, Hit, MemoryBackend, Op, Reader, Scan, ScanLimits, ScanStep, Seq,
    SinkResult, TermClasses, Unrestricted, Writer, commit, cursor_bytes_max, replay, terms_of,
};
use relay_engine::testing::{Draft, Rng};
use relay_engine::types::{CanonicalEvent, Event, Filter, Kind, PubKey, TagFilter};

const EVENTS: u64 = 30_000;
const AUTHORS: u64 = 2_000;
const LIMITS: ScanLimits = ScanLimits { limit_default: 500, limit_max: 5_000 };

fn key(author: u64) -> PubKey {
    let mut bytes = [7; 32];
    bytes[..8].copy_from_slice(&author.to_be_bytes());
    PubKey(bytes)
}

/// An event of any author; a draft has only 256.
fn event(author: u64, draft: &Draft) -> Event {
    let event = draft.event();
    let json = std::str::from_utf8(event.json()).unwrap();
    let json = json.replace(&event.pubkey.to_string(), &key(author).to_string());
    Event::from_canonical(json.into_bytes().into())
}

fn store(classes: TermClasses) -> MemoryBackend {
    let mut rng = Rng::new(3);
    let backend = MemoryBackend::new(classes);
    let fill = |writer: &mut <MemoryBackend as Backend>::Writer<'_>| {
        for n in 1..=EVENTS {
            let author = rng.below(AUTHORS).min(rng.below(AUTHORS));
            let mut draft = Draft::new(0, *rng.pick(&[1, 1, 7, 6]), 1_000 + n / 4).content(&n.to_string());
            draft = draft.tag(&["t", if n % 1_000 == 0 { "rare" } else { "common" }]);
            let event = event(author, &draft);
            writer.insert(Seq(n), &event, &terms_of(event.view(), classes))?;
        }
        Ok(())
    };
    backend.write(fill).unwrap();
    backend
}

/// Cost and events of one REQ.
fn cost(backend: &MemoryBackend, mut filter: Filter) -> (usize, Vec<Event>, Completeness) {
    filter.normalise();
    let mut scan = Scan::new([filter].into(), LIMITS, backend.classes(), Seq(EVENTS));
    let (mut budget, mut events) = (usize::MAX, Vec::new());
    let reader = backend.reader().unwrap();
    let mut sink = |hit: Hit<'_>| {
        events.push(Event::from_canonical(hit.event.json().into()));
        SinkResult::Continue
    };
    match scan.step(&reader, 0, &mut budget, &Unrestricted, &mut sink).unwrap() {
        ScanStep::Done(completeness) => (usize::MAX - budget, events, completeness),
        ScanStep::More => panic!("the budget is not used up"),
    }
}

/// Queries at most 50 events, compares them with a scan of all events, and the cost with `cost_max`.
fn check(backend: &MemoryBackend, name: &str, filter: Filter, cost_max: usize) {
    let filter = Filter { limit: Some(50), ..filter };
    let reader = backend.reader().unwrap();
    let matches = |seq| {
        let json = reader.event(Seq(seq)).unwrap().unwrap();
        filter.matches_stored(CanonicalEvent::trusted(&json))
    };
    let expected = (1..=EVENTS).filter(|&seq| matches(seq)).count().min(50);
    let (budget, events, _) = cost(backend, filter.clone());
    assert_eq!(events.len(), expected, "{name}");
    assert!(
        budget <= cost_max,
        "{name}: a cost of {budget} for {expected} events, at most {cost_max} expected"
    );
}

fn tag(value: &str) -> Box<[TagFilter]> {
    Box::new([TagFilter { letter: b't', values: Box::new([value.as_bytes().into()]) }])
}

#[test]
fn queries_cost_little() {
    let all = TermClasses { all: true, author_kind: true };
    let none = TermClasses { all: false, author_kind: false };
    for classes in [all, none] {
        let backend = store(classes);
        let authors = |list: &mut dyn Iterator<Item = u64>| Filter {
            authors: Some(list.map(key).collect()),
            ..Filter::default()
        };
        let kinds = |list: &[Kind]| Some(list.into());
        let cases: Vec<(&str, Filter, usize)> = vec![
            ("one author", authors(&mut (0..1)), 100),
            ("ten authors and a kind", Filter { kinds: kinds(&[1]), ..authors(&mut (0..10)) }, 350),
            ("300 busy authors", Filter { kinds: kinds(&[1]), ..authors(&mut (0..300)) }, 900),
            ("every author", authors(&mut (0..AUTHORS)), 350),
            ("10,000 authors, most of them silent", authors(&mut (0..10_000)), 350),
            ("10,000 silent authors", authors(&mut (2_000..12_000)), 10_000 + 700),
            ("5,000 silent authors and a rare one", authors(&mut (1_999..7_000)), 5_001 + 700),
            ("a kind", Filter { kinds: kinds(&[7]), ..Filter::default() }, 150),
            ("a rare tag", Filter { tags: tag("rare"), ..Filter::default() }, 100),
            ("a rare tag of a busy author", Filter { tags: tag("rare"), ..authors(&mut (0..1)) }, 150),
            (
                "a common tag of a rare author",
                Filter { tags: tag("common"), ..authors(&mut (1_990..1_991)) },
                150,
            ),
        ];
        for (name, filter, cost_max) in cases {
            check(&backend, &format!("{name}, {classes:?}"), filter, cost_max);
        }
    }
}

/// Regression: every candidate has all filters of its request looked at, which was charged nowhere.
#[test]
fn many_filters_cost_more_a_candidate() {
    let classes = TermClasses { all: true, author_kind: true };
    let backend = store(classes);
    let budget = |others: u64| {
        let of = |author| Filter { authors: Some([key(author)].into()), ..Filter::default() };
        let all = Filter { kinds: Some([7].into()), limit: Some(500), ..Filter::default() };
        let filters: Vec<Filter> = std::iter::once(all).chain((0..others).map(|n| of(5_000 + n))).collect();
        let mut scan = Scan::new(filters.into(), LIMITS, classes, Seq(EVENTS));
        let mut budget = usize::MAX;
        let mut sink = |_: Hit<'_>| SinkResult::Continue;
        let done = scan.step(&backend.reader().unwrap(), 0, &mut budget, &Unrestricted, &mut sink).unwrap();
        assert_eq!(done, ScanStep::Done(Completeness::More));
        usize::MAX - budget
    };
    let (few, many) = (budget(0), budget(99));
    // 500 postings, 500 events, and 99 look-ups in vain.
    assert!((1_000..1_300).contains(&few), "{few}");
    assert!((1_099 + 500..1_800).contains(&many), "{many}");
}

/// Regression: every term had a cursor, whether or not anything is stored under it, and 10 KB of a request had 20,000.
#[test]
fn cursors_take_memory_for_what_is_stored() {
    let classes = TermClasses { all: true, author_kind: true };
    let backend = store(classes);
    let reader = backend.reader().unwrap();
    let authors = |authors: std::ops::Range<u64>, kinds: &[Kind]| {
        let kinds = Some(kinds.into());
        let mut filter = Filter { authors: Some(authors.map(key).collect()), kinds, ..Filter::default() };
        filter.normalise();
        filter
    };
    let bytes = |filter: Filter| {
        let mut count = Count::new([filter.clone()].into(), classes, Seq(EVENTS), u64::MAX);
        let mut most = 0;
        loop {
            let step = count.step(&reader, 0, &mut 100, &Unrestricted).unwrap();
            most = most.max(count.cursor_bytes());
            if step != CountStep::More {
                break;
            }
        }
        assert!(most <= cursor_bytes_max(&[filter], classes), "{most} bytes");
        most
    };
    assert_eq!(bytes(authors(5_000..25_000, &[1])), 0, "these authors have written nothing");
    assert_eq!(bytes(authors(5_000..10_000, &[1, 6, 7, 9])), 0);
    // 400 authors who have written, all of them read on and on.
    let (few, many) = (bytes(authors(0..1, &[1])), bytes(authors(0..400, &[1])));
    assert!(few <= 10_000, "{few}");
    assert!((400 * 100..=400 * 600).contains(&many), "{many}");

    // A scan that rests holds nothing, and goes on where it stood.
    let mut scan = Scan::new([authors(0..400, &[1])].into(), LIMITS, classes, Seq(EVENTS));
    let (mut sent, mut pause) = (Vec::new(), true);
    loop {
        let mut sink = |hit: Hit<'_>| {
            sent.push(hit.seq);
            pause = sent.len() % 100 == 0;
            if pause { SinkResult::Pause } else { SinkResult::Continue }
        };
        if scan.step(&reader, 0, &mut 1_000, &Unrestricted, &mut sink).unwrap() != ScanStep::More {
            break;
        }
        if std::mem::take(&mut pause) {
            scan.release_cursors();
            assert_eq!(scan.cursor_bytes(), 0);
        }
    }
    let once: std::collections::BTreeSet<Seq> = sent.iter().copied().collect();
    assert!(sent.len() >= 500 && once.len() == sent.len(), "{}", sent.len());
}

#[test]
fn counting_reads_no_events_if_postings_suffice() {
    let backend = store(TermClasses { all: true, author_kind: true });
    let filter = Filter { kinds: Some([7].into()), ..Filter::default() };
    let reader = backend.reader().unwrap();
    let mut budget = usize::MAX;
    let mut count = Count::new([filter].into(), backend.classes(), Seq(EVENTS), u64::MAX);
    let Ok(CountStep::Done(counted)) = count.step(&reader, 0, &mut budget, &Unrestricted) else {
        panic!("the budget is not used up");
    };
    assert!(counted.count > 7_000);
    assert!((usize::MAX - budget) as u64 <= counted.count + 1, "{counted:?}");
}

#[test]
fn a_scan_with_an_old_horizon_reads_additionally_only_newer_events() {
    let backend = store(TermClasses { all: true, author_kind: true });
    let ops: Vec<Op> = (0..100).map(|n| Draft::new(1, 1, 90_000 + n).put()).collect();
    commit(&backend, 0, &ops).unwrap();
    let filter = Filter { kinds: Some([1].into()), limit: Some(10), ..Filter::default() };
    let (budget, events, completeness) = cost(&backend, filter);
    assert_eq!((events.len(), completeness), (10, Completeness::More));
    assert!(events.iter().all(|event| event.created_at < 90_000), "beyond the horizon is for live delivery");
    assert!(budget < 400, "a cost of {budget}");
    assert_eq!(backend.reader().unwrap().last_seq(), Ok(Seq(EVENTS + 100)));
}

/// Regression: parsing the tags again for each condition took a second per event, and was charged as one unit. A client may store
/// events with 10,000 tags, and query them with 100 filters of 52 conditions each, all of which have to be checked.
#[test]
fn matching_large_events_with_many_conditions_is_charged() {
    const LARGE: u64 = 5;
    let letters: Vec<u8> = (b'A'..=b'Z').chain(b'a'..=b'z').collect();
    let letter = |n: usize| char::from(letters[n % letters.len()]).to_string();
    let backend = MemoryBackend::new(TermClasses { all: true, author_kind: true });
    let ops: Vec<Op> = (0..LARGE)
        .map(|n| {
            let draft = Draft::new(1, 1, 1_000 + n);
            (0..10_000).fold(draft, |draft, n| draft.tag(&[&letter(n), &(n / 52).to_string()])).put()
        })
        .collect();
    commit(&backend, 0, &ops).unwrap();
    let reader = backend.reader().unwrap();
    let bytes = reader.event(Seq(1)).unwrap().unwrap().len();
    let filters: Vec<Filter> = (0..100)
        .map(|_| {
            let values = |value: &str| -> Box<[Box<[u8]>]> { Box::new([value.as_bytes().into()]) };
            let conditions = letters.iter().map(|&letter| TagFilter { letter, values: values("190") });
            let mut filter = Filter { tags: conditions.collect(), ..Filter::default() };
            filter.normalise();
            filter
        })
        .collect();

    // Three passes over the tags, a sort and 5,200 look-ups: charged, and bounded.
    let scan = || Scan::new(filters.clone().into(), LIMITS, backend.classes(), Seq(LARGE));
    let mut budget = usize::MAX;
    let mut sent = 0;
    let mut sink = |_: Hit<'_>| {
        sent += 1;
        SinkResult::Continue
    };
    let done = scan().step(&reader, 0, &mut budget, &Unrestricted, &mut sink).unwrap();
    assert_eq!((done, sent), (ScanStep::Done(Completeness::Finish), LARGE));
    let (used, opening) = (usize::MAX - budget, 100 * (8 * 32 + 16));
    let an_event = 3 * bytes / 512 + 10_000 * 14 / 64 + 100 * 52 * 30 / 64;
    assert!(used <= opening + LARGE as usize * an_event, "a cost of {used}");
    assert!(used >= LARGE as usize * (bytes / 512 + 10_000 * 13 / 64), "a cost of {used} is too little");

    // A step of 2,000 ends with the event that exceeds them.
    let (mut scan, mut sent, mut steps) = (scan(), 0, 0);
    loop {
        let (mut budget, mut in_step) = (2_000, 0);
        let mut sink = |_: Hit<'_>| {
            in_step += 1;
            SinkResult::Continue
        };
        let step = scan.step(&reader, 0, &mut budget, &Unrestricted, &mut sink).unwrap();
        assert!(in_step <= 1, "{in_step} large events in one step");
        (sent, steps) = (sent + in_step, steps + 1);
        if step != ScanStep::More {
            break;
        }
    }
    assert!(sent == LARGE && steps > LARGE, "{sent} in {steps} steps");

    // The same holds for a replay.
    let mut covered = Seq(0);
    for n in 1..=LARGE {
        let mut budget = 2_000;
        let mut sink = |_: Hit<'_>| SinkResult::Continue;
        let replayed =
            replay(&reader, &filters[..], covered, &mut budget, 0, &Unrestricted, &mut sink).unwrap();
        assert_eq!((replayed.covered, replayed.caught_up), (Seq(n), n == LARGE));
        covered = replayed.covered;
    }
}
