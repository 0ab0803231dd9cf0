//! A cached value with a maximum age; concurrent callers share one refresh.

use std::time::{Duration, Instant};

use tokio::sync::Mutex;

/// The last value and when it was asked for.
pub(crate) struct Cached<T> {
    max_age: Duration,
    last: Mutex<Option<(Instant, T)>>,
}

impl<T: Clone> Cached<T> {
    /// Nothing has been asked for. A value serves until it is `max_age` old.
    pub(crate) fn new(max_age: Duration) -> Self {
        Cached { max_age, last: Mutex::new(None) }
    }

    /// The last value if it is fresh, else a new one. Calls that come while it is asked for wait for the same.
    pub(crate) async fn get(&self, now: Instant, ask: impl Future<Output = T>) -> T {
        let mut last = self.last.lock().await;
        match &*last {
            Some((at, value)) if now.saturating_duration_since(*at) < self.max_age => value.clone(),
            _ => {
                let value = ask.await;
                *last = Some((now, value.clone()));
                value
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test]
    async fn a_thousand_ask_once_a_second() {
        let (asked, begun) = (Cell::new(0), Instant::now());
        let cached = Cached::new(Duration::from_secs(1));
        let get = |ms: u64| {
            cached.get(begun + Duration::from_millis(ms), async {
                // Others get to ask meanwhile.
                tokio::task::yield_now().await;
                asked.set(asked.get() + 1);
                asked.get()
            })
        };
        // Side by side, the first one still under way.
        let (a, b, c) = tokio::join!(get(0), get(0), get(1));
        assert_eq!((a, b, c), (1, 1, 1));
        for ms in 0..1_000 {
            assert_eq!(get(ms).await, 1);
        }
        assert_eq!(get(1_000).await, 2);
        assert_eq!(get(1_999).await, 2);
        assert_eq!(get(60_000).await, 3);
    }
}
