//! Random events and messages in odd JSON forms.

use relay_engine::wire::CREATED_AT_MAX;

use super::{EventId, ModelEvent};

/// A seeded random generator (SplitMix64).
pub struct Rng(pub u64);

impl Rng {
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    pub fn below(&mut self, bound: usize) -> usize {
        (self.bits() % bound as u64) as usize
    }
    pub fn one_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
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

/// Random text, about half of it difficult for parsers.
pub fn text(rng: &mut Rng) -> String {
    let len_max = if rng.one_in(8) { 60 } else { 12 };
    let len = rng.below(len_max);
    let tame = rng.one_in(2);
    (0..len).map(|_| if tame { *rng.pick(&['a', 'e', ' ', 'q', '.']) } else { *rng.pick(NASTY) }).collect()
}

pub fn random_event(rng: &mut Rng) -> ModelEvent {
    let tag_count = rng.below(6);
    let tags = (0..tag_count)
        .map(|_| {
            let mut tag: Vec<String> = (0..1 + rng.below(3)).map(|_| text(rng)).collect();
            if let Some(name) = tag.first_mut()
                && rng.one_in(2)
            {
                *name = (*rng.pick(&["e", "p", "d", "expiration", "-"])).to_owned();
            }
            if let Some(value) = tag.get_mut(1)
                && rng.one_in(2)
            {
                *value = (rng.bits() % 1_000_000).to_string();
            }
            tag
        })
        .collect();
    let mut event = ModelEvent {
        id: EventId([0; 32]),
        pubkey: rng.hex(64).parse().unwrap(),
        sig: rng.hex(128).parse().unwrap(),
        created_at: *rng.pick(&[0, 1, 1_700_000_000, u64::from(u32::MAX) + 1, CREATED_AT_MAX]),
        kind: *rng.pick(&[0, 1, 7, 1059, 30_023, 65_535]),
        tags,
        content: text(rng),
    };
    event.id = event.compute_id();
    event
}

/// Writes valid JSON in odd forms.
pub struct OddWriter<'d> {
    pub rng: &'d mut Rng,
    pub out: String,
    /// Whether white space, escapes and order are the relay's own.
    pub tidy: bool,
}

impl OddWriter<'_> {
    pub fn gap(&mut self) {
        while !self.tidy && self.rng.one_in(4) {
            self.out.push(*self.rng.pick(&[' ', '\t', '\n', '\r']));
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
        let escape_one_in = *self.rng.pick(&[2, 10, 1000]);
        self.out.push('"');
        for character in text.chars() {
            let must = character < ' ' || character == '"' || character == '\\';
            if !must && !self.rng.one_in(escape_one_in) {
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
                Some(short) if self.rng.one_in(2) => self.out.extend(['\\', short]),
                _ => {
                    for unit in character.encode_utf16(&mut [0; 2]) {
                        let digits = format!("{unit:04x}");
                        let mixed = digits
                            .chars()
                            .map(|digit| if self.rng.one_in(2) { digit.to_ascii_uppercase() } else { digit });
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
        for (index, value) in list.iter().enumerate() {
            if index > 0 {
                self.raw(",");
            }
            write(self, value);
        }
        self.raw("]");
    }

    pub fn value(&mut self, depth: usize) {
        match self.rng.below(if depth == 0 { 5 } else { 7 }) {
            0 => self.raw("null"),
            1 => self.raw("true"),
            2 => self.raw("false"),
            3 => {
                let number = *self.rng.pick(&[
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
                let text = text(self.rng);
                self.string(&text);
            }
            5 => {
                let list = vec![(); self.rng.below(4)];
                self.array(&list, |writer, ()| writer.value(depth - 1));
            }
            _ => {
                self.raw("{");
                for index in 0..self.rng.below(4) {
                    if index > 0 {
                        self.raw(",");
                    }
                    let name = text(self.rng);
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
            if self.rng.one_in(3) {
                fields.extend(["extra", "", "seen\n\"on\""]);
            }
            self.rng.shuffle(&mut fields);
        }
        self.raw("{");
        for (index, name) in fields.iter().enumerate() {
            if index > 0 {
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

    /// A random filter, sometimes invalid.
    pub fn filter(&mut self) {
        let mut names = vec![
            "ids", "authors", "kinds", "since", "until", "limit", "#e", "#p", "#t", "#D", "search", "#ab",
            "#1",
        ];
        self.rng.shuffle(&mut names);
        names.retain(|name| !matches!(*name, "search" | "#ab" | "#1") || self.rng.one_in(20));
        names.truncate(self.rng.below(6));
        self.raw("{");
        for (index, name) in names.iter().enumerate() {
            if index > 0 {
                self.raw(",");
            }
            self.string(name);
            self.raw(":");
            let list = vec![(); self.rng.below(5)];
            match *name {
                "ids" | "authors" | "#e" | "#p" => self.array(&list, |writer, ()| {
                    let len = if writer.rng.one_in(60) { 62 } else { 64 };
                    let hex = writer.rng.hex(len);
                    writer.string(&hex);
                }),
                "kinds" => self.array(&list, |writer, ()| {
                    let kind = *writer.rng.pick(&["0", "1", "1", "7", "30023", "65535"]);
                    let kind = if writer.rng.one_in(60) { "65536" } else { kind };
                    writer.raw(kind);
                }),
                "since" | "until" | "limit" => {
                    let number = *self.rng.pick(&[
                        "0",
                        "1",
                        "500",
                        "4294967296",
                        "9223372036854775807",
                        "18446744073709551615",
                    ]);
                    let number = if self.rng.one_in(20) { "-1" } else { number };
                    self.raw(number);
                }
                _ => self.array(&list, |writer, ()| {
                    let text = text(writer.rng);
                    writer.string(&text);
                }),
            }
        }
        self.raw("}");
    }

    /// A random message, nearly always valid.
    pub fn message(&mut self) {
        let verb = *self.rng.pick(&[
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
                let event = random_event(self.rng);
                self.event(&event);
            }
            _ => {
                let sub = text(self.rng);
                self.string(&sub);
            }
        }
        if matches!(verb, "REQ" | "COUNT") {
            for _ in 0..1 + self.rng.below(3) {
                self.raw(",");
                self.filter();
            }
        } else if matches!(verb, "NEG-OPEN" | "NEG-MSG") {
            if verb == "NEG-OPEN" {
                self.raw(",");
                self.filter();
            }
            self.raw(",");
            let message = *self.rng.pick(&["", "61", "6100000200", "6A", "611", "x1"]);
            self.string(message);
        }
        if !matches!(verb, "REQ" | "COUNT") && self.rng.one_in(10) {
            self.raw(",");
            self.value(3);
        }
        self.raw("]");
    }
}
