//! The reference: `serde_json` and simple loops on the same bytes.
//!
//! It is slow and simple on purpose, and calls none of the code that it checks; it only builds values of [`relay_engine::types`]
//! for the comparison.

mod event;
mod filter;
mod json;

pub use event::ReferenceEvent;
pub use filter::reference_filter;
pub(crate) use json::dropped_value;
pub use json::{Object, ReferenceResult, elements, string};
