//! NIP-90 on the wire: reading requests, writing feedback, results and announcements.
//!
//! Everything here is stateless: events in, events out. What becomes of a job is decided by the machine; the rules of the
//! protocol are here.
//!
//! ```text
//! incoming   what an event is to an agent: request, cancellation, ping, request to vanish; whom it names
//! request    job requests, plain and encrypted, as clients really write them (tags, input)
//! reply      to whom an answer goes; feedback and result write them (encrypted, size)
//! announce   kinds 0, 10002, 10050 and 31990, and their retraction; heartbeat: heartbeats and ping replies
//! relays     URLs of relays that customers name
//! ```

mod announce;
mod encrypted;
mod feedback;
mod heartbeat;
mod incoming;
mod input;
mod relays;
mod reply;
mod request;
mod result;
mod size;
mod tags;

use std::ops::RangeInclusive;

use relay_engine::types::Kind;

pub use announce::{announcement_d, announcements, retraction};
pub(crate) use feedback::dated;
pub use feedback::{Feedback, MESSAGE_CHARS_MAX, feedback, has_expired};
pub use heartbeat::{HEARTBEAT_EVERY_SECONDS, HEARTBEAT_EXPIRES_SECONDS, heartbeat, pong};
pub use incoming::{Incoming, cancelled, named_keys};
pub use input::text_of;
pub use relays::{RELAYS_MAX, public_relay, read_relays};
pub use reply::ReplyTo;
pub use request::{
    INPUTS_MAX, PARAMS_BYTES_MAX, PARAMS_MAX, RequestError, is_encrypted, is_same_param, parse,
    parse_undecrypted, parse_with, payload,
};
pub use result::{fits, result};
pub use size::COMMON_EVENT_BYTES_MAX;

/// How events are read, for [`testing`](crate::testing).
#[cfg(feature = "testing")]
pub(crate) mod reading {
    pub(crate) use super::encrypted::decrypt_content;
    pub(crate) use super::request::msat;
    pub(crate) use super::tags::{OwnedTag, content, has, inner, tags};
}

/// Profile (NIP-01).
pub const KIND_PROFILE: Kind = 0;
/// Deletion request (NIP-09): cancels jobs, retracts announcements.
pub const KIND_DELETION: Kind = 5;
/// Request to vanish (NIP-62).
pub const KIND_VANISH: Kind = 62;
/// Job feedback.
pub const KIND_FEEDBACK: Kind = 7000;
/// «Are you there?», answered by feedback with status `pong`. In no NIP.
pub const KIND_PING: Kind = 7007;
/// Relay list (NIP-65).
pub const KIND_RELAYS: Kind = 10_002;
/// Relays for direct messages (NIP-17).
pub const KIND_DM_RELAYS: Kind = 10_050;
/// Heartbeat of an agent (proposed in nostr-protocol/nips#2465); replaceable, so there is one for each key.
pub const KIND_HEARTBEAT: Kind = 11_998;
/// Announcement of an agent (NIP-89).
pub const KIND_ANNOUNCEMENT: Kind = 31_990;

/// Kinds of job requests.
pub const REQUEST_KINDS: RangeInclusive<Kind> = 5_000..=5_999;

/// Whether events of this kind are job requests.
pub const fn is_request(kind: Kind) -> bool {
    *REQUEST_KINDS.start() <= kind && kind <= *REQUEST_KINDS.end()
}

/// Whether events of this kind are job results.
pub const fn is_result(kind: Kind) -> bool {
    matches!(kind, 6000..=6999)
}

/// The kind of the results of requests of `kind`, which must be one of 5000 to 5999.
pub const fn result_kind(kind: Kind) -> Kind {
    kind.saturating_add(1000)
}
