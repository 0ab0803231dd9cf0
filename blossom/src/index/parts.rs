//! Uploads in parts (BUD-14). Parts of one owner and hash share an upload, come in any order, overlap and repeat. They are kept
//! under keys of their own until they cover the blob; then one request joins them, and all of them are removed.

use relay_engine::sql::{SqlConn, StoreError, exec};
use relay_engine::types::PubKey;

use super::Run;
use super::command::{Key, Outcome, Part, PartHead, Refusal, Wanted};
use super::sql::parse_key;
use super::state::{PartRow, Parts, Upload};
use super::uploads::{Kind, UploadDecision};
use crate::blob::Sha256;

const INSERT: &str = "INSERT INTO blossom_parts (id, upload, start, length, stored) VALUES (?, ?, ?, ?, 0)";
const STORED: &str = "UPDATE blossom_parts SET stored = 1 WHERE id = ?";
const DELETE: &str = "DELETE FROM blossom_parts WHERE id = ?";
const QUEUE_ALL: &str = "INSERT OR IGNORE INTO blossom_removals (key, taken_at, again) \
                         SELECT CAST(? || id AS BLOB), 0, 0 FROM blossom_parts WHERE id BETWEEN ? AND ? AND upload = ?";
const DELETE_ALL: &str = "DELETE FROM blossom_parts WHERE id BETWEEN ? AND ? AND upload = ?";
const PUT_PAYMENT: &str = "INSERT OR REPLACE INTO blossom_payments (upload, proof) VALUES (?, ?)";
const SET_FLAGS: &str = "UPDATE blossom_uploads SET flags = ? WHERE id = ?";
const EXTEND: &str = "UPDATE blossom_uploads SET abandoned_at = ? WHERE id = ?";

/// Most parts of an owner.
const PARTS_MAX: usize = 10_000;
/// Most uploads in parts of an owner.
const UPLOADS_IN_PARTS_MAX: usize = 16;
/// Seconds after the first part at which an upload counts as abandoned, however many parts come.
const LASTS_SECONDS: u64 = 24 * 3_600;
/// Seconds after which a request that joins parts counts as dead.
const JOIN_SECONDS: u64 = 900;
/// Joins of an upload that may fail: the bytes do not have the hash, or the store is broken.
const JOINS_MAX: u32 = 3;
/// Seconds by which the table may be behind with the time at which an upload is abandoned.
const EXTEND_SECONDS: u64 = 60;

fn prefix(sha256: &Sha256) -> String {
    format!("parts/{sha256}/")
}

/// The number of a part of this upload, if it has one with this key.
pub(super) fn part_id(upload: &Upload, key: &str) -> Option<u64> {
    let (parts, sha256) = (upload.parts.as_ref()?, upload.sha256.as_ref()?);
    let id = key.strip_prefix("parts/")?.strip_prefix(&sha256.to_string())?.strip_prefix('/')?;
    let id: u64 = id.parse().ok()?;
    // As written, not as read: `+7` and `07` are keys of nothing.
    (parts.rows.contains_key(&id) && *key == format!("{}{id}", prefix(sha256))).then_some(id)
}

impl Parts {
    /// Until when the request that joins these parts may still be alive, in Unix seconds; `None` if there is none.
    pub(super) fn joining_until(&self) -> Option<u64> {
        self.joining.map(|since| since + JOIN_SECONDS)
    }

    /// A join has failed. Whether it was one too many.
    pub(super) fn join_has_failed(&mut self) -> bool {
        if self.joining.take().is_some() {
            self.failed += 1;
        }
        self.failed >= JOINS_MAX
    }

    /// Bytes of all parts, also of those under way.
    pub(super) fn bytes(&self) -> u64 {
        self.rows.values().fold(0, |sum, part| sum.saturating_add(part.length))
    }

    /// Whether stored parts have all bytes of this one.
    fn have(&self, part: PartHead) -> bool {
        let mut stored: Vec<(u64, u64)> = self
            .rows
            .values()
            .filter(|row| row.is_stored)
            .map(|row| (row.start, row.start + row.length))
            .collect();
        stored.sort_unstable();
        let reached =
            stored.iter().fold(part.offset, |at, (start, end)| if *start <= at { at.max(*end) } else { at });
        part.length > 0 && reached >= part.offset + part.length
    }

    /// What is to be taken of which part to have all of a blob, if stored parts cover it.
    fn cover(&self, sha256: &Sha256, size: u64) -> Option<Vec<Part>> {
        let mut stored: Vec<(u64, u64, u64)> = self
            .rows
            .iter()
            .filter(|(_, part)| part.is_stored)
            .map(|(id, part)| (part.start, part.start + part.length, *id))
            .collect();
        stored.sort_unstable();
        let mut stored = stored.into_iter().peekable();
        let (mut at, mut cover) = (0, Vec::new());
        // The part that reaches furthest among those that begin at `at` or before.
        let mut furthest = (0, 0, 0);
        while at < size {
            while let Some(part) = stored.next_if(|part| part.0 <= at) {
                if part.1 > furthest.1 {
                    furthest = part;
                }
            }
            let (start, end, id) = furthest;
            if end <= at {
                return None;
            }
            cover.push(Part { key: format!("{}{id}", prefix(sha256)), skip: at - start, take: end - at });
            at = end;
        }
        Some(cover)
    }
}

impl<C: SqlConn> Run<'_, C> {
    /// A part comes. One row, for the first part two, none if it need not come; two more with a proof of payment, and one a minute to keep
    /// the upload. Looks through the owner's parts, which are in memory.
    pub(super) fn begin_part(&mut self, wanted: &Wanted, part: PartHead) -> Result<Outcome, StoreError> {
        let owner = parse_key(&wanted.owner)?;
        let Some(sha256) = wanted.sha256 else {
            return Err(StoreError::Failed("a part without a hash".to_owned()));
        };
        if part.offset.checked_add(part.length).is_none_or(|end| end > wanted.size) {
            return Ok(Outcome::Refused(Refusal::OtherLength));
        }
        let found = self.upload_in_parts(&owner, &sha256);
        let other_length = found.filter(|(_, size)| *size != wanted.size).is_some();
        let found = found.map(|(id, _)| id);
        let parts = found.and_then(|id| self.state.uploads.get(&id)?.parts.as_ref());
        let has_it = parts.is_some_and(|parts| parts.have(part));
        let bytes = parts.map_or(0, Parts::bytes).saturating_add(if has_it { 0 } else { part.length });
        let mut is_sold = wanted.must_be_paid;
        match self.decide_upload(&owner, Some(&sha256), bytes.min(wanted.size), wanted.quotas(), found)? {
            UploadDecision::Exists(mut row) => {
                found.map_or(Ok(()), |id| self.give_up(id))?;
                let keep = wanted.keep(&row, self.now);
                self.add_owner(&mut row, owner, keep)?;
                return Ok(Outcome::Exists(row.blob));
            }
            // Its owner-to-be shows that they have it: their parts come as if it were new.
            UploadDecision::OwnedByOthers(row) => {
                is_sold = is_sold && self.is_owned_by_relay_alone(&row)?;
                let size = bytes.min(wanted.size);
                if let Some(refusal) = self.refusal(&owner, Some(&sha256), size, wanted.quotas(), found)?
                    && !has_it
                {
                    return Ok(Outcome::Refused(refusal));
                }
            }
            UploadDecision::Busy => return Ok(Outcome::Busy),
            UploadDecision::Refused(Refusal::Banned) => {
                found.map_or(Ok(()), |id| self.give_up(id))?;
                return Ok(Outcome::Refused(Refusal::Banned));
            }
            // What it has stored it has reserved.
            UploadDecision::Refused(_) if has_it => {}
            UploadDecision::Refused(refusal) => return Ok(Outcome::Refused(refusal)),
            UploadDecision::Allowed => {}
        }
        if other_length {
            return Ok(Outcome::Refused(Refusal::OtherLength));
        }
        let is_paid = found.and_then(|id| self.state.uploads.get(&id)?.payment.as_ref()).is_some();
        let proof = match (is_sold && !is_paid, &wanted.proof) {
            (false, _) => None,
            (true, Some(proof)) if !self.is_claimed(proof) => Some(proof),
            (true, _) => return Ok(Outcome::Refused(Refusal::Unpaid)),
        };
        if let (Some(id), true) = (found, has_it) {
            self.claim(id, proof)?;
            self.extend(id, wanted.abandoned_at)?;
            return self.begin_join(id);
        }
        let of_owner = self.state.uploads.values().filter(|upload| upload.owner == owner);
        let rows: Vec<usize> =
            of_owner.filter_map(|upload| Some(upload.parts.as_ref()?.rows.len())).collect();
        let is_one_more = found.is_none() && rows.len() >= UPLOADS_IN_PARTS_MAX;
        if is_one_more || rows.iter().sum::<usize>() >= PARTS_MAX || bytes > wanted.size.saturating_mul(2) {
            return Ok(Outcome::Refused(Refusal::TooMany));
        }
        let upload = match found {
            Some(id) => self.extend(id, wanted.abandoned_at)?,
            None => self.insert_upload(owner, wanted, wanted.size, Kind::InParts)?,
        };
        self.claim(upload, proof)?;
        let id = self.state.next_id(self.conn)?;
        exec(self.conn, INSERT, &[id.into(), upload.into(), part.offset.into(), part.length.into()])?;
        if let Some(parts) = self.parts_of(upload) {
            parts.rows.insert(id, PartRow { start: part.offset, length: part.length, is_stored: false });
        }
        Ok(Outcome::Begun { upload, key: format!("{}{id}", prefix(&sha256)) })
    }

    /// Whether a part is to be paid for. Two reads.
    pub(super) fn check_part(&mut self, wanted: &Wanted) -> Result<Outcome, StoreError> {
        let owner = parse_key(&wanted.owner)?;
        let found = wanted.sha256.and_then(|sha256| self.upload_in_parts(&owner, &sha256));
        let upload = found.and_then(|(id, _)| self.state.uploads.get(&id));
        let outcome = match upload.is_some_and(|upload| upload.payment.is_some()) {
            true => Outcome::Done,
            false => self.check(wanted)?,
        };
        let has_other_length = found.is_some_and(|(_, size)| size != wanted.size);
        match outcome {
            Outcome::Done | Outcome::Accepted if has_other_length => {
                Ok(Outcome::Refused(Refusal::OtherLength))
            }
            outcome => Ok(outcome),
        }
    }

    /// Whether the proof is in use for another upload in parts.
    fn is_claimed(&self, proof: &str) -> bool {
        let mut open = self.state.uploads.values().filter(|upload| !upload.is_given_up);
        open.any(|upload| upload.payment.as_deref() == Some(proof))
    }

    /// Stores the proof with which an upload is paid. Two rows.
    fn claim(&mut self, upload: u64, proof: Option<&String>) -> Result<(), StoreError> {
        let (Some(proof), Some(row)) = (proof, self.state.uploads.get_mut(&upload)) else { return Ok(()) };
        exec(self.conn, PUT_PAYMENT, &[upload.into(), proof.as_bytes().into()])?;
        row.payment = Some(proof.clone());
        exec(self.conn, SET_FLAGS, &[row.flags().into(), upload.into()])
    }

    fn upload_in_parts(&self, owner: &PubKey, sha256: &Sha256) -> Option<(u64, u64)> {
        let mut uploads = self.state.uploads.iter();
        let is_it = |upload: &Upload| {
            upload.parts.is_some() && upload.sha256 == Some(*sha256) && upload.owner == *owner
        };
        uploads.find(|(_, upload)| is_it(upload)).map(|(id, upload)| (*id, upload.size))
    }

    fn parts_of(&mut self, upload: u64) -> Option<&mut Parts> {
        self.state.uploads.get_mut(&upload)?.parts.as_mut()
    }

    fn extend(&mut self, id: u64, abandoned_at: u64) -> Result<u64, StoreError> {
        if let Some(upload) = self.state.uploads.get_mut(&id) {
            let last = upload.began_at.saturating_add(LASTS_SECONDS);
            upload.abandoned_at = upload.abandoned_at.max(abandoned_at.min(last));
            if upload.abandoned_at >= upload.abandoned_at_stored.saturating_add(EXTEND_SECONDS) {
                exec(self.conn, EXTEND, &[upload.abandoned_at.into(), id.into()])?;
                upload.abandoned_at_stored = upload.abandoned_at;
            }
        }
        Ok(id)
    }

    /// A part is stored. One row. Looks through the parts of its upload, which are in memory.
    pub(super) fn finish_part(&mut self, upload: u64, key: &Key) -> Result<Outcome, StoreError> {
        let conn = self.conn;
        let Some((id, row)) = self.part(upload, key) else { return self.refuse_late_part(key) };
        exec(conn, STORED, &[id.into()])?;
        if let Some(part) = row.parts.as_mut().and_then(|parts| parts.rows.get_mut(&id)) {
            part.is_stored = true;
        }
        self.begin_join(upload)
    }

    /// Has the caller join the parts ([`Outcome::Complete`]) if stored parts cover the blob and nobody joins them; otherwise [`Outcome::Accepted`].
    fn begin_join(&mut self, upload: u64) -> Result<Outcome, StoreError> {
        let now = self.now;
        let row = self.state.uploads.get_mut(&upload);
        let Some((sha256, size, payment, parts)) =
            row.and_then(|row| Some((row.sha256?, row.size, row.payment.clone(), row.parts.as_mut()?)))
        else {
            return Ok(Outcome::Accepted);
        };
        if parts.joining_until().is_some_and(|until| now < until) {
            return Ok(Outcome::Accepted);
        }
        let Some(cover) = parts.cover(&sha256, size) else { return Ok(Outcome::Accepted) };
        parts.joining = Some(now);
        let blob = self.blob(&sha256)?;
        let is_sold = blob.as_ref().map_or(Ok(true), |row| self.is_owned_by_relay_alone(row))?;
        let (blob_exists, payment) = (blob.is_some(), payment.filter(|_| is_sold));
        Ok(Outcome::Complete { upload, key: sha256.to_string(), parts: cover, blob_exists, payment })
    }

    /// A part has failed. Two rows; four if its upload has no other.
    pub(super) fn abort_part(&mut self, upload: u64, key: &Key) -> Result<Outcome, StoreError> {
        match self.part(upload, key).map(|(id, _)| id) {
            Some(id) => self.remove_part(upload, id, key)?,
            None => drop(self.refuse_late_part(key)?),
        }
        Ok(Outcome::Done)
    }

    /// Nobody joins the parts of an upload any more. No row.
    pub(super) fn leave_parts(&mut self, upload: u64) -> Outcome {
        if let Some(parts) = self.parts_of(upload) {
            parts.joining = None;
        }
        Outcome::Done
    }

    fn part(&mut self, upload: u64, key: &str) -> Option<(u64, &mut Upload)> {
        let upload = self.state.uploads.get_mut(&upload)?;
        Some((part_id(upload, key)?, upload))
    }

    /// Refuses a part whose upload has ended. Its bytes may have come after those of the upload were removed, so they are removed, too.
    fn refuse_late_part(&mut self, key: &str) -> Result<Outcome, StoreError> {
        if key.starts_with("parts/") {
            self.queue(key)?;
        }
        Ok(Outcome::Refused(Refusal::Gone))
    }

    fn remove_part(&mut self, upload: u64, id: u64, key: &str) -> Result<(), StoreError> {
        exec(self.conn, DELETE, &[id.into()])?;
        self.queue(key)?;
        let is_empty = self.parts_of(upload).is_some_and(|parts| {
            parts.rows.remove(&id);
            parts.rows.is_empty()
        });
        if is_empty { self.give_up(upload) } else { Ok(()) }
    }

    /// The process that stored parts is gone. What it has stored is kept. Two rows for every other part.
    pub(super) fn restart_parts(&mut self, upload: u64) -> Result<(), StoreError> {
        let Some(row) = self.state.uploads.get_mut(&upload) else { return Ok(()) };
        let (Some(sha256), Some(parts)) = (row.sha256, row.parts.as_mut()) else { return Ok(()) };
        (parts.joining, parts.failed) = (None, 0);
        let unfinished: Vec<u64> =
            parts.rows.iter().filter(|(_, part)| !part.is_stored).map(|(id, _)| *id).collect();
        for id in unfinished {
            self.remove_part(upload, id, &format!("{}{id}", prefix(&sha256)))?;
        }
        Ok(())
    }

    /// All parts of an upload are removed. Two rows each, in two statements.
    pub(super) fn remove_parts(
        &mut self,
        upload: u64,
        sha256: &Sha256,
        parts: &Parts,
    ) -> Result<(), StoreError> {
        let (Some((first, _)), Some((last, _))) = (parts.rows.first_key_value(), parts.rows.last_key_value())
        else {
            return Ok(());
        };
        let range = [(*first).into(), (*last).into(), upload.into()];
        let mut params = vec![prefix(sha256).as_str().into()];
        params.extend(range.clone());
        self.state.has_pending_removals = true;
        exec(self.conn, QUEUE_ALL, &params)?;
        exec(self.conn, DELETE_ALL, &range)
    }
}
