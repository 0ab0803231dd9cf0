//! Limits of invoices for Blossom (BUD-07) by client address. Limits by key would not help: the keys of uploaders cost nothing, and downloads need
//! none.

use std::collections::HashMap;

use relay_engine::types::{ClientAddress, Timestamp};
use relay_site::{PaymentOutcome, PaymentRequest, Purchase};

use crate::http_jobs::Limiter;
use crate::payment::INVOICE_SECONDS;

/// Most unpaid invoices of an address.
const OPEN_MAX: usize = 16;
/// Most addresses that are counted at a time; all others are counted as one.
const ADDRESSES_MAX: usize = 10_000;

/// Counts invoices by address.
#[derive(Debug, Default)]
pub struct Quotes {
    minute: Limiter,
    /// The purchases that each address has an unpaid invoice for, and when that expires. `None`: all other addresses.
    open: HashMap<Option<ClientAddress>, Vec<(Purchase, Timestamp)>>,
}

impl Quotes {
    /// Whether a request of this address may be carried out (`None`: it has no limits). A repeated request for the invoice of a purchase does not
    /// count again.
    ///
    /// # Errors
    /// The answer, if it has asked for too many.
    pub fn admit(
        &mut self,
        address: Option<ClientAddress>,
        request: &PaymentRequest,
        per_minute: u32,
        now: Timestamp,
    ) -> Result<(), PaymentOutcome> {
        let (Some(own), PaymentRequest::Quote { purchase, .. }) = (address, request) else { return Ok(()) };
        let key = self.key(own, now);
        let open = self.open.entry(key).or_default();
        open.retain(|(_, until)| now < *until);
        if open.iter().any(|(own, _)| own == purchase) {
            return Ok(());
        }
        let too_many = |message: &str| Err(PaymentOutcome::TooMany(message.to_owned()));
        if open.len() >= OPEN_MAX {
            return too_many(
                "too many invoices of this address are not paid; pay one, or try again in ten minutes",
            );
        }
        if self.minute.take(address, per_minute, now).is_err() {
            return too_many("too many invoices were asked for from this address; try again in a minute");
        }
        open.push((purchase.clone(), now.saturating_add(INVOICE_SECONDS)));
        Ok(())
    }

    /// Notes the outcome of an admitted request: an invoice that was not made, or is paid, no longer counts.
    pub fn record(
        &mut self,
        address: Option<ClientAddress>,
        request: &PaymentRequest,
        outcome: &PaymentOutcome,
    ) {
        let ended = match (request, outcome) {
            (PaymentRequest::Quote { .. }, PaymentOutcome::Invoice(_)) => return,
            (PaymentRequest::Quote { purchase, .. }, _) => purchase,
            (PaymentRequest::Check { purchase, .. }, PaymentOutcome::Paid) => purchase,
            (PaymentRequest::Check { .. }, _) => return,
        };
        let key = if self.open.contains_key(&address) { address } else { None };
        if let Some(open) = self.open.get_mut(&key) {
            open.retain(|(own, _)| own != ended);
        }
    }

    fn key(&mut self, address: ClientAddress, now: Timestamp) -> Option<ClientAddress> {
        if self.open.contains_key(&Some(address)) {
            return Some(address);
        }
        if self.open.len() >= ADDRESSES_MAX {
            self.open.retain(|_, open| open.iter().any(|(_, until)| now < *until));
        }
        (self.open.len() < ADDRESSES_MAX).then_some(address)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use relay_site::Operation;

    use super::*;

    fn address(n: u32) -> Option<ClientAddress> {
        Some(ClientAddress::from(IpAddr::V4(Ipv4Addr::from_bits(n))))
    }

    fn quote(size: u64) -> PaymentRequest {
        let purchase = Purchase { operation: Operation::Upload, sha256: "ab".repeat(32), size };
        PaymentRequest::Quote { purchase, msat: 1_000 }
    }

    fn is_refused(quotes: &mut Quotes, n: u32, size: u64, now: Timestamp) -> bool {
        match quotes.admit(address(n), &quote(size), 20, now) {
            Ok(()) => false,
            Err(outcome) => matches!(outcome, PaymentOutcome::TooMany(_)),
        }
    }

    #[test]
    fn an_address_has_few_open_invoices_and_shown_ones_do_not_count() {
        let mut quotes = Quotes::default();
        for size in 0..16 {
            assert!(!is_refused(&mut quotes, 1, size, 60), "{size}");
        }
        for _ in 0..100 {
            assert!(!is_refused(&mut quotes, 1, 3, 60), "it is shown again");
        }
        assert!(is_refused(&mut quotes, 1, 16, 60) && is_refused(&mut quotes, 1, 16, 300));
        assert!(!is_refused(&mut quotes, 2, 16, 60), "another address");
        assert!(quotes.admit(None, &quote(16), 20, 60).is_ok(), "one without limits");
        // One is paid, one was not made, and the others run out.
        let invoice = PaymentOutcome::Invoice("lnbc1".to_owned());
        quotes.record(address(1), &quote(3), &invoice);
        assert!(is_refused(&mut quotes, 1, 16, 300));
        let PaymentRequest::Quote { purchase, .. } = quote(3) else { unreachable!("a quote") };
        let check = PaymentRequest::Check { purchase, preimage: String::new(), spends: false };
        quotes.record(address(1), &check, &PaymentOutcome::Refused(String::new()));
        assert!(is_refused(&mut quotes, 1, 16, 300));
        quotes.record(address(1), &check, &PaymentOutcome::Paid);
        assert!(!is_refused(&mut quotes, 1, 16, 300) && is_refused(&mut quotes, 1, 17, 300));
        quotes.record(address(1), &quote(4), &PaymentOutcome::Unavailable(String::new()));
        assert!(!is_refused(&mut quotes, 1, 17, 300) && is_refused(&mut quotes, 1, 18, 300));
        assert!(!is_refused(&mut quotes, 1, 18, 660));
    }

    #[test]
    fn so_many_are_made_in_a_minute() {
        let mut quotes = Quotes::default();
        for size in 0..20 {
            assert!(!is_refused(&mut quotes, 1, size, 60), "{size}");
            quotes.record(address(1), &quote(size), &PaymentOutcome::Unavailable(String::new()));
        }
        assert!(is_refused(&mut quotes, 1, 20, 119));
        assert!(!is_refused(&mut quotes, 1, 20, 120));
    }

    #[test]
    fn a_flood_of_addresses_shares_one() {
        let mut quotes = Quotes::default();
        for n in 0..ADDRESSES_MAX as u32 {
            assert!(!is_refused(&mut quotes, n, 1, 60));
        }
        for n in 0..16 {
            assert!(!is_refused(&mut quotes, 20_000 + n, u64::from(n), 60), "{n}");
        }
        assert!(is_refused(&mut quotes, 30_000, 99, 60));
        assert!(!is_refused(&mut quotes, 5, 2, 60), "who was known has his own");
        assert!(!is_refused(&mut quotes, 30_000, 99, 660), "they have run out");
    }
}
