//! The memory of running queries: cursors of scans and counts, and the indexes of replays.
//!
//! What a query may need is known before it begins. It is counted from the first step until the query is done, or frees it
//! because its reader is slow. **Large** queries, which need more than 256 KiB, wait until there is memory, in a fair queue
//! of their own, by address. The others, which are nearly all, take their first step when it is their turn. One that is not
//! finished after it may have to wait: if all memory is in use, or its address uses more than 1 MiB. It then frees its
//! memory and waits in the queue of the large ones. One address has a quarter of `query_bytes_max` at most and all large
//! ones together have half. Running queries are never blocked, so memory is freed eventually.
//! Queries that wait for memory after their first step count as unfinished ([`super::scheduler`]).

use std::collections::BTreeMap;

use super::queries::FairnessKey;
use super::scheduler::QueryAdmission;

/// Bytes up to which a query is not large: some 700 cursors.
pub(super) const LARGE_FROM_BYTES: usize = 256 << 10;
/// Bytes that one address may have running before all its queries count as large.
const ADDRESS_LARGE_FROM_BYTES: usize = 1 << 20;

/// What a query may come to hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reservation {
    pub(super) bytes: usize,
    /// Whether it waits for memory before it begins, or had to.
    pub(super) must_wait: bool,
    /// Whether the query has begun, so that its bytes are counted.
    pub(super) is_running: bool,
}

impl Reservation {
    /// Of a query that has not begun.
    pub(super) fn of(bytes: usize) -> Self {
        Reservation { bytes, must_wait: false, is_running: false }
    }
}

/// What is running, in bytes.
#[derive(Default)]
pub(super) struct QueryMemory {
    all: usize,
    large: usize,
    by_fairness_key: BTreeMap<FairnessKey, usize>,
}

impl QueryMemory {
    /// Of all queries.
    pub(super) fn all(&self) -> usize {
        self.all
    }

    fn of(&self, fairness_key: FairnessKey) -> usize {
        self.by_fairness_key.get(&fairness_key).copied().unwrap_or_default()
    }

    /// Whether a query that is to be queued must wait for memory. `max` is what all may have, and given for a query that has begun:
    /// a first step is nearly always the only one, so it is taken whatever is running.
    pub(super) fn must_wait(&self, fairness_key: FairnessKey, bytes: usize, max: Option<usize>) -> bool {
        let has_no_memory =
            |max| self.of(fairness_key) + bytes > ADDRESS_LARGE_FROM_BYTES || self.all + bytes > max;
        bytes > LARGE_FROM_BYTES || max.is_some_and(has_no_memory)
    }

    /// Whether a query of this key that has taken its first step must wait for memory before it continues.
    pub(super) fn is_over(&self, fairness_key: FairnessKey, max: usize) -> bool {
        self.all > max || self.of(fairness_key) > ADDRESS_LARGE_FROM_BYTES
    }

    /// Whether there is memory for a query that waits for it. Where nothing is running there always is, so no bound is too
    /// small for any query.
    pub(super) fn may_start(&self, fairness_key: FairnessKey, bytes: usize, max: usize) -> QueryAdmission {
        let of = self.of(fairness_key);
        if of > 0 && of + bytes > max / 4 {
            return QueryAdmission::AddressFull;
        }
        let is_full = self.all > 0 && self.all >= max;
        if is_full || (self.large > 0 && self.large + bytes > max / 2) {
            QueryAdmission::ShardFull
        } else {
            QueryAdmission::Start
        }
    }

    /// A query begins.
    pub(super) fn acquire(&mut self, fairness_key: FairnessKey, reservation: &mut Reservation) {
        reservation.is_running = true;
        self.all += reservation.bytes;
        self.large += if reservation.must_wait { reservation.bytes } else { 0 };
        *self.by_fairness_key.entry(fairness_key).or_default() += reservation.bytes;
    }

    /// A running query needs `more` bytes than were known: a store without a term for all events opens a cursor for each kind.
    pub(super) fn extend(&mut self, fairness_key: FairnessKey, reservation: &mut Reservation, more: usize) {
        reservation.bytes += more;
        self.all += more;
        self.large += if reservation.must_wait { more } else { 0 };
        *self.by_fairness_key.entry(fairness_key).or_default() += more;
    }

    /// A query is done, or has freed its memory.
    pub(super) fn release(&mut self, fairness_key: FairnessKey, reservation: Reservation) {
        if !reservation.is_running {
            return;
        }
        self.all -= reservation.bytes;
        self.large -= if reservation.must_wait { reservation.bytes } else { 0 };
        let of = self.by_fairness_key.entry(fairness_key).or_default();
        *of -= reservation.bytes;
        if *of == 0 {
            self.by_fairness_key.remove(&fairness_key);
        }
    }
}
