//! Rates by client address: what all connections of one address may send together.

use std::collections::BTreeMap;

use super::Bucket;
use crate::types::{ClientAddress, Limits, Now};

/// Addresses in one generation. Two generations are kept, which take 4 MB. If more come within a minute, those that have
/// been silent the longest are forgotten, and begin again.
const ADDRESSES_MAX: usize = 1 << 14;
/// After so long every bucket without a deficit is full again, and there is nothing to remember.
const FULL_MICROS: u64 = 60_000_000;
/// Shards read their clocks at slightly different times. A larger step back means that the clock was set back.
const SKEW_MICROS_MAX: u64 = 1_000_000;

/// Token buckets of client addresses: for events, for their fan-out and for requests. An address that has sent nothing for
/// two minutes is forgotten, unless a deficit has kept one of its buckets from being full again.
///
/// An ordered map, so that no choice of addresses makes a look-up expensive.
#[derive(Debug, Default)]
pub struct AddressRates {
    /// Those that have sent something since `began`.
    active: BTreeMap<ClientAddress, Buckets>,
    /// Those that sent something in the generation before, and nothing since `began`.
    before: BTreeMap<ClientAddress, Buckets>,
    began: Now,
    latest: Now,
}

#[derive(Clone, Copy, Debug)]
struct Buckets {
    events: Bucket,
    /// In units of cost.
    fanout: Bucket,
    requests: Bucket,
}

impl Buckets {
    fn are_full(mut self, limits: &Limits, now: Now) -> bool {
        self.events.is_full(limits.address_events_per_minute_max, now)
            && self.fanout.is_full(limits.address_fanout_cost_per_minute_max, now)
    }
}

impl AddressRates {
    /// Takes one EVENT or AUTH message. False if `address_events_per_minute_max` leaves none.
    ///
    /// Cost: the logarithm of how many addresses are remembered.
    pub fn take_event(&mut self, address: ClientAddress, limits: &Limits, now: Now) -> bool {
        let per_minute = limits.address_events_per_minute_max;
        per_minute == 0
            || self.with(address, limits, now, |buckets, now| buckets.events.take(per_minute, now))
    }

    /// An event of this address had a wrong signature, which costs it `count` further events. That is known only once it has been
    /// verified, so it is the events that follow which are refused.
    ///
    /// Cost: the logarithm of how many addresses are remembered.
    pub fn spend_events(&mut self, address: ClientAddress, count: u64, limits: &Limits, now: Now) {
        let per_minute = limits.address_events_per_minute_max;
        if per_minute > 0 {
            self.with(address, limits, now, |buckets, now| buckets.events.spend(count, per_minute, now));
        }
    }

    /// Whether another EVENT may be delivered. False if those before it have used up `address_fanout_cost_per_minute_max`.
    ///
    /// Cost: the logarithm of how many addresses are remembered.
    pub fn has_fanout_budget(&mut self, address: ClientAddress, limits: &Limits, now: Now) -> bool {
        let per_minute = limits.address_fanout_cost_per_minute_max;
        per_minute == 0
            || self.with(address, limits, now, |buckets, now| buckets.fanout.has_one(per_minute, now))
    }

    /// An event of this address has been delivered, at this cost. That is known only afterwards, so it is the
    /// events that follow which are refused.
    ///
    /// Cost: the logarithm of how many addresses are remembered.
    pub fn spend_fanout(&mut self, address: ClientAddress, cost: u64, limits: &Limits, now: Now) {
        let per_minute = limits.address_fanout_cost_per_minute_max;
        if per_minute > 0 {
            self.with(address, limits, now, |buckets, now| buckets.fanout.spend(cost, per_minute, now));
        }
    }

    /// Takes one REQ or COUNT message. False if `address_requests_per_minute_max` leaves none.
    ///
    /// Cost: the logarithm of how many addresses are remembered.
    pub fn take_request(&mut self, address: ClientAddress, limits: &Limits, now: Now) -> bool {
        let per_minute = limits.address_requests_per_minute_max;
        per_minute == 0
            || self.with(address, limits, now, |buckets, now| buckets.requests.take(per_minute, now))
    }

    /// How many addresses are remembered.
    pub fn len(&self) -> usize {
        self.active.len() + self.before.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn with<T>(
        &mut self,
        address: ClientAddress,
        limits: &Limits,
        now: Now,
        work: impl FnOnce(&mut Buckets, Now) -> T,
    ) -> T {
        let is_skewed = now < self.latest && self.latest.micros_since(now) <= SKEW_MICROS_MAX;
        let now = if is_skewed { self.latest } else { now };
        self.latest = now;
        let is_over = now < self.began || now.micros_since(self.began) >= FULL_MICROS;
        if is_over || self.active.len() >= ADDRESSES_MAX {
            let silent = std::mem::replace(&mut self.before, std::mem::take(&mut self.active));
            let not_full = silent.into_iter().filter(|(_, buckets)| !buckets.are_full(limits, now));
            self.before.extend(not_full.take(ADDRESSES_MAX.saturating_sub(self.before.len())));
            self.began = now;
        }
        let before = &mut self.before;
        let buckets = self.active.entry(address).or_insert_with(|| {
            before.remove(&address).unwrap_or_else(|| Buckets {
                events: Bucket::full(limits.address_events_per_minute_max, now),
                fanout: Bucket::full(limits.address_fanout_cost_per_minute_max, now),
                requests: Bucket::full(limits.address_requests_per_minute_max, now),
            })
        });
        work(buckets, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: fn() -> Limits = || Limits {
        address_events_per_minute_max: 60,
        address_requests_per_minute_max: 6,
        ..Limits::default()
    };

    fn at(ms: u64) -> Now {
        Now::from_millis(1_000_000 + ms)
    }

    fn address(n: u32) -> ClientAddress {
        ClientAddress::V4(n.to_be_bytes())
    }

    #[test]
    fn events_and_requests_have_buckets_of_their_own() {
        let (limits, mut rates) = (LIMITS(), AddressRates::default());
        let events = (0..99).filter(|_| rates.take_event(address(1), &limits, at(0))).count();
        let requests = (0..99).filter(|_| rates.take_request(address(1), &limits, at(0))).count();
        assert_eq!((events, requests), (60, 6));
        assert!(rates.take_event(address(2), &limits, at(0)), "another address");
        assert!(!rates.take_event(address(1), &limits, at(900)));
        assert!(rates.take_event(address(1), &limits, at(1_000)));
        let none = Limits { address_events_per_minute_max: 0, ..limits };
        assert!((0..999).all(|_| rates.take_event(address(1), &none, at(1_000))), "no bound");
    }

    #[test]
    fn events_that_reach_many_make_those_after_them_wait() {
        let (mut limits, mut rates) = (LIMITS(), AddressRates::default());
        limits.address_fanout_cost_per_minute_max = 6_000;
        let one = address(1);
        assert!(rates.has_fanout_budget(one, &limits, at(0)));
        rates.spend_fanout(one, 5_999, &limits, at(0));
        assert!(rates.has_fanout_budget(one, &limits, at(0)), "a unit is left");
        rates.spend_fanout(one, 60_000, &limits, at(0));
        assert!(!rates.has_fanout_budget(one, &limits, at(9)), "and now none");
        assert!(rates.has_fanout_budget(address(2), &limits, at(9)), "another address");
        assert!(rates.take_event(one, &limits, at(9)) && rates.take_request(one, &limits, at(9)));
        // A hundred come back each second. Meanwhile others are forgotten.
        for minute in 1..10 {
            rates.take_event(address(3), &limits, at(60_000 * minute));
        }
        assert_eq!(rates.len(), 2);
        assert!(
            !rates.has_fanout_budget(one, &limits, at(599_999)),
            "there is a deficit, however silent it was"
        );
        assert!(rates.has_fanout_budget(one, &limits, at(600_000)), "the deficit is made up");
        limits.address_fanout_cost_per_minute_max = 0;
        rates.spend_fanout(one, u64::MAX, &limits, at(10));
        assert!(rates.has_fanout_budget(one, &limits, at(10)), "no bound");
    }

    /// Regression: what wrong signatures had cost beyond the bucket was forgotten after two silent minutes, unless the fan-out had a
    /// deficit too.
    #[test]
    fn a_deficit_of_events_is_remembered() {
        let (limits, mut rates) = (LIMITS(), AddressRates::default());
        let one = address(1);
        assert!(rates.take_event(one, &limits, at(0)));
        rates.spend_events(one, 60 + 600, &limits, at(0));
        for minute in 1..10 {
            rates.take_event(address(3), &limits, at(60_000 * minute));
        }
        assert_eq!(rates.len(), 2);
        assert!(!rates.take_event(one, &limits, at(601_000)), "one a second comes back, and 601 are missing");
        assert!(rates.take_event(one, &limits, at(602_000)));
    }

    /// Neither the turnover of generations nor shards whose clocks differ slightly give an address more than its average.
    #[test]
    fn an_address_gets_its_average_however_it_asks() {
        let (limits, mut rates) = (LIMITS(), AddressRates::default());
        let mut taken = 0;
        for ms in 0..600_000 {
            let skew = if ms % 2 == 0 { 0 } else { 20.min(ms) };
            taken += u64::from(rates.take_event(address(1), &limits, at(ms - skew)));
        }
        assert!((650..=661).contains(&taken), "a burst of 60 and one a second for 600 seconds: {taken}");
    }

    #[test]
    fn the_silent_are_forgotten_and_memory_is_bounded() {
        let (limits, mut rates) = (LIMITS(), AddressRates::default());
        (0..1_000).for_each(|n| assert!(rates.take_event(address(n), &limits, at(0))));
        assert_eq!(rates.len(), 1_000);
        for minute in 1..=2 {
            rates.take_event(address(0), &limits, at(60_000 * minute));
        }
        assert_eq!(rates.len(), 1, "of those that were silent for two minutes nothing is left");
        (0..200_000).for_each(|n| {
            rates.take_event(address(n), &limits, at(120_000));
        });
        assert!(rates.len() <= 2 * ADDRESSES_MAX, "{}", rates.len());
    }

    #[test]
    fn a_clock_that_is_put_back_gives_nothing() {
        let (limits, mut rates) = (LIMITS(), AddressRates::default());
        while rates.take_event(address(1), &limits, at(500_000)) {}
        assert!(!rates.take_event(address(1), &limits, at(0)));
        assert!(rates.take_event(address(1), &limits, at(1_000)));
        assert!(!rates.take_event(address(1), &limits, at(1_000)));
    }
}
