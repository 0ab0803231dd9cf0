//! Refunds of customers and payouts of shares, both called refunds here, and their states. A payment hash is paid at most once.

use relay_engine::sql::column::{bytes, int, signed, text};
use relay_engine::sql::{Param, SqlConn, SqlValue, StoreError, exec};
use relay_engine::types::PubKey;

use super::ledger::Account;
use super::{Batch, corrupt};

const PUT: &str = "INSERT OR REPLACE INTO agent_refund (hash, customer, state, msat, reserve, fees, invoice, expires_at, \
    made_at, changed_at, wallet) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
const OPEN: &str = "SELECT hash, customer, state, msat, reserve, fees, invoice, expires_at, made_at, changed_at, wallet \
    FROM agent_refund WHERE state < 2 ORDER BY made_at";
const BY_HASH: &str = "SELECT hash, customer, state, msat, reserve, fees, invoice, expires_at, made_at, changed_at, wallet \
    FROM agent_refund WHERE hash = ?";
const OF_CUSTOMER: &str = "SELECT hash, customer, state, msat, reserve, fees, invoice, expires_at, made_at, changed_at, \
    wallet FROM agent_refund WHERE customer = ? ORDER BY made_at DESC LIMIT ?";
const SPENT: &str =
    "SELECT coalesce(sum(msat + reserve), 0) FROM agent_refund WHERE made_at >= ? AND state <> 3";
const SPENT_ON_SHARES: &str = "SELECT coalesce(sum(msat + reserve), 0) FROM agent_refund WHERE made_at >= ? AND state <> 3 \
    AND length(customer) = 20";
const PRUNE: &str = "DELETE FROM agent_refund WHERE state > 1 AND made_at < ?";
/// Milliseconds for which an ended refund is kept, much longer than its invoice can be paid.
const KEPT_MILLIS: u64 = 60 * 86_400_000;

/// The state of a refund.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RefundState {
    /// It waits for the owner's approval.
    AwaitingApproval,
    /// The wallet has not been asked to pay.
    Wanted,
    /// The wallet may have been asked to pay; the payment is only looked up.
    Sent,
    /// It is paid.
    Paid,
    /// It was not paid, and will not be.
    Failed,
}

impl RefundState {
    const ALL: [RefundState; 5] = [
        RefundState::AwaitingApproval,
        RefundState::Wanted,
        RefundState::Sent,
        RefundState::Paid,
        RefundState::Failed,
    ];

    /// Its number in databases. Those of refunds that are not over are below 2.
    fn number(self) -> i64 {
        match self {
            // This state was added later.
            RefundState::AwaitingApproval => -1,
            RefundState::Wanted => 0,
            RefundState::Sent => 1,
            RefundState::Paid => 2,
            RefundState::Failed => 3,
        }
    }

    /// Whether it is not over.
    pub(crate) fn is_open(self) -> bool {
        self.is_unsent() || self == RefundState::Sent
    }

    /// Whether the wallet has not been asked to pay, and may be.
    pub(crate) fn is_unsent(self) -> bool {
        matches!(self, RefundState::AwaitingApproval | RefundState::Wanted)
    }
}

/// A refund as it is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RefundRow {
    pub(crate) payment_hash: [u8; 32],
    /// Whose money it is: a customer, or a recipient; the column is `customer`, an old name.
    pub(crate) payee: Account,
    pub(crate) state: RefundState,
    /// What the payee's invoice asks for, in millisatoshis.
    pub(crate) msat: u64,
    /// What is reserved for routing fees; once it is paid, the routing fees that were paid. In millisatoshis.
    pub(crate) reserve: u64,
    /// The routing fees that the payee has borne, in millisatoshis; the agent bears the rest.
    pub(crate) fees: u64,
    /// The payee's invoice (BOLT 11).
    pub(crate) invoice: String,
    /// Until when it can be paid, in Unix seconds.
    pub(crate) expires_at: u64,
    /// Milliseconds since 1970.
    pub(crate) made_at: u64,
    /// When it came into its state, in milliseconds since 1970.
    pub(crate) changed_at: u64,
    /// The digest of the connection to the wallet that pays.
    pub(crate) wallet: String,
}

/// Writes a refund.
pub(super) fn write_refund(conn: &impl SqlConn, row: &RefundRow) -> Result<(), StoreError> {
    let params: [Param; 11] = [
        row.payment_hash[..].into(),
        row.payee.key().into(),
        Param::Int(row.state.number()),
        row.msat.into(),
        row.reserve.into(),
        row.fees.into(),
        row.invoice.as_bytes().into(),
        row.expires_at.into(),
        row.made_at.into(),
        row.changed_at.into(),
        row.wallet.as_bytes().into(),
    ];
    exec(conn, PUT, &params)
}

fn rows(conn: &impl SqlConn, sql: &str, params: &[SqlValue<'_>]) -> Result<Vec<RefundRow>, StoreError> {
    let mut found = Vec::new();
    conn.query(sql, params, &mut |row| {
        let number = signed(row, 2)?;
        let state = RefundState::ALL.into_iter().find(|state| state.number() == number);
        found.push(RefundRow {
            payment_hash: bytes(row, 0)?.try_into().map_err(|_| corrupt("a payment hash"))?,
            payee: Account::read(bytes(row, 1)?)?,
            state: state.ok_or_else(|| corrupt("a state"))?,
            msat: int(row, 3)?,
            reserve: int(row, 4)?,
            fees: int(row, 5)?,
            invoice: text(row, 6)?,
            expires_at: int(row, 7)?,
            made_at: int(row, 8)?,
            changed_at: int(row, 9)?,
            wallet: text(row, 10)?,
        });
        Ok(())
    })?;
    Ok(found)
}

/// The refunds that are not over, oldest first.
pub(crate) fn open_refunds(conn: &impl SqlConn) -> Result<Vec<RefundRow>, StoreError> {
    rows(conn, OPEN, &[])
}

/// The refund of this payment hash.
pub(crate) fn refund(conn: &impl SqlConn, payment_hash: &[u8; 32]) -> Result<Option<RefundRow>, StoreError> {
    Ok(rows(conn, BY_HASH, &[SqlValue::Blob(payment_hash)])?.pop())
}

/// At most `limit` refunds of a customer, newest first.
pub(crate) fn refunds_of(
    conn: &impl SqlConn,
    customer: &PubKey,
    limit: usize,
) -> Result<Vec<RefundRow>, StoreError> {
    rows(conn, OF_CUSTOMER, &[SqlValue::Blob(&customer.0), SqlValue::Int(limit as i64)])
}

/// Millisatoshis of refunds made since then (milliseconds since 1970) that have not failed, reserved fees included.
pub(crate) fn refunded_since(conn: &impl SqlConn, since: u64) -> Result<u64, StoreError> {
    sum(conn, SPENT, since)
}

/// [`refunded_since`] of recipients' shares alone.
pub(crate) fn shared_since(conn: &impl SqlConn, since: u64) -> Result<u64, StoreError> {
    sum(conn, SPENT_ON_SHARES, since)
}

fn sum(conn: &impl SqlConn, sql: &str, since: u64) -> Result<u64, StoreError> {
    let mut spent = 0;
    conn.query(sql, &[SqlValue::Int(since as i64)], &mut |row| {
        spent = int(row, 0)?;
        Ok(())
    })?;
    Ok(spent)
}

/// Forgets what is old at this time, in milliseconds since 1970.
pub(crate) fn prune_refunds(batch: &mut Batch, now: u64) {
    batch.push(PRUNE, vec![now.saturating_sub(KEPT_MILLIS).into()]);
}
