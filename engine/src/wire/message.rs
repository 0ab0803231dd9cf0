//! Client messages: EVENT, AUTH, REQ, COUNT and CLOSE.

use super::cursor::{Cursor, Failed, Parsed};
use super::error::{About, Fault, WireError};
use super::event::{RawEvent, find_id, read};
use super::filter::{Budget, filter};
use crate::types::{Filter, Limits, SubId};

/// What a client says.
#[derive(Clone, Debug)]
pub enum ClientMessage<'a> {
    /// Publish this event (NIP-01).
    Event(RawEvent<'a>),
    /// This event proves who I am (NIP-42).
    Auth(RawEvent<'a>),
    /// Send what matches, and what will (NIP-01).
    Req {
        /// The subscription.
        sub: SubId,
        /// One or more; an event that matches any is meant.
        filters: Vec<Filter>,
    },
    /// Count what matches (NIP-45).
    Count {
        /// The query.
        query: SubId,
        /// One or more; an event that matches any is meant.
        filters: Vec<Filter>,
    },
    /// End a subscription (NIP-01).
    Close {
        /// The subscription.
        sub: SubId,
    },
}

#[derive(Clone, Copy)]
enum Verb {
    Event,
    Auth,
    Req,
    Count,
    Close,
}

/// Reads one message. Costs no allocation for EVENT and AUTH, if it has no unknown field.
///
/// `message_bytes_max`, `event_tags_max`, `filters_max` and `filter_values_max` of `limits` hold while
/// reading; the other bounds are the policy's to keep.
///
/// # Errors
/// [`WireError`]; what it is about says how to answer. A message that is too long is looked at only for that.
pub fn parse_client_message<'a>(bytes: &'a [u8], limits: &Limits) -> Result<ClientMessage<'a>, WireError> {
    let mut cursor = Cursor::new(bytes);
    let cursor = &mut cursor;
    let verb = match verb(cursor) {
        Ok(verb) => verb,
        Err(Failed) => return Err(cursor.error(About::Frame)),
    };
    match verb {
        Verb::Event | Verb::Auth => {
            let is_event = matches!(verb, Verb::Event);
            let start = cursor.at();
            let mut event = RawEvent::BLANK;
            match event_message(cursor, bytes.len(), limits, &mut event) {
                Ok(()) if is_event => Ok(ClientMessage::Event(event)),
                Ok(()) => Ok(ClientMessage::Auth(event)),
                Err(Failed) => {
                    let id = find_id(&bytes[start..]);
                    Err(cursor.error(if is_event { About::Event(id) } else { About::Auth(id) }))
                }
            }
        }
        Verb::Req | Verb::Count => {
            let sub = match sub_id(cursor) {
                Ok(sub) => sub,
                Err(Failed) => return Err(cursor.error(About::Frame)),
            };
            match filters(cursor, bytes.len(), limits) {
                Ok(filters) if matches!(verb, Verb::Req) => Ok(ClientMessage::Req { sub, filters }),
                Ok(filters) => Ok(ClientMessage::Count { query: sub, filters }),
                Err(Failed) if matches!(verb, Verb::Req) => Err(cursor.error(About::Req(sub))),
                Err(Failed) => Err(cursor.error(About::Count(sub))),
            }
        }
        Verb::Close => match close_message(cursor, bytes.len(), limits) {
            Ok(sub) => Ok(ClientMessage::Close { sub }),
            Err(Failed) => Err(cursor.error(About::Frame)),
        },
    }
}

/// Reads `["VERB",`, or up to the end of an array that has only a verb.
#[inline]
fn verb(cursor: &mut Cursor<'_>) -> Parsed<Verb> {
    if cursor.rest().starts_with(br#"["EVENT",{"#) {
        cursor.advance(br#"["EVENT","#.len());
        return Ok(Verb::Event);
    }
    cursor.expect(b'[', "an array")?;
    let start = cursor.at();
    let verb = match &*cursor.string()?.unescape() {
        "EVENT" => Verb::Event,
        "AUTH" => Verb::Auth,
        "REQ" => Verb::Req,
        "COUNT" => Verb::Count,
        "CLOSE" => Verb::Close,
        _ => return Err(cursor.fail_at(start, Fault::UnknownVerb)),
    };
    cursor.expect(b',', "a comma")?;
    Ok(verb)
}

fn check_len(cursor: &mut Cursor<'_>, len: usize, limits: &Limits) -> Parsed<()> {
    let bytes_max = limits.message_bytes_max;
    if len > bytes_max {
        return Err(cursor.fail_at(bytes_max, Fault::MessageTooLong { bytes_max }));
    }
    Ok(())
}

#[inline]
fn event_message<'a>(
    cursor: &mut Cursor<'a>,
    len: usize,
    limits: &Limits,
    event: &mut RawEvent<'a>,
) -> Parsed<()> {
    check_len(cursor, len, limits)?;
    read(cursor, limits.event_tags_max, event)?;
    ignore_more(cursor)
}

fn close_message(cursor: &mut Cursor<'_>, len: usize, limits: &Limits) -> Parsed<SubId> {
    check_len(cursor, len, limits)?;
    let sub = sub_id(cursor)?;
    ignore_more(cursor)?;
    Ok(sub)
}

fn sub_id(cursor: &mut Cursor<'_>) -> Parsed<SubId> {
    let start = cursor.at();
    let text = cursor.string()?.unescape();
    SubId::new(&text).ok_or_else(|| cursor.fail_at(start, Fault::SubId))
}

fn filters(cursor: &mut Cursor<'_>, len: usize, limits: &Limits) -> Parsed<Vec<Filter>> {
    check_len(cursor, len, limits)?;
    let mut budget = Budget::new(limits.filter_values_max);
    let mut filters = Vec::new();
    while cursor.more(b']')? {
        if filters.len() == limits.filters_max {
            return Err(cursor.fail(Fault::TooManyFilters { max: limits.filters_max }));
        }
        filters.push(filter(cursor, &mut budget)?);
    }
    if filters.is_empty() {
        return Err(cursor.fail(Fault::NoFilter));
    }
    cursor.end()?;
    Ok(filters)
}

/// Reads to the end of the message; more elements must be JSON and mean nothing.
#[inline]
fn ignore_more(cursor: &mut Cursor<'_>) -> Parsed<()> {
    while cursor.more(b']')? {
        cursor.skip_value()?;
    }
    cursor.end()
}
