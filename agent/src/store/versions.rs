//! The manifests that have been deployed.

use relay_engine::sql::column::{bytes, int, key};
use relay_engine::sql::{SqlConn, SqlValue, StoreError};
use relay_engine::types::PubKey;

use super::{Batch, json};
use crate::manifest::Manifest;
use crate::store::to_json;

const GET: &str = "SELECT manifest FROM agent_version WHERE version = ?";
const LIST: &str = "SELECT version, deployed_at, deployed_by FROM agent_version ORDER BY version";
const PUT: &str =
    "INSERT OR REPLACE INTO agent_version (version, deployed_at, deployed_by, manifest) VALUES (?, ?, ?, ?)";

/// A version, without its manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct VersionRow {
    pub(crate) version: u32,
    /// Unix seconds.
    pub(crate) deployed_at: u64,
    pub(crate) deployed_by: PubKey,
}

/// The manifest of a version.
pub(crate) fn version(conn: &impl SqlConn, version: u32) -> Result<Option<Manifest>, StoreError> {
    let mut found = None;
    conn.query(GET, &[SqlValue::Int(version.into())], &mut |row| {
        found = Some(json(bytes(row, 0)?)?);
        Ok(())
    })?;
    Ok(found)
}

/// All versions, oldest first.
pub(crate) fn version_rows(conn: &impl SqlConn) -> Result<Vec<VersionRow>, StoreError> {
    let mut found = Vec::new();
    conn.query(LIST, &[], &mut |row| {
        found.push(VersionRow {
            version: int(row, 0)? as u32,
            deployed_at: int(row, 1)?,
            deployed_by: key(row, 2)?,
        });
        Ok(())
    })?;
    Ok(found)
}

/// Adds a version.
pub(crate) fn put_version(batch: &mut Batch, row: &VersionRow, manifest: &Manifest) {
    let VersionRow { version, deployed_at, deployed_by } = row;
    let params = vec![
        u64::from(*version).into(),
        (*deployed_at).into(),
        deployed_by.0[..].into(),
        to_json(manifest).into(),
    ];
    batch.push(PUT, params);
}
