//! The seven kinds of queries that clients send most, with values drawn from a corpus.

use crate::corpus::Corpus;
use crate::filter::Filter;
use crate::generate::Rng;

/// A kind of query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A few authors' notes: 10 authors, kind 1, limit 50.
    AuthorsKinds,
    /// Everyone's notes: kind 1, limit 500.
    Kinds,
    /// A note's replies and reactions: `#e`, limit 100.
    TagE,
    /// 10 events by id.
    Ids,
    /// All of one hour, limit 200.
    Hour,
    /// A home page: 300 authors, kinds 1 and 6, limit 100.
    Feed,
    /// A hashtag: `#t`, limit 50.
    TagT,
}

impl Shape {
    /// All of them, in the order of the tables.
    pub const ALL: [Shape; 7] =
        [Shape::AuthorsKinds, Shape::Kinds, Shape::TagE, Shape::Ids, Shape::Hour, Shape::Feed, Shape::TagT];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Shape::AuthorsKinds => "authors+kind limit 50",
            Shape::Kinds => "kind limit 500",
            Shape::TagE => "#e limit 100",
            Shape::Ids => "10 ids",
            Shape::Hour => "one hour limit 200",
            Shape::Feed => "feed of 300 limit 100",
            Shape::TagT => "#t limit 50",
        }
    }

    /// A query of this kind. Values are those of random events, so frequent ones are queried often.
    ///
    /// # Panics
    /// If the corpus keeps no event.
    pub fn draw(self, corpus: &Corpus, rng: &mut Rng) -> Filter {
        match self {
            Shape::AuthorsKinds => Filter {
                authors: authors(corpus, rng, 10),
                kinds: vec![1],
                limit: Some(50),
                ..Filter::default()
            },
            Shape::Kinds => Filter { kinds: vec![1], limit: Some(500), ..Filter::default() },
            Shape::TagE => Filter {
                tag: Some((b'e', tag_value(corpus, rng, b'e'))),
                limit: Some(100),
                ..Filter::default()
            },
            Shape::Ids => {
                let mut ids: Vec<[u8; 32]> = (0..10).map(|_| random(corpus, rng).id).collect();
                ids.sort_unstable();
                ids.dedup();
                Filter { ids, ..Filter::default() }
            }
            Shape::Hour => {
                let until = random(corpus, rng).created_at;
                let since = until.saturating_sub(3_599);
                Filter { since: Some(since), until: Some(until), limit: Some(200), ..Filter::default() }
            }
            Shape::Feed => Filter {
                authors: authors(corpus, rng, 300),
                kinds: vec![1, 6],
                limit: Some(100),
                ..Filter::default()
            },
            Shape::TagT => Filter {
                tag: Some((b't', tag_value(corpus, rng, b't'))),
                limit: Some(50),
                ..Filter::default()
            },
        }
    }
}

fn random<'a>(corpus: &'a Corpus, rng: &mut Rng) -> &'a crate::corpus::Entry {
    &corpus.events[corpus.current[rng.below(corpus.current.len())] as usize]
}

/// Up to `wanted` different authors.
fn authors(corpus: &Corpus, rng: &mut Rng, wanted: usize) -> Vec<u32> {
    let mut authors = Vec::new();
    // A small corpus may have fewer.
    for _ in 0..wanted * 40 {
        let author = random(corpus, rng).author;
        if let Err(index) = authors.binary_search(&author) {
            authors.insert(index, author);
        }
        if authors.len() == wanted {
            break;
        }
    }
    authors
}

/// A value that some event has for `letter`; one that none has if the letter is rare.
fn tag_value(corpus: &Corpus, rng: &mut Rng, letter: u8) -> Vec<u32> {
    for _ in 0..1_000 {
        let tags = &random(corpus, rng).tags;
        let values: Vec<u32> =
            tags.iter().filter(|(name, _)| *name == letter).map(|(_, value)| *value).collect();
        if !values.is_empty() {
            return vec![values[rng.below(values.len())]];
        }
    }
    vec![random(corpus, rng).author]
}
