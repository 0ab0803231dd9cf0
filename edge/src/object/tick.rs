//! A tick, the object's unit of work: the events that have arrived are verified in one batch and stored in one
//! transaction, requests take a few steps, and all resulting output is sent.

use relay_engine::relay::commit;
use relay_engine::types::{Event, NO_EXPIRY, Now};

use super::{Host, NextTick, Object, RowCountingConn};

/// Milliseconds between checks of slow readers.
const SLOW_CHECK_MS: u64 = 20;

impl<C: RowCountingConn + 'static, H: Host> Object<C, H> {
    /// Does one tick.
    pub fn tick(&mut self, now: Now) -> NextTick {
        self.counters.ticks += 1;
        self.unanswered_bytes = 0;
        self.relay.handle_timeout(now);
        self.check_slow_readers(now);
        self.ingest(now);
        self.step_pulls(now);
        let before = self.rows();
        for _ in 0..self.settings.tick_steps_max {
            if !self.relay.work(now) {
                break;
            }
        }
        self.counters.rows.requests.add(self.rows().since(before));
        self.forward_ephemeral();
        self.clear_answered();
        self.flush(now)
    }

    /// Forwards accepted ephemeral events to the other shards, whose subscribers could not read them from a store.
    fn forward_ephemeral(&mut self) {
        let events: Vec<Event> =
            std::iter::from_fn(|| self.relay.poll_forwarded()).map(|live| live.event).collect();
        if !events.is_empty() {
            self.host.forward(&events);
        }
    }

    /// Verifies and stores events until none is left. Committing one may run a deferred message, which may be another
    /// event.
    fn ingest(&mut self, now: Now) {
        while let Some(batch) = self.relay.poll_verify(now, true) {
            let checked = batch.verify(&*self.verifier);
            self.relay.handle_verified(now, checked);
            while let Some(batch) = self.relay.poll_commit() {
                let (before, events) = (self.rows(), batch.len() as u64);
                let done = commit(self.relay.store(), now, vec![batch]);
                self.counters.rows.events.add(self.rows().since(before));
                self.counters.commits += 1;
                self.counters.commit_events.record(events);
                if let Some(error) = done.error {
                    self.counters.commit_errors += 1;
                    self.host.log(&format!("a commit failed: {error}"));
                }
                let before = self.rows();
                for reply in done.replies {
                    self.relay.handle_committed(now, reply);
                }
                self.relay.handle_live(now, &done.live);
                self.counters.rows.requests.add(self.rows().since(before));
                self.schedule_removal(now);
                let sweeps = done.live.iter().map(|live| live.event.sweep_at());
                if let Some(soonest) = sweeps.min().filter(|at| *at != NO_EXPIRY) {
                    self.schedule_alarm(now, soonest);
                }
            }
        }
    }

    /// Sends output, saves changed sessions, and returns what the object needs next.
    pub(super) fn flush(&mut self, now: Now) -> NextTick {
        self.send_all(now);
        self.relay.handle_flushed(now);
        self.save_changed();
        self.save_undelivered();
        self.deliver_batches(now);
        if let Some(error) = self.relay.poll_store_error() {
            self.host.log(&format!("a read of the store failed: {error}"));
        }
        #[cfg(feature = "libsecp256k1")]
        self.run_agents(now);
        if self.relay.has_unverified() || self.relay.has_work() || self.pulls.wants_tick(now) {
            return NextTick::Soon;
        }
        let slow = (!self.slow.is_empty()).then_some(SLOW_CHECK_MS);
        let due = self.relay.poll_timeout().map(|at| at.millis_since(now));
        let soonest =
            slow.into_iter().chain(due).chain(self.consumer_retry_ms(now)).chain(self.pulls.timer_ms(now));
        #[cfg(feature = "libsecp256k1")]
        let soonest = soonest.chain(self.agents.as_ref().and_then(|agents| agents.timer_ms(now)));
        soonest.min().map_or(NextTick::None, NextTick::After)
    }
}
