//! How many jobs a client address may order: the keys of buyers are new each time, so the agent's limits of a customer do not hold.

use std::collections::HashMap;

use relay_engine::types::{ClientAddress, Timestamp};
use relay_site::HttpResponse;

/// Addresses that are known at a time; beyond that all others are one.
const ADDRESSES_MAX: usize = 10_000;

/// Counts orders of this minute.
#[derive(Debug, Default)]
pub struct Limiter {
    minute: Timestamp,
    counts: HashMap<ClientAddress, u32>,
    others: u32,
}

impl Limiter {
    /// Counts an order of this address (`None`: it has no limits).
    ///
    /// # Errors
    /// 429 if it has had `max` in this minute.
    pub fn take(
        &mut self,
        address: Option<ClientAddress>,
        max: u32,
        now: Timestamp,
    ) -> Result<(), HttpResponse> {
        let Some(address) = address else { return Ok(()) };
        if self.minute != now / 60 {
            *self = Limiter { minute: now / 60, ..Limiter::default() };
        }
        let has_room = self.counts.len() < ADDRESSES_MAX;
        let count = match self.counts.get_mut(&address) {
            Some(count) => count,
            None if has_room => self.counts.entry(address).or_default(),
            None => &mut self.others,
        };
        if *count >= max {
            let message = format!("an address may order {max} jobs a minute");
            return Err(HttpResponse::error(429, &message).with("retry-after", (60 - now % 60).to_string()));
        }
        *count += 1;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;

    #[test]
    fn each_address_has_its_own_and_a_flood_of_addresses_shares_one() {
        let address = |n: u32| Some(ClientAddress::from(IpAddr::V4(Ipv4Addr::from_bits(n))));
        let mut limiter = Limiter::default();
        for n in 0..ADDRESSES_MAX as u32 {
            assert!(limiter.take(address(n), 2, 60).is_ok());
        }
        assert!(limiter.take(address(5), 2, 61).is_ok());
        let refused = limiter.take(address(5), 2, 70).unwrap_err();
        assert_eq!((refused.status, refused.headers.last().unwrap().1.as_ref()), (429, "50"));
        assert!(limiter.take(address(20_000), 2, 70).is_ok() && limiter.take(address(20_001), 2, 70).is_ok());
        assert!(limiter.take(address(20_002), 2, 70).is_err());
        assert!(limiter.take(None, 2, 70).is_ok());
        assert!(limiter.take(address(20_002), 2, 120).is_ok(), "the next minute");
    }
}
