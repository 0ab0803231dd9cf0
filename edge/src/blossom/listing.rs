//! The way through the bucket's keys, to find bytes that belong to nothing: of an upload whose Worker died and whose bytes came after
//! the index had given it up. The index's object looks at a page of keys at a time, and through all of them once a day; an operator
//! may ask for it earlier. Where it is, is in the object's database beside the index.

use relay_engine::sql::{SqlConn, SqlValue, StoreError};
use serde::{Deserialize, Serialize};

const CREATE: &str =
    "CREATE TABLE IF NOT EXISTS blossom_listing (row INTEGER PRIMARY KEY, state BLOB NOT NULL)";
const GET: &str = "SELECT state FROM blossom_listing WHERE row = 1";
const PUT: &str = "INSERT INTO blossom_listing (row, state) VALUES (1, ?) \
                   ON CONFLICT (row) DO UPDATE SET state = excluded.state";

/// Most keys of a page, as the bucket gives them.
pub const PAGE_KEYS: u32 = 1_000;
/// Seconds from the end of one way to the next.
const PAUSE_SECONDS: u64 = 24 * 3_600;
/// Seconds until a bucket that failed is tried again.
const RETRY_SECONDS: u64 = 300;
/// Younger bytes, in seconds, may be of an upload whose end is not known yet.
const AGE_SECONDS_MIN: u64 = 3_600;

/// Where it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    /// When the next page is due, in Unix seconds.
    pub due: u64,
    /// The last key of the page before, unless the next one is the first.
    pub after: Option<String>,
    /// Whether an operator has asked for it.
    pub is_asked: bool,
}

impl Listing {
    /// The first way, a day from now.
    pub fn later(now: u64) -> Self {
        Listing { due: now.saturating_add(PAUSE_SECONDS), after: None, is_asked: false }
    }

    /// From the first key on, now.
    pub fn asked(now: u64) -> Self {
        Listing { due: now, after: None, is_asked: true }
    }

    /// A page has been looked at. `last` is its last key if there are more.
    #[must_use]
    pub fn next(&self, last: Option<String>, now: u64) -> Self {
        match last {
            Some(last) => Listing { due: now, after: Some(last), is_asked: self.is_asked },
            None => Listing::later(now),
        }
    }

    /// The bucket has failed.
    #[must_use]
    pub fn failed(&self, now: u64) -> Self {
        Listing { due: now.saturating_add(RETRY_SECONDS), ..self.clone() }
    }

    /// Whether bytes that were stored then are old enough to be looked at.
    pub fn is_old(stored: u64, now: u64) -> bool {
        stored.saturating_add(AGE_SECONDS_MIN) <= now
    }

    /// Where it was when it was written last.
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

    /// Writes where it is. One row.
    ///
    /// # Errors
    /// If the database fails.
    pub fn write(&self, conn: &impl SqlConn) -> Result<(), StoreError> {
        let json = serde_json::to_vec(self).unwrap_or_default();
        conn.exec(PUT, &[SqlValue::Blob(&json)])
    }
}
