//! Jobs, from when they are accepted, and their history: a finished job stays as it is, until it is old.

use std::fmt;

use relay_engine::sql::column::{bytes, id, int, key, signed, text};
use relay_engine::sql::{Param, SqlConn, SqlValue, StoreError, exec};
use relay_engine::types::{EventId, Kind, PubKey, Timestamp};
use serde::{Deserialize, Serialize};

use super::{Batch, corrupt, json, to_json};
use crate::cipher::Cipher;
use crate::job::JobState;

/// Bytes of a row. Durable Objects take 2 MB; the columns that are not counted are a few hundred bytes.
pub(crate) const ROW_BYTES_MAX: usize = 1_900_000;
/// Bytes of a request. What is sent about it, which is kept with it, has room beside it.
pub(crate) const SOURCE_BYTES_MAX: usize = 1_500_000;

const COLUMNS: usize = 16;
/// Column `answer` is [`JobRow::result_outbox_row`], and `opened` in `trace` is [`Trace::decrypted`]: old names, kept in databases.
const PUT: &str = "INSERT OR REPLACE INTO agent_job (seq, id, customer, kind, state, received_at, finished_at, \
    wake_at, version, attempts, created_at_max, answer, cause, source, inputs, trace) \
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
/// What changes; not what the request and the indices are made of.
const UPDATE: &str = "UPDATE agent_job SET state = ?, finished_at = ?, wake_at = ?, version = ?, attempts = ?, \
    created_at_max = ?, answer = ?, cause = ?, inputs = ?, trace = ? WHERE seq = ?";
/// Of a row that cannot be read: it is failed, and can be read again.
const END_UNREADABLE: &str = "UPDATE agent_job SET state = ?, finished_at = ?, cause = ?, inputs = x'', trace = x'7b7d' \
    WHERE seq = ?";
const BY_SEQ: &str = "SELECT seq, id, customer, kind, state, received_at, finished_at, wake_at, version, attempts, \
    created_at_max, answer, cause, source, inputs, trace FROM agent_job WHERE seq = ?";
const BY_ID: &str = "SELECT seq, id, customer, kind, state, received_at, finished_at, wake_at, version, attempts, \
    created_at_max, answer, cause, source, inputs, trace FROM agent_job WHERE id = ?";
const HISTORY: &str = "SELECT seq, id, customer, kind, state, received_at, finished_at, wake_at, version, attempts, \
    created_at_max, answer, cause, source, inputs, trace FROM agent_job WHERE seq < ? ORDER BY seq DESC LIMIT ?";
pub(super) const HISTORY_OF: &str = "SELECT seq, id, customer, kind, state, received_at, finished_at, wake_at, version, attempts, \
    created_at_max, answer, cause, source, inputs, trace FROM agent_job WHERE seq < ? AND customer = ? \
    ORDER BY seq DESC LIMIT ?";
/// Columns before the texts of a row, which may be on pages of their own.
pub(super) const FIGURES_OF: &str = "SELECT state, received_at, finished_at, attempts, cause FROM agent_job \
    WHERE customer = ? ORDER BY seq DESC LIMIT 10000";
const OPEN: &str =
    "SELECT seq, id, customer, state, received_at, wake_at FROM agent_job WHERE state < 4 ORDER BY seq";
const NEWEST: &str =
    "SELECT seq, customer, state, received_at FROM agent_job WHERE seq < ? ORDER BY seq DESC LIMIT 64";
const HAS: &str = "SELECT seq FROM agent_job WHERE id = ?";
const LAST_SEQ: &str = "SELECT coalesce(max(seq), 0) FROM agent_job";

/// A job as it is stored.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct JobRow {
    /// The order in which jobs came.
    pub(crate) seq: u64,
    pub(crate) id: EventId,
    pub(crate) customer: PubKey,
    pub(crate) kind: Kind,
    pub(crate) state: JobState,
    /// Milliseconds since 1970.
    pub(crate) received_at: u64,
    /// Milliseconds since 1970; 0 while it is unfinished.
    pub(crate) finished_at: u64,
    /// Its next attempt begins at this time or later; milliseconds since 1970.
    pub(crate) wake_at: u64,
    /// The version of the manifest that its attempts follow; 0 before the first.
    pub(crate) version: u32,
    /// Attempts that have begun.
    pub(crate) attempts: u32,
    /// No event about it that has been published is later than this.
    pub(crate) created_at_max: Timestamp,
    /// The row of the outbox with its result; 0 if it has none.
    pub(crate) result_outbox_row: u64,
    /// Why it failed, in a word.
    pub(crate) cause: String,
    /// The JSON of the event or schedule that requests it.
    pub(crate) source: Vec<u8>,
    /// The texts of its inputs once they have been fetched.
    pub(crate) inputs: Option<Vec<String>>,
    pub(crate) trace: Trace,
    /// Whether the database has it.
    pub(crate) is_stored: bool,
}

/// What has been done about a job.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Trace {
    /// When the last attempt began; milliseconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) started_at: Option<u64>,
    /// Tokens read and written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) tokens: Option<(u64, u64)>,
    /// Partial results that were sent before it.
    pub(crate) partials: u32,
    /// What it costs, if it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) payment: Option<JobPayment>,
    /// What was sent, in order, without the partial results.
    pub(crate) sent: Vec<SentEvent>,
    /// Of an encrypted request to an agent whose key a remote signer has.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[serde(rename = "opened")]
    pub(crate) decrypted: Option<Decrypted>,
}

/// What a job costs and what has been paid of it, in millisatoshis.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct JobPayment {
    /// The price, settled when the request came.
    pub(crate) price: u64,
    /// What has been taken of the customer's credit for it, and not been given back. It is the agent's when there is a result.
    pub(crate) paid: u64,
    /// What the customer is asked for; 0 without an invoice.
    pub(crate) invoiced: u64,
    /// Whether its work begins before all of it is paid.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) is_postpaid: bool,
    /// Whether it is asked for by a hold invoice: its work begins when the payment is held, which is taken when there is a result.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) is_hold: bool,
}

/// What a remote signer has decrypted of a request.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Decrypted {
    pub(crate) cipher: Cipher,
    pub(crate) text: String,
}

impl Decrypted {
    /// The cipher and the text.
    pub(crate) fn read(&self) -> (Cipher, String) {
        (self.cipher, self.text.clone())
    }

    /// The job has ended: drops the text.
    pub(crate) fn forget(&mut self) {
        "[]".clone_into(&mut self.text);
    }
}

impl fmt::Debug for Decrypted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.cipher.fmt(f)
    }
}

/// An event that was sent to the customer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SentEvent {
    /// Its id. Empty if a remote signer had still to encrypt it.
    pub id: String,
    /// Its kind.
    pub kind: u16,
    /// Its time, in Unix seconds.
    pub created_at: u64,
    /// The status that it tells.
    pub status: String,
    /// Its text, in the clear.
    pub text: String,
}

/// What is kept in memory of a job that is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct UnfinishedRow {
    pub(crate) seq: u64,
    pub(crate) id: EventId,
    pub(crate) customer: PubKey,
    pub(crate) state: JobState,
    pub(crate) received_at: u64,
    pub(crate) wake_at: u64,
}

/// What is counted of a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct JobFigures {
    pub(crate) state: JobState,
    pub(crate) received_at: u64,
    pub(crate) finished_at: u64,
    pub(crate) attempts: u32,
    pub(crate) cause: String,
}

impl JobRow {
    /// A job of which nothing has been done yet.
    pub(crate) fn new(
        seq: u64,
        id: EventId,
        customer: PubKey,
        kind: Kind,
        state: JobState,
        received_at: u64,
        source: Vec<u8>,
    ) -> Self {
        JobRow {
            seq,
            id,
            customer,
            kind,
            state,
            received_at,
            finished_at: 0,
            wake_at: 0,
            version: 0,
            attempts: 0,
            created_at_max: 0,
            result_outbox_row: 0,
            cause: String::new(),
            source,
            inputs: None,
            trace: Trace::default(),
            is_stored: false,
        }
    }

    /// The bytes that it takes in the database: texts are JSON there, and may be six times as long.
    pub(crate) fn bytes(&self) -> usize {
        let inputs = self.inputs.as_ref().map_or(0, |inputs| to_json(inputs).len());
        self.source.len() + inputs + to_json(&self.trace).len() + self.cause.len()
    }
}

/// Writes a row. What is too large for one is written without its texts: the others of its transaction are stored.
pub(super) fn write_job(conn: &impl SqlConn, row: &JobRow) -> Result<(), StoreError> {
    if row.bytes() > ROW_BYTES_MAX {
        let trace = Trace { sent: Vec::new(), ..row.trace.clone() };
        let bare = JobRow { source: Vec::new(), inputs: None, trace, is_stored: false, ..row.clone() };
        return write_job(conn, &bare);
    }
    let inputs = row.inputs.as_ref().map_or_else(Vec::new, to_json);
    let changing: [Param; 10] = [
        Param::Int(row.state.number()),
        row.finished_at.into(),
        row.wake_at.into(),
        u64::from(row.version).into(),
        u64::from(row.attempts).into(),
        row.created_at_max.into(),
        row.result_outbox_row.into(),
        row.cause.as_bytes().into(),
        inputs.into(),
        to_json(&row.trace).into(),
    ];
    if row.is_stored {
        let mut params = Vec::from(changing);
        params.push(row.seq.into());
        return exec(conn, UPDATE, &params);
    }
    let [state, finished_at, wake_at, version, attempts, created_at_max, answer, cause, inputs, trace] =
        changing;
    let params: [Param; COLUMNS] = [
        row.seq.into(),
        row.id.0[..].into(),
        row.customer.0[..].into(),
        u64::from(row.kind).into(),
        state,
        row.received_at.into(),
        finished_at,
        wake_at,
        version,
        attempts,
        created_at_max,
        answer,
        cause,
        row.source.as_slice().into(),
        inputs,
        trace,
    ];
    exec(conn, PUT, &params)
}

fn state(row: &[SqlValue<'_>], column: usize) -> Result<JobState, StoreError> {
    let number = signed(row, column)?;
    let found = JobState::ALL.into_iter().find(|state| state.number() == number);
    found.ok_or_else(|| corrupt("a state"))
}

fn read(row: &[SqlValue<'_>]) -> Result<JobRow, StoreError> {
    let inputs = bytes(row, 14)?;
    Ok(JobRow {
        seq: int(row, 0)?,
        id: id(row, 1)?,
        customer: key(row, 2)?,
        kind: int(row, 3)? as Kind,
        state: state(row, 4)?,
        received_at: int(row, 5)?,
        finished_at: int(row, 6)?,
        wake_at: int(row, 7)?,
        version: int(row, 8)? as u32,
        attempts: int(row, 9)? as u32,
        created_at_max: int(row, 10)?,
        result_outbox_row: int(row, 11)?,
        cause: text(row, 12)?,
        source: bytes(row, 13)?.to_vec(),
        inputs: if inputs.is_empty() { None } else { Some(json(inputs)?) },
        trace: json(bytes(row, 15)?)?,
        is_stored: true,
    })
}

fn rows(conn: &impl SqlConn, sql: &str, params: &[SqlValue<'_>]) -> Result<Vec<JobRow>, StoreError> {
    let mut found = Vec::new();
    conn.query(sql, params, &mut |row| {
        found.push(read(row)?);
        Ok(())
    })?;
    Ok(found)
}

/// A job whose row cannot be read has failed, at this time in milliseconds since 1970.
pub(crate) fn end_unreadable(batch: &mut Batch, seq: u64, cause: &str, now: u64) {
    let state = Param::Int(JobState::Failed.number());
    batch.push(END_UNREADABLE, vec![state, now.into(), cause.as_bytes().into(), seq.into()]);
}

/// A job by its number.
pub(crate) fn job(conn: &impl SqlConn, seq: u64) -> Result<Option<JobRow>, StoreError> {
    Ok(rows(conn, BY_SEQ, &[SqlValue::Int(seq as i64)])?.pop())
}

/// A job by its id.
pub(crate) fn job_by_id(conn: &impl SqlConn, id: &EventId) -> Result<Option<JobRow>, StoreError> {
    Ok(rows(conn, BY_ID, &[SqlValue::Blob(&id.0)])?.pop())
}

/// Whether there is a job of this id.
pub(crate) fn has_job(conn: &impl SqlConn, id: &EventId) -> Result<bool, StoreError> {
    let mut found = false;
    conn.query(HAS, &[SqlValue::Blob(&id.0)], &mut |_| {
        found = true;
        Ok(())
    })?;
    Ok(found)
}

/// At most `limit` jobs that came before number `before`, newest first.
pub(crate) fn history(conn: &impl SqlConn, before: u64, limit: usize) -> Result<Vec<JobRow>, StoreError> {
    let before = i64::try_from(before).unwrap_or(i64::MAX).min(1 << 53);
    rows(conn, HISTORY, &[SqlValue::Int(before), SqlValue::Int(limit as i64)])
}

/// [`history`] of one customer.
pub(crate) fn history_of(
    conn: &impl SqlConn,
    customer: &PubKey,
    before: u64,
    limit: usize,
) -> Result<Vec<JobRow>, StoreError> {
    let before = i64::try_from(before).unwrap_or(i64::MAX).min(1 << 53);
    let params = [SqlValue::Int(before), SqlValue::Blob(&customer.0), SqlValue::Int(limit as i64)];
    rows(conn, HISTORY_OF, &params)
}

/// What is counted of a customer's newest jobs.
pub(crate) fn figures_of(
    conn: &impl SqlConn,
    customer: &PubKey,
    found: &mut dyn FnMut(&JobFigures),
) -> Result<(), StoreError> {
    conn.query(FIGURES_OF, &[SqlValue::Blob(&customer.0)], &mut |row| {
        found(&JobFigures {
            state: state(row, 0)?,
            received_at: int(row, 1)?,
            finished_at: int(row, 2)?,
            attempts: int(row, 3)? as u32,
            cause: text(row, 4)?,
        });
        Ok(())
    })
}

/// The jobs that are open, oldest first.
pub(crate) fn unfinished_jobs(conn: &impl SqlConn) -> Result<Vec<UnfinishedRow>, StoreError> {
    let mut found = Vec::new();
    conn.query(OPEN, &[], &mut |row| {
        found.push(UnfinishedRow {
            seq: int(row, 0)?,
            id: id(row, 1)?,
            customer: key(row, 2)?,
            state: state(row, 3)?,
            received_at: int(row, 4)?,
            wake_at: int(row, 5)?,
        });
        Ok(())
    })?;
    Ok(found)
}

/// Customers and states of the newest jobs, as long as they were received since then, in milliseconds since 1970.
pub(crate) fn received_since(conn: &impl SqlConn, since: u64) -> Result<Vec<(PubKey, JobState)>, StoreError> {
    let (mut found, mut before, mut is_over) = (Vec::new(), 1 << 53, false);
    while !is_over {
        let mut rows = 0;
        conn.query(NEWEST, &[SqlValue::Int(before)], &mut |row| {
            rows += 1;
            before = signed(row, 0)?;
            is_over |= int(row, 3)? < since;
            if !is_over {
                found.push((key(row, 1)?, state(row, 2)?));
            }
            Ok(())
        })?;
        is_over |= rows < 64;
    }
    Ok(found)
}

/// The number of the newest job; 0 without any.
pub(crate) fn last_seq(conn: &impl SqlConn) -> Result<u64, StoreError> {
    let mut last = 0;
    conn.query(LAST_SEQ, &[], &mut |row| {
        last = int(row, 0)?;
        Ok(())
    })?;
    Ok(last)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn open_states_are_those_of_the_index() {
        let mut numbers = HashSet::new();
        for state in JobState::ALL {
            assert_eq!(state.is_unfinished(), state.number() < 4, "{state:?}");
            assert!(numbers.insert(state.number()), "{state:?}");
        }
    }
}
