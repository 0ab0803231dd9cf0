//! Members of a relay (NIP-43): whoever has been admitted may write, others may not. The relay's own key says who is a member by
//! events that it signs, so a membership is stored, copied and shown to clients like any event.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};

use crate::types::{
    Event, EventId, KIND_ADD_USER, KIND_MEMBERSHIP_REQUEST, KIND_REMOVE_USER, Kind, PubKey, Tags, Timestamp,
};

/// Kinds that others, or throwaway keys, sign for a member: gift wraps (NIP-59) and zap receipts (NIP-57).
const KINDS_FOR_MEMBERS: [Kind; 2] = [1_059, 9_735];

/// Writing is for members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admission {
    /// The relay's own key, `self` of NIP-11, whose events of kinds 8000 and 8001 say who is a member.
    pub pubkey: PubKey,
    /// What it costs to become one, in millisatoshis; 0: nothing, or nobody can by paying.
    pub msat: u64,
    /// The page on which it is paid. It is in NIP-11, and in the answer to events of others.
    pub payments_url: Option<String>,
}

/// The members, from the events that say so.
#[derive(Debug, Default)]
pub struct Members {
    /// What is said of a key, newest first; of two of one second the one that removes it is first.
    by_key: HashMap<PubKey, Vec<Statement>>,
    /// The events that say so.
    ids: HashSet<EventId>,
}

/// What an event says of a key.
#[derive(Clone, Copy, Debug)]
struct Statement {
    created_at: Timestamp,
    adds: bool,
    expires_at: Timestamp,
}

impl Members {
    /// Records an event of [`Admission::pubkey`]; other kinds than 8000 and 8001 say nothing. The order in which events are recorded does
    /// not matter.
    pub fn record(&mut self, event: &Event) {
        let adds = match event.kind {
            KIND_ADD_USER => true,
            KIND_REMOVE_USER => false,
            _ => return,
        };
        if !self.ids.insert(event.id) {
            return;
        }
        let said = Statement { created_at: event.created_at, adds, expires_at: event.expires_at };
        let place = |said: &Statement| (Reverse(said.created_at), said.adds);
        for key in named(event.tags()) {
            let all = self.by_key.entry(key).or_default();
            let at = all.partition_point(|other| place(other) <= place(&said));
            all.insert(at, said);
            // What is older than one that does not expire says nothing any more.
            if let Some(last) = all.iter().position(|said| said.expires_at == Timestamp::MAX) {
                all.truncate(last + 1);
            }
        }
    }

    /// Whether this key is a member now: the newest event about it that has not expired says so.
    pub fn contains(&self, key: &PubKey, now: Timestamp) -> bool {
        let said = self.by_key.get(key).into_iter().flatten().find(|said| said.expires_at > now);
        said.is_some_and(|said| said.adds)
    }

    /// Whether an event with this id has been recorded.
    pub fn has_recorded(&self, id: &EventId) -> bool {
        self.ids.contains(id)
    }
}

impl Admission {
    /// Whether an event may be written, as far as membership goes: its author is a member, or the relay itself; or it is for a member, where others
    /// sign such events; or it asks the relay's own key for a membership (NIP-90).
    pub fn admits(&self, members: &Members, event: &Event, now: Timestamp) -> bool {
        event.pubkey == self.pubkey
            || members.contains(&event.pubkey, now)
            || KINDS_FOR_MEMBERS.contains(&event.kind)
                && named(event.tags()).any(|key| members.contains(&key, now))
            || event.kind == KIND_MEMBERSHIP_REQUEST && named(event.tags()).any(|key| key == self.pubkey)
    }
}

/// The keys in `p` tags.
fn named(tags: Tags<'_>) -> impl Iterator<Item = PubKey> {
    tags.named(b"p").filter_map(|tag| PubKey::from_hex(&tag.value()?).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::signing::{event, key};
    use crate::wire;

    fn of(kind: Kind, at: Timestamp, tags: &[[&str; 2]]) -> Event {
        let event = event(&key(1)).kind(kind).at(at);
        let event = tags.iter().fold(event, |event, tag| event.tag(*tag));
        wire::parse_event(event.sign().json().as_bytes()).unwrap().to_event()
    }

    /// Whether key 2 is a member at time 50 after these events, in any order.
    fn check(events: &[(Kind, Timestamp, Option<&str>)], expected: bool) {
        let hex = key(2).hex().to_owned();
        let events: Vec<Event> = events
            .iter()
            .map(|(kind, at, expires_at)| {
                let tags = [Some(["p", &hex]), expires_at.map(|at| ["expiration", at])];
                of(*kind, *at, &tags.into_iter().flatten().collect::<Vec<_>>())
            })
            .collect();
        let (mut forwards, mut backwards) = (Members::default(), Members::default());
        events.iter().for_each(|event| forwards.record(event));
        events.iter().rev().for_each(|event| backwards.record(event));
        let key = PubKey(key(2).bytes());
        assert_eq!([forwards.contains(&key, 50), backwards.contains(&key, 50)], [expected; 2], "{events:?}");
        assert!(events.iter().all(|event| forwards.has_recorded(&event.id) == (event.kind / 10 == 800)));
    }

    #[test]
    fn the_newest_event_about_a_key_counts() {
        check(&[], false);
        check(&[(8_000, 10, None)], true);
        check(&[(8_001, 10, None)], false);
        check(&[(8_000, 10, None), (8_001, 20, None)], false);
        check(&[(8_001, 10, None), (8_000, 20, None)], true);
        check(&[(8_000, 10, None), (8_001, 10, None)], false);
        check(&[(8_000, 10, None), (8_001, 20, None), (8_000, 30, None)], true);
        check(&[(8_000, 10, Some("51"))], true);
        check(&[(8_000, 10, Some("50"))], false);
        // What has expired says nothing, as if it had been removed from the store.
        check(&[(8_000, 10, None), (8_000, 20, Some("40"))], true);
        check(&[(8_000, 10, None), (8_001, 20, Some("40"))], true);
        check(&[(8_000, 10, None), (8_001, 20, Some("60"))], false);
        check(&[(8_000, 10, Some("60")), (8_000, 20, Some("40"))], true);
        check(&[(1, 10, None), (13_534, 20, None)], false);
    }

    #[test]
    fn events_for_members_and_requests_for_membership_are_taken() {
        let admission = Admission { pubkey: PubKey(key(4).bytes()), msat: 1_000, payments_url: None };
        let [relay, member, other] = [4, 2, 3].map(|number| key(number).hex().to_owned());
        let mut members = Members::default();
        members.record(&of(8_000, 10, &[["p", &member]]));
        for (kind, p, expected) in [
            (1, &member, false),
            (1_059, &member, true),
            (1_059, &other, false),
            (9_735, &member, true),
            (5_943, &relay, true),
            (5_943, &member, false),
            (5_942, &relay, false),
            (5_944, &relay, false),
        ] {
            let event = of(kind, 20, &[["p", p]]);
            assert_eq!(admission.admits(&members, &event, 50), expected, "{kind} {p}");
        }
    }
}
