//! How large an event will be, before it is signed.

use relay_engine::types::{EventId, PubKey, Sig};

use crate::cipher::Cipher;
use crate::identity::Draft;

/// Largest event, in bytes of JSON, that most relays accept: many refuse events over 64 KiB, and they count differently.
pub const COMMON_EVENT_BYTES_MAX: usize = 60 << 10;

/// Bytes of the canonical JSON of the event that `draft` becomes.
pub(super) fn event_bytes(draft: &Draft) -> usize {
    let frame = r#"{"id":"","pubkey":"","created_at":,"kind":,"tags":,"content":,"sig":""}"#.len();
    let hex = EventId::HEX_LEN + PubKey::HEX_LEN + Sig::HEX_LEN;
    let numbers = digits(draft.created_at) + digits(draft.kind.into());
    frame
        + hex
        + numbers
        + list_bytes(draft.tags.iter().map(|tag| tag_bytes(tag)))
        + string_bytes(&draft.content)
}

/// Bytes that these tags add to an event that has others.
pub(super) fn tags_bytes(tags: &[Vec<String>]) -> usize {
    tags.iter().map(|tag| tag_bytes(tag) + 1).sum()
}

fn tag_bytes(tag: &[String]) -> usize {
    list_bytes(tag.iter().map(|field| string_bytes(field)))
}

/// Brackets, items and the commas between them.
fn list_bytes(items: impl Iterator<Item = usize>) -> usize {
    let (count, bytes) = items.fold((0usize, 0), |(count, bytes), item| (count + 1, bytes + item));
    2 + bytes + count.saturating_sub(1)
}

/// Bytes of a text as a JSON string in canonical form.
fn string_bytes(text: &str) -> usize {
    let escaped = text.bytes().map(|byte| match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 0x08 | 0x0c => 2,
        0..0x20 => 6,
        _ => 1,
    });
    2 + escaped.sum::<usize>()
}

fn digits(number: u64) -> usize {
    number.checked_ilog10().unwrap_or(0) as usize + 1
}

/// Bytes of the payload that a text of `bytes` bytes is encrypted to; `None` if not all clients could
/// decrypt it.
pub(super) fn encrypted_bytes(cipher: Cipher, bytes: usize) -> Option<usize> {
    // An empty text is sent as a line feed.
    let bytes = bytes.max(1);
    match cipher {
        Cipher::Nip44 if bytes > NIP44_BYTES_MAX => None,
        Cipher::Nip44 => Some(base64_bytes(1 + 32 + 2 + padded(bytes) + 32)),
        Cipher::Nip04 => Some(base64_bytes((bytes / 16 + 1) * 16) + "?iv=".len() + base64_bytes(16)),
    }
}

/// Longest text that is encrypted by NIP-44, in bytes: not all clients can read its long form, which begins here.
pub(super) const NIP44_BYTES_MAX: usize = 65_535;

/// The length to which NIP-44 pads a text of at least one byte.
fn padded(bytes: usize) -> usize {
    let chunk = match bytes.next_power_of_two() {
        ..=256 => 32,
        power => power / 8,
    };
    bytes.div_ceil(chunk) * chunk
}

fn base64_bytes(bytes: usize) -> usize {
    bytes.div_ceil(3) * 4
}
