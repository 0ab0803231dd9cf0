//! What can be decided about an event before its signature is checked, cheap facts first.

use super::Policy;
use super::auth::AUTH_KIND;
use super::vanish::VANISH_KIND;
use crate::types::{EventId, Kind, Limits, PubKey, Tags, Timestamp, parse_expiration, unescape};

/// Why an event was refused: the words of its OK, with NIP-01's prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// For instance `invalid: too many tags`.
    pub message: String,
    /// Whether authenticating could change it; the client needs a challenge then.
    pub wants_auth: bool,
}

impl Refused {
    fn new(message: impl Into<String>) -> Self {
        Refused { message: message.into(), wants_auth: false }
    }

    fn auth(message: &str) -> Self {
        Refused { message: message.into(), wants_auth: true }
    }
}

/// The facts an event is judged by. Sizes are of the canonical form.
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
}

/// Who brings an event.
#[derive(Clone, Copy, Debug)]
pub enum Standing<'a> {
    /// A connection that has authenticated these keys.
    Client {
        /// Proven by NIP-42.
        keys: &'a [PubKey],
    },
    /// The host, whose own key has signed it: what is for clients does not concern it.
    Host,
}

/// Judges an event.
///
/// # Errors
/// The first rule it breaks, in words.
pub fn admit(
    event: &Candidate<'_>,
    policy: &Policy,
    limits: &Limits,
    standing: Standing<'_>,
    now: Timestamp,
) -> Result<(), Refused> {
    admit_size(event, limits)?;
    admit_time(event, limits, now)?;
    if event.kind == AUTH_KIND {
        return Err(Refused::new("invalid: kind 22242 goes into an AUTH message"));
    }
    if let Standing::Client { keys } = standing {
        if !policy.admin_pubkeys.contains(&event.pubkey) {
            admit_kind_and_author(event, policy)?;
            admit_work(event, limits)?;
        }
        admit_protected(event, keys)?;
    }
    if event.embeds_protected {
        return Err(Refused::new("blocked: a repost may not embed a protected event"));
    }
    Ok(())
}

/// Judges the connection an event comes from, before anything about the event: where NIP-42 is required, not
/// even a known event is acknowledged without it.
///
/// # Errors
/// In words.
pub fn admit_sender(policy: &Policy, keys: &[PubKey]) -> Result<(), Refused> {
    if policy.auth_required && keys.is_empty() {
        return Err(Refused::auth("auth-required: this relay takes events from authenticated clients only"));
    }
    Ok(())
}

fn admit_size(event: &Candidate<'_>, limits: &Limits) -> Result<(), Refused> {
    let bounds = [
        ("tags", event.tag_count, limits.event_tags_max),
        ("characters of content", event.content_chars, limits.content_chars_max),
        ("bytes", event.json_bytes, limits.event_bytes_max),
    ];
    for (what, got, max) in bounds {
        if got > max {
            return Err(Refused::new(format!("invalid: {got} {what} are more than the {max} taken here")));
        }
    }
    Ok(())
}

fn admit_time(event: &Candidate<'_>, limits: &Limits, now: Timestamp) -> Result<(), Refused> {
    if event.created_at > now.saturating_add(limits.created_at_ahead_seconds_max) {
        return Err(Refused::new("invalid: created_at is too far in the future"));
    }
    if limits.created_at_age_seconds_max.is_some_and(|age| event.created_at < now.saturating_sub(age)) {
        return Err(Refused::new("invalid: created_at is too far in the past"));
    }
    if parse_expiration(event.tags).is_some_and(|expires_at| expires_at <= now) {
        return Err(Refused::new("invalid: the event has expired"));
    }
    Ok(())
}

fn admit_kind_and_author(event: &Candidate<'_>, policy: &Policy) -> Result<(), Refused> {
    // NIP-62: whoever may not write here may still vanish.
    if event.kind == VANISH_KIND {
        return Ok(());
    }
    let kind_taken = policy.allow_kinds.as_ref().is_none_or(|kinds| kinds.contains(&event.kind))
        && !policy.deny_kinds.contains(&event.kind);
    if !kind_taken {
        return Err(Refused::new(format!("blocked: kind {} is not taken here", event.kind)));
    }
    if policy.deny_pubkeys.contains(&event.pubkey) {
        return Err(Refused::new("blocked: this author is not welcome here"));
    }
    if policy.allow_pubkeys.as_ref().is_some_and(|authors| !authors.contains(&event.pubkey)) {
        return Err(Refused::new("restricted: this author may not write here"));
    }
    Ok(())
}

/// NIP-13: a committed target below the minimum is refused though luck gave the id more zeros.
fn admit_work(event: &Candidate<'_>, limits: &Limits) -> Result<(), Refused> {
    let min = limits.pow_bits_min;
    if min == 0 {
        return Ok(());
    }
    let bits = event.id.leading_zero_bits();
    if bits < min {
        return Err(Refused::new(format!("pow: difficulty {bits} is less than {min}")));
    }
    let mut nonces = event.tags.named(b"nonce");
    let target = nonces.next().and_then(|tag| tag.fields().nth(2)).and_then(|field| {
        let text = unescape(field);
        std::str::from_utf8(&text).ok()?.parse::<u32>().ok()
    });
    match target {
        None => Err(Refused::new("pow: the nonce tag commits to no target difficulty")),
        Some(target) if target < min => {
            Err(Refused::new(format!("pow: committed target {target} is less than {min}")))
        }
        Some(_) => Ok(()),
    }
}

/// NIP-70: protected events come from their own author.
fn admit_protected(event: &Candidate<'_>, keys: &[PubKey]) -> Result<(), Refused> {
    if is_protected(event.tags) && !keys.contains(&event.pubkey) {
        let message = if keys.is_empty() {
            "auth-required: this event may only be published by its author"
        } else {
            "restricted: this event may only be published by its author"
        };
        return Err(Refused::auth(message));
    }
    Ok(())
}

/// NIP-70: whether there is a `-` tag.
pub fn is_protected(tags: Tags<'_>) -> bool {
    tags.named(b"-").next().is_some()
}
