//! Programs of store operations: puts, deletions, sweeps, scans with budgets, counts, replays and failures,
//! on several backends at once, compared with the naive oracle. In one of four runs an SQLite database in memory is among
//! them, which is sometimes reopened.
//!
//! A program chooses from a small set of events and filters, so that nearly every operation has an effect.

use relay_engine::policy::may_match_withheld;
use relay_engine::store::sql::{SqlBackend, SqlSizes};
use relay_engine::store::{
    Backend, Completeness, Count, CountStep, Hit, MemoryBackend, Op, Outcome, REMOVED_KEYS_MAX, Reader,
    Refusal, Scan, ScanLimits, ScanStep, Seq, SinkResult, StoreError, TermClasses, Viewer, commit, remove,
    remove_pending, replay, sweep_expired,
};
use relay_engine::testing::{
    EventGenerator, FailingBackend, Oracle, OracleCount, OracleOutcome, OracleViewer, filter_json,
};
use relay_engine::types::{CanonicalEvent, EventId, Filter, Kind, PubKey, Timestamp};
use serde_json::Value;

use relay_agent::testing::Sqlite;
use relay_simulator::Choices;

/// Upper bound of operations of a program, so that its time and memory are bounded.
const OPS_MAX: usize = 400;
const EVENTS: usize = 48;
const FILTERS: usize = 32;

/// Runs `data` as a program: one byte seeds events and filters, then operations follow.
///
/// # Panics
/// If a backend and the oracle disagree, or a failed change leaves something behind.
pub fn store_ops(data: &[u8]) {
    let (seed, program) = data.split_at_checked(1).unwrap_or((&[0], &[]));
    let mut machine = StoreOps::new(u64::from(seed[0]));
    let mut choices = Choices::from_bytes(program);
    for _ in 0..OPS_MAX {
        if choices.is_exhausted() {
            break;
        }
        machine.step(&mut choices);
    }
    machine.check_stored();
}

/// A viewer who sees only gift wraps of one key.
struct Guarded(String);

impl Viewer for Guarded {
    fn guarded_kinds(&self) -> &[Kind] {
        &[1059]
    }

    fn sees(&self, event: CanonicalEvent<'_>) -> bool {
        event.pubkey().to_string() == self.0
            || event.tags().named(b"p").any(|tag| tag.value().as_deref() == Some(self.0.as_bytes()))
    }

    fn sees_all_matches(&self, filter: &Filter) -> bool {
        PubKey::from_hex(self.0.as_bytes()).is_ok_and(|key| !may_match_withheld(filter, &[1059], &[key]))
    }
}

/// A scan during which the store changes.
struct Running {
    scan: Scan,
    filters: Vec<Filter>,
    texts: Vec<Value>,
    backend: usize,
    /// Matches that were stored when it began and have not been removed since.
    required_seqs: Vec<u64>,
    hits: Vec<(Timestamp, EventId, u64)>,
}

struct StoreOps {
    ops: Vec<Op>,
    filters: Vec<Filter>,
    backends: Vec<FailingBackend<MemoryBackend>>,
    sql: Option<(Sqlite, FailingBackend<SqlBackend<Sqlite>>)>,
    oracle: Oracle,
    running: Option<Running>,
    now: Timestamp,
    /// The viewer.
    keys: [String; 1],
}

impl StoreOps {
    fn new(seed: u64) -> Self {
        let mut generator = EventGenerator::new(seed);
        let ops = (0..EVENTS).map(|_| generator.op()).collect();
        let filters = (0..FILTERS).map(|_| generator.filter()).collect();
        // Every choice of optional terms: the planner must answer the same without them.
        let classes = [(true, true), (true, false), (false, true), (false, false)];
        // And whether events are removed at once or marked as removed first.
        let removed_keys_max = |all, author_kind| match (all, author_kind) {
            (true, true) => REMOVED_KEYS_MAX,
            (true, false) => 40,
            _ => 0,
        };
        let backends = classes
            .map(|(all, author_kind)| {
                let backend = MemoryBackend::new(TermClasses { all, author_kind });
                FailingBackend::new(backend.with_removed_keys_max(removed_keys_max(all, author_kind)))
            })
            .into();
        let sql = (seed % 4 == 3).then(|| {
            let database = Sqlite::new();
            (database.clone(), open(database))
        });
        StoreOps {
            ops,
            filters,
            backends,
            sql,
            oracle: Oracle::default(),
            running: None,
            now: EventGenerator::START,
            keys: [EventGenerator::pubkey(0).to_string()],
        }
    }

    fn step(&mut self, choices: &mut Choices<'_>) {
        let choice = choices.below(16);
        match choice {
            0..=9 => {
                self.change(choice, choices);
                self.forget_gone();
            }
            10 | 11 => self.ask(choices),
            12 => self.begin(choices),
            13 | 14 => self.go_on(choices),
            _ => {
                self.check_stored();
                self.reopen();
            }
        }
    }

    fn change(&mut self, choice: u64, choices: &mut Choices<'_>) {
        match choice {
            0..=5 => self.put(choices),
            6 => self.fail(choices),
            7 => self.now += choices.below(4),
            8 => self.sweep(choices),
            _ => self.remove(choices),
        }
    }

    fn reopen(&mut self) {
        if let Some((database, backend)) = self.sql.take() {
            drop(backend);
            self.sql = Some((database.clone(), open(database)));
        }
    }

    /// The SQL backend, if this seed has one.
    fn sql(&self) -> Option<&FailingBackend<SqlBackend<Sqlite>>> {
        self.sql.as_ref().map(|(_, backend)| backend)
    }

    fn some_ops(&self, choices: &mut Choices<'_>) -> Vec<Op> {
        let some = 1 + choices.below(6);
        (0..some).map(|_| self.ops[choices.index(self.ops.len())].clone()).collect()
    }

    fn some_filters(&self, choices: &mut Choices<'_>) -> (Vec<Filter>, Vec<Value>) {
        let some = 1 + choices.below(3);
        let filters: Vec<Filter> =
            (0..some).map(|_| self.filters[choices.index(self.filters.len())].clone()).collect();
        let texts = filters.iter().map(filter_json).collect();
        (filters, texts)
    }

    fn put(&mut self, choices: &mut Choices<'_>) {
        let ops = self.some_ops(choices);
        let expected: Vec<OracleOutcome> = ops
            .iter()
            .map(|op| self.oracle.put(self.now, op.event().json(), matches!(op, Op::Vanish(_))))
            .collect();
        let check = |result: Result<Vec<Outcome>, StoreError>| {
            let outcomes = result.expect("memory does not fail unless it is made to");
            let outcomes: Vec<OracleOutcome> = outcomes.into_iter().map(in_words).collect();
            assert_eq!(outcomes, expected, "{ops:#?}");
        };
        self.backends.iter().for_each(|backend| check(commit(backend, self.now, &ops)));
        self.sql().into_iter().for_each(|backend| check(commit(backend, self.now, &ops)));
    }

    /// Makes a change fail at some operation: nothing of it may be kept. If it succeeds, it is applied to all backends.
    fn fail(&mut self, choices: &mut Choices<'_>) {
        let ops = self.some_ops(choices);
        let backend_index = choices.index(self.backends.len() + 1);
        let n = 1 + choices.below(24);
        let got_through = match (self.backends.get(backend_index), self.sql()) {
            (None, Some(backend)) => try_to_fail(backend, self.now, &ops, n),
            (None, None) => try_to_fail(&self.backends[0], self.now, &ops, n),
            (Some(backend), _) => try_to_fail(backend, self.now, &ops, n),
        };
        if !got_through {
            return;
        }
        for op in &ops {
            self.oracle.put(self.now, op.event().json(), matches!(op, Op::Vanish(_)));
        }
        let on_sql = backend_index == self.backends.len() && self.sql.is_some();
        let done = if on_sql { usize::MAX } else { backend_index % self.backends.len() };
        for (_, backend) in self.backends.iter().enumerate().filter(|(other, _)| *other != done) {
            commit(backend, self.now, &ops).expect("memory does not fail unless it is made to");
        }
        if let Some(backend) = self.sql().filter(|_| !on_sql) {
            commit(backend, self.now, &ops).expect("memory does not fail unless it is made to");
        }
    }

    fn sweep(&mut self, choices: &mut Choices<'_>) {
        let few = 1 + choices.index(3);
        let gone = self.oracle.sweep(self.now);
        for backend in &self.backends {
            assert_eq!(sweep_all(backend, self.now, few), gone, "swept");
            remove_pending(backend).expect("memory does not fail");
        }
        if let Some(backend) = self.sql() {
            assert_eq!(sweep_all(backend, self.now, few), gone, "swept");
            remove_pending(backend).expect("memory does not fail");
        }
    }

    fn remove(&mut self, choices: &mut Choices<'_>) {
        let id = self.ops[choices.index(self.ops.len())].event().id;
        let gone = self.oracle.remove(&[id.to_string()]);
        for backend in &self.backends {
            assert_eq!(remove(backend, &[id, EventId([9; 32])]), Ok(gone));
        }
        if let Some(backend) = self.sql() {
            assert_eq!(remove(backend, &[id, EventId([9; 32])]), Ok(gone));
        }
    }

    fn ask(&mut self, choices: &mut Choices<'_>) {
        let (filters, texts) = self.some_filters(choices);
        let limits = ScanLimits {
            limit_default: 1 + choices.below(20) as u32,
            limit_max: 1 + choices.below(20) as u32,
        };
        let viewer = self.viewer();
        let answer = self.oracle.query(&texts, self.now, (limits.limit_default, limits.limit_max), &viewer);
        let completeness = match answer {
            _ if answer.more => Completeness::More,
            _ if answer.withheld => Completeness::Withheld,
            _ if answer.has_limit_zero || answer.may_be_incomplete => Completeness::Unknown,
            _ => Completeness::Finish,
        };
        let after = choices.below(self.oracle.last() + 1);
        let cost_max = 1 + choices.index(48);
        let expected = Answers {
            scanned: (answer.seqs, completeness),
            counted: self.oracle.count(&texts, self.now, &viewer),
            replayed: self.oracle.matching(&texts, self.now, after, &viewer),
        };
        let question = Question {
            filters: &filters,
            limits,
            horizon: Seq(self.oracle.last()),
            after: Seq(after),
            cost_max,
            now: self.now,
            viewer: &Guarded(self.keys[0].clone()),
        };
        for backend in &self.backends {
            assert_eq!(question.ask(backend), expected, "{texts:?}, {limits:?}, after {after}");
        }
        if let Some(backend) = self.sql() {
            assert_eq!(question.ask(backend), expected, "{texts:?}, {limits:?}, after {after}, SQL");
        }
    }

    /// Begins a scan, between whose steps other operations run.
    fn begin(&mut self, choices: &mut Choices<'_>) {
        let (mut filters, _) = self.some_filters(choices);
        filters.iter_mut().for_each(|filter| filter.limit = None);
        let texts: Vec<Value> = filters.iter().map(filter_json).collect();
        let backend = choices.index(self.backends.len());
        let limits = ScanLimits { limit_default: 10_000, limit_max: 10_000 };
        let classes = self.backends[backend].classes();
        let scan = Scan::new(filters.as_slice().into(), limits, classes, Seq(self.oracle.last()));
        let required_seqs = self.matching(&texts);
        self.running = Some(Running { scan, filters, texts, backend, required_seqs, hits: Vec::new() });
    }

    fn matching(&self, texts: &[Value]) -> Vec<u64> {
        self.oracle.matching(texts, self.now, 0, &self.viewer())
    }

    fn viewer(&self) -> OracleViewer<'_> {
        OracleViewer { guarded: &[1059], keys: &self.keys }
    }

    fn forget_gone(&mut self) {
        let Some(mut running) = self.running.take() else { return };
        let there = self.matching(&running.texts);
        running.required_seqs.retain(|seq| there.contains(seq));
        self.running = Some(running);
    }

    /// One step of that scan: results are in order and without duplicates; at its end no event that was stored all the time is
    /// missing.
    fn go_on(&mut self, choices: &mut Choices<'_>) {
        let Some(mut running) = self.running.take() else { return };
        let backend = &self.backends[running.backend];
        // A failed read must not lose results.
        backend.fail_at(if choices.one_in(4) { 1 + choices.below(8) } else { 0 });
        let mut budget = 1 + choices.index(8);
        let step = backend.reader().and_then(|reader| {
            running.scan.step(&reader, self.now, &mut budget, &Guarded(self.keys[0].clone()), &mut |hit| {
                assert!(running.filters.iter().any(|filter| filter.matches_stored(hit.event)));
                running.hits.push((hit.event.created_at(), hit.event.id(), hit.seq.0));
                SinkResult::Continue
            })
        });
        backend.fail_at(0);
        let hits = &running.hits;
        assert!(
            hits.is_sorted_by(|a, b| a.0 > b.0 || (a.0 == b.0 && a.1 < b.1)),
            "in order, none twice: {hits:?}"
        );
        match step {
            Ok(ScanStep::More) | Err(StoreError::Failed(_)) => self.running = Some(running),
            Ok(ScanStep::Done(said)) => {
                let whole = !running.texts.iter().any(|text| self.viewer().may_be_incomplete(text));
                let limits = [Completeness::Unknown, Completeness::Withheld];
                assert!(said == Completeness::Finish || (!whole && limits.contains(&said)), "{said:?}");
                for seq in &running.required_seqs {
                    assert!(hits.iter().any(|hit| hit.2 == *seq), "{seq} is missing: {:?}", running.texts);
                }
            }
            Err(error) => panic!("failed with another error than the injected one: {error}"),
        }
    }

    fn check_stored(&self) {
        let expected: Vec<(u64, String)> =
            self.oracle.stored().map(|(seq, json)| (seq, json.to_owned())).collect();
        let expected = (self.oracle.last(), expected);
        self.backends.iter().for_each(|backend| assert_eq!(stored(backend), expected));
        self.sql().into_iter().for_each(|backend| assert_eq!(stored(backend), expected, "SQL"));
    }
}

/// A query as scan, count and replay.
struct Question<'a> {
    filters: &'a [Filter],
    limits: ScanLimits,
    horizon: Seq,
    after: Seq,
    cost_max: usize,
    now: Timestamp,
    viewer: &'a dyn Viewer,
}

/// The answers of a backend.
#[derive(Debug, PartialEq, Eq)]
struct Answers {
    scanned: (Vec<u64>, Completeness),
    counted: OracleCount,
    replayed: Vec<u64>,
}

impl Question<'_> {
    fn ask(&self, backend: &impl Backend) -> Answers {
        Answers { scanned: self.scan(backend), counted: self.count(backend), replayed: self.replay(backend) }
    }

    fn scan(&self, backend: &impl Backend) -> (Vec<u64>, Completeness) {
        let mut scan = Scan::new(self.filters.into(), self.limits, backend.classes(), self.horizon);
        let mut seqs = Vec::new();
        loop {
            let mut budget = self.cost_max;
            let reader = backend.reader().expect("memory does not fail");
            let mut sink = |hit: Hit<'_>| {
                seqs.push(hit.seq.0);
                if hit.seq.0.is_multiple_of(3) { SinkResult::Pause } else { SinkResult::Continue }
            };
            let step = scan.step(&reader, self.now, &mut budget, self.viewer, &mut sink);
            if let ScanStep::Done(said) = step.expect("memory does not fail") {
                return (seqs, said);
            }
        }
    }

    fn count(&self, backend: &impl Backend) -> OracleCount {
        let mut count = Count::new(self.filters.into(), backend.classes(), self.horizon, u64::MAX);
        loop {
            let mut budget = self.cost_max;
            let reader = backend.reader().expect("memory does not fail");
            let step = count.step(&reader, self.now, &mut budget, self.viewer);
            if let CountStep::Done(counted) = step.expect("memory does not fail") {
                // No limit of cost.
                let may_be_incomplete = counted.approximate;
                return OracleCount { count: counted.count, may_be_incomplete, withheld: counted.withheld };
            }
        }
    }

    fn replay(&self, backend: &impl Backend) -> Vec<u64> {
        let (mut covered, mut seqs) = (self.after, Vec::new());
        loop {
            let mut budget = self.cost_max;
            let reader = backend.reader().expect("memory does not fail");
            let mut sink = |hit: Hit<'_>| {
                seqs.push(hit.seq.0);
                if hit.seq.0.is_multiple_of(5) { SinkResult::Pause } else { SinkResult::Continue }
            };
            let step = replay(&reader, self.filters, covered, &mut budget, self.now, self.viewer, &mut sink)
                .expect("memory does not fail");
            assert!(step.covered >= covered, "a replay goes on");
            covered = step.covered;
            if step.caught_up {
                return seqs;
            }
        }
    }
}

/// With sizes so small that a few events are flushed and compacted into several levels.
fn open(database: Sqlite) -> FailingBackend<SqlBackend<Sqlite>> {
    let backend = SqlBackend::open_with(database, SqlSizes::tiny()).expect("a database of its own opens");
    FailingBackend::new(backend)
}

/// Applies `ops` with a failure at the `n`th operation; returns whether they succeeded because there are fewer operations.
fn try_to_fail<B: Backend + 'static>(
    backend: &FailingBackend<B>,
    now: Timestamp,
    ops: &[Op],
    n: u64,
) -> bool {
    let before = stored(backend);
    backend.fail_at(n);
    let result = commit(backend, now, ops);
    let is_armed = backend.is_armed();
    backend.fail_at(0);
    match result {
        Err(StoreError::Failed(_)) => assert_eq!(stored(backend), before, "a failed change keeps nothing"),
        Err(error) => panic!("failed with another error than the injected one: {error}"),
        Ok(_) => assert!(is_armed, "a failure is reported"),
    }
    is_armed
}

fn sweep_all(backend: &impl Backend, now: Timestamp, few: usize) -> usize {
    let mut all = 0;
    loop {
        let swept = sweep_expired(backend, now, few).expect("memory does not fail");
        assert!(swept.events <= few, "no more than asked for");
        all += swept.events;
        if !swept.more {
            return all;
        }
    }
}

/// The last sequence number, and all stored events.
fn stored(backend: &impl Backend) -> (u64, Vec<(u64, String)>) {
    let reader = backend.reader().expect("memory does not fail");
    let mut seqs = Vec::new();
    reader.log(Seq(0), usize::MAX, &mut seqs).expect("memory does not fail");
    seqs.retain(|seq| !reader.is_pending_removal(*seq).expect("memory does not fail"));
    let text = |seq: Seq| {
        let json = reader.event(seq).expect("memory does not fail").expect("the log names what is stored");
        (seq.0, String::from_utf8_lossy(&json).into_owned())
    };
    let last = reader.last_seq().expect("memory does not fail");
    (last.0, seqs.into_iter().map(text).collect())
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
