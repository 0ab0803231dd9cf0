//! The simulated host: it owns the shards, their consumers, the clock and the queues between them, and makes the choices.

use std::collections::{HashMap, HashSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use relay_engine::relay::{
    ClientInfo, Commit, CommitReply, Committed, Config, ConnId, LiveEvent, PublishOutcome, Relay, Ticket,
    VerifyBatch, VerifyResult, commit,
};
use relay_engine::store::{MemoryBackend, REMOVED_KEYS_MAX, TermClasses, remove_pending, sweep_expired};
use relay_engine::testing::{EventGenerator, FailingBackend, Rng};
use relay_engine::types::{Class, EventId, Now};

mod idle;
mod setup;

use super::Report;
use super::client::{Client, GroundTruth, Meaning, Message};
use super::consumer::Consumer;
use super::history::{History, NOT_REMOVED, Store};
use super::messages::next_message;
use super::pool::{FakeVerifier, Pool, URL, is_signed};
use crate::choices::Choices;

/// Upper bound of the length of a frame.
const FRAME_BYTES_MAX: usize = 2_048;

/// A message of the writer or of another shard to a shard.
enum ShardMessage {
    Reply(CommitReply),
    Live(Vec<LiveEvent>),
}

struct Shard {
    relay: Relay<Store>,
    verifying: VecDeque<VerifyBatch>,
    checked: VecDeque<VerifyResult>,
    inbox: VecDeque<ShardMessage>,
}

/// The whole simulation.
pub(super) struct Host<'a> {
    pub(super) choices: Choices<'a>,
    pub(super) pool: Pool,
    pub(super) config: Arc<Config>,
    verifier: FakeVerifier,
    pub(super) store: Store,
    pub(super) history: History,
    pub(super) clients: Vec<Client>,
    pub(super) now: Now,
    shards: Vec<Shard>,
    /// Commits that wait for the writer, each with its shard.
    commits: VecDeque<(usize, Commit)>,
    /// How often each validly signed ephemeral event was sent to a shard, and the step of the last time.
    ephemeral: HashMap<EventId, (usize, u64)>,
    /// Events for which any client received `OK true`.
    accepted: HashSet<EventId>,
    /// One for each shard.
    consumers: Vec<Consumer>,
    /// Events that the host has published itself and whose outcome has not come, by shard and ticket.
    published: HashMap<(usize, Ticket), EventId>,
    step: u64,
    /// Times the process has started.
    boots: u64,
    pub(super) report: Report,
}

impl<'a> Host<'a> {
    /// A relay with a random configuration and clients that have just connected.
    pub(super) fn new(setup_seed: u64, choices: Choices<'a>) -> Self {
        let mut rng = Rng::new(setup_seed);
        let config = Arc::new(Config {
            limits: setup::limits(&mut rng),
            policy: setup::policy(setup_seed),
            url: Some(URL.to_owned()),
            frame_cost: [0, 5][(setup_seed / 3 % 2) as usize],
        });
        let classes = TermClasses { all: !rng.one_in(4), author_kind: !rng.one_in(4) };
        let removed_keys_max = [REMOVED_KEYS_MAX, 0, 40][(setup_seed % 3) as usize];
        let (shards, clients) = (1 + rng.below(3) as usize, 1 + rng.below(5) as usize);
        let mut host = Host {
            choices,
            pool: Pool::new(rng.bits()),
            config,
            verifier: FakeVerifier { prefers_batch_hashing: Rng::new(!setup_seed).one_in(2) },
            store: Rc::new(FailingBackend::new(
                MemoryBackend::new(classes).with_removed_keys_max(removed_keys_max),
            )),
            history: History::default(),
            clients: Vec::new(),
            now: Now::from_seconds(EventGenerator::START),
            shards: Vec::new(),
            commits: VecDeque::new(),
            ephemeral: HashMap::new(),
            accepted: HashSet::new(),
            published: HashMap::new(),
            consumers: (0..shards).map(|index| Consumer::new(setup::consumer_filter(index))).collect(),
            step: 0,
            boots: 0,
            report: Report::default(),
        };
        host.boot(shards);
        for index in 0..clients {
            let client = host.connect(index % shards);
            host.clients.push(client);
        }
        host
    }

    /// Makes one choice and carries it out.
    pub(super) fn step(&mut self) {
        self.step += 1;
        let client = self.choices.index(self.clients.len());
        let shard = self.clients[client].shard;
        match self.choices.below(75) {
            0..=11 => self.send(client),
            12..=23 => drop(self.read(client)),
            24..=28 => drop(self.close_batch(shard, self.step.is_multiple_of(2))),
            29..=32 => drop(self.check_batch(shard)),
            33..=36 => drop(self.apply_verdicts(shard)),
            37..=39 => drop(self.collect_commit(shard)),
            40..=42 => drop(self.commit()),
            43..=46 => drop(self.deliver_message(shard)),
            47..=51 => drop(self.work(shard)),
            52..=57 => {
                let some = 1 + self.choices.below(4_096) as usize;
                // Now and then a client reads everything that waits for it.
                let bytes_max = if some.is_multiple_of(8) { usize::MAX } else { some };
                self.drain(client, bytes_max);
            }
            58 | 59 => {
                let ms = self.choices.below(1_500);
                self.tick(ms);
            }
            60 => self.store.fail_at(1 + self.choices.below(40)),
            61 if self.step.is_multiple_of(2) => self.sweep(),
            61 => drop(self.remove_pending()),
            62 if self.choices.one_in(3) => self.disconnect(client),
            63 if self.choices.one_in(12) => self.crash(),
            64..=69 => {
                let max = 1 + self.choices.index(8);
                self.consumers[shard].receive(&mut self.shards[shard].relay, max);
                self.poll_outputs(shard);
            }
            70 => self.consumers[shard].confirm(&self.shards[shard].relay),
            72..=74 => self.publish(shard),
            71 if self.choices.one_in(3) => self.consumers[shard].close(&mut self.shards[shard].relay),
            71 => self.consumers[shard].open(&mut self.shards[shard].relay),
            _ => {}
        }
    }

    /// Counts of what happened.
    pub(super) fn report(&mut self) -> Report {
        for shard in std::mem::take(&mut self.shards) {
            self.count(&shard);
        }
        Report {
            frames: self.report.frames + self.clients.iter().map(|client| client.frames).sum::<usize>(),
            stored: self.history.entries.len(),
            removed: self.history.entries.iter().filter(|entry| entry.removed_in != NOT_REMOVED).count(),
            redelivered: self.consumers.iter().map(Consumer::redelivered).sum(),
            ..self.report
        }
    }

    /// Adds the counters of a shard.
    fn count(&mut self, shard: &Shard) {
        let metrics = shard.relay.metrics();
        self.report.lagged += metrics.subscriptions_lagged;
        self.report.streams_lagged += metrics.streams_lagged;
        self.report.stream_errors += metrics.stream_errors;
        self.report.deferred += metrics.deliveries_deferred;
    }

    pub(super) fn truth(&self) -> GroundTruth<'_> {
        let limits = &self.config.limits;
        GroundTruth {
            pool: &self.pool,
            history: &self.history,
            ephemeral: &self.ephemeral,
            accepted: &self.accepted,
            limits: (limits.limit_default, limits.limit_max),
            now: self.now.seconds(),
            step: self.step,
        }
    }

    fn boot(&mut self, shards: usize) {
        self.boots += 1;
        for shard in 0..shards {
            let seed = [self.boots as u8 * 16 + shard as u8; 32];
            let mut relay =
                Relay::new(Arc::clone(&self.config), self.store.clone(), Arc::new(self.verifier), seed);
            self.consumers[shard].open(&mut relay);
            let (verifying, checked, inbox) = (VecDeque::new(), VecDeque::new(), VecDeque::new());
            self.shards.push(Shard { relay, verifying, checked, inbox });
        }
    }

    fn connect(&mut self, shard: usize) -> Client {
        let peer = ClientInfo { host_header: Some("relay.example".to_owned()), address: None };
        let conn = self.shards[shard].relay.connect(self.now, peer).expect("there is room");
        Client::new(shard, conn)
    }

    fn send(&mut self, client: usize) {
        let client = &mut self.clients[client];
        if client.socket.len() < 24 {
            let message = next_message(client, &self.pool, &mut self.choices, self.now.seconds());
            client.socket.push_back(message);
        }
    }

    /// The host reads one message. False if there is none or the machine wants no input.
    fn read(&mut self, index: usize) -> bool {
        let client = &mut self.clients[index];
        let shard = client.shard;
        if client.paused || client.socket.is_empty() {
            return false;
        }
        let relay = &mut self.shards[shard].relay;
        if !relay.wants_input(client.conn) {
            client.paused = true;
            self.report.pauses += 1;
            return false;
        }
        let Some(Message { text, meaning }) = client.socket.pop_front() else { return false };
        if let Meaning::Event(id, true) = &meaning
            && self.pool.signed(id).is_some_and(|event| event.class() == Class::Ephemeral)
        {
            let sent = self.ephemeral.entry(*id).or_default();
            *sent = (sent.0 + 1, self.step);
        }
        client.on_host_read(meaning, &self.history);
        relay.handle_text(self.now, client.conn, text.as_bytes());
        self.poll_outputs(shard);
        true
    }

    /// The host publishes an event itself.
    fn publish(&mut self, shard: usize) {
        let event = self.pool.events[self.choices.index(self.pool.events.len())].clone();
        if event.class() == Class::Ephemeral {
            let sent = self.ephemeral.entry(event.id).or_default();
            *sent = (sent.0 + 1, self.step);
        }
        let ticket = self.shards[shard].relay.publish(self.now, &event);
        self.published.insert((shard, ticket), event.id);
        self.poll_outputs(shard);
    }

    fn check_published(&mut self, shard: usize) {
        while let Some((ticket, outcome)) = self.shards[shard].relay.poll_published() {
            let id = self.published.remove(&(shard, ticket)).expect("one outcome for each");
            let ephemeral = self.ephemeral.contains_key(&id);
            match outcome {
                PublishOutcome::Stored(seq) => {
                    assert!(
                        self.history.entries_of(id).any(|entry| entry.seq == seq),
                        "it was stored under that sequence number"
                    );
                }
                PublishOutcome::Delivered => {
                    assert!(ephemeral, "only ephemeral events are delivered without being stored")
                }
                PublishOutcome::Duplicate => {
                    assert!(ephemeral || self.history.entries_of(id).next().is_some(), "{id} is nowhere");
                }
                PublishOutcome::Superseded => assert!(!ephemeral, "ephemeral events are never superseded"),
                PublishOutcome::Forged(message)
                | PublishOutcome::Refused(message)
                | PublishOutcome::Failed(message) => {
                    assert!(message.contains(": "), "{message}")
                }
            }
            self.report.published += 1;
        }
    }

    fn close_batch(&mut self, shard: usize, idle: bool) -> bool {
        let batch = self.shards[shard].relay.poll_verify(self.now, idle);
        let some = batch.is_some();
        self.shards[shard].verifying.extend(batch);
        some
    }

    fn check_batch(&mut self, shard: usize) -> bool {
        let shard = &mut self.shards[shard];
        let Some(batch) = shard.verifying.pop_front() else { return false };
        shard.checked.push_back(batch.verify(&self.verifier));
        true
    }

    fn apply_verdicts(&mut self, shard: usize) -> bool {
        let Some(checked) = self.shards[shard].checked.pop_front() else { return false };
        self.shards[shard].relay.handle_verified(self.now, checked);
        self.poll_outputs(shard);
        true
    }

    fn collect_commit(&mut self, shard: usize) -> bool {
        let Some(commit) = self.shards[shard].relay.poll_commit() else { return false };
        assert!(!commit.is_empty());
        self.commits.push_back((shard, commit));
        true
    }

    /// The writer makes all waiting commits durable.
    fn commit(&mut self) -> bool {
        if self.commits.is_empty() {
            return false;
        }
        let (shards, commits): (Vec<usize>, Vec<Commit>) = self.commits.drain(..).unzip();
        let Committed { replies, live, error } = commit(&self.store, self.now, commits);
        assert_eq!(replies.len(), shards.len(), "one reply for each");
        assert!(live.iter().all(|live| is_signed(&live.event)), "only verified events are stored");
        let nothing_kept = error.is_some() && shards.len() == 1;
        self.report.failed += usize::from(error.is_some());
        self.history.committed(&self.store, &live, nothing_kept);
        let live_first = self.step.is_multiple_of(2);
        if live_first {
            self.send_live(&live);
        }
        for (shard, reply) in shards.into_iter().zip(replies) {
            self.shards[shard].inbox.push_back(ShardMessage::Reply(reply));
        }
        if !live_first {
            self.send_live(&live);
        }
        true
    }

    fn send_live(&mut self, live: &[LiveEvent]) {
        if !live.is_empty() {
            for shard in &mut self.shards {
                shard.inbox.push_back(ShardMessage::Live(live.to_vec()));
            }
        }
    }

    fn deliver_message(&mut self, shard: usize) -> bool {
        let Some(message) = self.shards[shard].inbox.pop_front() else { return false };
        let relay = &mut self.shards[shard].relay;
        match message {
            ShardMessage::Reply(reply) => relay.handle_committed(self.now, reply),
            ShardMessage::Live(live) => relay.handle_live(self.now, &live),
        }
        self.poll_outputs(shard);
        true
    }

    fn work(&mut self, shard: usize) -> bool {
        let more = self.shards[shard].relay.work(self.now);
        self.poll_outputs(shard);
        more
    }

    /// The client reads about `bytes_max` bytes, if the machine has named its connection as ready.
    fn drain(&mut self, index: usize, bytes_max: usize) -> bool {
        if !self.clients[index].ready {
            return false;
        }
        let (shard, conn) = (self.clients[index].shard, self.clients[index].conn);
        let mut frames: Vec<Vec<u8>> = Vec::new();
        let more = self.shards[shard].relay.drain(conn, bytes_max, &mut |frame| {
            let mut bytes = Vec::with_capacity(frame.len());
            frame.write_to(&mut bytes);
            assert_eq!(bytes.len(), frame.len(), "the length of a frame");
            frames.push(bytes);
        });
        assert!(!(more && frames.is_empty()), "at least one frame if there is any");
        let drained: usize = frames.iter().map(Vec::len).sum();
        let drained_max = self.config.limits.outbox_bytes_max + FRAME_BYTES_MAX;
        assert!(
            drained <= drained_max,
            "{drained} bytes were queued for one client, {drained_max} are allowed"
        );
        self.clients[index].ready = more;
        self.check_frames(index, &frames);
        self.poll_outputs(shard);
        true
    }

    fn check_frames(&mut self, index: usize, frames: &[Vec<u8>]) {
        let conn = self.clients[index].conn;
        let mut client = std::mem::replace(&mut self.clients[index], Client::new(0, conn));
        for frame in frames {
            client.receive(frame, &self.truth());
        }
        self.accepted.extend(client.accepted.drain(..));
        self.clients[index] = client;
    }

    /// Polls everything that the machine has for its host after a change.
    fn poll_outputs(&mut self, shard: usize) {
        while let Some(conn) = self.shards[shard].relay.poll_ready() {
            if let Some(client) = self.client_of(shard, conn) {
                self.clients[client].ready = true;
            }
        }
        while let Some(conn) = self.shards[shard].relay.poll_input_resumed() {
            if let Some(client) = self.client_of(shard, conn) {
                self.clients[client].paused = false;
            }
        }
        while let Some(live) = self.shards[shard].relay.poll_forwarded() {
            self.forward_ephemeral(shard, &live);
        }
        self.check_published(shard);
        while let Some((conn, close)) = self.shards[shard].relay.poll_close() {
            assert!(
                !close.reason.is_empty() && close.reason.len() <= 123,
                "a reason that fits a close frame"
            );
            if let Some(client) = self.client_of(shard, conn) {
                self.disconnect(client);
            }
        }
    }

    fn forward_ephemeral(&mut self, from: usize, live: &LiveEvent) {
        assert!(live.event.class() == Class::Ephemeral && is_signed(&live.event), "verified and ephemeral");
        for (index, shard) in self.shards.iter_mut().enumerate() {
            if index != from {
                shard.inbox.push_back(ShardMessage::Live(vec![live.clone()]));
            }
        }
    }

    fn client_of(&self, shard: usize, conn: ConnId) -> Option<usize> {
        self.clients.iter().position(|client| client.shard == shard && client.conn == conn)
    }

    fn tick(&mut self, ms: u64) {
        self.now = self.now.plus_millis(ms);
        for shard in 0..self.shards.len() {
            let relay = &mut self.shards[shard].relay;
            if relay.poll_timeout().is_some_and(|at| at <= self.now) {
                let had_work = relay.has_work();
                relay.handle_timeout(self.now);
                let batch = relay.poll_verify(self.now, false);
                let woke = relay.has_work() && !had_work;
                assert!(batch.is_some() || woke || had_work, "a timeout that is due leads to work");
                self.shards[shard].verifying.extend(batch);
            }
        }
    }

    fn sweep(&mut self) {
        let now = self.now.seconds();
        let events_max = 1 + self.choices.index(5);
        // A failed sweep removes nothing; the history checks that.
        let swept = sweep_expired(&self.store, now, events_max);
        let before = self.history.present().count();
        self.history.swept(&self.store, now);
        assert_eq!(
            before - self.history.present().count(),
            swept.map_or(0, |swept| swept.events),
            "the count of swept events"
        );
    }

    /// One step towards removing events pending removal, which changes nothing that a client sees. Returns whether there are more.
    fn remove_pending(&mut self) -> bool {
        let removed = remove_pending(&self.store);
        self.history.committed(&self.store, &[], true);
        removed.is_ok_and(|removed| removed.more)
    }

    fn disconnect(&mut self, index: usize) {
        self.report.disconnects += 1;
        let (shard, conn) = (self.clients[index].shard, self.clients[index].conn);
        self.shards[shard].relay.disconnect(conn);
        let client = self.connect(shard);
        self.report.frames += std::mem::replace(&mut self.clients[index], client).frames;
        self.poll_outputs(shard);
    }

    /// The process crashes: what was committed stays, everything else is lost.
    fn crash(&mut self) {
        self.report.crashes += 1;
        let shards = self.shards.len();
        self.consumers.iter_mut().for_each(Consumer::crash);
        for shard in std::mem::take(&mut self.shards) {
            self.count(&shard);
        }
        self.commits.clear();
        self.published.clear();
        self.boot(shards);
        for index in 0..self.clients.len() {
            let client = self.connect(self.clients[index].shard);
            self.report.frames += std::mem::replace(&mut self.clients[index], client).frames;
        }
        for shard in 0..shards {
            self.poll_outputs(shard);
        }
    }
}
