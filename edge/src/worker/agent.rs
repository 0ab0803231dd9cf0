//! `AgentDurableObject`: passes the runtime's events to [`AgentObject`] and carries out what it wants.
//!
//! As with the relay's object, the agent is borrowed for single calls, never across an `await`. A request is answered as
//! soon as what it brought is durable; calls go on after it. The platform keeps the object while a call is open and for a while
//! after the last request, and the agent's alarm wakes it again if that was not enough.

mod exchange;
mod follow;
mod removal;

use std::cell::{OnceCell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::{Rc, Weak};
use std::sync::Arc;

use bytes::Bytes;
use js_sys::Uint8Array;
use relay_agent::api::{self, Follower, Reply, no_agent};
use relay_agent::exchange::Answers;
use relay_agent::executor::{HttpEvent, HttpRequest};
use relay_agent::machine::{Context, DeletedAgent, EffectId, Published};
use relay_engine::sql::StoreError;
use relay_engine::types::{Event, EventId, Filter, Now, PubKey};
use relay_site::nip98::{Nip98Error, SignerTrust};
use relay_site::{AgentRoute, HttpResponse};
use wasm_bindgen::JsCast;
use worker::{
    AbortController, DurableObject, Env, Error, Method, Request, RequestInit, Response, Result, State,
    durable_object,
};

use self::follow::LogStream;

use super::entry::response;
use super::js::{self, Storage};
use super::sql::DurableSql;
use super::{blossom, calls, memory, shards, variables};
use crate::agent::api_request::{API_PATH, ApiRequest, ENTRY_PATH, decode_deployment, encode_entry};
use crate::agent::message::{
    DELIVER_PATH, Delivery, InstanceId, PUBLISH_PATH, QUERY_PATH, decode_events, decode_outcomes,
    encode_filter, encode_publish,
};
use crate::agent::remote_relays::RemoteRelays;
use crate::agent::{AgentHost, AgentObject, NO_MEMORY, WORK_MEMORY_MAX, is_opened};
use crate::settings::Settings;
use crate::used_auth_events;

/// The binding of [`AgentDurableObject`]; objects are named by the npub of their agent.
pub(super) const AGENT: &str = "AGENT";

/// Milliseconds until an agent that cannot be opened for its alarm is tried again.
const REOPEN_MS: u64 = 60_000;
/// The same while agents are turned off: it goes on within an hour of being turned on again.
const OFF_MS: u64 = 3_600_000;

/// One agent.
#[durable_object]
pub struct AgentDurableObject {
    shared: Rc<Shared>,
}

struct Shared {
    state: State,
    env: Env,
    settings: OnceCell<Settings>,
    /// Opened on first use, and again if that failed.
    agent: RefCell<Option<AgentObject<DurableSql, Runtime>>>,
    pending_effects: PendingEffects,
    /// What goes to other relays.
    remote_relays: RefCell<RemoteRelays>,
    /// Open calls; removing one ends it.
    calls: Calls,
    followers: RefCell<Vec<LogStream>>,
}

type PendingEffects = Rc<RefCell<VecDeque<PendingEffect>>>;
type Calls = Rc<RefCell<BTreeMap<EffectId, AbortController>>>;

/// What the agent wants, until it is begun.
enum PendingEffect {
    Publish(EffectId, Vec<Event>),
    PublishToRemoteRelays(Vec<Event>, Vec<String>),
    Call(EffectId, HttpRequest),
    CallModel(EffectId, String, Bytes),
    Exchange(EffectId, Vec<String>, Answers, Vec<Event>),
    Query(EffectId, Filter),
    StoreBlob(EffectId, PubKey, Bytes, &'static str),
    ReadBlob(EffectId, String, usize),
    Remove(DeletedAgent),
}

/// The runtime, as the agent uses it.
struct Runtime {
    storage: Storage,
    pending_effects: PendingEffects,
    calls: Calls,
}

impl Runtime {
    fn push_effect(&self, effect: PendingEffect) {
        if let Ok(mut pending_effects) = self.pending_effects.try_borrow_mut() {
            pending_effects.push_back(effect);
        }
    }
}

impl AgentHost for Runtime {
    fn publish(&self, id: EffectId, events: &[Event]) {
        self.push_effect(PendingEffect::Publish(id, events.to_vec()));
    }

    fn publish_to_remote_relays(&self, events: &[Event], relays: &[String]) {
        self.push_effect(PendingEffect::PublishToRemoteRelays(events.to_vec(), relays.to_vec()));
    }

    fn call(&self, id: EffectId, request: HttpRequest) {
        self.push_effect(PendingEffect::Call(id, request));
    }

    fn call_model(&self, id: EffectId, model: &str, input: Bytes) {
        self.push_effect(PendingEffect::CallModel(id, model.to_owned(), input));
    }

    fn exchange(&self, id: EffectId, relays: &[String], answers: Answers, requests: &[Event]) {
        self.push_effect(PendingEffect::Exchange(id, relays.to_vec(), answers, requests.to_vec()));
    }

    fn cancel(&self, id: EffectId) {
        if let Ok(mut pending_effects) = self.pending_effects.try_borrow_mut() {
            pending_effects.retain(|pending_effect| match pending_effect {
                PendingEffect::Call(own, _)
                | PendingEffect::CallModel(own, ..)
                | PendingEffect::Exchange(own, ..)
                | PendingEffect::ReadBlob(own, ..) => *own != id,
                PendingEffect::Publish(..)
                | PendingEffect::PublishToRemoteRelays(..)
                | PendingEffect::Query(..)
                | PendingEffect::StoreBlob(..)
                | PendingEffect::Remove(_) => true,
            });
        }
        let open = self.calls.try_borrow_mut().ok().and_then(|mut calls| calls.remove(&id));
        if let Some(call) = open {
            call.abort();
        }
    }

    fn query(&self, id: EffectId, filter: &Filter) {
        self.push_effect(PendingEffect::Query(id, filter.clone()));
    }

    fn store_blob(&self, id: EffectId, owner: PubKey, bytes: Bytes, mime: &'static str) {
        self.push_effect(PendingEffect::StoreBlob(id, owner, bytes, mime));
    }

    fn read_blob(&self, id: EffectId, sha256: &str, bytes_max: usize) {
        self.push_effect(PendingEffect::ReadBlob(id, sha256.to_owned(), bytes_max));
    }

    fn remove(&self, deleted: &DeletedAgent) {
        self.push_effect(PendingEffect::Remove(deleted.clone()));
    }

    fn set_alarm(&self, at: Now) {
        if let Err(error) = self.storage.set_alarm(at.millis() as f64) {
            worker::console_error!("setting an alarm: {}", js::error_message(&error));
        }
    }

    fn memory_used_bytes(&self) -> u64 {
        memory::used_bytes()
    }
}

thread_local! {
    /// The agents of this isolate that are open. Those of objects that the platform has evicted are removed by the way.
    static OPEN: RefCell<Vec<Weak<Shared>>> = const { RefCell::new(Vec::new()) };
}

/// Whether there is memory for another job, once idle agents have been closed if there is little.
fn make_room() -> bool {
    if memory::used_bytes() > WORK_MEMORY_MAX {
        OPEN.take().iter().filter_map(Weak::upgrade).filter(|agent| !agent.close_if_idle()).for_each(
            |agent| {
                OPEN.with_borrow_mut(|open| open.push(Rc::downgrade(&agent)));
            },
        );
    }
    memory::used_bytes() <= WORK_MEMORY_MAX
}

pub(super) fn now() -> Now {
    Now::from_millis(js_sys::Date::now() as u64)
}

impl Shared {
    /// Calls `work` with the agent, which is opened if needed, and begins what it wants.
    fn with<T>(
        self: &Rc<Self>,
        work: impl FnOnce(&mut AgentObject<DurableSql, Runtime>) -> T,
    ) -> std::result::Result<T, String> {
        let done = {
            let mut place = self
                .agent
                .try_borrow_mut()
                .map_err(|_| "internal error: the agent is busy; try again".to_owned())?;
            if place.is_none() {
                *place = Some(self.open()?);
            }
            let agent = place.as_mut().ok_or("internal error: the agent is not loaded; try again")?;
            let done = work(agent);
            self.tell_followers(agent);
            done
        };
        loop {
            let pending_effect = self
                .pending_effects
                .try_borrow_mut()
                .ok()
                .and_then(|mut pending_effects| pending_effects.pop_front());
            let Some(pending_effect) = pending_effect else { break };
            let shared = Rc::clone(self);
            worker::wasm_bindgen_futures::spawn_local(async move { shared.carry_out(pending_effect).await });
        }
        Ok(done)
    }

    /// As [`Shared::with`], for what nobody waits for.
    fn report(self: &Rc<Self>, work: impl FnOnce(&mut AgentObject<DurableSql, Runtime>)) {
        if let Err(message) = self.with(work) {
            worker::console_error!("an agent: {message}");
        }
    }

    fn open(self: &Rc<Self>) -> std::result::Result<AgentObject<DurableSql, Runtime>, String> {
        let settings = self.settings()?;
        if !settings.agents.enabled {
            return Err("agents are disabled".into());
        }
        if !make_room() {
            return Err(NO_MEMORY.into());
        }
        let message = |error| js::error_message(&error);
        let storage = self.storage()?;
        let host = Runtime {
            storage: storage.clone(),
            pending_effects: self.pending_effects.clone(),
            calls: self.calls.clone(),
        };
        let context = Context {
            secrets: Arc::new(variables::agent_secrets(&self.env)),
            relay_url: settings.url.clone(),
            blossom: blossom::server(settings),
            seed: js::random().map_err(message)?,
        };
        let instance = InstanceId(u64::from_be_bytes(js::random().map_err(message)?));
        let agent = AgentObject::open(now(), DurableSql::new(storage), host, context, instance)
            .map_err(|error| error.to_string())?;
        OPEN.with_borrow_mut(|open| {
            // Before it grows.
            if open.len() == open.capacity() {
                open.retain(|agent| agent.strong_count() > 0);
            }
            open.push(Rc::downgrade(self));
        });
        Ok(agent)
    }

    /// Frees the memory of an agent that waits for nothing but its next call. Whether it is closed now.
    fn close_if_idle(&self) -> bool {
        let is_followed = self.followers.try_borrow().map_or(true, |followers| !followers.is_empty());
        let Ok(mut place) = self.agent.try_borrow_mut() else { return false };
        if !is_followed && place.as_ref().is_some_and(AgentObject::is_idle) {
            *place = None;
        }
        place.is_none()
    }

    async fn carry_out(self: Rc<Self>, pending_effect: PendingEffect) {
        match pending_effect {
            PendingEffect::Publish(id, events) => {
                let counted = self
                    .agent
                    .try_borrow_mut()
                    .ok()
                    .and_then(|mut agent| agent.as_mut()?.take_metrics_delta());
                let answer = self.ask_relay(PUBLISH_PATH, encode_publish(counted, &events)).await;
                let outcomes: std::result::Result<Vec<Published>, String> =
                    answer.and_then(|body| decode_outcomes(&body).map_err(|error| error.to_string()));
                self.report(|agent| agent.published(now(), id, outcomes));
            }
            PendingEffect::Query(id, filter) => {
                let answer = self.ask_relay(QUERY_PATH, encode_filter(&filter)).await;
                let events = answer.and_then(|body| decode_events(&body).map_err(|error| error.to_string()));
                self.report(|agent| agent.found(now(), id, events));
            }
            PendingEffect::PublishToRemoteRelays(events, relays) => {
                self.publish_to_remote_relays(&events, relays)
            }
            PendingEffect::Call(id, request) => {
                let Some(signal) = self.begin_call(id) else { return };
                let private = self.settings().map(|settings| &*settings.agents.allow_private_hosts);
                calls::http(private.unwrap_or_default(), request, &signal, |event| self.tell(id, event))
                    .await;
                self.end_call(id);
            }
            PendingEffect::StoreBlob(id, owner, bytes, mime) => {
                let stored = match self.settings() {
                    Ok(settings) => blossom::put_own(&self.env, settings, &owner, bytes, mime).await,
                    Err(message) => Err(message),
                };
                self.report(|agent| agent.stored(now(), id, stored));
            }
            PendingEffect::ReadBlob(id, sha256, bytes_max) => {
                if self.begin_call(id).is_none() {
                    return;
                }
                blossom::read_own(&self.env, &sha256, bytes_max, |event| self.tell(id, event)).await;
                self.end_call(id);
            }
            PendingEffect::Remove(deleted) => self.remove(&deleted).await,
            PendingEffect::Exchange(id, relays, answers, requests) => {
                self.exchange(id, &relays, &answers, &requests).await;
            }
            PendingEffect::CallModel(id, model, input) => {
                let Some(signal) = self.begin_call(id) else { return };
                calls::model(&self.env, &model, &input, &signal, |event| self.tell(id, event)).await;
                self.end_call(id);
            }
        }
    }

    /// Publishes events on other relays after those that wait already.
    fn publish_to_remote_relays(self: &Rc<Self>, events: &[Event], relays: Vec<String>) {
        let has_room = self
            .remote_relays
            .try_borrow_mut()
            .is_ok_and(|mut remote_relays| remote_relays.add(events, relays));
        if !has_room {
            worker::console_log!("the queue of publications on other relays is full: some were dropped");
        }
        self.begin_remote_publications();
    }

    /// Begins publications on other relays, as many as may be in progress; each that ends begins the next.
    fn begin_remote_publications(self: &Rc<Self>) {
        loop {
            let next =
                self.remote_relays.try_borrow_mut().ok().and_then(|mut remote_relays| remote_relays.begin());
            let Some((relay, events)) = next else { return };
            let shared = Rc::clone(self);
            worker::wasm_bindgen_futures::spawn_local(async move {
                if let Err(message) = calls::publish(&relay, &events).await {
                    worker::console_log!("publishing on {relay}: {message}");
                }
                if let Ok(mut remote_relays) = shared.remote_relays.try_borrow_mut() {
                    remote_relays.end(&relay);
                }
                shared.begin_remote_publications();
            });
        }
    }

    /// They do not change while the object is in memory.
    fn settings(&self) -> std::result::Result<&Settings, String> {
        match self.settings.get() {
            Some(settings) => Ok(settings),
            None => {
                let settings = variables::settings(&self.env)?;
                Ok(self.settings.get_or_init(|| settings))
            }
        }
    }

    fn begin_call(&self, id: EffectId) -> Option<worker::AbortSignal> {
        let call = AbortController::default();
        let signal = call.signal();
        self.calls.try_borrow_mut().ok()?.insert(id, call);
        Some(signal)
    }

    fn end_call(&self, id: EffectId) {
        let call = self.calls.try_borrow_mut().ok().and_then(|mut calls| calls.remove(&id));
        // The rest of a response that is not wanted is not read.
        if let Some(call) = call {
            call.abort();
        }
    }

    /// Tells the agent what has come of a call, unless it has cancelled it.
    fn tell(self: &Rc<Self>, id: EffectId, event: HttpEvent) {
        if self.calls.try_borrow().is_ok_and(|calls| calls.contains_key(&id)) {
            self.report(|agent| agent.http(now(), id, event));
        }
    }

    /// Sends a request to the relay's object.
    async fn ask_relay(&self, path: &str, body: Vec<u8>) -> std::result::Result<Vec<u8>, String> {
        let message = |error: Error| error.to_string();
        let placement = &self.settings()?.placement;
        let shard = placement.shards.for_connection();
        let stub = shards::stub(&self.env, placement, shard).map_err(message)?;
        let mut init = RequestInit::new();
        init.with_method(Method::Post).with_body(Some(Uint8Array::from(body.as_slice()).into()));
        let request = Request::new_with_init(&format!("https://relay{path}"), &init).map_err(message)?;
        let mut response = stub.fetch_with_request(request).await.map_err(message)?;
        let body = response.bytes().await.map_err(message)?;
        match response.status_code() {
            200 => Ok(body),
            status => Err(format!("the relay's object responded with status {status}")),
        }
    }

    /// Whether there is an agent here, or has been.
    fn has_agent(&self) -> std::result::Result<bool, String> {
        if self.agent.try_borrow().is_ok_and(|agent| agent.is_some()) {
            return Ok(true);
        }
        let storage: Storage = self.storage()?;
        is_opened(&DurableSql::new(storage)).map_err(|error| error.to_string())
    }

    fn storage(&self) -> std::result::Result<Storage, String> {
        let storage = self.state.as_raw().storage().map_err(|error| js::error_message(&error))?;
        Ok(storage.unchecked_into())
    }

    async fn answer(self: &Rc<Self>, mut request: Request) -> Result<Response> {
        let body = request.bytes().await?;
        match (request.method(), request.path().as_str()) {
            (Method::Post, DELIVER_PATH) => {
                match self.has_agent() {
                    Ok(true) => {}
                    Ok(false) => return Response::error("no agent is deployed in this object\n", 404),
                    Err(message) => return Response::error(format!("{message}\n"), 503),
                }
                let delivery = match Delivery::decode(&body) {
                    Ok(delivery) => delivery,
                    Err(error) => return Response::error(format!("{error}\n"), 400),
                };
                make_room();
                let delivered = self.with(|agent| agent.deliver(now(), delivery));
                match delivered.and_then(|delivered| delivered.map_err(|error| error.to_string())) {
                    Ok(reply) => Response::from_bytes(reply.encode()),
                    Err(message) => Response::error(format!("{message}\n"), 503),
                }
            }
            (Method::Post, API_PATH) => match ApiRequest::decode(&body) {
                Ok((ask, body)) => {
                    let answer = self.ask(&ask, body).await;
                    match Follower::of(&ask.request(body), now()) {
                        Some(follower) if answer.status == 200 => self.follow(&answer, follower),
                        _ => response(answer),
                    }
                }
                Err(error) => Response::error(format!("{error}\n"), 400),
            },
            _ => Response::error("not found\n", 404),
        }
    }

    /// Answers a request to the API. The router knows what has changed before the client does.
    async fn ask(self: &Rc<Self>, ask: &ApiRequest, body: &[u8]) -> HttpResponse {
        let deployment = matches!(ask.route, AgentRoute::Deploy | AgentRoute::Update)
            .then(|| decode_deployment(body))
            .transpose();
        let deployment = match deployment {
            Ok(deployment) => deployment,
            Err(error) => return HttpResponse::error(400, &error.to_string()),
        };
        match self.has_agent() {
            Ok(false) if ask.route != AgentRoute::Deploy => {
                return no_agent();
            }
            Ok(_) => {}
            Err(message) => return unavailable(&message),
        }
        let deleted = match &deployment {
            Some(deployment) => self.removal_record_of(&deployment.pubkey).await,
            None => Ok(None),
        };
        let deleted = match deleted {
            Ok(deleted) => deleted,
            Err(message) => return unavailable(&message),
        };
        let is_new = match &deleted {
            Some(deleted) => self.recall(deleted, ask),
            None => Ok(Ok(())),
        };
        match is_new
            .and_then(|is_new| is_new.map_or_else(|rejection| Ok(Err(rejection)), |()| self.mark_used(ask)))
        {
            Ok(Ok(())) => {}
            Ok(Err(rejection)) => return rejection.into(),
            Err(message) => return unavailable(&message),
        }
        let reply = self.with(|agent| {
            let (now, request) = (now(), ask.request(body));
            agent.with(now, |agent| {
                deleted.map_or(Ok(()), |deleted| agent.restore(&deleted))?;
                Ok::<Reply, StoreError>(match &deployment {
                    Some(deployment) => api::deploy(agent, now, &request, deployment),
                    None => api::agent(agent, now, &request),
                })
            })
        });
        let reply = reply.and_then(|reply| reply.map_err(|error| error.to_string()));
        let Reply { answer, changed } = match reply {
            Ok(reply) => reply,
            Err(message) => return unavailable(&message),
        };
        if let Some(entry) = changed
            && let Err(message) = self.ask_relay(ENTRY_PATH, encode_entry(&entry)).await
        {
            return unavailable(&message);
        }
        answer
    }
}

impl Shared {
    /// Remembers what was used before the object was emptied, unless this request is among it.
    fn recall(
        &self,
        deleted: &DeletedAgent,
        ask: &ApiRequest,
    ) -> std::result::Result<std::result::Result<(), Nip98Error>, String> {
        let is_same = |id: EventId| ask.signed.as_ref().is_some_and(|signed| signed.id == id.to_string());
        if deleted.used().any(|(_, id)| is_same(id)) {
            return Ok(Err(Nip98Error::Replayed));
        }
        let conn = DurableSql::new(self.storage()?);
        used_auth_events::remember(&conn, now().seconds(), deleted.used())
            .map(Ok)
            .map_err(|error| error.to_string())
    }

    /// Marks the event that has signed a request as used, if its author is permitted what it asks for.
    fn mark_used(
        self: &Rc<Self>,
        ask: &ApiRequest,
    ) -> std::result::Result<std::result::Result<(), Nip98Error>, String> {
        let Some(signed) = &ask.signed else { return Ok(Ok(())) };
        // Others are refused below, or do this with what is their own (a customer with its history), where a repetition does no
        // harm.
        let is_permitted = ask.route == AgentRoute::Deploy || {
            let entry = self.with(|agent| api::entry(agent.agent()))?;
            let admitted = api::admit(ask.route, ask.id.as_deref(), ask.caller, false, entry.as_ref());
            admitted == Ok(SignerTrust::Permitted)
        };
        if !is_permitted {
            return Ok(Ok(()));
        }
        let now = js_sys::Date::now() as u64 / 1_000;
        signed.take(&DurableSql::new(self.storage()?), now).map_err(|error| error.to_string())
    }
}

/// Storage or the other object has failed; the client may try again.
fn unavailable(message: &str) -> HttpResponse {
    worker::console_error!("a request to the agents' API: {message}");
    HttpResponse::error(503, "temporarily unavailable, try again")
}

impl DurableObject for AgentDurableObject {
    fn new(state: State, env: Env) -> Self {
        let (settings, agent, pending_effects, remote_relays, calls, followers) = Default::default();
        AgentDurableObject {
            shared: Rc::new(Shared {
                state,
                env,
                settings,
                agent,
                pending_effects,
                remote_relays,
                calls,
                followers,
            }),
        }
    }

    async fn fetch(&self, request: Request) -> Result<Response> {
        self.shared.answer(request).await
    }

    async fn alarm(&self) -> Result<Response> {
        if self.shared.has_agent() == Ok(false) {
            return Response::ok("");
        }
        if let Err(message) = self.shared.with(|agent| agent.alarm(now())) {
            worker::console_error!("an alarm of an agent: {message}");
            // An alarm that throws is tried again six times at most.
            let storage = self.shared.storage().map_err(Error::RustError)?;
            let is_off = self.shared.settings().is_ok_and(|settings| !settings.agents.enabled);
            let wait = if is_off { OFF_MS } else { REOPEN_MS };
            storage.set_alarm(now().plus_millis(wait).millis() as f64)?;
        }
        Response::ok("")
    }
}
