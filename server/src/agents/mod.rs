//! Agents in this process.
//!
//! Each is a file of its own in `<data>/agents`, opened when there is something to do and closed some seconds later. What they
//! do is decided in `relay-agent`. A relay on which no agent has been deployed has no file, thread or stream for them.
//!
//! ```text
//! runtime      what the tasks share
//! supervisor   the router's task: stream, deliveries, heartbeats, reopening agents
//! registry     which agents are loaded: their databases are open; agent_task: the task of one
//! reopen_times when unloaded agents are loaded again; sqlite: their files
//! http         calls of agents; remote_relays: other relays; tls: their certificates; exchanges: asking remote signers and wallets
//! http_jobs    jobs that are ordered over HTTP; payments: what Blossom sells
//! secrets      what manifests name; owner: the owner's key of a local relay
//! ```

mod agent_task;
mod exchanges;
pub mod http;
mod http_jobs;
pub(crate) mod owner;
mod payments;
mod registry;
mod remote_relays;
mod reopen_times;
mod runtime;
mod secrets;
pub(crate) mod sqlite;
mod supervisor;
pub(crate) mod tls;

use std::collections::HashMap;
use std::fs::DirBuilder;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use relay_agent::api::{self, Caller, FOLLOWERS_MAX, Follower, Piece, no_agent};
use relay_agent::fetch::PrivateHosts;
use relay_agent::machine::{Agent, BlobServer};
use relay_agent::router::Router;
use relay_agent::totals::{Totals, agents_by_state};
use relay_engine::sql::StoreError;
use relay_engine::types::{Now, PubKey, Timestamp};
use relay_site::nip98::{Nip98Error, SignerTrust, UsedEvents, VerifiedRequest};
use relay_site::{AgentRoute, HttpResponse};
use tokio::runtime::Runtime;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};

use self::http::CALLS_MAX;
use self::http_jobs::HttpJobs;
pub(crate) use self::http_jobs::{OrderRequest, Watch};
use self::owner::Owner;
use self::registry::{Message, Registry};
use self::remote_relays::RemoteRelays;
use self::reopen_times::ReopenTimes;
use self::runtime::AgentRuntime;
use self::secrets::HostSecrets;
use self::sqlite::Sqlite;
use crate::config::Settings;
use crate::handle::RelayHandle;
use crate::host::now;
use crate::metrics::AgentsSnapshot;
use crate::net::descriptors;
use relay_blossom::exchange::base_url;

/// Threads that run agents. They also wait for the disk.
const THREADS: usize = 4;
/// Agents that are open at a time. Each has two files open, and some 300 KB of memory.
const OPEN_MAX: usize = 1_024;

/// The file descriptors that agents may use, of the `files` that the process may open.
pub(crate) fn files_max(files: u64) -> u64 {
    (files / 8).min(2 * OPEN_MAX as u64 + CALLS_MAX as u64)
}

/// How many agents may be open, if the process may open `files`.
fn open_max(files: Option<u64>) -> usize {
    let files = files.map_or(u64::MAX, files_max).saturating_sub(CALLS_MAX as u64).max(2);
    usize::try_from(files / 2).map_or(OPEN_MAX, |open| open.min(OPEN_MAX))
}

/// Where agents store large results. Without `url` others know the relay's address only if they are on this machine.
fn blob_server(settings: &Settings, address: SocketAddr) -> Option<BlobServer> {
    let base_url = match &settings.url {
        Some(url) => base_url(url),
        None if settings.is_loopback() => format!("http://{address}"),
        None => return None,
    };
    let blob_bytes_max = settings.blossom.blob_bytes_max;
    settings.has_blossom().then_some(BlobServer { base_url, blob_bytes_max })
}

/// The agents of a relay.
pub(crate) struct Agents {
    /// `<data>/agents`.
    folder: PathBuf,
    relay_url: Option<String>,
    blossom: Option<BlobServer>,
    relay: Relay,
    agents_max: usize,
    deploy_pubkeys: Vec<PubKey>,
    admins: Vec<PubKey>,
    owner: Owner,
    private_hosts: PrivateHosts,
    secrets: Arc<HostSecrets>,
    http_jobs: HttpJobs,
    /// Events that have authorised requests.
    used: Mutex<UsedEvents>,
    /// Places for those who follow the log of an agent.
    followers: Mutex<HashMap<PubKey, Arc<Semaphore>>>,
    state: Mutex<State>,
}

/// The relay, as documents of agents name it.
#[derive(Clone)]
struct Relay {
    name: String,
    url: String,
}

enum State {
    /// No agent has been deployed.
    Empty(RelayHandle),
    Running(Arc<AgentRuntime>, Runtime),
    Stopped,
}

/// A request to the agents' API.
#[derive(Clone)]
pub(crate) struct ApiRequest {
    pub(crate) route: AgentRoute,
    /// `{id}` or `{command}` of the path.
    pub(crate) id: Option<String>,
    pub(crate) query: String,
    pub(crate) body: Vec<u8>,
    pub(crate) caller: Caller,
}

impl ApiRequest {
    fn request<'a>(&'a self, relay: &'a Relay) -> api::Request<'a> {
        let relay = api::Relay { name: &relay.name, url: &relay.url, version: env!("CARGO_PKG_VERSION") };
        api::Request {
            route: self.route,
            id: self.id.as_deref(),
            query: &self.query,
            body: &self.body,
            caller: self.caller,
            relay,
        }
    }
}

impl Agents {
    /// Nothing is opened or started yet. `address`: where the relay listens.
    ///
    /// # Errors
    /// If a setting is not a host with a port, in words.
    pub(crate) fn new(settings: &Settings, handle: RelayHandle, address: SocketAddr) -> Result<Self, String> {
        let folder = settings.data.join("agents");
        Ok(Agents {
            relay_url: settings.url.clone(),
            blossom: blob_server(settings, address),
            relay: Relay {
                name: settings.info.name.clone(),
                // Where it listens is not where others reach it.
                url: settings.url.clone().unwrap_or_default(),
            },
            agents_max: settings.agents.agents_max,
            deploy_pubkeys: settings.agents.deploy_pubkeys.clone(),
            admins: settings.policy.admin_pubkeys.clone(),
            owner: Owner::new(&settings.data),
            private_hosts: PrivateHosts::parse(&settings.agents.allow_private_hosts)?,
            secrets: Arc::new(HostSecrets::new(&folder)),
            http_jobs: HttpJobs::new(&folder, settings.agents.http_jobs_per_minute_max),
            used: Mutex::default(),
            followers: Mutex::default(),
            state: Mutex::new(State::Empty(handle)),
            folder,
        })
    }

    /// Starts those that have been deployed, if there are any and they do not run.
    ///
    /// # Errors
    /// If their files cannot be opened.
    pub(crate) fn resume(&self) -> Result<(), StoreError> {
        let is_stopped = matches!(&*self.state(), State::Stopped);
        if !is_stopped && self.router_file().exists() { self.run().map(drop) } else { Ok(()) }
    }

    fn router_file(&self) -> PathBuf {
        self.folder.join("router.sqlite")
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn running(&self) -> Option<Arc<AgentRuntime>> {
        match &*self.state() {
            State::Running(runtime, _) => Some(Arc::clone(runtime)),
            State::Empty(_) | State::Stopped => None,
        }
    }

    /// Opens the router and starts the threads, unless they run.
    fn run(&self) -> Result<Arc<AgentRuntime>, StoreError> {
        let mut state = self.state();
        let handle = match &*state {
            State::Running(runtime, _) => return Ok(Arc::clone(runtime)),
            State::Stopped => return Err(StoreError::Failed("the relay is stopping".to_owned())),
            State::Empty(handle) => handle.clone(),
        };
        let failed = |error: io::Error| StoreError::Failed(error.to_string());
        DirBuilder::new().recursive(true).mode(0o700).create(&self.folder).map_err(failed)?;
        let router = Router::open(Sqlite::open(&self.router_file())?, Arc::clone(&self.secrets) as _)?;
        let reopen_times = ReopenTimes::open(Sqlite::open(&self.folder.join("wakes.sqlite"))?)?;
        let tokio = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("relay-agents")
            .enable_all()
            .build()
            .map_err(failed)?;
        let runtime = Arc::new(AgentRuntime {
            folder: self.folder.clone(),
            relay_url: self.relay_url.clone(),
            blossom: self.blossom.clone(),
            secrets: Arc::clone(&self.secrets),
            handle,
            relays: RemoteRelays::new(self.private_hosts.clone()).map_err(failed)?,
            http: http::Client::new(self.private_hosts.clone()).map_err(failed)?,
            registry: Registry::default(),
            slots: Semaphore::new(open_max(descriptors::limit())),
            waiting: AtomicUsize::new(0),
            evict_idle: Notify::new(),
            changed: Notify::new(),
            tokio: tokio.handle().clone(),
            router: Mutex::new(router),
            reopen_times: Mutex::new(reopen_times),
            tally: Mutex::default(),
        });
        tokio.spawn(supervisor::run(Arc::clone(&runtime)));
        *state = State::Running(Arc::clone(&runtime), tokio);
        Ok(runtime)
    }

    /// Closes all agents: calls are cancelled, jobs go on at the next start. Takes `bound` at most.
    pub(crate) fn stop(&self, bound: Duration) {
        let State::Running(runtime, tokio) = std::mem::replace(&mut *self.state(), State::Stopped) else {
            return;
        };
        runtime.registry.stop();
        runtime.changed.notify_one();
        let ends_at = Instant::now() + bound;
        while runtime.registry.len() > 0 && Instant::now() < ends_at {
            std::thread::sleep(Duration::from_millis(5));
        }
        tokio.shutdown_timeout(ends_at.saturating_duration_since(Instant::now()));
    }

    /// For `/metrics`. Opens no file.
    pub(crate) fn metrics(&self) -> AgentsSnapshot {
        let Some(runtime) = self.running() else {
            return AgentsSnapshot {
                totals: Totals::default(),
                busiest: Vec::new(),
                by_state: agents_by_state([]),
                open: 0,
            };
        };
        let (totals, busiest) = {
            let tally = runtime.tally();
            (tally.totals().clone(), tally.busiest())
        };
        let by_state = agents_by_state(runtime.router().agents());
        AgentsSnapshot { totals, busiest, by_state, open: runtime.registry.len() as u64 }
    }

    /// An event authorises one request.
    ///
    /// # Errors
    /// [`Nip98Error::Replayed`], [`Nip98Error::Busy`].
    pub(crate) fn use_event(
        &self,
        signed: &VerifiedRequest,
        author: SignerTrust,
        now: Timestamp,
    ) -> Result<(), Nip98Error> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner).take(signed, author, now)
    }

    /// What the signer of a request may do.
    pub(crate) fn caller(&self, key: PubKey) -> Caller {
        if self.admins.contains(&key) || self.owner.is(&key) { Caller::Admin(key) } else { Caller::Key(key) }
    }

    /// Whether `caller` may do this, as far as it is known before the body, so that bodies of unknown callers are not read; and
    /// whether any key may.
    ///
    /// # Errors
    /// The response.
    pub(crate) fn check(
        &self,
        route: AgentRoute,
        agent: Option<&PubKey>,
        command: Option<&str>,
        caller: Caller,
    ) -> Result<SignerTrust, HttpResponse> {
        let may_deploy = api::may_deploy(caller, &self.deploy_pubkeys);
        let runtime = self.running();
        let router = runtime.as_ref().map(|runtime| runtime.router());
        let entry = agent.and_then(|agent| router.as_ref()?.get(agent));
        if let (AgentRoute::Delete, None, Some(runtime), Some(agent), Some(router)) =
            (route, entry, &runtime, agent, &router)
            && (runtime.file_of(agent).exists() || !matches!(router.removal_record(agent), Ok(None)))
        {
            // A deleted agent: its own database answers, or, if that is removed, its removal record.
            return Ok(if caller.is_admin() { SignerTrust::Permitted } else { SignerTrust::Unknown });
        }
        api::admit(route, command, caller, may_deploy, entry)
    }

    /// Answers what concerns all agents.
    pub(crate) fn directory(&self, ask: &ApiRequest) -> HttpResponse {
        let request = ask.request(&self.relay);
        if let Some(runtime) = self.running() {
            return api::directory(&runtime.router(), &request);
        }
        // As if there were none.
        let empty = Sqlite::in_memory().and_then(|conn| Router::open(conn, Arc::clone(&self.secrets) as _));
        empty.map_or_else(|error| unavailable(&error), |router| api::directory(&router, &request))
    }

    /// Deploys a manifest; `to`: the agent that the path names.
    pub(crate) async fn deploy(&self, ask: ApiRequest, to: Option<PubKey>) -> HttpResponse {
        let may_deploy = api::may_deploy(ask.caller, &self.deploy_pubkeys);
        let wanted = match api::deployment(&ask.body, ask.caller, may_deploy, &*self.secrets, to.as_ref()) {
            Ok(wanted) => wanted,
            Err(answer) => return answer,
        };
        let runtime = match self.run() {
            Ok(runtime) => runtime,
            Err(error) => return unavailable(&error),
        };
        if let Err(answer) = self.prepare(&runtime, &wanted) {
            return answer;
        }
        let relay = self.relay.clone();
        with(&runtime.clone(), wanted.pubkey, move |now, agent| {
            finish(&runtime, api::deploy(agent, now, &ask.request(&relay), &wanted))
        })
        .await
    }

    /// Before an agent is deployed: its relay's events are read from now on.
    fn prepare(&self, runtime: &AgentRuntime, wanted: &api::Deployment) -> Result<(), HttpResponse> {
        let mut router = runtime.router();
        if router.get(&wanted.pubkey).is_none() && router.agents().count() >= self.agents_max {
            let words = format!("this relay has {} agents, the most that it takes", self.agents_max);
            return Err(HttpResponse::error(409, &words));
        }
        if router.filters().is_none() && router.is_ready() {
            let last = runtime.handle.last_seq();
            let last = last.map_err(|error| HttpResponse::error(503, &error.to_string()))?;
            router.accept(now(), Vec::new(), last);
        }
        Ok(())
    }

    /// Answers what concerns one agent.
    pub(crate) async fn ask(&self, agent: PubKey, ask: ApiRequest) -> HttpResponse {
        let deleted = || self.running().filter(|runtime| runtime.file_of(&agent).exists());
        let again = if ask.route == AgentRoute::Delete { deleted() } else { None };
        let Some(runtime) = self.running_with(&agent).or(again) else { return self.gone(&agent, &ask) };
        let relay = self.relay.clone();
        with(&runtime.clone(), agent, move |now, agent| {
            finish(&runtime, api::agent(agent, now, &ask.request(&relay)))
        })
        .await
    }

    /// Answers what concerns an agent that is not here.
    fn gone(&self, agent: &PubKey, ask: &ApiRequest) -> HttpResponse {
        let deleted = self.running().map_or(Ok(None), |runtime| runtime.router().removal_record(agent));
        match deleted {
            Ok(Some(deleted)) => api::answer_for_deleted(&deleted, &ask.request(&self.relay)),
            Ok(None) => no_agent(),
            Err(error) => unavailable(&error),
        }
    }

    /// The reader of a log, if the request asks to follow it. The caller must have been let in by [`Agents::ask`].
    pub(crate) fn follower(&self, ask: &ApiRequest) -> Option<Follower> {
        Follower::of(&ask.request(&self.relay), now())
    }

    /// A place among those who follow an agent's log, until it is dropped; `None` if there are too many.
    pub(crate) fn place_to_follow(&self, agent: PubKey) -> Option<OwnedSemaphorePermit> {
        let mut followers = self.followers.lock().unwrap_or_else(PoisonError::into_inner);
        followers.retain(|_, places| places.available_permits() < FOLLOWERS_MAX);
        let places = followers.entry(agent).or_insert_with(|| Arc::new(Semaphore::new(FOLLOWERS_MAX)));
        Arc::clone(places).try_acquire_owned().ok()
    }

    /// What the reader of a log is sent next; `None` ends the response.
    pub(crate) async fn read_log(&self, agent: PubKey, follower: Follower) -> Option<Piece> {
        let runtime = self.running_with(&agent)?;
        with_or(&runtime, agent, move |now, agent| follower.read(now, agent), || None).await
    }

    fn running_with(&self, agent: &PubKey) -> Option<Arc<AgentRuntime>> {
        self.running().filter(|runtime| runtime.router().get(agent).is_some())
    }
}

/// Does something with an agent.
async fn with(
    runtime: &Arc<AgentRuntime>,
    agent: PubKey,
    work: impl FnOnce(Now, &mut Agent<Sqlite>) -> HttpResponse + Send + 'static,
) -> HttpResponse {
    with_or(runtime, agent, work, closed).await
}

async fn with_or<T: Send + 'static>(
    runtime: &Arc<AgentRuntime>,
    agent: PubKey,
    work: impl FnOnce(Now, &mut Agent<Sqlite>) -> T + Send + 'static,
    closed: impl FnOnce() -> T,
) -> T {
    let (sender, answer) = oneshot::channel();
    let call = move |now, agent: &mut Agent<Sqlite>| {
        let _ = sender.send(work(now, agent));
    };
    runtime.send(agent, Message::Call(Box::new(call)));
    answer.await.unwrap_or_else(|_| closed())
}

/// The router learns of the change before the client does.
fn finish(runtime: &AgentRuntime, reply: api::Reply) -> HttpResponse {
    match reply.changed.map_or(Ok(()), |entry| runtime.put(entry)) {
        Ok(()) => reply.answer,
        Err(error) => unavailable(&error),
    }
}

fn closed() -> HttpResponse {
    HttpResponse::error(503, "the agent can't be opened; the relay's log says why")
}

fn unavailable(error: &StoreError) -> HttpResponse {
    HttpResponse::error(503, &error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_agents_are_a_part_of_those_of_the_process() {
        for (files, reserved, open) in [
            (64, 8, 1),
            (1_024, 128, 1),
            (20_000, 2_304, 1_024),
            (10_240, 1_280, 512),
            (1 << 20, 2_304, 1_024),
        ] {
            assert_eq!((files_max(files), open_max(Some(files))), (reserved, open), "{files}");
        }
        assert_eq!(open_max(None), OPEN_MAX);
    }
}
