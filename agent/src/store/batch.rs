//! Writes that belong together. They are collected while a call is carried out, and stored in one transaction at its end; if
//! that fails they are kept, and later writes join them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use relay_engine::sql::{Param, SqlConn, StoreError, exec};
use relay_engine::types::{EventId, PubKey};

use super::invoices::{InvoiceRow, write_invoice};
use super::jobs::{JobRow, write_job};
use super::ledger::{Transfer, write_transfer};
use super::refunds::{RefundRow, write_refund};
use super::sessions::{Session, write_session};
use super::unpaid::UnpaidResults;
use super::withheld::{Withheld, write_withheld};
use super::zaps::{ZapRow, write_receipt, write_zap};

/// See the module. Of a job, its withheld result, an invoice, a refund, a zap and a session only the last write counts.
#[derive(Clone, Debug, Default)]
pub(crate) struct Batch {
    statements: Vec<(&'static str, Vec<Param>)>,
    /// After jobs and sessions.
    last: Vec<(&'static str, Vec<Param>)>,
    /// By sequence number.
    jobs: BTreeMap<u64, JobRow>,
    ids: HashMap<EventId, u64>,
    /// By the numbers of their jobs. `None`: it is deleted.
    withheld: BTreeMap<u64, Option<Withheld>>,
    /// `None`: it is forgotten.
    sessions: BTreeMap<PubKey, Option<Session>>,
    cancelled: HashSet<(EventId, PubKey)>,
    /// Keys that are made members of the relay, and by which jobs.
    members: HashMap<PubKey, EventId>,
    /// In their order.
    transfers: Vec<Transfer>,
    /// By payment hash.
    invoices: BTreeMap<[u8; 32], InvoiceRow>,
    /// By payment hash.
    refunds: BTreeMap<[u8; 32], RefundRow>,
    /// By payment hash.
    zaps: BTreeMap<[u8; 32], ZapRow>,
    /// The JSON of receipts of zaps that cannot be judged yet. `None`: it has been judged.
    receipts: BTreeMap<EventId, Option<Arc<[u8]>>>,
    /// Free jobs that customers have had on a day.
    free_jobs: HashMap<(PubKey, u64), u32>,
    /// How many more results of customers are not paid, in their order.
    unpaid_results: HashMap<PubKey, Vec<UnpaidResults>>,
}

impl Batch {
    /// Whether there is nothing to write.
    pub(crate) fn is_empty(&self) -> bool {
        self.statements.is_empty()
            && self.last.is_empty()
            && self.jobs.is_empty()
            && self.withheld.is_empty()
            && self.sessions.is_empty()
            && self.transfers.is_empty()
            && self.invoices.is_empty()
            && self.refunds.is_empty()
            && self.zaps.is_empty()
            && self.receipts.is_empty()
    }

    /// Adds a statement.
    pub(crate) fn push(&mut self, sql: &'static str, params: Vec<Param>) {
        self.statements.push((sql, params));
    }

    /// Adds a statement that sees the jobs and sessions of the batch.
    pub(crate) fn push_last(&mut self, sql: &'static str, params: Vec<Param>) {
        self.last.push((sql, params));
    }

    /// Adds a job, or its present state.
    pub(crate) fn put_job(&mut self, row: JobRow) {
        self.ids.insert(row.id, row.seq);
        self.jobs.insert(row.seq, row);
    }

    /// A job that is not written yet.
    pub(crate) fn job(&self, seq: u64) -> Option<&JobRow> {
        self.jobs.get(&seq)
    }

    /// A job that is not written yet, by its id.
    pub(crate) fn job_by_id(&self, id: &EventId) -> Option<&JobRow> {
        self.ids.get(id).and_then(|seq| self.job(*seq))
    }

    /// Adds a result that waits for its payment; `None` deletes it.
    pub(crate) fn put_withheld(&mut self, seq: u64, withheld: Option<Withheld>) {
        self.withheld.insert(seq, withheld);
    }

    /// What is not written yet of a result that waits for its payment. `Some(None)`: it will be deleted.
    pub(super) fn withheld(&self, seq: u64) -> Option<&Option<Withheld>> {
        self.withheld.get(&seq)
    }

    /// Adds an entry to the books.
    pub(crate) fn put_transfer(&mut self, transfer: Transfer) {
        self.transfers.push(transfer);
    }

    /// The entries that are not written yet.
    pub(crate) fn transfers(&self) -> &[Transfer] {
        &self.transfers
    }

    /// Adds an invoice, or its present state.
    pub(crate) fn put_invoice(&mut self, row: InvoiceRow) {
        self.invoices.insert(row.payment_hash, row);
    }

    /// Adds a refund, or its present state.
    pub(crate) fn put_refund(&mut self, row: RefundRow) {
        self.refunds.insert(row.payment_hash, row);
    }

    /// Adds a zap, or its present state.
    pub(crate) fn put_zap(&mut self, row: ZapRow) {
        self.zaps.insert(row.payment_hash, row);
    }

    /// The receipt of a zap that is not written yet.
    pub(super) fn receipt_of_zap(&self, payment_hash: &[u8; 32]) -> Option<EventId> {
        self.zaps.get(payment_hash).map(|row| row.receipt)
    }

    /// Adds the receipt of a zap, as JSON, that cannot be judged yet; `None` deletes it.
    pub(crate) fn put_receipt(&mut self, id: EventId, receipt: Option<Arc<[u8]>>) {
        self.receipts.insert(id, receipt);
    }

    /// Whether an invoice is not written yet.
    pub(super) fn has_invoice(&self, payment_hash: &[u8; 32]) -> bool {
        self.invoices.contains_key(payment_hash)
    }

    /// Notes how many free jobs a customer has had, which is written by its statement.
    pub(super) fn note_free_jobs(&mut self, customer: PubKey, day: u64, used: u32) {
        self.free_jobs.insert((customer, day), used);
    }

    /// Free jobs that a customer has had on a day, if that waits to be written.
    pub(super) fn free_jobs(&self, customer: &PubKey, day: u64) -> Option<u32> {
        self.free_jobs.get(&(*customer, day)).copied()
    }

    /// Notes how many more results of a customer are not paid, which is written by its statement.
    pub(super) fn note_unpaid_results(&mut self, customer: PubKey, more: UnpaidResults) {
        self.unpaid_results.entry(customer).or_default().push(more);
    }

    /// How many more results of a customer are not paid, as far as that waits to be written.
    pub(super) fn unpaid_results(&self, customer: &PubKey) -> &[UnpaidResults] {
        self.unpaid_results.get(customer).map_or(&[][..], Vec::as_slice)
    }

    /// Notes a new member of the relay, which is written by its statement.
    pub(super) fn note_member(&mut self, key: PubKey, job: EventId) {
        self.members.insert(key, job);
    }

    /// Keys whose membership waits to be written, and the jobs that made it.
    pub(super) fn members(&self) -> &HashMap<PubKey, EventId> {
        &self.members
    }

    /// Notes a cancellation, which is written by its statements.
    pub(super) fn note_cancelled(&mut self, id: EventId, author: PubKey) {
        self.cancelled.insert((id, author));
    }

    /// Whether a cancellation waits to be written.
    pub(crate) fn is_cancelled(&self, id: &EventId, author: &PubKey) -> bool {
        self.cancelled.contains(&(*id, *author))
    }

    /// Adds what was said with a customer, as much of it as fits into a row, the newest first; `None` forgets it.
    pub(crate) fn put_session(&mut self, customer: PubKey, mut session: Option<Session>) {
        if let Some(session) = &mut session {
            session.fit();
        }
        self.sessions.insert(customer, session);
    }

    /// What is not written yet of a session. `Some(None)`: it will be forgotten.
    pub(crate) fn session(&self, customer: &PubKey) -> Option<&Option<Session>> {
        self.sessions.get(customer)
    }

    /// Takes back the jobs, their results and the sessions that are not written yet.
    pub(crate) fn clear_rows(&mut self) {
        self.jobs.clear();
        self.withheld.clear();
        self.ids.clear();
        self.sessions.clear();
    }

    /// What of it is about money.
    pub(crate) fn money(&self) -> Batch {
        let (transfers, invoices, refunds) =
            (self.transfers.clone(), self.invoices.clone(), self.refunds.clone());
        let (zaps, receipts) = (self.zaps.clone(), self.receipts.clone());
        Batch { transfers, invoices, refunds, zaps, receipts, ..Batch::default() }
    }

    /// Writes everything, in a transaction. It may be repeated if that is rolled back.
    pub(crate) fn run(&self, conn: &impl SqlConn) -> Result<(), StoreError> {
        for (sql, params) in &self.statements {
            exec(conn, sql, params)?;
        }
        self.jobs.values().try_for_each(|row| write_job(conn, row))?;
        self.withheld.iter().try_for_each(|(seq, row)| write_withheld(conn, *seq, row.as_ref()))?;
        self.transfers.iter().try_for_each(|transfer| write_transfer(conn, transfer))?;
        self.invoices.values().try_for_each(|row| write_invoice(conn, row))?;
        self.refunds.values().try_for_each(|row| write_refund(conn, row))?;
        self.zaps.values().try_for_each(|row| write_zap(conn, row))?;
        self.receipts.iter().try_for_each(|(id, receipt)| write_receipt(conn, id, receipt.as_deref()))?;
        for (customer, session) in &self.sessions {
            write_session(conn, customer, session.as_ref())?;
        }
        self.last.iter().try_for_each(|(sql, params)| exec(conn, sql, params))
    }

    /// Writes everything in one transaction, and is empty then. On an error it keeps everything.
    pub(crate) fn commit(&mut self, conn: &impl SqlConn) -> Result<(), StoreError> {
        if !self.is_empty() {
            conn.transaction(&mut || self.run(conn))?;
            *self = Batch::default();
        }
        Ok(())
    }
}
