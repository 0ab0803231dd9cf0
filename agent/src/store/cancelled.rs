//! Cancellations that came before their requests. They are kept for a day, and at most [`KEPT_MAX`] of them.

use relay_engine::sql::{SqlConn, SqlValue, StoreError};
use relay_engine::types::{EventId, PubKey};

use super::Batch;

const KEPT_MAX: u64 = 1_000;
const KEPT_SECONDS: u64 = 86_400;

const HAS: &str = "SELECT id FROM agent_cancelled WHERE id = ? AND author = ?";
const PUT: &str = "INSERT OR REPLACE INTO agent_cancelled (id, author, at) VALUES (?, ?, ?)";
const EXPIRE: &str = "DELETE FROM agent_cancelled WHERE at < ?";
const TRIM: &str = "DELETE FROM agent_cancelled WHERE id IN \
    (SELECT id FROM agent_cancelled ORDER BY at DESC, id LIMIT -1 OFFSET ?)";

/// Whether `author` has cancelled the request `id`.
pub(crate) fn is_cancelled(conn: &impl SqlConn, id: &EventId, author: &PubKey) -> Result<bool, StoreError> {
    let mut found = false;
    conn.query(HAS, &[SqlValue::Blob(&id.0), SqlValue::Blob(&author.0)], &mut |_| {
        found = true;
        Ok(())
    })?;
    Ok(found)
}

/// Keeps in mind what `author` has cancelled at `now`, in Unix seconds.
pub(crate) fn put_cancelled(batch: &mut Batch, ids: &[EventId], author: &PubKey, now: u64) {
    for id in ids {
        batch.note_cancelled(*id, *author);
        batch.push(PUT, vec![id.0[..].into(), author.0[..].into(), now.into()]);
    }
    batch.push(EXPIRE, vec![now.saturating_sub(KEPT_SECONDS).into()]);
    batch.push(TRIM, vec![KEPT_MAX.into()]);
}
