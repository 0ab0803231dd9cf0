//! What a match costs: the live index beside a baseline, one indexed condition and then `Filter::matches`, on the same
//! filters and events.
//!
//! `cargo run --release -p relay-engine --features testing --example match_cost -- [filters]... [mix]...`
//!
//! Every answer of the baseline is compared
//! with the index's, so the two columns are about the same work.
#![allow(clippy::print_stdout)]

use std::time::Instant;

use relay_engine::index::{Index, SubSlot};
use relay_engine::testing::index_ops;
use relay_engine::types::{Event, EventId, Filter, Kind, PubKey, TagFilter};
use rustc_hash::FxHashMap;

const AUTHORS: usize = 50_000;
const NOTES: usize = 20_000;
const EVENTS: usize = 2_000;
/// The baseline is so slow that it gets these only.
const BASELINE_EVENTS: usize = 400;
/// So few events that the lists they read stay in the cache; with all of them most reads begin cold.
const WARM_EVENTS: usize = 20;
/// The baseline keeps its filters, which is gigabytes beyond this many.
const BASELINE_FILTERS_MAX: usize = 20_000;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let sizes: Vec<usize> = arguments.iter().filter_map(|size| size.parse().ok()).collect();
    let all_mixes = arguments.len() == sizes.len();
    let sizes = if sizes.is_empty() { vec![20_000, 100_000] } else { sizes };
    let is_wanted = |mix: Mix| all_mixes || arguments.contains(&format!("{mix:?}"));
    let events: Vec<Event> = {
        let mut chance = Chance(7);
        (0..EVENTS).map(|_| chance.event()).collect()
    };
    println!("reading an event's keys, nothing subscribed to them: {:.2} us", keys_us(&events));
    println!(
        "| filters | mix | matches/event | one anchor + full check us | index us | ns/match | ns/match, lists in cache | candidates/match | bytes/filter |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for &size in &sizes {
        for mix in [Mix::Small, Mix::Mixed, Mix::Compound].into_iter().filter(|mix| is_wanted(*mix)) {
            measure_mix(mix, size, &events);
        }
    }
    measure_subscribe();
    measure_churn();
}

#[derive(Clone, Copy, Debug)]
enum Mix {
    /// Short lists, like the random monitors strfry tests itself with.
    Small,
    /// What clients send: feeds, follow lists, mentions, threads, topics.
    Mixed,
    /// Mixed, and half of the filters with a second list to check.
    Compound,
}

/// What every event pays before the first match: its tags are read and its keys looked up.
fn keys_us(events: &[Event]) -> f64 {
    let mut index = Index::new();
    let tag = |letter: u8| TagFilter { letter, values: [b"nothing".as_slice().into()].into() };
    for filter in [
        Filter { ids: Some([EventId([0; 32])].into()), ..Filter::default() },
        Filter { authors: Some([PubKey([0; 32])].into()), ..Filter::default() },
        Filter { kinds: Some([40_000].into()), ..Filter::default() },
        Filter { tags: [tag(b'e')].into(), ..Filter::default() },
        Filter { tags: [tag(b'p')].into(), ..Filter::default() },
        Filter { tags: [tag(b't')].into(), ..Filter::default() },
    ] {
        index.subscribe(&[filter]);
    }
    let mut out = Vec::new();
    best_ns(events, |event| {
        index.matches(event, &mut out);
    }) / 1e3
}

fn measure_mix(mix: Mix, size: usize, events: &[Event]) {
    let mut index = Index::with_seed(size as u64);
    let mut baseline = (size <= BASELINE_FILTERS_MAX).then(Baseline::default);
    let mut chance = Chance(size as u64 + 1);
    for _ in 0..size {
        let filter = chance.filter(mix);
        let slot = index.subscribe(std::slice::from_ref(&filter));
        if let Some(baseline) = &mut baseline {
            assert_eq!(slot.0 as usize, baseline.filters.len());
            baseline.subscribe(filter);
        }
    }
    let (mut out, mut matches, mut candidates) = (Vec::new(), 0, 0);
    if let Some(baseline) = &mut baseline {
        let mut expected = Vec::new();
        for event in &events[..BASELINE_EVENTS] {
            out.clear();
            expected.clear();
            index.matches(event, &mut out);
            baseline.matches(event, &mut expected);
            out.sort_unstable();
            expected.sort_unstable();
            assert_eq!(out, expected, "{event:?}");
        }
    }
    for event in events {
        out.clear();
        let stats = index.matches(event, &mut out);
        matches += stats.matches;
        candidates += stats.candidates;
    }
    let index_ns = best_ns(events, |event| {
        out.clear();
        index.matches(event, &mut out);
    });
    let warm_ns = best_ns(&events[..WARM_EVENTS], |event| {
        out.clear();
        index.matches(event, &mut out);
    });
    let warm_matches: usize = events[..WARM_EVENTS]
        .iter()
        .map(|event| {
            out.clear();
            index.matches(event, &mut out).matches
        })
        .sum();
    let baseline_us = baseline.as_mut().map(|baseline| {
        let ns = best_ns(&events[..BASELINE_EVENTS], |event| {
            out.clear();
            baseline.matches(event, &mut out);
        });
        ns / 1e3
    });
    let per_event = matches as f64 / events.len() as f64;
    println!(
        "| {size} | {mix:?} | {per_event:.0} | {} | {:.2} | {:.2} | {:.2} | {:.2} | {} |",
        baseline_us.map_or("-".to_owned(), |us| format!("{us:.1}")),
        index_ns / 1e3,
        index_ns / per_event,
        warm_ns * WARM_EVENTS as f64 / warm_matches as f64,
        candidates as f64 / matches as f64,
        index.bytes() / size,
    );
}

/// Nanoseconds an event: rounds over all events, timed in short stretches, of which the best round counts.
/// A stretch is far shorter than a time slice, so other programs on the machine hardly show.
fn best_ns(events: &[Event], mut work: impl FnMut(&Event)) -> f64 {
    let mut best = vec![f64::MAX; events.len().div_ceil(STRETCH)];
    for _ in 0..ROUNDS {
        for (best, stretch) in best.iter_mut().zip(events.chunks(STRETCH)) {
            let started = Instant::now();
            stretch.iter().for_each(&mut work);
            *best = best.min(started.elapsed().as_nanos() as f64);
        }
    }
    best.iter().sum::<f64>() / events.len() as f64
}

const STRETCH: usize = 20;
const ROUNDS: usize = 15;

fn measure_subscribe() {
    let mut index = Index::with_seed(1);
    let mut chance = Chance(3);
    for _ in 0..20_000 {
        index.subscribe(&[chance.filter(Mix::Mixed)]);
    }
    let list = |from: usize| -> Filter {
        let authors: Vec<PubKey> = (from..from + 2_000).map(author).collect();
        checked(Filter { authors: Some(authors.into()), kinds: Some([1, 6].into()), ..Filter::default() })
    };
    let fresh: Vec<Filter> = (0..50).map(|at| list(AUTHORS + at * 2_000)).collect();
    let known: Vec<Filter> = (0..50).map(|at| list(at * 500)).collect();
    let mut us = |filters: &[Filter]| {
        let mut times: Vec<u128> = Vec::new();
        for filter in filters {
            let started = Instant::now();
            index.subscribe(std::slice::from_ref(filter));
            times.push(started.elapsed().as_micros());
        }
        times.sort_unstable();
        times[times.len() / 4]
    };
    println!("\nsubscribe with 2,000 authors beside 20,000 mixed filters:");
    println!(
        "new authors {} us, known authors {} us, the same list again {} us",
        us(&fresh),
        us(&known),
        us(&known)
    );
}

/// Steady churn: as many leave as come; the slowest single steps, and that memory stays.
fn measure_churn() {
    let mut index = Index::with_seed(1);
    let mut chance = Chance(5);
    let mut live: Vec<SubSlot> = (0..20_000).map(|_| index.subscribe(&[chance.filter(Mix::Mixed)])).collect();
    let before = index.bytes();
    let (mut subscribe, mut unsubscribe, mut sweep) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..40_000 {
        let filter = chance.filter(Mix::Mixed);
        let at = chance.below(live.len());
        let slot = live[at];
        timed(&mut unsubscribe, || index.unsubscribe(slot));
        timed(&mut subscribe, || live[at] = index.subscribe(std::slice::from_ref(&filter)));
        timed(&mut sweep, || {
            index.sweep(1_000);
        });
    }
    println!("\n40,000 replaced among 20,000 mixed filters, microseconds median / 99.9% / slowest:");
    for (name, mut times) in [("subscribe", subscribe), ("unsubscribe", unsubscribe), ("sweep(1,000)", sweep)]
    {
        times.sort_unstable_by(f64::total_cmp);
        let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
        println!("{name} {:.1} / {:.0} / {:.0}", at(0.5), at(0.999), at(1.0));
    }
    println!("MB before {}, after {}", before >> 20, index.bytes() >> 20);
}

fn timed(times: &mut Vec<f64>, work: impl FnOnce()) {
    let started = Instant::now();
    work();
    times.push(started.elapsed().as_nanos() as f64 / 1e3);
}

/// The usual way: one list of filters for each value of each filter's anchor, each compared in full.
#[derive(Default)]
struct Baseline {
    filters: Vec<Filter>,
    ids: FxHashMap<EventId, Vec<u32>>,
    authors: FxHashMap<PubKey, Vec<u32>>,
    tags: FxHashMap<(u8, Vec<u8>), Vec<u32>>,
    kinds: FxHashMap<Kind, Vec<u32>>,
    rest: Vec<u32>,
    stamps: Vec<u32>,
    epoch: u32,
}

impl Baseline {
    fn subscribe(&mut self, filter: Filter) {
        let number = self.filters.len() as u32;
        if let Some(list) = &filter.ids {
            list.iter().for_each(|id| self.ids.entry(*id).or_default().push(number));
        } else if let Some(tag) = filter.tags.first() {
            for value in &tag.values {
                self.tags.entry((tag.letter, value.to_vec())).or_default().push(number);
            }
        } else if let Some(list) = &filter.authors {
            list.iter().for_each(|author| self.authors.entry(*author).or_default().push(number));
        } else if let Some(list) = &filter.kinds {
            list.iter().for_each(|kind| self.kinds.entry(*kind).or_default().push(number));
        } else {
            self.rest.push(number);
        }
        self.filters.push(filter);
        self.stamps.push(0);
    }

    fn matches(&mut self, event: &Event, out: &mut Vec<SubSlot>) {
        self.epoch += 1;
        let tags: Vec<(u8, Vec<u8>)> =
            event.tags().indexed().map(|(letter, value)| (letter, value.into_owned())).collect();
        let lists = [
            Some(&self.rest),
            self.ids.get(&event.id),
            self.authors.get(&event.pubkey),
            self.kinds.get(&event.kind),
        ];
        let lists = lists.into_iter().flatten().chain(tags.iter().filter_map(|tag| self.tags.get(tag)));
        for &number in lists.flatten() {
            let stamp = &mut self.stamps[number as usize];
            if *stamp != self.epoch && self.filters[number as usize].matches(event) {
                *stamp = self.epoch;
                out.push(SubSlot(number));
            }
        }
    }
}

/// SplitMix64.
struct Chance(u64);

impl Chance {
    fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let word = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ word >> 31
    }

    fn unit(&mut self) -> f64 {
        (self.word() >> 11) as f64 / (1u64 << 53) as f64
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.unit() * bound as f64) as usize
    }

    /// From `low` to `high`, each order of magnitude as likely.
    fn between(&mut self, low: usize, high: usize) -> usize {
        (low as f64 * ((high + 1) as f64 / low as f64).powf(self.unit())) as usize
    }

    /// A rank below `bound`, the first far more often than the last.
    fn rank(&mut self, bound: usize) -> usize {
        self.between(1, bound) - 1
    }

    fn pick<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len())]
    }

    fn kinds(&mut self) -> Box<[Kind]> {
        const LISTS: [&[Kind]; 12] = [
            &[1],
            &[1, 6],
            &[1, 6, 7],
            &[0],
            &[0, 3],
            &[0, 3, 10_002],
            &[1, 6, 16, 30_023],
            &[7],
            &[9_735],
            &[1, 4, 7, 9_735],
            &[4, 1059],
            &[1, 5, 6, 7, 1_984, 1_985, 9_735, 30_023],
        ];
        self.pick(&LISTS).into()
    }

    fn authors(&mut self, count: usize) -> Box<[PubKey]> {
        (0..count).map(|_| author(self.rank(AUTHORS))).collect()
    }

    fn tag(&mut self, letter: u8, count: usize) -> TagFilter {
        let values = (0..count).map(|_| self.value(letter)).collect();
        TagFilter { letter, values }
    }

    fn value(&mut self, letter: u8) -> Box<[u8]> {
        let text = match letter {
            b'p' => author(self.rank(AUTHORS)).to_string(),
            b'e' => note(self.rank(NOTES)).to_string(),
            _ => format!("topic{}", self.rank(2_000)),
        };
        text.into_bytes().into()
    }

    fn filter(&mut self, mix: Mix) -> Filter {
        let mut filter = Filter::default();
        if let Mix::Small = mix {
            match self.below(100) {
                0..10 => {
                    filter.ids = Some((0..self.between(1, 10)).map(|_| note(self.rank(NOTES))).collect())
                }
                10..60 => {
                    let count = self.between(1, 20);
                    filter.authors = Some(self.authors(count));
                }
                60..80 => {
                    let count = self.between(1, 5);
                    filter.tags = [self.tag(b'p', count)].into();
                }
                80..99 => {
                    let count = self.between(1, 5);
                    filter.tags = [self.tag(b'e', count)].into();
                }
                _ => filter.kinds = Some(self.kinds()),
            }
            if filter.ids.is_none() && self.below(2) == 0 {
                filter.kinds = Some(self.kinds());
            }
            return checked(filter);
        }
        filter.kinds = Some(self.kinds());
        match self.below(100) {
            0..35 => {
                let count = self.between(1, 300);
                filter.authors = Some(self.authors(count));
            }
            35..45 => {
                let count = self.between(500, 5_000);
                filter.authors = Some(self.authors(count));
            }
            45..62 => filter.tags = [self.tag(b'p', 1)].into(),
            62..80 => {
                let count = self.between(1, 50);
                filter.tags = [self.tag(b'e', count)].into();
            }
            80..88 => {
                let count = self.between(1, 20);
                filter = Filter { ids: Some((0..count).map(|_| note(self.rank(NOTES))).collect()), ..filter };
                filter.kinds = None;
            }
            88..92 => {}
            _ => {
                let count = self.between(1, 3);
                filter.tags = [self.tag(b't', count)].into();
            }
        }
        if self.below(10) < 3 {
            filter.since = Some(1_000_000);
        }
        if let Mix::Compound = mix
            && self.below(2) == 0
        {
            match (&filter.authors, filter.tags.len()) {
                (Some(_), 0) => filter.tags = [self.tag(b'p', 3)].into(),
                (None, 1) if filter.tags[0].letter != b'p' => {
                    filter.tags = [filter.tags[0].clone(), self.tag(b'p', 20)].into();
                }
                _ => filter.authors = Some(self.authors(200)),
            }
        }
        checked(filter)
    }

    /// Kinds and tags in about the shares that real events have.
    fn event(&mut self) -> Event {
        let kind = match self.below(100) {
            0..2 => 3,
            _ => self.pick(&[1, 1, 1, 1, 1, 0, 0, 7, 7, 7, 6, 1_985, 10_002, 9_735, 30_023]),
        };
        let (people, notes, topics) = match kind {
            1 => (self.below(4), self.below(3), self.rank(5)),
            7 | 6 => (1 + self.below(2), 1, 0),
            9_735 => (1, 1, 0),
            3 => (self.between(50, 1_000), 0, 0),
            _ => (0, 0, 0),
        };
        let mut tags = Vec::new();
        for (name, letter, count) in [("e", b'e', notes), ("p", b'p', people), ("t", b't', topics)] {
            tags.extend((0..count).map(|_| (name, self.value(letter))));
        }
        let tags: Vec<(&str, &[u8])> = tags.iter().map(|(name, value)| (*name, &**value)).collect();
        let (id, author) = (note(self.below(NOTES)), author(self.rank(AUTHORS)));
        index_ops::event(id, author, 2_000_000, kind, &tags)
    }
}

fn checked(mut filter: Filter) -> Filter {
    filter.normalise();
    filter
}

fn author(rank: usize) -> PubKey {
    PubKey(bytes(rank as u64 * 2))
}

fn note(rank: usize) -> EventId {
    EventId(bytes(rank as u64 * 2 + 1))
}

fn bytes(seed: u64) -> [u8; 32] {
    let mut chance = Chance(seed.wrapping_mul(0x1234_5678_9abc_def1));
    let mut bytes = [0; 32];
    bytes.as_chunks_mut::<8>().0.iter_mut().for_each(|word| *word = chance.word().to_le_bytes());
    bytes
}
