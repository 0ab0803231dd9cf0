//! Generators, a naive oracle and the tests for storage backends (feature `testing`), for this crate's tests and
//! for other crates' tests, benches and fuzz targets.
//!
//! The oracle shares no code with the store and the index: it has a parser and loops of its own.

mod backend_tests;
mod differential;
mod drain;
mod event_generator;
mod failing;
pub mod index_ops;
mod oracle;
mod posting_counts;
mod posting_sums;
mod real;
pub mod semantics;
pub mod signing;
#[cfg(feature = "testing-sqlite")]
mod sqlite;

pub use backend_tests::backend_tests;
pub use differential::{Groups, differential, differential_over};
pub use drain::{drained, settle};
pub use event_generator::{Draft, EventGenerator, Rng, event_of_json, filter_over};
pub use failing::FailingBackend;
pub use oracle::{Oracle, OracleAnswer, OracleCount, OracleOutcome, OracleViewer, filter_json};
pub use posting_counts::{CountsCompared, check_posting_counts};
pub use posting_sums::{SumsCompared, check_posting_sums};
pub use real::real_event_lines;
#[cfg(feature = "testing-sqlite")]
pub use sqlite::Sqlite;
