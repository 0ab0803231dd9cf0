//! URLs of relays that strangers name: which of them are used, and in one spelling.

use core::net::{Ipv4Addr, Ipv6Addr};

use relay_engine::types::Event;
use url::{Host, Url};

use super::KIND_RELAYS;
use super::tags::tags;

/// Relays that an answer is sent to beside the host's own.
pub const RELAYS_MAX: usize = 8;
/// Longest URL, in bytes.
const URL_BYTES_MAX: usize = 256;
/// Names that are not public, with all names below them.
const PRIVATE_NAMES: [&str; 8] =
    ["localhost", "local", "internal", "intranet", "lan", "home.arpa", "onion", "i2p"];

/// A relay's URL in one spelling, if it is one that a stranger may have an agent connect to: `wss://`, a public host,
/// no user, at most 256 bytes. Names are not resolved here: a host that connects must check the addresses, too.
pub fn public_relay(url: &str) -> Option<String> {
    let url = url.trim();
    if url.len() > URL_BYTES_MAX {
        return None;
    }
    let mut url = Url::parse(url).ok()?;
    let is_plain = url.scheme() == "wss" && url.username().is_empty() && url.password().is_none();
    if !is_plain || !is_public(url.host()?) {
        return None;
    }
    url.set_fragment(None);
    if let Some(name) = url.host_str().and_then(|host| host.strip_suffix('.')).map(str::to_owned) {
        url.set_host(Some(&name)).ok()?;
    }
    let text = url.as_str();
    // `wss://relay.example/` and `wss://relay.example` are the same relay.
    let text = if url.path() == "/" && url.query().is_none() { text.trim_end_matches('/') } else { text };
    Some(text.to_owned())
}

/// The first [`RELAYS_MAX`] public relays among `urls`, without repetitions.
pub(super) fn public_relays<'a>(urls: impl IntoIterator<Item = &'a str>) -> Vec<String> {
    let mut relays = Vec::new();
    for relay in urls.into_iter().filter_map(public_relay) {
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

fn is_public(host: Host<&str>) -> bool {
    match host {
        Host::Domain(name) => {
            let name = name.strip_suffix('.').unwrap_or(name);
            let is_private = |private: &&str| {
                name.strip_suffix(*private).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
            };
            name.contains('.') && !PRIVATE_NAMES.iter().any(is_private)
        }
        Host::Ipv4(address) => is_public_v4(address),
        Host::Ipv6(address) => is_public_v6(address),
    }
}

/// Addresses that IANA lists as globally reachable.
fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let is_reserved = address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_documentation()
        || matches!((a, b, c), (0, ..) | (100, 64..=127, _) | (192, 0, 0) | (198, 18..=19, _) | (224.., ..));
    !is_reserved
}

/// Global unicast, without documentation, and without those that carry an IPv4 address (6to4, Teredo).
fn is_public_v6(address: Ipv6Addr) -> bool {
    let [a, b, ..] = address.segments();
    (0x2000..0x4000).contains(&a)
        && !matches!((a, b), (0x2001, 0..0x200 | 0xdb8) | (0x2002, _) | (0x3fff, 0..0x1000))
}
