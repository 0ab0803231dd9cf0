//! What the reconciliations of each address hold, and which of them have been idle the longest: kept up to date as they come
//! and go, so that no session has to be looked at for the others.

use std::collections::BTreeMap;

use crate::relay::ids::ConnId;
use crate::relay::queries::FairnessKey;
use crate::types::{Now, SubId};

/// Tells a set from others while somebody holds it.
pub(super) type SetAddress = usize;

/// The sets of an address.
#[derive(Default)]
struct Held {
    /// What several reconciliations share is held once: how many do, and its bytes.
    sets: BTreeMap<SetAddress, (usize, usize)>,
    bytes: usize,
}

/// The reconciliations of a shard.
#[derive(Default)]
pub(in crate::relay) struct Holdings {
    by_key: BTreeMap<FairnessKey, Held>,
    /// Those that wait for their client, by when it was answered and their serial number.
    idle: BTreeMap<(Now, u64), (ConnId, SubId)>,
    /// Entries that have been looked up or changed.
    touched: u64,
}

impl Holdings {
    /// A reconciliation of this address holds a set.
    pub(super) fn add(&mut self, key: FairnessKey, set: SetAddress, bytes: usize) {
        self.touched += 1;
        let held = self.by_key.entry(key).or_default();
        let (holders, _) = held.sets.entry(set).or_insert((0, bytes));
        *holders += 1;
        if *holders == 1 {
            held.bytes += bytes;
        }
    }

    /// It holds it no longer.
    pub(super) fn remove(&mut self, key: FairnessKey, set: SetAddress) {
        self.touched += 1;
        let Some(held) = self.by_key.get_mut(&key) else { return };
        let Some((holders, bytes)) = held.sets.get_mut(&set) else { return };
        *holders -= 1;
        if *holders == 0 {
            held.bytes -= *bytes;
            held.sets.remove(&set);
        }
        if held.sets.is_empty() {
            self.by_key.remove(&key);
        }
    }

    /// Whether an address may hold this set too and have up to `max` bytes: one set in any case.
    pub(super) fn may_add(&mut self, key: FairnessKey, set: SetAddress, bytes: usize, max: usize) -> bool {
        self.touched += 1;
        self.by_key
            .get(&key)
            .is_none_or(|held| held.sets.contains_key(&set) || held.bytes.saturating_add(bytes) <= max)
    }

    /// The client of a reconciliation has been answered, and is waited for.
    pub(super) fn begin_idle(&mut self, since: Now, serial: u64, conn: ConnId, id: &SubId) {
        self.touched += 1;
        self.idle.insert((since, serial), (conn, id.clone()));
    }

    /// It is not waited for any more.
    pub(super) fn end_idle(&mut self, since: Now, serial: u64) {
        self.touched += 1;
        self.idle.remove(&(since, serial));
    }

    /// The reconciliation that has been idle the longest, if that is `ms` or more.
    pub(super) fn longest_idle(&mut self, now: Now, ms: u64) -> Option<(ConnId, SubId)> {
        self.touched += 1;
        let ((since, _), found) = self.idle.first_key_value()?;
        (now.millis_since(*since) >= ms).then(|| found.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::ClientAddress;

    fn key(n: u32) -> FairnessKey {
        FairnessKey::Address(ClientAddress::from(std::net::IpAddr::from(n.to_be_bytes())))
    }

    fn id(n: u32) -> SubId {
        SubId::new(&n.to_string()).expect("short")
    }

    #[test]
    fn what_several_share_is_held_once() {
        let mut holdings = Holdings::default();
        holdings.add(key(1), 7, 100);
        holdings.add(key(1), 7, 100);
        holdings.add(key(2), 7, 100);
        for (set, bytes, may) in [(8, 50, true), (8, 51, false), (7, 100, true)] {
            assert_eq!(holdings.may_add(key(1), set, bytes, 150), may, "{set} {bytes}");
        }
        assert!(holdings.may_add(key(3), 9, 1_000, 150), "one set in any case");
        holdings.remove(key(1), 7);
        assert!(!holdings.may_add(key(1), 8, 51, 150), "another one holds it");
        holdings.remove(key(1), 7);
        holdings.remove(key(2), 7);
        assert!(holdings.by_key.is_empty(), "nothing is kept of addresses without sets");
    }

    #[test]
    fn the_longest_idle_one_is_found_without_looking_at_others() {
        let mut holdings = Holdings::default();
        let (at, conn) = (|n| Now::from_millis(u64::from(n)), ConnId(3));
        for n in 0..10_000 {
            holdings.add(key(n % 100), n as usize, 10);
            holdings.begin_idle(at(n), n.into(), conn, &id(n));
        }
        let before = holdings.touched;
        assert_eq!(holdings.longest_idle(at(60_004), 60_000), Some((conn, id(0))));
        holdings.end_idle(at(0), 0);
        assert_eq!(holdings.longest_idle(at(60_004), 60_000), Some((conn, id(1))));
        assert_eq!(holdings.longest_idle(at(60_000), 60_000), None);
        assert!(!holdings.may_add(key(5), 20_000, 10, 1_000));
        assert_eq!(holdings.touched - before, 5, "as few entries with ten thousand as with one");
    }
}
