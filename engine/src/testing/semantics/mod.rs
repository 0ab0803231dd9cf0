//! What the relay means, as cases that see only what a client sees.
//!
//! A case opens connections to a [`World`], talks NIP-01 and judges the answers. It knows nothing of how the
//! world is made, so one list of cases holds every host against the same rules: the pure machine
//! ([`MachineWorld`]), the native server over WebSocket, a relay in a Worker. Nothing here sleeps: that a
//! frame does *not* come is shown by a later one that does.
//!
//! ```
//! use relay_engine::testing::semantics::{MachineWorld, Tuning, cases};
//!
//! let case = cases().into_iter().find(|case| case.name == "queries: an empty relay").unwrap();
//! let told = case.run(&mut |config| Box::new(MachineWorld::new(config.clone(), Tuning::default())));
//! assert_eq!(told, Ok(()));
//! ```

mod addresses;
mod auth;
mod conn;
mod counts;
mod deletions;
mod expiry;
mod forms;
mod frame;
mod frames;
mod limits;
mod live;
mod machine_world;
mod oracle;
mod order;
mod paging;
mod privacy;
mod protected;
mod published;
mod queries;
mod refusals;
mod replacing;
mod slow;
mod stage;
mod vanish;
mod work;

use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};

pub use frame::Frame;
pub use machine_world::{MachineWorld, Tuning};

use crate::relay::{Config, PublishOutcome};
use crate::testing::signing::Signed;
use crate::types::Timestamp;
use stage::Stage;

/// A relay to hold against the cases, empty when it is made, under the configuration it was made for.
pub trait World {
    /// A new connection.
    fn connect(&mut self) -> Box<dyn Client>;

    /// A new connection of a client at this IPv4 or IPv6 address. `None` if this world has clients of one place only.
    fn connect_from(&mut self, _address: IpAddr) -> Option<Box<dyn Client>> {
        None
    }

    /// The second it is for the relay.
    fn now(&self) -> Timestamp;

    /// Lets at least `seconds` pass. False if this world cannot: the case leaves out what needs it.
    fn advance(&mut self, seconds: u64) -> bool;

    /// Whether time stands still but for [`World::advance`], so that a boundary can be hit exactly.
    fn holds_its_clock(&self) -> bool {
        false
    }

    /// What a client connected to, host and port, as AUTH events name it.
    fn host(&self) -> String;

    /// Publishes an event as the host itself does. `None` if this world cannot.
    fn publish(&mut self, _event: &Signed) -> Option<PublishOutcome> {
        None
    }

    /// Takes all room for new events away, or gives it back. False if this world cannot.
    fn fill_disk(&mut self, _full: bool) -> bool {
        false
    }
}

/// One connection. Dropping it disconnects.
pub trait Client {
    /// Sends a text message.
    fn send(&mut self, text: &str);

    /// Sends messages in one breath: if possible, the relay gets them all before it can answer any.
    fn send_all(&mut self, texts: &[String]) {
        texts.iter().for_each(|text| self.send(text));
    }

    /// Sends a binary message.
    fn send_binary(&mut self, bytes: &[u8]);

    /// The next text message, or `None` if none comes. What is not received waits at the relay, but for
    /// what sockets hold; a client that does not receive is a slow reader.
    fn recv(&mut self) -> Option<String>;

    /// The code the relay closed this connection with, once all messages before it have been received.
    fn closed(&mut self) -> Option<u16>;
}

/// Makes an empty world that runs under a configuration.
pub type Factory<'a> = dyn FnMut(&Config) -> Box<dyn World> + 'a;

/// One rule and the talk that tests it.
pub struct Case {
    /// Its room and what must be true.
    pub name: &'static str,
    /// Changes the default configuration, with NIP-67 hints switched on, to the one the case needs.
    pub config: fn(&mut Config),
    play: fn(&mut Stage<'_>),
}

impl Case {
    /// Plays the case in a world of its own.
    ///
    /// # Errors
    /// What was wrong, followed by the last frames of the talk.
    pub fn run(&self, make: &mut Factory<'_>) -> Result<(), String> {
        let mut config = Config::default();
        // Every answer shows then that its hint is right; `frames` looks at the default.
        config.policy.eose_hints = true;
        (self.config)(&mut config);
        assert_eq!(config.limits.check(), Ok(()), "a configuration that hosts would refuse");
        let mut world = make(&config);
        let mut stage = Stage::new(&mut *world, config.policy.guarded_kinds);
        let talk = stage.talk();
        catch_unwind(AssertUnwindSafe(|| (self.play)(&mut stage))).map_err(|panic| {
            let words = panic.downcast_ref::<String>().map(String::as_str);
            let words = words.or(panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without words");
            format!("«{}»: {words}\n{}", self.name, talk.last_lines())
        })
    }
}

/// Plays every case whose name contains `only`, and tells all that failed, each with its talk.
///
/// # Errors
/// The failures, one behind the other.
pub fn run_all(make: &mut Factory<'_>, only: &str) -> Result<usize, String> {
    let chosen: Vec<Case> = cases().into_iter().filter(|case| case.name.contains(only)).collect();
    let failed: Vec<String> = chosen.iter().filter_map(|case| case.run(make).err()).collect();
    if failed.is_empty() {
        return Ok(chosen.len());
    }
    Err(format!("{} of {} cases failed\n\n{}", failed.len(), chosen.len(), failed.join("\n\n")))
}

/// All cases.
pub fn cases() -> Vec<Case> {
    let rooms = [
        queries::cases(),
        paging::cases(),
        refusals::cases(),
        live::cases(),
        counts::cases(),
        forms::cases(),
        replacing::cases(),
        deletions::cases(),
        expiry::cases(),
        vanish::cases(),
        protected::cases(),
        published::cases(),
        privacy::cases(),
        auth::cases(),
        work::cases(),
        order::cases(),
        frames::cases(),
        limits::cases(),
        addresses::cases(),
        slow::cases(),
    ];
    rooms.into_iter().flatten().collect()
}

/// A case under the default configuration, but for the hints.
fn case(name: &'static str, play: fn(&mut Stage<'_>)) -> Case {
    Case { name, config: |_| {}, play }
}

/// A case under a configuration of its own.
fn case_with(name: &'static str, config: fn(&mut Config), play: fn(&mut Stage<'_>)) -> Case {
    Case { name, config, play }
}
