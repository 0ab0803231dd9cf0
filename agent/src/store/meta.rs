//! Single values by name, as JSON.

use relay_engine::sql::column::bytes;
use relay_engine::sql::{SqlConn, SqlValue, StoreError};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Batch, json, to_json};

const GET: &str = "SELECT value FROM agent_meta WHERE name = ?";
const PUT: &str = "INSERT OR REPLACE INTO agent_meta (name, value) VALUES (?, ?)";

/// The value of a name.
pub(crate) fn get<T: DeserializeOwned>(conn: &impl SqlConn, name: &str) -> Result<Option<T>, StoreError> {
    let mut found = None;
    conn.query(GET, &[SqlValue::Blob(name.as_bytes())], &mut |row| {
        found = Some(json(bytes(row, 0)?)?);
        Ok(())
    })?;
    Ok(found)
}

/// Sets the value of a name.
pub(crate) fn put(batch: &mut Batch, name: &str, value: &impl Serialize) {
    batch.push(PUT, vec![name.as_bytes().into(), to_json(value).into()]);
}
