//! The sets of terms that can answer a filter, and which of them the planner prefers.

use crate::store::{Term, TermClasses};
use crate::types::{Class, Filter, Kind};

/// Widest product of authors and kinds that gets a cursor each, of all filters of a request together.
const PAIRS_MAX: usize = 20_000;
/// As wide as this, all filters of a request together, a product may always be; wider ones have [`PAIRS_PER_AUTHOR`].
const PAIRS_FREE: usize = 1_024;
/// Cursors for each author that was named: what a request costs to keep grows with what was sent, not with its square.
const PAIRS_PER_AUTHOR: usize = 4;

/// An access path of a filter: terms whose postings together hold every match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::store) enum AccessPath {
    /// Kinds × authors, all of replaceable kinds: a posting each.
    Address,
    /// Authors × kinds.
    AuthorKind,
    /// Authors; the posting has the kind.
    Author,
    /// Values of the filter's tag condition at this index; the posting has the kind.
    Tag(usize),
    /// The filter's kinds.
    Kind,
    /// Every event.
    All,
    /// These kinds, which are all there are.
    Each(Box<[Kind]>),
}

impl AccessPath {
    /// The access paths of `filter`, in a request of `filters` filters, by something better than its kinds alone.
    pub(in crate::store) fn narrow(filter: &Filter, filters: usize, classes: TermClasses) -> Vec<AccessPath> {
        let mut paths = Vec::new();
        if let Some(authors) = &filter.authors {
            let pairs_max = (PAIRS_PER_AUTHOR * authors.len()).max(PAIRS_FREE / filters.max(1));
            let pairs_max = pairs_max.min(PAIRS_MAX / filters.max(1));
            let pairs_fit = |kinds: &[Kind]| authors.len().saturating_mul(kinds.len()) <= pairs_max;
            paths.push(match filter.kinds.as_deref() {
                Some(kinds) if pairs_fit(kinds) && kinds.iter().all(|&kind| is_replaceable(kind)) => {
                    AccessPath::Address
                }
                Some(kinds) if pairs_fit(kinds) && classes.author_kind => AccessPath::AuthorKind,
                _ => AccessPath::Author,
            });
        }
        // There are no postings for a `d` that is not written.
        let has_postings = |index: &usize| !filter.tags[*index].matches_implicit_d();
        paths.extend((0..filter.tags.len()).filter(has_postings).map(AccessPath::Tag));
        paths
    }

    /// Most cursors that `filter` may have in a request of `filters` filters. Where the planner may still choose an access path
    /// or an ordered scan, at least `few` are assumed. The kinds of a store that has no term over all events are not known here.
    pub(super) fn cursors_max(filter: &Filter, filters: usize, classes: TermClasses, few: usize) -> usize {
        if filter.ids.is_some() || filter.matches_nothing() {
            return 1;
        }
        let narrow = Self::narrow(filter, filters, classes);
        let least = match narrow.first() {
            Some(path) if path.decides(filter) => path.len(filter),
            Some(_) => narrow.iter().map(|path| path.len(filter)).min().unwrap_or(0).max(few),
            None => AccessPath::broad(filter, usize::MAX).len(filter),
        };
        least.max(1)
    }

    /// The access path of `filter` that reads events in order and checks all but the kind: by the filter's kinds
    /// when they are few, else by all events.
    pub(super) fn broad(filter: &Filter, kinds_max: usize) -> AccessPath {
        match &filter.kinds {
            Some(kinds) if kinds.len() <= kinds_max => AccessPath::Kind,
            _ => AccessPath::All,
        }
    }

    /// Whether a posting of these terms whose time and kind fit proves that `filter` matches.
    pub(in crate::store) fn decides(&self, filter: &Filter) -> bool {
        let (authors, tags) = match self {
            AccessPath::Address | AccessPath::AuthorKind | AccessPath::Author => (true, 0),
            AccessPath::Tag(_) => (false, 1),
            AccessPath::Kind | AccessPath::All | AccessPath::Each(_) => (false, 0),
        };
        filter.ids.is_none() && (authors || filter.authors.is_none()) && filter.tags.len() == tags
    }

    /// Number of terms.
    pub(in crate::store) fn len(&self, filter: &Filter) -> usize {
        let authors = filter.authors.as_ref().map_or(0, |list| list.len());
        let kinds = filter.kinds.as_ref().map_or(0, |list| list.len());
        match self {
            AccessPath::Address | AccessPath::AuthorKind => authors * kinds,
            AccessPath::Author => authors,
            AccessPath::Tag(tag) => filter.tags[*tag].values.len(),
            AccessPath::Kind => kinds,
            AccessPath::All => 1,
            AccessPath::Each(kinds) => kinds.len(),
        }
    }

    /// The term at `index`, below [`AccessPath::len`]. Neighbours have neighbouring keys.
    pub(in crate::store) fn term(&self, filter: &Filter, index: usize) -> Term {
        let (authors, kinds) =
            (filter.authors.as_deref().unwrap_or(&[]), filter.kinds.as_deref().unwrap_or(&[]));
        match self {
            AccessPath::Address => {
                Term::Address(kinds[index / authors.len()], authors[index % authors.len()], Box::default())
            }
            AccessPath::AuthorKind => {
                Term::AuthorKind(authors[index / kinds.len()], kinds[index % kinds.len()])
            }
            AccessPath::Author => Term::Author(authors[index]),
            AccessPath::Tag(tag) => {
                let tag = &filter.tags[*tag];
                Term::Tag(tag.letter, tag.values[index].clone())
            }
            AccessPath::Kind => Term::Kind(kinds[index]),
            AccessPath::All => Term::All,
            AccessPath::Each(kinds) => Term::Kind(kinds[index]),
        }
    }
}

fn is_replaceable(kind: Kind) -> bool {
    Class::of(kind) == Class::Replaceable
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::PubKey;

    fn cursors(authors: usize, kinds: Kind, filters: usize) -> usize {
        let key = |n: usize| PubKey(std::array::from_fn(|at| n.to_be_bytes()[at % 8]));
        let filter = Filter {
            authors: Some((0..authors).map(key).collect()),
            kinds: Some((1..=kinds).collect()),
            ..Filter::default()
        };
        let classes = TermClasses { all: true, author_kind: true };
        AccessPath::narrow(&filter, filters, classes)[0].len(&filter)
    }

    #[test]
    fn cursors_grow_with_what_was_sent_not_with_its_square() {
        assert_eq!(cursors(10, 5, 1), 50);
        assert_eq!(cursors(32, 32, 1), 1_024);
        assert_eq!(cursors(3_000, 4, 1), 12_000, "profiles and lists of whom one follows");
        assert_eq!(cursors(141, 141, 1), 141);
        assert_eq!(cursors(10, 40, 100), 10);
        assert_eq!(cursors(50, 4, 100), 200);
        assert_eq!(cursors(15_000, 4, 1), 15_000);
    }
}
