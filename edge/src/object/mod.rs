//! The host of one shard: its machine, sockets and store.
//!
//! Generic over the runtime, so that everything except a thin layer over workerd is tested natively. That layer reports
//! what happens ([`Object::connect`], [`Object::text`], [`Object::disconnect`], [`Object::alarm`]); calls return
//! whether and when the object needs a tick ([`NextTick`]). Nothing here waits or reads a clock.
//! In a tick
//! ([`Object::tick`]) all events that have arrived since the last one are verified in one batch, stored in one
//! transaction and answered with OK; then requests take a few steps. Between calls, everything that a session needs is in
//! the attachment of its socket and survives hibernation; see `attachment`. Unanswered messages do not survive: the
//! attachment says that there are some, and their socket is closed if they were lost; see `unanswered`.

mod addresses;
#[cfg(feature = "libsecp256k1")]
mod agent_metrics;
#[cfg(feature = "libsecp256k1")]
mod agents;
mod attachment;
pub(crate) mod bytes;
mod closing;
mod consumers;
mod metrics;
mod output;
mod pull;
mod session_overflow;
mod sweep;
mod tick;
mod unanswered;
mod undelivered;

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use relay_engine::relay::{ClientInfo, ConnId, LiveEvent, PublishOutcome, Relay, Ticket, TopCosts};
use relay_engine::store::sql::{SqlBackend, SqlConn, SqlOpenError};
use relay_engine::store::{Backend, Reader, Seq, Stats, StoreError};
#[cfg(feature = "libsecp256k1")]
use relay_engine::types::PubKey;
use relay_engine::types::{ClientAddress, Event, Now};
use relay_engine::verify::Verifier;
use relay_site::metrics::{
    ADDRESS_COST, AUTHOR_BYTES, CONNECTIONS_OF_BUSIEST_ADDRESS, REFUSED_BY_ADDRESS, STORE_BYTES,
    STORE_EVENTS, STORE_MAINTENANCE_FAILURES, STORE_PENDING_REMOVAL,
};

pub use addresses::ConnectError;
#[cfg(feature = "libsecp256k1")]
pub use agents::{CallId, PublicationId};
pub use attachment::{Key, OverflowName};
pub use metrics::RowCount;
pub(crate) use pull::metrics::names_peers;
pub use pull::{PEER_MESSAGE_BYTES_MAX, PeerConn, PeerEvent};

use crate::metrics::{Family, MEMORY_BYTES, MEMORY_USED_BYTES, SOCKETS_CLOSING, SOCKETS_CLOSING_BYTES};
use crate::settings::{OUTPUT_BYTES_MAX, ObjectSettings, Settings, StoreSettings};
use addresses::Addresses;
use attachment::Encoder;
use closing::ClosingSockets;
use consumers::Consumers;
use metrics::Counters;
use output::Backlog;
use pull::Pulls;
use unanswered::Unanswered;

/// The runtime, as an object uses it.
pub trait Host {
    /// A client's socket.
    type Socket;

    /// Queues a text message.
    fn send(&self, socket: &Self::Socket, text: &str);

    /// Closes a socket after everything queued has been sent.
    fn close(&self, socket: &Self::Socket, code: u16, reason: &str);

    /// Bytes queued and not yet sent.
    fn buffered_bytes(&self, socket: &Self::Socket) -> usize;

    /// Sets the attachment of a socket, which survives hibernation.
    fn attach(&self, socket: &Self::Socket, attachment: &[u8]);

    /// WebAssembly memory of this isolate, which all its objects share, in bytes. It never shrinks.
    fn memory_bytes(&self) -> u64;

    /// Bytes of it that are allocated now.
    fn memory_used_bytes(&self) -> u64;

    /// Sends a batch of a stream to its consumer. The outcome comes later, by [`Object::acknowledge`].
    fn deliver(&self, consumer: &str, events: Vec<(Option<Seq>, Event)>);

    /// Sets the object's one alarm, which calls [`Object::alarm`], and replaces the one that was set.
    fn set_alarm(&self, at: Now);

    /// A line for the operator.
    fn log(&self, line: &str);

    /// Forwards ephemeral events to the objects of the other shards, for their [`Object::live`]. Called at most once a
    /// tick, with all events of that tick.
    fn forward(&self, events: &[Event]);

    /// Opens a connection to another relay, in place of the one before. What happens on it comes later, by [`Object::peer`].
    fn connect_peer(&self, conn: PeerConn, url: &str);

    /// Sends a text message to it, if it is still open.
    fn send_to_peer(&self, conn: PeerConn, text: &str);

    /// Closes it; nothing that happens on it is reported any more.
    fn close_peer(&self, conn: PeerConn);

    /// Sends a delivery to the object of an agent. The answer comes later, by [`Object::agent_answered`].
    #[cfg(feature = "libsecp256k1")]
    fn call_agent(&self, call: CallId, agent: &PubKey, delivery: crate::agent::message::Delivery);

    /// The secrets of agents.
    #[cfg(feature = "libsecp256k1")]
    fn agent_secrets(&self) -> Arc<dyn relay_agent::secrets::Secrets + Send + Sync>;
}

/// A connection to SQLite that counts rows as they are billed. Clones are the same connection, and count together.
pub trait RowCountingConn: SqlConn + Clone {
    /// Rows read and written since it was opened.
    fn rows(&self) -> RowCount;
}

/// When an object needs its next tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NextTick {
    /// Not until something happens.
    None,
    /// After the messages that have already arrived have been passed in.
    Soon,
    /// In this many milliseconds: to check a slow reader, or for a timeout.
    After(u64),
}

/// Bytes of unanswered messages since the last tick, above which a tick is done at once: an object has 128 MB of memory.
const UNANSWERED_BYTES_MAX: usize = 8 << 20;

/// Longest Host header that is kept for checking the `relay` tag of AUTH (NIP-42), in bytes.
const HOST_BYTES_MAX: usize = 255;

/// One shard.
pub struct Object<C: RowCountingConn + 'static, H: Host> {
    host: H,
    relay: Relay<SqlBackend<C>>,
    verifier: Arc<dyn Verifier>,
    settings: ObjectSettings,
    store_settings: StoreSettings,
    write_stall_seconds: u64,
    conns: HashMap<ConnId, Connection<H::Socket>>,
    by_key: HashMap<Key, ConnId>,
    /// Sockets that may be read again.
    resumed: Vec<Key>,
    /// Connections with a backlog.
    slow: BTreeSet<ConnId>,
    unanswered: Unanswered,
    closing: ClosingSockets,
    addresses: Addresses,
    consumers: Consumers,
    pulls: Pulls,
    /// `None` if they are disabled.
    #[cfg(feature = "libsecp256k1")]
    agents: Option<agents::Agents<C>>,
    #[cfg(feature = "libsecp256k1")]
    agents_max: usize,
    /// The alarm, if this object has set one since it woke up.
    alarm: Option<Now>,
    /// Whether `alarm` is soon enough for everything in the store. Unknown when the object has just woken up.
    alarm_is_known: bool,
    /// Bytes of unanswered messages since the last tick.
    unanswered_bytes: usize,
    /// The sequence number in the row of `edge_undelivered`, if there is one: events above it are still being delivered.
    undelivered: Option<Seq>,
    /// Most bytes of output that may wait for all readers.
    output_bytes_max: usize,
    counters: Counters,
}

struct Connection<S> {
    key: Key,
    socket: S,
    /// The address that it is counted by.
    address: Option<ClientAddress>,
    encoder: Encoder,
    /// Its overflows in the store.
    overflows: BTreeSet<OverflowName>,
    backlog: Option<Backlog>,
    /// Whether its attachment says that it has unanswered messages.
    is_marked_unanswered: bool,
}

impl<S> Connection<S> {
    fn new(key: Key, socket: S, address: Option<ClientAddress>, overflows: BTreeSet<OverflowName>) -> Self {
        let encoder = Encoder::default();
        Connection { key, socket, address, encoder, overflows, backlog: None, is_marked_unanswered: false }
    }
}

impl<C: RowCountingConn + 'static, H: Host> Object<C, H> {
    /// Opens the store in `conn`. `seed` must be secret, random and new each time.
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
        session_overflow::create(&conn)?;
        sweep::create(&conn)?;
        for created in [consumers::create(&conn), undelivered::create(&conn)] {
            match created {
                // The storage is full and the table is new in this version: clients are served, and consumers wait until
                // there is space.
                Err(StoreError::Full(_)) => {}
                created => created?,
            }
        }
        #[cfg(feature = "libsecp256k1")]
        let opened =
            settings.agents.enabled.then(|| agents::Agents::open(conn.clone(), host.agent_secrets()));
        #[cfg(feature = "libsecp256k1")]
        let agents = match opened {
            // Likewise; there can be no agents yet.
            None | Some(Err(StoreError::Full(_))) => None,
            Some(opened) => Some(opened?),
        };
        let pulls = match Pulls::open(&conn, settings, &seed) {
            // The table is new and the storage is full: nothing is copied.
            Err(StoreError::Full(_)) => Pulls::default(),
            opened => opened?,
        };
        let store = SqlBackend::open(conn)?;
        let mut counters = Counters::default();
        counters.rows.maintenance.add(store.conn().rows());
        let relay = Relay::new(Arc::new(settings.config()), store, Arc::clone(&verifier), seed);
        Ok(Object {
            host,
            relay,
            verifier,
            settings: settings.object.clone(),
            store_settings: settings.store.clone(),
            write_stall_seconds: settings.network.write_stall_seconds,
            conns: HashMap::new(),
            by_key: HashMap::new(),
            resumed: Vec::new(),
            slow: BTreeSet::new(),
            unanswered: Unanswered::default(),
            closing: ClosingSockets::default(),
            addresses: Addresses::new(&settings.network),
            consumers: Consumers::new(&settings.consumers),
            pulls,
            #[cfg(feature = "libsecp256k1")]
            agents,
            #[cfg(feature = "libsecp256k1")]
            agents_max: settings.agents.agents_max,
            alarm: None,
            alarm_is_known: false,
            unanswered_bytes: 0,
            undelivered: None,
            output_bytes_max: settings.limits.shard_outbox_bytes_max.min(OUTPUT_BYTES_MAX),
            counters,
        })
    }

    /// Restores the sessions of an object that has just woken up from its sockets, each with its key and attachment.
    pub fn restore(
        &mut self,
        now: Now,
        sockets: impl IntoIterator<Item = (Key, H::Socket, Vec<u8>)>,
    ) -> NextTick {
        let before = self.rows();
        self.undelivered = undelivered::read(self.relay.store().conn());
        self.pulls.woken(now);
        for (socket_key, socket, attached) in sockets {
            if attachment::has_ended(&attached) {
                let bytes = self.host.buffered_bytes(&socket);
                self.keep_closing(socket_key, attachment::address_of(&attached), bytes);
                continue;
            }
            let store = self.relay.store().conn();
            let has_unanswered = attachment::has_unanswered(&attached);
            let loaded = attachment::key_of(&attached).filter(|_| !has_unanswered).and_then(|key| {
                let mut overflow = |name| session_overflow::read(store, key, name).ok().flatten();
                attachment::load(&attached, &mut overflow).ok().map(|(session, names)| (key, session, names))
            });
            let Some((key, mut session, names)) = loaded else {
                self.counters.sessions_interrupted += u64::from(has_unanswered);
                self.counters.sessions_lost += u64::from(!has_unanswered);
                let address = attachment::address_of(&attached);
                self.host.attach(&socket, &attachment::ended(address));
                self.host.close(&socket, 1012, "the session was lost, please reconnect");
                self.keep_closing(socket_key, address, self.host.buffered_bytes(&socket));
                continue;
            };
            self.counters.sessions_restored += 1;
            if let Some(after) = self.undelivered {
                session.mark_undelivered_after(after);
            }
            let address = session.address;
            let id = self.relay.restore(now, session);
            self.addresses.restore(address);
            self.conns.insert(id, Connection::new(key, socket, address, names.into_iter().collect()));
            self.by_key.insert(key, id);
            self.update_backlog(now, id);
            // In any case, also without a backlog: the machine then sends the NOTICE of missed events, if there is one.
            let bytes = self.conns.get(&id).and_then(|conn| conn.backlog).map_or(0, |backlog| backlog.bytes);
            self.relay.handle_backlog(id, bytes);
        }
        self.set_output_memory();
        session_overflow::sweep(self.relay.store().conn(), |key| self.by_key.contains_key(&key));
        self.counters.rows.maintenance.add(self.rows().since(before));
        self.flush(now)
    }

    /// Whether a client at this address may connect.
    ///
    /// # Errors
    /// Why it may not.
    pub fn admit(&mut self, from: Option<IpAddr>) -> Result<(), ConnectError> {
        if !self.has_room() {
            return Err(ConnectError::Full);
        }
        let address = self.addresses.limited(from);
        if self.addresses.admits(address) { Ok(()) } else { Err(ConnectError::AddressFull) }
    }

    /// A client has connected, with this Host header and from this address. `key` is unique among the sockets of this object.
    ///
    /// # Errors
    /// Those of [`Object::admit`].
    pub fn connect(
        &mut self,
        now: Now,
        key: Key,
        socket: H::Socket,
        host: Option<String>,
        from: Option<IpAddr>,
    ) -> Result<NextTick, ConnectError> {
        self.admit(from)?;
        let address = self.addresses.limited(from);
        let peer = ClientInfo { host_header: host.filter(|host| host.len() <= HOST_BYTES_MAX), address };
        let id = self.relay.connect(now, peer).ok_or(ConnectError::Full)?;
        self.addresses.restore(address);
        self.conns.insert(id, Connection::new(key, socket, address, BTreeSet::new()));
        self.by_key.insert(key, id);
        Ok(self.flush(now))
    }

    /// A text message.
    pub fn text(&mut self, now: Now, key: Key, text: &str) -> NextTick {
        let Some(&id) = self.by_key.get(&key) else { return NextTick::None };
        let (before, metrics) = (self.rows(), self.relay.metrics());
        let events = metrics.messages_event;
        let deferred = metrics.messages_deferred;
        self.relay.handle_text(now, id, text.as_bytes());
        let spent = self.rows().since(before);
        let rows = &mut self.counters.rows;
        let metrics = self.relay.metrics();
        let (is_event, is_deferred) = (metrics.messages_event > events, metrics.messages_deferred > deferred);
        let rows = if is_event { &mut rows.events } else { &mut rows.requests };
        rows.add(spent);
        self.mark_unanswered(id);
        if !is_event && !is_deferred {
            return self.flush(now);
        }
        self.unanswered_bytes += text.len();
        if self.unanswered_bytes > UNANSWERED_BYTES_MAX { self.tick(now) } else { self.flush(now) }
    }

    /// Publishes an event that a key of the host's own has signed; see [`Relay::publish`].
    pub fn publish(&mut self, now: Now, event: &Event) -> (Ticket, NextTick) {
        let ticket = self.relay.publish(now, event);
        (ticket, self.flush(now))
    }

    /// The outcome of an event that was published. There is none for events that are lost with the object's memory: the
    /// caller must publish them again.
    pub fn poll_published(&mut self) -> Option<(Ticket, PublishOutcome)> {
        #[cfg(feature = "libsecp256k1")]
        if self.agents.is_some() {
            return self.poll_published_by_others();
        }
        self.relay.poll_published()
    }

    /// Ephemeral events that the object of another shard has verified and forwarded.
    pub fn live(&mut self, now: Now, events: Vec<Event>) -> NextTick {
        let live: Vec<LiveEvent> =
            events.into_iter().map(|event| LiveEvent::ephemeral(event, None)).collect();
        self.relay.handle_live(now, &live);
        self.flush(now)
    }

    /// A binary message.
    pub fn binary(&mut self, now: Now, key: Key) -> NextTick {
        let Some(&id) = self.by_key.get(&key) else { return NextTick::None };
        self.relay.handle_binary(id);
        self.flush(now)
    }

    /// Whether the socket may be read further. After `false`, its key comes from [`Object::poll_resumed`] once it may.
    /// Does a tick first if that could help.
    pub fn wants_input(&mut self, now: Now, key: Key) -> bool {
        let Some(&id) = self.by_key.get(&key) else { return true };
        if self.relay.wants_input(id) {
            return true;
        }
        self.tick(now);
        self.by_key.get(&key).is_none_or(|id| self.relay.wants_input(*id))
    }

    /// A socket that may be read again.
    pub fn poll_resumed(&mut self) -> Option<Key> {
        self.resumed.pop()
    }

    /// A socket has closed.
    pub fn disconnect(&mut self, now: Now, key: Key) -> NextTick {
        if let Some(id) = self.by_key.get(&key).copied() {
            self.end_session(id);
        } else if self.forget_closing(key) {
            self.set_output_memory();
        }
        self.flush(now)
    }

    /// Whether there is a session with this key.
    pub fn has_session(&self, key: Key) -> bool {
        self.by_key.contains_key(&key)
    }

    /// All metrics; counters start when the object wakes up. They name the addresses and authors that cost the most, and the
    /// busiest agents, see [`metrics::without_names`](crate::metrics::without_names).
    pub fn families(&self, now: Now) -> Vec<Family> {
        let mut others = vec![
            (MEMORY_BYTES, self.host.memory_bytes()),
            (MEMORY_USED_BYTES, self.host.memory_used_bytes()),
            (SOCKETS_CLOSING, self.closing.len() as u64),
            (SOCKETS_CLOSING_BYTES, self.closing.bytes() as u64),
            (REFUSED_BY_ADDRESS, self.addresses.refused()),
            (CONNECTIONS_OF_BUSIEST_ADDRESS, self.addresses.most() as u64),
            (STORE_MAINTENANCE_FAILURES, self.relay.store().maintenance_failures()),
        ];
        if let Ok(store) = self.stats() {
            let Stats { events, pending_removal, bytes } = store;
            others.extend([
                (STORE_EVENTS, events),
                (STORE_PENDING_REMOVAL, pending_removal),
                (STORE_BYTES, bytes),
            ]);
        }
        let mut families = self.counters.families(self.relay.metrics(), others);
        let TopCosts { addresses, authors } = TopCosts::of_all([&self.relay.costliest(now)]);
        let addresses = addresses.into_iter().map(|(address, cost)| (address.to_string(), cost));
        families.push(Family::by(ADDRESS_COST, "address", addresses));
        let authors = authors.into_iter().map(|(author, bytes)| (author.to_string(), bytes));
        families.push(Family::by(AUTHOR_BYTES, "author", authors));
        families.extend(pull::metrics::families(&self.pulls));
        #[cfg(feature = "libsecp256k1")]
        families.extend(self.agents.iter().flat_map(agents::Agents::families));
        families
    }

    /// Sizes of the store.
    ///
    /// # Errors
    /// The error message of a store that fails.
    pub fn stats(&self) -> Result<Stats, String> {
        self.relay.store().reader().and_then(|reader| reader.stats()).map_err(|error| error.to_string())
    }

    /// Removes a session and its overflows.
    fn end_session(&mut self, id: ConnId) {
        self.relay.disconnect(id);
        self.slow.remove(&id);
        self.unanswered.remove(id);
        if let Some(conn) = self.conns.remove(&id) {
            self.by_key.remove(&conn.key);
            self.addresses.close(conn.address);
            self.set_output_memory();
            self.resumed.push(conn.key);
            let before = self.rows();
            let store = self.relay.store().conn();
            // Overflows that cannot be deleted now are swept when the object next wakes up.
            let _ = session_overflow::delete(store, conn.key, conn.overflows.iter());
            self.counters.rows.maintenance.add(self.rows().since(before));
        }
    }

    /// Gives the machine the output memory that closing sockets do not hold.
    fn set_output_memory(&mut self) {
        self.relay.set_shard_outbox_bytes_max(self.output_bytes_max.saturating_sub(self.closing.bytes()));
    }

    fn rows(&self) -> RowCount {
        self.relay.store().conn().rows()
    }
}
