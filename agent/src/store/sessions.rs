//! What customers and the agent have said to each other, if its manifest wants that kept: a row for each customer.

use std::collections::VecDeque;

use relay_engine::sql::column::{bytes, int, key};
use relay_engine::sql::{SqlConn, SqlValue, StoreError, exec};
use relay_engine::types::PubKey;
use serde::{Deserialize, Serialize};

use super::{json, to_json};

/// Bytes of the messages of a session as they are stored: JSON, in which a text may be six times as long. It is a row.
const BYTES_MAX: usize = 1 << 20;

const GET: &str = "SELECT customer, updated_at, messages FROM agent_session WHERE customer = ?";
const ALL: &str = "SELECT customer, updated_at, messages FROM agent_session ORDER BY customer LIMIT ?";
const PUT: &str = "INSERT OR REPLACE INTO agent_session (customer, updated_at, messages) VALUES (?, ?, ?)";
const DELETE: &str = "DELETE FROM agent_session WHERE customer = ?";
/// Deletes sessions beyond the number of newest ones that the first parameter is, or the bytes of newest ones that the second is.
const EVICT: &str = "DELETE FROM agent_session WHERE customer IN (SELECT customer FROM (SELECT customer, \
    row_number() OVER latest AS place, sum(length(messages)) OVER latest AS bytes FROM agent_session \
    WINDOW latest AS (ORDER BY updated_at DESC, customer ROWS UNBOUNDED PRECEDING)) WHERE place > ? OR bytes > ?)";
const SWEEP: &str = "DELETE FROM agent_session WHERE updated_at < ?";

/// What was said with a customer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Session {
    /// Unix seconds.
    pub(crate) updated_at: u64,
    /// Oldest first.
    pub(crate) messages: VecDeque<SessionMessage>,
}

/// A stored message of a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionMessage {
    /// Unix seconds.
    pub at: u64,
    /// Whether the agent said it, and not the customer.
    pub is_agent: bool,
    /// Whether it was encrypted. Then only the customer may read it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_private: bool,
    /// What was said.
    pub text: String,
}

impl Session {
    /// Drops the oldest messages until the others fit into a row.
    pub(crate) fn fit(&mut self) {
        // A comma or bracket each.
        let size = |said: &SessionMessage| to_json(said).len() + 1;
        let mut bytes: usize = 1 + self.messages.iter().map(size).sum::<usize>();
        while bytes > BYTES_MAX
            && let Some(first) = self.messages.pop_front()
        {
            bytes -= size(&first);
        }
    }
}

pub(super) fn write_session(
    conn: &impl SqlConn,
    customer: &PubKey,
    session: Option<&Session>,
) -> Result<(), StoreError> {
    match session {
        Some(session) => {
            let messages = to_json(&session.messages);
            exec(conn, PUT, &[customer.0[..].into(), session.updated_at.into(), messages.into()])
        }
        None => exec(conn, DELETE, &[customer.0[..].into()]),
    }
}

fn rows(
    conn: &impl SqlConn,
    sql: &str,
    params: &[SqlValue<'_>],
) -> Result<Vec<(PubKey, Session)>, StoreError> {
    let mut found = Vec::new();
    conn.query(sql, params, &mut |row| {
        let session = Session { updated_at: int(row, 1)?, messages: json(bytes(row, 2)?)? };
        found.push((key(row, 0)?, session));
        Ok(())
    })?;
    Ok(found)
}

/// The session with a customer.
pub(crate) fn session(conn: &impl SqlConn, customer: &PubKey) -> Result<Option<Session>, StoreError> {
    Ok(rows(conn, GET, &[SqlValue::Blob(&customer.0)])?.pop().map(|(_, session)| session))
}

/// At most `limit` sessions.
pub(crate) fn all_sessions(conn: &impl SqlConn, limit: usize) -> Result<Vec<(PubKey, Session)>, StoreError> {
    rows(conn, ALL, &[SqlValue::Int(limit as i64)])
}

/// Forgets the oldest sessions beyond so many, and so many bytes of all together. Reads the lengths of all.
pub(crate) fn evict_sessions(batch: &mut super::Batch, count: u64, bytes: u64) {
    batch.push_last(EVICT, vec![count.into(), bytes.into()]);
}

/// Forgets sessions in which nothing was said since `since`, in Unix seconds.
pub(crate) fn sweep_sessions(batch: &mut super::Batch, since: u64) {
    batch.push(SWEEP, vec![since.into()]);
}
