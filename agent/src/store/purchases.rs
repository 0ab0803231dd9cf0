//! Invoices for Blossom (BUD-07): what each pays for, and whether its payment is spent.

use relay_engine::sql::column::{bytes, id, int, text};
use relay_engine::sql::{SqlConn, SqlValue, StoreError};
use relay_engine::types::EventId;

use super::{Batch, corrupt};

const PUT: &str = "INSERT OR REPLACE INTO agent_purchase (hash, job, purchase, msat, invoice, expires_at, spent_at) \
    VALUES (?, ?, ?, ?, ?, ?, 0)";
const SPEND: &str = "UPDATE agent_purchase SET spent_at = ? WHERE hash = ?";
const OPEN: &str = "SELECT p.hash, p.job, p.purchase, p.msat, p.invoice, p.expires_at FROM agent_purchase p \
    JOIN agent_invoice i ON i.hash = p.hash WHERE p.purchase = ? AND p.expires_at > ? AND i.state = 0 \
    ORDER BY p.expires_at DESC LIMIT 1";
const GET: &str = "SELECT p.job, p.purchase, p.spent_at, coalesce(i.state, 2), coalesce(i.msat, 0), coalesce(i.received, 0) \
    FROM agent_purchase p LEFT JOIN agent_invoice i ON i.hash = p.hash WHERE p.hash = ?";
const PRUNE: &str = "DELETE FROM agent_purchase WHERE expires_at < ?";
/// Seconds for which an invoice is known after it has expired, as all invoices are.
const KEPT_SECONDS: u64 = 30 * 86_400;

/// An invoice for a purchase.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PurchaseRow {
    pub(crate) payment_hash: [u8; 32],
    pub(crate) job: EventId,
    pub(crate) purchase: String,
    /// The price, in millisatoshis.
    pub(crate) msat: u64,
    pub(crate) bolt11: String,
    /// Until when it can be paid, in Unix seconds.
    pub(crate) expires_at: u64,
}

/// The state of the payment for a purchase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PurchaseState {
    /// Its invoice may still be paid.
    Open,
    /// It was received.
    Paid,
    /// Less than the price was received: this much, in millisatoshis.
    Partly(u64),
    /// Its invoice was given up.
    Unpaid,
    /// It was received, and spent at this time, in milliseconds since 1970.
    Spent(u64),
}

/// Notes an invoice for a purchase.
pub(crate) fn put_purchase(batch: &mut Batch, row: &PurchaseRow) {
    let PurchaseRow { payment_hash, job, purchase, msat, bolt11, expires_at } = row;
    let params = vec![
        payment_hash[..].into(),
        (*job).into(),
        purchase.as_str().into(),
        (*msat).into(),
        bolt11.as_str().into(),
        (*expires_at).into(),
    ];
    batch.push(PUT, params);
}

/// Notes that a payment is spent, at `now`, in milliseconds since 1970.
pub(crate) fn spend_purchase(batch: &mut Batch, payment_hash: &[u8; 32], now: u64) {
    batch.push(SPEND, vec![now.into(), payment_hash[..].into()]);
}

/// The unpaid invoice for a purchase that expires last, if it can still be paid after this time, in Unix seconds.
pub(crate) fn open_purchase(
    conn: &impl SqlConn,
    purchase: &str,
    after: u64,
) -> Result<Option<PurchaseRow>, StoreError> {
    let after = SqlValue::Int(i64::try_from(after).unwrap_or(i64::MAX));
    let mut found = None;
    conn.query(OPEN, &[SqlValue::Blob(purchase.as_bytes()), after], &mut |row| {
        found = Some(PurchaseRow {
            payment_hash: bytes(row, 0)?
                .try_into()
                .map_err(|_| corrupt("a payment hash has not 32 bytes"))?,
            job: id(row, 1)?,
            purchase: text(row, 2)?,
            msat: int(row, 3)?,
            bolt11: text(row, 4)?,
            expires_at: int(row, 5)?,
        });
        Ok(())
    })?;
    Ok(found)
}

/// The job, the purchase and the state of the invoice with this payment hash.
pub(crate) fn purchase(
    conn: &impl SqlConn,
    payment_hash: &[u8; 32],
) -> Result<Option<(EventId, String, PurchaseState)>, StoreError> {
    let mut found = None;
    conn.query(GET, &[SqlValue::Blob(payment_hash)], &mut |row| {
        let (msat, received) = (int(row, 4)?, int(row, 5)?);
        let state = match (int(row, 2)?, int(row, 3)?) {
            (spent_at @ 1.., _) => PurchaseState::Spent(spent_at),
            (_, 0) => PurchaseState::Open,
            (_, 1) if received >= msat => PurchaseState::Paid,
            (_, 1) => PurchaseState::Partly(received),
            _ => PurchaseState::Unpaid,
        };
        found = Some((id(row, 0)?, text(row, 1)?, state));
        Ok(())
    })?;
    Ok(found)
}

/// Forgets what is old at this time, in Unix seconds.
pub(crate) fn prune_purchases(batch: &mut Batch, now: u64) {
    batch.push(PRUNE, vec![now.saturating_sub(KEPT_SECONDS).into()]);
}
