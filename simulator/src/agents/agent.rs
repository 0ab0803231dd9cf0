//! Agents, their effects, and the executors that they call.

use std::collections::VecDeque;
use std::sync::Arc;

use relay_agent::executor::{HttpError, HttpEvent};
use relay_agent::job::JobState;
use relay_agent::machine::{Agent, Context, Effect, EffectId, JobRecord, Published};
use relay_agent::manifest::Manifest;
use relay_agent::testing::{Customer, Sqlite, calling_executor};
use relay_engine::relay::PublishOutcome;
use relay_engine::types::{Event, EventId, Now, PubKey};
use serde_json::json;

use super::World;
use super::customer::KIND;
use super::relay::URL;

/// An agent, open or closed, and its database.
pub(super) struct SimulatedAgent {
    pub(super) pubkey: PubKey,
    pub(super) sqlite: Sqlite,
    agent: Option<Agent<Sqlite>>,
    /// When it wants to be woken up, as far as its host knows.
    alarm: Option<Now>,
    openings: u8,
    effects: VecDeque<Effect>,
}

/// Events that an agent wants to be published, one after the other.
pub(super) struct Publication {
    number: u64,
    agent: PubKey,
    effect: EffectId,
    left: VecDeque<Event>,
    outcomes: Vec<Published>,
    is_under_way: bool,
}

/// An open call of an executor.
pub(super) struct Call {
    agent: PubKey,
    effect: EffectId,
}

/// The secrets of all agents.
pub(super) fn secrets(name: &str) -> Option<String> {
    (name == "AGENT_MASTER_SECRET").then(|| "5a".repeat(32))
}

fn context(seed: u8) -> Context {
    Context { secrets: Arc::new(secrets), relay_url: Some(URL.to_owned()), blossom: None, seed: [seed; 32] }
}

fn manifest(number: u64) -> Manifest {
    let json = json!({
        "name": format!("agent {number}"),
        "handlers": [{"kind": KIND, "executor": "echo", "config": {}}],
        "limits": {
            "concurrency": 2, "queue": 10_000, "per_customer": 10_000, "per_customer_per_min": 10_000,
            "timeout_s": 100, "attempts": 1_000
        }
    });
    serde_json::from_value(json).expect("a manifest")
}

impl SimulatedAgent {
    /// A new agent.
    pub(super) fn deploy(now: Now, number: u64) -> Self {
        let sqlite = Sqlite::new();
        let mut agent =
            Agent::open_with_executors(now, sqlite.clone(), context(number as u8), calling_executor)
                .expect("it opens");
        agent.deploy(now, &manifest(number), &Customer::new(1_000_000).pubkey()).expect("deployed");
        let pubkey = agent.pubkey().expect("it is deployed");
        let mut own = SimulatedAgent {
            pubkey,
            sqlite,
            agent: Some(agent),
            alarm: None,
            openings: 0,
            effects: VecDeque::new(),
        };
        own.poll();
        own
    }

    /// The machine, if it is open.
    pub(super) fn open(&self) -> Option<&Agent<Sqlite>> {
        self.agent.as_ref()
    }

    /// The machine, which is opened if it is not.
    fn opened(&mut self, now: Now) -> &mut Agent<Sqlite> {
        if self.agent.is_none() {
            self.openings = self.openings.wrapping_add(1);
            self.sqlite.fail_with(None);
            let opened = Agent::open_with_executors(
                now,
                self.sqlite.clone(),
                context(self.openings),
                calling_executor,
            );
            self.agent = Some(opened.expect("it opens"));
        }
        self.agent.as_mut().expect("it has been opened")
    }

    /// Takes over its effects and its next time; the texts for which it calls executors.
    fn poll(&mut self) -> Vec<String> {
        let mut called = Vec::new();
        if let Some(agent) = &mut self.agent {
            while let Some(effect) = agent.poll_effect() {
                if let Effect::Http { request, .. } = &effect {
                    let text = String::from_utf8_lossy(&request.body);
                    called.push(text.lines().next().unwrap_or_default().to_owned());
                }
                self.effects.push_back(effect);
            }
            self.alarm = agent.poll_timeout();
        }
        called
    }

    /// When it is woken up.
    pub(super) fn wakes_at(&self) -> Option<Now> {
        self.alarm
    }

    /// When it goes on with its jobs.
    pub(super) fn works_at(&self) -> Option<Now> {
        self.alarm
    }

    /// Whether no effect of it waits.
    pub(super) fn is_quiet(&self) -> bool {
        self.effects.is_empty()
    }

    /// A job.
    pub(super) fn job(&mut self, now: Now, request: &EventId) -> Option<JobRecord> {
        self.sqlite.fail_with(None);
        self.opened(now).job(request).expect("it can be read")
    }
}

impl World {
    /// Does something with an agent, which is opened for it.
    pub(super) fn with_agent<T>(
        &mut self,
        key: PubKey,
        work: impl FnOnce(Now, &mut Agent<Sqlite>) -> T,
    ) -> T {
        let now = self.now;
        let agent = self.agents.get_mut(&key).expect("an agent");
        let done = work(now, agent.opened(now));
        for text in agent.poll() {
            self.check_call(key, &text);
        }
        done
    }

    /// An agent loses its memory: its effects are lost, its calls have nobody to answer to.
    pub(super) fn crash_agent(&mut self) {
        let key = self.some_agent().pubkey;
        if self.agents[&key].open().is_some_and(|agent| !agent.is_idle()) {
            self.report.agent_crashes += 1;
        }
        self.lose(key);
    }

    pub(super) fn lose(&mut self, key: PubKey) {
        let now = self.now;
        let agent = self.agents.get_mut(&key).expect("an agent");
        agent.agent = None;
        agent.effects.clear();
        // Its host wakes it up after a while.
        agent.alarm = Some(now.plus_millis(30_000));
        self.publications.retain(|publication| publication.agent != key);
        self.calls.retain(|call| call.agent != key);
    }

    /// Agents that are idle are closed.
    pub(super) fn hibernate(&mut self) {
        for agent in self.agents.values_mut() {
            if agent.effects.is_empty() && agent.open().is_some_and(Agent::is_idle) {
                agent.agent = None;
                self.report.hibernations += 1;
            }
        }
    }

    /// Carries out one effect, or what follows from one.
    pub(super) fn carry_out(&mut self) {
        self.publish_next();
        let waiting: Vec<PubKey> = self
            .agents
            .values()
            .filter(|agent| !agent.effects.is_empty())
            .map(|agent| agent.pubkey)
            .collect();
        if waiting.is_empty() {
            return;
        }
        let key = *self.rng.pick(&waiting);
        let agent = self.agents.get_mut(&key).expect("an agent");
        let Some(effect) = agent.effects.pop_front() else { return };
        match effect {
            Effect::Publish { id, events, .. } => {
                let number = self.publications.back().map_or(0, |last| last.number + 1);
                let (left, outcomes) = (events.into(), Vec::new());
                let publication =
                    Publication { number, agent: key, effect: id, left, outcomes, is_under_way: false };
                self.publications.push_back(publication);
            }
            Effect::Query { id, filter } => {
                let found = match self.one_in(6) {
                    true => Err("the store cannot be read".to_owned()),
                    false => Ok(self.shards.query(self.now, &filter)),
                };
                self.with_agent(key, |now, agent| agent.handle_events(now, id, found));
            }
            Effect::Http { id, .. } => self.calls.push(Call { agent: key, effect: id }),
            Effect::Cancel { id } => self.calls.retain(|call| (call.agent, call.effect) != (key, id)),
            Effect::Send { .. } => {}
            other => panic!("{other:?}"),
        }
    }

    /// A call is for a job that is stored as running, and there is no other for it.
    fn check_call(&mut self, key: PubKey, text: &str) {
        let number: usize = text.strip_prefix("job ").and_then(|n| n.parse().ok()).expect("a job of ours");
        let request = self.requests[number].id;
        assert_eq!(self.state(&key, &request), Some(JobState::Running), "a call for {text}");
        self.report.calls += 1;
        let calls = self.called.entry((key, request)).or_default();
        self.report.called_again += usize::from(*calls > 0);
        *calls += 1;
    }

    /// Begins to publish the next event of a publication, or tells its agent what has come of all.
    fn publish_next(&mut self) {
        if self.publications.is_empty() {
            return;
        }
        let at = self.pick(self.publications.len());
        let publication = &mut self.publications[at];
        if publication.is_under_way {
            return;
        }
        let has_failed = matches!(publication.outcomes.last(), Some(Published::Failed(_)));
        if !has_failed && let Some(event) = publication.left.pop_front() {
            publication.is_under_way = true;
            let number = publication.number;
            let ticket = self.shards.publish(self.now, &event);
            self.publishing.insert(ticket, Some(number));
            return;
        }
        let Some(publication) = self.publications.remove(at) else { return };
        self.tell(publication);
    }

    /// Tells an agent what has come of its events; of those after one that has failed nothing has.
    fn tell(&mut self, publication: Publication) {
        let Publication { agent, effect, left, mut outcomes, .. } = publication;
        outcomes.extend(left.iter().map(|_| Published::Failed("not tried".to_owned())));
        self.with_agent(agent, |now, agent| agent.handle_published(now, effect, &outcomes));
    }

    /// What has come of events that were being published.
    pub(super) fn take_published(&mut self) {
        while let Some((ticket, outcome)) = self.shards.poll_published() {
            let Some(Some(number)) = self.publishing.remove(&ticket) else { continue };
            let mut waiting = self.publications.iter_mut();
            let Some(publication) = waiting.find(|publication| publication.number == number) else {
                continue;
            };
            publication.is_under_way = false;
            publication.outcomes.push(match outcome {
                PublishOutcome::Refused(why) => Published::Refused(why),
                PublishOutcome::Failed(why) => Published::Failed(why),
                _ => Published::Accepted,
            });
        }
    }

    /// The relay is gone, and whatever was being published may be stored or not.
    pub(super) fn fail_publications(&mut self) {
        for mut publication in std::mem::take(&mut self.publications) {
            if publication.is_under_way {
                publication.outcomes.push(Published::Failed("the relay is gone".to_owned()));
            }
            self.tell(publication);
        }
    }

    /// Something comes of a call, or nothing yet.
    pub(super) fn executor(&mut self) {
        if self.calls.is_empty() {
            return;
        }
        let at = self.pick(self.calls.len());
        let Call { agent, effect } = self.calls[at];
        let choice = if self.is_settling { 7 } else { self.rng.below(8) };
        let events = match choice {
            0 => vec![HttpEvent::Head(206, Vec::new()), HttpEvent::Chunk("piece ".into())],
            1 => return,
            2 => vec![HttpEvent::Failed(HttpError::Connection("reset".to_owned()))],
            3 => vec![HttpEvent::Head(*self.rng.pick(&[400, 503]), Vec::new()), HttpEvent::End],
            _ => vec![HttpEvent::Head(200, Vec::new()), HttpEvent::Chunk("done".into()), HttpEvent::End],
        };
        if choice > 0 {
            self.calls.swap_remove(at);
        }
        for event in events {
            self.with_agent(agent, |now, agent| agent.handle_http(now, effect, event));
        }
    }
}
