//! How far a relay has been followed, and what of it is to be compared after a time without a connection.
//!
//! It is kept in a file for each relay, direction and list of filters: `streams/HASH.json` in the data folder.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use relay_engine::store::Seq;
use relay_engine::types::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// How far a relay has been followed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Position {
    /// The relay, the direction and the filters, for whoever reads the file.
    of: String,
    /// Nothing older was ever to be followed.
    pub(super) from: Timestamp,
    /// What either side was given before this second is on both sides; 0: nothing was compared yet.
    pub(super) synced_at: Timestamp,
    /// When everything since `from` was last compared.
    pub(super) complete_at: Timestamp,
    /// Whether it was compared by NIP-77, so that comparing everything costs little.
    pub(super) by_negentropy: bool,
    /// All events here up to this number have been sent, or need not be.
    sent: u64,
}

/// How much is compared.
#[derive(Clone, Copy, Debug)]
pub(super) struct Windows {
    /// Seconds before the last comparison: clocks differ, and events are published some time after they are signed.
    pub(super) overlap: Duration,
    /// Interval at which everything is compared; zero: never.
    pub(super) complete_every: Duration,
}

impl Position {
    /// Before anything was followed; from `since` on, or else from `now` on.
    pub(super) fn new(
        of: &str,
        since: Option<Timestamp>,
        now: Timestamp,
        overlap: Duration,
        newest: Seq,
    ) -> Self {
        let from = since.unwrap_or(now.saturating_sub(overlap.as_secs()));
        Position { of: of.to_owned(), from, sent: newest.0, ..Position::default() }
    }

    /// All events here up to this number have been sent, or need not be.
    pub(super) fn sent(&self) -> Seq {
        Seq(self.sent)
    }

    /// All events up to this number have been sent, or need not be.
    pub(super) fn set_sent(&mut self, seq: Seq) {
        self.sent = self.sent.max(seq.0);
    }

    /// From which second on is to be compared now.
    pub(super) fn since(&self, now: Timestamp, windows: Windows) -> Timestamp {
        match self.synced_at == 0 || self.is_complete_due(now, windows) {
            true => self.from,
            false => self.synced_at.saturating_sub(windows.overlap.as_secs()).max(self.from),
        }
    }

    /// Whether everything is to be compared.
    pub(super) fn is_complete_due(&self, now: Timestamp, windows: Windows) -> bool {
        let every = windows.complete_every.as_secs();
        self.synced_at == 0
            || every > 0 && self.by_negentropy && now >= self.complete_at.saturating_add(every)
    }

    /// Everything from `since` on was compared; that began at second `at`.
    pub(super) fn compared(&mut self, since: Timestamp, at: Timestamp, by_negentropy: bool) {
        self.by_negentropy = by_negentropy;
        if since <= self.from {
            self.complete_at = at;
        }
        self.synced_at = self.synced_at.max(at);
    }

    /// The database has fewer events than were sent: it is another one, or an older copy.
    pub(super) fn check(&mut self, newest: Seq) {
        if newest.0 < self.sent {
            (self.sent, self.synced_at, self.complete_at) = (newest.0, 0, 0);
        }
    }

    /// Reads that of a relay, from the data folder. `None` if there is none, or it cannot be read.
    pub(super) fn read(data: &Path, of: &str) -> Option<Self> {
        let position: Position = serde_json::from_slice(&fs::read(path(data, of)).ok()?).ok()?;
        (position.of == of).then_some(position)
    }

    /// Writes it: all of it or nothing.
    pub(super) fn write(&self, data: &Path) -> io::Result<()> {
        let path = path(data, &self.of);
        fs::create_dir_all(data.join(FOLDER))?;
        let new = path.with_extension("new");
        let mut file = fs::File::create(&new)?;
        file.write_all(&serde_json::to_vec_pretty(self)?)?;
        file.sync_data()?;
        fs::rename(new, path)
    }
}

const FOLDER: &str = "streams";

fn path(data: &Path, of: &str) -> PathBuf {
    let hash = faster_hex::hex_string(&Sha256::digest(of)[..16]);
    data.join(FOLDER).join(hash).with_extension("json")
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    const WINDOWS: Windows =
        Windows { overlap: Duration::from_secs(100), complete_every: Duration::from_secs(10_000) };

    #[test]
    fn what_was_missed_is_compared_with_overlap_and_everything_now_and_then() {
        let mut position = Position::new("x", None, 5_000, WINDOWS.overlap, Seq(7));
        assert_eq!((position.from, position.since(6_000, WINDOWS), position.sent), (4_900, 4_900, 7));
        position.compared(4_900, 6_000, true);
        assert_eq!(position.since(6_050, WINDOWS), 5_900);
        assert_eq!(position.since(15_999, WINDOWS), 5_900, "not yet");
        assert_eq!(position.since(16_000, WINDOWS), 4_900, "everything");
        assert_eq!(position.since(16_000, Windows { complete_every: Duration::ZERO, ..WINDOWS }), 5_900);
        position.compared(4_900, 16_000, true);
        assert_eq!(position.since(16_001, WINDOWS), 15_900);
        // All pages of a relay without NIP-77 are not read once a day.
        position.compared(15_900, 17_000, false);
        assert_eq!(position.since(99_000, WINDOWS), 16_900);
        // Never from before the beginning.
        let mut position = Position::new("x", Some(5_000), 6_000, WINDOWS.overlap, Seq(7));
        position.compared(5_000, 5_050, true);
        assert_eq!(position.since(5_060, WINDOWS), 5_000);
    }

    #[test]
    fn it_is_read_as_it_was_written() {
        let folder = TempDir::new().unwrap();
        assert_eq!(Position::read(folder.path(), "x"), None);
        let mut position = Position::new("x", Some(5), 6, WINDOWS.overlap, Seq(7));
        position.compared(5, 6, true);
        position.write(folder.path()).unwrap();
        assert_eq!(Position::read(folder.path(), "x"), Some(position.clone()));
        assert_eq!(Position::read(folder.path(), "y"), None);
        fs::write(path(folder.path(), "x"), "{").unwrap();
        assert_eq!(Position::read(folder.path(), "x"), None);
        // Another database: all is compared again.
        position.check(Seq(7));
        assert_eq!((position.sent, position.synced_at), (7, 6));
        position.check(Seq(6));
        assert_eq!((position.sent, position.synced_at, position.complete_at), (6, 0, 0));
    }
}
