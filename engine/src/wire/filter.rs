//! Filters of REQ and COUNT: read strictly, so that no filter is ever wider than its sender meant.

use super::cursor::{Failed, JsonCursor, Parsed};
use super::error::{ReplyTarget, WireError, WireErrorKind};
use super::event::CREATED_AT_MAX;
use crate::types::{EventId, Filter, Kind, PubKey, TagFilter, Timestamp};

/// Reads one filter object, with nothing but white space around it, without any bound on its lists.
///
/// # Errors
/// [`WireError`] about [`ReplyTarget::Notice`].
pub fn parse_filter(json: &[u8]) -> Result<Filter, WireError> {
    let mut cursor = JsonCursor::new(json);
    cursor.white_space();
    filter(&mut cursor, &mut Budget::new(usize::MAX))
        .and_then(|filter| cursor.end().map(|()| filter))
        .map_err(|Failed| cursor.error(ReplyTarget::Notice))
}

/// How many values the lists of one message may still hold.
pub(super) struct Budget {
    left: usize,
    max: usize,
}

impl Budget {
    pub(super) fn new(max: usize) -> Self {
        Budget { left: max, max }
    }
}

/// Reads a filter object that starts here.
pub(super) fn filter(cursor: &mut JsonCursor<'_>, budget: &mut Budget) -> Parsed<Filter> {
    let mut filter = Filter::default();
    let mut tags: Vec<TagFilter> = Vec::new();
    cursor.expect(b'{', "a filter object")?;
    let mut more = !cursor.closes(b'}');
    while more {
        let start = cursor.at();
        let name = cursor.string()?.unescape();
        cursor.expect(b':', "a colon")?;
        let is_new = match name.as_bytes() {
            b"ids" => filter.ids.replace(hex_list(cursor, budget, "each of ids", EventId)?).is_none(),
            b"authors" => {
                filter.authors.replace(hex_list(cursor, budget, "each of authors", PubKey)?).is_none()
            }
            b"kinds" => filter.kinds.replace(kinds(cursor, budget)?).is_none(),
            b"since" => filter.since.replace(time(cursor, "since")?).is_none(),
            b"until" => filter.until.replace(time(cursor, "until")?).is_none(),
            b"limit" => filter.limit.replace(limit(cursor)?).is_none(),
            [b'#', letter] if letter.is_ascii_alphabetic() => {
                let is_new = tags.iter().all(|tag| tag.letter != *letter);
                tags.push(TagFilter { letter: *letter, values: tag_values(cursor, budget, *letter)? });
                is_new
            }
            b"search" => return Err(cursor.fail_at(start, WireErrorKind::Search)),
            _ => return Err(cursor.fail_at(start, WireErrorKind::UnknownFilterField)),
        };
        if !is_new {
            return Err(cursor.fail_at(start, WireErrorKind::Repeated));
        }
        more = cursor.more(b'}')?;
    }
    filter.tags = tags.into();
    filter.normalise();
    Ok(filter)
}

fn hex_list<T>(
    cursor: &mut JsonCursor<'_>,
    budget: &mut Budget,
    field: &'static str,
    wrap: impl Fn([u8; 32]) -> T,
) -> Parsed<Box<[T]>> {
    // Two quotes and a comma about each.
    list(cursor, budget, EventId::HEX_LEN + 3, |cursor| {
        let mut bytes = [0; 32];
        cursor.hex(field, &mut bytes)?;
        Ok(wrap(bytes))
    })
}

fn kinds(cursor: &mut JsonCursor<'_>, budget: &mut Budget) -> Parsed<Box<[Kind]>> {
    list(cursor, budget, 2, |cursor| {
        cursor.integer("each of kinds", u64::from(Kind::MAX)).map(|kind| kind as Kind)
    })
}

fn tag_values(cursor: &mut JsonCursor<'_>, budget: &mut Budget, letter: u8) -> Parsed<Box<[Box<[u8]>]>> {
    match letter {
        b'e' | b'p' => {
            let field = if letter == b'e' { "each of #e" } else { "each of #p" };
            hex_list(cursor, budget, field, |bytes| EventId(bytes).to_hex().into())
        }
        _ => list(cursor, budget, 8, |cursor| {
            Ok(cursor.string()?.unescape().into_owned().into_bytes().into_boxed_slice())
        }),
    }
}

/// Reads an array. `value_len` is what a value takes at least, to guess how many there are.
fn list<'a, T>(
    cursor: &mut JsonCursor<'a>,
    budget: &mut Budget,
    value_len: usize,
    mut value: impl FnMut(&mut JsonCursor<'a>) -> Parsed<T>,
) -> Parsed<Box<[T]>> {
    cursor.expect(b'[', "an array")?;
    if cursor.closes(b']') {
        return Ok(Box::default());
    }
    let len = memchr::memchr(b']', cursor.rest()).unwrap_or(0);
    let mut values = Vec::with_capacity((len / value_len + 1).min(budget.left));
    let mut more = true;
    while more {
        if budget.left == 0 {
            return Err(cursor.fail(WireErrorKind::TooManyValues { max: budget.max }));
        }
        budget.left -= 1;
        values.push(value(cursor)?);
        more = cursor.more(b']')?;
    }
    Ok(values.into())
}

/// A timestamp; those past any event are lowered to the first such, which means the same.
fn time(cursor: &mut JsonCursor<'_>, field: &'static str) -> Parsed<Timestamp> {
    Ok(cursor.integer(field, u64::MAX)?.min(CREATED_AT_MAX + 1))
}

fn limit(cursor: &mut JsonCursor<'_>) -> Parsed<u32> {
    Ok(u32::try_from(cursor.integer("limit", u64::MAX)?).unwrap_or(u32::MAX))
}
