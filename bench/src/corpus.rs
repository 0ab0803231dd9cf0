//! A file of events, and which of them a relay stores after accepting all.

use std::io::BufRead;

use anyhow::{Context, Result, bail};
use rustc_hash::FxHashMap;
use serde::Deserialize;

use crate::filter::Filter;
use crate::hex;

/// The fields of an event that filters and checks need.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The id.
    pub id: [u8; 32],
    /// The author, as an interned string: see [`Corpus::text`].
    pub author: u32,
    /// Unix seconds.
    pub created_at: u64,
    /// The kind.
    pub kind: u16,
    /// Single-letter tags and their first values, interned likewise.
    pub tags: Box<[(u8, u32)]>,
    /// A newer version of the same replaceable or addressable event is in the file.
    pub superseded: bool,
}

/// A file of events.
#[derive(Debug, Default)]
pub struct Corpus {
    /// The events, in the order of the file.
    pub events: Vec<Entry>,
    /// The JSON of each.
    pub lines: Vec<String>,
    /// Indices of the events that are not superseded, in the order of NIP-01.
    pub current: Vec<u32>,
    by_id: FxHashMap<[u8; 32], u32>,
    texts: Vec<Box<str>>,
    numbers: FxHashMap<Box<str>, u32>,
}

#[derive(Deserialize)]
struct Raw {
    id: String,
    pubkey: String,
    created_at: u64,
    kind: u16,
    tags: Vec<Vec<String>>,
}

impl Corpus {
    /// Reads one event a line.
    ///
    /// # Errors
    /// For a line that is not an event, and for what this oracle does not model: deletions, vanishing,
    /// expiry and ephemeral events.
    pub fn read(input: &mut dyn BufRead) -> Result<Self> {
        let mut lines = Vec::new();
        for line in input.lines() {
            lines.push(line?);
        }
        Self::new(lines)
    }

    /// Parses lines, one event each.
    ///
    /// # Errors
    /// As [`Corpus::read`].
    pub fn new(lines: Vec<String>) -> Result<Self> {
        let mut corpus = Corpus::default();
        let mut winners: FxHashMap<(u32, u16, String), u32> = FxHashMap::default();
        for (at, line) in lines.into_iter().enumerate() {
            let number = at as u32;
            let raw: Raw = serde_json::from_str(&line).with_context(|| format!("line {}", at + 1))?;
            if matches!(raw.kind, 5 | 62 | 20_000..=29_999) || has_tag(&raw, "expiration") {
                bail!("line {}: deletions, expiry and ephemeral events are not modelled", at + 1);
            }
            let address = address(&raw);
            let entry = corpus.entry(raw).with_context(|| format!("line {}", at + 1))?;
            if corpus.by_id.insert(entry.id, number).is_some() {
                bail!("line {}: the same event twice", at + 1);
            }
            let author = entry.author;
            corpus.events.push(entry);
            corpus.lines.push(line);
            if let Some((kind, d)) = address {
                let winner = winners.entry((author, kind, d)).or_insert(number);
                if *winner != number {
                    let (old, new) = (&corpus.events[*winner as usize], &corpus.events[at]);
                    let newer = (new.created_at, std::cmp::Reverse(new.id))
                        > (old.created_at, std::cmp::Reverse(old.id));
                    let loser = if newer { std::mem::replace(winner, number) } else { number };
                    corpus.events[loser as usize].superseded = true;
                }
            }
        }
        corpus.current =
            (0..corpus.events.len() as u32).filter(|at| !corpus.events[*at as usize].superseded).collect();
        let events = &corpus.events;
        corpus.current.sort_unstable_by_key(|at| {
            let event = &events[*at as usize];
            (std::cmp::Reverse(event.created_at), event.id)
        });
        Ok(corpus)
    }

    fn entry(&mut self, raw: Raw) -> Result<Entry> {
        let tags = raw
            .tags
            .iter()
            .filter_map(|tag| match (tag.first()?.as_bytes(), tag.get(1)) {
                ([letter], Some(value)) if letter.is_ascii_alphabetic() => {
                    Some((*letter, self.intern(value)))
                }
                _ => None,
            })
            .collect();
        Ok(Entry {
            id: hex::decode32(raw.id.as_bytes()).context("the id is not 64 hex digits")?,
            author: self.intern(&raw.pubkey),
            created_at: raw.created_at,
            kind: raw.kind,
            tags,
            superseded: false,
        })
    }

    /// Interns an author or tag value: equal strings have equal numbers.
    pub fn intern(&mut self, text: &str) -> u32 {
        if let Some(number) = self.numbers.get(text) {
            return *number;
        }
        let number = self.texts.len() as u32;
        self.texts.push(text.into());
        self.numbers.insert(text.into(), number);
        number
    }

    /// The string of an interned number.
    pub fn text(&self, number: u32) -> &str {
        &self.texts[number as usize]
    }

    /// The index of the event with this id.
    pub fn find(&self, id: &[u8; 32]) -> Option<usize> {
        self.by_id.get(id).map(|at| *at as usize)
    }

    /// The answer of a relay that stores exactly this file: indices of events, in the order of NIP-01.
    pub fn answer(&self, filter: &Filter) -> Vec<u32> {
        let matching = self.current.iter().copied().filter(|at| filter.matches(&self.events[*at as usize]));
        matching.take(filter.limit.unwrap_or(usize::MAX)).collect()
    }
}

fn has_tag(raw: &Raw, name: &str) -> bool {
    raw.tags.iter().any(|tag| tag.first().is_some_and(|first| first == name))
}

/// Kind and `d` tag of what has an address.
fn address(raw: &Raw) -> Option<(u16, String)> {
    match raw.kind {
        0 | 3 | 10_000..=19_999 => Some((raw.kind, String::new())),
        30_000..=39_999 => {
            let d = raw.tags.iter().find(|tag| tag.first().is_some_and(|name| name == "d"));
            Some((raw.kind, d.and_then(|tag| tag.get(1)).cloned().unwrap_or_default()))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(id: u8, pubkey: u8, created_at: u64, kind: u16, tags: &str) -> String {
        let (id, pubkey) = (format!("{id:02x}").repeat(32), format!("{pubkey:02x}").repeat(32));
        format!(
            r#"{{"id":"{id}","pubkey":"{pubkey}","created_at":{created_at},"kind":{kind},"tags":{tags},"content":"","sig":""}}"#
        )
    }

    fn current(lines: Vec<String>) -> Vec<u32> {
        Corpus::new(lines).unwrap().current
    }

    #[test]
    fn answers_come_newest_first_and_by_id_in_one_second() {
        let lines = vec![line(9, 1, 5, 1, "[]"), line(3, 1, 5, 1, "[]"), line(4, 1, 6, 1, "[]")];
        assert_eq!(current(lines), [2, 1, 0]);
    }

    #[test]
    fn the_newest_version_is_kept_and_of_one_second_the_lowest_id() {
        assert_eq!(
            current(vec![line(1, 1, 5, 0, "[]"), line(2, 1, 6, 0, "[]"), line(3, 1, 4, 0, "[]")]),
            [1]
        );
        assert_eq!(
            current(vec![line(2, 1, 5, 3, "[]"), line(1, 1, 5, 3, "[]"), line(3, 1, 5, 3, "[]")]),
            [1]
        );
        let d = |d: &str| format!(r#"[["x"],["d","{d}"]]"#);
        let lines =
            vec![line(1, 1, 5, 30023, &d("a")), line(2, 1, 5, 30023, &d("b")), line(3, 1, 7, 30023, &d("a"))];
        assert_eq!(current(lines), [2, 1]);
    }

    #[test]
    fn filters_read_letters_values_and_bounds() {
        let tags = r#"[["e","aa"],["e","bb","x"],["ee","cc"],["t",""]]"#;
        let mut corpus = Corpus::new(vec![line(1, 7, 5, 1, tags), line(2, 8, 6, 7, "[]")]).unwrap();
        let mut check = |letter: u8, value: &str, expected: &[u32]| {
            let filter = Filter { tag: Some((letter, vec![corpus.intern(value)])), ..Filter::default() };
            assert_eq!(corpus.answer(&filter), expected, "{letter} {value}");
        };
        check(b'e', "bb", &[0]);
        check(b'e', "cc", &[]);
        check(b'e', "x", &[]);
        check(b't', "", &[0]);
        check(b'p', "aa", &[]);
        let bounds = Filter { since: Some(5), until: Some(5), ..Filter::default() };
        assert_eq!(corpus.answer(&bounds), [0]);
        let limited = Filter { limit: Some(1), ..Filter::default() };
        assert_eq!(corpus.answer(&limited), [1]);
    }
}
