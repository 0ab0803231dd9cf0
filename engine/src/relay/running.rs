//! The memory of work that has begun: cursors of scans and counts, and the indexes of walks along the log.
//!
//! What a job may come to hold is known before it begins, and counted from its first step until it is done or its reader is
//! slow, when it lets go of it. Most hold a few kilobytes and begin when it is their turn. Those that are **wide**, or
//! of an address that has a good deal running, wait until there is room, in turns of their own, by address; one
//! address has a quarter of `running_bytes_max` at most and all wide ones together have half. They hold nothing while
//! they wait. What is running can always go on, so room comes.

use std::collections::BTreeMap;

use super::jobs::Origin;
use super::turns::May;

/// Bytes up to which a job is not wide: some 700 cursors.
pub(super) const NARROW_BYTES: usize = 256 << 10;
/// Bytes that one address may have running before all its jobs count as wide.
const ADDRESS_NARROW_BYTES: usize = 1 << 20;

/// What a job may come to hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hold {
    pub(super) bytes: usize,
    /// It waited for room. Known when it is queued.
    pub(super) is_wide: bool,
    /// It counts: the job has begun.
    pub(super) is_running: bool,
}

impl Hold {
    /// Of a job that has not begun.
    pub(super) fn of(bytes: usize) -> Self {
        Hold { bytes, is_wide: false, is_running: false }
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

    /// Whether a job that is to be queued must wait for room, where all may have `max`.
    pub(super) fn is_wide(&self, origin: Origin, bytes: usize, max: usize) -> bool {
        bytes > NARROW_BYTES || self.of(origin) + bytes > ADDRESS_NARROW_BYTES || self.all >= max
    }

    /// Whether there is room for a job that waits for it. Where nothing is running there always is, so no bound is too
    /// small for any job.
    pub(super) fn may_start(&self, origin: Origin, bytes: usize, max: usize) -> May {
        let of = self.of(origin);
        if of > 0 && of + bytes > max / 4 {
            return May::LetOthers;
        }
        let is_full = self.all > 0 && self.all >= max;
        if is_full || (self.wide > 0 && self.wide + bytes > max / 2) { May::Wait } else { May::Start }
    }

    /// A job begins.
    pub(super) fn start(&mut self, origin: Origin, hold: &mut Hold) {
        hold.is_running = true;
        self.all += hold.bytes;
        self.wide += if hold.is_wide { hold.bytes } else { 0 };
        *self.by_origin.entry(origin).or_default() += hold.bytes;
    }

    /// A running job holds so much `more` than was known: the kinds of a store that has no term over all events.
    pub(super) fn grow(&mut self, origin: Origin, hold: &mut Hold, more: usize) {
        hold.bytes += more;
        self.all += more;
        self.wide += if hold.is_wide { more } else { 0 };
        *self.by_origin.entry(origin).or_default() += more;
    }

    /// A job is done, or has let go of what it held.
    pub(super) fn stop(&mut self, origin: Origin, hold: Hold) {
        if !hold.is_running {
            return;
        }
        self.all -= hold.bytes;
        self.wide -= if hold.is_wide { hold.bytes } else { 0 };
        let of = self.by_origin.entry(origin).or_default();
        *of -= hold.bytes;
        if *of == 0 {
            self.by_origin.remove(&origin);
        }
    }
}
