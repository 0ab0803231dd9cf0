//! The daily scan of the bucket's keys. It finds bytes that are not in the index: of uploads whose Worker died and
//! whose bytes arrived after the index had aborted them. The index's object reads one page of keys at a time; an administrator may start a scan earlier. The position of the scan is in the object's database, beside the index; the table keeps its old name.

use relay_engine::sql::{SqlConn, SqlValue, StoreError};
use serde::{Deserialize, Serialize};

const CREATE: &str =
    "CREATE TABLE IF NOT EXISTS blossom_listing (row INTEGER PRIMARY KEY, state BLOB NOT NULL)";
const GET: &str = "SELECT state FROM blossom_listing WHERE row = 1";
const PUT: &str = "INSERT INTO blossom_listing (row, state) VALUES (1, ?) \
                   ON CONFLICT (row) DO UPDATE SET state = excluded.state";

/// Most keys of a page, as the bucket gives them.
pub const PAGE_KEYS: u32 = 1_000;
/// Seconds from the end of one scan to the next.
const PAUSE_SECONDS: u64 = 24 * 3_600;
/// Seconds until a bucket that failed is tried again.
const RETRY_SECONDS: u64 = 300;
/// Bytes younger than this, in seconds, may belong to an upload that has not ended.
const AGE_SECONDS_MIN: u64 = 3_600;

/// A scan: its position, and when it goes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BucketScan {
    /// When the next page is due, in Unix seconds.
    pub due: u64,
    /// The last key of the page before, unless the next one is the first.
    pub after: Option<String>,
    /// Whether an administrator has requested it.
    pub is_asked: bool,
}

impl BucketScan {
    /// The next daily scan, a day from now.
    pub fn scheduled(now: u64) -> Self {
        BucketScan { due: now.saturating_add(PAUSE_SECONDS), after: None, is_asked: false }
    }

    /// A scan that begins now.
    pub fn requested(now: u64) -> Self {
        BucketScan { due: now, after: None, is_asked: true }
    }

    /// A page has been read. `last` is its last key if there are more.
    #[must_use]
    pub fn next(&self, last: Option<String>, now: u64) -> Self {
        match last {
            Some(last) => BucketScan { due: now, after: Some(last), is_asked: self.is_asked },
            None => BucketScan::scheduled(now),
        }
    }

    /// The bucket has failed.
    #[must_use]
    pub fn failed(&self, now: u64) -> Self {
        BucketScan { due: now.saturating_add(RETRY_SECONDS), ..self.clone() }
    }

    /// Whether bytes that were stored then are old enough to be removed.
    pub fn is_old(stored: u64, now: u64) -> bool {
        stored.saturating_add(AGE_SECONDS_MIN) <= now
    }

    /// Reads the stored scan.
    ///
    /// # Errors
    /// If the database fails.
    pub fn read(conn: &impl SqlConn) -> Result<Option<Self>, StoreError> {
        conn.exec(CREATE, &[])?;
        let mut found = None;
        conn.query(GET, &[], &mut |row| {
            if let Some(SqlValue::Blob(json)) = row.first() {
                found = serde_json::from_slice(json).ok();
            }
            Ok(())
        })?;
        Ok(found)
    }

    /// Stores the scan. One row.
    ///
    /// # Errors
    /// If the database fails.
    pub fn write(&self, conn: &impl SqlConn) -> Result<(), StoreError> {
        let json = serde_json::to_vec(self).unwrap_or_default();
        conn.exec(PUT, &[SqlValue::Blob(&json)])
    }
}
