//! A deterministic simulation: shards, fast and slow clients, a writer, a failing store and a clock, all from one seed.
//!
//! ```text
//! clients --socket--> shard --batch--> verifier --> shard --commit--> writer --> every shard's inbox
//!    ^                                                                              |
//!    +------------------------ frames, when the client reads -----------------------+
//! ```
//!
//! In the safety phase every step is a random choice: which client sends, which shard does what, how long verification
//! and commits take, when the store fails, which client disconnects, when the whole process crashes. Clients check every frame
//! against the history of what really was stored. So do the consumers of streams, which lag, are evicted and crash.
//! Then comes the liveness phase: faults stop, every client reads, and within a bounded number of rounds every request
//! must be answered and no event missing. At last the idle relay is queried, and its answers must be exactly the naive
//! oracle's.
//!
//! The simulated host keeps the contract of a host: it reads messages only while [`Relay::wants_input`] is true, drains
//! connections only after [`Relay::poll_ready`] named them, and keeps the order of inboxes and of verification.
//!
//! [`simulate_sync`] is another one: two relays whose events are copied over a lossy link. [`simulate_agents`] is a third: agents and their
//! customers beside the shards.
//!
//! [`Relay::wants_input`]: relay_engine::relay::Relay::wants_input
//! [`Relay::poll_ready`]: relay_engine::relay::Relay::poll_ready

mod agents;
mod choices;
mod client;
mod consumer;
mod history;
mod host;
mod idle_queries;
mod messages;
mod pool;
mod sync;

pub use agents::{AgentsReport, Victim, simulate_agents, simulate_agents_crash};
pub use choices::Choices;
pub use sync::{SyncReport, simulate_sync};

use host::Host;
use relay_engine::testing::Rng;

/// What happened in a run, so that tests can check that everything they are about did happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Frames received by clients.
    pub frames: usize,
    /// Events stored.
    pub stored: usize,
    /// Events removed from the store.
    pub removed: usize,
    /// Failed commits.
    pub failed: usize,
    /// Connections closed by either side.
    pub disconnects: usize,
    /// Crashes of the whole process.
    pub crashes: usize,
    /// Times the machine paused the reading of a connection.
    pub pauses: usize,
    /// Times a subscription fell behind because its client read slowly.
    pub lagged: u64,
    /// Times a stream fell behind because its consumer was slow.
    pub streams_lagged: u64,
    /// Failed reads of the store for streams.
    pub stream_errors: u64,
    /// Events that were delivered in several steps.
    pub deferred: u64,
    /// Events delivered again to a consumer of a stream.
    pub redelivered: usize,
    /// Events published by the host itself.
    pub published: usize,
    /// Queries of the idle relay whose answers equal the oracle's.
    pub exact: usize,
}

/// Steps of the safety phase of a seeded run.
const STEPS: u64 = 1_200;
/// Upper bound of steps of a run made from bytes.
const BYTES_STEPS_MAX: u64 = 4_000;

/// Runs the simulation of one seed.
///
/// # Panics
/// If the relay breaks a promise.
pub fn simulate(seed: u64) -> Report {
    let mut rng = Rng::new(seed);
    let setup_seed = rng.bits();
    run(setup_seed, Choices::Seed(rng), STEPS)
}

/// Runs the simulation whose choices are `data`: two bytes seed the configuration, the rest are choices, about three
/// bytes a step.
///
/// # Panics
/// If the relay breaks a promise.
pub fn simulate_bytes(data: &[u8]) {
    let (setup, choices) = data.split_at_checked(2).unwrap_or((&[0, 0], &[]));
    run(u64::from(u16::from_be_bytes([setup[0], setup[1]])), Choices::from_bytes(choices), BYTES_STEPS_MAX);
}

fn run(setup_seed: u64, choices: Choices<'_>, steps_max: u64) -> Report {
    let mut host = Host::new(setup_seed, choices);
    for _ in 0..steps_max {
        if host.choices.is_exhausted() {
            break;
        }
        host.step();
    }
    host.run_until_idle();
    host.check_idle();
    host.check_exact_answers();
    host.report()
}
