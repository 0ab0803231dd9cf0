//! Answers to REQ, COUNT and replay: the rules of NIP-01, 45 and 67 as a table.

use super::{ask, normalised};
use crate::store::{
    Backend, Completeness, Count, CountStep, Hit, Op, Reader, ScanLimits, Seq, SinkResult, Term,
    Unrestricted, Viewer, Writer, commit, replay, terms_of,
};
use crate::testing::{Draft, EventGenerator};
use crate::types::{CanonicalEvent, EventId, Filter, Kind, TagFilter, Timestamp};

const NOW: Timestamp = 1_000;
const LIMITS: ScanLimits = ScanLimits { limit_default: 3, limit_max: 5 };

pub(super) fn run<B: Backend>(make: &impl Fn() -> B) {
    what_matches(make);
    the_implicit_d_has_no_postings(make);
    order_and_limits(make);
    what_completeness_means(make);
    counts(make);
    registers(make);
    catching_up(make);
    a_step_costs_no_more_than_its_budget(make);
}

fn filled<B: Backend>(make: &impl Fn() -> B, drafts: &[Draft]) -> B {
    let backend = make();
    let ops: Vec<Op> = drafts.iter().map(Draft::put).collect();
    commit(&backend, 0, &ops).expect("commit");
    backend
}

fn tag(letter: u8, values: &[&str]) -> TagFilter {
    TagFilter { letter, values: values.iter().map(|value| value.as_bytes().into()).collect() }
}

fn tags(list: &[(u8, &[&str])]) -> Filter {
    let tags = list.iter().map(|(letter, values)| tag(*letter, values)).collect();
    Filter { tags, limit: Some(100), ..Filter::default() }
}

fn what_matches<B: Backend>(make: &impl Fn() -> B) {
    let drafts = [
        Draft::new(1, 1, 10).tag(&["t", "a"]).tag(&["t", "b", "c"]).tag(&["T", "z"]),
        Draft::new(1, 7, 20).tag(&["t", "b"]).tag(&["tt", "a"]),
        Draft::new(2, 1, 30).tag(&["t", ""]).tag(&["x"]),
        Draft::new(2, 30_023, 40).tag(&["t", "q\"\\\n\u{1}é"]).tag(&["d", "slug"]),
        Draft::new(3, 0, 50).tag(&["t", "a", "b"]),
        Draft::new(3, 3, 60),
        Draft::new(1, 30_023, 70).tag(&["d", "one"]).tag(&["d", "two"]),
    ];
    let backend = filled(make, &drafts);
    let id = |index: usize| drafts[index].event().id;
    let key = EventGenerator::pubkey;
    let ids = |list: &[EventId]| Filter { ids: Some(list.into()), limit: Some(100), ..Filter::default() };
    let kinds = |list: &[Kind]| Filter { kinds: Some(list.into()), limit: Some(100), ..Filter::default() };
    let authors = |list: &[u8]| Filter {
        authors: Some(list.iter().map(|&author| key(author)).collect()),
        limit: Some(100),
        ..Filter::default()
    };
    let both = |list: &[u8], kinds: &[Kind]| Filter { kinds: Some(kinds.into()), ..authors(list) };
    let cases: Vec<(&str, Filter, &[usize])> = vec![
        ("everything", Filter { limit: Some(100), ..Filter::default() }, &[6, 5, 4, 3, 2, 1, 0]),
        ("ids", ids(&[id(0), id(2), EventId([9; 32])]), &[2, 0]),
        ("ids of another kind", Filter { kinds: Some([7].into()), ..ids(&[id(0), id(1)]) }, &[1]),
        ("no ids", ids(&[]), &[]),
        ("authors", authors(&[1, 2]), &[6, 3, 2, 1, 0]),
        ("an author who never wrote", authors(&[9]), &[]),
        ("no authors", authors(&[]), &[]),
        ("kinds", kinds(&[1, 0]), &[4, 2, 0]),
        ("no kinds", kinds(&[]), &[]),
        ("authors and kinds", both(&[1, 3], &[1, 3, 9]), &[5, 0]),
        ("replaceable", both(&[1, 2, 3], &[0, 3]), &[5, 4]),
        ("replaceable and not", both(&[1, 2, 3], &[0, 1]), &[4, 2, 0]),
        ("authors, no kinds", both(&[1], &[]), &[]),
        ("a tag", tags(&[(b't', &["a"])]), &[4, 0]),
        ("two values", tags(&[(b't', &["a", "b"])]), &[4, 1, 0]),
        ("only the first value counts", tags(&[(b't', &["c"])]), &[]),
        ("letters have case", tags(&[(b'T', &["z"])]), &[0]),
        ("the empty value", tags(&[(b't', &[""])]), &[2]),
        ("a tag without value", tags(&[(b'x', &[""])]), &[]),
        ("an escaped value", tags(&[(b't', &["q\"\\\n\u{1}é"])]), &[3]),
        ("two tags", tags(&[(b't', &["a", "b"]), (b'T', &["z"])]), &[0]),
        ("two tags, one of them nowhere", tags(&[(b't', &["a"]), (b'q', &["z"])]), &[]),
        ("no values", tags(&[(b't', &[])]), &[]),
        ("the d of an address that has none", tags(&[(b'd', &[""])]), &[5, 4]),
        ("that d or another", tags(&[(b'd', &["", "two"])]), &[6, 5, 4]),
        ("that d and a kind", Filter { tags: tags(&[(b'd', &[""])]).tags, ..kinds(&[0, 30_023]) }, &[4]),
        ("that d and a tag", tags(&[(b'd', &[""]), (b't', &["a"])]), &[4]),
        ("a tag and an author", Filter { tags: tags(&[(b't', &["b"])]).tags, ..authors(&[1]) }, &[1, 0]),
        ("a tag and a kind", Filter { tags: tags(&[(b't', &["b"])]).tags, ..kinds(&[7]) }, &[1]),
        ("an address", Filter { tags: tags(&[(b'd', &["slug"])]).tags, ..both(&[1, 2], &[30_023]) }, &[3]),
        ("any d tag", Filter { tags: tags(&[(b'd', &["two"])]).tags, ..both(&[1], &[30_023]) }, &[6]),
        ("since and until", Filter { since: Some(20), until: Some(40), ..authors(&[1, 2]) }, &[3, 2, 1]),
        ("one second", Filter { since: Some(20), until: Some(20), ..authors(&[1, 2]) }, &[1]),
        ("since after until", Filter { since: Some(41), until: Some(40), ..authors(&[1, 2]) }, &[]),
        ("ids within a time", Filter { until: Some(20), ..ids(&[id(1), id(2)]) }, &[1]),
    ];
    for (name, filter, expected) in cases {
        let expected: Vec<EventId> = expected.iter().map(|&index| id(index)).collect();
        let limits = ScanLimits { limit_default: 100, limit_max: 100 };
        let (events, completeness) = ask(&backend, &[filter], limits, NOW, 3, &Unrestricted);
        assert_eq!(events.iter().map(|event| event.id).collect::<Vec<_>>(), expected, "{name}");
        assert_eq!(completeness, Completeness::Finish, "{name}");
    }
}

/// There are no postings for the implicit empty `d`, so events stored by earlier versions, which did not know it, are found too.
fn the_implicit_d_has_no_postings<B: Backend>(make: &impl Fn() -> B) {
    let backend = make();
    let event = Draft::new(1, 0, 10).tag(&["t", "a"]).event();
    let classes = backend.classes();
    let mut terms =
        vec![Term::Kind(0), Term::Author(event.pubkey), Term::Address(0, event.pubkey, [].into())];
    terms.push(Term::Tag(b't', b"a".as_slice().into()));
    terms.extend(classes.all.then_some(Term::All));
    terms.extend(classes.author_kind.then_some(Term::AuthorKind(event.pubkey, 0)));
    let mut today = terms_of(event.view(), classes);
    today.sort_unstable();
    terms.sort_unstable();
    assert_eq!(today, terms, "the terms of an event are those of earlier versions");
    backend.write(|writer| writer.insert(Seq(1), &event, &terms)).expect("insert");
    let by_d = tags(&[(b'd', &[""])]);
    let narrow = Filter { authors: Some([event.pubkey].into()), ..by_d.clone() };
    let wide = Filter { authors: Some((0..200).map(EventGenerator::pubkey).collect()), ..by_d.clone() };
    let tagged = tags(&[(b'd', &[""]), (b't', &["a"])]);
    for filter in [by_d, narrow, wide, tagged] {
        let (events, complete) = ask(&backend, std::slice::from_ref(&filter), LIMITS, NOW, 9, &Unrestricted);
        assert_eq!((events.len(), complete), (1, Completeness::Finish), "{filter:?}");
        assert_eq!(count(&backend, &[filter], u64::MAX, &Unrestricted).count, 1);
    }
}

fn order_and_limits<B: Backend>(make: &impl Fn() -> B) {
    // Two seconds of four events each, some ids equal in their first eight bytes.
    let mut drafts: Vec<Draft> = (0..8)
        .map(|n| Draft::new(n % 2, Kind::from(n % 3) + 1, 100 + u64::from(n / 4)).content(&n.to_string()))
        .collect();
    drafts[0] = drafts[0].clone().with_id_prefix(5);
    drafts[1] = drafts[1].clone().with_id_prefix(5);
    drafts[2] = drafts[2].clone().with_id_prefix(5);
    let backend = filled(make, &drafts);
    let mut order: Vec<(std::cmp::Reverse<u64>, EventId)> =
        drafts.iter().map(|draft| (std::cmp::Reverse(draft.created_at), draft.event().id)).collect();
    order.sort_unstable();
    let order: Vec<EventId> = order.into_iter().map(|(_, id)| id).collect();
    let all = |limit| Filter { limit, ..Filter::default() };
    let kind = |kind: Kind, limit| Filter { kinds: Some([kind].into()), ..all(limit) };
    let check = |name: &str, filters: &[Filter], expected: &[EventId], complete: Completeness| {
        for budget in [1, 2, 7, usize::MAX] {
            let (events, completeness) = ask(&backend, filters, LIMITS, NOW, budget, &Unrestricted);
            let ids: Vec<EventId> = events.iter().map(|event| event.id).collect();
            assert_eq!(ids, expected, "{name}, {budget} a step");
            assert_eq!(completeness, complete, "{name}, {budget} a step");
        }
    };
    use Completeness::{Finish, More, Unknown};
    check("the client's limit", &[all(Some(2))], &order[..2], More);
    check("the client's limit is kept within a second", &[all(Some(5))], &order[..5], More);
    check("the relay's default goes to the end of the second", &[all(None)], &order[..4], More);
    check("the relay's maximum too", &[all(Some(6))], &order, Finish);
    check("limit 0", &[all(Some(0))], &[], Unknown);
    check("limit 0 of what cannot be", &[Filter { kinds: Some([].into()), ..all(Some(0)) }], &[], Finish);
    check("limit 0 beside another", &[all(Some(0)), all(Some(2))], &order[..2], More);
    check("the same filter twice", &[all(Some(3)), all(Some(3))], &order[..3], More);
    check("the wider of two limits", &[all(Some(5)), all(Some(1))], &order[..5], More);
    let of_kind = |wanted: Kind| {
        let is = |id: &&EventId| drafts.iter().any(|d| d.kind == wanted && d.event().id == **id);
        order.iter().filter(is).copied().collect::<Vec<_>>()
    };
    check("exactly all", &[kind(1, Some(3))], &of_kind(1), Finish);
    check("one less", &[kind(1, Some(2))], &of_kind(1)[..2], More);
    let mut two: Vec<EventId> = order.clone();
    two.retain(|id| of_kind(1)[..1].contains(id) || of_kind(2)[..2].contains(id));
    check("each filter keeps its own limit", &[kind(1, Some(1)), kind(2, Some(2))], &two, More);
    let mut shared: Vec<EventId> = order.clone();
    shared.retain(|id| of_kind(1)[..1].contains(id) || order[..5].contains(id));
    check("what another filter sends is not missing", &[kind(1, Some(1)), all(Some(5))], &shared, More);
    check("no filters", &[], &[], Finish);
}

/// Withholds every event of kind 1059.
struct NoWraps;

impl Viewer for NoWraps {
    fn guarded_kinds(&self) -> &[Kind] {
        &[1059]
    }

    fn sees(&self, event: CanonicalEvent<'_>) -> bool {
        assert_eq!(event.kind(), 1059, "asked only about kinds it may not see all of");
        false
    }

    fn sees_all_matches(&self, filter: &Filter) -> bool {
        filter.kinds.as_ref().is_some_and(|kinds| !kinds.contains(&1059))
    }
}

fn what_completeness_means<B: Backend>(make: &impl Fn() -> B) {
    let mut drafts = vec![Draft::new(1, 1, 100), Draft::new(1, 1, 99), Draft::new(1, 1, 98)];
    drafts.extend((0..4).map(|n| Draft::new(1, 1059, 97).content(&n.to_string())));
    drafts.push(Draft::new(1, 1, 96).tag(&["expiration", "500"]));
    let backend = filled(make, &drafts);
    let page = |limit| [Filter { limit: Some(limit), ..Filter::default() }];
    let check = |limit, viewer: &dyn Viewer, now, expected: usize, complete: Completeness| {
        let (events, completeness) = ask(&backend, &page(limit), LIMITS, now, 2, viewer);
        assert_eq!((events.len(), completeness), (expected, complete), "limit {limit} at {now}");
    };
    check(3, &Unrestricted, NOW, 3, Completeness::More);
    // Withheld events do not count as `more`, and the answer does not reveal whether any was withheld.
    check(3, &NoWraps, NOW, 3, Completeness::Unknown);
    check(4, &NoWraps, NOW, 3, Completeness::Unknown);
    check(3, &NoWraps, 499, 3, Completeness::More);
    check(4, &NoWraps, 499, 4, Completeness::Unknown);
    let open = [Filter { kinds: Some([1, 7].into()), ..Filter::default() }];
    assert_eq!(ask(&backend, &open, LIMITS, NOW, 2, &NoWraps).1, Completeness::Finish, "open kinds");
    let ids = |drafts: &[&Draft]| Filter {
        ids: Some(drafts.iter().map(|draft| draft.event().id).collect()),
        ..Filter::default()
    };
    let (note, wrap, missing) = (&drafts[0], &drafts[3], &Draft::new(9, 1, 1));
    use Completeness::{Finish, Unknown, Withheld};
    let cases: [(&str, Vec<Filter>, Completeness); 6] = [
        ("all there", vec![ids(&[note])], Finish),
        ("one is withheld or missing", vec![ids(&[note, wrap])], Unknown),
        ("one is missing", vec![ids(&[note, missing])], Unknown),
        ("none is there", vec![ids(&[missing])], Unknown),
        ("all that are there are withheld", vec![ids(&[wrap, missing]), ids(&[wrap])], Withheld),
        (
            "something else is asked for",
            vec![ids(&[wrap]), Filter { kinds: Some([9].into()), ..Filter::default() }],
            Unknown,
        ),
    ];
    for (name, filters, complete) in cases {
        assert_eq!(ask(&backend, &filters, LIMITS, NOW, 2, &NoWraps).1, complete, "{name}");
        let counted = count(&backend, &filters, u64::MAX, &NoWraps);
        let said = (counted.approximate, counted.withheld);
        assert_eq!(said, (complete != Finish, complete == Withheld), "{name}");
    }

    // Far more non-matching events than the look-ahead reads.
    let mut drafts: Vec<Draft> = (0..2_600).map(|n| Draft::new(1, 1, 1_000 + n).tag(&["t", "x"])).collect();
    drafts.push(Draft::new(1, 1, 5_000).tag(&["t", "x"]).tag(&["r", "y"]));
    let backend = filled(make, &drafts);
    let mut filter = tags(&[(b't', &["x"]), (b'r', &["y", "z"])]);
    let matching = |limit| (limit, Completeness::Unknown);
    filter.limit = Some(1);
    filter.tags[1].values =
        (0..40).map(|n| format!("{n}").into_bytes().into()).chain([b"y"[..].into()]).collect();
    filter.normalise();
    let (events, completeness) = ask(&backend, &[filter.clone()], LIMITS, NOW, 100, &Unrestricted);
    assert_eq!((events.len() as u32, completeness), matching(1), "the look-ahead is bounded");
    filter.limit = Some(2);
    let (events, completeness) = ask(&backend, &[filter], LIMITS, NOW, 100, &Unrestricted);
    assert_eq!((events.len(), completeness), (1, Completeness::Finish), "a larger limit reads to the end");
}

fn count<B: Backend>(
    backend: &B,
    filters: &[Filter],
    cost_max: u64,
    viewer: &dyn Viewer,
) -> crate::store::CountResult {
    let horizon = backend.reader().and_then(|reader| reader.last_seq()).expect("last_seq");
    let mut count = Count::new(normalised(filters).into(), backend.classes(), horizon, cost_max);
    loop {
        let mut budget = 7;
        let reader = backend.reader().expect("reader");
        if let CountStep::Done(counted) = count.step(&reader, NOW, &mut budget, viewer).expect("step") {
            return counted;
        }
        assert!(budget < 7, "a step makes progress");
    }
}

fn counts<B: Backend>(make: &impl Fn() -> B) {
    let mut drafts: Vec<Draft> = (0..20).map(|n| Draft::new(n % 4, 1, 100 + u64::from(n))).collect();
    drafts.extend((0..5).map(|n| Draft::new(n, 7, 50).tag(&["t", "a"]).tag(&["t", "b"])));
    drafts.push(Draft::new(1, 1, 90).tag(&["expiration", "999"]));
    drafts.extend((0..3).map(|n| Draft::new(n, 1059, 60)));
    let backend = filled(make, &drafts);
    let kind = |kind: Kind| Filter { kinds: Some([kind].into()), ..Filter::default() };
    let author =
        |author: u8| Filter { authors: Some([EventGenerator::pubkey(author)].into()), ..Filter::default() };
    let cases: Vec<(&str, Vec<Filter>, u64)> = vec![
        ("a kind", vec![kind(1)], 20),
        ("a limit is ignored", vec![Filter { limit: Some(1), ..kind(1) }], 20),
        ("an author", vec![author(1)], 7),
        ("a time", vec![Filter { since: Some(118), ..kind(1) }], 2),
        ("two kinds", vec![kind(1), kind(7)], 25),
        ("filters that overlap", vec![kind(7), author(1), kind(7)], 11),
        ("tags on one event", vec![tags(&[(b't', &["a", "b"])])], 5),
        ("everything", vec![Filter::default()], 28),
        ("nothing", vec![kind(2)], 0),
    ];
    for (name, filters, expected) in cases {
        let counted = count(&backend, &filters, u64::MAX, &Unrestricted);
        assert_eq!((counted.count, counted.approximate), (expected, false), "{name}");
    }
    assert_eq!(
        count(&backend, &[Filter::default()], u64::MAX, &NoWraps).count,
        25,
        "only visible events count"
    );
    // Matches of filters that overlap are read whatever the backend; other filters may cost less than what they match.
    let counted = count(&backend, &[kind(1), author(1)], 10, &Unrestricted);
    assert!(counted.approximate && counted.count <= 10, "a cost of ten is not enough: {counted:?}");
}

fn registers<B: Backend>(make: &impl Fn() -> B) {
    let id = "0".repeat(64);
    let drafts: Vec<Draft> =
        (0..3).flat_map(|author| [7, 6].map(|kind| Draft::new(author, kind, 10).tag(&["e", &id]))).collect();
    let backend = filled(make, &drafts);
    let mut reactions = tags(&[(b'e', &[&id])]);
    reactions.kinds = Some([7].into());
    let counted = count(&backend, &[reactions.clone()], u64::MAX, &Unrestricted);
    // Byte 8 of every key is 0x5a, and so is the next: 0 and then a one.
    let mut expected = [0; crate::store::HLL_REGISTERS];
    expected[0x5a] = 2;
    assert_eq!((counted.count, counted.hll), (3, Some(Box::new(expected))));
    reactions.kinds = Some([6, 7].into());
    assert_eq!(count(&backend, &[reactions], u64::MAX, &Unrestricted).hll, None);
}

fn catching_up<B: Backend>(make: &impl Fn() -> B) {
    let mut drafts: Vec<Draft> = (0..10).map(|n| Draft::new(1, 1, 500 - n)).collect();
    drafts[4].kind = 7;
    drafts[6] = drafts[6].clone().tag(&["expiration", "1000"]);
    drafts[8].kind = 1059;
    let backend = filled(make, &drafts);
    crate::store::remove(&backend, &[drafts[9].event().id]).expect("remove");
    let filters = [Filter { kinds: Some([1, 1059].into()), limit: Some(1), ..Filter::default() }];
    for budget in [1, 3, 100] {
        let (mut covered, mut seqs) = (Seq(2), Vec::new());
        loop {
            let mut left = budget;
            let reader = backend.reader().expect("reader");
            let mut sink = |hit: Hit<'_>| {
                seqs.push(hit.seq.0);
                if hit.seq == Seq(4) { SinkResult::Pause } else { SinkResult::Continue }
            };
            let replayed =
                replay(&reader, &filters, covered, &mut left, NOW, &NoWraps, &mut sink).expect("replay");
            covered = replayed.covered;
            if replayed.caught_up {
                break;
            }
        }
        assert_eq!(seqs, [3, 4, 6, 8], "{budget} a step");
        assert_eq!(covered, Seq(10), "the sequence number of a removed event is covered");
    }
}

fn a_step_costs_no_more_than_its_budget<B: Backend>(make: &impl Fn() -> B) {
    let drafts: Vec<Draft> = (0..300).map(|n| Draft::new((n % 9) as u8, 1, n)).collect();
    let backend = filled(make, &drafts);
    let filters = [Filter { kinds: Some([1].into()), limit: Some(300), ..Filter::default() }];
    let limits = ScanLimits { limit_default: 300, limit_max: 300 };
    let mut scan = crate::store::Scan::new(filters.into(), limits, backend.classes(), Seq(300));
    let (mut steps, mut hits) = (0, 0);
    loop {
        let mut budget = 20;
        let before = hits;
        let reader = backend.reader().expect("reader");
        let mut sink = |_: Hit<'_>| {
            hits += 1;
            SinkResult::Continue
        };
        let step = scan.step(&reader, NOW, &mut budget, &Unrestricted, &mut sink).expect("step");
        assert!(hits - before <= 20, "{} events in a step of 20", hits - before);
        steps += 1;
        if step != crate::store::ScanStep::More {
            break;
        }
    }
    assert_eq!(hits, 300);
    assert!(steps >= 30, "a cost of 600 in {steps} steps of 20");
}
