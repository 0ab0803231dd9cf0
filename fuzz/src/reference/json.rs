//! JSON parsed by `serde_json`, one level at a time, so that repeated fields are detected and ignored fields are only checked for
//! validity.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// What the reference finds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReferenceResult<T> {
    /// Valid, with this content.
    Valid(T),
    /// Invalid.
    Invalid,
    /// The reference cannot tell whether an ignored value is valid; all else has this content.
    Unknown(T),
}

impl<T> ReferenceResult<T> {
    /// The value, unless the bytes are invalid.
    pub fn value(self) -> Option<T> {
        match self {
            ReferenceResult::Valid(value) | ReferenceResult::Unknown(value) => Some(value),
            ReferenceResult::Invalid => None,
        }
    }
}

/// The fields of an object in their order, names unescaped, values as they stand.
#[derive(Debug)]
pub struct Object<'a> {
    /// Names and values.
    pub fields: Vec<(String, &'a RawValue)>,
}

impl<'a> Object<'a> {
    /// Reads one object.
    pub fn read(text: &'a str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    /// Whether a name is there twice.
    pub fn has_repeats(&self) -> bool {
        let mut names: Vec<&str> = self.fields.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        names.windows(2).any(|pair| pair[0] == pair[1])
    }

    /// The value of a field as it stands.
    pub fn get(&self, name: &str) -> Option<&'a str> {
        self.fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.get())
    }
}

impl<'de> Deserialize<'de> for Object<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Object<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object<'de>, A::Error> {
                let mut fields = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    fields.push((name, map.next_value()?));
                }
                Ok(Object { fields })
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

/// The elements of an array as they stand.
pub fn elements(text: &str) -> Option<Vec<&str>> {
    let elements: Vec<&RawValue> = serde_json::from_str(text).ok()?;
    Some(elements.into_iter().map(RawValue::get).collect())
}

/// The text of a string.
pub fn string(text: &str) -> Option<String> {
    serde_json::from_str(text).ok()
}

/// Digits without sign, fraction, exponent or leading zero; past `u64` its largest.
pub(super) fn integer(text: &str) -> Option<u64> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    // A number of more digits than even u128 takes is past u64 as well.
    plain.then(|| text.parse::<u128>().map_or(u64::MAX, |number| number.try_into().unwrap_or(u64::MAX)))
}

/// Lowercase hex of `N` bytes in a string.
pub(super) fn hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let text = string(text)?;
    let digit = |byte: u8| b"0123456789abcdef".iter().position(|&digit| digit == byte);
    let nibbles: Vec<usize> = text.bytes().map(digit).collect::<Option<_>>()?;
    let bytes: Vec<u8> =
        nibbles.chunks(2).map(|pair| (pair[0] * 16 + pair.get(1).unwrap_or(&0)) as u8).collect();
    (nibbles.len() == 2 * N).then(|| bytes.try_into().expect("half as many bytes as digits"))
}

/// Whether the relay accepts an ignored value; `None` if the reference cannot tell.
///
/// The relay checks the insides of strings, which `serde_json` does only for values that it keeps; and `serde_json` refuses
/// numbers past the range of `f64`, which are legal JSON.
pub(crate) fn dropped_value(text: &str) -> Option<bool> {
    // The number of open brackets is the depth; brackets inside of strings do not count.
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0u32, 0u32, false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' if !in_string => depth -= 1,
            _ => {}
        }
    }
    if deepest > 64 {
        // An empty array or object in the 64th takes no place.
        return if deepest > 65 { Some(false) } else { None };
    }
    serde_json::from_str::<serde_json::Value>(text).is_ok().then_some(true)
}
