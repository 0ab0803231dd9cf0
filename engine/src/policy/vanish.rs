//! NIP-62: which requests to vanish are meant for this relay.

use super::auth::same_relay;
use crate::types::{Event, Kind};

/// The kind of requests to vanish.
pub const VANISH_KIND: Kind = 62;

/// Whether `event` is a request to vanish from the relay at `relay_url`, or from all relays.
pub fn names_relay(event: &Event, relay_url: Option<&str>) -> bool {
    event.kind == VANISH_KIND
        && event.tags().named(b"relay").filter_map(|tag| tag.value()).any(|value| {
            let value = String::from_utf8_lossy(&value);
            value == "ALL_RELAYS" || relay_url.is_some_and(|relay_url| same_relay(relay_url, &value))
        })
}
