//! The host of one agent: its machine, with the calls it makes and the relay beside it.
//!
//! Generic over the runtime, as [`object`](crate::object) is. The layer over workerd reports what happens
//! ([`AgentObject::deliver`], [`AgentObject::http`], ...); nothing here waits or reads a clock.
//!
//! An agent sleeps until a delivery, a command or its alarm wakes it. What it wants to publish while it takes a delivery
//! travels back with the response, so a job whose executor makes no call costs one request; everything else is sent to
//! the relay's object. See [`message`].

pub mod api_request;
mod env_secrets;
pub mod message;
pub mod remote_relays;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use relay_agent::api;
use relay_agent::exchange::Answers;
use relay_agent::executor::{HttpError, HttpEvent, HttpRequest};
use relay_agent::machine::{
    Agent, AgentState, Context, Effect, EffectId, ExchangeEvent, MetricsDelta, Published, RemovalRecord,
};
use relay_engine::sql::{SqlConn, SqlValue, StoreError};
use relay_engine::types::{Event, Filter, Now, PubKey};

pub use env_secrets::EnvSecrets;

use message::{Confirmation, Delivery, InstanceId, Known, Publication, Reply};

/// The runtime, as an agent uses it. Nothing here waits: outcomes are reported later.
pub trait AgentHost {
    /// Publishes events on the relay; answered by [`AgentObject::published`].
    fn publish(&self, id: EffectId, events: &[Event]);

    /// Publishes events on other relays, as far as they take them.
    fn publish_to_remote_relays(&self, events: &[Event], relays: &[String]);

    /// Makes a call; answered by [`AgentObject::http`].
    fn call(&self, id: EffectId, request: HttpRequest);

    /// Calls a model of Workers AI; answered like a call.
    fn call_model(&self, id: EffectId, model: &str, input: Bytes);

    /// Asks a remote signer or a wallet on its relays; answered by [`AgentObject::exchange_event`].
    fn exchange(&self, id: EffectId, relays: &[String], answers: Answers, requests: &[Event]);

    /// Ends a call of either kind, or an exchange.
    fn cancel(&self, id: EffectId);

    /// Reads events of the relay; answered by [`AgentObject::found`].
    fn query(&self, id: EffectId, filter: &Filter);

    /// Stores a blob on the relay's Blossom server; answered by [`AgentObject::stored`].
    fn store_blob(&self, id: EffectId, owner: PubKey, bytes: Bytes, mime: &'static str);

    /// Reads a blob of that server; answered like a call.
    fn read_blob(&self, id: EffectId, sha256: &str, bytes_max: usize);

    /// Stores the removal record in the relay's object, and then empties this object if [`AgentObject::is_removed_by`] allows it.
    fn remove(&self, deleted: &RemovalRecord);

    /// Sets the object's one alarm, which calls [`AgentObject::alarm`], and replaces the one that was set.
    fn set_alarm(&self, at: Now);

    /// Bytes of memory that all objects of this isolate have allocated now.
    fn memory_used_bytes(&self) -> u64;
}

/// Bytes that the objects of an isolate may have allocated when another job is taken. An agent has bounds of its own, but a thousand
/// of them share the 128 MB that the platform gives to an isolate, JavaScript's heap and the fragments of memory included.
pub const WORK_MEMORY_MAX: u64 = 48 << 20;
/// The same when more of a response to a call is taken: what is begun comes to an end before anything else begins.
pub const RESPONSE_MEMORY_MAX: u64 = 60 << 20;

/// While an agent is busy, or waits for the relay, an alarm comes this often: without requests, the platform evicts an object after 70 seconds or more,
/// and then the alarm resumes its work.
const AWAKE_SECONDS: u64 = 30;
/// Work that is at least this far away was known to an earlier instance, which has set the alarm for it: nothing that an instance
/// begins waits so long.
const LONG_MILLIS: u64 = 2 * 3_600_000;
/// Steps of work that is due in one call; the rest is left to an alarm, so that other objects of the isolate have their turn.
const TIMEOUTS_MAX: usize = 16;

/// Why an agent does not do more now.
pub(crate) const NO_MEMORY: &str = "the isolate has no memory for more work";

/// One agent.
pub struct AgentObject<C: SqlConn, H> {
    agent: Agent<C>,
    host: H,
    instance: InstanceId,
    /// Publications that have not been confirmed.
    publications: BTreeMap<EffectId, Unconfirmed>,
    /// Calls, exchanges, and blobs on their way, that have not been answered.
    calls: BTreeSet<EffectId>,
    /// The alarm, as far as it is known to be set.
    alarm: Option<Now>,
    /// Whether the host has been asked to remove the agent, since the last alarm.
    is_removal_requested: bool,
}

struct Unconfirmed {
    events: Vec<Event>,
    /// Other relays, which get what this host's relay has accepted.
    relays: Vec<String>,
    via: Via,
}

/// How a publication goes to the relay.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Via {
    /// With responses to deliveries, until the relay has confirmed it.
    Response,
    /// In a request of its own.
    Request,
}

/// Whether an agent has ever been opened in `conn`. Writes nothing: a request for a key that is nobody's must leave an empty
/// object.
///
/// # Errors
/// If the store fails.
pub fn is_opened<C: SqlConn>(conn: &C) -> Result<bool, StoreError> {
    let mut is_opened = false;
    conn.query(HAS_TABLE, &[], &mut |row| {
        is_opened = matches!(row, [SqlValue::Int(1)]);
        Ok(())
    })?;
    Ok(is_opened)
}

const HAS_TABLE: &str = "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = 'agent_meta'";

impl<C: SqlConn, H: AgentHost> AgentObject<C, H> {
    /// Opens the agent in `conn`. `instance` must be random and new each time.
    ///
    /// # Errors
    /// If the store fails.
    pub fn open(
        now: Now,
        conn: C,
        host: H,
        context: Context,
        instance: InstanceId,
    ) -> Result<Self, StoreError> {
        let agent = Agent::open(now, conn, context)?;
        let (publications, calls) = Default::default();
        // The platform keeps the alarm when the object loses its memory. If the next work is more than LONG_MILLIS away, an
        // earlier instance has set the alarm for it, so it is not set again, which would cost a row; for nearer work it is.
        let alarm = agent.poll_timeout().filter(|at| at.millis_since(now) >= LONG_MILLIS);
        Ok(AgentObject { agent, host, instance, publications, calls, alarm, is_removal_requested: false })
    }

    /// The relay's object delivers events and confirms publications.
    ///
    /// # Errors
    /// If the store fails, or events would take memory that the isolate does not have; the events have to be delivered again.
    pub fn deliver(&mut self, now: Now, delivery: Delivery) -> Result<Reply, StoreError> {
        for Confirmation { instance, id, outcomes } in delivery.confirmed {
            let is_open = self.publications.get(&id).is_some_and(|own| own.via == Via::Response);
            // Ids of an earlier instance name other publications.
            if instance == self.instance && is_open {
                self.confirm(now, id, &outcomes);
            }
        }
        let delivered = if delivery.events.is_empty() {
            Ok(())
        } else if self.host.memory_used_bytes() > WORK_MEMORY_MAX {
            // What is confirmed above may have freed some.
            Err(StoreError::Failed(NO_MEMORY.into()))
        } else {
            self.agent.deliver(now, &delivery.events)
        };
        self.work(now, Via::Response);
        delivered?;
        // Most often nothing has changed, and the manifest is not copied.
        let known = self.agent.state().map(|state| Known { state, version: self.agent.version() });
        let entry = if known == delivery.known { None } else { api::entry(&self.agent) };
        let unconfirmed = self.publications.iter().filter(|(_, own)| own.via == Via::Response);
        let publish = unconfirmed.map(|(id, own)| Publication { id: *id, events: own.events.clone() });
        Ok(Reply {
            instance: self.instance,
            is_busy: self.is_busy(),
            publish: publish.collect(),
            is_deleted: self.agent.state() == Some(AgentState::Deleted),
            entry,
            counted: self.take_metrics_delta(),
        })
    }

    /// Calls `work` with the machine: a command, or a read.
    pub fn with<T>(&mut self, now: Now, work: impl FnOnce(&mut Agent<C>) -> T) -> T {
        let done = work(&mut self.agent);
        self.work(now, Via::Request);
        done
    }

    /// The machine, to be read.
    pub fn agent(&self) -> &Agent<C> {
        &self.agent
    }

    /// What it has counted since this was last called, or a reply has had it; for a request to the relay's object.
    pub fn take_metrics_delta(&mut self) -> Option<MetricsDelta> {
        self.agent.take_metrics_delta()
    }

    /// The outcomes of [`AgentHost::publish`]; `Err` if the relay could not be asked.
    pub fn published(&mut self, now: Now, id: EffectId, outcomes: Result<Vec<Published>, String>) {
        let Some(own) = self.publications.get(&id) else { return };
        let failed = |words| vec![Published::Failed(words); own.events.len()];
        let outcomes = outcomes.unwrap_or_else(failed);
        self.confirm(now, id, &outcomes);
        self.work(now, Via::Request);
    }

    /// Something has come of a call, over HTTP or of a model. Without memory for it the call has failed, and may be tried again.
    pub fn http(&mut self, now: Now, id: EffectId, mut event: HttpEvent) {
        if matches!(event, HttpEvent::Chunk(_)) && self.host.memory_used_bytes() > RESPONSE_MEMORY_MAX {
            self.host.cancel(id);
            event = HttpEvent::Failed(HttpError::Connection(NO_MEMORY.into()));
        }
        if matches!(event, HttpEvent::End | HttpEvent::Failed(_)) {
            self.calls.remove(&id);
        }
        self.agent.handle_http(now, id, event);
        self.work(now, Via::Request);
    }

    /// Something has come of [`AgentHost::exchange`].
    pub fn exchange_event(&mut self, now: Now, id: EffectId, event: ExchangeEvent) {
        if matches!(event, ExchangeEvent::Failed(_)) {
            self.calls.remove(&id);
        }
        self.agent.handle_exchange(now, id, event);
        self.work(now, Via::Request);
    }

    /// The outcome of [`AgentHost::store_blob`]: the blob's URL, or why it is not stored.
    pub fn stored(&mut self, now: Now, id: EffectId, outcome: Result<String, String>) {
        self.calls.remove(&id);
        self.agent.handle_stored(now, id, outcome);
        self.work(now, Via::Request);
    }

    /// The answer to [`AgentHost::query`]; `Err` if the relay could not be asked.
    pub fn found(&mut self, now: Now, id: EffectId, events: Result<Vec<Event>, String>) {
        self.agent.handle_events(now, id, events);
        self.work(now, Via::Request);
    }

    /// The alarm that was set has fired.
    pub fn alarm(&mut self, now: Now) {
        self.alarm = None;
        self.is_removal_requested = false;
        for (id, own) in &mut self.publications {
            // The relay should have answered by now. What it has already does no harm.
            own.via = Via::Request;
            self.host.publish(*id, &own.events);
        }
        self.work(now, Via::Request);
    }

    fn confirm(&mut self, now: Now, id: EffectId, outcomes: &[Published]) {
        let Some(Unconfirmed { events, relays, .. }) = self.publications.remove(&id) else { return };
        self.agent.handle_published(now, id, outcomes);
        let accepted =
            events.into_iter().zip(outcomes).filter(|(_, outcome)| **outcome == Published::Accepted);
        let accepted: Vec<Event> = accepted.map(|(event, _)| event).collect();
        if !relays.is_empty() && !accepted.is_empty() {
            self.host.publish_to_remote_relays(&accepted, &relays);
        }
    }

    /// Whether nothing is lost, and little is to be done again, when it is dropped and opened when it is needed.
    pub fn is_idle(&self) -> bool {
        self.publications.is_empty() && self.calls.is_empty() && self.agent.is_idle()
    }

    /// Whether this is its removal record: it has not been deployed again since.
    pub fn is_removed_by(&self, deleted: &RemovalRecord) -> bool {
        self.is_removable() && self.agent.removal_record().as_ref() == Some(deleted)
    }

    /// Whether it is deleted and the relay has all its events.
    fn is_removable(&self) -> bool {
        self.publications.is_empty() && self.agent.is_removable()
    }

    fn is_busy(&self) -> bool {
        !self.calls.is_empty() || self.agent.is_busy()
    }

    /// Does what is due, carries out what the machine wants, and sets the alarm for the rest.
    fn work(&mut self, now: Now, via: Via) {
        self.carry_out(via);
        for _ in 0..TIMEOUTS_MAX {
            if self.agent.poll_timeout().is_none_or(|at| now < at) {
                break;
            }
            self.agent.handle_timeout(now);
            self.carry_out(via);
        }
        self.schedule_alarm(now);
        match self.agent.removal_record().filter(|_| self.is_removable()) {
            Some(deleted) if !self.is_removal_requested => {
                self.is_removal_requested = true;
                self.host.remove(&deleted);
            }
            Some(_) => {}
            None => self.is_removal_requested = false,
        }
    }

    /// Carries out what the machine wants.
    fn carry_out(&mut self, via: Via) {
        while let Some(effect) = self.agent.poll_effect() {
            match effect {
                Effect::Publish { id, events, relays } => {
                    if via == Via::Request {
                        self.host.publish(id, &events);
                    }
                    self.publications.insert(id, Unconfirmed { events, relays, via });
                }
                Effect::Send { events, relays, .. } => self.host.publish_to_remote_relays(&events, &relays),
                Effect::Http { id, request } => {
                    self.calls.insert(id);
                    self.host.call(id, request);
                }
                Effect::Ai { id, model, input } => {
                    self.calls.insert(id);
                    self.host.call_model(id, &model, input);
                }
                Effect::Exchange { id, relays, answers, requests } => {
                    self.calls.insert(id);
                    self.host.exchange(id, &relays, answers, &requests);
                }
                Effect::Cancel { id } => {
                    self.calls.remove(&id);
                    self.host.cancel(id);
                }
                Effect::StoreBlob { id, owner, bytes, mime } => {
                    self.calls.insert(id);
                    self.host.store_blob(id, owner, bytes, mime);
                }
                Effect::ReadBlob { id, sha256, bytes_max } => {
                    self.calls.insert(id);
                    self.host.read_blob(id, &sha256, bytes_max);
                }
                // The relay answers at once. If it does not, the time of the job that waits comes.
                Effect::Query { id, filter } => self.host.query(id, &filter),
            }
        }
    }

    /// Sets an alarm for what the machine waits for. One that turns out to be needless is not taken back: setting costs a
    /// row, and firing a request, which costs less.
    fn schedule_alarm(&mut self, now: Now) {
        let waits = self.publications.values().any(|own| own.via == Via::Request);
        // If the host cannot remove it now, the alarm repeats it.
        let awake = waits || self.is_busy() || self.is_removable();
        let awake = awake.then(|| now.plus_millis(AWAKE_SECONDS * 1_000));
        let Some(at) = self.agent.poll_timeout().into_iter().chain(awake).min() else { return };
        let at = at.max(now);
        if self.alarm.is_none_or(|set| at < set) {
            self.alarm = Some(at);
            self.host.set_alarm(at);
        }
    }
}
