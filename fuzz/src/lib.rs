//! Everything that is thrown at the relay to break it, each program with a reference that it must agree with.
//!
//! | function | bytes are | held against |
//! |---|---|---|
//! | [`frames`] | one client message | `serde_json` |
//! | [`events`] | one event object | `serde_json` |
//! | [`filters`] | one filter object | `serde_json` |
//! | [`index_ops`] | subscriptions, their ends, events | every filter compared with every event |
//! | [`store_ops`] | puts, deletions, scans with budgets, failures, on memory and SQL | the naive oracle |
//! | [`edge`] | what happens to an object of the edge, its loss of memory included | no panic, and rest |
//! | [`schnorr`] | claims, signed, broken and mixed | libsecp256k1 |
//! | [`machine`] | a schedule of clients, shards, writer and faults | the history of the store, then the oracle |
//!
//! Each takes any bytes, never panics unless the relay is wrong, and uses memory in proportion to the bytes.
//! The targets of `fuzz_targets` hand them what libFuzzer makes up; `tests/replay.rs` hands them the corpus,
//! on stable Rust. [`machine`] is the simulator of [`relay_simulator`] with its choices made by bytes. Nothing here reads a clock or a random source: the same bytes or seed are the same run.

mod edge;
mod events;
mod filters;
mod frames;
mod index_ops;
pub mod reference;
mod schnorr;
mod sqlite;
mod store_ops;

pub use edge::{edge, edge_seeded};
pub use events::events;
pub use filters::filters;
pub use frames::frames;
pub use index_ops::index_ops;
pub use schnorr::schnorr;
pub use store_ops::store_ops;

/// Runs the simulator with its choices made by `data`.
///
/// # Panics
/// If the relay breaks a promise.
pub fn machine(data: &[u8]) {
    relay_simulator::simulate_bytes(data);
}

/// The main function of a target where there is no libFuzzer: hands it each file that the command line names.
///
/// # Panics
/// If a file cannot be read, or if the target does.
pub fn replay(target: fn(&[u8])) {
    for file in std::env::args_os().skip(1) {
        let data = std::fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        target(&data);
    }
}
