//! The market: which providers of jobs (NIP-90) there are, and what signed events say of them. A pure machine over SQL: no clock,
//! no I/O, no threads.
//!
//! | module | role |
//! |---|---|
//! | [`evidence`] | what an event proves about a job |
//! | [`receipt`], [`payments`] | zap receipts as evidence, and which jobs they pay |
//! | [`figures`] | jobs of a provider, and the figures of them: the definition, which `relay market verify` recomputes |
//! | [`offer`] | announcements (kind 31990) and heartbeats (kind 11998) |
//! | [`registry`] | the tables: fed by the relay's stream, asked by requests |
//! | [`proof`] | the document from which anybody can recompute the figures, and how it is read again |
//! | [`http`] | requests and their responses, JSON and the page |
//! | `testing` | an SQLite database in memory (feature `testing`) |

pub mod evidence;
pub mod figures;
pub mod http;
pub mod offer;
pub mod payments;
pub mod proof;
pub mod receipt;
pub mod registry;
#[cfg(feature = "testing")]
pub mod testing;

pub use figures::{Figures, Job};
pub use registry::Registry;
