//! Members of a relay (NIP-43): whoever has been admitted may write, others may not. The relay's own key says who is a member by
//! events that it signs, so a membership is stored, copied and shown to clients like any event.

use std::collections::{HashMap, HashSet};

use crate::types::{Event, EventId, Kind, PubKey, Tags, Timestamp};

/// «Add user»: the keys in its `p` tags are members, until it expires (NIP-40) if it does.
pub const KIND_ADD_USER: Kind = 8_000;
/// «Remove user»: the keys in its `p` tags are members no more.
pub const KIND_REMOVE_USER: Kind = 8_001;

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
    by_key: HashMap<PubKey, Membership>,
    /// The events that say so.
    ids: HashSet<EventId>,
}

#[derive(Clone, Copy, Debug)]
struct Membership {
    created_at: Timestamp,
    /// 0: removed.
    expires_at: Timestamp,
}

impl Members {
    /// Records an event of [`Admission::pubkey`]; other kinds than 8000 and 8001 say nothing. The newest event about a key counts, and of
    /// two of one second the one that removes it. The order in which they are recorded does not matter.
    pub fn record(&mut self, event: &Event) {
        let expires_at = match event.kind {
            KIND_ADD_USER => event.expires_at,
            KIND_REMOVE_USER => 0,
            _ => return,
        };
        self.ids.insert(event.id);
        let new = Membership { created_at: event.created_at, expires_at };
        for key in named(event.tags()) {
            let known = self.by_key.entry(key).or_insert(new);
            let is_newer = new.created_at > known.created_at;
            if is_newer || new.created_at == known.created_at && new.expires_at < known.expires_at {
                *known = new;
            }
        }
    }

    /// Whether this key is a member now.
    pub fn contains(&self, key: &PubKey, now: Timestamp) -> bool {
        self.by_key.get(key).is_some_and(|membership| membership.expires_at > now)
    }

    /// Whether an event with this id has been recorded.
    pub fn has_recorded(&self, id: &EventId) -> bool {
        self.ids.contains(id)
    }
}

impl Admission {
    /// Whether an event may be written, as far as membership goes: its author is a member, or the relay itself; or it is for a member, where others
    /// sign such events; or it asks the relay's own key for a job (NIP-90), which is how one becomes a member.
    pub fn admits(&self, members: &Members, event: &Event, now: Timestamp) -> bool {
        event.pubkey == self.pubkey
            || members.contains(&event.pubkey, now)
            || KINDS_FOR_MEMBERS.contains(&event.kind)
                && named(event.tags()).any(|key| members.contains(&key, now))
            || matches!(event.kind, 5_000..=5_999) && named(event.tags()).any(|key| key == self.pubkey)
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
        check(&[(8_000, 10, None), (8_000, 20, Some("40"))], false);
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
            (5_000, &relay, true),
            (5_999, &relay, true),
            (6_000, &relay, false),
            (5_000, &member, false),
        ] {
            let event = of(kind, 20, &[["p", p]]);
            assert_eq!(admission.admits(&members, &event, 50), expected, "{kind} {p}");
        }
    }
}
