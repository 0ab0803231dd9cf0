//! Results of jobs: kinds 6000 to 6999.

use relay_engine::types::{Event, Limits, Timestamp};

use super::encrypted::seal;
use super::reply::{ReplyTo, tag};
use super::result_kind;
use super::size::{NIP44_BYTES_MAX, SHARED_EVENT_BYTES_MAX, event_bytes, sealed_bytes, tags_bytes};
use super::tags::tags;
use crate::cipher::CipherError;
use crate::identity::{Draft, Keys};

/// Largest value of a one-letter tag, in bytes, that relays in general take.
const VALUE_BYTES_MAX: usize = 1_024;

/// A time with as many digits as all until 2286.
const TEN_DIGITS: Timestamp = 9_999_999_999;

/// The result of a job. It does not expire, since later jobs may be chained to it. `request` is the event as it came, encrypted
/// if it was. Within a job, `created_at` must be the highest. `nonce` must be random and used once; a plain result needs none.
///
/// `request` is left out if the event would pass [`SHARED_EVENT_BYTES_MAX`], then the inputs; an input with a value over
/// 1,024 bytes is left out always. So one event suits all relays, if the content does: ask [`fits`] first.
///
/// # Errors
/// [`CipherError::Length`] if the text is too long for the cipher; [`fits`] refuses it before.
pub fn result(
    keys: &Keys,
    to: &ReplyTo<'_>,
    request: &Event,
    content: &str,
    created_at: Timestamp,
    nonce: [u8; 32],
) -> Result<Event, CipherError> {
    let content = match to.cipher {
        None => content.to_owned(),
        Some(cipher) => seal(cipher, keys, &to.customer, content, nonce)?,
    };
    let request_tag = tag(["request", &String::from_utf8_lossy(request.json())]);
    let inputs = match to.cipher {
        None => inputs(request),
        Some(_) => Vec::new(),
    };
    let mut draft = bare(to, created_at, content);
    let mut room = SHARED_EVENT_BYTES_MAX.saturating_sub(event_bytes(&draft));
    // Inputs stand after `e`, and `request` before it.
    for (at, more) in [(1, inputs), (0, vec![request_tag])] {
        let bytes = tags_bytes(&more);
        if bytes <= room {
            room -= bytes;
            draft.tags.splice(at..at, more);
        }
    }
    Ok(keys.sign(&draft))
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
/// Words for the customer.
pub fn fits(to: &ReplyTo<'_>, content: &str, limits: &Limits) -> Result<(), String> {
    let bytes = content.len();
    let content_chars = match to.cipher {
        None => content.chars().count(),
        Some(cipher) => sealed_bytes(cipher, bytes).ok_or_else(|| {
            format!("the result has {bytes} bytes, and an encrypted one {NIP44_BYTES_MAX} at most")
        })?,
    };
    let sealed = match to.cipher {
        None => content.to_owned(),
        // Only its length counts: base64 has nothing to escape.
        Some(_) => "=".repeat(content_chars),
    };
    let event_bytes = event_bytes(&bare(to, TEN_DIGITS, sealed));
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
