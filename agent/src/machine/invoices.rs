//! Invoices: what the wallet has made is shown to the customer, and looked up until it is paid or given up.

use relay_engine::sql::{SqlConn, StoreError};
use relay_engine::types::{EventId, Now};

use super::Agent;
use super::holds::{HOLD_MESSAGE, HoldTerms, HoldTries};
use super::jobs::Active;
use crate::bolt11;
use crate::job::{InputKind, JobEvent, JobState};
use crate::nip47::{Claim, Transaction};
use crate::nip90::Feedback;
use crate::payment::{self, GRACE_MILLIS, InvoiceTimes, Quote};
use crate::store::{self, Account, InvoiceRow, InvoiceState, JobPayment, Reason, Withheld};

/// Most invoices that are looked up.
const WATCHED_MAX: usize = 2_000;
/// Seconds for which an invoice can be paid at most.
const EXPIRY_SECONDS_MAX: u64 = 366 * 86_400;
/// Milliseconds between two answers without a preimage that an invoice is paid: the second one is believed.
const UNPROVEN_MILLIS: u64 = 2_000;

/// An invoice that is looked up until it is paid or given up.
#[derive(Clone, Debug)]
pub(super) struct WatchedInvoice {
    pub(super) row: InvoiceRow,
    /// When the wallet is next asked about it, in milliseconds since 1970. Not used while a payment is held for the work.
    pub(super) poll_at: u64,
    pub(super) hold_tries: HoldTries,
    /// Whether its job was paid by a zap instead. This is lost at a restart.
    pub(super) is_superseded: bool,
}

impl WatchedInvoice {
    fn new(row: InvoiceRow) -> Self {
        WatchedInvoice { row, poll_at: 0, hold_tries: HoldTries::default(), is_superseded: false }
    }

    /// One that is read from the database.
    pub(super) fn open(now: Now, row: InvoiceRow) -> Self {
        let mut watched = WatchedInvoice::new(row);
        watched.poll_at = match watched.row.claimed_at {
            Some(before) => before + UNPROVEN_MILLIS,
            None => {
                let hold_poll_at = watched.hold_poll_at_opening(now.millis());
                hold_poll_at.unwrap_or_else(|| watched.times().poll_at_opening(now.millis()))
            }
        };
        watched
    }

    pub(super) fn times(&self) -> InvoiceTimes {
        InvoiceTimes { made_at: self.row.made_at, expires_at: self.row.expires_at.saturating_mul(1_000) }
    }

    pub(super) fn is_open(&self) -> bool {
        self.row.state == InvoiceState::Open
    }
}

/// Checks the invoice that a wallet has made for `msat` millisatoshis.
///
/// # Errors
/// What is wrong with it.
fn check_invoice(now: Now, made: &Transaction, msat: u64) -> Result<bolt11::Invoice, String> {
    let bolt11 = made.invoice.as_deref().ok_or("the wallet has made no invoice")?;
    let invoice = bolt11::Invoice::parse(bolt11)
        .map_err(|error| format!("the wallet has made an invoice that cannot be read: {error}"))?;
    if invoice.msat != Some(msat) {
        return Err(format!("the wallet has made an invoice for another amount than {msat} msat"));
    }
    if made.payment_hash.is_some_and(|hash| hash != invoice.payment_hash) {
        return Err("the wallet names another payment hash than its invoice".to_owned());
    }
    if invoice.expires_at <= now.seconds() {
        return Err("the wallet has made an invoice that has expired".to_owned());
    }
    if invoice.expires_at > now.seconds() + EXPIRY_SECONDS_MAX {
        return Err("the wallet has made an invoice that can be paid for longer than a year".to_owned());
    }
    Ok(invoice)
}

impl<C: SqlConn> Agent<C> {
    /// The wallet with this index has made an invoice for a job (with `terms` a hold invoice): its customer is asked to pay it.
    ///
    /// Returns what is wrong with the invoice, if something is.
    ///
    /// # Errors
    /// If the store fails; then another invoice must be made.
    pub(super) fn invoice_made(
        &mut self,
        now: Now,
        index: usize,
        job: &EventId,
        terms: Option<HoldTerms>,
        made: &Transaction,
    ) -> Result<Result<(), String>, StoreError> {
        let Some(Ok(client)) = self.payments.wallets.get(index).map(|wallet| wallet.client.clone()) else {
            return Ok(Ok(()));
        };
        let Some(mut active) = self.awaiting(now, job)? else { return Ok(Ok(())) };
        let Some(JobPayment { price, paid, invoiced, is_postpaid, .. }) = active.row.trace.payment else {
            return Ok(Ok(()));
        };
        let bolt11 = made.invoice.as_deref().unwrap_or_default();
        let invoice = match check_invoice(now, made, invoiced) {
            Ok(invoice) => invoice,
            Err(why) => return Ok(Err(why)),
        };
        if let Some(terms) = &terms
            && let Err(why) = Self::check_hold_invoice(&client, job, terms, &invoice)
        {
            return Ok(Err(why));
        }
        let mut known = self.payments.invoices.values();
        if known.any(|watched| watched.row.payment_hash == invoice.payment_hash)
            || store::has_invoice(&self.conn, &self.batch, &invoice.payment_hash)?
            || store::receipt_of_zap(&self.conn, &self.batch, &invoice.payment_hash)?.is_some()
        {
            return Ok(Err("the wallet has made the same invoice before".to_owned()));
        }
        let mut message = match paid {
            0 => format!("the price is {price} msat"),
            paid => format!("the price is {price} msat, of which {paid} are paid by your credit"),
        };
        let sample = self.sample_of(&active.row);
        if terms.is_some() {
            message.push_str(HOLD_MESSAGE);
        } else if is_postpaid {
            message.push_str(match sample.is_empty() {
                true => "; the result is ready, and is published when it is paid",
                false => "; this is the beginning of the result, all of which is published when it is paid",
            });
        } else if self.unpaid_limit() > 0 {
            message.push_str("; earlier results of yours are unpaid, so this job begins when it is paid");
        }
        let required =
            Feedback::PaymentRequired { msat: invoiced, bolt11, message: &message, sample: &sample };
        self.send_feedback(now, &mut active, required);
        let row = InvoiceRow {
            job: *job,
            customer: active.row.customer,
            state: InvoiceState::Open,
            msat: invoiced,
            payment_hash: invoice.payment_hash,
            made_at: now.millis(),
            expires_at: invoice.expires_at,
            received: 0,
            claimed_at: None,
            wallet: client.digest(),
            hold: terms.as_ref().map(HoldTerms::offered),
        };
        let mut watched = WatchedInvoice::new(row);
        watched.poll_at = watched.times().next_poll(now.millis());
        active.row.wake_at = watched.times().job_waits_until();
        self.batch.put_invoice(watched.row.clone());
        self.make_room_for_invoice(now);
        self.record_purchase_invoice(&active, bolt11, &invoice);
        self.payments.invoices.insert(*job, watched);
        self.payments.uninvoiced.remove(&active.row.seq);
        self.metrics.payment("invoiced");
        self.save(&active);
        self.await_payment(&active);
        Ok(Ok(()))
    }

    /// The wallet makes no invoice for a job.
    pub(super) fn invoice_refused(&mut self, now: Now, job: &EventId, detail: &str) {
        self.log(now, Some(*job), detail);
        let Ok(Some(active)) = self.awaiting(now, job) else { return };
        self.payments.uninvoiced.remove(&active.row.seq);
        let message = "this agent's wallet makes no invoice; try again later";
        self.fail(now, active, JobEvent::Fail, "wallet", message);
    }

    /// The state of an invoice, from a look-up or a notification.
    ///
    /// # Errors
    /// If the store fails; then the invoice is looked up again.
    pub(super) fn handle_invoice_state(
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
            // Without the preimage the wallet cannot have settled it.
            (Claim::Unproven, _) if !watched.can_be_settled() => Claim::False,
            (claim, _) => claim,
        };
        match claim {
            Claim::Unpaid if watched.row.hold.is_some() => {
                self.clear_claim(now, job);
                return self.handle_hold_state(now, job, told);
            }
            Claim::Unpaid if watched.times().is_over(at) => self.give_up_invoice(job),
            Claim::Unpaid => {
                watched.poll_at = watched.times().next_poll(at);
                self.clear_claim(now, job);
            }
            Claim::False => {
                match watched.must_settle_or_cancel() {
                    true => watched.try_later(now),
                    false => watched.poll_at = watched.times().next_poll(at),
                }
                self.log(
                    now,
                    Some(*job),
                    "the wallet reports a payment that is not valid: its preimage, payment hash or amount is wrong",
                );
            }
            Claim::Unproven => match watched.row.claimed_at {
                Some(before) if at >= before + UNPROVEN_MILLIS => {
                    return self.invoice_paid(now, job, told.msat);
                }
                Some(before) => watched.poll_at = before + UNPROVEN_MILLIS,
                None => {
                    watched.row.claimed_at = Some(at);
                    watched.poll_at = at + UNPROVEN_MILLIS;
                    self.batch.put_invoice(watched.row.clone());
                }
            },
            Claim::Proven => return self.invoice_paid(now, job, told.msat),
        }
        Ok(())
    }

    /// Forgets an unproven claim that an invoice is paid: the wallet now says that it is not.
    fn clear_claim(&mut self, now: Now, job: &EventId) {
        let Some(watched) = self.payments.invoices.get_mut(job) else { return };
        if watched.row.claimed_at.take().is_some() {
            self.batch.put_invoice(watched.row.clone());
            self.log(now, Some(*job), "the wallet no longer says that the invoice is paid");
        }
    }

    /// If there are too many invoices, the expired one that expired first is given up.
    pub(super) fn make_room_for_invoice(&mut self, now: Now) {
        if self.payments.invoices.len() < WATCHED_MAX {
            return;
        }
        let expired = self.payments.invoices.values().filter(|watched| {
            let is_old = now.millis() > watched.times().expires_at + GRACE_MILLIS;
            watched.is_open() && is_old && !watched.was_held()
        });
        let first = expired.min_by_key(|watched| watched.row.expires_at).map(|watched| watched.row.job);
        first.into_iter().for_each(|job| self.give_up_invoice(&job));
    }

    /// When the first open invoice is given up whether wallets answer or not, in milliseconds since 1970.
    pub(super) fn invoices_end_at(&self) -> Option<u64> {
        let open = self.payments.invoices.values().filter(|watched| watched.is_open());
        open.map(|watched| watched.times().given_up_at()).min()
    }

    /// Gives up very old invoices: their wallet is not known any more, or does not answer.
    pub(super) fn give_up_old_invoices(&mut self, now: Now) {
        let open = self.payments.invoices.iter().filter(|(_, watched)| watched.is_open());
        let old = open.filter(|(_, watched)| watched.times().given_up_at() <= now.millis());
        for job in old.map(|(job, _)| *job).collect::<Vec<_>>() {
            self.log(
                now,
                Some(job),
                "its invoice is given up: the wallet has not answered about it for 30 days",
            );
            self.give_up_invoice(&job);
        }
    }

    /// Nothing more is expected of an invoice.
    pub(super) fn give_up_invoice(&mut self, job: &EventId) {
        let Some(watched) = self.payments.invoices.get_mut(job) else { return };
        watched.row.state = InvoiceState::Unpaid;
        let what = if watched.was_held() { "released" } else { "unpaid" };
        self.batch.put_invoice(watched.row.clone());
        self.metrics.payment(what);
    }

    /// An invoice is paid: the amount is credit of its customer, and the job that waits for it begins, or its result is published. `told` is the
    /// amount that the wallet states, in millisatoshis.
    pub(super) fn invoice_paid(
        &mut self,
        now: Now,
        job: &EventId,
        told: Option<u64>,
    ) -> Result<(), StoreError> {
        let Some(watched) = self.payments.invoices.get(job) else { return Ok(()) };
        let (asked, customer) = (watched.row.msat, watched.row.customer);
        let msat = payment::received(asked, told);
        // What may fail comes first.
        let awaiting = self.awaiting(now, job)?;
        let withheld = match &awaiting {
            Some(active) if active.row.state == JobState::Withheld => Some(self.withheld(&active.row)?),
            _ => None,
        };
        let credit = self.credit_of(&customer)? + msat;
        if let Some(watched) = self.payments.invoices.get_mut(job) {
            (watched.row.state, watched.row.received) = (InvoiceState::Paid, msat);
            self.batch.put_invoice(watched.row.clone());
        }
        let accounts = (Account::Wallet, Account::Customer(customer));
        self.transfer(now, accounts, msat, Reason::Payment, Some(*job));
        self.metrics.received(msat);
        let Some(mut active) = awaiting else {
            self.metrics.payment("late");
            self.log(
                now,
                Some(*job),
                format!("{msat} msat were received after the job had ended: they are credit"),
            );
            return Ok(());
        };
        let rest = active.row.trace.payment.map_or(0, |payment| payment.price - payment.paid);
        if let Quote::Invoice(missing) = payment::quote(rest, credit) {
            self.metrics.payment("partial");
            self.log(
                now,
                Some(*job),
                format!("{msat} msat were received, of {asked} msat that were asked for"),
            );
            self.charge(now, &mut active.row, credit);
            if let Some(payment) = &mut active.row.trace.payment {
                payment.invoiced = missing;
            }
            self.queue_invoice(now, active);
            return Ok(());
        }
        self.metrics.payment("settled");
        self.log(now, Some(*job), format!("{msat} msat were received"));
        self.job_paid(now, active, rest, withheld);
        Ok(())
    }

    /// The credit covers `rest`, what is missing of a job's price: it is charged, and the job begins, or its withheld result is published.
    pub(super) fn job_paid(
        &mut self,
        now: Now,
        mut active: Active,
        rest: u64,
        withheld: Option<Option<Withheld>>,
    ) {
        self.charge(now, &mut active.row, rest);
        match withheld {
            Some(withheld) => self.release(now, active, withheld),
            None => self.begin_paid(now, active),
        }
    }

    /// A job begins that is paid, or whose payment is held.
    pub(super) fn begin_paid(&mut self, now: Now, mut active: Active) {
        // The time to fetch its inputs starts now.
        active.row.wake_at = now.millis();
        self.send_feedback(now, &mut active, Feedback::Processing(""));
        let needs_fetching = active.request.inputs.iter().any(|input| input.kind != InputKind::Text);
        // If it cannot start now, it stays in the queue.
        let _ = self.begin(now, active, needs_fetching);
    }
}
