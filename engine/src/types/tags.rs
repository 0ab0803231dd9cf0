//! Reading tags in place from canonical JSON.
//!
//! Canonical means what [`crate::wire`] writes: no white space, and no escape but the seven of NIP-01 and
//! `\u00xx` for the other control characters. Nothing here is safe to point at bytes a client sent.

use std::borrow::Cow;

use super::time::Timestamp;

/// The tags of one event, in order, borrowed from its canonical JSON.
#[derive(Clone, Copy, Debug)]
pub struct Tags<'a> {
    /// What follows: `["e","..."],["p","..."]]...`, or `]...` at the end.
    rest: &'a [u8],
}

/// One tag: the inside of its array, `"e","..."`, possibly empty.
#[derive(Clone, Copy, Debug)]
pub struct Tag<'a> {
    raw: &'a [u8],
}

impl<'a> Tags<'a> {
    /// Reads from `json`, which starts with the `[` that opens the tags array and may go on after it.
    ///
    /// # Panics
    /// If `json` does not start with `[`.
    pub fn trusted(json: &'a [u8]) -> Self {
        assert_eq!(json.first(), Some(&b'['), "tags start with [");
        Tags { rest: &json[1..] }
    }

    /// Reads to the end and returns what follows the closing `]`.
    pub(super) fn after(mut self) -> &'a [u8] {
        while self.next().is_some() {}
        &self.rest[1..]
    }

    /// Bytes that have not been read yet, and what follows the tags.
    pub(crate) fn unread(&self) -> usize {
        self.rest.len()
    }

    /// The first value of the first tag called `name`, unescaped.
    pub fn find(self, name: &[u8]) -> Option<Cow<'a, [u8]>> {
        self.named(name).find_map(|tag| tag.value())
    }

    /// The tags called `name`.
    pub fn named<'n>(self, name: &'n [u8]) -> impl Iterator<Item = Tag<'a>> + use<'a, 'n> {
        self.filter(move |tag| tag.name() == Some(name))
    }

    /// The indexed tags (NIP-01): a letter and the first value of each single-letter tag that has one.
    pub fn indexed(self) -> impl Iterator<Item = (u8, Cow<'a, [u8]>)> {
        self.filter_map(Tag::indexed)
    }
}

impl<'a> Iterator for Tags<'a> {
    type Item = Tag<'a>;

    fn next(&mut self) -> Option<Tag<'a>> {
        let mut rest = self.rest;
        if rest[0] == b']' {
            return None;
        }
        if rest[0] == b',' {
            rest = &rest[1..];
        }
        debug_assert_eq!(rest[0], b'[', "a tag opens with [");
        let mut at = 1;
        while rest[at] != b']' {
            if rest[at] == b',' {
                at += 1;
            }
            at += string_len(&rest[at..]);
        }
        self.rest = &rest[at + 1..];
        Some(Tag { raw: &rest[1..at] })
    }
}

impl<'a> Tag<'a> {
    /// The tag's fields as they are escaped, without quotes.
    pub fn fields(self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let mut rest = self.raw;
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            let len = string_len(rest);
            let field = &rest[1..len - 1];
            rest = rest.get(len + 1..).unwrap_or(&[]);
            Some(field)
        })
    }

    /// Its letter and first value, if it is an indexed tag ([`Tags::indexed`]).
    pub(super) fn indexed(self) -> Option<(u8, Cow<'a, [u8]>)> {
        match self.raw {
            [b'"', letter, b'"', b',', ..] if letter.is_ascii_alphabetic() => {
                self.value().map(|value| (*letter, value))
            }
            _ => None,
        }
    }

    /// The first field, as it is escaped. Names that matter to a relay hold nothing to escape.
    pub fn name(self) -> Option<&'a [u8]> {
        self.fields().next()
    }

    /// The second field, unescaped.
    pub fn value(self) -> Option<Cow<'a, [u8]>> {
        self.fields().nth(1).map(unescape)
    }
}

/// Length of the JSON string that `json` starts with, both quotes counted.
fn string_len(json: &[u8]) -> usize {
    debug_assert_eq!(json[0], b'"', "a string opens with a quote");
    let mut at = 1;
    loop {
        at += memchr::memchr2(b'"', b'\\', &json[at..]).expect("canonical strings are closed");
        if json[at] == b'"' {
            return at + 1;
        }
        at += 2;
    }
}

/// Takes the escapes out of a canonically escaped string; borrows when there are none.
pub fn unescape(raw: &[u8]) -> Cow<'_, [u8]> {
    let Some(first) = memchr::memchr(b'\\', raw) else {
        return Cow::Borrowed(raw);
    };
    let mut out = Vec::with_capacity(raw.len());
    out.extend_from_slice(&raw[..first]);
    let mut at = first;
    while at < raw.len() {
        if raw[at] != b'\\' {
            out.push(raw[at]);
            at += 1;
            continue;
        }
        let (byte, len) = match raw[at + 1] {
            b'n' => (b'\n', 2),
            b'r' => (b'\r', 2),
            b't' => (b'\t', 2),
            b'b' => (0x08, 2),
            b'f' => (0x0c, 2),
            // Canonical form writes only control characters as \u00xx.
            b'u' => (hex_digit(raw[at + 4]) << 4 | hex_digit(raw[at + 5]), 6),
            literal => (literal, 2),
        };
        out.push(byte);
        at += len;
    }
    Cow::Owned(out)
}

fn hex_digit(character: u8) -> u8 {
    match character {
        b'0'..=b'9' => character - b'0',
        _ => character - b'a' + 10,
    }
}

/// The timestamp at which a set of tags says its event expires (NIP-40), if a first `expiration` tag has a number.
pub fn parse_expiration(tags: Tags<'_>) -> Option<Timestamp> {
    let value = tags.find(b"expiration")?;
    std::str::from_utf8(&value).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(json: &str, expected: &[&[&str]]) {
        let tags: Vec<Vec<String>> = Tags::trusted(json.as_bytes())
            .map(|tag| {
                tag.fields().map(|field| String::from_utf8(unescape(field).into_owned()).unwrap()).collect()
            })
            .collect();
        assert_eq!(tags, expected, "{json}");
    }

    #[test]
    fn tags_read_in_order_with_escapes_taken_out() {
        check("[]", &[]);
        check("[[]]", &[&[]]);
        check(r#"[["-"]]"#, &[&["-"]]);
        check(r#"[["e","ab","wss"],["p","cd"]],"content""#, &[&["e", "ab", "wss"], &["p", "cd"]]);
        check(r#"[["t",""],[],["d","a]\",[\\b"]]"#, &[&["t", ""], &[], &["d", "a]\",[\\b"]]);
        check(r#"[["t","\n\r\t\b\f\u0001\u001f"]]"#, &[&["t", "\n\r\t\u{8}\u{c}\u{1}\u{1f}"]]);
    }

    #[test]
    fn only_single_letters_with_a_value_are_indexed() {
        let json = br#"[["e","1"],["E","2","x"],["ee","3"],["9","4"],["p"],["t",""],[],["-"],["e","5"]]"#;
        let found: Vec<(u8, Vec<u8>)> =
            Tags::trusted(json).indexed().map(|(letter, value)| (letter, value.into_owned())).collect();
        let expected: Vec<(u8, Vec<u8>)> =
            [(b'e', "1"), (b'E', "2"), (b't', ""), (b'e', "5")].map(|(l, v)| (l, v.into())).into();
        assert_eq!(found, expected);
    }

    #[test]
    fn expiration_is_the_first_number_or_nothing() {
        let read = |json: &str| parse_expiration(Tags::trusted(json.as_bytes()));
        assert_eq!(read(r#"[["expiration","1600000000"]]"#), Some(1_600_000_000));
        assert_eq!(read(r#"[["expiration","soon"],["expiration","5"]]"#), None);
        assert_eq!(read(r#"[["expiration"],["e","5"]]"#), None);
    }
}
