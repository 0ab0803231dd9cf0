//! The store of this relay: what is here, and storing what comes.
//!
//! Other processes may serve it meanwhile. As with `relay import`, the limits and the policy for clients do not apply; ids
//! and signatures are checked, and the rules of the store are applied.

use std::sync::Arc;
use std::thread;

use negentropy::Item;
use relay_engine::policy::{is_protected, names_relay};
use relay_engine::store::{self, Backend, Op, Outcome, Reader, Take};
use relay_engine::types::{Class, Event, EventId, Filter, Kind};
use relay_engine::verify::{Batch, Verdict, Verified, Verifier};

use super::frames::neg_id;
use super::ranges::Here;
use super::session::Outcomes;
use crate::cli::database::{OfflineScan, unix_now};
use crate::cli::exit::Failure;
use crate::config::Settings;

/// The store, and how events are verified.
pub(super) struct Local<B> {
    store: B,
    verifiers: Vec<Arc<dyn Verifier>>,
    url: Option<String>,
    guarded_kinds: Vec<Kind>,
}

impl<B: Backend> Local<B> {
    pub(super) fn new(store: B, settings: &Settings) -> Self {
        let threads = thread::available_parallelism().map_or(1, usize::from);
        Local {
            store,
            verifiers: (0..threads).map(|_| settings.verify.verifier(threads)).collect(),
            url: settings.url.clone(),
            guarded_kinds: settings.policy.guarded_kinds.clone(),
        }
    }

    /// The ids of the events that match, without expired ones. Events of guarded kinds are withheld unless the filter names
    /// their kinds, and so are protected ones (NIP-70), which only their authors may publish.
    pub(super) fn scan(&self, filter: &Filter) -> Result<Here, Failure> {
        let mut here = Here::default();
        let is_guarded = |kind: Kind| filter.kinds.is_none() && self.guarded_kinds.contains(&kind);
        let mut scan = OfflineScan::new(&self.store, [filter.clone()].into())?;
        while scan.step(&self.store, &mut |hit| {
            let (event, id) = (hit.event, hit.event.id());
            here.items.push(Item::with_timestamp_and_id(event.created_at(), neg_id(&id)));
            if is_guarded(event.kind()) || is_protected(event.tags()) {
                here.withheld.insert(id);
            }
            Take::Counted
        })? {}
        here.items.sort_unstable();
        Ok(here)
    }

    /// The JSON of stored events.
    pub(super) fn load(&self, ids: Vec<EventId>) -> Result<Vec<(EventId, Option<String>)>, Failure> {
        let reader = self.store.reader()?;
        let json = |id: &EventId| -> Result<Option<String>, Failure> {
            let Some(seq) = reader.seq_of(id)? else { return Ok(None) };
            Ok(reader.event(seq)?.map(|json| String::from_utf8_lossy(&json).into_owned()))
        };
        ids.into_iter().map(|id| Ok((id, json(&id)?))).collect()
    }

    /// Verifies events on all cores, and stores those that are valid, in one commit.
    pub(super) fn store(&self, events: Vec<Event>) -> Result<Outcomes, Failure> {
        let mut outcomes = Outcomes::default();
        let mut ops = Vec::with_capacity(events.len());
        for (id, verified) in self.verify(events) {
            match verified {
                None => {
                    outcomes.invalid += 1;
                    outcomes.refused.push(id);
                }
                Some(verified) if verified.event().class() == Class::Ephemeral => {
                    outcomes.counts.ephemeral += 1;
                    outcomes.refused.push(id);
                }
                Some(verified) if names_relay(verified.event(), self.url.as_deref()) => {
                    ops.push(Op::Vanish(verified));
                }
                Some(verified) => ops.push(Op::Put(verified)),
            }
        }
        for (op, outcome) in ops.iter().zip(store::commit(&self.store, unix_now(), &ops)?) {
            outcomes.counts.add(outcome);
            if matches!(outcome, Outcome::Refused(_)) {
                outcomes.refused.push(op.event().id);
            }
        }
        Ok(outcomes)
    }

    /// Removes what was deleted; each step is small, so `stop` is soon obeyed.
    pub(super) fn remove_pending(&self, stop: impl Fn() -> bool) -> Result<(), Failure> {
        while !stop() && store::remove_pending(&self.store)?.more {}
        Ok(())
    }

    fn verify(&self, events: Vec<Event>) -> Vec<(EventId, Option<Verified>)> {
        let share = events.len().div_ceil(self.verifiers.len()).max(1);
        let mut shares = Vec::with_capacity(self.verifiers.len());
        let mut events = events.into_iter().peekable();
        while events.peek().is_some() {
            let mut batch = Batch::default();
            for event in events.by_ref().take(share) {
                let id = event.id;
                batch.push_unhashed(event, id);
            }
            shares.push(batch);
        }
        thread::scope(|scope| {
            let workers: Vec<_> = shares
                .into_iter()
                .zip(&self.verifiers)
                .map(|(batch, verifier)| scope.spawn(move || batch.check(&**verifier)))
                .collect();
            workers
                .into_iter()
                .flat_map(|worker| worker.join().expect("checking does not panic"))
                .map(|(verdict, id)| match verdict {
                    Verdict::Valid(verified) => (id, Some(verified)),
                    Verdict::Invalid(_) | Verdict::WrongId(_) => (id, None),
                })
                .collect()
        })
    }
}
