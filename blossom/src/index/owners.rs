//! Owners of blobs. One of them is in the row of the blob, so that a blob with one owner, as nearly all are, costs no more.

use relay_engine::sql::column::{int, key};
use relay_engine::sql::{SqlConn, StoreError, exec, has_row, query_all, query_one};
use relay_engine::types::PubKey;

use super::Run;
use super::blobs::{BlobRow, Retention};
use super::command::{Outcome, Refusal};
use super::sql::parse_key;
use super::state::State;
use crate::blob::Sha256;

const HAS: &str = "SELECT 1 FROM blossom_owners WHERE owner = ? AND uploaded = ? AND sha256 = ?";
const INSERT: &str =
    "INSERT INTO blossom_owners (owner, uploaded, sha256, since, size) VALUES (?, ?, ?, ?, ?)";
const DELETE: &str = "DELETE FROM blossom_owners WHERE owner = ? AND uploaded = ? AND sha256 = ?";
const NEXT: &str = "SELECT owner, since FROM blossom_owners WHERE sha256 = ? LIMIT 1";
const ALL: &str = "SELECT owner FROM blossom_owners WHERE sha256 = ? LIMIT ?";
const PROMOTE: &str = "UPDATE blossom_blobs SET owner = ?, since = ? WHERE sha256 = ?";
const RENEW_FIRST: &str = "UPDATE blossom_blobs SET since = ? WHERE sha256 = ? AND owner = ?";
const RENEW: &str = "UPDATE blossom_owners SET since = ? WHERE owner = ? AND uploaded = ? AND sha256 = ?";
const UNLINK: &str = "DELETE FROM blossom_events WHERE sha256 = ? AND author = ?";
const BYTES: &str = "SELECT coalesce(sum(size), 0) FROM blossom_blobs WHERE owner = ?";
const BYTES_FURTHER: &str = "SELECT coalesce(sum(size), 0) FROM blossom_owners WHERE owner = ?";

/// The relay, which owns what it has pulled from other servers.
const RELAY: PubKey = PubKey([0; 32]);

/// Owners whose bytes are in memory.
const OWNED_MAX: usize = 10_000;

impl State {
    /// An owner has more bytes.
    pub(super) fn add_owned_bytes(&mut self, owner: &PubKey, size: u64) {
        if let Some(bytes) = self.owned.get_mut(owner) {
            *bytes = bytes.saturating_add(size);
        }
    }

    pub(super) fn subtract_owned_bytes(&mut self, owner: &PubKey, size: u64) {
        if let Some(bytes) = self.owned.get_mut(owner) {
            *bytes = bytes.saturating_sub(size);
        }
    }
}

impl<C: SqlConn> Run<'_, C> {
    /// One read, or none.
    pub(super) fn is_owner(&self, row: &BlobRow, owner: &PubKey) -> Result<bool, StoreError> {
        let params = [(*owner).into(), row.blob.uploaded.into(), row.blob.sha256.into()];
        Ok(row.owner == *owner || has_row(self.conn, HAS, &params)?)
    }

    /// Whether only the relay owns a blob: nobody has uploaded it. One read, or none.
    pub(super) fn is_owned_by_relay_alone(&self, row: &BlobRow) -> Result<bool, StoreError> {
        if row.owner != RELAY {
            return Ok(false);
        }
        Ok(!has_row(self.conn, NEXT, &[row.blob.sha256.into()])?)
    }

    /// Whether a key owns a blob that is here. Two reads at most.
    pub(super) fn owns(&self, sha256: &Sha256, owner: &str) -> Result<Outcome, StoreError> {
        let owner = parse_key(owner)?;
        let Some(row) = self.blob(sha256)? else { return Ok(Outcome::Missing) };
        Ok(if self.is_owner(&row, &owner)? { Outcome::Accepted } else { Outcome::Missing })
    }

    /// Somebody has uploaded a live blob, and owns it from now on, with its thumbnail. Two rows if they did not before.
    pub(super) fn add_owner(
        &mut self,
        row: &mut BlobRow,
        owner: PubKey,
        keep: Retention,
    ) -> Result<(), StoreError> {
        let (uploaded, sha256) = (row.blob.uploaded, row.blob.sha256);
        if !self.is_owner(row, &owner)? {
            let params =
                [owner.into(), uploaded.into(), sha256.into(), self.now.into(), row.blob.size.into()];
            exec(self.conn, INSERT, &params)?;
            self.state.add_owned_bytes(&owner, row.blob.size);
            self.add_thumbnail_owner(row, owner, keep)?;
        } else if self.state.vanishing.contains_key(&owner) {
            // What they upload after a request to vanish is theirs again.
            exec(self.conn, RENEW_FIRST, &[self.now.into(), sha256.into(), owner.into()])?;
            exec(self.conn, RENEW, &[self.now.into(), owner.into(), uploaded.into(), sha256.into()])?;
        }
        self.keep(row, keep)
    }

    /// Removes an owner of a blob, and the blob with its last owner. Two rows for a further owner, four for the one in the row
    /// of the blob, and those of its thumbnail, else as [`Run::remove_blob`] and [`Run::purge`].
    pub(super) fn remove_owner(&mut self, row: &BlobRow, owner: &PubKey) -> Result<(), StoreError> {
        let (uploaded, sha256) = (row.blob.uploaded, row.blob.sha256);
        let mut leaves = *owner;
        if row.owner == *owner {
            let next = query_one(self.conn, NEXT, &[sha256.into()], |row| Ok((key(row, 0)?, int(row, 1)?)))?;
            let Some((next, since)) = next else {
                self.remove_blob(row)?;
                return self.purge(&sha256);
            };
            exec(self.conn, PROMOTE, &[next.into(), since.into(), sha256.into()])?;
            leaves = next;
        }
        exec(self.conn, DELETE, &[leaves.into(), uploaded.into(), sha256.into()])?;
        exec(self.conn, UNLINK, &[sha256.into(), (*owner).into()])?;
        self.state.subtract_owned_bytes(owner, row.blob.size);
        self.remove_thumbnail_owner(row, owner)
    }

    /// An owner deletes a blob, or an administrator removes it.
    pub(super) fn delete(&mut self, sha256: &Sha256, owner: Option<&str>) -> Result<Outcome, StoreError> {
        let owner = owner.map(parse_key).transpose()?;
        let Some(row) = self.blob(sha256)? else {
            if owner.is_none() {
                self.purge(sha256)?;
            }
            return Ok(Outcome::Missing);
        };
        match owner {
            None => {
                self.remove_blob(&row)?;
                self.purge(sha256)?;
            }
            Some(owner) if self.is_owner(&row, &owner)? => self.remove_owner(&row, &owner)?,
            Some(_) => return Ok(Outcome::Refused(Refusal::NotOwner)),
        }
        Ok(Outcome::Deleted)
    }

    /// At most `limit` owners of a blob.
    pub(super) fn owners(&self, row: &BlobRow, limit: u64) -> Result<Vec<PubKey>, StoreError> {
        let mut owners = vec![row.owner];
        owners.extend(query_all(self.conn, ALL, &[row.blob.sha256.into(), limit.into()], |row| key(row, 0))?);
        Ok(owners)
    }

    /// Bytes of an owner's blobs. Reads an entry of an index for each of them, once.
    pub(super) fn owned_bytes(&mut self, owner: &PubKey) -> Result<u64, StoreError> {
        if let Some(bytes) = self.state.owned.get(owner) {
            return Ok(*bytes);
        }
        let mut bytes = 0;
        for sql in [BYTES, BYTES_FURTHER] {
            bytes += query_one(self.conn, sql, &[(*owner).into()], |row| int(row, 0))?.unwrap_or(0);
        }
        if self.state.owned.len() >= OWNED_MAX {
            self.state.owned.clear();
        }
        self.state.owned.insert(*owner, bytes);
        Ok(bytes)
    }
}
