//! `relay-bench publish`: throughput of publishing, and CPU per event.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::Result;
use serde::Serialize;

use crate::client::Endpoint;
use crate::corpus::Corpus;
use crate::load::{self, Verdict};
use crate::process::Process;
use crate::stats::{Latency, micros_each};

/// Results. `refused` gives reasons; `lost`, `unanswered` and `unexpected_answers` must be 0.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// Connections.
    pub connections: usize,
    /// Maximum number of unanswered events of a connection.
    pub window: usize,
    /// Events sent.
    pub events: usize,
    /// `OK true`.
    pub accepted: usize,
    /// `OK false` for an event that a newer version in the file replaces, which is correct.
    pub superseded: usize,
    /// `OK false` for anything else, by reason.
    pub refused: BTreeMap<String, usize>,
    /// Events without an answer when time was up.
    pub unanswered: usize,
    /// Answers to no unanswered event.
    pub unexpected_answers: usize,
    /// Accepted events, not superseded ones, that were queried afterwards.
    pub read_back: usize,
    /// Of these, how many the relay did not have.
    pub lost: usize,
    /// Wall time from the first send to the last answer.
    pub seconds: f64,
    /// Events a second.
    pub events_per_second: f64,
    /// The relay's CPU an event, in microseconds.
    pub cpu_us_per_event: Option<f64>,
    /// This program's own CPU an event, in microseconds.
    pub client_cpu_us_per_event: Option<f64>,
    /// The relay's resident memory afterwards, in bytes.
    pub resident_bytes: Option<u64>,
    /// From sending an event to its answer.
    pub answer: Latency,
}

impl Report {
    /// Whether the relay did everything right.
    pub fn is_correct(&self) -> bool {
        self.refused.is_empty() && self.unanswered == 0 && self.unexpected_answers == 0 && self.lost == 0
    }
}

/// Publishes all events of `corpus` and reads up to `read_back_max` of them back.
///
/// # Errors
/// If connections fail or there is no such process.
pub fn run(
    endpoint: &Endpoint,
    process: Option<Process>,
    corpus: &Corpus,
    options: &load::Options,
    read_back_max: usize,
) -> Result<Report> {
    let events: Vec<(&str, [u8; 32])> =
        corpus.lines.iter().zip(&corpus.events).map(|(line, event)| (line.as_str(), event.id)).collect();
    let bench = Process::new(0);
    let before = process.map(|process| process.usage()).transpose()?;
    let bench_before = bench.usage()?;
    let outcome = load::publish(endpoint, &events, options, Instant::now(), &[])?;
    let bench_after = bench.usage()?;
    let after = process.map(|process| process.usage()).transpose()?;

    let seconds = outcome.time.as_secs_f64();
    let mut report = Report {
        connections: options.connections,
        window: options.window,
        events: events.len(),
        unexpected_answers: outcome.unexpected_answers,
        seconds,
        events_per_second: (events.len() as f64 / seconds).round(),
        client_cpu_us_per_event: micros_each(bench_after.cpu_since(&bench_before), events.len()),
        answer: Latency::of(outcome.micros),
        ..Report::default()
    };
    if let (Some(before), Some(after)) = (before, after) {
        report.cpu_us_per_event = micros_each(after.cpu_since(&before), events.len());
        report.resident_bytes = Some(after.resident_bytes);
    }
    let mut to_keep = Vec::new();
    for (event, verdict) in corpus.events.iter().zip(outcome.verdicts) {
        match verdict {
            None => report.unanswered += 1,
            Some(Verdict::Accepted) => {
                report.accepted += 1;
                to_keep.extend((!event.superseded).then_some(event.id));
            }
            // Over several connections an older version may arrive after a newer one.
            Some(Verdict::Refused(_)) if event.superseded => report.superseded += 1,
            Some(Verdict::Refused(reason)) => *report.refused.entry(reason).or_default() += 1,
        }
    }
    if read_back_max > 0 && !to_keep.is_empty() {
        let step = to_keep.len().div_ceil(read_back_max);
        let asked: Vec<[u8; 32]> = to_keep.into_iter().step_by(step).collect();
        report.read_back = asked.len();
        report.lost = asked.len() - load::read_back(endpoint, &asked)?;
    }
    Ok(report)
}
