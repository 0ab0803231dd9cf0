//! What is forgotten at once: all of a deleted agent, all of a customer. And how much is stored.

use relay_engine::sql::column::int;
use relay_engine::sql::{SqlConn, StoreError};
use relay_engine::types::PubKey;

use super::Batch;

/// What a deleted agent forgets: everything but `agent_meta`, what is to be published, and what it owes and is owed.
const DELETE_ALL: [&str; 9] = [
    "DELETE FROM agent_quota",
    "DELETE FROM agent_member",
    "DELETE FROM agent_unpaid",
    "DELETE FROM agent_withheld",
    "DELETE FROM agent_version",
    "DELETE FROM agent_job",
    "DELETE FROM agent_session",
    "DELETE FROM agent_cancelled",
    "DELETE FROM agent_log",
];

/// What is forgotten of a customer's finished jobs whose requests are not newer than a time. That they were done is kept, or they
/// would be done again when their requests are delivered again. Rows of which nothing is left are not written again.
///
/// The canonical JSON of an event begins with `{"id":"`, 64 digits, `","pubkey":"`, 64 digits, `","created_at":`, and the time
/// follows at byte 163; in any other source there is no number, which is 0.
pub(super) const FORGET_JOBS: &str = "UPDATE agent_job SET source = x'', trace = x'7b7d', inputs = x'' WHERE customer = ? \
    AND state >= 4 AND (source <> x'' OR trace <> x'7b7d') \
    AND CAST(CAST(substr(source, 163, 20) AS TEXT) AS INTEGER) <= ?";
const SESSIONS: &str = "SELECT count(*), coalesce(sum(length(messages)), 0) FROM agent_session";
const JOBS: &str = "SELECT count(*) FROM agent_job";

/// Forgets everything but what is to be published, and what [`get_meta`] reads.
pub(crate) fn delete_all(batch: &mut Batch) {
    batch.clear_rows();
    for sql in DELETE_ALL {
        batch.push(sql, Vec::new());
    }
}

/// Forgets of a customer's finished jobs that were asked for until a time, in Unix seconds, everything but that they were done.
pub(crate) fn forget_jobs(batch: &mut Batch, customer: &PubKey, until: u64) {
    batch.push_last(FORGET_JOBS, vec![customer.0[..].into(), until.into()]);
}

/// The number of sessions, their bytes, and the number of jobs.
pub(crate) fn sizes(conn: &impl SqlConn) -> Result<(u64, u64, u64), StoreError> {
    let mut sizes = (0, 0, 0);
    conn.query(SESSIONS, &[], &mut |row| {
        (sizes.0, sizes.1) = (int(row, 0)?, int(row, 1)?);
        Ok(())
    })?;
    conn.query(JOBS, &[], &mut |row| {
        sizes.2 = int(row, 0)?;
        Ok(())
    })?;
    Ok(sizes)
}
