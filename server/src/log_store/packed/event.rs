//! One event, packed.
//!
//! ```text
//! packed   = 1  id:32  sig:64  bytes of the JSON  bytes of the text  bytes of the values  value*  block
//! value    = 0  value:32  |  number of a shared value + 1          the author, then those of the text
//! block    the text, as a block of LZ4 with the dictionary: the JSON from "created_at" to "content", in which each 64 hexadecimal digits are a 0xff
//! ```
//!
//! Numbers and lengths are in groups of seven bits, lowest first; all bytes but the last one have their highest bit set.

use std::borrow::Cow;

use relay_engine::store::StoreError;

/// What a packed event begins with. JSON begins with a brace.
const PACKED: u8 = 1;
/// Stands for a value. No text in UTF-8 has it.
const VALUE: u8 = 0xff;
pub(super) const VALUE_BYTES: usize = 32;
const SIG_BYTES: usize = 64;
const BEFORE_ID: &[u8] = br#"{"id":""#;
const BEFORE_AUTHOR: &[u8] = br#"","pubkey":""#;
const BEFORE_TEXT: &[u8] = br#"","created_at":"#;
const BEFORE_SIG: &[u8] = br#","sig":""#;
const AFTER_SIG: &[u8] = br#""}"#;

/// An event's id, public key, or another number of 32 bytes in it.
pub(super) type Value = [u8; VALUE_BYTES];

/// What is packed of an event.
#[derive(Debug)]
pub(super) struct Parts {
    id: Value,
    sig: [u8; SIG_BYTES],
    /// The author first.
    pub(super) values: Vec<Value>,
    pub(super) text: Vec<u8>,
    json_bytes: usize,
}

/// Whether this is a hexadecimal digit as it is written in canonical JSON.
fn is_digit(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

fn decoded<const N: usize>(hex: &[u8]) -> Option<[u8; N]> {
    let mut value = [0; N];
    let is_hex = hex.len() == 2 * N && hex.iter().all(|byte| is_digit(*byte));
    (is_hex && faster_hex::hex_decode(hex, &mut value).is_ok()).then_some(value)
}

impl Parts {
    /// The parts of canonical JSON; `None` if it is something else.
    pub(super) fn of(json: &[u8]) -> Option<Self> {
        let (id, rest) = json.strip_prefix(BEFORE_ID)?.split_at_checked(2 * VALUE_BYTES)?;
        let (author, rest) = rest.strip_prefix(BEFORE_AUTHOR)?.split_at_checked(2 * VALUE_BYTES)?;
        let rest = rest.strip_prefix(BEFORE_TEXT)?.strip_suffix(AFTER_SIG)?;
        let (rest, sig) = rest.split_at_checked(rest.len().checked_sub(2 * SIG_BYTES)?)?;
        let rest = rest.strip_suffix(BEFORE_SIG)?;
        let (mut values, mut text) = (vec![decoded(author)?], Vec::with_capacity(rest.len()));
        let (mut digits, mut copied) = (0, 0);
        for (at, byte) in rest.iter().enumerate() {
            if *byte == VALUE {
                return None;
            }
            digits = if is_digit(*byte) { digits + 1 } else { 0 };
            if digits == 2 * VALUE_BYTES {
                let begin = at + 1 - digits;
                text.extend_from_slice(&rest[copied..begin]);
                text.push(VALUE);
                values.push(decoded(&rest[begin..=at])?);
                (digits, copied) = (0, at + 1);
            }
        }
        text.extend_from_slice(&rest[copied..]);
        Some(Parts { id: decoded(id)?, sig: decoded(sig)?, values, text, json_bytes: json.len() })
    }

    /// The packed event. `number_of`: the number of a value, if it is shared.
    pub(super) fn pack(&self, number_of: impl Fn(&Value) -> Option<u32>, dictionary: &[u8]) -> Vec<u8> {
        let mut values = Vec::new();
        for value in &self.values {
            match number_of(value) {
                Some(number) => push_number(number as usize + 1, &mut values),
                None => values.extend(std::iter::once(0).chain(*value)),
            }
        }
        let mut packed = Vec::with_capacity(self.json_bytes / 2);
        packed.push(PACKED);
        packed.extend_from_slice(&self.id);
        packed.extend_from_slice(&self.sig);
        for bytes in [self.json_bytes, self.text.len(), values.len()] {
            push_number(bytes, &mut packed);
        }
        packed.extend_from_slice(&values);
        packed.extend_from_slice(&lz4_flex::block::compress_with_dict(&self.text, dictionary));
        packed
    }
}

fn push_number(mut number: usize, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Reads what was packed.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self) -> Option<usize> {
        let mut number = 0;
        for shift in [0, 7, 14, 21, 28] {
            let byte = self.take(1)?[0];
            number |= usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(number);
            }
        }
        None
    }
}

/// What events were packed with.
pub(in super::super) trait Shared {
    fn dictionary(&self) -> Result<&[u8], StoreError>;

    /// A shared value; shorter if there is none of this number.
    fn value(&self, number: usize) -> Result<Cow<'_, [u8]>, StoreError>;
}

/// Whether this is a packed event, and not JSON.
pub(in super::super) fn is_packed(body: &[u8]) -> bool {
    body.first() == Some(&PACKED)
}

/// The id ends before this byte of an event, packed or not.
pub(in super::super) const ID_END_MAX: usize = BEFORE_ID.len() + 2 * VALUE_BYTES;

/// The id of an event, packed or not, of which these are the first bytes; `None` if they are no event's.
pub(in super::super) fn id(body: &[u8]) -> Option<Value> {
    match body.strip_prefix(&[PACKED]) {
        Some(rest) => rest.first_chunk().copied(),
        None => decoded(body.strip_prefix(BEFORE_ID)?.get(..2 * VALUE_BYTES)?),
    }
}

/// The numbers of the shared values that a packed event mentions, as far as it is whole.
pub(super) fn numbers(packed: &[u8]) -> Vec<usize> {
    let mut rest = Rest(packed);
    let mut values = || {
        let _ = rest.take(1 + VALUE_BYTES + SIG_BYTES)?;
        let (_, _, value_bytes) = (rest.number()?, rest.number()?, rest.number()?);
        rest.take(value_bytes)
    };
    let mut values = Rest(values().filter(|_| is_packed(packed)).unwrap_or_default());
    let mut numbers = Vec::new();
    while let Some(number) = values.number() {
        match number.checked_sub(1) {
            Some(number) => numbers.push(number),
            None => drop(values.take(VALUE_BYTES)),
        }
    }
    numbers
}

/// JSON that is being put together in front of the text that it is made of.
struct Writer {
    json: Vec<u8>,
    at: usize,
}

impl Writer {
    fn put(&mut self, bytes: &[u8]) -> Option<()> {
        self.json.get_mut(self.at..self.at + bytes.len())?.copy_from_slice(bytes);
        self.at += bytes.len();
        Some(())
    }

    fn put_hex(&mut self, bytes: &[u8]) -> Option<()> {
        let hex = self.json.get_mut(self.at..self.at + 2 * bytes.len())?;
        faster_hex::hex_encode(bytes, hex).ok()?;
        self.at += 2 * bytes.len();
        Some(())
    }
}

/// The JSON of a packed event; `None` if it is broken. The event's checksum says whether it is what was packed.
///
/// # Errors
/// If what it was packed with can't be read.
pub(in super::super) fn unpack(packed: &[u8], shared: &impl Shared) -> Result<Option<Vec<u8>>, StoreError> {
    /// What is more is not an event.
    const JSON_BYTES_MAX: usize = 1 << 28;
    let mut rest = Rest(packed);
    let mut head = || {
        let _ = rest.take(1).filter(|_| is_packed(packed))?;
        let (id, sig) = (rest.take(VALUE_BYTES)?, rest.take(SIG_BYTES)?);
        let (json_bytes, text_bytes, value_bytes) = (rest.number()?, rest.number()?, rest.number()?);
        let is_possible = text_bytes <= json_bytes && json_bytes <= JSON_BYTES_MAX;
        is_possible.then_some((id, sig, json_bytes, text_bytes, rest.take(value_bytes)?))
    };
    let Some((id, sig, json_bytes, text_bytes, values)) = head() else { return Ok(None) };
    let mut out = Writer { json: vec![0; json_bytes], at: 0 };
    let mut text_at = json_bytes - text_bytes;
    let read =
        lz4_flex::block::decompress_into_with_dict(rest.0, &mut out.json[text_at..], shared.dictionary()?);
    if !matches!(read, Ok(read) if read == text_bytes) {
        return Ok(None);
    }
    let mut values = Rest(values);
    let mut put_value = |out: &mut Writer| {
        let Some(number) = values.number() else { return Ok(None) };
        let put = match number.checked_sub(1) {
            None => values.take(VALUE_BYTES).and_then(|value| out.put_hex(value)),
            Some(number) => {
                let value = shared.value(number)?;
                (value.len() == VALUE_BYTES).then(|| out.put_hex(&value)).flatten()
            }
        };
        Ok(put)
    };
    let author = [BEFORE_ID, BEFORE_AUTHOR];
    let begun = out.put(author[0]).and_then(|()| out.put_hex(id)).and_then(|()| out.put(author[1]));
    if begun.is_none() || put_value(&mut out)?.is_none() || out.put(BEFORE_TEXT).is_none() {
        return Ok(None);
    }
    loop {
        if out.at > text_at {
            return Ok(None);
        }
        let copied = memchr::memchr(VALUE, &out.json[text_at..]).unwrap_or(json_bytes - text_at);
        out.json.copy_within(text_at..text_at + copied, out.at);
        (out.at, text_at) = (out.at + copied, text_at + copied + 1);
        if text_at > json_bytes {
            break;
        }
        if put_value(&mut out)?.is_none() {
            return Ok(None);
        }
    }
    let ended = out.put(BEFORE_SIG).and_then(|()| out.put_hex(sig)).and_then(|()| out.put(AFTER_SIG));
    Ok((ended.is_some() && out.at == json_bytes && values.0.is_empty()).then_some(out.json))
}

#[cfg(test)]
mod tests {
    use relay_engine::testing::{Rng, real_event_lines};

    use super::super::{Gatherer, Vocabulary};
    use super::*;

    /// Events as they are stored, and what packs them.
    fn real() -> (Vec<Vec<u8>>, super::super::Packer) {
        let lines: Vec<Vec<u8>> = real_event_lines()
            .iter()
            .map(|line| relay_engine::testing::event_of_json(line).expect("an event").json().to_vec())
            .collect();
        let mut gatherer = Gatherer::new(lines.len() as u64);
        lines.iter().for_each(|json| gatherer.add(json));
        (lines, gatherer.finish())
    }

    #[test]
    fn what_was_packed_is_unpacked() {
        let (lines, packer) = real();
        let packed = packer.pack(lines.iter().map(|json| &json[..]));
        assert!(packed.iter().all(Option::is_some));
        for (json, packed) in lines.iter().zip(packed.iter().flatten()) {
            assert_eq!(unpack(packed, &packer.vocabulary), Ok(Some(json.clone())));
            assert!(is_packed(packed) && !is_packed(json));
        }
        let sum = |lengths: &mut dyn Iterator<Item = usize>| lengths.sum::<usize>();
        let (plain, small) =
            (sum(&mut lines.iter().map(Vec::len)), sum(&mut packed.iter().flatten().map(Vec::len)));
        assert!(small * 5 < plain * 4, "{plain} bytes became {small}");
    }

    #[test]
    fn other_json_stays_as_it_is() {
        let packer = Gatherer::new(1).finish();
        let hex = "0".repeat(64);
        let of = |id: &str, tail: &str| {
            format!(
                r#"{{"id":"{id}","pubkey":"{hex}","created_at":1,"kind":1,"tags":[],"content":"{tail}","sig":"{hex}{hex}"}}"#
            )
        };
        let pack = |json: &[u8]| packer.pack([json].into_iter()).remove(0);
        assert!(pack(of(&hex, "text").as_bytes()).is_some());
        assert!(pack(of(&hex, &hex.repeat(3)).as_bytes()).is_some());
        let upper = hex.replace('0', "A");
        let mut not_text = of(&hex, "text").into_bytes();
        let at = not_text.len() - 150;
        not_text[at] = 0xff;
        for json in [&b"{}"[..], b"", of(&upper, "text").as_bytes(), &not_text] {
            assert_eq!(pack(json), None, "{}", String::from_utf8_lossy(json));
        }
    }

    /// Regression: such text was compared with all of its earlier copies, also with those that are too far away to be referred to: a
    /// megabyte took hours.
    #[test]
    fn text_that_repeats_too_far_away_is_packed_at_once() {
        let mut rng = Rng::new(1);
        let period: String = (0..66_000).map(|_| char::from(b'a' + rng.below(26) as u8)).collect();
        let (hex, content) = ("0".repeat(64), &period.repeat(16)[..1_000_000]);
        let json = format!(
            r#"{{"id":"{hex}","pubkey":"{hex}","created_at":1,"kind":1,"tags":[],"content":"{content}","sig":"{hex}{hex}"}}"#
        );
        let packer = Gatherer::new(1).finish();
        let begun = std::time::Instant::now();
        let packed = packer.pack([json.as_bytes(), json.as_bytes()].into_iter());
        assert!(begun.elapsed() < std::time::Duration::from_secs(30), "{:?}", begun.elapsed());
        for packed in packed.into_iter().flatten() {
            assert_eq!(unpack(&packed, &packer.vocabulary), Ok(Some(json.clone().into_bytes())));
        }
    }

    #[test]
    fn the_id_is_read_from_the_first_bytes() {
        let (lines, packer) = real();
        let packed = packer.pack(lines.iter().map(|json| &json[..]).take(20));
        for (json, packed) in lines.iter().zip(packed.into_iter().flatten()) {
            let expected = decoded(&json[7..71]);
            assert!(expected.is_some());
            assert_eq!((id(&json[..ID_END_MAX]), id(&packed[..33])), (expected, expected));
            assert_eq!((id(&json[..ID_END_MAX - 1]), id(&packed[..32])), (None, None));
        }
        assert_eq!((id(b""), id(b"{}"), id(&[0; 99])), (None, None, None));
    }

    /// Whatever is broken, there is some JSON or none, which its checksum tells.
    #[test]
    fn broken_bytes_are_no_panic() {
        let (lines, packer) = real();
        let packed = packer.pack(lines.iter().map(|json| &json[..]).take(100));
        let (mut rng, mut none, mut other) = (Rng::new(1), 0, 0);
        let empty = Vocabulary::default();
        for (json, packed) in lines.iter().zip(packed.into_iter().flatten()) {
            for _ in 0..300 {
                let mut broken = packed.clone();
                match rng.below(3) {
                    0 => broken.truncate(rng.below(packed.len() as u64) as usize),
                    1 => broken[rng.below(packed.len() as u64) as usize] ^= 1 << rng.below(8),
                    _ => broken[rng.below(packed.len() as u64) as usize..].fill(0),
                }
                let vocabulary = [&packer.vocabulary, &empty][rng.below(8) as usize / 7];
                match unpack(&broken, vocabulary) {
                    Ok(None) => none += 1,
                    Ok(Some(read)) => other += i32::from(read != *json),
                    Err(error) => panic!("{error}"),
                }
                let _ = numbers(&broken);
            }
        }
        assert!(none > 100 && other > 100, "{none}, {other}");
    }
}
