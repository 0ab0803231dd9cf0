//! From an event to the terms it is found by.

use sha2::{Digest, Sha256};

use crate::types::{CanonicalEvent, Class, Kind, PubKey};

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
    /// Events with an indexed tag: letter and first value.
    Tag(u8, Box<[u8]>),
}

/// Which optional classes of terms a backend keeps. `Author`, `Kind`, `Address` and `Tag` always are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TermClasses {
    /// [`Term::All`]. Without it a scan over time merges the postings of all kinds.
    pub all: bool,
    /// [`Term::AuthorKind`]. Without it an author's postings are read and their kinds looked at.
    pub author_kind: bool,
}

/// The terms to store `event` under, without repeats, [`TermClasses`] allowing.
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
    if let Some(d) = address_d(event) {
        terms.push(Term::Address(kind, pubkey, d));
    }
    let first_tag = terms.len();
    terms.extend(tags.indexed().map(|(letter, value)| Term::Tag(letter, value.into())));
    terms[first_tag..].sort_unstable();
    terms.dedup();
    terms
}

/// The third part of an event's address: empty for replaceable events, the first `d` tag's value (empty
/// where there is none) for addressable ones, nothing for the others.
pub fn address_d(event: CanonicalEvent<'_>) -> Option<Box<[u8]>> {
    match Class::of(event.kind()) {
        Class::Replaceable => Some(Box::default()),
        Class::Addressable => Some(event.tags().find(b"d").unwrap_or_default().into()),
        Class::Regular | Class::Ephemeral => None,
    }
}

/// Longest term value that is kept as it is in a key; longer ones are kept as their SHA-256.
const VALUE_BYTES_MAX: usize = 64;

impl Term {
    /// Appends a key of at most 131 bytes that no other term has:
    ///
    /// ```text
    /// a                                all
    /// k kind:2                         kind
    /// u pubkey:32                      author
    /// v pubkey:32 kind:2               author and kind
    /// r kind:2 pubkey:32 value         address
    /// t letter:1 value                 tag
    ///
    /// value   =   0 bytes              up to 64 bytes as they are
    ///         |   1 hex:32             64 lowercase hex digits, packed
    ///         |   2 sha256:32          anything longer
    /// ```
    pub fn write_key(&self, key: &mut Vec<u8>) {
        match self {
            Term::All => key.push(b'a'),
            Term::Kind(kind) => {
                key.push(b'k');
                key.extend_from_slice(&kind.to_be_bytes());
            }
            Term::Author(pubkey) => {
                key.push(b'u');
                key.extend_from_slice(&pubkey.0);
            }
            Term::AuthorKind(pubkey, kind) => {
                key.push(b'v');
                key.extend_from_slice(&pubkey.0);
                key.extend_from_slice(&kind.to_be_bytes());
            }
            Term::Address(kind, pubkey, d) => {
                key.push(b'r');
                key.extend_from_slice(&kind.to_be_bytes());
                key.extend_from_slice(&pubkey.0);
                write_value(d, key);
            }
            Term::Tag(letter, value) => {
                key.extend_from_slice(&[b't', *letter]);
                write_value(value, key);
            }
        }
    }
}

fn write_value(value: &[u8], key: &mut Vec<u8>) {
    if let Ok(bytes) = PubKey::from_hex(value) {
        key.push(1);
        key.extend_from_slice(&bytes.0);
    } else if value.len() <= VALUE_BYTES_MAX {
        key.push(0);
        key.extend_from_slice(value);
    } else {
        key.push(2);
        key.extend_from_slice(&Sha256::digest(value));
    }
}
