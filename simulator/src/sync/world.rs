//! Both relays, the events that there are, and the changes while sessions run.

use std::collections::{HashMap, HashSet};

use relay_engine::policy::{Policy, VANISH_KIND};
use relay_engine::relay::Config;
use relay_engine::store::{remove, remove_pending, sweep_expired};
use relay_engine::testing::{Draft, EventGenerator, Rng};
use relay_engine::types::{Event, EventId, Limits, Now};
use relay_sync::information::Information;
use relay_sync::session::Progress;

use super::SyncReport;
use super::relay::SimulatedRelay;
use crate::pool::{FakeVerifier, Pool, URL};

/// The URL of relay 1; that of relay 0 is the pool's. A request to vanish may name one of them, or all.
const OTHER_URL: &str = "wss://other.example";
/// The most notes that are there from the beginning, on one side or both.
const NOTES_MAX: u64 = 300;

pub(super) struct World {
    pub(super) rng: Rng,
    pub(super) now: Now,
    pub(super) relays: [SimulatedRelay; 2],
    /// All events that are ever published.
    pub(super) events: HashMap<EventId, Event>,
    /// Those that come while sessions run.
    pool: Vec<Event>,
    /// Events that were stored on a side other than by a session.
    pub(super) published: [HashSet<EventId>; 2],
    /// Events that clients have sent to a side, whether or not it has stored them.
    pub(super) offered: [HashSet<EventId>; 2],
    /// Removed by an operator: they may come back from the other side, or not.
    pub(super) removed: HashSet<EventId>,
    /// Whether connections are cut, relays restart and events change.
    pub(super) has_faults: bool,
    pub(super) information: [Information; 2],
    /// Ids that the last session asked for.
    pub(super) asked: usize,
    pub(super) report: SyncReport,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let now = Now::from_seconds(EventGenerator::START);
        // Few seconds make ranges of one second with many events.
        let seconds = *rng.pick(&[1, 5, 60, 1_000]);
        let verifier = FakeVerifier { prefers_batch_hashing: rng.one_in(2) };
        let relays = [URL, OTHER_URL].map(|url| {
            let policy = Policy { challenge_on_connect: rng.one_in(2), ..Policy::default() };
            let config = Config {
                limits: limits(&mut rng, seconds),
                policy,
                url: Some(url.to_owned()),
                ..Config::default()
            };
            SimulatedRelay::new(config, verifier, now)
        });
        let information = std::array::from_fn(|at| information(&mut rng, relays[at].config()));
        let mut pool: Vec<Event> = Pool::new(rng.bits()).events;
        // Of an author who vanishes little is left to compare, so few do.
        let mut vanishing = rng.below(3);
        pool.retain(|event| {
            let keeps = event.kind != VANISH_KIND || vanishing > 0;
            vanishing -= u64::from(keeps && event.kind == VANISH_KIND);
            keeps
        });
        let mut events: HashMap<EventId, Event> =
            pool.iter().map(|event| (event.id, event.clone())).collect();
        let mut published: [HashSet<EventId>; 2] = Default::default();
        for number in 0..rng.below(NOTES_MAX) {
            let second = EventGenerator::START - 20 - rng.below(seconds);
            let note = Draft::new(rng.below(5) as u8, 1, second).content(&format!("note {number}")).event();
            let on = *rng.pick(&[0b11, 0b11, 0b11, 0b11, 0b11, 0b11, 0b11, 0b01, 0b10]);
            for (at, of) in relays.iter().enumerate() {
                if on >> at & 1 == 1 {
                    of.store(now, [note.clone()]);
                    published[at].insert(note.id);
                }
            }
            events.insert(note.id, note);
        }
        World {
            rng,
            now,
            relays,
            events,
            pool,
            published,
            offered: Default::default(),
            removed: HashSet::new(),
            has_faults: true,
            information,
            asked: 0,
            report: SyncReport::default(),
        }
    }

    /// Something changes on one side.
    pub(super) fn change(&mut self) {
        self.report.changes += 1;
        let at = self.rng.below(2) as usize;
        let (now, rng) = (self.now, &mut self.rng);
        let relay = &mut self.relays[at];
        match rng.below(16) {
            0 => drop(sweep_expired(&relay.store, now.seconds(), 1 + rng.below(5) as usize)),
            1 => drop(remove_pending(&relay.store)),
            2 => {
                let gone = rng.pick(&self.pool).id;
                self.removed.insert(gone);
                drop(remove(&relay.store, &[gone]));
            }
            3 => self.now = now.plus_millis(rng.below(3_000)),
            4 | 5 => self.import(at),
            _ => {
                let event = rng.pick(&self.pool);
                self.offered[at].insert(event.id);
                relay.publish(now, event);
                self.published[at].extend(relay.accepted());
            }
        }
    }

    /// Another process stores an event on one side.
    fn import(&mut self, at: usize) {
        let event = self.rng.pick(&self.pool).clone();
        let id = event.id;
        if self.relays[at].store(self.now, [event]).counts.stored > 0 {
            self.published[at].insert(id);
        }
    }

    /// An operator removes some events from one side, beside the relay that serves them.
    pub(super) fn remove_some(&mut self, at: usize) {
        let mut ids: Vec<EventId> = self.relays[at].ids(self.now, &self.events).into_iter().collect();
        ids.sort_unstable();
        ids.retain(|_| self.rng.one_in(20));
        self.removed.extend(&ids);
        drop(remove(&self.relays[at].store, &ids));
    }

    /// Faults and changes end; what was under way arrives.
    pub(super) fn heal(&mut self) {
        self.has_faults = false;
        self.relays.iter_mut().for_each(|relay| relay.settle(self.now));
        for at in 0..2 {
            self.published[at].extend(self.relays[at].accepted());
            // What nobody has told the relay of.
            (0..self.rng.below(20)).for_each(|_| self.import(at));
        }
    }

    /// Adds what a session has counted.
    pub(super) fn count(&mut self, progress: &Progress) {
        let counts = &progress.counts;
        self.report.rounds += counts.rounds as usize;
        self.report.pages += counts.pages as usize;
        self.report.copied += (counts.outcomes.stored + counts.sent) as usize;
        self.report.refused += (counts.outcomes.superseded + counts.refused) as usize;
    }
}

/// Limits so small that a run reaches all that matter to a session.
///
/// A page has room for every event of a second: what is beyond cannot be asked for (`incomplete_seconds`).
fn limits(rng: &mut Rng, seconds: u64) -> Limits {
    let limit_max = if seconds < 60 || rng.one_in(2) { 500 } else { 40 };
    Limits {
        limit_max,
        limit_default: limit_max,
        step_cost_max: 1 + rng.below(100) as usize,
        outbox_pause_bytes: *rng.pick(&[2_000, 1 << 20]),
        verify_batch_max: 1 + rng.below(20) as usize,
        in_flight_events_max: 1 + rng.below(30) as usize,
        neg_set_events_max: *rng.pick(&[20, 100, 1_000, 1_000]),
        neg_sets_bytes_max: *rng.pick(&[20_000, 1 << 20, 1 << 20]),
        neg_prepared_events_max: *rng.pick(&[0, 100, 1_000]),
        ..Limits::default()
    }
}

/// What a relay tells about itself, which may be little.
fn information(rng: &mut Rng, config: &Config) -> Information {
    let Limits { limit_max, message_bytes_max, .. } = config.limits;
    Information {
        negentropy: *rng.pick(&[None, Some(true), Some(true), Some(true), Some(true), Some(false)]),
        limit_max: rng.one_in(2).then_some(limit_max),
        message_bytes_max: rng.one_in(2).then_some(message_bytes_max),
    }
}
