//! A relay's object and the objects of its agents, between which requests travel. Any of them loses its memory when a test
//! says so; what was on its way to or from it is then lost as well.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use relay_agent::exchange::Answers;
use relay_agent::executor::HttpRequest;
use relay_agent::identity;
use relay_agent::machine::{BlobServer, Context, EffectId, RemovalRecord};
use relay_agent::manifest::Manifest;
use relay_agent::nip90;
use relay_agent::router::AgentEntry;
use relay_edge::agent::message::{Delivery, InstanceId, Reply, decode_publish, encode_publish};
use relay_edge::agent::{AgentHost, AgentObject};
use relay_edge::object::{CallId, NextTick, PublicationId};
use relay_edge::settings::Settings;
use relay_engine::testing::signing::Signed;
use relay_engine::types::{Event, EventId, Filter, Now, PubKey};
use relay_engine::wire;

use super::sqlite::Sqlite;
use super::world::{Hibernates, Runtime, agent_secrets};

/// What an agent has asked its runtime for.
pub(super) enum PendingEffect {
    Publish(EffectId, Vec<Event>),
    Query(EffectId, Filter),
    Call(EffectId, HttpRequest),
    Remove(RemovalRecord),
}

#[derive(Clone, Default)]
pub(super) struct FakeAgentHost {
    pub(super) pending_effects: Rc<RefCell<VecDeque<PendingEffect>>>,
    pub(super) alarm: Rc<Cell<Option<Now>>>,
    pub(super) alarms_set: Rc<Cell<u32>>,
    pub(super) cancelled: Rc<RefCell<Vec<EffectId>>>,
    /// Other relays, and what was sent to each.
    pub(super) remote_relays: Rc<RefCell<Vec<(String, EventId)>>>,
    /// Blobs that are to be stored.
    pub(super) stored: Rc<RefCell<Vec<(EffectId, PubKey, Bytes)>>>,
    pub(super) memory_used_bytes: Rc<Cell<u64>>,
}

impl AgentHost for FakeAgentHost {
    fn publish(&self, id: EffectId, events: &[Event]) {
        self.pending_effects.borrow_mut().push_back(PendingEffect::Publish(id, events.to_vec()));
    }

    fn publish_to_remote_relays(&self, events: &[Event], relays: &[String]) {
        for relay in relays {
            self.remote_relays.borrow_mut().extend(events.iter().map(|event| (relay.clone(), event.id)));
        }
    }

    fn call(&self, id: EffectId, request: HttpRequest) {
        self.pending_effects.borrow_mut().push_back(PendingEffect::Call(id, request));
    }

    fn call_model(&self, _: EffectId, _: &str, _: Bytes) {
        panic!("no agent here calls a model");
    }

    fn exchange(&self, _: EffectId, _: &[String], _: Answers, _: &[Event]) {
        panic!("no agent here has a remote signer");
    }

    fn cancel(&self, id: EffectId) {
        self.cancelled.borrow_mut().push(id);
    }

    fn query(&self, id: EffectId, filter: &Filter) {
        self.pending_effects.borrow_mut().push_back(PendingEffect::Query(id, filter.clone()));
    }

    fn store_blob(&self, id: EffectId, owner: PubKey, bytes: Bytes, _: &'static str) {
        self.stored.borrow_mut().push((id, owner, bytes));
    }

    fn read_blob(&self, _: EffectId, _: &str, _: usize) {
        panic!("no agent here reads a blob");
    }

    fn remove(&self, deleted: &RemovalRecord) {
        self.pending_effects.borrow_mut().push_back(PendingEffect::Remove(deleted.clone()));
    }

    fn set_alarm(&self, at: Now) {
        self.alarm.set(Some(at));
        self.alarms_set.set(self.alarms_set.get() + 1);
    }

    fn memory_used_bytes(&self) -> u64 {
        self.memory_used_bytes.get()
    }
}

pub(super) type TestAgent = AgentObject<Sqlite, FakeAgentHost>;

/// Where the object of an agent runs: its storage and host, which outlive its memory.
#[derive(Default)]
pub(super) struct AgentPlace {
    pub(super) store: Option<Sqlite>,
    pub(super) host: FakeAgentHost,
    object: Option<TestAgent>,
    /// Requests that it was sent, alarms included.
    pub(super) requests: u32,
    /// Deliveries are refused while this is set.
    pub(super) is_down: bool,
}

pub(super) struct World {
    pub(super) relay: Runtime,
    pub(super) agents: BTreeMap<PubKey, AgentPlace>,
    /// Requests to agents that nobody waits for any more.
    orphans: VecDeque<(PubKey, Vec<u8>)>,
    /// Answers on their way to the relay.
    replies: VecDeque<(CallId, Option<Vec<u8>>)>,
    /// Requests of agents that the relay has not answered.
    waiting: BTreeMap<PublicationId, (PubKey, EffectId)>,
    /// Calls to the world that are open.
    pub(super) calls: Vec<(PubKey, EffectId, HttpRequest)>,
    opened: u64,
    /// Agents lose their memory when the relay has the next removal record.
    pub(super) is_lost_when_removed: bool,
}

impl World {
    pub(super) fn new(settings: Settings) -> Self {
        World {
            relay: Runtime::new(settings, Hibernates::Never),
            agents: BTreeMap::new(),
            orphans: VecDeque::new(),
            replies: VecDeque::new(),
            waiting: BTreeMap::new(),
            calls: Vec::new(),
            opened: 0,
            is_lost_when_removed: false,
        }
    }

    /// Deploys a manifest, and tells the router.
    pub(super) fn deploy(&mut self, manifest: &str) -> PubKey {
        let mut manifest = Manifest::parse(manifest.as_bytes()).unwrap();
        let owner = PubKey([7; 32]);
        manifest.owner = Some(owner.to_string());
        let keys = identity::keys(&manifest.identity, &manifest.name, &agent_secrets()).unwrap();
        let (pubkey, now) = (keys.pubkey(), self.relay.now);
        let deleted = self.relay.object().removal_record_of(&pubkey).unwrap();
        let entry = self.with_agent(pubkey, |agent| {
            agent.with(now, |agent| {
                deleted.iter().for_each(|deleted| agent.restore(deleted).unwrap());
                agent.deploy(now, &manifest, &owner).unwrap();
                AgentEntry {
                    pubkey,
                    owner,
                    state: agent.state().unwrap(),
                    version: agent.version(),
                    manifest: manifest.clone(),
                    deployed_at: agent.deployed_at(),
                }
            })
        });
        let (outcome, next) = self.relay.object().put_agent(now, entry);
        outcome.unwrap();
        self.relay.next = next;
        self.run();
        pubkey
    }

    pub(super) fn with_agent<T>(&mut self, key: PubKey, work: impl FnOnce(&mut TestAgent) -> T) -> T {
        let now = self.relay.now;
        let place = self.agents.entry(key).or_default();
        if place.object.is_none() {
            self.opened += 1;
            let store = place.store.get_or_insert_with(Sqlite::new).clone();
            let context = Context {
                secrets: Arc::new(agent_secrets()),
                relay_url: Some("wss://relay.test".into()),
                blossom: Some(BlobServer { base_url: "https://relay.test".into(), blob_bytes_max: 1 << 20 }),
                seed: [self.opened as u8; 32],
            };
            let opened = AgentObject::open(now, store, place.host.clone(), context, InstanceId(self.opened));
            place.object = Some(opened.unwrap());
        }
        work(place.object.as_mut().unwrap())
    }

    /// A client publishes an event; the relay has stored it when this returns.
    pub(super) fn publish(&mut self, event: &Signed) {
        let key = match self.relay.sockets.values().find(|socket| socket.closed.get().is_none()) {
            Some(socket) => socket.key,
            None => self.relay.connect().unwrap().key,
        };
        self.relay.text(key, &format!(r#"["EVENT",{}]"#, event.json()));
        while !self.stored().iter().any(|stored| stored.id.to_string() == event.id) {
            assert_eq!(self.relay.next, NextTick::Soon, "{} is stored", event.id);
            self.tick();
        }
    }

    fn tick(&mut self) {
        let now = self.relay.now;
        self.relay.next = self.relay.object().tick(now);
        self.collect_answers();
    }

    /// Outcomes that the relay has for agents.
    fn collect_answers(&mut self) {
        while let Some((id, outcomes)) = self.relay.object().poll_agent_published() {
            let Some((agent, effect)) = self.waiting.remove(&id) else { continue };
            let now = self.relay.now;
            self.with_agent(agent, |agent| agent.published(now, effect, Ok(outcomes)));
        }
    }

    /// Does the next thing that waits, and nothing else. `false`: nothing does.
    pub(super) fn step(&mut self) -> bool {
        let now = self.relay.now;
        if self.relay.next == NextTick::Soon {
            self.tick();
            return true;
        }
        if let Some((agent, body)) = self.orphans.pop_front() {
            self.deliver(agent, &body);
            return true;
        }
        let call = self.relay.host.agent_calls.borrow_mut().pop_front();
        if let Some((id, agent, body)) = call {
            let reply = self.deliver(agent, &body);
            self.replies.push_back((id, reply));
            return true;
        }
        if let Some((id, reply)) = self.replies.pop_front() {
            let reply = reply.map(|body| Reply::decode(&body).unwrap());
            self.relay.next = self.relay.object().agent_answered(now, id, reply);
            self.collect_answers();
            return true;
        }
        let mut pending_effects = self
            .agents
            .iter()
            .map(|(key, place)| (*key, place.host.pending_effects.borrow_mut().pop_front()));
        if let Some((agent, pending_effect)) =
            pending_effects.find_map(|(key, pending_effect)| Some((key, pending_effect?)))
        {
            self.carry_out(agent, pending_effect);
            return true;
        }
        false
    }

    fn deliver(&mut self, agent: PubKey, body: &[u8]) -> Option<Vec<u8>> {
        if self.agents.get(&agent).is_some_and(|place| place.is_down) {
            return None;
        }
        let now = self.relay.now;
        let delivery = Delivery::decode(body).unwrap();
        self.agents.entry(agent).or_default().requests += 1;
        self.with_agent(agent, |agent| agent.deliver(now, delivery)).ok().map(|reply| reply.encode())
    }

    fn carry_out(&mut self, agent: PubKey, pending_effect: PendingEffect) {
        let now = self.relay.now;
        match pending_effect {
            PendingEffect::Publish(effect, events) => {
                let place = self.agents.get_mut(&agent).unwrap();
                let counted = place.object.as_mut().and_then(|agent| agent.take_metrics_delta());
                let body = encode_publish(counted, &events);
                let (counted, events) = decode_publish(&body).unwrap();
                let (id, next) = self.relay.object().publish_for_agent(now, &events, counted.as_ref());
                self.relay.next = next;
                self.waiting.insert(id.unwrap(), (agent, effect));
                self.collect_answers();
            }
            PendingEffect::Query(effect, filter) => {
                let found = self.relay.object().find_for_agent(now, filter);
                self.with_agent(agent, |agent| agent.found(now, effect, found));
            }
            PendingEffect::Call(effect, request) => self.calls.push((agent, effect, request)),
            PendingEffect::Remove(deleted) => {
                let (kept, next) = self.relay.object().remove_agent(now, &deleted);
                self.relay.next = next;
                if std::mem::take(&mut self.is_lost_when_removed) {
                    return self.evict_agents();
                }
                let place = self.agents.get_mut(&agent).unwrap();
                if kept == Ok(true)
                    && place.object.as_ref().is_some_and(|agent| agent.is_removed_by(&deleted))
                {
                    (place.object, place.store) = (None, None);
                    place.host.alarm.set(None);
                }
            }
        }
    }

    /// Does everything that does not wait for a time.
    pub(super) fn run(&mut self) {
        for _ in 0..100_000 {
            if !self.step() {
                return;
            }
        }
        panic!("it does not come to rest");
    }

    /// Time passes: timers and alarms fire.
    pub(super) fn advance(&mut self, seconds: u64) {
        let until = self.relay.now.plus_millis(seconds * 1_000);
        while self.relay.now < until {
            self.run();
            self.relay.now = self.relay.now.plus_millis(500);
            let now = self.relay.now;
            if matches!(self.relay.next, NextTick::After(_)) && self.relay.object.is_some() {
                self.tick();
            }
            if self.relay.host.alarm.get().is_some_and(|at| at <= now) {
                self.relay.host.alarm.set(None);
                self.relay.alarms += 1;
                self.relay.next = self.relay.object().alarm(now);
                self.collect_answers();
            }
            for key in self.agents.keys().copied().collect::<Vec<_>>() {
                let alarm = &self.agents[&key].host.alarm;
                if alarm.get().is_some_and(|at| at <= now) {
                    alarm.set(None);
                    self.agents.entry(key).or_default().requests += 1;
                    self.with_agent(key, |agent| agent.alarm(now));
                }
            }
        }
        self.run();
    }

    /// The relay's object loses its memory, and what it was sent.
    pub(super) fn evict_relay(&mut self) {
        self.relay.evict();
        self.relay.next = NextTick::None;
        self.replies.clear();
        let calls = std::mem::take(&mut *self.relay.host.agent_calls.borrow_mut());
        self.orphans.extend(calls.into_iter().map(|(_, agent, body)| (agent, body)));
        for (_, (agent, effect)) in std::mem::take(&mut self.waiting) {
            let now = self.relay.now;
            if self.agents[&agent].object.is_some() {
                self.with_agent(agent, |agent| agent.published(now, effect, Err("the relay is gone".into())));
            }
        }
    }

    /// The objects of agents lose their memory.
    pub(super) fn evict_agents(&mut self) {
        for place in self.agents.values_mut() {
            place.object = None;
            place.host.pending_effects.borrow_mut().clear();
        }
        self.waiting.clear();
        self.calls.clear();
    }

    /// The events that the relay has stored.
    pub(super) fn stored(&self) -> Vec<Event> {
        let lines = self.relay.store.lines();
        lines.iter().map(|line| wire::parse_event(line).unwrap().to_event()).collect()
    }

    /// The answers to a request in the order of their times: a status of feedback, or `result`, and the content.
    pub(super) fn answers(&self, request: &Signed) -> Vec<(String, String)> {
        let stored = self.stored();
        let mut about: Vec<&Event> = stored
            .iter()
            .filter(|event| event.tags().find(b"e").is_some_and(|id| *id == *request.id.as_bytes()))
            .filter(|event| event.kind == nip90::KIND_FEEDBACK || nip90::is_result(event.kind))
            .collect();
        about.sort_by_key(|event| event.created_at);
        assert!(about.windows(2).all(|pair| pair[0].created_at < pair[1].created_at), "times of a job rise");
        let text = |event: &Event| {
            let json: serde_json::Value = serde_json::from_slice(event.json()).unwrap();
            json["content"].as_str().unwrap().to_owned()
        };
        let status = |event: &Event| match nip90::is_result(event.kind) {
            true => "result".to_owned(),
            false => String::from_utf8(event.tags().find(b"status").unwrap().into_owned()).unwrap(),
        };
        about.into_iter().map(|event| (status(event), text(event))).collect()
    }

    /// How many events of this kind an agent has published.
    pub(super) fn published(&self, agent: &PubKey, kind: u16) -> usize {
        self.stored().iter().filter(|event| event.pubkey == *agent && event.kind == kind).count()
    }
}
