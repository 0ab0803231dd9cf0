//! What both hosts serve over HTTP, and what they tell about themselves, from the settings that are enforced.
//!
//! | module | role |
//! |---|---|
//! | [`room`] | the parts of the house, [`ROOMS`]: each adds endpoints, NIPs, settings and a section of the page |
//! | [`route`] | the routing table: method, path and headers to a [`Route`] |
//! | [`answer`] | answers that need nothing of a host: documents, errors, CORS |
//! | [`nip11`] | the document for clients |
//! | [`nip98`] | requests that a Nostr key has signed |
//! | [`operator`] | who may read what is the operator's |
//! | [`page`] | the page for people |
//! | [`metrics`] | names of the numbers that both hosts tell |
//! | [`settings`] | names of the engine's bounds and policy in configuration files, and the effective configuration |
//!
//! Only values and texts: nothing here reads a file, a variable or a clock.

pub mod answer;
mod info;
pub mod metrics;
pub mod nip11;
pub mod nip98;
pub mod operator;
pub mod page;
mod relay;
pub mod room;
pub mod route;
pub mod settings;

pub use answer::Answer;
pub use info::Info;
pub use nip11::About;
pub use operator::{Operator, OperatorRequest};
pub use room::{ROOMS, Room};
pub use route::{Endpoint, Found, Headers, Route, Table};
pub use settings::{LimitsDef, PolicyDef};
