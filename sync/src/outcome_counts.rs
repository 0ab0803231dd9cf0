//! Events that were given to the store, by what became of them.

use std::ops::AddAssign;

use serde::Serialize;

/// Events, by what became of them in the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct OutcomeCounts {
    /// Stored.
    pub stored: u64,
    /// They were stored already.
    pub duplicate: u64,
    /// Not stored: a newer version is.
    pub superseded: u64,
    /// Not stored: deleted by their authors, or those vanished.
    pub deleted: u64,
    /// Not stored: expired.
    pub expired: u64,
    /// Not stored: of a kind that is only delivered live.
    pub ephemeral: u64,
}

impl OutcomeCounts {
    /// Events that are not newly stored: how many, and why.
    pub fn not_stored(&self) -> [(u64, &'static str); 5] {
        [
            (self.duplicate, "already here"),
            (self.superseded, "superseded by newer versions"),
            (self.deleted, "deleted by their authors"),
            (self.expired, "expired"),
            (self.ephemeral, "ephemeral"),
        ]
    }
}

impl AddAssign for OutcomeCounts {
    fn add_assign(&mut self, more: OutcomeCounts) {
        let OutcomeCounts { stored, duplicate, superseded, deleted, expired, ephemeral } = more;
        self.stored += stored;
        self.duplicate += duplicate;
        self.superseded += superseded;
        self.deleted += deleted;
        self.expired += expired;
        self.ephemeral += ephemeral;
    }
}
