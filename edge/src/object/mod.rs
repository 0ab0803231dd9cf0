//! One shard's host: the machine, its sockets, its store, and the turns between them.
//!
//! Generic over the runtime, so that everything but a thin shell is tested natively. The shell calls in with
//! what happened ([`Object::connect`], [`Object::text`], [`Object::disconnect`], [`Object::alarm`]) and is told
//! when the object wants a turn. Nothing here waits, and nothing reads a clock.
//!
//! Events of all sockets gather until the next turn: one verification batch, one transaction, then their OKs.
//! Whatever a session needs to go on is beside its socket when a call returns; see `attachment`. Messages that
//! gather are not: that there are some is, and a session whose messages were lost is closed, so that its client
//! connects and sends them again; see `held`.

mod attachment;
mod bytes;
mod consumers;
mod held;
mod leaving;
mod numbers;
mod output;
mod parts;
mod sweep;
mod turn;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use relay_engine::relay::{ConnId, Costliest, Live, Peer, PublishOutcome, Relay, Ticket};
use relay_engine::store::sql::{SqlBackend, SqlConn, SqlOpenError};
use relay_engine::store::{Backend, Reader, Seq, Stats};
use relay_engine::types::{Event, Now};
use relay_engine::verify::Verifier;
use relay_site::metrics::{ADDRESS_COST, AUTHOR_BYTES, STORE_BYTES, STORE_EVENTS};

pub use attachment::{Key, PartName};
pub use numbers::RowCount;

use crate::metrics::{Family, MEMORY_BYTES, SOCKETS_LEAVING, SOCKETS_LEAVING_BYTES, STORE_UPKEEP_FAILURES};
use crate::settings::{ObjectSettings, Settings};
use attachment::Coder;
use consumers::Consumers;
use held::Held;
use leaving::Leaving;
use numbers::Numbers;
use output::Backlog;

/// What an object asks of its runtime.
pub trait Host {
    /// A client's socket.
    type Socket;

    /// Queues a text message.
    fn send(&self, socket: &Self::Socket, text: &str);

    /// Closes a socket once what is queued is out.
    fn close(&self, socket: &Self::Socket, code: u16, reason: &str);

    /// Bytes queued that have not gone out.
    fn buffered_bytes(&self, socket: &Self::Socket) -> usize;

    /// Keeps `attachment` beside the socket for as long as it lives. Empty: there is no session any more.
    fn attach(&self, socket: &Self::Socket, attachment: &[u8]);

    /// What all objects of this isolate have allocated together; it does not shrink.
    fn memory_bytes(&self) -> u64;

    /// Hands a batch of a stream to its consumer; what became of it is told by [`Object::delivered`], later.
    fn deliver(&self, consumer: &str, events: Vec<(Option<Seq>, Event)>);

    /// Calls [`Object::alarm`] at this moment instead of any other it was asked for.
    fn set_alarm(&self, at: Now);

    /// Hands ephemeral events to the objects of the other shards, for their [`Object::live`]. Called once a turn at
    /// most, with what came in it.
    fn hand_on(&self, events: &[Event]);
}

/// A connection to SQLite that counts rows as they are billed.
pub trait CountingConn: SqlConn {
    /// Rows read and written since it was opened.
    fn rows(&self) -> RowCount;
}

/// What an object wants next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing, until something happens.
    Idle,
    /// A turn, once the events that have arrived already have been delivered.
    Turn,
    /// A turn in so many milliseconds: a reader is slow.
    Later(u64),
}

/// Bytes of messages that gather before a turn is taken at once: an object has 128 MB for everything.
const GATHERED_BYTES_MAX: usize = 8 << 20;

/// Output that all sockets together may hold before their readers wait, in bytes; a reader's share is at least
/// [`OUTPUT_SHARE_MIN`]. One frame may go past it.
const OUTPUT_BYTES: usize = 32 << 20;
const OUTPUT_SHARE_MIN: usize = 1 << 10;

/// Longest Host header that is remembered as a relay's name, in bytes.
const HOST_BYTES_MAX: usize = 255;

/// One shard.
pub struct Object<C: CountingConn + 'static, H: Host> {
    host: H,
    relay: Relay<SqlBackend<C>>,
    verifier: Arc<dyn Verifier>,
    settings: ObjectSettings,
    conns: HashMap<ConnId, Conn<H::Socket>>,
    by_key: HashMap<Key, ConnId>,
    /// Connections that may be read on.
    resumed: Vec<Key>,
    /// Connections that are known to be slow.
    slow: BTreeSet<ConnId>,
    held: Held,
    leaving: Leaving,
    consumers: Consumers,
    /// The alarm that is set, if it was this object that set it.
    alarm: Option<Now>,
    /// Whether `alarm` has seen to everything that is stored: not when the object has just woken up.
    knows_alarm: bool,
    /// Bytes of events and of what waits behind them since the last turn.
    gathered_bytes: usize,
    /// What the settings let a reader leave waiting, however few there are.
    outbox_bytes_pause: usize,
    numbers: Numbers,
}

struct Conn<S> {
    key: Key,
    socket: S,
    coder: Coder,
    /// Parts in the store that belong to it.
    parts: BTreeSet<PartName>,
    backlog: Option<Backlog>,
    /// Its attachment says that messages are held.
    is_marked: bool,
}

impl<S> Conn<S> {
    fn new(key: Key, socket: S, parts: BTreeSet<PartName>) -> Self {
        Conn { key, socket, coder: Coder::default(), parts, backlog: None, is_marked: false }
    }
}

impl<C: CountingConn + 'static, H: Host> Object<C, H> {
    /// Opens the store in `conn`. `seed` is secret and random, another one each time.
    ///
    /// # Errors
    /// Those of [`SqlBackend::open`].
    pub fn open(
        conn: C,
        host: H,
        settings: &Settings,
        verifier: Arc<dyn Verifier>,
        seed: [u8; 32],
    ) -> Result<Self, SqlOpenError> {
        parts::create(&conn)?;
        sweep::create(&conn)?;
        consumers::create(&conn)?;
        let store = SqlBackend::open(conn)?;
        let mut numbers = Numbers::default();
        numbers.rows.upkeep.add(store.conn().rows());
        let relay = Relay::new(Arc::new(settings.config()), store, Arc::clone(&verifier), seed);
        Ok(Object {
            host,
            relay,
            verifier,
            settings: settings.object.clone(),
            conns: HashMap::new(),
            by_key: HashMap::new(),
            resumed: Vec::new(),
            slow: BTreeSet::new(),
            held: Held::default(),
            leaving: Leaving::default(),
            consumers: Consumers::new(&settings.consumers),
            alarm: None,
            knows_alarm: false,
            gathered_bytes: 0,
            outbox_bytes_pause: settings.limits.outbox_bytes_pause,
            numbers,
        })
    }

    /// Takes up the sessions beside these sockets, as they were before the object forgot them. Each comes with its
    /// key and with what is beside it.
    pub fn restore(
        &mut self,
        now: Now,
        sockets: impl IntoIterator<Item = (Key, H::Socket, Vec<u8>)>,
    ) -> Next {
        let before = self.rows();
        for (socket_key, socket, attached) in sockets {
            if attached.is_empty() {
                // It was closed, and is still there.
                self.leaving.insert(socket_key, self.host.buffered_bytes(&socket));
                continue;
            }
            let store = self.relay.store().conn();
            let is_held = attachment::is_held(&attached);
            let loaded = attachment::key_of(&attached).filter(|_| !is_held).and_then(|key| {
                let mut part = |name| parts::read(store, key, name).ok().flatten();
                attachment::load(&attached, &mut part).ok().map(|(session, names)| (key, session, names))
            });
            let Some((key, session, names)) = loaded else {
                self.numbers.sessions_interrupted += u64::from(is_held);
                self.numbers.sessions_lost += u64::from(!is_held);
                self.host.attach(&socket, &[]);
                self.host.close(&socket, 1012, "the session was lost, please connect again");
                self.leaving.insert(socket_key, self.host.buffered_bytes(&socket));
                continue;
            };
            self.numbers.sessions_restored += 1;
            let id = self.relay.restore(now, session);
            self.conns.insert(id, Conn::new(key, socket, names.into_iter().collect()));
            self.by_key.insert(key, id);
            self.note_backlog(now, id);
            // Said once in any case: it may have to be told what it missed.
            let bytes = self.conns.get(&id).and_then(|conn| conn.backlog).map_or(0, |backlog| backlog.bytes);
            self.relay.handle_backlog(id, bytes);
        }
        self.share_out();
        parts::sweep(self.relay.store().conn(), |key| self.by_key.contains_key(&key));
        self.numbers.rows.upkeep.add(self.rows().since(before));
        self.settle(now)
    }

    /// A client has connected; `key` is unique among the sockets of this object. `None`: there is no room.
    pub fn connect(&mut self, now: Now, key: Key, socket: H::Socket, mut peer: Peer) -> Option<Next> {
        peer.host = peer.host.filter(|host| host.len() <= HOST_BYTES_MAX);
        let id = if self.has_room() { self.relay.connect(now, peer)? } else { return None };
        self.conns.insert(id, Conn::new(key, socket, BTreeSet::new()));
        self.by_key.insert(key, id);
        self.share_out();
        Some(self.settle(now))
    }

    /// A text message.
    pub fn text(&mut self, now: Now, key: Key, text: &str) -> Next {
        let Some(&id) = self.by_key.get(&key) else { return Next::Idle };
        let (before, metrics) = (self.rows(), self.relay.metrics());
        let events = metrics.messages_event;
        let deferred = metrics.messages_deferred;
        self.relay.handle_text(now, id, text.as_bytes());
        let spent = self.rows().since(before);
        let rows = &mut self.numbers.rows;
        let metrics = self.relay.metrics();
        let (is_event, is_deferred) = (metrics.messages_event > events, metrics.messages_deferred > deferred);
        let rows = if is_event { &mut rows.events } else { &mut rows.requests };
        rows.add(spent);
        self.hold(id);
        if !is_event && !is_deferred {
            return self.settle(now);
        }
        self.gathered_bytes += text.len();
        if self.gathered_bytes > GATHERED_BYTES_MAX { self.turn(now) } else { self.settle(now) }
    }

    /// Publishes an event that a key of the host's own has signed; see [`Relay::publish`].
    pub fn publish(&mut self, now: Now, event: &Event) -> (Ticket, Next) {
        let ticket = self.relay.publish(now, event);
        (ticket, self.settle(now))
    }

    /// What became of an event that was published. Those that are lost with the object's memory are not told of:
    /// they are to be published again.
    pub fn poll_published(&mut self) -> Option<(Ticket, PublishOutcome)> {
        self.relay.poll_published()
    }

    /// Ephemeral events that the object of another shard has verified and handed on.
    pub fn live(&mut self, now: Now, events: Vec<Event>) -> Next {
        let live: Vec<Live> = events.into_iter().map(|event| Live { seq: None, event }).collect();
        self.relay.handle_live(now, &live);
        self.settle(now)
    }

    /// A binary message.
    pub fn binary(&mut self, now: Now, key: Key) -> Next {
        let Some(&id) = self.by_key.get(&key) else { return Next::Idle };
        self.relay.handle_binary(id);
        self.settle(now)
    }

    /// Whether the socket should be read on. After `false` its key will come out of [`Object::poll_resumed`].
    /// Takes a turn if that is what stands against it.
    pub fn wants_input(&mut self, now: Now, key: Key) -> bool {
        let Some(&id) = self.by_key.get(&key) else { return true };
        if self.relay.wants_input(id) {
            return true;
        }
        self.turn(now);
        self.by_key.get(&key).is_none_or(|id| self.relay.wants_input(*id))
    }

    /// A socket that may be read on.
    pub fn poll_resumed(&mut self) -> Option<Key> {
        self.resumed.pop()
    }

    /// A socket is gone.
    pub fn disconnect(&mut self, now: Now, key: Key) -> Next {
        if let Some(id) = self.by_key.get(&key).copied() {
            self.forget(id);
        } else if self.leaving.remove(key) {
            self.share_out();
        }
        self.settle(now)
    }

    /// Whether there is a session of this key.
    pub fn knows(&self, key: Key) -> bool {
        self.by_key.contains_key(&key)
    }

    /// Numbers since the object woke up, the names of those that cost the most lately among them; see
    /// [`metrics::for_everybody`](crate::metrics::for_everybody).
    pub fn families(&self, now: Now) -> Vec<Family> {
        let mut others = vec![
            (MEMORY_BYTES, self.host.memory_bytes()),
            (SOCKETS_LEAVING, self.leaving.len() as u64),
            (SOCKETS_LEAVING_BYTES, self.leaving.bytes() as u64),
            (STORE_UPKEEP_FAILURES, self.relay.store().maintenance_failures()),
        ];
        if let Ok(store) = self.stats() {
            others.extend([(STORE_EVENTS, store.events), (STORE_BYTES, store.bytes)]);
        }
        let mut families = self.numbers.families(self.relay.metrics(), others);
        let Costliest { addresses, authors } = Costliest::of_all([&self.relay.costliest(now)]);
        let addresses = addresses.into_iter().map(|(address, cost)| (address.to_string(), cost));
        families.push(Family::by(ADDRESS_COST, "address", addresses));
        let authors = authors.into_iter().map(|(author, bytes)| (author.to_string(), bytes));
        families.push(Family::by(AUTHOR_BYTES, "author", authors));
        families
    }

    /// Sizes of the store.
    ///
    /// # Errors
    /// In words, if the store fails.
    pub fn stats(&self) -> Result<Stats, String> {
        self.relay.store().reader().and_then(|reader| reader.stats()).map_err(|error| error.to_string())
    }

    /// Ends a session.
    fn forget(&mut self, id: ConnId) {
        self.relay.disconnect(id);
        self.slow.remove(&id);
        self.held.forget(id);
        if let Some(conn) = self.conns.remove(&id) {
            self.by_key.remove(&conn.key);
            self.share_out();
            self.resumed.push(conn.key);
            let before = self.rows();
            let store = self.relay.store().conn();
            // What cannot be deleted now is swept when the object wakes up next.
            let _ = parts::delete(store, conn.key, conn.parts.iter());
            self.numbers.rows.upkeep.add(self.rows().since(before));
        }
    }

    /// Shares memory for output among the sockets, by their number in powers of two, so that it seldom changes. What
    /// closed sockets still hold cannot be shared.
    fn share_out(&mut self) {
        let output_bytes = OUTPUT_BYTES.saturating_sub(self.leaving.bytes());
        let share = (output_bytes / self.conns.len().max(1)).max(OUTPUT_SHARE_MIN);
        let share = 1 << share.ilog2();
        self.relay.set_outbox_bytes_pause(self.outbox_bytes_pause.min(share));
    }

    fn rows(&self) -> RowCount {
        self.relay.store().conn().rows()
    }
}
