//! What is old is forgotten: sessions and the history. Seldom, in steps, and when there is something to do anyway.

use relay_engine::sql::SqlConn;
use relay_engine::types::Now;
use serde::{Deserialize, Serialize};

use super::Agent;
use crate::store;

/// Seconds between two searches for what is old.
const SWEEP_SECONDS: u64 = 3_600;
/// Bytes of jobs that have ended after which it is searched for earlier.
const ENDED_BYTES_MAX: usize = 16 << 20;

/// Sessions that are kept, and their bytes, of all customers together; between two searches there may be more.
const SESSIONS_MAX: u64 = 10_000;
const SESSION_BYTES_MAX: u64 = 256 << 20;

/// When it is done again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Sweep {
    /// The last search, in Unix seconds.
    at: u64,
    /// Whether it has left something.
    #[serde(skip)]
    has_more: bool,
    /// Bytes of jobs that have ended since.
    #[serde(skip)]
    pub(super) ended_bytes: usize,
}

impl Sweep {
    pub(super) const NAME: &'static str = "sweep";
}

impl<C: SqlConn> Agent<C> {
    /// One step, if it is time for it. An error leaves it to the next call.
    pub(super) fn sweep(&mut self, now: Now) {
        let Some(deployed) = &self.deployed else { return };
        let is_due = now.seconds() >= self.sweep.at + SWEEP_SECONDS || now.seconds() < self.sweep.at;
        if !is_due && !self.sweep.has_more && self.sweep.ended_bytes < ENDED_BYTES_MAX {
            return;
        }
        let last_seq = self.jobs.last_seq();
        let Ok(has_more) = store::prune_jobs(&self.conn, &mut self.batch, now.millis(), last_seq) else {
            return;
        };
        let memory = deployed.manifest.memory;
        if memory.sessions {
            store::evict_sessions(&mut self.batch, SESSIONS_MAX, SESSION_BYTES_MAX);
        }
        if is_due {
            if memory.sessions {
                let since = now.seconds().saturating_sub(u64::from(memory.ttl_days) * 86_400);
                store::sweep_sessions(&mut self.batch, since);
            }
            self.prune_payments(now);
            store::prune_purchases(&mut self.batch, now.seconds());
            self.sweep.at = now.seconds();
            store::put_meta(&mut self.batch, Sweep::NAME, &self.sweep);
        }
        (self.sweep.has_more, self.sweep.ended_bytes) = (has_more, 0);
    }
}
