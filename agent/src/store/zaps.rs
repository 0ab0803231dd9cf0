//! Zaps that have counted, so that each counts once, and those that the wallet has still to confirm; and receipts that wait until the key of their
//! service is known. A payment hash that has counted is never deleted.

use relay_engine::sql::column::{bytes, id, int, key, signed};
use relay_engine::sql::{Param, SqlConn, SqlValue, StoreError, exec};
use relay_engine::types::{Event, EventId, PubKey};
use relay_engine::wire::parse_event;

use super::{Batch, corrupt};

const PUT: &str = "INSERT OR REPLACE INTO agent_zap (hash, receipt, payer, event, msat, state, at) VALUES (?, ?, ?, ?, ?, ?, ?)";
const CLAIMED: &str =
    "SELECT hash, receipt, payer, event, msat, state, at FROM agent_zap WHERE state = 0 ORDER BY at";
const BY_HASH: &str = "SELECT receipt FROM agent_zap WHERE hash = ?";
const PUT_RECEIPT: &str = "INSERT OR REPLACE INTO agent_receipt (id, receipt) VALUES (?, ?)";
const DELETE_RECEIPT: &str = "DELETE FROM agent_receipt WHERE id = ?";
const RECEIPTS: &str = "SELECT receipt FROM agent_receipt ORDER BY id";
const PRUNE: &str = "DELETE FROM agent_zap WHERE state = 2 AND at < ?";
/// Milliseconds for which a refused zap is known. Its receipt is too old long before.
const REFUSED_KEPT_MILLIS: u64 = 90 * 86_400_000;

/// The state of a zap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ZapState {
    /// Its receipt is right, and the wallet has still to confirm the payment.
    Claimed,
    /// It is in the books.
    Counted,
    /// The wallet has no such payment.
    Refused,
}

impl ZapState {
    const ALL: [ZapState; 3] = [ZapState::Claimed, ZapState::Counted, ZapState::Refused];
}

/// A zap as it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ZapRow {
    pub(crate) payment_hash: [u8; 32],
    pub(crate) receipt: EventId,
    /// Whose money it is.
    pub(crate) payer: PubKey,
    /// The event that is zapped.
    pub(crate) event: Option<EventId>,
    pub(crate) msat: u64,
    pub(crate) state: ZapState,
    /// When the receipt came, in milliseconds since 1970.
    pub(crate) at: u64,
}

/// Writes a zap.
pub(super) fn write_zap(conn: &impl SqlConn, row: &ZapRow) -> Result<(), StoreError> {
    let state = ZapState::ALL.iter().position(|state| *state == row.state).unwrap_or_default();
    let event: &[u8] = row.event.as_ref().map_or(&[], |event| &event.0);
    let params: [Param; 7] = [
        row.payment_hash[..].into(),
        row.receipt.0[..].into(),
        row.payer.0[..].into(),
        event.into(),
        row.msat.into(),
        (state as u64).into(),
        row.at.into(),
    ];
    exec(conn, PUT, &params)
}

/// Writes a receipt as JSON, or deletes it.
pub(super) fn write_receipt(
    conn: &impl SqlConn,
    id: &EventId,
    receipt: Option<&[u8]>,
) -> Result<(), StoreError> {
    match receipt {
        Some(json) => exec(conn, PUT_RECEIPT, &[id.0[..].into(), json.into()]),
        None => exec(conn, DELETE_RECEIPT, &[id.0[..].into()]),
    }
}

/// The zaps that the wallet has still to confirm, oldest first.
pub(crate) fn claimed_zaps(conn: &impl SqlConn) -> Result<Vec<ZapRow>, StoreError> {
    let mut found = Vec::new();
    conn.query(CLAIMED, &[], &mut |row| {
        let state = usize::try_from(signed(row, 5)?).ok().and_then(|at| ZapState::ALL.get(at).copied());
        found.push(ZapRow {
            payment_hash: bytes(row, 0)?.try_into().map_err(|_| corrupt("a payment hash"))?,
            receipt: id(row, 1)?,
            payer: key(row, 2)?,
            event: bytes(row, 3)?.try_into().ok().map(EventId),
            msat: int(row, 4)?,
            state: state.ok_or_else(|| corrupt("a state"))?,
            at: int(row, 6)?,
        });
        Ok(())
    })?;
    Ok(found)
}

/// The receipt of the zap with this payment hash, if there was one.
pub(crate) fn receipt_of_zap(
    conn: &impl SqlConn,
    batch: &Batch,
    payment_hash: &[u8; 32],
) -> Result<Option<EventId>, StoreError> {
    let mut found = batch.receipt_of_zap(payment_hash);
    conn.query(BY_HASH, &[SqlValue::Blob(payment_hash)], &mut |row| {
        found = Some(id(row, 0)?);
        Ok(())
    })?;
    Ok(found)
}

/// The receipts that have not been judged. Rows that cannot be read are skipped.
pub(crate) fn waiting_receipts(conn: &impl SqlConn) -> Result<Vec<Event>, StoreError> {
    let mut found = Vec::new();
    conn.query(RECEIPTS, &[], &mut |row| {
        found.extend(parse_event(bytes(row, 0)?).ok().map(|receipt| receipt.to_event()));
        Ok(())
    })?;
    Ok(found)
}

/// Forgets refused zaps that are old at this time, in milliseconds since 1970.
pub(crate) fn prune_zaps(batch: &mut Batch, now: u64) {
    batch.push(PRUNE, vec![now.saturating_sub(REFUSED_KEPT_MILLIS).into()]);
}
