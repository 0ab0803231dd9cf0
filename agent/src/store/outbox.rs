//! Events that are signed and not yet published, in the order in which they have to be.

use relay_engine::sql::column::{bytes, int};
use relay_engine::sql::{SqlConn, SqlValue, StoreError};
use relay_engine::types::Event;

use super::{Batch, corrupt, json, to_json};

const PUT: &str = "INSERT OR REPLACE INTO agent_outbox (row, relays, events) VALUES (?, ?, ?)";
const DELETE: &str = "DELETE FROM agent_outbox WHERE row = ?";
const HAS: &str = "SELECT row FROM agent_outbox WHERE row = ?";
const PAGE: &str = "SELECT row, relays, events FROM agent_outbox WHERE row > ? ORDER BY row LIMIT ?";

/// Events that go to the same relays.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct OutboxRow {
    pub(crate) row: u64,
    /// Relays beside the host's own.
    pub(crate) relays: Vec<String>,
    pub(crate) events: Vec<Event>,
}

/// Adds a row.
pub(crate) fn put_outbox(batch: &mut Batch, row: &OutboxRow) {
    let events: Vec<&[u8]> = row.events.iter().map(Event::json).collect();
    // Canonical JSON has no line feeds.
    let params = vec![row.row.into(), to_json(&row.relays).into(), events.join(&b'\n').into()];
    batch.push(PUT, params);
}

/// Takes a row out.
pub(crate) fn delete_outbox(batch: &mut Batch, row: u64) {
    batch.push(DELETE, vec![row.into()]);
}

/// Whether a row is still in it.
pub(crate) fn is_in_outbox(conn: &impl SqlConn, row: u64) -> Result<bool, StoreError> {
    let mut found = false;
    conn.query(HAS, &[SqlValue::Int(row as i64)], &mut |_| {
        found = true;
        Ok(())
    })?;
    Ok(found)
}

/// At most `limit` rows after row `after`, in order.
pub(crate) fn outbox_page(
    conn: &impl SqlConn,
    after: u64,
    limit: usize,
) -> Result<Vec<OutboxRow>, StoreError> {
    let mut found = Vec::new();
    conn.query(PAGE, &[SqlValue::Int(after as i64), SqlValue::Int(limit as i64)], &mut |row| {
        let events =
            bytes(row, 2)?.split(|byte| *byte == b'\n').map(|json| match json.starts_with(br#"{"id":""#) {
                true => Ok(Event::from_canonical(json.into())),
                false => Err(corrupt("an event of the outbox")),
            });
        found.push(OutboxRow {
            row: int(row, 0)?,
            relays: json(bytes(row, 1)?)?,
            events: events.collect::<Result<_, _>>()?,
        });
        Ok(())
    })?;
    Ok(found)
}
