//! The store of this relay: what is here, and storing what comes.
//!
//! Other processes may serve it meanwhile. As with `relay import`, the limits and the policy for clients do not apply; ids
//! and signatures are checked, and the rules of the store are applied.

use std::sync::Arc;
use std::thread;

use negentropy::Item;
use relay_engine::policy::{is_protected, names_relay};
use relay_engine::store::{self, Backend, Op, Outcome, Reader, Seq, SinkResult, Unrestricted};
use relay_engine::types::{CanonicalEvent, Class, Event, EventId, Filter, Kind, PubKey, Timestamp};
use relay_engine::verify::{Batch, Verdict, Verified, Verifier};

use super::frames::neg_id;
use super::ranges::LocalEvents;
use super::session::Outcomes;
use crate::cli::command_store::CommandStore;
use crate::cli::database::{OfflineScan, unix_now};
use crate::cli::exit::Failure;
use crate::config::Settings;

/// What reading the log may cost at once: some thousand events.
const LOG_COST_MAX: usize = 10_000;

/// A part of the log.
#[derive(Debug, Default)]
pub(super) struct Logged {
    pub(super) entries: Vec<LogEntry>,
    /// Events that match and are not sent.
    pub(super) withheld: u64,
    /// Where to go on.
    pub(super) covered: Seq,
}

/// A stored event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LogEntry {
    pub(super) seq: Seq,
    pub(super) id: EventId,
    pub(super) created_at: Timestamp,
}

/// The store, and how events are verified.
pub(super) struct Local<B> {
    store: CommandStore<B>,
    verifiers: Vec<Arc<dyn Verifier>>,
    url: Option<String>,
    guarded_kinds: Vec<Kind>,
}

impl<B: Backend> Local<B> {
    pub(super) fn new(store: CommandStore<B>, settings: &Settings) -> Self {
        let threads = thread::available_parallelism().map_or(1, usize::from);
        Local {
            store,
            verifiers: (0..threads).map(|_| settings.verify.verifier(threads)).collect(),
            url: settings.url.clone(),
            guarded_kinds: settings.policy.guarded_kinds.clone(),
        }
    }

    /// The ids of the events that match, without expired ones, and which of them are not sent by `own`. Guarded events are hidden,
    /// unless they are sent.
    pub(super) fn scan(
        &self,
        filter: &Filter,
        own: Option<PubKey>,
        up: bool,
    ) -> Result<LocalEvents, Failure> {
        let mut local_events = LocalEvents::default();
        let filters = std::slice::from_ref(filter);
        // Also what came through this process just now.
        self.store.refresh()?;
        let mut scan = OfflineScan::new(self.store.read(), [filter.clone()].into())?;
        while scan.step(self.store.read(), &mut |hit| {
            let (event, id) = (hit.event, hit.event.id());
            let is_sent = up && !self.is_withheld(event, filters, own);
            if self.guarded_kinds.contains(&event.kind()) && !is_sent {
                local_events.hidden.insert(id);
                return SinkResult::Continue;
            }
            local_events.items.push(Item::with_timestamp_and_id(event.created_at(), neg_id(&id)));
            if self.is_withheld(event, filters, own) {
                local_events.withheld.insert(id);
            }
            SinkResult::Continue
        })? {}
        local_events.items.sort_unstable();
        Ok(local_events)
    }

    /// Whether an event, which matches one of the filters, is not sent to other relays: one of a guarded kind, unless a filter that
    /// names its kind matches; and a protected one (NIP-70), which relays take from its author only, unless that is `own`, the key
    /// that authenticates.
    pub(super) fn is_withheld(
        &self,
        event: CanonicalEvent<'_>,
        filters: &[Filter],
        own: Option<PubKey>,
    ) -> bool {
        let names = |filter: &Filter| filter.kinds.is_some() && filter.matches_stored(event);
        let is_guarded = self.guarded_kinds.contains(&event.kind()) && !filters.iter().any(names);
        is_guarded || is_protected(event.tags()) && own != Some(event.pubkey())
    }

    /// The number of the event that was stored last.
    pub(super) fn last_seq(&self) -> Result<Seq, Failure> {
        Ok(self.store.read().reader()?.last_seq()?)
    }

    /// Events that match a filter, after `after` in the order in which they were stored: as many as `max`, or those among some
    /// thousand. They are still stored and not expired.
    pub(super) fn read_log(
        &self,
        filters: &[Filter],
        own: Option<PubKey>,
        after: Seq,
        max: usize,
    ) -> Result<Logged, Failure> {
        let reader = self.store.read().reader()?;
        let (mut entries, mut withheld, mut budget) = (Vec::new(), 0, LOG_COST_MAX);
        let replayed =
            store::replay(&reader, filters, after, &mut budget, unix_now(), &Unrestricted, &mut |hit| {
                if self.is_withheld(hit.event, filters, own) {
                    withheld += 1;
                } else {
                    let (id, created_at) = (hit.event.id(), hit.event.created_at());
                    entries.push(LogEntry { seq: hit.seq, id, created_at });
                }
                if entries.len() >= max { SinkResult::Pause } else { SinkResult::Continue }
            })?;
        Ok(Logged { entries, withheld, covered: replayed.covered })
    }

    /// The JSON of stored events.
    pub(super) fn load(&self, ids: Vec<EventId>) -> Result<Vec<(EventId, Option<String>)>, Failure> {
        let reader = self.store.read().reader()?;
        let json = |id: &EventId| -> Result<Option<String>, Failure> {
            let Some(seq) = reader.seq_of(id)? else { return Ok(None) };
            Ok(reader.event(seq)?.map(|json| String::from_utf8_lossy(&json).into_owned()))
        };
        ids.into_iter().map(|id| Ok((id, json(&id)?))).collect()
    }

    /// Verifies events on all cores, and stores those that are valid.
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
                    outcomes.ephemeral.push(verified.into_event());
                }
                Some(verified) if names_relay(verified.event(), self.url.as_deref()) => {
                    ops.push(Op::Vanish(verified));
                }
                Some(verified) => ops.push(Op::Put(verified)),
            }
        }
        for (op, (outcome, seq)) in ops.iter().zip(self.store.commit_numbered(&ops)?) {
            crate::outcomes::count(&mut outcomes.counts, outcome);
            outcomes.seqs.extend(seq.map(|seq| seq.0));
            if matches!(outcome, Outcome::Refused(_)) {
                outcomes.refused.push(op.event().id);
            }
        }
        Ok(outcomes)
    }

    /// Removes what was deleted; each step is small, so `stop` is soon obeyed.
    pub(super) fn remove_pending(&self, stop: impl Fn() -> bool) -> Result<(), Failure> {
        while !stop() && self.store.remove_pending()? {}
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
                .map(|(batch, verifier)| scope.spawn(move || batch.verify(&**verifier)))
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
