//! Rate limits, counted by the minute: jobs of a customer, and what [`RateLimitKind`] lists. An agent that is loaded again within
//! the minute goes on from what is in the database: jobs and errors of each customer, pongs and cancellations of all together.

use std::collections::HashMap;

use relay_engine::sql::{SqlConn, StoreError};
use relay_engine::types::{Now, PubKey};
use serde::{Deserialize, Serialize};

use crate::job::JobState;
use crate::store::{self, Batch};

/// Customers that are counted in one minute, each by itself; those that come later share a count.
const CUSTOMERS_MAX: usize = 10_000;
/// What further customers are counted as. It is nobody's key.
const OTHERS: PubKey = PubKey([0; 32]);

/// What is limited besides jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RateLimitKind {
    /// Errors to requests that are refused; further refusals are silent.
    Error,
    Pong,
    /// Cancellations of requests that are not known yet.
    Cancellation,
    /// Requests to vanish that go through the history.
    Vanish,
    /// Requests to the API by customers.
    ApiRead,
}

/// Most in a minute for one customer, and for all together (many keys are no way around it), in the order of [`RateLimitKind`].
const MAX: [(u32, u32); 5] = [(10, 300), (6, 60), (16, 160), (6, 60), (60, 600)];

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    jobs: u32,
    rated: [u32; MAX.len()],
}

/// What is stored of it, when it changes: pongs and cancellations leave no job behind from which they could be counted again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
struct StoredRates {
    minute: u64,
    pongs: u32,
    cancellations: u32,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Rates {
    minute: u64,
    all: Counts,
    customers: HashMap<PubKey, Counts>,
}

impl Rates {
    const NAME: &'static str = "rates";

    /// What has been counted in this minute before the agent was closed.
    pub(super) fn open(now: Now, conn: &impl SqlConn) -> Result<Self, StoreError> {
        let minute = now.seconds() / 60;
        let mut rates = Rates { minute, ..Rates::default() };
        if let Some(stored) = store::get_meta::<StoredRates>(conn, Self::NAME)?
            && stored.minute == minute
        {
            rates.all.rated[RateLimitKind::Pong as usize] = stored.pongs;
            rates.all.rated[RateLimitKind::Cancellation as usize] = stored.cancellations;
        }
        for (customer, state) in store::received_since(conn, minute * 60_000)? {
            let (all, counts) = rates.counts(now, &customer);
            counts.jobs = counts.jobs.saturating_add(1);
            if state == JobState::Rejected {
                all.rated[RateLimitKind::Error as usize] += 1;
                counts.rated[RateLimitKind::Error as usize] += 1;
            }
        }
        Ok(rates)
    }

    fn counts(&mut self, now: Now, customer: &PubKey) -> (&mut Counts, &mut Counts) {
        let minute = now.seconds() / 60;
        if self.minute != minute {
            *self = Rates { minute, ..Rates::default() };
        }
        let is_counted = self.customers.len() < CUSTOMERS_MAX || self.customers.contains_key(customer);
        let key = if is_counted { *customer } else { OTHERS };
        (&mut self.all, self.customers.entry(key).or_default())
    }

    /// Counts a job; whether it is one of the first `max` of this minute.
    pub(super) fn count_job(&mut self, now: Now, customer: &PubKey, max: u32) -> bool {
        let (_, counts) = self.counts(now, customer);
        counts.jobs = counts.jobs.saturating_add(1);
        counts.jobs <= max
    }

    /// Counts something else; whether it may be done.
    pub(super) fn count(&mut self, now: Now, customer: &PubKey, what: RateLimitKind) -> bool {
        let (all, counts) = self.counts(now, customer);
        let (own_max, all_max) = MAX[what as usize];
        let (all, own) = (&mut all.rated[what as usize], &mut counts.rated[what as usize]);
        let may = *own < own_max && *all < all_max;
        if may {
            *own += 1;
            *all += 1;
        }
        may
    }

    /// Stores how many pongs and cancellations there have been.
    pub(super) fn store(&self, batch: &mut Batch) {
        let Rates { minute, all, .. } = self;
        let (pongs, cancellations) =
            (all.rated[RateLimitKind::Pong as usize], all.rated[RateLimitKind::Cancellation as usize]);
        store::put_meta(batch, Self::NAME, &StoredRates { minute: *minute, pongs, cancellations });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn customer(number: u32) -> PubKey {
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&number.to_be_bytes());
        PubKey(bytes)
    }

    #[test]
    fn each_customer_has_so_many_a_minute() {
        let mut rates = Rates::default();
        let (now, later) = (Now::from_seconds(600), Now::from_seconds(660));
        let jobs = |rates: &mut Rates, now, who| (0..5).filter(|_| rates.count_job(now, &who, 3)).count();
        assert_eq!(jobs(&mut rates, now, customer(1)), 3);
        assert_eq!(jobs(&mut rates, now, customer(2)), 3);
        assert_eq!(jobs(&mut rates, now, customer(1)), 0);
        assert_eq!(jobs(&mut rates, later, customer(1)), 3);
        let errors = (0..50).filter(|_| rates.count(later, &customer(1), RateLimitKind::Error)).count();
        assert_eq!(errors, 10);
    }

    #[test]
    fn a_flood_by_many_keys_is_sent_a_bounded_number_of_errors() {
        let mut rates = Rates::default();
        let now = Now::from_seconds(600);
        let sent =
            (0..30_000).filter(|number| rates.count(now, &customer(*number), RateLimitKind::Error)).count();
        assert_eq!(sent, 300);
        assert!(rates.customers.len() <= CUSTOMERS_MAX + 1);
        let jobs = |rates: &mut Rates, who| (0..5).filter(|_| rates.count_job(now, &who, 3)).count();
        assert_eq!(
            (jobs(&mut rates, customer(1)), jobs(&mut rates, customer(1))),
            (3, 0),
            "it is not counted anew"
        );
        assert_eq!(
            (jobs(&mut rates, customer(40_000)), jobs(&mut rates, customer(40_001))),
            (3, 0),
            "they share"
        );
        let pongs =
            (0..1_000).filter(|number| rates.count(now, &customer(*number), RateLimitKind::Pong)).count();
        assert_eq!(pongs, 60);
    }
}
