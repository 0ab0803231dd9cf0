//! Customers, a relay that fails, slow executors, a disk that fails, and a process that dies at any moment, from one seed.
//!
//! At the end everything works again, and then each request that names the agent has one final answer or has been taken back,
//! times rise within a job, and nothing follows an answer. On the way, no call is made for a job that is not stored as running.

use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;

use bytes::Bytes;
use relay_agent::cipher::Cipher;
use relay_agent::executor::{HttpError, HttpEvent, HttpRequest};
use relay_agent::job::JobState;
use relay_agent::machine::{AgentState, Effect, EffectId, Published};
use relay_agent::manifest::Manifest;
use relay_agent::testing::{BLOSSOM_URL, Customer, Request};
use relay_engine::sql::StoreError;
use relay_engine::testing::Rng;
use relay_engine::types::{Event, EventId};
use serde_json::json;

use crate::world::{World, manifest, owner};

const STEPS: usize = 400;
const SEEDS: u64 = 60;

/// More than an event holds.
fn large() -> Bytes {
    static LARGE: LazyLock<Bytes> = LazyLock::new(|| "x".repeat(131_073).into());
    LARGE.clone()
}

struct Simulation {
    world: World,
    rng: Rng,
    seed: u64,
    /// What the router has not got rid of.
    undelivered: Vec<Event>,
    requests: Vec<Event>,
    cancelled: HashSet<EventId>,
    /// Requests by the text that their executor is sent.
    jobs: HashMap<String, EventId>,
    calls: Vec<(EffectId, HttpRequest)>,
    effects: Vec<Effect>,
    /// Blobs that are being stored.
    storing: Vec<(EffectId, Result<String, String>)>,
    /// Results that are blobs.
    blobs: usize,
}

fn deployed(about: &str) -> Manifest {
    manifest(|json| {
        json["about"] = json!(about);
        json["limits"] = json!({
            "concurrency": 3, "queue": 10_000, "per_customer": 10_000, "per_customer_per_min": 10_000,
            "timeout_s": 100, "attempts": 1_000, "output_bytes": 1_000_000
        });
    })
}

impl Simulation {
    fn new(seed: u64) -> Self {
        Simulation {
            world: World::calling(&deployed("first")),
            rng: Rng::new(seed),
            seed,
            undelivered: Vec::new(),
            requests: Vec::new(),
            cancelled: HashSet::new(),
            jobs: HashMap::new(),
            calls: Vec::new(),
            effects: Vec::new(),
            storing: Vec::new(),
            blobs: 0,
        }
    }

    fn ask(&mut self) {
        let number = self.requests.len();
        // Each by another customer: one is not told of many errors a minute.
        let customer = Customer::new(1 + number as u64);
        let agent = self.world.pubkey();
        let text = format!("job {number} of seed {}", self.seed);
        let mut request = Request::new(5050, self.world.now.seconds()).text(&text);
        if !self.rng.one_in(6) {
            request = request.to(&agent);
        }
        let mut hidden = false;
        match self.rng.below(8) {
            0 => request = request.tag(&["i", "x", "data"]),
            1 if !self.world.host.stored.is_empty() => {
                let stored = &self.world.host.stored;
                let input = stored[self.rng.below(stored.len() as u64) as usize].id.to_string();
                request = request.tag(&["i", &input, "event"]);
            }
            2 if number > 0 => {
                let input = self.rng.pick(&self.requests).id.to_string();
                request = request.tag(&["i", &input, "job"]);
            }
            3 => hidden = true,
            _ => {}
        }
        if hidden {
            request = request.to(&agent).encrypted(Cipher::Nip44, &agent);
        }
        let event = customer.sign(&request);
        self.jobs.insert(text, event.id);
        self.requests.push(event.clone());
        self.undelivered.push(event);
    }

    fn cancel(&mut self) {
        if self.requests.is_empty() {
            return;
        }
        let number = self.rng.below(self.requests.len() as u64) as usize;
        let id = self.requests[number].id;
        let customer = Customer::new(1 + number as u64);
        self.cancelled.insert(id);
        let cancel = customer.cancel(&[id], self.world.now.seconds());
        // It may be delivered before the request.
        let at = self.rng.below(self.undelivered.len() as u64 + 1) as usize;
        self.undelivered.insert(at, cancel);
    }

    fn deliver(&mut self) {
        let count = (1 + self.rng.below(4) as usize).min(self.undelivered.len());
        let mut events: Vec<Event> = self.undelivered[..count].to_vec();
        if !self.requests.is_empty() && self.rng.one_in(3) {
            events.push(self.rng.pick(&self.requests).clone());
        }
        for event in &events {
            if !self.world.host.stored.iter().any(|known| known.id == event.id) {
                self.world.host.store(event.clone());
            }
        }
        if self.world.agent.deliver(self.world.now, &events).is_ok() {
            self.undelivered.drain(..count);
        }
        self.poll();
    }

    /// Takes over the agent's effects, and checks them.
    fn poll(&mut self) {
        while let Some(effect) = self.world.agent.poll_effect() {
            if let Effect::Http { request, .. } = &effect {
                let text = String::from_utf8_lossy(&request.body).into_owned();
                let job = text.lines().next().and_then(|line| self.jobs.get(line)).expect("a job");
                // Whatever state the disk is in, a test can read it.
                self.world.sqlite.fail_with(None);
                let state = self.world.agent.job(job).unwrap().expect("stored").state;
                assert_eq!(state, JobState::Running, "seed {}: a call for {text}", self.seed);
            }
            self.effects.push(effect);
        }
    }

    /// Carries out one effect; the process may die before the agent hears of it.
    fn carry_out(&mut self) {
        if self.effects.is_empty() {
            return;
        }
        let at = self.rng.below(self.effects.len() as u64) as usize;
        match self.effects.remove(at) {
            Effect::Http { id, request } => self.calls.push((id, request)),
            Effect::Cancel { id } => self.calls.retain(|(open, _)| *open != id),
            Effect::Publish { id, events, relays } => {
                for _ in 0..events.len() {
                    let outcome = match self.rng.one_in(8) {
                        true => Published::Failed("busy".to_owned()),
                        false => Published::Accepted,
                    };
                    self.world.host.outcomes.push_back(outcome);
                }
                let outcomes = self.world.host.publish(&events, &relays);
                if self.rng.one_in(12) {
                    return self.crash();
                }
                self.world.agent.handle_published(self.world.now, id, &outcomes);
            }
            Effect::StoreBlob { id, owner, bytes, mime } => {
                self.world.host.refuses_blobs = self.rng.one_in(6).then(|| "full".to_owned());
                let stored = self.world.host.put_blob(owner, bytes, mime);
                if self.rng.one_in(6) {
                    return self.crash();
                }
                self.storing.push((id, stored));
            }
            effect @ (Effect::Send { .. }
            | Effect::Query { .. }
            | Effect::Ai { .. }
            | Effect::Exchange { .. }
            | Effect::ReadBlob { .. }) => {
                self.world.host.is_blind = self.rng.one_in(6);
                self.world.host.carry_out(self.world.now, &mut self.world.agent, effect);
            }
        }
        self.poll();
    }

    /// Something comes of a call.
    fn call(&mut self) {
        if self.calls.is_empty() {
            return;
        }
        let at = self.rng.below(self.calls.len() as u64) as usize;
        let id = self.calls[at].0;
        let agent = &mut self.world.agent;
        let now = self.world.now;
        match self.rng.below(8) {
            0 => agent.handle_http(now, id, HttpEvent::Head(206, Vec::new())),
            1 => agent.handle_http(now, id, HttpEvent::Chunk("piece ".into())),
            2 => agent.handle_http(now, id, HttpEvent::Chunk(large())),
            3 => {
                self.calls.remove(at);
                agent.handle_http(now, id, HttpEvent::Failed(HttpError::Connection("reset".to_owned())));
            }
            4 => {
                self.calls.remove(at);
                agent.handle_http(now, id, HttpEvent::Head(*self.rng.pick(&[400, 503]), Vec::new()));
                agent.handle_http(now, id, HttpEvent::End);
            }
            _ => {
                self.calls.remove(at);
                if self.rng.one_in(3) {
                    agent.handle_http(now, id, HttpEvent::Chunk(large()));
                }
                agent.handle_http(now, id, HttpEvent::End);
            }
        }
        self.poll();
    }

    /// A blob has been stored, or not. Some hosts say so twice.
    fn stored(&mut self) {
        if self.storing.is_empty() {
            return;
        }
        let at = self.rng.below(self.storing.len() as u64) as usize;
        let (id, stored) = self.storing.remove(at);
        self.world.agent.handle_stored(self.world.now, id, stored.clone());
        if self.rng.one_in(3) {
            self.world.agent.handle_stored(self.world.now, id, stored);
        }
        self.poll();
    }

    fn pass(&mut self) {
        self.world.now = self.world.now.plus_millis(self.rng.below(5_000));
        if self.world.agent.poll_timeout().is_some_and(|at| at <= self.world.now) {
            self.world.agent.handle_timeout(self.world.now);
        }
        self.poll();
    }

    fn crash(&mut self) {
        self.effects.clear();
        self.calls.clear();
        self.storing.clear();
        self.world.sqlite.fail_with(None);
        self.world.crash();
        self.poll();
    }

    fn step(&mut self) {
        match self.rng.below(40) {
            0..=7 => self.ask(),
            8 => self.cancel(),
            9..=16 => self.deliver(),
            17..=26 => self.carry_out(),
            27..=31 => self.call(),
            32 => (0..4).for_each(|_| self.stored()),
            33..=35 => self.pass(),
            36 => self.crash(),
            37 => self.world.sqlite.fail_at(1 + self.rng.below(30)),
            38 => self.world.sqlite.fail_with(Some(StoreError::Full("the disk".to_owned()))),
            _ => {
                self.world.sqlite.fail_with(None);
                let state = *self.rng.pick(&[AgentState::Paused, AgentState::Active, AgentState::Active]);
                let about = *self.rng.pick(&["first", "second"]);
                let _ = self.world.agent.set_state(self.world.now, state);
                let _ = self.world.agent.deploy(self.world.now, &deployed(about), &owner());
                self.poll();
            }
        }
    }

    /// Everything works again.
    fn finish(&mut self) {
        self.world.sqlite.fail_with(None);
        self.world.host.is_blind = false;
        self.world.host.refuses_blobs = None;
        self.world.agent.handle_timeout(self.world.now.plus_millis(60_000));
        self.world.agent.set_state(self.world.now, AgentState::Active).expect("stored");
        while !self.undelivered.is_empty() {
            self.deliver();
        }
        for _ in 0..4_000 {
            self.world.host.outcomes.clear();
            for effect in std::mem::take(&mut self.effects) {
                self.world.host.carry_out(self.world.now, &mut self.world.agent, effect);
            }
            for (id, stored) in std::mem::take(&mut self.storing) {
                self.world.agent.handle_stored(self.world.now, id, stored);
            }
            self.calls.append(&mut self.world.host.calls);
            for (id, _) in std::mem::take(&mut self.calls) {
                self.world.agent.handle_http(self.world.now, id, HttpEvent::Head(200, Vec::new()));
                if self.rng.one_in(4) {
                    self.world.agent.handle_http(self.world.now, id, HttpEvent::Chunk(large()));
                }
                self.world.agent.handle_http(self.world.now, id, HttpEvent::End);
            }
            self.poll();
            if !self.effects.is_empty() {
                continue;
            }
            match self.world.agent.poll_timeout() {
                Some(at) => {
                    self.world.now = self.world.now.max(at);
                    self.world.agent.handle_timeout(self.world.now);
                    self.poll();
                }
                None => return,
            }
        }
        panic!("seed {}: it does not come to rest", self.seed);
    }

    fn check(&mut self) -> usize {
        assert!(self.world.agent.is_idle(), "seed {}", self.seed);
        let agent = self.world.pubkey();
        let mut results = 0;
        for request in &self.requests {
            let seed = self.seed;
            let is_addressed = relay_agent::nip90::named_keys(request).contains(&agent);
            let job = self.world.agent.job(&request.id).unwrap();
            let answers = self.world.host.answers_to(&request.id);
            let statuses: Vec<&str> = answers.iter().map(|(status, _)| status.as_str()).collect();
            let Some(job) = job else {
                assert!(!is_addressed && statuses.is_empty(), "seed {seed}: {request:?} {statuses:?}");
                continue;
            };
            assert!(job.state.is_final(), "seed {seed}: {:?} {request:?}", job.state);
            assert!(
                answers.is_sorted_by(|(_, a), (_, b)| a.created_at < b.created_at),
                "seed {seed}: {answers:?}"
            );
            // Encrypted feedback does not tell its status; their number does.
            let is_encrypted = statuses.contains(&"encrypted");
            let of = |wanted: &str| statuses.iter().filter(|status| **status == wanted).count();
            match job.state {
                JobState::Done => {
                    results += 1;
                    let content = answers.last().expect("a result").1.view().raw_content().to_vec();
                    if content.starts_with(BLOSSOM_URL.as_bytes()) {
                        let name = String::from_utf8(content).unwrap();
                        let name = name[BLOSSOM_URL.len() + 1..].trim_end_matches(".txt").to_owned();
                        let blob = self.world.host.blobs.get(&name).expect("its blob");
                        assert!(blob.owner == agent && blob.bytes.len() >= large().len(), "seed {seed}");
                        self.blobs += 1;
                    } else {
                        assert!(content.len() < large().len(), "seed {seed}: {} bytes", content.len());
                    }
                    assert_eq!(of("result"), 1, "seed {seed}: {statuses:?}");
                    assert_eq!(statuses.last(), Some(&"result"), "seed {seed}: {statuses:?}");
                    assert_eq!(of("error"), 0, "seed {seed}: {statuses:?}");
                }
                JobState::Cancelled => {
                    assert!(self.cancelled.contains(&request.id), "seed {seed}: {request:?}");
                    assert_eq!((of("result"), of("error")), (0, 0), "seed {seed}: {statuses:?}");
                }
                _ if !is_encrypted => {
                    assert_eq!((of("result"), of("error")), (0, 1), "seed {seed}: {statuses:?}");
                    assert_eq!(statuses.last(), Some(&"error"), "seed {seed}: {statuses:?}");
                }
                _ => assert_eq!(of("result"), 0, "seed {seed}: {statuses:?}"),
            }
            assert!(of("processing") <= 1, "seed {seed}: {statuses:?}");
        }
        results
    }
}

#[test]
fn whatever_fails_each_request_is_answered_once() {
    let (mut results, mut blobs) = (0, 0);
    for seed in 1..=SEEDS {
        let mut simulation = Simulation::new(seed);
        for _ in 0..STEPS {
            simulation.step();
        }
        simulation.finish();
        results += simulation.check();
        blobs += simulation.blobs;
    }
    assert!(results > 20 * SEEDS as usize, "{results} results");
    assert!(blobs > SEEDS as usize, "{blobs} blobs");
}

/// One job of each sort, and a crash before and after each effect.
#[test]
fn a_crash_at_each_effect_loses_and_repeats_nothing() {
    let scenario = |crash_at: Option<(usize, bool)>| {
        let mut world = World::calling(&deployed("first"));
        let note = Customer::new(7).sign(&Request::new(1, world.now.seconds()));
        world.host.store(note.clone());
        let plain = Customer::new(1).sign(&world.request().text("plain"));
        let fetching = Customer::new(1).sign(&world.request().tag(&["i", &note.id.to_string(), "event"]));
        let chained = Customer::new(1).sign(&world.request().tag(&["i", &plain.id.to_string(), "job"]));
        let large_one = Customer::new(1).sign(&world.request().text("large"));
        let requests = [plain, fetching, chained, large_one];
        requests.iter().for_each(|request| world.host.store(request.clone()));
        world.agent.deliver(world.now, &requests).unwrap();
        let mut effects = 0;
        for _ in 0..100 {
            while let Some(effect) = world.agent.poll_effect() {
                effects += 1;
                if crash_at == Some((effects, false)) {
                    world.crash();
                    continue;
                }
                if crash_at == Some((effects, true)) {
                    // It is carried out, and nobody hears of it.
                    match effect {
                        Effect::Publish { events, relays, .. } => {
                            world.host.publish(&events, &relays);
                        }
                        Effect::StoreBlob { owner, bytes, mime, .. } => {
                            world.host.put_blob(owner, bytes, mime).unwrap();
                        }
                        _ => {}
                    }
                    world.crash();
                    continue;
                }
                world.host.carry_out(world.now, &mut world.agent, effect);
            }
            match world.host.calls.is_empty() {
                true => world.now = world.now.plus_millis(1_000),
                false => {
                    let (id, request) = world.host.calls.remove(0);
                    let result = if request.body == "large" { large() } else { "done".into() };
                    world.agent.handle_http(world.now, id, HttpEvent::Head(200, Vec::new()));
                    world.agent.handle_http(world.now, id, HttpEvent::Chunk(result));
                    world.agent.handle_http(world.now, id, HttpEvent::End);
                }
            }
            world.agent.handle_timeout(world.now);
        }
        for request in &requests {
            assert_eq!(world.statuses(&request.id), ["processing", "result"], "{crash_at:?}");
        }
        let (_, url) = world.last(&Customer::new(1), &requests[3].id);
        assert!(url.starts_with(BLOSSOM_URL), "{crash_at:?}: {url}");
        assert_eq!(world.host.blobs.len(), 1, "the same bytes are the same blob");
        assert!(world.agent.is_idle());
        effects
    };
    let effects = scenario(None);
    assert!(effects > 10, "{effects}");
    for at in 1..=effects {
        scenario(Some((at, false)));
        scenario(Some((at, true)));
    }
}
