//! A failure at any operation: a failed batch leaves nothing behind, and a scan misses nothing.

use super::{ask, stored};
use crate::store::{
    Backend, Completeness, Count, CountStep, Hit, Reader, Scan, ScanLimits, ScanStep, Seq, SinkResult,
    Unrestricted, commit,
};
use crate::testing::{Draft, EventGenerator, FailingBackend};
use crate::types::{Event, EventId, Filter};

const LIMITS: ScanLimits = ScanLimits { limit_default: 100, limit_max: 100 };

pub(super) fn run<B: Backend + 'static>(make: &impl Fn() -> B) {
    commits(&FailingBackend::new(make()));
    scans(&FailingBackend::new(make()));
}

fn commits<B: Backend + 'static>(backend: &FailingBackend<B>) {
    let note = Draft::new(1, 1, 10).put();
    let profile = Draft::new(1, 0, 10).put();
    let id = note.event().id.to_string();
    let first = [note, profile, Draft::new(2, 1, 10).put(), Draft::new(2, 1, 11).put()];
    commit(backend, 0, &first).expect("commit");
    let second = [
        Draft::new(3, 1, 20).tag(&["t", "x"]).tag(&["expiration", "99"]).put(),
        Draft::new(1, 0, 20).put(),
        Draft::new(1, 5, 20)
            .tag(&["e", &id])
            .tag(&["a", &format!("30023:{}:x", EventGenerator::pubkey(1))])
            .put(),
        Draft::new(2, 62, 20).vanish(),
    ];
    let all: Vec<Event> = first.iter().chain(&second).map(|op| op.event().clone()).collect();
    let before = everything(backend, &all);
    let mut n = 1;
    loop {
        backend.fail_at(n);
        let result = commit(backend, 0, &second);
        if backend.is_armed() {
            backend.fail_at(0);
            result.expect("nothing failed");
            break;
        }
        result.expect_err("the failure is reported");
        assert_eq!(everything(backend, &all), before, "failed at operation {n}");
        n += 1;
    }
    assert!(n > 30, "a commit of four does more than {n} operations");
    let ids: Vec<EventId> = everything(backend, &all).1.iter().map(|event| event.id).collect();
    let mut expected: Vec<EventId> = second.iter().map(|op| op.event().id).collect();
    expected.sort_unstable();
    assert_eq!(ids, expected, "the batch is stored without a failure");
}

/// All sequence numbers and events, and the sequence number under which each of `events` is found.
fn everything<B: Backend>(backend: &B, events: &[Event]) -> (Vec<Seq>, Vec<Event>, Vec<Option<Seq>>) {
    let found = ask(backend, &[Filter::default()], LIMITS, 0, usize::MAX, &Unrestricted).0;
    let reader = backend.reader().expect("reader");
    let seqs = events.iter().map(|event| reader.seq_of(&event.id).expect("seq_of")).collect();
    let mut log = vec![reader.last_seq().expect("last_seq")];
    drop(reader);
    log.extend(stored(backend));
    (log, found, seqs)
}

fn scans<B: Backend + 'static>(backend: &FailingBackend<B>) {
    let ops: Vec<_> = (0..40)
        .map(|n| {
            Draft::new((n % 5) as u8, 1 + (n % 2) as u16, n / 6)
                .with_id_prefix(n % 2)
                .content(&n.to_string())
                .put()
        })
        .collect();
    commit(backend, 0, &ops).expect("commit");
    let filters = [
        Filter { authors: Some((0..3).map(EventGenerator::pubkey).collect()), ..Filter::default() },
        Filter { kinds: Some([1].into()), ..Filter::default() },
        Filter { ids: Some(ops[3..8].iter().map(|op| op.event().id).collect()), ..Filter::default() },
    ]
    .map(|mut filter| {
        filter.normalise();
        filter
    });
    let expected = ask(backend, &filters, LIMITS, 0, usize::MAX, &Unrestricted).0;
    for n in 1.. {
        backend.fail_at(n);
        let mut scan = Scan::new(filters.as_slice().into(), LIMITS, backend.classes(), Seq(40));
        let mut count = Count::new(filters.as_slice().into(), backend.classes(), Seq(40), u64::MAX);
        let mut events = Vec::new();
        loop {
            let mut budget = 9;
            let Ok(reader) = backend.reader() else { continue };
            let mut sink = |hit: Hit<'_>| {
                events.push(Event::from_canonical(hit.event.json().into()));
                SinkResult::Continue
            };
            let step = scan.step(&reader, 0, &mut budget, &Unrestricted, &mut sink);
            if step == Ok(ScanStep::Done(Completeness::Finish)) {
                break;
            }
        }
        assert_eq!(events, expected, "failed at operation {n}");
        loop {
            let Ok(reader) = backend.reader() else { continue };
            if let Ok(CountStep::Done(counted)) = count.step(&reader, 0, &mut 9, &Unrestricted) {
                assert_eq!(counted.count, expected.len() as u64, "failed at operation {n}");
                break;
            }
        }
        if backend.is_armed() {
            backend.fail_at(0);
            assert!(n > 60, "a scan and a count do more than {n} operations");
            return;
        }
    }
}
