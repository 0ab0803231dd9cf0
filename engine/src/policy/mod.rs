//! Who may do what: admission of events, NIP-42 authentication, the read guard, and rates and connections by client address.
//!
//! Pure decisions over facts. Nothing here keeps state of a connection except the small values it owns
//! ([`Auth`], [`Bucket`]), and nothing here writes a frame.

mod address_connections;
mod address_rates;
mod admission;
mod auth;
mod guard;
mod members;
mod rate;
mod vanish;

pub use address_connections::AddressConnections;
pub use address_rates::AddressRates;
pub use admission::{AdmissionError, Candidate, Publisher, admit, admit_sender, is_protected};
pub use auth::{Auth, AuthError, is_relay_url, same_relay};
pub use guard::{Access, access, may_match_withheld, may_see};
pub use members::{Admission, Members};
pub use rate::Bucket;
pub use vanish::{VANISH_KIND, names_relay};

use crate::types::{Kind, PubKey};

/// The rules an operator sets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Whether a connection must authenticate (NIP-42) before it may do anything else.
    pub auth_required: bool,
    /// Whether the challenge (NIP-42) is sent when a client connects (as always with `auth_required`) instead of with the
    /// first refusal that AUTH can change. Off, because some clients in use then prompt their user without need, or
    /// wait for a signer that they do not have: @welshman/net 0.8 processes no EOSE meanwhile.
    pub challenge_on_connect: bool,
    /// Kinds served only to an authenticated party of the event: its author or a key in its `p` tags. NIP-17 recommends it
    /// for gift wraps; add 4 to guard the old direct messages too.
    pub guarded_kinds: Vec<Kind>,
    /// Authors who may always write: the lists below and proof of work do not apply to them.
    pub admin_pubkeys: Vec<PubKey>,
    /// If set, only these authors' events are taken.
    pub allow_pubkeys: Option<Vec<PubKey>>,
    /// If set, only events of members are taken, and of `allow_pubkeys`.
    pub admission: Option<Admission>,
    /// Authors whose events are refused.
    pub deny_pubkeys: Vec<PubKey>,
    /// If set, only events of these kinds are taken.
    pub allow_kinds: Option<Vec<Kind>>,
    /// Kinds of which events are refused.
    pub deny_kinds: Vec<Kind>,
    /// Whether an event must commit to a target difficulty in its `nonce` tag where `pow_bits_min` asks for work: NIP-13
    /// leaves that to the miner. A target below the minimum is refused either way.
    pub pow_commitment_required: bool,
    /// Whether EOSE says if there is more (NIP-67). Off, because clients in use reject an EOSE of three elements and
    /// wait for ever: nostr-fetch 0.17, Nostrify 0.54, nostr-relaypool 0.6.
    pub eose_hints: bool,
}

impl Default for Policy {
    fn default() -> Self {
        Policy {
            auth_required: false,
            challenge_on_connect: false,
            guarded_kinds: vec![1059, 21059],
            admin_pubkeys: Vec::new(),
            allow_pubkeys: None,
            admission: None,
            deny_pubkeys: Vec::new(),
            allow_kinds: None,
            deny_kinds: Vec::new(),
            pow_commitment_required: false,
            eose_hints: false,
        }
    }
}
