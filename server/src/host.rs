//! What all threads of a serving process share: configuration, inboxes, the way to the writer, and health.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hyper::body::Bytes;
use relay_engine::policy::AddressRates;
use relay_engine::relay::{self, CommitReply, LiveEvent, PublishOutcome};
use relay_engine::store::{Seq, Stats, StoreError};
use relay_engine::types::{Event, Filter, Now};
use relay_engine::verify::Verifier;
use relay_site::{AdminAuth, FEATURES, Networks, Route, Table};
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore, mpsc as channel, oneshot};

use crate::agents::Agents;
use crate::blossom::Blossom;
use crate::cached::Cached;
use crate::config::Settings;
use crate::handle::Item;
use crate::market::Market;
use crate::metrics::{self, ShardSnapshot, WriterMetrics};
use crate::net::addresses::{AddressPermit, Addresses};
use crate::net::deadline::Timeouts;
use crate::net::descriptors::{LINGERING_MAX, SocketLimits};
use crate::writer::ToWriter;

/// How old the answer to a question after the relay's health may be: a flood of them reaches no shard more often.
const HEALTH_AGE_MAX: Duration = Duration::from_secs(1);

/// A message to a shard from another thread.
pub(crate) enum Inbound {
    /// A client has connected.
    Socket(Socket),
    /// One of the shard's commits is durable, or failed.
    Committed(CommitReply),
    /// Events for its subscriptions, in commit order.
    Live(Arc<[LiveEvent]>),
    /// Its metrics are asked for.
    Snapshot(oneshot::Sender<ShardSnapshot>),
    /// An event that the host itself publishes.
    Publish(Event, oneshot::Sender<PublishOutcome>),
    /// An event that somebody else has signed, and that the host passes on.
    PublishCopy(Event, oneshot::Sender<PublishOutcome>),
    /// A consumer wants a stream.
    OpenStream {
        /// What it wants.
        filters: Vec<Filter>,
        /// The last it has dealt with.
        after: Option<Seq>,
        /// Where it is handed events.
        sender: channel::Sender<Item>,
        /// Sent once the stream is open.
        opened: oneshot::Sender<Result<(), StoreError>>,
    },
    /// Finish what is in flight, close the connections, end.
    Stop,
}

/// A socket on its way to a shard.
pub(crate) struct Socket {
    pub(crate) stream: std::net::TcpStream,
    pub(crate) peer: SocketAddr,
    /// Its permit among the connections of its address; `None` if it is not counted (a proxy's, or exempt).
    pub(crate) permit: Option<AddressPermit>,
}

/// One shard's inbox.
#[derive(Default)]
pub(crate) struct Inbox {
    queue: Mutex<Vec<Inbound>>,
    /// Its receivers are gone.
    is_closed: AtomicBool,
    /// Live events in `queue`.
    live_events: AtomicUsize,
    /// Wakes the shard's event loop.
    pub(crate) wake: Notify,
    /// Sockets of the shard, those on their way included.
    pub(crate) sockets: AtomicUsize,
}

impl Inbox {
    /// Adds `items`, in order, and wakes the shard once.
    pub(crate) fn push_all(&self, items: impl IntoIterator<Item = Inbound>) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_closed.load(Ordering::Relaxed) {
            // Dropped: what waits for an answer learns that there is none.
            return;
        }
        for item in items {
            if let Inbound::Live(live) = &item {
                self.live_events.fetch_add(live.len(), Ordering::Relaxed);
            }
            queue.push(item);
        }
        drop(queue);
        self.wake.notify_one();
    }

    /// Adds one item and wakes the shard.
    pub(crate) fn push(&self, item: Inbound) {
        self.push_all([item]);
    }

    /// The shard has ended: what is there and what comes is dropped.
    pub(crate) fn close(&self) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        self.is_closed.store(true, Ordering::Relaxed);
        queue.clear();
    }

    /// Takes everything.
    pub(crate) fn take(&self) -> Vec<Inbound> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.is_empty() {
            return Vec::new();
        }
        self.live_events.store(0, Ordering::Relaxed);
        std::mem::take(&mut *queue)
    }
}

/// The documents that are the same for every request.
pub(crate) struct Documents {
    /// NIP-11.
    pub(crate) information: Bytes,
    /// For people.
    pub(crate) page: Bytes,
}

/// The shared part of a serving process.
pub(crate) struct ServerState {
    pub(crate) settings: Settings,
    pub(crate) config: Arc<relay::Config>,
    pub(crate) inboxes: Box<[Inbox]>,
    pub(crate) writer: mpsc::Sender<ToWriter>,
    pub(crate) writer_metrics: Mutex<WriterMetrics>,
    /// Where requests are handled that take work.
    pub(crate) api: Handle,
    /// Who may read the administrators' endpoints.
    pub(crate) admin_auth: AdminAuth,
    /// Checks the signatures of HTTP requests.
    pub(crate) verifier: Arc<dyn Verifier>,
    /// What the relay's port answers.
    pub(crate) table: Table,
    pub(crate) documents: Documents,
    pub(crate) started: Instant,
    /// Why the store can't be written any more.
    failure: Mutex<Option<String>>,
    /// Woken when the process should end by itself.
    pub(crate) failed: Notify,
    pub(crate) is_stopping: AtomicBool,
    /// Sockets refused because there was no slot.
    pub(crate) sockets_refused: AtomicU64,
    /// Clients that have been refused and are read from for a moment, without a slot.
    pub(crate) lingering: Semaphore,
    /// Sockets that are served at a time.
    socket_limits: SocketLimits,
    /// WebSocket connections of all shards.
    connections: AtomicUsize,
    /// Connections of all shards by address.
    pub(crate) addresses: Arc<Addresses>,
    /// What addresses may send, at all shards together.
    pub(crate) address_rates: Arc<Mutex<AddressRates>>,
    /// What the shards last said of the store; `None`: none answered.
    pub(crate) store_health: Cached<Option<Result<Stats, StoreError>>>,
    /// Who may read `/metrics`, by address; empty: all.
    metrics_readers: Networks,
    /// Set once they have been started.
    pub(crate) agents: Arc<OnceLock<Arc<Agents>>>,
    /// Set once it is open.
    pub(crate) blossom: OnceLock<Arc<Blossom>>,
    /// Set once it is open.
    pub(crate) market: OnceLock<Arc<Market>>,
    /// The warning about a proxy that does not pass on the Host header has been logged.
    warned_of_proxy: AtomicBool,
    /// The warning about a proxy that is not trusted has been logged.
    warned_of_untrusted_proxy: AtomicBool,
    /// A trusted proxy that sends no PROXY protocol header has been logged.
    warned_of_missing_proxy_header: AtomicBool,
}

/// One of the WebSocket connections that there may be, until it is dropped.
pub(crate) struct WebSocketPermit(Arc<ServerState>);

impl Drop for WebSocketPermit {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

impl ServerState {
    /// # Errors
    /// If a list of addresses has an entry that is not an address or a network.
    pub(crate) fn new(
        settings: Settings,
        shards: usize,
        socket_limits: SocketLimits,
        writer: mpsc::Sender<ToWriter>,
        api: Handle,
    ) -> Result<Self, String> {
        let metrics_readers = settings.metrics.readers()?;
        let config = relay::Config {
            limits: settings.limits.clone(),
            policy: settings.policy.clone(),
            url: settings.url.clone(),
            // Frames are written many at a time.
            frame_cost: 0,
        };
        let relay = settings.description();
        let documents = Documents {
            information: relay.information().into(),
            page: relay.page(&format!("ws://{}", settings.listen)).into(),
        };
        // Metrics may have an address of their own.
        let on_this_port = |route| match route {
            Route::Metrics => settings.metrics.listen.is_none(),
            Route::Agents(_) => settings.has_agents(),
            Route::Market(_) => settings.has_market(),
            Route::Blossom(_) => settings.has_blossom(),
            _ => true,
        };
        Ok(ServerState {
            table: Table::new(FEATURES, on_this_port),
            admin_auth: AdminAuth::new(settings.metrics.token.as_deref(), &settings.policy.admin_pubkeys),
            // As for one of `usize::MAX` shards, so that its part of the author cache is 0.
            verifier: settings.verify.verifier(usize::MAX),
            api,
            config: Arc::new(config),
            inboxes: (0..shards).map(|_| Inbox::default()).collect(),
            writer,
            writer_metrics: Mutex::default(),
            documents,
            started: Instant::now(),
            failure: Mutex::default(),
            failed: Notify::new(),
            is_stopping: AtomicBool::new(false),
            sockets_refused: AtomicU64::new(0),
            lingering: Semaphore::new(LINGERING_MAX),
            socket_limits,
            connections: AtomicUsize::new(0),
            addresses: Arc::new(Addresses::new(&settings.network)?),
            address_rates: Arc::default(),
            store_health: Cached::new(HEALTH_AGE_MAX),
            metrics_readers,
            agents: Arc::default(),
            blossom: OnceLock::new(),
            market: OnceLock::new(),
            warned_of_proxy: AtomicBool::new(false),
            warned_of_untrusted_proxy: AtomicBool::new(false),
            warned_of_missing_proxy_header: AtomicBool::new(false),
            settings,
        })
    }

    /// Whether some shard is so far behind that no more input should be taken.
    pub(crate) fn is_congested(&self) -> bool {
        let max = self.settings.network.inbox_events_max;
        self.inboxes.iter().any(|inbox| inbox.live_events.load(Ordering::Relaxed) > max)
    }

    /// The shard with the fewest sockets, if the server may have one more; the socket is counted.
    pub(crate) fn take_slot(&self) -> Option<&Inbox> {
        let max = self.socket_limits.sockets;
        let sockets = |inbox: &Inbox| inbox.sockets.load(Ordering::Relaxed);
        if self.inboxes.iter().map(sockets).sum::<usize>() >= max {
            return None;
        }
        let inbox = self.inboxes.iter().min_by_key(|inbox| sockets(inbox))?;
        inbox.sockets.fetch_add(1, Ordering::Relaxed);
        Some(inbox)
    }

    /// A permit for one more WebSocket connection, if `limits.connections_max` leaves one.
    pub(crate) fn websocket_permit(self: &Arc<Self>) -> Option<WebSocketPermit> {
        let max = self.socket_limits.connections;
        let take = |count: usize| (count < max).then_some(count + 1);
        let taken = self.connections.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        taken.ok().map(|_| WebSocketPermit(Arc::clone(self)))
    }

    /// Whether this address may read `/metrics`.
    pub(crate) fn may_read_metrics(&self, address: IpAddr) -> bool {
        self.metrics_readers.is_empty() || self.metrics_readers.contain(address)
    }

    /// A client has come through a proxy, and AUTH goes by the Host header. Says so once.
    pub(crate) fn warn_of_proxy(&self, host: Option<&str>) {
        if self.settings.url.is_none() && !self.warned_of_proxy.swap(true, Ordering::Relaxed) {
            let host = host.unwrap_or_default();
            tracing::warn!(
                host,
                "clients come through a proxy and url is not set: only AUTH events that name this host are accepted"
            );
        }
    }

    /// A peer that is not trusted sent `X-Forwarded-For`, which is ignored. Says so once.
    pub(crate) fn warn_of_untrusted_proxy(&self, peer: IpAddr) {
        if !self.warned_of_untrusted_proxy.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                %peer,
                "X-Forwarded-For comes from an address that network.trusted_proxies does not name: if it is your \
                 proxy, name it there, else all its clients share the limits of one address"
            );
        }
    }

    /// A trusted proxy does not send the header that `network.proxy_protocol` asks it for. Says so once.
    pub(crate) fn warn_of_missing_proxy_header(&self, proxy: IpAddr) {
        if !self.warned_of_missing_proxy_header.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                %proxy,
                "network.proxy_protocol is set and no PROXY protocol header comes from an address that \
                 network.trusted_proxies names: it is refused. Name only proxies there that send one"
            );
        }
    }

    /// The numbers of all shards that answer.
    pub(crate) async fn snapshots(&self) -> Vec<ShardSnapshot> {
        let ask = |inbox: &Inbox| {
            let (sender, receiver) = oneshot::channel();
            inbox.push(Inbound::Snapshot(sender));
            receiver
        };
        let answers: Vec<_> = self.inboxes.iter().map(ask).collect();
        let mut shards = Vec::new();
        for answer in answers {
            shards.extend(answer.await.ok());
        }
        shards
    }

    /// Prometheus's text, of all shards that answer; the addresses and authors that cost the most, and the busiest agents, are
    /// named only for administrators.
    pub(crate) async fn metrics_text(&self, is_for_admin: bool) -> String {
        let shards = self.snapshots().await;
        let blossom = match self.blossom.get() {
            Some(blossom) => Some(blossom.metrics().await),
            None => None,
        };
        metrics::render(metrics::Snapshot {
            store: shards.iter().find_map(|shard| shard.store.as_ref()?.as_ref().ok().copied()),
            shards,
            writer: self.writer_metrics.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            agents: self.agents.get().map(|agents| agents.metrics()),
            blossom,
            sockets_refused: self.sockets_refused.load(Ordering::Relaxed),
            refused_by_address: self.addresses.refused(),
            connections_of_busiest_address: self.addresses.most() as u64,
            names_costliest: is_for_admin,
            uptime_seconds: self.started.elapsed().as_secs(),
            resident_bytes: metrics::resident_bytes(),
        })
    }

    /// How long HTTP clients may take.
    pub(crate) fn timeouts(&self) -> Timeouts {
        let network = &self.settings.network;
        Timeouts {
            head: Duration::from_secs(network.handshake_seconds),
            stall: Duration::from_secs(network.write_stall_seconds),
        }
    }

    /// The store is beyond repair by this process.
    pub(crate) fn fail(&self, why: String) {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
        self.failed.notify_one();
    }

    /// Why the store can't be written any more.
    pub(crate) fn failure(&self) -> Option<String> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn ping_interval(&self) -> Duration {
        Duration::from_secs(self.settings.network.ping_seconds)
    }
}

/// The time, as the machine takes it.
pub(crate) fn now() -> Now {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Now::from_micros(since.as_micros() as u64)
}
