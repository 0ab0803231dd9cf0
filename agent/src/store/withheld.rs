//! Withheld results, which wait for their payment. They are neither in the outbox, which is published, nor in the history, which can be read. They
//! are deleted when their jobs end.

use relay_engine::sql::column::text;
use relay_engine::sql::{Param, SqlConn, SqlValue, StoreError, exec};

use super::Batch;

const PUT: &str = "INSERT OR REPLACE INTO agent_withheld (seq, content, said) VALUES (?, ?, ?)";
const GET: &str = "SELECT content, said FROM agent_withheld WHERE seq = ?";
const DELETE: &str = "DELETE FROM agent_withheld WHERE seq = ?";

/// A result that waits for its payment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Withheld {
    /// What will be published.
    pub(crate) content: String,
    /// The texts of the inputs, for the session; empty if there is none.
    pub(crate) said: String,
}

/// Writes the result of the job with this number, or deletes it.
pub(super) fn write_withheld(
    conn: &impl SqlConn,
    seq: u64,
    withheld: Option<&Withheld>,
) -> Result<(), StoreError> {
    let Some(Withheld { content, said }) = withheld else { return exec(conn, DELETE, &[seq.into()]) };
    let params: [Param; 3] = [seq.into(), content.as_bytes().into(), said.as_bytes().into()];
    exec(conn, PUT, &params)
}

/// The result of the job with this number, as it is stored or will be.
pub(crate) fn withheld(conn: &impl SqlConn, batch: &Batch, seq: u64) -> Result<Option<Withheld>, StoreError> {
    if let Some(withheld) = batch.withheld(seq) {
        return Ok(withheld.clone());
    }
    let mut found = None;
    conn.query(GET, &[SqlValue::Int(seq as i64)], &mut |row| {
        found = Some(Withheld { content: text(row, 0)?, said: text(row, 1)? });
        Ok(())
    })?;
    Ok(found)
}
