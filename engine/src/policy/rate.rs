//! Token buckets: an average rate per minute, and bursts of as much as one minute allows.

use crate::types::Now;

/// A token bucket.
#[derive(Clone, Copy, Debug)]
pub struct Bucket {
    /// Thousandths of a message.
    milli_tokens: u64,
    /// What was taken beyond what there was: it is made up before the bucket fills again.
    milli_deficit: u64,
    filled: Now,
}

impl Bucket {
    /// A full bucket for `per_minute` messages.
    pub fn full(per_minute: u32, now: Now) -> Self {
        Bucket { milli_tokens: u64::from(per_minute) * 1000, milli_deficit: 0, filled: now }
    }

    /// What is in the bucket, in thousandths of a message, and as of when; for [`Bucket::restored`].
    pub fn level(&self) -> (u64, Now) {
        (self.milli_tokens, self.filled)
    }

    /// A bucket with the level that [`Bucket::level`] returned.
    pub fn restored((milli_tokens, filled): (u64, Now)) -> Self {
        Bucket { milli_tokens, milli_deficit: 0, filled }
    }

    /// Takes one message out. False if there is none left; `per_minute` 0 is unlimited.
    pub fn take(&mut self, per_minute: u32, now: Now) -> bool {
        let has_one = self.has_one(per_minute, now);
        if has_one {
            self.spend(1, per_minute, now);
        }
        has_one
    }

    /// Whether there is one message left; `per_minute` 0 is unlimited.
    pub fn has_one(&mut self, per_minute: u32, now: Now) -> bool {
        if per_minute == 0 {
            return true;
        }
        self.fill(per_minute, now);
        self.milli_tokens >= 1000
    }

    /// Takes this many out. What is missing is the deficit.
    pub fn spend(&mut self, count: u64, per_minute: u32, now: Now) {
        self.fill(per_minute, now);
        let wanted = count.saturating_mul(1000);
        let taken = wanted.min(self.milli_tokens);
        self.milli_tokens -= taken;
        self.milli_deficit = self.milli_deficit.saturating_add(wanted - taken);
    }

    /// Whether nothing is missing; `per_minute` 0 is unlimited.
    pub fn is_full(&mut self, per_minute: u32, now: Now) -> bool {
        self.fill(per_minute, now);
        per_minute == 0 || self.milli_tokens >= u64::from(per_minute) * 1000
    }

    fn fill(&mut self, per_minute: u32, now: Now) {
        let capacity = u64::from(per_minute) * 1000;
        let gained = now.micros_since(self.filled).saturating_mul(u64::from(per_minute)) / 60_000;
        // A time too short for a thousandth of a token is not counted yet: `filled` stays, so that short times add up.
        if gained > 0 {
            let made_up = gained.min(self.milli_deficit);
            self.milli_deficit -= made_up;
            self.milli_tokens = self.milli_tokens.saturating_add(gained - made_up).min(capacity);
            self.filled = now;
        }
        if now < self.filled {
            self.filled = now;
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

    #[test]
    fn what_is_spent_beyond_a_bucket_is_owed() {
        let at = |ms: u64| Now::from_millis(1_000_000 + ms);
        let mut bucket = Bucket::full(60, at(0));
        bucket.spend(59, 60, at(0));
        assert!(bucket.has_one(60, at(0)) && bucket.has_one(60, at(0)), "asking takes nothing");
        bucket.spend(601, 60, at(0));
        assert!(!bucket.has_one(60, at(600_999)) && bucket.has_one(60, at(601_000)), "600 are made up");
        assert!(!bucket.is_full(60, at(601_000)) && bucket.is_full(60, at(660_000)), "and then it fills");
        assert!(bucket.has_one(0, at(0)), "no bound");
    }
}
