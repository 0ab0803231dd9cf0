//! Feedback about a job: kind 7000.

use relay_engine::types::{Event, Timestamp};

use super::KIND_FEEDBACK;
use super::reply::{ReplyTo, tag};
use crate::cipher::CipherError;
use crate::identity::{Draft, Encryption, Sign};

/// Characters of a message to a customer; longer ones are cut.
pub const MESSAGE_CHARS_MAX: usize = 500;
/// Seconds after which feedback expires (NIP-40).
pub(super) const EXPIRES_SECONDS: Timestamp = 600;

/// What feedback says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feedback<'a> {
    /// The job begins when this is paid: millisatoshis, and an invoice for them (BOLT 11). A message.
    PaymentRequired {
        /// The amount.
        msat: u64,
        /// The invoice.
        bolt11: &'a str,
        /// For the customer.
        message: &'a str,
        /// The beginning of the result; empty without. It is the content then.
        sample: &'a str,
    },
    /// The job is accepted. A message, or empty.
    Processing(&'a str),
    /// A partial result. It is the content, and as long as the caller makes it.
    Partial(&'a str),
    /// The job is refused or has failed, with a message.
    Error(&'a str),
}

impl<'a> Feedback<'a> {
    /// The value of the `status` tag.
    pub fn status(self) -> &'static str {
        match self {
            Feedback::PaymentRequired { .. } => "payment-required",
            Feedback::Processing(_) => "processing",
            Feedback::Partial(_) => "partial",
            Feedback::Error(_) => "error",
        }
    }

    /// `["status", status, message]`.
    fn status_tag(self) -> Vec<String> {
        match self {
            Feedback::Processing(message)
            | Feedback::Error(message)
            | Feedback::PaymentRequired { message, .. }
                if !message.is_empty() =>
            {
                tag(["status", self.status(), &cut(message)])
            }
            _ => tag(["status", self.status()]),
        }
    }

    /// `["amount", msat, bolt11]`, if something is to be paid.
    fn amount_tag(self) -> Option<Vec<String>> {
        match self {
            Feedback::PaymentRequired { msat, bolt11, .. } => {
                Some(tag(["amount", &msat.to_string(), bolt11]))
            }
            Feedback::Processing(_) | Feedback::Partial(_) | Feedback::Error(_) => None,
        }
    }

    /// Its text.
    pub fn text(self) -> &'a str {
        match self {
            Feedback::Processing(text) | Feedback::Partial(text) | Feedback::Error(text) => text,
            Feedback::PaymentRequired { message, sample: "", .. } => message,
            Feedback::PaymentRequired { sample, .. } => sample,
        }
    }

    fn content(self) -> String {
        match self {
            Feedback::PaymentRequired { message, sample: "", .. } => cut(message),
            Feedback::PaymentRequired { sample, .. } => sample.to_owned(),
            Feedback::Processing(_) => String::new(),
            Feedback::Partial(partial) => partial.to_owned(),
            Feedback::Error(message) => cut(message),
        }
    }
}

fn cut(message: &str) -> String {
    message.chars().take(MESSAGE_CHARS_MAX).collect()
}

/// Feedback about a job. It expires after 600 seconds. Within a job, `created_at` must rise strictly, and none follows the result.
/// `nonce` must be random and used once; a plain reply needs none.
///
/// # Errors
/// [`CipherError::Length`] if the text is too long for the cipher.
pub fn feedback(
    author: &impl Sign,
    to: &ReplyTo<'_>,
    feedback: Feedback<'_>,
    created_at: Timestamp,
    nonce: [u8; 32],
) -> Result<Event, CipherError> {
    let (status, amount, content) = (feedback.status_tag(), feedback.amount_tag(), feedback.content());
    let expiration = expiration(created_at);
    let draft = |tags, content| Draft { created_at, kind: KIND_FEEDBACK, tags, content };
    match to.cipher {
        None => {
            let alt = format!("Feedback on a job request of kind {}: {}", to.kind, feedback.status());
            let mut tags = vec![status];
            tags.extend(amount);
            tags.extend([to.e(), to.p(), tag(["alt", &alt]), expiration]);
            Ok(author.sign(&draft(tags, content)))
        }
        Some(cipher) => {
            let mut hidden = vec![status];
            hidden.extend(amount);
            hidden.push(tag(["content", &content]));
            let hidden = serde_json::json!(hidden).to_string();
            let tags = vec![to.e(), to.p(), tag(["encrypted"]), expiration];
            author.sign_encrypted(draft(tags, hidden), &Encryption { cipher, peer: to.customer, nonce })
        }
    }
}

/// Whether feedback has expired: it was made too long ago to be of use, and relays refuse it.
pub fn has_expired(event: &Event, now: Timestamp) -> bool {
    event.kind == KIND_FEEDBACK && event.created_at.saturating_add(EXPIRES_SECONDS) <= now
}

/// The draft of feedback that says the same, at another time.
pub(crate) fn dated(event: &Event, created_at: Timestamp) -> Draft {
    let mut draft = Draft { created_at, ..Draft::of(event) };
    draft.tags.retain(|tag| tag.first().is_none_or(|name| name != "expiration"));
    draft.tags.push(expiration(created_at));
    draft
}

/// `["expiration", …]` of feedback made at `created_at`.
pub(super) fn expiration(created_at: Timestamp) -> Vec<String> {
    tag(["expiration", &created_at.saturating_add(EXPIRES_SECONDS).to_string()])
}
