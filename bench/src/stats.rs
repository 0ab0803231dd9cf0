//! Percentiles.

use std::time::Duration;

use serde::Serialize;

/// Percentiles of many durations.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Latency {
    /// Half took at most this many milliseconds.
    pub p50_ms: f64,
    /// 99 of 100 took at most this many milliseconds.
    pub p99_ms: f64,
    /// The longest, in milliseconds.
    pub max_ms: f64,
}

impl Latency {
    /// Of durations in microseconds, in any order; zeros if there are none.
    pub fn of(mut micros: Vec<u32>) -> Self {
        micros.sort_unstable();
        let at = |permille: usize| {
            let rank = (micros.len() * permille).div_ceil(1000).max(1);
            micros.get(rank - 1).map_or(0.0, |micros| f64::from(*micros) / 1000.0)
        };
        Latency { p50_ms: at(500), p99_ms: at(990), max_ms: at(1000) }
    }
}

/// Whole microseconds, at most 71 minutes.
pub fn micros(time: Duration) -> u32 {
    u32::try_from(time.as_micros()).unwrap_or(u32::MAX)
}

/// Microseconds per item of `count`, to two decimals; `None` if `count` is 0.
pub fn micros_each(time: Duration, count: usize) -> Option<f64> {
    (count > 0).then(|| (time.as_secs_f64() * 1e8 / count as f64).round() / 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_ranks() {
        let latency = Latency::of((1..=1000).rev().map(|ms| ms * 1000).collect());
        assert_eq!(latency, Latency { p50_ms: 500.0, p99_ms: 990.0, max_ms: 1000.0 });
        assert_eq!(Latency::of(vec![7_000]), Latency { p50_ms: 7.0, p99_ms: 7.0, max_ms: 7.0 });
        assert_eq!(Latency::of(vec![]), Latency::default());
    }
}
