//! The text of every OK, CLOSED, NEG-ERR, NOTICE and close frame, each refusal with
//! its machine-readable prefix (NIPs 1 and 42). Only what is wrong with the form of a message is worded where it is
//! found, in [`crate::wire::WireErrorKind`].
//!
//! Clients show them to their users as they are. So they are about the event, the request or the relay, never about
//! byte offsets of a message or parts of this program.
//!
//! | prefix | for |
//! |---|---|
//! | `invalid` | what no relay with these bounds would take from any client; sending it again is of no use |
//! | `blocked` | what this relay does not want, from this author or of this kind, or has no room for |
//! | `restricted`, `auth-required` | what others may do, or this client once it has authenticated (NIP-42) |
//! | `duplicate` | success: the event is stored already |
//! | `unsupported` | what another relay may understand |
//! | `closed` | a reconciliation that is not open any more (NIP-77) |
//! | `rate-limited`, `pow`, `error` | as NIP-01 has them |

use super::publish::PublishOutcome;
use crate::policy::{AdmissionError, AuthError};
use crate::store::{Refusal, StoreError};
use crate::wire::WireError;

pub(super) const DUPLICATE: &str = "duplicate: already have this event";
pub(super) const WRONG_ID: &str = "invalid: the id is not the hash of the event";
pub(super) const WRONG_SIGNATURE: &str = "invalid: the signature is not the author's";
pub(super) const VANISH_ELSEWHERE: &str = "invalid: this request to vanish does not name this relay";
pub(super) const TOO_MANY_EVENTS: &str = "rate-limited: too many events per minute";
pub(super) const TOO_MANY_REQUESTS: &str = "rate-limited: too many requests per minute";
pub(super) const TOO_MANY_EVENTS_OF_ADDRESS: &str =
    "rate-limited: too many events per minute from your address";
pub(super) const TOO_MUCH_FANOUT_OF_ADDRESS: &str =
    "rate-limited: the events from your address reach too many subscriptions per minute";
pub(super) const TOO_MANY_REQUESTS_OF_ADDRESS: &str =
    "rate-limited: too many requests per minute from your address";
pub(super) const TOO_MANY_COUNTS: &str = "rate-limited: too many counts at once";
pub(super) const AUTHENTICATED_ONLY: &str = "auth-required: this relay serves authenticated clients only";
pub(super) const PARTIES_ONLY: &str =
    "auth-required: private messages are sent to their author and recipients only";
pub(super) const NOT_A_PARTY: &str =
    "restricted: private messages are sent to their author and recipients only";
pub(super) const BINARY: &str = "invalid: messages are text, not binary";
pub(super) const NOT_UTF8: &str = "invalid: the message is not UTF-8";
pub(super) const NO_SUCH_RECONCILIATION: &str = "closed: no reconciliation of this id is open; open it again";
pub(super) const RECONCILIATION_IDLE: &str =
    "closed: you took too long to respond, and memory was needed; open it again";
pub(super) const NOT_ANSWERED_YET: &str = "invalid: NEG-MSG came before the previous message was answered";
pub(super) const MALFORMED_NEGENTROPY: &str = "invalid: this is not a message of the Negentropy protocol";
pub(super) const TOO_MANY_RANGES: &str = "blocked: the message asks about too many ranges at once";

/// Reasons of close frames, without a prefix; RFC 6455 leaves them 123 bytes.
pub(super) const READS_TOO_SLOWLY: &str = "the client reads too slowly";
pub(super) const ABUSE: &str = "too many malformed messages in a row";

/// Of a message that could not be read.
pub(super) fn malformed(error: &WireError) -> String {
    format!("{}: {}", error.prefix(), error.kind)
}

/// Of a store that failed. Its details are the operator's ([`Output::StoreFailed`](super::Output)), not the client's.
pub(super) fn store(error: &StoreError) -> &'static str {
    match error {
        StoreError::Full(_) => "error: no space left",
        StoreError::Failed(_) | StoreError::Corrupt(_) => "error: storage failed",
    }
}

/// Whether an event is accepted, and the message of its OK.
pub(super) fn ok_message(outcome: &PublishOutcome) -> (bool, &str) {
    match outcome {
        PublishOutcome::Stored(_) | PublishOutcome::Delivered => (true, ""),
        PublishOutcome::Duplicate => (true, DUPLICATE),
        PublishOutcome::Superseded => (false, refusal(Refusal::Superseded)),
        PublishOutcome::Forged(message)
        | PublishOutcome::Refused(message)
        | PublishOutcome::Failed(message) => (false, message),
    }
}

/// An event that the store does not take.
pub(super) fn refusal(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::Deleted => "blocked: this event was deleted by its author or recipient",
        Refusal::Vanished => "blocked: the author or recipient of this event asked to vanish",
        // Not `duplicate`, which clients take for success: this version is nowhere. Not `blocked`, which speaks of who
        // asks. As with NIP-01's «event creation date is too far off», its time is what is wrong with it.
        Refusal::Superseded => "invalid: a newer version of this event is stored already",
        // The machine passes ephemeral events on before a commit; other callers may not know better.
        Refusal::Ephemeral => "error: ephemeral events are not stored",
        Refusal::Expired => "invalid: the event has expired",
    }
}

/// An event that policy refuses.
pub(super) fn admission_error(error: &AdmissionError) -> String {
    match error {
        AdmissionError::Unauthenticated => {
            "auth-required: this relay takes events from authenticated clients only".to_owned()
        }
        AdmissionError::Tags { count, max } => {
            format!("invalid: the event has {count} tags, this relay takes up to {max}")
        }
        AdmissionError::Content { chars, max } => {
            format!("invalid: the content has {chars} characters, this relay takes up to {max}")
        }
        AdmissionError::Bytes { bytes, max } => {
            format!("invalid: the event has {bytes} bytes, this relay takes up to {max}")
        }
        AdmissionError::TooNew => "invalid: created_at is too far in the future".to_owned(),
        AdmissionError::TooOld => "invalid: created_at is too far in the past".to_owned(),
        AdmissionError::Expired => refusal(Refusal::Expired).to_owned(),
        AdmissionError::AuthEvent => {
            "invalid: events of kind 22242 are accepted in AUTH messages only".to_owned()
        }
        AdmissionError::Kind(kind) => format!("blocked: this relay does not take events of kind {kind}"),
        AdmissionError::DeniedAuthor => "blocked: this relay does not take events of this author".to_owned(),
        AdmissionError::AuthorNotAllowed => "restricted: this author may not write to this relay".to_owned(),
        AdmissionError::NotAMember { payments_url: Some(url) } => {
            format!("restricted: this relay takes events of its members: pay the admission fee at {url}")
        }
        AdmissionError::NotAMember { payments_url: None } => {
            "restricted: this relay takes events of its members".to_owned()
        }
        AdmissionError::ProofOfWork { bits, min } => format!("pow: difficulty {bits} is less than {min}"),
        AdmissionError::CommittedProofOfWork { target, min } => {
            format!("pow: committed target {target} is less than {min}")
        }
        AdmissionError::UncommittedProofOfWork => {
            "pow: a nonce tag must commit to a target difficulty".to_owned()
        }
        AdmissionError::Protected { is_authenticated: false } => {
            "auth-required: this event may only be published by its author".to_owned()
        }
        AdmissionError::Protected { is_authenticated: true } => {
            "restricted: this event may only be published by its author".to_owned()
        }
        AdmissionError::EmbedsProtected => "blocked: a repost may not embed a protected event".to_owned(),
    }
}

/// An AUTH event that is refused before its id and signature are checked.
pub(super) fn auth_error(error: AuthError) -> &'static str {
    match error {
        AuthError::Kind => "invalid: an AUTH event is of kind 22242",
        AuthError::Time => "invalid: created_at is too far from the current time",
        AuthError::Challenge => "invalid: the challenge is not the one that this connection was sent",
        AuthError::Relay => "invalid: the relay tag does not name this relay",
        AuthError::Keys => "restricted: too many keys on one connection",
    }
}

pub(super) fn too_many_subscriptions(count: usize) -> String {
    format!("blocked: too many subscriptions on this connection: {count} are open")
}

pub(super) fn too_many_reconciliations(count: usize) -> String {
    format!("blocked: too many reconciliations on this connection: {count} are open")
}

pub(super) fn too_many_to_reconcile(max: usize) -> String {
    format!("blocked: this query matches more than {max} events")
}

pub(super) fn too_many_values(max: usize) -> String {
    format!(
        "blocked: too many filter values in the open subscriptions of this connection (limit {max}); close some"
    )
}

pub(super) fn too_busy(free: usize) -> String {
    match free {
        0 => "blocked: this relay is busy; try again later".to_owned(),
        _ => format!(
            "blocked: this relay is busy; for now, a request may name up to {free} ids, authors, kinds and tag values together"
        ),
    }
}

pub(super) fn ephemeral_missed(count: u64) -> String {
    format!("error: {count} ephemeral events were not sent, because the connection was too slow")
}
