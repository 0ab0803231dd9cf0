//! `relay-bench jobs`: throughput and latency of data vending machines (NIP-90), called agents here, of any implementation; every answer is checked.

mod answer;
mod job_tracker;
mod request;
mod wallet;

use std::collections::BTreeMap;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use serde::Serialize;
use serde_json::json;
use tungstenite::Message;

pub use request::{key, read_keys};
pub use wallet::connection_string;

use crate::client::{Connection, Endpoint, Frame, Progress};
use crate::process::Process;
use crate::stats::{Latency, micros_each};
use answer::Answer;
use job_tracker::JobTracker;
use request::Request;
use wallet::Wallet;

/// Options.
#[derive(Clone, Debug)]
pub struct Options {
    /// Public keys of the agents; the requests name them in turn.
    pub agents: Vec<[u8; 32]>,
    /// Kind of the requests, 5000 to 5999.
    pub kind: u16,
    /// Requests.
    pub count: usize,
    /// Most jobs that may be unfinished at a time.
    pub window: usize,
    /// Customers that the requests are spread over; their keys are new ones for each `seed`.
    pub customers: usize,
    /// Bytes of the input, a text in upper case.
    pub input_bytes: usize,
    /// Whether the result must be the input.
    pub echo: bool,
    /// Whether the customers pay. The wallet of the agents is then this program: see [`connection_string`].
    pub is_paid: bool,
    /// A job without a result after this time counts as unanswered.
    pub timeout: Duration,
    /// Seed of the customers' keys and of the inputs.
    pub seed: u64,
}

/// What was measured. The agents made no fault if `results` equals `jobs`, and the fields from `refused` to `unexpected` are 0 or empty.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// Agents that were asked.
    pub agents: usize,
    /// Requests sent.
    pub jobs: usize,
    /// Most jobs that might be unfinished at a time.
    pub window: usize,
    /// Customers.
    pub customers: usize,
    /// Jobs with a result.
    pub results: usize,
    /// Requests that the relay did not accept, by reason.
    pub refused: BTreeMap<String, usize>,
    /// Jobs that the agent refused or gave up, by status and message.
    pub failed: BTreeMap<String, usize>,
    /// Jobs without a result in time.
    pub unanswered: usize,
    /// Results beyond the first of a job, and answers that came twice.
    pub duplicate: usize,
    /// Answers that are not by the agent that was asked, or not to the customer; results that differ from the input though `echo` is set, or
    /// that were not paid for.
    pub wrong: usize,
    /// Answers, of those looked at, whose id or signature is wrong.
    pub forged: usize,
    /// Feedback that came after the result: clients that show the newest answer then hide the result.
    pub late_feedback: usize,
    /// Answers that name none of the requests.
    pub unexpected: usize,
    /// Answers whose id and signature were checked: those of at most 2,000 jobs.
    pub verified: usize,
    /// Jobs whose result is not newer than their feedback, in `created_at`. Not a fault, but a client cannot order them by it.
    pub same_second: usize,
    /// Wall time from the first request to the last result.
    pub seconds: f64,
    /// Results a second.
    pub jobs_per_second: f64,
    /// From sending a request to the relay's `OK`.
    pub request_to_ok: Latency,
    /// From sending a request to the first feedback.
    pub request_to_feedback: Latency,
    /// From sending a request to the result.
    pub request_to_result: Latency,
    /// From a payment to the feedback `processing`, where customers pay.
    pub payment_to_processing: Option<Latency>,
    /// Requests to the wallet a job, where customers pay.
    pub wallet_requests_per_job: Option<f64>,
    /// CPU a job of the process given, in microseconds.
    pub cpu_us_per_job: Option<f64>,
    /// This program's own CPU a job, in microseconds.
    pub client_cpu_us_per_job: Option<f64>,
    /// Resident memory of the process given, afterwards, in bytes.
    pub resident_bytes: Option<u64>,
}

impl Report {
    /// Whether each request has exactly one right result, and nothing else is wrong.
    pub fn is_correct(&self) -> bool {
        let faults =
            [self.unanswered, self.duplicate, self.wrong, self.forged, self.late_feedback, self.unexpected];
        self.results == self.jobs && self.refused.is_empty() && self.failed.is_empty() && faults == [0; 6]
    }
}

/// Time to wait for answers that must not come.
const GRACE: Duration = Duration::from_millis(500);
/// Customers of one subscription.
const CUSTOMERS_PER_SUBSCRIPTION: usize = 200;
/// Longest sleep between two looks at the clock.
const TICK: Duration = Duration::from_millis(20);
const LISTENER: Token = Token(0);
const PUBLISHER: Token = Token(1);
const WALLET: Token = Token(2);

/// Publishes the requests and waits for their answers. `process` is what is measured besides: the agent or the relay.
///
/// # Errors
/// If connections fail, a subscription is refused, or `process` is not there.
pub fn run(endpoint: &Endpoint, process: Option<Process>, options: &Options) -> Result<Report> {
    let requests = Request::sign_all(options, unix_seconds()?);
    let mut listener = endpoint.connect(64 << 10)?;
    subscribe(&mut listener, options, &requests)?;
    let publisher = endpoint.connect(16 << 10)?;
    let wallet = options.is_paid.then(|| WalletConnection::open(endpoint)).transpose()?;
    let before = process.map(|process| process.usage()).transpose()?;
    let own_before = Process::new(0).usage()?;
    let driver = Driver {
        tracker: JobTracker::new(options, &requests),
        requests,
        listener,
        publisher,
        wallet,
        next: 0,
        start: Instant::now(),
    };
    let (tracker, wallet_requests) = driver.run(options)?;
    let own_after = Process::new(0).usage()?;
    let after = process.map(|process| process.usage()).transpose()?;
    let mut report = tracker.report();
    report.window = options.window;
    report.wallet_requests_per_job =
        wallet_requests.map(|requests| (requests as f64 / report.jobs as f64 * 100.0).round() / 100.0);
    report.client_cpu_us_per_job = micros_each(own_after.cpu_since(&own_before), report.jobs);
    if let (Some(before), Some(after)) = (before, after) {
        report.cpu_us_per_job = micros_each(after.cpu_since(&before), report.jobs);
        report.resident_bytes = Some(after.resident_bytes);
    }
    Ok(report)
}

/// Subscribes to what is sent to the customers. Their keys are new, so nothing is stored.
fn subscribe(listener: &mut Connection, options: &Options, requests: &[Request]) -> Result<()> {
    let mut customers: Vec<&str> = requests.iter().map(|request| request.customer.as_str()).collect();
    customers.sort_unstable();
    customers.dedup();
    for (number, chunk) in customers.chunks(CUSTOMERS_PER_SUBSCRIPTION).enumerate() {
        let sub = format!("j{number}");
        let filter = json!({ "kinds": [7000, options.kind + 1000], "#p": chunk });
        listener.send(json!(["REQ", sub, filter]).to_string())?;
        listener.read(|text| match Frame::read(text)? {
            Frame::Closed(_) => bail!("a subscription was refused: {text}"),
            Frame::Eose(ended) => Ok(ended != sub),
            _ => Ok(true),
        })?;
    }
    Ok(())
}

/// The wallet service, and its connection.
struct WalletConnection {
    wallet: Wallet,
    connection: Connection,
}

impl WalletConnection {
    fn open(endpoint: &Endpoint) -> Result<Self> {
        let (wallet, mut connection) = (Wallet::new(), endpoint.connect(16 << 10)?);
        connection.send(json!(["REQ", "w", wallet.filter()]).to_string())?;
        connection.send(wallet.info()?)?;
        let mut answers = 0;
        connection.read(|text| match Frame::read(text)? {
            Frame::Closed(_) | Frame::Ok { accepted: false, .. } => bail!("the wallet is refused: {text}"),
            Frame::Ok { .. } | Frame::Eose(_) => {
                answers += 1;
                Ok(answers < 2)
            }
            _ => Ok(true),
        })?;
        Ok(WalletConnection { wallet, connection })
    }

    fn pay(&mut self, invoices: Vec<String>) -> Result<()> {
        for invoice in invoices {
            let notification = self.wallet.pay(&invoice, unix_seconds()?)?;
            self.connection.queue(Message::text(notification))?;
        }
        Ok(())
    }

    /// Answers what it has been asked, and sends what waits.
    fn serve(&mut self) -> Result<()> {
        let (wallet, now) = (&mut self.wallet, unix_seconds()?);
        let mut answers = Vec::new();
        self.connection.read(|text| {
            match Frame::read(text)? {
                Frame::Event { .. } => answers.extend(wallet.answer(text, now)?),
                Frame::Ok { accepted: false, .. } => bail!("the wallet's event was refused: {text}"),
                Frame::Closed(_) => bail!("the wallet's subscription was ended: {text}"),
                _ => {}
            }
            Ok(true)
        })?;
        for answer in answers {
            self.connection.queue(Message::text(answer))?;
        }
        let (Progress::Done | Progress::Blocked) = self.connection.flush()?;
        Ok(())
    }
}

fn unix_seconds() -> Result<u64> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).context("the clock is before 1970")?;
    Ok(now.as_secs())
}

struct Driver {
    tracker: JobTracker,
    requests: Vec<Request>,
    listener: Connection,
    publisher: Connection,
    wallet: Option<WalletConnection>,
    /// The next request to send.
    next: usize,
    start: Instant,
}

impl Driver {
    /// Runs all jobs. Returns their states, and the number of requests to the wallet.
    fn run(mut self, options: &Options) -> Result<(JobTracker, Option<usize>)> {
        let mut poll = Poll::new()?;
        let both = [(&self.listener, LISTENER), (&self.publisher, PUBLISHER)];
        let third = self.wallet.as_ref().map(|wallet| (&wallet.connection, WALLET));
        for (connection, token) in both.into_iter().chain(third) {
            connection.set_nonblocking()?;
            let fd = connection.stream().as_raw_fd();
            let interest = Interest::READABLE | Interest::WRITABLE;
            poll.registry().register(&mut SourceFd(&fd), token, interest)?;
        }
        let mut events = Events::with_capacity(8);
        let mut quiet_at = None;
        loop {
            let now = self.start.elapsed();
            self.tracker.give_up(now, options.timeout);
            self.fill(options.window)?;
            if self.next == self.requests.len() && self.tracker.is_finished() {
                let until = *quiet_at.get_or_insert(now + GRACE);
                if now >= until {
                    return Ok((self.tracker, self.wallet.map(|wallet| wallet.wallet.requests)));
                }
            }
            if let Err(error) = poll.poll(&mut events, Some(TICK))
                && error.kind() != std::io::ErrorKind::Interrupted
            {
                return Err(error).context("waiting for sockets");
            }
            self.read()?;
        }
    }

    fn fill(&mut self, window: usize) -> Result<()> {
        while self.tracker.unfinished() < window.max(1) && self.next < self.requests.len() {
            self.tracker.sent(self.next, self.start.elapsed());
            self.publisher.queue(self.requests[self.next].take_frame())?;
            self.next += 1;
        }
        // A blocked flush continues when the socket is writable again.
        let (Progress::Done | Progress::Blocked) = self.publisher.flush()?;
        Ok(())
    }

    fn read(&mut self) -> Result<()> {
        let Driver { tracker, start, listener, publisher, wallet, .. } = self;
        publisher.read(|text| {
            if let Frame::Ok { id, accepted, reason } = Frame::read(text)? {
                tracker.verdict(&id, accepted, reason, start.elapsed());
            }
            Ok(true)
        })?;
        let mut invoices = Vec::new();
        listener.read(|text| {
            match Frame::read(text)? {
                Frame::Event { .. } => invoices.extend(tracker.answer(Answer::read(text)?, start.elapsed())),
                Frame::Closed(_) => bail!("a subscription was ended: {text}"),
                _ => {}
            }
            Ok(true)
        })?;
        if let Some(wallet) = wallet {
            wallet.pay(invoices)?;
            wallet.serve()?;
        }
        Ok(())
    }
}
