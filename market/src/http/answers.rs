//! A cache of answers, so that what many ask for is computed once. The host chooses how long an answer is kept.

use std::collections::BTreeMap;

/// Answers, by what was asked. Times are milliseconds of any clock.
#[derive(Debug)]
pub struct Answers<T> {
    kept: BTreeMap<String, Kept<T>>,
    /// Bytes of all answers and of what was asked.
    bytes: usize,
    bytes_max: usize,
}

#[derive(Debug)]
struct Kept<T> {
    until: u64,
    bytes: usize,
    answer: T,
}

impl<T: Clone> Answers<T> {
    /// An empty cache of at most so many bytes; one answer may have a quarter of them.
    pub fn new(bytes_max: usize) -> Self {
        Answers { kept: BTreeMap::new(), bytes: 0, bytes_max }
    }

    /// The answer, if there is one.
    pub fn get(&self, asked: &str, now: u64) -> Option<T> {
        self.kept.get(asked).filter(|kept| kept.until > now).map(|kept| kept.answer.clone())
    }

    /// Keeps an answer with a body of so many bytes until `until`. To make room, the answers that end soonest are removed.
    pub fn put(&mut self, asked: String, answer: T, bytes: usize, until: u64, now: u64) {
        let bytes = bytes + asked.len();
        if bytes > self.bytes_max / 4 {
            return;
        }
        self.remove(&asked);
        let over = self.kept.iter().filter(|(_, kept)| kept.until <= now);
        let over: Vec<String> = over.map(|(asked, _)| asked.clone()).collect();
        over.iter().for_each(|asked| self.remove(asked));
        self.bytes += bytes;
        self.kept.insert(asked, Kept { until, bytes, answer });
        while self.bytes > self.bytes_max
            && let Some((asked, _)) = self.kept.iter().min_by_key(|(_, kept)| kept.until)
        {
            let soonest = asked.clone();
            self.remove(&soonest);
        }
    }

    fn remove(&mut self, asked: &str) {
        if let Some(kept) = self.kept.remove(asked) {
            self.bytes -= kept.bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_end_and_are_bounded() {
        let mut answers = Answers::new(1_000);
        answers.put("a".into(), 1, 99, 20, 0);
        answers.put("b".into(), 2, 99, 30, 0);
        answers.put("too large".into(), 3, 250, 30, 0);
        assert_eq!(["a", "b", "too large"].map(|asked| answers.get(asked, 19)), [Some(1), Some(2), None]);
        assert_eq!(["a", "b"].map(|asked| answers.get(asked, 20)), [None, Some(2)]);
        answers.put("b".into(), 4, 9, 40, 20);
        assert_eq!(
            (answers.get("b", 20), answers.kept.len(), answers.bytes),
            (Some(4), 1, 10),
            "the rest is not kept"
        );
        for n in 0..20 {
            answers.put(n.to_string(), n, 198, 100 + n, 20);
            assert!(answers.bytes <= 1_000);
        }
        assert_eq!((answers.get("0", 20), answers.get("19", 20), answers.kept.len()), (None, Some(19), 5));
    }
}
