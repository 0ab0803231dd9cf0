//! Customers: each has a connection, sends requests of many keys, and is subscribed to all answers.

use std::collections::{BTreeSet, VecDeque};

use relay_agent::cipher::Cipher;
use relay_agent::testing::{Customer as Keys, Request};
use relay_engine::relay::ConnId;
use relay_engine::types::{Event, EventId};
use serde_json::Value;

use super::World;
use super::relay::SimulatedShards;

/// Bytes of output that a client reads at once.
const DRAINED_BYTES: usize = 4_096;
/// The kind of all jobs here.
pub(super) const KIND: u16 = 5_050;

/// A client's connection, and what it knows.
pub(super) struct Customer {
    pub(super) shard: usize,
    pub(super) conn: ConnId,
    /// Messages that the relay has not read.
    outgoing: VecDeque<String>,
    /// Events that the relay has not answered: sent again on the next connection.
    unanswered: Vec<Event>,
    /// Events for which it was told `OK true`.
    pub(super) accepted: BTreeSet<EventId>,
    /// Answers that it was sent.
    pub(super) received: BTreeSet<EventId>,
    is_subscribed: bool,
}

impl Customer {
    pub(super) fn connect(shards: &mut SimulatedShards, now: relay_engine::types::Now, shard: usize) -> Self {
        let mut customer = Customer {
            shard,
            conn: shards.connect(now, shard),
            outgoing: VecDeque::new(),
            unanswered: Vec::new(),
            accepted: BTreeSet::new(),
            received: BTreeSet::new(),
            is_subscribed: false,
        };
        customer.subscribe();
        customer
    }

    fn subscribe(&mut self) {
        self.is_subscribed = true;
        let kinds = [KIND + 1_000, relay_agent::nip90::KIND_FEEDBACK];
        self.outgoing.push_back(format!(r#"["REQ","answers",{{"kinds":{kinds:?},"limit":5000}}]"#));
    }

    fn send(&mut self, event: &Event) {
        self.unanswered.push(event.clone());
        self.outgoing.push_back(message(event));
    }

    /// Whether it has nothing more to send and no answer is missing.
    pub(super) fn is_quiet(&self) -> bool {
        self.outgoing.is_empty() && self.unanswered.is_empty() && self.is_subscribed
    }

    fn receive(&mut self, frame: &str) {
        let frame: Value = serde_json::from_str(frame).expect("frames are JSON");
        match frame[0].as_str() {
            Some("OK") => {
                let id = EventId::from_hex(frame[1].as_str().unwrap_or_default().as_bytes());
                let id = id.expect("OK names an id");
                let (is_accepted, why) = (frame[2] == true, frame[3].as_str().unwrap_or_default());
                // The store has failed: it is sent once more.
                if !is_accepted && why.starts_with("error:") {
                    let again = self.unanswered.iter().find(|event| event.id == id).map(message);
                    return self.outgoing.extend(again);
                }
                if is_accepted {
                    self.accepted.insert(id);
                }
                self.unanswered.retain(|event| event.id != id);
            }
            Some("EVENT") => {
                assert_eq!(frame[1], "answers");
                let id = frame[2]["id"].as_str().unwrap_or_default();
                self.received.insert(EventId::from_hex(id.as_bytes()).expect("an id"));
            }
            // The store has failed.
            Some("CLOSED") => self.subscribe(),
            _ => {}
        }
    }
}

fn message(event: &Event) -> String {
    format!(r#"["EVENT",{}]"#, String::from_utf8_lossy(event.json()))
}

impl World {
    /// The keys of whoever has made a request.
    fn keys_of(number: usize) -> Keys {
        // Each by another key: one is not told of many errors a minute.
        Keys::new(1 + number as u64)
    }

    /// A customer orders something.
    pub(super) fn order(&mut self, client: usize) {
        let number = self.requests.len();
        let agents: Vec<_> = self.agents.keys().copied().collect();
        let agent = *self.rng.pick(&agents);
        let mut request = Request::new(KIND, self.now.seconds()).text(&format!("job {number}"));
        let is_open = self.rng.one_in(5);
        if !is_open {
            request = request.to(&agent);
        }
        match self.rng.below(8) {
            0 => request = request.tag(&["i", "x", "data"]),
            1 if number > 0 => {
                let input = self.rng.pick(&self.requests).id.to_string();
                request = request.tag(&["i", &input, if self.rng.one_in(2) { "event" } else { "job" }]);
            }
            2 if !is_open => request = request.encrypted(Cipher::Nip44, &agent),
            // For several at once.
            3 if !is_open => request = agents.iter().fold(request, |request, agent| request.to(agent)),
            _ => {}
        }
        let event = Self::keys_of(number).sign(&request);
        self.requests.push(event.clone());
        self.customers[client].send(&event);
    }

    /// The same request once more, perhaps by another connection.
    pub(super) fn order_again(&mut self, client: usize) {
        if !self.requests.is_empty() {
            let event = self.rng.pick(&self.requests).clone();
            self.customers[client].send(&event);
        }
    }

    /// A request is taken back, perhaps before the relay has it.
    pub(super) fn cancel(&mut self, client: usize) {
        if !self.requests.is_empty() {
            let number = self.pick(self.requests.len());
            let id = self.requests[number].id;
            let event = Self::keys_of(number).cancel(&[id], self.now.seconds());
            self.cancelled.push(id);
            self.customers[client].send(&event);
        }
    }

    /// The relay reads a message; whether there was one.
    pub(super) fn read(&mut self, client: usize) -> bool {
        let Customer { shard, conn, ref mut outgoing, .. } = self.customers[client];
        let relay = &mut self.shards.shards[shard].relay;
        if !relay.wants_input(conn) {
            return false;
        }
        let Some(text) = outgoing.pop_front() else { return false };
        relay.handle_text(self.now, conn, text.as_bytes());
        self.take_closed();
        true
    }

    /// A client reads what it was sent; whether that was anything.
    pub(super) fn drain(&mut self, client: usize) -> bool {
        let (shard, conn) = (self.customers[client].shard, self.customers[client].conn);
        let mut frames = Vec::new();
        self.shards.shards[shard].relay.drain(conn, DRAINED_BYTES, &mut |frame| {
            let mut bytes = Vec::with_capacity(frame.len());
            frame.write_to(&mut bytes);
            frames.push(String::from_utf8(bytes).expect("frames are UTF-8"));
        });
        frames.iter().for_each(|frame| self.customers[client].receive(frame));
        !frames.is_empty()
    }

    /// Connections that the relay closes are opened again.
    fn take_closed(&mut self) {
        for shard in 0..self.shards.len() {
            while self.shards.shards[shard].relay.poll_ready().is_some() {}
            while self.shards.shards[shard].relay.poll_input_resumed().is_some() {}
            while let Some((conn, _)) = self.shards.shards[shard].relay.poll_close() {
                let is_it = |customer: &Customer| customer.shard == shard && customer.conn == conn;
                if let Some(client) = self.customers.iter().position(is_it) {
                    self.disconnect(client);
                }
            }
        }
    }

    /// A connection ends, and its client opens another one.
    pub(super) fn disconnect(&mut self, client: usize) {
        self.report.disconnects += 1;
        let (shard, conn) = (self.customers[client].shard, self.customers[client].conn);
        self.shards.shards[shard].relay.disconnect(conn);
        self.reconnect(client);
    }

    /// A client connects again, and sends again what was not answered.
    pub(super) fn reconnect(&mut self, client: usize) {
        let shard = self.customers[client].shard;
        let conn = self.shards.connect(self.now, shard);
        let customer = &mut self.customers[client];
        (customer.conn, customer.outgoing) = (conn, VecDeque::new());
        customer.subscribe();
        let again: Vec<String> = customer.unanswered.iter().map(message).collect();
        customer.outgoing.extend(again);
    }

    /// A step of a shard.
    pub(super) fn work(&mut self, shard: usize, choice: u64) {
        self.shards.work(self.now, shard, choice);
        self.take_closed();
        self.take_published();
    }

    /// The writer's turn.
    pub(super) fn commit(&mut self) {
        self.shards.commit(self.now);
        self.report.failed_commits = self.shards.failed;
    }
}
