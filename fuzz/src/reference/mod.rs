//! The other opinion: what `serde_json` and plain loops say about the same bytes.
//!
//! Slow and plain on purpose. Nothing here calls the code that it judges; it only builds the values of
//! [`relay_engine::types`] to compare with.

mod event;
mod filter;
mod json;

pub use event::ReferenceEvent;
pub use filter::reference_filter;
pub(crate) use json::dropped_value;
pub use json::{Object, Opinion, elements, string};
