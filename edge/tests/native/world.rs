//! The runtime of one object, which can hibernate and be evicted at any time, for all native tests; and the world of the
//! semantics suite over it.
//!
//! As in workerd, a socket keeps its attachment and the frames that its client has not read. Nothing else of the object's
//! memory survives.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use relay_agent::secrets::Secrets;
use relay_edge::agent::EnvSecrets;
use relay_edge::agent::message::Delivery;
use relay_edge::object::{CallId, ConnectError, Host, Key, NextTick, Object, PeerConn};
use relay_edge::settings::{ObjectSettings, Settings};
use relay_engine::relay::{Config, PublishOutcome};
use relay_engine::store::Seq;
use relay_engine::testing::event_of_json;
use relay_engine::testing::semantics::{Client, RelayUnderTest};
use relay_engine::testing::signing::Signed;
use relay_engine::types::{Event, Now, PubKey, Timestamp};
use relay_engine::verify::Libsecp256k1;

use super::sqlite::Sqlite;

const BEGINS_AT: Timestamp = 1_767_225_600;
const HOST: &str = "relay.test:8787";
const ATTACHMENT_BYTES_MAX: usize = 16_384 - 64;

/// A socket as the runtime has it.
#[derive(Default)]
pub(super) struct Socket {
    pub(super) key: Key,
    /// Frames the client has not received.
    pub(super) output: RefCell<VecDeque<String>>,
    pub(super) attachment: RefCell<Vec<u8>>,
    pub(super) closed: Cell<Option<u16>>,
    /// Messages that the runtime holds while the object wants no more.
    input: RefCell<VecDeque<Input>>,
    is_paused: Cell<bool>,
}

enum Input {
    Text(String),
    Binary,
}

/// A batch of a stream, and the consumer that it is for.
type Batch = (String, Vec<(Option<Seq>, Event)>);

/// A request to an agent.
type AgentCall = (CallId, PubKey, Vec<u8>);

#[derive(Clone, Default)]
pub(super) struct FakeHost {
    pub(super) alarm: Rc<Cell<Option<Now>>>,
    pub(super) alarms_set: Rc<Cell<u32>>,
    /// Batches that were sent to consumers and have not been answered.
    pub(super) deliveries: Rc<RefCell<VecDeque<Batch>>>,
    /// Ephemeral events for the other shards, a batch for each call.
    pub(super) forwarded: Rc<RefCell<Vec<Vec<Event>>>>,
    /// What was asked for on connections to other relays, and not carried out yet.
    pub(super) to_peers: Rc<RefCell<VecDeque<(PeerConn, ToPeer)>>>,
    /// Lines of the log.
    pub(super) log: Rc<RefCell<Vec<String>>>,
    /// Requests to agents that have not been answered, encoded.
    pub(super) agent_calls: Rc<RefCell<VecDeque<AgentCall>>>,
}

/// What an object wants of a connection to another relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ToPeer {
    Connect(String),
    Send(String),
    Close,
}

/// The secrets of agents, on every host of a test.
pub(super) fn agent_secrets() -> EnvSecrets {
    EnvSecrets::new([("AGENT_MASTER_SECRET".to_owned(), "0b".repeat(32))])
}

impl Host for FakeHost {
    type Socket = Rc<Socket>;

    fn send(&self, socket: &Rc<Socket>, text: &str) {
        assert_eq!(socket.closed.get(), None, "nothing is sent to a closed socket");
        socket.output.borrow_mut().push_back(text.to_owned());
    }

    fn close(&self, socket: &Rc<Socket>, code: u16, reason: &str) {
        assert!(reason.len() <= 123);
        socket.closed.set(Some(code));
    }

    fn buffered_bytes(&self, socket: &Rc<Socket>) -> usize {
        socket.output.borrow().iter().map(String::len).sum()
    }

    fn attach(&self, socket: &Rc<Socket>, attachment: &[u8]) {
        assert!(attachment.len() <= ATTACHMENT_BYTES_MAX);
        *socket.attachment.borrow_mut() = attachment.to_vec();
    }

    fn memory_bytes(&self) -> u64 {
        0
    }

    fn memory_used_bytes(&self) -> u64 {
        0
    }

    fn deliver(&self, consumer: &str, events: Vec<(Option<Seq>, Event)>) {
        assert!(!events.is_empty(), "no consumer is woken without events");
        self.deliveries.borrow_mut().push_back((consumer.to_owned(), events));
    }

    fn set_alarm(&self, at: Now) {
        self.alarm.set(Some(at));
        self.alarms_set.set(self.alarms_set.get() + 1);
    }

    fn log(&self, line: &str) {
        self.log.borrow_mut().push(line.to_owned());
    }

    fn connect_peer(&self, conn: PeerConn, url: &str) {
        self.to_peers.borrow_mut().push_back((conn, ToPeer::Connect(url.to_owned())));
    }

    fn send_to_peer(&self, conn: PeerConn, text: &str) {
        self.to_peers.borrow_mut().push_back((conn, ToPeer::Send(text.to_owned())));
    }

    fn close_peer(&self, conn: PeerConn) {
        self.to_peers.borrow_mut().push_back((conn, ToPeer::Close));
    }

    fn forward(&self, events: &[Event]) {
        self.forwarded.borrow_mut().push(events.to_vec());
    }

    fn call_agent(&self, call: CallId, agent: &PubKey, delivery: Delivery) {
        self.agent_calls.borrow_mut().push_back((call, *agent, delivery.encode()));
    }

    fn agent_secrets(&self) -> Arc<dyn Secrets + Send + Sync> {
        Arc::new(agent_secrets())
    }
}

pub(super) type TestObject = Object<Sqlite, FakeHost>;

/// When the object hibernates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hibernates {
    Never,
    /// Before every third tick.
    Always,
}

pub(super) struct Runtime {
    settings: Settings,
    pub(super) store: Sqlite,
    pub(super) host: FakeHost,
    pub(super) object: Option<TestObject>,
    pub(super) sockets: BTreeMap<Key, Rc<Socket>>,
    pub(super) now: Now,
    pub(super) next: NextTick,
    /// Alarms that have fired.
    pub(super) alarms: u32,
    built: u64,
    hibernates: Hibernates,
}

impl Runtime {
    pub(super) fn new(settings: Settings, hibernates: Hibernates) -> Self {
        Runtime {
            settings,
            store: Sqlite::new(),
            host: FakeHost::default(),
            object: None,
            sockets: BTreeMap::new(),
            now: Now::from_seconds(BEGINS_AT),
            next: NextTick::None,
            alarms: 0,
            built: 0,
            hibernates,
        }
    }

    pub(super) fn object(&mut self) -> &mut TestObject {
        if self.object.is_none() {
            self.built += 1;
            let mut seed = [0; 32];
            seed[..8].copy_from_slice(&self.built.to_le_bytes());
            let verifier = Arc::new(Libsecp256k1);
            let mut object =
                Object::open(self.store.clone(), self.host.clone(), &self.settings, verifier, seed).unwrap();
            // A closed socket remains until its client has read everything.
            let is_there =
                |socket: &&Rc<Socket>| socket.closed.get().is_none() || !socket.output.borrow().is_empty();
            let sockets = self.sockets.values().filter(is_there);
            let sockets: Vec<_> = sockets
                .map(|socket| (socket.key, Rc::clone(socket), socket.attachment.borrow().clone()))
                .collect();
            self.next = object.restore(self.now, sockets);
            if object.needs_alarms() {
                object.schedule_alarms(self.now);
            }
            self.sockets.values().for_each(|socket| socket.is_paused.set(false));
            self.object = Some(object);
        }
        self.object.as_mut().unwrap()
    }

    /// Drops all memory, after the tick that is due: an object does not hibernate before it.
    pub(super) fn hibernate(&mut self) {
        if self.next == NextTick::Soon {
            let now = self.now;
            self.next = self.object().tick(now);
        }
        self.object = None;
    }

    /// The Worker is deployed with other settings.
    pub(super) fn reconfigure(&mut self, settings: Settings) {
        self.hibernate();
        self.settings = settings;
    }

    /// Drops all memory at once, as when the platform replaces the instance.
    pub(super) fn evict(&mut self) {
        self.object = None;
    }

    pub(super) fn connect(&mut self) -> Option<Rc<Socket>> {
        self.connect_from(None).ok()
    }

    pub(super) fn connect_from(&mut self, from: Option<IpAddr>) -> Result<Rc<Socket>, ConnectError> {
        let key = self.sockets.len() as Key + 1;
        let socket = Rc::new(Socket { key, ..Socket::default() });
        let now = self.now;
        self.next = self.object().connect(now, key, Rc::clone(&socket), Some(HOST.into()), from)?;
        self.sockets.insert(key, Rc::clone(&socket));
        Ok(socket)
    }

    /// A message that is delivered at once.
    pub(super) fn text(&mut self, key: Key, text: &str) {
        let now = self.now;
        self.next = self.object().text(now, key, text);
    }

    /// Ephemeral events of another shard.
    pub(super) fn live(&mut self, events: Vec<Event>) {
        let now = self.now;
        self.next = self.object().live(now, events);
    }

    /// Delivers messages, does ticks and hibernates until there is nothing left to do.
    pub(super) fn drive(&mut self) {
        for round in 0..100_000 {
            if self.hibernates == Hibernates::Always && round % 3 == 0 {
                self.hibernate();
            }
            let mut busy = self.deliver();
            let now = self.now;
            let (next, resumed) = {
                let object = self.object();
                let mut resumed = Vec::new();
                while let Some(key) = object.poll_resumed() {
                    resumed.push(key);
                }
                (object.tick(now), resumed)
            };
            self.next = next;
            for key in resumed {
                busy = true;
                self.sockets[&key].is_paused.set(false);
            }
            if !busy && self.next != NextTick::Soon && !self.has_input() {
                return;
            }
        }
        panic!("the object does not come to rest");
    }

    fn has_input(&self) -> bool {
        let ready = |socket: &Rc<Socket>| !socket.is_paused.get() && !socket.input.borrow().is_empty();
        self.sockets.values().any(ready)
    }

    fn deliver(&mut self) -> bool {
        let mut busy = false;
        let now = self.now;
        for socket in self.sockets.values().cloned().collect::<Vec<_>>() {
            while !socket.is_paused.get() && socket.closed.get().is_none() {
                let Some(input) = socket.input.borrow_mut().pop_front() else { break };
                busy = true;
                let object = self.object();
                let next = match input {
                    Input::Text(text) => object.text(now, socket.key, &text),
                    Input::Binary => object.binary(now, socket.key),
                };
                socket.is_paused.set(!object.wants_input(now, socket.key));
                self.next = next;
                while let Some(key) = self.object().poll_resumed() {
                    self.sockets[&key].is_paused.set(false);
                }
            }
            if socket.closed.get().is_some() {
                socket.input.borrow_mut().clear();
            }
        }
        busy
    }

    /// Time passes, and alarms that fall into it fire.
    pub(super) fn advance(&mut self, seconds: u64) {
        self.drive();
        let until = self.now.plus_millis(seconds * 1000);
        while let Some(at) = self.host.alarm.get().filter(|at| *at <= until) {
            self.host.alarm.set(None);
            self.now = self.now.max(at);
            let now = self.now;
            self.alarms += 1;
            self.next = self.object().alarm(now);
            self.drive();
        }
        self.now = until;
    }
}

/// [`Runtime`] as the semantics suite sees it.
pub(super) struct ObjectWorld(Rc<RefCell<Runtime>>);

impl ObjectWorld {
    pub(super) fn new(config: &Config, hibernates: Hibernates) -> Self {
        let settings = Settings {
            limits: config.limits.clone(),
            policy: config.policy.clone(),
            url: config.url.clone(),
            // A scan that has matched nothing begins again after memory is lost: it must end between two hibernations, which
            // here come every third tick and in workerd never while a tick is due.
            object: ObjectSettings { tick_steps_max: 16 },
            ..Settings::default()
        };
        ObjectWorld(Rc::new(RefCell::new(Runtime::new(settings, hibernates))))
    }
}

impl RelayUnderTest for ObjectWorld {
    fn connect(&mut self) -> Box<dyn Client> {
        let socket = self.0.borrow_mut().connect().expect("room for a connection");
        Box::new(ObjectClient { runtime: Rc::clone(&self.0), socket })
    }

    /// Rates by address do not survive hibernation.
    fn connect_from(&mut self, address: IpAddr) -> Option<Box<dyn Client>> {
        if self.0.borrow().hibernates == Hibernates::Always {
            return None;
        }
        let socket = self.0.borrow_mut().connect_from(Some(address)).expect("room for a connection");
        Some(Box::new(ObjectClient { runtime: Rc::clone(&self.0), socket }))
    }

    fn now(&self) -> Timestamp {
        self.0.borrow().now.seconds()
    }

    fn advance(&mut self, seconds: u64) -> bool {
        self.0.borrow_mut().advance(seconds);
        true
    }

    fn holds_its_clock(&self) -> bool {
        true
    }

    fn host(&self) -> String {
        HOST.into()
    }

    fn publish(&mut self, event: &Signed) -> Option<PublishOutcome> {
        let runtime = &mut *self.0.borrow_mut();
        let (now, event) = (runtime.now, event_of_json(&event.json()).expect("all fields"));
        runtime.drive();
        let (ticket, mut next) = runtime.object().publish(now, &event);
        // Until there is an outcome: an event without one is lost when memory is.
        while next == NextTick::Soon {
            next = runtime.object().tick(now);
        }
        let (answered, outcome) = runtime.object().poll_published()?;
        assert_eq!(answered, ticket);
        runtime.next = next;
        Some(outcome)
    }
}

struct ObjectClient {
    runtime: Rc<RefCell<Runtime>>,
    socket: Rc<Socket>,
}

impl Client for ObjectClient {
    fn send(&mut self, text: &str) {
        self.socket.input.borrow_mut().push_back(Input::Text(text.to_owned()));
    }

    fn send_binary(&mut self, _: &[u8]) {
        self.socket.input.borrow_mut().push_back(Input::Binary);
    }

    fn recv(&mut self) -> Option<String> {
        self.runtime.borrow_mut().drive();
        self.socket.output.borrow_mut().pop_front()
    }

    fn closed(&mut self) -> Option<u16> {
        self.socket.closed.get().filter(|_| self.socket.output.borrow().is_empty())
    }
}

impl Drop for ObjectClient {
    fn drop(&mut self) {
        let Ok(mut runtime) = self.runtime.try_borrow_mut() else { return };
        let (now, key) = (runtime.now, self.socket.key);
        self.socket.closed.set(Some(1005));
        self.socket.output.borrow_mut().clear();
        runtime.next = runtime.object().disconnect(now, key);
    }
}
