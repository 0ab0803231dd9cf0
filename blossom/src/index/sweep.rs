//! Removes what has expired: blobs by retention, abandoned uploads; and blobs of authors of requests to vanish.

use relay_engine::sql::column::int;
use relay_engine::sql::{SqlConn, StoreError, query_all, query_one};

use super::Run;
use super::blobs::{BlobRow, select};
use super::command::Outcome;
use super::events::VANISHED_BLOBS_MAX;
use super::removals::TAKEN_SECONDS;
use super::state::Upload;

const ENDED: &str =
    select!("FROM blossom_blobs AS b WHERE b.ends_at > 0 AND b.ends_at <= ? ORDER BY b.ends_at LIMIT ?");
pub(super) const NEXT_END: &str =
    "SELECT ends_at FROM blossom_blobs WHERE ends_at > 0 ORDER BY ends_at LIMIT 1";

/// Blobs that one sweep removes, and uploads that it ends.
const SWEPT_MAX: usize = 200;

/// When an upload counts as abandoned. Not while its parts are being joined.
pub(super) fn abandoned_at(upload: &Upload) -> u64 {
    let joining = upload.parts.as_ref().and_then(|parts| parts.joining_until());
    upload.abandoned_at.max(joining.unwrap_or(0))
}

impl<C: SqlConn> Run<'_, C> {
    /// At most 200 of each kind. The rows that ending a blob, an upload or an ownership takes.
    pub(super) fn sweep(&mut self) -> Result<Outcome, StoreError> {
        let ended =
            query_all(self.conn, ENDED, &[self.now.into(), (SWEPT_MAX as u64).into()], BlobRow::read)?;
        for row in &ended {
            // Thumbnails may have gone with their pictures.
            if let Some(row) = self.blob(&row.blob.sha256)? {
                self.remove_blob(&row)?;
                self.queue_blob_removal(&row.blob.sha256)?;
            }
        }
        let uploads = self.state.uploads.iter().filter(|(_, upload)| abandoned_at(upload) <= self.now);
        let uploads: Vec<u64> = uploads.map(|(id, _)| *id).take(SWEPT_MAX).collect();
        for id in &uploads {
            self.give_up(*id)?;
        }
        let mut left = VANISHED_BLOBS_MAX;
        while let Some((owner, until)) = self.state.vanishing.first_key_value().map(|(k, v)| (*k, *v))
            && left > 0
        {
            left -= self.remove_vanished_blobs(owner, until, left)?;
        }
        let is_more =
            ended.len() == SWEPT_MAX || uploads.len() == SWEPT_MAX || !self.state.vanishing.is_empty();
        if is_more {
            return Ok(Outcome::Swept(Some(self.now)));
        }
        self.state.next_end = query_one(self.conn, NEXT_END, &[], |row| int(row, 0))?;
        let uploads = self.state.uploads.values().map(abandoned_at);
        let taken = self.state.taken.values().map(|taken| taken.at + TAKEN_SECONDS);
        Ok(Outcome::Swept(self.state.next_end.into_iter().chain(uploads).chain(taken).min()))
    }
}
