//! Retention: by age and kind, and in the order in which events were stored.

use super::stored;
use crate::store::{Backend, Reader, Seq, commit, sweep_first, sweep_older_than};
use crate::testing::Draft;
use crate::types::{CanonicalEvent, Kind};

/// Events of these kinds, one a second, again and again.
const KINDS: [Kind; 5] = [1, 7, 30_023, 5, 1_984];
const EVENTS: u64 = 60;

pub(super) fn run<B: Backend>(make: &impl Fn() -> B) {
    by_age_and_kind(make);
    in_order(make);
    little_at_a_time(make);
}

/// Event `n`, at second `n`, counted from 1.
fn kind_of(n: u64) -> Kind {
    KINDS[(n % 5) as usize]
}

fn filled<B: Backend>(make: &impl Fn() -> B) -> B {
    let backend = make();
    for n in 1..=EVENTS {
        let draft = Draft::new(1, kind_of(n), n);
        let draft = match kind_of(n) {
            30_023 => draft.tag(&["d", &n.to_string()]),
            5 => draft.tag(&["e", &format!("{n:064x}")]),
            _ => draft,
        };
        commit(&backend, 1_000, &[draft.put()]).expect("commit");
    }
    assert_eq!(stored(&backend).len() as u64, EVENTS);
    backend
}

/// What is stored, as times.
fn left<B: Backend>(backend: &B) -> Vec<u64> {
    let reader = backend.reader().expect("reader");
    let time = |seq: &Seq| {
        CanonicalEvent::trusted(&reader.event(*seq).expect("reads").expect("stored")).created_at()
    };
    stored(backend).iter().map(time).collect()
}

fn by_age_and_kind<B: Backend>(make: &impl Fn() -> B) {
    let all = |kinds: &'static [Kind]| move |kind: Kind| kinds.contains(&kind);
    for kinds in [&[7][..], &[7, 5], &[1, 7, 1_984], &[1, 7, 30_023, 5, 1_984], &[9]] {
        for before in [0, 1, 20, 21, 1_000] {
            let backend = filled(make);
            while sweep_older_than(&backend, before, &all(kinds), 4).expect("sweeps").more {}
            // Deletion requests stay whatever is said.
            let goes = |n: &u64| *n < before && kinds.contains(&kind_of(*n)) && kind_of(*n) != 5;
            let expected: Vec<u64> = (1..=EVENTS).filter(|n| !goes(n)).collect();
            assert_eq!(left(&backend), expected, "{kinds:?} before {before}");
        }
    }
}

fn in_order<B: Backend>(make: &impl Fn() -> B) {
    for (kinds, most) in [(&[1, 7][..], 10), (&[1, 7], 1_000), (&[5, 30_023, 1], 3), (&[9], 5)] {
        let (backend, mut after, mut removed) = (filled(make), Seq(0), 0);
        for step in 0.. {
            assert!(step < 200, "it ends");
            let left = usize::min(most - removed, 4);
            let is_swept = |kind: Kind| kinds.contains(&kind);
            let (step, done) = sweep_first(&backend, after, &is_swept, left).expect("sweeps");
            assert!(step.events <= left && done >= after);
            (removed, after) = (removed + step.events, done);
            if !step.more || removed == most {
                break;
            }
        }
        let mut goes = 0;
        let expected: Vec<u64> = (1..=EVENTS)
            .filter(|n| {
                let is_next = kinds.contains(&kind_of(*n)) && kind_of(*n) != 5 && goes < most;
                goes += usize::from(is_next);
                !is_next
            })
            .collect();
        assert_eq!((left(&backend), removed), (expected, goes), "{kinds:?}, {most}");
    }
}

/// No change removes more keys than the backend says, and a step that removes nothing is told from the last one.
fn little_at_a_time<B: Backend>(make: &impl Fn() -> B) {
    let backend = filled(make);
    let keys_max = backend.removed_keys_max();
    let (mut after, mut steps) = (Seq(0), 0);
    loop {
        let (removed, done) = sweep_first(&backend, after, &|_| true, 1_000).expect("sweeps");
        assert!(removed.events <= 1 || removed.keys <= keys_max, "{removed:?}");
        assert!(!removed.more || done > after, "it goes on");
        (after, steps) = (done, steps + 1);
        if !removed.more {
            break;
        }
    }
    let requests: Vec<u64> = (1..=EVENTS).filter(|n| kind_of(*n) == 5).collect();
    assert_eq!(left(&backend), requests, "in {steps} steps");
}
