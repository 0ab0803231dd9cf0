//! `relay-bench query`: CPU and latency of queries; each answer is checked against the file.

use std::time::Instant;

use anyhow::{Result, bail};
use serde::Serialize;
use serde_json::json;

use crate::client::{Connection, Endpoint, Frame};
use crate::corpus::Corpus;
use crate::filter::Filter;
use crate::generate::Rng;
use crate::process::Process;
use crate::shapes::Shape;
use crate::stats::{Latency, micros, micros_each};

/// Options.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Queries of each shape, one after the other.
    pub repeat: usize,
    /// Seed of the values in the filters.
    pub seed: u64,
    /// Accept any order, and any choice among the events of one second that a limit cuts.
    pub lenient: bool,
}

/// Results of one kind of query.
#[derive(Debug, Serialize)]
pub struct ShapeReport {
    /// Its name.
    pub query: &'static str,
    /// Queries sent.
    pub queries: usize,
    /// Events received in all.
    pub events: usize,
    /// Answers that differ from what the file requires.
    pub wrong_answers: usize,
    /// The first of them, explained.
    pub first_wrong: Option<String>,
    /// The relay's CPU a query, in microseconds.
    pub cpu_us_per_query: Option<f64>,
    /// From REQ to EOSE.
    pub eose: Latency,
}

/// Results.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Shape by shape.
    pub shapes: Vec<ShapeReport>,
    /// The relay's resident memory afterwards, in bytes.
    pub resident_bytes: Option<u64>,
}

impl Report {
    /// Whether every answer was right.
    pub fn is_correct(&self) -> bool {
        self.shapes.iter().all(|shape| shape.wrong_answers == 0)
    }
}

/// Different filters of a shape; they are sent in turn, so that a cache of answers does not help much.
const VALUES_MAX: usize = 200;

/// Sends `options.repeat` queries of each of `shapes`.
///
/// # Errors
/// If the connection is lost, the relay refuses a query, or there is no such process.
pub fn run(
    endpoint: &Endpoint,
    process: Option<Process>,
    corpus: &Corpus,
    shapes: &[Shape],
    options: &Options,
) -> Result<Report> {
    if corpus.current.is_empty() {
        bail!("the file has no events to query");
    }
    let mut connection = endpoint.connect(64 << 10)?;
    let mut reports = Vec::new();
    for shape in shapes {
        let mut rng = Rng::new(shape.name(), options.seed);
        let filters: Vec<Filter> =
            (0..options.repeat.min(VALUES_MAX)).map(|_| shape.draw(corpus, &mut rng)).collect();
        reports.push(run_shape(&mut connection, process, corpus, *shape, &filters, options)?);
    }
    let resident_bytes = match process {
        Some(process) => Some(process.usage()?.resident_bytes),
        None => None,
    };
    Ok(Report { shapes: reports, resident_bytes })
}

fn run_shape(
    connection: &mut Connection,
    process: Option<Process>,
    corpus: &Corpus,
    shape: Shape,
    filters: &[Filter],
    options: &Options,
) -> Result<ShapeReport> {
    let expected: Vec<Vec<u32>> = filters.iter().map(|filter| corpus.answer(filter)).collect();
    let requests: Vec<String> = filters.iter().map(|filter| filter.to_json(corpus).to_string()).collect();
    let mut answers = Vec::with_capacity(options.repeat);
    let mut times = Vec::with_capacity(options.repeat);
    let before = process.map(|process| process.usage()).transpose()?;
    for number in 0..options.repeat {
        let sub = format!("q{number}");
        let frame = format!(r#"["REQ","{sub}",{}]"#, requests[number % requests.len()]);
        let mut answer = Vec::new();
        let start = Instant::now();
        connection.send(frame)?;
        connection.read(|text| match Frame::read(text)? {
            Frame::Event { sub: answered, id } if answered == sub => {
                answer.push(id);
                Ok(true)
            }
            Frame::Eose(answered) => Ok(answered != sub),
            Frame::Closed(answered) if answered == sub => bail!("{}: refused: {text}", shape.name()),
            _ => Ok(true),
        })?;
        times.push(micros(start.elapsed()));
        answers.push(answer);
        connection.send(json!(["CLOSE", sub]).to_string())?;
    }
    let after = process.map(|process| process.usage()).transpose()?;

    let mut report = ShapeReport {
        query: shape.name(),
        queries: options.repeat,
        events: answers.iter().map(Vec::len).sum(),
        wrong_answers: 0,
        first_wrong: None,
        cpu_us_per_query: None,
        eose: Latency::of(times),
    };
    if let (Some(before), Some(after)) = (before, after) {
        report.cpu_us_per_query = micros_each(after.cpu_since(&before), options.repeat);
    }
    for (number, answer) in answers.iter().enumerate() {
        let at = number % filters.len();
        if let Err(why) = check(corpus, &filters[at], &expected[at], answer, options.lenient) {
            report.wrong_answers += 1;
            report.first_wrong.get_or_insert_with(|| format!("{}: {why}", requests[at]));
        }
    }
    Ok(report)
}

/// Whether `answer` is what a relay that holds exactly `corpus` sends.
fn check(
    corpus: &Corpus,
    filter: &Filter,
    expected: &[u32],
    answer: &[[u8; 32]],
    lenient: bool,
) -> Result<(), String> {
    let mut found = Vec::with_capacity(answer.len());
    for id in answer {
        let at = corpus.find(id).ok_or("an event that is not in the file")?;
        let event = &corpus.events[at];
        if event.superseded {
            return Err("an event that a newer one replaces".to_owned());
        }
        if !filter.matches(event) {
            return Err("an event that does not match".to_owned());
        }
        found.push(at as u32);
    }
    if found.len() != expected.len() {
        return Err(format!("{} events instead of {}", found.len(), expected.len()));
    }
    if !lenient {
        return match found.iter().zip(expected).position(|(found, expected)| found != expected) {
            Some(index) => Err(format!("another event, or another order, at place {index}")),
            None => Ok(()),
        };
    }
    // The newest events in any order; where the limit cuts a second, any of that second.
    let seconds = |list: &[u32]| {
        let mut seconds: Vec<u64> = list.iter().map(|at| corpus.events[*at as usize].created_at).collect();
        seconds.sort_unstable();
        seconds
    };
    if seconds(&found) != seconds(expected) {
        return Err("not the newest events".to_owned());
    }
    found.sort_unstable();
    found.dedup();
    if found.len() != expected.len() { Err("an event twice".to_owned()) } else { Ok(()) }
}
