//! Live blobs: what is known of them, until when they are kept, and their end.

use relay_engine::sql::column::{bytes, int, key, text};
use relay_engine::sql::{SqlConn, SqlValue, StoreError, exec, query_one};
use relay_engine::types::PubKey;

use super::Run;
use super::command::{Commit, Outcome, Refusal};
use super::schema::put_meta;
use super::sql::{self, from_json, nonzero_int, parse_key, to_json};
use crate::blob::{Blob, Sha256};
use crate::mime::{UNKNOWN, essence};

const INSERT: &str = "INSERT INTO blossom_blobs (sha256, owner, since, uploaded, size, mime, expires_at, unused, \
                      accessed, ends_at, media) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
/// `SELECT` with the columns of a [`BlobRow`], of the table `b`.
macro_rules! select {
    ($($rest:literal)?) => {
        concat!(
            "SELECT b.sha256, b.owner, b.uploaded, b.size, b.mime, b.expires_at, b.unused, b.accessed, b.media ",
            $($rest)?
        )
    };
}
pub(super) use select;

const GET: &str = select!("FROM blossom_blobs AS b WHERE b.sha256 = ?");
const DELETE: &str = "DELETE FROM blossom_blobs WHERE sha256 = ?";
const DELETE_OWNERS: &str = "DELETE FROM blossom_owners WHERE sha256 = ?";
const DELETE_EVENTS: &str = "DELETE FROM blossom_events WHERE sha256 = ?";
const KEEP: &str =
    "UPDATE blossom_blobs SET expires_at = ?, unused = ?, accessed = ?, ends_at = ? WHERE sha256 = ?";

const SET_MIME: &str = "UPDATE blossom_blobs SET mime = ? WHERE sha256 = ?";
/// As many as there are.
const ALL_OWNERS: u64 = u32::MAX as u64;

/// Accesses of a blob within an hour are one.
const ACCESS_SECONDS: u64 = 3_600;
/// A blob is not kept longer by less than an hour, or than a tenth of the time that is left then: a store that answers downloads is
/// told of each change, and may have to copy the bytes for it.
const PROLONGATION_SECONDS: u64 = 3_600;

/// A live blob.
#[derive(Clone, Debug)]
pub(super) struct BlobRow {
    pub(super) blob: Blob,
    /// One of its owners; the others are in a table of their own.
    pub(super) owner: PubKey,
    /// Retention removes it after as many seconds without a download.
    pub(super) unused: Option<u64>,
    /// When it was downloaded or uploaded last, to the hour; kept only where `unused` is set.
    pub(super) accessed: u64,
}

/// How long a blob is kept; `None` is for ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Retention {
    /// Until then.
    pub(super) expires_at: Option<u64>,
    /// Seconds after the last download.
    pub(super) unused: Option<u64>,
}

impl Retention {
    /// Never extends another one in [`Retention::or`].
    pub(super) const NONE: Retention = Retention { expires_at: Some(1), unused: Some(1) };

    /// No seconds are no rule.
    pub(super) fn new(expires_at: Option<u64>, unused: Option<u64>) -> Retention {
        Retention {
            expires_at: expires_at.map(|at| at.max(1)),
            unused: unused.filter(|seconds| *seconds > 0),
        }
    }

    /// As long as either wants, unless `other` wants only a little more than `self`.
    fn or(self, other: Retention, now: u64) -> Retention {
        let expires_at = self.expires_at.zip(other.expires_at).map(|(own, other)| {
            let little = (other.saturating_sub(now) / 10).min(PROLONGATION_SECONDS);
            if other >= own.saturating_add(little) { other.max(own) } else { own }
        });
        Retention { expires_at, unused: self.unused.zip(other.unused).map(|(own, other)| own.max(other)) }
    }

    /// When retention removes a blob; 0 is never. Accesses are written only after a while, so they count as that much later.
    fn ends_at(self, accessed: u64) -> u64 {
        let unused =
            self.unused.map(|unused| accessed.saturating_add(unused).saturating_add(grain(unused)).max(1));
        let expires = self.expires_at.map(|at| at.max(1));
        unused.into_iter().chain(expires).min().unwrap_or(0)
    }
}

/// Seconds in which accesses are one.
fn grain(unused: u64) -> u64 {
    unused.min(ACCESS_SECONDS)
}

impl BlobRow {
    /// Reads the columns of `select!`.
    pub(super) fn read(row: &[SqlValue<'_>]) -> Result<Self, StoreError> {
        let media = bytes(row, 8)?;
        let blob = Blob {
            sha256: sql::sha256(row, 0)?,
            size: int(row, 3)?,
            mime: text(row, 4)?,
            uploaded: int(row, 2)?,
            expires_at: nonzero_int(row, 5)?,
            media: if media.is_empty() { None } else { Some(from_json(media)?) },
        };
        Ok(BlobRow { blob, owner: key(row, 1)?, unused: nonzero_int(row, 6)?, accessed: int(row, 7)? })
    }

    /// Its thumbnail.
    pub(super) fn thumbnail(&self) -> Option<Sha256> {
        self.blob.media.as_ref()?.thumbnail
    }

    fn kept(&self) -> Retention {
        Retention { expires_at: self.blob.expires_at, unused: self.unused }
    }
}

impl<C: SqlConn> Run<'_, C> {
    /// A live blob. One read.
    pub(super) fn blob(&self, sha256: &Sha256) -> Result<Option<BlobRow>, StoreError> {
        query_one(self.conn, GET, &[(*sha256).into()], BlobRow::read)
    }

    /// A blob becomes live. Two rows, one more with retention, those of [`Run::link_thumbnail`], and the totals.
    pub(super) fn insert_blob(&mut self, owner: PubKey, mut commit: Commit) -> Result<Blob, StoreError> {
        let keep = Retention::new(commit.expires_at, commit.unused_seconds);
        if let Some(media) = &mut commit.media
            && let Some(thumbnail) = media.thumbnail
            && !self.link_thumbnail(&commit.sha256, &thumbnail, owner, keep)?
        {
            media.thumbnail = None;
        }
        let blob = Blob {
            sha256: commit.sha256,
            size: commit.size,
            mime: commit.mime,
            uploaded: commit.uploaded.map_or(self.now, |at| at.min(self.now)),
            expires_at: keep.expires_at,
            media: commit.media,
        };
        let params = [
            blob.sha256.into(),
            owner.into(),
            self.now.into(),
            blob.uploaded.into(),
            blob.size.into(),
            blob.mime.as_str().into(),
            keep.expires_at.unwrap_or(0).into(),
            keep.unused.unwrap_or(0).into(),
            self.now.into(),
            keep.ends_at(self.now).into(),
            blob.media.as_ref().map(to_json).unwrap_or_default().into(),
        ];
        exec(self.conn, INSERT, &params)?;
        self.ends(keep.ends_at(self.now));
        self.state.totals.blobs += 1;
        self.state.totals.bytes = self.state.totals.bytes.saturating_add(blob.size);
        self.state.totals_changed = true;
        self.state.add_owned_bytes(&owner, blob.size);
        Ok(blob)
    }

    /// A blob ends, whoever owns it; its bytes are the caller's matter. Two rows, three for each further owner, two for each
    /// event that describes it, those of its thumbnail, and the totals.
    pub(super) fn remove_blob(&mut self, row: &BlobRow) -> Result<(), StoreError> {
        let sha256 = row.blob.sha256;
        let has_thumbnail = row.thumbnail().is_some();
        let owners = match has_thumbnail || !self.state.owned.is_empty() {
            true => self.owners(row, ALL_OWNERS)?,
            false => Vec::new(),
        };
        for owner in &owners {
            self.state.subtract_owned_bytes(owner, row.blob.size);
        }
        self.unlink_thumbnails(row)?;
        for sql in [DELETE, DELETE_OWNERS, DELETE_EVENTS] {
            exec(self.conn, sql, &[sha256.into()])?;
        }
        self.state.totals.blobs = self.state.totals.blobs.saturating_sub(1);
        self.state.totals.bytes = self.state.totals.bytes.saturating_sub(row.blob.size);
        self.state.totals_changed = true;
        if has_thumbnail {
            for owner in owners {
                self.remove_thumbnail_owner(row, &owner)?;
            }
        }
        Ok(())
    }

    /// Somebody uploads a live blob again: it is kept as long as either upload wants. Nothing if that changes nothing.
    pub(super) fn keep(&mut self, row: &mut BlobRow, keep: Retention) -> Result<(), StoreError> {
        let (old, new) = (row.kept(), row.kept().or(keep, self.now));
        let accessed = if is_stale(row, self.now) { self.now } else { row.accessed };
        if new != old || accessed != row.accessed {
            row.blob.expires_at = new.expires_at;
            row.unused = new.unused;
            self.write_keep(row, accessed)?;
        }
        Ok(())
    }

    /// One of its owners says which type a blob of unknown type has. One row.
    pub(super) fn set_mime(
        &mut self,
        sha256: &Sha256,
        owner: &str,
        mime: &str,
    ) -> Result<Outcome, StoreError> {
        let owner = parse_key(owner)?;
        let Some(mut row) = self.blob(sha256)? else { return Ok(Outcome::Missing) };
        if !self.is_owner(&row, &owner)? {
            return Ok(Outcome::Refused(Refusal::NotOwner));
        }
        if essence(&row.blob.mime) == UNKNOWN && essence(mime) != UNKNOWN {
            row.blob.mime = mime.to_owned();
            exec(self.conn, SET_MIME, &[mime.into(), (*sha256).into()])?;
        }
        Ok(Outcome::Exists(row.blob))
    }

    /// A blob ends then; 0 is never.
    fn ends(&mut self, at: u64) {
        if at > 0 && self.state.next_end.is_none_or(|next| at < next) {
            self.state.next_end = Some(at);
        }
    }

    fn write_keep(&mut self, row: &BlobRow, accessed: u64) -> Result<(), StoreError> {
        let keep = row.kept();
        self.ends(keep.ends_at(accessed));
        let params = [
            keep.expires_at.unwrap_or(0).into(),
            keep.unused.unwrap_or(0).into(),
            accessed.into(),
            keep.ends_at(accessed).into(),
            row.blob.sha256.into(),
        ];
        exec(self.conn, KEEP, &params)
    }

    /// Blobs have been downloaded. Two rows for a blob that is removed when nobody downloads it, once in an hour.
    pub(super) fn record_downloads(&mut self, blobs: &[Sha256]) -> Result<Outcome, StoreError> {
        for sha256 in blobs {
            if let Some(row) = self.blob(sha256)?
                && is_stale(&row, self.now)
            {
                self.write_keep(&row, self.now)?;
            }
        }
        Ok(Outcome::Done)
    }

    /// Writes the totals if they have changed. One row.
    pub(super) fn write_totals(&mut self) -> Result<(), StoreError> {
        if std::mem::take(&mut self.state.totals_changed) {
            put_meta(self.conn, "totals", &self.state.totals)?;
        }
        Ok(())
    }
}

/// Whether an access now is to be written.
fn is_stale(row: &BlobRow, now: u64) -> bool {
    row.unused.is_some_and(|unused| now.saturating_sub(row.accessed) >= grain(unused))
}
