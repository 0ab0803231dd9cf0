//! The naive twin of the parser: `serde_json` reads the message into a tree that keeps repeated names, and
//! plain loops say what NIP-01 makes of it. Slow, simple, and written without a look at the fast one.

// Each test program uses its part.
#![allow(dead_code, unreachable_pub)]

use std::fmt;

use relay_engine::types::{EventId, Filter, Kind, Limits, PubKey, Sig, TagFilter};
use relay_engine::wire::CREATED_AT_MAX;
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use sha2::{Digest, Sha256};

/// A JSON value that forgets nothing but the spelling.
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
    /// Whether some number is so large that the tree cannot say whether it was written in digits alone.
    pub fn has_huge_number(&self) -> bool {
        match self {
            Json::Float(number) => number.abs() >= u64::MAX as f64,
            Json::Arr(list) => list.iter().any(Json::has_huge_number),
            Json::Obj(fields) => fields.iter().any(|(_, value)| value.has_huge_number()),
            _ => false,
        }
    }
}

/// An event as the model reads it.
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

    /// What NIP-01 hashes, its strings written by `serde_json`.
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

/// A message as the model reads it.
#[derive(Clone, Debug, PartialEq)]
pub enum ModelMessage {
    Event(ModelEvent),
    Auth(ModelEvent),
    Req(String, Vec<Filter>),
    Count(String, Vec<Filter>),
    Close(String),
    Neg(String),
    NegClose,
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
        "NEG-OPEN" | "NEG-MSG" => {
            let query = list.get(1)?.str()?;
            trailing_ok().then(|| ModelMessage::Neg(query.to_owned()))
        }
        "NEG-CLOSE" => {
            list.get(1)?.str()?;
            trailing_ok().then_some(ModelMessage::NegClose)
        }
        _ => None,
    }
}

fn read_sub(json: &Json) -> Option<String> {
    let text = json.str()?;
    (1..=64).contains(&text.chars().count()).then(|| text.to_owned())
}

/// Values in all lists of a filter, repeats counted.
fn values(filter: &Json) -> usize {
    let Json::Obj(fields) = filter else { return 0 };
    fields.iter().filter_map(|(_, value)| value.arr()).map(<[Json]>::len).sum()
}

pub fn read_filter(json: &Json) -> Option<Filter> {
    let Json::Obj(fields) = json else { return None };
    let mut filter = Filter::default();
    let mut tags: Vec<TagFilter> = Vec::new();
    for (place, (name, value)) in fields.iter().enumerate() {
        if fields[..place].iter().any(|(earlier, _)| earlier == name) {
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

/// Chance by seed (SplitMix64).
pub struct Dice(pub u64);

impl Dice {
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    pub fn below(&mut self, bound: usize) -> usize {
        (self.roll() % bound as u64) as usize
    }
    pub fn one_in(&mut self, sides: usize) -> bool {
        self.below(sides) == 0
    }
    pub fn pick<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len())]
    }
    pub fn shuffle<T>(&mut self, list: &mut [T]) {
        for last in (1..list.len()).rev() {
            list.swap(last, self.below(last + 1));
        }
    }
    pub fn hex(&mut self, len: usize) -> String {
        (0..len).map(|_| *self.pick(&['0', '1', '7', '9', 'a', 'c', 'f'])).collect()
    }
}

const NASTY: &[char] = &[
    'a',
    'b',
    ' ',
    'z',
    '0',
    '"',
    '\\',
    '/',
    '\n',
    '\r',
    '\t',
    '\u{8}',
    '\u{c}',
    '\0',
    '\u{1}',
    '\u{b}',
    '\u{1f}',
    '\u{7f}',
    '\u{80}',
    'é',
    'ß',
    '\u{7ff}',
    '\u{800}',
    '\u{2028}',
    '漢',
    '\u{d7ff}',
    '\u{e000}',
    '\u{feff}',
    '\u{fffe}',
    '\u{ffff}',
    '💜',
    '\u{10000}',
    '\u{1ffff}',
    '\u{10ffff}',
    '[',
    ']',
    '{',
    '}',
    ',',
    ':',
    '#',
];

/// Text that is hard on parsers, about as often tame.
pub fn text(dice: &mut Dice) -> String {
    let len_max = if dice.one_in(8) { 60 } else { 12 };
    let len = dice.below(len_max);
    let tame = dice.one_in(2);
    (0..len).map(|_| if tame { *dice.pick(&['a', 'e', ' ', 'q', '.']) } else { *dice.pick(NASTY) }).collect()
}

pub fn random_event(dice: &mut Dice) -> ModelEvent {
    let tag_count = dice.below(6);
    let tags = (0..tag_count)
        .map(|_| {
            let mut tag: Vec<String> = (0..1 + dice.below(3)).map(|_| text(dice)).collect();
            if let Some(name) = tag.first_mut()
                && dice.one_in(2)
            {
                *name = (*dice.pick(&["e", "p", "d", "expiration", "-"])).to_owned();
            }
            if let Some(value) = tag.get_mut(1)
                && dice.one_in(2)
            {
                *value = (dice.roll() % 1_000_000).to_string();
            }
            tag
        })
        .collect();
    let mut event = ModelEvent {
        id: EventId([0; 32]),
        pubkey: dice.hex(64).parse().unwrap(),
        sig: dice.hex(128).parse().unwrap(),
        created_at: *dice.pick(&[0, 1, 1_700_000_000, u64::from(u32::MAX) + 1, CREATED_AT_MAX]),
        kind: *dice.pick(&[0, 1, 7, 1059, 30_023, 65_535]),
        tags,
        content: text(dice),
    };
    event.id = event.compute_id();
    event
}

/// Writes JSON as untidily as it allows.
pub struct Sloppy<'d> {
    pub dice: &'d mut Dice,
    pub out: String,
    /// White space, escapes and order as the relay would write them.
    pub tidy: bool,
}

impl Sloppy<'_> {
    pub fn gap(&mut self) {
        while !self.tidy && self.dice.one_in(4) {
            self.out.push(*self.dice.pick(&[' ', '\t', '\n', '\r']));
        }
    }

    pub fn raw(&mut self, text: &str) {
        self.gap();
        self.out.push_str(text);
        self.gap();
    }

    pub fn string(&mut self, text: &str) {
        self.gap();
        if self.tidy {
            self.out.push_str(&serde_json::to_string(text).unwrap());
            return;
        }
        let escape_one_in = *self.dice.pick(&[2, 10, 1000]);
        self.out.push('"');
        for character in text.chars() {
            let must = character < ' ' || character == '"' || character == '\\';
            if !must && !self.dice.one_in(escape_one_in) {
                self.out.push(character);
                continue;
            }
            let short = match character {
                '\n' => Some('n'),
                '\r' => Some('r'),
                '\t' => Some('t'),
                '\u{8}' => Some('b'),
                '\u{c}' => Some('f'),
                '"' | '\\' | '/' => Some(character),
                _ => None,
            };
            match short {
                Some(short) if self.dice.one_in(2) => self.out.extend(['\\', short]),
                _ => {
                    for unit in character.encode_utf16(&mut [0; 2]) {
                        let digits = format!("{unit:04x}");
                        let mixed = digits.chars().map(|digit| {
                            if self.dice.one_in(2) { digit.to_ascii_uppercase() } else { digit }
                        });
                        let mixed: String = mixed.collect();
                        self.out.push_str("\\u");
                        self.out.push_str(&mixed);
                    }
                }
            }
        }
        self.out.push('"');
        self.gap();
    }

    pub fn array<T>(&mut self, list: &[T], mut write: impl FnMut(&mut Self, &T)) {
        self.raw("[");
        for (place, value) in list.iter().enumerate() {
            if place > 0 {
                self.raw(",");
            }
            write(self, value);
        }
        self.raw("]");
    }

    pub fn value(&mut self, depth: usize) {
        match self.dice.below(if depth == 0 { 5 } else { 7 }) {
            0 => self.raw("null"),
            1 => self.raw("true"),
            2 => self.raw("false"),
            3 => {
                let number = *self.dice.pick(&[
                    "0",
                    "-0",
                    "1.5",
                    "-12e3",
                    "1E-7",
                    "0.0e+0",
                    "42",
                    "18446744073709551615",
                ]);
                self.raw(number);
            }
            4 => {
                let text = text(self.dice);
                self.string(&text);
            }
            5 => {
                let list = vec![(); self.dice.below(4)];
                self.array(&list, |writer, ()| writer.value(depth - 1));
            }
            _ => {
                self.raw("{");
                for place in 0..self.dice.below(4) {
                    if place > 0 {
                        self.raw(",");
                    }
                    let name = text(self.dice);
                    self.string(&name);
                    self.raw(":");
                    self.value(depth - 1);
                }
                self.raw("}");
            }
        }
    }

    pub fn event(&mut self, event: &ModelEvent) {
        let mut fields = vec!["id", "pubkey", "created_at", "kind", "tags", "content", "sig"];
        if !self.tidy {
            if self.dice.one_in(3) {
                fields.extend(["extra", "", "seen\n\"on\""]);
            }
            self.dice.shuffle(&mut fields);
        }
        self.raw("{");
        for (place, name) in fields.iter().enumerate() {
            if place > 0 {
                self.raw(",");
            }
            self.string(name);
            self.raw(":");
            match *name {
                "id" => self.string(&event.id.to_string()),
                "pubkey" => self.string(&event.pubkey.to_string()),
                "sig" => self.string(&event.sig.to_string()),
                "created_at" => self.raw(&event.created_at.to_string()),
                "kind" => self.raw(&event.kind.to_string()),
                "content" => self.string(&event.content),
                "tags" => self.array(&event.tags, |writer, tag| {
                    writer.array(tag, |writer, field| writer.string(field));
                }),
                _ => self.value(4),
            }
        }
        self.raw("}");
    }

    /// A filter of any shape, some of them not allowed.
    pub fn filter(&mut self) {
        let mut names = vec![
            "ids", "authors", "kinds", "since", "until", "limit", "#e", "#p", "#t", "#D", "search", "#ab",
            "#1",
        ];
        self.dice.shuffle(&mut names);
        names.retain(|name| !matches!(*name, "search" | "#ab" | "#1") || self.dice.one_in(20));
        names.truncate(self.dice.below(6));
        self.raw("{");
        for (place, name) in names.iter().enumerate() {
            if place > 0 {
                self.raw(",");
            }
            self.string(name);
            self.raw(":");
            let list = vec![(); self.dice.below(5)];
            match *name {
                "ids" | "authors" | "#e" | "#p" => self.array(&list, |writer, ()| {
                    let len = if writer.dice.one_in(60) { 62 } else { 64 };
                    let hex = writer.dice.hex(len);
                    writer.string(&hex);
                }),
                "kinds" => self.array(&list, |writer, ()| {
                    let kind = *writer.dice.pick(&["0", "1", "1", "7", "30023", "65535"]);
                    let kind = if writer.dice.one_in(60) { "65536" } else { kind };
                    writer.raw(kind);
                }),
                "since" | "until" | "limit" => {
                    let number = *self.dice.pick(&[
                        "0",
                        "1",
                        "500",
                        "4294967296",
                        "9223372036854775807",
                        "18446744073709551615",
                    ]);
                    let number = if self.dice.one_in(20) { "-1" } else { number };
                    self.raw(number);
                }
                _ => self.array(&list, |writer, ()| {
                    let text = text(writer.dice);
                    writer.string(&text);
                }),
            }
        }
        self.raw("}");
    }

    /// A whole message, nearly always one to take.
    pub fn message(&mut self) {
        let verb = *self.dice.pick(&[
            "EVENT",
            "EVENT",
            "EVENT",
            "AUTH",
            "REQ",
            "REQ",
            "REQ",
            "COUNT",
            "CLOSE",
            "NEG-OPEN",
            "NEG-MSG",
            "NEG-CLOSE",
        ]);
        self.raw("[");
        self.string(verb);
        self.raw(",");
        match verb {
            "EVENT" | "AUTH" => {
                let event = random_event(self.dice);
                self.event(&event);
            }
            _ => {
                let sub = text(self.dice);
                self.string(&sub);
            }
        }
        if matches!(verb, "REQ" | "COUNT") {
            for _ in 0..1 + self.dice.below(3) {
                self.raw(",");
                self.filter();
            }
        } else if self.dice.one_in(10) {
            self.raw(",");
            self.value(3);
        }
        self.raw("]");
    }
}
