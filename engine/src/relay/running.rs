//! The memory of running jobs: cursors of scans and counts, and the indexes of replays.
//!
//! What a job may need is known before it begins, and counted from its first step until it is done or its reader is
//! slow, when it frees that memory. Most need a few kilobytes, and one step: they take it when it is their turn. One
//! that has more to do, while there is no memory for it or its address has more than a mebibyte running, frees its
//! memory and waits as **wide** jobs do, which need more than 256 KiB: until there is memory, in a fair queue of their
//! own, by address. One address has a quarter of `running_bytes_max` at most and all wide ones together have half.
//! Running jobs are never blocked, so memory is freed eventually.
//! Jobs that wait for memory after their first step count as unfinished ([`super::turns`]).

use std::collections::BTreeMap;

use super::jobs::Origin;
use super::turns::JobAdmission;

/// Bytes up to which a job is not wide: some 700 cursors.
pub(super) const WIDE_FROM_BYTES: usize = 256 << 10;
/// Bytes that one address may have running before all its jobs count as wide.
const ADDRESS_WIDE_FROM_BYTES: usize = 1 << 20;

/// What a job may come to hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reservation {
    pub(super) bytes: usize,
    /// Whether it must wait for memory, or once had to.
    pub(super) is_wide: bool,
    /// Whether the job has begun, so that its bytes are counted.
    pub(super) is_running: bool,
}

impl Reservation {
    /// Of a job that has not begun.
    pub(super) fn of(bytes: usize) -> Self {
        Reservation { bytes, is_wide: false, is_running: false }
    }
}

/// What is running, in bytes.
#[derive(Default)]
pub(super) struct Running {
    all: usize,
    wide: usize,
    by_origin: BTreeMap<Origin, usize>,
}

impl Running {
    /// Of all jobs.
    pub(super) fn all(&self) -> usize {
        self.all
    }

    fn of(&self, origin: Origin) -> usize {
        self.by_origin.get(&origin).copied().unwrap_or_default()
    }

    /// Whether a job that is to be queued must wait for memory. `max` is what all may have, and given for a job that has begun:
    /// a first step is nearly always the only one, so it is taken whatever is running.
    pub(super) fn is_wide(&self, origin: Origin, bytes: usize, max: Option<usize>) -> bool {
        let has_no_memory = |max| self.of(origin) + bytes > ADDRESS_WIDE_FROM_BYTES || self.all + bytes > max;
        bytes > WIDE_FROM_BYTES || max.is_some_and(has_no_memory)
    }

    /// Whether a job of this origin that has taken its first step must wait for memory before it continues.
    pub(super) fn is_over(&self, origin: Origin, max: usize) -> bool {
        self.all > max || self.of(origin) > ADDRESS_WIDE_FROM_BYTES
    }

    /// Whether there is memory for a job that waits for it. Where nothing is running there always is, so no bound is too
    /// small for any job.
    pub(super) fn may_start(&self, origin: Origin, bytes: usize, max: usize) -> JobAdmission {
        let of = self.of(origin);
        if of > 0 && of + bytes > max / 4 {
            return JobAdmission::AddressFull;
        }
        let is_full = self.all > 0 && self.all >= max;
        if is_full || (self.wide > 0 && self.wide + bytes > max / 2) {
            JobAdmission::ShardFull
        } else {
            JobAdmission::Start
        }
    }

    /// A job begins.
    pub(super) fn acquire(&mut self, origin: Origin, reservation: &mut Reservation) {
        reservation.is_running = true;
        self.all += reservation.bytes;
        self.wide += if reservation.is_wide { reservation.bytes } else { 0 };
        *self.by_origin.entry(origin).or_default() += reservation.bytes;
    }

    /// A running job needs `more` bytes than were known: a store without a term for all events opens a cursor for each kind.
    pub(super) fn extend(&mut self, origin: Origin, reservation: &mut Reservation, more: usize) {
        reservation.bytes += more;
        self.all += more;
        self.wide += if reservation.is_wide { more } else { 0 };
        *self.by_origin.entry(origin).or_default() += more;
    }

    /// A job is done, or has freed its memory.
    pub(super) fn release(&mut self, origin: Origin, reservation: Reservation) {
        if !reservation.is_running {
            return;
        }
        self.all -= reservation.bytes;
        self.wide -= if reservation.is_wide { reservation.bytes } else { 0 };
        let of = self.by_origin.entry(origin).or_default();
        *of -= reservation.bytes;
        if *of == 0 {
            self.by_origin.remove(&origin);
        }
    }
}
