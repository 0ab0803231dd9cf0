//! The numbers of a serving process: the machine's, one set a shard, and the host's own.

mod render;

use relay_agent::totals::Totals;
use relay_engine::relay::{Histogram, Metrics, TopCosts};
use relay_engine::store::{Stats, StoreError};
use relay_engine::types::PubKey;

use crate::blossom::BlossomSnapshot;

pub(crate) use render::{Labels, Out, render, render_collector};

const MICROS: &[u64] =
    &[50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 500_000, 1_000_000];
const SIZES: &[u64] = &[1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1_024, 4_096];

/// What the host counts for one shard.
#[derive(Clone, Debug)]
pub(crate) struct HostMetrics {
    /// Microseconds a verification batch took.
    pub(crate) verify_us: Histogram,
    /// Writes to sockets.
    pub(crate) writes: u64,
    /// Bytes written to sockets, framing included.
    pub(crate) bytes_written: u64,
    /// Bytes read from sockets, framing included.
    pub(crate) bytes_read: u64,
    /// Connections closed because they took nothing for too long.
    pub(crate) closed_stalled: u64,
    /// Connections closed because the client did not answer pings.
    pub(crate) closed_unresponsive: u64,
    /// Connections the machine asked to close.
    pub(crate) closed_by_relay: u64,
    /// Plain HTTP requests.
    pub(crate) http_requests: u64,
}

impl Default for HostMetrics {
    fn default() -> Self {
        HostMetrics {
            verify_us: Histogram::new(MICROS),
            writes: 0,
            bytes_written: 0,
            bytes_read: 0,
            closed_stalled: 0,
            closed_unresponsive: 0,
            closed_by_relay: 0,
            http_requests: 0,
        }
    }
}

/// What the writer counts.
#[derive(Clone, Debug)]
pub(crate) struct WriterMetrics {
    /// Events a commit.
    pub(crate) batch_events: Histogram,
    /// Microseconds a commit took, its sync included.
    pub(crate) commit_us: Histogram,
    /// Events given to commits.
    pub(crate) events_offered: u64,
    /// Events stored by commits.
    pub(crate) events_written: u64,
    /// Events in the last commit.
    pub(crate) last_batch_events: u64,
    /// Commits with a failure of the store.
    pub(crate) errors: u64,
    /// Events swept because they had expired.
    pub(crate) events_expired: u64,
    /// Events removed by `store.retention` and `store.retention_events_max`.
    pub(crate) events_removed_by_retention: u64,
}

impl Default for WriterMetrics {
    fn default() -> Self {
        WriterMetrics {
            batch_events: Histogram::new(SIZES),
            commit_us: Histogram::new(MICROS),
            events_offered: 0,
            events_written: 0,
            last_batch_events: 0,
            errors: 0,
            events_expired: 0,
            events_removed_by_retention: 0,
        }
    }
}

/// A snapshot of one shard's metrics.
#[derive(Clone, Debug)]
pub(crate) struct ShardSnapshot {
    pub(crate) shard: usize,
    pub(crate) relay: Metrics,
    pub(crate) costliest: TopCosts,
    pub(crate) host: HostMetrics,
    /// Sockets, those that speak plain HTTP included.
    pub(crate) sockets: u64,
    /// What is stored, which is the same for all: the first shard reports it.
    pub(crate) store: Option<Result<Stats, StoreError>>,
    /// Of the store too.
    pub(crate) maintenance_failures: u64,
}

/// A snapshot of what the agents of this process have counted.
#[derive(Clone, Debug)]
pub(crate) struct AgentsSnapshot {
    pub(crate) totals: Totals,
    /// Those that have ended the most jobs, and how many.
    pub(crate) busiest: Vec<(PubKey, u64)>,
    /// How many are in each state.
    pub(crate) by_state: [(&'static str, u64); 3],
    /// How many are open.
    pub(crate) open: u64,
}

/// A snapshot of the process's metrics.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    pub(crate) shards: Vec<ShardSnapshot>,
    pub(crate) writer: WriterMetrics,
    pub(crate) store: Option<Stats>,
    /// `None` if agents are disabled.
    pub(crate) agents: Option<AgentsSnapshot>,
    /// `None` if blobs are not served.
    pub(crate) blossom: Option<BlossomSnapshot>,
    /// Sockets refused before they had a shard.
    pub(crate) sockets_refused: u64,
    /// Connections refused because their address had too many.
    pub(crate) refused_by_address: u64,
    pub(crate) connections_of_busiest_address: u64,
    /// Whether addresses, authors and agents are named.
    pub(crate) names_costliest: bool,
    pub(crate) uptime_seconds: u64,
    pub(crate) resident_bytes: Option<u64>,
}

/// Resident memory of this process, where the system reports it.
pub(crate) fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}
