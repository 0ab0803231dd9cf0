//! Thumbnails that `/media` has made, and the pictures that they belong to. They are blobs of their own, which anybody may
//! upload. Who owns a picture owns its thumbnail, and is removed as its owner with the last picture that has it; a picture whose thumbnail has
//! ended has none.

use relay_engine::sql::{SqlConn, StoreError, exec, query_all};
use relay_engine::types::PubKey;

use super::Run;
use super::blobs::{BlobRow, Retention};
use super::sql::{sha256, to_json};
use crate::blob::{Media, Sha256};

const LINK: &str = "INSERT OR IGNORE INTO blossom_thumbnails (thumbnail, picture) VALUES (?, ?)";
const UNLINK: &str = "DELETE FROM blossom_thumbnails WHERE thumbnail = ? AND picture = ?";
const UNLINK_ALL: &str = "DELETE FROM blossom_thumbnails WHERE thumbnail = ?";
const PICTURES: &str = "SELECT picture FROM blossom_thumbnails WHERE thumbnail = ?";
const DESCRIBE: &str = "UPDATE blossom_blobs SET media = ? WHERE sha256 = ?";

impl<C: SqlConn> Run<'_, C> {
    /// A picture becomes live: its thumbnail is its owner's too. False if there is no such blob any more. One row, and those of
    /// [`Run::add_owner`].
    pub(super) fn link_thumbnail(
        &mut self,
        picture: &Sha256,
        thumbnail: &Sha256,
        owner: PubKey,
        keep: Retention,
    ) -> Result<bool, StoreError> {
        let Some(mut row) = self.blob(thumbnail)? else { return Ok(false) };
        self.add_owner(&mut row, owner, keep)?;
        exec(self.conn, LINK, &[(*thumbnail).into(), (*picture).into()])?;
        Ok(true)
    }

    /// A picture has a further owner.
    pub(super) fn add_thumbnail_owner(
        &mut self,
        picture: &BlobRow,
        owner: PubKey,
        keep: Retention,
    ) -> Result<(), StoreError> {
        let Some(thumbnail) = picture.thumbnail() else { return Ok(()) };
        let Some(mut row) = self.blob(&thumbnail)? else { return Ok(()) };
        self.add_owner(&mut row, owner, keep)
    }

    /// An owner has let a picture go. Reads the other pictures with the same thumbnail.
    pub(super) fn remove_thumbnail_owner(
        &mut self,
        picture: &BlobRow,
        owner: &PubKey,
    ) -> Result<(), StoreError> {
        let Some(thumbnail) = picture.thumbnail() else { return Ok(()) };
        let Some(row) = self.blob(&thumbnail)? else { return Ok(()) };
        if !self.is_owner(&row, owner)? {
            return Ok(());
        }
        for other in self.pictures(&thumbnail)? {
            if other != picture.blob.sha256
                && let Some(other) = self.blob(&other)?
                && self.is_owner(&other, owner)?
            {
                return Ok(());
            }
        }
        self.remove_owner(&row, owner)
    }

    /// A blob ends: it is no picture with a thumbnail any more, and no thumbnail. One row for the former, two for each picture
    /// that has it as thumbnail.
    pub(super) fn unlink_thumbnails(&mut self, row: &BlobRow) -> Result<(), StoreError> {
        let ended = row.blob.sha256;
        if let Some(thumbnail) = row.thumbnail() {
            exec(self.conn, UNLINK, &[thumbnail.into(), ended.into()])?;
        }
        let pictures = self.pictures(&ended)?;
        for picture in &pictures {
            let media = self.blob(picture)?.and_then(|row| row.blob.media);
            if let Some(media) = media {
                let media = Media { thumbnail: None, ..media };
                exec(self.conn, DESCRIBE, &[to_json(&media).into(), (*picture).into()])?;
            }
        }
        if !pictures.is_empty() {
            exec(self.conn, UNLINK_ALL, &[ended.into()])?;
        }
        Ok(())
    }

    /// Pictures with this thumbnail.
    fn pictures(&self, thumbnail: &Sha256) -> Result<Vec<Sha256>, StoreError> {
        query_all(self.conn, PICTURES, &[(*thumbnail).into()], |row| sha256(row, 0))
    }
}
