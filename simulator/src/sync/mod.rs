//! Two relays whose events are copied over a lossy link, from one seed.
//!
//! ```text
//! store, machine (relay 0) <-- clients, other processes, clock        --> store, machine (relay 1)
//!        session of relay 0, with the store of relay 0 --- link --- machine of relay 1, and the other way round
//! ```
//!
//! In the first phase, sessions run in either direction while events are published, replaced, deleted, expire and vanish on both
//! sides; messages take their time, connections are cut with what is under way, relays restart and sessions are killed. Then the
//! faults and changes end, and sessions from relay 0, in both directions, must make both sides equal: until one has nothing to
//! do, and once more after an operator has removed events from relay 1.

mod check;
mod connection;
mod relay;
mod world;

use std::sync::Arc;
use std::time::Duration;

use relay_sync::ranges::Scope;
use relay_sync::session::{End, Plan, Progress, Support};

use world::World;

/// What happened in a run, so that tests can check that everything they are about did happen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SyncReport {
    /// Connections that were opened.
    pub connections: usize,
    /// Of these, cut with what was under way, or stalled until the session gave up.
    pub cut: usize,
    /// Restarts of relays.
    pub restarts: usize,
    /// Sessions that were killed, with what they had not stored.
    pub killed: usize,
    /// Messages that arrived, in both directions.
    pub messages: usize,
    /// Messages of NIP-77 that were answered.
    pub rounds: usize,
    /// Pages that were read where there was no NIP-77, or a set was too large.
    pub pages: usize,
    /// Events that sessions stored and sent.
    pub copied: usize,
    /// Events that sessions brought and the rules of the relay refused.
    pub refused: usize,
    /// Changes of the stores while sessions ran.
    pub changes: usize,
    /// Events that were stored and were in no store any more at the end.
    pub gone: usize,
    /// Events that only one side had at the end, because the rules of the other refuse them.
    pub refused_in_one: usize,
    /// Sessions of the last phase that copied something.
    pub sessions_to_agree: usize,
}

/// Connections of the first phase.
const CONNECTIONS: u64 = 8;
/// Sessions of the last phase: a deletion that arrives makes room for the version that the deleted event had replaced, and so on.
const SESSIONS_MAX: usize = 7;
/// Connections of one session of the last phase, in which a relay may still refuse for the moment.
const CONNECTIONS_MAX: usize = 20;

/// A session from one relay to the other: what is to be done, and what is left of it.
struct Client {
    /// The relay whose store it works for.
    home: usize,
    plan: Arc<Plan>,
    progress: Progress,
}

impl Client {
    fn new(home: usize, filter: &str, down: bool, up: bool) -> Self {
        let scope = Scope::new(filter, None, None).expect("a filter");
        let progress = Progress::new(scope.range());
        let timeout = Duration::from_secs(30);
        let plan = Plan { scope, down, up, dry_run: false, timeout, has_key: false };
        Client { home, plan: Arc::new(plan), progress }
    }

    /// Begins anew.
    fn reset(&mut self) {
        self.progress = Progress::new(self.plan.scope.range());
    }
}

/// Runs the simulation of one seed.
///
/// # Panics
/// If the relays do not come to have the same events, or an event is lost.
pub fn simulate_sync(seed: u64) -> SyncReport {
    let mut world = World::new(seed);
    let mut clients: [Client; 2] = std::array::from_fn(|home| {
        let filter = *world.rng.pick(&["{}", "{}", r#"{"kinds":[1,3,5]}"#, r#"{"since":1600000000}"#]);
        let (down, up) = *world.rng.pick(&[(true, true), (true, true), (true, false), (false, true)]);
        Client::new(home, filter, down, up)
    });
    for _ in 0..1 + world.rng.below(CONNECTIONS) {
        let client = &mut clients[world.rng.below(2) as usize];
        let end = connection::run(&mut world, client);
        assert!(!matches!(end, Some(End::Failed(_))), "{end:?}");
        if end.is_none() || end == Some(End::Done) {
            world.count(&client.progress);
            client.reset();
        }
        (0..world.rng.below(4)).for_each(|_| world.change());
    }
    world.heal();
    let mut client = Client::new(0, "{}", true, true);
    agree(&mut world, &mut client);
    // Relay 1 keeps the sets of these sessions; what an operator removes is in none of them afterwards.
    world.remove_some(1);
    agree(&mut world, &mut client);
    // Whoever reads pages is sent events; whoever reconciles asks for what differs.
    let (counts, support) = (client.progress.counts, client.progress.negentropy);
    let is_exact = support == Support::Yes && counts.pages == 0;
    assert!(!is_exact || world.asked == 0 || world.refused_here() > 0, "{} ids for nothing", world.asked);
    world.check_converged();
    world.report
}

/// Sessions until one has nothing to copy.
fn agree(world: &mut World, client: &mut Client) {
    for _ in 0..SESSIONS_MAX {
        if finish(world, client) == 0 {
            return;
        }
        world.report.sessions_to_agree += 1;
    }
    panic!("sessions copy without end: {:?}", client.progress.counts);
}

/// Connects until everything is done: how many events were stored and sent.
fn finish(world: &mut World, client: &mut Client) -> u64 {
    client.reset();
    let mut why = None;
    for _ in 0..CONNECTIONS_MAX {
        match connection::run(world, client) {
            Some(End::Done) => {
                world.count(&client.progress);
                let counts = client.progress.counts;
                return counts.outcomes.stored + counts.sent;
            }
            Some(End::Retry(reason)) => why = Some(reason),
            end => panic!("{end:?}"),
        }
    }
    panic!("a session without faults comes to no end: {why:?}");
}
