//! Answers that took long are given again for a while, so that whoever asks for the same again and again has no more than a part of
//! the reader's time.

use std::collections::HashMap;
use std::time::{Duration, Instant};

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
#[derive(Debug, Default)]
pub(super) struct Cache {
    answers: HashMap<String, (Instant, HttpResponse)>,
    bytes: usize,
}

impl Cache {
    /// The answer, if there is one.
    pub(super) fn get(&self, asked: &str, now: Instant) -> Option<HttpResponse> {
        let (until, answer) = self.answers.get(asked)?;
        (*until > now).then(|| answer.clone())
    }

    /// Keeps an answer that took so long, if it is worth it.
    pub(super) fn put(&mut self, asked: String, answer: &HttpResponse, took: Duration, now: Instant) {
        if took < SHORT || answer.body.len() > BYTES_MAX / 4 {
            return;
        }
        self.remove(&asked);
        let over: Vec<String> = self
            .answers
            .iter()
            .filter(|(_, (until, _))| *until <= now)
            .map(|(asked, _)| asked.clone())
            .collect();
        over.iter().for_each(|asked| self.remove(asked));
        self.bytes += answer.body.len() + asked.len();
        self.answers.insert(asked, (now + (took * SHARE).min(OLDEST), answer.clone()));
        while self.bytes > BYTES_MAX
            && let Some(soonest) =
                self.answers.iter().min_by_key(|(_, (until, _))| *until).map(|(asked, _)| asked.clone())
        {
            self.remove(&soonest);
        }
    }

    fn remove(&mut self, asked: &str) {
        if let Some((asked, (_, answer))) = self.answers.remove_entry(asked) {
            self.bytes -= answer.body.len() + asked.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_took_long_is_given_for_a_while() {
        let (mut cache, now) = (Cache::default(), Instant::now());
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
        for n in 0..10 {
            cache.put(n.to_string(), &answer(4 << 20), ms(1_000 + n), now);
            assert!(cache.bytes <= BYTES_MAX);
        }
        assert!(cache.get("0", now).is_none() && cache.get("9", now).is_some());
        for n in 0..10 {
            cache.remove(&n.to_string());
        }
        cache.put("long".into(), &answer(7), ms(100), now + ms(40_000));
        assert_eq!((cache.answers.len(), cache.bytes), (1, 11), "what is over is not kept");
    }
}
