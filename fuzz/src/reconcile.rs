//! Reconciliation (NIP-77): a set that changes, and messages about it, compared with a sorted set and with the storage of the
//! crate `negentropy`.

use std::collections::BTreeSet;

use negentropy::{Id, Negentropy, NegentropyStorageVector};
use relay_engine::reconcile::{
    AnswerError, CALLS_MAX, EventSet, IdSum, Item, LOOKUPS_MAX, MutableSet, RANGES_MAX, TotalBytes, answer,
};
use relay_engine::types::EventId;

/// Bytes of an operation on the set: what, a second, an id.
const OP_BYTES: usize = 3;

/// The first byte is a quarter of the number of operations on the set that follow; the rest is a message of a client, which is
/// answered in frames of two sizes. Where the message's last byte is 0xff, what is before it is repeated, so that short inputs
/// have very many ranges.
///
/// # Panics
/// If the set is not what a sorted set is, or an answer not what the crate's own storage gives.
pub fn reconcile(data: &[u8]) {
    let Some((&count, rest)) = data.split_first() else { return };
    let (ops, message) = rest.split_at((4 * OP_BYTES * usize::from(count)).min(rest.len()));
    let total = TotalBytes::default();
    let (mut set, mut expected) = (MutableSet::new(&total), BTreeSet::new());
    let mut earlier = Vec::new();
    for (at, op) in ops.chunks_exact(OP_BYTES).enumerate() {
        let item = item(op[1], op[2], op[0] & 0x0f);
        match op[0] >> 4 {
            0..=2 => assert_eq!(set.remove(&item), expected.remove(&item)),
            // Many at once, so that chunks fill.
            3 => (0..=255).for_each(|n| {
                let item = self::item(op[1], op[2], n);
                assert_eq!(set.insert(item), expected.insert(item));
            }),
            _ => assert_eq!(set.insert(item), expected.insert(item)),
        }
        if at % 64 == 0 {
            earlier.push((set.version(), expected.clone()));
        }
    }
    earlier.push((set.version(), expected.clone()));
    for (version, expected) in &earlier {
        let (mut listed, mut sum) = (Vec::new(), IdSum::default());
        version
            .list(0..version.len(), &mut |item| {
                listed.push(item);
                sum.add(IdSum::of(&item.id));
                true
            })
            .expect("memory does not fail");
        assert!(listed.iter().eq(expected), "a version does not change");
        assert_eq!(version.sum(0..version.len()).expect("memory does not fail"), sum);
    }
    check_answers(&earlier[earlier.len() - 1].0, &expected, &repeated(message));
    drop((earlier, set));
    assert_eq!(total.get(), 0, "all memory is given back");
}

/// The message, or as many repetitions of its ranges as a relay refuses, if they have three bytes each.
fn repeated(message: &[u8]) -> Vec<u8> {
    match message {
        [version, ranges @ .., 0xff] => {
            [&[*version], &*ranges.repeat(4 * RANGES_MAX / ranges.len().max(1))].concat()
        }
        _ => message.to_vec(),
    }
}

fn item(second: u8, high: u8, low: u8) -> Item {
    let mut id = [high; 32];
    (id[30], id[31]) = (second, low);
    Item { created_at: u64::from(second), id: EventId(id) }
}

fn check_answers(set: &dyn EventSet, items: &BTreeSet<Item>, message: &[u8]) {
    let mut storage = NegentropyStorageVector::new();
    for item in items {
        storage.insert(item.created_at, Id::from_byte_array(item.id.0)).expect("it is not sealed");
    }
    storage.seal().expect("it is not sealed");
    for bytes_max in [4_096, 60_000] {
        let answered = answer(set, message, bytes_max);
        assert!(answered.cost <= 2 * CALLS_MAX + message.len() / 32);
        let mut reference = Negentropy::borrowed(&storage, bytes_max as u64).expect("a valid limit");
        match answered.message {
            Ok(bytes) => {
                assert!(bytes.len() <= bytes_max);
                // Longer ones may be answered in part.
                if message.len() < 3 * LOOKUPS_MAX / 2 {
                    assert_eq!(Ok(bytes), reference.reconcile(message));
                }
            }
            Err(AnswerError::Malformed) => assert!(reference.reconcile(message).is_err()),
            // A range has three bytes at least.
            Err(AnswerError::TooMuch) => assert!(message.len() > 3 * RANGES_MAX),
            Err(AnswerError::Store(error)) => panic!("memory does not fail: {error}"),
        }
    }
}
