//! Amounts of invoices, and when a wallet is asked whether they are paid. Pure functions; the books are in the store.

use unicode_segmentation::UnicodeSegmentation;

/// Millisatoshis of a satoshi. Wallets make invoices of whole ones.
const SATOSHI_MSAT: u64 = 1_000;

/// Seconds for which an invoice can be paid: as long as it takes the feedback with it to expire (NIP-40).
pub const INVOICE_SECONDS: u64 = 600;
/// Milliseconds after the end of an invoice in which its job still begins: a payment of the last second takes a while to settle.
pub const GRACE_MILLIS: u64 = 60_000;
/// Milliseconds between two polls of an invoice that can be paid, at least and at most.
const POLL_MILLIS: u64 = 2_000;
const POLL_MILLIS_MAX: u64 = 30_000;
/// Between these the interval is the age of the invoice divided by this.
const POLL_AGE_PART: u64 = 6;
/// Most milliseconds between the time of a poll and the opening of an agent for it.
const OPENING_MILLIS_MAX: u64 = 30_000;
/// Milliseconds for which an expired invoice is polled: a delayed payment becomes credit.
const LATE_MILLIS: u64 = 86_400_000;
/// Milliseconds after which an invoice is given up even if the wallet has not answered.
const GIVEN_UP_MILLIS: u64 = 30 * 86_400_000;

/// Milliseconds that the wallet has to take a payment, after the time for the work is over.
pub const SETTLE_MILLIS: u64 = 3_600_000;
/// Seconds for a block of Bitcoin: half of the average, for times when blocks come twice as fast.
const BLOCK_SECONDS: u64 = 300;
/// Blocks before the expiry of a held payment at which nodes cancel it by themselves.
const BLOCKS_KEPT: u64 = 40;
/// Milliseconds until a wallet is asked again to settle or cancel a hold invoice, at first and at most.
const HOLD_RETRY_MILLIS: u64 = 2_000;
const HOLD_RETRY_MILLIS_MAX: u64 = 60_000;

/// Least reserve for the routing fees of a payment, in millisatoshis: wallets such as Alby Hub let fees be so much, whatever the amount.
const FEE_RESERVE_MSAT_MIN: u64 = 10_000;

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

/// The amount that is credited if a wallet says that `told` was paid: at most twice what was asked for, since no node accepts more (BOLT 4).
pub fn received(asked: u64, told: Option<u64>) -> u64 {
    told.unwrap_or(asked).min(asked.saturating_mul(2))
}

/// What is reserved for the routing fees of a refund, or of a share's payout, of `msat` millisatoshis; in millisatoshis.
pub fn fee_reserve(msat: u64) -> u64 {
    (msat / 100).max(FEE_RESERVE_MSAT_MIN)
}

/// The largest payout, in whole satoshis, that is with its [`fee_reserve`] at most `msat`; in millisatoshis.
pub fn payable(msat: u64) -> u64 {
    let of_part = (u128::from(msat) * 100 / 101) as u64;
    let most = of_part.min(msat.saturating_sub(FEE_RESERVE_MSAT_MIN));
    most / SATOSHI_MSAT * SATOSHI_MSAT
}

/// Blocks for which a payment has to be held (`min_final_cltv_expiry_delta`), if its work may take so many seconds.
pub fn hold_blocks(seconds: u64) -> u64 {
    BLOCKS_KEPT + seconds.saturating_add(SETTLE_MILLIS / 1_000).div_ceil(BLOCK_SECONDS)
}

/// Milliseconds until a wallet is asked again to settle or cancel, after so many failures.
pub fn hold_retry_millis(tries: u32) -> u64 {
    (HOLD_RETRY_MILLIS << tries.min(16)).min(HOLD_RETRY_MILLIS_MAX)
}

/// The sample of a result: its first `chars` characters, but no more than `percent` percent of it. It is not cut within a grapheme.
pub fn sample(result: &str, chars: u32, percent: u32) -> &str {
    let all = result.chars().count() as u64;
    let mut left = u64::from(chars).min(all * u64::from(percent.min(100)) / 100);
    let mut end = 0;
    for (at, character) in result.grapheme_indices(true) {
        let Some(rest) = left.checked_sub(character.chars().count() as u64) else { break };
        (left, end) = (rest, at + character.len());
    }
    &result[..end]
}

/// The times of an invoice, in milliseconds since 1970. The times of its polls follow from them, so an agent that is opened again polls as if it had
/// not been closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvoiceTimes {
    /// When it was made.
    pub made_at: u64,
    /// Until when it can be paid. That may be longer than was asked for.
    pub expires_at: u64,
}

impl InvoiceTimes {
    /// Until when it pays for its job.
    fn job_ends_at(&self) -> u64 {
        self.expires_at.min(self.made_at.saturating_add(INVOICE_SECONDS * 1_000))
    }

    /// Until when its job waits for it.
    pub fn job_waits_until(&self) -> u64 {
        self.job_ends_at().saturating_add(GRACE_MILLIS)
    }

    /// The time of the poll after the one at this time.
    fn poll_after(&self, at: u64) -> u64 {
        let late = at.saturating_sub(self.job_ends_at());
        at + match late <= GRACE_MILLIS {
            true => (at.saturating_sub(self.made_at) / POLL_AGE_PART).clamp(POLL_MILLIS, POLL_MILLIS_MAX),
            // Each time twice as long after.
            false => late,
        }
    }

    /// The first poll for which `is_wanted` is true, given its time and that of the next one.
    fn first_poll(&self, is_wanted: impl Fn(u64, u64) -> bool) -> u64 {
        let mut at = self.poll_after(self.made_at);
        loop {
            let next = self.poll_after(at);
            if is_wanted(at, next) {
                return at;
            }
            at = next;
        }
    }

    /// When the next poll is, if the wallet says now that the invoice is not paid.
    pub fn next_poll(&self, now: u64) -> u64 {
        self.first_poll(|at, _| at >= now.saturating_add(POLL_MILLIS / 2))
    }

    /// When an agent that is opened now polls. A poll that has just become due is not skipped: the agent may have been opened for it.
    pub fn poll_at_opening(&self, now: u64) -> u64 {
        let slack = |at: u64, next: u64| (next.saturating_sub(at) / 8).min(OPENING_MILLIS_MAX);
        self.first_poll(|at, next| at.saturating_add(slack(at, next)) >= now)
    }

    /// Whether an answer that it is not paid is final.
    pub fn is_over(&self, now: u64) -> bool {
        now >= self.expires_at.saturating_add(LATE_MILLIS)
    }

    /// When it is given up whether the wallet has answered or not.
    pub fn given_up_at(&self) -> u64 {
        self.expires_at.saturating_add(GIVEN_UP_MILLIS)
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
    fn what_is_payable_leaves_room_for_fees() {
        for (msat, expected) in [
            (0, 0),
            (10_999, 0),
            (11_000, 1_000),
            (210_000, 200_000),
            (210_999, 200_000),
            (2_020_000, 2_000_000),
        ] {
            assert_eq!(payable(msat), expected, "{msat}");
        }
        for msat in (0..5_000_000).step_by(777).chain([u64::MAX]) {
            let most = payable(msat);
            assert!(most == 0 || most + fee_reserve(most) <= msat, "{msat} {most}");
            let more = most.saturating_add(SATOSHI_MSAT);
            assert!(more.saturating_add(fee_reserve(more)) > msat || msat == u64::MAX, "{msat} {most}");
        }
    }

    #[test]
    fn a_payment_is_held_for_longer_than_its_work_takes() {
        for (seconds, blocks) in [(60, 53), (3_600, 64), (21_600, 124)] {
            assert_eq!(hold_blocks(seconds), blocks);
            // With blocks twice as often as they come, and those left that nodes do not wait for.
            assert!((blocks - BLOCKS_KEPT) * BLOCK_SECONDS >= seconds + SETTLE_MILLIS / 1_000);
        }
        let waits: Vec<u64> = (0..7).map(hold_retry_millis).collect();
        assert_eq!(waits, [2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000]);
    }

    #[test]
    fn a_sample_is_the_beginning_and_never_most_of_it() {
        for (result, chars, percent, expected) in [
            ("", 10, 50, ""),
            ("abcdefghij", 3, 50, "abc"),
            ("abcdefghij", 30, 50, "abcde"),
            ("abcdefghij", 30, 25, "ab"),
            ("abc", 30, 25, ""),
            ("äöüß", 30, 50, "äö"),
            // Two characters that are one.
            ("ae\u{301}bcdef", 2, 100, "a"),
            ("👩‍💻👩‍💻abcdef", 30, 50, "👩‍💻👩‍💻"),
            ("👩‍💻👩‍💻", 30, 40, ""),
        ] {
            assert_eq!(sample(result, chars, percent), expected, "{result} {chars} {percent}");
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
    /// An agent that is opened for each question, a little later, asks each; one that is opened at other times asks none.
    #[test]
    fn questions_are_the_same_after_a_restart() {
        let times = InvoiceTimes { made_at: 1_000, expires_at: 1_000 + 3_600_000 };
        let mut at = times.next_poll(times.made_at);
        while !times.is_over(at) {
            let next = times.next_poll(at);
            assert_eq!(times.poll_at_opening(at), at);
            assert_eq!(times.poll_at_opening(at + 200), at);
            assert_eq!(times.poll_at_opening(at + (next - at) / 2), next);
            at = next;
        }
        // Long after the end there is one more.
        let late = times.given_up_at();
        assert!((late..2 * late).contains(&times.poll_at_opening(late)));
    }

    #[test]
    fn an_invoice_that_can_be_paid_for_longer_is_asked_for_as_long() {
        let day = 86_400_000;
        let times = InvoiceTimes { made_at: 0, expires_at: 2 * day };
        assert_eq!(times.job_waits_until(), INVOICE_SECONDS * 1_000 + GRACE_MILLIS);
        assert!(!times.is_over(3 * day - 1) && times.is_over(3 * day));
        let (mut at, mut polls) = (0, 0);
        while !times.is_over(at) {
            (at, polls) = (times.next_poll(at), polls + 1);
        }
        assert!(polls < 70, "{polls}");
        let short = InvoiceTimes { made_at: 0, expires_at: 5_000 };
        assert_eq!(short.job_waits_until(), 5_000 + GRACE_MILLIS);
    }
}
