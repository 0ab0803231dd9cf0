//! The reference's filter.

use std::collections::BTreeSet;

use relay_engine::types::{EventId, Filter, PubKey, TagFilter};

use super::json::{Object, elements, hex, integer, string};

/// No event has a later `created_at`, so larger bounds are equivalent.
const TIME_MAX: u64 = i64::MAX as u64;

/// The filter in `text`, with nothing but white space around it, and how many values its lists name, repeats
/// counted. `None` if it is to be refused.
pub fn reference_filter(text: &str) -> Option<(Filter, usize)> {
    let object = Object::read(text)?;
    if object.has_repeats() {
        return None;
    }
    let mut filter = Filter::default();
    let mut tags = Vec::new();
    let mut values = 0;
    for (name, value) in &object.fields {
        let value = value.get();
        if name.starts_with('#') || ["ids", "authors", "kinds"].contains(&name.as_str()) {
            values += elements(value)?.len();
        }
        match name.as_bytes() {
            b"ids" => filter.ids = Some(set(value, |text| hex(text).map(EventId))?),
            b"authors" => filter.authors = Some(set(value, |text| hex(text).map(PubKey))?),
            b"kinds" => filter.kinds = Some(set(value, |text| integer(text)?.try_into().ok())?),
            b"since" => filter.since = Some(integer(value)?.min(TIME_MAX)),
            b"until" => filter.until = Some(integer(value)?.min(TIME_MAX)),
            b"limit" => filter.limit = Some(integer(value)?.try_into().unwrap_or(u32::MAX)),
            [b'#', letter] if letter.is_ascii_alphabetic() => {
                let is_id = matches!(letter, b'e' | b'p');
                let read = |text: &str| {
                    if is_id {
                        hex::<32>(text)?;
                    }
                    Some(string(text)?.into_bytes().into_boxed_slice())
                };
                tags.push(TagFilter { letter: *letter, values: set(value, read)? });
            }
            _ => return None,
        }
    }
    tags.sort_by_key(|tag| tag.letter);
    filter.tags = tags.into();
    Some((filter, values))
}

/// An array read as a set: sorted and free of repeats.
fn set<T: Ord>(text: &str, read: impl Fn(&str) -> Option<T>) -> Option<Box<[T]>> {
    let values: BTreeSet<T> = elements(text)?.into_iter().map(read).collect::<Option<_>>()?;
    Some(values.into_iter().collect())
}
