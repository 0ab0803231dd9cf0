//! Reads from tags what a deletion request deletes (NIP-09) and which keys a gift wrap is for (NIP-59).

use crate::types::{Class, Event, EventId, Kind, PubKey};

/// NIP-09.
pub(super) const DELETION: Kind = 5;
/// NIP-62.
pub(super) const VANISH: Kind = 62;
/// NIP-59.
pub(super) const GIFT_WRAP: Kind = 1059;

/// The ids a deletion request names, without repeats.
pub(super) fn deleted_ids(event: &Event) -> Vec<EventId> {
    let ids = event.tags().named(b"e").filter_map(|tag| EventId::from_hex(&tag.value()?).ok());
    distinct(ids.collect())
}

/// The addresses of its own author that a deletion request names: kind and `d` tag.
pub(super) fn deleted_addresses(event: &Event) -> Vec<(Kind, Box<[u8]>)> {
    let addresses = event.tags().named(b"a").filter_map(|tag| {
        let value = tag.value()?;
        let (kind, pubkey, d) = parse_address(&value)?;
        (pubkey == event.pubkey).then(|| (kind, d.into()))
    });
    distinct(addresses.collect())
}

/// The keys a gift wrap is for; nothing for other kinds.
pub(super) fn wrapped_for(event: &Event) -> Vec<PubKey> {
    if event.kind != GIFT_WRAP {
        return Vec::new();
    }
    let keys = event.tags().named(b"p").filter_map(|tag| PubKey::from_hex(&tag.value()?).ok());
    distinct(keys.collect())
}

/// Reads `<kind>:<pubkey>:<d>`, of a replaceable kind with an empty `d` or of an addressable kind.
fn parse_address(value: &[u8]) -> Option<(Kind, PubKey, &[u8])> {
    let colon = value.iter().position(|&byte| byte == b':')?;
    let (digits, rest) = (&value[..colon], &value[colon + 1..]);
    // `parse` also takes a sign and leading zeros, which no tag of NIP-01 has.
    if !digits.first()?.is_ascii_digit() || (digits[0] == b'0' && digits.len() > 1) {
        return None;
    }
    let kind: Kind = std::str::from_utf8(digits).ok()?.parse().ok()?;
    let pubkey = PubKey::from_hex(rest.get(..PubKey::HEX_LEN)?).ok()?;
    let (b':', d) = rest[PubKey::HEX_LEN..].split_first()? else {
        return None;
    };
    match Class::of(kind) {
        Class::Replaceable if d.is_empty() => Some((kind, pubkey, d)),
        Class::Addressable => Some((kind, pubkey, d)),
        _ => None,
    }
}

fn distinct<T: Ord>(mut values: Vec<T>) -> Vec<T> {
    values.sort_unstable();
    values.dedup();
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_as_nip_01_writes_them() {
        let key = "ab".repeat(32);
        let read = |text: String| {
            parse_address(text.as_bytes()).map(|(kind, _, d)| (kind, String::from_utf8_lossy(d).into_owned()))
        };
        let some = |kind, d: &str| Some((kind, d.to_owned()));
        let cases = [
            (format!("30023:{key}:slug"), some(30023, "slug")),
            (format!("30023:{key}:"), some(30023, "")),
            (format!("30023:{key}:a:b"), some(30023, "a:b")),
            (format!("0:{key}:"), some(0, "")),
            (format!("10002:{key}:"), some(10002, "")),
            (format!("10002:{key}:x"), None),
            (format!("10002:{key}"), None),
            (format!("1:{key}:"), None),
            (format!("5:{key}:"), None),
            (format!("20001:{key}:"), None),
            (format!("030023:{key}:x"), None),
            (format!("+30023:{key}:x"), None),
            (format!("-1:{key}:x"), None),
            (format!("99999:{key}:x"), None),
            (format!(":{key}:x"), None),
            (format!("30023:{}:x", key.to_uppercase()), None),
            (format!("30023:{}:x", &key[1..]), None),
            ("30023".to_owned(), None),
            (String::new(), None),
        ];
        for (text, expected) in cases {
            assert_eq!(read(text.clone()), expected, "{text}");
        }
    }
}
