//! How many connections each client address has.

use std::collections::BTreeMap;

use crate::types::ClientAddress;

/// The open connections of client addresses. An address without any takes no memory.
///
/// An ordered map, so that no choice of addresses makes a look-up expensive. Every operation but [`AddressConnections::most`]
/// costs the logarithm of how many addresses there are.
#[derive(Debug, Default)]
pub struct AddressConnections {
    /// None is 0.
    counts: BTreeMap<ClientAddress, usize>,
}

impl AddressConnections {
    /// Counts a new connection. False, and not counted, if the address has `max` already.
    pub fn open(&mut self, address: ClientAddress, max: usize) -> bool {
        let may = self.of(address) < max;
        if may {
            self.restore(address);
        }
        may
    }

    /// Counts a connection that is open already, whatever the limit is now.
    pub fn restore(&mut self, address: ClientAddress) {
        *self.counts.entry(address).or_default() += 1;
    }

    /// A connection that was counted has closed.
    pub fn close(&mut self, address: ClientAddress) {
        if let Some(count) = self.counts.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                self.counts.remove(&address);
            }
        }
    }

    /// Connections of an address.
    pub fn of(&self, address: ClientAddress) -> usize {
        self.counts.get(&address).copied().unwrap_or_default()
    }

    /// Connections of the address that has the most. Cost: the number of addresses.
    pub fn most(&self) -> usize {
        self.counts.values().copied().max().unwrap_or_default()
    }

    /// Addresses with connections.
    pub fn len(&self) -> usize {
        self.counts.len()
    }

    /// Whether there are no connections.
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_of_an_address_are_limited_and_leave_nothing_behind() {
        let address = |n| ClientAddress::V4([192, 0, 2, n]);
        let mut connections = AddressConnections::default();
        assert!((0..2).all(|_| connections.open(address(1), 2)));
        assert!(!connections.open(address(1), 2) && connections.open(address(2), 2));
        assert_eq!((connections.of(address(1)), connections.most(), connections.len()), (2, 2, 2));
        // Those that were open before the limit was lowered.
        connections.restore(address(1));
        connections.close(address(1));
        assert!(!connections.open(address(1), 2), "two are left");
        connections.close(address(1));
        assert!(connections.open(address(1), 2));
        (0..2).for_each(|_| connections.close(address(1)));
        connections.close(address(2));
        assert!(connections.is_empty() && connections.most() == 0);
    }
}
