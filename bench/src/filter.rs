//! Filters, matched by plain loops: simple enough to be obviously correct.

use serde_json::{Map, Value, json};

use crate::corpus::{Corpus, Entry};
use crate::hex;

/// One NIP-01 filter. Authors and tag values are interned by a [`Corpus`]; an empty list sets no condition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Event ids.
    pub ids: Vec<[u8; 32]>,
    /// Authors, ascending.
    pub authors: Vec<u32>,
    /// Kinds.
    pub kinds: Vec<u16>,
    /// A tag letter and values, ascending.
    pub tag: Option<(u8, Vec<u32>)>,
    /// Unix seconds, inclusive.
    pub since: Option<u64>,
    /// Unix seconds, inclusive.
    pub until: Option<u64>,
    /// Maximum number of stored events.
    pub limit: Option<usize>,
}

impl Filter {
    /// Whether `event` matches; `limit` is ignored.
    pub fn matches(&self, event: &Entry) -> bool {
        self.since.is_none_or(|since| event.created_at >= since)
            && self.until.is_none_or(|until| event.created_at <= until)
            && (self.kinds.is_empty() || self.kinds.contains(&event.kind))
            && (self.authors.is_empty() || self.authors.binary_search(&event.author).is_ok())
            && (self.ids.is_empty() || self.ids.contains(&event.id))
            && self.tag.as_ref().is_none_or(|(letter, values)| {
                event.tags.iter().any(|(tag, value)| tag == letter && values.binary_search(value).is_ok())
            })
    }

    /// The filter as NIP-01 JSON.
    pub fn to_json(&self, corpus: &Corpus) -> Value {
        let mut filter = Map::new();
        if !self.ids.is_empty() {
            let ids: Vec<String> = self.ids.iter().map(|id| hex::encode(id)).collect();
            filter.insert("ids".to_owned(), json!(ids));
        }
        if !self.authors.is_empty() {
            let authors: Vec<&str> = self.authors.iter().map(|author| corpus.text(*author)).collect();
            filter.insert("authors".to_owned(), json!(authors));
        }
        if !self.kinds.is_empty() {
            filter.insert("kinds".to_owned(), json!(self.kinds));
        }
        if let Some((letter, values)) = &self.tag {
            let values: Vec<&str> = values.iter().map(|value| corpus.text(*value)).collect();
            filter.insert(format!("#{}", char::from(*letter)), json!(values));
        }
        let numbers =
            [("since", self.since), ("until", self.until), ("limit", self.limit.map(|limit| limit as u64))];
        for (name, number) in numbers {
            if let Some(number) = number {
                filter.insert(name.to_owned(), json!(number));
            }
        }
        Value::Object(filter)
    }
}
