//! Client messages: EVENT, AUTH, REQ, COUNT, CLOSE and those of NIP-77.

use super::cursor::{Failed, JsonCursor, Parsed};
use super::error::{WireError, WireErrorKind};
use super::event::{RawEvent, read};
use super::filter::{Budget, filter};
use super::id_scanner::IdScanner;
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
        /// Its id, which the client chooses.
        id: SubId,
        /// One or more; an event that matches any is meant.
        filters: Vec<Filter>,
    },
    /// End a subscription (NIP-01).
    Close {
        /// The subscription.
        sub: SubId,
    },
    /// Begin to reconcile the events that both sides have (NIP-77).
    NegOpen {
        /// The reconciliation; these ids are apart from those of subscriptions.
        id: SubId,
        /// The events to reconcile.
        filter: Filter,
        /// The client's first message of the Negentropy protocol.
        message: Box<[u8]>,
    },
    /// Go on reconciling (NIP-77).
    NegMsg {
        /// The reconciliation.
        id: SubId,
        /// The client's next message of the Negentropy protocol.
        message: Box<[u8]>,
    },
    /// End a reconciliation (NIP-77).
    NegClose {
        /// The reconciliation.
        id: SubId,
    },
}

/// Whether a message is an EVENT, judging by its first bytes: one that writes `EVENT` with escapes is not recognised.
pub fn is_event_message(text: &[u8]) -> bool {
    let text = text.trim_ascii_start();
    text.strip_prefix(b"[").is_some_and(|rest| rest.trim_ascii_start().starts_with(b"\"EVENT\""))
}

/// What a message is, by its first element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MessageType {
    Event,
    Auth,
    Req,
    Count,
    Close,
    NegOpen,
    NegMsg,
    NegClose,
    Unknown,
}

impl MessageType {
    pub(super) fn of(text: &str) -> MessageType {
        match text {
            "EVENT" => MessageType::Event,
            "AUTH" => MessageType::Auth,
            "REQ" => MessageType::Req,
            "COUNT" => MessageType::Count,
            "CLOSE" => MessageType::Close,
            "NEG-OPEN" => MessageType::NegOpen,
            "NEG-MSG" => MessageType::NegMsg,
            "NEG-CLOSE" => MessageType::NegClose,
            _ => MessageType::Unknown,
        }
    }
}

/// Reads one message. Costs no allocation for EVENT and AUTH, if it has no unknown field.
///
/// `message_bytes_max`, [`Limits::tags_max_of_any`], `filters_max` and `filter_values_max` of `limits` hold while
/// reading; the other bounds are the policy's to keep.
///
/// # Errors
/// [`WireError`]; what it is about says how to answer.
pub fn parse_client_message<'a>(bytes: &'a [u8], limits: &Limits) -> Result<ClientMessage<'a>, WireError> {
    let mut cursor = JsonCursor::new(bytes);
    read_message(&mut cursor, bytes.len(), limits).map_err(|Failed| cursor.error(IdScanner::scan(bytes)))
}

#[inline(always)]
fn read_message<'a>(cursor: &mut JsonCursor<'a>, len: usize, limits: &Limits) -> Parsed<ClientMessage<'a>> {
    let message_type = message_type(cursor)?;
    check_len(cursor, len, limits)?;
    match message_type {
        MessageType::Event | MessageType::Auth => {
            let mut event = RawEvent::BLANK;
            read(cursor, limits.tags_max_of_any(), &mut event)?;
            ignore_more(cursor)?;
            Ok(if message_type == MessageType::Event {
                ClientMessage::Event(event)
            } else {
                ClientMessage::Auth(event)
            })
        }
        MessageType::Req => {
            Ok(ClientMessage::Req { sub: sub_id(cursor)?, filters: filters(cursor, limits)? })
        }
        MessageType::Count => {
            Ok(ClientMessage::Count { id: sub_id(cursor)?, filters: filters(cursor, limits)? })
        }
        MessageType::Close => {
            let sub = sub_id(cursor)?;
            ignore_more(cursor)?;
            Ok(ClientMessage::Close { sub })
        }
        MessageType::NegOpen => {
            let id = sub_id(cursor)?;
            cursor.expect(b',', "a comma")?;
            let filter = filter(cursor, &mut Budget::new(limits.filter_values_max))?;
            cursor.expect(b',', "a comma")?;
            let message = hex_message(cursor)?;
            ignore_more(cursor)?;
            Ok(ClientMessage::NegOpen { id, filter, message })
        }
        MessageType::NegMsg => {
            let id = sub_id(cursor)?;
            cursor.expect(b',', "a comma")?;
            let message = hex_message(cursor)?;
            ignore_more(cursor)?;
            Ok(ClientMessage::NegMsg { id, message })
        }
        MessageType::NegClose => {
            let id = sub_id(cursor)?;
            ignore_more(cursor)?;
            Ok(ClientMessage::NegClose { id })
        }
        MessageType::Unknown => unreachable!("refused where it was read"),
    }
}

/// Reads `["TYPE",`, or up to the end of an array that has only a message type.
#[inline]
fn message_type(cursor: &mut JsonCursor<'_>) -> Parsed<MessageType> {
    if cursor.rest().starts_with(br#"["EVENT",{"#) {
        cursor.advance(br#"["EVENT","#.len());
        return Ok(MessageType::Event);
    }
    cursor.expect(b'[', "an array")?;
    let start = cursor.at();
    let message_type = MessageType::of(&cursor.string()?.unescape());
    if message_type == MessageType::Unknown {
        return Err(cursor.fail_at(start, WireErrorKind::UnknownMessageType));
    }
    cursor.expect(b',', "a comma")?;
    Ok(message_type)
}

fn check_len(cursor: &mut JsonCursor<'_>, len: usize, limits: &Limits) -> Parsed<()> {
    let bytes_max = limits.message_bytes_max;
    if len > bytes_max {
        let bytes = len as u64;
        return Err(cursor.fail_at(bytes_max, WireErrorKind::MessageTooLong { bytes, bytes_max }));
    }
    Ok(())
}

fn sub_id(cursor: &mut JsonCursor<'_>) -> Parsed<SubId> {
    let start = cursor.at();
    let text = cursor.string()?.unescape();
    SubId::new(&text).ok_or_else(|| cursor.fail_at(start, WireErrorKind::SubId))
}

/// Reads a message of the Negentropy protocol: bytes in hex, of either case.
fn hex_message(cursor: &mut JsonCursor<'_>) -> Parsed<Box<[u8]>> {
    let start = cursor.at();
    let text = cursor.string()?.unescape();
    let mut bytes = vec![0; text.len() / 2];
    match text.len().is_multiple_of(2) && faster_hex::hex_decode(text.as_bytes(), &mut bytes).is_ok() {
        true => Ok(bytes.into()),
        false => Err(cursor.fail_at(start, WireErrorKind::HexBytes)),
    }
}

fn filters(cursor: &mut JsonCursor<'_>, limits: &Limits) -> Parsed<Vec<Filter>> {
    let mut budget = Budget::new(limits.filter_values_max);
    let mut filters = Vec::new();
    while cursor.more(b']')? {
        if filters.len() == limits.filters_max {
            return Err(cursor.fail(WireErrorKind::TooManyFilters { max: limits.filters_max }));
        }
        filters.push(filter(cursor, &mut budget)?);
    }
    if filters.is_empty() {
        return Err(cursor.fail(WireErrorKind::NoFilter));
    }
    cursor.end()?;
    Ok(filters)
}

/// Reads to the end of the message; further elements must be JSON and are ignored.
#[inline]
fn ignore_more(cursor: &mut JsonCursor<'_>) -> Parsed<()> {
    while cursor.more(b']')? {
        cursor.skip_value()?;
    }
    cursor.end()
}
