//! Uploads: whether one may begin, what its hash turns out to be, and how it ends.

use relay_engine::sql::{SqlConn, StoreError, exec, has_row};
use relay_engine::types::PubKey;
use relay_site::blossom::RetentionRule;

use super::Run;
use super::blobs::{BlobRow, Retention};
use super::command::{Commit, Key, Outcome, Refusal, Wanted};
use super::sql::parse_key;
use super::state::{Parts, Upload};
use crate::blob::Sha256;
use crate::mime::retention;

const INSERT: &str = "INSERT INTO blossom_uploads (id, owner, sha256, size, key_max, total_max, abandoned_at, began_at, \
                      expires_at, unused, flags) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
const RESERVE: &str = "UPDATE blossom_uploads SET size = ? WHERE id = ?";
const SET_HASH: &str = "UPDATE blossom_uploads SET sha256 = ?, size = ? WHERE id = ?";
const GIVE_UP: &str = "UPDATE blossom_uploads SET size = 0, flags = ? WHERE id = ?";
const DELETE: &str = "DELETE FROM blossom_uploads WHERE id = ?";
const DELETE_PAYMENT: &str = "DELETE FROM blossom_payments WHERE upload = ?";
const IS_BANNED: &str = "SELECT 1 FROM blossom_bans WHERE sha256 = ?";

/// Most uploads of an owner under way.
pub(super) const UPLOADS_MAX: usize = 1_024;

/// Whether bytes may be uploaded.
pub(super) enum UploadDecision {
    /// The uploader owns it.
    Exists(Box<BlobRow>),
    /// Others own it, and the uploader may become an owner.
    OwnedByOthers(Box<BlobRow>),
    Busy,
    Refused(Refusal),
    Allowed,
}

/// How the bytes of an upload come.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Whole,
    InParts,
    /// Only hashed, because the blob exists.
    HashOnly,
}

/// Quotas of an upload.
#[derive(Clone, Copy)]
pub(super) struct Quotas {
    pub(super) key_max: Option<u64>,
    pub(super) total_max: Option<u64>,
}

impl Upload {
    fn quotas(&self) -> Quotas {
        Quotas { key_max: self.key_max, total_max: self.total_max }
    }
}

impl Wanted {
    pub(super) fn quotas(&self) -> Quotas {
        Quotas { key_max: self.key_bytes_max, total_max: self.total_bytes_max }
    }

    /// How long a blob that is here already is kept, at least.
    pub(super) fn keep(&self, row: &BlobRow, now: u64) -> Retention {
        if self.must_be_paid || self.owner_pays && self.size < row.blob.size {
            return Retention::NONE;
        }
        keep(&self.retention, Retention::new(self.expires_at, self.unused_seconds), row, now)
    }

    /// The same for an upload whose blob, and so its type, is not known yet: with rules it does not extend how long the blob is
    /// kept.
    fn keep_later(&self) -> Retention {
        match self.retention.is_empty() {
            true => Retention::new(self.expires_at, self.unused_seconds),
            false => Retention::NONE,
        }
    }
}

/// How long a blob that is here already is kept, at least: by its own type and size if there are rules, else as its uploader says.
fn keep(rules: &[RetentionRule], own: Retention, row: &BlobRow, now: u64) -> Retention {
    if rules.is_empty() {
        return own;
    }
    retention(rules, &row.blob.mime, row.blob.size).map_or_else(Retention::default, |rule| {
        Retention::new(rule.age_seconds.map(|age| now.saturating_add(age)), rule.unused_seconds)
    })
}

/// Where the bytes of an upload of unknown hash are.
pub(super) fn staged_key(upload: u64) -> Key {
    format!("staged/{upload}")
}

impl<C: SqlConn> Run<'_, C> {
    /// Decides on an upload, apart from what upload `own` itself reserves. Two reads; with a quota also what
    /// [`Run::owned_bytes`] reads.
    pub(super) fn decide_upload(
        &mut self,
        owner: &PubKey,
        sha256: Option<&Sha256>,
        size: u64,
        quotas: Quotas,
        own: Option<u64>,
    ) -> Result<UploadDecision, StoreError> {
        if let Some(sha256) = sha256 {
            if self.is_banned(sha256)? {
                return Ok(UploadDecision::Refused(Refusal::Banned));
            }
            if let Some(row) = self.blob(sha256)? {
                if self.is_owner(&row, owner)? {
                    return Ok(UploadDecision::Exists(Box::new(row)));
                }
                let quotas = Quotas { total_max: None, ..quotas };
                let refusal = self.refusal(owner, Some(sha256), row.blob.size, quotas, own)?;
                return Ok(
                    refusal.map_or(UploadDecision::OwnedByOthers(Box::new(row)), UploadDecision::Refused)
                );
            }
            if self.state.taken.contains_key(&sha256.to_string()) {
                return Ok(UploadDecision::Busy);
            }
        }
        Ok(self
            .refusal(owner, sha256, size, quotas, own)?
            .map_or(UploadDecision::Allowed, UploadDecision::Refused))
    }

    /// Whether an owner has too much under way, or quotas leave no room.
    pub(super) fn refusal(
        &mut self,
        owner: &PubKey,
        sha256: Option<&Sha256>,
        size: u64,
        quotas: Quotas,
        own: Option<u64>,
    ) -> Result<Option<Refusal>, StoreError> {
        let under_way = self.state.uploads.iter();
        let count = under_way.filter(|(id, upload)| upload.owner == *owner && Some(**id) != own).count();
        if count >= UPLOADS_MAX {
            return Ok(Some(Refusal::TooMany));
        }
        self.quota_refusal(owner, sha256, size, quotas, own)
    }

    pub(super) fn is_banned(&self, sha256: &Sha256) -> Result<bool, StoreError> {
        has_row(self.conn, IS_BANNED, &[(*sha256).into()])
    }

    /// Why `size` bytes more are refused, if they exceed a quota. What upload `own` reserves does not count, nor what other uploads of the same
    /// blob do: whoever has lost the connection and begins again needs room for one.
    fn quota_refusal(
        &mut self,
        owner: &PubKey,
        sha256: Option<&Sha256>,
        size: u64,
        quotas: Quotas,
        own: Option<u64>,
    ) -> Result<Option<Refusal>, StoreError> {
        let reserved = |owner: Option<&PubKey>| {
            let is_same = |upload: &Upload| sha256.is_some() && upload.sha256.as_ref() == sha256;
            let uploads = self.state.uploads.iter();
            let uploads = uploads.filter(|(id, upload)| Some(**id) != own && !is_same(upload));
            let counts = |upload: &Upload| owner.map_or(!upload.is_hash_only, |owner| upload.owner == *owner);
            let uploads = uploads.filter(|(_, upload)| counts(upload));
            uploads.fold(size, |sum, (_, upload)| sum.saturating_add(upload.reserved()))
        };
        if let Some(max) = quotas.total_max
            && reserved(None).saturating_add(self.state.totals.bytes) > max
        {
            return Ok(Some(Refusal::TotalQuota));
        }
        if let Some(max) = quotas.key_max {
            let reserved = reserved(Some(owner));
            if reserved.saturating_add(self.owned_bytes(owner)?) > max {
                return Ok(Some(Refusal::KeyQuota));
            }
        }
        Ok(None)
    }

    pub(super) fn check(&mut self, wanted: &Wanted) -> Result<Outcome, StoreError> {
        let owner = parse_key(&wanted.owner)?;
        let decision =
            self.decide_upload(&owner, wanted.sha256.as_ref(), wanted.size, wanted.quotas(), None)?;
        Ok(match decision {
            UploadDecision::OwnedByOthers(row)
                if wanted.must_be_paid && self.is_owned_by_relay_alone(&row)? =>
            {
                Outcome::Accepted
            }
            UploadDecision::Exists(row) | UploadDecision::OwnedByOthers(row) => Outcome::Exists(row.blob),
            UploadDecision::Busy => Outcome::Busy,
            UploadDecision::Refused(refusal) => Outcome::Refused(refusal),
            UploadDecision::Allowed => Outcome::Accepted,
        })
    }

    /// An upload begins. One row, and one if a removal is cancelled.
    pub(super) fn begin(&mut self, wanted: &Wanted) -> Result<Outcome, StoreError> {
        let owner = parse_key(&wanted.owner)?;
        match self.decide_upload(&owner, wanted.sha256.as_ref(), wanted.size, wanted.quotas(), None)? {
            UploadDecision::Exists(mut row) => {
                let keep = wanted.keep(&row, self.now);
                self.add_owner(&mut row, owner, keep)?;
                Ok(Outcome::Exists(row.blob))
            }
            UploadDecision::OwnedByOthers(row) => {
                let is_sold = wanted.must_be_paid && self.is_owned_by_relay_alone(&row)?;
                let upload = self.insert_upload(owner, wanted, row.blob.size, Kind::HashOnly)?;
                Ok(Outcome::OwnedByOthers { upload, is_sold })
            }
            UploadDecision::Busy => Ok(Outcome::Busy),
            UploadDecision::Refused(refusal) => Ok(Outcome::Refused(refusal)),
            UploadDecision::Allowed => {
                let upload = self.insert_upload(owner, wanted, wanted.size, Kind::Whole)?;
                let key = wanted.sha256.map_or_else(|| staged_key(upload), |sha256| sha256.to_string());
                Ok(Outcome::Begun { upload, key })
            }
        }
    }

    /// Adds an upload. One row, and one if a removal is cancelled.
    pub(super) fn insert_upload(
        &mut self,
        owner: PubKey,
        wanted: &Wanted,
        size: u64,
        kind: Kind,
    ) -> Result<u64, StoreError> {
        let id = self.state.next_id(self.conn)?;
        let upload = Upload {
            owner,
            sha256: wanted.sha256,
            size,
            key_max: wanted.key_bytes_max,
            total_max: wanted.total_bytes_max,
            abandoned_at: wanted.abandoned_at,
            abandoned_at_stored: wanted.abandoned_at,
            began_at: self.now,
            keep: wanted.keep_later(),
            is_staged: wanted.sha256.is_none(),
            is_given_up: false,
            is_hash_only: kind == Kind::HashOnly,
            payment: None,
            parts: (kind == Kind::InParts).then(Parts::default),
        };
        // Stored as limit + 1: 0 stands for no limit, and is also a possible limit.
        let plus_one = |max: Option<u64>| max.map_or(0, |max| max.saturating_add(1));
        let params = [
            id.into(),
            owner.into(),
            upload.sha256.map(|sha256| sha256.0.to_vec()).unwrap_or_default().into(),
            upload.size.into(),
            plus_one(upload.key_max).into(),
            plus_one(upload.total_max).into(),
            upload.abandoned_at.into(),
            upload.began_at.into(),
            upload.keep.expires_at.unwrap_or(0).into(),
            upload.keep.unused.unwrap_or(0).into(),
            upload.flags().into(),
        ];
        exec(self.conn, INSERT, &params)?;
        if let Some(sha256) = &upload.sha256 {
            self.cancel_removal(sha256)?;
        }
        self.state.uploads.insert(id, upload);
        Ok(id)
    }

    /// An upload has more bytes than was known. One row if it does.
    pub(super) fn reserve(&mut self, id: u64, size: u64) -> Result<Outcome, StoreError> {
        let Some(upload) = self.state.uploads.get(&id).filter(|upload| !upload.is_given_up) else {
            return Ok(Outcome::Refused(Refusal::Gone));
        };
        if upload.is_hash_only || size <= upload.size {
            return Ok(Outcome::Accepted);
        }
        let (owner, sha256, quotas) = (upload.owner, upload.sha256, upload.quotas());
        if let Some(refusal) = self.quota_refusal(&owner, sha256.as_ref(), size, quotas, Some(id))? {
            return Ok(Outcome::Refused(refusal));
        }
        exec(self.conn, RESERVE, &[size.into(), id.into()])?;
        if let Some(upload) = self.state.uploads.get_mut(&id) {
            upload.size = size;
        }
        Ok(Outcome::Accepted)
    }

    /// The hash of staged bytes is known. One row, and one if a removal is cancelled.
    pub(super) fn set_hash(&mut self, id: u64, sha256: Sha256, size: u64) -> Result<Outcome, StoreError> {
        let Some(upload) = self.state.uploads.get(&id) else {
            self.queue(&staged_key(id))?;
            return Ok(Outcome::Refused(Refusal::Gone));
        };
        if upload.sha256 == Some(sha256) && !upload.is_given_up {
            return Ok(Outcome::Begun { upload: id, key: sha256.to_string() });
        }
        if upload.sha256.is_some() {
            self.give_up(id)?;
            return self.too_late(&sha256);
        }
        let (owner, keep, quotas) = (upload.owner, upload.keep, upload.quotas());
        match self.decide_upload(&owner, Some(&sha256), size, quotas, Some(id))? {
            UploadDecision::Exists(mut row) | UploadDecision::OwnedByOthers(mut row) => {
                self.give_up(id)?;
                self.add_owner(&mut row, owner, keep)?;
                Ok(Outcome::Exists(row.blob))
            }
            UploadDecision::Busy => Ok(Outcome::Busy),
            UploadDecision::Refused(refusal) => {
                self.give_up(id)?;
                Ok(Outcome::Refused(refusal))
            }
            UploadDecision::Allowed => {
                exec(self.conn, SET_HASH, &[sha256.into(), size.into(), id.into()])?;
                self.cancel_removal(&sha256)?;
                if let Some(upload) = self.state.uploads.get_mut(&id) {
                    upload.sha256 = Some(sha256);
                    upload.size = size;
                }
                Ok(Outcome::Begun { upload: id, key: sha256.to_string() })
            }
        }
    }

    /// The bytes of an upload are there. One row, and those of the blob ([`Run::insert_blob`]).
    pub(super) fn finish(&mut self, commit: Commit) -> Result<Outcome, StoreError> {
        let sha256 = commit.sha256;
        let upload = self.state.uploads.get(&commit.upload);
        let is_it = |upload: &&Upload| upload.sha256 == Some(sha256) && !upload.is_given_up;
        let Some(upload) = upload.filter(is_it).cloned() else {
            // Too late: whatever has removed the upload may have removed the bytes before they came.
            self.give_up(commit.upload)?;
            self.queue_blob_removal(&sha256)?;
            return self.too_late(&sha256);
        };
        let own = Some(commit.upload);
        let live = self.blob(&sha256)?;
        // What was here has run out meanwhile. Its bytes have stayed, for an upload of them is under way.
        let is_new = upload.is_hash_only && live.is_none();
        let is_here = match &live {
            Some(row) => !self.is_owned_by_relay_alone(row)?,
            None => false,
        };
        let refusal = if self.is_banned(&sha256)? {
            Some(Refusal::Banned)
        } else if commit.is_unpaid && !is_here {
            Some(Refusal::Unpaid)
        } else if is_new || commit.size > upload.size {
            self.quota_refusal(&upload.owner, Some(&sha256), commit.size, upload.quotas(), own)?
        } else {
            None
        };
        self.end(commit.upload)?;
        if let Some(refusal) = refusal {
            self.queue_blob_removal(&sha256)?;
            return Ok(Outcome::Refused(refusal));
        }
        if let Some(mut row) = live {
            let own = Retention::new(commit.expires_at, commit.unused_seconds);
            let keep = match commit.is_unpaid {
                true => Retention::NONE,
                false => keep(&commit.retention, own, &row, self.now),
            };
            self.add_owner(&mut row, upload.owner, keep)?;
            return Ok(Outcome::Exists(row.blob));
        }
        Ok(Outcome::Stored(self.insert_blob(upload.owner, commit)?))
    }

    fn too_late(&self, sha256: &Sha256) -> Result<Outcome, StoreError> {
        Ok(Outcome::Refused(if self.is_banned(sha256)? { Refusal::Banned } else { Refusal::Gone }))
    }

    /// An upload has failed, or the joining of its parts. Two rows.
    pub(super) fn abort(&mut self, id: u64) -> Result<Outcome, StoreError> {
        let parts = self.state.uploads.get_mut(&id).and_then(|upload| upload.parts.as_mut());
        if parts.is_none_or(Parts::join_has_failed) {
            self.give_up(id)?;
        }
        Ok(Outcome::Done)
    }

    /// An upload ends without a blob, and what it may have stored is removed. Nothing if it is not known.
    pub(super) fn give_up(&mut self, id: u64) -> Result<(), StoreError> {
        let Some(upload) = self.end(id)? else { return Ok(()) };
        if upload.is_staged {
            self.queue(&staged_key(id))?;
        }
        upload.sha256.map_or(Ok(()), |sha256| self.queue_blob_removal(&sha256))
    }

    /// A blob is banned or has lost its last owner: uploads of it are aborted, and its bytes are removed. One
    /// row for the bytes and one for each upload, and two for each part.
    pub(super) fn purge(&mut self, sha256: &Sha256) -> Result<(), StoreError> {
        let uploads = self.state.uploads.iter();
        let is_it = |upload: &Upload| upload.sha256.as_ref() == Some(sha256) && !upload.is_given_up;
        let ids: Vec<u64> = uploads.filter(|(_, upload)| is_it(upload)).map(|(id, _)| *id).collect();
        for id in ids {
            let Some(upload) = self.state.uploads.get_mut(&id) else { continue };
            (upload.is_given_up, upload.size) = (true, 0);
            let parts = upload.parts.take();
            exec(self.conn, GIVE_UP, &[upload.flags().into(), id.into()])?;
            if let Some(parts) = parts {
                self.remove_parts(id, sha256, &parts)?;
            }
        }
        self.queue_blob_removal(sha256)
    }

    /// An upload ends, and its parts are removed. One row, two if it was paid, and two for each part.
    fn end(&mut self, id: u64) -> Result<Option<Upload>, StoreError> {
        let Some(upload) = self.state.uploads.remove(&id) else { return Ok(None) };
        exec(self.conn, DELETE, &[id.into()])?;
        if upload.payment.is_some() {
            exec(self.conn, DELETE_PAYMENT, &[id.into()])?;
        }
        if let (Some(parts), Some(sha256)) = (&upload.parts, &upload.sha256) {
            self.remove_parts(id, sha256, parts)?;
        }
        Ok(Some(upload))
    }
}
