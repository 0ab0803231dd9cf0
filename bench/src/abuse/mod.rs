//! `relay-bench abuse`: how much one abusive client slows the relay down for all others.
//!
//! An honest client publishes an event and queries it five times a second, before and during each attack. `X-Forwarded-For`
//! and `CF-Connecting-IP` give the attacker and the honest client different addresses; a native relay must trust this machine
//! as a proxy, the edge in local workerd believes the latter.
//! Relay, attacker and honest client share the CPUs: judge by the relay's CPU and by the ratio of the two latencies.

mod cases;
mod probe;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail};
use serde::Serialize;

use crate::client::{Connection, Endpoint};
use crate::generate::{Author, Draft};
use crate::process::Process;
use crate::stats::Latency;
pub use cases::Case;
pub(crate) use probe::Probe;

/// Address of the honest client.
const HONEST: IpAddr = IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1));

/// Options of an attack.
#[derive(Clone, Debug)]
pub struct Options {
    /// Seconds of measuring without an attack, and with it.
    pub seconds: u32,
    /// Seconds from the end of an attack until the relay's memory is read again.
    pub rest_seconds: u32,
    /// Number of client addresses that the attacker's connections use in turn.
    pub addresses: u8,
    /// Tags of the attacker's large events.
    pub tags: usize,
}

/// Results of one attack.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The case.
    pub case: &'static str,
    /// Bytes that the attacker sent for preparation, and during the measurement.
    pub attacker_bytes: [u64; 2],
    /// Requests and events of the attacker that were answered during the measurement.
    pub attacker_answers: u64,
    /// Connection attempts of the attacker that failed.
    pub attacker_refused: u64,
    /// CPU time of the relay during the attack, as a number of CPUs.
    pub cpus: Option<f64>,
    /// The relay's resident memory before, at the end of the attack, and `rest_seconds` after it, in bytes.
    pub resident_bytes: Option<[u64; 3]>,
    /// From an honest event to its OK, before and during the attack.
    pub ok: [Latency; 2],
    /// From an honest REQ to its EOSE, before and during the attack.
    pub eose: [Latency; 2],
    /// Honest events and requests that were not answered within 20 seconds, or whose answer was wrong.
    pub honest_failed: u64,
}

/// State shared by the attacker's threads.
pub(crate) struct Attacker<'a> {
    endpoint: &'a Endpoint,
    options: &'a Options,
    authors: Vec<Author>,
    now: u64,
    stop: AtomicBool,
    sent: AtomicU64,
    answers: AtomicU64,
    refused: AtomicU64,
    next_address: AtomicU64,
}

impl Attacker<'_> {
    fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// A connection from the next of the attacker's addresses.
    fn connect(&self) -> Result<Connection> {
        let number = self.next_address.fetch_add(1, Ordering::Relaxed) % u64::from(self.options.addresses);
        let address = Ipv4Addr::new(203, 0, 113, number as u8);
        self.endpoint.connect_as(16 << 10, Some(address.into())).inspect_err(|_| {
            self.refused.fetch_add(1, Ordering::Relaxed);
        })
    }

    /// A connection for what the attacker stores before it attacks. It has no address, because an attacker can take its
    /// time for that and a bench cannot: rates of addresses do not apply.
    fn connect_to_prepare(&self) -> Result<Connection> {
        self.endpoint.connect(16 << 10)
    }

    fn send(&self, connection: &mut Connection, text: String) -> Result<()> {
        self.sent.fetch_add(text.len() as u64, Ordering::Relaxed);
        connection.send(text)
    }

    /// Reads until `wanted` frames have come that begin with one of `verbs`.
    fn await_answers(&self, connection: &mut Connection, verbs: &[&str], wanted: usize) -> Result<()> {
        let mut left = wanted;
        while left > 0 && !self.is_over() {
            connection.read(|text| {
                if verbs.iter().any(|verb| text.starts_with(verb)) {
                    left -= 1;
                    self.answers.fetch_add(1, Ordering::Relaxed);
                }
                Ok(left > 0 && !self.is_over())
            })?;
        }
        Ok(())
    }

    /// An EVENT message of the attacker, and the event's id.
    fn event(&self, author: usize, kind: u16, tags: Vec<Vec<String>>, content: String) -> (String, [u8; 32]) {
        let draft = Draft { author, created_at: self.now, kind, tags, content };
        let unsigned = draft.finish(&self.authors);
        (format!("[\"EVENT\",{}]", unsigned.sign(&self.authors)), unsigned.id)
    }
}

/// Runs `cases` one after the other, each against an honest client.
///
/// # Errors
/// If the honest client cannot connect, or the process is not there.
pub fn run(
    endpoint: &Endpoint,
    process: Option<Process>,
    cases: &[Case],
    options: &Options,
) -> Result<Vec<Report>> {
    if options.addresses == 0 || options.seconds == 0 {
        bail!("addresses and seconds must be at least 1");
    }
    cases.iter().map(|case| run_case(endpoint, process, *case, options).context(case.name())).collect()
}

fn run_case(endpoint: &Endpoint, process: Option<Process>, case: Case, options: &Options) -> Result<Report> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    // New keys in each run, so that events stored by an earlier run do not matter.
    let seed = now.as_millis() as u64;
    let attacker = Attacker {
        endpoint,
        options,
        authors: (0..8).map(|rank| Author::derive(seed, rank)).collect(),
        now: now.as_secs(),
        stop: AtomicBool::new(false),
        sent: AtomicU64::new(0),
        answers: AtomicU64::new(0),
        refused: AtomicU64::new(0),
        next_address: AtomicU64::new(0),
    };
    let usage = || process.map(|process| process.usage()).transpose();
    let resting = usage()?;
    let mut probe = Probe::new(endpoint, seed)?;
    let period = Duration::from_secs(u64::from(options.seconds));
    let calm = probe.run(Instant::now() + period);
    let prepared = case.prepare(&attacker)?;
    let prepared_bytes = attacker.sent.swap(0, Ordering::Relaxed);
    attacker.answers.store(0, Ordering::Relaxed);
    let before = usage()?;
    let (attacked, attack_bytes, during) = std::thread::scope(|scope| -> Result<_> {
        case.attack(&attacker, prepared, scope);
        let attacked = probe.run(Instant::now() + period);
        let (bytes, during) = (attacker.sent.load(Ordering::Relaxed), usage()?);
        attacker.stop.store(true, Ordering::Relaxed);
        Ok((attacked, bytes, during))
    })?;
    std::thread::sleep(Duration::from_secs(u64::from(options.rest_seconds)));
    let after = usage()?;
    let cpus = before.as_ref().zip(during.as_ref()).map(|(before, during)| {
        let cpu = during.cpu_since(before).as_secs_f64() / period.as_secs_f64();
        (cpu * 100.0).round() / 100.0
    });
    let resident_bytes = match (resting, during, after) {
        (Some(resting), Some(during), Some(after)) => {
            Some([resting.resident_bytes, during.resident_bytes, after.resident_bytes])
        }
        _ => None,
    };
    Ok(Report {
        case: case.name(),
        attacker_bytes: [prepared_bytes, attack_bytes],
        attacker_answers: attacker.answers.load(Ordering::Relaxed),
        attacker_refused: attacker.refused.load(Ordering::Relaxed),
        cpus,
        resident_bytes,
        honest_failed: calm.failed + attacked.failed,
        ok: [Latency::of(calm.ok), Latency::of(attacked.ok)],
        eose: [Latency::of(calm.eose), Latency::of(attacked.eose)],
    })
}
