//! Small random sets of events: few authors, kinds, timestamps and tags, so that events often replace, delete and tie with each other.
//!
//! Events have their correct ids, except where a chosen prefix is requested to make ties, and invalid signatures; they enter
//! stores through [`Verified::assume_verified`]. Everything is derived from a seed.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::store::Op;
use crate::types::{Event, EventId, Filter, Kind, PubKey, TagFilter, Timestamp};
use crate::verify::Verified;

/// A small deterministic generator (splitmix64), for tests only.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// The stream of this seed.
    pub fn new(seed: u64) -> Self {
        Rng(seed)
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`.
    ///
    /// # Panics
    /// If `end` is 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.bits() % end
    }

    /// True once in `times`.
    pub fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    /// One of `values`.
    ///
    /// # Panics
    /// If there are none.
    pub fn pick<'v, T>(&mut self, values: &'v [T]) -> &'v T {
        &values[self.below(values.len() as u64) as usize]
    }
}

/// An event without id and signature.
#[derive(Clone, Debug, Default)]
pub struct Draft {
    /// Number of the author; see [`EventGenerator::pubkey`].
    pub author: u8,
    /// `created_at`.
    pub created_at: Timestamp,
    /// `kind`.
    pub kind: Kind,
    /// `tags`.
    pub tags: Vec<Vec<String>>,
    /// `content`.
    pub content: String,
    /// If set, replaces the first eight bytes of the id.
    pub id_prefix: Option<u64>,
}

impl Draft {
    /// A draft without tags and content.
    pub fn new(author: u8, kind: Kind, created_at: Timestamp) -> Self {
        Draft { author, created_at, kind, ..Draft::default() }
    }

    /// Adds a tag.
    pub fn tag(mut self, fields: &[&str]) -> Self {
        self.tags.push(fields.iter().map(|field| (*field).to_owned()).collect());
        self
    }

    /// Sets the content.
    pub fn content(mut self, content: &str) -> Self {
        content.clone_into(&mut self.content);
        self
    }

    /// Sets the first eight bytes of the id.
    pub fn with_id_prefix(mut self, prefix: u64) -> Self {
        self.id_prefix = Some(prefix);
        self
    }

    /// The event.
    pub fn event(&self) -> Event {
        let pubkey = EventGenerator::pubkey(self.author);
        let tags = serde_json::to_string(&self.tags).expect("tags are JSON");
        let content = serde_json::to_string(&self.content).expect("text is JSON");
        let (created_at, kind) = (self.created_at, self.kind);
        let hashed = format!("[0,\"{pubkey}\",{created_at},{kind},{tags},{content}]");
        let mut id: [u8; 32] = Sha256::digest(hashed.as_bytes()).into();
        if let Some(prefix) = self.id_prefix {
            id[..8].copy_from_slice(&prefix.to_be_bytes());
        }
        let id = EventId(id);
        let sig = format!("{id}{id}");
        let json = format!(
            "{{\"id\":\"{id}\",\"pubkey\":\"{pubkey}\",\"created_at\":{created_at},\"kind\":{kind},\"tags\":{tags},\"content\":{content},\"sig\":\"{sig}\"}}"
        );
        Event::from_canonical(Arc::from(json.as_bytes()))
    }

    /// The event as an operation.
    pub fn put(&self) -> Op {
        Op::Put(Verified::assume_verified(self.event()))
    }

    /// The event as a request to vanish.
    pub fn vanish(&self) -> Op {
        Op::Vanish(Verified::assume_verified(self.event()))
    }
}

/// Parses an event from any JSON form into the canonical form, unverified. `None` if fields are missing.
pub fn event_of_json(json: &str) -> Option<Event> {
    let value: Value = serde_json::from_str(json).ok()?;
    let text = |field: &str| value[field].as_str();
    let (id, pubkey, sig) = (text("id")?, text("pubkey")?, text("sig")?);
    let (created_at, kind) = (value["created_at"].as_u64()?, value["kind"].as_u64()?);
    let (tags, content) = (&value["tags"], &value["content"]);
    let json = format!(
        "{{\"id\":\"{id}\",\"pubkey\":\"{pubkey}\",\"created_at\":{created_at},\"kind\":{kind},\"tags\":{tags},\"content\":{content},\"sig\":\"{sig}\"}}"
    );
    Some(Event::from_canonical(json.into_bytes().into()))
}

/// A normalised filter whose values are taken from `events`, which must not be empty.
pub fn filter_over(rng: &mut Rng, events: &[Event]) -> Filter {
    let mut filter = Filter::default();
    let some = [1, 1, 2, 5, 70, 300];
    if rng.one_in(8) {
        filter.ids = Some((0..*rng.pick(&some)).map(|_| rng.pick(events).id).collect());
    }
    if rng.one_in(2) {
        filter.authors = Some((0..*rng.pick(&some)).map(|_| rng.pick(events).pubkey).collect());
    }
    if rng.one_in(2) {
        filter.kinds = Some((0..*rng.pick(&some)).map(|_| rng.pick(events).kind).collect());
    }
    if rng.one_in(3) {
        let letters: Vec<u8> = rng.pick(events).view().indexed_values().map(|(letter, _)| letter).collect();
        if !letters.is_empty() {
            let letter = *rng.pick(&letters);
            let wanted = *rng.pick(&some);
            let mut values = Vec::new();
            for _ in 0..20 * wanted {
                let event = rng.pick(events);
                let of_letter = event.view().indexed_values().filter(|(name, _)| *name == letter);
                values.extend(of_letter.map(|(_, value)| value.into()).take(wanted - values.len()));
            }
            filter.tags = Box::new([TagFilter { letter, values: values.into() }]);
        }
    }
    if rng.one_in(4) {
        filter.since = Some(rng.pick(events).created_at);
    }
    if rng.one_in(4) {
        filter.until = Some(rng.pick(events).created_at);
    }
    if rng.one_in(2) {
        filter.limit = Some(*rng.pick(&[1, 3, 20, 100, 1_000]));
    }
    filter.normalise();
    filter
}

/// The source of a test's random events and filters.
#[derive(Clone, Debug)]
pub struct EventGenerator {
    /// The random generator.
    pub rng: Rng,
    authors: u8,
    seconds: Timestamp,
    /// Whether ids often share their first eight bytes.
    ties: bool,
    /// Events made so far, to which later ones refer.
    made: Vec<Event>,
}

/// Kinds of every class, with those that have a meaning for the store.
const KINDS: [Kind; 12] = [0, 1, 1, 1, 3, 5, 7, 62, 1059, 10_002, 30_023, 39_999];
/// Tag values that are easily confused, escaped or truncated.
const VALUES: [&str; 12] =
    ["", "a", "b", "A", "ab", "a\"b", "\\", "a\nb", "\u{1}\u{1f}\u{7f}", "é\u{1f600}", "a:b", "],["];

impl EventGenerator {
    /// The generator of this seed.
    pub fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let authors = 1 + rng.below(6) as u8;
        let seconds = *rng.pick(&[1, 3, 12, 200]);
        let ties = rng.one_in(4);
        EventGenerator { rng, authors, seconds, ties, made: Vec::new() }
    }

    /// The public key of an author by number. Keys of consecutive numbers differ in one or two bits.
    pub fn pubkey(author: u8) -> PubKey {
        let mut bytes = [0x5a; 32];
        (bytes[0], bytes[31]) = (author >> 4, author);
        PubKey(bytes)
    }

    /// The earliest usual `created_at`.
    pub const START: Timestamp = 1_700_000_000;

    /// A random `created_at`, sometimes just outside the usual range.
    pub fn second(&mut self) -> Timestamp {
        EventGenerator::START + self.rng.below(self.seconds + 1)
    }

    fn author(&mut self) -> u8 {
        self.rng.below(u64::from(self.authors)) as u8
    }

    /// An operation: mostly new events, some repeated ones, some deletions and requests to vanish.
    pub fn op(&mut self) -> Op {
        if !self.made.is_empty() && self.rng.one_in(6) {
            let event = self.rng.pick(&self.made).clone();
            return self.op_of(event);
        }
        let event = self.draft().event();
        self.made.push(event.clone());
        self.op_of(event)
    }

    fn op_of(&mut self, event: Event) -> Op {
        let verified = Verified::assume_verified(event);
        match verified.event().kind {
            62 if !self.rng.one_in(3) => Op::Vanish(verified),
            _ => Op::Put(verified),
        }
    }

    fn draft(&mut self) -> Draft {
        let mut kind = *self.rng.pick(&KINDS);
        if kind == 62 && !self.rng.one_in(4) {
            kind = 1;
        }
        let mut draft = Draft::new(self.author(), kind, self.second());
        draft.content = (*self.rng.pick(&VALUES)).to_owned();
        if self.ties {
            draft.id_prefix = Some(self.rng.below(2));
        }
        for _ in 0..self.rng.below(4) {
            let tag = self.tag(draft.author, kind);
            draft.tags.push(tag);
        }
        draft
    }

    fn tag(&mut self, author: u8, kind: Kind) -> Vec<String> {
        if self.rng.one_in(24) {
            let at = (self.second() + 2).to_string();
            let odd = ["", "soon", "1e9", "-1", "99999999999999999999999"];
            let value = if self.rng.one_in(4) { (*self.rng.pick(&odd)).to_owned() } else { at };
            return vec!["expiration".to_owned(), value];
        }
        let letter = match kind {
            5 => *self.rng.pick(&["e", "e", "a", "a", "k"]),
            1059 => "p",
            30_000..=39_999 if !self.rng.one_in(3) => "d",
            _ => *self.rng.pick(&["e", "p", "t", "T", "d", "a", "tt", "-", ""]),
        };
        let value = match letter {
            "e" => self.id().to_string(),
            "p" => EventGenerator::pubkey(self.author()).to_string(),
            "a" => self.address(author),
            _ => (*self.rng.pick(&VALUES)).to_owned(),
        };
        let mut tag = vec![letter.to_owned(), value];
        if self.rng.one_in(8) {
            tag.truncate(self.rng.below(2) as usize);
        } else if self.rng.one_in(4) {
            tag.push((*self.rng.pick(&VALUES)).to_owned());
        }
        tag
    }

    /// An id, mostly of an event made before.
    fn id(&mut self) -> EventId {
        if !self.made.is_empty() && !self.rng.one_in(8) {
            return self.rng.pick(&self.made).id;
        }
        // An event that may be made later.
        let event = self.draft_without_tags().event();
        if self.rng.one_in(2) {
            self.made.push(event.clone());
        }
        event.id
    }

    fn draft_without_tags(&mut self) -> Draft {
        let mut draft = Draft::new(self.author(), 1, self.second());
        draft.content = (*self.rng.pick(&VALUES)).to_owned();
        draft
    }

    fn address(&mut self, author: u8) -> String {
        let whose = if self.rng.one_in(4) { self.author() } else { author };
        let (kind, pubkey) = (*self.rng.pick(&KINDS), EventGenerator::pubkey(whose));
        let d = match kind {
            30_000.. => *self.rng.pick(&VALUES),
            _ if self.rng.one_in(8) => "x",
            _ => "",
        };
        format!("{kind}:{pubkey}:{d}")
    }

    /// A filter, normalised.
    pub fn filter(&mut self) -> Filter {
        let mut filter = Filter::default();
        if self.rng.one_in(6) {
            filter.ids = Some((0..self.rng.below(5)).map(|_| self.id()).collect());
        }
        if self.rng.one_in(3) {
            let some = self.rng.below(4);
            let mut authors: Vec<PubKey> = (0..some).map(|_| EventGenerator::pubkey(self.author())).collect();
            if self.rng.one_in(3) {
                // So many that the planner makes an ordered scan; nearly all of them have no events.
                authors.extend((16..=255).map(EventGenerator::pubkey));
            }
            filter.authors = Some(authors.into());
        }
        if self.rng.one_in(2) {
            let replaceable = [0, 3, 10_002];
            let only_replaceable = self.rng.one_in(4);
            let mut kinds: Vec<Kind> = (0..self.rng.below(5))
                .map(|_| *if only_replaceable { self.rng.pick(&replaceable) } else { self.rng.pick(&KINDS) })
                .collect();
            if self.rng.one_in(12) {
                kinds.extend(1..200);
            }
            filter.kinds = Some(kinds.into());
        }
        let mut letters = BTreeSet::new();
        while self.rng.one_in(3) {
            letters.insert(*self.rng.pick(b"eptTdak"));
        }
        filter.tags = letters.into_iter().map(|letter| self.tag_filter(letter)).collect();
        if self.rng.one_in(4) {
            filter.since = Some(self.second());
        }
        if self.rng.one_in(4) {
            filter.until = Some(self.second());
        }
        if self.rng.one_in(2) {
            filter.limit = Some(self.rng.below(12) as u32);
        }
        // Lists are mostly not empty.
        if filter.matches_nothing() && !self.rng.one_in(8) {
            return self.filter();
        }
        filter.normalise();
        filter
    }

    fn tag_filter(&mut self, letter: u8) -> TagFilter {
        let values = (0..1 + self.rng.below(3))
            .map(|_| match letter {
                b'e' => self.id().to_string(),
                b'p' => EventGenerator::pubkey(self.author()).to_string(),
                b'a' => {
                    let author = self.author();
                    self.address(author)
                }
                _ => (*self.rng.pick(&VALUES)).to_owned(),
            })
            .map(|value| value.into_bytes().into())
            .collect();
        TagFilter { letter, values }
    }
}
