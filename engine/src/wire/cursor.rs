//! A cursor over a message, which reads JSON tokens in place.
//!
//! Every method either moves past what it read or records an error and returns [`Failed`]. No method
//! recurses, so that no nesting can exhaust the stack.

use faster_hex::CheckCase;

use super::error::{ReplyTarget, WireError, WireErrorKind};
use super::escape::{Escapes, RawStr, has_high_bit, hex_unit, is_canonical_unit, is_special, special_mask};

/// How deep arrays and objects may nest in a value that is skipped: one bit of a word each.
const DEPTH_MAX: u32 = u64::BITS;

/// Reading failed; the cursor has recorded the error. Empty, so that results stay in registers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Failed;

pub(super) type Parsed<T> = Result<T, Failed>;

pub(super) struct JsonCursor<'a> {
    bytes: &'a [u8],
    at: usize,
    error: Option<(usize, WireErrorKind)>,
}

impl<'a> JsonCursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        JsonCursor { bytes, at: 0, error: None }
    }

    /// The offset of the next byte.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// The bytes from `start` to the current offset.
    pub(super) fn since(&self, start: usize) -> &'a [u8] {
        &self.bytes[start..self.at]
    }

    /// The bytes from the current offset to the end.
    #[inline(always)]
    pub(super) fn rest(&self) -> &'a [u8] {
        &self.bytes[self.at..]
    }

    /// Moves past `len` bytes that have been looked at.
    #[inline(always)]
    pub(super) fn advance(&mut self, len: usize) {
        self.at += len;
        debug_assert!(self.at <= self.bytes.len(), "only past what is there");
    }

    #[inline(always)]
    pub(super) fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    /// Records an error at the current offset.
    #[cold]
    pub(super) fn fail(&mut self, kind: WireErrorKind) -> Failed {
        self.fail_at(self.at, kind)
    }

    /// Records an error at offset `at`.
    #[cold]
    pub(super) fn fail_at(&mut self, at: usize, kind: WireErrorKind) -> Failed {
        self.error = Some((at, kind));
        Failed
    }

    /// Records that `what` was expected at the current offset.
    #[cold]
    pub(super) fn expected(&mut self, what: &'static str) -> Failed {
        let kind =
            if self.at < self.bytes.len() { WireErrorKind::Expected(what) } else { WireErrorKind::End };
        self.fail(kind)
    }

    /// The recorded error.
    #[cold]
    pub(super) fn error(&self, reply_to: ReplyTarget) -> WireError {
        let (at, kind) = self.error.expect("only asked after a failure");
        WireError { at, kind, reply_to }
    }

    /// Moves past white space.
    #[inline(always)]
    pub(super) fn white_space(&mut self) {
        if self.peek().is_some_and(|byte| byte <= b' ') {
            self.white_space_slow();
        }
    }

    #[cold]
    fn white_space_slow(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    /// Moves past white space, `byte` and more white space.
    #[inline(always)]
    pub(super) fn expect(&mut self, byte: u8, what: &'static str) -> Parsed<()> {
        self.white_space();
        if self.peek() != Some(byte) {
            return Err(self.expected(what));
        }
        self.at += 1;
        self.white_space();
        Ok(())
    }

    /// Moves past `close` if it stands here: the array or object just opened is empty.
    #[inline(always)]
    pub(super) fn closes(&mut self, close: u8) -> bool {
        let closes = self.peek() == Some(close);
        self.at += usize::from(closes);
        closes
    }

    /// Moves past a comma to the next element, or past `close`; whether there is a next.
    #[inline(always)]
    pub(super) fn more(&mut self, close: u8) -> Parsed<bool> {
        self.white_space();
        match self.peek() {
            Some(b',') => {
                self.at += 1;
                self.white_space();
                Ok(true)
            }
            Some(byte) if byte == close => {
                self.at += 1;
                Ok(false)
            }
            _ => Err(self.expected(if close == b']' { "a comma or ]" } else { "a comma or }" })),
        }
    }

    /// Nothing but white space may follow.
    pub(super) fn end(&mut self) -> Parsed<()> {
        self.white_space();
        if self.at < self.bytes.len() {
            return Err(self.fail(WireErrorKind::TrailingBytes));
        }
        Ok(())
    }

    /// Reads digits: no sign, fraction, exponent or leading zero. Numbers past `u64` read as its largest.
    #[inline]
    pub(super) fn integer(&mut self, field: &'static str, max: u64) -> Parsed<u64> {
        let start = self.at;
        let mut number = 0u64;
        while let Some(byte @ b'0'..=b'9') = self.peek() {
            number = number.saturating_mul(10).saturating_add(u64::from(byte - b'0'));
            self.at += 1;
        }
        let digits = self.at - start;
        let plain = match self.bytes[start..].first() {
            Some(b'0') => digits == 1,
            _ => digits > 0,
        };
        if !plain || number > max || matches!(self.peek(), Some(b'.' | b'e' | b'E')) {
            let kind = if start < self.bytes.len() {
                WireErrorKind::Integer { field, max }
            } else {
                WireErrorKind::End
            };
            return Err(self.fail_at(start, kind));
        }
        Ok(number)
    }

    /// Reads a string of lowercase hex, `N` bytes of it, into `out`.
    #[inline]
    pub(super) fn hex<const N: usize>(&mut self, field: &'static str, out: &mut [u8; N]) -> Parsed<()> {
        // Decodes into `out`: a returned array would be copied once more by each caller on the way.
        if let Some([b'"', text @ .., b'"']) = self.rest().get(..2 * N + 2)
            && faster_hex::hex_decode_with_case(text, out, CheckCase::Lower).is_ok()
        {
            self.at += 2 * N + 2;
            return Ok(());
        }
        self.hex_slow(field, out)
    }

    /// The error in what is not plain hex, or its value if that is only escaped.
    #[cold]
    fn hex_slow<const N: usize>(&mut self, field: &'static str, out: &mut [u8; N]) -> Parsed<()> {
        let start = self.at;
        let text = self.string()?.unescape();
        if text.len() == 2 * N
            && faster_hex::hex_decode_with_case(text.as_bytes(), out, CheckCase::Lower).is_ok()
        {
            return Ok(());
        }
        Err(self.fail_at(start, WireErrorKind::Hex { field, chars: 2 * N }))
    }

    /// Reads a string of any kind.
    #[inline]
    pub(super) fn string(&mut self) -> Parsed<RawStr<'a>> {
        if self.peek() != Some(b'"') {
            return Err(self.expected("a string"));
        }
        let start = self.at + 1;
        let mut high = 0;
        let mut escapes = Escapes::None;
        self.at = start;
        loop {
            match self.plain(&mut high) {
                Some(b'"') => break,
                Some(b'\\') => escapes = escapes.max(self.escape()?),
                Some(_) => return Err(self.fail(WireErrorKind::ControlCharacter)),
                None => return Err(self.fail(WireErrorKind::End)),
            }
        }
        let raw = self.since(start);
        if has_high_bit(high) {
            self.check_utf8(raw, start)?;
        }
        self.at += 1;
        Ok(RawStr { raw, escapes })
    }

    /// Moves to the next byte that ends plain text and returns it; ORs all bytes passed into `high`.
    #[inline(always)]
    fn plain(&mut self, high: &mut u64) -> Option<u8> {
        let mut rest = self.rest();
        while let Some((chunk, after)) = rest.split_first_chunk() {
            let word = u64::from_le_bytes(*chunk);
            *high |= word;
            let mask = special_mask(word);
            if mask != 0 {
                let bit = mask.trailing_zeros() & !7;
                self.at = self.bytes.len() - rest.len() + bit as usize / 8;
                return Some((word >> bit) as u8);
            }
            rest = after;
        }
        let tail = rest.iter().position(|&byte| is_special(byte)).unwrap_or(rest.len());
        *high |= rest[..tail].iter().fold(0, |bits, &byte| bits | u64::from(byte));
        self.at = self.bytes.len() - rest.len() + tail;
        self.peek()
    }

    fn check_utf8(&mut self, raw: &[u8], start: usize) -> Parsed<()> {
        match std::str::from_utf8(raw) {
            Ok(_) => Ok(()),
            Err(error) => Err(self.fail_at(start + error.valid_up_to(), WireErrorKind::Utf8)),
        }
    }

    /// Moves past one escape, or a surrogate pair of two.
    #[inline]
    fn escape(&mut self) -> Parsed<Escapes> {
        match self.rest().get(1) {
            Some(b'"' | b'\\' | b'n' | b'r' | b't' | b'b' | b'f') => {
                self.at += 2;
                Ok(Escapes::Canonical)
            }
            Some(b'/') => {
                self.at += 2;
                Ok(Escapes::NonCanonical)
            }
            Some(b'u') => self.unicode_escape(),
            Some(_) => Err(self.fail(WireErrorKind::Escape)),
            None => Err(self.fail(WireErrorKind::End)),
        }
    }

    fn unicode_escape(&mut self) -> Parsed<Escapes> {
        let rest = self.rest();
        let Some(unit) = hex_unit(&rest[2..]) else {
            return Err(self.fail(WireErrorKind::Escape));
        };
        match unit {
            0xd800..0xdc00 => {
                let second = rest[6..].strip_prefix(b"\\u").and_then(hex_unit);
                if !second.is_some_and(|second| (0xdc00..0xe000).contains(&second)) {
                    return Err(self.fail(WireErrorKind::LoneSurrogate));
                }
                self.at += 12;
                Ok(Escapes::NonCanonical)
            }
            0xdc00..0xe000 => Err(self.fail(WireErrorKind::LoneSurrogate)),
            _ => {
                self.at += 6;
                let canonical = is_canonical_unit(unit, [rest[4], rest[5]]);
                Ok(if canonical { Escapes::Canonical } else { Escapes::NonCanonical })
            }
        }
    }

    /// Moves past one value of any kind, checking that it is JSON.
    pub(super) fn skip_value(&mut self) -> Parsed<()> {
        // One bit for each open array or object, the innermost lowest; set for objects.
        let mut objects = 0u64;
        let mut depth = 0;
        loop {
            let open = self.peek();
            match open {
                Some(b'{' | b'[') => {
                    if depth == DEPTH_MAX {
                        return Err(self.fail(WireErrorKind::TooDeep));
                    }
                    self.at += 1;
                    self.white_space();
                    let is_object = open == Some(b'{');
                    if !self.closes(if is_object { b'}' } else { b']' }) {
                        objects = objects << 1 | u64::from(is_object);
                        depth += 1;
                        if is_object {
                            self.skip_key()?;
                        }
                        continue;
                    }
                }
                Some(b'"') => {
                    self.string()?;
                }
                Some(b'-' | b'0'..=b'9') => self.skip_number()?,
                _ => self.skip_word()?,
            }
            loop {
                if depth == 0 {
                    return Ok(());
                }
                let is_object = objects & 1 == 1;
                if self.more(if is_object { b'}' } else { b']' })? {
                    if is_object {
                        self.skip_key()?;
                    }
                    break;
                }
                objects >>= 1;
                depth -= 1;
            }
        }
    }

    fn skip_key(&mut self) -> Parsed<()> {
        self.string()?;
        self.expect(b':', "a colon")
    }

    fn skip_number(&mut self) -> Parsed<()> {
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            self.skip_digits()?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.skip_digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.skip_digits()?;
        }
        Ok(())
    }

    fn skip_digits(&mut self) -> Parsed<()> {
        let digits = self.rest().iter().take_while(|byte| byte.is_ascii_digit()).count();
        if digits == 0 {
            return Err(self.expected("a digit"));
        }
        self.at += digits;
        Ok(())
    }

    fn skip_word(&mut self) -> Parsed<()> {
        for word in ["true", "false", "null"] {
            if self.rest().starts_with(word.as_bytes()) {
                self.at += word.len();
                return Ok(());
            }
        }
        Err(self.expected("a value"))
    }
}
