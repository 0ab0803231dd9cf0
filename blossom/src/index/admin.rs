//! For administrators: bans, reports, what is known of a blob, counts.

use relay_engine::sql::column::{bytes, int, key, text};
use relay_engine::sql::{SqlConn, SqlValue, StoreError, exec, query_all, query_one};
use relay_engine::types::EventId;

use super::Run;
use super::command::{BlobInfo, Outcome, RelayEvent, ReportRow, Totals};
use super::sql::{hex, parse_key, sha256};
use crate::blob::Sha256;

const BAN: &str = "INSERT INTO blossom_bans (sha256, reason, at) VALUES (?, ?, ?) \
                   ON CONFLICT (sha256) DO UPDATE SET reason = excluded.reason, at = excluded.at";
const BANNED: &str = "SELECT reason FROM blossom_bans WHERE sha256 = ?";
const UNBAN: &str = "DELETE FROM blossom_bans WHERE sha256 = ?";
const BANS: &str = "SELECT sha256, reason, at FROM blossom_bans ORDER BY at DESC, sha256 DESC LIMIT ?";
const REPORT: &str = "INSERT INTO blossom_reports (row, sha256, reporter, event, category, content, at) \
                      VALUES (?, ?, ?, ?, ?, ?, ?)";
const DELETE_EARLIER_REPORT: &str = "DELETE FROM blossom_reports WHERE sha256 = ? AND reporter = ?";
const TRIM_REPORTS_OF_REPORTER: &str = "DELETE FROM blossom_reports WHERE row IN \
                               (SELECT row FROM blossom_reports WHERE reporter = ? ORDER BY row DESC LIMIT -1 OFFSET ?)";
const TRIM_REPORTS_OF_BLOB: &str = "DELETE FROM blossom_reports WHERE row IN \
                                  (SELECT row FROM blossom_reports WHERE sha256 = ? ORDER BY row DESC LIMIT -1 OFFSET ?)";
const COUNT_REPORTS: &str = "SELECT count(*) FROM blossom_reports";
const BUSIEST: &str = "SELECT reporter, count(*) AS reports FROM blossom_reports GROUP BY reporter \
                       ORDER BY reports DESC, min(row) LIMIT 1";
const OLDEST_OF_BUSIEST: &str = "DELETE FROM blossom_reports WHERE row IN \
                                 (SELECT row FROM blossom_reports WHERE reporter = ? ORDER BY row LIMIT ?)";
const OLDEST: &str =
    "DELETE FROM blossom_reports WHERE row IN (SELECT row FROM blossom_reports ORDER BY row LIMIT ?)";
const LAST_REPORT: &str = "SELECT coalesce(max(row), 0) FROM blossom_reports";
const REPORTS: &str = "SELECT sha256, category, reporter, event, content, at FROM blossom_reports \
                       ORDER BY row DESC LIMIT ?";
const REPORTS_OF: &str = "SELECT sha256, category, reporter, event, content, at FROM blossom_reports \
                          WHERE sha256 = ? ORDER BY row DESC LIMIT ?";
const EVENTS: &str = "SELECT event FROM blossom_events WHERE sha256 = ? LIMIT ?";
/// Steps from one owner to the next in the index, so that it costs a read or two for an owner and not for a blob.
const OWNERS: &str = "WITH RECURSIVE o(owner) AS (SELECT coalesce(min(owner), x'') FROM blossom_blobs UNION ALL \
                      SELECT coalesce((SELECT min(owner) FROM blossom_blobs WHERE owner > o.owner), x'') FROM o \
                      WHERE o.owner > x'') SELECT count(*) FROM o WHERE o.owner > x''";
const OWNERS_FURTHER: &str = "WITH RECURSIVE o(owner) AS (SELECT coalesce(min(owner), x'') FROM blossom_owners UNION ALL \
                              SELECT coalesce((SELECT min(owner) FROM blossom_owners WHERE owner > o.owner), x'') FROM o \
                              WHERE o.owner > x'') SELECT count(*) FROM o WHERE o.owner > x'' AND NOT EXISTS \
                              (SELECT 1 FROM blossom_blobs AS b WHERE b.owner = o.owner)";

/// Reports that are kept. Keys cost nothing, so limits per key alone would not bound the list.
const REPORTS_KEPT: u64 = 10_000;
/// Of them by one reporter, and of one blob: the last ones.
const REPORTS_KEPT_OF: u64 = 100;
/// Blobs that one report names.
const REPORTED_MAX: usize = 100;
/// Bytes of a reason and of what a report says; the rest is cut off.
const TEXT_MAX: usize = 1_000;
/// Bytes of a report's category.
const CATEGORY_MAX: usize = 64;
/// Most rows of a list.
const LIST_MAX: u32 = 10_000;
/// Owners, events and reports of a blob that are shown.
const SHOWN_MAX: u64 = 1_000;

fn cut(text: &str, bytes_max: usize) -> &str {
    &text[..text.floor_char_boundary(bytes_max)]
}

fn report_row(row: &[SqlValue<'_>]) -> Result<ReportRow, StoreError> {
    Ok(ReportRow {
        sha256: sha256(row, 0)?,
        category: text(row, 1)?,
        reporter: hex(bytes(row, 2)?),
        event: hex(bytes(row, 3)?),
        content: text(row, 4)?,
        at: int(row, 5)?,
    })
}

impl<C: SqlConn> Run<'_, C> {
    /// Removes and refuses a blob. One row, and what [`Run::remove_blob`] and [`Run::purge`] write.
    pub(super) fn ban(&mut self, sha256: &Sha256, reason: &str) -> Result<Outcome, StoreError> {
        exec(self.conn, BAN, &[(*sha256).into(), cut(reason, TEXT_MAX).into(), self.now.into()])?;
        if let Some(row) = self.blob(sha256)? {
            self.remove_blob(&row)?;
        }
        self.purge(sha256)?;
        Ok(Outcome::Done)
    }

    /// One row.
    pub(super) fn unban(&mut self, sha256: &Sha256) -> Result<Outcome, StoreError> {
        if !self.is_banned(sha256)? {
            return Ok(Outcome::Missing);
        }
        exec(self.conn, UNBAN, &[(*sha256).into()])?;
        Ok(Outcome::Done)
    }

    /// Reads all bans.
    pub(super) fn bans(&mut self, limit: u32) -> Result<Outcome, StoreError> {
        let limit = u64::from(limit.min(LIST_MAX));
        let bans = query_all(self.conn, BANS, &[limit.into()], |row| {
            Ok((sha256(row, 0)?, text(row, 1)?, int(row, 2)?))
        })?;
        Ok(Outcome::Bans(bans))
    }

    /// Adds a report of each live blob that the event names. Reports that are deleted for them: the earlier one of the same reporter and
    /// blob; the oldest one of a reporter or a blob with more than 100; with more than 10,000 in all, the oldest half of those of the
    /// reporter with the most. Three rows for each report that is added or deleted. Counts all reports when they may be that many.
    pub(super) fn report(&mut self, event: &RelayEvent) -> Result<Outcome, StoreError> {
        let reporter = parse_key(&event.pubkey)?;
        let id = EventId::from_hex(event.id.as_bytes())
            .map_err(|_| StoreError::Failed("not an event id".to_owned()))?;
        let mut last = query_one(self.conn, LAST_REPORT, &[], |row| int(row, 0))?.unwrap_or(0);
        let mut outcome = Outcome::Missing;
        for tag in event.named("x").take(REPORTED_MAX) {
            let Ok(sha256) = tag[0].parse::<Sha256>() else { continue };
            if self.blob(&sha256)?.is_none() {
                continue;
            }
            last += 1;
            exec(self.conn, DELETE_EARLIER_REPORT, &[sha256.into(), reporter.into()])?;
            let params = [
                last.into(),
                sha256.into(),
                reporter.into(),
                id.0[..].into(),
                cut(tag.get(1).map_or("", String::as_str), CATEGORY_MAX).into(),
                cut(&event.content, TEXT_MAX).into(),
                self.now.into(),
            ];
            exec(self.conn, REPORT, &params)?;
            exec(self.conn, TRIM_REPORTS_OF_BLOB, &[sha256.into(), REPORTS_KEPT_OF.into()])?;
            outcome = Outcome::Done;
            self.state.reports_room = self.state.reports_room.saturating_sub(1);
        }
        if outcome == Outcome::Done {
            exec(self.conn, TRIM_REPORTS_OF_REPORTER, &[reporter.into(), REPORTS_KEPT_OF.into()])?;
            self.make_room_for_reports()?;
        }
        Ok(outcome)
    }

    fn make_room_for_reports(&mut self) -> Result<(), StoreError> {
        while self.state.reports_room == 0 {
            let count = query_one(self.conn, COUNT_REPORTS, &[], |row| int(row, 0))?.unwrap_or(0);
            if count <= REPORTS_KEPT {
                self.state.reports_room = REPORTS_KEPT - count + 1;
                break;
            }
            match query_one(self.conn, BUSIEST, &[], |row| Ok((key(row, 0)?, int(row, 1)?)))? {
                Some((busiest, reports)) if reports > 1 => {
                    exec(self.conn, OLDEST_OF_BUSIEST, &[busiest.into(), (reports / 2).into()])?;
                }
                _ => exec(self.conn, OLDEST, &[REPORTS_KEPT_OF.into()])?,
            }
        }
        Ok(())
    }

    /// Reads what it returns.
    pub(super) fn reports(&mut self, limit: u32) -> Result<Outcome, StoreError> {
        let limit = u64::from(limit.min(LIST_MAX));
        Ok(Outcome::Reports(query_all(self.conn, REPORTS, &[limit.into()], report_row)?))
    }

    /// Reads what it returns, at most a thousand of each kind.
    pub(super) fn stat(&mut self, sha256: &Sha256) -> Result<Outcome, StoreError> {
        let row = self.blob(sha256)?;
        let of = [(*sha256).into(), SHOWN_MAX.into()];
        let owners = row.as_ref().map_or(Ok(Vec::new()), |row| self.owners(row, SHOWN_MAX - 1))?;
        let info = BlobInfo {
            owners: owners.iter().map(|owner| hex(&owner.0)).collect(),
            events: query_all(self.conn, EVENTS, &of, |row| Ok(hex(bytes(row, 0)?)))?,
            reports: query_all(self.conn, REPORTS_OF, &of, report_row)?,
            banned: query_one(self.conn, BANNED, &of[..1], |row| text(row, 0))?,
            last_access: row.as_ref().filter(|row| row.unused.is_some()).map(|row| row.accessed),
            blob: row.map(|row| row.blob),
        };
        if info.blob.is_none() && info.banned.is_none() && info.reports.is_empty() {
            return Ok(Outcome::Missing);
        }
        Ok(Outcome::Info(Box::new(info)))
    }

    /// Reads as many rows as there are owners, removals, bans and reports.
    pub(super) fn totals(&mut self) -> Result<Outcome, StoreError> {
        let count = |sql: &str| {
            Ok::<u64, StoreError>(query_one(self.conn, sql, &[], |row| int(row, 0))?.unwrap_or(0))
        };
        Ok(Outcome::Totals(Totals {
            blobs: self.state.totals.blobs,
            bytes: self.state.totals.bytes,
            owners: count(OWNERS)? + count(OWNERS_FURTHER)?,
            uploads: self.state.uploads.values().filter(|upload| !upload.is_given_up).count() as u64,
            removals: count("SELECT count(*) FROM blossom_removals")?,
            bans: count("SELECT count(*) FROM blossom_bans")?,
            reports: count(COUNT_REPORTS)?,
        }))
    }
}
