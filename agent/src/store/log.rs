//! The last lines of the log: a ring, so that a line is one row written.

use relay_engine::sql::column::{bytes, id, int, text};
use relay_engine::sql::{SqlConn, SqlValue, StoreError};
use relay_engine::types::EventId;

use super::Batch;

/// Lines that are kept.
pub(crate) const LINES_MAX: u64 = 1_000;

const PUT: &str = "INSERT OR REPLACE INTO agent_log (slot, number, at, job, message) VALUES (?, ?, ?, ?, ?)";
const LIST: &str = "SELECT number, at, job, message FROM agent_log WHERE number > ? ORDER BY number LIMIT ?";
const LAST: &str = "SELECT coalesce(max(number), 0) FROM agent_log";

/// A line: its number, its time in milliseconds, its job and its message.
pub(crate) type Line = (u64, u64, Option<EventId>, String);

/// Adds a line.
pub(crate) fn put_line(batch: &mut Batch, number: u64, at: u64, job: Option<EventId>, message: &str) {
    let job = job.map_or_else(Vec::new, |id| id.0.to_vec());
    let params =
        vec![(number % LINES_MAX).into(), number.into(), at.into(), job.into(), message.as_bytes().into()];
    batch.push(PUT, params);
}

/// At most `limit` lines after line `after`, oldest first.
pub(crate) fn lines(conn: &impl SqlConn, after: u64, limit: usize) -> Result<Vec<Line>, StoreError> {
    let mut found = Vec::new();
    let after = after.min(1 << 53) as i64;
    conn.query(LIST, &[SqlValue::Int(after), SqlValue::Int(limit as i64)], &mut |row| {
        let job = if bytes(row, 2)?.is_empty() { None } else { Some(id(row, 2)?) };
        found.push((int(row, 0)?, int(row, 1)?, job, text(row, 3)?));
        Ok(())
    })?;
    Ok(found)
}

/// The number of the newest line; 0 without any.
pub(crate) fn last_line(conn: &impl SqlConn) -> Result<u64, StoreError> {
    let mut last = 0;
    conn.query(LAST, &[], &mut |row| {
        last = int(row, 0)?;
        Ok(())
    })?;
    Ok(last)
}
