//! The invoices of jobs, of which a job has one that is open at most, and how many free jobs a customer has had today.

use relay_engine::sql::column::{bytes, id, int, key, signed, text};
use relay_engine::sql::{Param, SqlConn, SqlValue, StoreError, exec};
use relay_engine::types::{EventId, PubKey};
use serde::{Deserialize, Serialize};

use super::{Batch, corrupt, json, to_json};

const PUT: &str = "INSERT OR REPLACE INTO agent_invoice (job, customer, state, msat, hash, made_at, expires_at, received, \
    claimed_at, wallet, hold) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
const OPEN: &str = "SELECT job, customer, state, msat, hash, made_at, expires_at, received, claimed_at, wallet, hold \
    FROM agent_invoice WHERE state = 0 ORDER BY made_at";
const GET: &str = "SELECT job, customer, state, msat, hash, made_at, expires_at, received, claimed_at, wallet, hold \
    FROM agent_invoice WHERE hash = ?";
const BY_HASH: &str = "SELECT job FROM agent_invoice WHERE hash = ?";
const PRUNE: &str = "DELETE FROM agent_invoice WHERE state > 0 AND expires_at < ?";
/// Seconds for which an invoice is kept that is paid or given up.
const KEPT_SECONDS: u64 = 30 * 86_400;

const QUOTA: &str = "SELECT day, used FROM agent_quota WHERE customer = ?";
const PUT_QUOTA: &str = "INSERT OR REPLACE INTO agent_quota (customer, day, used) VALUES (?, ?, ?)";
const PRUNE_QUOTA: &str = "DELETE FROM agent_quota WHERE day < ?";

/// Where an invoice is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum InvoiceState {
    /// It may be paid, or may have been paid in time and settle late: the wallet is asked for it.
    Open,
    /// It is paid.
    Paid,
    /// It was not paid, and is not asked for any more.
    Unpaid,
}

impl InvoiceState {
    const ALL: [InvoiceState; 3] = [InvoiceState::Open, InvoiceState::Paid, InvoiceState::Unpaid];
}

/// Where a hold invoice is, as long as it is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum HoldPhase {
    /// It can be paid.
    Offered,
    /// Its payment is held while the job works.
    Accepted,
    /// The result is stored, and the payment is taken.
    Settling,
    /// There will be no result, and the payment is given back.
    Cancelling,
}

/// What is stored of a hold invoice beside what is stored of every invoice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hold {
    /// Hexadecimal digits of that from which, with the secret of the wallet's connection, its preimage is made.
    pub(crate) salt: String,
    /// Seconds for which a payment is held for the work.
    pub(crate) seconds: u64,
    pub(crate) phase: HoldPhase,
    /// What is held, or was, in millisatoshis; 0 before.
    pub(crate) msat: u64,
    /// Until when it is held for the work, in milliseconds since 1970; 0 before.
    pub(crate) until: u64,
    /// Whether the wallet may have been given the preimage. Before, nobody can settle it.
    pub(crate) is_revealed: bool,
}

impl Hold {
    /// Of an invoice that can be paid.
    pub(crate) fn offered(salt: &[u8; 32], seconds: u64) -> Self {
        let (salt, phase) = (faster_hex::hex_string(salt), HoldPhase::Offered);
        Hold { salt, seconds, phase, msat: 0, until: 0, is_revealed: false }
    }

    /// Its salt.
    pub(crate) fn salt(&self) -> [u8; 32] {
        let mut salt = [0; 32];
        // It was written above.
        let _ = faster_hex::hex_decode(self.salt.as_bytes(), &mut salt);
        salt
    }
}

/// An invoice as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InvoiceRow {
    pub(crate) job: EventId,
    pub(crate) customer: PubKey,
    pub(crate) state: InvoiceState,
    /// What it asks for, in millisatoshis.
    pub(crate) msat: u64,
    pub(crate) payment_hash: [u8; 32],
    /// Milliseconds since 1970.
    pub(crate) made_at: u64,
    /// Until when it can be paid, in Unix seconds.
    pub(crate) expires_at: u64,
    /// What has come, in millisatoshis.
    pub(crate) received: u64,
    /// When the wallet first claimed that it is paid, without showing it; milliseconds since 1970.
    pub(crate) claimed_at: Option<u64>,
    /// The digest of the connection to the wallet that has made it; empty in databases of earlier versions.
    pub(crate) wallet: String,
    /// If it is a hold invoice.
    pub(crate) hold: Option<Hold>,
}

/// Writes an invoice.
pub(super) fn write_invoice(conn: &impl SqlConn, row: &InvoiceRow) -> Result<(), StoreError> {
    let state = InvoiceState::ALL.iter().position(|state| *state == row.state).unwrap_or_default();
    let hold = row.hold.as_ref().map(to_json).unwrap_or_default();
    let params: [Param; 11] = [
        row.job.0[..].into(),
        row.customer.0[..].into(),
        (state as u64).into(),
        row.msat.into(),
        row.payment_hash[..].into(),
        row.made_at.into(),
        row.expires_at.into(),
        row.received.into(),
        row.claimed_at.unwrap_or_default().into(),
        row.wallet.as_bytes().into(),
        hold[..].into(),
    ];
    exec(conn, PUT, &params)
}

/// The invoices that the wallet is asked for, oldest first.
pub(crate) fn open_invoices(conn: &impl SqlConn) -> Result<Vec<InvoiceRow>, StoreError> {
    invoices(conn, OPEN, &[])
}

/// The invoice with this payment hash.
pub(crate) fn invoice(
    conn: &impl SqlConn,
    payment_hash: &[u8; 32],
) -> Result<Option<InvoiceRow>, StoreError> {
    Ok(invoices(conn, GET, &[SqlValue::Blob(payment_hash)])?.pop())
}

fn invoices(
    conn: &impl SqlConn,
    query: &str,
    params: &[SqlValue<'_>],
) -> Result<Vec<InvoiceRow>, StoreError> {
    let mut found = Vec::new();
    conn.query(query, params, &mut |row| {
        let state = usize::try_from(signed(row, 2)?).ok().and_then(|at| InvoiceState::ALL.get(at).copied());
        found.push(InvoiceRow {
            job: id(row, 0)?,
            customer: key(row, 1)?,
            state: state.ok_or_else(|| corrupt("a state"))?,
            msat: int(row, 3)?,
            payment_hash: bytes(row, 4)?.try_into().map_err(|_| corrupt("a payment hash"))?,
            made_at: int(row, 5)?,
            expires_at: int(row, 6)?,
            received: int(row, 7)?,
            claimed_at: Some(int(row, 8)?).filter(|at| *at > 0),
            wallet: text(row, 9)?,
            hold: Some(bytes(row, 10)?).filter(|hold| !hold.is_empty()).map(json).transpose()?,
        });
        Ok(())
    })?;
    Ok(found)
}

/// Whether an invoice with this payment hash is known.
pub(crate) fn has_invoice(
    conn: &impl SqlConn,
    batch: &Batch,
    payment_hash: &[u8; 32],
) -> Result<bool, StoreError> {
    let mut found = batch.has_invoice(payment_hash);
    conn.query(BY_HASH, &[SqlValue::Blob(payment_hash)], &mut |_| {
        found = true;
        Ok(())
    })?;
    Ok(found)
}

/// Free jobs that a customer has had on this day, a number of days since 1970.
pub(crate) fn free_jobs(
    conn: &impl SqlConn,
    batch: &Batch,
    customer: &PubKey,
    day: u64,
) -> Result<u32, StoreError> {
    if let Some(used) = batch.free_jobs(customer, day) {
        return Ok(used);
    }
    let mut used = 0;
    conn.query(QUOTA, &[SqlValue::Blob(&customer.0)], &mut |row| {
        if int(row, 0)? == day {
            used = int(row, 1)? as u32;
        }
        Ok(())
    })?;
    Ok(used)
}

/// Notes how many free jobs a customer has had.
pub(crate) fn put_free_jobs(batch: &mut Batch, customer: &PubKey, day: u64, used: u32) {
    batch.note_free_jobs(*customer, day, used);
    batch.push(PUT_QUOTA, vec![customer.0[..].into(), day.into(), u64::from(used).into()]);
}

/// Forgets what is old at this time, in Unix seconds.
pub(crate) fn prune_invoices(batch: &mut Batch, now: u64) {
    batch.push(PRUNE, vec![now.saturating_sub(KEPT_SECONDS).into()]);
    batch.push(PRUNE_QUOTA, vec![(now / 86_400).into()]);
}
