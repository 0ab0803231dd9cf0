//! The simulator: shards, clients of all speeds, a writer, a failing store and a clock, all from one seed.
//!
//! ```text
//! clients --socket--> shard --batch--> verifier --> shard --commit--> writer --> every shard's inbox
//!    ^                                                                              |
//!    +------------------------ drained when the client likes -----------------------+
//! ```
//!
//! In the safety phase every step is a choice: who speaks, which shard does what, how long verification and
//! commits take, when the store fails, who disconnects, when the whole process dies. Clients hold every frame
//! against the history of what really was stored, and so do the consumers of streams, which lag, sleep and die.
//! Then the liveness phase: faults stop, everybody reads, and within a bounded number of rounds everything that was
//! asked must be answered and nothing missing. Last, questions to the resting relay are answered exactly as the naive
//! oracle does.
//!
//! It keeps the contract of a host: messages are read only while [`Relay::wants_input`] says so, connections are
//! drained only after [`Relay::poll_ready`] named them, inboxes and verification keep their order.
//!
//! [`Relay::wants_input`]: relay_engine::relay::Relay::wants_input
//! [`Relay::poll_ready`]: relay_engine::relay::Relay::poll_ready

mod chance;
mod client;
mod consumer;
mod exact;
mod history;
mod host;
mod pool;
mod speech;

pub use chance::Chance;

use host::Host;
use relay_engine::testing::Rng;

/// What happened, so that a test sees that something did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Frames that clients received.
    pub frames: usize,
    /// Events stored.
    pub stored: usize,
    /// Events taken out of the store again.
    pub removed: usize,
    /// Commits that failed.
    pub failed: usize,
    /// Connections that ended early.
    pub disconnects: usize,
    /// Times the whole process died.
    pub crashes: usize,
    /// Times the host was told to stop reading.
    pub pauses: usize,
    /// Subscriptions that fell behind their reader.
    pub lagged: u64,
    /// Streams that fell behind their consumer.
    pub streams_lagged: u64,
    /// Reads for streams that failed.
    pub stream_errors: u64,
    /// Events that consumers of streams were handed again.
    pub redelivered: usize,
    /// Events that the host published itself.
    pub published: usize,
    /// Subscriptions answered exactly at the end.
    pub exact: usize,
}

/// Steps of a seed's safety phase.
const STEPS: u64 = 1_200;
/// Steps that bytes may take, whatever their number.
const BYTES_STEPS_MAX: u64 = 4_000;

/// Runs the simulation of one seed.
///
/// # Panics
/// If the relay breaks a promise.
pub fn simulate(seed: u64) -> Report {
    let mut rng = Rng::new(seed);
    let world = rng.bits();
    run(world, Chance::Seed(rng), STEPS)
}

/// Runs the simulation whose choices are `data`: two bytes for the world, then about three a step.
///
/// # Panics
/// If the relay breaks a promise.
pub fn simulate_bytes(data: &[u8]) {
    let (world, choices) = data.split_at_checked(2).unwrap_or((&[0, 0], &[]));
    run(u64::from(u16::from_be_bytes([world[0], world[1]])), Chance::of_bytes(choices), BYTES_STEPS_MAX);
}

fn run(world: u64, chance: Chance<'_>, steps_max: u64) -> Report {
    let mut host = Host::new(world, chance);
    for _ in 0..steps_max {
        if host.chance.is_spent() {
            break;
        }
        host.step();
    }
    host.come_to_rest();
    host.check_rest();
    host.ask_exactly();
    host.report()
}
