//! The host of a simulation: it owns the shards, the clock and the queues between them, and chooses.

use std::collections::{HashMap, HashSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use relay_engine::policy::Policy;
use relay_engine::relay::{
    Commit, CommitReply, Committed, Config, ConnId, Live, Peer, PublishOutcome, Relay, Ticket, VerifyBatch,
    VerifyChecked, commit,
};
use relay_engine::store::{MemoryBackend, TermClasses, sweep_expired};
use relay_engine::testing::{FailingBackend, Rng, World};
use relay_engine::types::{Class, Event, EventId, Filter, Limits, Now};

use super::Report;
use super::client::{Client, Meaning, Message, Truth};
use super::consumer::Consumer;
use super::history::{FOREVER, History, Store};
use super::pool::{IdTwice, Pool, URL, is_signed};
use super::speech::speak;
use crate::chance::Chance;

/// Rounds within which a relay whose faults have stopped must come to rest.
const ROUNDS_MAX: usize = 20_000;
/// Frames and events are smaller than this.
const FRAME_BYTES_MAX: usize = 2_048;

/// What a shard will be told.
enum Letter {
    Reply(CommitReply),
    Live(Vec<Live>),
}

struct Shard {
    relay: Relay<Store>,
    verifying: VecDeque<VerifyBatch>,
    checked: VecDeque<VerifyChecked>,
    inbox: VecDeque<Letter>,
}

/// Everything.
pub(super) struct Host<'a> {
    pub(super) chance: Chance<'a>,
    pub(super) pool: Pool,
    pub(super) config: Arc<Config>,
    verifier: IdTwice,
    pub(super) store: Store,
    pub(super) history: History,
    pub(super) clients: Vec<Client>,
    pub(super) now: Now,
    shards: Vec<Shard>,
    commits: VecDeque<(usize, Commit)>,
    ephemeral: HashMap<EventId, (usize, u64)>,
    acked: HashSet<EventId>,
    /// One beside each shard.
    consumers: Vec<Consumer>,
    /// Events that the host has published itself, by shard and ticket, and not heard of.
    published: HashMap<(usize, Ticket), EventId>,
    step: u64,
    lives: u64,
    pub(super) report: Report,
}

impl<'a> Host<'a> {
    /// A relay with a random configuration and clients that have just connected.
    pub(super) fn new(world: u64, chance: Chance<'a>) -> Self {
        let mut rng = Rng::new(world);
        let config =
            Arc::new(Config { limits: limits(&mut rng), policy: policy(world), url: Some(URL.to_owned()) });
        let classes = TermClasses { all: !rng.one_in(4), author_kind: !rng.one_in(4) };
        let (shards, clients) = (1 + rng.below(3) as usize, 1 + rng.below(5) as usize);
        let mut host = Host {
            chance,
            pool: Pool::new(rng.bits()),
            config,
            verifier: IdTwice { hashes_batches: Rng::new(!world).one_in(2) },
            store: Rc::new(FailingBackend::new(MemoryBackend::new(classes))),
            history: History::default(),
            clients: Vec::new(),
            now: Now::from_seconds(World::START),
            shards: Vec::new(),
            commits: VecDeque::new(),
            ephemeral: HashMap::new(),
            acked: HashSet::new(),
            published: HashMap::new(),
            consumers: (0..shards).map(|place| Consumer::new(wanted(place))).collect(),
            step: 0,
            lives: 0,
            report: Report::default(),
        };
        host.boot(shards);
        for place in 0..clients {
            let client = host.connect(place % shards);
            host.clients.push(client);
        }
        host
    }

    /// One choice, carried out.
    pub(super) fn step(&mut self) {
        self.step += 1;
        let client = self.chance.place(self.clients.len());
        let shard = self.clients[client].shard;
        match self.chance.below(75) {
            0..=11 => self.say(client),
            12..=23 => drop(self.read(client)),
            24..=28 => drop(self.close_batch(shard, self.step.is_multiple_of(2))),
            29..=32 => drop(self.check_batch(shard)),
            33..=36 => drop(self.take_verdicts(shard)),
            37..=39 => drop(self.gather(shard)),
            40..=42 => drop(self.commit()),
            43..=46 => drop(self.open_letter(shard)),
            47..=51 => drop(self.work(shard)),
            52..=57 => {
                let some = 1 + self.chance.below(4_096) as usize;
                // Now and then a reader takes all that waits for it.
                let bytes_max = if some.is_multiple_of(8) { usize::MAX } else { some };
                self.drain(client, bytes_max);
            }
            58 | 59 => {
                let ms = self.chance.below(1_500);
                self.tick(ms);
            }
            60 => self.store.fail_at(1 + self.chance.below(40)),
            61 => self.sweep(),
            62 if self.chance.one_in(3) => self.disconnect(client),
            63 if self.chance.one_in(12) => self.crash(),
            64..=69 => {
                let max = 1 + self.chance.place(8);
                self.consumers[shard].take(&mut self.shards[shard].relay, max);
                self.settle(shard);
            }
            70 => self.consumers[shard].confirm(&self.shards[shard].relay),
            72..=74 => self.publish(shard),
            71 if self.chance.one_in(3) => self.consumers[shard].sleep(&mut self.shards[shard].relay),
            71 => self.consumers[shard].wake(&mut self.shards[shard].relay),
            _ => {}
        }
    }

    /// Faults stop, everybody reads, until nothing moves.
    ///
    /// # Panics
    /// If that takes too long.
    pub(super) fn come_to_rest(&mut self) {
        self.store.fail_at(0);
        // What failed is tried again when time has passed.
        self.tick(2_000);
        for _ in 0..ROUNDS_MAX {
            let mut moved = false;
            self.step += 1;
            for client in 0..self.clients.len() {
                while self.read(client) {
                    moved = true;
                }
                moved |= self.drain(client, usize::MAX);
            }
            for shard in 0..self.shards.len() {
                moved |= self.close_batch(shard, true);
                moved |= self.check_batch(shard);
                moved |= self.take_verdicts(shard);
                moved |= self.gather(shard);
                moved |= self.open_letter(shard);
                moved |= self.work(shard);
                let (consumer, relay) = (&mut self.consumers[shard], &mut self.shards[shard].relay);
                consumer.wake(relay);
                moved |= consumer.take(relay, usize::MAX);
                consumer.confirm(relay);
                moved |= relay.has_work();
            }
            moved |= self.commit();
            moved |= self.clients.iter().any(|client| client.ready);
            if !moved {
                return;
            }
        }
        panic!("the relay does not come to rest");
    }

    /// Nothing is open and nothing missing.
    ///
    /// # Panics
    /// If something is.
    pub(super) fn check_rest(&mut self) {
        for client in &self.clients {
            assert!(client.socket.is_empty(), "a connection was paused and never resumed");
            client.check_settled(&self.truth());
        }
        for id in &self.acked {
            let ephemeral = self.ephemeral.contains_key(id);
            assert!(
                ephemeral || self.history.stays_of(*id).next().is_some(),
                "{id} was accepted and is nowhere"
            );
        }
        self.history.committed(&self.store, &[], true);
        assert!(self.published.is_empty(), "the host was never told of {:?}", self.published);
        for consumer in &self.consumers {
            consumer.check(&self.history, self.now.seconds());
        }
        for client in &mut self.clients {
            client.settled = true;
        }
    }

    /// What happened.
    pub(super) fn report(&mut self) -> Report {
        for shard in std::mem::take(&mut self.shards) {
            self.count(&shard);
        }
        Report {
            frames: self.report.frames + self.clients.iter().map(|client| client.frames).sum::<usize>(),
            stored: self.history.stays.len(),
            removed: self.history.stays.iter().filter(|stay| stay.to != FOREVER).count(),
            redelivered: self.consumers.iter().map(Consumer::redelivered).sum(),
            ..self.report
        }
    }

    /// Adds what a shard counted.
    fn count(&mut self, shard: &Shard) {
        let metrics = shard.relay.metrics();
        self.report.lagged += metrics.subscriptions_lagged;
        self.report.streams_lagged += metrics.streams_lagged;
        self.report.stream_errors += metrics.stream_errors;
    }

    pub(super) fn truth(&self) -> Truth<'_> {
        let limits = &self.config.limits;
        Truth {
            pool: &self.pool,
            history: &self.history,
            ephemeral: &self.ephemeral,
            acked: &self.acked,
            limits: (limits.limit_default, limits.limit_max),
            now: self.now.seconds(),
            step: self.step,
        }
    }

    fn boot(&mut self, shards: usize) {
        self.lives += 1;
        for number in 0..shards {
            let seed = [self.lives as u8 * 16 + number as u8; 32];
            let mut relay =
                Relay::new(Arc::clone(&self.config), self.store.clone(), Arc::new(self.verifier), seed);
            self.consumers[number].wake(&mut relay);
            let (verifying, checked, inbox) = (VecDeque::new(), VecDeque::new(), VecDeque::new());
            self.shards.push(Shard { relay, verifying, checked, inbox });
        }
    }

    fn connect(&mut self, shard: usize) -> Client {
        let peer = Peer { host: Some("relay.example".to_owned()), address: None };
        let conn = self.shards[shard].relay.connect(self.now, peer).expect("there is room");
        Client::new(shard, conn)
    }

    fn say(&mut self, client: usize) {
        let client = &mut self.clients[client];
        if client.socket.len() < 24 {
            let message = speak(client, &self.pool, &mut self.chance, self.now.seconds());
            client.socket.push_back(message);
        }
    }

    /// The host reads one message. False if there is none or the machine wants none.
    fn read(&mut self, place: usize) -> bool {
        let client = &mut self.clients[place];
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
        client.hand(meaning, &self.history);
        relay.handle_text(self.now, client.conn, text.as_bytes());
        self.settle(shard);
        true
    }

    /// The host publishes an event itself.
    fn publish(&mut self, shard: usize) {
        let event = self.pool.events[self.chance.place(self.pool.events.len())].clone();
        if event.class() == Class::Ephemeral {
            let sent = self.ephemeral.entry(event.id).or_default();
            *sent = (sent.0 + 1, self.step);
        }
        let ticket = self.shards[shard].relay.publish(self.now, &event);
        self.published.insert((shard, ticket), event.id);
        self.settle(shard);
    }

    fn hear_of_published(&mut self, shard: usize) {
        while let Some((ticket, outcome)) = self.shards[shard].relay.poll_published() {
            let id = self.published.remove(&(shard, ticket)).expect("each is heard of once");
            let ephemeral = self.ephemeral.contains_key(&id);
            match outcome {
                PublishOutcome::Stored(seq) => {
                    assert!(
                        self.history.stays_of(id).any(|stay| stay.seq == seq),
                        "it was stored by that number"
                    );
                }
                PublishOutcome::Delivered => assert!(ephemeral, "what is stored is not just delivered"),
                PublishOutcome::Duplicate => {
                    assert!(ephemeral || self.history.stays_of(id).next().is_some(), "{id} is nowhere");
                }
                PublishOutcome::Superseded => assert!(!ephemeral, "nothing supersedes what is ephemeral"),
                PublishOutcome::Refused(words) | PublishOutcome::Failed(words) => {
                    assert!(words.contains(": "), "{words}")
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
        shard.checked.push_back(batch.check(&self.verifier));
        true
    }

    fn take_verdicts(&mut self, shard: usize) -> bool {
        let Some(checked) = self.shards[shard].checked.pop_front() else { return false };
        self.shards[shard].relay.handle_verified(self.now, checked);
        self.settle(shard);
        true
    }

    fn gather(&mut self, shard: usize) -> bool {
        let Some(commit) = self.shards[shard].relay.poll_commit() else { return false };
        assert!(!commit.is_empty());
        self.commits.push_back((shard, commit));
        true
    }

    /// The writer makes all that has been gathered durable.
    fn commit(&mut self) -> bool {
        if self.commits.is_empty() {
            return false;
        }
        let (shards, commits): (Vec<usize>, Vec<Commit>) = self.commits.drain(..).unzip();
        let Committed { replies, live, error } = commit(&self.store, self.now, commits);
        assert_eq!(replies.len(), shards.len(), "a reply to each");
        assert!(live.iter().all(|live| is_signed(&live.event)), "only what was verified is stored");
        let nothing_kept = error.is_some() && shards.len() == 1;
        self.report.failed += usize::from(error.is_some());
        self.history.committed(&self.store, &live, nothing_kept);
        let live_first = self.step.is_multiple_of(2);
        if live_first {
            self.post_live(&live);
        }
        for (shard, reply) in shards.into_iter().zip(replies) {
            self.shards[shard].inbox.push_back(Letter::Reply(reply));
        }
        if !live_first {
            self.post_live(&live);
        }
        true
    }

    fn post_live(&mut self, live: &[Live]) {
        if !live.is_empty() {
            for shard in &mut self.shards {
                shard.inbox.push_back(Letter::Live(live.to_vec()));
            }
        }
    }

    fn open_letter(&mut self, shard: usize) -> bool {
        let Some(letter) = self.shards[shard].inbox.pop_front() else { return false };
        let relay = &mut self.shards[shard].relay;
        match letter {
            Letter::Reply(reply) => relay.handle_committed(self.now, reply),
            Letter::Live(live) => relay.handle_live(self.now, &live),
        }
        self.settle(shard);
        true
    }

    fn work(&mut self, shard: usize) -> bool {
        let more = self.shards[shard].relay.work(self.now);
        self.settle(shard);
        more
    }

    /// The client reads up to about `bytes_max` bytes, if the host knows that there are any.
    fn drain(&mut self, place: usize, bytes_max: usize) -> bool {
        if !self.clients[place].ready {
            return false;
        }
        let (shard, conn) = (self.clients[place].shard, self.clients[place].conn);
        let mut frames: Vec<Vec<u8>> = Vec::new();
        let more = self.shards[shard].relay.drain(conn, bytes_max, &mut |frame| {
            let mut bytes = Vec::with_capacity(frame.len());
            frame.write_to(&mut bytes);
            assert_eq!(bytes.len(), frame.len(), "a frame knows its length");
            frames.push(bytes);
        });
        assert!(!(more && frames.is_empty()), "at least one frame if there is any");
        let waited: usize = frames.iter().map(Vec::len).sum();
        let waits_max = self.config.limits.outbox_bytes_max + FRAME_BYTES_MAX;
        assert!(waited <= waits_max, "{waited} bytes waited for one reader, of {waits_max}");
        self.clients[place].ready = more;
        self.hear(place, &frames);
        self.settle(shard);
        true
    }

    fn hear(&mut self, place: usize, frames: &[Vec<u8>]) {
        let conn = self.clients[place].conn;
        let mut client = std::mem::replace(&mut self.clients[place], Client::new(0, conn));
        for frame in frames {
            client.receive(frame, &self.truth());
        }
        self.acked.extend(client.accepted.drain(..));
        self.clients[place] = client;
    }

    /// Takes what the machine hands out after a change.
    fn settle(&mut self, number: usize) {
        while let Some(conn) = self.shards[number].relay.poll_ready() {
            if let Some(client) = self.client_of(number, conn) {
                self.clients[client].ready = true;
            }
        }
        while let Some(conn) = self.shards[number].relay.poll_input_resumed() {
            if let Some(client) = self.client_of(number, conn) {
                self.clients[client].paused = false;
            }
        }
        while let Some(event) = self.shards[number].relay.poll_relayed() {
            self.relay_on(number, &event);
        }
        self.hear_of_published(number);
        while let Some((conn, close)) = self.shards[number].relay.poll_close() {
            assert!(
                !close.reason.is_empty() && close.reason.len() <= 123,
                "a reason that fits a close frame"
            );
            if let Some(client) = self.client_of(number, conn) {
                self.disconnect(client);
            }
        }
    }

    fn relay_on(&mut self, from: usize, event: &Event) {
        assert!(event.class() == Class::Ephemeral && is_signed(event), "verified and ephemeral");
        for (number, shard) in self.shards.iter_mut().enumerate() {
            if number != from {
                shard.inbox.push_back(Letter::Live(vec![Live { seq: None, event: event.clone() }]));
            }
        }
    }

    fn client_of(&self, shard: usize, conn: ConnId) -> Option<usize> {
        self.clients.iter().position(|client| client.shard == shard && client.conn == conn)
    }

    fn tick(&mut self, ms: u64) {
        self.now = self.now.plus_millis(ms);
        for number in 0..self.shards.len() {
            let relay = &mut self.shards[number].relay;
            if relay.poll_timeout().is_some_and(|at| at <= self.now) {
                let had_work = relay.has_work();
                relay.handle_timeout(self.now);
                let batch = relay.poll_verify(self.now, false);
                let woke = relay.has_work() && !had_work;
                assert!(
                    batch.is_some() || woke || had_work,
                    "a timeout that has come leaves something to do"
                );
                self.shards[number].verifying.extend(batch);
            }
        }
    }

    fn sweep(&mut self) {
        let now = self.now.seconds();
        let events_max = 1 + self.chance.place(5);
        // A sweep that fails keeps everything, which the history sees.
        let swept = sweep_expired(&self.store, now, events_max);
        let before = self.history.alive().count();
        self.history.swept(&self.store, now);
        assert_eq!(before - self.history.alive().count(), swept.unwrap_or(0), "what was swept is gone");
    }

    fn disconnect(&mut self, place: usize) {
        self.report.disconnects += 1;
        let (shard, conn) = (self.clients[place].shard, self.clients[place].conn);
        self.shards[shard].relay.disconnect(conn);
        let client = self.connect(shard);
        self.report.frames += std::mem::replace(&mut self.clients[place], client).frames;
        self.settle(shard);
    }

    /// The process dies: what was committed stays, all else is gone.
    fn crash(&mut self) {
        self.report.crashes += 1;
        let shards = self.shards.len();
        self.consumers.iter_mut().for_each(Consumer::die);
        for shard in std::mem::take(&mut self.shards) {
            self.count(&shard);
        }
        self.commits.clear();
        self.published.clear();
        self.boot(shards);
        for place in 0..self.clients.len() {
            let client = self.connect(self.clients[place].shard);
            self.report.frames += std::mem::replace(&mut self.clients[place], client).frames;
        }
        for shard in 0..shards {
            self.settle(shard);
        }
    }
}

/// What the consumer beside a shard wants: everything, or some.
fn wanted(place: usize) -> Filter {
    match place {
        0 => Filter::default(),
        _ => Filter { kinds: Some([1, 5, 1059, 20_000].into()), ..Filter::default() },
    }
}

/// With everything in answers that clients hold against the truth, and a challenge on connect or when it is needed.
fn policy(world: u64) -> Policy {
    Policy { eose_hints: true, challenge_on_connect: world.is_multiple_of(2), ..Policy::default() }
}

/// Bounds so narrow that all of them are met.
fn limits(rng: &mut Rng) -> Limits {
    let outbox_bytes_pause = *rng.pick(&[600, 2_000, 1 << 20]);
    Limits {
        subscriptions_max: 2 + rng.below(5) as usize,
        limit_max: 1 + rng.below(40) as u32,
        limit_default: 1 + rng.below(40) as u32,
        scan_rows_max: 1 + rng.below(12) as usize,
        outbox_bytes_pause,
        outbox_bytes_max: outbox_bytes_pause * *rng.pick(&[2, 8]),
        deferred_messages_max: 1 + rng.below(5) as usize,
        verify_batch_max: 1 + rng.below(6) as usize,
        verify_wait_ms_max: rng.below(20),
        in_flight_events_max: 1 + rng.below(8) as usize,
        bad_messages_max: 3 + rng.below(20) as u32,
        shard_outbox_bytes_max: *rng.pick(&[2_000, 20_000, 1 << 20]),
        ..Limits::default()
    }
}
