//! Paid jobs: their price, when they begin, and where the money goes. With `prepay` a job begins when it is paid, with `hold` when its
//! payment is held; with `postpay` and `sample` its result is published when it is paid. A payment for a job without a result, and one that comes too late or is too large, is the customer's credit, which is
//! spent first.
//!
//! A change of an invoice, its job and the books is stored in one transaction.

use std::collections::BTreeMap;

use relay_engine::sql::{SqlConn, StoreError};
use relay_engine::types::{EventId, Now, PubKey};

use super::invoices::WatchedInvoice;
use super::jobs::{Active, Stage};
use super::purchases::price_of;
use super::refunds::{self, OpenRefund, PaymentHash};
use super::splits::Splits;
use super::wallet::Wallet;
use super::zaps::Zaps;
use super::{Agent, Deployed};
use crate::job::{JobEvent, JobRequest, JobState};
use crate::manifest::PaymentPolicy;
use crate::payment::{self, Quote};
use crate::store::{self, JobPayment, UnfinishedRow};

/// Milliseconds in which the wallet has to make an invoice for a job; and for a result, which is worth waiting for.
const INVOICE_MILLIS_MAX: u64 = 60_000;
const RESULT_INVOICE_MILLIS_MAX: u64 = 600_000;
/// Most unpaid invoices, also those still to be made, of one customer and of all.
const UNPAID_MAX: usize = 8;
const UNPAID_OF_ALL_MAX: usize = 1_000;
/// At most `limits.queue` divided by this many jobs may wait for their payment.
const AWAITING_PART: usize = 4;

/// What is in memory about payments.
pub(super) struct Payments {
    /// The present one first.
    pub(super) wallets: Vec<Wallet>,
    /// The error, if none of the wallets has made some of the open invoices.
    pub(super) wallet_error: Option<String>,
    /// Jobs for which the wallet has still to make an invoice, oldest first.
    pub(super) uninvoiced: BTreeMap<u64, EventId>,
    /// Invoices that are looked up, by job; also paid ones until that is stored.
    pub(super) invoices: BTreeMap<EventId, WatchedInvoice>,
    /// Refunds, and payouts of shares, under way; also ended ones until that is stored.
    pub(super) refunds: BTreeMap<PaymentHash, OpenRefund>,
    pub(super) zaps: Zaps,
    pub(super) splits: Splits,
    /// The number of the newest entry in the books.
    pub(super) last_transfer: u64,
}

impl Payments {
    /// What the database has.
    pub(super) fn open(now: Now, conn: &impl SqlConn) -> Result<Self, StoreError> {
        let rows = store::open_invoices(conn)?.into_iter();
        let invoices = rows.map(|row| (row.job, WatchedInvoice::open(now, row))).collect();
        let last_transfer = store::last_transfer(conn)?;
        let refunds = refunds::open_refunds(conn)?;
        let zaps = Zaps::open(conn)?;
        let splits = Splits::open(conn)?;
        let (wallets, uninvoiced) = (Vec::new(), BTreeMap::new());
        Ok(Payments {
            wallets,
            wallet_error: None,
            uninvoiced,
            invoices,
            refunds,
            zaps,
            splits,
            last_transfer,
        })
    }

    /// The batch is stored.
    pub(super) fn stored(&mut self) {
        self.invoices.retain(|_, watched| watched.is_open());
        self.refunds.retain(|_, open| open.row.state.is_open());
    }
}

/// Whether a request begins at once.
pub(super) enum Billed {
    /// It begins.
    Begins(Box<Active>),
    /// It waits for its payment.
    Waits,
}

impl<C: SqlConn> Agent<C> {
    /// The price of a request, in millisatoshis.
    fn price(&self, request: &JobRequest) -> u64 {
        let handlers = self.deployed.iter().flat_map(|deployed| &deployed.manifest.handlers);
        let mut of_kind = handlers.filter(|handler| handler.kind == request.kind);
        of_kind.next().map_or(0, |handler| price_of(handler, request))
    }

    /// Whether a request is refused because of its price: the cause and a message. A job that needs no invoice is not refused.
    pub(super) fn admit_price(
        &self,
        now: Now,
        request: &JobRequest,
    ) -> Result<Result<(), (&'static str, String)>, StoreError> {
        let Some(Deployed { manifest, .. }) = &self.deployed else { return Ok(Ok(())) };
        let (price, customer) = (self.price(request), &request.customer);
        if price == 0 {
            return Ok(Ok(()));
        }
        if let Some(bid) = request.bid_msat.filter(|bid| *bid < price) {
            return Ok(Err(("bid", format!("the price is {price} msat, and the bid is {bid} msat"))));
        }
        if self.free_jobs_left(now, customer)? > 0 || self.credit_of(customer)? >= price {
            return Ok(Ok(()));
        }
        let (all, own) = self.unpaid(now, customer);
        if own >= UNPAID_MAX && !self.may_pay_later(customer)? {
            let message = format!("{UNPAID_MAX} of your jobs are not paid yet; pay one, or try again later");
            return Ok(Err(("per_customer", message)));
        }
        let awaiting = self.jobs.iter().filter(|open| open.state.awaits_payment()).count();
        if awaiting >= (manifest.limits.queue / AWAITING_PART).max(1) || all >= UNPAID_OF_ALL_MAX {
            let message = "too many jobs wait for their payment; try again later";
            return Ok(Err(("queue_full", message.to_owned())));
        }
        Ok(Ok(()))
    }

    /// Unpaid invoices, also those still to be made: of all customers, and of one. Those of ended jobs count, too, or a customer could get ever more
    /// of them by cancelling; those of jobs that were paid by a zap do not.
    fn unpaid(&self, now: Now, customer: &PubKey) -> (usize, usize) {
        let wanted = self.payments.uninvoiced.values().filter_map(|job| self.jobs.get(job));
        let open = self.payments.invoices.values().filter(|watched| watched.is_open() && !watched.was_held());
        let payable =
            open.filter(|watched| now.millis() < watched.times().expires_at && !watched.is_superseded);
        let customers = wanted.map(|open| open.customer).chain(payable.map(|watched| watched.row.customer));
        customers.fold((0, 0), |(all, own), of| (all + 1, own + usize::from(of == *customer)))
    }

    /// Why a customer is refused: with policy `free`, all jobs of today (UTC) are used up.
    pub(super) fn admit_quota(&self, now: Now, customer: &PubKey) -> Result<Option<String>, StoreError> {
        let Some(Deployed { manifest, .. }) = &self.deployed else { return Ok(None) };
        let quota = manifest.payment.free_quota;
        if manifest.payment.policy != PaymentPolicy::Free || quota == 0 {
            return Ok(None);
        }
        let left = self.free_jobs_left(now, customer)?;
        Ok((left == 0)
            .then(|| format!("your {quota} jobs of today are used up; try again after midnight UTC")))
    }

    /// Free jobs of today that a customer has left.
    fn free_jobs_left(&self, now: Now, customer: &PubKey) -> Result<u32, StoreError> {
        let quota = self.deployed.as_ref().map_or(0, |deployed| deployed.manifest.payment.free_quota);
        if quota == 0 {
            return Ok(0);
        }
        let used = store::free_jobs(&self.conn, &self.batch, customer, now.seconds() / 86_400)?;
        Ok(quota.saturating_sub(used))
    }

    /// Uses one of a customer's free jobs of today, if there is one left.
    fn use_free_job(&mut self, now: Now, customer: &PubKey) -> Result<bool, StoreError> {
        let left = self.free_jobs_left(now, customer)?;
        if left > 0 {
            let day = now.seconds() / 86_400;
            let used = store::free_jobs(&self.conn, &self.batch, customer, day)?;
            store::put_free_jobs(&mut self.batch, customer, day, used + 1);
        }
        Ok(left > 0)
    }

    /// Charges an accepted request: it begins if it is free, or if its customer has credit or may pay later; else it waits for its payment.
    ///
    /// # Errors
    /// If the store fails; then nothing has changed.
    pub(super) fn bill(&mut self, now: Now, mut active: Active) -> Result<Billed, StoreError> {
        let (price, customer) = (self.price(&active.request), active.request.customer);
        // What is read first may fail.
        let credit = if price > 0 { self.credit_of(&customer)? } else { 0 };
        let policy = self.deployed.as_ref().map(|deployed| deployed.manifest.payment.policy);
        let counts = price > 0 || policy == Some(PaymentPolicy::Free);
        if counts && self.use_free_job(now, &customer)? {
            return Ok(Billed::Begins(Box::new(active)));
        }
        let invoiced = match payment::quote(price, credit) {
            Quote::Free => return Ok(Billed::Begins(Box::new(active))),
            Quote::Credit => 0,
            Quote::Invoice(msat) => msat,
        };
        let is_postpaid = invoiced > 0 && self.may_pay_later(&customer)?;
        let invoiced = if is_postpaid { 0 } else { invoiced };
        let is_hold = invoiced > 0 && policy == Some(PaymentPolicy::Hold);
        active.row.trace.payment = Some(JobPayment { price, paid: 0, invoiced, is_postpaid, is_hold });
        self.charge(now, &mut active.row, price.min(credit));
        if is_postpaid {
            self.unpaid_work_begins(now, &customer);
        }
        if invoiced == 0 {
            return Ok(Billed::Begins(Box::new(active)));
        }
        active.stage = Stage::Waiting;
        active.advance(JobEvent::AwaitPayment);
        self.queue_invoice(now, active);
        Ok(Billed::Waits)
    }

    /// Has the wallet make an invoice for a job.
    pub(super) fn queue_invoice(&mut self, now: Now, mut active: Active) {
        active.row.wake_at = now.millis()
            + match active.row.state {
                JobState::Withheld => RESULT_INVOICE_MILLIS_MAX,
                _ => INVOICE_MILLIS_MAX,
            };
        self.save(&active);
        self.await_payment(&active);
        self.payments.uninvoiced.insert(active.row.seq, active.id());
    }

    /// Sets the timer of a job that waits: the end of its time for payment.
    pub(super) fn await_payment(&mut self, active: &Active) {
        self.jobs.put(active.unfinished_row());
        self.jobs.set_timer(active.id(), Some(active.row.wake_at));
    }

    /// A job that waited for its payment when the agent was closed.
    pub(super) fn resume_awaiting(&mut self, open: UnfinishedRow) {
        self.jobs.put(open);
        self.jobs.set_timer(open.id, Some(open.wake_at));
        if !self.payments.invoices.contains_key(&open.id) {
            self.payments.uninvoiced.insert(open.seq, open.id);
        }
    }

    /// Whether a job waits for its payment.
    pub(super) fn is_awaiting(&self, job: &EventId) -> bool {
        self.jobs.get(job).is_some_and(|open| open.state.awaits_payment())
    }

    /// A job that waits for its payment, read from the database; `None` if it does not wait any more. If it cannot be read, the job fails.
    pub(super) fn awaiting(&mut self, now: Now, job: &EventId) -> Result<Option<Active>, StoreError> {
        let open = self.jobs.get(job).filter(|open| open.state.awaits_payment());
        let Some(open) = open.copied() else { return Ok(None) };
        if self.event_signer().is_none() {
            return Err(StoreError::Failed("the agent has no key".to_owned()));
        }
        let Some(row) = self.read_or_end(now, &open)? else { return Ok(None) };
        match self.load(row.clone()) {
            Ok(active) => Ok(Some(active)),
            Err(message) => {
                self.payments.uninvoiced.remove(&open.seq);
                self.unreadable(now, row, &message);
                Ok(None)
            }
        }
    }

    /// The invoice that a job needs: millisatoshis, the description, and whether it is a hold invoice. `None` if the job does not wait any more.
    pub(super) fn invoice_terms(
        &mut self,
        now: Now,
        job: &EventId,
    ) -> Result<Option<(u64, String, bool)>, StoreError> {
        let open = self.jobs.get(job).filter(|open| open.state.awaits_payment());
        let Some(open) = open.copied() else { return Ok(None) };
        let Some(row) = self.read_or_end(now, &open)? else { return Ok(None) };
        let name = self.deployed.as_ref().map_or("", |deployed| &deployed.manifest.name);
        let msat = row.trace.payment.map_or(0, |payment| payment.invoiced);
        // An invoice for a result that is there is no hold invoice.
        let is_hold = row.state == JobState::AwaitingPayment
            && row.trace.payment.is_some_and(|payment| payment.is_hold);
        Ok(Some((msat, format!("{name}: job {}", &job.to_string()[..16]), is_hold)))
    }

    /// The time of a job's payment may be over.
    pub(super) fn payment_timeout(&mut self, now: Now, open: UnfinishedRow) -> Result<(), StoreError> {
        if now.millis() < open.wake_at {
            self.jobs.set_timer(open.id, Some(open.wake_at));
            return Ok(());
        }
        let Some(active) = self.awaiting(now, &open.id)? else { return Ok(()) };
        let is_asked_for = self.payments.uninvoiced.remove(&open.seq).is_none();
        let (event, cause, message) = match (is_asked_for, open.state) {
            (true, JobState::Withheld) if self.is_held(&open.id) => (
                JobEvent::Fail,
                "wallet",
                "the payment could not be taken in time, and the result is dropped",
            ),
            (true, JobState::Withheld) => {
                (JobEvent::Expire, "payment_timeout", "the result was not paid in time, and is dropped")
            }
            (true, _) => (JobEvent::Expire, "payment_timeout", "the payment did not come in time"),
            // The wallet's fault, not the customer's.
            (false, state) => {
                let event = if state == JobState::Withheld { JobEvent::Fail } else { JobEvent::Expire };
                (event, "wallet", "this agent's wallet cannot be reached; try again later")
            }
        };
        self.fail(now, active, event, cause, message);
        Ok(())
    }
}
