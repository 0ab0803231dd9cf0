//! Paid jobs: what is asked for one, when it begins, and what becomes of the money. Nothing begins before it is paid; what came for a job that
//! has no result, too late, or too much of, is its customer's credit, and is spent first.
//!
//! What happens to an invoice, a job and the books is stored in one transaction.

use std::collections::BTreeMap;

use relay_engine::sql::{SqlConn, StoreError};
use relay_engine::types::{EventId, Now, PubKey};

use super::jobs::{Active, Stage};
use super::wallet::Wallet;
use super::{Agent, Deployed};
use crate::bolt11;
use crate::job::{InputKind, JobEvent, JobRequest, JobState};
use crate::manifest::PaymentPolicy;
use crate::nip47::{Claim, Transaction};
use crate::nip90::Feedback;
use crate::payment::{self, GRACE_MILLIS, INVOICE_SECONDS, InvoiceTimes, Quote};
use crate::store::{self, Account, InvoiceRow, InvoiceState, JobPayment, JobRow, Reason, Transfer};

/// Milliseconds in which the wallet has to make an invoice.
const INVOICE_MILLIS_MAX: u64 = 60_000;
/// Jobs of one customer that wait for a payment.
const AWAITING_MAX: usize = 8;
/// The part of the queue that jobs may take which wait for a payment: one of so many.
const AWAITING_PART: usize = 4;
/// Invoices that the wallet is asked for.
const WATCHED_MAX: usize = 2_000;
/// Milliseconds between two claims of a wallet that an invoice is paid, which it does not prove.
const UNPROVEN_MILLIS: u64 = 2_000;

/// What is in memory about payments.
pub(super) struct Payments {
    /// `None` without one.
    pub(super) wallet: Option<Wallet>,
    /// Jobs for which the wallet has still to make an invoice, oldest first.
    pub(super) wanted: BTreeMap<u64, EventId>,
    /// Invoices that the wallet is asked for, by job; also those that are paid, until that is stored.
    pub(super) invoices: BTreeMap<EventId, Watched>,
    /// The number of the newest entry in the books.
    last_transfer: u64,
}

/// An invoice that the wallet is asked for.
#[derive(Clone, Debug)]
pub(super) struct Watched {
    pub(super) row: InvoiceRow,
    /// When the wallet is asked, in milliseconds since 1970.
    pub(super) poll_at: u64,
    /// When the wallet first claimed that it is paid, without showing it.
    claimed_at: Option<u64>,
}

impl Watched {
    fn new(row: InvoiceRow, poll_at: u64) -> Self {
        Watched { row, poll_at, claimed_at: None }
    }

    pub(super) fn times(&self) -> InvoiceTimes {
        InvoiceTimes { made_at: self.row.made_at, expires_at: self.row.expires_at.saturating_mul(1_000) }
    }

    pub(super) fn is_open(&self) -> bool {
        self.row.state == InvoiceState::Open
    }
}

impl Payments {
    /// What the database has. All open invoices are asked for at once.
    pub(super) fn open(now: Now, conn: &impl SqlConn) -> Result<Self, StoreError> {
        let rows = store::open_invoices(conn)?.into_iter();
        let invoices = rows.map(|row| (row.job, Watched::new(row, now.millis()))).collect();
        let last_transfer = store::last_transfer(conn)?;
        Ok(Payments { wallet: None, wanted: BTreeMap::new(), invoices, last_transfer })
    }

    /// The batch is stored.
    pub(super) fn stored(&mut self) {
        self.invoices.retain(|_, watched| watched.is_open());
    }
}

/// What becomes of a request.
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
        of_kind.next().map_or(0, |handler| handler.price.msat())
    }

    /// Whether a request is refused because of its price: its cause, and a message.
    pub(super) fn admit_price(&self, request: &JobRequest) -> Result<(), (&'static str, String)> {
        let Some(Deployed { manifest, .. }) = &self.deployed else { return Ok(()) };
        let price = self.price(request);
        if price == 0 {
            return Ok(());
        }
        if let Some(bid) = request.bid_msat.filter(|bid| *bid < price) {
            return Err(("bid", format!("the price is {price} msat, and the bid is {bid} msat")));
        }
        let awaiting = self.jobs.iter().filter(|open| open.state == JobState::AwaitingPayment);
        let (all, own) = awaiting
            .fold((0, 0), |(all, own), open| (all + 1, own + usize::from(open.customer == request.customer)));
        if own >= AWAITING_MAX {
            let message = format!("{AWAITING_MAX} of your jobs wait for their payment; pay or cancel one");
            return Err(("per_customer", message));
        }
        if all >= (manifest.limits.queue / AWAITING_PART).max(1) {
            return Err(("queue_full", "too many jobs wait for their payment; try again later".to_owned()));
        }
        Ok(())
    }

    /// Whether a customer has had all the jobs of today that an agent without prices does.
    pub(super) fn admit_quota(&self, now: Now, customer: &PubKey) -> Result<Option<String>, StoreError> {
        let Some(Deployed { manifest, .. }) = &self.deployed else { return Ok(None) };
        let quota = manifest.payment.free_quota;
        if manifest.payment.policy != PaymentPolicy::Free || quota == 0 {
            return Ok(None);
        }
        let used = store::free_jobs(&self.conn, &self.batch, customer, now.seconds() / 86_400)?;
        Ok((used >= quota).then(|| format!("this agent does {quota} jobs of a customer a day")))
    }

    /// Uses one of a customer's free jobs of today, if there is one left.
    fn use_free_job(&mut self, now: Now, customer: &PubKey) -> Result<bool, StoreError> {
        let quota = self.deployed.as_ref().map_or(0, |deployed| deployed.manifest.payment.free_quota);
        if quota == 0 {
            return Ok(false);
        }
        let day = now.seconds() / 86_400;
        let used = store::free_jobs(&self.conn, &self.batch, customer, day)?;
        if used < quota {
            store::put_free_jobs(&mut self.batch, customer, day, used + 1);
        }
        Ok(used < quota)
    }

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

    /// Takes so much of a customer's credit for a job.
    fn charge(&mut self, now: Now, row: &mut JobRow, msat: u64) {
        let Some(payment) = &mut row.trace.payment else { return };
        payment.paid += msat;
        let accounts = (Account::Customer(row.customer), Account::Held);
        self.transfer(now, accounts, msat, Reason::Charge, Some(row.id));
    }

    /// An accepted request: it begins if it costs nothing or its customer has credit, or waits for its payment.
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
        active.row.trace.payment = Some(JobPayment { price, paid: 0, invoiced });
        self.charge(now, &mut active.row, price.min(credit));
        if invoiced == 0 {
            return Ok(Billed::Begins(Box::new(active)));
        }
        active.stage = Stage::Waiting;
        active.advance(JobEvent::AwaitPayment);
        self.want_invoice(now, active);
        Ok(Billed::Waits)
    }

    /// The wallet has to make an invoice for a job.
    fn want_invoice(&mut self, now: Now, mut active: Active) {
        active.row.wake_at = now.millis() + INVOICE_MILLIS_MAX;
        self.save(&active);
        self.await_payment(&active);
        self.payments.wanted.insert(active.row.seq, active.id());
    }

    /// Its timer is that of its payment.
    fn await_payment(&mut self, active: &Active) {
        self.jobs.put(active.unfinished_row());
        self.jobs.set_timer(active.id(), Some(active.row.wake_at));
    }

    /// A job that waited for its payment when the agent was closed.
    pub(super) fn resume_awaiting(&mut self, open: crate::store::UnfinishedRow) {
        self.jobs.put(open);
        self.jobs.set_timer(open.id, Some(open.wake_at));
        if !self.payments.invoices.contains_key(&open.id) {
            self.payments.wanted.insert(open.seq, open.id);
        }
    }

    /// A job that waits for its payment, from the database; `None` if it does not wait any more.
    fn awaiting(&self, job: &EventId) -> Result<Option<Active>, StoreError> {
        let Some(open) = self.jobs.get(job).filter(|open| open.state == JobState::AwaitingPayment) else {
            return Ok(None);
        };
        let row = self.read_row(open.seq)?;
        self.load(row).map(Some).map_err(StoreError::Failed)
    }

    /// What the wallet is asked for a job: millisatoshis, and what the payer sees. `None` if it does not wait any more.
    pub(super) fn invoice_wanted(&self, job: &EventId) -> Result<Option<(u64, String)>, StoreError> {
        let Some(open) = self.jobs.get(job).filter(|open| open.state == JobState::AwaitingPayment) else {
            return Ok(None);
        };
        let row = self.read_row(open.seq)?;
        let name = self.deployed.as_ref().map_or("", |deployed| &deployed.manifest.name);
        let msat = row.trace.payment.map_or(0, |payment| payment.invoiced);
        Ok(Some((msat, format!("{name}: job {}", &job.to_string()[..16]))))
    }

    /// The wallet has made an invoice for a job: its customer is asked to pay it.
    ///
    /// # Errors
    /// What is wrong with the invoice.
    pub(super) fn invoice_made(&mut self, now: Now, job: &EventId, made: &Transaction) -> Result<(), String> {
        let failed = |error: StoreError| format!("{error:?}");
        let Some(mut active) = self.awaiting(job).map_err(failed)? else { return Ok(()) };
        let Some(JobPayment { price, paid, invoiced }) = active.row.trace.payment else { return Ok(()) };
        let bolt11 = made.invoice.as_deref().ok_or("the wallet has made no invoice")?;
        let invoice = bolt11::Invoice::parse(bolt11).map_err(|error| format!("the wallet: {error}"))?;
        if invoice.msat != Some(invoiced) {
            return Err(format!("the wallet has made an invoice for another amount than {invoiced} msat"));
        }
        if made.payment_hash.is_some_and(|hash| hash != invoice.payment_hash) {
            return Err("the wallet names another payment hash than its invoice".to_owned());
        }
        if invoice.expires_at <= now.seconds() {
            return Err("the wallet has made an invoice that has expired".to_owned());
        }
        let mut known = self.payments.invoices.values();
        if known.any(|watched| watched.row.payment_hash == invoice.payment_hash)
            || store::has_invoice(&self.conn, &invoice.payment_hash).map_err(failed)?
        {
            return Err("the wallet has made the same invoice before".to_owned());
        }
        let message = match paid {
            0 => format!("the price is {price} msat"),
            paid => format!("the price is {price} msat, of which {paid} are paid by your credit"),
        };
        let required = Feedback::PaymentRequired { msat: invoiced, bolt11, message: &message };
        self.send_feedback(now, &mut active, required);
        let row = InvoiceRow {
            job: *job,
            customer: active.row.customer,
            state: InvoiceState::Open,
            msat: invoiced,
            payment_hash: invoice.payment_hash,
            made_at: now.millis(),
            expires_at: invoice.expires_at.min(now.seconds() + INVOICE_SECONDS),
            received: 0,
        };
        let mut watched = Watched::new(row, 0);
        watched.poll_at = watched.times().next_poll(now.millis());
        active.row.wake_at = watched.times().expires_at + GRACE_MILLIS;
        store::put_invoice(&mut self.batch, &watched.row);
        self.make_room_for_invoice(now);
        self.payments.invoices.insert(*job, watched);
        self.payments.wanted.remove(&active.row.seq);
        self.metrics.payment("invoiced");
        self.save(&active);
        self.await_payment(&active);
        Ok(())
    }

    /// The wallet makes no invoice for a job.
    pub(super) fn invoice_refused(&mut self, now: Now, job: &EventId, detail: &str) {
        self.log(now, Some(*job), detail);
        let Ok(Some(active)) = self.awaiting(job) else { return };
        self.payments.wanted.remove(&active.row.seq);
        let message = "this agent's wallet makes no invoice; try again later";
        self.fail(now, active, JobEvent::Fail, "wallet", message);
    }

    /// What the wallet says about an invoice, when it was asked or by itself.
    ///
    /// # Errors
    /// If the store fails; it is asked again.
    pub(super) fn invoice_told(
        &mut self,
        now: Now,
        job: &EventId,
        told: &Transaction,
    ) -> Result<(), StoreError> {
        let Some(watched) = self.payments.invoices.get_mut(job).filter(|watched| watched.is_open()) else {
            return Ok(());
        };
        let at = now.millis();
        let claim = match (told.claim(&watched.row.payment_hash), told.msat) {
            // Nothing came.
            (Claim::Proven | Claim::Unproven, Some(0)) => Claim::False,
            (claim, _) => claim,
        };
        match claim {
            Claim::Unpaid if watched.times().is_over(at) => self.give_up_invoice(job),
            Claim::Unpaid => {
                watched.poll_at = watched.times().next_poll(at);
                if watched.claimed_at.take().is_some() {
                    self.log(now, Some(*job), "the wallet has taken back that the invoice is paid");
                }
            }
            Claim::False => {
                watched.poll_at = watched.times().next_poll(at);
                self.log(
                    now,
                    Some(*job),
                    "the wallet claims a payment that cannot be: another preimage or hash, or nothing",
                );
            }
            Claim::Unproven => match watched.claimed_at {
                Some(before) if at >= before + UNPROVEN_MILLIS => {
                    return self.invoice_paid(now, job, told.msat);
                }
                Some(before) => watched.poll_at = before + UNPROVEN_MILLIS,
                None => {
                    watched.claimed_at = Some(at);
                    watched.poll_at = at + UNPROVEN_MILLIS;
                }
            },
            Claim::Proven => return self.invoice_paid(now, job, told.msat),
        }
        Ok(())
    }

    /// Of very many invoices that nobody has paid, the one that expired first is given up.
    fn make_room_for_invoice(&mut self, now: Now) {
        if self.payments.invoices.len() < WATCHED_MAX {
            return;
        }
        let expired =
            self.payments.invoices.values().filter(|watched| {
                watched.is_open() && now.millis() > watched.times().expires_at + GRACE_MILLIS
            });
        let first = expired.min_by_key(|watched| watched.row.expires_at).map(|watched| watched.row.job);
        first.into_iter().for_each(|job| self.give_up_invoice(&job));
    }

    /// Nothing more is expected of an invoice.
    pub(super) fn give_up_invoice(&mut self, job: &EventId) {
        let Some(watched) = self.payments.invoices.get_mut(job) else { return };
        watched.row.state = InvoiceState::Unpaid;
        store::put_invoice(&mut self.batch, &watched.row);
        self.metrics.payment("unpaid");
    }

    /// An invoice is paid: what has come is its customer's credit, and the job that waits for it begins.
    fn invoice_paid(&mut self, now: Now, job: &EventId, told: Option<u64>) -> Result<(), StoreError> {
        let Some(watched) = self.payments.invoices.get(job) else { return Ok(()) };
        let (asked, customer) = (watched.row.msat, watched.row.customer);
        let msat = payment::received(asked, told);
        // What may fail comes first.
        let awaiting = self.awaiting(job)?;
        let credit = self.credit_of(&customer)? + msat;
        if let Some(watched) = self.payments.invoices.get_mut(job) {
            (watched.row.state, watched.row.received) = (InvoiceState::Paid, msat);
            store::put_invoice(&mut self.batch, &watched.row);
        }
        let accounts = (Account::Wallet, Account::Customer(customer));
        self.transfer(now, accounts, msat, Reason::Payment, Some(*job));
        self.metrics.received(msat);
        let Some(mut active) = awaiting else {
            self.metrics.payment("late");
            self.log(now, Some(*job), format!("{msat} msat came when the job was over: they are credit"));
            return Ok(());
        };
        let rest = active.row.trace.payment.map_or(0, |payment| payment.price - payment.paid);
        if let Quote::Invoice(missing) = payment::quote(rest, credit) {
            self.metrics.payment("partial");
            self.log(now, Some(*job), format!("{msat} msat came, and {asked} were asked for"));
            self.charge(now, &mut active.row, credit);
            if let Some(payment) = &mut active.row.trace.payment {
                payment.invoiced = missing;
            }
            self.want_invoice(now, active);
            return Ok(());
        }
        self.metrics.payment("settled");
        self.log(now, Some(*job), format!("{msat} msat came"));
        self.charge(now, &mut active.row, rest);
        // Its inputs have their time from now on.
        active.row.wake_at = now.millis();
        self.send_feedback(now, &mut active, Feedback::Processing(""));
        let needs_fetching = active.request.inputs.iter().any(|input| input.kind != InputKind::Text);
        // It is queued whatever becomes of its start.
        let _ = self.begin(now, active, needs_fetching);
        Ok(())
    }

    /// The time of a job's payment may be over.
    pub(super) fn payment_timeout(
        &mut self,
        now: Now,
        open: crate::store::UnfinishedRow,
    ) -> Result<(), StoreError> {
        if now.millis() < open.wake_at {
            self.jobs.set_timer(open.id, Some(open.wake_at));
            return Ok(());
        }
        let Some(active) = self.awaiting(&open.id)? else { return Ok(()) };
        let (cause, message) = match self.payments.wanted.contains_key(&open.seq) {
            false => ("payment_timeout", "the payment did not come in time"),
            true => ("wallet", "this agent's wallet cannot be reached; try again later"),
        };
        self.payments.wanted.remove(&open.seq);
        self.fail(now, active, JobEvent::Expire, cause, message);
        Ok(())
    }

    /// A job ends in the state of its row: what was taken for it is the agent's if it has a result, else it is credit again.
    pub(super) fn close_account(&mut self, now: Now, row: &mut JobRow) {
        let Some(payment) = row.trace.payment.as_mut().filter(|payment| payment.paid > 0) else { return };
        if row.state == JobState::Responding {
            let msat = payment.paid;
            self.transfer(now, (Account::Held, Account::Income), msat, Reason::Delivery, Some(row.id));
            return;
        }
        let msat = std::mem::take(&mut payment.paid);
        let accounts = (Account::Held, Account::Customer(row.customer));
        self.transfer(now, accounts, msat, Reason::Return, Some(row.id));
    }

    /// The customer of a job has not got its result: what was taken for it is credit again.
    pub(super) fn give_back(&mut self, now: Now, row: &mut JobRow) {
        let Some(payment) = row.trace.payment.as_mut() else { return };
        let msat = std::mem::take(&mut payment.paid);
        let accounts = (Account::Income, Account::Customer(row.customer));
        self.transfer(now, accounts, msat, Reason::Return, Some(row.id));
    }

    /// Forgets what is old of invoices and of the books.
    pub(super) fn prune_payments(&mut self, now: Now) {
        store::prune_invoices(&mut self.batch, now.seconds());
        store::prune_transfers(&mut self.batch, self.payments.last_transfer);
    }
}
