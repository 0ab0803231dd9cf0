//! What is asked for a job, and when a wallet is asked whether it is paid. Pure functions; the books are in the store.

/// Millisatoshis of a satoshi. Wallets make invoices of whole ones.
const SATOSHI_MSAT: u64 = 1_000;

/// Seconds for which an invoice can be paid: as long as the feedback that has it.
pub const INVOICE_SECONDS: u64 = 600;
/// Milliseconds after the end of an invoice in which its job still begins: a payment of the last second takes a while to settle.
pub const GRACE_MILLIS: u64 = 60_000;
/// Milliseconds between two questions about an invoice that can be paid.
const POLL_MILLIS: u64 = 2_000;
const POLL_MILLIS_MAX: u64 = 30_000;
/// An invoice is asked for as often as this part of its age, between these.
const POLL_AGE_PART: u64 = 6;
/// Milliseconds for which a wallet is asked for an invoice that has expired: a payment that was held up becomes credit.
const LATE_MILLIS: u64 = 86_400_000;
/// Milliseconds after which an invoice is given up even if the wallet has not answered.
const GIVEN_UP_MILLIS: u64 = 30 * 86_400_000;

/// What a request costs its customer now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quote {
    /// Nothing.
    Free,
    /// The credit suffices.
    Credit,
    /// All of the credit, and an invoice for so many millisatoshis.
    Invoice(u64),
}

/// What a job of this price costs a customer with so much credit, both in millisatoshis.
pub fn quote(price: u64, credit: u64) -> Quote {
    match price.saturating_sub(credit) {
        _ if price == 0 => Quote::Free,
        0 => Quote::Credit,
        rest => Quote::Invoice(rest.div_ceil(SATOSHI_MSAT) * SATOSHI_MSAT),
    }
}

/// What is believed of the amount that a wallet says was paid: the network takes no more than twice what was asked for (BOLT 4).
pub fn received(asked: u64, told: Option<u64>) -> u64 {
    told.unwrap_or(asked).min(asked.saturating_mul(2))
}

/// The times of an invoice, in milliseconds since 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvoiceTimes {
    /// When it was made.
    pub made_at: u64,
    /// Until when it can be paid.
    pub expires_at: u64,
}

impl InvoiceTimes {
    /// When the wallet is asked again, if it says now that the invoice is not paid.
    pub fn next_poll(&self, now: u64) -> u64 {
        let late = now.saturating_sub(self.expires_at);
        now + match late <= GRACE_MILLIS {
            true => (now.saturating_sub(self.made_at) / POLL_AGE_PART).clamp(POLL_MILLIS, POLL_MILLIS_MAX),
            // Each time twice as long after.
            false => late,
        }
    }

    /// Whether the wallet's word that it is not paid is the last one.
    pub fn is_over(&self, now: u64) -> bool {
        now >= self.expires_at.saturating_add(LATE_MILLIS)
    }

    /// Whether it is not worth another question.
    pub fn is_given_up(&self, now: u64) -> bool {
        now >= self.expires_at.saturating_add(GIVEN_UP_MILLIS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credit_is_spent_first_and_invoices_are_of_whole_satoshis() {
        for (price, credit, want) in [
            (0, 0, Quote::Free),
            (0, 500, Quote::Free),
            (21_000, 0, Quote::Invoice(21_000)),
            (21_000, 20_000, Quote::Invoice(1_000)),
            (21_000, 20_999, Quote::Invoice(1_000)),
            (21_000, 21_000, Quote::Credit),
            (21_000, 90_000, Quote::Credit),
            (500, 0, Quote::Invoice(1_000)),
            (1_500, 200, Quote::Invoice(2_000)),
        ] {
            assert_eq!(quote(price, credit), want, "{price} {credit}");
        }
    }

    #[test]
    fn what_a_wallet_says_was_paid_is_bounded() {
        assert_eq!(received(21_000, None), 21_000);
        assert_eq!(received(21_000, Some(20_000)), 20_000);
        assert_eq!(received(21_000, Some(30_000)), 30_000);
        assert_eq!(received(21_000, Some(u64::MAX)), 42_000);
    }

    /// Every question that is asked about an invoice that is never paid.
    #[test]
    fn questions_become_seldom_and_end() {
        let times = InvoiceTimes { made_at: 1_000, expires_at: 1_000 + INVOICE_SECONDS * 1_000 };
        let (mut now, mut polls) = (times.made_at, Vec::new());
        while !times.is_over(now) {
            now = times.next_poll(now);
            polls.push(now);
        }
        let before = polls.iter().filter(|at| **at <= times.expires_at + GRACE_MILLIS).count();
        assert!((30..60).contains(&before), "{before}");
        assert!((8..14).contains(&(polls.len() - before)), "{}", polls.len() - before);
        assert!(polls.windows(2).all(|pair| pair[1] >= pair[0] + POLL_MILLIS));
        // A payment of the last second is asked for in time.
        assert!(
            polls.iter().any(|at| (times.expires_at + 1_000..times.expires_at + GRACE_MILLIS).contains(at))
        );
    }
}
