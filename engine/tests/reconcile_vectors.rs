//! Answers of the Negentropy protocol, byte by byte as its specification has them (written down here once more), and whole
//! reconciliations with the crate's client: sets of every shape, in frames of every size.

use std::collections::BTreeSet;

use negentropy::{Id, Negentropy, NegentropyStorageVector};
use relay_engine::reconcile::{AnswerError, Item, MutableSet, SortedSet, TotalBytes, answer};
use relay_engine::types::EventId;
use sha2::{Digest as _, Sha256};

const VERSION: u8 = 0x61;
/// Modes of a range.
const SKIP: u8 = 0;
const FINGERPRINT: u8 = 1;
const ID_LIST: u8 = 2;
/// Sets of fewer events are listed, not split.
const SPLIT_MIN: usize = 32;
const BUCKETS: usize = 16;

fn set_of<'a>(items: impl IntoIterator<Item = &'a Item>) -> SortedSet {
    let mut builder = MutableSet::new(&TotalBytes::default());
    items.into_iter().for_each(|item| assert!(builder.insert(*item)));
    builder.version()
}

/// A number in base 128, the highest digit first.
fn varint(mut n: u64) -> Vec<u8> {
    let mut digits = vec![(n & 0x7f) as u8];
    while n > 0x7f {
        n >>= 7;
        digits.push((n & 0x7f) as u8 | 0x80);
    }
    digits.reverse();
    digits
}

/// The first 16 bytes of the hash of the sum of ids, as little-endian numbers modulo 2^256, and of their count.
fn fingerprint(items: &[Item]) -> Vec<u8> {
    let mut sum = [0; 32];
    for item in items {
        let mut carry = 0;
        for (byte, more) in sum.iter_mut().zip(item.id.0) {
            let added = u16::from(*byte) + u16::from(more) + carry;
            (*byte, carry) = (added as u8, added >> 8);
        }
    }
    Sha256::digest([&sum[..], &varint(items.len() as u64)].concat())[..16].to_vec()
}

/// Ranges of a message, as they follow each other.
struct Message {
    bytes: Vec<u8>,
    /// Timestamps are written as the difference from the bound before, plus one.
    second: u64,
}

impl Message {
    fn new() -> Self {
        Message { bytes: vec![VERSION], second: 0 }
    }

    /// A range up to infinity (`None`), or below a second and a part of an id.
    fn range(mut self, bound: Option<(u64, &[u8])>, mode: u8, payload: &[u8]) -> Self {
        match bound {
            None => self.bytes.extend([0, 0]),
            Some((second, id)) => {
                self.bytes.extend(varint(second - self.second + 1));
                self.bytes.extend(varint(id.len() as u64));
                self.bytes.extend(id);
                self.second = second;
            }
        }
        self.bytes.push(mode);
        self.bytes.extend(payload);
        self
    }
}

fn list(items: &[Item]) -> Vec<u8> {
    let mut bytes = varint(items.len() as u64);
    items.iter().for_each(|item| bytes.extend(item.id.0));
    bytes
}

/// An id that begins with so many zeros, so that bounds need that many bytes.
fn item(second: u64, zeros: usize, n: u64) -> Item {
    let mut id = [0; 32];
    let mixed = (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes();
    id[zeros..zeros + 8].copy_from_slice(&mixed);
    Item { created_at: second, id: EventId(id) }
}

fn items(len: u64, second: impl Fn(u64) -> u64, zeros: usize) -> Vec<Item> {
    let items: BTreeSet<Item> = (0..len).map(|n| item(second(n), zeros, n)).collect();
    items.into_iter().collect()
}

/// Runs of one second among others, at both ends of time, and ids that differ in their last bytes only.
fn shapes() -> Vec<(&'static str, Vec<Item>)> {
    let newest = u64::MAX - 1;
    vec![
        ("none", items(0, |n| n, 0)),
        ("one", items(1, |_| 7, 0)),
        ("one at the end of time", items(1, |_| newest, 0)),
        ("as many as are listed", items(31, |n| n, 0)),
        ("one more", items(32, |n| n, 0)),
        ("a second each", items(1_000, |n| 1_700_000_000 + n, 0)),
        ("all in one second", items(3_000, |_| 1_700_000_000, 0)),
        ("all in one second, ids alike", items(700, |_| 0, 24)),
        ("runs of 100 in a second", items(2_000, |n| 1_700_000_000 + n / 100, 3)),
        ("both ends of time", items(500, |n| if n % 2 == 0 { 0 } else { newest }, 1)),
    ]
}

#[test]
fn one_range_is_answered_as_the_specification_has_it() {
    for (shape, items) in shapes() {
        let set = set_of(&items);
        let say = |message: Message| answer(&set, &message.bytes, 1 << 20).message.expect(shape);
        let all = || Message::new();
        assert_eq!(say(all().range(None, SKIP, &[])), [VERSION], "{shape}: nothing was asked");
        assert_eq!(say(all().range(None, FINGERPRINT, &fingerprint(&items))), [VERSION], "{shape}: the same");
        let listed = all().range(None, ID_LIST, &list(&items)).bytes;
        assert_eq!(say(all().range(None, ID_LIST, &[0])), listed, "{shape}: a client that has none");
        assert_eq!(say(all().range(None, ID_LIST, &list(&items))), listed, "{shape}: one that has all");
        let differing = say(all().range(None, FINGERPRINT, &[7; 16]));
        if items.len() < SPLIT_MIN {
            assert_eq!(differing, listed, "{shape}");
            continue;
        }
        let (mut want, mut start) = (Message::new(), 0);
        for bucket in 0..BUCKETS {
            let end = start + items.len() / BUCKETS + usize::from(bucket < items.len() % BUCKETS);
            let print = fingerprint(&items[start..end]);
            want = match items.get(end) {
                None => want.range(None, FINGERPRINT, &print),
                Some(next) => {
                    let last = &items[end - 1];
                    let alike = last.id.0.iter().zip(&next.id.0).take_while(|(a, b)| a == b).count();
                    let id_bytes = if last.created_at == next.created_at { alike + 1 } else { 0 };
                    want.range(Some((next.created_at, &next.id.0[..id_bytes])), FINGERPRINT, &print)
                }
            };
            start = end;
        }
        assert_eq!(differing, want.bytes, "{shape}: in parts");
    }
}

#[test]
fn every_difference_is_found_in_frames_of_every_size() {
    for (shape, items) in shapes() {
        let all: BTreeSet<Item> = items.iter().copied().collect();
        let some = |wants: &dyn Fn(usize) -> bool| {
            let chosen = items.iter().enumerate().filter(|(n, _)| wants(*n));
            chosen.map(|(_, item)| *item).collect::<BTreeSet<Item>>()
        };
        let sides = [
            (all.clone(), all.clone()),
            (all.clone(), BTreeSet::new()),
            (BTreeSet::new(), all.clone()),
            (some(&|n| n % 97 != 5), all.clone()),
            (all.clone(), some(&|n| n % 97 != 5)),
            (some(&|n| n % 2 == 0), some(&|n| n % 2 == 1)),
            (some(&|n| n % 3 != 0), some(&|n| n % 3 != 1)),
        ];
        for (case, (ours, theirs)) in sides.iter().enumerate() {
            for relay_bytes in [4_096, 4_097, 6_000, 60_000, 1 << 20] {
                for client_bytes in [0, 4_096, 60_000] {
                    let case = format!("{shape}, case {case}, frames of {relay_bytes} and {client_bytes}");
                    check_reconciled(&case, ours, theirs, relay_bytes, client_bytes);
                }
            }
        }
    }
}

fn check_reconciled(
    case: &str,
    ours: &BTreeSet<Item>,
    theirs: &BTreeSet<Item>,
    relay_bytes: usize,
    client_bytes: u64,
) {
    let mut storage = NegentropyStorageVector::new();
    for item in theirs {
        storage.insert(item.created_at, Id::from_byte_array(item.id.0)).unwrap();
    }
    storage.seal().unwrap();
    let set = set_of(ours);
    let mut client = Negentropy::borrowed(&storage, client_bytes).unwrap();
    let (mut have, mut need, mut rounds) = (Vec::new(), Vec::new(), 0);
    let mut next = Some(client.initiate().unwrap());
    while let Some(message) = next {
        rounds += 1;
        assert!(client_bytes == 0 || message.len() as u64 <= client_bytes, "{case}");
        let answered = answer(&set, &message, relay_bytes).message.expect(case);
        assert!(answered.len() <= relay_bytes, "{case}: {} bytes", answered.len());
        next = client.reconcile_with_ids(&answered, &mut have, &mut need).expect(case);
    }
    let found = |ids: &[Id]| ids.iter().map(|id| *id.as_bytes()).collect::<BTreeSet<_>>();
    let only = |a: &BTreeSet<Item>, b: &BTreeSet<Item>| {
        a.difference(b).map(|item| item.id.0).collect::<BTreeSet<_>>()
    };
    assert_eq!(found(&have), only(theirs, ours), "{case}");
    assert_eq!(found(&need), only(ours, theirs), "{case}");
    // A frame of 4,096 bytes has 120 ids, so 3,000 of them take 25; splitting takes some more.
    assert!(rounds <= 120, "{case}: {rounds} rounds");
}

/// Whatever a message is, it has an answer or is refused.
#[test]
fn messages_of_other_versions_and_out_of_order_are_answered_or_refused() {
    let items = items(100, |n| 1_000 + n, 0);
    let set = set_of(&items);
    let understood = Ok(vec![VERSION]);
    let malformed = Err(AnswerError::Malformed);
    let mut backwards = items.clone();
    backwards.reverse();
    let twice = [&items[..], &items[..]].concat();
    let listed = Ok(Message::new().range(None, ID_LIST, &list(&items)).bytes);
    let message = |bytes: &[u8]| bytes.to_vec();
    for (what, bytes, want) in [
        ("no version", message(&[]), malformed.clone()),
        ("none of the protocol's", message(&[0x5f]), malformed.clone()),
        ("version 0", message(&[0x60]), understood.clone()),
        ("version 2, which has ranges of its own", message(&[0x62, 9, 9, 9]), understood.clone()),
        ("the last version", message(&[0x6f]), understood.clone()),
        ("beyond the last version", message(&[0x70]), malformed.clone()),
        ("an unknown mode", Message::new().range(None, 9, &[]).bytes, malformed.clone()),
        ("half a fingerprint", Message::new().range(None, FINGERPRINT, &[7; 15]).bytes, malformed.clone()),
        ("fewer ids than said", Message::new().range(None, ID_LIST, &[2, 7]).bytes, malformed.clone()),
        ("a part of an id that is longer than one", message(&[VERSION, 1, 33]), malformed.clone()),
        (
            "ids in descending order",
            Message::new().range(None, ID_LIST, &list(&backwards)).bytes,
            listed.clone(),
        ),
        ("every id twice", Message::new().range(None, ID_LIST, &list(&twice)).bytes, listed),
    ] {
        assert_eq!(answer(&set, &bytes, 60_000).message, want, "{what}");
    }
    // Bounds that go back: an id below the one before, in the same second.
    let (low, high) = ([0x10], [0xf0]);
    let back = Message::new()
        .range(Some((1_050, &high)), ID_LIST, &[0])
        .range(Some((1_050, &low)), ID_LIST, &[0])
        .range(None, ID_LIST, &[0]);
    let answered = answer(&set, &back.bytes, 60_000);
    assert!(matches!(&answered.message, Ok(bytes) if bytes.len() <= 60_000) || answered.message == malformed);
    // A number without an end, and steps beyond the end of time.
    let endless = answer(&set, &[VERSION, 0xff, 0xff], 60_000).message;
    assert!(endless == understood || endless == malformed, "{endless:?}");
    let beyond = [&[VERSION][..], &varint(u64::MAX), &[0, SKIP], &varint(u64::MAX), &[0, SKIP]].concat();
    let answered = answer(&set, &beyond, 60_000).message;
    assert!(answered == understood || answered == malformed, "{answered:?}");
}
