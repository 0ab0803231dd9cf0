//! Entries in the books: credit, what jobs reserve of it, and where that goes when they end.

use std::collections::BTreeMap;

use relay_engine::sql::{SqlConn, StoreError};
use relay_engine::types::{EventId, Now, PubKey};

use super::Agent;
use crate::job::JobState;
use crate::store::{self, Account, JobRow, Reason, RecipientKey, Transfer, UnfinishedRow};

impl<C: SqlConn> Agent<C> {
    /// What a customer has paid and not spent, in millisatoshis.
    ///
    /// # Errors
    /// If the store fails.
    pub fn credit_of(&self, customer: &PubKey) -> Result<u64, StoreError> {
        let balance = store::balance(&self.conn, &self.batch, &Account::Customer(*customer))?;
        Ok(balance.min(0).unsigned_abs())
    }

    /// The balance of an account: debits less credits, in millisatoshis.
    ///
    /// # Errors
    /// If the store fails.
    pub fn balance(&self, account: &Account) -> Result<i64, StoreError> {
        store::balance(&self.conn, &self.batch, account)
    }

    /// At most `limit` entries of the books after number `after`, oldest first.
    ///
    /// # Errors
    /// If the store fails.
    pub fn transfers(&self, after: u64, limit: usize) -> Result<Vec<Transfer>, StoreError> {
        store::transfers(&self.conn, after, limit)
    }

    /// The customers that have credit, and how much, in millisatoshis.
    ///
    /// # Errors
    /// If the store fails.
    pub fn credits(&self) -> Result<Vec<(PubKey, u64)>, StoreError> {
        store::credits(&self.conn)
    }

    /// Adds an entry to the books.
    pub(super) fn transfer(
        &mut self,
        now: Now,
        (debit, credit): (Account, Account),
        msat: u64,
        reason: Reason,
        job: Option<EventId>,
    ) {
        if msat > 0 {
            self.payments.last_transfer += 1;
            let seq = self.payments.last_transfer;
            self.batch.put_transfer(Transfer { seq, at: now.millis(), debit, credit, msat, reason, job });
        }
    }

    /// Reserves so much of a customer's credit for a job.
    pub(super) fn charge(&mut self, now: Now, row: &mut JobRow, msat: u64) {
        let Some(payment) = &mut row.trace.payment else { return };
        payment.paid += msat;
        let accounts = (Account::Customer(row.customer), Account::Reserved);
        self.transfer(now, accounts, msat, Reason::Charge, Some(row.id));
    }

    /// A job ends in the state of its row: what was reserved for it is income if it has a result, or if its customer has cancelled it after paid
    /// work had begun; else it is credit again.
    pub(super) fn close_account(&mut self, now: Now, row: &mut JobRow) {
        self.unpaid_work_ends(now, row);
        let Some(payment) = row.trace.payment.as_mut().filter(|payment| payment.paid > 0) else { return };
        let earned = match row.state {
            JobState::Responding => Some(Reason::Delivery),
            // A part of the price does not pay for work that is to be paid afterwards.
            JobState::Cancelled if row.attempts > 0 && !(payment.is_postpaid || payment.is_hold) => {
                Some(Reason::Cancellation)
            }
            _ => None,
        };
        if let Some(reason) = earned {
            let msat = payment.paid;
            return self.earn(now, msat, reason, &row.id);
        }
        let msat = std::mem::take(&mut payment.paid);
        let accounts = (Account::Reserved, Account::Customer(row.customer));
        self.transfer(now, accounts, msat, Reason::Return, Some(row.id));
    }

    /// What was reserved for a job is income, of which recipients have their shares (`payment.splits`).
    pub(super) fn earn(&mut self, now: Now, msat: u64, reason: Reason, job: &EventId) {
        self.transfer(now, (Account::Reserved, Account::Income), msat, reason, Some(*job));
        self.share_income(now, msat, job);
    }

    /// An unreadable job has ended: what the books have reserved for it is credit again.
    pub(super) fn return_reserved(&mut self, now: Now, open: &UnfinishedRow) -> Result<(), StoreError> {
        let transfers = store::transfers_of_job(&self.conn, &self.batch, &open.id)?;
        let balance: i64 = transfers.iter().map(|transfer| transfer.change(&Account::Reserved)).sum();
        let accounts = (Account::Reserved, Account::Customer(open.customer));
        self.transfer(now, accounts, balance.min(0).unsigned_abs(), Reason::Return, Some(open.id));
        Ok(())
    }

    /// The result of a job could not be delivered: its income is credit of the customer again. `transfers` are its entries in the books, if anybody has,
    /// or had, a share, or if the history has forgotten what the job has cost.
    pub(super) fn give_back(&mut self, now: Now, row: &mut JobRow, transfers: &[Transfer]) {
        let Some(payment) = row.trace.payment.as_mut() else {
            // The history may have forgotten what it has cost.
            if row.source.is_empty() {
                self.give_back_by_books(now, &row.id, transfers);
            }
            return;
        };
        let msat = std::mem::take(&mut payment.paid);
        self.take_shares_back(now, &row.id, transfers);
        let accounts = (Account::Income, Account::Customer(row.customer));
        self.transfer(now, accounts, msat, Reason::Return, Some(row.id));
    }

    /// [`Agent::give_back`] of a job of which only the books know.
    pub(super) fn give_back_by_books(&mut self, now: Now, job: &EventId, transfers: &[Transfer]) {
        let customer = transfers.iter().find_map(|transfer| match (transfer.reason, transfer.debit) {
            (Reason::Charge, Account::Customer(customer)) => Some(customer),
            _ => None,
        });
        let Some(customer) = customer else { return };
        let shares = self.take_shares_back(now, job, transfers);
        let income: i64 = transfers.iter().map(|transfer| transfer.change(&Account::Income)).sum();
        let msat = income.min(0).unsigned_abs() + shares;
        let accounts = (Account::Income, Account::Customer(customer));
        self.transfer(now, accounts, msat, Reason::Return, Some(*job));
    }

    /// Takes back the recipients' shares of a job's income, by the job's entries in the books. Returns their sum.
    fn take_shares_back(&mut self, now: Now, job: &EventId, transfers: &[Transfer]) -> u64 {
        let mut shares = BTreeMap::<RecipientKey, i64>::new();
        for transfer in transfers {
            for account in [transfer.debit, transfer.credit] {
                if let Account::Recipient(recipient) = account {
                    *shares.entry(recipient).or_default() += transfer.change(&account);
                }
            }
        }
        let mut all = 0;
        for (recipient, balance) in shares {
            let msat = balance.min(0).unsigned_abs();
            all += msat;
            let accounts = (Account::Recipient(recipient), Account::Income);
            self.transfer(now, accounts, msat, Reason::Return, Some(*job));
        }
        all
    }

    /// Deletes old invoices, refunds, counts of unpaid results, and entries of the books.
    pub(super) fn prune_payments(&mut self, now: Now) {
        store::prune_invoices(&mut self.batch, now.seconds());
        store::prune_refunds(&mut self.batch, now.millis());
        store::prune_zaps(&mut self.batch, now.millis());
        store::prune_unpaid_results(&mut self.batch, now.millis());
        store::prune_transfers(&mut self.batch, self.payments.last_transfer);
    }
}
