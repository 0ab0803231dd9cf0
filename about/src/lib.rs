//! What every host of the relay says about itself, from the settings that are enforced.
//!
//! The names of the engine's bounds and policy in configuration files, the NIP-11 document for clients and the
//! page for people, and the names of the numbers that they tell. Only values and texts: nothing here reads a file, a variable or a clock.

mod documents;
mod engine;
mod info;
pub mod metrics;

pub use documents::{About, ICON_SVG};
pub use engine::{LimitsDef, PolicyDef};
pub use info::Info;
