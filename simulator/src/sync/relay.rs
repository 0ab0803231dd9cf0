//! One of the two relays: its machine, its store, and the clients and processes beside it.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;

use negentropy::{Id, Item};
use relay_engine::policy::{is_protected, names_relay};
use relay_engine::relay::{ClientInfo, Config, ConnId, Relay, commit};
use relay_engine::store::{self, Backend, MemoryBackend, Op, Outcome, Reader, Seq};
use relay_engine::types::{CanonicalEvent, Class, Event, EventId, Now};
use relay_engine::verify::{Batch, Verdict, Verified};
use relay_sync::ranges::LocalEvents;
use relay_sync::session::{Outcomes, Plan};

use crate::pool::FakeVerifier;

/// Bytes of output that are read from a connection at once.
const DRAINED_BYTES: usize = 4_096;

pub(super) struct SimulatedRelay {
    pub(super) store: Rc<MemoryBackend>,
    pub(super) machine: Relay<Rc<MemoryBackend>>,
    config: Arc<Config>,
    verifier: FakeVerifier,
    /// The connection of a client that publishes.
    local: ConnId,
    /// Events that were published here and accepted.
    accepted: Vec<EventId>,
    boots: u8,
}

impl SimulatedRelay {
    pub(super) fn new(config: Config, verifier: FakeVerifier, now: Now) -> Self {
        let (store, config) = (Rc::new(MemoryBackend::default()), Arc::new(config));
        let mut machine = Relay::new(Arc::clone(&config), Rc::clone(&store), Arc::new(verifier), [0; 32]);
        let local = connect(&mut machine, now);
        SimulatedRelay { store, machine, config, verifier, local, accepted: Vec::new(), boots: 0 }
    }

    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    /// What was committed stays, all else is lost.
    pub(super) fn restart(&mut self, now: Now) {
        self.boots += 1;
        let (config, store) = (Arc::clone(&self.config), Rc::clone(&self.store));
        self.machine = Relay::new(config, store, Arc::new(self.verifier), [self.boots; 32]);
        self.local = connect(&mut self.machine, now);
    }

    pub(super) fn connect(&mut self, now: Now) -> ConnId {
        connect(&mut self.machine, now)
    }

    /// One step of the host: a batch is verified, a commit made, or a turn worked.
    pub(super) fn step(&mut self, now: Now, choice: u64) {
        match choice {
            0 => {
                if let Some(batch) = self.machine.poll_verify(now, true) {
                    self.machine.handle_verified(now, batch.verify(&self.verifier));
                }
            }
            1 => {
                if let Some(changes) = self.machine.poll_commit() {
                    let committed = commit(self.machine.store(), now, vec![changes]);
                    committed.replies.into_iter().for_each(|reply| self.machine.handle_committed(now, reply));
                    self.machine.handle_live(now, &committed.live);
                }
            }
            _ => _ = self.machine.work(now),
        }
        while self.machine.poll_ready().is_some() || self.machine.poll_input_resumed().is_some() {}
        while self.machine.poll_forwarded().is_some() {}
    }

    /// Everything that can be done now is done.
    pub(super) fn settle(&mut self, now: Now) {
        for turn in 0.. {
            (0..3).for_each(|choice| self.step(now, choice));
            self.take_answers();
            if !self.machine.has_work() && !self.machine.has_unverified() {
                self.step(now, 1);
                return;
            }
            assert!(turn < 100_000, "a machine comes to rest");
        }
    }

    /// Frames for a connection.
    pub(super) fn drain(&mut self, conn: ConnId, take: &mut dyn FnMut(String)) {
        self.machine.drain(conn, DRAINED_BYTES, &mut |frame| {
            let mut bytes = Vec::with_capacity(frame.len());
            frame.write_to(&mut bytes);
            take(String::from_utf8(bytes).expect("frames are UTF-8"));
        });
    }

    /// A client publishes; its answer is not waited for.
    pub(super) fn publish(&mut self, now: Now, event: &Event) {
        if self.machine.wants_input(self.local) {
            let message = format!(r#"["EVENT",{}]"#, String::from_utf8_lossy(event.json()));
            self.machine.handle_text(now, self.local, message.as_bytes());
        }
        self.take_answers();
    }

    fn take_answers(&mut self) {
        let mut accepted = Vec::new();
        self.drain(self.local, &mut |frame| {
            let id = frame.strip_prefix(r#"["OK",""#).and_then(|rest| rest.split_once(r#"",true"#));
            accepted.extend(id.and_then(|(id, _)| EventId::from_hex(id.as_bytes()).ok()));
        });
        self.accepted.append(&mut accepted);
    }

    /// Events that clients were told are stored, since the last call.
    pub(super) fn accepted(&mut self) -> Vec<EventId> {
        self.take_answers();
        std::mem::take(&mut self.accepted)
    }

    /// As `relay sync` and `relay import` do: events are verified, and stored without the relay being told.
    pub(super) fn store(&self, now: Now, events: impl IntoIterator<Item = Event>) -> Outcomes {
        let mut batch = Batch::default();
        events.into_iter().for_each(|event| batch.push_unhashed(event, ()));
        let (mut outcomes, mut ops) = (Outcomes::default(), Vec::new());
        for (verdict, ()) in batch.verify(&self.verifier) {
            let Verdict::Valid(verified) = verdict else { panic!("no relay here sends an invalid event") };
            match verified.event().class() {
                Class::Ephemeral => outcomes.counts.ephemeral += 1,
                _ => ops.push(self.op(verified)),
            }
        }
        let done = store::commit(&self.store, now.seconds(), &ops).expect("memory does not fail");
        for (op, outcome) in ops.iter().zip(done) {
            match outcome {
                Outcome::Stored(_) => outcomes.counts.stored += 1,
                Outcome::Duplicate => outcomes.counts.duplicate += 1,
                Outcome::Refused(_) => {
                    outcomes.counts.superseded += 1;
                    outcomes.refused.push(op.event().id);
                }
            }
        }
        outcomes
    }

    fn op(&self, verified: Verified) -> Op {
        match names_relay(verified.event(), self.config.url.as_deref()) {
            true => Op::Vanish(verified),
            false => Op::Put(verified),
        }
    }

    /// Ids of the stored events that have not expired.
    pub(super) fn ids(&self, now: Now, events: &HashMap<EventId, Event>) -> HashSet<EventId> {
        let reader = self.store.reader().expect("memory does not fail");
        let mut seqs = Vec::new();
        reader.log(Seq(0), usize::MAX, &mut seqs).expect("memory does not fail");
        let id = |seq| {
            reader.event(seq).expect("memory does not fail").map(|json| CanonicalEvent::trusted(&json).id())
        };
        let is_expired = |id: &EventId| events[id].expires_at <= now.seconds();
        seqs.into_iter().filter_map(id).filter(|id| !is_expired(id)).collect()
    }

    /// What a session is told of this store.
    pub(super) fn here(&self, now: Now, events: &HashMap<EventId, Event>, plan: &Plan) -> LocalEvents {
        let filter = plan.scope.filter();
        let mut here = LocalEvents::default();
        for event in self.ids(now, events).iter().map(|id| &events[id]).filter(|event| filter.matches(event))
        {
            let is_sent = plan.up && filter.kinds.is_some() && !is_protected(event.tags());
            if self.is_guarded(event) && !is_sent {
                here.hidden.insert(event.id);
                continue;
            }
            let id = Id::from_byte_array(event.id.0);
            here.items.push(Item::with_timestamp_and_id(event.created_at, id));
            if is_protected(event.tags()) {
                here.withheld.insert(event.id);
            }
        }
        here.items.sort_unstable();
        here
    }

    pub(super) fn is_guarded(&self, event: &Event) -> bool {
        self.config.policy.guarded_kinds.contains(&event.kind)
    }

    /// The JSON of an event, if it is stored.
    pub(super) fn load(&self, id: &EventId) -> Option<String> {
        let reader = self.store.reader().expect("memory does not fail");
        let seq = reader.seq_of(id).expect("memory does not fail")?;
        let json = reader.event(seq).expect("memory does not fail")?;
        Some(String::from_utf8_lossy(&json).into_owned())
    }
}

fn connect(relay: &mut Relay<Rc<MemoryBackend>>, now: Now) -> ConnId {
    let peer = ClientInfo { host_header: Some("relay.example".to_owned()), address: None };
    relay.connect(now, peer).expect("there is room")
}
