//! Tags as owned text: those of an event that say something about a job, and those that an encrypted content holds.

use relay_engine::types::{Event, unescape};
use serde_json::Value;

/// Most tags in an encrypted content: as many as an event may have outside.
const INNER_TAGS_MAX: usize = 2_500;

/// A tag: its name and its values. Never empty.
pub(crate) type OwnedTag = Vec<String>;

/// The text of a tag's field. Canonical JSON is UTF-8.
pub(super) fn text(field: &[u8]) -> String {
    match unescape(field) {
        std::borrow::Cow::Borrowed(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        std::borrow::Cow::Owned(bytes) => String::from_utf8(bytes).unwrap_or_default(),
    }
}

/// The content of an event.
pub(crate) fn content(event: &Event) -> String {
    text(event.view().raw_content())
}

/// The tags whose name passes `wanted`.
pub(crate) fn tags(event: &Event, wanted: impl Fn(&[u8]) -> bool) -> Vec<OwnedTag> {
    event
        .tags()
        .filter(|tag| tag.name().is_some_and(&wanted))
        .map(|tag| tag.fields().map(text).collect())
        .collect()
}

/// Whether an event has a tag of this name, whatever its values: `["encrypted"]` and `["encrypted","1"]` are the same.
pub(crate) fn has(event: &Event, name: &[u8]) -> bool {
    event.tags().named(name).next().is_some()
}

/// Reads the tags of a decrypted content: an array of tags, or one bare tag. Numbers and booleans are taken for their
/// text, as some clients write them.
///
/// # Errors
/// A message for whoever sent it.
pub(crate) fn inner(json: &str) -> Result<Vec<OwnedTag>, &'static str> {
    const SHAPE: &str = "the encrypted content is not a JSON array of tags";
    let Ok(Value::Array(items)) = serde_json::from_str(json) else {
        return Err(SHAPE);
    };
    if items.first().is_some_and(Value::is_string) {
        return Ok(vec![tag(items).ok_or(SHAPE)?]);
    }
    if items.len() > INNER_TAGS_MAX {
        return Err("the encrypted content has more than 2,500 tags");
    }
    let tags = items.into_iter().filter(|item| item.as_array().is_none_or(|fields| !fields.is_empty()));
    tags.map(|item| match item {
        Value::Array(fields) => tag(fields).ok_or(SHAPE),
        _ => Err(SHAPE),
    })
    .collect()
}

fn tag(fields: Vec<Value>) -> Option<OwnedTag> {
    fields
        .into_iter()
        .map(|field| match field {
            Value::String(text) => Some(text),
            Value::Number(number) => Some(number.to_string()),
            Value::Bool(truth) => Some(truth.to_string()),
            Value::Null => Some(String::new()),
            Value::Array(_) | Value::Object(_) => None,
        })
        .collect()
}
