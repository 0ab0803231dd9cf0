//! Publishes many events over a few connections, each with a bounded number of unanswered events.

use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use tungstenite::Message;

use crate::client::{Connection, Endpoint, Frame, Progress};
use crate::hex;
use crate::stats::micros;

/// How to publish.
#[derive(Clone, Debug)]
pub struct Options {
    /// Connections; events are distributed round robin.
    pub connections: usize,
    /// Maximum number of unanswered events of a connection.
    pub window: usize,
    /// Events a second of all connections together; `None`: as fast as the window allows.
    pub rate: Option<f64>,
    /// Threads that drive the connections.
    pub threads: usize,
    /// Maximum duration; then publishing stops, whether events are answered or not.
    pub time_max: Duration,
}

/// What a relay answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// `OK true`.
    Accepted,
    /// `OK false`, and the reason.
    Refused(String),
}

/// Results.
#[derive(Debug, Default)]
pub struct Outcome {
    /// By index of event; `None` if it was never answered.
    pub verdicts: Vec<Option<Verdict>>,
    /// Microseconds from sending to the answer.
    pub micros: Vec<u32>,
    /// Answers to no unanswered event.
    pub unexpected_answers: usize,
    /// From the first send to the last answer.
    pub time: Duration,
}

/// Publishes `events`, pairs of JSON and id, and waits for all answers. If `sent_at` is as long as `events`, the
/// nanoseconds from `clock` to each send are stored in it.
///
/// # Errors
/// If a connection cannot be opened or is lost.
pub fn publish(
    endpoint: &Endpoint,
    events: &[(&str, [u8; 32])],
    options: &Options,
    clock: Instant,
    sent_at: &[AtomicU64],
) -> Result<Outcome> {
    let mut connections = Vec::new();
    for number in 0..options.connections.clamp(1, events.len().max(1)) {
        let connection = endpoint.connect(16 << 10)?;
        connection.set_nonblocking()?;
        connections.push(Connected {
            connection,
            number,
            next: 0,
            oldest: 0,
            unanswered: 0,
            slots: Vec::new(),
            unexpected_answers: 0,
        });
    }
    let connection_count = connections.len();
    for connected in &mut connections {
        let of_connection = events.iter().skip(connected.number).step_by(connection_count);
        // Frames are rendered before the clock starts.
        connected.slots = of_connection.map(|(json, id)| Slot::new(json, *id)).collect();
    }
    let mut groups: Vec<Vec<Connected>> =
        (0..options.threads.clamp(1, connection_count)).map(|_| Vec::new()).collect();
    let group_count = groups.len();
    connections.into_iter().for_each(|connected| groups[connected.number % group_count].push(connected));

    let start = Instant::now();
    let drive = |connections: Vec<Connected>| {
        Driver { connections, connection_count, options, start, clock, sent_at }.run()
    };
    let groups = std::thread::scope(|scope| {
        let workers: Vec<_> =
            groups.into_iter().map(|connections| scope.spawn(|| drive(connections))).collect();
        workers.into_iter().map(|worker| worker.join().expect("no panic")).collect::<Result<Vec<_>>>()
    })?;
    let mut outcome = Outcome { time: start.elapsed(), ..Outcome::default() };
    outcome.verdicts.resize(events.len(), None);
    for connected in groups.into_iter().flatten() {
        outcome.unexpected_answers += connected.unexpected_answers;
        for (at, slot) in connected.slots.into_iter().enumerate() {
            outcome.micros.extend(slot.verdict.is_some().then_some(slot.micros));
            outcome.verdicts[at * connection_count + connected.number] = slot.verdict;
        }
    }
    Ok(outcome)
}

struct Slot {
    id: [u8; 32],
    frame: Option<Message>,
    sent: Option<Instant>,
    verdict: Option<Verdict>,
    micros: u32,
}

impl Slot {
    fn new(json: &str, id: [u8; 32]) -> Self {
        let frame = Some(Message::text(format!(r#"["EVENT",{json}]"#)));
        Slot { id, frame, sent: None, verdict: None, micros: 0 }
    }
}

/// A connection, and the events that are published over it.
struct Connected {
    connection: Connection,
    number: usize,
    /// The next slot to send.
    next: usize,
    /// The first slot without an answer.
    oldest: usize,
    unanswered: usize,
    slots: Vec<Slot>,
    unexpected_answers: usize,
}

struct Driver<'a> {
    connections: Vec<Connected>,
    connection_count: usize,
    options: &'a Options,
    start: Instant,
    clock: Instant,
    sent_at: &'a [AtomicU64],
}

impl Driver<'_> {
    fn run(mut self) -> Result<Vec<Connected>> {
        let mut poll = Poll::new()?;
        for (token, connected) in self.connections.iter().enumerate() {
            let fd = connected.connection.stream().as_raw_fd();
            let interest = Interest::READABLE | Interest::WRITABLE;
            poll.registry().register(&mut SourceFd(&fd), Token(token), interest)?;
        }
        let wait = match self.options.rate {
            Some(_) => Duration::from_millis(1),
            None => Duration::from_millis(100),
        };
        let mut events = Events::with_capacity(256);
        for at in 0..self.connections.len() {
            self.step(at)?;
        }
        while !self.connections.iter().all(Connected::is_done) {
            if self.start.elapsed() > self.options.time_max {
                break;
            }
            if let Err(error) = poll.poll(&mut events, Some(wait))
                && error.kind() != std::io::ErrorKind::Interrupted
            {
                return Err(error).context("waiting for sockets");
            }
            for event in &events {
                self.step(event.token().0)?;
            }
            if self.options.rate.is_some() {
                (0..self.connections.len()).try_for_each(|at| self.fill(at))?;
            }
        }
        Ok(self.connections)
    }

    /// Reads all available answers, then fills the window.
    fn step(&mut self, at: usize) -> Result<()> {
        let connected = &mut self.connections[at];
        connected.take_answers()?;
        self.fill(at)
    }

    fn fill(&mut self, at: usize) -> Result<()> {
        let due = self.options.rate.map(|rate| (self.start.elapsed().as_secs_f64() * rate) as usize);
        let connected = &mut self.connections[at];
        let window = self.options.window.max(1);
        let mut now = None;
        while connected.unanswered < window && connected.next < connected.slots.len() {
            let number = connected.next * self.connection_count + connected.number;
            if due.is_some_and(|due| number >= due) {
                break;
            }
            let slot = &mut connected.slots[connected.next];
            let now = *now.get_or_insert_with(Instant::now);
            if let Some(sent_at) = self.sent_at.get(number) {
                sent_at.store((now - self.clock).as_nanos() as u64, Ordering::Release);
            }
            slot.sent = Some(now);
            let frame = slot.frame.take().expect("each slot is sent once");
            connected.connection.queue(frame)?;
            connected.next += 1;
            connected.unanswered += 1;
        }
        // A blocked flush continues when the socket is writable again.
        let (Progress::Done | Progress::Blocked) = connected.connection.flush()?;
        Ok(())
    }
}

impl Connected {
    /// Whether every event has been sent and answered.
    fn is_done(&self) -> bool {
        self.next == self.slots.len() && self.unanswered == 0
    }

    fn take_answers(&mut self) -> Result<()> {
        let Connected { connection, slots, unanswered, unexpected_answers, next, oldest, .. } = self;
        connection.read(|text| {
            let Frame::Ok { id, accepted, reason } = Frame::read(text)? else { return Ok(true) };
            // Relays answer nearly in order, so the first comparison usually finds it.
            let slot = slots[*oldest..*next].iter_mut().find(|slot| slot.id == id && slot.verdict.is_none());
            let Some(slot) = slot else {
                *unexpected_answers += 1;
                return Ok(true);
            };
            slot.micros = slot.sent.map_or(0, |sent| micros(sent.elapsed()));
            slot.verdict = Some(match accepted {
                true => Verdict::Accepted,
                false => Verdict::Refused(reason.trim_matches([',', '"', ']', ' ']).to_owned()),
            });
            *unanswered -= 1;
            while slots.get(*oldest).is_some_and(|slot| slot.verdict.is_some()) {
                *oldest += 1;
            }
            Ok(true)
        })?;
        Ok(())
    }
}

/// Largest window.
pub const WINDOW_MAX: usize = 4_096;

/// Reads events back by id, and returns how many of `ids` the relay has.
///
/// # Errors
/// If the connection is lost or the relay refuses.
pub fn read_back(endpoint: &Endpoint, ids: &[[u8; 32]]) -> Result<usize> {
    let mut connection = endpoint.connect(64 << 10)?;
    let mut found = 0;
    for (number, chunk) in ids.chunks(100).enumerate() {
        let sub = format!("r{number}");
        let list: Vec<String> = chunk.iter().map(|id| hex::encode(id)).collect();
        connection.send(serde_json::json!(["REQ", sub, { "ids": list }]).to_string())?;
        connection.read(|text| match Frame::read(text)? {
            Frame::Event { sub: answered, id } if answered == sub => {
                found += usize::from(chunk.contains(&id));
                Ok(true)
            }
            Frame::Closed(answered) if answered == sub => bail!("reading back was refused: {text}"),
            Frame::Eose(answered) => Ok(answered != sub),
            _ => Ok(true),
        })?;
        connection.send(serde_json::json!(["CLOSE", sub]).to_string())?;
    }
    Ok(found)
}
