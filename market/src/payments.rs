//! Which jobs are paid, signed by both sides.
//!
//! The provider has signed that it asks for payment of the job: feedback with status `payment-required`, or a result with an `amount`. The
//! customer has signed a zap request for it, which is in a [`Receipt`] of at least the amount that was asked for. Several that would
//! suffice together do not count.
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
use crate::figures::Job;
use crate::receipt::Receipt;

/// A receipt may state a time that is so much earlier than that of the request: clocks differ.
pub const EARLY_SECONDS: u64 = 86_400;

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

/// Notes which of the provider's jobs are paid. `answers` are the provider's, by the request that they are about; `receipts` may be any.
pub(crate) fn settle(
    jobs: &mut [Job],
    provider: &PubKey,
    as_of: Timestamp,
    answers: &HashMap<EventId, Vec<&Evidence>>,
    receipts: &[Receipt],
) {
    if receipts.is_empty() {
        return;
    }
    let mut targets: HashMap<EventId, (usize, &Evidence)> = HashMap::new();
    for (index, job) in jobs.iter().enumerate().filter(|(_, job)| job.is_named && job.result.is_some()) {
        let shown = || {
            let answers = answers.get(&job.request).into_iter().flatten().copied();
            answers.filter(|answer| !answer.is_gone(as_of))
        };
        let by_amount =
            |demand: &&Evidence| (demand.asked_msat == 0, demand.asked_msat, demand.at, demand.id);
        let Some(demand) = shown().filter(|answer| answer.asks_for_payment()).min_by_key(by_amount) else {
            continue;
        };
        let zapped = shown().map(|answer| answer.id).chain([job.request]);
        targets.extend(zapped.map(|id| (id, (index, demand))));
    }
    let mut fitting: Vec<(&Receipt, usize, &Evidence)> = Vec::new();
    for receipt in receipts.iter().filter(|receipt| receipt.payee == *provider && receipt.at <= as_of) {
        let Some(&(index, demand)) = targets.get(&receipt.zapped) else { continue };
        let fits =
            |job: &Job| job.customer == receipt.payer && receipt.at.saturating_add(EARLY_SECONDS) > job.at;
        if receipt.msat >= demand.asked_msat && jobs.get(index).is_some_and(fits) {
            fitting.push((receipt, index, demand));
        }
    }
    fitting.sort_unstable_by_key(|(receipt, ..)| (receipt.at, receipt.id));
    for (receipt, index, demand) in fitting {
        let Some(job) = jobs.get_mut(index).filter(|job| job.payment.is_none()) else { continue };
        job.payment = Some(Payment {
            demand: demand.id,
            asked_msat: demand.asked_msat,
            receipt: receipt.id,
            zapped: receipt.zapped,
        });
    }
}
