//! From an event to the subscriptions that want it.

use super::checked::{ConditionSubject, EventTerm, EventTerms};
use super::keys::InternedTerms;
use super::postings::Check;
use super::slots::DEAD;
use super::term::{IndexTerm, TermKind};
use super::{Index, MatchStats, SubSlot};
use crate::types::{CanonicalEvent, EventId, Kind, MatchCost, PubKey, Timestamp};

/// The event being matched.
pub(super) struct MatchedEvent<'a> {
    pub(super) created_at: Timestamp,
    pub(super) kind: Kind,
    pub(super) pubkey: PubKey,
    pub(super) id: EventId,
    pub(super) view: CanonicalEvent<'a>,
}

impl Index {
    pub(super) fn match_event(&mut self, event: MatchedEvent<'_>, out: &mut Vec<SubSlot>) -> MatchStats {
        let epoch = self.next_epoch();
        let bytes = collect_keys(&mut self.keys, &event, epoch, &mut self.event_keys);
        let Index { keys, slots, checked, kind_sets, event_keys, .. } = self;
        let event_keys = EventTerms { list: event_keys, stamps: &keys.stamps, epoch };
        let stamps = &mut slots.stamps[..];
        let out_before = out.len();
        let (mut candidates, mut compared) = (0, 0);
        for group in event_keys.list.iter().flat_map(|event_key| keys.groups(event_key.key)) {
            if !kind_sets.allow(group.kinds, event.kind) {
                continue;
            }
            let ids = group.ids.as_slice();
            candidates += ids.len();
            match group.check {
                Check::Plain => {
                    report_all(stamps, epoch, ids, out);
                }
                Check::Time => {
                    for &filter in ids {
                        let filter = &checked.filters[filter as usize];
                        if filter.allows_time(event.created_at) {
                            report(stamps, epoch, filter.slot, out);
                        }
                    }
                }
                Check::Full => {
                    for &id in ids {
                        let filter = &checked.filters[id as usize];
                        let is_open = stamps[filter.slot.0 as usize] < epoch;
                        if is_open
                            && filter.allows_time(event.created_at)
                            && checked.conditions[id as usize].as_ref().is_none_or(|conditions| {
                                conditions.are_met(event.kind, &event_keys, kind_sets, &mut compared)
                            })
                        {
                            report(stamps, epoch, filter.slot, out);
                        }
                    }
                }
            }
        }
        let cost = MatchCost { bytes, comparisons: candidates + compared };
        MatchStats { candidates, matches: out.len() - out_before, cost }
    }

    /// The epoch of this event. Its wrap-around, once in 2^32 events, is the only step of the index
    /// that visits all slots and keys at once.
    fn next_epoch(&mut self) -> u32 {
        self.epoch += 1;
        if self.epoch == DEAD {
            self.slots.reset_stamps();
            self.keys.stamps.fill(0);
            self.epoch = 1;
        }
        self.epoch
    }
}

/// [`report`] for each of `ids`, without a branch for each.
fn report_all(stamps: &mut [u32], epoch: u32, ids: &[u32], out: &mut Vec<SubSlot>) {
    let before = out.len();
    out.resize(before + ids.len(), SubSlot(0));
    let (kept, mut reported) = (&mut out[before..], 0);
    for &slot in ids {
        let stamp = &mut stamps[slot as usize];
        kept[reported] = SubSlot(slot);
        reported += usize::from(*stamp < epoch);
        *stamp = epoch.max(*stamp);
    }
    out.truncate(before + reported);
}

/// Reports `slot` unless it is dead or was reported for this event.
#[inline(always)]
fn report(stamps: &mut [u32], epoch: u32, slot: SubSlot, out: &mut Vec<SubSlot>) {
    let stamp = &mut stamps[slot.0 as usize];
    if *stamp < epoch {
        *stamp = epoch;
        out.push(slot);
    }
}

/// The keys that `event` has, each once, whatever postings they have. Returns the bytes of tags that were read.
fn collect_keys(
    keys: &mut InternedTerms,
    event: &MatchedEvent<'_>,
    epoch: u32,
    event_keys: &mut Vec<EventTerm>,
) -> usize {
    event_keys.clear();
    let mut add = |keys: &mut InternedTerms, subject: ConditionSubject, key: Option<u32>| {
        let Some(key) = key else { return };
        let stamp = &mut keys.stamps[key as usize];
        if *stamp != epoch {
            *stamp = epoch;
            event_keys.push(EventTerm { key, subject });
        }
    };
    let named = [
        (TermKind::ALL, ConditionSubject::Other, IndexTerm::ALL),
        (TermKind::KIND, ConditionSubject::Other, IndexTerm::kind(event.kind)),
        (TermKind::AUTHOR, ConditionSubject::Author, IndexTerm::author(&event.pubkey)),
        (TermKind::ID, ConditionSubject::Other, IndexTerm::id(&event.id)),
    ];
    for (kind, subject, term) in named {
        if keys.has(kind) {
            let key = keys.find(&term);
            add(keys, subject, key);
        }
    }
    if !keys.has_tags() {
        return 0;
    }
    let mut tags = event.view.tags();
    let all = tags.unread();
    for (letter, value) in event.view.indexed_values_in(tags.by_ref()) {
        let key = keys.find_tag(letter, &value);
        add(keys, ConditionSubject::Tag(letter), key);
    }
    all - tags.unread()
}
