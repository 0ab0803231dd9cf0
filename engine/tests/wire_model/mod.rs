//! A naive model of the parser: `serde_json` parses the message into a tree that keeps repeated names, and simple loops apply
//! NIP-01. It shares no code with the engine's parser. [`random`] makes messages for the comparison.

// Each test program uses its part.
#![allow(dead_code, unreachable_pub, unused_imports)]

mod random;

use std::fmt;

use relay_engine::types::{EventId, Filter, Kind, Limits, PubKey, Sig, TagFilter};
use relay_engine::wire::CREATED_AT_MAX;
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use sha2::{Digest, Sha256};

pub use random::{OddWriter, Rng, random_event};

/// A JSON value that keeps everything but the formatting.
#[derive(Clone, Debug, PartialEq)]
pub enum Json {
    Null,
    Bool(bool),
    Int(u64),
    Float(f64),
    Str(String),
    Arr(Vec<Json>),
    Obj(Vec<(String, Json)>),
}

impl<'de> Deserialize<'de> for Json {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Json;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("JSON")
            }
            fn visit_unit<E: de::Error>(self) -> Result<Json, E> {
                Ok(Json::Null)
            }
            fn visit_bool<E: de::Error>(self, value: bool) -> Result<Json, E> {
                Ok(Json::Bool(value))
            }
            fn visit_u64<E: de::Error>(self, value: u64) -> Result<Json, E> {
                Ok(Json::Int(value))
            }
            fn visit_i64<E: de::Error>(self, value: i64) -> Result<Json, E> {
                Ok(Json::Float(value as f64))
            }
            fn visit_f64<E: de::Error>(self, value: f64) -> Result<Json, E> {
                Ok(Json::Float(value))
            }
            fn visit_str<E: de::Error>(self, value: &str) -> Result<Json, E> {
                Ok(Json::Str(value.to_owned()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Json, A::Error> {
                let mut list = Vec::new();
                while let Some(value) = seq.next_element()? {
                    list.push(value);
                }
                Ok(Json::Arr(list))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Json::Obj(fields))
            }
        }
        deserializer.deserialize_any(Reader)
    }
}

impl Json {
    fn str(&self) -> Option<&str> {
        if let Json::Str(text) = self { Some(text) } else { None }
    }
    fn int(&self) -> Option<u64> {
        if let Json::Int(number) = self { Some(*number) } else { None }
    }
    fn arr(&self) -> Option<&[Json]> {
        if let Json::Arr(list) = self { Some(list) } else { None }
    }
    fn depth(&self) -> usize {
        match self {
            Json::Arr(list) => 1 + list.iter().map(Json::depth).max().unwrap_or(0),
            Json::Obj(fields) => 1 + fields.iter().map(|(_, value)| value.depth()).max().unwrap_or(0),
            _ => 0,
        }
    }
    /// Whether some number is so large that the tree cannot tell whether it was written as an integer.
    pub fn has_huge_number(&self) -> bool {
        match self {
            Json::Float(number) => number.abs() >= u64::MAX as f64,
            Json::Arr(list) => list.iter().any(Json::has_huge_number),
            Json::Obj(fields) => fields.iter().any(|(_, value)| value.has_huge_number()),
            _ => false,
        }
    }
}

/// An event as the model parses it.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelEvent {
    pub id: EventId,
    pub pubkey: PubKey,
    pub sig: Sig,
    pub created_at: u64,
    pub kind: Kind,
    pub tags: Vec<Vec<String>>,
    pub content: String,
}

impl ModelEvent {
    pub fn read(json: &Json) -> Option<ModelEvent> {
        let Json::Obj(fields) = json else { return None };
        let known = ["id", "pubkey", "created_at", "kind", "tags", "content", "sig"];
        let mut names: Vec<&str> = fields.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        if names.windows(2).any(|pair| pair[0] == pair[1]) {
            return None;
        }
        let unknown: Vec<_> = fields.iter().filter(|(name, _)| !known.contains(&name.as_str())).collect();
        if unknown.len() > 64 || unknown.iter().any(|(_, value)| value.depth() > 64) {
            return None;
        }
        let get = |wanted: &str| fields.iter().find(|(name, _)| name == wanted).map(|(_, value)| value);
        let tags = get("tags")?.arr()?.iter().map(|tag| {
            let fields = tag.arr().filter(|fields| !fields.is_empty())?;
            fields.iter().map(|field| field.str().map(str::to_owned)).collect::<Option<Vec<_>>>()
        });
        Some(ModelEvent {
            id: get("id")?.str()?.parse().ok()?,
            pubkey: get("pubkey")?.str()?.parse().ok()?,
            sig: get("sig")?.str()?.parse().ok()?,
            created_at: get("created_at")?.int().filter(|at| *at <= CREATED_AT_MAX)?,
            kind: get("kind")?.int()?.try_into().ok()?,
            tags: tags.collect::<Option<_>>()?,
            content: get("content")?.str()?.to_owned(),
        })
    }

    /// The id: the NIP-01 serialisation, its strings written by `serde_json`, hashed.
    pub fn compute_id(&self) -> EventId {
        let text = serde_json::json!([
            0,
            self.pubkey.to_string(),
            self.created_at,
            self.kind,
            self.tags,
            self.content
        ])
        .to_string();
        EventId(Sha256::digest(text.as_bytes()).into())
    }

    /// The canonical JSON, its strings written by `serde_json`.
    pub fn canonical(&self) -> String {
        format!(
            r#"{{"id":"{}","pubkey":"{}","created_at":{},"kind":{},"tags":{},"content":{},"sig":"{}"}}"#,
            self.id,
            self.pubkey,
            self.created_at,
            self.kind,
            serde_json::to_string(&self.tags).unwrap(),
            serde_json::to_string(&self.content).unwrap(),
            self.sig
        )
    }
}

/// A message as the model parses it.
#[derive(Clone, Debug, PartialEq)]
pub enum ModelMessage {
    Event(ModelEvent),
    Auth(ModelEvent),
    Req(String, Vec<Filter>),
    Count(String, Vec<Filter>),
    Close(String),
    NegOpen(String, Filter, Vec<u8>),
    NegMsg(String, Vec<u8>),
    NegClose(String),
}

pub fn read_message(json: &Json, limits: &Limits) -> Option<ModelMessage> {
    let list = json.arr()?;
    let verb = list.first()?.str()?;
    let trailing_ok = || list[2..].iter().all(|value| value.depth() <= 64);
    match verb {
        "EVENT" | "AUTH" => {
            let event = ModelEvent::read(list.get(1)?)?;
            (trailing_ok() && event.tags.len() <= limits.tags_max_of_any()).then_some(if verb == "EVENT" {
                ModelMessage::Event(event)
            } else {
                ModelMessage::Auth(event)
            })
        }
        "REQ" | "COUNT" => {
            let sub = read_sub(list.get(1)?)?;
            let filters = list[2..].iter().map(read_filter).collect::<Option<Vec<_>>>()?;
            if filters.is_empty() || filters.len() > limits.filters_max {
                return None;
            }
            if list[2..].iter().map(values).sum::<usize>() > limits.filter_values_max {
                return None;
            }
            Some(if verb == "REQ" {
                ModelMessage::Req(sub, filters)
            } else {
                ModelMessage::Count(sub, filters)
            })
        }
        "CLOSE" => {
            let sub = read_sub(list.get(1)?)?;
            trailing_ok().then_some(ModelMessage::Close(sub))
        }
        "NEG-OPEN" => {
            let (query, filter) = (read_sub(list.get(1)?)?, list.get(2)?);
            if values(filter) > limits.filter_values_max {
                return None;
            }
            let (filter, message) = (read_filter(filter)?, read_hex(list.get(3)?)?);
            trailing_ok().then_some(ModelMessage::NegOpen(query, filter, message))
        }
        "NEG-MSG" => {
            let (query, message) = (read_sub(list.get(1)?)?, read_hex(list.get(2)?)?);
            trailing_ok().then_some(ModelMessage::NegMsg(query, message))
        }
        "NEG-CLOSE" => {
            let query = read_sub(list.get(1)?)?;
            trailing_ok().then_some(ModelMessage::NegClose(query))
        }
        _ => None,
    }
}

fn read_sub(json: &Json) -> Option<String> {
    let text = json.str()?;
    (1..=64).contains(&text.chars().count()).then(|| text.to_owned())
}

/// Bytes in hex, of either case.
fn read_hex(json: &Json) -> Option<Vec<u8>> {
    let text = json.str()?.as_bytes();
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let (pairs, []) = text.as_chunks::<2>() else { return None };
    pairs.iter().map(|&[high, low]| Some(digit(high)? << 4 | digit(low)?)).collect()
}

/// Number of values in all lists of a filter, including repeated ones.
fn values(filter: &Json) -> usize {
    let Json::Obj(fields) = filter else { return 0 };
    fields.iter().filter_map(|(_, value)| value.arr()).map(<[Json]>::len).sum()
}

pub fn read_filter(json: &Json) -> Option<Filter> {
    let Json::Obj(fields) = json else { return None };
    let mut filter = Filter::default();
    let mut tags: Vec<TagFilter> = Vec::new();
    for (index, (name, value)) in fields.iter().enumerate() {
        if fields[..index].iter().any(|(earlier, _)| earlier == name) {
            return None;
        }
        match name.as_str() {
            "ids" => filter.ids = Some(list(value, |id| id.str()?.parse().ok())?),
            "authors" => filter.authors = Some(list(value, |key| key.str()?.parse().ok())?),
            "kinds" => filter.kinds = Some(list(value, |kind| kind.int()?.try_into().ok())?),
            "since" => filter.since = Some(value.int()?.min(i64::MAX as u64)),
            "until" => filter.until = Some(value.int()?.min(i64::MAX as u64)),
            "limit" => filter.limit = Some(value.int()?.min(u64::from(u32::MAX)) as u32),
            _ => {
                let letter = name.strip_prefix('#').filter(|rest| rest.len() == 1)?.as_bytes()[0];
                if !letter.is_ascii_alphabetic() {
                    return None;
                }
                let values = list(value, |value| {
                    let text = value.str()?;
                    if letter == b'e' || letter == b'p' {
                        text.parse::<EventId>().ok()?;
                    }
                    Some(text.as_bytes().into())
                })?;
                tags.push(TagFilter { letter, values });
            }
        }
    }
    filter.tags = tags.into();
    filter.normalise();
    Some(filter)
}

fn list<T>(json: &Json, read: impl Fn(&Json) -> Option<T>) -> Option<Box<[T]>> {
    json.arr()?.iter().map(read).collect()
}
