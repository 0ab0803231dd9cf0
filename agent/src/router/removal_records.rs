//! Deleted agents whose databases have been removed.

use relay_engine::sql::{SqlConn, SqlValue, StoreError};
use relay_engine::types::PubKey;

use super::columns;
use crate::machine::RemovalRecord;

/// The table and its column have the name that deleted agents once had.
const CREATE: &str = "CREATE TABLE IF NOT EXISTS agent_router_tombstone (pubkey BLOB PRIMARY KEY, \
                      tombstone BLOB NOT NULL) WITHOUT ROWID";
const GET: &str = "SELECT tombstone FROM agent_router_tombstone WHERE pubkey = ?";
const PUT: &str = "INSERT OR REPLACE INTO agent_router_tombstone (pubkey, tombstone) VALUES (?, ?)";
const DELETE: &str = "DELETE FROM agent_router_tombstone WHERE pubkey = ?";

pub(super) fn create(conn: &impl SqlConn) -> Result<(), StoreError> {
    conn.exec(CREATE, &[])
}

pub(super) fn get(conn: &impl SqlConn, agent: &PubKey) -> Result<Option<RemovalRecord>, StoreError> {
    let mut found = None;
    conn.query(GET, &[SqlValue::Blob(&agent.0)], &mut |row| {
        found = Some(RemovalRecord::from_json(columns::blob(row, 0)?)?);
        Ok(())
    })?;
    Ok(found)
}

pub(super) fn put(conn: &impl SqlConn, record: &RemovalRecord) -> Result<(), StoreError> {
    let json = record.to_json();
    conn.exec(PUT, &[SqlValue::Blob(&record.pubkey().0), SqlValue::Blob(&json)])
}

pub(super) fn delete(conn: &impl SqlConn, agent: &PubKey) -> Result<(), StoreError> {
    conn.exec(DELETE, &[SqlValue::Blob(&agent.0)])
}
