//! The keys that the agent has made members of the relay, so that nobody pays for what he has, and by which jobs.

use relay_engine::sql::{SqlConn, SqlValue, StoreError};
use relay_engine::types::{EventId, PubKey};

use super::Batch;

const HAS: &str = "SELECT at FROM agent_member WHERE pubkey = ?";
const HAS_JOB: &str = "SELECT at FROM agent_member WHERE job = ?";
const PUT: &str = "INSERT OR REPLACE INTO agent_member (pubkey, job, at) VALUES (?, ?, ?)";

/// Whether a key has been made a member.
pub(crate) fn is_member(conn: &impl SqlConn, batch: &Batch, key: &PubKey) -> Result<bool, StoreError> {
    Ok(batch.members().contains_key(key) || has(conn, HAS, &key.0)?)
}

/// Whether a job has made a key a member. Reads all of them: it is asked where a result was refused.
pub(crate) fn has_made_member(conn: &impl SqlConn, batch: &Batch, job: &EventId) -> Result<bool, StoreError> {
    Ok(batch.members().values().any(|by| by == job) || has(conn, HAS_JOB, &job.0)?)
}

fn has(conn: &impl SqlConn, sql: &'static str, bytes: &[u8]) -> Result<bool, StoreError> {
    let mut found = false;
    conn.query(sql, &[SqlValue::Blob(bytes)], &mut |_| {
        found = true;
        Ok(())
    })?;
    Ok(found)
}

/// Notes that a job makes a key a member at `now`, in milliseconds since 1970.
pub(crate) fn put_member(batch: &mut Batch, key: &PubKey, job: &EventId, now: u64) {
    batch.note_member(*key, *job);
    batch.push(PUT, vec![key.0[..].into(), job.0[..].into(), now.into()]);
}
