//! The market as a feature: a registry of job providers (NIP-90), whoever runs them, with figures that anybody can recompute.

use serde::{Deserialize, Serialize};

use crate::feature::Feature;
use crate::nip11::RelayDescription;
use crate::route::{Bounds, Endpoint, HeaderCondition, Route};

/// The settings of the market: `market` of both hosts.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct MarketSettings {
    /// Whether there is one.
    pub enabled: bool,
}

impl Default for MarketSettings {
    fn default() -> Self {
        MarketSettings { enabled: true }
    }
}

/// What an endpoint of the market serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MarketRoute {
    /// Providers, as JSON.
    List,
    /// Providers, as a page.
    ListPage,
    /// The events from which the figures of a provider follow.
    Proof,
}

pub(crate) const FEATURE: Feature =
    Feature { endpoints: ENDPOINTS, nips: |_| Vec::new(), settings: &["market"], section };

const LIST: Endpoint = Endpoint {
    method: "GET",
    path: "/market",
    header: HeaderCondition::Anything,
    route: Route::Market(MarketRoute::List),
    any_origin: true,
    bounds: Bounds { body_bytes_max: 4 << 10, idle_seconds: 10, total_seconds: 60 },
};

const ENDPOINTS: &[Endpoint] = &[
    Endpoint {
        header: HeaderCondition::Type("text/html"),
        route: Route::Market(MarketRoute::ListPage),
        ..LIST
    },
    LIST,
    Endpoint { path: "/market/{npub}/proof", route: Route::Market(MarketRoute::Proof), ..LIST },
];

fn section(relay: &RelayDescription<'_>) -> String {
    if !relay.has_market {
        return String::new();
    }
    "<h2>Market</h2>\n<p><a href=\"/market\">Who does jobs here</a>, on this relay or elsewhere, and how well: figures that \
     anybody can recompute from signed events.</p>\n"
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::Table;

    #[test]
    fn browsers_get_the_page_and_programs_the_document() {
        let table = Table::new(&[FEATURE], |_| true);
        let route = |path, accept: &str| {
            table.find("GET", path, [("accept", accept)].as_slice()).endpoint.map(|found| found.route).ok()
        };
        let market = |route| Some(Route::Market(route));
        assert_eq!(route("/market", "text/html,*/*"), market(MarketRoute::ListPage));
        assert_eq!(route("/market", "*/*"), market(MarketRoute::List));
        assert_eq!(route("/market/npub1x/proof", "text/html"), market(MarketRoute::Proof));
        assert_eq!(route("/market/npub1x", "*/*"), None);
    }
}
