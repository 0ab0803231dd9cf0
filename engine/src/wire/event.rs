//! One event as a client wrote it, read in place.
//!
//! Reading checks the form only. Whether the id is the hash of the rest is [`RawEvent::compute_id`]'s to
//! say, and whether the signature holds is [`crate::verify`]'s.

use std::borrow::Cow;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::cursor::{Failed, JsonCursor, Parsed};
use super::error::{WireError, WireErrorKind};
use super::escape::{Escapes, RawStr};
use super::id_scanner::IdScanner;
use crate::types::{Event, EventId, Kind, NO_EXPIRY, PubKey, Sig, Tags, Timestamp, parse_expiration};

/// Largest `created_at` an event may have, one less than the largest signed 64-bit integer.
///
/// Databases (SQLite and PostgreSQL among them) keep signed 64-bit integers, so a larger time could not be
/// stored by every relay. One less, so that a filter's `since` and `until` beyond any event can be lowered
/// to that largest integer and still mean the same.
pub const CREATED_AT_MAX: Timestamp = i64::MAX as Timestamp - 1;

/// Unknown fields one event may have; their names are remembered to find repeats.
const UNKNOWN_FIELDS_MAX: usize = 64;

/// One event as received, borrowed from the message.
#[derive(Clone, Debug)]
pub struct RawEvent<'a> {
    /// The id the sender claims.
    pub id: EventId,
    /// The author.
    pub pubkey: PubKey,
    /// The signature the sender claims.
    pub sig: Sig,
    /// When the author says it was made; at most [`CREATED_AT_MAX`].
    pub created_at: Timestamp,
    /// What the event is.
    pub kind: Kind,
    tags: RawTags<'a>,
    content: RawStr<'a>,
}

/// A checked array of arrays of strings.
#[derive(Clone, Copy, Debug)]
struct RawTags<'a> {
    /// From `[` to `]`.
    raw: &'a [u8],
    count: usize,
    /// Whether the bytes are what the relay would write.
    is_canonical: bool,
    /// Whether a tag may be called `expiration`: saves looking through the tags of all other events.
    may_expire: bool,
}

/// Reads one event object, with nothing but white space around it. Costs no allocation.
///
/// # Errors
/// [`WireError`] about [`ReplyTarget::Event`](super::ReplyTarget::Event) with the id, if one could be found.
pub fn parse_event(json: &[u8]) -> Result<RawEvent<'_>, WireError> {
    let mut cursor = JsonCursor::new(json);
    cursor.white_space();
    let mut event = RawEvent::BLANK;
    match read(&mut cursor, usize::MAX, &mut event).and_then(|()| cursor.end()) {
        Ok(()) => Ok(event),
        Err(Failed) => Err(cursor.error(IdScanner::scan_event(json))),
    }
}

#[derive(Clone, Copy)]
enum Field {
    Id,
    Pubkey,
    CreatedAt,
    Kind,
    Tags,
    Content,
    Sig,
}

const FIELDS: [(Field, &str); 7] = [
    (Field::Id, "id"),
    (Field::Pubkey, "pubkey"),
    (Field::CreatedAt, "created_at"),
    (Field::Kind, "kind"),
    (Field::Tags, "tags"),
    (Field::Content, "content"),
    (Field::Sig, "sig"),
];

impl RawEvent<'_> {
    /// What [`read`] fills in.
    pub(super) const BLANK: Self = RawEvent {
        id: EventId([0; 32]),
        pubkey: PubKey([0; 32]),
        sig: Sig([0; 64]),
        created_at: 0,
        kind: 0,
        tags: RawTags { raw: b"[]", count: 0, is_canonical: true, may_expire: false },
        content: RawStr { raw: b"", escapes: Escapes::None },
    };
}

/// Reads an event object that starts here into `event`, which is unspecified after an error.
#[inline]
pub(super) fn read<'a>(cursor: &mut JsonCursor<'a>, tags_max: usize, event: &mut RawEvent<'a>) -> Parsed<()> {
    let mut seen = 0u8;
    let mut unknown = Vec::new();
    cursor.expect(b'{', "an event object")?;
    let mut more = !cursor.closes(b'}');
    while more {
        let start = cursor.at();
        match field(cursor, &mut unknown)? {
            None => cursor.skip_value()?,
            Some(field) => {
                let bit = 1 << field as u8;
                if seen & bit != 0 {
                    return Err(cursor.fail_at(start, WireErrorKind::Repeated));
                }
                seen |= bit;
                match field {
                    Field::Id => cursor.hex("id", &mut event.id.0)?,
                    Field::Pubkey => cursor.hex("pubkey", &mut event.pubkey.0)?,
                    Field::Sig => cursor.hex("sig", &mut event.sig.0)?,
                    Field::CreatedAt => event.created_at = cursor.integer("created_at", CREATED_AT_MAX)?,
                    Field::Kind => event.kind = cursor.integer("kind", u64::from(Kind::MAX))? as Kind,
                    Field::Tags => event.tags = tags(cursor, tags_max)?,
                    Field::Content => event.content = cursor.string()?,
                }
            }
        }
        more = cursor.more(b'}')?;
    }
    match FIELDS.iter().find(|(field, _)| seen & 1 << *field as u8 == 0) {
        Some((_, name)) => Err(cursor.fail(WireErrorKind::Missing(name))),
        None => Ok(()),
    }
}

/// Reads the name of a field and the colon. Unknown names are remembered: naming one twice is an error too.
#[inline]
fn field<'a>(cursor: &mut JsonCursor<'a>, unknown: &mut Vec<Cow<'a, str>>) -> Parsed<Option<Field>> {
    /// Of known length, so that comparing it takes no call.
    #[inline(always)]
    fn is<const N: usize>(rest: &[u8], text: &[u8; N], field: Field) -> Option<(Field, usize)> {
        rest.starts_with(text).then_some((field, N))
    }
    let rest = cursor.rest();
    let known = match rest {
        [_, b'i', ..] => is(rest, b"\"id\":", Field::Id),
        [_, b'p', ..] => is(rest, b"\"pubkey\":", Field::Pubkey),
        [_, b'c', b'r', ..] => is(rest, b"\"created_at\":", Field::CreatedAt),
        [_, b'c', ..] => is(rest, b"\"content\":", Field::Content),
        [_, b'k', ..] => is(rest, b"\"kind\":", Field::Kind),
        [_, b't', ..] => is(rest, b"\"tags\":", Field::Tags),
        _ => is(rest, b"\"sig\":", Field::Sig),
    };
    match known {
        Some((field, len)) => {
            cursor.advance(len);
            cursor.white_space();
            Ok(Some(field))
        }
        None => unusual_field(cursor, unknown),
    }
}

#[cold]
fn unusual_field<'a>(cursor: &mut JsonCursor<'a>, unknown: &mut Vec<Cow<'a, str>>) -> Parsed<Option<Field>> {
    let start = cursor.at();
    let name = cursor.string()?.unescape();
    cursor.expect(b':', "a colon")?;
    if let Some((field, _)) = FIELDS.iter().find(|(_, known)| name == *known) {
        return Ok(Some(*field));
    }
    if unknown.contains(&name) {
        return Err(cursor.fail_at(start, WireErrorKind::Repeated));
    }
    if unknown.len() == UNKNOWN_FIELDS_MAX {
        return Err(cursor.fail_at(start, WireErrorKind::TooManyFields));
    }
    unknown.push(name);
    Ok(None)
}

#[inline]
fn tags<'a>(cursor: &mut JsonCursor<'a>, tags_max: usize) -> Parsed<RawTags<'a>> {
    let start = cursor.at();
    let mut count = 0;
    let mut canonical_len = 2;
    let mut escapes = Escapes::None;
    let mut may_expire = false;
    cursor.expect(b'[', "an array of tags")?;
    let mut more_tags = !cursor.closes(b']');
    while more_tags {
        if count == tags_max {
            return Err(cursor.fail(WireErrorKind::TooManyTags { max: tags_max }));
        }
        count += 1;
        // Brackets, and a comma unless it is the first.
        canonical_len += 2 + usize::from(count > 1);
        cursor.expect(b'[', "a tag")?;
        if cursor.peek() == Some(b']') {
            return Err(cursor.fail(WireErrorKind::EmptyTag));
        }
        let mut more_fields = true;
        let mut is_name = true;
        while more_fields {
            let field = cursor.string()?;
            escapes = escapes.max(field.escapes);
            may_expire |= is_name && field.raw == b"expiration";
            canonical_len += field.raw.len() + 2 + usize::from(!is_name);
            is_name = false;
            more_fields = cursor.more(b']')?;
        }
        more_tags = cursor.more(b']')?;
    }
    let raw = cursor.since(start);
    let is_canonical = escapes != Escapes::NonCanonical && raw.len() == canonical_len;
    // A name written with escapes may be any name.
    may_expire |= escapes == Escapes::NonCanonical;
    Ok(RawTags { raw, count, is_canonical, may_expire })
}

impl<'a> RawEvent<'a> {
    /// SHA-256 of the NIP-01 serialisation, streamed from the sender's bytes: no allocation.
    pub fn compute_id(&self) -> EventId {
        let mut head = Text::<{ 4 + PubKey::HEX_LEN + 2 + U64_DIGITS + 1 + U64_DIGITS + 1 }>::new();
        head.put(b"[0,\"");
        head.put(&self.pubkey.to_hex());
        head.put(b"\",");
        head.put(Digits::of(self.created_at).as_bytes());
        head.put(b",");
        head.put(Digits::of(u64::from(self.kind)).as_bytes());
        head.put(b",");
        let mut hash = Sha256::new();
        hash.update(head.as_bytes());
        self.tags.canonical(|piece| hash.update(piece));
        hash.update(b",\"");
        self.content.canonical(|piece| hash.update(piece));
        hash.update(b"\"]");
        EventId(hash.finalize().into())
    }

    /// The event as canonical JSON. One allocation, of the exact size.
    pub fn to_event(&self) -> Event {
        // The only safe way to an `Arc` of a length known late without a second buffer.
        let mut json: Arc<[u8]> = std::iter::repeat_n(0, self.json_len()).collect();
        let mut rest = Arc::get_mut(&mut json).expect("it is not shared yet");
        self.write_json(|piece| {
            let (into, after) = std::mem::take(&mut rest).split_at_mut(piece.len());
            into.copy_from_slice(piece);
            rest = after;
        });
        debug_assert!(rest.is_empty(), "the length was exact");
        Event::from_parts(self.id, self.pubkey, self.created_at, self.kind, self.expires_at(), json)
    }

    /// Bytes of the canonical JSON. No allocation; tags and content that are canonical already are not read.
    pub fn json_len(&self) -> usize {
        const FIXED: usize = r#"{"id":"","pubkey":"","created_at":,"kind":,"tags":,"content":"","sig":""}"#
            .len()
            + EventId::HEX_LEN
            + PubKey::HEX_LEN
            + Sig::HEX_LEN;
        let mut len = FIXED
            + Digits::of(self.created_at).as_bytes().len()
            + Digits::of(u64::from(self.kind)).as_bytes().len();
        self.tags.canonical(|piece| len += piece.len());
        self.content.canonical(|piece| len += piece.len());
        len
    }

    /// The timestamp at which it says it expires (NIP-40), [`NO_EXPIRY`] if never. Costs a pass over the tags if one may be
    /// called so.
    pub fn expires_at(&self) -> Timestamp {
        match self.tags.may_expire {
            true => self.with_tags(parse_expiration).unwrap_or(NO_EXPIRY),
            false => NO_EXPIRY,
        }
    }

    /// How many tags there are.
    pub fn tag_count(&self) -> usize {
        self.tags.count
    }

    /// Unicode characters in the content, as NIP-11 counts `max_content_length`. Costs a pass over it.
    pub fn content_chars(&self) -> usize {
        self.content.chars()
    }

    /// The tags, to be checked before the event is ingested. Allocates only if they are not canonical.
    pub fn with_tags<R>(&self, look: impl FnOnce(Tags<'_>) -> R) -> R {
        look(Tags::trusted(&self.tags_json()))
    }

    /// The canonical JSON of the tags, for [`Tags::trusted`]. Borrowed if the sender wrote them that way.
    pub fn tags_json(&self) -> Cow<'a, [u8]> {
        if self.tags.is_canonical {
            return Cow::Borrowed(self.tags.raw);
        }
        let mut json = Vec::with_capacity(self.tags.raw.len());
        self.tags.canonical(|piece| json.extend_from_slice(piece));
        Cow::Owned(json)
    }

    /// The content, escapes taken out. Borrowed if there are none.
    pub fn content(&self) -> Cow<'a, str> {
        self.content.unescape()
    }

    /// Hands the canonical JSON to `put`, in pieces. The layout is that of [`crate::types::CanonicalEvent`].
    fn write_json(&self, mut put: impl FnMut(&[u8])) {
        put(b"{\"id\":\"");
        put(&self.id.to_hex());
        put(b"\",\"pubkey\":\"");
        put(&self.pubkey.to_hex());
        put(b"\",\"created_at\":");
        put(Digits::of(self.created_at).as_bytes());
        put(b",\"kind\":");
        put(Digits::of(u64::from(self.kind)).as_bytes());
        put(b",\"tags\":");
        self.tags.canonical(&mut put);
        put(b",\"content\":\"");
        self.content.canonical(&mut put);
        put(b"\",\"sig\":\"");
        put(&self.sig.to_hex());
        put(b"\"}");
    }
}

impl RawTags<'_> {
    /// Hands the canonical form to `put`, in pieces.
    fn canonical(self, mut put: impl FnMut(&[u8])) {
        if self.is_canonical {
            return put(self.raw);
        }
        let mut cursor = JsonCursor::new(self.raw);
        while let Some(byte) = cursor.peek() {
            if byte == b'"' {
                let field = cursor.string();
                put(b"\"");
                field.expect("read before").canonical(&mut put);
                put(b"\"");
            } else {
                if !byte.is_ascii_whitespace() {
                    put(&[byte]);
                }
                cursor.advance(1);
            }
        }
    }
}

/// Digits of the largest `u64`.
const U64_DIGITS: usize = 20;

/// A short text on the stack.
struct Text<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

impl<const N: usize> Text<N> {
    fn new() -> Self {
        Text { bytes: [0; N], len: 0 }
    }

    #[inline]
    fn put(&mut self, piece: &[u8]) {
        self.bytes[self.len..self.len + piece.len()].copy_from_slice(piece);
        self.len += piece.len();
    }

    #[inline]
    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// A number in decimal, on the stack.
pub(super) struct Digits {
    bytes: [u8; U64_DIGITS],
    start: usize,
}

impl Digits {
    pub(super) fn of(mut number: u64) -> Self {
        let mut digits = Digits { bytes: [b'0'; U64_DIGITS], start: U64_DIGITS };
        loop {
            digits.start -= 1;
            digits.bytes[digits.start] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                return digits;
            }
        }
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        &self.bytes[self.start..]
    }
}
