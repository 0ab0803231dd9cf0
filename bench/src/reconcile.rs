//! `relay-bench reconcile`: time, rounds, bytes and CPU of reconciliations (NIP-77); each difference is checked against the file.

use std::collections::BTreeSet;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use negentropy::{Id, Negentropy, NegentropyStorageVector, Storage};
use serde::Serialize;
use serde_json::{Value, json};

use crate::abuse::Probe;
use crate::client::{Connection, Endpoint};
use crate::corpus::Corpus;
use crate::filter::Filter;
use crate::generate::Rng;
use crate::hex;
use crate::process::Process;
use crate::stats::{Latency, micros, micros_each};

/// Options.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Reconciliations of each case after the first, one after the other.
    pub repeat: usize,
    /// Of a thousand events, how many are missing here, and there, in the case that differs.
    pub missing_permille: usize,
    /// Authors of the case that has some.
    pub authors: usize,
    /// Largest message of either side, in bytes; in hex it is twice as long.
    pub message_bytes_max: u64,
    /// Reconciliations that are held open at once, for their memory; 0 leaves that out.
    pub sessions: usize,
    /// Seconds of an honest client's latency alone, and beside reconciliations without a pause; 0 leaves that out.
    pub seconds: u32,
    /// Seed of the differences and authors.
    pub seed: u64,
}

/// Reconciliations that a connection holds open at once: relays allow few.
const RECONCILIATIONS_PER_CONNECTION: usize = 10;
/// Messages after which a reconciliation that has not ended never will.
const ROUNDS_MAX: usize = 10_000;

/// Results of one case.
#[derive(Debug, Serialize)]
pub struct CaseReport {
    /// Its name.
    pub case: &'static str,
    /// Events of the relay that the filter matches.
    pub events: usize,
    /// Ids that only the client has.
    pub only_here: usize,
    /// Ids that only the relay has.
    pub only_there: usize,
    /// Reconciliations that found other ids than `only_here` and `only_there`.
    pub wrong: usize,
    /// Messages of the client.
    pub rounds: usize,
    /// Characters of its NEG-OPEN and NEG-MSG messages.
    pub sent_bytes: usize,
    /// Characters of the relay's.
    pub received_bytes: usize,
    /// The first reconciliation, for which the relay may have to collect the set: all waits for it, in milliseconds.
    pub first_ms: f64,
    /// All waits for the relay in one reconciliation.
    pub wait: Latency,
    /// The relay's CPU a reconciliation after the first, in milliseconds.
    pub cpu_ms: Option<f64>,
}

/// Memory of open reconciliations.
#[derive(Debug, Serialize)]
pub struct OpenReconciliations {
    /// How many were open.
    pub open: usize,
    /// The relay's resident memory before, in bytes.
    pub resident_bytes_before: u64,
    /// With all of them.
    pub resident_bytes: u64,
    /// The difference, for each.
    pub bytes_each: i64,
}

/// What reconciliations cost another client.
#[derive(Debug, Serialize)]
pub struct Others {
    /// Reconciliations while it was measured.
    pub reconciliations: usize,
    /// EVENT to OK without them.
    pub ok_before: Latency,
    /// With them.
    pub ok: Latency,
    /// REQ to EOSE without them.
    pub eose_before: Latency,
    /// With them.
    pub eose: Latency,
    /// Rounds of the other client without a right answer.
    pub failed: u64,
}

/// Results.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Case by case.
    pub cases: Vec<CaseReport>,
    /// Memory.
    pub sessions: Option<OpenReconciliations>,
    /// Latency of another client.
    pub others: Option<Others>,
    /// The relay's resident memory afterwards, in bytes.
    pub resident_bytes: Option<u64>,
}

impl Report {
    /// Whether every difference was right.
    pub fn is_correct(&self) -> bool {
        self.cases.iter().all(|case| case.wrong == 0)
            && self.others.as_ref().is_none_or(|others| others.failed == 0)
    }
}

/// A filter, what the client has of it, and what differs.
struct Case {
    name: &'static str,
    filter: Value,
    events: usize,
    items: NegentropyStorageVector,
    only_here: BTreeSet<Id>,
    only_there: BTreeSet<Id>,
}

/// One reconciliation, as the client saw it.
#[derive(Default)]
struct Outcome {
    have: BTreeSet<Id>,
    need: BTreeSet<Id>,
    rounds: usize,
    sent_bytes: usize,
    received_bytes: usize,
    wait: Duration,
}

/// Reconciles `options.repeat + 1` times in each case.
///
/// # Errors
/// If the connection is lost, the relay refuses a reconciliation or ends it, or there is no such process.
pub fn run(
    endpoint: &Endpoint,
    process: Option<Process>,
    corpus: &Corpus,
    options: &Options,
) -> Result<Report> {
    if corpus.current.is_empty() {
        bail!("the file has no events to reconcile");
    }
    let mut connection = endpoint.connect(64 << 10)?;
    let mut rng = Rng::new("reconcile", options.seed);
    let mut authors: Vec<u32> = (0..options.authors.max(1))
        .map(|_| corpus.events[corpus.current[rng.below(corpus.current.len())] as usize].author)
        .collect();
    authors.sort_unstable();
    authors.dedup();
    let of_authors = Filter { authors, ..Filter::default() };
    let cases = [
        Case::new("identical", corpus, &Filter::default(), 0, &mut rng)?,
        Case::new("missing", corpus, &Filter::default(), options.missing_permille, &mut rng)?,
        Case::new("authors", corpus, &of_authors, 0, &mut rng)?,
    ];
    let mut reports = Vec::new();
    for case in &cases {
        reports.push(measure(&mut connection, process, case, options)?);
    }
    let sessions = match process {
        Some(process) if options.sessions > 0 => Some(hold_open(endpoint, process, &cases[1], options)?),
        _ => None,
    };
    let others = match options.seconds {
        0 => None,
        seconds => Some(beside(endpoint, &mut connection, &cases[1], seconds, options)?),
    };
    let resident_bytes =
        process.map(|process| process.usage()).transpose()?.map(|usage| usage.resident_bytes);
    Ok(Report { cases: reports, sessions, others, resident_bytes })
}

impl Case {
    fn new(
        name: &'static str,
        corpus: &Corpus,
        filter: &Filter,
        missing_permille: usize,
        rng: &mut Rng,
    ) -> Result<Self> {
        let mut items = NegentropyStorageVector::new();
        let (mut only_here, mut only_there) = (BTreeSet::new(), BTreeSet::new());
        let answer = corpus.answer(filter);
        for at in &answer {
            let event = &corpus.events[*at as usize];
            let id = Id::from_byte_array(event.id);
            if rng.chance(missing_permille) {
                only_there.insert(id);
            } else {
                items.insert(event.created_at, id)?;
            }
            if rng.chance(missing_permille) {
                let mut bytes = [0; 32];
                bytes.chunks_exact_mut(8).for_each(|chunk| chunk.copy_from_slice(&rng.bits().to_le_bytes()));
                items.insert(event.created_at, Id::from_byte_array(bytes))?;
                only_here.insert(Id::from_byte_array(bytes));
            }
        }
        items.seal()?;
        Ok(Case { name, filter: filter.to_json(corpus), events: answer.len(), items, only_here, only_there })
    }

    fn negentropy(&self, options: &Options) -> Result<Negentropy<'_, NegentropyStorageVector>> {
        Ok(Negentropy::new(Storage::Borrowed(&self.items), options.message_bytes_max)?)
    }

    fn opening(&self, name: &str, message: &[u8]) -> String {
        json!(["NEG-OPEN", name, self.filter, hex::encode(message)]).to_string()
    }

    fn reconcile(&self, connection: &mut Connection, name: &str, options: &Options) -> Result<Outcome> {
        let mut negentropy = self.negentropy(options)?;
        let mut outcome = Outcome::default();
        let mut frame = self.opening(name, &negentropy.initiate()?);
        loop {
            outcome.rounds += 1;
            outcome.sent_bytes += frame.len();
            if outcome.rounds > ROUNDS_MAX {
                bail!("{}: no end after {ROUNDS_MAX} messages", self.name);
            }
            let begun = Instant::now();
            connection.send(frame)?;
            let (answer, received_bytes) = read_answer(connection, name)?;
            outcome.wait += begun.elapsed();
            outcome.received_bytes += received_bytes;
            let (mut have, mut need) = (Vec::new(), Vec::new());
            let next = negentropy.reconcile_with_ids(&answer, &mut have, &mut need)?;
            outcome.have.extend(have);
            outcome.need.extend(need);
            match next {
                Some(message) => frame = json!(["NEG-MSG", name, hex::encode(&message)]).to_string(),
                None => break,
            }
        }
        connection.send(json!(["NEG-CLOSE", name]).to_string())?;
        Ok(outcome)
    }

    fn is_right(&self, outcome: &Outcome) -> bool {
        outcome.have == self.only_here && outcome.need == self.only_there
    }
}

/// The message of the next NEG-MSG of a reconciliation, and how long its frame was.
fn read_answer(connection: &mut Connection, name: &str) -> Result<(Vec<u8>, usize)> {
    let mut answer = None;
    connection.read(|text| {
        let frame: Vec<Value> = serde_json::from_str(text).context("reading a frame")?;
        let text_at = |at: usize| frame.get(at).and_then(Value::as_str);
        match (text_at(0), text_at(1)) {
            (Some("NEG-MSG"), Some(named)) if named == name => {
                let message =
                    text_at(2).and_then(hex::decode).context("a NEG-MSG without a message in hex")?;
                answer = Some((message, text.len()));
                Ok(false)
            }
            (Some("NEG-ERR"), Some(named)) if named == name => bail!("refused: {text}"),
            (Some("NOTICE"), _) => bail!("NIP-77 does not seem to be served: {text}"),
            _ => Ok(true),
        }
    })?;
    answer.context("no answer")
}

fn measure(
    connection: &mut Connection,
    process: Option<Process>,
    case: &Case,
    options: &Options,
) -> Result<CaseReport> {
    let first = case.reconcile(connection, "first", options)?;
    let mut wrong = usize::from(!case.is_right(&first));
    let mut waits = Vec::with_capacity(options.repeat);
    let before = process.map(|process| process.usage()).transpose()?;
    for number in 0..options.repeat {
        let outcome = case.reconcile(connection, &format!("n{number}"), options)?;
        wrong += usize::from(!case.is_right(&outcome));
        waits.push(micros(outcome.wait));
    }
    let after = process.map(|process| process.usage()).transpose()?;
    let cpu_ms = match (before, after) {
        (Some(before), Some(after)) => {
            micros_each(after.cpu_since(&before), options.repeat).map(|micros| micros / 1_000.0)
        }
        _ => None,
    };
    Ok(CaseReport {
        case: case.name,
        events: case.events,
        only_here: case.only_here.len(),
        only_there: case.only_there.len(),
        wrong,
        rounds: first.rounds,
        sent_bytes: first.sent_bytes,
        received_bytes: first.received_bytes,
        first_ms: f64::from(micros(first.wait)) / 1_000.0,
        wait: Latency::of(waits),
        cpu_ms,
    })
}

/// Opens reconciliations, waits for the first answer of each, and goes no further.
fn hold_open(
    endpoint: &Endpoint,
    process: Process,
    case: &Case,
    options: &Options,
) -> Result<OpenReconciliations> {
    let resident_bytes_before = process.usage()?.resident_bytes;
    let message = case.negentropy(options)?.initiate()?;
    let mut connections = Vec::new();
    for number in 0..options.sessions {
        if number % RECONCILIATIONS_PER_CONNECTION == 0 {
            connections.push(endpoint.connect(16 << 10)?);
        }
        let connection = connections.last_mut().context("a connection")?;
        let name = format!("held{number}");
        connection.send(case.opening(&name, &message))?;
        read_answer(connection, &name)?;
    }
    let resident_bytes = process.usage()?.resident_bytes;
    let difference = resident_bytes as i64 - resident_bytes_before as i64;
    Ok(OpenReconciliations {
        open: options.sessions,
        resident_bytes_before,
        resident_bytes,
        bytes_each: difference / options.sessions.max(1) as i64,
    })
}

/// An honest client alone, then beside one that reconciles without a pause.
fn beside(
    endpoint: &Endpoint,
    connection: &mut Connection,
    case: &Case,
    seconds: u32,
    options: &Options,
) -> Result<Others> {
    let time = Duration::from_secs(u64::from(seconds));
    let mut probe = Probe::new(endpoint, options.seed)?;
    let calm = probe.run(Instant::now() + time);
    let end = Instant::now() + time;
    let (seen, reconciliations) = thread::scope(|scope| {
        let probing = scope.spawn(|| probe.run(end));
        let mut reconciliations = 0;
        while Instant::now() < end {
            case.reconcile(connection, &format!("b{reconciliations}"), options)?;
            reconciliations += 1;
        }
        let seen = probing.join().map_err(|_| anyhow::anyhow!("the honest client panicked"))?;
        anyhow::Ok((seen, reconciliations))
    })?;
    Ok(Others {
        reconciliations,
        ok_before: Latency::of(calm.ok),
        ok: Latency::of(seen.ok),
        eose_before: Latency::of(calm.eose),
        eose: Latency::of(seen.eose),
        failed: calm.failed + seen.failed,
    })
}
