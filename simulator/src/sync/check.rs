//! What must hold when no session copies anything any more.

use std::collections::HashSet;

use relay_engine::policy::{VANISH_KIND, is_protected, names_relay};
use relay_engine::types::{Class, Event, EventId};

use super::world::World;

impl World {
    fn ids(&self) -> [HashSet<EventId>; 2] {
        [0, 1].map(|at: usize| self.relays[at].ids(self.now, &self.events))
    }

    /// Events that only the other side has and that sessions of relay 0 copy. Guarded ones they do not see; protected ones they
    /// fetch, and do not send.
    fn missing(&self, at: usize) -> Vec<Event> {
        let sides = self.ids();
        let missing = sides[1 - at].difference(&sides[at]).map(|id| &self.events[id]);
        let is_copied = |event: &&Event| {
            let is_withheld = at == 1 && is_protected(event.tags());
            !self.relays[at].is_guarded(event) && !is_withheld
        };
        missing.filter(is_copied).cloned().collect()
    }

    /// How many events only relay 1 has: a session fetches them, and relay 0 refuses them, each time.
    pub(super) fn refused_here(&self) -> usize {
        self.missing(0).len()
    }

    /// Both sides have the same events, but for those that the rules of one refuse; and none was lost. Changes the stores.
    pub(super) fn check_converged(&mut self) {
        let guarded: Vec<EventId> = self
            .events
            .values()
            .filter(|event| self.relays[0].is_guarded(event))
            .map(|event| event.id)
            .collect();
        for (at, ids) in self.ids().iter().enumerate() {
            let is_foreign = |id: &&EventId| {
                ids.contains(*id) && !self.published[at].union(&self.offered[at]).any(|known| known == *id)
            };
            assert_eq!(guarded.iter().find(is_foreign), None, "a guarded event has crossed the link");
        }
        for at in 0..2 {
            for event in self.missing(at) {
                self.report.refused_in_one += 1;
                assert!(self.refuses(at, &event), "relay {at} lacks {}", text(&event));
            }
        }
        let sides = self.ids();
        let published: HashSet<EventId> = self.published.iter().flatten().copied().collect();
        let (is_there, now) = (|id: &EventId| sides.iter().any(|side| side.contains(id)), self.now.seconds());
        let gone: Vec<Event> = published
            .iter()
            .filter(|id| !is_there(id) && !self.removed.contains(*id))
            .map(|id| self.events[id].clone())
            // A replaceable event may have been replaced by one that was deleted later.
            .filter(|event| event.class() == Class::Regular && event.expires_at > now)
            .collect();
        self.report.gone = gone.len();
        for event in gone {
            let is_refused = [0, 1].map(|at| self.refuses(at, &event));
            assert!(is_refused.contains(&true), "lost: {}", text(&event));
        }
    }

    /// Whether a relay does not store an event that it is offered.
    fn refuses(&self, at: usize, event: &Event) -> bool {
        let config = self.relays[at].config();
        if event.kind == VANISH_KIND && !names_relay(event, config.url.as_deref()) {
            return true;
        }
        self.relays[at].store(self.now, [event.clone()]).counts.stored == 0
    }
}

fn text(event: &Event) -> String {
    String::from_utf8_lossy(event.json()).into_owned()
}
