//! Random operations and queries on a backend and on the oracle: they must agree to the byte.

use serde_json::Value;

use super::{
    EventGenerator, Oracle, OracleCount, OracleOutcome, OracleViewer, Rng, filter_json, filter_over,
};
use crate::policy;
use crate::store::{
    Backend, Completeness, Count, CountStep, Hit, Op, Outcome, Reader, Refusal, Scan, ScanLimits, ScanStep,
    Seq, SinkResult, Unrestricted, Viewer, commit, remove, remove_pending, replay, sweep_expired,
};
use crate::types::{CanonicalEvent, Event, EventId, Filter, Kind, PubKey, Timestamp};
use crate::verify::Verified;

/// Groups of filters that are queried over one random set of events before the next is made.
const GROUPS_PER_SEED: usize = 60;

/// More events than random sets have.
const LARGE: u64 = 1_000;

/// How many groups of filters a differential test queries.
#[derive(Clone, Copy, Debug)]
pub struct Groups {
    /// Over random sets of events.
    pub generated: usize,
    /// On the real events: a tenth of the others, because the oracle checks thousands of events for each.
    pub real: usize,
}

impl Groups {
    /// As many together as `RELAY_GROUPS` in the environment says, else `otherwise`.
    pub fn wanted(otherwise: usize) -> Self {
        let all = std::env::var("RELAY_GROUPS").ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise);
        Groups { generated: all - all / 10, real: all / 10 }
    }
}

/// Fills stores made by `make` with random sets of events derived from `seed`, and compares `groups` random REQs, COUNTs and
/// replays with the oracle. Sets are spread over the cores.
///
/// # Panics
/// If the backend and the oracle disagree; the message names the set's own seed.
pub fn differential<B: Backend>(make: impl Fn() -> B + Sync, seed: u64, groups: usize) {
    let mut seeds = Rng::new(seed);
    let runs: Vec<(u64, usize)> = (0..groups)
        .step_by(GROUPS_PER_SEED)
        .map(|asked| (seeds.bits(), GROUPS_PER_SEED.min(groups - asked)))
        .collect();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let (make, runs) = (&make, &runs);
    std::thread::scope(|scope| {
        for core in 0..cores {
            scope.spawn(move || {
                for &(seed, count) in runs.iter().skip(core).step_by(cores) {
                    Case::new(make(), seed).run(count);
                }
            });
        }
    });
}

/// Stores `events` in the given order and compares `groups` random REQs, COUNTs and replays with the oracle.
///
/// # Panics
/// If the backend and the oracle disagree.
pub fn differential_over<B: Backend>(backend: B, events: &[Event], seed: u64, groups: usize) {
    let mut case = Case::new(backend, seed);
    let ops: Vec<Op> = events.iter().map(|event| Op::Put(Verified::assume_verified(event.clone()))).collect();
    for batch in ops.chunks(256) {
        case.put(batch);
    }
    case.check_stored();
    for _ in 0..groups {
        let count = 1 + case.generator.rng.below(4);
        let filters: Vec<Filter> = (0..count).map(|_| filter_over(&mut case.generator.rng, events)).collect();
        let pick = |rng: &mut Rng| 1 + rng.below(200) as u32;
        let limits = ScanLimits {
            limit_default: pick(&mut case.generator.rng),
            limit_max: pick(&mut case.generator.rng),
        };
        case.ask(&filters, limits);
    }
}

struct Case<B> {
    seed: u64,
    generator: EventGenerator,
    backend: B,
    oracle: Oracle,
    now: Timestamp,
}

/// A viewer with one key, who sees only gift wraps of which it is author or recipient, as the read guard requires.
struct Guarded(String);

const GUARDED_KINDS: &[u64] = &[1059];

impl Viewer for Guarded {
    fn guarded_kinds(&self) -> &[Kind] {
        &[1059]
    }

    fn sees(&self, event: CanonicalEvent<'_>) -> bool {
        event.pubkey().to_string() == self.0
            || event.tags().named(b"p").any(|tag| tag.value().as_deref() == Some(self.0.as_bytes()))
    }

    fn sees_all_matches(&self, filter: &Filter) -> bool {
        PubKey::from_hex(self.0.as_bytes())
            .is_ok_and(|key| !policy::may_match_withheld(filter, &[1059], &[key]))
    }
}

impl<B: Backend> Case<B> {
    fn new(backend: B, seed: u64) -> Self {
        Case {
            seed,
            generator: EventGenerator::new(seed),
            backend,
            oracle: Oracle::default(),
            now: EventGenerator::START,
        }
    }

    fn run(&mut self, groups: usize) {
        let rounds = 4;
        for round in 0..rounds {
            for _ in 0..1 + self.generator.rng.below(12) {
                self.change();
            }
            self.check_stored();
            for _ in groups * round / rounds..groups * (round + 1) / rounds {
                let filters: Vec<Filter> =
                    (0..1 + self.generator.rng.below(5)).map(|_| self.generator.filter()).collect();
                let limits = ScanLimits {
                    limit_default: 1 + self.generator.rng.below(20) as u32,
                    limit_max: 1 + self.generator.rng.below(12) as u32,
                };
                self.ask(&filters, limits);
            }
            self.ask_while_changing();
        }
        while remove_pending(&self.backend).expect("remove").more {}
        self.check_stored();
        let (mut seqs, reader) = (Vec::new(), self.backend.reader().expect("reader"));
        reader.log(Seq(0), usize::MAX, &mut seqs).expect("log");
        assert_eq!(
            seqs.len(),
            self.oracle.stored().count(),
            "nothing pending removal is left, seed {}",
            self.seed
        );
    }

    fn change(&mut self) {
        if self.generator.rng.one_in(8) {
            self.now = self.now.max(self.generator.second());
        }
        if self.generator.rng.one_in(12) {
            let mut swept = 0;
            loop {
                let step = sweep_expired(&self.backend, self.now, usize::MAX).expect("sweep");
                swept += step.events;
                if !step.more {
                    break;
                }
            }
            assert_eq!(swept, self.oracle.sweep(self.now), "swept, seed {}", self.seed);
        }
        if self.generator.rng.one_in(3) {
            remove_pending(&self.backend).expect("remove");
        }
        if self.generator.rng.one_in(16) {
            let id = self.generator.op().event().id;
            let removed = remove(&self.backend, &[id, EventId([7; 32])]).expect("remove");
            assert_eq!(removed, self.oracle.remove(&[id.to_string()]), "removed, seed {}", self.seed);
        }
        let ops: Vec<Op> = (0..1 + self.generator.rng.below(16)).map(|_| self.generator.op()).collect();
        self.put(&ops);
    }

    fn put(&mut self, ops: &[Op]) {
        let outcomes = commit(&self.backend, self.now, ops).expect("commit");
        let expected: Vec<OracleOutcome> = ops
            .iter()
            .map(|op| self.oracle.put(self.now, op.event().json(), matches!(op, Op::Vanish(_))))
            .collect();
        let outcomes: Vec<OracleOutcome> = outcomes.into_iter().map(in_words).collect();
        assert_eq!(outcomes, expected, "seed {}, at {}: {ops:#?}", self.seed, self.now);
    }

    fn check_stored(&self) {
        let reader = self.backend.reader().expect("reader");
        assert_eq!(reader.last_seq(), Ok(Seq(self.oracle.last())), "seed {}", self.seed);
        let mut seqs = Vec::new();
        reader.log(Seq(0), usize::MAX, &mut seqs).expect("log");
        seqs.retain(|seq| !reader.is_pending_removal(*seq).expect("is_pending_removal"));
        let stored: Vec<(u64, String)> = seqs
            .iter()
            .map(|&seq| {
                let json = reader.event(seq).expect("event").expect("the log names stored events");
                (seq.0, String::from_utf8(json.into_owned()).expect("UTF-8"))
            })
            .collect();
        assert_eq!(reader.stats().map(|stats| stats.events), Ok(stored.len() as u64), "seed {}", self.seed);
        let expected: Vec<(u64, String)> =
            self.oracle.stored().map(|(seq, json)| (seq, json.to_owned())).collect();
        assert_eq!(stored, expected, "seed {}", self.seed);
    }

    fn ask(&mut self, filters: &[Filter], limits: ScanLimits) {
        let texts: Vec<Value> = filters.iter().map(filter_json).collect();
        let (seed, now) = (self.seed, self.now);
        let context = || format!("seed {seed}, at {now}: {}", Value::from(texts.clone()));
        let own_key = EventGenerator::pubkey(self.generator.rng.below(6) as u8).to_string();
        let guarded = self.generator.rng.one_in(2);
        let viewer: &dyn Viewer = if guarded { &Guarded(own_key.clone()) } else { &Unrestricted };
        let keys = [own_key];
        let party = match guarded {
            true => OracleViewer { guarded: GUARDED_KINDS, keys: &keys },
            false => OracleViewer::EVERYONE,
        };

        let (seqs, completeness) = self.scan(filters, limits, viewer);
        let bounds = (limits.limit_default, limits.limit_max);
        let answer = self.oracle.query(&texts, self.now, bounds, &party);
        assert_eq!(seqs, answer.seqs, "REQ with {limits:?}, {}", context());
        let expected = match answer {
            _ if answer.more => Completeness::More,
            _ if answer.withheld => Completeness::Withheld,
            _ if answer.has_limit_zero || answer.may_be_incomplete => Completeness::Unknown,
            _ => Completeness::Finish,
        };
        // The look-ahead for further matches is bounded, and a few thousand events can exceed the bound.
        let gave_up = completeness == Completeness::Unknown && self.oracle.last() > LARGE;
        assert!(
            completeness == expected || gave_up,
            "{completeness:?}, not {expected:?}: REQ with {limits:?}, {}",
            context()
        );

        let counted = self.oracle.count(&texts, self.now, &party);
        assert_eq!(self.count(filters, viewer), counted, "COUNT, {}", context());
        let after = self.generator.rng.below(self.oracle.last() + 2);
        let matching = self.oracle.matching(&texts, self.now, after, &party);
        assert_eq!(self.replay(filters, after, viewer), matching, "replay after {after}, {}", context());
    }

    fn budget(&mut self) -> usize {
        if self.generator.rng.one_in(2) { usize::MAX } else { 1 + self.generator.rng.below(40) as usize }
    }

    fn scan(
        &mut self,
        filters: &[Filter],
        limits: ScanLimits,
        viewer: &dyn Viewer,
    ) -> (Vec<u64>, Completeness) {
        let horizon = Seq(self.oracle.last());
        let mut scan = Scan::new(filters.into(), limits, self.backend.classes(), horizon);
        let mut seqs = Vec::new();
        loop {
            let mut budget = self.budget();
            let mut pauses = self.generator.rng.clone();
            self.generator.rng.bits();
            let reader = self.backend.reader().expect("reader");
            let mut has_paused = false;
            let mut sink = |hit: Hit<'_>| {
                seqs.push(hit.seq.0);
                has_paused = pauses.one_in(4);
                if has_paused { SinkResult::Pause } else { SinkResult::Continue }
            };
            let step = scan.step(&reader, self.now, &mut budget, viewer, &mut sink).expect("step");
            if let ScanStep::Done(completeness) = step {
                return (seqs, completeness);
            }
            if has_paused && self.generator.rng.one_in(2) {
                scan.release_cursors();
                assert_eq!(scan.cursor_bytes(), 0);
            }
        }
    }

    fn count(&mut self, filters: &[Filter], viewer: &dyn Viewer) -> OracleCount {
        let horizon = Seq(self.oracle.last());
        let mut count = Count::new(filters.into(), self.backend.classes(), horizon, u64::MAX);
        loop {
            let mut budget = self.budget();
            let reader = self.backend.reader().expect("reader");
            let step = count.step(&reader, self.now, &mut budget, viewer).expect("step");
            if let CountStep::Done(counted) = step {
                // There is no bound on the cost.
                let may_be_incomplete = counted.approximate;
                return OracleCount { count: counted.count, may_be_incomplete, withheld: counted.withheld };
            }
        }
    }

    fn replay(&mut self, filters: &[Filter], after: u64, viewer: &dyn Viewer) -> Vec<u64> {
        let mut seqs = Vec::new();
        let mut covered = Seq(after);
        loop {
            let mut budget = self.budget();
            let reader = self.backend.reader().expect("reader");
            let mut sink = |hit: Hit<'_>| {
                seqs.push(hit.seq.0);
                SinkResult::Continue
            };
            let replayed = replay(&reader, filters, covered, &mut budget, self.now, viewer, &mut sink);
            let replayed = replayed.expect("replay");
            covered = replayed.covered;
            if replayed.caught_up {
                assert_eq!(covered.0, self.oracle.last().max(after), "seed {}", self.seed);
                return seqs;
            }
        }
    }

    /// Events are stored and removed between the steps of a scan: the order holds, no event is returned twice, and every event
    /// that was stored all the time is returned.
    fn ask_while_changing(&mut self) {
        let filters: Vec<Filter> = (0..1 + self.generator.rng.below(3))
            .map(|_| Filter { limit: None, ..self.generator.filter() })
            .collect();
        let texts: Vec<Value> = filters.iter().map(filter_json).collect();
        let limits = ScanLimits { limit_default: 100_000, limit_max: 100_000 };
        let horizon = Seq(self.oracle.last());
        let before = self.oracle.matching(&texts, self.now, 0, &OracleViewer::EVERYONE);
        let mut scan = Scan::new(filters.as_slice().into(), limits, self.backend.classes(), horizon);
        let mut hits: Vec<(Timestamp, EventId, u64)> = Vec::new();
        loop {
            let mut budget = 1 + self.generator.rng.below(10) as usize;
            {
                let reader = self.backend.reader().expect("reader");
                let mut sink = |hit: Hit<'_>| {
                    assert!(filters.iter().any(|filter| filter.matches_stored(hit.event)));
                    hits.push((hit.event.created_at(), hit.event.id(), hit.seq.0));
                    SinkResult::Continue
                };
                let step = scan.step(&reader, self.now, &mut budget, &Unrestricted, &mut sink).expect("step");
                if step != ScanStep::More {
                    assert_eq!(step, ScanStep::Done(Completeness::Finish), "seed {}", self.seed);
                    break;
                }
            }
            if self.generator.rng.one_in(3) {
                self.change();
            }
        }
        let context = || format!("seed {}: {} {hits:?}", self.seed, Value::from(texts.clone()));
        let in_order = |a: &(Timestamp, EventId, u64), b: &(Timestamp, EventId, u64)| {
            a.0 > b.0 || (a.0 == b.0 && a.1 < b.1)
        };
        assert!(hits.is_sorted_by(in_order), "order, {}", context());
        let after = self.oracle.matching(&texts, self.now, 0, &OracleViewer::EVERYONE);
        for seq in before.iter().filter(|seq| after.contains(seq)) {
            assert!(hits.iter().any(|hit| hit.2 == *seq), "{seq} is missing, {}", context());
        }
        assert!(hits.iter().all(|hit| before.contains(&hit.2)), "from after the horizon, {}", context());
    }
}

fn in_words(outcome: Outcome) -> OracleOutcome {
    match outcome {
        Outcome::Stored(seq) => OracleOutcome::Stored(seq.0),
        Outcome::Duplicate => OracleOutcome::Duplicate,
        Outcome::Refused(refusal) => OracleOutcome::Refused(match refusal {
            Refusal::Deleted => "deleted",
            Refusal::Vanished => "vanished",
            Refusal::Superseded => "superseded",
            Refusal::Expired => "expired",
            Refusal::Ephemeral => "ephemeral",
        }),
    }
}
