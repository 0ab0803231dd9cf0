//! A client message: [`wire::parse_client_message`] compared with the reference, and the answers that name its ids.

use relay_engine::types::{EventId, Filter, Limits, SubId};
use relay_engine::wire::{
    self, ClientMessage, IdScanner, ReplyTarget, WireError, WireErrorKind, frames as write,
};

use crate::events::check_event;
use crate::filters::check_filter;
use crate::reference::{Object, ReferenceEvent, ReferenceResult, elements, reference_filter, string};

/// Parses `data` as a client message, with large and with small limits, and writes answers with its ids.
///
/// # Panics
/// If the parser and the reference disagree about whether it is valid or about its content, if an error names another id than
/// the reference finds, if small limits change the content of an accepted message, or if an answer is not the intended JSON.
pub fn frames(data: &[u8]) {
    let limits = Limits { message_bytes_max: 1 << 20, ..Limits::default() };
    let reference_result =
        std::str::from_utf8(data).ok().map_or(ReferenceResult::Invalid, |text| read(text, &limits));
    let result = wire::parse_client_message(data, &limits);
    match &result {
        Ok(message) => check_message(
            message,
            &reference_result.value().expect("what is accepted is valid by the reference"),
        ),
        Err(error) => {
            assert!(
                !matches!(reference_result, ReferenceResult::Valid(_)),
                "a valid message is refused: {error}"
            );
            check_error(data, error);
        }
    }
    check_small_limits(data, &result);
    check_id_scanner(data);
    check_answers(data);
}

/// The content of a message.
enum ParsedMessage {
    Event(ReferenceEvent),
    Auth(ReferenceEvent),
    Req(SubId, Vec<(Filter, usize)>),
    Count(SubId, Vec<(Filter, usize)>),
    Close(SubId),
    NegOpen(SubId, (Filter, usize), Vec<u8>),
    NegMsg(SubId, Vec<u8>),
    NegClose(SubId),
}

fn read(text: &str, limits: &Limits) -> ReferenceResult<ParsedMessage> {
    let valid_or_invalid =
        |said: Option<ParsedMessage>| said.map_or(ReferenceResult::Invalid, ReferenceResult::Valid);
    let Some(elements) = elements(text).filter(|_| text.len() <= limits.message_bytes_max) else {
        return ReferenceResult::Invalid;
    };
    let [message_type, first, rest @ ..] = elements.as_slice() else { return ReferenceResult::Invalid };
    match string(message_type).as_deref() {
        Some("EVENT") => read_event(first, rest, ParsedMessage::Event, limits),
        Some("AUTH") => read_event(first, rest, ParsedMessage::Auth, limits),
        Some("REQ") => valid_or_invalid(
            read_filters(first, rest, limits).map(|(sub, filters)| ParsedMessage::Req(sub, filters)),
        ),
        Some("COUNT") => valid_or_invalid(
            read_filters(first, rest, limits).map(|(sub, filters)| ParsedMessage::Count(sub, filters)),
        ),
        Some("CLOSE") => match sub_id(first) {
            Some(sub) => with_trailing(ReferenceResult::Valid(ParsedMessage::Close(sub)), rest),
            None => ReferenceResult::Invalid,
        },
        Some("NEG-OPEN") => match (read_filters(first, rest.get(..1).unwrap_or(&[]), limits), rest) {
            (Some((id, mut filters)), [_, message, rest @ ..]) => with_trailing(
                valid_or_invalid(
                    hex(message).map(|bytes| ParsedMessage::NegOpen(id, filters.remove(0), bytes)),
                ),
                rest,
            ),
            _ => ReferenceResult::Invalid,
        },
        Some("NEG-MSG") => match (sub_id(first), rest) {
            (Some(id), [message, rest @ ..]) => with_trailing(
                valid_or_invalid(hex(message).map(|bytes| ParsedMessage::NegMsg(id, bytes))),
                rest,
            ),
            _ => ReferenceResult::Invalid,
        },
        Some("NEG-CLOSE") => match sub_id(first) {
            Some(id) => with_trailing(ReferenceResult::Valid(ParsedMessage::NegClose(id)), rest),
            None => ReferenceResult::Invalid,
        },
        _ => ReferenceResult::Invalid,
    }
}

fn read_event(
    event: &str,
    rest: &[&str],
    said: impl Fn(ReferenceEvent) -> ParsedMessage,
    limits: &Limits,
) -> ReferenceResult<ParsedMessage> {
    let reference_result = match ReferenceEvent::read(event) {
        ReferenceResult::Valid(event) if event.tags.len() <= limits.tags_max_of_any() => {
            ReferenceResult::Valid(said(event))
        }
        ReferenceResult::Unknown(event) if event.tags.len() <= limits.tags_max_of_any() => {
            ReferenceResult::Unknown(said(event))
        }
        _ => ReferenceResult::Invalid,
    };
    with_trailing(reference_result, rest)
}

/// Trailing elements are ignored, but must be valid JSON.
fn with_trailing(
    reference_result: ReferenceResult<ParsedMessage>,
    rest: &[&str],
) -> ReferenceResult<ParsedMessage> {
    let dropped: Vec<Option<bool>> =
        rest.iter().map(|value| crate::reference::dropped_value(value)).collect();
    match reference_result {
        _ if dropped.contains(&Some(false)) => ReferenceResult::Invalid,
        ReferenceResult::Valid(said) if dropped.contains(&None) => ReferenceResult::Unknown(said),
        reference_result => reference_result,
    }
}

fn read_filters(sub: &str, rest: &[&str], limits: &Limits) -> Option<(SubId, Vec<(Filter, usize)>)> {
    let sub = sub_id(sub)?;
    let filters: Vec<(Filter, usize)> =
        rest.iter().map(|text| reference_filter(text)).collect::<Option<_>>()?;
    let values: usize = filters.iter().map(|(_, values)| values).sum();
    let fits =
        !filters.is_empty() && filters.len() <= limits.filters_max && values <= limits.filter_values_max;
    fits.then_some((sub, filters))
}

/// Bytes in hex, of either case.
fn hex(text: &str) -> Option<Vec<u8>> {
    let text = string(text)?;
    let digits: Option<Vec<u32>> = text.chars().map(|digit| digit.to_digit(16)).collect();
    let (pairs, rest) = digits.as_deref()?.as_chunks::<2>();
    rest.is_empty().then(|| pairs.iter().map(|[high, low]| (high << 4 | low) as u8).collect())
}

fn sub_id(text: &str) -> Option<SubId> {
    let text = string(text)?;
    let chars = text.chars().count();
    (1..=64).contains(&chars).then(|| SubId::new(&text).expect("1 to 64 characters are an id"))
}

fn check_message(message: &ClientMessage<'_>, said: &ParsedMessage) {
    match (message, said) {
        (ClientMessage::Event(raw), ParsedMessage::Event(event))
        | (ClientMessage::Auth(raw), ParsedMessage::Auth(event)) => {
            check_event(raw, event);
        }
        (ClientMessage::Req { sub, filters }, ParsedMessage::Req(expected, references))
        | (ClientMessage::Count { id: sub, filters }, ParsedMessage::Count(expected, references)) => {
            assert_eq!(sub, expected);
            assert_eq!(filters.len(), references.len());
            for (filter, (reference, values)) in filters.iter().zip(references) {
                check_filter(filter, reference, *values);
            }
        }
        (ClientMessage::Close { sub }, ParsedMessage::Close(expected)) => assert_eq!(sub, expected),
        (
            ClientMessage::NegOpen { id, filter, message },
            ParsedMessage::NegOpen(expected, reference, bytes),
        ) => {
            assert_eq!((id, &**message), (expected, &**bytes));
            check_filter(filter, &reference.0, reference.1);
        }
        (ClientMessage::NegMsg { id, message }, ParsedMessage::NegMsg(expected, bytes)) => {
            assert_eq!((id, &**message), (expected, &**bytes));
        }
        (ClientMessage::NegClose { id }, ParsedMessage::NegClose(expected)) => {
            assert_eq!(id, expected)
        }
        _ => panic!("read as another message: {message:?}"),
    }
}

/// An error names the id of the message whenever there is one.
fn check_error(data: &[u8], error: &WireError) {
    assert!(error.at <= data.len(), "the offset of the error is within the bytes");
    assert!(["invalid", "unsupported"].contains(&error.prefix()));
    let message = error.to_string();
    assert!(!message.is_empty() && message.len() < 200, "a short message");
    assert!(message.is_ascii(), "a refusal quotes nothing");
    let Some(elements) = std::str::from_utf8(data).ok().and_then(elements) else { return };
    let [message_type, first, ..] = elements.as_slice() else { return };
    let named = |reply_to: fn(Box<str>) -> ReplyTarget| {
        string(first).map_or(ReplyTarget::Notice, |id| reply_to(id.into()))
    };
    match string(message_type).as_deref() {
        Some("EVENT") => assert_eq!(error.reply_to, ReplyTarget::Event(plain_id(first, &error.reply_to))),
        Some("AUTH") => assert_eq!(error.reply_to, ReplyTarget::Auth(plain_id(first, &error.reply_to))),
        Some("REQ") => assert_eq!(error.reply_to, named(ReplyTarget::Req)),
        Some("COUNT") => assert_eq!(error.reply_to, named(ReplyTarget::Count)),
        Some("CLOSE") => assert_eq!(error.reply_to, named(ReplyTarget::Close)),
        Some("NEG-OPEN" | "NEG-MSG") => assert_eq!(error.reply_to, named(ReplyTarget::Neg)),
        Some("NEG-CLOSE") | None => assert_eq!(error.reply_to, ReplyTarget::Notice),
        Some(_) => assert_eq!(
            (&error.reply_to, error.kind),
            (&named(ReplyTarget::Unknown), WireErrorKind::UnknownMessageType)
        ),
    }
}

/// An overlong message is scanned in pieces; the same id must be found as in the whole.
fn check_id_scanner(data: &[u8]) {
    let reply_to = IdScanner::scan(data);
    for piece in [1, 7] {
        let mut scanner = IdScanner::default();
        data.chunks(piece).for_each(|bytes| scanner.feed(bytes));
        assert_eq!(*scanner.reply_to(), reply_to);
    }
}

/// The id that the refusal of this event must name, as it was sent. If the field is repeated, either id is right.
fn plain_id(event: &str, reply_to: &ReplyTarget) -> Option<Box<str>> {
    let found: Option<Box<str>> = reply_to.id().map(Into::into);
    let Some(object) = Object::read(event) else { return found };
    let named: Vec<&str> =
        object.fields.iter().filter(|(name, _)| name == "id").map(|(_, value)| value.get()).collect();
    match named.as_slice() {
        [value] => string(value).map(Into::into),
        [] => None,
        _ => found,
    }
}

/// Small limits refuse more messages, with the error of a limit, and change nothing else.
fn check_small_limits(data: &[u8], with_large_limits: &Result<ClientMessage<'_>, WireError>) {
    let small = Limits {
        message_bytes_max: 512,
        event_tags_max: 2,
        list_tags_max: 2,
        filters_max: 2,
        filter_values_max: 4,
        ..Limits::default()
    };
    match (wire::parse_client_message(data, &small), with_large_limits) {
        (Ok(message), Ok(same)) => assert_eq!(format!("{message:?}"), format!("{same:?}")),
        (Ok(message), Err(error)) => panic!("only small limits accept {message:?}: {error}"),
        (Err(error), Ok(message)) => {
            let is_bound = match error.kind {
                WireErrorKind::MessageTooLong { .. } => data.len() > small.message_bytes_max,
                WireErrorKind::TooManyTags { max } => max == small.tags_max_of_any(),
                WireErrorKind::TooManyFilters { max } => max == small.filters_max,
                WireErrorKind::TooManyValues { max } => max == small.filter_values_max,
                _ => false,
            };
            assert!(is_bound, "{error} refuses {message:?}");
        }
        (Err(_), Err(_)) => {}
    }
}

/// Any text that is put into an answer is the same after parsing.
fn check_answers(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let check = |expected: serde_json::Value, write: &dyn Fn(&mut Vec<u8>)| {
        let mut out = Vec::new();
        write(&mut out);
        assert_eq!(serde_json::from_slice::<serde_json::Value>(&out).expect("an answer is JSON"), expected);
    };
    let id = EventId([7; 32]);
    let hex = id.to_string();
    check(serde_json::json!(["NOTICE", text]), &|out| write::notice(out, &text));
    check(serde_json::json!(["OK", hex, false, text]), &|out| write::ok(out, &id, false, &text));
    check(serde_json::json!(["OK", text, false, hex]), &|out| write::not_ok(out, &text, &hex));
    check(serde_json::json!(["NEG-ERR", text, hex]), &|out| write::neg_err(out, &text, &hex, None));
    check(serde_json::json!(["NEG-ERR", hex, text, 9]), &|out| write::neg_err(out, &hex, &text, Some(9)));
    check(serde_json::json!(["AUTH", text]), &|out| write::auth(out, &text));
    let start: String = text.chars().take(SubId::CHARS_MAX).collect();
    let Some(sub) = SubId::new(&start) else { return };
    check(serde_json::json!(["CLOSED", start, text]), &|out| write::closed(out, sub.as_str(), &text));
    check(serde_json::json!(["NEG-MSG", start, hex]), &|out| write::neg_msg(out, &sub, &id.0));
    check(serde_json::json!(["EOSE", start]), &|out| write::eose(out, &sub, None));
    check(serde_json::json!(["EVENT", start, {}]), &|out| {
        write::event_head(out, &sub);
        out.extend_from_slice(b"{}]");
    });
    check(serde_json::json!(["COUNT", start, {"count": u64::MAX, "approximate": true}]), &|out| {
        write::count(out, &sub, u64::MAX, true, None);
    });
}
