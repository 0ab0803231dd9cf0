//! Answers that took long are given again for a while, so that whoever asks for the same again and again has no more than a part of
//! the reader's time.

use std::time::{Duration, Instant};

use relay_market::http::Answers;
use relay_site::HttpResponse;

/// An answer is given for so many times as long as it took.
const SHARE: u32 = 10;
/// Answers that took less are made again.
const SHORT: Duration = Duration::from_millis(10);
/// None is older than this.
const OLDEST: Duration = Duration::from_secs(30);
/// Bytes of all answers.
const BYTES_MAX: usize = 16 << 20;

/// Answers, by what was asked.
#[derive(Debug)]
pub(super) struct Cache {
    answers: Answers<HttpResponse>,
    begun: Instant,
}

impl Cache {
    pub(super) fn new(now: Instant) -> Self {
        Cache { answers: Answers::new(BYTES_MAX), begun: now }
    }

    fn millis(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.begun).as_millis() as u64
    }

    /// The answer, if there is one.
    pub(super) fn get(&self, asked: &str, now: Instant) -> Option<HttpResponse> {
        self.answers.get(asked, self.millis(now))
    }

    /// Keeps an answer that took so long, if it is worth it.
    pub(super) fn put(&mut self, asked: String, answer: &HttpResponse, took: Duration, now: Instant) {
        if took < SHORT {
            return;
        }
        let until = self.millis(now + (took * SHARE).min(OLDEST));
        let now = self.millis(now);
        self.answers.put(asked, answer.clone(), answer.body.len(), until, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_took_long_is_given_for_a_while() {
        let now = Instant::now();
        let mut cache = Cache::new(now);
        let answer = |bytes: usize| HttpResponse::new(200, "text/plain", "x".repeat(bytes));
        let ms = Duration::from_millis;
        cache.put("short".into(), &answer(1), ms(9), now);
        cache.put("long".into(), &answer(2), ms(100), now);
        cache.put("very long".into(), &answer(3), ms(100_000), now);
        let given = |cache: &Cache, after: u64| {
            ["short", "long", "very long"]
                .map(|asked| cache.get(asked, now + ms(after)).map_or(0, |answer| answer.body.len()))
        };
        assert_eq!(given(&cache, 999), [0, 2, 3]);
        assert_eq!(given(&cache, 1_000), [0, 0, 3]);
        assert_eq!(given(&cache, 30_000), [0, 0, 0]);
    }
}
