//! JSON strings: finding what needs care in them, taking escapes out, writing the canonical ones.
//!
//! A [`RawStr`] has been through the scanner of [`super::cursor`]; the functions on it trust that.

use std::borrow::Cow;

/// A checked JSON string as it stands in a message, without its quotes.
#[derive(Clone, Copy, Debug)]
pub(super) struct RawStr<'a> {
    pub(super) raw: &'a [u8],
    pub(super) escapes: Escapes,
}

/// How a string is escaped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Escapes {
    /// There is no backslash in it.
    None,
    /// As the relay would write it.
    Canonical,
    /// Legal, but another way than the relay's.
    NonCanonical,
}

impl<'a> RawStr<'a> {
    /// The text, borrowed when there are no escapes.
    pub(super) fn unescape(self) -> Cow<'a, str> {
        if self.escapes == Escapes::None {
            return Cow::Borrowed(std::str::from_utf8(self.raw).expect("the scanner checked it"));
        }
        let mut text = String::with_capacity(self.raw.len());
        for_each_piece(self.raw, |piece| match piece {
            Piece::Plain(plain) => text.push_str(std::str::from_utf8(plain).expect("the scanner checked it")),
            Piece::Escaped(character) => text.push(character),
        });
        Cow::Owned(text)
    }

    /// Hands the canonical form to `put`, in pieces.
    pub(super) fn canonical(self, mut put: impl FnMut(&[u8])) {
        if self.escapes != Escapes::NonCanonical {
            return put(self.raw);
        }
        for_each_piece(self.raw, |piece| match piece {
            Piece::Plain(plain) => put(plain),
            Piece::Escaped(character) => put_character(character, &mut put),
        });
    }

    /// Unicode characters in the text.
    pub(super) fn chars(self) -> usize {
        let mut chars = 0;
        for_each_piece(self.raw, |piece| {
            chars += match piece {
                // Every character has one byte that does not continue another.
                Piece::Plain(plain) => plain.iter().filter(|&&byte| (byte as i8) >= -0x40).count(),
                Piece::Escaped(_) => 1,
            };
        });
        chars
    }
}

/// Appends `text` as a JSON string, quotes and all, in canonical form.
pub fn write_json_string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    let mut rest = text.as_bytes();
    loop {
        let (plain, special) = rest.split_at(plain_len(rest));
        out.extend_from_slice(plain);
        let Some((&byte, after)) = special.split_first() else {
            break;
        };
        put_character(char::from(byte), &mut |piece| out.extend_from_slice(piece));
        rest = after;
    }
    out.push(b'"');
}

const LOW_BITS: u64 = 0x0101_0101_0101_0101;
const HIGH_BITS: u64 = 0x8080_8080_8080_8080;

/// Sets the high bit of each byte that ends a run of plain text: of quotes, backslashes and characters below 0x20. Bytes
/// after the first may be marked by mistake; the first is always right.
#[inline(always)]
pub(super) fn special_mask(word: u64) -> u64 {
    // With bit 1 flipped a quote is 0x20, and what was below 0x20 still is: one comparison for both.
    let quote_or_control = (word ^ (LOW_BITS * 0x02)).wrapping_sub(LOW_BITS * 0x21);
    let backslash = (word ^ (LOW_BITS * b'\\' as u64)).wrapping_sub(LOW_BITS);
    (quote_or_control | backslash) & !word & HIGH_BITS
}

/// Whether any of eight bytes is outside ASCII.
#[inline(always)]
pub(super) fn has_high_bit(word: u64) -> bool {
    word & HIGH_BITS != 0
}

/// Whether `byte` ends a run of plain text.
#[inline(always)]
pub(super) fn is_special(byte: u8) -> bool {
    byte < 0x20 || byte == b'"' || byte == b'\\'
}

/// How many bytes stand before the first that a JSON string must escape.
fn plain_len(bytes: &[u8]) -> usize {
    let mut rest = bytes;
    while let Some((chunk, after)) = rest.split_first_chunk() {
        let mask = special_mask(u64::from_le_bytes(*chunk));
        if mask != 0 {
            return bytes.len() - rest.len() + mask.trailing_zeros() as usize / 8;
        }
        rest = after;
    }
    let tail = rest.iter().position(|&byte| is_special(byte)).unwrap_or(rest.len());
    bytes.len() - rest.len() + tail
}

enum Piece<'a> {
    Plain(&'a [u8]),
    Escaped(char),
}

/// Splits a checked string into runs of plain text and escapes.
fn for_each_piece<'a>(mut raw: &'a [u8], mut take: impl FnMut(Piece<'a>)) {
    while let Some(at) = memchr::memchr(b'\\', raw) {
        if at > 0 {
            take(Piece::Plain(&raw[..at]));
        }
        let (character, len) = decode_escape(&raw[at..]);
        take(Piece::Escaped(character));
        raw = &raw[at + len..];
    }
    if !raw.is_empty() {
        take(Piece::Plain(raw));
    }
}

/// The character that the checked escape at the start of `raw` stands for, and how long the escape is.
fn decode_escape(raw: &[u8]) -> (char, usize) {
    let character = match raw[1] {
        b'n' => '\n',
        b'r' => '\r',
        b't' => '\t',
        b'b' => '\u{8}',
        b'f' => '\u{c}',
        b'u' => {
            let first = hex_unit(&raw[2..]).expect("the scanner checked it");
            if !(0xd800..0xe000).contains(&first) {
                return (char::from_u32(first).expect("not a surrogate"), 6);
            }
            let second = hex_unit(&raw[8..]).expect("the scanner checked it");
            let code = 0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00);
            return (char::from_u32(code).expect("a surrogate pair"), 12);
        }
        literal => char::from(literal),
    };
    (character, 2)
}

/// The number that four hex digits of either case write.
pub(super) fn hex_unit(digits: &[u8]) -> Option<u32> {
    digits.first_chunk::<4>()?.iter().try_fold(0, |unit, &digit| {
        let value = char::from(digit).to_digit(16)?;
        Some(unit << 4 | value)
    })
}

/// Whether the canonical form writes this UTF-16 unit as `\u00xx`, with `xx` being `digits`.
pub(super) fn is_canonical_unit(unit: u32, digits: [u8; 2]) -> bool {
    unit < 0x20
        && !matches!(unit, 0x08 | 0x09 | 0x0a | 0x0c | 0x0d)
        && !digits.iter().any(u8::is_ascii_uppercase)
}

fn put_character(character: char, put: &mut impl FnMut(&[u8])) {
    match character {
        '"' => put(b"\\\""),
        '\\' => put(b"\\\\"),
        '\n' => put(b"\\n"),
        '\r' => put(b"\\r"),
        '\t' => put(b"\\t"),
        '\u{8}' => put(b"\\b"),
        '\u{c}' => put(b"\\f"),
        '\0'..='\u{1f}' => {
            const DIGITS: &[u8; 16] = b"0123456789abcdef";
            let code = character as usize;
            put(&[b'\\', b'u', b'0', b'0', DIGITS[code >> 4], DIGITS[code & 15]]);
        }
        _ => put(character.encode_utf8(&mut [0; 4]).as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_written_as_the_canonical_form_says() {
        let cases = [
            ("", r#""""#),
            ("plain text, longer than a word", r#""plain text, longer than a word""#),
            ("\"\\\n\r\t\u{8}\u{c}", r#""\"\\\n\r\t\b\f""#),
            ("\0\u{1}\u{b}\u{e}\u{1f}", r#""\u0000\u0001\u000b\u000e\u001f""#),
            ("/\u{7f}é\u{2028}\u{ffff}💜", "\"/\u{7f}é\u{2028}\u{ffff}💜\""),
            ("1234567\n", r#""1234567\n""#),
            ("12345678\n", r#""12345678\n""#),
        ];
        for (text, expected) in cases {
            let mut out = Vec::new();
            write_json_string(&mut out, text);
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }

    #[test]
    fn the_mask_finds_the_first_special_byte_among_all() {
        for byte in 0..=255u8 {
            for index in 0..8 {
                for around in [b'a', b'!', b'#', b'[', b']', 0x7f, 0x80, 0xa2, 0xdc, 0xff] {
                    let mut word = [around; 8];
                    word[index] = byte;
                    let first = special_mask(u64::from_le_bytes(word)).trailing_zeros() as usize / 8;
                    let expected = if is_special(byte) { index } else { 8 };
                    assert_eq!(first, expected, "{byte:#x} at {index} among {around:#x}");
                }
            }
        }
    }
}
