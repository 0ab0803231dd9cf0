//! JSON with bounds, and errors with the path of the field, whose messages show no value.

use std::cell::RefCell;
use std::fmt;

use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use super::{BYTES_MAX, ManifestError};

/// Objects and lists within each other.
const DEPTH_MAX: usize = 16;

pub(super) const MUST_BE_OBJECT: &str = "must be an object";

/// Reads a document of at most [`BYTES_MAX`] bytes and 16 levels in which no field is a duplicate field.
pub(super) fn read(json: &[u8]) -> Result<Value, ManifestError> {
    if json.len() > BYTES_MAX {
        return Err(ManifestError::new(".", format!("has more than {BYTES_MAX} bytes")));
    }
    let first_error = RefCell::new(None);
    let mut reader = serde_json::Deserializer::from_slice(json);
    let seed = Strict { path: String::new(), depth: 0, first_error: &first_error };
    let value = seed.deserialize(&mut reader).and_then(|value| reader.end().map(|()| value));
    value.map_err(|error| {
        first_error.into_inner().unwrap_or_else(|| {
            let (line, column) = (error.line(), error.column());
            ManifestError::new(".", format!("is not JSON: line {line}, column {column}"))
        })
    })
}

/// Converts a document, with the path of what does not fit.
pub(super) fn from_value<T: DeserializeOwned>(value: Value) -> Result<T, ManifestError> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let path = error.path().to_string();
        let message = error.into_inner().to_string();
        if let Some(name) = message.strip_prefix("missing field `") {
            let name = name.split('`').next().unwrap_or_default();
            ManifestError::new(join(&path, name), "is missing")
        } else if message.starts_with("unknown field `") {
            // Its name is the end of the path.
            ManifestError::new(bounded(&path), "is not a known field")
        } else {
            ManifestError::new(bounded(&path), without_value(&message))
        }
    })
}

/// Refuses a list where an object is expected: serde also reads a struct from a list of its fields.
pub(super) fn refuse_lists_for_objects(
    read: &Value,
    written: &Value,
    path: &str,
) -> Result<(), ManifestError> {
    match (read, written) {
        (Value::Array(_), Value::Object(_)) => Err(ManifestError::new(path, MUST_BE_OBJECT)),
        (Value::Array(read), Value::Array(written)) => {
            read.iter().zip(written).enumerate().try_for_each(|(at, (read, written))| {
                refuse_lists_for_objects(read, written, &format!("{path}[{at}]"))
            })
        }
        (Value::Object(read), Value::Object(written)) => read.iter().try_for_each(|(name, read)| {
            let written = written.get(name).unwrap_or(&Value::Null);
            refuse_lists_for_objects(read, written, &join(path, name))
        }),
        _ => Ok(()),
    }
}

/// The path of a field of what stands at `path`.
pub(super) fn join(path: &str, field: &str) -> String {
    match (path, field) {
        ("" | ".", field) => field.to_owned(),
        (path, "" | ".") => path.to_owned(),
        (path, field) if field.starts_with('[') => format!("{path}{field}"),
        (path, field) => format!("{path}.{field}"),
    }
}

/// A path that contains names from the manifest, short and in one line.
fn bounded(path: &str) -> String {
    path.chars().take(200).map(|c| if c.is_control() { '?' } else { c }).collect()
}

/// What serde says, without the value.
fn without_value(message: &str) -> String {
    let expected = |prefix: &str| {
        let rest = message.strip_prefix(prefix)?;
        rest.rsplit_once(", expected ").map(|(_, expected)| expected)
    };
    if let Some(variants) = expected("unknown variant `") {
        let variants = variants.trim_start_matches("one of ").replace(" or ", ", ").replace('`', "");
        return format!("must be one of: {variants}");
    }
    if message.starts_with("there are no variants") {
        return "must be empty".to_owned();
    }
    let expected = ["invalid type: ", "invalid value: ", "invalid length "].into_iter().find_map(expected);
    match expected {
        Some("u8") => "must be a whole number from 0 to 255".to_owned(),
        Some("u16") => "must be a whole number from 0 to 65535".to_owned(),
        Some("u32" | "u64" | "usize") => "must be a whole number, 0 or greater".to_owned(),
        Some("f32" | "f64") => "must be a number".to_owned(),
        Some("a boolean") => "must be true or false".to_owned(),
        Some("a string") => "must be a string".to_owned(),
        Some("a sequence") => "must be a list".to_owned(),
        Some(other) if other == "a map" || other.starts_with("struct ") => MUST_BE_OBJECT.to_owned(),
        Some(_) => "has the wrong type".to_owned(),
        // Our own messages.
        None => message.to_owned(),
    }
}

/// Reads any JSON, strictly.
struct Strict<'a> {
    path: String,
    depth: usize,
    first_error: &'a RefCell<Option<ManifestError>>,
}

impl<'a> Strict<'a> {
    fn inside(&self, step: &str) -> Strict<'a> {
        Strict { path: join(&self.path, step), depth: self.depth + 1, first_error: self.first_error }
    }

    fn fail<E: serde::de::Error>(&self, path: &str, message: &str) -> E {
        let path = if path.is_empty() { "." } else { path };
        *self.first_error.borrow_mut() = Some(ManifestError::new(bounded(path), message));
        E::custom(message)
    }

    fn check_depth<E: serde::de::Error>(&self) -> Result<(), E> {
        if self.depth < DEPTH_MAX {
            return Ok(());
        }
        Err(self.fail(&self.path, &format!("is nested more than {DEPTH_MAX} deep")))
    }
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Value, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("not a number"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        self.check_depth()?;
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(self.inside(&format!("[{}]", list.len())))? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Value, A::Error> {
        self.check_depth()?;
        let mut object = Map::new();
        while let Some(name) = fields.next_key::<String>()? {
            let inside = self.inside(&name);
            if object.contains_key(&name) {
                return Err(self.fail(&inside.path, "is a duplicate field"));
            }
            object.insert(name, fields.next_value_seed(inside)?);
        }
        Ok(Value::Object(object))
    }
}
