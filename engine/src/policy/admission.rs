//! Admission: the rules that an event must meet before its signature is checked, cheapest first.

use super::Policy;
use super::auth::AUTH_KIND;
use super::vanish::VANISH_KIND;
use crate::types::{EventId, Kind, Limits, PubKey, Tags, Timestamp, parse_expiration, unescape};

/// The first rule that an event breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "what was found, and the bound it breaks")]
pub enum AdmissionError {
    /// NIP-42: the relay serves authenticated clients only.
    Unauthenticated,
    /// Too many tags.
    Tags { count: usize, max: usize },
    /// Too much content.
    Content { chars: usize, max: usize },
    /// Too long as JSON.
    Bytes { bytes: usize, max: usize },
    /// `created_at` is too far ahead.
    TooNew,
    /// `created_at` is too far back.
    TooOld,
    /// NIP-40.
    Expired,
    /// NIP-42: an AUTH event as an EVENT.
    AuthEvent,
    /// The relay's configuration does not allow the kind.
    Kind(Kind),
    /// The author is in `deny_pubkeys`.
    DeniedAuthor,
    /// There is an `allow_pubkeys`, and the author is not in it.
    AuthorNotAllowed,
    /// The relay takes events of members (NIP-43), and the author is none.
    NotAMember { payments_url: Option<String> },
    /// NIP-13: the id has too few leading zero bits.
    ProofOfWork { bits: u32, min: u32 },
    /// NIP-13: the `nonce` tag commits to less.
    CommittedProofOfWork { target: u32, min: u32 },
    /// NIP-13: the `nonce` tag commits to nothing.
    UncommittedProofOfWork,
    /// NIP-70: not from its author.
    Protected { is_authenticated: bool },
    /// NIP-70: a repost of a protected event.
    EmbedsProtected,
}

impl AdmissionError {
    /// Whether authenticating could change it; the client needs a challenge then.
    pub fn wants_auth(&self) -> bool {
        matches!(self, AdmissionError::Unauthenticated | AdmissionError::Protected { .. })
    }
}

/// What admission checks of an event. Sizes are of the canonical JSON.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// Its id, as claimed.
    pub id: EventId,
    /// Its author, as claimed.
    pub pubkey: PubKey,
    /// Its time.
    pub created_at: Timestamp,
    /// Its kind.
    pub kind: Kind,
    /// Its tags.
    pub tags: Tags<'a>,
    /// How many tags.
    pub tag_count: usize,
    /// Whether it is a repost whose content is a protected event.
    pub embeds_protected: bool,
    /// Characters of its content.
    pub content_chars: usize,
    /// Bytes of its JSON.
    pub json_bytes: usize,
    /// What [`Admission::admits`](super::Admission::admits) says. Of no meaning for the host's own events and without an admission.
    pub is_of_member: bool,
}

/// The publisher of an event.
#[derive(Clone, Copy, Debug)]
pub enum Publisher<'a> {
    /// A connection that has authenticated these keys.
    Client {
        /// Proven by NIP-42.
        keys: &'a [PubKey],
    },
    /// The host, whose own key has signed it: rules that are for clients do not apply.
    Host,
}

/// Whether the relay takes an event, as far as is known before its signature is checked.
///
/// # Errors
/// The first rule it breaks.
pub fn admit(
    event: &Candidate<'_>,
    policy: &Policy,
    limits: &Limits,
    publisher: Publisher<'_>,
    now: Timestamp,
) -> Result<(), AdmissionError> {
    admit_size(event, limits)?;
    admit_time(event, limits, now)?;
    if event.kind == AUTH_KIND {
        return Err(AdmissionError::AuthEvent);
    }
    if let Publisher::Client { keys } = publisher {
        if !policy.admin_pubkeys.contains(&event.pubkey) {
            admit_kind_and_author(event, policy)?;
            admit_proof_of_work(event, policy, limits)?;
        }
        admit_protected(event, keys)?;
    }
    if event.embeds_protected {
        return Err(AdmissionError::EmbedsProtected);
    }
    Ok(())
}

/// Whether a connection may publish at all. Checked before anything about the event: where NIP-42 is required, an
/// unauthenticated client does not even learn that an event is a duplicate.
///
/// # Errors
/// [`AdmissionError::Unauthenticated`].
pub fn admit_sender(policy: &Policy, keys: &[PubKey]) -> Result<(), AdmissionError> {
    if policy.auth_required && keys.is_empty() {
        return Err(AdmissionError::Unauthenticated);
    }
    Ok(())
}

fn admit_size(event: &Candidate<'_>, limits: &Limits) -> Result<(), AdmissionError> {
    let (count, chars, bytes) = (event.tag_count, event.content_chars, event.json_bytes);
    let tags_max = limits.tags_max_of(event.kind);
    if count > tags_max {
        return Err(AdmissionError::Tags { count, max: tags_max });
    }
    if chars > limits.content_chars_max {
        return Err(AdmissionError::Content { chars, max: limits.content_chars_max });
    }
    if bytes > limits.event_bytes_max {
        return Err(AdmissionError::Bytes { bytes, max: limits.event_bytes_max });
    }
    Ok(())
}

fn admit_time(event: &Candidate<'_>, limits: &Limits, now: Timestamp) -> Result<(), AdmissionError> {
    if event.created_at > now.saturating_add(limits.created_at_ahead_seconds_max) {
        return Err(AdmissionError::TooNew);
    }
    if limits.created_at_age_seconds_max.is_some_and(|age| event.created_at < now.saturating_sub(age)) {
        return Err(AdmissionError::TooOld);
    }
    if parse_expiration(event.tags).is_some_and(|expires_at| expires_at <= now) {
        return Err(AdmissionError::Expired);
    }
    Ok(())
}

fn admit_kind_and_author(event: &Candidate<'_>, policy: &Policy) -> Result<(), AdmissionError> {
    // NIP-62: an author who may not write here may still vanish.
    if event.kind == VANISH_KIND {
        return Ok(());
    }
    let kind_taken = policy.allow_kinds.as_ref().is_none_or(|kinds| kinds.contains(&event.kind))
        && !policy.deny_kinds.contains(&event.kind);
    if !kind_taken {
        return Err(AdmissionError::Kind(event.kind));
    }
    if policy.deny_pubkeys.contains(&event.pubkey) {
        return Err(AdmissionError::DeniedAuthor);
    }
    let is_listed = policy.allow_pubkeys.as_ref().map(|authors| authors.contains(&event.pubkey));
    match (&policy.admission, is_listed) {
        (_, Some(true)) | (None, None) => Ok(()),
        (Some(_), _) if event.is_of_member => Ok(()),
        (Some(admission), _) => {
            Err(AdmissionError::NotAMember { payments_url: admission.payments_url.clone() })
        }
        (None, Some(false)) => Err(AdmissionError::AuthorNotAllowed),
    }
}

/// NIP-13: an event that commits to a target below the minimum is refused though luck gave the id more zeros («if you
/// require 40 bits … and see a committed target of 30, you can safely reject it»); one that commits to none only if
/// that is required, since the tag only SHOULD have one. A target that is not a number counts as none.
fn admit_proof_of_work(
    event: &Candidate<'_>,
    policy: &Policy,
    limits: &Limits,
) -> Result<(), AdmissionError> {
    let min = limits.pow_bits_min;
    if min == 0 {
        return Ok(());
    }
    let bits = event.id.leading_zero_bits();
    if bits < min {
        return Err(AdmissionError::ProofOfWork { bits, min });
    }
    let mut nonces = event.tags.named(b"nonce");
    let target = nonces.next().and_then(|tag| tag.fields().nth(2)).and_then(|field| {
        let text = unescape(field);
        std::str::from_utf8(&text).ok()?.parse::<u32>().ok()
    });
    match target {
        None if policy.pow_commitment_required => Err(AdmissionError::UncommittedProofOfWork),
        Some(target) if target < min => Err(AdmissionError::CommittedProofOfWork { target, min }),
        None | Some(_) => Ok(()),
    }
}

/// NIP-70: protected events come from their own author.
fn admit_protected(event: &Candidate<'_>, keys: &[PubKey]) -> Result<(), AdmissionError> {
    if is_protected(event.tags) && !keys.contains(&event.pubkey) {
        return Err(AdmissionError::Protected { is_authenticated: !keys.is_empty() });
    }
    Ok(())
}

/// NIP-70: whether there is a `-` tag.
pub fn is_protected(tags: Tags<'_>) -> bool {
    tags.named(b"-").next().is_some()
}
