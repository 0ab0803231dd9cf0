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
    /// The public URL, `wss://...`, that AUTH events and requests to vanish must name. Without it AUTH goes by each
    /// connection's own Host header, which proves less, and of the requests to vanish only those to all
    /// relays count.
    pub url: Option<String>,
    /// What it costs the host to send a frame, in units of cost (about microseconds), beside reading and
    /// queueing the event. Stored events that are sent are charged for it; 0 for a host that writes many frames at once.
    pub frame_cost: usize,
}

/// What the host knows of a client.
#[derive(Clone, Debug, Default)]
pub struct Peer {
    /// The Host header of its handshake.
    pub host: Option<String>,
    /// Where it comes from, behind proxies that the host trusts. Clients of no address share nothing with others: an
    /// embedded one, or one that the operator exempts.
    pub address: Option<ClientAddress>,
}
