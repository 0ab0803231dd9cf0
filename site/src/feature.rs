//! Features: the endpoints, NIPs, settings and page sections that both hosts have.
//!
//! A new feature is a module with a [`Feature`] and an entry in [`FEATURES`]. Its endpoints name variants of
//! [`Route`](crate::Route), so a host that does not handle one of them does not compile.

use crate::nip11::RelayDescription;
use crate::route::Endpoint;
use crate::{admission, agents, blossom, market, relay};

/// A feature of both hosts.
#[derive(Debug)]
pub struct Feature {
    /// Its endpoints. Of several with the same path, the first that matches a request answers it.
    pub endpoints: &'static [Endpoint],
    /// The NIPs it implements under these settings, in any order.
    pub nips: fn(&RelayDescription<'_>) -> Vec<u16>,
    /// Its top-level keys in the configuration: the native server's file and the Worker's `RELAY_CONFIG`.
    pub settings: &'static [&'static str],
    /// Its section of the web page, as HTML.
    pub section: fn(&RelayDescription<'_>) -> String,
}

/// All features, in the order of their sections on the web page.
pub const FEATURES: &[Feature] =
    &[admission::FEATURE, agents::FEATURE, market::FEATURE, blossom::FEATURE, relay::FEATURE];
