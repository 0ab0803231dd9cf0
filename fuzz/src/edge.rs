//! The Durable Object of the edge, from outside: arbitrary messages, changed attachments, a failing store, alarms, turns, and
//! loss of memory at any moment. A panic would end every object of the isolate, so nothing may panic.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};

use relay_agent::secrets::Secrets;
use relay_agent::testing::Sqlite;
use relay_edge::agent::EnvSecrets;
use relay_edge::agent::message::Delivery;
use relay_edge::object::{CallId, Host, Key, NextTick, Object, PeerConn, RowCount, RowCountingConn};
use relay_edge::settings::{NetworkSettings, ObjectSettings, Settings, StoreSettings};
use relay_engine::store::sql::{SqlConn, SqlValue};
use relay_engine::store::{Seq, StoreError};
use relay_engine::testing::Rng;
use relay_engine::testing::signing::{event, key};
use relay_engine::types::{Class, Event, Limits, Now, PubKey};
use relay_engine::verify::Libsecp256k1;

use relay_simulator::Choices;

const BEGINS_AT: u64 = 1_767_225_600;
const OPS_MAX: usize = 400;

/// The store, with injected failures.
#[derive(Clone)]
struct Store {
    sqlite: Sqlite,
    fails: Rc<Cell<bool>>,
}

impl Store {
    fn check(&self) -> Result<(), StoreError> {
        if self.fails.get() { Err(StoreError::Failed("on purpose".into())) } else { Ok(()) }
    }
}

impl RowCountingConn for Store {
    fn rows(&self) -> RowCount {
        RowCount::default()
    }
}

impl SqlConn for Store {
    fn exec(&self, sql: &str, params: &[SqlValue<'_>]) -> Result<(), StoreError> {
        self.check()?;
        assert!(params.len() <= 100, "Durable Objects take 100 parameters");
        self.sqlite.exec(sql, params)
    }

    fn query(
        &self,
        sql: &str,
        params: &[SqlValue<'_>],
        row: &mut dyn FnMut(&[SqlValue<'_>]) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        self.check()?;
        self.sqlite.query(sql, params, row)
    }

    fn transaction(&self, work: &mut dyn FnMut() -> Result<(), StoreError>) -> Result<(), StoreError> {
        self.check()?;
        self.sqlite.transaction(work)
    }

    fn bytes(&self) -> Result<u64, StoreError> {
        self.check().and_then(|()| self.sqlite.bytes())
    }
}

#[derive(Default)]
struct Socket {
    key: Key,
    challenge: RefCell<String>,
    buffered: Cell<usize>,
    attachment: RefCell<Vec<u8>>,
    is_closed: Cell<bool>,
}

struct Runtime;

impl Host for Runtime {
    type Socket = Rc<Socket>;

    fn send(&self, socket: &Rc<Socket>, text: &str) {
        let frame: serde_json::Value = serde_json::from_str(text).expect("frames are JSON");
        if frame[0] == "AUTH" {
            *socket.challenge.borrow_mut() = frame[1].as_str().expect("a challenge is text").to_owned();
        }
        socket.buffered.set(socket.buffered.get() + text.len());
    }

    fn close(&self, socket: &Rc<Socket>, code: u16, reason: &str) {
        assert!((1000..5000).contains(&code) && reason.len() <= 123);
        socket.is_closed.set(true);
    }

    fn buffered_bytes(&self, socket: &Rc<Socket>) -> usize {
        socket.buffered.get()
    }

    fn attach(&self, socket: &Rc<Socket>, attachment: &[u8]) {
        assert!(attachment.len() <= 16_000, "an attachment fits");
        *socket.attachment.borrow_mut() = attachment.to_vec();
    }

    fn memory_bytes(&self) -> u64 {
        0
    }

    fn memory_used_bytes(&self) -> u64 {
        0
    }

    fn deliver(&self, _: &str, _: Vec<(Option<Seq>, Event)>) {}

    fn log(&self, _: &str) {}

    fn forward(&self, events: &[Event]) {
        assert!(!events.is_empty() && events.iter().all(|event| event.class() == Class::Ephemeral));
    }

    fn set_alarm(&self, _: Now) {}

    fn connect_peer(&self, _: PeerConn, _: &str) {}

    fn send_to_peer(&self, _: PeerConn, _: &str) {}

    fn close_peer(&self, _: PeerConn) {}

    fn call_agent(&self, _: CallId, _: &PubKey, _: Delivery) {}

    fn agent_secrets(&self) -> Arc<dyn Secrets + Send + Sync> {
        Arc::new(EnvSecrets::default())
    }
}

struct World<'a> {
    choices: Choices<'a>,
    store: Store,
    settings: Settings,
    object: Option<Object<Store, Runtime>>,
    sockets: BTreeMap<Key, Rc<Socket>>,
    now: Now,
    keys: Key,
    next: NextTick,
}

impl World<'_> {
    /// The object, restored from what survives; `None` while the store cannot be opened.
    fn object(&mut self) -> Option<&mut Object<Store, Runtime>> {
        if self.object.is_none() {
            self.keys += 1;
            let seed = [self.keys as u8; 32];
            let verifier = Arc::new(Libsecp256k1);
            let mut object =
                Object::open(self.store.clone(), Runtime, &self.settings, verifier, seed).ok()?;
            let alive = self.sockets.values().filter(|socket| !socket.is_closed.get());
            let alive: Vec<_> = alive
                .map(|socket| (socket.key, Rc::clone(socket), socket.attachment.borrow().clone()))
                .collect();
            self.next = object.restore(self.now, alive);
            self.object = Some(object);
        }
        self.object.as_mut()
    }

    fn socket(&mut self) -> Option<Rc<Socket>> {
        let index = self.choices.index(self.sockets.len().max(1));
        self.sockets.values().nth(index).cloned()
    }

    fn step(&mut self) {
        let now = self.now;
        match self.choices.below(16) {
            // A client connects.
            0 => {
                self.keys += 1;
                let socket = Rc::new(Socket { key: self.keys, ..Socket::default() });
                let host = self.choices.one_in(2).then(|| "relay.test".repeat(1 + self.choices.index(40)));
                let (key, connected) = (self.keys, Rc::clone(&socket));
                let from = self.choices.one_in(2).then(|| [192, 0, 2, self.choices.below(2) as u8].into());
                if let Some(object) = self.object()
                    && object.connect(now, key, connected, host, from).is_ok()
                {
                    self.sockets.insert(key, socket);
                }
            }
            // A message.
            1..=6 => {
                let Some(socket) = self.socket() else { return };
                let text = self.text(&socket);
                if let Some(object) = self.object() {
                    let next = object.text(now, socket.key, &text);
                    object.wants_input(now, socket.key);
                    self.next = next;
                }
            }
            // A binary message.
            7 => {
                let Some(socket) = self.socket() else { return };
                if let Some(object) = self.object() {
                    object.binary(now, socket.key);
                }
            }
            // The timer of a tick.
            8 | 9 => {
                if let Some(object) = self.object() {
                    self.next = object.tick(now);
                }
            }
            // The object loses its memory.
            10 => self.object = None,
            11 => {
                // Sockets send their queued output, or do not.
                let Some(socket) = self.socket() else { return };
                socket.buffered.set(if self.choices.one_in(2) { 0 } else { socket.buffered.get() / 2 });
            }
            // A socket closes.
            12 => {
                let Some(socket) = self.socket() else { return };
                self.sockets.remove(&socket.key);
                if self.choices.one_in(2)
                    && let Some(object) = self.object()
                {
                    object.disconnect(now, socket.key);
                }
            }
            // Time passes, and the alarm may ring.
            13 => {
                self.now = now.plus_millis(self.choices.below(200_000));
                let now = self.now;
                if self.choices.one_in(2)
                    && let Some(object) = self.object()
                {
                    object.alarm(now);
                    object.schedule_alarms(now);
                }
            }
            14 => {
                // As if another version had written it, or the platform had lost a part.
                let Some(socket) = self.socket() else { return };
                let mut attachment = socket.attachment.borrow_mut();
                let at = self.choices.index(attachment.len().max(1));
                if self.choices.one_in(2) {
                    attachment.truncate(at);
                } else if let Some(byte) = attachment.get_mut(at) {
                    *byte = self.choices.below(256) as u8;
                }
            }
            // The store begins to fail, or ceases.
            _ => self.store.fails.set(self.choices.one_in(3)),
        }
        if let Some(object) = &mut self.object {
            while object.poll_resumed().is_some() {}
            if self.choices.one_in(8) {
                object.families(self.now);
            }
        }
        self.sockets.retain(|_, socket| !socket.is_closed.get());
    }

    fn text(&mut self, socket: &Socket) -> String {
        let t = self.now.seconds();
        let pool = pool();
        let mut text = match self.choices.below(10) {
            0..=3 => {
                let (_, json) = &pool[self.choices.index(pool.len())];
                format!(r#"["EVENT",{json}]"#)
            }
            4 | 5 => {
                let sub = "s".repeat(1 + self.choices.index(64));
                let filter = match self.choices.below(5) {
                    0 => r#"{"kinds":[1],"limit":3}"#.to_owned(),
                    1 => {
                        let ids: Vec<_> =
                            (0..self.choices.below(700)).map(|n| format!("\"{n:064x}\"")).collect();
                        format!(r#"{{"authors":[{}]}}"#, ids.join(","))
                    }
                    2 => {
                        format!(r##"{{"#t":["{}"],"since":{}}}"##, "é".repeat(self.choices.index(60)), t - 9)
                    }
                    3 => format!(r#"{{"ids":["{}"]}}"#, pool[self.choices.index(pool.len())].0),
                    _ => "{}".to_owned(),
                };
                let verb = if self.choices.one_in(4) { "COUNT" } else { "REQ" };
                format!(r#"["{verb}","{sub}{}",{filter}]"#, self.choices.below(3))
            }
            6 => {
                format!(r#"["CLOSE","{}{}"]"#, "s".repeat(1 + self.choices.index(64)), self.choices.below(3))
            }
            7 => {
                let challenge = socket.challenge.borrow().clone();
                let draft = event(&key(1)).kind(22242).at(t).tag(["relay", "wss://relay.test"]);
                format!(r#"["AUTH",{}]"#, draft.tag(["challenge", &challenge]).sign().json())
            }
            8 => (0..self.choices.below(40)).map(|_| self.choices.below(0x800) as u8 as char).collect(),
            _ => "[".repeat(self.choices.index(3_000)),
        };
        if self.choices.one_in(6) && !text.is_empty() {
            let at = self.choices.index(text.len());
            let at = (at..=text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(0);
            text.truncate(at);
        }
        text
    }
}

/// Events by id, as JSON.
fn pool() -> &'static [(String, String)] {
    static POOL: OnceLock<Vec<(String, String)>> = OnceLock::new();
    POOL.get_or_init(|| {
        let mut events = Vec::new();
        for n in 0..24u64 {
            let kind = [1, 1, 1, 0, 3, 5, 7, 20_001, 30_023, 1059, 62, 1][n as usize % 12];
            let mut draft = event(&key(1 + n % 3)).kind(kind).at(BEGINS_AT - 50 + n).tag(["t", "tag"]);
            if n % 4 == 0 {
                draft = draft.tag(["expiration", &(BEGINS_AT + 60 * n).to_string()]);
            }
            if kind == 5 {
                let (id, _): &(String, String) = &events[0];
                draft = draft.tag(["e", id]);
            }
            let signed = draft.tag(["relay", "ALL_RELAYS"]).content("x".repeat(n as usize * 40)).sign();
            events.push((signed.id.clone(), signed.json()));
        }
        events
    })
}

/// Runs a schedule of events of a Durable Object.
///
/// # Panics
/// If the object panics, sends invalid JSON, exceeds the size of an attachment, or does not become idle.
pub fn edge(data: &[u8]) {
    run(Choices::from_bytes(data));
}

/// A random schedule from a seed.
///
/// # Panics
/// As [`edge`].
pub fn edge_seeded(seed: u64) {
    run(Choices::Seed(Rng::new(seed)));
}

fn run(mut choices: Choices<'_>) {
    let few = choices.one_in(2);
    let limits = Limits {
        requests_per_minute_max: if few { 20 } else { 0 },
        connections_max: if few { 3 } else { 10_000 },
        subscriptions_max: 20,
        outbox_pause_bytes: if few { 2_000 } else { 1 << 20 },
        outbox_bytes_max: if few { 20_000 } else { 8 << 20 },
        step_cost_max: if few { 3 } else { 2_000 },
        deferred_messages_max: 4,
        malformed_messages_max: 10,
        ..Limits::default()
    };
    let object = ObjectSettings { tick_steps_max: if few { 1 } else { 16 } };
    let store = StoreSettings {
        sweep_seconds: 30,
        retention_seconds: if few { 100 } else { 0 },
        ..StoreSettings::default()
    };
    let network = NetworkSettings { write_stall_seconds: 300, ..NetworkSettings::default() };
    let settings = Settings { limits, object, store, network, ..Settings::default() };
    let store = Store { sqlite: Sqlite::new(), fails: Rc::default() };
    let mut world = World {
        choices,
        store,
        settings,
        object: None,
        sockets: BTreeMap::new(),
        now: Now::from_seconds(BEGINS_AT),
        keys: 0,
        next: NextTick::None,
    };
    for _ in 0..OPS_MAX {
        if world.choices.is_exhausted() {
            break;
        }
        world.step();
    }
    // When all sockets read or are closed, and nothing fails, it must become idle.
    world.store.fails.set(false);
    for round in 0..10_000 {
        let now = world.now.plus_millis(round * 1_000);
        world.sockets.values().for_each(|socket| socket.buffered.set(0));
        let Some(object) = world.object() else { panic!("a store that works opens") };
        if object.tick(now) == NextTick::None {
            return;
        }
    }
    panic!("the object does not become idle");
}
