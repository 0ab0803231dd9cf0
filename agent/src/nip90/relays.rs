//! URLs of relays that customers name: which of them are used, normalised.

use relay_engine::types::Event;
use url::Url;

use super::KIND_RELAYS;
use super::tags::tags;
use crate::fetch::{is_public_host, normal};

/// Relays that an answer is sent to beside the host's own.
pub const RELAYS_MAX: usize = 8;
/// URLs of a request or list that are looked at to find these; further ones are not.
pub(super) const RELAYS_READ_MAX: usize = 64;
/// Longest URL, in bytes.
const URL_BYTES_MAX: usize = 256;

/// A relay's URL in one spelling, if it is one that a stranger may have an agent connect to: `wss://`, a public host,
/// no user, at most 256 bytes. Names are not resolved here: a host that connects must check the addresses, too.
pub fn public_relay(url: &str) -> Option<String> {
    let url = url.trim();
    if url.len() > URL_BYTES_MAX {
        return None;
    }
    let mut url = Url::parse(url).ok()?;
    let is_plain = url.scheme() == "wss" && url.username().is_empty() && url.password().is_none();
    let host = normal(url.host()?.to_owned());
    if !is_plain || !is_public_host(&host) {
        return None;
    }
    url.set_fragment(None);
    url.set_host(Some(&host.to_string())).ok()?;
    let text = url.as_str();
    // `wss://relay.example/` and `wss://relay.example` are the same relay.
    let text = if url.path() == "/" && url.query().is_none() { text.trim_end_matches('/') } else { text };
    Some(text.to_owned())
}

/// The first [`RELAYS_MAX`] public relays among the first 64 of `urls`, without repetitions.
pub(super) fn public_relays<'a>(urls: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let mut relays = Vec::new();
    for relay in urls.into_iter().take(RELAYS_READ_MAX).filter_map(public_relay) {
        if !relays.contains(&relay) {
            relays.push(relay);
            if relays.len() == RELAYS_MAX {
                break;
            }
        }
    }
    relays
}

/// Where the author of a relay list (kind 10002, NIP-65) reads what names them: at most [`RELAYS_MAX`] public relays.
/// Results go there if the request names no relays. Other events list none.
pub fn read_relays(event: &Event) -> Vec<String> {
    if event.kind != KIND_RELAYS {
        return Vec::new();
    }
    let list = tags(event, |name| name == b"r");
    let read = list.iter().filter(|tag| tag.get(2).is_none_or(|marker| marker != "write"));
    public_relays(read.filter_map(|tag| tag.get(1)).map(String::as_str))
}

/// The domain at which the keys of a relay's users are looked up (NIP-05), by https: that of a public `wss://` URL.
pub(super) fn nip05_domain(relay_url: &str) -> Option<String> {
    let url = Url::parse(&public_relay(relay_url)?).ok()?;
    match (url.domain()?, url.port()) {
        (domain, None) => Some(domain.to_owned()),
        (domain, Some(port)) => Some(format!("{domain}:{port}")),
    }
}
