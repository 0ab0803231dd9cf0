//! The shards of a relay, with their verifier and their one writer. Signatures are real, because agents make them.

use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;

use relay_engine::policy::Policy;
use relay_engine::relay::{
    ClientInfo, Commit, CommitReply, Config, ConnId, LiveEvent, PublishOutcome, Relay, Ticket, VerifyBatch,
    VerifyResult, commit,
};
use relay_engine::store::MemoryBackend;
use relay_engine::testing::{FailingBackend, Rng};
use relay_engine::types::{Class, Event, Filter, Limits, Now};
use relay_engine::verify::Libsecp256k1;

use crate::history::{Store, stored};

/// The relay's own URL.
pub(super) const URL: &str = "wss://relay.example";
/// Most events that a query of an agent returns.
const QUERY_MAX: usize = 16;

enum ShardMessage {
    Reply(CommitReply),
    Live(Vec<LiveEvent>),
}

pub(super) struct Shard {
    pub(super) relay: Relay<Store>,
    verifying: VecDeque<VerifyBatch>,
    checked: VecDeque<VerifyResult>,
    inbox: VecDeque<ShardMessage>,
}

pub(super) struct SimulatedShards {
    config: Arc<Config>,
    store: Store,
    pub(super) shards: Vec<Shard>,
    commits: VecDeque<(usize, Commit)>,
    boots: u8,
    pub(super) failed: usize,
}

impl SimulatedShards {
    pub(super) fn new(rng: &mut Rng, now: Now) -> Self {
        let limits = Limits {
            step_cost_max: 1 + rng.below(12) as usize,
            verify_batch_max: 1 + rng.below(6) as usize,
            verify_wait_ms_max: rng.below(20),
            outbox_pause_bytes: *rng.pick(&[2_000, 1 << 20]),
            ..Limits::default()
        };
        let config = Config { limits, policy: Policy::default(), url: Some(URL.to_owned()), frame_cost: 0 };
        let mut shards = SimulatedShards {
            config: Arc::new(config),
            store: Rc::new(FailingBackend::new(MemoryBackend::default())),
            shards: Vec::new(),
            commits: VecDeque::new(),
            boots: 0,
            failed: 0,
        };
        shards.boot(1 + rng.below(3) as usize);
        shards.wake(now);
        shards
    }

    pub(super) fn len(&self) -> usize {
        self.shards.len()
    }

    fn boot(&mut self, count: usize) {
        self.boots = self.boots.wrapping_add(1);
        self.commits.clear();
        self.shards.clear();
        for shard in 0..count {
            let seed = [self.boots.wrapping_mul(16).wrapping_add(shard as u8); 32];
            let (config, store) = (Arc::clone(&self.config), Rc::clone(&self.store));
            let relay = Relay::new(config, store, Arc::new(Libsecp256k1), seed);
            let (verifying, checked, inbox) = (VecDeque::new(), VecDeque::new(), VecDeque::new());
            self.shards.push(Shard { relay, verifying, checked, inbox });
        }
    }

    /// All shards lose their memory; what was committed stays.
    pub(super) fn crash(&mut self) {
        self.boot(self.shards.len());
    }

    /// The `n`th operation of the store from here on fails; 0 fails none.
    pub(super) fn fail_at(&self, n: u64) {
        self.store.fail_at(n);
    }

    pub(super) fn connect(&mut self, now: Now, shard: usize) -> ConnId {
        let peer = ClientInfo { host_header: Some("relay.example".to_owned()), address: None };
        self.shards[shard].relay.connect(now, peer).expect("there is room")
    }

    /// One step of a shard; whether it did anything.
    pub(super) fn work(&mut self, now: Now, index: usize, choice: u64) -> bool {
        let shard = &mut self.shards[index];
        match choice {
            0 => {
                let batch = shard.relay.poll_verify(now, true);
                shard.verifying.extend(batch);
                let Some(batch) = shard.verifying.pop_front() else { return false };
                shard.checked.push_back(batch.verify(&Libsecp256k1));
            }
            1 => {
                let Some(checked) = shard.checked.pop_front() else { return false };
                shard.relay.handle_verified(now, checked);
            }
            2 => {
                let Some(commit) = shard.relay.poll_commit() else { return false };
                self.commits.push_back((index, commit));
            }
            3 => match shard.inbox.pop_front() {
                Some(ShardMessage::Reply(reply)) => shard.relay.handle_committed(now, reply),
                Some(ShardMessage::Live(live)) => shard.relay.handle_live(now, &live),
                None => return false,
            },
            // Its last step does something, and leaves nothing.
            _ => return shard.relay.has_work() | shard.relay.work(now),
        }
        self.forward(index);
        true
    }

    fn forward(&mut self, from: usize) {
        while let Some(live) = self.shards[from].relay.poll_forwarded() {
            for (index, shard) in self.shards.iter_mut().enumerate() {
                if index != from {
                    shard.inbox.push_back(ShardMessage::Live(vec![live.clone()]));
                }
            }
        }
    }

    /// The writer makes all waiting commits durable; whether there were any.
    pub(super) fn commit(&mut self, now: Now) -> bool {
        if self.commits.is_empty() {
            return false;
        }
        let (shards, commits): (Vec<usize>, Vec<Commit>) = self.commits.drain(..).unzip();
        let committed = commit(&self.store, now, commits);
        self.failed += usize::from(committed.error.is_some());
        for (shard, reply) in shards.into_iter().zip(committed.replies) {
            self.shards[shard].inbox.push_back(ShardMessage::Reply(reply));
        }
        if !committed.live.is_empty() {
            for shard in &mut self.shards {
                shard.inbox.push_back(ShardMessage::Live(committed.live.clone()));
            }
        }
        true
    }

    /// Time has passed.
    pub(super) fn wake(&mut self, now: Now) {
        for shard in &mut self.shards {
            if shard.relay.poll_timeout().is_some_and(|at| at <= now) {
                shard.relay.handle_timeout(now);
            }
            let batch = shard.relay.poll_verify(now, false);
            shard.verifying.extend(batch);
        }
    }

    /// The host publishes an event itself.
    pub(super) fn publish(&mut self, now: Now, event: &Event) -> Ticket {
        self.shards[0].relay.publish(now, event)
    }

    pub(super) fn poll_published(&mut self) -> Option<(Ticket, PublishOutcome)> {
        self.shards[0].relay.poll_published()
    }

    /// All that is stored, oldest first.
    pub(super) fn stored(&self) -> Vec<Event> {
        stored(&self.store).into_values().collect()
    }

    /// The stored events that match, newest first.
    pub(super) fn query(&self, now: Now, filter: &Filter) -> Vec<Event> {
        let mut found = self.stored();
        found.retain(|event| {
            filter.matches(event) && !event.is_expired(now.seconds()) && event.class() != Class::Ephemeral
        });
        found.sort_by_key(|event| (std::cmp::Reverse(event.created_at), event.id));
        found.truncate(QUERY_MAX);
        found
    }
}
