//! The keys that the agent has made members of the relay, so that nobody pays for what he has.

use relay_engine::sql::{SqlConn, SqlValue, StoreError};
use relay_engine::types::PubKey;

use super::Batch;

const HAS: &str = "SELECT at FROM agent_member WHERE pubkey = ?";
const PUT: &str = "INSERT OR REPLACE INTO agent_member (pubkey, at) VALUES (?, ?)";

/// Whether a key has been made a member.
pub(crate) fn is_member(conn: &impl SqlConn, batch: &Batch, key: &PubKey) -> Result<bool, StoreError> {
    let mut found = batch.has_member(key);
    conn.query(HAS, &[SqlValue::Blob(&key.0)], &mut |_| {
        found = true;
        Ok(())
    })?;
    Ok(found)
}

/// Notes that a key is made a member at `now`, in milliseconds since 1970.
pub(crate) fn put_member(batch: &mut Batch, key: &PubKey, now: u64) {
    batch.note_member(*key);
    batch.push(PUT, vec![key.0[..].into(), now.into()]);
}
