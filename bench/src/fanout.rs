//! `relay-bench fanout`: what a live delivery costs a relay and how late it comes; each one is accounted for.

use std::collections::BTreeMap;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use rustc_hash::FxHashMap;
use serde::Serialize;
use serde_json::{Value, json};

use crate::client::{Connection, Endpoint, Frame};
use crate::corpus::Corpus;
use crate::filter::Filter;
use crate::generate::{self, Rng};
use crate::load::{self, Verdict};
use crate::process::Process;
use crate::stats::{Latency, micros, micros_each};
use crate::subscriptions;

/// What to do.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Live subscriptions.
    pub subscriptions: usize,
    /// Connections that hold them, as equally many as can be.
    pub connections: usize,
    /// Threads that read them.
    pub threads: usize,
    /// Events to publish.
    pub events: usize,
    /// Decides authors and subscriptions.
    pub seed: u64,
    /// Which events of these authors; none is published twice to one relay, so each run needs another.
    pub stream: u64,
    /// How the events are published.
    pub publish: load::Plan,
}

/// What was measured.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// Live subscriptions.
    pub subscriptions: usize,
    /// Connections that held them.
    pub connections: usize,
    /// Events published.
    pub events: usize,
    /// Which events they were.
    pub stream: u64,
    /// Events the relay refused, by reason.
    pub refused: BTreeMap<String, usize>,
    /// Events never answered.
    pub unanswered: usize,
    /// Deliveries due: each event once to each subscription that it matches.
    pub expected: u64,
    /// Deliveries that came.
    pub delivered: u64,
    /// Subscriptions that got other events than they should have, or one twice, or not all.
    pub wrong_subscriptions: usize,
    /// The relay's CPU a delivery, publishing included, in microseconds.
    pub cpu_us_per_delivery: Option<f64>,
    /// The relay's CPU an event, in microseconds.
    pub cpu_us_per_event: Option<f64>,
    /// This program's own CPU a delivery, in microseconds.
    pub client_cpu_us_per_delivery: Option<f64>,
    /// From the first send to the last delivery.
    pub seconds: f64,
    /// Deliveries a second.
    pub deliveries_per_second: f64,
    /// From sending an event to each of its deliveries.
    pub delivery: Latency,
    /// The relay's resident memory with all subscriptions open, in bytes.
    pub resident_bytes: Option<u64>,
}

impl Report {
    /// Whether everything due came once, and nothing else.
    pub fn holds(&self) -> bool {
        self.refused.is_empty() && self.unanswered == 0 && self.wrong_subscriptions == 0
    }
}

/// How long nothing may come before what is missing counts as lost.
const SILENCE_MAX: Duration = Duration::from_secs(5);
/// How long what nobody waits for may still come.
const GRACE: Duration = Duration::from_millis(300);
/// Content of an untagged note that no other run will make at the same second.
const UNIQUE_BYTES_MIN: usize = 12;

/// Opens the subscriptions, publishes, and waits for every delivery.
///
/// # Errors
/// If connections fail, a subscription is refused, or `pid` is not there.
pub fn run(endpoint: &Endpoint, process: Option<Process>, plan: &Plan) -> Result<Report> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).context("the clock is before 1970")?;
    let mut corpus = stream(plan, now.as_secs())?;
    let everyone = generate::Plan { seed: plan.seed, ..Default::default() }.authors();
    let authors: Vec<u32> = everyone.iter().map(|author| corpus.number(&author.pubkey)).collect();
    // Nothing stored matches a `since` of the stream but another stream of the same minute, and that comes
    // before EOSE.
    let since = corpus.events.iter().map(|event| event.created_at).min().unwrap_or(0);
    let mut rng = Rng::new("relay-bench subscriptions", plan.seed);
    let filters = subscriptions::draw(&corpus, &authors, plan.subscriptions, since, &mut rng);
    let due: Vec<Tally> = filters.iter().map(|filters| Tally::due(filters, &corpus)).collect();
    let expected: u64 = due.iter().map(|tally| tally.count).sum();

    let clock = Instant::now();
    let sent_at: Vec<AtomicU64> = corpus.events.iter().map(|_| AtomicU64::new(0)).collect();
    let shared = Shared {
        numbers: corpus.events.iter().enumerate().map(|(at, event)| (event.id, at)).collect(),
        sent_at: &sent_at,
        clock,
        delivered: AtomicU64::new(0),
        stop: AtomicBool::new(false),
    };
    let mut groups = subscribe(endpoint, plan, &filters, &corpus)?;
    let before = process.map(|process| process.usage()).transpose()?;
    let own_before = Process::new(0).usage()?;
    let start = Instant::now();
    let (outcome, readers) = std::thread::scope(|scope| -> Result<_> {
        let workers: Vec<_> = groups
            .drain(..)
            .map(|group| {
                let shared = &shared;
                scope.spawn(move || group.read_all(shared))
            })
            .collect();
        let events: Vec<(&str, [u8; 32])> =
            corpus.lines.iter().zip(&corpus.events).map(|(line, event)| (line.as_str(), event.id)).collect();
        let outcome = load::publish(endpoint, &events, &plan.publish, clock, &sent_at);
        if outcome.is_ok() {
            shared.wait_for(expected);
        }
        shared.stop.store(true, Ordering::Release);
        let readers =
            workers.into_iter().map(|worker| worker.join().expect("no panic")).collect::<Result<Vec<_>>>();
        Ok((outcome?, readers?))
    })?;
    let own_after = Process::new(0).usage()?;
    let after = process.map(|process| process.usage()).transpose()?;

    let last = readers.iter().filter_map(|reader| reader.last).max().unwrap_or(start);
    let delivered: u64 = readers.iter().flat_map(|reader| reader.tallies.iter()).map(|(_, t)| t.count).sum();
    let seconds = last.saturating_duration_since(start).as_secs_f64();
    let mut report = Report {
        subscriptions: plan.subscriptions,
        connections: plan.connections,
        events: corpus.events.len(),
        stream: plan.stream,
        expected,
        delivered,
        client_cpu_us_per_delivery: micros_each(own_after.cpu_since(&own_before), delivered as usize),
        seconds,
        deliveries_per_second: if seconds > 0.0 { (delivered as f64 / seconds).round() } else { 0.0 },
        ..Report::default()
    };
    for verdict in outcome.verdicts {
        match verdict {
            None => report.unanswered += 1,
            Some(Verdict::Refused(reason)) => *report.refused.entry(reason).or_default() += 1,
            Some(Verdict::Accepted) => {}
        }
    }
    if let (Some(before), Some(after)) = (before, after) {
        let cpu = after.cpu_since(&before);
        report.cpu_us_per_delivery = micros_each(cpu, delivered as usize);
        report.cpu_us_per_event = micros_each(cpu, corpus.events.len());
        report.resident_bytes = Some(after.resident_bytes);
    }
    let mut micros = Vec::with_capacity(delivered as usize);
    for reader in readers {
        report.wrong_subscriptions +=
            reader.tallies.iter().filter(|(number, tally)| due[**number] != **tally).count();
        micros.extend(reader.micros);
    }
    report.delivery = Latency::of(micros);
    Ok(report)
}

/// Fresh events of the last minute. Those that replace one another are left out: whether an older version is
/// still delivered live depends on the relay's batches, and either is right. So are notes of a word: another run of
/// the same minute may have published the same one, which nobody would get again.
fn stream(plan: &Plan, now: u64) -> Result<Corpus> {
    let wanted = plan.events + plan.events / 4 + 20;
    let generate = generate::Plan {
        seed: plan.seed,
        stream: plan.stream,
        count: wanted,
        now,
        days: 0,
        ..Default::default()
    };
    let is_left_out = |line: &str| {
        let event: Value = serde_json::from_str(line).unwrap_or_default();
        let replaces = matches!(event["kind"].as_u64(), Some(0 | 3 | 10_000..=19_999 | 30_000..=39_999));
        let is_untagged = event["tags"].as_array().is_none_or(Vec::is_empty);
        replaces || is_untagged && event["content"].as_str().is_none_or(|text| text.len() < UNIQUE_BYTES_MIN)
    };
    let lines = generate.events(2).into_iter().filter(|line| !is_left_out(line)).take(plan.events).collect();
    Corpus::new(lines)
}

/// Opens all subscriptions and waits until each is live.
fn subscribe(
    endpoint: &Endpoint,
    plan: &Plan,
    filters: &[Vec<Filter>],
    corpus: &Corpus,
) -> Result<Vec<Group>> {
    let connections = plan.connections.clamp(1, filters.len().max(1));
    let mut groups: Vec<Group> = Vec::new();
    groups.resize_with(plan.threads.clamp(1, connections), Group::default);
    for lane in 0..connections {
        let mut connection = endpoint.connect(8 << 10)?;
        let own: Vec<usize> = (lane..filters.len()).step_by(connections).collect();
        // A few at a time: some relays bound what they queue.
        for numbers in own.chunks(20) {
            for number in numbers {
                let mut request = vec![json!("REQ"), json!(format!("f{number}"))];
                request.extend(filters[*number].iter().map(|filter| filter.to_json(corpus)));
                connection.send(Value::Array(request).to_string())?;
            }
            let mut waiting = numbers.len();
            connection.read(|text| {
                match Frame::read(text)? {
                    Frame::Eose(_) => waiting -= 1,
                    Frame::Closed(_) => bail!("a subscription was refused: {text}"),
                    _ => {}
                }
                Ok(waiting > 0)
            })?;
        }
        connection.set_nonblocking()?;
        let group = lane % groups.len();
        groups[group].tallies.extend(own.into_iter().map(|number| (number, Tally::default())));
        groups[group].connections.push(connection);
    }
    Ok(groups)
}

/// What a subscription got: how many, and a sum over which ones.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Tally {
    count: u64,
    sum: u64,
}

impl Tally {
    fn due(filters: &[Filter], corpus: &Corpus) -> Self {
        let mut tally = Tally::default();
        for event in &corpus.events {
            if filters.iter().any(|filter| filter.matches(event)) {
                tally.add(&event.id);
            }
        }
        tally
    }

    fn add(&mut self, id: &[u8; 32]) {
        self.count += 1;
        let word = u64::from_le_bytes(id[..8].try_into().expect("eight bytes"));
        self.sum = self.sum.wrapping_add(word);
    }
}

struct Shared<'a> {
    numbers: FxHashMap<[u8; 32], usize>,
    sent_at: &'a [AtomicU64],
    clock: Instant,
    delivered: AtomicU64,
    stop: AtomicBool,
}

impl Shared<'_> {
    /// Until all is there, or nothing more comes; and a little longer for what should not come.
    fn wait_for(&self, expected: u64) {
        let mut seen = self.delivered.load(Ordering::Acquire);
        let mut moved = Instant::now();
        while seen < expected && moved.elapsed() < SILENCE_MAX {
            std::thread::sleep(Duration::from_millis(5));
            let now = self.delivered.load(Ordering::Acquire);
            if now != seen {
                (seen, moved) = (now, Instant::now());
            }
        }
        std::thread::sleep(GRACE);
    }
}

/// The connections one thread reads.
#[derive(Default)]
struct Group {
    connections: Vec<Connection>,
    tallies: FxHashMap<usize, Tally>,
    micros: Vec<u32>,
    last: Option<Instant>,
}

impl Group {
    fn read_all(mut self, shared: &Shared<'_>) -> Result<Self> {
        let mut poll = Poll::new()?;
        for (token, connection) in self.connections.iter().enumerate() {
            let fd = connection.stream().as_raw_fd();
            poll.registry().register(&mut SourceFd(&fd), Token(token), Interest::READABLE)?;
        }
        // What came before the sockets were watched gives no event.
        (0..self.connections.len()).try_for_each(|at| self.read_one(at, shared))?;
        let mut events = Events::with_capacity(256);
        while !shared.stop.load(Ordering::Acquire) {
            if let Err(error) = poll.poll(&mut events, Some(Duration::from_millis(50)))
                && error.kind() != std::io::ErrorKind::Interrupted
            {
                return Err(error).context("waiting for sockets");
            }
            for event in &events {
                self.read_one(event.token().0, shared)?;
            }
        }
        Ok(self)
    }

    fn read_one(&mut self, at: usize, shared: &Shared<'_>) -> Result<()> {
        let Group { connections, tallies, micros: latencies, last } = self;
        let mut delivered = 0;
        connections[at].read(|text| {
            match Frame::read(text)? {
                Frame::Event { sub, id } => {
                    let number = sub.strip_prefix('f').and_then(|number| number.parse().ok());
                    let tally = number.and_then(|number: usize| tallies.get_mut(&number));
                    tally.with_context(|| format!("an event for {sub}, which is not open here"))?.add(&id);
                    delivered += 1;
                    let now = Instant::now();
                    *last = Some(now);
                    if let Some(number) = shared.numbers.get(&id) {
                        let sent = Duration::from_nanos(shared.sent_at[*number].load(Ordering::Acquire));
                        latencies.push(micros(now.duration_since(shared.clock).saturating_sub(sent)));
                    }
                }
                Frame::Closed(_) => bail!("a subscription was ended: {text}"),
                _ => {}
            }
            Ok(true)
        })?;
        shared.delivered.fetch_add(delivered, Ordering::AcqRel);
        Ok(())
    }
}
