//! The books of an agent, by double entry: each [`Transfer`] debits one account and credits another, so the balances of all accounts
//! (debits less credits) sum to zero. Amounts are millisatoshis.
//!
//! ```text
//! wallet        what the agent's wallet, or its Lightning address, has received, less what it has paid
//! <customer>    the credit of a customer: paid and not spent; the balance is never above zero
//! reserved      credit that is reserved for unfinished jobs; in databases it has its old name, `held`
//! income        what the agent has earned, less the recipients' shares and the routing fees that it bears
//! refunds       credit and shares that are being paid out, with the reserves for routing fees
//! <recipient>   the share of a recipient that is due; the balance is above zero if more was paid out than is due
//! ```

use relay_engine::sql::column::{bytes, int, key, signed, text};
use relay_engine::sql::{Param, SqlConn, SqlValue, StoreError, exec};
use relay_engine::types::{EventId, PubKey};
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::batch::Batch;
use super::corrupt;

const BALANCE: &str = "SELECT msat FROM agent_account WHERE account = ?";
const ADD: &str = "INSERT INTO agent_account (account, msat) VALUES (?, ?) \
    ON CONFLICT (account) DO UPDATE SET msat = msat + excluded.msat";
const PUT: &str =
    "INSERT INTO agent_ledger (seq, at, debit, credit, msat, reason, job) VALUES (?, ?, ?, ?, ?, ?, ?)";
const LAST: &str = "SELECT coalesce(max(seq), 0) FROM agent_ledger";
const CREDITS: &str =
    "SELECT account, -msat FROM agent_account WHERE length(account) = 32 AND msat < 0 ORDER BY account";
const IS_OWED: &str = "SELECT 1 FROM agent_account WHERE (length(account) = 32 AND msat < 0) OR (length(account) = 20 AND msat <= ?) LIMIT 1";
const ENTRIES: &str =
    "SELECT seq, at, debit, credit, msat, reason, job FROM agent_ledger WHERE seq > ? ORDER BY seq LIMIT ?";
const OF_JOB: &str =
    "SELECT seq, at, debit, credit, msat, reason, job FROM agent_ledger WHERE job = ? ORDER BY seq";
const PRUNE: &str = "DELETE FROM agent_ledger WHERE seq <= ?";
/// Entries that are kept. Balances are kept without them.
const ENTRIES_KEPT: u64 = 300_000;

/// An account.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Account {
    /// What the agent's wallet has received, less what it has paid.
    Wallet,
    /// Credit that is reserved for unfinished jobs.
    Reserved,
    /// What the agent has earned, less the recipients' shares.
    Income,
    /// Credit and shares that are being paid out, with the reserves for routing fees.
    Refunds,
    /// The credit of a customer.
    Customer(PubKey),
    /// The share of a recipient that is due.
    Recipient(RecipientKey),
}

/// Who has a share of the income: a digest of their Lightning address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RecipientKey([u8; 20]);

impl RecipientKey {
    /// What the keys of their accounts begin with.
    const PREFIX: [u8; 4] = *b"to: ";

    /// That of the recipient with this Lightning address.
    pub fn of(address: &str) -> Self {
        let mut key = [0; 20];
        let (prefix, digest) = key.split_at_mut(Self::PREFIX.len());
        prefix.copy_from_slice(&Self::PREFIX);
        digest.copy_from_slice(&Sha256::digest(address)[..16]);
        RecipientKey(key)
    }

    fn read(key: &[u8]) -> Option<Self> {
        let key: [u8; 20] = key.try_into().ok()?;
        key.starts_with(&Self::PREFIX).then_some(RecipientKey(key))
    }
}

impl Account {
    pub(super) fn key(&self) -> &[u8] {
        match self {
            Account::Wallet => b"wallet",
            Account::Reserved => b"held",
            Account::Income => b"income",
            Account::Refunds => b"refunds",
            Account::Customer(customer) => &customer.0,
            Account::Recipient(recipient) => &recipient.0,
        }
    }

    pub(super) fn read(key: &[u8]) -> Result<Self, StoreError> {
        match key {
            b"wallet" => Ok(Account::Wallet),
            b"held" => Ok(Account::Reserved),
            b"income" => Ok(Account::Income),
            b"refunds" => Ok(Account::Refunds),
            key => match (RecipientKey::read(key), key.try_into()) {
                (Some(recipient), _) => Ok(Account::Recipient(recipient)),
                (None, Ok(customer)) => Ok(Account::Customer(PubKey(customer))),
                (None, Err(_)) => Err(corrupt("an account")),
            },
        }
    }
}

/// Why something was transferred.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// A customer has paid.
    Payment,
    /// Credit of a customer is reserved for a job.
    Charge,
    /// The result of the job was delivered.
    Delivery,
    /// It goes back: a job has ended without a delivered result, or a refund or the payout of a share has failed or has cost less in fees.
    Return,
    /// The customer has cancelled the job after its work had begun.
    Cancellation,
    /// A customer's credit, or a recipient's due share, was imported from another host.
    Import,
    /// It is to be paid out: a customer has asked for credit, or a recipient's share is due.
    Refund,
    /// It has been paid out.
    Payout,
    /// Routing fees.
    Fees,
    /// A customer has paid by a zap.
    Zap,
    /// It is a recipient's share of the income.
    Share,
}

impl Reason {
    const ALL: [Reason; 11] = [
        Reason::Payment,
        Reason::Charge,
        Reason::Delivery,
        Reason::Return,
        Reason::Cancellation,
        Reason::Import,
        Reason::Refund,
        Reason::Payout,
        Reason::Fees,
        Reason::Zap,
        Reason::Share,
    ];

    fn name(self) -> &'static str {
        match self {
            Reason::Payment => "payment",
            Reason::Charge => "charge",
            Reason::Delivery => "delivery",
            Reason::Return => "return",
            Reason::Cancellation => "cancellation",
            Reason::Import => "import",
            Reason::Refund => "refund",
            Reason::Payout => "payout",
            Reason::Fees => "fees",
            Reason::Zap => "zap",
            Reason::Share => "share",
        }
    }
}

/// An entry of the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// The order of entries.
    pub seq: u64,
    /// Milliseconds since 1970.
    pub at: u64,
    /// Which account is debited.
    pub debit: Account,
    /// Which account is credited.
    pub credit: Account,
    /// How much; not 0.
    pub msat: u64,
    /// Why.
    pub reason: Reason,
    /// For which job, if it is for one.
    pub job: Option<EventId>,
}

impl Transfer {
    /// What it adds to the balance of an account.
    pub(crate) fn change(&self, account: &Account) -> i64 {
        let msat = i64::try_from(self.msat).unwrap_or(i64::MAX);
        match (self.debit == *account, self.credit == *account) {
            (true, false) => msat,
            (false, true) => -msat,
            _ => 0,
        }
    }
}

/// Writes an entry and what it changes; in a transaction.
pub(super) fn write_transfer(conn: &impl SqlConn, transfer: &Transfer) -> Result<(), StoreError> {
    let Transfer { seq, at, debit, credit, msat, reason, job } = transfer;
    let id: &[u8] = job.as_ref().map_or(&[], |job| &job.0);
    let params: [Param; 7] = [
        (*seq).into(),
        (*at).into(),
        debit.key().into(),
        credit.key().into(),
        (*msat).into(),
        reason.name().as_bytes().into(),
        id.into(),
    ];
    exec(conn, PUT, &params)?;
    for account in [debit, credit] {
        exec(conn, ADD, &[account.key().into(), Param::Int(transfer.change(account))])?;
    }
    Ok(())
}

/// The balance of an account: debits less credits, with what is not written yet.
pub(crate) fn balance(conn: &impl SqlConn, batch: &Batch, account: &Account) -> Result<i64, StoreError> {
    let mut balance = 0;
    conn.query(BALANCE, &[SqlValue::Blob(account.key())], &mut |row| {
        balance = signed(row, 0)?;
        Ok(())
    })?;
    Ok(batch.transfers().iter().fold(balance, |balance, transfer| balance + transfer.change(account)))
}

/// All entries of a job, also those that are not written yet, oldest first. It reads the whole ledger, since there is no index by job, so it is only for rare cases: unreadable jobs, and results that cannot be published.
pub(crate) fn transfers_of_job(
    conn: &impl SqlConn,
    batch: &Batch,
    job: &EventId,
) -> Result<Vec<Transfer>, StoreError> {
    let mut found = read_transfers(conn, OF_JOB, &[SqlValue::Blob(&job.0)])?;
    found.extend(batch.transfers().iter().filter(|transfer| transfer.job == Some(*job)));
    Ok(found)
}

/// The number of the newest entry; 0 without any.
pub(crate) fn last_transfer(conn: &impl SqlConn) -> Result<u64, StoreError> {
    let mut last = 0;
    conn.query(LAST, &[], &mut |row| {
        last = int(row, 0)?;
        Ok(())
    })?;
    Ok(last)
}

/// The credit of all customers that have some.
pub(crate) fn credits(conn: &impl SqlConn) -> Result<Vec<(PubKey, u64)>, StoreError> {
    let mut found = Vec::new();
    conn.query(CREDITS, &[], &mut |row| {
        found.push((key(row, 0)?, int(row, 1)?));
        Ok(())
    })?;
    Ok(found)
}

/// Whether any customer has credit, or any recipient a share of so much that is not paid out, in millisatoshis.
pub(crate) fn has_debts(conn: &impl SqlConn, share_msat: u64) -> Result<bool, StoreError> {
    let mut found = false;
    let most = i64::try_from(share_msat).map_or(i64::MIN, |msat| -msat);
    conn.query(IS_OWED, &[SqlValue::Int(most)], &mut |_| {
        found = true;
        Ok(())
    })?;
    Ok(found)
}

/// At most `limit` entries after number `after`, oldest first.
pub(crate) fn transfers(conn: &impl SqlConn, after: u64, limit: usize) -> Result<Vec<Transfer>, StoreError> {
    read_transfers(conn, ENTRIES, &[SqlValue::Int(after as i64), SqlValue::Int(limit as i64)])
}

fn read_transfers(
    conn: &impl SqlConn,
    sql: &str,
    params: &[SqlValue<'_>],
) -> Result<Vec<Transfer>, StoreError> {
    let mut found = Vec::new();
    conn.query(sql, params, &mut |row| {
        let name = text(row, 5)?;
        let reason = Reason::ALL.into_iter().find(|reason| reason.name() == name);
        found.push(Transfer {
            seq: int(row, 0)?,
            at: int(row, 1)?,
            debit: Account::read(bytes(row, 2)?)?,
            credit: Account::read(bytes(row, 3)?)?,
            msat: int(row, 4)?,
            reason: reason.ok_or_else(|| corrupt("a reason"))?,
            job: bytes(row, 6)?.try_into().ok().map(EventId),
        });
        Ok(())
    })?;
    Ok(found)
}

/// Forgets entries that are old.
pub(crate) fn prune_transfers(batch: &mut Batch, last: u64) {
    if let Some(until) = last.checked_sub(ENTRIES_KEPT).filter(|until| *until > 0) {
        batch.push(PRUNE, vec![until.into()]);
    }
}
