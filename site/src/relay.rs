//! The relay as a feature: the WebSocket, NIP-11, the web page, health, metrics and configuration.

use crate::feature::Feature;
use crate::nip11::RelayDescription;
use crate::page::{bytes, grouped};
use crate::route::{Bounds, Endpoint, HeaderCondition, Route};

/// The NIPs the engine implements, whatever the settings.
const NIPS: [u16; 12] = [1, 9, 11, 13, 17, 40, 42, 45, 59, 62, 70, 77];
/// Supported if `policy.eose_hints` is on.
const EOSE_HINTS_NIP: u16 = 67;
/// Supported if there are administrators.
const HTTP_AUTH_NIP: u16 = 98;

pub(crate) const FEATURE: Feature =
    Feature { endpoints: ENDPOINTS, nips, settings: &["url", "info", "limits", "policy"], section };

/// A GET with a small body or none, answered from memory.
const READ: Endpoint = Endpoint {
    method: "GET",
    path: "/",
    header: HeaderCondition::Anything,
    route: Route::Page,
    any_origin: false,
    bounds: Bounds { body_bytes_max: 4 << 10, idle_seconds: 10, total_seconds: 60 },
};

// NIP-11: «Relays MUST accept CORS requests».
const ENDPOINTS: &[Endpoint] = &[
    Endpoint { header: HeaderCondition::WebSocket, route: Route::Socket, any_origin: true, ..READ },
    Endpoint {
        header: HeaderCondition::Type("application/nostr+json"),
        route: Route::Information,
        any_origin: true,
        ..READ
    },
    Endpoint { any_origin: true, ..READ },
    Endpoint { path: "/icon.svg", route: Route::Icon, any_origin: true, ..READ },
    // Browsers request the icon under this name too.
    Endpoint { path: "/favicon.ico", route: Route::Icon, any_origin: true, ..READ },
    Endpoint { path: "/invoice.svg", route: Route::InvoiceCode, ..READ },
    Endpoint { path: "/health", route: Route::Health, ..READ },
    Endpoint { path: "/relay/config.json", route: Route::Config, ..READ },
    Endpoint { path: "/metrics", route: Route::Metrics, ..READ },
];

fn nips(relay: &RelayDescription<'_>) -> Vec<u16> {
    let hints = relay.policy.eose_hints.then_some(EOSE_HINTS_NIP);
    let http_auth = (!relay.policy.admin_pubkeys.is_empty()).then_some(HTTP_AUTH_NIP);
    NIPS.into_iter().chain(hints).chain(http_auth).collect()
}

/// The limits that clients meet.
fn section(relay: &RelayDescription<'_>) -> String {
    let RelayDescription { limits, policy, .. } = relay;
    let mut rows: Vec<(&str, String)> = vec![
        ("Largest message", bytes(limits.message_bytes_max)),
        ("Largest event", bytes(limits.event_bytes_max)),
        ("Tags in an event", grouped(limits.event_tags_max as u64)),
        ("Tags in a list event (follows, NIP-51)", grouped(limits.tags_max_of_any() as u64)),
        ("Characters of content", grouped(limits.content_chars_max as u64)),
        ("Subscriptions per connection", grouped(limits.subscriptions_max as u64)),
        ("Filters per request", grouped(limits.filters_max as u64)),
        ("Values in the filters of one request", grouped(limits.filter_values_max as u64)),
        ("Stored events per filter", {
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
    format!("<h2>Limits</h2>\n<table>\n{rows}</table>\n")
}
