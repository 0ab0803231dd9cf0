//! What an event is to an agent, by its kind and its tags.

use relay_engine::types::{Event, EventId, PubKey};

use super::tags::text;
use super::{KIND_DELETION, KIND_PING, KIND_VANISH, is_request};
use crate::nip57::KIND_ZAP_RECEIPT;

/// What an event is to an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Incoming {
    /// A job request: kinds 5000 to 5999.
    Request,
    /// Its author deletes events (kind 5); jobs among them ([`cancelled`]) are cancelled.
    Cancellation,
    /// Its author wants everything forgotten (kind 62): all jobs that were requested before are cancelled. A relay
    /// only passes on those that name it.
    Vanish,
    /// A ping (kind 7007), to be answered by those that it names.
    Ping,
    /// A zap receipt (kind 9735, NIP-57), which names whom it was paid to.
    ZapReceipt,
    /// None of these.
    Other,
}

impl Incoming {
    /// What `event` is.
    pub fn of(event: &Event) -> Self {
        match event.kind {
            kind if is_request(kind) => Incoming::Request,
            KIND_DELETION => Incoming::Cancellation,
            KIND_VANISH => Incoming::Vanish,
            KIND_PING => Incoming::Ping,
            KIND_ZAP_RECEIPT => Incoming::ZapReceipt,
            _ => Incoming::Other,
        }
    }
}

/// The keys that an event's `p` tags name, in order, once each. A request that names none is an open job. What is not
/// a public key in hexadecimal names nobody.
pub fn named_keys(event: &Event) -> Vec<PubKey> {
    let mut keys: Vec<PubKey> = values(event, b"p").filter_map(|value| value.parse().ok()).collect();
    // First places first, without comparing each with each: an event may have thousands.
    let mut seen = std::collections::HashSet::with_capacity(keys.len());
    keys.retain(|key| seen.insert(*key));
    keys
}

/// The requests that a kind 5 cancels if it and they have the same author: the caller must compare, since anyone can
/// name any request. It may come before the request.
pub fn cancelled(event: &Event) -> impl Iterator<Item = EventId> {
    values(event, b"e").filter_map(|value| value.parse().ok()).filter(|_| event.kind == KIND_DELETION)
}

/// The first values of the tags called `name`, in lowercase.
fn values(event: &Event, name: &'static [u8]) -> impl Iterator<Item = String> {
    event
        .tags()
        .named(name)
        .filter_map(|tag| tag.fields().nth(1).map(text))
        .map(|value| value.trim().to_ascii_lowercase())
}
