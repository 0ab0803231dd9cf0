//! All relays of all streams, as a configuration says, which may change meanwhile.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use relay_agent::identity::Keys;
use relay_engine::store::{Backend, Seq};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};

use super::super::local::Local;
use super::super::peer::{Connector, RelayUrl};
use super::config::{RouterConfig, StreamConfig, Timing};
use super::follower::{Follower, Shared, Status};
use super::hub::Hub;
use super::local_relay;
use super::memory::PeerMemory;
use super::metrics::Snapshot;
use super::notice::{Output, What};
use crate::cli::command_store::CommandStore;
use crate::cli::exit::Failure;
use crate::config::Settings;
use crate::net::document_listener;
use crate::signals::Interrupt;

/// Interval at which the store is asked for newer events.
const POLL: Duration = Duration::from_millis(50);
/// Interval at which what was deleted is removed.
const REMOVE_EVERY: Duration = Duration::from_secs(10);
/// How long a relay that is not followed any more may take to end.
const END_TIME: Duration = Duration::from_secs(10);

/// The name of a stream and a relay of it.
type PeerKey = (String, String);
/// For the metrics.
type Statuses = Arc<Mutex<BTreeMap<PeerKey, Status>>>;

/// All streams.
pub(crate) struct Router<B> {
    shared: Arc<Shared<B>>,
    timing: watch::Sender<Timing>,
    output: Output,
    keys: Option<Keys>,
    relay: Option<RelayUrl>,
    peers: BTreeMap<PeerKey, Peer>,
    memories: BTreeMap<String, PeerMemory>,
    statuses: Statuses,
    metrics: Option<(SocketAddr, JoinHandle<()>)>,
    /// Tasks that end with the router.
    background: JoinSet<()>,
}

/// A relay that is followed.
struct Peer {
    /// Its stream, with this relay alone.
    stream: StreamConfig,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl<B: Backend + Send + Sync + 'static> Router<B> {
    /// Begins to follow the relays of a configuration. Within a runtime.
    ///
    /// # Errors
    /// If the store fails, TLS cannot be set up, or the address for metrics is taken.
    pub(crate) async fn start(
        store: CommandStore<B>,
        settings: &Settings,
        config: &RouterConfig,
        keys: Option<Keys>,
        output: Output,
    ) -> Result<Self, Failure> {
        let local = Arc::new(Local::new(store, settings));
        let (timing, timing_receiver) = watch::channel(config.timing);
        let (newest, newest_receiver) = watch::channel(local.last_seq()?);
        let relay = config.relay.clone().map(|url| (url, mpsc::channel(local_relay::WAITING_EVENTS)));
        let (relay, to_relay) =
            relay.map_or((None, None), |(url, (to_relay, waiting))| (Some((url, waiting)), Some(to_relay)));
        let shared = Arc::new(Shared {
            connector: Arc::new(Connector::new()?),
            local,
            data: settings.data.clone(),
            interrupt: Interrupt::without_signals(),
            timing: timing_receiver,
            newest: newest_receiver,
            hub: Hub::new(to_relay),
        });
        let mut background = JoinSet::new();
        background.spawn(watch_store(Arc::clone(&shared), newest));
        let relay = relay.map(|(url, waiting)| {
            let teller = output.about("", &url.to_string());
            background.spawn(local_relay::run(Arc::clone(&shared), url.clone(), waiting, teller));
            url
        });
        let mut router = Router {
            shared,
            timing,
            output,
            keys: None,
            relay,
            peers: BTreeMap::new(),
            memories: BTreeMap::new(),
            statuses: Statuses::default(),
            metrics: None,
            background,
        };
        router.apply(config, keys).await.map_err(Failure::External)?;
        Ok(router)
    }

    /// Goes on by another configuration. Relays of streams that are the same keep their connections.
    ///
    /// # Errors
    /// If the address for metrics is taken; then nothing has changed.
    pub(crate) async fn apply(&mut self, config: &RouterConfig, keys: Option<Keys>) -> Result<(), String> {
        self.serve_metrics(config.metrics).await?;
        if config.relay != self.relay {
            self.output.tell(What::Configuration, "`relay` has changed: that takes effect at the next start");
        }
        self.timing.send_replace(config.timing);
        let pubkey = |keys: &Option<Keys>| keys.as_ref().map(Keys::pubkey);
        let is_same_key = pubkey(&self.keys) == pubkey(&keys);
        self.keys = keys;
        let mut wanted: BTreeMap<PeerKey, StreamConfig> = BTreeMap::new();
        for stream in &config.streams {
            for url in &stream.urls {
                let alone = StreamConfig { urls: vec![url.clone()], ..stream.clone() };
                wanted.insert((stream.name.clone(), url.to_string()), alone);
            }
        }
        let is_kept = |key: &PeerKey, peer: &Peer| is_same_key && wanted.get(key) == Some(&peer.stream);
        let ending: Vec<PeerKey> =
            self.peers.iter().filter(|(key, peer)| !is_kept(key, peer)).map(|(key, _)| key.clone()).collect();
        let kept = self.peers.len() - ending.len();
        let ended = ending.len();
        self.end(ending).await;
        let mut begun = 0;
        for (key, stream) in wanted {
            if self.peers.contains_key(&key) {
                continue;
            }
            begun += 1;
            self.follow(key, stream)?;
        }
        let is_used = |url: &String| self.peers.keys().any(|(_, used)| used == url);
        self.memories.retain(|url, _| is_used(url));
        let words = format!("following {} relays: {begun} begun, {ended} ended, {kept} kept", begun + kept);
        self.output.tell(What::Configuration, &words);
        Ok(())
    }

    fn follow(&mut self, key: PeerKey, stream: StreamConfig) -> Result<(), String> {
        let Some(url) = stream.urls.first().cloned() else { return Ok(()) };
        let memory = self.memories.entry(key.1.clone()).or_default().clone();
        let (stop, stopped) = watch::channel(false);
        let status = Status::default();
        let teller = self.output.about(&key.0, &key.1);
        let newest = *self.shared.newest.borrow();
        let shared = Arc::clone(&self.shared);
        let told = (status.clone(), stopped, teller);
        let follower = Follower::new(shared, &stream, url, self.keys.clone(), memory, newest, told)?;
        lock(&self.statuses).insert(key.clone(), status);
        self.peers.insert(key, Peer { stream, stop, task: tokio::spawn(follower.run()) });
        Ok(())
    }

    /// Ends to follow some relays: what has come is stored, and how far they were followed is written.
    async fn end(&mut self, keys: Vec<PeerKey>) {
        let ending: Vec<(PeerKey, Peer)> =
            keys.into_iter().filter_map(|key| self.peers.remove_entry(&key)).collect();
        for (_, peer) in &ending {
            peer.stop.send_replace(true);
        }
        let until = tokio::time::Instant::now() + END_TIME;
        for (key, mut peer) in ending {
            if tokio::time::timeout_at(until, &mut peer.task).await.is_err() {
                peer.task.abort();
            }
            lock(&self.statuses).remove(&key);
        }
    }

    async fn serve_metrics(&mut self, address: Option<SocketAddr>) -> Result<(), String> {
        if self.metrics.as_ref().map(|(address, _)| *address) == address {
            return Ok(());
        }
        let listener = match address {
            Some(address) => Some((address, bind(address).await?)),
            None => None,
        };
        if let Some((_, serving)) = self.metrics.take() {
            serving.abort();
        }
        if let Some((address, listener)) = listener {
            if let Ok(bound) = listener.local_addr() {
                self.output.tell(What::Notice, &format!("metrics on http://{bound}/metrics"));
            }
            let statuses = Arc::clone(&self.statuses);
            let newest = self.shared.newest.clone();
            let document = Arc::new(move || {
                let newest = *newest.borrow();
                let statuses = lock(&statuses);
                let relays = statuses
                    .iter()
                    .map(|((stream, url), status)| (stream.clone(), url.clone(), status.now()));
                Snapshot { relays: relays.collect(), newest }.render()
            });
            self.metrics = Some((address, tokio::spawn(document_listener::run(listener, document))));
        }
        Ok(())
    }

    /// Ends everything in order.
    ///
    /// # Errors
    /// The store's.
    pub(crate) async fn stop(mut self) -> Result<(), Failure> {
        self.shared.interrupt.come();
        let keys = self.peers.keys().cloned().collect();
        self.end(keys).await;
        if let Some((_, serving)) = self.metrics.take() {
            serving.abort();
        }
        self.background.shutdown().await;
        let local = Arc::clone(&self.shared.local);
        let begun = Instant::now();
        let removing = move || local.remove_pending(|| begun.elapsed() > END_TIME);
        super::super::driver::blocking(removing).await
    }
}

async fn bind(address: SocketAddr) -> Result<TcpListener, String> {
    TcpListener::bind(address)
        .await
        .map_err(|error| format!("`metrics`: cannot listen on {address}: {error}"))
}

fn lock(statuses: &Statuses) -> std::sync::MutexGuard<'_, BTreeMap<PeerKey, Status>> {
    statuses.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Looks for events that any process has stored, and removes what was deleted, for ever.
async fn watch_store<B: Backend + Send + Sync + 'static>(shared: Arc<Shared<B>>, newest: watch::Sender<Seq>) {
    let mut remove_at = Instant::now() + REMOVE_EVERY;
    loop {
        tokio::time::sleep(POLL).await;
        // A store that fails is told about by those who read or write events.
        if let Ok(last) = shared.local.last_seq() {
            newest.send_if_modified(|newest| std::mem::replace(newest, last) != last);
        }
        if Instant::now() >= remove_at {
            remove_at = Instant::now() + REMOVE_EVERY;
            let local = Arc::clone(&shared.local);
            let begun = Instant::now();
            let removing = move || local.remove_pending(|| begun.elapsed() > POLL);
            let _ = super::super::driver::blocking(removing).await;
        }
    }
}
