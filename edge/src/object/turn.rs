//! A turn: what has gathered is verified in one batch and stored in one transaction, requests take their
//! steps, and everything that came of it goes out.

use relay_engine::relay::commit;
use relay_engine::types::{Event, NO_EXPIRY, Now};

use super::{CountingConn, Host, Next, Object};

/// Milliseconds between looks at slow readers.
const SLOW_LOOK_MS: u64 = 20;

impl<C: CountingConn + 'static, H: Host> Object<C, H> {
    /// Does what there is to do.
    pub fn turn(&mut self, now: Now) -> Next {
        self.numbers.turns += 1;
        self.gathered_bytes = 0;
        self.relay.handle_timeout(now);
        self.look_at_slow(now);
        self.ingest(now);
        let before = self.rows();
        for _ in 0..self.settings.turn_steps_max {
            if !self.relay.work(now) {
                break;
            }
        }
        self.numbers.rows.requests.add(self.rows().since(before));
        self.hand_on();
        self.let_go();
        self.settle(now)
    }

    /// What was accepted here and is stored nowhere has to reach the subscribers of the other shards.
    fn hand_on(&mut self) {
        let events: Vec<Event> = std::iter::from_fn(|| self.relay.poll_relayed()).collect();
        if !events.is_empty() {
            self.host.hand_on(&events);
        }
    }

    /// Verifies and stores until nothing waits: what was deferred behind an event may be another event.
    fn ingest(&mut self, now: Now) {
        while let Some(batch) = self.relay.poll_verify(now, true) {
            let checked = batch.check(&*self.verifier);
            self.relay.handle_verified(now, checked);
            while let Some(waiting) = self.relay.poll_commit() {
                let (before, events) = (self.rows(), waiting.len() as u64);
                let done = commit(self.relay.store(), now, vec![waiting]);
                self.numbers.rows.events.add(self.rows().since(before));
                self.numbers.commits += 1;
                self.numbers.commit_events.record(events);
                self.numbers.commit_errors += u64::from(done.error.is_some());
                let before = self.rows();
                for reply in done.replies {
                    self.relay.handle_committed(now, reply);
                }
                self.relay.handle_live(now, &done.live);
                self.numbers.rows.requests.add(self.rows().since(before));
                let sweeps = done.live.iter().map(|live| live.event.sweep_at());
                if let Some(soonest) = sweeps.min().filter(|at| *at != NO_EXPIRY) {
                    self.want_alarm(now, soonest);
                }
            }
        }
    }

    /// Sends what there is to send, keeps what must survive, and says what is wanted next.
    pub(super) fn settle(&mut self, now: Now) -> Next {
        self.send_all(now);
        self.relay.handle_flushed(now);
        self.save_changed();
        self.feed_consumers(now);
        if self.relay.has_unverified() || self.relay.has_work() {
            return Next::Turn;
        }
        let slow = (!self.slow.is_empty()).then_some(SLOW_LOOK_MS);
        let due = self.relay.poll_timeout().map(|at| at.millis_since(now));
        slow.into_iter().chain(due).chain(self.consumer_retry_ms(now)).min().map_or(Next::Idle, Next::Later)
    }
}
