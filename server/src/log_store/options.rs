//! How a database on files is opened.

use relay_engine::store::REMOVED_KEYS_MAX;
use relay_engine::store::lsm::Tiered;

use super::page_files::{HEAD_BYTES, Slots};
use super::version::FILTERED;

/// Sizes of the parts. What was written with some is read with any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogOptions {
    /// Keys in memory at which they are flushed to pages; an event has about eight. At four times as many, writes wait.
    pub memtable_keys: usize,
    /// Bytes of the log at which the keys in memory are flushed. When the database is opened, that much of it is read.
    pub memtable_bytes: u64,
    /// Bytes of a slot for a page, of a database that is made. 512 to 65,536.
    pub slot_bytes: u32,
    /// Slots of a file, of a database that is made.
    pub file_slots: u32,
    /// Bytes of a file of the log, unless one write is larger.
    pub segment_bytes: u64,
    /// Most events of a file of the log.
    pub segment_events: u32,
    /// Bytes that edits of the manifest may have before all is written anew, unless that is longer. They are allocated beforehand.
    pub edits_bytes: u64,
    /// Runs of a level at which they are merged into one of the next.
    pub runs: usize,
    /// Pages that one step of a merge writes, about.
    pub step_pages: usize,
    /// [`Backend::removed_keys_max`](relay_engine::store::Backend::removed_keys_max).
    pub removed_keys_max: usize,
    /// Whether events are packed.
    pub packs: bool,
    /// The newest files of the log that are not packed, beside the one that is written.
    pub plain_segments: usize,
    /// Bytes of a file of the log of which one step packs the events, unless one write was larger.
    pub pack_step_bytes: u64,
    /// Whether a thread of its own flushes and merges; otherwise each write does what is due.
    pub has_thread: bool,
}

impl Default for LogOptions {
    fn default() -> Self {
        LogOptions {
            memtable_keys: 32_768,
            memtable_bytes: 64 << 20,
            slot_bytes: 32 << 10,
            file_slots: 2_048,
            segment_bytes: 64 << 20,
            segment_events: 1 << 18,
            edits_bytes: 1 << 20,
            runs: 6,
            step_pages: 32,
            removed_keys_max: REMOVED_KEYS_MAX,
            packs: false,
            plain_segments: 2,
            pack_step_bytes: 1 << 20,
            has_thread: true,
        }
    }
}

impl LogOptions {
    /// The nearest sizes that work.
    pub(super) fn bounded(self) -> Self {
        LogOptions {
            slot_bytes: self.slot_bytes.clamp(512, 1 << 16),
            file_slots: self.file_slots.max(1),
            segment_events: self.segment_events.max(1),
            ..self
        }
    }

    pub(super) fn slots(&self) -> Slots {
        Slots { bytes: self.slot_bytes, of_file: self.file_slots }
    }

    /// The sizes of tiers, for a database whose slots are of `slots`.
    pub(super) fn tiers(&self, slots: Slots) -> Tiered {
        // A page may be a sixty-fourth and an entry longer than it should.
        let page_bytes = (slots.bytes as usize - HEAD_BYTES - 80) * 63 / 64;
        Tiered { runs: self.runs, step_pages: self.step_pages, page_bytes, filtered: FILTERED }
    }
}
