//! `AgentDurableObject`: passes the runtime's events to [`AgentObject`] and carries out what it wants.
//!
//! As with the relay's object, the agent is borrowed for single calls, never across an `await`. A request is answered as
//! soon as what it brought is durable; calls go on after it. The platform keeps the object while a call is open and for a while
//! after the last request, and the agent's alarm wakes it again if that was not enough.

mod effects;
mod exchange;
mod follow;
mod removal;
mod requests;

use std::cell::{OnceCell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::{Rc, Weak};
use std::sync::Arc;

use js_sys::Uint8Array;
use relay_agent::executor::HttpEvent;
use relay_agent::machine::{Context, EffectId, Published};
use relay_engine::types::{Event, Now};
use wasm_bindgen::JsCast;
use worker::{
    AbortController, DurableObject, Env, Error, Method, Request, RequestInit, Response, Result, State,
    durable_object,
};

use self::effects::{PendingEffect, Runtime};
use self::follow::LogStream;
use super::js::{self, Storage};
use super::sql::DurableSql;
use super::{blossom, calls, memory, shards, variables};
use crate::agent::message::{
    InstanceId, PUBLISH_PATH, QUERY_PATH, decode_events, decode_outcomes, encode_filter, encode_publish,
};
use crate::agent::remote_relays::RemoteRelays;
use crate::agent::{AgentObject, NO_MEMORY, WORK_MEMORY_MAX, is_opened};
use crate::settings::Settings;

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
