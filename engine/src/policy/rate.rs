//! Token buckets: an average rate per minute, and bursts of as much as one minute allows.

use crate::types::Now;

/// A token bucket.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    /// Thousandths of a message.
    milli_tokens: u64,
    filled: Now,
}

impl Bucket {
    /// A full bucket for `per_minute` messages.
    pub fn full(per_minute: u32, now: Now) -> Self {
        Bucket { milli_tokens: u64::from(per_minute) * 1000, filled: now }
    }

    /// What is in the bucket, in thousandths of a message, and as of when; for [`Bucket::restored`].
    pub fn level(&self) -> (u64, Now) {
        (self.milli_tokens, self.filled)
    }

    /// A bucket with the level that [`Bucket::level`] returned.
    pub fn restored((milli_tokens, filled): (u64, Now)) -> Self {
        Bucket { milli_tokens, filled }
    }

    /// Takes one message out. False if there is none left; `per_minute` 0 is unlimited.
    pub fn take(&mut self, per_minute: u32, now: Now) -> bool {
        if per_minute == 0 {
            return true;
        }
        let capacity = u64::from(per_minute) * 1000;
        let gained = now.micros_since(self.filled).saturating_mul(u64::from(per_minute)) / 60_000;
        // A time too short for a thousandth of a token is not counted yet: `filled` stays, so that short times add up.
        if gained > 0 {
            self.milli_tokens = self.milli_tokens.saturating_add(gained).min(capacity);
            self.filled = now;
        }
        if now < self.filled {
            self.filled = now;
        }
        match self.milli_tokens.checked_sub(1000) {
            Some(left) => {
                self.milli_tokens = left;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minute_of_burst_then_the_average() {
        let at = |ms: u64| Now::from_millis(1_000_000 + ms);
        let mut bucket = Bucket::full(60, at(0));
        assert_eq!((0..100).filter(|_| bucket.take(60, at(0))).count(), 60);
        assert!(!bucket.take(60, at(999)));
        assert!(bucket.take(60, at(1000)));
        assert!(!bucket.take(60, at(1500)));
        // Short times add up: 1.9 ms at 600 a second are more than one message each.
        let us = |us: u64| Now::from_micros(us);
        let mut quick = Bucket::full(36_000, us(0));
        while quick.take(36_000, us(0)) {}
        assert!((1..1000).all(|turn| quick.take(36_000, us(turn * 1_900))));
        assert_eq!((0..1000).filter(|_| bucket.take(60, at(600_000))).count(), 60);
        // A clock that steps back gives nothing and takes nothing.
        assert!(!bucket.take(60, at(0)));
        assert!(bucket.take(60, at(1000)));
        assert!((0..1000).all(|_| bucket.take(0, at(0))), "no bound");
    }
}
