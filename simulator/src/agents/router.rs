//! The router, which the relay's stream feeds, and deliveries on their way to agents.

use std::sync::Arc;

use relay_agent::api;
use relay_agent::router::{Delivery, Router};
use relay_agent::testing::Sqlite;
use relay_engine::relay::StreamId;
use relay_engine::types::{Now, Seq};

use super::World;
use super::agent::{SimulatedAgent, secrets};

/// Events of a batch, at most.
const BATCH_MAX: usize = 8;

pub(super) struct SimulatedRouter {
    pub(super) sqlite: Sqlite,
    router: Router<Sqlite>,
    stream: Option<StreamId>,
    /// Deliveries under way.
    open: Vec<Delivery>,
    /// Deliveries that the router does not know of any more.
    orphans: Vec<Delivery>,
    /// Deliveries that came through, for some of which come twice.
    done: Vec<Delivery>,
}

impl SimulatedRouter {
    /// A router that knows these agents.
    pub(super) fn new<'a>(now: Now, agents: impl Iterator<Item = &'a SimulatedAgent>) -> Self {
        let sqlite = Sqlite::new();
        let mut router = open(&sqlite);
        // As hosts do before they add the first agent.
        router.accept(now, Vec::new(), Seq(0));
        for agent in agents {
            let entry = api::entry(agent.open().expect("it has just been deployed")).expect("a manifest");
            router.put(now, entry).expect("stored");
        }
        SimulatedRouter {
            sqlite,
            router,
            stream: None,
            open: Vec::new(),
            orphans: Vec::new(),
            done: Vec::new(),
        }
    }

    pub(super) fn wake(&mut self, now: Now) {
        if self.router.poll_timeout().is_some_and(|at| at <= now) {
            self.router.handle_timeout(now);
        }
    }

    /// When it goes on with what it has to deliver. (Its heartbeats go on for ever.)
    pub(super) fn works_at(&self) -> Option<Now> {
        let is_at_work = !self.router.is_ready() || self.sqlite.count("agent_router_outbox") > 0;
        self.router.poll_timeout().filter(|_| is_at_work)
    }

    /// Whether nothing is on its way.
    pub(super) fn is_quiet(&self) -> bool {
        self.open.is_empty() && self.orphans.is_empty()
    }
}

fn open(sqlite: &Sqlite) -> Router<Sqlite> {
    sqlite.fail_with(None);
    Router::open(sqlite.clone(), Arc::new(secrets)).expect("it opens")
}

impl World {
    /// The router is given what the stream has.
    pub(super) fn feed(&mut self) {
        let SimulatedRouter { router, stream, .. } = &mut self.router;
        let relay = &mut self.shards.shards[0].relay;
        if !router.is_ready() {
            return;
        }
        let Some(open) = *stream else {
            let filters = router.filters().expect("there are agents");
            let position = router.position().expect("it can be read");
            *stream = relay.open_stream(&filters, position).ok();
            return;
        };
        let mut events = Vec::new();
        while events.len() < BATCH_MAX
            && let Some((seq, event)) = relay.poll_stream(open)
        {
            assert!(seq.is_some(), "no job is ephemeral");
            events.push(event);
        }
        let position = relay.stream_position(open).expect("the stream is open");
        let is_new = router.position().expect("it can be read").is_none_or(|known| position > known);
        if is_new || !events.is_empty() {
            router.accept(self.now, events, position);
        }
    }

    /// A delivery begins, comes through, comes through twice, or does not.
    pub(super) fn deliver(&mut self) {
        while let Some(delivery) = self.router.router.poll_delivery() {
            self.router.open.push(delivery);
        }
        assert!(self.router.router.take_dropped().is_empty(), "nothing is dropped of so few");
        // Those that nobody waits for come through, too.
        if !self.router.orphans.is_empty() && (self.is_settling || self.rng.one_in(3)) {
            let at = self.pick(self.router.orphans.len());
            let orphan = self.router.orphans.swap_remove(at);
            self.give(&orphan);
        }
        if !self.router.done.is_empty() && self.one_in(4) {
            let at = self.pick(self.router.done.len());
            let again = self.router.done[at].clone();
            self.report.delivered_again += again.events.len();
            self.give(&again);
        }
        if self.router.open.is_empty() {
            return;
        }
        let at = self.pick(self.router.open.len());
        let delivery = self.router.open.swap_remove(at);
        let mut is_accepted = !self.one_in(6) && self.give(&delivery);
        // It has come through, and the answer has not.
        is_accepted &= !self.one_in(8);
        self.report.undelivered += usize::from(!is_accepted);
        let id = delivery.id;
        if is_accepted {
            self.router.done.push(delivery);
        }
        self.router.router.handle_delivered(self.now, id, is_accepted);
    }

    /// Whether an agent has taken a delivery.
    fn give(&mut self, delivery: &Delivery) -> bool {
        self.with_agent(delivery.agent, |now, agent| agent.deliver(now, &delivery.events).is_ok())
    }

    /// Heartbeats of all agents.
    pub(super) fn heartbeats(&mut self) {
        for event in self.router.router.poll_heartbeats(self.now) {
            let ticket = self.shards.publish(self.now, &event);
            self.publishing.insert(ticket, None);
        }
    }

    /// The router loses its memory, and the deliveries under way may come through or not.
    pub(super) fn crash_router(&mut self) {
        self.report.router_crashes += 1;
        if let Some(stream) = self.router.stream.take() {
            self.shards.shards[0].relay.close_stream(stream);
        }
        self.reopen_router();
    }

    fn reopen_router(&mut self) {
        let lost = std::mem::take(&mut self.router.open);
        self.router.orphans.extend(lost);
        self.router.router = open(&self.router.sqlite);
    }

    /// All shards lose their memory, and the router beside them.
    pub(super) fn crash_relay(&mut self) {
        self.report.relay_crashes += 1;
        self.router.stream = None;
        self.shards.crash();
        self.reopen_router();
        self.publishing.clear();
        self.fail_publications();
        for client in 0..self.customers.len() {
            self.reconnect(client);
        }
    }
}
