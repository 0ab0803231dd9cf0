//! The memory of running queries: cursors of scans and counts, and the indexes of replays.
//!
//! What a query may need is known before it begins, and counted from its first step until it is done or its reader is
//! slow, when it frees that memory. Most need a few kilobytes, and one step: they take it when it is their turn. One
//! that has more to do, while there is no memory for it or its address has more than a mebibyte running, frees its
//! memory and waits as **large** queries do, which need more than 256 KiB: until there is memory, in a fair queue of their
//! own, by address. One address has a quarter of `query_bytes_max` at most and all large ones together have half.
//! Running queries are never blocked, so memory is freed eventually.
//! Queries that wait for memory after their first step count as unfinished ([`super::scheduler`]).

use std::collections::BTreeMap;

use super::queries::Origin;
use super::scheduler::QueryAdmission;

/// Bytes up to which a query is not large: some 700 cursors.
pub(super) const LARGE_FROM_BYTES: usize = 256 << 10;
/// Bytes that one address may have running before all its queries count as large.
const ADDRESS_LARGE_FROM_BYTES: usize = 1 << 20;

/// What a query may come to hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reservation {
    pub(super) bytes: usize,
    /// Whether it must wait for memory, or once had to.
    pub(super) is_large: bool,
    /// Whether the query has begun, so that its bytes are counted.
    pub(super) is_running: bool,
}

impl Reservation {
    /// Of a query that has not begun.
    pub(super) fn of(bytes: usize) -> Self {
        Reservation { bytes, is_large: false, is_running: false }
    }
}

/// What is running, in bytes.
#[derive(Default)]
pub(super) struct QueryMemory {
    all: usize,
    large: usize,
    by_origin: BTreeMap<Origin, usize>,
}

impl QueryMemory {
    /// Of all queries.
    pub(super) fn all(&self) -> usize {
        self.all
    }

    fn of(&self, origin: Origin) -> usize {
        self.by_origin.get(&origin).copied().unwrap_or_default()
    }

    /// Whether a query that is to be queued must wait for memory. `max` is what all may have, and given for a query that has begun:
    /// a first step is nearly always the only one, so it is taken whatever is running.
    pub(super) fn is_large(&self, origin: Origin, bytes: usize, max: Option<usize>) -> bool {
        let has_no_memory =
            |max| self.of(origin) + bytes > ADDRESS_LARGE_FROM_BYTES || self.all + bytes > max;
        bytes > LARGE_FROM_BYTES || max.is_some_and(has_no_memory)
    }

    /// Whether a query of this origin that has taken its first step must wait for memory before it continues.
    pub(super) fn is_over(&self, origin: Origin, max: usize) -> bool {
        self.all > max || self.of(origin) > ADDRESS_LARGE_FROM_BYTES
    }

    /// Whether there is memory for a query that waits for it. Where nothing is running there always is, so no bound is too
    /// small for any query.
    pub(super) fn may_start(&self, origin: Origin, bytes: usize, max: usize) -> QueryAdmission {
        let of = self.of(origin);
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
    pub(super) fn acquire(&mut self, origin: Origin, reservation: &mut Reservation) {
        reservation.is_running = true;
        self.all += reservation.bytes;
        self.large += if reservation.is_large { reservation.bytes } else { 0 };
        *self.by_origin.entry(origin).or_default() += reservation.bytes;
    }

    /// A running query needs `more` bytes than were known: a store without a term for all events opens a cursor for each kind.
    pub(super) fn extend(&mut self, origin: Origin, reservation: &mut Reservation, more: usize) {
        reservation.bytes += more;
        self.all += more;
        self.large += if reservation.is_large { more } else { 0 };
        *self.by_origin.entry(origin).or_default() += more;
    }

    /// A query is done, or has freed its memory.
    pub(super) fn release(&mut self, origin: Origin, reservation: Reservation) {
        if !reservation.is_running {
            return;
        }
        self.all -= reservation.bytes;
        self.large -= if reservation.is_large { reservation.bytes } else { 0 };
        let of = self.by_origin.entry(origin).or_default();
        *of -= reservation.bytes;
        if *of == 0 {
            self.by_origin.remove(&origin);
        }
    }
}
