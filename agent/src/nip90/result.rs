//! Results of jobs: kinds 6000 to 6999.

use relay_engine::types::{Event, Limits, Timestamp};

use super::reply::{ReplyTo, tag};
use super::result_kind;
use super::size::{COMMON_EVENT_BYTES_MAX, NIP44_BYTES_MAX, encrypted_bytes, event_bytes, tags_bytes};
use super::tags::tags;
use crate::cipher::{Cipher, CipherError};
use crate::identity::{Draft, Encryption, Sign};

/// Largest value of a one-letter tag, in bytes, that relays in general take.
const VALUE_BYTES_MAX: usize = 1_024;

/// A time with as many digits as all until 2286.
const TEN_DIGITS: Timestamp = 9_999_999_999;

/// The result of a job. It does not expire, since later jobs may be chained to it. `request` is the event as it came, encrypted
/// if it was. Within a job, `created_at` must be the highest. `nonce` must be random and used once; a plain result needs none.
///
/// `request` is left out if the event would pass [`COMMON_EVENT_BYTES_MAX`], or what its author can sign, then the inputs; an input with a value over
/// 1,024 bytes is left out always. So one event suits all relays, if the content does: ask [`fits`] first.
///
/// # Errors
/// [`CipherError::Length`] if the text is too long for the cipher; [`fits`] refuses it before.
pub fn result(
    author: &impl Sign,
    to: &ReplyTo<'_>,
    request: &Event,
    content: &str,
    created_at: Timestamp,
    nonce: [u8; 32],
) -> Result<Event, CipherError> {
    let request_tag = tag(["request", &String::from_utf8_lossy(request.json())]);
    let inputs = match to.cipher {
        None => inputs(request),
        Some(_) => Vec::new(),
    };
    // NIP-44 has no empty text: an empty one is sent as a line feed.
    let is_empty = to.cipher.is_some() && content.is_empty();
    let mut draft = bare(to, created_at, if is_empty { "\n" } else { content }.to_owned());
    let bytes_max = COMMON_EVENT_BYTES_MAX.min(author.event_bytes_max());
    let mut room = bytes_max.saturating_sub(match to.cipher {
        None => event_bytes(&draft),
        Some(cipher) => encrypted_event_bytes(to, created_at, cipher, content.len()).unwrap_or(bytes_max),
    });
    // Inputs stand after `e`, and `request` before it.
    for (at, more) in [(1, inputs), (0, vec![request_tag])] {
        let bytes = tags_bytes(&more);
        if bytes <= room {
            room -= bytes;
            draft.tags.splice(at..at, more);
        }
    }
    match to.cipher {
        None => Ok(author.sign(&draft)),
        Some(cipher) => author.sign_encrypted(draft, &Encryption { cipher, peer: to.customer, nonce }),
    }
}

/// Bytes of the event of a bare result whose encrypted text has `bytes` bytes.
fn encrypted_event_bytes(
    to: &ReplyTo<'_>,
    created_at: Timestamp,
    cipher: Cipher,
    bytes: usize,
) -> Option<usize> {
    // Base64 has nothing to escape.
    Some(event_bytes(&bare(to, created_at, String::new())) + encrypted_bytes(cipher, bytes)?)
}

/// A result without what may be left out.
fn bare(to: &ReplyTo<'_>, created_at: Timestamp, content: String) -> Draft {
    let mut tags = vec![to.e(), to.p()];
    if to.cipher.is_some() {
        tags.push(tag(["encrypted"]));
    }
    tags.push(tag(["status", "success"]));
    if to.cipher.is_none() {
        tags.push(tag(["alt", &format!("Result of a job request of kind {}", to.kind)]));
    }
    Draft { created_at, kind: result_kind(to.kind), tags, content }
}

/// The inputs of a request, as they were written, without those that relays would refuse.
fn inputs(request: &Event) -> Vec<Vec<String>> {
    let mut inputs = tags(request, |name| name == b"i");
    inputs.retain(|tag| tag.len() > 1 && tag.iter().all(|value| value.len() <= VALUE_BYTES_MAX));
    inputs
}

/// Whether a result of this content can be published on a relay with these limits.
///
/// # Errors
/// With a message for the customer.
pub fn fits(to: &ReplyTo<'_>, content: &str, limits: &Limits) -> Result<(), String> {
    let bytes = content.len();
    let content_chars = match to.cipher {
        None => content.chars().count(),
        Some(cipher) => encrypted_bytes(cipher, bytes).ok_or_else(|| {
            format!("the result has {bytes} bytes, and an encrypted one {NIP44_BYTES_MAX} at most")
        })?,
    };
    let encrypted = match to.cipher {
        None => content.to_owned(),
        // Only its length counts: base64 has nothing to escape.
        Some(_) => "=".repeat(content_chars),
    };
    let event_bytes = event_bytes(&bare(to, TEN_DIGITS, encrypted));
    if content_chars > limits.content_chars_max {
        return Err(format!(
            "the result has {content_chars} characters, and {} at most fit",
            limits.content_chars_max
        ));
    }
    if event_bytes > limits.event_bytes_max {
        return Err(format!(
            "the result's event has {event_bytes} bytes, and {} at most fit",
            limits.event_bytes_max
        ));
    }
    Ok(())
}
