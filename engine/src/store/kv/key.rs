//! The encoding of keys. Keys compare as bytes in the order of what they encode, and a match of keys is final: it is not
//! checked against the event.
//!
//! ```text
//! posting     = head  rank_and_more:24
//!
//! head        = 'a'                                  every event
//!             | 'k'  kind:2                          a kind
//!             | 'u'  hash:16  0                      an author; hash of the public key
//!             | 'u'  hash:16  1  kind:2              an author and a kind
//!             | 'u'  hash:16  2  kind:2  hash:16     an address; the second is of the `d` value
//!             | 't'  letter:1   hash:16              a tag; hash of its value
//!
//! rank_and_more   not created_at:8   id prefix:8   seq:47 expires:1   kind:2
//!
//! id          = 'i'  id:32  seq:8
//! expiry      = 'x'  expires_at:8  seq:8
//!
//! tombstone   = 'i'  id:32  pubkey:32
//!             | 'r'  kind:2  pubkey:32  hash:16
//!             | 'v'  pubkey:32
//!             | 'd'  SHA-256 of one of these:32           where it was copied from a store that knows only that
//!
//! in lsm      = 'd'  SHA-256 of tombstone:32  not until:8        tombstones are among the keys in SQL and on files
//! ```
//!
//! All integers are big-endian; `created_at` is inverted so that newest comes first. No head is the beginning
//! of another. `hash` is the first half of a SHA-256: finding a collision takes 2^64 tries, and whoever
//! finds one has only confused two of their own events. Half hashes make keys short, and keys are most of a store's
//! size and work, and an author's three kinds of postings stand side by side, so that one event touches fewer
//! pages.

use std::fmt;

use sha2::{Digest, Sha256};

use super::conversion::TombstoneHash;
use crate::store::backend::{Posting, Rank, Seq, StartAt, Tombstone};
use crate::store::terms::Term;
use crate::types::{EventId, Kind, Timestamp};

/// Bytes of a posting after its head.
pub const POSTING_BYTES: usize = 24;
/// `'u' hash:16 2 kind:2 hash:16`, a posting, and a byte that makes it a bound after the posting.
const KEY_BYTES_MAX: usize = 36 + POSTING_BYTES + 1;
/// Sequence numbers are below 2^47 ([`Seq`]); bounds may be anything.
const SEQ_MAX: u64 = (1 << 47) - 1;
/// Bytes kept of a hash.
const HALF: usize = 16;

/// A key of at most 61 bytes, without an allocation. Ordered as bytes.
#[derive(Clone, Copy)]
pub struct Key {
    len: u8,
    bytes: [u8; KEY_BYTES_MAX],
}

impl Key {
    /// Before every key.
    pub const EMPTY: Key = Key { len: 0, bytes: [0; KEY_BYTES_MAX] };

    fn new(parts: &[&[u8]]) -> Self {
        let mut key = Key::EMPTY;
        for part in parts {
            key.push(part);
        }
        key
    }

    fn push(&mut self, part: &[u8]) {
        let at = usize::from(self.len);
        self.bytes[at..at + part.len()].copy_from_slice(part);
        self.len += part.len() as u8;
    }

    fn with(mut self, parts: &[&[u8]]) -> Self {
        for part in parts {
            self.push(part);
        }
        self
    }

    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// Its first eight bytes as a number, as if zeros followed it. Of two keys the lesser has no greater one.
    pub(in crate::store) fn prefix(&self) -> u64 {
        prefix_of(self.as_bytes())
    }

    /// A key that a backend read; `None` if it is longer than any key.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        (bytes.len() <= KEY_BYTES_MAX).then(|| Key::new(&[bytes]))
    }

    /// The key that begins with the first `shared` bytes of this one and continues with `rest`; `None` if there
    /// are not that many, or the result is longer than any key.
    pub(in crate::store) fn splice(&self, shared: usize, rest: &[u8]) -> Option<Self> {
        let len = shared.checked_add(rest.len())?;
        if shared > usize::from(self.len) || len > KEY_BYTES_MAX {
            return None;
        }
        let mut key = *self;
        key.bytes[shared..len].copy_from_slice(rest);
        key.len = len as u8;
        Some(key)
    }

    /// How many of the first bytes are also the first ones of `other`.
    pub(in crate::store) fn shared(&self, other: &Key) -> usize {
        self.as_bytes().iter().zip(other.as_bytes()).take_while(|(a, b)| a == b).count()
    }

    /// The least key above this one.
    pub(in crate::store) fn successor(&self) -> Option<Key> {
        self.splice(self.as_bytes().len(), &[0])
    }

    /// The sequence number of the event that this is a key of.
    pub fn seq(&self) -> Option<Seq> {
        match self.as_bytes() {
            [b'd', ..] => None,
            [b'i' | b'x', ..] => read_seq(self.as_bytes()),
            bytes => read_posting(bytes).map(|posting| posting.seq),
        }
    }

    /// The posting that this is the key of.
    pub fn posting(&self) -> Option<Posting> {
        posting_head(self.as_bytes()).and_then(|_| read_posting(self.as_bytes()))
    }

    /// The id and the event's sequence number, if it is the key of an id.
    pub(in crate::store) fn id_and_seq(&self) -> Option<(EventId, Seq)> {
        match self.as_bytes() {
            [b'i', rest @ ..] => Some((EventId(*rest.first_chunk()?), read_seq(rest)?)),
            _ => None,
        }
    }

    /// The `created_at` of the posting that this is the key of.
    pub(in crate::store) fn created_at(&self) -> Option<Timestamp> {
        let (_, posting) = posting_head(self.as_bytes())?;
        be64(&posting[..8]).map(|inverted| !inverted)
    }

    /// What all postings of its term begin with, if this is a posting's key, or a bound of one.
    fn head(&self) -> Option<&[u8]> {
        let bytes = self.as_bytes();
        let len = match bytes {
            [b'a', ..] => 1,
            [b'k', ..] => 3,
            [b'u', ..] => match bytes.get(1 + HALF)? {
                0 => 2 + HALF,
                1 => 4 + HALF,
                _ => 4 + 2 * HALF,
            },
            [b't', ..] => 2 + HALF,
            _ => return None,
        };
        bytes.get(..len)
    }

    /// The same, if it has a hash in it.
    pub(in crate::store) fn hashed_head(&self) -> Option<&[u8]> {
        self.head().filter(|head| head.len() > HALF)
    }

    /// The least key with the head of `from` and `to` that a posting not later than `newest` may have; `None` if they are not bounds
    /// of one term's postings.
    pub(in crate::store) fn least_of(from: &Key, to: &Key, newest: Timestamp) -> Option<Key> {
        let head = from.head().filter(|head| to.head() == Some(head))?;
        Some(Key::new(&[head, &(!newest).to_be_bytes()]))
    }

    /// Whether both are of the same tombstone, even if their timestamps differ.
    pub(in crate::store) fn is_same_tombstone(&self, other: &Key) -> bool {
        self.as_bytes().first() == Some(&b'd') && self.as_bytes().get(..33) == other.as_bytes().get(..33)
    }

    /// The hash in it, if it is the key of an id or a tombstone: what a look-up knows of the key.
    pub(in crate::store) fn lookup_hash(&self) -> Option<&[u8; 32]> {
        match self.as_bytes() {
            [b'i' | b'd', rest @ ..] => rest.first_chunk(),
            _ => None,
        }
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
    }
}

impl Eq for Key {}

impl Ord for Key {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        // Most comparisons are decided without a call.
        self.prefix().cmp(&other.prefix()).then_with(|| self.as_bytes().cmp(other.as_bytes()))
    }
}

impl PartialOrd for Key {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02x?}", self.as_bytes())
    }
}

/// The first eight bytes of a key as a number, as if zeros followed it.
pub(in crate::store) fn prefix_of(key: &[u8]) -> u64 {
    key.first_chunk().map_or_else(
        || {
            let mut bytes = [0; 8];
            bytes[..key.len()].copy_from_slice(key);
            u64::from_be_bytes(bytes)
        },
        |bytes| u64::from_be_bytes(*bytes),
    )
}

/// What all postings of a term begin with.
pub(super) fn head(term: &Term) -> Key {
    match term {
        Term::All => Key::new(&[b"a"]),
        Term::Kind(kind) => Key::new(&[b"k", &kind.to_be_bytes()]),
        Term::Author(pubkey) => Key::new(&[b"u", &hash(&pubkey.0), &[0]]),
        Term::AuthorKind(pubkey, kind) => Key::new(&[b"u", &hash(&pubkey.0), &[1], &kind.to_be_bytes()]),
        Term::Address(kind, pubkey, d) => {
            Key::new(&[b"u", &hash(&pubkey.0), &[2], &kind.to_be_bytes(), &hash(d)])
        }
        Term::Tag(letter, value) => Key::new(&[b"t", &[*letter], &hash(value)]),
    }
}

/// The key of one posting.
pub(super) fn posting(head: Key, posting: &Posting) -> Key {
    head.with(&[
        &rank(&posting.rank),
        &seq_and_expiry(posting.seq, posting.expires),
        &posting.kind.to_be_bytes(),
    ])
}

/// The least key that a posting at `start` or after it may have.
pub(super) fn posting_from(head: Key, start: StartAt) -> Key {
    match start {
        StartAt::Rank(at) => head.with(&[&rank(&at), &[0; 8]]),
        // Longer than the last key of this sequence number, and so right after it.
        StartAt::After(at, seq) => head.with(&[&rank(&at), &seq_and_expiry(seq, true), &[0xff, 0xff, 0]]),
    }
}

/// The greatest key a posting with a `created_at` of `oldest` may have.
pub(super) fn posting_to(head: Key, oldest: Timestamp) -> Key {
    head.with(&[&(!oldest).to_be_bytes(), &[0xff; 16]])
}

/// The posting of which `key` is the key.
pub(super) fn read_posting(key: &[u8]) -> Option<Posting> {
    let bytes: &[u8; POSTING_BYTES] = key.last_chunk()?;
    let mut seq = [0; 8];
    seq[2..].copy_from_slice(&bytes[16..22]);
    let seq = u64::from_be_bytes(seq);
    Some(Posting {
        rank: Rank { created_at: !be64(&bytes[..8])?, prefix: be64(&bytes[8..16])? },
        seq: Seq(seq >> 1),
        kind: Kind::from_be_bytes([bytes[22], bytes[23]]),
        expires: seq & 1 == 1,
    })
}

/// A posting's key in two: what all of its term's begin with, and the rest. `None` for ids, expiries and tombstones.
pub fn posting_head(key: &[u8]) -> Option<(&[u8], &[u8; POSTING_BYTES])> {
    match key {
        [b'i' | b'x' | b'd', ..] => None,
        _ => key.split_last_chunk(),
    }
}

/// The kind of which `key` is a posting.
pub(super) fn read_kind(key: &[u8]) -> Option<Kind> {
    match key {
        [b'k', high, low, ..] => Some(Kind::from_be_bytes([*high, *low])),
        _ => None,
    }
}

/// The key under which an event's sequence number is found.
pub(super) fn id(id: &EventId, seq: Seq) -> Key {
    Key::new(&[b"i", &id.0, &seq.0.to_be_bytes()])
}

/// The key of an event that expires.
pub(super) fn expiry(expires_at: Timestamp, seq: Seq) -> Key {
    Key::new(&[b"x", &expires_at.to_be_bytes(), &seq.0.to_be_bytes()])
}

/// The sequence number at the end of an id's or an expiry's key.
pub(super) fn read_seq(key: &[u8]) -> Option<Seq> {
    key.last_chunk::<8>().map(|bytes| Seq(u64::from_be_bytes(*bytes)))
}

/// The key of a tombstone; at most 65 bytes.
pub(super) fn tombstone(tombstone: &Tombstone) -> Box<[u8]> {
    match tombstone {
        Tombstone::Id(id, pubkey) => [b"i", &id.0[..], &pubkey.0].concat().into(),
        Tombstone::Address { kind, pubkey, d } => {
            [b"r", &kind.to_be_bytes()[..], &pubkey.0, &hash(d)].concat().into()
        }
        Tombstone::Vanished(pubkey) => [b"v", &pubkey.0[..]].concat().into(),
    }
}

/// A tombstone among the keys. Of several of one tombstone the one with the latest timestamp comes first.
pub(in crate::store) fn tombstone_key(tombstone: &[u8], until: Timestamp) -> Key {
    Key::new(&[b"d", &hash_of_tombstone(tombstone), &(!until).to_be_bytes()])
}

/// SHA-256 of a tombstone, whichever form its key has.
pub fn hash_of_tombstone(key: &[u8]) -> TombstoneHash {
    match key {
        [b'd', hash @ ..] if hash.len() == 32 => *hash.first_chunk().expect("it has 32 bytes"),
        _ => Sha256::digest(key).into(),
    }
}

/// The key of a tombstone of which only the hash is known.
pub fn hashed_tombstone(hash: &TombstoneHash) -> [u8; 33] {
    let mut key = [b'd'; 33];
    key[1..].copy_from_slice(hash);
    key
}

/// Bounds of all tombstones among the keys.
pub(super) fn tombstones_start() -> Key {
    Key::new(&[b"d"])
}

pub(super) fn tombstones_end() -> Key {
    Key::new(&[b"d", &[0xff; 40]])
}

/// The hash of a tombstone among the keys, and its timestamp.
pub(super) fn read_tombstone(key: &[u8]) -> Option<(TombstoneHash, Timestamp)> {
    match key {
        [b'd', rest @ ..] => Some((*rest.first_chunk()?, read_until(key)?)),
        _ => None,
    }
}

/// The timestamp of a tombstone among the keys.
pub(in crate::store) fn read_until(key: &[u8]) -> Option<Timestamp> {
    key.last_chunk().map(|bytes| !Timestamp::from_be_bytes(*bytes))
}

fn hash(value: &[u8]) -> [u8; HALF] {
    let digest = Sha256::digest(value);
    *digest.first_chunk().expect("a SHA-256 has 32 bytes")
}

fn rank(rank: &Rank) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&(!rank.created_at).to_be_bytes());
    bytes[8..].copy_from_slice(&rank.prefix.to_be_bytes());
    bytes
}

/// Six bytes. The bit is the lowest, so that postings are in the order of sequence numbers.
fn seq_and_expiry(seq: Seq, expires: bool) -> [u8; 6] {
    let bytes = (seq.0.min(SEQ_MAX) << 1 | u64::from(expires)).to_be_bytes();
    *bytes.last_chunk().expect("eight bytes end in six")
}

fn be64(bytes: &[u8]) -> Option<u64> {
    bytes.try_into().ok().map(u64::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::PubKey;
    use proptest::prelude::*;

    fn any_posting() -> impl Strategy<Value = Posting> {
        let small = prop_oneof![0..4u64, any::<u64>()];
        (small.clone(), small, prop_oneof![0..4u64, 0..=SEQ_MAX, Just(SEQ_MAX)], any::<u16>(), any::<bool>())
            .prop_map(|(created_at, prefix, seq, kind, expires)| Posting {
                rank: Rank { created_at, prefix },
                seq: Seq(seq),
                kind,
                expires,
            })
    }

    fn any_term() -> impl Strategy<Value = Term> {
        let pubkey = (0..3u8).prop_map(|n| PubKey([n; 32]));
        let value = prop::collection::vec(0..3u8, 0..3).prop_map(Vec::into_boxed_slice);
        let kind = prop_oneof![0..3u16, any::<u16>()];
        prop_oneof![
            Just(Term::All),
            kind.clone().prop_map(Term::Kind),
            pubkey.clone().prop_map(Term::Author),
            (pubkey.clone(), kind.clone()).prop_map(|(p, k)| Term::AuthorKind(p, k)),
            (kind, pubkey, value.clone()).prop_map(|(k, p, d)| Term::Address(k, p, d)),
            (b'a'..b'd', value).prop_map(|(letter, value)| Term::Tag(letter, value)),
        ]
    }

    proptest! {
        /// Also of keys that are shorter than their prefix, and of ones made of longer ones.
        #[test]
        fn keys_are_in_the_order_of_their_bytes(
            one in prop::collection::vec(prop_oneof![0..3u8, any::<u8>()], 0..12),
            other in prop::collection::vec(prop_oneof![0..3u8, any::<u8>()], 0..12),
            shared in 0..12usize,
        ) {
            let keys = [&one, &other].map(|bytes| Key::read(bytes).expect("short"));
            prop_assert_eq!(keys[0].cmp(&keys[1]), one.cmp(&other));
            prop_assert!(keys[0] > keys[1] || keys[0].prefix() <= keys[1].prefix());
            let spliced = [&one[..shared.min(one.len())], &other[..other.len().min(2)]].concat();
            let key = keys[0].splice(shared.min(one.len()), &other[..other.len().min(2)]).expect("short");
            prop_assert_eq!(key.cmp(&keys[1]), spliced.cmp(&other));
            prop_assert_eq!(keys[1].cmp(&key), other.cmp(&spliced));
        }

        #[test]
        fn keys_are_ordered_as_postings_are(a in any_posting(), b in any_posting(), term in any_term()) {
            let (key_a, key_b) = (posting(head(&term), &a), posting(head(&term), &b));
            prop_assert_eq!(read_posting(key_a.as_bytes()), Some(a));
            let by_order = a.rank.cmp(&b.rank).then(a.seq.cmp(&b.seq));
            if by_order.is_ne() {
                prop_assert_eq!(key_a.cmp(&key_b), by_order);
            }
            let (from, after) = (StartAt::Rank(a.rank), StartAt::After(a.rank, a.seq));
            prop_assert_eq!(posting_from(head(&term), from) <= key_b, a.rank <= b.rank);
            prop_assert_eq!(posting_from(head(&term), after) <= key_b, by_order.is_lt());
            prop_assert_eq!(key_b <= posting_to(head(&term), a.rank.created_at), b.rank.created_at >= a.rank.created_at);
        }

        #[test]
        fn no_head_is_the_beginning_of_another(a in any_term(), b in any_term()) {
            let (head_a, head_b) = (head(&a), head(&b));
            prop_assert_eq!(head_a.as_bytes().starts_with(head_b.as_bytes()), a == b);
        }
    }
}
