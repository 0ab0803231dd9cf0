//! Filters (NIP-01), checked and normalised: lists sorted and without repeats.

use super::hex::{EventId, PubKey};
use super::kind::Kind;
use super::time::Timestamp;
use super::{CanonicalEvent, Event};

/// One filter. All conditions must hold; inside a list any one value suffices.
///
/// `None` sets no condition; an empty list matches nothing. Lists are sorted and without duplicates after
/// [`Filter::normalise`], which must be called once its fields are set, before it is used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Event ids.
    pub ids: Option<Box<[EventId]>>,
    /// Authors.
    pub authors: Option<Box<[PubKey]>>,
    /// Kinds.
    pub kinds: Option<Box<[Kind]>>,
    /// Tag conditions, at most one a letter, sorted by letter.
    pub tags: Box<[TagFilter]>,
    /// Not older than this second.
    pub since: Option<Timestamp>,
    /// Not newer than this second.
    pub until: Option<Timestamp>,
    /// How many stored events are wanted; no meaning for live ones.
    pub limit: Option<u32>,
}

/// A condition on one single-letter tag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagFilter {
    /// `a-z` or `A-Z`.
    pub letter: u8,
    /// The values that match, unescaped UTF-8.
    pub values: Box<[Box<[u8]>]>,
}

impl Filter {
    /// Sorts every list and drops repeats.
    pub fn normalise(&mut self) {
        fn sort<T: Ord + Clone>(list: &mut Box<[T]>) {
            if list.is_sorted_by(|a, b| a < b) {
                return;
            }
            let mut values = std::mem::take(list).into_vec();
            values.sort_unstable();
            values.dedup();
            *list = values.into();
        }
        self.ids.iter_mut().for_each(sort);
        self.authors.iter_mut().for_each(sort);
        self.kinds.iter_mut().for_each(sort);
        self.tags.sort_unstable_by_key(|tag| tag.letter);
        self.tags.iter_mut().for_each(|tag| sort(&mut tag.values));
    }

    /// Whether nothing can ever match: an empty list, or `since` after `until`.
    pub fn matches_nothing(&self) -> bool {
        self.ids.as_ref().is_some_and(|list| list.is_empty())
            || self.authors.as_ref().is_some_and(|list| list.is_empty())
            || self.kinds.as_ref().is_some_and(|list| list.is_empty())
            || self.tags.iter().any(|tag| tag.values.is_empty())
            || self.since.unwrap_or(0) > self.until.unwrap_or(Timestamp::MAX)
    }

    /// How many values its lists hold together; the measure of what it costs to keep.
    pub fn value_count(&self) -> usize {
        self.ids.as_ref().map_or(0, |list| list.len())
            + self.authors.as_ref().map_or(0, |list| list.len())
            + self.kinds.as_ref().map_or(0, |list| list.len())
            + self.tags.iter().map(|tag| tag.values.len()).sum::<usize>()
    }

    /// Whether `event` matches; `limit` is ignored. The reference implementation: faster ones are tested against it.
    pub fn matches(&self, event: &Event) -> bool {
        self.matches_time(event.created_at)
            && self.matches_kind(event.kind)
            && self.matches_author(&event.pubkey)
            && self.matches_id(&event.id)
            && self.matches_tags(event.view())
    }

    /// [`Filter::matches`] on stored bytes; decodes only what the filter asks about.
    ///
    /// Reads the tags once for each tag condition; [`super::EventMatcher`] is for asking many.
    pub fn matches_stored(&self, event: CanonicalEvent<'_>) -> bool {
        self.matches_stored_except_tags(event) && (self.tags.is_empty() || self.matches_tags(event))
    }

    /// [`Filter::matches_stored`] without the conditions on tags.
    pub(super) fn matches_stored_except_tags(&self, event: CanonicalEvent<'_>) -> bool {
        self.matches_time(event.created_at())
            && self.matches_kind(event.kind())
            && (self.authors.is_none() || self.matches_author(&event.pubkey()))
            && (self.ids.is_none() || self.matches_id(&event.id()))
    }

    /// Whether `since` and `until` allow this second; both are inclusive.
    pub fn matches_time(&self, created_at: Timestamp) -> bool {
        self.since.is_none_or(|since| created_at >= since)
            && self.until.is_none_or(|until| created_at <= until)
    }

    /// Whether `kinds` allows this kind.
    pub fn matches_kind(&self, kind: Kind) -> bool {
        self.kinds.as_ref().is_none_or(|list| list.binary_search(&kind).is_ok())
    }

    /// Whether `authors` allows this author.
    pub fn matches_author(&self, pubkey: &PubKey) -> bool {
        self.authors.as_ref().is_none_or(|list| list.binary_search(pubkey).is_ok())
    }

    /// Whether `ids` allows this id.
    pub fn matches_id(&self, id: &EventId) -> bool {
        self.ids.as_ref().is_none_or(|list| list.binary_search(id).is_ok())
    }

    /// Whether every tag condition finds one of its values ([`CanonicalEvent::indexed_values`]).
    pub fn matches_tags(&self, event: CanonicalEvent<'_>) -> bool {
        self.tags.iter().all(|wanted| {
            event.indexed_values().any(|(letter, value)| letter == wanted.letter && wanted.contains(&value))
        })
    }
}

impl TagFilter {
    /// Whether `value` is one of the wanted ones.
    pub fn contains(&self, value: &[u8]) -> bool {
        self.values.binary_search_by(|other| (**other).cmp(value)).is_ok()
    }

    /// Whether events match that have no such tag, by the empty `d` of their address.
    pub fn matches_implicit_d(&self) -> bool {
        self.letter == b'd' && self.contains(b"")
    }
}

/// A subscription id, 1 to 64 characters of any Unicode (NIP-01), unescaped.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SubId(Box<str>);

impl SubId {
    /// Longest id in characters; NIP-01's own bound, so not a setting.
    pub const CHARS_MAX: usize = 64;

    /// Takes an id of 1 to 64 characters.
    pub fn new(id: &str) -> Option<Self> {
        let fits = !id.is_empty() && id.chars().nth(Self::CHARS_MAX).is_none();
        fits.then(|| SubId(id.into()))
    }

    /// The id.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
