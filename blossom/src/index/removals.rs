//! Bytes that are to be removed. Those of a hash wait only while no upload of it is under way, and while a host removes them no
//! upload of it begins. A key is in the table until its bytes are gone.

use relay_engine::sql::{SqlConn, StoreError};

use super::Run;
use super::command::{Key, Outcome};
use super::parts::part_id;
use super::sql::{all, exec, has, text};
use super::state::Taken;
use super::uploads::staged_key;
use crate::blob::Sha256;

const QUEUE: &str = "INSERT OR IGNORE INTO blossom_removals (key, taken_at, again) VALUES (?, 0, 0)";
const DELETE: &str = "DELETE FROM blossom_removals WHERE key = ?";
const NEXT: &str = "SELECT key FROM blossom_removals WHERE taken_at = 0 ORDER BY key LIMIT ?";
const TAKE: &str = "UPDATE blossom_removals SET taken_at = ? WHERE key = ?";
const AGAIN: &str = "UPDATE blossom_removals SET again = 1 WHERE key = ?";
const REQUEUE: &str = "UPDATE blossom_removals SET taken_at = 0, again = 0 WHERE key = ?";
const REQUEUE_ALL: &str = "UPDATE blossom_removals SET taken_at = 0, again = 0 WHERE taken_at > 0";
const HAS: &str = "SELECT 1 FROM blossom_removals WHERE key = ?";

/// After as many seconds a host that took a removal has died.
pub(super) const TAKEN_SECONDS: u64 = 900;

/// Whether the key is a hash: bytes that may come back. Others have a number that is given once, so that they may be handed out
/// again at any time, and need no mark in the table.
fn is_hash(key: &str) -> bool {
    !key.contains('/')
}

impl<C: SqlConn> Run<'_, C> {
    /// Bytes of a hash are removed, unless they are live or being uploaded. One row.
    pub(super) fn free(&mut self, sha256: &Sha256) -> Result<(), StoreError> {
        if self.state.is_pending(sha256) || self.blob(sha256)?.is_some() {
            return Ok(());
        }
        self.queue(&sha256.to_string())
    }

    /// Bytes are removed; again if they are being removed, for they may have come after that. One row.
    pub(super) fn queue(&mut self, key: &str) -> Result<(), StoreError> {
        self.state.is_removal_due = true;
        match self.state.taken.get_mut(key) {
            Some(taken) if taken.is_again => Ok(()),
            Some(taken) => {
                taken.is_again = true;
                exec(self.conn, AGAIN, &[key.into()])
            }
            None => exec(self.conn, QUEUE, &[key.into()]),
        }
    }

    /// Bytes are being uploaded, so they are not removed. One row, if they were to be.
    pub(super) fn call_off(&mut self, sha256: &Sha256) -> Result<(), StoreError> {
        exec(self.conn, DELETE, &[sha256.to_string().as_str().into()])
    }

    /// Hands out a removal. One row for bytes of a hash. Reads the removals that others have taken.
    pub(super) fn take_removal(&mut self) -> Result<Outcome, StoreError> {
        let due = self.state.taken.iter().find(|(_, taken)| taken.at + TAKEN_SECONDS <= self.now);
        let key = match due {
            Some((key, _)) => Some(key.clone()),
            None => {
                let limit = self.state.taken.len() as u64 + 1;
                let keys = all(self.conn, NEXT, &[limit.into()], |row| text(row, 0))?;
                keys.into_iter().find(|key| !self.state.taken.contains_key(key))
            }
        };
        self.state.is_removal_due = key.is_some();
        if let Some(key) = &key {
            let at = self.now.max(1);
            if is_hash(key) {
                exec(self.conn, TAKE, &[at.into(), key.as_str().into()])?;
            }
            self.state.taken.entry(key.clone()).or_insert(Taken { at, is_again: false }).at = at;
        }
        Ok(Outcome::Removal(key))
    }

    /// Bytes are gone. One row.
    pub(super) fn removed(&mut self, key: &str) -> Result<Outcome, StoreError> {
        // What nobody has taken is not done, whoever says so.
        if let Some(taken) = self.state.taken.remove(key) {
            exec(self.conn, if taken.is_again { REQUEUE } else { DELETE }, &[key.into()])?;
            self.state.is_removal_due |= taken.is_again;
        }
        Ok(Outcome::Done)
    }

    /// Bytes could not be removed. One row.
    pub(super) fn removal_failed(&mut self, key: &str) -> Result<Outcome, StoreError> {
        if self.state.taken.remove(key).is_some() {
            self.state.is_removal_due = true;
            exec(self.conn, REQUEUE, &[key.into()])?;
        }
        Ok(Outcome::Done)
    }

    /// The process that all uploads and removals belonged to is gone. As many rows as they were.
    pub(super) fn restart(&mut self) -> Result<Outcome, StoreError> {
        exec(self.conn, REQUEUE_ALL, &[])?;
        self.state.is_removal_due |= !self.state.taken.is_empty();
        self.state.taken.clear();
        let ids: Vec<u64> = self.state.uploads.keys().copied().collect();
        for id in ids {
            match self.state.uploads.get(&id).is_some_and(|upload| upload.parts.is_some()) {
                true => self.restart_parts(id)?,
                false => self.give_up(id)?,
            }
        }
        Ok(Outcome::Done)
    }

    /// Whether bytes belong to a blob, an upload, a part or a removal that waits. A few reads.
    pub(super) fn is_known(&mut self, key: &Key) -> Result<Outcome, StoreError> {
        let is_known = if let Ok(sha256) = key.parse::<Sha256>() {
            // Those of an upload that is given up are removed when it ends.
            let mut uploads = self.state.uploads.values();
            uploads.any(|upload| upload.sha256 == Some(sha256)) || self.blob(&sha256)?.is_some()
        } else {
            let mut uploads = self.state.uploads.iter();
            uploads.any(|(id, upload)| {
                let is_part = || part_id(upload, key).is_some();
                (upload.is_staged && staged_key(*id) == *key) || is_part()
            })
        };
        let is_known = is_known || has(self.conn, HAS, &[key.as_str().into()])?;
        Ok(if is_known { Outcome::Accepted } else { Outcome::Missing })
    }
}
