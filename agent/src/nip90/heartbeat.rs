//! Heartbeats (kind 11998) and replies to pings.

use relay_engine::types::{Event, Timestamp};

use super::announce::announcement_d;
use super::feedback::expiration;
use super::reply::{ReplyTo, tag};
use super::{KIND_FEEDBACK, KIND_HEARTBEAT};
use crate::identity::{Draft, Sign};

/// Seconds from one heartbeat to the next. Amethyst lists only agents whose heartbeat is at most 420 seconds old.
pub const HEARTBEAT_EVERY_SECONDS: Timestamp = 240;
/// Seconds after which a heartbeat expires (NIP-40).
pub const HEARTBEAT_EXPIRES_SECONDS: Timestamp = 600;

/// A heartbeat: the agent of the announcement with the same `d` is there.
pub fn heartbeat(author: &impl Sign, created_at: Timestamp) -> Event {
    let expires_at = created_at.saturating_add(HEARTBEAT_EXPIRES_SECONDS).to_string();
    let tags = vec![
        tag(["d", &announcement_d(&author.pubkey())]),
        tag(["status", "online"]),
        tag(["expiration", &expires_at]),
    ];
    author.sign(&Draft { created_at, kind: KIND_HEARTBEAT, tags, content: "Ready for jobs".to_owned() })
}

/// The answer to a ping that names the agent. It expires after 600 seconds.
pub fn pong(author: &impl Sign, ping: &Event, relay_url: Option<&str>, created_at: Timestamp) -> Event {
    let to = ReplyTo::event(ping, None, relay_url);
    let tags = vec![to.e(), to.p(), tag(["status", "pong"]), expiration(created_at)];
    author.sign(&Draft { created_at, kind: KIND_FEEDBACK, tags, content: "Ready for jobs".to_owned() })
}
