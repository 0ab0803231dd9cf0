//! From an event to the terms it is found by.

use crate::types::{CanonicalEvent, Kind, PubKey};

/// A key with postings.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Term {
    /// Every event.
    All,
    /// Events of a kind.
    Kind(Kind),
    /// Events of an author.
    Author(PubKey),
    /// Events of an author and a kind.
    AuthorKind(PubKey, Kind),
    /// Versions of one replaceable or addressable event: kind, author, `d` tag.
    Address(Kind, PubKey, Box<[u8]>),
    /// Events with an indexed tag: letter and first value. Only what is written has a posting: an event that is found by
    /// the empty `d` of its address ([`CanonicalEvent::indexed_values`]) may have none.
    Tag(u8, Box<[u8]>),
}

/// Which optional classes of terms a backend keeps. `Author`, `Kind`, `Address` and `Tag` always are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TermClasses {
    /// [`Term::All`]. Without it a scan over time merges the postings of all kinds.
    pub all: bool,
    /// [`Term::AuthorKind`]. Without it an author's postings are read and filtered by kind.
    pub author_kind: bool,
}

/// The terms to store `event` under, without repeats, as far as `classes` has them.
pub fn terms_of(event: CanonicalEvent<'_>, classes: TermClasses) -> Vec<Term> {
    let (pubkey, kind, tags) = (event.pubkey(), event.kind(), event.tags());
    let mut terms = Vec::with_capacity(8);
    if classes.all {
        terms.push(Term::All);
    }
    terms.push(Term::Kind(kind));
    terms.push(Term::Author(pubkey));
    if classes.author_kind {
        terms.push(Term::AuthorKind(pubkey, kind));
    }
    if let Some(d) = event.address_d() {
        terms.push(Term::Address(kind, pubkey, d.into()));
    }
    let first_tag = terms.len();
    terms.extend(tags.indexed().map(|(letter, value)| Term::Tag(letter, value.into())));
    terms[first_tag..].sort_unstable();
    terms.dedup();
    terms
}
