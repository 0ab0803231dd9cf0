//! Signs of life: beats (kind 11998) and pongs.

use relay_engine::types::{Event, Timestamp};

use super::announce::announcement_d;
use super::feedback::expiration;
use super::reply::{ReplyTo, tag};
use super::{KIND_BEAT, KIND_FEEDBACK};
use crate::identity::{Draft, Sign};

/// Seconds from one beat to the next. Amethyst lists only agents whose beat is at most 420 seconds old.
pub const BEAT_EVERY_SECONDS: Timestamp = 240;
/// Seconds after which a beat expires (NIP-40).
pub const BEAT_EXPIRES_SECONDS: Timestamp = 600;

/// A beat: the agent of the announcement with the same `d` is there.
pub fn beat(author: &impl Sign, created_at: Timestamp) -> Event {
    let expires_at = created_at.saturating_add(BEAT_EXPIRES_SECONDS).to_string();
    let tags = vec![
        tag(["d", &announcement_d(&author.pubkey())]),
        tag(["status", "online"]),
        tag(["expiration", &expires_at]),
    ];
    author.sign(&Draft { created_at, kind: KIND_BEAT, tags, content: "Ready for jobs".to_owned() })
}

/// The answer to a ping that names the agent. It expires after 600 seconds.
pub fn pong(author: &impl Sign, ping: &Event, relay_url: Option<&str>, created_at: Timestamp) -> Event {
    let to = ReplyTo::event(ping, None, relay_url);
    let tags = vec![to.e(), to.p(), tag(["status", "pong"]), expiration(created_at)];
    author.sign(&Draft { created_at, kind: KIND_FEEDBACK, tags, content: "Ready for jobs".to_owned() })
}
