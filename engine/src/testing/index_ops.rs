//! Programs of index operations, compared with an oracle that matches every filter with every event.
//!
//! There are only six authors, ten kinds, six tag letters and some awkward values, so that most operations have an effect.
//! Any bytes are a program, so a fuzzer or a seeded generator can make them.

use std::collections::HashMap;

use crate::index::{Index, SubSlot};
use crate::types::{Event, EventId, Filter, Kind, PubKey, TagFilter};

/// Counts of what a program did, so that a test can check that it tested something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ran {
    /// Subscriptions made.
    pub subscriptions: usize,
    /// Events matched.
    pub events: usize,
    /// Slots reported.
    pub matches: usize,
    /// Slots that were reused by a second subscription.
    pub reused: usize,
}

/// Runs `program` on `index`, which has no subscriptions, and removes all subscriptions that it added.
///
/// # Panics
/// If the index and the oracle disagree, a slot is reported twice or has two owners, or memory is not
/// released at the end.
pub fn run(index: &mut Index, program: &[u8]) -> Ran {
    let mut source = ByteChoices { bytes: program };
    let mut checked =
        CheckedIndex { index, live: HashMap::new(), owned: Vec::new(), ran: Ran::default(), out: Vec::new() };
    while !source.bytes.is_empty() {
        match source.below(16) {
            0..=4 => checked.subscribe(&mut source),
            5..=7 => checked.unsubscribe(&mut source),
            8 => {
                checked.index.sweep(usize::from(source.byte()));
            }
            _ => checked.publish(&mut source),
        }
        assert_eq!(checked.index.len(), checked.live.len(), "living subscriptions");
    }
    checked.finish()
}

/// A canonical event with these fields; id and signature are invalid.
pub fn event(id: EventId, pubkey: PubKey, created_at: u64, kind: Kind, tags: &[(&str, &[u8])]) -> Event {
    let mut json =
        format!(r#"{{"id":"{id}","pubkey":"{pubkey}","created_at":{created_at},"kind":{kind},"tags":["#)
            .into_bytes();
    for (at, (name, value)) in tags.iter().enumerate() {
        json.extend_from_slice(if at == 0 { b"[\"" } else { b",[\"" });
        escape(name.as_bytes(), &mut json);
        json.extend_from_slice(b"\",\"");
        escape(value, &mut json);
        json.extend_from_slice(b"\"]");
    }
    json.extend_from_slice(br#"],"content":"","sig":""#);
    json.extend_from_slice("0".repeat(128).as_bytes());
    json.extend_from_slice(b"\"}");
    Event::from_canonical(json.into())
}

fn escape(text: &[u8], json: &mut Vec<u8>) {
    for &byte in text {
        let short = match byte {
            b'"' | b'\\' => byte,
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            0x08 => b'b',
            0x0c => b'f',
            0..=0x1f => {
                json.extend_from_slice(format!("\\u{byte:04x}").as_bytes());
                continue;
            }
            _ => {
                json.push(byte);
                continue;
            }
        };
        json.extend_from_slice(&[b'\\', short]);
    }
}

/// The program as a source of choices; zeros after its end.
struct ByteChoices<'a> {
    bytes: &'a [u8],
}

impl ByteChoices<'_> {
    fn byte(&mut self) -> u8 {
        self.bytes.split_off_first().copied().unwrap_or(0)
    }

    fn below(&mut self, bound: u8) -> u8 {
        self.byte() % bound
    }

    /// A subset of a list of `len`, sometimes empty; a short list is chosen by a mask.
    fn some<T>(&mut self, len: u8, make: impl Fn(u8) -> T) -> Box<[T]> {
        let mask = u16::from_le_bytes([self.byte(), self.byte()]);
        (0..len).filter(|at| mask >> at & 1 == 1).map(make).collect()
    }

    fn filter(&mut self) -> Filter {
        let asks = self.byte();
        let mut filter = Filter::default();
        // A filter with ids rarely has other conditions.
        if asks & 0b111 == 0b111 {
            filter.ids = Some(self.some(IDS, id));
        }
        if asks & 0b1000 != 0 {
            filter.authors = Some(self.some(AUTHORS, author));
        }
        if asks & 0b1_0000 != 0 {
            filter.kinds = Some(self.some(KINDS.len() as u8, |at| KINDS[usize::from(at)]));
        }
        if asks & 0b10_0000 != 0 {
            let letters = self.some(LETTERS.len() as u8, |at| LETTERS[usize::from(at)]);
            // One or two letters; filters with more hardly ever match.
            filter.tags = letters
                .iter()
                .take(2)
                .map(|letter| TagFilter { letter: *letter, values: self.some(VALUES, value) })
                .collect();
        }
        if asks & 0b1100_0000 == 0b0100_0000 {
            filter.since = Some(u64::from(self.below(TIMES)));
        }
        if asks & 0b1100_0000 == 0b1000_0000 {
            filter.until = Some(u64::from(self.below(TIMES)));
        }
        if asks & 0b1100_0000 == 0b1100_0000 {
            let since = u64::from(self.below(TIMES));
            (filter.since, filter.until) = (Some(since), Some(since + u64::from(self.below(3))));
        }
        filter.normalise();
        filter
    }

    fn event(&mut self) -> Event {
        let id = id(self.below(IDS));
        let author = author(self.below(AUTHORS));
        let kind = KINDS[usize::from(self.below(KINDS.len() as u8))];
        let created_at = u64::from(self.below(TIMES));
        let tags: Vec<(String, Vec<u8>)> = (0..self.below(6))
            .map(|_| {
                let letter = LETTERS[usize::from(self.below(LETTERS.len() as u8))];
                (char::from(letter).to_string(), value(self.below(VALUES)).into_vec())
            })
            .collect();
        let tags: Vec<(&str, &[u8])> = tags.iter().map(|(name, value)| (&**name, &**value)).collect();
        event(id, author, created_at, kind, &tags)
    }
}

const IDS: u8 = 8;
const AUTHORS: u8 = 6;
const KINDS: [Kind; 10] = [0, 1, 3, 6, 7, 63, 64, 1984, 30_023, 65_535];
const LETTERS: [u8; 6] = [b'a', b'd', b'e', b'p', b't', b'T'];
const VALUES: u8 = 12;
const TIMES: u8 = 6;

fn id(at: u8) -> EventId {
    EventId([at; 32])
}

/// The same bytes as the ids, so that ids and authors differ only by the kind of condition.
fn author(at: u8) -> PubKey {
    PubKey([at; 32])
}

/// Values that an index may confuse: hex and almost hex, each side of 32 bytes, escapes, the empty one.
fn value(at: u8) -> Box<[u8]> {
    match at {
        0 => Box::default(),
        1 => author(1).to_string().into_bytes().into(),
        2 => author(2).to_string().into_bytes().into(),
        3 => "AB".repeat(32).into_bytes().into(),
        4 => author(1).0.into(),
        5 => b"\0".as_slice().into(),
        6 => b"\0\0".as_slice().into(),
        7 => "quote\" slash\\ line\n bell\u{7} \u{1f}".as_bytes().into(),
        8 => "x".repeat(32).into_bytes().into(),
        9 => "x".repeat(33).into_bytes().into(),
        10 => "30023:".repeat(40).into_bytes().into(),
        _ => "é漢".as_bytes().into(),
    }
}

struct CheckedIndex<'a> {
    index: &'a mut Index,
    live: HashMap<SubSlot, Vec<Filter>>,
    /// Every slot that ever had an owner.
    owned: Vec<SubSlot>,
    ran: Ran,
    out: Vec<SubSlot>,
}

impl CheckedIndex<'_> {
    fn subscribe(&mut self, source: &mut ByteChoices<'_>) {
        let filters: Vec<Filter> = (0..source.below(4)).map(|_| source.filter()).collect();
        let slot = self.index.subscribe(&filters);
        if self.owned.contains(&slot) {
            self.ran.reused += 1;
        } else {
            self.owned.push(slot);
        }
        let owner = self.live.insert(slot, filters);
        assert_eq!(owner, None, "{slot:?} was taken");
        self.ran.subscriptions += 1;
    }

    fn unsubscribe(&mut self, source: &mut ByteChoices<'_>) {
        let at = usize::from(source.byte());
        let Some(slot) = self.owned.get(at % self.owned.len().max(1)).copied() else { return };
        // Removing a subscription that does not exist is allowed and does nothing.
        self.index.unsubscribe(slot);
        self.live.remove(&slot);
    }

    fn publish(&mut self, source: &mut ByteChoices<'_>) {
        let event = source.event();
        self.out.clear();
        self.out.push(SubSlot(u32::MAX));
        let stats = self.index.matches(&event, &mut self.out);
        assert_eq!(self.out[0], SubSlot(u32::MAX), "slots are appended to the list");
        let mut found = self.out[1..].to_vec();
        found.sort_unstable();
        let wants = |filters: &[Filter]| filters.iter().any(|filter| filter.matches(&event));
        let live = self.live.iter();
        let mut expected: Vec<SubSlot> =
            live.filter(|(_, filters)| wants(filters)).map(|(slot, _)| *slot).collect();
        expected.sort_unstable();
        assert_eq!(found, expected, "{event:?} among {:?}", self.live);
        assert_eq!(stats.matches, found.len());
        assert!(stats.candidates >= stats.matches, "{stats:?}");
        self.ran.events += 1;
        self.ran.matches += found.len();
    }

    fn finish(mut self) -> Ran {
        for (slot, _) in std::mem::take(&mut self.live) {
            self.index.unsubscribe(slot);
        }
        while self.index.sweep(7) {}
        assert!(self.index.is_empty());
        assert!(self.index.bytes() <= EMPTY_BYTES_MAX, "{} bytes when empty", self.index.bytes());
        self.ran
    }
}

/// Memory that an index without subscriptions may keep: its partitions, counters and some small tables.
pub const EMPTY_BYTES_MAX: usize = 16 << 10;
