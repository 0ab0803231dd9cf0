//! Figures of a provider: the definition. The registry keeps them, and `relay market verify` recomputes them from a proof.
//!
//! A key costs nothing, so numbers of events prove nothing: whoever wants to look good orders from himself under a thousand names,
//! and whoever wants a rival to look bad orders under as many what it cannot deliver.
//! Five things limit that. Every customer has the same ratio, however much they order; jobs of the provider's own key do not
//! count; requests that do not name the provider are counted apart, because it may answer those of all strangers with anything;
//! providers are sorted by a lower bound, which is low as long as there are few customers; and for that bound a customer with a job
//! that is paid and delivered is one, and any other half a one.
//!
//! **What paid means.** The provider has signed that it asks for payment of the job, the customer has signed a zap request for it, and there is
//! a receipt of that ([`payments`](crate::payments)). Both sides say so, and no more: whoever holds both keys can sign all of it without
//! any money, and a receipt can be made by anybody who has seen a zap request. Of strangers to each other it is worth more, since neither gains by
//! signing for the other.
//!
//! **Why that cannot be turned against anybody.** The ratios do not depend on payments, and Wilson's lower bound of the same mean only grows with the
//! number of customers: a receipt, forged or not, never makes a provider look worse. And the most that a customer counts is one: customers without payments
//! count less, and forged receipts raise a provider no higher than if every customer counted as one. What was paid and has no result has not failed: nothing signed shows that money was
//! taken, and a customer who wants to harm a provider can sign the rest. `paid_msat` is what the provider asked for and the customer has signed that it
//! wants to pay, not what receipts claim.
//!
//! **Which jobs count.** The newest of each outcome: whoever orders what is not delivered pushes out nothing that is, since only the provider's own
//! signature makes a job delivered, or unpaid.
//!
//! What remains: all of these figures can be bought for the price of keys.
//!
//! Times are those that events state (`created_at`), because nothing else is signed.

use std::collections::{BTreeMap, HashMap, HashSet};

use relay_engine::types::{EventId, PubKey, Timestamp};

use crate::evidence::{Evidence, Role};
use crate::payments::{Demanded, Payment, demanded};

/// Requests of the last so many seconds count.
pub const WINDOW_SECONDS: u64 = 30 * 86_400;
/// A request that has no result after so many seconds has failed; a later result makes it delivered, a later demand for payment changes nothing.
pub const ANSWER_SECONDS: u64 = 3_600;
/// Jobs of a provider and an [`Outcome`] that count: the newest. Likewise its answers to requests that name nobody.
pub const OUTCOME_JOBS_MAX: usize = 2_000;
/// Jobs of one customer that count: the newest, so that nobody can push out those of others alone.
pub const CUSTOMER_JOBS_MAX: usize = 100;

/// Days whose latency is told apart. They begin at midnight UTC.
pub const DAYS: usize = 30;
/// Seconds of a day.
pub const DAY_SECONDS: u64 = 86_400;

/// A request that names a provider, or that it has answered although it names nobody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// The request.
    pub request: EventId,
    /// Its author.
    pub customer: PubKey,
    /// When it was made.
    pub at: Timestamp,
    /// Whether it names the provider. Of requests that name nobody those that it has answered are counted, and nothing else.
    pub is_named: bool,
    /// The provider's first result, and when it was made.
    pub result: Option<(EventId, Timestamp)>,
    /// The provider's first feedback that asks for payment before the job would have failed, of one without a result.
    pub payment_required: Option<EventId>,
    /// That it is paid; only of a delivered one.
    pub payment: Option<Payment>,
}

/// The outcome of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// There is a result, so many seconds after the request; 0 if it states an earlier time.
    Delivered(u64),
    /// There is none, and the provider has not asked for payment; its other feedback makes no difference.
    Failed,
    /// There is none, and the provider has asked for payment. No signed event shows that it got any, whatever receipts there are.
    Unpaid,
    /// There is none yet.
    Pending,
}

impl Job {
    /// The requests and answers that show it, without repeats. Its receipt is none of them.
    pub fn shown(&self) -> Vec<EventId> {
        let payment = self.payment.iter().flat_map(|payment| [payment.demand, payment.zapped]);
        let answers = self.result.map(|(id, _)| id).into_iter().chain(self.payment_required);
        let mut shown = vec![self.request];
        for id in answers.chain(payment) {
            if !shown.contains(&id) {
                shown.push(id);
            }
        }
        shown
    }

    /// Its outcome at this time.
    pub fn outcome(&self, as_of: Timestamp) -> Outcome {
        match (self.result, self.payment_required) {
            (Some((_, at)), _) => Outcome::Delivered(at.saturating_sub(self.at)),
            (None, _) if as_of < self.at.saturating_add(ANSWER_SECONDS) => Outcome::Pending,
            (None, Some(_)) => Outcome::Unpaid,
            (None, None) => Outcome::Failed,
        }
    }
}

/// The jobs of a provider.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Jobs {
    /// Newest first; of the same second the lowest id first.
    pub counted: Vec<Job>,
    /// Whether there are more than [`OUTCOME_JOBS_MAX`] of an outcome, or than [`CUSTOMER_JOBS_MAX`] of one customer, or older events are not known.
    pub is_capped: bool,
    /// Whether older demands for payment or receipts are not known.
    pub are_payments_capped: bool,
    /// Delivered jobs that may be paid.
    pub demanded: Vec<Demanded>,
    /// Requests that do not count because an answer of the provider has expired and cannot be shown any more.
    pub expired: Vec<EventId>,
}

/// Since when the evidence of a provider is known. What states a time up to it does not count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Since {
    /// Requests and results.
    pub results: Timestamp,
    /// Demands for payment. Without them, whether a request without a result has failed is not known.
    pub demands: Timestamp,
}

impl Since {
    /// Whether evidence of this role that states this time is known.
    pub fn is_known(self, role: Role, at: Timestamp) -> bool {
        at > self.results && (role != Role::PaymentRequired || at > self.demands)
    }
}

/// The jobs that count at this time, by all evidence there is: requests that name the provider or nobody, and the provider's
/// answers. Other evidence and repeats make no difference. Which of them are paid receipts say ([`Jobs::settle`]).
pub fn jobs(provider: &PubKey, as_of: Timestamp, since: Since, evidence: &[Evidence]) -> Jobs {
    let is_known = |one: &Evidence| one.at <= as_of && since.is_known(one.role, one.at);
    let mut answers: HashMap<EventId, Vec<&Evidence>> = HashMap::new();
    for answer in evidence.iter().filter(|one| one.author == *provider && is_known(one)) {
        if answer.role != Role::Request {
            answers.entry(answer.request).or_default().push(answer);
        }
    }
    let first = |answers: Option<&Vec<&Evidence>>, fits: &dyn Fn(&Evidence) -> bool| -> Result<_, Expired> {
        let fitting = || answers.into_iter().flatten().filter(|answer| fits(answer));
        let shown =
            fitting().filter(|answer| !answer.is_gone(as_of)).map(|answer| (answer.at, answer.id)).min();
        if shown.is_none() && fitting().next().is_some() { Err(Expired) } else { Ok(shown) }
    };
    let (mut all, mut seen) = (Jobs::default(), HashSet::new());
    let is_counted = |one: &&Evidence| {
        one.role == Role::Request
            && one.author != *provider
            && is_known(one)
            && one.at.saturating_add(WINDOW_SECONDS) > as_of
            && !one.is_gone(as_of)
    };
    for request in evidence.iter().filter(is_counted) {
        let is_named = request.named.contains(provider);
        if !(is_named || request.is_open) || !seen.insert(request.id) {
            continue;
        }
        let about = answers.get(&request.id);
        let is_result = |one: &Evidence| one.role == Role::Result && one.kind == request.kind + 1_000;
        let result = first(about, &is_result);
        let is_demand = |one: &Evidence| {
            one.role == Role::PaymentRequired && one.at < request.at.saturating_add(ANSWER_SECONDS)
        };
        let invoice = match result {
            // Nothing more needs to be shown.
            Ok(Some(_)) => Ok(None),
            // Without a result it is nobody's job.
            Ok(None) if !is_named => continue,
            // Whether payment was asked for is not known.
            Ok(None) if request.at <= since.demands => continue,
            _ => first(about, &is_demand),
        };
        let (Ok(result), Ok(invoice)) = (result, invoice) else {
            all.expired.push(request.id);
            continue;
        };
        if is_named || result.is_some() {
            all.counted.push(Job {
                request: request.id,
                customer: request.author,
                at: request.at,
                is_named,
                result: result.map(|(at, id)| (id, at)),
                payment_required: invoice.map(|(_, id)| id),
                payment: None,
            });
        }
    }
    all.counted.sort_unstable_by_key(|job| (std::cmp::Reverse(job.at), job.request));
    let total = all.counted.len();
    // Answers to strangers push out no jobs, and no job one of another outcome.
    let (mut of_customers, mut of_all): (HashMap<_, usize>, HashMap<_, usize>) = Default::default();
    all.counted.retain(|job| {
        let of_customer = of_customers.entry((job.customer, job.is_named)).or_default();
        *of_customer += 1;
        if *of_customer > CUSTOMER_JOBS_MAX {
            return false;
        }
        let outcome = std::mem::discriminant(&job.outcome(as_of));
        let count = of_all.entry((job.is_named, outcome)).or_default();
        *count += 1;
        *count <= OUTCOME_JOBS_MAX
    });
    let is_forgotten = |since: Timestamp| since.saturating_add(WINDOW_SECONDS) > as_of;
    all.are_payments_capped = is_forgotten(since.demands);
    all.is_capped = all.counted.len() < total || is_forgotten(since.results.max(since.demands));
    all.expired.sort_unstable();
    all.demanded = demanded(&all.counted, as_of, &answers);
    all
}

/// There was an answer, and it cannot be shown any more.
struct Expired;

/// Figures of a provider.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Customers who have named the provider, with a delivered job.
    pub customers: u64,
    /// Delivered jobs of requests that name the provider.
    pub delivered: u64,
    /// Requests that name nobody and that it has answered.
    pub open: u64,
    /// Failed jobs.
    pub failed: u64,
    /// Unpaid jobs.
    pub unpaid: u64,
    /// Pending jobs.
    pub pending: u64,
    /// Delivered jobs that are paid, signed by both sides.
    pub paid: u64,
    /// Customers with such a job.
    pub paying: u64,
    /// What the provider has asked for them, in millisatoshis; of those without an amount nothing.
    pub paid_msat: u64,
    /// Whether older payments are not known, so that the three are those of the newest.
    pub are_payments_capped: bool,
    /// The mean of the customers' success ratios (delivered of delivered and failed jobs that name the provider), in thousandths,
    /// rounded down.
    pub success: Option<u64>,
    /// The lower end of Wilson's 95 % interval of that mean, as if it were the part of so many customers who are content, where one
    /// who is not [`paying`](Self::paying) is half a customer. In thousandths, rounded down; 0 without any.
    pub success_bound: u64,
    /// The median of the customers' median times from request to result, in seconds. Of an even number the lower one.
    pub latency: Option<u64>,
    /// The same of the requests of each of the last [`DAYS`] days, today last. Today's are those until now.
    pub latency_by_day: [Option<u64>; DAYS],
    /// Whether there are more jobs, so that these are figures of the newest.
    pub is_capped: bool,
}

/// More than all bitcoin. Larger sums are given as this.
const PAID_MSAT_MAX: u64 = 1 << 53;

/// What is counted of a customer.
#[derive(Default)]
struct Customer {
    delivered: u64,
    /// Delivered and failed jobs.
    decided: u64,
    is_paying: bool,
    /// From request to result.
    seconds: Vec<u64>,
}

/// Figures of these jobs.
pub fn figures(jobs: &Jobs, as_of: Timestamp) -> Figures {
    let (is_capped, are_payments_capped) = (jobs.is_capped, jobs.are_payments_capped);
    let mut figures = Figures { is_capped, are_payments_capped, ..Figures::default() };
    let mut customers: BTreeMap<PubKey, Customer> = BTreeMap::new();
    let mut days: [BTreeMap<PubKey, Vec<u64>>; DAYS] = Default::default();
    for job in &jobs.counted {
        if !job.is_named {
            figures.open += 1;
            continue;
        }
        let outcome = job.outcome(as_of);
        match outcome {
            Outcome::Delivered(_) => figures.delivered += 1,
            Outcome::Failed => figures.failed += 1,
            Outcome::Unpaid => figures.unpaid += 1,
            Outcome::Pending => figures.pending += 1,
        }
        let customer = customers.entry(job.customer).or_default();
        if let Outcome::Delivered(took) = outcome {
            customer.seconds.push(took);
            let ago = (as_of / DAY_SECONDS).saturating_sub(job.at / DAY_SECONDS) as usize;
            if let Some(day) = DAYS.checked_sub(1 + ago) {
                days[day].entry(job.customer).or_default().push(took);
            }
            customer.delivered += 1;
        }
        if let Some(payment) = &job.payment {
            figures.paid += 1;
            figures.paid_msat = figures.paid_msat.saturating_add(payment.asked_msat).min(PAID_MSAT_MAX);
            customer.is_paying = true;
        }
        customer.decided += u64::from(matches!(outcome, Outcome::Delivered(_) | Outcome::Failed));
    }
    figures.paying = customers.values().filter(|customer| customer.is_paying).count() as u64;
    let (mut count, mut halves, mut ratios) = (0, 0, 0);
    for customer in customers.values().filter(|customer| customer.decided > 0) {
        count += 1;
        halves += if customer.is_paying { 2 } else { 1 };
        ratios += customer.delivered * 1_000_000 / customer.decided;
    }
    let mean = u64::checked_div(ratios, count);
    figures.success = mean.map(|millionths| millionths / 1_000);
    figures.success_bound =
        mean.map_or(0, |millionths| lower_bound(millionths as f64 / 1e6, f64::from(halves) / 2.0));
    let served = customers.values_mut().map(|customer| &mut customer.seconds);
    (figures.customers, figures.latency) = median_of_medians(served);
    figures.latency_by_day = days.map(|mut day| median_of_medians(day.values_mut()).1);
    figures
}

/// How many of these have any values, and the median of their medians.
fn median_of_medians<'a>(all: impl Iterator<Item = &'a mut Vec<u64>>) -> (u64, Option<u64>) {
    let mut medians: Vec<u64> = all.filter_map(|values| median(values)).collect();
    (medians.len() as u64, median(&mut medians))
}

/// The lower median.
fn median(values: &mut [u64]) -> Option<u64> {
    values.sort_unstable();
    values.get(values.len().checked_sub(1)? / 2).copied()
}

/// The lower end of Wilson's score interval, in thousandths.
fn lower_bound(part: f64, count: f64) -> u64 {
    const Z: f64 = 1.96;
    let square = Z * Z;
    let spread = Z * (part * (1.0 - part) / count + square / (4.0 * count * count)).sqrt();
    let bound = (part + square / (2.0 * count) - spread) / (1.0 + square / count);
    (bound.clamp(0.0, 1.0) * 1_000.0) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(customer: u8, number: u8, took: Option<u64>) -> Job {
        Job {
            request: EventId([number; 32]),
            customer: PubKey([customer; 32]),
            at: 1_000,
            is_named: true,
            result: took.map(|took| (EventId([200; 32]), 1_000 + took)),
            payment_required: None,
            payment: None,
        }
    }

    fn of(counted: Vec<Job>) -> Figures {
        figures(&Jobs { counted, ..Jobs::default() }, 1_000 + ANSWER_SECONDS)
    }

    #[test]
    fn every_customer_has_the_same_weight() {
        // One key orders a hundred times and is always served; two others are never.
        let mut counted: Vec<Job> = (0..100).map(|number| job(1, number, Some(2))).collect();
        counted.extend([job(2, 101, None), job(3, 102, None)]);
        let found = of(counted);
        assert_eq!((found.delivered, found.failed, found.customers), (100, 2, 1));
        assert_eq!(found.success, Some(333));
    }

    #[test]
    fn few_customers_make_a_low_bound() {
        let content =
            |count: u8| of((1..=count).map(|each| job(each, each, Some(1))).collect()).success_bound;
        assert_eq!([content(1), content(4), content(50)], [115, 342, 866], "half as many, without payments");
        assert_eq!(of(vec![job(1, 1, None)]).success_bound, 0);
        assert_eq!(of(Vec::new()), Figures::default());
    }

    #[test]
    fn latency_is_the_median_of_medians() {
        let took = [(1, 9), (1, 9), (1, 9), (2, 1), (2, 3), (2, 2), (3, 5)];
        let counted =
            took.iter().zip(1..).map(|((customer, took), number)| job(*customer, number, Some(*took)));
        assert_eq!(of(counted.collect()).latency, Some(5));
        let mut early = job(1, 1, Some(0));
        early.result = Some((EventId([9; 32]), 10));
        assert_eq!(of(vec![early]).latency, Some(0), "a result that states an earlier time");
    }

    #[test]
    fn days_begin_at_midnight_and_the_oldest_leave() {
        const NOON: u64 = 100 * DAY_SECONDS + DAY_SECONDS / 2;
        let at = |customer: u8, at: u64, took: u64| Job {
            at,
            result: Some((EventId([9; 32]), at + took)),
            ..job(customer, 0, None)
        };
        let counted = vec![
            at(1, NOON, 7),
            at(1, 100 * DAY_SECONDS, 9),
            at(2, NOON, 30),
            at(1, 100 * DAY_SECONDS - 1, 5),
            at(1, 71 * DAY_SECONDS, 3),
            at(1, 71 * DAY_SECONDS - 1, 1),
            Job { is_named: false, ..at(3, NOON, 1) },
            job(1, 0, None),
        ];
        let found = figures(&Jobs { counted, ..Jobs::default() }, NOON);
        let mut want = [None; DAYS];
        // Of two customers the lower median; the one's is that of 7 and 9.
        (want[0], want[DAYS - 2], want[DAYS - 1]) = (Some(3), Some(5), Some(7));
        assert_eq!(found.latency_by_day, want);
    }

    #[test]
    fn what_becomes_of_a_job() {
        let unanswered = job(1, 1, None);
        let asked = Job { payment_required: Some(EventId([3; 32])), ..unanswered.clone() };
        let last = 1_000 + ANSWER_SECONDS;
        for (job, as_of, want) in [
            (&unanswered, last - 1, Outcome::Pending),
            (&unanswered, last, Outcome::Failed),
            (&asked, last - 1, Outcome::Pending),
            (&asked, last, Outcome::Unpaid),
            (&job(1, 1, Some(9_000)), last, Outcome::Delivered(9_000)),
        ] {
            assert_eq!(job.outcome(as_of), want, "{job:?} {as_of}");
        }
    }
}
