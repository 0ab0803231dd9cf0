//! The NIP-11 document, made from the settings that are enforced.

use serde_json::{Map, Value, json};

use relay_engine::policy::{Admission, Policy};
use relay_engine::types::{Limits, SubId};

use crate::admission::paid_admission;
use crate::{BlossomSettings, FEATURES, Info, page};

/// The settings that the NIP-11 document and the web page describe.
#[derive(Clone, Copy, Debug)]
pub struct RelayDescription<'a> {
    /// The `[info]` settings.
    pub info: &'a Info,
    /// The limits.
    pub limits: &'a Limits,
    /// The policy.
    pub policy: &'a Policy,
    /// The public URL. Without one, the page's script shows the address from which it was loaded.
    pub url: Option<&'a str>,
    /// Whether agents can be deployed.
    pub has_agents: bool,
    /// Whether it keeps a registry of job providers.
    pub has_market: bool,
    /// Its settings of Blossom, if it serves blobs.
    pub blossom: Option<&'a BlossomSettings>,
}

impl RelayDescription<'_> {
    /// The supported NIPs, ascending.
    pub fn supported_nips(&self) -> Vec<u16> {
        let mut nips: Vec<u16> = FEATURES.iter().flat_map(|feature| (feature.nips)(self)).collect();
        nips.sort_unstable();
        nips.dedup();
        nips
    }

    /// The NIP-11 document.
    pub fn information(&self) -> String {
        information(self)
    }

    /// The web page. `fallback` is the relay's address that it shows if no URL is set and scripts are off.
    pub fn page(&self, fallback: &str) -> String {
        page::render(self, fallback)
    }
}

fn information(relay: &RelayDescription<'_>) -> String {
    let RelayDescription { info, limits, policy, url, .. } = relay;
    let mut document = Map::new();
    let mut put = |name: &str, value: Value| {
        document.insert(name.to_owned(), value);
    };
    put("name", json!(info.name));
    put("description", json!(info.description));
    let of_admission = || policy.admission.as_ref().map(|admission| admission.pubkey.to_string());
    let own_pubkey = info.own_pubkey.clone().or_else(of_admission);
    for (name, value) in [
        ("pubkey", &info.pubkey),
        ("self", &own_pubkey),
        ("contact", &info.contact),
        ("icon", &info.icon.clone().or_else(|| url.and_then(own_icon))),
        ("banner", &info.banner),
        ("terms_of_service", &info.terms_of_service),
    ] {
        if let Some(value) = value {
            put(name, json!(value));
        }
    }
    put("supported_nips", json!(relay.supported_nips()));
    // The version of the Negentropy protocol, as strfry puts it.
    put("negentropy", json!(1));
    put("software", json!(env!("CARGO_PKG_REPOSITORY")));
    put("version", json!(env!("CARGO_PKG_VERSION")));
    let fee = paid_admission(policy);
    let of_blobs = relay.blossom.into_iter().flat_map(|blossom| blossom.payment.fees());
    let mut fees: Map<String, Value> = of_blobs.map(|(name, fee)| (name.to_owned(), fee)).collect();
    if let Some(Admission { msat, .. }) = fee {
        fees.insert("admission".to_owned(), json!([{ "amount": msat, "unit": "msats" }]));
    }
    if !fees.is_empty() {
        put("fees", Value::Object(fees));
    }
    if let Some(Admission { payments_url: Some(url), .. }) = fee {
        put("payments_url", json!(url));
    }
    let restricted = limits.pow_bits_min > 0
        || policy.auth_required
        || policy.allow_pubkeys.is_some()
        || policy.admission.is_some()
        || policy.allow_kinds.is_some();
    let mut limitation = json!({
        "max_message_length": limits.message_bytes_max,
        "max_subscriptions": limits.subscriptions_max,
        "max_filters": limits.filters_max,
        "max_limit": limits.limit_max,
        "default_limit": limits.limit_default,
        "max_subid_length": SubId::CHARS_MAX,
        "max_event_tags": limits.event_tags_max,
        "max_content_length": limits.content_chars_max,
        "min_pow_difficulty": limits.pow_bits_min,
        "auth_required": policy.auth_required,
        "payment_required": fee.is_some(),
        "restricted_writes": restricted,
        "created_at_upper_limit": limits.created_at_ahead_seconds_max,
    });
    if let Some(age) = limits.created_at_age_seconds_max {
        limitation["created_at_lower_limit"] = json!(age);
    }
    put("limitation", limitation);
    Value::Object(document).to_string()
}

/// URL of the built-in icon, for a relay with this public URL.
fn own_icon(url: &str) -> Option<String> {
    own_page(url, "icon.svg")
}

/// URL of a page of the relay with this public URL.
pub(crate) fn own_page(url: &str, name: &str) -> Option<String> {
    let (scheme, rest) = url.trim().split_once("://")?;
    let scheme = if scheme.eq_ignore_ascii_case("wss") { "https" } else { "http" };
    let base = rest.split(['?', '#']).next().unwrap_or_default().trim_end_matches('/');
    Some(format!("{scheme}://{base}/{name}"))
}

#[cfg(test)]
mod tests {
    use relay_engine::types::PubKey;

    use super::*;

    #[test]
    fn the_document_shows_the_settings() {
        let limits = Limits {
            limit_max: 321,
            limit_default: 7,
            created_at_age_seconds_max: Some(99),
            ..Limits::default()
        };
        let policy = Policy { allow_kinds: Some(vec![1]), ..Policy::default() };
        let relay = RelayDescription {
            info: &Info::default(),
            limits: &limits,
            policy: &policy,
            url: None,
            has_agents: false,
            has_market: false,
            blossom: None,
        };
        let document: Value = serde_json::from_str(&relay.information()).unwrap();
        let limitation = &document["limitation"];
        assert_eq!(document["negentropy"], 1);
        assert_eq!(limitation["max_limit"], 321);
        assert_eq!(limitation["default_limit"], 7);
        assert_eq!(limitation["max_message_length"], 2 << 20);
        assert_eq!(limitation["created_at_lower_limit"], 99);
        assert_eq!(limitation["restricted_writes"], true);
        assert!(document["software"].as_str().unwrap().starts_with("https://"));
        assert!(document.get("icon").is_none());
    }

    #[test]
    fn an_optional_nip_is_advertised_only_if_it_is_on() {
        let (info, limits) = (Info::default(), Limits::default());
        let nips = |policy: Policy| {
            let relay = RelayDescription {
                info: &info,
                limits: &limits,
                policy: &policy,
                url: None,
                has_agents: false,
                has_market: false,
                blossom: None,
            };
            let document: Value = serde_json::from_str(&relay.information()).unwrap();
            assert_eq!(relay.page("").contains("/67.md"), policy.eose_hints);
            document["supported_nips"].to_string()
        };
        assert_eq!(nips(Policy::default()), "[1,9,11,13,17,40,42,45,59,62,70,77]");
        let hints = Policy { eose_hints: true, ..Policy::default() };
        assert_eq!(nips(hints), "[1,9,11,13,17,40,42,45,59,62,67,70,77]");
        let admins = Policy { admin_pubkeys: vec![PubKey([1; 32])], ..Policy::default() };
        assert_eq!(nips(admins), "[1,9,11,13,17,40,42,45,59,62,70,77,98]");
    }

    #[test]
    fn the_built_in_icon_is_named_if_the_url_is_set() {
        let (limits, policy) = (Limits::default(), Policy::default());
        let icon = |url, configured: Option<&str>| {
            let info = Info { icon: configured.map(str::to_owned), ..Info::default() };
            let relay = RelayDescription {
                info: &info,
                limits: &limits,
                policy: &policy,
                url: Some(url),
                has_agents: false,
                has_market: false,
                blossom: None,
            };
            let document: Value = serde_json::from_str(&relay.information()).unwrap();
            document["icon"].as_str().unwrap().to_owned()
        };
        let cases = [
            ("wss://relay.example", "https://relay.example/icon.svg"),
            ("WSS://relay.example/", "https://relay.example/icon.svg"),
            ("ws://relay.example:7777/nostr/?a#b", "http://relay.example:7777/nostr/icon.svg"),
        ];
        for (url, want) in cases {
            assert_eq!(icon(url, None), want);
            assert_eq!(icon(url, Some("https://a.example/b.png")), "https://a.example/b.png");
        }
        assert!(page::ICON_SVG.starts_with("<svg ") && page::ICON_SVG.len() < 1_000);
    }
}
