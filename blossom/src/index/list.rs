//! Lists of blobs, newest first; of the same second, the higher hash first.

use std::cmp::Reverse;
use std::collections::VecDeque;

use relay_engine::sql::{Param, SqlConn, StoreError, query_all};
use relay_engine::types::PubKey;

use super::Run;
use super::blobs::{BlobRow, select};
use super::command::Outcome;
use super::sql::parse_key;
use crate::blob::Sha256;

/// Most blobs of a page.
const PAGE_MAX: u32 = 10_000;

/// Ends of pages that are remembered.
const PAGE_ENDS: usize = 1_024;

/// The last blobs of the latest pages.
#[derive(Debug, Default)]
pub(super) struct PageEnds(VecDeque<PageEnd>);

#[derive(Debug)]
struct PageEnd {
    owner: Option<PubKey>,
    sha256: Sha256,
    uploaded: u64,
}

impl PageEnds {
    fn push(&mut self, end: PageEnd) {
        if self.0.len() == PAGE_ENDS {
            self.0.pop_front();
        }
        self.0.push_back(end);
    }

    fn uploaded(&self, owner: Option<PubKey>, sha256: Sha256) -> Option<u64> {
        let end = self.0.iter().rev().find(|end| end.sha256 == sha256 && end.owner == owner)?;
        Some(end.uploaded)
    }
}

impl<C: SqlConn> Run<'_, C> {
    /// A page. Reads two rows for each blob, those of an owner or of all.
    pub(super) fn list(
        &mut self,
        owner: Option<&str>,
        cursor: Option<Sha256>,
        limit: u32,
        since: Option<u64>,
        until: Option<u64>,
    ) -> Result<Outcome, StoreError> {
        let owner = owner.map(parse_key).transpose()?;
        // The page begins after this.
        let mut before = (until.unwrap_or(u64::MAX >> 11).saturating_add(1), Vec::new());
        if let Some(cursor) = cursor {
            let Some(uploaded) = self.uploaded(owner, cursor)? else { return Ok(Outcome::Missing) };
            before = before.min((uploaded, cursor.0.to_vec()));
        }
        let limit = limit.min(PAGE_MAX);
        let mut params = vec![
            Param::from(since.unwrap_or(0)),
            Param::from(before.0),
            Param::from(before.1),
            Param::from(u64::from(limit)),
        ];
        let sources: &[(&str, &str)] = match owner {
            None => &[("FROM blossom_blobs AS b WHERE", "b")],
            Some(_) => &[
                ("FROM blossom_blobs AS b WHERE b.owner = ? AND", "b"),
                (
                    "FROM blossom_owners AS o JOIN blossom_blobs AS b ON b.sha256 = o.sha256 WHERE o.owner = ? AND",
                    "o",
                ),
            ],
        };
        if let Some(owner) = owner {
            params.insert(0, owner.into());
        }
        let mut blobs = Vec::new();
        for (from, t) in sources {
            let sql = format!(
                "{}{from} {t}.uploaded >= ? AND ({t}.uploaded, {t}.sha256) < (?, ?) \
                 ORDER BY {t}.uploaded DESC, {t}.sha256 DESC LIMIT ?",
                select!()
            );
            blobs.extend(query_all(self.conn, &sql, &params, |row| Ok(BlobRow::read(row)?.blob))?);
        }
        blobs.sort_unstable_by_key(|blob| Reverse((blob.uploaded, blob.sha256)));
        blobs.truncate(limit as usize);
        if let Some(last) = blobs.last() {
            self.state.page_ends.push(PageEnd { owner, sha256: last.sha256, uploaded: last.uploaded });
        }
        Ok(Outcome::Blobs(blobs))
    }

    /// When a blob of a list was uploaded; also of one that has been deleted since it ended a page: a client that deletes what
    /// it lists comes with such a cursor.
    fn uploaded(&self, owner: Option<PubKey>, sha256: Sha256) -> Result<Option<u64>, StoreError> {
        if let Some(row) = self.blob(&sha256)?
            && match owner {
                None => true,
                Some(owner) => self.is_owner(&row, &owner)?,
            }
        {
            return Ok(Some(row.blob.uploaded));
        }
        Ok(self.state.page_ends.uploaded(owner, sha256))
    }
}
