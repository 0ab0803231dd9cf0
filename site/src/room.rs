//! The parts of the house that have something to serve or to tell.
//!
//! A new one is a module with a [`Room`] and one entry in [`ROOMS`]. Its endpoints name variants of
//! [`Route`](crate::Route), so a host that does not answer one of them does not compile.

use crate::nip11::About;
use crate::relay;
use crate::route::Endpoint;

/// What one part adds to both hosts.
#[derive(Debug)]
pub struct Room {
    /// What it answers, in order: of several endpoints for one path, the first that fits a request takes it.
    pub endpoints: &'static [Endpoint],
    /// The NIPs it serves under these settings, in any order.
    pub nips: fn(&About<'_>) -> Vec<u16>,
    /// Its keys in the configuration, at the top of the native server's file and of the Worker's `RELAY_CONFIG`.
    pub settings: &'static [&'static str],
    /// Its section of the page, as HTML.
    pub section: fn(&About<'_>) -> String,
}

/// All parts.
pub const ROOMS: &[Room] = &[relay::ROOM];
