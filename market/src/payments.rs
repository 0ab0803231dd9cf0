//! Which jobs are paid, signed by both sides.
//!
//! The provider has signed that it asks for payment of the job: feedback with status `payment-required`, or a result with an `amount`. The
//! customer has signed a zap request for it, with at least the amount that was asked for, which is in a [`Receipt`]. Several that would
//! suffice together do not count.
//!
//! Only what was asked for is paid: a demand that states to be more than [`EARLY_SECONDS`] later than the zap request makes no payment of what was a gift. (Whoever signs a
//! demand chooses its time, so a provider can date one back. No signed event shows that.)
//!
//! Only what is delivered is ever paid here. Nobody needs money to sign a zap request and a receipt of it. If a job that is paid so and has no
//! result were failed, customers could make whoever asks for payment fail for nothing; it stays unpaid.
//!
//! A job has one receipt, the first one that suffices, and a receipt pays one job: its zap request is about one event, and its invoice
//! is for that zap request. Payment hashes are not compared. That would keep nobody from anything, because the signatures of invoices are
//! not checked either; but anybody could take payments away from others, by receipts of their zap requests with copied hashes. As it is, a
//! receipt more never makes a job unpaid.

use std::collections::HashMap;

use relay_engine::types::{EventId, PubKey, Timestamp};

use crate::evidence::Evidence;
use crate::figures::{Job, Jobs, WINDOW_SECONDS};
use crate::receipt::{EARLY_SECONDS, Receipt};

/// That a delivered job is paid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Payment {
    /// The provider's answer that asks for it. Of several the one that asks for least, and one that names no amount only without others.
    pub demand: EventId,
    /// The millisatoshis that it asks for; 0 if it names none.
    pub asked_msat: u64,
    /// The first receipt that suffices.
    pub receipt: EventId,
    /// What the customer has zapped: the request, or an answer of the provider about it.
    pub zapped: EventId,
}

/// A delivered job that the provider wants to be paid for: of which receipts have to be known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Demanded {
    /// Which of the jobs that count.
    pub job: usize,
    /// Who is to pay it.
    pub customer: PubKey,
    /// The answer that asks for payment.
    pub demand: EventId,
    /// The time that it states.
    pub demanded_at: Timestamp,
    /// The millisatoshis that it asks for; 0 if it names none.
    pub asked_msat: u64,
    /// What can be zapped for it: the request, and the provider's answers.
    pub zappable: Vec<EventId>,
}

/// Those of these jobs that the provider wants to be paid for. `answers` are the provider's, by the request that they are about.
pub(crate) fn demanded(
    jobs: &[Job],
    as_of: Timestamp,
    answers: &HashMap<EventId, Vec<&Evidence>>,
) -> Vec<Demanded> {
    let delivered = jobs.iter().enumerate().filter(|(_, job)| job.is_named && job.result.is_some());
    let of_job = |(index, job): (usize, &Job)| {
        let shown = || {
            let answers = answers.get(&job.request).into_iter().flatten().copied();
            answers.filter(|answer| !answer.is_gone(as_of))
        };
        let by_amount =
            |demand: &&Evidence| (demand.asked_msat == 0, demand.asked_msat, demand.at, demand.id);
        let demand = shown().filter(|answer| answer.asks_for_payment()).min_by_key(by_amount)?;
        Some(Demanded {
            job: index,
            customer: job.customer,
            demand: demand.id,
            demanded_at: demand.at,
            asked_msat: demand.asked_msat,
            zappable: shown().map(|answer| answer.id).chain([job.request]).collect(),
        })
    };
    delivered.filter_map(of_job).collect()
}

impl Jobs {
    /// Notes which of the provider's jobs are paid. `receipts` may be any; those that state a time up to `receipts_since` are not all known.
    pub fn settle(
        &mut self,
        provider: &PubKey,
        as_of: Timestamp,
        receipts_since: Timestamp,
        receipts: &[Receipt],
    ) {
        self.are_payments_capped |= receipts_since.saturating_add(WINDOW_SECONDS) > as_of;
        let ids = self.demanded.iter().flat_map(|one| one.zappable.iter().map(move |id| (*id, one)));
        let targets: HashMap<EventId, &Demanded> = ids.collect();
        let mut fitting: Vec<(&Receipt, &Demanded)> = Vec::new();
        for receipt in receipts.iter().filter(|receipt| receipt.payee == *provider && receipt.at <= as_of) {
            let Some(&one) = targets.get(&receipt.zapped) else { continue };
            let until = receipt.signed_at.saturating_add(EARLY_SECONDS);
            let is_later = |job: &Job| job.at < until && one.demanded_at <= until;
            if receipt.payer == one.customer
                && receipt.msat >= one.asked_msat
                && self.counted.get(one.job).is_some_and(is_later)
            {
                fitting.push((receipt, one));
            }
        }
        fitting.sort_unstable_by_key(|(receipt, _)| (receipt.at, receipt.id));
        for (receipt, one) in fitting {
            let Some(job) = self.counted.get_mut(one.job).filter(|job| job.payment.is_none()) else {
                continue;
            };
            job.payment = Some(Payment {
                demand: one.demand,
                asked_msat: one.asked_msat,
                receipt: receipt.id,
                zapped: receipt.zapped,
            });
        }
    }
}
