//! One serving process, from the bound socket to the last close frame.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use relay_engine::store::{Backend, StoreError};
use tokio::net::TcpListener;
use tokio::sync::Notify;

use crate::agents::{self, Agents};
use crate::blossom::Blossom;
use crate::config::Settings;
use crate::event_reader::{EventReader, Store};
use crate::handle::RelayHandle;
use crate::host::{Inbound, ServerState};
use crate::market::Market;
use crate::net::descriptors::{self, SocketLimits};
use crate::net::{accept, api, metrics_listener};
use crate::served::{self, CommandSocket};
use crate::signals::Signals;
use crate::writer::ToWriter;
use crate::{shard, writer};

/// Until agents that could not be started are tried again.
const AGENTS_RETRY: Duration = Duration::from_secs(30);

/// The same for the store of blobs.
const BLOSSOM_RETRY: Duration = Duration::from_secs(30);
/// And for the registry of the market.
const MARKET_RETRY: Duration = Duration::from_secs(30);

/// How a serving process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Asked to, and everything in flight was finished or ran out of time.
    Stopped,
    /// The store, or a thread, failed beyond repair.
    Failed(String),
}

/// How the embedding process controls the server.
pub(crate) struct Embedded {
    /// Stops it, instead of signals.
    pub(crate) stop: Arc<Notify>,
    /// Sent once it serves.
    pub(crate) started: mpsc::Sender<(SocketAddr, RelayHandle)>,
}

/// What asks a serving process to stop.
enum StopSource {
    Signals(Signals),
    Asked(Arc<Notify>),
}

impl StopSource {
    async fn next(&mut self) {
        match self {
            StopSource::Signals(signals) => signals.stop().await,
            StopSource::Asked(stop) => stop.notified().await,
        }
    }
}

/// Serves until it is asked to stop, by a signal unless it is `embedded`, or the store fails. If it `takes_commands`, it changes the
/// store for other processes, which can't while it serves.
///
/// # Errors
/// If a socket can't be bound.
pub(crate) fn serve<B>(
    mut settings: Settings,
    store: B,
    storage: &str,
    takes_commands: bool,
    embedded: Option<Embedded>,
) -> io::Result<Ended>
where
    B: Backend + Clone + Send + 'static,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut stop_source = match &embedded {
        Some(embedded) => StopSource::Asked(Arc::clone(&embedded.stop)),
        None => {
            // From now on a signal means an orderly stop.
            let _guard = runtime.enter();
            StopSource::Signals(Signals::new()?)
        }
    };
    let listener = runtime.block_on(bind(&settings.listen))?;
    let address = listener.local_addr()?;
    let for_metrics =
        settings.metrics.listen.as_deref().map(|listen| runtime.block_on(bind(listen))).transpose()?;

    let shards = settings.shard_count();
    let socket_limits = socket_limits(&mut settings, shards);
    let (to_writer, from_shards) = mpsc::channel();
    let api = api::runtime()?;
    let host = ServerState::new(settings, shards, socket_limits, to_writer, api.handle().clone())
        .map(Arc::new)
        .map_err(|message| io::Error::new(io::ErrorKind::InvalidInput, message))?;
    let stored: Arc<dyn EventReader> = Arc::new(Store::new(store.clone()));
    let handle = RelayHandle::new(Arc::clone(&host), Arc::downgrade(&stored));
    let writer = {
        let (host, store) = (Arc::clone(&host), store.clone());
        spawn("relay-writer".to_owned(), &host.clone(), move || writer::run(&host, &store, &from_shards))?
    };
    let shards = (0..shards)
        .map(|number| {
            let (host, store) = (Arc::clone(&host), store.clone());
            let verifier = host.settings.verify.verifier(shards);
            spawn(format!("relay-shard-{number}"), &host.clone(), move || {
                shard::run(host, number, store, verifier);
            })
        })
        .collect::<io::Result<Vec<_>>>()?;

    let command_socket = takes_commands.then(|| take_commands(&host, &api)).flatten();
    // First, since agents store and read blobs.
    if host.settings.has_blossom() {
        start_blossom(&host, &handle, &api);
    }
    let agents = match host.settings.has_agents() {
        true => Some(start_agents(&host, &handle, &api, address)?),
        false => None,
    };
    if host.settings.has_market() {
        start_market(&host, &handle, &api);
    }
    tracing::info!("listening on ws://{address}");
    tracing::info!("{storage}");
    let limits = &host.settings.limits;
    tracing::info!(
        "each of {} shards may hold {} MiB of output for its readers and {} MiB of filters",
        shards.len(),
        limits.shard_outbox_bytes_max >> 20,
        limits.shard_filter_bytes_max >> 20
    );
    if let Some(listener) = for_metrics {
        tracing::info!("metrics on http://{}/metrics", listener.local_addr()?);
        api.spawn(metrics_listener::run(Arc::clone(&host), {
            // It was bound by another runtime.
            let _guard = api.enter();
            TcpListener::from_std(listener.into_std()?)?
        }));
    }
    if host.settings.url.is_none() {
        warn_of_missing_url(address);
    }
    if let Some(embedded) = embedded {
        let _ = embedded.started.send((address, handle.clone()));
    }
    tracing::info!(shards = shards.len(), "press Ctrl-C or send SIGTERM to stop");
    let ended = runtime.block_on(until_end(&host, listener, &mut stop_source));

    // From here on a second signal, a second or more later, ends the process at once.
    let bound = Duration::from_secs(host.settings.network.shutdown_seconds);
    if let StopSource::Signals(signals) = stop_source {
        watch_for_second_signal(&runtime, signals);
    }
    host.is_stopping.store(true, Ordering::Relaxed);
    // Commands that are connected are answered as long as the writer works.
    drop(command_socket);
    tracing::info!("stopping: finishing what is in flight");
    if let Some(agents) = agents {
        agents.stop(bound / 2);
    }
    for inbox in &host.inboxes {
        inbox.push(Inbound::Stop);
    }
    let (done, is_done) = mpsc::channel();
    let to_writer = host.writer.clone();
    thread::spawn(move || {
        for shard in shards {
            let _ = shard.join();
        }
        // The shards have sent all they had; what the writer still has becomes durable.
        let _ = to_writer.send(ToWriter::Stop);
        let _ = writer.join();
        let _ = done.send(());
    });
    let finished = runtime.block_on(async {
        let waiting = tokio::task::spawn_blocking(move || is_done.recv_timeout(bound).is_ok());
        waiting.await.unwrap_or(false)
    });
    if finished {
        tracing::info!("stopped");
    } else {
        tracing::warn!("stopped after {} seconds, before connections or writes were done", bound.as_secs());
    }
    // A request that still waits for an answer gets none.
    api.shutdown_background();
    // The last commits can fail too.
    Ok(host.failure().map_or(ended, Ended::Failed))
}

/// Listens for commands that change the database. If that fails, they are refused while the relay serves.
fn take_commands(host: &ServerState, api: &tokio::runtime::Runtime) -> Option<CommandSocket> {
    match served::listen(&host.settings.data, api.handle(), host.writer.clone()) {
        Ok(socket) => Some(socket),
        Err(error) => {
            tracing::warn!(
                %error,
                "there can be no socket in the data folder: `relay import`, `delete`, `sync`, `stream` and `router` are refused while the \
                 relay serves it"
            );
            None
        }
    }
}

/// Makes the agents' part, and starts those that there are. If their files cannot be opened, the relay serves without them, and
/// they are tried again.
fn start_agents(
    host: &ServerState,
    handle: &RelayHandle,
    api: &tokio::runtime::Runtime,
    address: SocketAddr,
) -> io::Result<Arc<Agents>> {
    let agents = Agents::new(&host.settings, handle.clone(), address)
        .map(Arc::new)
        .map_err(|message| io::Error::new(io::ErrorKind::InvalidInput, message))?;
    let _ = host.agents.set(Arc::clone(&agents));
    if let Err(error) = agents.resume() {
        tracing::error!(%error, "the agents can't be started; trying again every half minute");
        let agents = Arc::clone(&agents);
        api.spawn(async move {
            loop {
                tokio::time::sleep(AGENTS_RETRY).await;
                match agents.resume() {
                    Ok(()) => return tracing::info!("the agents have been started"),
                    Err(error) => tracing::debug!(%error, "the agents still can't be started"),
                }
            }
        });
    }
    Ok(agents)
}

/// Opens the store of blobs. If it cannot be opened, the relay serves without it, and it is tried again.
fn start_blossom(host: &Arc<ServerState>, handle: &RelayHandle, api: &tokio::runtime::Runtime) {
    let open = {
        let (host, handle, on) = (Arc::clone(host), handle.clone(), api.handle().clone());
        move || {
            let (verifier, agents) = (Arc::clone(&host.verifier), Arc::clone(&host.agents));
            let blossom = Blossom::open(&host.settings, verifier, handle.clone(), agents)?;
            let blossom = Arc::new(blossom);
            blossom.start(&on)?;
            blossom.log_settings();
            let _ = host.blossom.set(blossom);
            Ok::<(), String>(())
        }
    };
    let Err(error) = open() else { return };
    tracing::error!(error, "the store of blobs can't be opened; trying again every half minute");
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(BLOSSOM_RETRY);
            match open() {
                Ok(()) => return tracing::info!("the store of blobs is open"),
                Err(error) => tracing::debug!(error, "the store of blobs still can't be opened"),
            }
        }
    });
}

/// Opens the market's registry. If it cannot be opened, the relay serves without it, and it is tried again.
fn start_market(host: &Arc<ServerState>, handle: &RelayHandle, api: &tokio::runtime::Runtime) {
    let open = {
        let (host, handle, on) = (Arc::clone(host), handle.clone(), api.handle().clone());
        move || {
            let market = Arc::new(Market::open(&host.settings, handle.clone())?);
            market.start(&on);
            let _ = host.market.set(market);
            Ok::<(), StoreError>(())
        }
    };
    let Err(error) = open() else { return };
    tracing::error!(%error, "the market's registry can't be opened; trying again every half minute");
    api.spawn(async move {
        loop {
            tokio::time::sleep(MARKET_RETRY).await;
            match open() {
                Ok(()) => return tracing::info!("the market's registry is open"),
                Err(error) => tracing::debug!(%error, "the market's registry still can't be opened"),
            }
        }
    });
}

async fn bind(listen: &str) -> io::Result<TcpListener> {
    TcpListener::bind(listen)
        .await
        .map_err(|error| io::Error::new(error.kind(), format!("can't listen on {listen}: {error}")))
}

/// How many sockets are served; `limits.connections_max` is lowered to what fits into the limit on open files.
fn socket_limits(settings: &mut Settings, shards: usize) -> SocketLimits {
    let (wanted, files) = (settings.limits.connections_max, descriptors::limit());
    let for_agents = files.filter(|_| settings.has_agents()).map_or(0, agents::files_max);
    let limits = SocketLimits::new(wanted, shards, files.map(|files| files - for_agents));
    if limits.connections < wanted {
        tracing::warn!(
            "limits.connections_max is {wanted}, and the limit on open files of {} leaves room for {}: that many are \
             served. Raise the hard limit (LimitNOFILE of systemd, ulimit -Hn)",
            files.unwrap_or_default(),
            limits.connections
        );
        settings.limits.connections_max = limits.connections;
    }
    limits
}

/// Accepts connections until a signal comes or something fails.
async fn until_end(host: &ServerState, listener: TcpListener, stop_source: &mut StopSource) -> Ended {
    tokio::select! {
        () = accept::run(host, listener) => {}
        () = stop_source.next() => {}
        () = host.failed.notified() => {}
    }
    host.failure().map_or(Ended::Stopped, Ended::Failed)
}

/// Warns at the start of what an operator would otherwise learn from users' complaints.
fn warn_of_missing_url(address: SocketAddr) {
    if address.ip().is_loopback() {
        tracing::warn!(
            "url is not set: AUTH events are compared with the Host header, so behind a proxy that does not pass it on \
             nobody can authenticate; requests to vanish that name this relay are refused"
        );
    } else {
        tracing::warn!(
            "url is not set: AUTH events are compared with the Host header, and requests to vanish that name this relay are refused"
        );
    }
}

fn watch_for_second_signal(runtime: &tokio::runtime::Runtime, mut signals: Signals) {
    runtime.spawn(async move {
        signals.stop().await;
        tracing::warn!("a second signal: ending at once");
        std::process::exit(130);
    });
}

/// A thread whose panic stops the process in order.
fn spawn(
    name: String,
    host: &Arc<ServerState>,
    work: impl FnOnce() + Send + 'static,
) -> io::Result<thread::JoinHandle<()>> {
    struct Watch(Arc<ServerState>);
    impl Drop for Watch {
        fn drop(&mut self) {
            if thread::panicking() {
                let name = thread::current().name().unwrap_or_default().to_owned();
                self.0.fail(format!("thread {name} panicked"));
            }
        }
    }
    let watch = Watch(Arc::clone(host));
    thread::Builder::new().name(name).spawn(move || {
        let _watch = watch;
        work();
    })
}
