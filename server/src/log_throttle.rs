//! Throttles log messages: what may happen thousands of times a second is logged once every ten seconds, with a count.

use std::cell::Cell;
use std::time::{Duration, Instant};

const EVERY: Duration = Duration::from_secs(10);

/// Decides when to log. For one thread.
#[derive(Debug, Default)]
pub(crate) struct LogThrottle {
    logged_at: Cell<Option<Instant>>,
    suppressed: Cell<u64>,
}

impl LogThrottle {
    /// It has happened, at `now`. Says how often it has since it was last said, this time included, if it should be
    /// said now.
    pub(crate) fn record(&self, now: Instant) -> Option<u64> {
        self.suppressed.set(self.suppressed.get() + 1);
        if self.logged_at.get().is_some_and(|at| now.saturating_duration_since(at) < EVERY) {
            return None;
        }
        self.logged_at.set(Some(now));
        Some(self.suppressed.take())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_time_is_said_and_then_one_in_ten_seconds() {
        let (throttle, begin) = (LogThrottle::default(), Instant::now());
        let said: Vec<_> = [0, 1, 9, 10, 12, 31]
            .into_iter()
            .filter_map(|seconds| Some((seconds, throttle.record(begin + Duration::from_secs(seconds))?)))
            .collect();
        assert_eq!(said, [(0, 1), (10, 3), (31, 2)]);
    }
}
