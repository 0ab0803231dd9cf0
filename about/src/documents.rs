//! The NIP-11 document for clients and a page for people, both from what is enforced.

use serde_json::{Map, Value, json};

use relay_engine::policy::Policy;
use relay_engine::types::{Limits, SubId};

use crate::Info;

/// The NIPs the engine implements, whatever the settings.
const NIPS: [u16; 11] = [1, 9, 11, 13, 17, 40, 42, 45, 59, 62, 70];
/// Served if [`Policy::eose_hints`] says so.
const EOSE_HINTS_NIP: u16 = 67;

/// The page, with places to fill in.
const TEMPLATE: &str = include_str!("page.html");

/// The relay's picture, which every host serves as `/icon.svg`.
pub const ICON_SVG: &str = include_str!("icon.svg");

/// What there is to tell, as it is enforced.
#[derive(Clone, Copy, Debug)]
pub struct About<'a> {
    /// What the operator says.
    pub info: &'a Info,
    /// Bounds.
    pub limits: &'a Limits,
    /// Who may do what.
    pub policy: &'a Policy,
    /// The public URL. Without one, the page's script puts in the address it was loaded from.
    pub url: Option<&'a str>,
}

impl About<'_> {
    /// The NIPs that are served, ascending.
    pub fn supported_nips(&self) -> Vec<u16> {
        let hints = self.policy.eose_hints.then_some(EOSE_HINTS_NIP);
        let mut nips: Vec<u16> = NIPS.into_iter().chain(hints).collect();
        nips.sort_unstable();
        nips
    }

    /// The NIP-11 document.
    pub fn information(&self) -> String {
        information(self)
    }

    /// The page for browsers; `fallback` is the address shown without a URL and without scripts.
    pub fn page(&self, fallback: &str) -> String {
        page(self, fallback)
    }
}

fn information(about: &About<'_>) -> String {
    let About { info, limits, policy, url } = about;
    let mut document = Map::new();
    let mut put = |name: &str, value: Value| {
        document.insert(name.to_owned(), value);
    };
    put("name", json!(info.name));
    put("description", json!(info.description));
    for (name, value) in [
        ("pubkey", &info.pubkey),
        ("self", &info.own_pubkey),
        ("contact", &info.contact),
        ("icon", &info.icon.clone().or_else(|| url.and_then(own_icon))),
        ("banner", &info.banner),
        ("terms_of_service", &info.terms_of_service),
    ] {
        if let Some(value) = value {
            put(name, json!(value));
        }
    }
    put("supported_nips", json!(about.supported_nips()));
    put("software", json!(env!("CARGO_PKG_REPOSITORY")));
    put("version", json!(env!("CARGO_PKG_VERSION")));
    let restricted = limits.pow_bits_min > 0
        || policy.auth_required
        || policy.allow_pubkeys.is_some()
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
        "payment_required": false,
        "restricted_writes": restricted,
        "created_at_upper_limit": limits.created_at_ahead_seconds_max,
    });
    if let Some(age) = limits.created_at_age_seconds_max {
        limitation["created_at_lower_limit"] = json!(age);
    }
    put("limitation", limitation);
    Value::Object(document).to_string()
}

/// Where our own picture is, for a relay with this public URL.
fn own_icon(url: &str) -> Option<String> {
    let (scheme, rest) = url.trim().split_once("://")?;
    let scheme = if scheme.eq_ignore_ascii_case("wss") { "https" } else { "http" };
    let place = rest.split(['?', '#']).next().unwrap_or_default().trim_end_matches('/');
    Some(format!("{scheme}://{place}/icon.svg"))
}

fn page(about: &About<'_>, fallback: &str) -> String {
    let About { info, limits, policy, url } = about;
    let nips: Vec<String> = about
        .supported_nips()
        .iter()
        .map(|nip| {
            format!(r#"<a href="https://github.com/nostr-protocol/nips/blob/master/{nip:02}.md">{nip}</a>"#)
        })
        .collect();
    let mut rows: Vec<(&str, String)> = vec![
        ("Largest message", bytes(limits.message_bytes_max)),
        ("Largest event", bytes(limits.event_bytes_max)),
        ("Tags in an event", grouped(limits.event_tags_max as u64)),
        ("Characters of content", grouped(limits.content_chars_max as u64)),
        ("Subscriptions a connection", grouped(limits.subscriptions_max as u64)),
        ("Filters a request", grouped(limits.filters_max as u64)),
        ("Values in the filters of a request", grouped(limits.filter_values_max as u64)),
        ("Stored events a filter", {
            let (max, default) = (u64::from(limits.limit_max), u64::from(limits.limit_default));
            format!("up to {}, {} if no limit is given", grouped(max), grouped(default))
        }),
        ("Time of an event", {
            let ahead = format!("at most {} seconds ahead", grouped(limits.created_at_ahead_seconds_max));
            match limits.created_at_age_seconds_max {
                Some(age) => format!("{ahead}, {} seconds back", grouped(age)),
                None => format!("{ahead}, any age"),
            }
        }),
    ];
    if limits.pow_bits_min > 0 {
        rows.push(("Proof of work", format!("{} bits", limits.pow_bits_min)));
    }
    if policy.auth_required {
        rows.push(("Authentication", "required (NIP-42)".to_owned()));
    }
    let rows: String =
        rows.iter().map(|(name, value)| format!("<tr><th>{name}</th><td>{value}</td></tr>\n")).collect();
    let contact = info
        .contact
        .as_deref()
        .map_or_else(String::new, |contact| format!("<h2>Contact</h2>\n<p>{}</p>", escape(contact)));
    let fill: [(&str, String); 9] = [
        ("{{icon}}", escape(info.icon.as_deref().unwrap_or("/icon.svg"))),
        ("{{name}}", escape(&info.name)),
        ("{{description}}", escape(&info.description)),
        ("{{url}}", escape(url.unwrap_or(fallback))),
        ("{{url_is_set}}", url.is_some().to_string()),
        ("{{nips}}", nips.join(" ")),
        ("{{limits}}", rows),
        ("{{contact}}", contact),
        ("{{version}}", env!("CARGO_PKG_VERSION").to_owned()),
    ];
    fill_in(TEMPLATE, &fill)
}

/// Replaces each place once over the template only, so that nothing an operator wrote is taken for a place.
fn fill_in(template: &str, fill: &[(&str, String)]) -> String {
    let mut out = String::with_capacity(template.len() * 2);
    let mut rest = template;
    while let Some(start) = rest.find("{{") {
        out.push_str(&rest[..start]);
        rest = &rest[start..];
        match fill.iter().find(|(place, _)| rest.starts_with(place)) {
            Some((place, value)) => {
                out.push_str(value);
                rest = &rest[place.len()..];
            }
            None => {
                out.push_str("{{");
                rest = &rest[2..];
            }
        }
    }
    out.push_str(rest);
    out
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            other => out.push(other),
        }
    }
    out
}

fn bytes(count: usize) -> String {
    match count {
        _ if count >= 1 << 20 && count.is_multiple_of(1 << 20) => format!("{} MiB", count >> 20),
        _ if count >= 1 << 10 && count.is_multiple_of(1 << 10) => format!("{} KiB", count >> 10),
        _ => format!("{} bytes", grouped(count as u64)),
    }
}

fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_says_what_is_enforced() {
        let limits = Limits {
            limit_max: 321,
            limit_default: 7,
            created_at_age_seconds_max: Some(99),
            ..Limits::default()
        };
        let policy = Policy { allow_kinds: Some(vec![1]), ..Policy::default() };
        let about = About { info: &Info::default(), limits: &limits, policy: &policy, url: None };
        let document: Value = serde_json::from_str(&about.information()).unwrap();
        let limitation = &document["limitation"];
        assert_eq!(limitation["max_limit"], 321);
        assert_eq!(limitation["default_limit"], 7);
        assert_eq!(limitation["max_message_length"], 2 << 20);
        assert_eq!(limitation["created_at_lower_limit"], 99);
        assert_eq!(limitation["restricted_writes"], true);
        assert!(document["software"].as_str().unwrap().starts_with("https://"));
        assert!(document.get("icon").is_none());
    }

    #[test]
    fn a_nip_that_is_switched_on_is_advertised_only_then() {
        let (info, limits) = (Info::default(), Limits::default());
        let nips = |eose_hints: bool| {
            let policy = Policy { eose_hints, ..Policy::default() };
            let about = About { info: &info, limits: &limits, policy: &policy, url: None };
            let document: Value = serde_json::from_str(&about.information()).unwrap();
            assert_eq!(about.page("").contains("/67.md"), eose_hints);
            document["supported_nips"].to_string()
        };
        assert_eq!(nips(false), "[1,9,11,13,17,40,42,45,59,62,70]");
        assert_eq!(nips(true), "[1,9,11,13,17,40,42,45,59,62,67,70]");
    }

    #[test]
    fn the_page_shows_what_the_operator_wrote_and_nothing_more() {
        let info = Info { name: "<b>{{url}} & co".into(), ..Info::default() };
        let (limits, policy) = (Limits::default(), Policy::default());
        let url = Some("wss://relay.example");
        let page = About { info: &info, limits: &limits, policy: &policy, url }.page("");
        assert!(page.contains("&lt;b&gt;{{url}} &amp; co"));
        assert!(page.contains("wss://relay.example") && page.contains("2 MiB"));
        assert_eq!(page.matches("{{").count(), page.matches("{{url}} &amp; co").count());
    }

    #[test]
    fn a_relay_that_knows_its_url_has_a_picture_of_its_own() {
        let (limits, policy) = (Limits::default(), Policy::default());
        let icon = |url, own: Option<&str>| {
            let info = Info { icon: own.map(str::to_owned), ..Info::default() };
            let about = About { info: &info, limits: &limits, policy: &policy, url: Some(url) };
            let document: Value = serde_json::from_str(&about.information()).unwrap();
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
        assert!(ICON_SVG.starts_with("<svg ") && ICON_SVG.len() < 1_000);
    }

    #[test]
    fn numbers_are_grouped() {
        let cases = [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")];
        for (number, want) in cases {
            assert_eq!(grouped(number), want);
        }
    }
}
