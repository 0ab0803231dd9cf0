//! The semantics suite: the rules of the relay as cases that see only what a client sees.
//!
//! A case opens connections to a [`RelayUnderTest`], sends NIP-01 messages and checks the answers. It does not know what the relay
//! is, so the same cases test the pure machine ([`MachineWorld`]), the native server over WebSockets, and the Worker.
//! Nothing here sleeps: that a frame is *not* sent is shown by a later frame that is.
//!
//! ```
//! use relay_engine::testing::semantics::{MachineWorld, Tuning, cases};
//!
//! let case = cases().into_iter().find(|case| case.name == "queries: an empty relay").unwrap();
//! let result = case.run(&mut |config| Box::new(MachineWorld::new(config.clone(), Tuning::default())));
//! assert_eq!(result, Ok(()));
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
mod members;
mod oracle;
mod order;
mod paging;
mod privacy;
mod protected;
mod published;
mod queries;
mod reconciliation;
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

/// A relay under test, empty at first, with the configuration of a case.
pub trait RelayUnderTest {
    /// A new connection.
    fn connect(&mut self) -> Box<dyn Client>;

    /// A new connection of a client at this IPv4 or IPv6 address. `None` if all clients of this relay have one address.
    fn connect_from(&mut self, _address: IpAddr) -> Option<Box<dyn Client>> {
        None
    }

    /// The relay's time.
    fn now(&self) -> Timestamp;

    /// Advances the time by at least `seconds`. False if this relay cannot: the case skips what needs it.
    fn advance(&mut self, seconds: u64) -> bool;

    /// Whether only [`RelayUnderTest::advance`] moves the clock, so that a boundary can be tested exactly.
    fn holds_its_clock(&self) -> bool {
        false
    }

    /// Host and port to which clients connect, as AUTH events must name them.
    fn host(&self) -> String;

    /// Publishes an event as the host itself. `None` if this relay cannot.
    fn publish(&mut self, _event: &Signed) -> Option<PublishOutcome> {
        None
    }

    /// Makes the disk full, or frees it. False if this relay cannot.
    fn fill_disk(&mut self, _full: bool) -> bool {
        false
    }
}

/// One connection. Dropping it disconnects.
pub trait Client {
    /// Sends a text message.
    fn send(&mut self, text: &str);

    /// Sends messages at once: if possible, the relay receives all before it answers any.
    fn send_all(&mut self, texts: &[String]) {
        texts.iter().for_each(|text| self.send(text));
    }

    /// Sends a binary message.
    fn send_binary(&mut self, bytes: &[u8]);

    /// The next text message, or `None` if there is none. Messages that are not received wait at the relay, except those in
    /// the buffers of sockets; a client that does not receive is a slow reader.
    fn recv(&mut self) -> Option<String>;

    /// The code with which the relay has closed the connection, once all earlier messages have been received.
    fn closed(&mut self) -> Option<u16>;
}

/// Makes an empty relay that runs under a configuration.
pub type Factory<'a> = dyn FnMut(&Config) -> Box<dyn RelayUnderTest> + 'a;

/// A rule and the exchange of messages that tests it.
pub struct Case {
    /// Its area and the rule.
    pub name: &'static str,
    /// Changes the default configuration, with NIP-67 hints on, to that of the case.
    pub config: fn(&mut Config),
    play: fn(&mut Stage<'_>),
}

impl Case {
    /// Runs the case on a relay of its own.
    ///
    /// # Errors
    /// What was wrong, followed by the last messages.
    pub fn run(&self, make: &mut Factory<'_>) -> Result<(), String> {
        let mut config = Config::default();
        // With hints on, every answer's hint is checked; the area `frames` tests the default.
        config.policy.eose_hints = true;
        (self.config)(&mut config);
        assert_eq!(config.limits.check(), Ok(()), "a configuration that hosts would refuse");
        let mut relay = make(&config);
        let mut stage = Stage::new(&mut *relay, config.policy.guarded_kinds);
        let transcript = stage.transcript();
        catch_unwind(AssertUnwindSafe(|| (self.play)(&mut stage))).map_err(|panic| {
            let message = panic.downcast_ref::<String>().map(String::as_str);
            let message =
                message.or(panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without a message");
            format!("«{}»: {message}\n{}", self.name, transcript.last_lines())
        })
    }
}

/// Runs every case whose name contains `only`.
///
/// # Errors
/// All failures, each with its last messages.
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
    let areas = [
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
        reconciliation::cases(),
        limits::cases(),
        members::cases(),
        addresses::cases(),
        slow::cases(),
    ];
    areas.into_iter().flatten().collect()
}

/// A case with the default configuration, and hints on.
fn case(name: &'static str, play: fn(&mut Stage<'_>)) -> Case {
    Case { name, config: |_| {}, play }
}

/// A case with a configuration of its own.
fn case_with(name: &'static str, config: fn(&mut Config), play: fn(&mut Stage<'_>)) -> Case {
    Case { name, config, play }
}
