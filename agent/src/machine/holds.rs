//! Jobs that are paid by hold invoices: a job begins when the agent's wallet holds its customer's payment. The wallet takes it (settles the invoice)
//! when there is a result, and gives it back (cancels the invoice) if there will be none.
//!
//! ```text
//! invoice:  offered --the wallet holds a payment--> accepted --the result is stored--> settling --the wallet has taken it--> paid
//!              |                                        |                                 |
//!              '------------- the job ends without a result --------------------------------> cancelling --it is given back--> unpaid
//!
//! job:      awaiting_payment ----> (waiting_input) queued running ----> withheld ----> responding
//! ```
//!
//! Each arrow is one transaction, with the state of the job. What the wallet is asked follows from what is stored, so after a crash it is
//! asked again. Settling and cancelling are idempotent; if the wallet refuses, the invoice is looked up.
//!
//! **Why in this order.** The result is stored before the wallet is given the preimage: a customer who has paid gets it, whatever crashes. It is signed
//! and published after the wallet has confirmed the payment: nobody gets the result without paying. Between the two the payment may be
//! taken and the result not yet be published; that ends when the wallet answers again. If the payment was given back meanwhile (it is not held for
//! ever), the result is dropped and the customer is told. If the wallet says later that it has taken the payment nevertheless, that is the customer's
//! credit. Before it is settled, a payment is not in the books.
//!
//! A customer can have work done for nothing, but gets no result for nothing: who cancels gets the payment back and no result. Such work is limited by
//! `limits.per_customer`, and each such job locks money of the customer.

use relay_engine::sql::{SqlConn, StoreError};
use relay_engine::types::{EventId, Now};

use super::Agent;
use super::invoices::WatchedInvoice;
use super::jobs::Active;
use super::wallet::{Wallet, WalletRequest};
use crate::bolt11;
use crate::job::{JobEvent, JobState};
use crate::nip47::{Client, Held, Method, Transaction};
use crate::payment::{self, INVOICE_SECONDS, SETTLE_MILLIS};
use crate::store::{Hold, HoldPhase};

/// What a wallet must be able to do to make hold invoices.
pub(super) const METHODS: [&str; 4] =
    ["make_hold_invoice", "settle_hold_invoice", "cancel_hold_invoice", "lookup_invoice"];

/// Milliseconds until ending the work on a job is tried again, if the store has failed.
const END_WORK_MILLIS: u64 = 1_000;
/// Seconds for which a payment is held for a job if the present manifest has no `payment.hold_s` any more.
const HOLD_SECONDS: u64 = 3_600;

/// What a customer is told beside the price.
pub(super) const HOLD_MESSAGE: &str =
    "; your payment is held, taken when there is a result, and else given back";

/// What a hold invoice is asked for with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HoldTerms {
    /// See [`Client::hold_preimage`].
    salt: [u8; 32],
    /// Seconds for which its payment is held for the work.
    seconds: u64,
}

impl HoldTerms {
    /// What is stored of an invoice that can be paid.
    pub(super) fn offered(&self) -> Hold {
        Hold::offered(&self.salt, self.seconds)
    }
}

/// The attempts to settle or cancel a hold invoice, in memory.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct HoldTries {
    /// Attempts that have failed.
    tries: u32,
    /// Whether the invoice is looked up before the next attempt.
    must_look_up: bool,
    /// When ending the work is tried again, in milliseconds since 1970.
    end_work_at: u64,
}

impl WatchedInvoice {
    pub(super) fn hold_phase(&self) -> Option<HoldPhase> {
        self.row.hold.as_ref().map(|hold| hold.phase)
    }

    /// When its wallet is to be asked about it, in milliseconds since 1970.
    pub(super) fn next_poll_at(&self) -> Option<u64> {
        (self.is_open() && self.hold_phase() != Some(HoldPhase::Accepted)).then_some(self.poll_at)
    }

    /// When the work for which its payment is held must end, in milliseconds since 1970; or when that is tried again, if it has failed.
    fn work_ends_at(&self) -> Option<u64> {
        let hold = self.row.hold.as_ref().filter(|hold| self.is_open() && hold.phase == HoldPhase::Accepted);
        hold.map(|hold| hold.until.max(self.hold_tries.end_work_at))
    }

    /// Whether the wallet is to settle or cancel it.
    pub(super) fn must_settle_or_cancel(&self) -> bool {
        matches!(self.hold_phase(), Some(HoldPhase::Settling | HoldPhase::Cancelling))
    }

    /// Whether a payment was ever held.
    pub(super) fn was_held(&self) -> bool {
        self.row.hold.as_ref().is_some_and(|hold| hold.msat > 0)
    }

    /// Whether the wallet may know the preimage, without which nobody can take the payment. Of invoices that are no hold invoices it always does.
    pub(super) fn can_be_settled(&self) -> bool {
        self.row.hold.as_ref().is_none_or(|hold| hold.is_revealed)
    }

    /// When an agent that is opened now asks the wallet, if it has to settle or cancel. `None`: by the age of the invoice.
    pub(super) fn hold_poll_at_opening(&self, now: u64) -> Option<u64> {
        let hold = self.row.hold.as_ref()?;
        matches!(hold.phase, HoldPhase::Settling | HoldPhase::Cancelling).then_some(now)
    }

    /// The wallet has refused to settle or cancel, or has not answered: the invoice is looked up, at once or later.
    fn request_failed(&mut self, now: Now, is_answered: bool) {
        self.hold_tries.must_look_up = true;
        match is_answered {
            true => self.poll_at = now.millis(),
            false => self.try_later(now),
        }
    }

    /// The next attempt is later, each time twice as long after.
    pub(super) fn try_later(&mut self, now: Now) {
        self.poll_at = now.millis() + payment::hold_retry_millis(self.hold_tries.tries);
        self.hold_tries.tries = self.hold_tries.tries.saturating_add(1);
    }
}

impl<C: SqlConn> Agent<C> {
    /// A request for a hold invoice.
    pub(super) fn hold_invoice_request(
        &mut self,
        client: &Client,
        job: &EventId,
        msat: u64,
        description: String,
    ) -> (WalletRequest, Method) {
        let terms = HoldTerms { salt: self.nonce(), seconds: self.hold_seconds() };
        let method = Method::MakeHoldInvoice {
            msat,
            description,
            expiry_s: INVOICE_SECONDS,
            payment_hash: client.hold_preimage(job, &terms.salt).hash(),
            min_cltv_expiry_delta: payment::hold_blocks(terms.seconds),
        };
        (WalletRequest::MakeHold(*job, terms), method)
    }

    /// Seconds for which payments are held for the work.
    fn hold_seconds(&self) -> u64 {
        let seconds = self.deployed.as_ref().and_then(|deployed| deployed.manifest.payment.hold_seconds());
        // The job may be of an earlier version.
        seconds.unwrap_or(HOLD_SECONDS)
    }

    /// Whether a hold invoice is what was asked for.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn check_hold_invoice(
        client: &Client,
        job: &EventId,
        terms: &HoldTerms,
        invoice: &bolt11::Invoice,
    ) -> Result<(), String> {
        if invoice.payment_hash != client.hold_preimage(job, &terms.salt).hash() {
            return Err(
                "the wallet has made an invoice with another payment hash than it was given".to_owned()
            );
        }
        let (blocks, needed) = (invoice.min_final_cltv_expiry, payment::hold_blocks(terms.seconds));
        if blocks < needed {
            return Err(format!(
                "the wallet has made an invoice whose payment can be held for {blocks} blocks, and {needed} are needed: it may \
                 need a shorter payment.hold_s"
            ));
        }
        Ok(())
    }

    /// The request to a wallet about an invoice that is due: to settle, cancel or look it up.
    pub(super) fn due_request(
        wallet: &Wallet,
        job: &EventId,
        watched: &WatchedInvoice,
    ) -> (WalletRequest, Method) {
        let payment_hash = watched.row.payment_hash;
        match (&watched.row.hold, &wallet.client) {
            (Some(hold), Ok(client))
                if watched.must_settle_or_cancel() && !watched.hold_tries.must_look_up =>
            {
                match hold.phase {
                    HoldPhase::Settling => {
                        let preimage = client.hold_preimage(job, &hold.salt());
                        (WalletRequest::Settle(*job), Method::SettleHoldInvoice { preimage })
                    }
                    _ => (WalletRequest::Cancel(*job), Method::CancelHoldInvoice { payment_hash }),
                }
            }
            _ => (WalletRequest::Lookup(*job), Method::LookupInvoice { payment_hash }),
        }
    }

    /// The state of a hold invoice that is not settled, from a look-up or a notification.
    ///
    /// # Errors
    /// If the store fails; then the invoice is looked up again.
    pub(super) fn handle_hold_state(
        &mut self,
        now: Now,
        job: &EventId,
        told: &Transaction,
    ) -> Result<(), StoreError> {
        let is_over = !self.is_awaiting(job);
        let Some(watched) = self.payments.invoices.get_mut(job).filter(|watched| watched.is_open()) else {
            return Ok(());
        };
        let Some(phase) = watched.hold_phase() else { return Ok(()) };
        let (at, asked) = (now.millis(), watched.row.msat);
        let held = told.held(&watched.row.payment_hash);
        match (phase, held) {
            // If the job has ended, any amount is held, to be given back.
            (HoldPhase::Offered, Held::Accepted) if is_over || told.msat.unwrap_or(asked) >= asked => {
                return self.payment_held(now, job, payment::received(asked, told.msat));
            }
            (HoldPhase::Offered, Held::Accepted) => {
                watched.poll_at = watched.times().next_poll(at);
                self.log(now, Some(*job), "the wallet holds less than was asked for: the job does not begin");
            }
            // There is nothing to ask before the job ends.
            (HoldPhase::Accepted, _) => {}
            (HoldPhase::Settling, Held::Released) => self.payment_lost(now, job)?,
            (HoldPhase::Cancelling, Held::Released) => self.give_up_invoice(job),
            (HoldPhase::Settling, _) | (HoldPhase::Cancelling, Held::Accepted) => {
                watched.hold_tries.must_look_up = false;
                watched.try_later(now);
            }
            // Nothing is held. A payment that comes later is given back.
            (HoldPhase::Offered | HoldPhase::Cancelling, _) if watched.times().is_over(at) => {
                self.give_up_invoice(job);
            }
            (HoldPhase::Offered, _) => watched.poll_at = watched.times().next_poll(at),
            (HoldPhase::Cancelling, _) => {
                watched.poll_at = watched.times().next_poll(at);
                self.put_phase(job, HoldPhase::Offered);
            }
        }
        Ok(())
    }

    /// The wallet holds a customer's payment: the job begins. If the job has ended, the payment is given back.
    fn payment_held(&mut self, now: Now, job: &EventId, msat: u64) -> Result<(), StoreError> {
        // What may fail comes first.
        let awaiting =
            self.awaiting(now, job)?.filter(|active| active.row.state == JobState::AwaitingPayment);
        let Some(watched) = self.payments.invoices.get_mut(job) else { return Ok(()) };
        let Some(hold) = &mut watched.row.hold else { return Ok(()) };
        (hold.msat, hold.until) = (msat, now.millis() + hold.seconds * 1_000);
        hold.phase = if awaiting.is_some() { HoldPhase::Accepted } else { HoldPhase::Cancelling };
        watched.poll_at = now.millis();
        watched.hold_tries = HoldTries::default();
        self.batch.put_invoice(watched.row.clone());
        self.metrics.payment("held");
        let Some(active) = awaiting else {
            self.log(
                now,
                Some(*job),
                format!("{msat} msat were paid after the job had ended: they are given back"),
            );
            return Ok(());
        };
        self.log(now, Some(*job), format!("{msat} msat are held"));
        self.begin_paid(now, active);
        Ok(())
    }

    fn put_phase(&mut self, job: &EventId, phase: HoldPhase) {
        let Some(watched) = self.payments.invoices.get_mut(job) else { return };
        let Some(hold) = &mut watched.row.hold else { return };
        hold.phase = phase;
        self.batch.put_invoice(watched.row.clone());
    }

    /// Whether the wallet holds a payment for a job.
    pub(super) fn is_held(&self, job: &EventId) -> bool {
        let watched = self.payments.invoices.get(job).filter(|watched| watched.is_open());
        watched.is_some_and(|watched| {
            matches!(watched.hold_phase(), Some(HoldPhase::Accepted | HoldPhase::Settling))
        })
    }

    /// The withheld result of a job is in the batch: the payment is to be taken.
    pub(super) fn settle_hold(&mut self, now: Now, mut active: Active) {
        let job = active.id();
        if let Some(watched) = self.payments.invoices.get_mut(&job)
            && let Some(hold) = &mut watched.row.hold
        {
            (hold.phase, hold.is_revealed) = (HoldPhase::Settling, true);
            active.row.wake_at = hold.until + SETTLE_MILLIS;
            (watched.poll_at, watched.hold_tries) = (now.millis(), HoldTries::default());
            self.batch.put_invoice(watched.row.clone());
        }
        self.save(&active);
        self.await_payment(&active);
    }

    /// The wallet has taken a payment.
    pub(super) fn hold_settled(&mut self, now: Now, job: &EventId) {
        let Some(watched) = self.payments.invoices.get_mut(job).filter(|watched| watched.is_open()) else {
            return;
        };
        // If the store fails, the invoice is looked up.
        watched.request_failed(now, false);
        let msat = watched.row.hold.as_ref().map(|hold| hold.msat);
        let _ = self.invoice_paid(now, job, msat);
    }

    /// The wallet has cancelled a hold invoice.
    pub(super) fn hold_cancelled(&mut self, job: &EventId) {
        let watched = self.payments.invoices.get(job);
        if watched.is_some_and(|watched| watched.hold_phase() == Some(HoldPhase::Cancelling)) {
            self.give_up_invoice(job);
        }
    }

    /// The wallet has refused to settle or cancel a hold invoice (`is_answered`), or has not answered.
    pub(super) fn hold_request_failed(&mut self, now: Now, job: &EventId, is_answered: bool) {
        if let Some(watched) = self.payments.invoices.get_mut(job) {
            watched.request_failed(now, is_answered);
        }
    }

    /// The payment was given back before it was taken.
    fn payment_lost(&mut self, now: Now, job: &EventId) -> Result<(), StoreError> {
        match self.awaiting(now, job)? {
            Some(active) => {
                let message = "the wallet does not hold the payment any more, and the result is dropped";
                self.fail(now, active, JobEvent::Fail, "wallet", message);
            }
            None => self.give_up_invoice(job),
        }
        Ok(())
    }

    /// A job has ended: its hold invoice is to be cancelled, so that a held payment is given back and none can come. A settled one stays.
    pub(super) fn cancel_hold(&mut self, now: Now, job: &EventId) {
        let Some(watched) = self.payments.invoices.get_mut(job).filter(|watched| watched.is_open()) else {
            return;
        };
        let Some(hold) = &mut watched.row.hold else { return };
        hold.phase = HoldPhase::Cancelling;
        (watched.poll_at, watched.hold_tries) = (now.millis(), HoldTries::default());
        self.batch.put_invoice(watched.row.clone());
    }

    /// Gives back payments that are held for jobs that no longer exist.
    pub(super) fn cancel_orphaned_holds(&mut self, now: Now) {
        let open = self.payments.invoices.values().filter(|watched| watched.is_open());
        let jobs: Vec<EventId> = open
            .filter(|watched| watched.was_held() && watched.hold_phase() != Some(HoldPhase::Cancelling))
            .map(|watched| watched.row.job)
            .filter(|job| self.jobs.get(job).is_none())
            .collect();
        jobs.iter().for_each(|job| self.cancel_hold(now, job));
    }

    /// When the first job must end because its payment is not held for longer, in milliseconds since 1970.
    pub(super) fn held_work_ends_at(&self) -> Option<u64> {
        self.payments.invoices.values().filter_map(WatchedInvoice::work_ends_at).min()
    }

    /// Ends the jobs whose payments are not held for longer.
    pub(super) fn end_held_work(&mut self, now: Now) {
        let is_due = |watched: &&WatchedInvoice| watched.work_ends_at().is_some_and(|at| at <= now.millis());
        let due: Vec<EventId> =
            self.payments.invoices.values().filter(is_due).map(|watched| watched.row.job).collect();
        for job in due {
            if self.end_held_job(now, &job).is_err()
                && let Some(watched) = self.payments.invoices.get_mut(&job)
            {
                watched.hold_tries.end_work_at = now.millis() + END_WORK_MILLIS;
            }
        }
    }

    fn end_held_job(&mut self, now: Now, job: &EventId) -> Result<(), StoreError> {
        let message = "the work took longer than a payment is held";
        if let Some(active) = self.active.remove(job) {
            self.fail(now, active, JobEvent::Expire, "timeout", message);
            return Ok(());
        }
        let Some(open) = self.jobs.get(job).copied() else {
            self.cancel_hold(now, job);
            return Ok(());
        };
        let Some(row) = self.read_or_end(now, &open)? else { return Ok(()) };
        match self.load(row.clone()) {
            Ok(active) => self.fail(now, active, JobEvent::Expire, "timeout", message),
            Err(why) => self.unreadable(now, row, &why),
        }
        Ok(())
    }
}
