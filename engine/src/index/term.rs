//! A term of the index: what it is about and its 32 bytes, and the keyed hash of terms.
//!
//! Ids and authors are 32 bytes already, so are the `#e` and `#p` values once packed; text up to 32 bytes stands as it is,
//! longer text by its SHA-256, so a value's length costs no memory.
//!
//! Clients choose these bytes, so terms are hashed with a secret key: MULTILINEAR-HM (Lemire and Kaser, «Strongly universal
//! string hashing is fast», 2014) over eight 32-bit words and the kind. Without the key no client finds two terms that
//! collide with a chance above 2^-32, which `rustc-hash`, with or without a seed, does not promise; and five
//! multiplications are faster than SipHash.

use sha2::{Digest, Sha256};

use crate::types::{EventId, Kind, PubKey};

/// What a term is about: all events, a kind, an author or an id; or a tag, with the form of its value (high byte) and its
/// letter (low byte).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TermKind(u16);

impl TermKind {
    /// Every event.
    pub(super) const ALL: TermKind = TermKind(0);
    pub(super) const KIND: TermKind = TermKind(1);
    pub(super) const AUTHOR: TermKind = TermKind(2);
    pub(super) const ID: TermKind = TermKind(3);
    /// No term: a free entry, or a block that is hashed as a term is.
    pub(super) const NONE: TermKind = TermKind(u16::MAX);

    const FORM_HEX: u16 = 1;
    const FORM_DIGEST: u16 = 2;
    /// Text of n bytes has form 3 + n.
    const FORM_TEXT: u16 = 3;

    fn tag(letter: u8, form: u16) -> Self {
        TermKind(form << 8 | u16::from(letter))
    }

    /// Where the keys of this kind are counted.
    pub(super) fn counter(self) -> usize {
        let (form, letter) = (self.0 >> 8, usize::from(self.0 as u8));
        match form {
            0 => letter,
            Self::FORM_DIGEST => DIGESTS_AT + letter,
            _ => TAGS_AT + letter,
        }
    }
}

/// Where [`TermKind::counter`] counts: the four plain kinds, tags by letter, digests by letter.
pub(super) const TAGS_AT: usize = 4;
pub(super) const DIGESTS_AT: usize = TAGS_AT + 256;
pub(super) const COUNTERS: usize = DIGESTS_AT + 256;

/// A term, by value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct IndexTerm {
    /// The 32 bytes as words: compared and hashed without a call.
    pub(super) words: [u64; 4],
    pub(super) kind: TermKind,
}

impl IndexTerm {
    pub(super) const ALL: IndexTerm = IndexTerm { words: [0; 4], kind: TermKind::ALL };

    fn new(bytes: &[u8; 32], kind: TermKind) -> Self {
        let bytes = bytes.as_chunks::<8>().0;
        IndexTerm { words: std::array::from_fn(|at| u64::from_le_bytes(bytes[at])), kind }
    }

    pub(super) fn id(id: &EventId) -> Self {
        Self::new(&id.0, TermKind::ID)
    }

    pub(super) fn author(author: &PubKey) -> Self {
        Self::new(&author.0, TermKind::AUTHOR)
    }

    pub(super) fn kind(kind: Kind) -> Self {
        IndexTerm { words: [u64::from(kind), 0, 0, 0], kind: TermKind::KIND }
    }

    /// A block of something that is not a key, to be hashed with the same care.
    pub(super) fn block(bytes: [u8; 32]) -> Self {
        Self::new(&bytes, TermKind::NONE)
    }

    pub(super) fn tag(letter: u8, value: &[u8]) -> Self {
        Self::short_tag(letter, value).unwrap_or_else(|| {
            Self::new(&Sha256::digest(value).into(), TermKind::tag(letter, TermKind::FORM_DIGEST))
        })
    }

    /// The term of a value that needs no digest.
    pub(super) fn short_tag(letter: u8, value: &[u8]) -> Option<Self> {
        if let Ok(PubKey(bytes)) = PubKey::from_hex(value) {
            return Some(Self::new(&bytes, TermKind::tag(letter, TermKind::FORM_HEX)));
        }
        let mut bytes = [0; 32];
        bytes.get_mut(..value.len())?.copy_from_slice(value);
        let form = TermKind::FORM_TEXT + value.len() as u16;
        Some(Self::new(&bytes, TermKind::tag(letter, form)))
    }
}

/// The secret key of the hash.
#[derive(Clone, Debug)]
pub(super) struct KeyedHash {
    keys: [u64; 11],
}

impl KeyedHash {
    /// Stretches `seed` with SplitMix64.
    pub(super) fn new(seed: u64) -> Self {
        let mut state = seed;
        let keys = std::array::from_fn(|_| {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut word = state;
            word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            word ^ word >> 31
        });
        KeyedHash { keys }
    }

    #[inline]
    pub(super) fn hash(&self, term: &IndexTerm) -> u32 {
        let key = &self.keys;
        let mut sum = key[0].wrapping_add(key[1].wrapping_add(u64::from(term.kind.0)).wrapping_mul(key[2]));
        for (pair, key) in term.words.iter().zip(key[3..].as_chunks::<2>().0) {
            let left = key[0].wrapping_add(pair & 0xffff_ffff);
            let right = key[1].wrapping_add(pair >> 32);
            sum = sum.wrapping_add(left.wrapping_mul(right));
        }
        (sum >> 32) as u32
    }
}
