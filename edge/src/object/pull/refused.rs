//! Events of another relay that this one does not take, as a row: they are not asked for with each comparison.
//!
//! ```text
//! edge_pull_refused  (name BLOB primary key, rules BLOB, ids BLOB)    ids: 32 bytes each
//! ```
//!
//! Under other rules (`limits`, `policy`, `url`, another version of the relay) they are asked for once more. The row is read when a
//! comparison begins or goes on without memory, and written when a slice ends that has found others.

use std::collections::BTreeSet;

use relay_engine::store::StoreError;
use relay_engine::store::sql::{SqlConn, SqlValue};
use relay_engine::types::EventId;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::settings::Settings;

/// Ids of a row: a mebibyte, half of what Cloudflare lets a row have.
pub(super) const REFUSED_MAX: usize = 32_768;

const CREATE: &str = "CREATE TABLE IF NOT EXISTS edge_pull_refused (name BLOB PRIMARY KEY, rules BLOB NOT NULL, ids BLOB NOT NULL) \
                      WITHOUT ROWID";
const READ: &str = "SELECT ids FROM edge_pull_refused WHERE name = ? AND rules = ?";
const WRITE: &str = "INSERT OR REPLACE INTO edge_pull_refused (name, rules, ids) VALUES (?, ?, ?)";

/// The rules by which events are refused.
pub(super) type Rules = [u8; 32];

pub(super) fn rules(settings: &Settings) -> Rules {
    let all = json!(settings);
    let rules = json!([all.get("limits"), all.get("policy"), all.get("url"), env!("CARGO_PKG_VERSION")]);
    Sha256::digest(rules.to_string()).into()
}

/// The ids of a comparison.
#[derive(Debug, Default)]
pub(super) struct Refused {
    ids: BTreeSet<EventId>,
    has_grown: bool,
}

impl Refused {
    pub(super) fn ids(&self) -> impl Iterator<Item = EventId> + '_ {
        self.ids.iter().copied()
    }

    /// Another one, if there is room.
    pub(super) fn add(&mut self, id: EventId) {
        if self.ids.len() < REFUSED_MAX {
            self.has_grown |= self.ids.insert(id);
        }
    }
}

pub(super) fn create<C: SqlConn>(conn: &C) -> Result<(), StoreError> {
    conn.exec(CREATE, &[])
}

/// Those of a relay and filter.
pub(super) fn read<C: SqlConn>(conn: &C, name: &str, rules: &Rules) -> Result<Refused, StoreError> {
    let mut refused = Refused::default();
    let key = [SqlValue::Blob(name.as_bytes()), SqlValue::Blob(rules)];
    conn.query(READ, &key, &mut |row| {
        if let [SqlValue::Blob(ids)] = row {
            let (ids, _) = ids.as_chunks();
            refused.ids = ids.iter().map(|id| EventId(*id)).collect();
        }
        Ok(())
    })?;
    Ok(refused)
}

/// Writes them if there are others than before. One row.
pub(super) fn write<C: SqlConn>(
    conn: &C,
    name: &str,
    rules: &Rules,
    refused: &mut Refused,
) -> Result<(), StoreError> {
    if refused.has_grown {
        let ids: Vec<u8> = refused.ids.iter().flat_map(|id| id.0).collect();
        conn.exec(WRITE, &[SqlValue::Blob(name.as_bytes()), SqlValue::Blob(rules), SqlValue::Blob(&ids)])?;
        refused.has_grown = false;
    }
    Ok(())
}
