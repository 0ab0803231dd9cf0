//! From a filter to postings: the choice of the anchor, and what is left to check.
//!
//! A filter is anchored on one of its lists: each value of that list gets a posting, the other lists become
//! conditions. Matching an event visits every posting on its keys, so the anchor should be the list that the
//! fewest events meet:
//!
//! | list | weight of a value | why |
//! |---|---|---|
//! | ids | always first | at most one event ever |
//! | `e E a A q d i x` and other letters that name one thing | 1 | few events name one value |
//! | authors, `p P` | 4 | one person's events, one person's mentions |
//! | `t g r k K l L` | 64 | topics, geohashes, URLs, kinds and labels are shared by many |
//! | an empty `d` | 1,024 | all replaceable events have it |
//! | kinds, or no list at all | when there is nothing else | |
//!
//! The list with the least total weight is the anchor; on a tie a tag comes before authors. The total is also what the
//! subscription costs to insert, so a follow list of thousands is never the anchor where one `#t` can be. Kinds are
//! no condition: the group of a posting states them.

use super::checked::{CheckedFilters, Condition, ConditionSubject};
use super::keys::InternedTerms;
use super::kinds::KindsCode;
use super::postings::{Check, GROUPS_MAX, Group, PostingIds};
use super::term::IndexTerm;
use super::{Index, SubSlot};
use crate::types::{Filter, TagFilter, Timestamp};

/// The list that gets the postings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Anchor {
    Ids,
    /// By index in [`Filter::tags`].
    Tag(usize),
    Authors,
    Kinds,
    All,
}

/// How many events have to be compared with a filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Breadth {
    /// Those that have one of its ids, authors or tag values.
    Narrow,
    /// All of this number of kinds.
    Kinds(usize),
    /// All.
    AllEvents,
}

impl Breadth {
    /// Of a filter that is normalised.
    pub fn of(filter: &Filter) -> Self {
        match Anchor::choose(filter) {
            Anchor::Ids | Anchor::Tag(_) | Anchor::Authors => Breadth::Narrow,
            Anchor::Kinds => Breadth::Kinds(filter.kinds.as_ref().map_or(0, |kinds| kinds.len())),
            Anchor::All => Breadth::AllEvents,
        }
    }
}

impl Anchor {
    fn choose(filter: &Filter) -> Self {
        if filter.ids.is_some() {
            return Anchor::Ids;
        }
        let tags = filter.tags.iter().enumerate();
        let tag = tags.map(|(at, tag)| (tag_weight(tag), Anchor::Tag(at)));
        let authors = filter.authors.iter().map(|list| (AUTHOR_WEIGHT * list.len(), Anchor::Authors));
        let fallback = if filter.kinds.is_some() { Anchor::Kinds } else { Anchor::All };
        tag.chain(authors).min_by_key(|(weight, _)| *weight).map_or(fallback, |(_, anchor)| anchor)
    }
}

const AUTHOR_WEIGHT: usize = 4;
/// Every replaceable event has the empty `d`: more events than many authors have.
const IMPLICIT_D_WEIGHT: usize = 1_024;

fn tag_weight(tag: &TagFilter) -> usize {
    let each = match tag.letter {
        b'p' | b'P' => 4,
        b't' | b'g' | b'r' | b'k' | b'K' | b'l' | b'L' => 64,
        _ => 1,
    };
    let implicit = if tag.matches_implicit_d() { IMPLICIT_D_WEIGHT } else { 0 };
    each * tag.values.len() + implicit
}

/// A filter on its way into the index.
struct Compiled {
    slot: SubSlot,
    since: Timestamp,
    until: Timestamp,
    kinds: KindsCode,
    check: Check,
    /// The checked filter, once there is one.
    checked: Option<u32>,
}

impl Index {
    /// Adds the postings of one filter; returns the head of the slot's checked filters.
    pub(super) fn compile(&mut self, slot: SubSlot, filter: &Filter, checked_head: u32) -> u32 {
        let anchor = Anchor::choose(filter);
        let kinds = if anchor == Anchor::Kinds { None } else { filter.kinds.as_deref() };
        let (since, until) = (filter.since.unwrap_or(0), filter.until.unwrap_or(Timestamp::MAX));
        let mut compiled = Compiled {
            slot,
            since,
            until,
            kinds: self.kind_sets.add_ref_to_list(kinds, self.keys.keyed()),
            check: if since > 0 || until < Timestamp::MAX { Check::Time } else { Check::Plain },
            checked: None,
        };
        let conditions = self.conditions(filter, anchor);
        if !conditions.is_empty() {
            compiled.check = Check::Full;
            let id = compiled.checked(&mut self.checked, checked_head);
            self.checked.set_conditions(id, KindsCode::ANY, conditions);
        }
        match anchor {
            Anchor::Ids => {
                self.add_postings(&mut compiled, checked_head, listed(&filter.ids).map(IndexTerm::id))
            }
            Anchor::Authors => {
                self.add_postings(
                    &mut compiled,
                    checked_head,
                    listed(&filter.authors).map(IndexTerm::author),
                );
            }
            Anchor::Kinds => {
                let terms = listed(&filter.kinds).map(|kind| IndexTerm::kind(*kind));
                self.add_postings(&mut compiled, checked_head, terms);
            }
            Anchor::Tag(at) => {
                let tag = &filter.tags[at];
                let terms = tag.values.iter().map(|value| IndexTerm::tag(tag.letter, value));
                self.add_postings(&mut compiled, checked_head, terms);
            }
            Anchor::All => self.add_postings(&mut compiled, checked_head, std::iter::once(IndexTerm::ALL)),
        }
        self.kind_sets.release(compiled.kinds);
        compiled.checked.unwrap_or(checked_head)
    }

    /// The keys of every list but the anchor's and the kinds, each with a new reference.
    fn conditions(&mut self, filter: &Filter, anchor: Anchor) -> Vec<Condition> {
        let mut lists = Vec::new();
        if filter.authors.is_some() && anchor != Anchor::Authors {
            let terms = listed(&filter.authors).map(IndexTerm::author);
            lists
                .push(Condition { subject: ConditionSubject::Author, keys: add_refs(&mut self.keys, terms) });
        }
        for (at, tag) in filter.tags.iter().enumerate() {
            if anchor != Anchor::Tag(at) {
                let terms = tag.values.iter().map(|value| IndexTerm::tag(tag.letter, value));
                let keys = add_refs(&mut self.keys, terms);
                lists.push(Condition { subject: ConditionSubject::Tag(tag.letter), keys });
            }
        }
        lists
    }

    fn add_postings(
        &mut self,
        compiled: &mut Compiled,
        checked_head: u32,
        terms: impl Iterator<Item = IndexTerm>,
    ) {
        for term in terms {
            let key = self.keys.intern(&term);
            self.add_posting(compiled, checked_head, key);
        }
    }

    fn add_posting(&mut self, compiled: &mut Compiled, checked_head: u32, key: u32) {
        let Compiled { slot, mut kinds, mut check, .. } = *compiled;
        let Some(groups) = self.keys.groups_mut(key) else { return };
        let mut index = groups.iter().position(|group| group.kinds == kinds && group.check == check);
        if index.is_none() && groups.len() >= GROUPS_MAX {
            let id = compiled.checked(&mut self.checked, checked_head);
            if self.checked.check_kinds(id, kinds) {
                self.kind_sets.add_ref(kinds);
            }
            (kinds, check) = (KindsCode::ANY, Check::Full);
            index = groups.iter().position(|group| group.kinds == kinds && group.check == check);
        }
        let posting = match check {
            Check::Plain => slot.0,
            Check::Time | Check::Full => compiled.checked(&mut self.checked, checked_head),
        };
        self.postings += 1;
        if let Some(index) = index {
            let ids = &mut groups[index].ids;
            self.posting_bytes -= ids.bytes();
            ids.push(posting);
            self.posting_bytes += ids.bytes();
            return;
        }
        self.group_bytes -= groups.capacity() * size_of::<Group>();
        if groups.is_empty() {
            groups.reserve_exact(1);
        }
        groups.push(Group { ids: PostingIds::one(posting), kinds, check });
        self.group_bytes += groups.capacity() * size_of::<Group>();
        self.kind_sets.add_ref(kinds);
    }
}

impl Compiled {
    fn checked(&mut self, filters: &mut CheckedFilters, head: u32) -> u32 {
        *self.checked.get_or_insert_with(|| filters.add(self.slot, self.since, self.until, head))
    }
}

fn listed<T>(list: &Option<Box<[T]>>) -> impl Iterator<Item = &T> {
    list.iter().flat_map(|list| list.iter())
}

fn add_refs(keys: &mut InternedTerms, terms: impl Iterator<Item = IndexTerm>) -> Box<[u32]> {
    let mut list = Vec::with_capacity(terms.size_hint().0);
    for term in terms {
        let key = keys.intern(&term);
        keys.add_ref(key);
        list.push(key);
    }
    list.sort_unstable();
    list.into()
}
