//! The tables of one agent.
//!
//! ```text
//! agent_meta       name BLOB PRIMARY KEY, value BLOB              schema, state, metrics ...: meta.rs
//! agent_version    version INTEGER PRIMARY KEY, ...               manifests: versions.rs
//! agent_job        seq INTEGER PRIMARY KEY, id BLOB UNIQUE, ...   jobs, finished ones too: jobs.rs, prune.rs
//! agent_outbox     row INTEGER PRIMARY KEY, relays, events BLOB   signed and not yet published: outbox.rs
//! agent_session    customer BLOB PRIMARY KEY, ...                 what was said with a customer: sessions.rs
//! agent_cancelled  PRIMARY KEY (id, author), ...                  cancellations that came before their requests: cancelled.rs
//! agent_log        slot INTEGER PRIMARY KEY, ...                  the last lines of the log: log.rs
//! agent_account    account BLOB PRIMARY KEY, msat INTEGER         balances: ledger.rs
//! agent_ledger     seq INTEGER PRIMARY KEY, ...                   what has made them: ledger.rs
//! agent_invoice    hash BLOB PRIMARY KEY, ...                     invoices: invoices.rs
//! agent_refund     hash BLOB PRIMARY KEY, ...                     credit and shares that are paid out: refunds.rs
//! agent_quota      customer BLOB PRIMARY KEY, ...                 free jobs of today: invoices.rs
//! agent_withheld   seq INTEGER PRIMARY KEY, ...                   results that wait for their payment: withheld.rs
//! agent_member     pubkey BLOB PRIMARY KEY, ...                   whom it has made members of the relay: members.rs
//! agent_unpaid     customer BLOB PRIMARY KEY, ...                 how many results of a customer are not paid: unpaid.rs
//! agent_zap        hash BLOB PRIMARY KEY, ...                     zaps: zaps.rs
//! agent_receipt    id BLOB PRIMARY KEY, ...                       receipts of zaps that cannot be judged yet: zaps.rs
//! agent_purchase   hash BLOB PRIMARY KEY, ...                     invoices of Blossom's purchases: purchases.rs
//! ```
//!
//! Durable Objects bill rows written, index entries too: a job that is answered at once writes six (three for itself and the
//! indices of its id and its customer, one into the outbox and one out of it, one for metrics). Statements keep within what they take: integers
//! below 2^53, rows under 2 MB. What is not a column of its own is JSON; the events of the outbox are lines of it.
//!
//! Reads are statements; writes are collected in a [`Batch`], which one transaction carries out.

mod batch;
mod cancelled;
mod forget;
mod invoices;
mod jobs;
mod ledger;
mod log;
mod members;
mod meta;
mod outbox;
mod prune;
mod purchases;
mod refunds;
mod sessions;
mod unpaid;
mod versions;
mod withheld;
mod zaps;

pub(crate) use batch::Batch;
pub(crate) use cancelled::{is_cancelled, put_cancelled};
pub(crate) use forget::{delete_all, forget_jobs, sizes};
pub(crate) use invoices::{
    Hold, HoldPhase, InvoiceRow, InvoiceState, free_jobs, has_invoice, invoice, open_invoices,
    prune_invoices, put_free_jobs,
};
pub use jobs::SentEvent;
pub(crate) use jobs::{
    Decrypted, JobFigures, JobPayment, JobRow, ROW_BYTES_MAX, SOURCE_BYTES_MAX, Trace, UnfinishedRow,
    end_unreadable, figures_of, has_job, history, history_of, job, job_by_id, last_seq, received_since,
    unfinished_jobs,
};
pub use ledger::{Account, Reason, RecipientKey, Transfer};
pub(crate) use ledger::{
    balance, credits, has_debts, last_transfer, prune_transfers, transfers, transfers_of_job,
};
pub(crate) use log::{last_line, lines, put_line};
pub(crate) use members::{has_made_member, is_member, put_member};
pub(crate) use meta::{get as get_meta, put as put_meta};
pub(crate) use outbox::{OutboxRow, delete_outbox, is_in_outbox, outbox_page, put_outbox};
pub(crate) use prune::prune_jobs;
pub(crate) use purchases::{
    PurchaseRow, PurchaseState, open_purchase, prune_purchases, purchase, put_purchase, spend_purchase,
};
pub(crate) use refunds::{
    RefundRow, RefundState, open_refunds, prune_refunds, refund, refunded_since, refunds_of, shared_since,
};
pub use sessions::SessionMessage;
pub(crate) use sessions::{Session, all_sessions, evict_sessions, session, sweep_sessions};
pub(crate) use unpaid::{UnpaidResults, add_unpaid_results, prune_unpaid_results, unpaid_results};
pub(crate) use versions::{VersionRow, put_version, version, version_rows};
pub(crate) use withheld::{Withheld, withheld};
pub(crate) use zaps::{ZapRow, ZapState, claimed_zaps, prune_zaps, receipt_of_zap, waiting_receipts};

use relay_engine::sql::column::int;
use relay_engine::sql::{SqlConn, SqlValue, StoreError};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The schema version that this version writes. Another one is refused.
const SCHEMA: u64 = 1;

const CREATE: [&str; 9] = [
    "CREATE TABLE IF NOT EXISTS agent_meta (name BLOB PRIMARY KEY, value BLOB NOT NULL) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS agent_version (version INTEGER PRIMARY KEY, deployed_at INTEGER NOT NULL, \
     deployed_by BLOB NOT NULL, manifest BLOB NOT NULL)",
    "CREATE TABLE IF NOT EXISTS agent_job (seq INTEGER PRIMARY KEY, id BLOB NOT NULL UNIQUE, \
     customer BLOB NOT NULL, kind INTEGER NOT NULL, state INTEGER NOT NULL, received_at INTEGER NOT NULL, \
     finished_at INTEGER NOT NULL, wake_at INTEGER NOT NULL, version INTEGER NOT NULL, attempts INTEGER NOT NULL, \
     created_at_max INTEGER NOT NULL, answer INTEGER NOT NULL, cause BLOB NOT NULL, source BLOB NOT NULL, \
     inputs BLOB NOT NULL, trace BLOB NOT NULL)",
    "CREATE INDEX IF NOT EXISTS agent_job_open ON agent_job (seq) WHERE state < 4",
    INDEX_OF_CUSTOMERS,
    "CREATE TABLE IF NOT EXISTS agent_outbox (row INTEGER PRIMARY KEY, relays BLOB NOT NULL, \
     events BLOB NOT NULL)",
    "CREATE TABLE IF NOT EXISTS agent_session (customer BLOB PRIMARY KEY, updated_at INTEGER NOT NULL, \
     messages BLOB NOT NULL) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS agent_cancelled (id BLOB NOT NULL, author BLOB NOT NULL, \
     at INTEGER NOT NULL, PRIMARY KEY (id, author)) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS agent_log (slot INTEGER PRIMARY KEY, number INTEGER NOT NULL, \
     at INTEGER NOT NULL, job BLOB NOT NULL, message BLOB NOT NULL)",
];

/// What paid jobs need. Databases of earlier versions have none of it.
const CREATE_PAYMENTS: [&str; 16] = [
    "CREATE TABLE IF NOT EXISTS agent_account (account BLOB PRIMARY KEY, msat INTEGER NOT NULL) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS agent_ledger (seq INTEGER PRIMARY KEY, at INTEGER NOT NULL, debit BLOB NOT NULL, \
     credit BLOB NOT NULL, msat INTEGER NOT NULL, reason BLOB NOT NULL, job BLOB NOT NULL)",
    "CREATE TABLE IF NOT EXISTS agent_invoice (hash BLOB PRIMARY KEY, job BLOB NOT NULL, customer BLOB NOT NULL, \
     state INTEGER NOT NULL, msat INTEGER NOT NULL, made_at INTEGER NOT NULL, expires_at INTEGER NOT NULL, \
     received INTEGER NOT NULL, claimed_at INTEGER NOT NULL DEFAULT 0, wallet BLOB NOT NULL DEFAULT x'', \
     hold BLOB NOT NULL DEFAULT x'') WITHOUT ROWID",
    "CREATE INDEX IF NOT EXISTS agent_invoice_open ON agent_invoice (made_at) WHERE state = 0",
    "CREATE TABLE IF NOT EXISTS agent_refund (hash BLOB PRIMARY KEY, customer BLOB NOT NULL, state INTEGER NOT NULL, \
     msat INTEGER NOT NULL, reserve INTEGER NOT NULL, fees INTEGER NOT NULL, invoice BLOB NOT NULL, \
     expires_at INTEGER NOT NULL, made_at INTEGER NOT NULL, changed_at INTEGER NOT NULL, wallet BLOB NOT NULL) \
     WITHOUT ROWID",
    "CREATE INDEX IF NOT EXISTS agent_refund_open ON agent_refund (made_at) WHERE state < 2",
    "CREATE INDEX IF NOT EXISTS agent_refund_customer ON agent_refund (customer, made_at)",
    "CREATE TABLE IF NOT EXISTS agent_quota (customer BLOB PRIMARY KEY, day INTEGER NOT NULL, used INTEGER NOT NULL) \
     WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS agent_withheld (seq INTEGER PRIMARY KEY, content BLOB NOT NULL, said BLOB NOT NULL)",
    "CREATE TABLE IF NOT EXISTS agent_unpaid (customer BLOB PRIMARY KEY, open INTEGER NOT NULL, lapsed INTEGER NOT NULL, \
     at INTEGER NOT NULL) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS agent_member (pubkey BLOB PRIMARY KEY, job BLOB NOT NULL, at INTEGER NOT NULL) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS agent_zap (hash BLOB PRIMARY KEY, receipt BLOB NOT NULL, payer BLOB NOT NULL, event BLOB NOT NULL, \
     msat INTEGER NOT NULL, state INTEGER NOT NULL, at INTEGER NOT NULL) WITHOUT ROWID",
    "CREATE INDEX IF NOT EXISTS agent_zap_claimed ON agent_zap (at) WHERE state = 0",
    "CREATE TABLE IF NOT EXISTS agent_receipt (id BLOB PRIMARY KEY, receipt BLOB NOT NULL) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS agent_purchase (hash BLOB PRIMARY KEY, job BLOB NOT NULL, purchase BLOB NOT NULL, \
     msat INTEGER NOT NULL, invoice BLOB NOT NULL, expires_at INTEGER NOT NULL, spent_at INTEGER NOT NULL) WITHOUT ROWID",
    "CREATE INDEX IF NOT EXISTS agent_purchase_open ON agent_purchase (purchase, expires_at)",
];

/// Columns of invoices that databases of earlier versions do not have: the last one, or all.
const ADD_COLUMNS: [&str; 3] = [
    "ALTER TABLE agent_invoice ADD COLUMN claimed_at INTEGER NOT NULL DEFAULT 0",
    "ALTER TABLE agent_invoice ADD COLUMN wallet BLOB NOT NULL DEFAULT x''",
    "ALTER TABLE agent_invoice ADD COLUMN hold BLOB NOT NULL DEFAULT x''",
];

/// A customer's history is read, and forgotten, without that of others. Databases of earlier versions have no such index.
const INDEX_OF_CUSTOMERS: &str = "CREATE INDEX IF NOT EXISTS agent_job_customer ON agent_job (customer, seq)";

/// Makes the tables of an empty database, or checks those that there are.
pub(crate) fn open(conn: &impl SqlConn) -> Result<(), StoreError> {
    let names = "SELECT count(*), coalesce(sum(name = 'agent_meta'), 0), \
                 coalesce(sum(name = 'agent_invoice' AND sql NOT LIKE '%claimed_at%'), 0), \
                 coalesce(sum(name = 'agent_invoice' AND sql NOT LIKE '%hold BLOB%'), 0) FROM sqlite_master \
                 WHERE name IN ('agent_meta', 'agent_job_customer', 'agent_quota', 'agent_invoice', 'agent_refund', \
                 'agent_withheld', 'agent_unpaid', 'agent_member', 'agent_zap', 'agent_purchase')";
    let (mut found, mut has_all, mut columns) = (false, false, &ADD_COLUMNS[..0]);
    conn.query(names, &[], &mut |row| {
        found = matches!(row.get(1), Some(SqlValue::Int(1..)));
        columns = match (int(row, 2)?, int(row, 3)?) {
            (1.., _) => &ADD_COLUMNS[..],
            (0, 1..) => &ADD_COLUMNS[2..],
            (0, 0) => &[],
        };
        has_all = int(row, 0)? > 9 && columns.is_empty();
        Ok(())
    })?;
    if found {
        let schema: Option<u64> = get_meta(conn, "schema")?;
        return match schema {
            Some(SCHEMA) if has_all => Ok(()),
            Some(SCHEMA) => {
                // On a full disk it works without.
                let _ = conn.exec(INDEX_OF_CUSTOMERS, &[]);
                let all = || CREATE_PAYMENTS.iter().chain(columns);
                conn.transaction(&mut || all().try_for_each(|sql| conn.exec(sql, &[])))
            }
            other => Err(StoreError::Corrupt(format!(
                "the database has schema version {}; this version of the relay reads {SCHEMA}",
                other.unwrap_or_default()
            ))),
        };
    }
    let mut batch = Batch::default();
    put_meta(&mut batch, "schema", &SCHEMA);
    conn.transaction(&mut || {
        CREATE.iter().chain(&CREATE_PAYMENTS).try_for_each(|sql| conn.exec(sql, &[]))?;
        batch.run(conn)
    })
}

/// What was read, `None` if it is corrupt: reading it again would not help, and everything else must go on.
pub(crate) fn unless_corrupt<T>(read: Result<T, StoreError>) -> Result<Option<T>, StoreError> {
    match read {
        Ok(found) => Ok(Some(found)),
        Err(StoreError::Corrupt(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

fn corrupt(what: &str) -> StoreError {
    StoreError::Corrupt(what.to_owned())
}

fn json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, StoreError> {
    serde_json::from_slice(bytes).map_err(|error| StoreError::Corrupt(format!("JSON: {error}")))
}

/// Our own types are written; none of them can fail.
fn to_json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use relay_engine::types::PubKey;

    use super::*;
    use crate::testing::Sqlite;

    /// A customer who asks reads no other customer's rows.
    #[test]
    fn what_concerns_one_customer_is_found_by_an_index() {
        let conn = Sqlite::new();
        open(&conn).unwrap();
        // A database of an earlier version.
        conn.exec("DROP INDEX agent_job_customer", &[]).unwrap();
        conn.exec("DROP TABLE agent_quota", &[]).unwrap();
        conn.exec("DROP TABLE agent_refund", &[]).unwrap();
        conn.exec("DROP TABLE agent_withheld", &[]).unwrap();
        conn.exec("DROP TABLE agent_unpaid", &[]).unwrap();
        conn.exec("DROP TABLE agent_member", &[]).unwrap();
        conn.exec("DROP TABLE agent_zap", &[]).unwrap();
        conn.exec("DROP TABLE agent_purchase", &[]).unwrap();
        for columns in [&["claimed_at", "wallet", "hold"][..], &["hold"]] {
            for column in columns {
                conn.exec(&format!("ALTER TABLE agent_invoice DROP COLUMN {column}"), &[]).unwrap();
            }
            open(&conn).unwrap();
            open(&conn).unwrap();
            open_invoices(&conn).unwrap();
        }
        assert_eq!(withheld(&conn, &Batch::default(), 1), Ok(None));
        assert_eq!(receipt_of_zap(&conn, &Batch::default(), &[1; 32]), Ok(None));
        assert_eq!(is_member(&conn, &Batch::default(), &PubKey([1; 32])), Ok(false));
        assert!(unpaid_results(&conn, &Batch::default(), &PubKey([1; 32])).is_ok());
        assert_eq!(open_purchase(&conn, "upload", 0), Ok(None));
        for sql in [forget::FORGET_JOBS, jobs::HISTORY_OF, jobs::FIGURES_OF] {
            let plan = conn.plan(sql);
            assert!(plan.contains("USING INDEX agent_job_customer"), "{sql}: {plan}");
            assert!(!plan.contains("SCAN"), "{sql}: {plan}");
        }
    }
}
