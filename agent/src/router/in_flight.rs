//! Deliveries that the host has not answered. Each is in its memory, perhaps several times, so they are few.

use std::collections::BTreeMap;

use relay_engine::types::Event;

/// Bytes of deliveries under way, after which no further one is made.
pub(super) const BYTES_MAX: usize = 4 << 20;
/// What a delivery takes beside its events.
const DELIVERY_BYTES: usize = 4 << 10;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct InFlight {
    /// By delivery.
    bytes: BTreeMap<u64, usize>,
    sum: usize,
}

impl InFlight {
    pub(super) fn is_full(&self) -> bool {
        self.sum >= BYTES_MAX
    }

    pub(super) fn insert(&mut self, id: u64, events: &[Event]) {
        let bytes = DELIVERY_BYTES + events.iter().map(|event| event.json().len()).sum::<usize>();
        self.bytes.insert(id, bytes);
        self.sum += bytes;
    }

    pub(super) fn remove(&mut self, id: u64) {
        self.sum -= self.bytes.remove(&id).unwrap_or_default();
    }
}
