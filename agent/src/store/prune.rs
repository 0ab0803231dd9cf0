//! The history is bounded: old jobs are deleted, and texts beyond a budget are forgotten before that.
//!
//! A job is known for [`KNOWN_MILLIS`] whatever there is: its request may be delivered again, and must not be done again.
//! Requests that come later than that are too old to be accepted.

use relay_engine::sql::column::int;
use relay_engine::sql::{SqlConn, SqlValue, StoreError};

use super::Batch;

/// Jobs that are kept, and for how many milliseconds.
const JOBS_KEPT: u64 = 10_000;
const KEPT_MILLIS: u64 = 30 * 86_400_000;
/// Bytes of requests and answers that are kept, of all jobs together.
const TEXT_BYTES_KEPT: u64 = 64 << 20;
/// A job is not deleted before; milliseconds. The machine refuses requests by their own time: they are at most a day old, and
/// at most a day ahead.
const KNOWN_MILLIS: u64 = 2 * 86_400_000 + 3_600_000;
/// Rows that one step deletes, and rows whose texts it forgets.
const STEP: u64 = 256;

/// Finished jobs whose result is not in the outbox; never the newest job, by which jobs are numbered.
const OLD: &str = "SELECT seq FROM agent_job WHERE state >= 4 AND seq < ? AND received_at < ? \
    AND (seq <= ? OR received_at < ?) AND answer NOT IN (SELECT row FROM agent_outbox) ORDER BY seq LIMIT ?";
/// Those beyond the budget that have texts, newest jobs being served first. An empty trace has two bytes.
const LARGE: &str = "SELECT seq FROM (SELECT seq, state, answer, length(source) + length(trace) AS bytes, \
    sum(length(source) + length(trace)) OVER (ORDER BY seq DESC) AS total FROM agent_job) \
    WHERE total > ? AND bytes > 2 AND state >= 4 AND answer NOT IN (SELECT row FROM agent_outbox) \
    ORDER BY seq LIMIT ?";
const DELETE: &str = "DELETE FROM agent_job WHERE seq = ?";
const FORGET: &str = "UPDATE agent_job SET source = x'', trace = x'7b7d', inputs = x'' WHERE seq = ?";

/// One step at `now`, in milliseconds since 1970. Returns whether there may be more to do. Reads the lengths of all jobs; writes
/// nothing if there is nothing to do.
pub(crate) fn prune_jobs(
    conn: &impl SqlConn,
    batch: &mut Batch,
    now: u64,
    last_seq: u64,
) -> Result<bool, StoreError> {
    let param = |number: u64| SqlValue::Int(i64::try_from(number).unwrap_or(i64::MAX));
    let old = [
        param(last_seq),
        param(now.saturating_sub(KNOWN_MILLIS)),
        param(last_seq.saturating_sub(JOBS_KEPT)),
        param(now.saturating_sub(KEPT_MILLIS)),
        param(STEP),
    ];
    let old = numbers(conn, OLD, &old)?;
    let large = numbers(conn, LARGE, &[param(TEXT_BYTES_KEPT), param(STEP)])?;
    let is_full = |rows: &Vec<u64>| rows.len() as u64 == STEP;
    let has_more = is_full(&old) || is_full(&large);
    for (sql, rows) in [(DELETE, old), (FORGET, large)] {
        rows.into_iter().for_each(|seq| batch.push(sql, vec![seq.into()]));
    }
    Ok(has_more)
}

fn numbers(conn: &impl SqlConn, sql: &str, params: &[SqlValue<'_>]) -> Result<Vec<u64>, StoreError> {
    let mut found = Vec::new();
    conn.query(sql, params, &mut |row| {
        found.push(int(row, 0)?);
        Ok(())
    })?;
    Ok(found)
}
