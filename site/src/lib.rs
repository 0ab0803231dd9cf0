//! What both hosts serve over HTTP: routes, NIP-11, the web page, NIP-98, and the names of metrics and settings. Documents
//! are made from the same settings that the engine enforces.
//!
//! | module | role |
//! |---|---|
//! | [`feature`] | [`FEATURES`] of both hosts: each adds endpoints, NIPs, settings and a section of the web page |
//! | [`route`] | the routing table: method, path and headers to a [`Route`] |
//! | [`http_response`] | responses that are the same on both hosts: documents and errors |
//! | [`nip11`] | the relay information document |
//! | [`authorization`] | signed events in Authorization headers, for NIP-98 and Blossom |
//! | [`nip98`] | HTTP requests signed by a Nostr key |
//! | [`agents`] | the endpoints of agents |
//! | [`blossom`] | the endpoints of Blossom |
//! | [`market`] | the endpoints of the market |
//! | [`admin_auth`] | authorization of the administrators' endpoints |
//! | [`admission`] | the admission fee: the page on which it is paid |
//! | [`invoice_code`] | invoices as QR codes |
//! | [`payment`] | what Blossom sells: settings, prices, and what the agent that is paid is asked |
//! | [`page`] | the web page |
//! | [`metrics`] | names and help texts of Prometheus metrics |
//! | [`networks`] | networks in settings, and the limit of connections by client address |
//! | [`settings`] | names of the engine's limits and policy in configuration files, and the effective configuration |
//!
//! Pure: nothing here reads a file, an environment variable or a clock.

pub mod admin_auth;
pub mod admission;
pub mod agents;
pub mod authorization;
pub mod blossom;
pub mod feature;
pub mod http_response;
mod info;
pub mod invoice_code;
pub mod market;
pub mod metrics;
pub mod networks;
pub mod nip11;
pub mod nip98;
pub mod page;
pub mod payment;
mod relay;
pub mod route;
pub mod settings;

pub use admin_auth::{AdminAuth, AdminRequest};
pub use agents::{AgentRoute, AgentSettings};
pub use blossom::{BlossomRoute, BlossomSettings};
pub use feature::{FEATURES, Feature};
pub use http_response::HttpResponse;
pub use info::Info;
pub use market::{MarketRoute, MarketSettings};
pub use networks::Networks;
pub use nip11::RelayDescription;
pub use payment::{Operation, PaymentOutcome, PaymentRequest, PaymentSettings, Purchase};
pub use route::{Endpoint, Found, Headers, Route, Table};
pub use settings::{LimitsDef, PolicyDef};
