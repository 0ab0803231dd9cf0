//! Following other relays live: what is published there is stored here, and what is stored here is sent there.
//!
//! | module | role |
//! |---|---|
//! | `config` | the configuration of `relay router` |
//! | `live` | a state machine for one live connection, without the socket: messages in, messages and work for the store out |
//! | `memory` | which events another relay has, so that they are not sent back to it |
//! | `position`, `catch_up` | how far a relay was followed; comparing what was missed |
//! | `connection`, `follower`, `router` | one connection; one relay; all of them, by a configuration that may change |
//! | `hub`, `local_relay` | ephemeral events; the relay that serves the folder |
//! | `counts`, `metrics`, `notice` | what was done, as metrics, and what operators are told |

mod catch_up;
mod config;
mod connection;
mod counts;
mod follower;
mod hub;
mod live;
mod local_relay;
mod memory;
mod metrics;
mod notice;
mod position;
mod router;
#[cfg(test)]
mod tests;

pub(crate) use self::config::{Direction, RouterConfig};
pub(crate) use self::notice::{Output, What};
pub(crate) use self::router::Router;

pub(super) use self::memory::PeerMemory;
