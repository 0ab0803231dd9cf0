//! Sets made of sums, compared with sets of all events that are read.

use super::posting_counts::change;
use super::{EventGenerator, Rng};
use crate::store::{Backend, OpenedSet, Reader, Seq, StoreError, SumBudget, SummedSet};
use crate::types::{CanonicalEvent, EventId, EventMatcher, Filter, IdSum, Kind, Timestamp, parse_expiration};

/// What a check has compared, so that a test can check that it tested something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SumsCompared {
    /// Sets.
    pub sets: usize,
    /// Events in them.
    pub events: usize,
    /// Sets that hold blocks, of which some were not read.
    pub blocks: usize,
    /// Sets from which something was subtracted.
    pub subtracted: usize,
    /// Sets for which the budget had to be raised.
    pub unfinished: usize,
}

impl SumsCompared {
    /// Both together.
    pub fn add(&mut self, other: SumsCompared) {
        self.sets += other.sets;
        self.events += other.events;
        self.blocks += other.blocks;
        self.subtracted += other.subtracted;
        self.unfinished += other.unfinished;
    }
}

/// Makes random changes to an empty store, sometimes opening it again by `reopen`, and compares sets of random filters, hidden kinds and
/// times, after each change and in states from before it, with what a look at each event finds: numbers, sums and members of random
/// ranges, and positions.
///
/// # Panics
/// If they differ, or the backend has no sums.
pub fn check_posting_sums<B: Backend>(seed: u64, backend: B, reopen: impl Fn(B) -> B) -> SumsCompared {
    let mut generator = EventGenerator::new(seed);
    let (mut now, mut backend, mut compared) = (EventGenerator::START, backend, SumsCompared::default());
    for _ in 0..20 {
        if generator.rng.one_in(8) {
            backend = reopen(backend);
        }
        for _ in 0..1 + generator.rng.below(4) {
            let before = backend.reader().expect("reader");
            if generator.rng.one_in(2) {
                compare(&mut generator, &backend, &before, now, &mut compared).expect("reads");
            }
            change(&mut generator, &backend, &mut now).expect("changes");
            compare(&mut generator, &backend, &before, now, &mut compared).expect("reads");
            let after = backend.reader().expect("reader");
            compare(&mut generator, &backend, &after, now, &mut compared).expect("reads");
        }
    }
    compared
}

/// A filter whose matches are terms' postings, often.
fn filter_of(generator: &mut EventGenerator) -> Filter {
    let mut filter = generator.filter();
    (filter.limit, filter.ids) = (None, None);
    match generator.rng.below(6) {
        0 => filter = Filter { since: filter.since, until: filter.until, ..Filter::default() },
        1 => filter.tags = Box::default(),
        2 => (filter.authors, filter.kinds) = (None, None),
        3 => {
            filter.tags = Box::default();
            filter.authors = None;
            let kinds: Vec<Kind> = (0..2).map(|_| generator.rng.below(10) as Kind).collect();
            filter.kinds = Some(kinds.into());
        }
        _ => {}
    }
    filter.normalise();
    filter
}

fn compare<B: Backend>(
    generator: &mut EventGenerator,
    backend: &B,
    reader: &B::Reader<'_>,
    now: Timestamp,
    compared: &mut SumsCompared,
) -> Result<(), StoreError> {
    for _ in 0..4 {
        let filter = filter_of(generator);
        let rng = &mut generator.rng;
        let now = if rng.one_in(2) { now } else { now + rng.below(60) };
        let hidden: Vec<Kind> = (0..rng.below(3)).map(|_| rng.below(10) as Kind).collect();
        let mut hidden = if rng.one_in(2) { Vec::new() } else { hidden };
        hidden.sort_unstable();
        hidden.dedup();
        let context = || format!("{filter:?} without {hidden:?} at {now}");

        let mut seqs = Vec::new();
        reader.log(Seq(0), usize::MAX, &mut seqs)?;
        let (mut expected, mut without) = (Vec::new(), 0);
        for seq in seqs {
            let Some(json) = reader.event(seq)? else { continue };
            let event = CanonicalEvent::trusted(&json);
            if !EventMatcher::new(event).matches(&filter) {
                continue;
            }
            let is_expired = parse_expiration(event.tags()).is_some_and(|at| at <= now);
            if is_expired || hidden.contains(&event.kind()) {
                without += 1;
            } else {
                expected.push((event.created_at(), event.id()));
            }
        }
        expected.sort_unstable();

        let (mut budget, mut tries) = (1, 0);
        let opened = loop {
            let mut sums = SumBudget::new(budget);
            match SummedSet::open(reader, &filter, backend.classes(), &hidden, now, 0, &mut sums)? {
                OpenedSet::OutOfBudget => tries += 1,
                OpenedSet::Unsupported => break None,
                OpenedSet::Set(set) => break Some(set),
                OpenedSet::NotNow | OpenedSet::Few => panic!("nothing has to be waited for: {}", context()),
            }
            assert!(sums.spent > 0, "a call spends some of its budget: {}", context());
            budget *= 2;
        };
        let Some(set) = opened else {
            let is_plain = filter.authors.is_none() && filter.tags.is_empty();
            assert!(
                !is_plain || filter.kinds.as_ref().is_some_and(|kinds| kinds.len() > 64),
                "{}",
                context()
            );
            continue;
        };
        assert_eq!(set.len(), expected.len(), "{}", context());
        check(rng, &set, &expected, &context)?;
        compared.sets += 1;
        compared.events += expected.len();
        compared.blocks += usize::from(set.blocks() > set.reads().0);
        compared.subtracted += usize::from(without > 0);
        compared.unfinished += usize::from(tries > 0);
    }
    Ok(())
}

/// Random questions to a set.
fn check<R: Reader>(
    rng: &mut Rng,
    set: &SummedSet<'_, R>,
    expected: &[(Timestamp, EventId)],
    context: &dyn Fn() -> String,
) -> Result<(), StoreError> {
    for _ in 0..4 {
        let mut at = || rng.below(expected.len() as u64 + 1) as usize;
        let (one, other) = (at(), at());
        let range = one.min(other)..one.max(other);
        let mut sum = IdSum::default();
        expected[range.clone()].iter().for_each(|(_, id)| sum.add(IdSum::of(id)));
        // Positions that were asked for before, or not.
        if rng.one_in(2) {
            let bound = match expected.get(one) {
                Some(&(created_at, id)) if rng.one_in(2) => (created_at, id),
                Some(&(created_at, mut id)) => {
                    let from = rng.below(32) as usize;
                    id.0[from..].fill(0);
                    (created_at, id)
                }
                None => (EventGenerator::START - 50 + rng.below(100), EventId([rng.below(256) as u8; 32])),
            };
            let position = expected.partition_point(|member| *member < bound);
            assert_eq!(set.position(bound.0, &bound.1)?, position, "of {bound:?} in {}", context());
        }
        assert_eq!(set.sum(range.clone())?, sum, "of {range:?} in {}", context());
        let (mut listed, max) = (Vec::new(), 1 + rng.below(700) as usize);
        set.list(range.clone(), &mut |created_at, id| {
            listed.push((created_at, id));
            listed.len() < max
        })?;
        assert_eq!(listed, expected[range.clone()][..range.len().min(max)], "{range:?} of {}", context());
    }
    Ok(())
}
