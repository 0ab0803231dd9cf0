//! Bytes that are to be removed. Those of a hash are queued only while no upload of it is in progress, and no upload
//! of it begins while a host removes them. A key is in the table until its bytes are removed.

use relay_engine::sql::column::text;
use relay_engine::sql::{SqlConn, StoreError, exec, has_row, query_all};

use super::Run;
use super::command::{Key, Outcome};
use super::parts::part_id;
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

/// Seconds after which a host that took a removal counts as dead.
pub(super) const TAKEN_SECONDS: u64 = 900;

/// Whether the key is a hash: bytes that may come back. Others have a number that is given once, so that they may be handed out
/// again at any time, and need no mark in the table.
fn is_hash(key: &str) -> bool {
    !key.contains('/')
}

/// Whether it is a key as this index gives them.
fn is_ours(key: &str) -> bool {
    let is_number = |text: &str| text.parse::<u64>().is_ok_and(|number| number.to_string() == text);
    match key.split_once('/') {
        None => key.parse::<Sha256>().is_ok(),
        Some(("staged", number)) => is_number(number),
        Some(("parts", part)) => part
            .split_once('/')
            .is_some_and(|(sha256, number)| sha256.parse::<Sha256>().is_ok() && is_number(number)),
        Some(_) => false,
    }
}

impl<C: SqlConn> Run<'_, C> {
    /// Queues the removal of the bytes of a hash, unless they are live or being uploaded. One row.
    pub(super) fn queue_blob_removal(&mut self, sha256: &Sha256) -> Result<(), StoreError> {
        if self.state.is_pending(sha256) || self.blob(sha256)?.is_some() {
            return Ok(());
        }
        self.queue(&sha256.to_string())
    }

    /// Queues the removal of bytes; if they are being removed, once more, because they may have arrived after that. One row.
    pub(super) fn queue(&mut self, key: &str) -> Result<(), StoreError> {
        self.state.has_pending_removals = true;
        match self.state.taken.get_mut(key) {
            Some(taken) if taken.remove_again => Ok(()),
            Some(taken) => {
                taken.remove_again = true;
                exec(self.conn, AGAIN, &[key.into()])
            }
            None => exec(self.conn, QUEUE, &[key.into()]),
        }
    }

    /// Cancels the removal of bytes that are being uploaded. One row, if a removal was queued.
    pub(super) fn cancel_removal(&mut self, sha256: &Sha256) -> Result<(), StoreError> {
        exec(self.conn, DELETE, &[sha256.to_string().as_str().into()])
    }

    /// Hands out removals. One row for each of bytes of a hash. Reads the removals that others have taken.
    pub(super) fn take_removals(&mut self, limit: usize) -> Result<Vec<Key>, StoreError> {
        let due = self.state.taken.iter().filter(|(_, taken)| taken.at + TAKEN_SECONDS <= self.now);
        let mut keys: Vec<Key> = due.map(|(key, _)| key.clone()).take(limit).collect();
        let mut waiting = self.waiting(limit - keys.len() + 1)?;
        let is_more = waiting.len() > limit - keys.len();
        waiting.truncate(limit - keys.len());
        keys.extend(waiting);
        for key in &keys {
            self.take(key)?;
        }
        self.state.has_pending_removals = is_more;
        Ok(keys)
    }

    /// Hands out the removal of these bytes. The same rows.
    pub(super) fn take_removal_of(&mut self, key: Key) -> Result<Outcome, StoreError> {
        if self.state.taken.contains_key(&key) || !has_row(self.conn, HAS, &[key.as_str().into()])? {
            return Ok(Outcome::Removal(None));
        }
        self.take(&key)?;
        self.state.has_pending_removals = !self.waiting(1)?.is_empty();
        Ok(Outcome::Removal(Some(key)))
    }

    /// The first removals that nobody has taken.
    fn waiting(&self, limit: usize) -> Result<Vec<Key>, StoreError> {
        let among = (self.state.taken.len() + limit) as u64;
        let keys = query_all(self.conn, NEXT, &[among.into()], |row| text(row, 0))?;
        Ok(keys.into_iter().filter(|key| !self.state.taken.contains_key(key)).take(limit).collect())
    }

    fn take(&mut self, key: &Key) -> Result<(), StoreError> {
        let at = self.now.max(1);
        if is_hash(key) {
            exec(self.conn, TAKE, &[at.into(), key.as_str().into()])?;
        }
        self.state.taken.entry(key.clone()).or_insert(Taken { at, remove_again: false }).at = at;
        Ok(())
    }

    /// Bytes are gone. One row.
    pub(super) fn removed(&mut self, key: &str) -> Result<Outcome, StoreError> {
        // What nobody has taken is not done, whoever says so.
        if let Some(taken) = self.state.taken.remove(key) {
            exec(self.conn, if taken.remove_again { REQUEUE } else { DELETE }, &[key.into()])?;
            self.state.has_pending_removals |= taken.remove_again;
        }
        Ok(Outcome::Done)
    }

    /// Bytes could not be removed. One row.
    pub(super) fn removal_failed(&mut self, key: &str) -> Result<Outcome, StoreError> {
        if self.state.taken.remove(key).is_some() {
            self.state.has_pending_removals = true;
            exec(self.conn, REQUEUE, &[key.into()])?;
        }
        Ok(Outcome::Done)
    }

    /// The process that all uploads and removals belonged to is gone. As many rows as they were.
    pub(super) fn restart(&mut self) -> Result<Outcome, StoreError> {
        exec(self.conn, REQUEUE_ALL, &[])?;
        self.state.has_pending_removals |= !self.state.taken.is_empty();
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
    pub(super) fn is_known(&mut self, key: &Key) -> Result<bool, StoreError> {
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
        Ok(is_known || has_row(self.conn, HAS, &[key.as_str().into()])?)
    }

    /// Bytes that belong to nothing are removed. A row for each, and a few reads for each key.
    pub(super) fn remove_unknown(&mut self, keys: Vec<Key>, is_asked: bool) -> Result<Outcome, StoreError> {
        let (mut known, mut hashes, mut others) = (0, Vec::new(), Vec::new());
        for key in keys.into_iter().filter(|key| is_ours(key)) {
            match (self.is_known(&key)?, is_hash(&key)) {
                (true, true) => known += 1,
                (true, false) => {}
                (false, true) => hashes.push(key),
                (false, false) => others.push(key),
            }
        }
        let left = if is_asked || hashes.len() <= known { 0 } else { std::mem::take(&mut hashes).len() };
        for key in hashes.iter().chain(&others) {
            self.queue(key)?;
        }
        Ok(Outcome::Unknown { removed: (hashes.len() + others.len()) as u64, left: left as u64 })
    }
}
