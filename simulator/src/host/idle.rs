//! The liveness phase: faults stop, and the relay must answer everything and become idle.

use super::Host;
use crate::history::has_pending_removals;

/// Rounds within which a relay without faults must become idle.
const ROUNDS_MAX: usize = 20_000;

impl Host<'_> {
    /// Stops all faults and lets every client read until nothing is left to do.
    ///
    /// # Panics
    /// If that takes more than [`ROUNDS_MAX`] rounds.
    pub(crate) fn run_until_idle(&mut self) {
        self.store.fail_at(0);
        // What failed is retried after a delay.
        self.tick(2_000);
        for _ in 0..ROUNDS_MAX {
            let mut progress = false;
            self.step += 1;
            for client in 0..self.clients.len() {
                while self.read(client) {
                    progress = true;
                }
                progress |= self.drain(client, usize::MAX);
            }
            for shard in 0..self.shards.len() {
                progress |= self.close_batch(shard, true);
                progress |= self.check_batch(shard);
                progress |= self.apply_verdicts(shard);
                progress |= self.collect_commit(shard);
                progress |= self.deliver_message(shard);
                progress |= self.work(shard);
                let (consumer, relay) = (&mut self.consumers[shard], &mut self.shards[shard].relay);
                consumer.open(relay);
                progress |= consumer.receive(relay, usize::MAX);
                consumer.confirm(relay);
                progress |= relay.has_work();
            }
            progress |= self.commit();
            progress |= self.remove_pending();
            progress |= self.clients.iter().any(|client| client.ready);
            if !progress {
                return;
            }
        }
        panic!("the relay does not become idle");
    }

    /// Checks that every request has been answered and nothing is missing.
    ///
    /// # Panics
    /// If that is not so.
    pub(crate) fn check_idle(&mut self) {
        for client in &self.clients {
            assert!(client.socket.is_empty(), "a connection was paused and never resumed");
            client.check_complete(&self.truth());
        }
        for id in &self.accepted {
            let ephemeral = self.ephemeral.contains_key(id);
            assert!(
                ephemeral || self.history.entries_of(*id).next().is_some(),
                "{id} was accepted but is neither stored nor ephemeral"
            );
        }
        self.history.committed(&self.store, &[], true);
        assert!(!has_pending_removals(&self.store), "events pending removal are removed");
        assert!(self.published.is_empty(), "no outcome for {:?}", self.published);
        for consumer in &self.consumers {
            consumer.check(&self.history, self.now.seconds());
        }
        for client in &mut self.clients {
            client.idle = true;
        }
    }
}
