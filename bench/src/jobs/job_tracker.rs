//! The state of every job, and the checks of every answer. Does no I/O and reads no clock.

use std::collections::BTreeMap;
use std::time::Duration;

use rustc_hash::FxHashMap;

use super::answer::{Answer, FEEDBACK};
use super::request::Request;
use super::{Options, Report};
use crate::hex;
use crate::stats::{Latency, micros};

/// Jobs whose answers' signatures are checked.
const VERIFIED_JOBS_MAX: usize = 2_000;

/// All jobs of a run.
pub(super) struct JobTracker {
    jobs: Vec<Job>,
    by_id: FxHashMap<[u8; 32], usize>,
    /// Public keys of the agents, in hex.
    agents: Vec<String>,
    result_kind: u16,
    echo: bool,
    is_paid: bool,
    /// The signatures of every `verify_each`-th job's answers are checked.
    verify_each: usize,
    /// Answers to check, after the clock has stopped.
    unverified: Vec<Answer>,
    sent: usize,
    unfinished: usize,
    /// The first sent job that may be unfinished.
    oldest: usize,
    refused: BTreeMap<String, usize>,
    failed: BTreeMap<String, usize>,
    unanswered: usize,
    duplicate: usize,
    wrong: usize,
    late_feedback: usize,
    unexpected: usize,
    same_second: usize,
    last_result: Duration,
}

/// One job.
struct Job {
    customer: String,
    agent: usize,
    input: String,
    sent: Duration,
    ok_micros: Option<u32>,
    feedback_micros: Option<u32>,
    result_micros: Option<u32>,
    /// When it was paid, and how long after that the feedback `processing` came.
    paid: Option<Duration>,
    processing_micros: Option<u32>,
    /// The newest `created_at` of its feedback.
    feedback_at: u64,
    /// Ids of its answers.
    answers: Vec<String>,
    is_finished: bool,
}

impl JobTracker {
    pub(super) fn new(options: &Options, requests: &[Request]) -> Self {
        let jobs = requests.iter().map(|request| Job {
            customer: request.customer.clone(),
            agent: request.agent,
            input: request.input.clone(),
            sent: Duration::ZERO,
            ok_micros: None,
            feedback_micros: None,
            result_micros: None,
            paid: None,
            processing_micros: None,
            feedback_at: 0,
            answers: Vec::new(),
            is_finished: false,
        });
        JobTracker {
            jobs: jobs.collect(),
            by_id: requests.iter().enumerate().map(|(number, request)| (request.id, number)).collect(),
            agents: options.agents.iter().map(|key| hex::encode(key)).collect(),
            result_kind: options.kind + 1000,
            echo: options.echo,
            is_paid: options.is_paid,
            verify_each: requests.len().div_ceil(VERIFIED_JOBS_MAX).max(1),
            unverified: Vec::new(),
            sent: 0,
            unfinished: 0,
            oldest: 0,
            refused: BTreeMap::new(),
            failed: BTreeMap::new(),
            unanswered: 0,
            duplicate: 0,
            wrong: 0,
            late_feedback: 0,
            unexpected: 0,
            same_second: 0,
            last_result: Duration::ZERO,
        }
    }

    /// Jobs that were sent and have neither a result nor failed.
    pub(super) fn unfinished(&self) -> usize {
        self.unfinished
    }

    /// Whether every job that was sent is finished.
    pub(super) fn is_finished(&self) -> bool {
        self.unfinished == 0
    }

    /// The next request is sent. Requests are sent in their order.
    pub(super) fn sent(&mut self, number: usize, now: Duration) {
        self.jobs[number].sent = now;
        self.sent = number + 1;
        self.unfinished += 1;
    }

    /// The relay's `OK` for a request.
    pub(super) fn verdict(&mut self, id: &[u8; 32], accepted: bool, reason: &str, now: Duration) {
        let Some(number) = self.by_id.get(id).copied() else {
            self.unexpected += 1;
            return;
        };
        let job = &mut self.jobs[number];
        job.ok_micros.get_or_insert(micros(now.saturating_sub(job.sent)));
        if !accepted {
            let reason = reason.trim_matches([',', '"', ']', ' ']).to_owned();
            *self.refused.entry(reason).or_default() += 1;
            self.finish(number);
        }
    }

    /// Feedback or a result. Gives the invoice that it asks to be paid, if the customers pay; it counts as paid at `now`.
    pub(super) fn answer(&mut self, answer: Answer, now: Duration) -> Option<String> {
        let request = answer.tag("e").and_then(|id| hex::decode32(id.as_bytes()));
        let Some(number) = request.and_then(|id| self.by_id.get(&id).copied()) else {
            self.unexpected += 1;
            return None;
        };
        let job = &mut self.jobs[number];
        if answer.pubkey != self.agents[job.agent] || answer.tag("p") != Some(&job.customer) {
            self.wrong += 1;
            return None;
        }
        if job.answers.contains(&answer.id) {
            self.duplicate += 1;
            return None;
        }
        let mut invoice = None;
        job.answers.push(answer.id.clone());
        let after = micros(now.saturating_sub(job.sent));
        if answer.kind == FEEDBACK {
            if job.result_micros.is_some() {
                self.late_feedback += 1;
            }
            job.feedback_micros.get_or_insert(after);
            job.feedback_at = job.feedback_at.max(answer.created_at);
            let (status, words) = answer.status();
            invoice = match status {
                "payment-required" if self.is_paid && job.paid.is_none() => answer.invoice(),
                _ => None,
            };
            if invoice.is_some() {
                job.paid = Some(now);
            } else if matches!(status, "error" | "payment-required" | "payment_required") {
                *self.failed.entry(format!("{status}: {words}")).or_default() += 1;
                self.finish(number);
            } else if status == "processing"
                && let Some(at) = job.paid
            {
                job.processing_micros.get_or_insert(micros(now.saturating_sub(at)));
            }
        } else if answer.kind == self.result_kind {
            if job.result_micros.is_some() {
                self.duplicate += 1;
            } else {
                job.result_micros = Some(after);
                self.same_second += usize::from(job.feedback_at >= answer.created_at);
                let is_unpaid = self.is_paid && job.paid.is_none();
                self.wrong += usize::from(is_unpaid || self.echo && answer.content != job.input);
                self.last_result = now;
                self.finish(number);
            }
        } else {
            self.wrong += 1;
        }
        if number.is_multiple_of(self.verify_each) {
            self.unverified.push(answer);
        }
        invoice
    }

    /// Counts jobs as unanswered that were sent longer than `timeout` ago.
    pub(super) fn give_up(&mut self, now: Duration, timeout: Duration) {
        while self.oldest < self.sent {
            let job = &self.jobs[self.oldest];
            if !job.is_finished {
                if now.saturating_sub(job.sent) < timeout {
                    break;
                }
                self.unanswered += 1;
                self.finish(self.oldest);
            }
            self.oldest += 1;
        }
    }

    fn finish(&mut self, number: usize) {
        let job = &mut self.jobs[number];
        self.unfinished -= usize::from(!job.is_finished);
        job.is_finished = true;
    }

    /// Checks signatures, and sums up.
    pub(super) fn report(self) -> Report {
        let first = self.jobs.first().map_or(Duration::ZERO, |job| job.sent);
        let seconds = self.last_result.saturating_sub(first).as_secs_f64();
        let of =
            |micros: fn(&Job) -> Option<u32>| -> Vec<u32> { self.jobs.iter().filter_map(micros).collect() };
        let results = of(|job| job.result_micros);
        let mut customers: Vec<&str> = self.jobs.iter().map(|job| job.customer.as_str()).collect();
        customers.sort_unstable();
        customers.dedup();
        Report {
            agents: self.agents.len(),
            jobs: self.sent,
            customers: customers.len(),
            results: results.len(),
            unanswered: self.unanswered,
            duplicate: self.duplicate,
            wrong: self.wrong,
            forged: self.unverified.iter().filter(|answer| !answer.is_authentic()).count(),
            late_feedback: self.late_feedback,
            unexpected: self.unexpected,
            verified: self.unverified.len(),
            same_second: self.same_second,
            seconds,
            jobs_per_second: if seconds > 0.0 { (results.len() as f64 / seconds).round() } else { 0.0 },
            request_to_ok: Latency::of(of(|job| job.ok_micros)),
            request_to_feedback: Latency::of(of(|job| job.feedback_micros)),
            request_to_result: Latency::of(results),
            payment_to_processing: self.is_paid.then(|| Latency::of(of(|job| job.processing_micros))),
            refused: self.refused,
            failed: self.failed,
            ..Report::default()
        }
    }
}
