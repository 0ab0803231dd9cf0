//! Random use of any backend, compared with a naive model.

use std::collections::{BTreeMap, BTreeSet};

use relay_engine::store::{
    Backend, Op, Outcome, Posting, Rank, Reader, Refusal, Removed, Seq, StartAt, StoreError, Term,
    TermClasses, Tombstone, Writer, commit, remove_pending, terms_of,
};
use relay_engine::types::{Event, EventId, Kind, NO_EXPIRY, PubKey, Timestamp};
use relay_engine::verify::Verified;

/// A test event. Its id begins with `prefix` and ends with `tail`.
#[derive(Clone, Debug)]
pub(crate) struct Made {
    pub(crate) prefix: u64,
    pub(crate) tail: u64,
    pub(crate) author: u8,
    pub(crate) created_at: Timestamp,
    pub(crate) kind: Kind,
    pub(crate) tags: Vec<(&'static str, String)>,
}

impl Made {
    pub(crate) fn event(&self) -> Event {
        let tags: Vec<String> =
            self.tags.iter().map(|(name, value)| format!(r#"["{name}","{value}"]"#)).collect();
        let json = format!(
            r#"{{"id":"{:016x}{:048x}","pubkey":"{}","created_at":{},"kind":{},"tags":[{}],"content":"{}","sig":"{}"}}"#,
            self.prefix,
            self.tail,
            author(self.author),
            self.created_at,
            self.kind,
            tags.join(","),
            format_args!("{} {}", content(self.tail), "x".repeat(self.tail as usize % 50)),
            "5".repeat(128)
        );
        Event::from_canonical(json.into_bytes().into())
    }
}

/// The end of the id of the event with this tail and the beginning of its signature, as bytes.
#[allow(dead_code, reason = "not every backend's tests need it")]
pub(crate) fn trace(tail: u64) -> Vec<u8> {
    [&[0; 16][..], &tail.to_be_bytes(), &[0x55; 8]].concat()
}

/// What the content of the event with this tail begins with.
pub(crate) fn content(tail: u64) -> String {
    format!("content {tail}.")
}

pub(crate) fn author(n: u8) -> PubKey {
    PubKey([n; 32])
}

/// A note of author 1, unique by `n`.
pub(crate) fn note(n: u64, created_at: Timestamp) -> Event {
    Made { prefix: n, tail: n, author: 1, created_at, kind: 1, tags: vec![] }.event()
}

/// A seeded random generator.
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Chance(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound
    }

    fn made(&mut self, tail: u64) -> Made {
        let kinds = [0, 1, 1, 1, 5, 30_023, 65_535];
        let kind = kinds[self.below(kinds.len() as u64) as usize];
        let mut tags = Vec::new();
        for _ in 0..self.below(4) {
            let value = match self.below(5) {
                0 => author(self.below(3) as u8).to_string(),
                1 => "long ".repeat(20 + self.below(2) as usize),
                2 => String::new(),
                n => "ab"[..n as usize - 2].to_owned(),
            };
            tags.push((["e", "p", "t", "d"][self.below(4) as usize], value));
        }
        if self.below(4) == 0 {
            tags.push(("expiration", (self.below(20) + 100).to_string()));
        }
        Made {
            prefix: self.below(3),
            tail,
            author: self.below(3) as u8,
            created_at: if self.below(10) == 0 { u64::MAX - self.below(2) } else { self.below(8) },
            kind,
            tags,
        }
    }
}

/// The expected contents of a backend.
#[derive(Clone, Default)]
pub(crate) struct Model {
    events: BTreeMap<Seq, (Event, Vec<Term>)>,
    pending_removal: BTreeSet<Seq>,
    tombstones: BTreeMap<String, (Tombstone, Timestamp)>,
    last_seq: Seq,
    /// Tails of removed events.
    removed: Vec<u64>,
}

impl Model {
    fn postings(&self, term: &Term, start: StartAt, oldest: Timestamp, max: usize) -> Vec<Posting> {
        let mut found: Vec<Posting> = self
            .events
            .iter()
            .filter(|(_, (_, terms))| terms.contains(term))
            .map(|(seq, (event, _))| Posting {
                rank: Rank::of(event.created_at, &event.id),
                seq: *seq,
                kind: event.kind,
                expires: event.expires_at != NO_EXPIRY,
            })
            .filter(|posting| match start {
                StartAt::Rank(rank) => posting.rank >= rank,
                StartAt::After(rank, seq) => (posting.rank, posting.seq) > (rank, seq),
            })
            .filter(|posting| posting.rank.created_at >= oldest)
            .collect();
        found.sort();
        found.truncate(max);
        found
    }

    /// Asserts that `reader` returns what this model does.
    pub(crate) fn check(&self, reader: &impl Reader, classes: TermClasses, chance: &mut Chance) {
        assert_eq!(reader.last_seq(), Ok(self.last_seq));
        assert_eq!(
            reader.stats().expect("stats").events,
            (self.events.len() - self.pending_removal.len()) as u64
        );
        let max = chance.below(4) as usize;
        let mut pending_removal = Vec::new();
        reader.pending_removal(max, &mut pending_removal).expect("pending removals");
        assert!(pending_removal.iter().eq(self.pending_removal.iter().take(max)), "{pending_removal:?}");
        let mut terms = vec![Term::Author(author(9)), Term::Tag(b'e', (*b"abc").into())];
        for (seq, (event, event_terms)) in &self.events {
            let is_found = !self.pending_removal.contains(seq);
            assert_eq!(reader.is_pending_removal(*seq), Ok(!is_found));
            assert_eq!(reader.event(*seq).expect("read").as_deref(), is_found.then_some(event.json()));
            assert_eq!(reader.event_or_pending_removal(*seq).expect("read").as_deref(), Some(event.json()));
            assert_eq!(reader.seq_of(&event.id), Ok(is_found.then_some(*seq)));
            terms.extend(event_terms.iter().cloned());
        }
        assert_eq!(reader.event(Seq(self.last_seq.0 + 1)), Ok(None));
        assert_eq!(reader.seq_of(&EventId([0xee; 32])), Ok(None));
        terms.sort();
        terms.dedup();
        for term in &terms {
            let start = match chance.below(3) {
                0 => StartAt::Rank(Rank::newest(Timestamp::MAX)),
                1 => StartAt::Rank(Rank { created_at: chance.below(9), prefix: chance.below(3) }),
                _ => StartAt::After(
                    Rank { created_at: chance.below(8), prefix: chance.below(3) },
                    Seq(chance.below(self.last_seq.0 + 2)),
                ),
            };
            let oldest = if chance.below(2) == 0 { 0 } else { chance.below(9) };
            let max = [0, 1, 2, 3, 1000][chance.below(5) as usize];
            let mut found = Vec::new();
            reader.postings(term, start, oldest, max, &mut found).expect("postings");
            let expected = self.postings(term, start, oldest, max);
            assert_eq!(found, expected, "{term:?} {start:?} {oldest} {max}");
        }
        for (tombstone, until) in self.tombstones.values() {
            assert_eq!(reader.tombstone(tombstone), Ok(Some(*until)));
        }
        assert_eq!(reader.tombstone(&Tombstone::Vanished(author(9))), Ok(None));

        let (after, max) = (Seq(chance.below(self.last_seq.0 + 2)), chance.below(20) as usize);
        let mut log = Vec::new();
        reader.log(after, max, &mut log).expect("log");
        let expected: Vec<Seq> = self.events.keys().copied().filter(|seq| *seq > after).take(max).collect();
        assert_eq!(log, expected, "after {after:?}, {max}");

        let (until, max) = (99 + chance.below(22), chance.below(20) as usize);
        let mut expiring = Vec::new();
        reader.expiring(until, max, &mut expiring).expect("expiring");
        let mut expected: Vec<(Timestamp, Seq)> = self
            .events
            .iter()
            .filter(|(_, (event, _))| event.sweep_at() <= until)
            .map(|(seq, (event, _))| (event.sweep_at(), *seq))
            .collect();
        expected.sort();
        let expected: Vec<Seq> = expected.into_iter().map(|(_, seq)| seq).take(max).collect();
        assert_eq!(expiring, expected, "until {until}, {max}");

        if !classes.all {
            let mut kinds: Vec<Kind> = self.events.values().map(|(event, _)| event.kind).collect();
            kinds.sort_unstable();
            kinds.dedup();
            assert_eq!(reader.kinds(), Ok(kinds));
        }
    }

    #[allow(dead_code, reason = "not every backend's tests need it")]
    pub(crate) fn last_seq(&self) -> Seq {
        self.last_seq
    }

    /// Whether `reader` has as many events and the same last one.
    #[allow(dead_code, reason = "not every backend's tests need it")]
    pub(crate) fn is_likely(&self, reader: &impl Reader) -> bool {
        let last = self.events.last_key_value();
        let json = last.map(|(_, (event, _))| event.json());
        let found = last.map(|(seq, _)| reader.event_or_pending_removal(*seq).expect("read"));
        reader.last_seq() == Ok(self.last_seq)
            && reader.stats().expect("stats").events
                == (self.events.len() - self.pending_removal.len()) as u64
            && found.as_ref().and_then(Option::as_deref) == json
    }

    /// One random change, to the model and to `writer`.
    pub(crate) fn change(&mut self, writer: &mut impl Writer, classes: TermClasses, chance: &mut Chance) {
        match chance.below(7) {
            6 if !self.events.is_empty() => {
                let index = chance.below(self.events.len() as u64) as usize;
                let seq = *self.events.keys().nth(index).expect("there are that many");
                writer.mark_removed(seq).expect("marked");
                self.pending_removal.insert(seq);
            }
            0 if !self.events.is_empty() => {
                // Also the newest ones, whose sequence numbers must not be reused.
                let back = chance.below(self.events.len().min(4) as u64) as usize;
                let seq = *self.events.keys().rev().nth(back).expect("there are that many");
                let (event, terms) = self.events.remove(&seq).expect("just found");
                writer.remove(seq, &event, &terms).expect("remove");
                self.pending_removal.remove(&seq);
                self.removed.push(seq.0);
            }
            1 => {
                let key = author(chance.below(3) as u8);
                let tombstone = match chance.below(3) {
                    0 => Tombstone::Id(EventId([chance.below(3) as u8; 32]), key),
                    1 => {
                        let d = "d".repeat(chance.below(3) as usize * 50).into_bytes().into();
                        Tombstone::Address { kind: 30_023, pubkey: key, d }
                    }
                    _ => Tombstone::Vanished(key),
                };
                let until = if chance.below(10) == 0 { u64::MAX } else { chance.below(100) };
                writer.put_tombstone(&tombstone, until).expect("put a tombstone");
                let known = self.tombstones.entry(format!("{tombstone:?}")).or_insert((tombstone, until));
                known.1 = known.1.max(until);
            }
            _ => self.insert(writer, classes, chance),
        }
    }

    /// Removes two of three events, about.
    #[allow(dead_code, reason = "not every backend's tests need it")]
    pub(crate) fn remove_most(&mut self, writer: &mut impl Writer, chance: &mut Chance) {
        let removed: Vec<Seq> = self.events.keys().copied().filter(|_| chance.below(3) != 0).collect();
        for seq in removed {
            let (event, terms) = self.events.remove(&seq).expect("just found");
            writer.remove(seq, &event, &terms).expect("remove");
            self.pending_removal.remove(&seq);
            self.removed.push(seq.0);
        }
    }

    /// Something of the JSON of each event that was removed: of its beginning, and of its end; and the end of its id and the beginning of
    /// its signature as bytes.
    #[allow(dead_code, reason = "not every backend's tests need it")]
    pub(crate) fn traces(&self) -> impl Iterator<Item = Vec<u8>> {
        self.removed.iter().flat_map(|tail| {
            let bytes = trace(*tail);
            [format!("{tail:048x}\",\"pubkey\"").into_bytes(), content(*tail).into_bytes(), bytes]
        })
    }

    /// One random event more.
    pub(crate) fn insert(&mut self, writer: &mut impl Writer, classes: TermClasses, chance: &mut Chance) {
        let seq = Seq(self.last_seq.0 + 1 + chance.below(2));
        let event = chance.made(seq.0).event();
        let terms = terms_of(event.view(), classes);
        writer.insert(seq, &event, &terms).expect("insert");
        self.events.insert(seq, (event, terms));
        self.last_seq = seq;
    }
}

/// Random writes, some of them aborted, read during and after the write; `reopen` sometimes closes the backend.
pub(crate) fn check_random_writes<B: Backend>(
    seed: u64,
    mut backend: B,
    mut reopen: impl FnMut(B) -> B,
) -> B {
    let mut chance = Chance::new(seed);
    let mut model = Model::default();
    let classes = backend.classes();
    for round in 0..60 {
        let before = model.clone();
        let is_kept = chance.below(4) != 0;
        let result = backend.write(|writer| {
            for _ in 0..1 + chance.below(12) {
                model.change(writer, classes, &mut chance);
                if chance.below(6) == 0 {
                    model.check(writer, classes, &mut chance);
                }
            }
            model.check(writer, classes, &mut chance);
            if is_kept { Ok(round) } else { Err(StoreError::Failed("on purpose".into())) }
        });
        if is_kept {
            assert_eq!(result, Ok(round));
        } else {
            assert_eq!(result, Err(StoreError::Failed("on purpose".into())));
            model = before;
        }
        if chance.below(10) == 0 {
            backend = reopen(backend);
        }
        model.check(&backend.reader().expect("reader"), classes, &mut chance);
    }
    backend
}

/// A deletion of more than `backend` removes at once, which removes one event in a step: the process ends between any two
/// steps, and nothing comes back or is left.
pub(crate) fn check_removal_across_restarts<B: Backend>(mut backend: B, mut reopen: impl FnMut(B) -> B) -> B {
    let put = |event: &Event| Op::Put(Verified::assume_verified(event.clone()));
    let tags = |n: u64| (0..4).map(|tag| ("t", format!("{tag} of {n}"))).collect();
    let events: Vec<Event> = (1..=20)
        .map(|n| Made { prefix: n, tail: n, author: 1, created_at: n, kind: 1, tags: tags(n) }.event())
        .collect();
    let kept: Vec<Event> = (21..=25)
        .map(|n| Made { prefix: n, tail: n, author: 2, created_at: n, kind: 1, tags: tags(n) }.event())
        .collect();
    let ids = events.iter().map(|event| ("e", event.id.to_string())).collect();
    let request = Made { prefix: 99, tail: 99, author: 1, created_at: 99, kind: 5, tags: ids }.event();
    let ops: Vec<Op> = events.iter().chain(&kept).map(put).collect();
    commit(&backend, 100, &ops).expect("commit");
    commit(&backend, 100, &[put(&request)]).expect("commit");
    let mut steps = 0;
    loop {
        backend = reopen(backend);
        let refused = vec![Outcome::Refused(Refusal::Deleted); 20];
        assert_eq!(commit(&backend, 100, &ops[..20]), Ok(refused), "after {steps} steps");
        let reader = backend.reader().expect("reader");
        assert_eq!(reader.stats().expect("stats").events, 6);
        assert!(events.iter().all(|event| reader.seq_of(&event.id) == Ok(None)));
        assert!(kept.iter().all(|event| reader.seq_of(&event.id).is_ok_and(|seq| seq.is_some())));
        let mut log = Vec::new();
        reader.log(Seq(0), 100, &mut log).expect("log");
        assert_eq!(log.len(), 26 - steps, "each step removes one and none twice");
        drop(reader);
        if steps == 20 {
            assert_eq!(remove_pending(&backend), Ok(Removed::default()));
            return backend;
        }
        assert_eq!(remove_pending(&backend).map(|removed| removed.events), Ok(1));
        steps += 1;
    }
}

/// Stores one event in a write of its own.
pub(crate) fn insert<B: Backend>(backend: &B, seq: u64, event: &Event) -> Result<(), StoreError> {
    let terms = terms_of(event.view(), backend.classes());
    backend.write(|writer| writer.insert(Seq(seq), event, &terms))
}

/// Sequence numbers of an author's events, newest first.
pub(crate) fn of_author<B: Backend>(backend: &B, author: PubKey) -> Vec<u64> {
    numbers_of_author(&backend.reader().expect("reader"), author)
}

pub(crate) fn numbers_of_author<R: Reader>(reader: &R, author: PubKey) -> Vec<u64> {
    let mut found = Vec::new();
    let start = StartAt::Rank(Rank::newest(Timestamp::MAX));
    reader.postings(&Term::Author(author), start, 0, 100_000, &mut found).expect("postings");
    found.iter().map(|posting| posting.seq.0).collect()
}
