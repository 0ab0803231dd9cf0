//! The task of one agent that is open: it gives the machine what comes, and carries out what it wants.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use hyper::body::Bytes;
use relay_agent::executor::{HttpError, HttpEvent, HttpRequest};
use relay_agent::machine::{Agent, Context, Effect, EffectId, Published, SignerEvent};
use relay_engine::relay::PublishOutcome;
use relay_engine::sql::StoreError;
use relay_engine::types::{Event, Now, PubKey};
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;

use super::registry::{Inbox, Message};
use super::runtime::AgentRuntime;
use super::signers;
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
const NO_BLOBS: &str = "the store of blobs is not open";
/// Messages that are handled before other tasks have their turn.
const MESSAGES_MAX: usize = 32;

/// Runs until there is nothing left to do.
pub(super) async fn run(running: Arc<AgentRuntime>, pubkey: PubKey, inbox: Arc<Inbox>) {
    loop {
        match open(&running, &pubkey).await {
            Ok((agent, _slot)) => {
                let mut actor =
                    Actor { running: &running, inbox: &inbox, pubkey, agent, calls: HashMap::new() };
                actor.serve().await;
                let mut wake = actor.wake();
                let gone = if actor.agent.is_gone() { actor.agent.tombstone() } else { None };
                drop(actor);
                running.tally().closed(&pubkey);
                if let Some(tombstone) = gone
                    && let Err(error) = running.remove(&tombstone)
                {
                    tracing::warn!(agent = %pubkey, %error, "a deleted agent's file can't be removed; trying again");
                    wake = Some(now().plus_millis(REOPEN_MS));
                }
                running.wakes().agent_closed(&pubkey, wake);
            }
            Err(error) => {
                tracing::error!(agent = %pubkey, %error, "an agent can't be opened");
                inbox.clear();
                running.wakes().postpone(&pubkey, now().plus_millis(REOPEN_MS));
            }
        }
        if running.registry.close(&pubkey, &inbox) {
            // Its next wake may be the next of all.
            running.changed.notify_one();
            return;
        }
    }
}

/// Opens an agent's file, once fewer than the most are open.
async fn open<'a>(
    running: &'a AgentRuntime,
    pubkey: &PubKey,
) -> Result<(Agent<Sqlite>, tokio::sync::SemaphorePermit<'a>), StoreError> {
    let slot = match running.slots.try_acquire() {
        Ok(slot) => slot,
        Err(_) => {
            running.waiting.fetch_add(1, Ordering::Relaxed);
            // Those that are idle make way.
            running.evict_idle.notify_waiters();
            let slot = running.slots.acquire().await;
            running.waiting.fetch_sub(1, Ordering::Relaxed);
            slot.map_err(|_| StoreError::Failed("the relay is stopping".to_owned()))?
        }
    };
    running.wakes().mark_awake(&[*pubkey])?;
    let conn = Sqlite::open(&running.file_of(pubkey))?;
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|error| StoreError::Failed(error.to_string()))?;
    let context = Context {
        secrets: Arc::clone(&running.secrets) as _,
        relay_url: running.relay_url.clone(),
        blossom: running.blossom.clone(),
        seed,
    };
    let mut agent = Agent::open(now(), conn, context)?;
    if agent.state().is_none() {
        let tombstone = running.router().tombstone(pubkey)?;
        tombstone.map_or(Ok(()), |tombstone| agent.restore(&tombstone))?;
    }
    running.reconcile(pubkey, &agent);
    Ok((agent, slot))
}

struct Actor<'a> {
    running: &'a Arc<AgentRuntime>,
    inbox: &'a Arc<Inbox>,
    pubkey: PubKey,
    agent: Agent<Sqlite>,
    /// Calls over HTTP, and questions to remote signers, that are under way.
    calls: HashMap<EffectId, AbortHandle>,
}

impl Drop for Actor<'_> {
    fn drop(&mut self) {
        self.calls.values().for_each(AbortHandle::abort);
    }
}

impl Actor<'_> {
    /// Returns when it is idle, or the relay stops.
    async fn serve(&mut self) {
        let mut idle_since = Instant::now();
        loop {
            let mut handled = 0;
            while !self.running.registry.is_stopping() && self.step() {
                idle_since = Instant::now();
                handled += 1;
                if handled % MESSAGES_MAX == 0 {
                    tokio::task::yield_now().await;
                }
            }
            if self.running.registry.is_stopping() {
                return;
            }
            let is_idle = self.agent.is_idle();
            let closes_at = idle_since + IDLE;
            let is_in_the_way = self.running.waiting.load(Ordering::Relaxed) > 0;
            if is_idle && (is_in_the_way || Instant::now() >= closes_at || self.agent.is_gone()) {
                return;
            }
            let timeout =
                self.agent.poll_timeout().map(|at| Duration::from_millis(at.millis_since(now()) + 1));
            let closes = is_idle.then(|| closes_at.saturating_duration_since(Instant::now()));
            let wait = timeout.into_iter().chain(closes).min();
            tokio::select! {
                () = self.inbox.wake.notified() => {}
                () = self.running.evict_idle.notified(), if is_idle => {}
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
            self.running.tally().add(&self.pubkey, &counted);
        }
        true
    }

    fn handle(&mut self, now: Now, message: Message) {
        match message {
            Message::Deliver(events, receipt) => match self.agent.deliver(now, &events) {
                Ok(()) => receipt.accept(),
                Err(error) => {
                    tracing::warn!(%error, "an agent can't take its events; they are delivered again later");
                }
            },
            Message::Published(id, outcomes) => self.agent.handle_published(now, id, &outcomes),
            Message::Http(id, event, _permit) => {
                if matches!(event, HttpEvent::End | HttpEvent::Failed(_)) {
                    self.calls.remove(&id);
                }
                self.agent.handle_http(now, id, event);
            }
            Message::Signer(id, event) => {
                if matches!(event, SignerEvent::Failed(_)) {
                    self.calls.remove(&id);
                }
                self.agent.handle_signer(now, id, event);
            }
            Message::Stored(id, outcome) => self.agent.handle_stored(now, id, outcome),
            Message::Events(id, events) => self.agent.handle_events(now, id, events),
            Message::Call(call) => call(now, &mut self.agent),
            Message::Wake => {}
        }
    }

    /// Does what the agent wants. False: it wants nothing.
    fn carry_out(&mut self) -> bool {
        let mut any = false;
        while let Some(effect) = self.agent.poll_effect() {
            any = true;
            match effect {
                Effect::Publish { id, events, relays } => self.publish(id, events, relays),
                Effect::Send { events, mut relays, .. } => {
                    relays.retain(|relay| Some(relay) != self.running.relay_url.as_ref());
                    self.running.relays.publish(relays, &events);
                }
                Effect::Http { id, request } => self.call(id, request),
                Effect::Ai { id, .. } => {
                    self.agent.handle_http(now(), id, HttpEvent::Failed(HttpError::Unsupported));
                }
                Effect::Sign { id, relays, answers, requests } => {
                    let (running, inbox) = (Arc::clone(self.running), Arc::clone(self.inbox));
                    let task = tokio::spawn(async move {
                        let tell = |event| inbox.push(Message::Signer(id, SignerEvent::Event(event)));
                        let why = signers::ask(&running, &relays, &answers, &requests, tell).await;
                        inbox.push(Message::Signer(id, SignerEvent::Failed(why)));
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
                    let (handle, inbox) = (self.running.handle.clone(), Arc::clone(self.inbox));
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
        relays.retain(|relay| Some(relay) != self.running.relay_url.as_ref());
        let elsewhere = (!relays.is_empty()).then(|| events.clone());
        let sent = send_all(&self.running.handle, events);
        let (inbox, publisher) = (Arc::clone(self.inbox), self.running.relays.clone());
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
        let (client, inbox) = (self.running.http.clone(), Arc::clone(self.inbox));
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
        let (running, inbox) = (Arc::clone(self.running), Arc::clone(self.inbox));
        tokio::spawn(async move {
            let stored = match (running.handle.blossom(), &running.blossom) {
                (Some(blossom), Some(server)) => blossom.put_own(&server.base_url, &owner, bytes, mime).await,
                _ => Err(NO_BLOBS.to_owned()),
            };
            inbox.push(Message::Stored(id, stored));
        });
    }

    /// Reads a blob.
    fn read(&mut self, id: EffectId, sha256: String, bytes_max: usize) {
        let (running, inbox) = (Arc::clone(self.running), Arc::clone(self.inbox));
        let task = tokio::spawn(async move {
            let waiting = Arc::new(Semaphore::new(HTTP_EVENTS_MAX));
            let opened = match running.handle.blossom() {
                Some(blossom) => blossom.read_own(&sha256, bytes_max).await,
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
    fn wake(&self) -> Option<Now> {
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
        PublishOutcome::Refused(why) => Published::Refused(why),
        PublishOutcome::Failed(why) => Published::Failed(why),
    }
}
