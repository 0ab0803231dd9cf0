//! Feedback and results, as customers read them: the oracle of what an agent writes.

use relay_engine::types::{Event, EventId};

use crate::identity::Keys;
use crate::nip90::reading::{OwnedTag, content, decrypt_content, has, inner, msat, tags};
use crate::nip90::{KIND_FEEDBACK, is_result};

/// The status of a job, as others write it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// `payment-required`, or `payment_required` as NDK writes it.
    PaymentRequired,
    /// `processing`; also `scheduled` and `chain-scheduled`: it will be done.
    Processing,
    /// `partial`.
    Partial,
    /// `success`; also a result without a status.
    Success,
    /// `error`; also `payment-rejected`.
    Error,
    /// `pong`.
    Pong,
    /// Any other, such as `subscription-required`: of no effect on a job.
    Other(String),
}

impl Status {
    /// Reads the value of a `status` tag.
    pub fn read(value: &str) -> Self {
        match value {
            "payment-required" | "payment_required" => Status::PaymentRequired,
            "processing" | "scheduled" | "chain-scheduled" => Status::Processing,
            "partial" => Status::Partial,
            "success" => Status::Success,
            "error" | "payment-rejected" => Status::Error,
            "pong" => Status::Pong,
            other => Status::Other(other.to_owned()),
        }
    }
}

/// Feedback (kind 7000) or a result (kinds 6000 to 6999).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobAnswer {
    /// The request that it is about: its first `e`.
    pub request: Option<EventId>,
    /// What has become of the job.
    pub status: Status,
    /// A message about the status.
    pub message: Option<String>,
    /// The result, a part of it, or a message.
    pub content: String,
    /// What is asked for, in millisatoshis.
    pub amount_msat: Option<u64>,
    /// The invoice for it. Lightning addresses that stand in its place are none.
    pub bolt11: Option<String>,
}

/// Why an answer cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JobAnswerError {
    /// It is neither feedback nor a result.
    Kind,
    /// It is encrypted, and not for this key, or damaged.
    Encrypted,
}

/// Reads an answer. Encrypted ones can only be read with the keys of the customer: of a result the content is encrypted, of feedback the
/// tags, which may also be one bare tag.
///
/// # Errors
/// [`JobAnswerError`].
pub fn read_answer(event: &Event, keys: &Keys) -> Result<JobAnswer, JobAnswerError> {
    let is_feedback = event.kind == KIND_FEEDBACK;
    if !is_feedback && !is_result(event.kind) {
        return Err(JobAnswerError::Kind);
    }
    let mut tags = tags(event, |name| matches!(name, b"e" | b"status" | b"amount"));
    let mut text = content(event);
    if has(event, b"encrypted") {
        text = decrypt_content(event, &event.pubkey, keys).map_err(|_| JobAnswerError::Encrypted)?.1;
        if is_feedback {
            let hidden = inner(&text).map_err(|_| JobAnswerError::Encrypted)?;
            text = value(&hidden, "content", 1).unwrap_or_default().to_owned();
            // Hidden tags come first, so that they are found first.
            tags.splice(0..0, hidden);
        }
    }
    let status = value(&tags, "status", 1).map(Status::read);
    Ok(JobAnswer {
        request: value(&tags, "e", 1).and_then(|id| id.parse().ok()),
        status: status.unwrap_or(if is_feedback { Status::Other(String::new()) } else { Status::Success }),
        message: value(&tags, "status", 2).map(str::to_owned),
        content: text,
        amount_msat: value(&tags, "amount", 1).and_then(msat),
        bolt11: value(&tags, "amount", 2).filter(|text| is_bolt11(text)).map(str::to_owned),
    })
}

/// A value of the first tag of this name, if it is not empty.
fn value<'a>(tags: &'a [OwnedTag], name: &str, at: usize) -> Option<&'a str> {
    let tag = tags.iter().find(|tag| tag.first().is_some_and(|first| first == name))?;
    tag.get(at).map(String::as_str).filter(|value| !value.is_empty())
}

/// Whether a text looks like a BOLT 11 invoice: its prefix, its separator, and no other characters than bech32 has.
fn is_bolt11(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    let Some((prefix, data)) = text.rsplit_once('1') else {
        return false;
    };
    prefix.starts_with("ln")
        && prefix.bytes().all(|byte| byte.is_ascii_alphanumeric())
        && data.len() > 6
        && data.bytes().all(|byte| byte.is_ascii_alphanumeric())
}
