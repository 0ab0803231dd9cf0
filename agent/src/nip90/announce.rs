//! How an agent is found: its profile, relay lists and announcement.

use std::collections::{BTreeMap, BTreeSet};

use relay_engine::types::{Event, PubKey, Timestamp};
use serde::Serialize;

use super::relays::nip05_domain;
use super::reply::tag;
use super::size::{COMMON_EVENT_BYTES_MAX, event_bytes};
use super::{KIND_ANNOUNCEMENT, KIND_DELETION, KIND_DM_RELAYS, KIND_PROFILE, KIND_RELAYS};
use crate::identity::{Draft, Sign, nip05_name};
use crate::manifest::{Manifest, PublicParam};

/// Longest topic, in bytes: relays in general take no longer value of a one-letter tag.
const TOPIC_BYTES_MAX: usize = 1_024;

/// The `d` of an agent's announcement and of its heartbeats: 16 digits of its key. It does not change with the manifest, so that a
/// new version replaces the old one's announcement, and no other agent has the same.
pub fn announcement_d(agent: &PubKey) -> String {
    agent.to_string().chars().take(16).collect()
}

/// The events that announce an agent, all replaceable: kinds 0, 10002, 10050 (if any relay is known) and 31990.
///
/// `relay_url` is the host's relay. If it has a domain, the agent's NIP-05 name there is in its profile.
pub fn announcements(
    author: &impl Sign,
    manifest: &Manifest,
    relay_url: Option<&str>,
    created_at: Timestamp,
) -> Vec<Event> {
    let relays = relays(manifest, relay_url);
    let nip05 = relay_url.and_then(nip05_domain).map(|domain| {
        let name = nip05_name(&manifest.name, &author.pubkey());
        format!("{name}@{domain}")
    });
    let mut drafts = vec![Draft {
        created_at,
        kind: KIND_PROFILE,
        tags: Vec::new(),
        content: json(&Profile::of(manifest, nip05.as_deref())),
    }];
    if !relays.is_empty() {
        let list = |name: &str| relays.iter().map(|url| tag([name, url])).collect::<Vec<_>>();
        let (r, relay) = (list("r"), list("relay"));
        drafts.push(Draft { created_at, kind: KIND_RELAYS, tags: r.clone(), content: String::new() });
        // NIP-17 has `relay` here, other agents write `r` and their customers read it.
        let tags = [relay, r].concat();
        drafts.push(Draft { created_at, kind: KIND_DM_RELAYS, tags, content: String::new() });
    }
    drafts.push(announcement(&author.pubkey(), manifest, created_at));
    drafts.iter().map(|draft| author.sign(draft)).collect()
}

/// Takes back the announcement (kind 31990) of an agent, and all its versions up to now.
pub fn retraction(author: &impl Sign, created_at: Timestamp) -> Event {
    let agent = author.pubkey();
    let address = format!("{KIND_ANNOUNCEMENT}:{agent}:{}", announcement_d(&agent));
    let tags = vec![tag(["a", &address]), tag(["k", &KIND_ANNOUNCEMENT.to_string()])];
    author.sign(&Draft { created_at, kind: KIND_DELETION, tags, content: String::new() })
}

/// Kind 31990: no `web`, because there is no page for an event of a kind, and no `subscription`.
fn announcement(agent: &PubKey, manifest: &Manifest, created_at: Timestamp) -> Draft {
    let kinds: BTreeSet<u16> = manifest.handlers.iter().map(|handler| handler.kind).collect();
    let topics: BTreeSet<String> = manifest.tags.iter().map(|topic| topic.to_lowercase()).collect();
    let mut tags = vec![tag(["d", &announcement_d(agent)])];
    tags.extend(kinds.iter().map(|kind| tag(["k", &kind.to_string()])));
    tags.extend(topics.iter().filter(|topic| topic.len() <= TOPIC_BYTES_MAX).map(|topic| tag(["t", topic])));
    let mut content = Content::of(manifest);
    let mut draft = Draft { created_at, kind: KIND_ANNOUNCEMENT, tags, content: json(&content) };
    if event_bytes(&draft) > COMMON_EVENT_BYTES_MAX {
        content.params.clear();
        draft.content = json(&content);
    }
    draft
}

/// The host's relay, then those of the manifest, once each.
fn relays<'a>(manifest: &'a Manifest, relay_url: Option<&'a str>) -> Vec<&'a str> {
    let mut relays: Vec<&str> = Vec::new();
    for url in relay_url.into_iter().chain(manifest.relays.iter().map(String::as_str)) {
        if !relays.iter().any(|known| known.trim_end_matches('/') == url.trim_end_matches('/')) {
            relays.push(url);
        }
    }
    relays
}

/// The content of a kind 0 (NIP-01, NIP-24).
#[derive(Serialize)]
struct Profile<'a> {
    name: &'a str,
    about: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    picture: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nip05: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    website: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lud16: Option<&'a str>,
    bot: bool,
}

impl<'a> Profile<'a> {
    fn of(manifest: &'a Manifest, nip05: Option<&'a str>) -> Self {
        Profile {
            name: &manifest.name,
            about: &manifest.about,
            picture: manifest.picture.as_deref(),
            nip05,
            website: manifest.homepage.as_deref(),
            lud16: manifest.payment.zap.as_deref(),
            bot: true,
        }
    }
}

/// The content of a kind 31990, as job clients read it: each field of a pair is read by some of them.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Content<'a> {
    name: &'a str,
    about: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    picture: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<&'a str>,
    /// Satoshis as a string, `free` or `flexible`; elsewhere in NIP-90 amounts are millisatoshis.
    amount: String,
    supports_encryption: bool,
    encryption_supported: bool,
    accepts_nut_zaps: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    lud16: Option<&'a str>,
    #[serde(rename = "nip90Params")]
    params: BTreeMap<String, PublicParam>,
}

impl<'a> Content<'a> {
    fn of(manifest: &'a Manifest) -> Self {
        let picture = manifest.picture.as_deref();
        Content {
            name: &manifest.name,
            about: &manifest.about,
            picture,
            image: picture,
            amount: amount(manifest),
            supports_encryption: manifest.encryption,
            encryption_supported: manifest.encryption,
            accepts_nut_zaps: false,
            lud16: manifest.payment.zap.as_deref(),
            params: manifest.nip90_params(),
        }
    }
}

/// What a job costs.
fn amount(manifest: &Manifest) -> String {
    let mut prices = manifest.handlers.iter().map(|handler| handler.price.msat().div_ceil(1_000));
    let first = prices.next().unwrap_or_default();
    match prices.all(|price| price == first) {
        true if first == 0 => "free".to_owned(),
        true => first.to_string(),
        false => "flexible".to_owned(),
    }
}

/// JSON of a content. Structs of strings and numbers have one.
fn json(content: &impl Serialize) -> String {
    serde_json::to_string(content).unwrap_or_default()
}
