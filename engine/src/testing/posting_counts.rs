//! Counts of postings that are not read, compared with the postings that are.

use super::{EventGenerator, Rng};
use crate::store::{
    Backend, Op, Posting, PostingCount, Rank, Reader, Seq, StartAt, StoreError, Term, commit, remove,
    remove_pending, sweep_expired, terms_of,
};
use crate::types::{CanonicalEvent, EventId, Timestamp, is_removal_request};

/// What a check has compared, so that a test can check that it tested something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CountsCompared {
    /// Counts.
    pub counts: usize,
    /// Postings counted.
    pub postings: u64,
    /// Counts that ran out of their budget before they were done.
    pub unfinished: usize,
}

/// Makes random changes to an empty store, sometimes opening it again by `reopen`, and compares counts of random terms, times and
/// horizons, after each change and in states from before it, with the postings.
///
/// # Panics
/// If they differ, or the backend does not count postings.
pub fn check_posting_counts<B: Backend>(seed: u64, backend: B, reopen: impl Fn(B) -> B) -> CountsCompared {
    let mut generator = EventGenerator::new(seed);
    let (mut now, mut backend, mut compared) = (EventGenerator::START, backend, CountsCompared::default());
    for _ in 0..24 {
        if generator.rng.one_in(8) {
            backend = reopen(backend);
        }
        for _ in 0..1 + generator.rng.below(4) {
            let before = backend.reader().expect("reader");
            if generator.rng.one_in(2) {
                compare(&mut generator.rng, &backend, &before, &mut compared).expect("reads");
            }
            change(&mut generator, &backend, &mut now).expect("changes");
            compare(&mut generator.rng, &backend, &before, &mut compared).expect("reads");
            let after = backend.reader().expect("reader");
            compare(&mut generator.rng, &backend, &after, &mut compared).expect("reads");
        }
    }
    compared
}

pub(super) fn change<B: Backend>(
    generator: &mut EventGenerator,
    backend: &B,
    now: &mut Timestamp,
) -> Result<(), StoreError> {
    match generator.rng.below(10) {
        0 => {
            *now = (*now).max(generator.second());
            while sweep_expired(backend, *now, 3)?.more {}
        }
        1 => {
            remove_pending(backend)?;
        }
        2 => {
            let mut seqs = Vec::new();
            backend.reader()?.log(Seq(0), usize::MAX, &mut seqs)?;
            seqs.retain(|_| generator.rng.one_in(6));
            let reader = backend.reader()?;
            let mut ids: Vec<EventId> = Vec::new();
            for seq in seqs {
                ids.extend(reader.event(seq)?.map(|json| CanonicalEvent::trusted(&json).id()));
            }
            drop(reader);
            remove(backend, &ids)?;
        }
        _ => {
            for _ in 0..1 + generator.rng.below(4) {
                let ops: Vec<Op> = (0..1 + generator.rng.below(12)).map(|_| generator.op()).collect();
                commit(backend, *now, &ops)?;
            }
        }
    }
    Ok(())
}

/// Some random counts in one state.
fn compare<B: Backend>(
    rng: &mut Rng,
    backend: &B,
    reader: &impl Reader,
    compared: &mut CountsCompared,
) -> Result<(), StoreError> {
    let mut seqs = Vec::new();
    reader.log(Seq(0), usize::MAX, &mut seqs)?;
    let last = reader.last_seq()?;
    for _ in 0..6 {
        let mut terms = vec![Term::All, Term::Kind(rng.below(10) as u16)];
        if !seqs.is_empty()
            && let Some(json) = reader.event_or_pending_removal(*rng.pick(&seqs))?
        {
            terms.extend(terms_of(CanonicalEvent::trusted(&json), backend.classes()));
        }
        let term = rng.pick(&terms);
        let mut second = || match rng.below(3) {
            0 => None,
            _ => Some(EventGenerator::START - 40 + rng.below(80)),
        };
        let (oldest, newest) = (second().unwrap_or(0), second().unwrap_or(Timestamp::MAX));
        let horizon = if rng.one_in(2) { last } else { Seq(rng.below(last.0 + 1)) };

        let mut postings: Vec<Posting> = Vec::new();
        reader.postings(term, StartAt::Rank(Rank::newest(newest)), oldest, usize::MAX, &mut postings)?;
        postings.retain(|posting| posting.seq <= horizon);
        let is_request = |posting: &&Posting| posting.expires && is_removal_request(posting.kind);
        let mut requests: Vec<Seq> = postings.iter().filter(is_request).map(|posting| posting.seq).collect();
        requests.sort_unstable();

        let context = || format!("{term:?} from {oldest} to {newest}, up to {horizon:?}");
        for _ in 0..2 {
            let (mut tries, mut budget) = (0, 1 + rng.below(3) as usize);
            let counted = loop {
                let mut left = budget;
                match reader.count_postings(term, oldest, newest, horizon, &mut left)? {
                    PostingCount::Counted { postings, mut expiring_requests } => {
                        expiring_requests.sort_unstable();
                        break (postings, expiring_requests);
                    }
                    PostingCount::OutOfBudget => tries += 1,
                    PostingCount::Unsupported => panic!("not counted: {}", context()),
                }
                assert!(left < budget, "a call spends some of its budget: {}", context());
                // Pages of events beyond the horizon are read each time.
                budget *= 2;
            };
            assert_eq!(counted, (postings.len() as u64, requests.clone()), "{}", context());
            compared.unfinished += usize::from(tries > 0);
        }
        compared.counts += 1;
        compared.postings += postings.len() as u64;
    }
    Ok(())
}
