//! Events that resemble a month on a public relay, the same bytes for the same seed on every machine.
//!
//! 60% kind 1, 25% kind 7, 5% kind 6, 4% kind 0, 2% each 9735 and 30023, 1% each 10002 and 3, by authors
//! whose activity follows Zipf's law, with a daily rhythm, all ids and signatures valid. Sizes and tags are
//! calibrated on real events; `draft_generator.rs` has the numbers. Nothing here reads a clock.

mod author;
mod draft;
mod draft_generator;
mod rng;
mod text;

use std::io::{self, Write};

pub use author::Author;
pub(crate) use draft::Draft;
pub use rng::{Rng, Zipf};

use rustc_hash::FxHashSet;

use draft::Unsigned;
use draft_generator::DraftGenerator;

/// What to generate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Seed; all fields together determine the events.
    pub seed: u64,
    /// Another sequence of events by the same authors.
    pub sequence: u64,
    /// How many events.
    pub count: usize,
    /// The time of the newest event, in Unix seconds.
    pub now: u64,
    /// How many days back the oldest event lies; 0 puts all events into the last minute, in order.
    pub days: u64,
    /// How many authors.
    pub authors: usize,
}

impl Default for Options {
    /// 100,000 events by 2,000 authors in 30 days up to 2026-01-01.
    fn default() -> Self {
        Options { seed: 1, sequence: 0, count: 100_000, now: 1_767_225_600, days: 30, authors: 2_000 }
    }
}

/// Relative activity in each hour of a day, UTC.
const HOURS: [u64; 24] = [
    60, 52, 46, 42, 40, 44, 55, 70, 82, 90, 96, 100, 110, 124, 136, 144, 148, 146, 140, 132, 120, 104, 88, 71,
];
const HOUR_SECONDS: u64 = 3_600;
/// Events of a thousand that arrive up to a day after their `created_at`.
const LATE_PERMILLE: usize = 20;

impl Options {
    /// The `created_at` of the event at index `at`: ascending, except for late events.
    fn created_at(&self, at: usize, rng: &mut Rng) -> u64 {
        // Duplicates are drawn again, so the index may exceed the count by a few.
        let at = at.min(self.count.max(1) - 1);
        if self.days == 0 {
            return self.now - 59 + (at as u64 * 60) / self.count.max(1) as u64;
        }
        let start = self.now - self.days * 24 * HOUR_SECONDS;
        let day_weight: u64 = HOURS.iter().sum();
        // The event's position in the summed activity of all days, in weight * 3,600.
        let total = u128::from(self.days * day_weight * HOUR_SECONDS);
        let target = (total * (at as u128 + 1) / self.count.max(1) as u128) as u64;
        let day = target / (day_weight * HOUR_SECONDS);
        let mut rest = target % (day_weight * HOUR_SECONDS);
        let mut second = day * 24 * HOUR_SECONDS;
        for weight in HOURS {
            if rest < weight * HOUR_SECONDS {
                second += rest / weight;
                break;
            }
            rest -= weight * HOUR_SECONDS;
            second += HOUR_SECONDS;
        }
        let late = if rng.chance(LATE_PERMILLE) { rng.below(86_400) as u64 } else { rng.below(8) as u64 };
        start + second.saturating_sub(late)
    }

    /// The authors, most active first.
    pub fn authors(&self) -> Vec<Author> {
        (0..self.authors as u64).map(|rank| Author::derive(self.seed, rank)).collect()
    }

    /// All events as canonical JSON, signed on `threads` threads. About 680 bytes each are held in memory.
    pub fn events(&self, threads: usize) -> Vec<String> {
        let mut events = Vec::with_capacity(self.count);
        self.chunks(threads, |chunk| {
            events.extend(chunk);
            Ok(())
        })
        .expect("collecting does not fail");
        events
    }

    /// Writes all events as canonical JSON, one a line, and returns the bytes written.
    ///
    /// # Errors
    /// The writer's.
    pub fn write(&self, threads: usize, out: &mut dyn Write) -> io::Result<u64> {
        let mut bytes = 0;
        self.chunks(threads, |chunk| {
            for event in chunk {
                bytes += event.len() as u64 + 1;
                out.write_all(event.as_bytes())?;
                out.write_all(b"\n")?;
            }
            Ok(())
        })?;
        out.flush()?;
        Ok(bytes)
    }

    fn chunks(&self, threads: usize, mut take: impl FnMut(Vec<String>) -> io::Result<()>) -> io::Result<()> {
        const CHUNK_EVENTS: usize = 8_192;
        let mut generator = DraftGenerator::new(self);
        let mut left = self.count;
        // The same author may react to the same note in the same way in the same second: such duplicates are drawn again.
        let mut seen = FxHashSet::default();
        while left > 0 {
            let wanted = left.min(CHUNK_EVENTS);
            let fresh =
                std::iter::repeat_with(|| generator.next_event()).filter(|event| seen.insert(event.prefix()));
            let drafts: Vec<Unsigned> = fresh.take(wanted).collect();
            take(sign(&drafts, &generator.authors, threads))?;
            left -= wanted;
        }
        Ok(())
    }
}

fn sign(drafts: &[Unsigned], authors: &[Author], threads: usize) -> Vec<String> {
    let per_thread = drafts.len().div_ceil(threads.max(1)).max(1);
    std::thread::scope(|scope| {
        let workers: Vec<_> = drafts
            .chunks(per_thread)
            .map(|part| scope.spawn(|| part.iter().map(|event| event.sign(authors)).collect::<Vec<_>>()))
            .collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("signing does not panic")).collect()
    })
}
