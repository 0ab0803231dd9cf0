//! The task of one open agent: passes messages to its state machine and carries out the effects.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use hyper::body::Bytes;
use relay_agent::executor::{HttpError, HttpEvent, HttpRequest};
use relay_agent::machine::{Agent, Context, Effect, EffectId, ExchangeEvent, Published};
use relay_engine::relay::PublishOutcome;
use relay_engine::sql::StoreError;
use relay_engine::types::{Event, Now, PubKey};
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;

use super::exchanges;
use super::registry::{Inbox, Message};
use super::runtime::AgentRuntime;
use super::sqlite::Sqlite;
use crate::handle::RelayHandle;
use crate::host::now;

/// How long an agent that has nothing to do stays open.
const IDLE: Duration = Duration::from_secs(5);
/// Until an agent that could not be opened is tried again.
const REOPEN_MS: u64 = 30_000;
/// Events of one call over HTTP that wait for the machine.
const HTTP_EVENTS_MAX: usize = 16;
/// Why no blob is stored or read.
const NO_BLOBS: &str = "this relay stores no blobs now";
/// Messages that are handled before other tasks have their turn.
const MESSAGES_MAX: usize = 32;

/// Runs until there is nothing left to do.
pub(super) async fn run(runtime: Arc<AgentRuntime>, pubkey: PubKey, inbox: Arc<Inbox>) {
    loop {
        match open(&runtime, &pubkey).await {
            Ok((agent, _slot)) => {
                let mut task =
                    AgentTask { runtime: &runtime, inbox: &inbox, pubkey, agent, calls: HashMap::new() };
                task.serve().await;
                let mut reopen_at = task.reopen_at();
                let deleted = if task.agent.is_removable() { task.agent.removal_record() } else { None };
                drop(task);
                runtime.tally().forget_unfinished(&pubkey);
                if let Some(deleted) = deleted
                    && let Err(error) = runtime.remove(&deleted)
                {
                    tracing::warn!(agent = %pubkey, %error, "the file of a deleted agent cannot be removed; trying again");
                    reopen_at = Some(now().plus_millis(REOPEN_MS));
                }
                runtime.reopen_times().agent_closed(&pubkey, reopen_at);
            }
            Err(error) => {
                tracing::error!(agent = %pubkey, %error, "an agent cannot be opened");
                inbox.clear();
                runtime.reopen_times().postpone(&pubkey, now().plus_millis(REOPEN_MS));
            }
        }
        if runtime.registry.close(&pubkey, &inbox) {
            // The time to open it again may be the next of all.
            runtime.changed.notify_one();
            return;
        }
    }
}

/// Opens an agent's file, as soon as fewer than the largest number are open.
async fn open<'a>(
    runtime: &'a AgentRuntime,
    pubkey: &PubKey,
) -> Result<(Agent<Sqlite>, tokio::sync::SemaphorePermit<'a>), StoreError> {
    let slot = match runtime.slots.try_acquire() {
        Ok(slot) => slot,
        Err(_) => {
            runtime.waiting.fetch_add(1, Ordering::Relaxed);
            // Idle ones are closed.
            runtime.evict_idle.notify_waiters();
            let slot = runtime.slots.acquire().await;
            runtime.waiting.fetch_sub(1, Ordering::Relaxed);
            slot.map_err(|_| StoreError::Failed("the relay is stopping".to_owned()))?
        }
    };
    runtime.reopen_times().mark_open(&[*pubkey])?;
    let conn = Sqlite::open(&runtime.file_of(pubkey))?;
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|error| StoreError::Failed(error.to_string()))?;
    let context = Context {
        secrets: Arc::clone(&runtime.secrets) as _,
        relay_url: runtime.relay_url.clone(),
        blossom: runtime.blossom.clone(),
        seed,
    };
    let mut agent = Agent::open(now(), conn, context)?;
    if agent.state().is_none() {
        let deleted = runtime.router().removal_record(pubkey)?;
        deleted.map_or(Ok(()), |deleted| agent.restore(&deleted))?;
    }
    runtime.reconcile(pubkey, &agent);
    Ok((agent, slot))
}

struct AgentTask<'a> {
    runtime: &'a Arc<AgentRuntime>,
    inbox: &'a Arc<Inbox>,
    pubkey: PubKey,
    agent: Agent<Sqlite>,
    /// Calls over HTTP, and exchanges, that are under way.
    calls: HashMap<EffectId, AbortHandle>,
}

impl Drop for AgentTask<'_> {
    fn drop(&mut self) {
        self.calls.values().for_each(AbortHandle::abort);
    }
}

impl AgentTask<'_> {
    /// Returns when it is idle, or the relay stops.
    async fn serve(&mut self) {
        let mut idle_since = Instant::now();
        loop {
            let mut handled = 0;
            while !self.runtime.registry.is_stopping() && self.step() {
                idle_since = Instant::now();
                handled += 1;
                if handled % MESSAGES_MAX == 0 {
                    tokio::task::yield_now().await;
                }
            }
            if self.runtime.registry.is_stopping() {
                return;
            }
            let is_idle = self.agent.is_idle();
            let closes_at = idle_since + IDLE;
            let others_are_waiting = self.runtime.waiting.load(Ordering::Relaxed) > 0;
            if is_idle && (others_are_waiting || Instant::now() >= closes_at || self.agent.is_removable()) {
                return;
            }
            let timeout =
                self.agent.poll_timeout().map(|at| Duration::from_millis(at.millis_since(now()) + 1));
            let closes = is_idle.then(|| closes_at.saturating_duration_since(Instant::now()));
            let wait = timeout.into_iter().chain(closes).min();
            tokio::select! {
                () = self.inbox.wake.notified() => {}
                () = self.runtime.evict_idle.notified(), if is_idle => {}
                () = tokio::time::sleep(wait.unwrap_or_default()), if wait.is_some() => {}
            }
        }
    }

    /// One message, or what is due. False: there is nothing.
    fn step(&mut self) -> bool {
        let now = now();
        if self.agent.poll_timeout().is_some_and(|at| at <= now) {
            self.agent.handle_timeout(now);
        } else if let Some(message) = self.inbox.pop() {
            self.handle(now, message);
        } else {
            // What it wants right after it was opened.
            return self.carry_out();
        }
        self.carry_out();
        if let Some(counted) = self.agent.take_metrics_delta() {
            self.runtime.tally().add(&self.pubkey, &counted);
        }
        true
    }

    fn handle(&mut self, now: Now, message: Message) {
        match message {
            Message::Deliver(events, receipt) => match self.agent.deliver(now, &events) {
                Ok(()) => receipt.accept(),
                Err(error) => {
                    tracing::warn!(%error, "an agent cannot store its events; they are delivered again later");
                }
            },
            Message::Published(id, outcomes) => self.agent.handle_published(now, id, &outcomes),
            Message::Http(id, event, _permit) => {
                if matches!(event, HttpEvent::End | HttpEvent::Failed(_)) {
                    self.calls.remove(&id);
                }
                self.agent.handle_http(now, id, event);
            }
            Message::Exchange(id, event) => {
                if matches!(event, ExchangeEvent::Failed(_)) {
                    self.calls.remove(&id);
                }
                self.agent.handle_exchange(now, id, event);
            }
            Message::Stored(id, outcome) => self.agent.handle_stored(now, id, outcome),
            Message::Events(id, events) => self.agent.handle_events(now, id, events),
            Message::Call(call) => call(now, &mut self.agent),
            Message::Open => {}
        }
    }

    /// Carries out the agent's effects. False: there are none.
    fn carry_out(&mut self) -> bool {
        let mut any = false;
        while let Some(effect) = self.agent.poll_effect() {
            any = true;
            match effect {
                Effect::Publish { id, events, relays } => self.publish(id, events, relays),
                Effect::Send { events, mut relays, .. } => {
                    relays.retain(|relay| Some(relay) != self.runtime.relay_url.as_ref());
                    self.runtime.relays.publish(relays, &events);
                }
                Effect::Http { id, request } => self.call(id, request),
                Effect::Ai { id, .. } => {
                    self.agent.handle_http(now(), id, HttpEvent::Failed(HttpError::Unsupported));
                }
                Effect::Exchange { id, relays, answers, requests } => {
                    let (runtime, inbox) = (Arc::clone(self.runtime), Arc::clone(self.inbox));
                    let task = tokio::spawn(async move {
                        let tell = |event| inbox.push(Message::Exchange(id, ExchangeEvent::Event(event)));
                        let why = exchanges::ask(&runtime, &relays, &answers, &requests, tell).await;
                        inbox.push(Message::Exchange(id, ExchangeEvent::Failed(why)));
                    });
                    self.calls.insert(id, task.abort_handle());
                }
                Effect::Cancel { id } => {
                    if let Some(call) = self.calls.remove(&id) {
                        call.abort();
                    }
                }
                Effect::StoreBlob { id, owner, bytes, mime } => self.store(id, owner, bytes, mime),
                Effect::ReadBlob { id, sha256, bytes_max } => self.read(id, sha256, bytes_max),
                Effect::Query { id, filter } => {
                    let (handle, inbox) = (self.runtime.handle.clone(), Arc::clone(self.inbox));
                    tokio::spawn(async move {
                        let events = handle.query_public(filter).map_err(|error| error.to_string());
                        inbox.push(Message::Events(id, events));
                    });
                }
            }
        }
        any
    }

    fn publish(&self, id: EffectId, events: Vec<Event>, mut relays: Vec<String>) {
        // Sent here, so that they are published in order, and after those of earlier effects.
        relays.retain(|relay| Some(relay) != self.runtime.relay_url.as_ref());
        let elsewhere = (!relays.is_empty()).then(|| events.clone());
        let sent = send_all(&self.runtime.handle, events);
        let (inbox, publisher) = (Arc::clone(self.inbox), self.runtime.relays.clone());
        tokio::spawn(async move {
            let mut outcomes = Vec::with_capacity(sent.len());
            for outcome in sent {
                // If the relay has stopped, they are published at the next start.
                let Ok(outcome) = outcome.await else { return };
                outcomes.push(published(outcome));
            }
            if let Some(events) = elsewhere {
                publisher.publish(relays, &events);
            }
            inbox.push(Message::Published(id, outcomes));
        });
    }

    fn call(&mut self, id: EffectId, request: HttpRequest) {
        let (client, inbox) = (self.runtime.http.clone(), Arc::clone(self.inbox));
        let task = tokio::spawn(async move {
            let waiting = Arc::new(Semaphore::new(HTTP_EVENTS_MAX));
            let mut call = client.run(request);
            while let Some(event) = call.next().await {
                let Ok(permit) = Arc::clone(&waiting).acquire_owned().await else { return };
                inbox.push(Message::Http(id, event, permit));
            }
        });
        self.calls.insert(id, task.abort_handle());
    }

    /// Stores a blob; goes on to its end whatever becomes of the job.
    fn store(&self, id: EffectId, owner: PubKey, bytes: Bytes, mime: &'static str) {
        let (runtime, inbox) = (Arc::clone(self.runtime), Arc::clone(self.inbox));
        tokio::spawn(async move {
            let stored = match (runtime.handle.blossom(), &runtime.blossom) {
                (Some(blossom), Some(server)) => {
                    blossom.store_for_agent(&server.base_url, &owner, bytes, mime).await
                }
                _ => Err(NO_BLOBS.to_owned()),
            };
            inbox.push(Message::Stored(id, stored));
        });
    }

    /// Reads a blob.
    fn read(&mut self, id: EffectId, sha256: String, bytes_max: usize) {
        let (runtime, inbox) = (Arc::clone(self.runtime), Arc::clone(self.inbox));
        let task = tokio::spawn(async move {
            let waiting = Arc::new(Semaphore::new(HTTP_EVENTS_MAX));
            let opened = match runtime.handle.blossom() {
                Some(blossom) => blossom.read_for_agent(&sha256, bytes_max).await,
                None => Err(vec![HttpEvent::Failed(HttpError::Connection(NO_BLOBS.to_owned()))]),
            };
            let (mut reading, mut others) = match opened {
                Ok(reading) => (Some(reading), Vec::new().into_iter()),
                Err(events) => (None, events.into_iter()),
            };
            loop {
                let event = match &mut reading {
                    Some(reading) => reading.next().await,
                    None => match others.next() {
                        Some(event) => event,
                        None => return,
                    },
                };
                let is_last = matches!(event, HttpEvent::End | HttpEvent::Failed(_));
                let Ok(permit) = Arc::clone(&waiting).acquire_owned().await else { return };
                inbox.push(Message::Http(id, event, permit));
                if is_last {
                    return;
                }
            }
        });
        self.calls.insert(id, task.abort_handle());
    }

    /// When it is to be opened again, if it is closed now.
    fn reopen_at(&self) -> Option<Now> {
        if self.agent.is_idle() { self.agent.poll_timeout() } else { Some(Now::default()) }
    }
}

/// Publishes events in this order; they are committed together as far as possible.
pub(super) fn send_all(
    handle: &RelayHandle,
    events: Vec<Event>,
) -> Vec<tokio::sync::oneshot::Receiver<PublishOutcome>> {
    events.into_iter().map(|event| handle.send(event)).collect()
}

fn published(outcome: PublishOutcome) -> Published {
    match outcome {
        PublishOutcome::Stored(_)
        | PublishOutcome::Delivered
        | PublishOutcome::Duplicate
        | PublishOutcome::Superseded => Published::Accepted,
        PublishOutcome::Forged(why) | PublishOutcome::Refused(why) => Published::Refused(why),
        PublishOutcome::Failed(why) => Published::Failed(why),
    }
}
