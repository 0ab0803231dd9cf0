//! How long to wait before a relay is connected to again.

use std::time::Duration;

/// The first wait, at most; twice as long each time.
const FIRST: Duration = Duration::from_secs(1);
/// The longest wait.
const LONGEST: Duration = Duration::from_secs(60);

/// Tries without progress, and the waits between them: exponential, with full jitter, so that the clients of a relay that
/// restarts do not all come back at once.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    tries_max: u32,
    failed: u32,
}

impl Backoff {
    /// That gives up after so many tries without progress.
    pub fn new(tries_max: u32) -> Self {
        Backoff { first: FIRST, longest: LONGEST, tries_max, failed: 0 }
    }

    /// That never gives up, with waits from at most `first` to at most `longest`.
    pub fn endless(first: Duration, longest: Duration) -> Self {
        Backoff { first, longest, tries_max: u32::MAX, failed: 0 }
    }

    /// With a first wait of at most this.
    pub fn with_first(self, first: Duration) -> Self {
        Backoff { first, ..self }
    }

    /// After so many tries that have failed, of an earlier one.
    pub fn after(self, failed: u32) -> Self {
        Backoff { failed, ..self }
    }

    /// Tries that have failed since the last one with progress.
    pub fn failures(&self) -> u32 {
        self.failed
    }

    /// A try has failed: how long to wait before the next one, by a random number. `None`: it was the last one.
    pub fn failed(&mut self, had_progress: bool, random: u64) -> Option<Duration> {
        self.failed = if had_progress { 0 } else { self.failed.saturating_add(1) };
        if self.failed >= self.tries_max {
            return None;
        }
        let longest = self.longest.min(self.first.saturating_mul(1 << self.failed.saturating_sub(1).min(16)));
        // Not nothing: a relay that closes at once is not asked in a tight loop.
        let share = 0.1 + 0.9 * (random as f64 / u64::MAX as f64);
        Some(longest.mul_f64(share))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_minute_and_end() {
        let longest = |tries| {
            let mut backoff = Backoff::new(tries);
            std::iter::from_fn(move || backoff.failed(false, u64::MAX)).map(|wait| wait.as_secs())
        };
        assert_eq!(longest(10).collect::<Vec<_>>(), [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!((longest(1).count(), longest(1_000).count()), (0, 999));
        let mut backoff = Backoff::new(3);
        assert!((0..100).all(|_| backoff.failed(true, 0) == Some(Duration::from_millis(100))));
        assert!((0..2).all(|_| backoff.failed(false, 0).is_some()));
        assert_eq!(backoff.failed(false, 0), None);
        assert!(Backoff::new(1).failed(true, 0).is_some(), "a try that got further is none");
        let mut endless = Backoff::endless(Duration::from_secs(2), Duration::from_secs(5));
        let waits = std::iter::from_fn(|| endless.failed(false, u64::MAX)).map(|wait| wait.as_secs());
        assert_eq!(waits.take(1_000).collect::<Vec<_>>(), [vec![2, 4], vec![5; 998]].concat());
    }
}
