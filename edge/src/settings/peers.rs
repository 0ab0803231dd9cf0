//! `sync` of `RELAY_CONFIG`: the relays that events are copied from.

use relay_engine::policy::{is_relay_url, same_relay};
use relay_sync::ranges::Scope;
use serde::{Deserialize, Serialize};
use serde_json::json;

/// Seconds between comparisons: of a million events one takes some minutes.
const EVERY_SECONDS_MIN: u64 = 60;
const EVERY_SECONDS_MAX: u64 = 366 * 86_400;

/// Other relays that events are copied from.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct SyncSettings {
    /// At most 16.
    pub peers: Vec<PeerSettings>,
}

/// Another relay, of which all events that match a filter are to be here too.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PeerSettings {
    /// `wss://...`; `ws://` is taken too, since the operator names it.
    pub url: String,
    /// NIP-01 filter, without `limit`; all events if there is none.
    #[serde(default = "everything")]
    pub filter: serde_json::Value,
    /// Seconds from the end of a comparison to the next one.
    #[serde(default = "hourly")]
    pub every_seconds: u64,
}

fn everything() -> serde_json::Value {
    json!({})
}

fn hourly() -> u64 {
    3_600
}

impl PeerSettings {
    /// Its name in the store.
    pub fn name(&self) -> String {
        format!("{} {}", self.url, self.filter)
    }

    /// Its filter, parsed.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn scope(&self) -> Result<Scope, String> {
        Scope::new(&self.filter.to_string(), None, None)
    }

    /// # Errors
    /// The field that is wrong, and what is.
    pub(super) fn check(&self, own_url: Option<&str>) -> Result<(), (&'static str, String)> {
        let url = &self.url;
        let is_plain = |url: &str| url.trim() == url && !url.contains(['@', '#']);
        if !is_relay_url(url) || !is_plain(url) {
            let why = "is not a ws:// or wss:// URL with a host and without a user and a fragment";
            return Err(("url", format!("`{url}` {why}")));
        }
        if own_url.is_some_and(|own| same_relay(own, url)) {
            return Err(("url", format!("`{url}` is this relay")));
        }
        self.scope().map_err(|why| ("filter", why))?;
        match self.every_seconds {
            EVERY_SECONDS_MIN..=EVERY_SECONDS_MAX => Ok(()),
            other => Err((
                "every_seconds",
                format!("{other} is not from {EVERY_SECONDS_MIN} to {EVERY_SECONDS_MAX}"),
            )),
        }
    }
}
