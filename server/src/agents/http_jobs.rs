//! Jobs that are ordered over HTTP: what [`relay_agent::http_jobs`] needs of this process.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use relay_agent::api::no_agent;
use relay_agent::http_jobs::{Authorization, Body, Limiter, Progress, Secret, Token, filters};
use relay_engine::relay::PublishOutcome;
use relay_engine::types::{ClientAddress, Event, EventId, PubKey};
use relay_site::HttpResponse;

use super::{Agents, secrets};
use crate::handle::{Item, ReadError, RelayHandle, Stopped, Stream};
use crate::host::now;

/// The relay's side of orders.
pub(super) struct HttpJobs {
    /// `<data>/agents/http-jobs.key`.
    path: PathBuf,
    secret: OnceLock<Secret>,
    limiter: Mutex<Limiter>,
    per_minute_max: u32,
}

impl HttpJobs {
    pub(super) fn new(folder: &Path, per_minute_max: u32) -> Self {
        HttpJobs {
            path: folder.join("http-jobs.key"),
            secret: OnceLock::new(),
            limiter: Mutex::default(),
            per_minute_max,
        }
    }

    fn limiter(&self) -> MutexGuard<'_, Limiter> {
        self.limiter.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The key for tokens, which is made with the first order.
    fn secret(&self) -> Result<&Secret, HttpResponse> {
        if let Some(secret) = self.secret.get() {
            return Ok(secret);
        }
        let secret = read_or_make(&self.path).map_err(|error| {
            tracing::error!(path = %self.path.display(), %error, "the key of jobs over HTTP can't be read");
            HttpResponse::error(503, "the relay cannot read its key for tokens")
        })?;
        Ok(self.secret.get_or_init(|| secret))
    }
}

fn read_or_make(path: &Path) -> io::Result<Secret> {
    let text = match secrets::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            match secrets::create(path, &faster_hex::hex_string(&random()?)) {
                // Another request was faster.
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => secrets::read(path)?,
            }
        }
        found => found?,
    };
    let mut bytes = [0; 32];
    faster_hex::hex_decode(text.as_bytes(), &mut bytes)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "it is not 64 hexadecimal digits"))?;
    Ok(Secret::new(bytes))
}

fn random() -> io::Result<[u8; 32]> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(bytes)
}

/// A request to `/agent/{npub}/jobs`.
pub(crate) struct OrderRequest {
    /// The header `Authorization`.
    pub(crate) authorization: Option<String>,
    pub(crate) body: Vec<u8>,
    /// Whom its limit is counted by; `None`: it has none.
    pub(crate) address: Option<ClientAddress>,
}

impl Agents {
    /// Takes an order, or finds an earlier one, and watches its job.
    ///
    /// # Errors
    /// The response.
    pub(crate) async fn order(&self, agent: PubKey, request: &OrderRequest) -> Result<Watch, HttpResponse> {
        let jobs = &self.http_jobs;
        if jobs.per_minute_max == 0 {
            return Err(HttpResponse::error(404, "jobs are not ordered over HTTP on this relay"));
        }
        let runtime = self.running_with(&agent).ok_or_else(no_agent)?;
        let secret = jobs.secret()?;
        let seconds = now().seconds();
        let header = request.authorization.as_deref();
        let token = match Authorization::read(header, secret, &agent, seconds)? {
            Authorization::Job(token) => token,
            Authorization::None => {
                let body = Body::parse(&request.body, &agent)?;
                jobs.limiter().take(request.address, jobs.per_minute_max, seconds)?;
                let handle = &runtime.handle;
                let (kind, request, outcome) = match body {
                    Body::Signed(event) => (event.kind, event.id, handle.publish_copy(event).await),
                    Body::Order(order) => {
                        let nonce = random().map_err(|error| HttpResponse::error(503, &error.to_string()))?;
                        let event = secret.buyer(&agent, &nonce)?.sign(&order.draft(&agent, seconds));
                        (event.kind, event.id, handle.publish(event).await)
                    }
                };
                accepted(outcome)?;
                Token { kind, created_at: seconds, request, payment_hash: None }
            }
        };
        Watch::open(runtime.handle.clone(), secret.clone(), agent, token).await
    }
}

/// Whether the relay has taken a request.
fn accepted(outcome: Result<PublishOutcome, Stopped>) -> Result<(), HttpResponse> {
    match outcome.map_err(|_| stopping())? {
        outcome if outcome.is_accepted() => Ok(()),
        PublishOutcome::Forged(message) | PublishOutcome::Refused(message) => {
            Err(HttpResponse::error(400, &message))
        }
        PublishOutcome::Failed(message) => Err(HttpResponse::error(503, &message)),
        _ => Err(HttpResponse::error(409, "the relay has not stored the request")),
    }
}

fn stopping() -> HttpResponse {
    HttpResponse::error(503, "the relay is stopping")
}

/// What is known of a job, and what comes.
pub(crate) struct Watch {
    handle: RelayHandle,
    stream: Stream,
    pub(crate) secret: Secret,
    pub(crate) agent: PubKey,
    pub(crate) token: Token,
    /// Events that have been read.
    seen: HashSet<EventId>,
}

impl Watch {
    async fn open(
        handle: RelayHandle,
        secret: Secret,
        agent: PubKey,
        token: Token,
    ) -> Result<Self, HttpResponse> {
        let filters = filters(&agent, &token).to_vec();
        let stream = handle.open_stream(filters, None).await.map_err(failed)?;
        Ok(Watch { handle, stream, secret, agent, token, seen: HashSet::new() })
    }

    /// How far the job is, from what is stored.
    ///
    /// # Errors
    /// The response.
    pub(crate) async fn read(&mut self) -> Result<Progress, HttpResponse> {
        let (handle, filters) = (self.handle.clone(), filters(&self.agent, &self.token));
        let read = move || -> Result<[Vec<Event>; 2], ReadError> {
            let [result, feedback] = filters;
            Ok([handle.query_public(result)?, handle.query_public(feedback)?])
        };
        let read = tokio::task::spawn_blocking(read).await;
        let [result, feedback] =
            read.map_err(|error| HttpResponse::error(500, &error.to_string()))?.map_err(failed)?;
        self.seen.extend(result.iter().chain(&feedback).map(|event| event.id));
        Ok(Progress::of(&self.token, result.first(), &feedback))
    }

    /// The next thing that the agent says. `None`: the relay is stopping. Cancel safe.
    pub(crate) async fn next(&mut self) -> Option<Progress> {
        loop {
            let Item::Event(_, event) = self.stream.next().await? else { continue };
            if !self.seen.insert(event.id) {
                continue;
            }
            return Some(Progress::of_event(&self.token, &event));
        }
    }
}

fn failed(error: ReadError) -> HttpResponse {
    match error {
        ReadError::Stopped => stopping(),
        ReadError::Store(error) => HttpResponse::error(503, &error.to_string()),
    }
}
