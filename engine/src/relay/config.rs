//! The configuration of a shard, and what the host knows of a client.

use crate::policy::Policy;
use crate::types::{ClientAddress, Limits};

/// The rules of one relay, the same for all its shards.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// Limits.
    pub limits: Limits,
    /// Admission and reading policy.
    pub policy: Policy,
    /// The public URL, `wss://...`, that AUTH events and requests to vanish must name. Without it, AUTH is checked against
    /// the Host header of the connection, which proves less, and only requests to vanish from `ALL_RELAYS` are accepted.
    pub url: Option<String>,
    /// What it costs the host to send a frame, in units of cost (about microseconds), beside reading and
    /// queueing the event. Stored events that are sent are charged for it; 0 for a host that writes many frames at once.
    pub frame_cost: usize,
}

/// What the host knows of a client.
#[derive(Clone, Debug, Default)]
pub struct ClientInfo {
    /// The Host header of its handshake.
    pub host_header: Option<String>,
    /// Its address, behind proxies that the host trusts. `None` for embedded clients and those that the operator exempts:
    /// no limits by address hold for them.
    pub address: Option<ClientAddress>,
}
