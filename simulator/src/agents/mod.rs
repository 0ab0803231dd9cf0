//! Agents beside a relay's shards and clients, from one seed.
//!
//! ```text
//! customers --socket--> shard --> verifier --> commit --> every shard --stream--> router --delivery--> agents --call--> executors
//!     ^                                                     ^                                            |
//!     +------------------ frames --------------------------+------------------ publish -----------------+
//! ```
//!
//! In the first phase every step is a random choice: a customer sends a job request, sends it again or cancels it, a shard verifies, commits or works,
//! the router is given a batch or a delivery comes through, twice or not at all, an agent's effect is carried out, an executor answers
//! slowly, badly or never, a database fails, time passes. Agents are closed when they are idle, and lose their memory at any step, and so do
//! the router, the relay, and all of them together.
//!
//! Then the faults end, and once nothing more happens: each job that the relay has accepted has been answered exactly once by each agent
//! that it is for, unless it was cancelled, and every customer has been sent every answer that the relay has.

mod agent;
mod check;
mod customer;
mod relay;
mod router;

use std::collections::{BTreeMap, VecDeque};

use relay_agent::job::JobState;
use relay_engine::relay::Ticket;
use relay_engine::testing::Rng;
use relay_engine::types::{Event, EventId, Now, PubKey};

use agent::{Call, Publication, SimulatedAgent};
use customer::Customer;
use relay::SimulatedShards;
use router::SimulatedRouter;

/// What happened in a run, so that tests can check that everything they are about did happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AgentsReport {
    /// Requests that the relay has accepted.
    pub accepted: usize,
    /// Of these, for anybody.
    pub open: usize,
    /// Taken back before they were answered.
    pub cancelled: usize,
    /// Results.
    pub results: usize,
    /// Errors instead of results.
    pub errors: usize,
    /// Calls of executors.
    pub calls: usize,
    /// Calls for jobs that had been called for before.
    pub called_again: usize,
    /// Events that agents were given again.
    pub delivered_again: usize,
    /// Deliveries that did not come through, or were not confirmed.
    pub undelivered: usize,
    /// Agents that lost their memory at work.
    pub agent_crashes: usize,
    /// Agents that were closed because they were idle, and opened again.
    pub hibernations: usize,
    /// Times the router lost its memory.
    pub router_crashes: usize,
    /// Times all shards lost their memory, and the router with them.
    pub relay_crashes: usize,
    /// Commits of the relay that failed.
    pub failed_commits: usize,
    /// Connections that were closed by either side.
    pub disconnects: usize,
    /// Answers that customers were sent.
    pub received: usize,
}

/// Steps of the first phase.
const STEPS: u64 = 900;
/// Rounds within which everything comes to rest once the faults have ended.
const ROUNDS_MAX: usize = 20_000;
/// The second at which a run begins.
const START: u64 = 1_800_000_000;

/// Everything.
struct World {
    rng: Rng,
    now: Now,
    shards: SimulatedShards,
    router: SimulatedRouter,
    agents: BTreeMap<PubKey, SimulatedAgent>,
    customers: Vec<Customer>,
    /// Requests, in the order in which they were made.
    requests: Vec<Event>,
    /// Taken back by their customers; the relay may not have heard of it.
    cancelled: Vec<EventId>,
    /// What agents publish, in the order of their effects.
    publications: VecDeque<Publication>,
    /// What is being published on the first shard: the publication that waits for it, unless it is a heartbeat.
    publishing: BTreeMap<Ticket, Option<u64>>,
    calls: Vec<Call>,
    /// Requests that an executor was called for.
    called: BTreeMap<(PubKey, EventId), usize>,
    /// Nothing fails any more.
    is_settling: bool,
    /// Steps that have done something since the faults ended.
    steps: u64,
    /// Who loses their memory after which of these steps.
    crash: Option<(Victim, u64)>,
    report: AgentsReport,
}

/// Runs the simulation of one seed.
///
/// # Panics
/// If a job is lost, answered twice, or a customer is not sent an answer.
pub fn simulate_agents(seed: u64) -> AgentsReport {
    let mut world = World::new(seed);
    for _ in 0..STEPS {
        world.step();
    }
    world.settle();
    world.check();
    world.report
}

/// Who loses their memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victim {
    /// Every agent.
    Agents,
    /// The router.
    Router,
    /// All shards, and the router beside them.
    Relay,
    /// All of them, as where they are one process.
    Process,
}

impl Victim {
    /// All of them.
    pub const ALL: [Victim; 4] = [Victim::Agents, Victim::Router, Victim::Relay, Victim::Process];
}

/// A few jobs of each sort, during which `victim` loses its memory once, after so many steps; nothing else fails. Returns how many steps
/// there were.
///
/// # Panics
/// As [`simulate_agents`].
pub fn simulate_agents_crash(seed: u64, victim: Victim, step: u64) -> u64 {
    let mut world = World::new(seed);
    world.is_settling = true;
    world.crash = Some((victim, step));
    for _ in 0..3 {
        world.order(0);
    }
    world.order_again(0);
    world.settle();
    world.check();
    world.steps
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let now = Now::from_seconds(START);
        let shards = SimulatedShards::new(&mut rng, now);
        let mut agents = BTreeMap::new();
        for number in 0..2 + rng.below(2) {
            let agent = SimulatedAgent::deploy(now, number);
            agents.insert(agent.pubkey, agent);
        }
        let router = SimulatedRouter::new(now, agents.values());
        let customers = 1 + rng.below(3);
        let mut world = World {
            rng,
            now,
            shards,
            router,
            agents,
            customers: Vec::new(),
            requests: Vec::new(),
            cancelled: Vec::new(),
            publications: VecDeque::new(),
            publishing: BTreeMap::new(),
            calls: Vec::new(),
            called: BTreeMap::new(),
            is_settling: false,
            steps: 0,
            crash: None,
            report: AgentsReport::default(),
        };
        for index in 0..customers as usize {
            let shard = index % world.shards.len();
            let customer = Customer::connect(&mut world.shards, world.now, shard);
            world.customers.push(customer);
        }
        world
    }

    /// Makes one choice and carries it out.
    fn step(&mut self) {
        let (client, shard) = (self.pick(self.customers.len()), self.pick(self.shards.len()));
        match self.rng.below(100) {
            0..6 => self.order(client),
            6 => self.cancel(client),
            7 => self.order_again(client),
            8..16 => drop(self.read(client)),
            16..24 => drop(self.drain(client)),
            24..40 => {
                let choice = self.rng.below(5);
                self.work(shard, choice);
            }
            40..46 => self.commit(),
            46..54 => self.feed(),
            54..62 => self.deliver(),
            62..78 => self.carry_out(),
            78..86 => self.executor(),
            86..91 => self.pass(),
            91 => self.shards.fail_at(1 + self.rng.below(30)),
            92 => {
                let at = 1 + self.rng.below(30);
                match self.rng.below(3) {
                    0 => self.router.sqlite.fail_at(at),
                    _ => self.some_agent().sqlite.fail_at(at),
                }
            }
            93 | 94 => self.crash_agent(),
            96 if self.rng.one_in(2) => self.crash_router(),
            97 if self.rng.one_in(3) => self.crash_relay(),
            98 if self.rng.one_in(4) => self.crash_all(Victim::Process),
            99 if self.rng.one_in(3) => self.disconnect(client),
            _ => self.hibernate(),
        }
    }

    fn pick(&mut self, len: usize) -> usize {
        self.rng.below(len as u64) as usize
    }

    fn one_in(&mut self, times: u64) -> bool {
        !self.is_settling && self.rng.one_in(times)
    }

    fn some_agent(&mut self) -> &mut SimulatedAgent {
        let at = self.pick(self.agents.len());
        self.agents.values_mut().nth(at).expect("there are some")
    }

    /// Time passes for everything.
    fn pass(&mut self) {
        let millis = match self.rng.below(12) {
            0 => 30_000,
            _ => self.rng.below(3_000),
        };
        self.now = self.now.plus_millis(millis);
        self.wake();
    }

    /// Whatever is due happens.
    fn wake(&mut self) {
        self.shards.wake(self.now);
        self.router.wake(self.now);
        self.heartbeats();
        let now = self.now;
        let is_due = |agent: &SimulatedAgent| agent.wakes_at().is_some_and(|at| at <= now);
        let due: Vec<PubKey> =
            self.agents.values().filter(|agent| is_due(agent)).map(|agent| agent.pubkey).collect();
        for key in due {
            self.with_agent(key, |now, agent| agent.handle_timeout(now));
        }
    }

    /// The faults end, and everything goes on until nothing is left to do.
    fn settle(&mut self) {
        self.is_settling = true;
        self.shards.fail_at(0);
        self.router.sqlite.fail_with(None);
        self.agents.values().for_each(|agent| agent.sqlite.fail_with(None));
        // What has failed is tried again, and who has lost their memory looks at what they have.
        self.now = self.now.plus_millis(120_000);
        self.agents.keys().copied().collect::<Vec<_>>().into_iter().for_each(|key| {
            self.with_agent(key, |now, agent| agent.handle_timeout(now));
        });
        for _ in 0..ROUNDS_MAX {
            if self.round() {
                continue;
            }
            // Agents and the router wait for a time, which is not that of the next heartbeat or announcement.
            let soon = self.now.plus_millis(3_600_000);
            let times = self.agents.values().filter_map(SimulatedAgent::works_at);
            let next = times.chain(self.router.works_at()).filter(|at| *at <= soon).min();
            match next {
                Some(at) => self.now = self.now.max(at).plus_millis(1),
                None if self.customers.iter().all(Customer::is_quiet) => return,
                None => {}
            }
            self.wake();
        }
        panic!("it does not come to rest");
    }

    /// Everything that can be done is done once; whether that was anything, or something is on its way.
    fn round(&mut self) -> bool {
        let mut any = false;
        for client in 0..self.customers.len() {
            while self.read(client) {
                any = self.did(true);
            }
            let drained = self.drain(client);
            any |= self.did(drained);
        }
        for shard in 0..self.shards.len() {
            for choice in 0..5 {
                let worked = self.shards.work(self.now, shard, choice);
                any |= self.did(worked);
            }
        }
        let committed = self.shards.commit(self.now);
        any |= self.did(committed);
        let steps: [fn(&mut World); 5] =
            [World::take_published, World::feed, World::deliver, World::carry_out, World::executor];
        for step in steps {
            let before = self.is_at_work();
            step(self);
            any |= self.did(before || self.is_at_work());
        }
        any
    }

    /// Whether anything is on its way.
    fn is_at_work(&self) -> bool {
        !self.router.is_quiet()
            || !self.publications.is_empty()
            || !self.publishing.is_empty()
            || !self.calls.is_empty()
            || !self.agents.values().all(SimulatedAgent::is_quiet)
    }

    /// A step has been taken, which may have done something.
    fn did(&mut self, something: bool) -> bool {
        self.steps += u64::from(something);
        if let Some((victim, _)) = self.crash.filter(|(_, step)| something && *step == self.steps) {
            self.crash = None;
            self.crash_all(victim);
        }
        something
    }

    fn crash_all(&mut self, victim: Victim) {
        match victim {
            Victim::Router => self.crash_router(),
            Victim::Relay => self.crash_relay(),
            Victim::Agents => self.lose_all(),
            Victim::Process => {
                self.crash_relay();
                self.lose_all();
            }
        }
    }

    fn lose_all(&mut self) {
        self.agents.keys().copied().collect::<Vec<_>>().into_iter().for_each(|key| self.lose(key));
    }

    /// The state of a job.
    fn state(&mut self, agent: &PubKey, request: &EventId) -> Option<JobState> {
        let agent = self.agents.get_mut(agent)?;
        agent.job(self.now, request).map(|job| job.state)
    }
}
