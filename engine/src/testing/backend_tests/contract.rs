//! The contract of [`Reader`], [`Writer`] and [`Backend`], one by one.

use std::collections::BTreeSet;

use super::stored;
use crate::store::{
    Backend, Posting, Rank, Reader, Seq, StartAt, StoreError, Term, Tombstone, Writer, terms_of,
};
use crate::testing::{Draft, EventGenerator, Rng};
use crate::types::{Event, EventId, Kind, NO_EXPIRY, Timestamp};

pub(super) fn run<B: Backend>(make: &impl Fn() -> B) {
    an_empty_store_is_empty(&make());
    postings_are_in_order_between_their_bounds(&make());
    terms_are_distinct(&make());
    the_log_is_in_order_of_commits(&make());
    kinds_are_those_stored(&make());
    expiring_events_come_soonest_first(&make());
    tombstones_keep_the_latest_second(&make());
    nothing_of_a_failed_write_is_kept(&make());
    a_write_sees_its_own_changes(&make());
}

fn store<B: Backend>(backend: &B, events: &[(u64, Event)]) {
    let classes = backend.classes();
    let insert = |writer: &mut B::Writer<'_>| {
        events
            .iter()
            .try_for_each(|(seq, event)| writer.insert(Seq(*seq), event, &terms_of(event.view(), classes)))
    };
    backend.write(insert).expect("insert");
}

fn remove_event<B: Backend>(backend: &B, seq: u64, event: &Event) {
    let terms = terms_of(event.view(), backend.classes());
    backend.write(|writer| writer.remove(Seq(seq), event, &terms)).expect("remove");
}

fn read<B: Backend>(backend: &B, term: &Term, start: StartAt, oldest: Timestamp, max: usize) -> Vec<Posting> {
    let kept = Posting { rank: Rank::newest(7), seq: Seq(7), kind: 7, expires: true };
    let mut out = vec![kept];
    let reader = backend.reader().expect("reader");
    reader.postings(term, start, oldest, max, &mut out).expect("postings");
    assert_eq!(out.remove(0), kept, "postings are appended");
    out
}

fn all(backend: &impl Backend, term: &Term) -> Vec<Posting> {
    read(backend, term, StartAt::Rank(Rank::newest(u64::MAX)), 0, usize::MAX)
}

fn posting(seq: u64, event: &Event) -> Posting {
    Posting {
        rank: Rank::of(event.created_at, &event.id),
        seq: Seq(seq),
        kind: event.kind,
        expires: event.expires_at != NO_EXPIRY,
    }
}

fn an_empty_store_is_empty(backend: &impl Backend) {
    let reader = backend.reader().expect("reader");
    assert_eq!(reader.last_seq(), Ok(Seq(0)));
    assert_eq!(reader.seq_of(&EventId([0; 32])), Ok(None));
    assert_eq!(reader.event(Seq(1)), Ok(None));
    assert_eq!(reader.tombstone(&Tombstone::Vanished(EventGenerator::pubkey(0))), Ok(None));
    assert_eq!(reader.kinds(), Ok(Vec::new()));
    assert_eq!(reader.stats().map(|stats| stats.events), Ok(0));
    drop(reader);
    assert_eq!(all(backend, &Term::Kind(1)), []);
    assert_eq!(stored(backend), []);
}

/// Timestamps and id prefixes at the ends of their ranges, some of them equal; every bound, age and size.
fn postings_are_in_order_between_their_bounds(backend: &impl Backend) {
    let seconds = [0, 1, 255, 256, u64::MAX - 1, u64::MAX];
    let prefixes = [0, 1, 0x7fff_ffff_ffff_ffff, 0x8000_0000_0000_0000, u64::MAX];
    let mut rng = Rng::new(7);
    let events: Vec<(u64, Event)> = (1..=90)
        .map(|seq| {
            let mut draft = Draft::new(1, 1, *rng.pick(&seconds)).with_id_prefix(*rng.pick(&prefixes));
            if rng.one_in(3) {
                draft = draft.tag(&["expiration", "99"]);
            }
            (seq, draft.content(&seq.to_string()).event())
        })
        .collect();
    store(backend, &events);
    let mut expected: Vec<Posting> = events.iter().map(|(seq, event)| posting(*seq, event)).collect();
    expected.sort_unstable();
    let term = Term::Kind(1);
    assert_eq!(all(backend, &term), expected);

    let ranks = seconds.iter().flat_map(|&created_at| prefixes.map(|prefix| Rank { created_at, prefix }));
    for rank in ranks {
        for oldest in [0, 1, 256, u64::MAX] {
            let mut starts = vec![StartAt::Rank(rank), StartAt::Rank(Rank::newest(rank.created_at))];
            // After a posting that is stored, that may be stored, and that never was.
            starts.extend([0, 1, 45, 90, (1 << 47) - 1].map(|seq| StartAt::After(rank, Seq(seq))));
            starts
                .extend(expected.iter().step_by(7).map(|posting| StartAt::After(posting.rank, posting.seq)));
            for start in starts {
                let is_in = |posting: &&Posting| {
                    posting.rank.created_at >= oldest
                        && match start {
                            StartAt::Rank(rank) => posting.rank >= rank,
                            StartAt::After(rank, seq) => (posting.rank, posting.seq) > (rank, seq),
                        }
                };
                for max in [0, 1, 2, 17, 1000] {
                    let expected: Vec<Posting> = expected.iter().filter(is_in).take(max).copied().collect();
                    let found = read(backend, &term, start, oldest, max);
                    assert_eq!(found, expected, "{start:?}, oldest {oldest}, max {max}");
                }
            }
        }
    }

    for (seq, event) in &events[..45] {
        remove_event(backend, *seq, event);
    }
    let expected: Vec<Posting> = expected.into_iter().filter(|posting| posting.seq > Seq(45)).collect();
    assert_eq!(all(backend, &term), expected, "a removed event has no postings");
}

/// Terms that are nearly equal: values with a common prefix, long ones, hex and the bytes it encodes.
fn terms_are_distinct(backend: &impl Backend) {
    let hex = "ab".repeat(32);
    let mut values: Vec<String> =
        ["", "a", "ab", "a\u{0}", "\u{0}", "\u{1}", "A", "é", "\u{10ffff}"].map(str::to_owned).into();
    values.extend([hex.clone(), hex.to_uppercase(), hex[1..].to_owned(), format!("{hex}0")]);
    values.extend([63, 64, 65, 66, 5000].map(|len| "x".repeat(len)));
    values.push("x".repeat(64) + "y");
    let mut drafts = Vec::new();
    for value in &values {
        for letter in ["t", "T", "u"] {
            drafts.push(Draft::new(1, 1, 5).tag(&[letter, value]));
        }
        drafts.push(Draft::new(1, 30_000, 5).tag(&["d", value]));
        drafts.push(Draft::new(2, 30_000, 5).tag(&["d", value]));
        drafts.push(Draft::new(2, 30_001, 5).tag(&["d", value]));
    }
    for kind in [0, 1, 255, 256, 65_535] {
        drafts.push(Draft::new(1, kind, 5));
        drafts.push(Draft::new(17, kind, 5));
    }
    let events: Vec<(u64, Event)> = (1..).zip(drafts.iter().map(Draft::event)).collect();
    store(backend, &events);
    let terms_of = |event: &Event| terms_of(event.view(), backend.classes());
    let terms: BTreeSet<Term> = events.iter().flat_map(|(_, event)| terms_of(event)).collect();
    for term in &terms {
        let mut expected: Vec<Posting> = events
            .iter()
            .filter(|(_, event)| terms_of(event).contains(term))
            .map(|(seq, event)| posting(*seq, event))
            .collect();
        expected.sort_unstable();
        assert_eq!(all(backend, term), expected, "{term:?}");
    }
    for absent in
        [Term::Kind(2), Term::Author(EventGenerator::pubkey(9)), Term::Tag(b't', b"absent"[..].into())]
    {
        assert_eq!(all(backend, &absent), [], "{absent:?}");
    }
}

fn the_log_is_in_order_of_commits(backend: &impl Backend) {
    // Sequence numbers may have gaps.
    let seqs = [1, 2, 3, 255, 256, 70_000, 1 << 32, (1 << 47) - 2];
    let events: Vec<(u64, Event)> =
        seqs.iter().map(|&seq| (seq, Draft::new(1, 1, 1000 - seq % 100).event())).collect();
    for event in &events {
        store(backend, std::slice::from_ref(event));
    }
    let log = |after: u64, max: usize| {
        let mut out = vec![Seq(9)];
        backend.reader().and_then(|reader| reader.log(Seq(after), max, &mut out)).expect("log");
        assert_eq!(out.remove(0), Seq(9), "sequence numbers are appended");
        out.into_iter().map(|seq| seq.0).collect::<Vec<u64>>()
    };
    assert_eq!(log(0, usize::MAX), seqs);
    assert_eq!(log(2, 3), [3, 255, 256]);
    assert_eq!(log(4, 1), [255]);
    assert_eq!(log(1, 0), [0; 0]);
    assert_eq!(log(seqs[7], 5), [0; 0]);
    for (seq, event) in &events {
        let reader = backend.reader().expect("reader");
        assert_eq!(reader.seq_of(&event.id), Ok(Some(Seq(*seq))));
        assert_eq!(reader.event(Seq(*seq)).expect("event").as_deref(), Some(event.json()));
    }
    let (last, event) = &events[7];
    remove_event(backend, *last, event);
    remove_event(backend, events[1].0, &events[1].1);
    let reader = backend.reader().expect("reader");
    assert_eq!(reader.last_seq(), Ok(Seq(*last)), "a sequence number is never reused");
    assert_eq!(reader.event(Seq(*last)), Ok(None));
    assert_eq!(reader.seq_of(&event.id), Ok(None));
    assert_eq!(reader.stats().map(|stats| stats.events), Ok(6));
    drop(reader);
    assert_eq!(log(0, usize::MAX), [1, 3, 255, 256, 70_000, 1 << 32]);
}

fn kinds_are_those_stored(backend: &impl Backend) {
    if backend.classes().all {
        return;
    }
    let kinds: [Kind; 7] = [65_535, 1, 0, 256, 255, 1, 30_000];
    let events: Vec<(u64, Event)> =
        (1..).zip(kinds).map(|(seq, kind)| (seq, Draft::new(1, kind, seq).event())).collect();
    store(backend, &events);
    let read = || backend.reader().and_then(|reader| reader.kinds()).expect("kinds");
    assert_eq!(read(), [0, 1, 255, 256, 30_000, 65_535]);
    remove_event(backend, 1, &events[0].1);
    remove_event(backend, 2, &events[1].1);
    assert_eq!(read(), [0, 1, 255, 256, 30_000], "kind 1 has another event");
}

fn expiring_events_come_soonest_first(backend: &impl Backend) {
    let times = ["5", "3", "never", "18446744073709551614", "3", "0", "256"];
    let events: Vec<(u64, Event)> = (1..)
        .zip(times)
        .map(|(seq, at)| (seq, Draft::new(seq as u8, 1, 9).tag(&["expiration", at]).event()))
        .collect();
    store(backend, &events);
    let read = |until: Timestamp, max: usize| {
        let mut out = vec![Seq(9)];
        backend.reader().and_then(|reader| reader.expiring(until, max, &mut out)).expect("expiring");
        assert_eq!(out.remove(0), Seq(9), "sequence numbers are appended");
        out.into_iter().map(|seq| seq.0).collect::<Vec<u64>>()
    };
    let sorted = |mut seqs: Vec<u64>| {
        seqs.sort_unstable();
        seqs
    };
    assert_eq!(read(0, 9), [6]);
    assert_eq!(read(2, 9), [6]);
    assert_eq!(sorted(read(3, 9)), [2, 5, 6]);
    assert_eq!(read(4, 1), [6]);
    assert_eq!(read(256, 9)[3..], [1, 7]);
    assert_eq!(read(u64::MAX - 1, 9)[5..], [4]);
    assert_eq!(read(100, 0), [0; 0]);
    remove_event(backend, 6, &events[5].1);
    assert_eq!(sorted(read(3, 9)), [2, 5]);
    // Deletion requests and requests to vanish are not swept.
    let requests =
        [5, 62].map(|kind| (u64::from(kind) + 10, Draft::new(9, kind, 9).tag(&["expiration", "3"]).event()));
    store(backend, &requests);
    assert_eq!(sorted(read(3, 9)), [2, 5]);
    requests.iter().for_each(|(seq, event)| remove_event(backend, *seq, event));
}

fn tombstones_keep_the_latest_second(backend: &impl Backend) {
    let (one, two) = (EventGenerator::pubkey(1), EventGenerator::pubkey(2));
    let address = |kind, pubkey, d: &str| Tombstone::Address { kind, pubkey, d: d.as_bytes().into() };
    let hex = "cd".repeat(32);
    let keys = [
        Tombstone::Vanished(one),
        Tombstone::Vanished(two),
        Tombstone::Id(EventId([1; 32]), one),
        Tombstone::Id(EventId([1; 32]), two),
        Tombstone::Id(EventId([2; 32]), one),
        Tombstone::Id(EventId(one.0), one),
        address(30_000, one, ""),
        address(30_000, two, ""),
        address(30_001, one, ""),
        address(30_000, one, "a"),
        address(30_000, one, "ab"),
        address(30_000, one, "\u{0}"),
        address(30_000, one, &hex),
        address(30_000, one, &hex.to_uppercase()),
        address(30_000, one, &"x".repeat(64)),
        address(30_000, one, &"x".repeat(65)),
        address(30_000, one, &"x".repeat(5_000)),
    ];
    let read =
        |key: &Tombstone| backend.reader().and_then(|reader| reader.tombstone(key)).expect("tombstone");
    let put = |key: &Tombstone, until| {
        backend.write(|writer| writer.put_tombstone(key, until)).expect("put a tombstone")
    };
    for (index, key) in keys.iter().enumerate() {
        assert_eq!(read(key), None, "{key:?} has not been put");
        let until = 10 * index as u64;
        put(key, until);
        assert_eq!(read(key), Some(until), "{key:?}");
        put(key, until.saturating_sub(5));
        assert_eq!(read(key), Some(until), "{key:?}, put again with an earlier second");
        put(key, until + 5);
        assert_eq!(read(key), Some(until + 5), "{key:?}, put again with a later second");
    }
    for (index, key) in keys.iter().enumerate() {
        assert_eq!(read(key), Some(10 * index as u64 + 5), "{key:?}");
    }
    put(&keys[0], u64::MAX);
    assert_eq!(read(&keys[0]), Some(u64::MAX));
}

/// Everything that a reader returns about `events`.
fn read_all<B: Backend>(backend: &B, events: &[Event], keys: &[Tombstone]) -> String {
    let reader = backend.reader().expect("reader");
    let mut lines = vec![format!("{:?} {:?}", reader.last_seq(), reader.kinds())];
    let (mut log, mut expiring) = (Vec::new(), Vec::new());
    reader.log(Seq(0), usize::MAX, &mut log).expect("log");
    reader.expiring(u64::MAX - 1, usize::MAX, &mut expiring).expect("expiring");
    lines.push(format!("{log:?} {expiring:?} {:?}", reader.stats().map(|stats| stats.events)));
    for event in events {
        lines.push(format!("{:?}", reader.seq_of(&event.id)));
        for term in terms_of(event.view(), backend.classes()) {
            let mut postings = Vec::new();
            let start = StartAt::Rank(Rank::newest(u64::MAX));
            reader.postings(&term, start, 0, usize::MAX, &mut postings).expect("postings");
            lines.push(format!("{term:?} {postings:?}"));
        }
    }
    lines.extend(log.iter().map(|&seq| format!("{:?}", reader.event(seq))));
    lines.extend(keys.iter().map(|key| format!("{:?}", reader.tombstone(key))));
    lines.join("\n")
}

fn nothing_of_a_failed_write_is_kept<B: Backend>(backend: &B) {
    let events: Vec<Event> = (1..=6)
        .map(|n| Draft::new(n, 1, 5).tag(&["t", "x"]).tag(&["expiration", &n.to_string()]).event())
        .collect();
    let keys = [1, 2].map(|author| Tombstone::Vanished(EventGenerator::pubkey(author)));
    let classes = backend.classes();
    let terms = |event: &Event| terms_of(event.view(), classes);
    store(backend, &[(1, events[0].clone()), (2, events[1].clone())]);
    backend.write(|writer| writer.put_tombstone(&keys[0], 5)).expect("put a tombstone");
    let before = read_all(backend, &events, &keys);
    for steps in 0..7 {
        let result: Result<(), StoreError> = backend.write(|writer| {
            for step in 0..steps {
                match step {
                    0 => writer.insert(Seq(3), &events[2], &terms(&events[2]))?,
                    1 => writer.remove(Seq(1), &events[0], &terms(&events[0]))?,
                    2 => writer.put_tombstone(&keys[0], 9)?,
                    3 => writer.put_tombstone(&keys[1], 9)?,
                    4 => writer.insert(Seq(4), &events[0], &terms(&events[0]))?,
                    _ => writer.remove(Seq(3), &events[2], &terms(&events[2]))?,
                }
            }
            Err(StoreError::Failed("after all".to_owned()))
        });
        assert_eq!(result, Err(StoreError::Failed("after all".to_owned())), "the error is returned");
        assert_eq!(read_all(backend, &events, &keys), before, "after {steps} steps");
    }
    store(backend, &[(3, events[2].clone())]);
    assert_ne!(read_all(backend, &events, &keys), before, "without a failure it works");
}

fn a_write_sees_its_own_changes<B: Backend>(backend: &B) {
    let event = Draft::new(1, 1, 5).tag(&["t", "x"]).tag(&["expiration", "7"]).event();
    let terms = terms_of(event.view(), backend.classes());
    let key = Tombstone::Vanished(event.pubkey);
    let work = |writer: &mut B::Writer<'_>| {
        writer.insert(Seq(1), &event, &terms)?;
        assert_eq!(writer.last_seq()?, Seq(1));
        assert_eq!(writer.seq_of(&event.id)?, Some(Seq(1)));
        assert_eq!(writer.event(Seq(1))?.as_deref(), Some(event.json()));
        for term in &terms {
            let mut postings = Vec::new();
            writer.postings(term, StartAt::Rank(Rank::newest(9)), 0, 9, &mut postings)?;
            assert_eq!(postings, [posting(1, &event)], "{term:?}");
        }
        let (mut log, mut expiring) = (Vec::new(), Vec::new());
        writer.log(Seq(0), 9, &mut log)?;
        writer.expiring(7, 9, &mut expiring)?;
        assert_eq!((log, expiring), (vec![Seq(1)], vec![Seq(1)]));
        writer.put_tombstone(&key, 3)?;
        assert_eq!(writer.tombstone(&key)?, Some(3));
        writer.remove(Seq(1), &event, &terms)?;
        assert_eq!(writer.seq_of(&event.id)?, None);
        assert_eq!(writer.event(Seq(1))?, None);
        let mut postings = Vec::new();
        writer.postings(&terms[0], StartAt::Rank(Rank::newest(9)), 0, 9, &mut postings)?;
        assert_eq!(postings, []);
        assert_eq!(writer.last_seq()?, Seq(1));
        // The same id may be stored again under another sequence number in the same write.
        writer.insert(Seq(2), &event, &terms)
    };
    backend.write(work).expect("write");
    assert_eq!(stored(backend), [Seq(2)]);
}
