//! Announcements of job providers (kind 31990, NIP-89), and their heartbeats (kind 11998).

use relay_agent::api::kind_name;
use relay_agent::nip90::is_request;
use relay_engine::types::{Event, NO_EXPIRY, Timestamp, unescape};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A provider is online while its last heartbeat is at most so many seconds old, as Amethyst has it.
pub const HEARTBEAT_SECONDS_MAX: u64 = 420;
/// Longest `d` tag of an announcement, in bytes.
const D_BYTES_MAX: usize = 256;
/// Kinds and tags of an announcement that are read.
const KINDS_MAX: usize = 64;
const TAGS_MAX: usize = 32;
const TAG_BYTES_MAX: usize = 64;
/// Characters of name and description that are kept.
const NAME_CHARS_MAX: usize = 100;
const ABOUT_CHARS_MAX: usize = 600;

/// What an announcement says of the price.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "model", rename_all = "snake_case")]
pub enum Price {
    /// It costs nothing.
    Free,
    /// A job costs so many millisatoshis.
    PerJob {
        /// Millisatoshis.
        msat: u64,
    },
    /// It depends on the job.
    Flexible,
    /// It does not say.
    Unknown,
}

impl Price {
    /// Millisatoshis, if they are known.
    pub fn msat(self) -> Option<u64> {
        match self {
            Price::Free => Some(0),
            Price::PerJob { msat } => Some(msat),
            Price::Flexible | Price::Unknown => None,
        }
    }

    /// `amount` of a content: satoshis as a string or a number, `free` or `flexible`.
    fn of(amount: &Value) -> Price {
        let sats = match amount {
            Value::String(text) => match text.trim().to_ascii_lowercase().as_str() {
                "free" => return Price::Free,
                "flexible" => return Price::Flexible,
                text => text.parse().ok(),
            },
            amount => amount.as_u64(),
        };
        // Beyond all bitcoin there is no price.
        match sats.filter(|sats| *sats <= 2_100_000_000_000_000) {
            Some(0) => Price::Free,
            Some(sats) => match sats.checked_mul(1_000).filter(|msat| *msat <= 1 << 53) {
                Some(msat) => Price::PerJob { msat },
                None => Price::Unknown,
            },
            None => Price::Unknown,
        }
    }
}

/// An announcement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// The event's id.
    pub id: String,
    /// Its `d` tag.
    pub d: String,
    /// When it was made.
    pub updated_at: Timestamp,
    /// The name.
    pub name: String,
    /// The description.
    pub about: String,
    /// Kinds of jobs.
    pub kinds: Vec<u16>,
    /// Topics (`t` tags), in lower case.
    pub tags: Vec<String>,
    /// The price.
    pub price: Price,
}

impl Offer {
    /// Reads an announcement; `None` if it announces no jobs.
    pub fn of(event: &Event) -> Option<Offer> {
        let values = |name: &'static [u8]| {
            event
                .tags()
                .named(name)
                .filter_map(|tag| tag.value())
                .map(|value| String::from_utf8_lossy(&value).into_owned())
        };
        let d = values(b"d").next().unwrap_or_default();
        let mut kinds: Vec<u16> =
            values(b"k").filter_map(|kind| kind.parse().ok()).filter(|kind| is_request(*kind)).collect();
        kinds.sort_unstable();
        kinds.dedup();
        kinds.truncate(KINDS_MAX);
        if kinds.is_empty() || d.len() > D_BYTES_MAX {
            return None;
        }
        let mut tags: Vec<String> = Vec::new();
        for tag in values(b"t").map(|tag| tag.to_lowercase()) {
            if !tag.is_empty() && tag.len() <= TAG_BYTES_MAX && tags.len() < TAGS_MAX && !tags.contains(&tag)
            {
                tags.push(tag);
            }
        }
        let content: Value =
            serde_json::from_slice(&unescape(event.view().raw_content())).unwrap_or_default();
        let text = |names: [&str; 2], chars: usize| {
            let found = names.iter().find_map(|name| content[name].as_str()).unwrap_or_default();
            found.trim().chars().take(chars).collect::<String>()
        };
        Some(Offer {
            id: event.id.to_string(),
            d,
            updated_at: event.created_at,
            name: text(["name", "display_name"], NAME_CHARS_MAX),
            about: text(["about", "description"], ABOUT_CHARS_MAX),
            kinds,
            tags,
            price: Price::of(&content["amount"]),
        })
    }

    /// What a search looks in, in lower case.
    pub fn search_text(&self) -> String {
        let mut text = format!("{}\n{}\n{}", self.name, self.about, self.tags.join("\n"));
        for name in self.kinds.iter().filter_map(|kind| kind_name(*kind)) {
            text.push('\n');
            text.push_str(name);
        }
        text.to_lowercase()
    }
}

/// A heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heartbeat {
    /// When it came, but not later than it states.
    pub at: Timestamp,
    /// When it expires; [`NO_EXPIRY`] if never.
    pub expires: Timestamp,
    /// Whether it says that the provider is there: any status but `offline`.
    pub says_online: bool,
}

impl Heartbeat {
    /// Reads a heartbeat. One that states a later time than `now` is of now, else its author would be online for longer.
    pub fn of(event: &Event, now: Timestamp) -> Heartbeat {
        Heartbeat {
            at: event.created_at.min(now),
            expires: event.expires_at,
            says_online: event.tags().find(b"status").as_deref() != Some(b"offline"),
        }
    }

    /// Whether the provider is online.
    pub fn is_online(&self, now: Timestamp) -> bool {
        self.says_online
            && self.at.saturating_add(HEARTBEAT_SECONDS_MAX) >= now
            && (self.expires == NO_EXPIRY || self.expires > now)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn amounts_are_satoshis_as_a_string() {
        for (amount, want) in [
            (json!("free"), Price::Free),
            (json!(" Free"), Price::Free),
            (json!("flexible"), Price::Flexible),
            (json!("50"), Price::PerJob { msat: 50_000 }),
            (json!(50), Price::PerJob { msat: 50_000 }),
            (json!("0"), Price::Free),
            (json!("1.5"), Price::Unknown),
            (json!("-1"), Price::Unknown),
            (json!("99999999999999999"), Price::Unknown),
            (json!(null), Price::Unknown),
            (json!({}), Price::Unknown),
        ] {
            assert_eq!(Price::of(&amount), want, "{amount}");
        }
    }

    #[test]
    fn a_provider_is_online_for_seven_minutes_after_its_heartbeat() {
        let heartbeat = Heartbeat { at: 1_000, expires: NO_EXPIRY, says_online: true };
        for (heartbeat, now, want) in [
            (heartbeat, 1_000, true),
            (heartbeat, 1_420, true),
            (heartbeat, 1_421, false),
            (Heartbeat { expires: 1_300, ..heartbeat }, 1_299, true),
            (Heartbeat { expires: 1_300, ..heartbeat }, 1_300, false),
            (Heartbeat { says_online: false, ..heartbeat }, 1_000, false),
        ] {
            assert_eq!(heartbeat.is_online(now), want, "{heartbeat:?} {now}");
        }
    }
}
