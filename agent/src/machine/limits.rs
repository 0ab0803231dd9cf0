//! How often: jobs of a customer, errors to a customer, pongs, early cancellations. Counted by the minute, in memory only: an agent that has been
//! closed has been idle.

use std::collections::HashMap;

use relay_engine::types::{Now, PubKey};

/// Customers that are counted in one minute. With more, all are counted anew.
const CUSTOMERS_MAX: usize = 10_000;
/// Errors that one customer is sent in a minute; further refusals are silent.
const ERRORS_MAX: u32 = 10;
/// Errors that all customers are sent in a minute, so that many keys are no way around [`ERRORS_MAX`].
const ALL_ERRORS_MAX: u32 = 300;
/// Pongs to one customer, and to all, in a minute.
const PONGS_MAX: u32 = 6;
const ALL_PONGS_MAX: u32 = 60;

/// Cancellations of requests that are not known yet which are kept of one customer, and of all, in a minute.
const CANCELLATIONS_MAX: u32 = 16;
const ALL_CANCELLATIONS_MAX: u32 = 160;

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    jobs: u32,
    errors: u32,
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
    fn counts(&mut self, now: Now, customer: &PubKey) -> (&mut Counts, &mut Counts) {
        let minute = now.seconds() / 60;
        if self.minute != minute || self.customers.len() >= CUSTOMERS_MAX {
            let all = if self.minute == minute { self.all } else { Counts::default() };
            *self = Rates { minute, all, customers: HashMap::new() };
        }
        (&mut self.all, self.customers.entry(*customer).or_default())
    }

    /// Counts a job; whether it is one of the first `max` of this minute.
    pub(super) fn take_job(&mut self, now: Now, customer: &PubKey, max: u32) -> bool {
        let (_, counts) = self.counts(now, customer);
        counts.jobs = counts.jobs.saturating_add(1);
        counts.jobs <= max
    }

    /// Counts an error; whether it may be sent.
    pub(super) fn take_error(&mut self, now: Now, customer: &PubKey) -> bool {
        let (all, counts) = self.counts(now, customer);
        let may = counts.errors < ERRORS_MAX && all.errors < ALL_ERRORS_MAX;
        if may {
            counts.errors += 1;
            all.errors += 1;
        }
        may
    }

    /// Counts the cancellation of an unknown request; whether it may be kept.
    pub(super) fn take_cancellation(&mut self, now: Now, customer: &PubKey) -> bool {
        let (all, counts) = self.counts(now, customer);
        let may = counts.cancellations < CANCELLATIONS_MAX && all.cancellations < ALL_CANCELLATIONS_MAX;
        if may {
            counts.cancellations += 1;
            all.cancellations += 1;
        }
        may
    }

    /// Counts a pong; whether it may be sent.
    pub(super) fn take_pong(&mut self, now: Now, customer: &PubKey) -> bool {
        let (all, counts) = self.counts(now, customer);
        let may = counts.pongs < PONGS_MAX && all.pongs < ALL_PONGS_MAX;
        if may {
            counts.pongs += 1;
            all.pongs += 1;
        }
        may
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
        let jobs = |rates: &mut Rates, now, who| (0..5).filter(|_| rates.take_job(now, &who, 3)).count();
        assert_eq!(jobs(&mut rates, now, customer(1)), 3);
        assert_eq!(jobs(&mut rates, now, customer(2)), 3);
        assert_eq!(jobs(&mut rates, now, customer(1)), 0);
        assert_eq!(jobs(&mut rates, later, customer(1)), 3);
        let errors = (0..50).filter(|_| rates.take_error(later, &customer(1))).count();
        assert_eq!(errors, 10);
    }

    #[test]
    fn a_flood_by_many_keys_is_sent_a_bounded_number_of_errors() {
        let mut rates = Rates::default();
        let now = Now::from_seconds(600);
        let sent = (0..30_000).filter(|number| rates.take_error(now, &customer(*number))).count();
        assert_eq!(sent, 300);
        assert!(rates.customers.len() <= CUSTOMERS_MAX);
        let pongs = (0..1_000).filter(|number| rates.take_pong(now, &customer(*number))).count();
        assert_eq!(pongs, 60);
    }
}
