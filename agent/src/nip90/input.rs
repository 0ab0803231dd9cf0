//! Inputs of jobs: `i` tags, and what clients write in their place.

use relay_engine::types::{Event, EventId};
use url::Url;

use super::is_request;
use super::relays::public_relay;
use super::tags::{OwnedTag, content, tags};
use crate::job::{Input, InputKind};

/// Longest URL that an input may be, in bytes.
const URL_BYTES_MAX: usize = 2_048;
/// Longest marker, in bytes.
const MARKER_BYTES_MAX: usize = 256;

/// Reads an `i` tag: data, type, relay, marker. `None` if it has no data at all.
///
/// A missing or empty type is text, and so is `prompt`, a marker that clients write in the place of the type. Any other is
/// refused, so that no job is done on something else than its customer meant.
///
/// # Errors
/// With a message for the customer.
pub(super) fn input(tag: &OwnedTag) -> Result<Option<Input>, String> {
    let field = |at: usize| tag.get(at).map(|text| text.trim()).filter(|text| !text.is_empty());
    let Some(data) = tag.get(1) else {
        return Ok(None);
    };
    let (kind, misplaced) = match field(2) {
        None => (InputKind::Text, None),
        Some("prompt") => (InputKind::Text, Some("prompt")),
        Some(name) => (kind(name).ok_or_else(|| unknown(name))?, None),
    };
    let marker = field(4).or(misplaced);
    if marker.is_some_and(|marker| marker.len() > MARKER_BYTES_MAX) {
        return Err(format!("an input's marker has more than {MARKER_BYTES_MAX} bytes"));
    }
    let relay = field(3).and_then(public_relay);
    Ok(Some(Input { data: checked(kind, data)?, kind, relay, marker: marker.map(str::to_owned) }))
}

/// Reads `["input", type, data]`, which some clients write instead of `["i", data, type]`.
///
/// # Errors
/// A message for the customer, if the tag has another form or its data does not fit its type.
pub(super) fn swapped(tag: &OwnedTag) -> Result<Input, String> {
    match tag.as_slice() {
        [_, name, data] if kind(name).is_some() => {
            let kind = kind(name).unwrap_or(InputKind::Text);
            Ok(Input { data: checked(kind, data)?, kind, relay: None, marker: None })
        }
        _ => Err("inputs are written [\"i\", data, type]".to_owned()),
    }
}

fn kind(name: &str) -> Option<InputKind> {
    match name {
        "text" => Some(InputKind::Text),
        "event" => Some(InputKind::Event),
        "job" => Some(InputKind::Job),
        "url" => Some(InputKind::Url),
        _ => None,
    }
}

fn unknown(name: &str) -> String {
    format!("input type {} is not known: use text, url, event or job", quoted(name))
}

/// The data of an input, checked for what it is said to be.
fn checked(kind: InputKind, data: &str) -> Result<String, String> {
    match kind {
        InputKind::Text => Ok(data.to_owned()),
        InputKind::Event | InputKind::Job => {
            let id = data.trim().to_ascii_lowercase();
            match id.parse::<EventId>() {
                Ok(_) => Ok(id),
                Err(_) => Err(format!("input {} is not an event id in hexadecimal", quoted(data))),
            }
        }
        InputKind::Url => {
            let url = data.trim();
            let is_web = Url::parse(url).is_ok_and(|url| matches!(url.scheme(), "https" | "http"));
            match is_web && url.len() <= URL_BYTES_MAX {
                true => Ok(url.to_owned()),
                false => Err(format!("input {} is not a URL of at most {URL_BYTES_MAX} bytes", quoted(url))),
            }
        }
    }
}

/// A customer's own word in an error: its beginning, without control characters.
pub(super) fn quoted(text: &str) -> String {
    let mut shown: String = text.chars().filter(|character| !character.is_control()).take(32).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    format!("\"{shown}\"")
}

/// The text of an event that an input names: its content. Of an earlier job request, which noStrudel names to ask for the next
/// page, its text inputs, a line each; they are not in it if it is encrypted.
pub fn text_of(event: &Event) -> String {
    if !is_request(event.kind) {
        return content(event);
    }
    let inputs = tags(event, |name| name == b"i").into_iter().filter_map(|tag| input(&tag).ok().flatten());
    let texts = inputs.filter(|input| input.kind == InputKind::Text).map(|input| input.data);
    texts.collect::<Vec<_>>().join("\n")
}
