//! The pure machine as a [`RelayUnderTest`]: shards over one memory store, in process, with a clock that only
//! [`RelayUnderTest::advance`] moves.
//!
//! The shards run only when a client receives. Messages sent before that, by all clients, share a verification batch and
//! a commit. Output of a client that does not receive stays in its outbox. The host follows the machine's `poll_*`
//! strictly: it drains a connection only after [`Relay::poll_ready`] has named it, and input that
//! [`Relay::wants_input`] refuses waits for [`Relay::poll_input_resumed`].

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use super::{Client, RelayUnderTest};
use crate::policy::AddressRates;
use crate::relay::{ClientInfo, Close, Config, ConnId, Frame, LiveEvent, PublishOutcome, Relay, commit};
use crate::store::{
    self, Backend, MemoryBackend, MemoryReader, MemoryWriter, REMOVED_KEYS_MAX, StoreError, TermClasses,
};
use crate::testing::event_of_json;
use crate::testing::signing::Signed;
use crate::types::{ClientAddress, Now, Timestamp};
use crate::verify::{Claim, Libsecp256k1, Verifier};
use crate::wire::{IdScanner, ReplyTarget};

/// How the machine is run. No setting may change what a client sees.
#[derive(Clone, Debug)]
pub struct Tuning {
    /// Number of shards; connections are assigned round robin.
    pub shards: usize,
    /// Cost of a scan step; `None`: as configured.
    pub step_cost_max: Option<usize>,
    /// Events of a verification batch; `None`: as configured.
    pub verify_batch_max: Option<usize>,
    /// Whether ids are hashed in batches instead of when messages are read.
    pub prefers_batch_hashing: bool,
    /// Optional terms of the store.
    pub classes: TermClasses,
    /// Whether expired events are swept whenever time advances, or never.
    pub sweeps: bool,
    /// [`Backend::removed_keys_max`]: whether what is deleted is removed at once, or is pending removal until time passes.
    pub removed_keys_max: usize,
    /// Whether the host queues all output itself and, whenever it is idle, drops its machines and builds new ones from the
    /// snapshots of their sessions, as a host that hibernates does.
    pub hibernates: bool,
}

impl Default for Tuning {
    fn default() -> Self {
        Tuning {
            shards: 2,
            step_cost_max: None,
            verify_batch_max: None,
            prefers_batch_hashing: false,
            classes: TermClasses { all: true, author_kind: true },
            sweeps: true,
            removed_keys_max: REMOVED_KEYS_MAX,
            hibernates: false,
        }
    }
}

/// libsecp256k1, with ids hashed early or late.
#[derive(Clone, Copy)]
struct TestVerifier {
    prefers_batch_hashing: bool,
}

impl Verifier for TestVerifier {
    fn verify(&self, claims: &[Claim], valid: &mut [bool]) {
        Libsecp256k1.verify(claims, valid);
    }

    fn prefers_batch_hashing(&self) -> bool {
        self.prefers_batch_hashing
    }
}

/// The machine in process.
pub struct MachineWorld {
    machine: Rc<RefCell<Machine>>,
}

type SharedRates = Arc<Mutex<AddressRates>>;

/// 2026-01-01, a Thursday.
const BEGINS_AT: Timestamp = 1_767_225_600;
const HOST: &str = "relay.test:7777";

impl MachineWorld {
    /// An empty relay.
    pub fn new(mut config: Config, tuning: Tuning) -> Self {
        config.limits.step_cost_max = tuning.step_cost_max.unwrap_or(config.limits.step_cost_max);
        config.limits.verify_batch_max = tuning.verify_batch_max.unwrap_or(config.limits.verify_batch_max);
        let config = Arc::new(config);
        let memory = MemoryBackend::new(tuning.classes).with_removed_keys_max(tuning.removed_keys_max);
        let store = Rc::new(Store { memory, is_full: Cell::default() });
        let verifier = TestVerifier { prefers_batch_hashing: tuning.prefers_batch_hashing };
        let rates = SharedRates::default();
        let shards = (0..tuning.shards)
            .map(|n| {
                let mut relay =
                    Relay::new(Arc::clone(&config), store.clone(), Arc::new(verifier), [n as u8; 32]);
                relay.share_address_rates(Arc::clone(&rates));
                Shard { relay, hosted: HashMap::new() }
            })
            .collect();
        let machine = Machine {
            shards,
            store,
            now: Now::from_seconds(BEGINS_AT),
            connected: 0,
            rebuilt: 0,
            verifier,
            rates,
            tuning,
        };
        MachineWorld { machine: Rc::new(RefCell::new(machine)) }
    }

    /// Connects a client to the shard whose turn it is.
    fn open(&mut self, address: Option<ClientAddress>) -> MachineClient {
        let mut machine = self.machine.borrow_mut();
        let shard = machine.connected % machine.shards.len();
        machine.connected += 1;
        let now = machine.now;
        let Shard { relay, hosted } = &mut machine.shards[shard];
        let conn = relay
            .connect(now, ClientInfo { host_header: Some(HOST.into()), address })
            .expect("a connection is free");
        let conn = Rc::new(Cell::new(conn));
        hosted.insert(conn.get(), Hosted { conn: Rc::clone(&conn), ..Hosted::default() });
        MachineClient { machine: Rc::clone(&self.machine), shard, conn }
    }

    /// Accesses a shard. Work that results is done when a client receives, or by [`MachineWorld::settle`].
    pub fn with_shard<T>(&mut self, shard: usize, look: impl FnOnce(&mut Relay<Rc<Store>>) -> T) -> T {
        look(&mut self.machine.borrow_mut().shards[shard].relay)
    }

    /// Runs the shards until only work that waits for readers is left.
    pub fn settle(&mut self) {
        self.machine.borrow_mut().drive();
    }
}

impl RelayUnderTest for MachineWorld {
    fn connect(&mut self) -> Box<dyn Client> {
        Box::new(self.open(None))
    }

    fn connect_from(&mut self, address: IpAddr) -> Option<Box<dyn Client>> {
        Some(Box::new(self.open(Some(address.into()))))
    }

    fn now(&self) -> Timestamp {
        self.machine.borrow().now.seconds()
    }

    fn advance(&mut self, seconds: u64) -> bool {
        let machine = &mut *self.machine.borrow_mut();
        machine.drive();
        machine.now = machine.now.plus_millis(seconds * 1000);
        if machine.tuning.sweeps {
            let now = machine.now.seconds();
            while store::sweep_expired(&machine.store, now, usize::MAX).expect("memory does not fail").more {}
        }
        store::remove_pending(&machine.store).expect("memory does not fail");
        for shard in &mut machine.shards {
            shard.relay.handle_timeout(machine.now);
        }
        true
    }

    fn holds_its_clock(&self) -> bool {
        true
    }

    fn host(&self) -> String {
        HOST.into()
    }

    fn publish(&mut self, event: &Signed) -> Option<PublishOutcome> {
        let machine = &mut *self.machine.borrow_mut();
        let now = machine.now;
        let event = event_of_json(&event.json()).expect("a signed event has all fields");
        let ticket = machine.shards[0].relay.publish(now, &event);
        // A host does not hibernate while it waits for an outcome.
        while !machine.drive_for(1) {}
        let (answered, outcome) = machine.shards[0].relay.poll_published().expect("an outcome");
        assert_eq!(answered, ticket);
        assert_eq!(machine.shards[0].relay.poll_published(), None, "one");
        Some(outcome)
    }

    fn fill_disk(&mut self, full: bool) -> bool {
        let mut machine = self.machine.borrow_mut();
        machine.drive();
        machine.store.is_full.set(full);
        true
    }
}

/// One memory store for all shards, with a disk that can be full.
#[derive(Debug)]
pub struct Store {
    memory: MemoryBackend,
    is_full: Cell<bool>,
}

impl Backend for Store {
    type Reader<'a> = MemoryReader<'a>;
    type Writer<'a> = MemoryWriter<'a>;

    fn classes(&self) -> TermClasses {
        self.memory.classes()
    }

    fn removed_keys_max(&self) -> usize {
        self.memory.removed_keys_max()
    }

    fn reader(&self) -> Result<MemoryReader<'_>, StoreError> {
        self.memory.reader()
    }

    fn write<T>(
        &self,
        work: impl FnOnce(&mut MemoryWriter<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.memory.write(|writer| {
            let done = work(writer)?;
            if self.is_full.get() { Err(StoreError::Full("the disk is full".into())) } else { Ok(done) }
        })
    }

    fn write_from_reserve<T>(
        &self,
        work: impl FnOnce(&mut MemoryWriter<'_>) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.memory.write(work)
    }
}

/// The host's state of a connection.
#[derive(Default)]
struct Hosted {
    /// The machine's handle of it.
    conn: Rc<Cell<ConnId>>,
    /// Frames queued by the host, if it queues output itself.
    output: VecDeque<String>,
    /// Messages that the machine has not accepted yet.
    input: VecDeque<Input>,
    reading_paused: bool,
    is_ready: bool,
    closing: Option<Close>,
    /// The close code, once the connection has been closed.
    closed: Option<u16>,
}

enum Input {
    Text(Vec<u8>),
    Binary,
    Oversized(u64, ReplyTarget),
}

struct Shard {
    relay: Relay<Rc<Store>>,
    hosted: HashMap<ConnId, Hosted>,
}

impl Shard {
    /// Passes messages to the machine while it wants input.
    fn pump(&mut self, now: Now, conn: ConnId) {
        while let Some(hosted) = self.hosted.get_mut(&conn) {
            if hosted.reading_paused || hosted.input.is_empty() {
                return;
            }
            if !self.relay.wants_input(conn) {
                hosted.reading_paused = true;
                return;
            }
            match hosted.input.pop_front() {
                Some(Input::Text(text)) => self.relay.handle_text(now, conn, &text),
                Some(Input::Binary) => self.relay.handle_binary(conn),
                Some(Input::Oversized(bytes, reply_to)) => self.relay.handle_oversized(conn, bytes, reply_to),
                None => return,
            }
        }
    }

    /// Handles what the machine's `poll_*` return. True if input was resumed.
    fn note(&mut self, now: Now) -> bool {
        let mut noted = false;
        while let Some(conn) = self.relay.poll_input_resumed() {
            noted = true;
            if let Some(hosted) = self.hosted.get_mut(&conn) {
                hosted.reading_paused = false;
            }
            self.pump(now, conn);
        }
        while let Some(conn) = self.relay.poll_ready() {
            if let Some(hosted) = self.hosted.get_mut(&conn) {
                hosted.is_ready = true;
            }
        }
        while let Some((conn, close)) = self.relay.poll_close() {
            if let Some(hosted) = self.hosted.get_mut(&conn) {
                assert!(close.reason.len() <= 123, "a close frame's reason has at most 123 bytes");
                hosted.closing = Some(close);
            }
        }
        noted
    }

    /// Drains all output into the host's queue and reports the backlog to the machine. True if there was any.
    fn take_output(&mut self) -> bool {
        let mut took = false;
        for (conn, hosted) in &mut self.hosted {
            if std::mem::take(&mut hosted.is_ready) {
                while self.relay.drain(*conn, usize::MAX, &mut |frame| hosted.output.push_back(text(frame))) {
                }
                self.relay.handle_backlog(*conn, backlog(&hosted.output));
                took = true;
            }
        }
        took
    }

    /// A new machine, restored from the snapshots of its sessions.
    fn rebuild(&mut self, now: Now, store: &Rc<Store>, verifier: TestVerifier, seed: [u8; 32]) {
        while self.relay.poll_changed().is_some() {}
        let config = Arc::clone(self.relay.config());
        let mut relay = Relay::new(config, store.clone(), Arc::new(verifier), seed);
        let mut all: Vec<_> = self.hosted.drain().collect();
        all.sort_unstable_by_key(|(conn, _)| *conn);
        for (old, mut hosted) in all {
            let Some(snapshot) = self.relay.snapshot(old) else { continue };
            let conn = relay.restore(now, snapshot);
            relay.handle_backlog(conn, backlog(&hosted.output));
            hosted.conn.set(conn);
            hosted.reading_paused = false;
            self.hosted.insert(conn, hosted);
        }
        self.relay = relay;
        for conn in self.hosted.keys().copied().collect::<Vec<_>>() {
            self.pump(now, conn);
        }
    }
}

fn text(frame: Frame<'_>) -> String {
    let mut bytes = Vec::new();
    frame.write_to(&mut bytes);
    assert_eq!(bytes.len(), frame.len(), "a frame is as long as it says");
    String::from_utf8(bytes).expect("frames are UTF-8")
}

fn backlog(output: &VecDeque<String>) -> usize {
    output.iter().map(String::len).sum()
}

struct Machine {
    shards: Vec<Shard>,
    store: Rc<Store>,
    now: Now,
    connected: usize,
    rebuilt: u64,
    verifier: TestVerifier,
    /// Of all shards, whatever these forget.
    rates: SharedRates,
    tuning: Tuning,
}

/// Rounds within which the machine must become idle.
const ROUNDS_MAX: usize = 1_000_000;

impl Machine {
    /// Runs all shards until all are idle.
    fn drive(&mut self) {
        assert!(self.drive_for(ROUNDS_MAX), "the machine does not come to rest");
        self.check_idle();
    }

    /// Runs all shards for at most this many rounds. True if all are idle.
    fn drive_for(&mut self, rounds: usize) -> bool {
        let now = self.now;
        for _ in 0..rounds {
            let mut busy = false;
            let (mut commits, mut from) = (Vec::new(), Vec::new());
            let mut live: Vec<(usize, LiveEvent)> = Vec::new();
            for (number, shard) in self.shards.iter_mut().enumerate() {
                if let Some(batch) = shard.relay.poll_verify(now, true) {
                    busy = true;
                    shard.relay.handle_verified(now, batch.verify(&self.verifier));
                }
                if let Some(commit) = shard.relay.poll_commit() {
                    assert!(!commit.is_empty(), "a commit changes something");
                    commits.push(commit);
                    from.push(number);
                }
                while let Some(forwarded) = shard.relay.poll_forwarded() {
                    live.push((number, forwarded));
                }
                busy |= shard.relay.work(now);
            }
            busy |= !commits.is_empty() || !live.is_empty();
            for (from, live) in live {
                for (number, shard) in self.shards.iter_mut().enumerate() {
                    if number != from {
                        shard.relay.handle_live(now, std::slice::from_ref(&live));
                    }
                }
            }
            if !commits.is_empty() {
                let committed = commit(&self.store, now, commits);
                for (reply, number) in committed.replies.into_iter().zip(from) {
                    self.shards[number].relay.handle_committed(now, reply);
                }
                for shard in &mut self.shards {
                    shard.relay.handle_live(now, &committed.live);
                }
            }
            for shard in &mut self.shards {
                busy |= shard.note(now);
            }
            if self.tuning.hibernates {
                for shard in &mut self.shards {
                    busy |= shard.take_output();
                }
            }
            if !busy {
                return true;
            }
        }
        false
    }

    /// Loses everything that a host may lose, even in the middle of scans.
    fn hibernate(&mut self) {
        self.drive_for(1 + self.rebuilt as usize % 4);
        // Events in flight would be lost, and so would messages deferred behind them or behind a request, and ephemeral
        // events that are still being delivered.
        let holds = |shard: &Shard| {
            shard.relay.has_unverified()
                || shard.relay.metrics().deliveries_waiting > 0
                || shard.hosted.keys().any(|conn| shard.relay.has_unanswered(*conn))
        };
        while self.shards.iter().any(holds) {
            self.drive_for(1);
        }
        for (number, shard) in self.shards.iter_mut().enumerate() {
            self.rebuilt += 1;
            let mut seed = [number as u8; 32];
            seed[..8].copy_from_slice(&self.rebuilt.to_le_bytes());
            shard.rebuild(self.now, &self.store, self.verifier, seed);
            shard.relay.share_address_rates(Arc::clone(&self.rates));
        }
        self.drive();
    }

    fn check_idle(&mut self) {
        for shard in &mut self.shards {
            assert_eq!(shard.relay.poll_timeout(), None, "nothing waits for time when all is done");
        }
    }
}

struct MachineClient {
    machine: Rc<RefCell<Machine>>,
    shard: usize,
    conn: Rc<Cell<ConnId>>,
}

impl MachineClient {
    fn push(&mut self, input: Input) {
        let machine = &mut *self.machine.borrow_mut();
        let shard = &mut machine.shards[self.shard];
        if let Some(hosted) = shard.hosted.get_mut(&self.conn.get()) {
            hosted.input.push_back(input);
        }
        shard.pump(machine.now, self.conn.get());
    }
}

impl Client for MachineClient {
    fn send(&mut self, text: &str) {
        let bytes_max = self.machine.borrow().shards[self.shard].relay.config().limits.message_bytes_max;
        self.push(match text.len() > 2 * bytes_max {
            // A host does not buffer a message that is far too long.
            true => Input::Oversized(text.len() as u64, IdScanner::scan(text.as_bytes())),
            false => Input::Text(text.into()),
        });
    }

    fn send_binary(&mut self, _: &[u8]) {
        self.push(Input::Binary);
    }

    fn recv(&mut self) -> Option<String> {
        let machine = &mut *self.machine.borrow_mut();
        match machine.tuning.hibernates {
            true => machine.hibernate(),
            false => machine.drive(),
        }
        let Shard { relay, hosted } = &mut machine.shards[self.shard];
        let conn = self.conn.get();
        let host = hosted.get_mut(&conn)?;
        if host.closed.is_some() {
            return None;
        }
        let mut frames = Vec::new();
        if let Some(frame) = host.output.pop_front() {
            frames.push(frame);
            relay.handle_backlog(conn, backlog(&host.output));
        } else if host.is_ready {
            host.is_ready = relay.drain(conn, 1, &mut |frame: Frame<'_>| frames.push(text(frame)));
        }
        assert!(frames.len() <= 1, "one byte asked for is one frame at most");
        if frames.is_empty() && host.closing.is_some() {
            host.closed = host.closing.take().map(|close| close.code);
            relay.disconnect(conn);
        }
        frames.pop()
    }

    fn closed(&mut self) -> Option<u16> {
        self.machine.borrow().shards[self.shard].hosted.get(&self.conn.get())?.closed
    }
}

impl Drop for MachineClient {
    fn drop(&mut self) {
        // While a failed case unwinds, the machine may be borrowed.
        let Ok(mut machine) = self.machine.try_borrow_mut() else { return };
        let shard = &mut machine.shards[self.shard];
        shard.relay.disconnect(self.conn.get());
        shard.hosted.remove(&self.conn.get());
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn connections_go_to_the_shards_in_turn() {
        let mut world = MachineWorld::new(Config::default(), Tuning::default());
        let clients: Vec<_> = (0..4).map(|_| world.connect()).collect();
        for shard in 0..2 {
            assert_eq!(world.with_shard(shard, |relay| relay.metrics().connections), 2);
        }
        drop(clients);
        let left: HashSet<u64> =
            (0..2).map(|shard| world.with_shard(shard, |relay| relay.metrics().connections)).collect();
        assert_eq!(left, HashSet::from([0]));
    }
}
