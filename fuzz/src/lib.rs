//! Fuzz targets for the relay, each with a reference with which the relay must agree.
//!
//! | target | bytes are | compared with |
//! |---|---|---|
//! | [`frames`] | one client message | `serde_json` |
//! | [`events`] | one event object | `serde_json` |
//! | [`filters`] | one filter object | `serde_json` |
//! | [`index_ops`] | subscriptions added and removed, events | every filter compared with every event |
//! | [`reconcile`] | changes of a set, and a message of NIP-77 about it | a sorted set, the crate `negentropy` |
//! | [`store_ops`] | puts, deletions, scans with budgets, failures, on memory and SQL | the naive oracle |
//! | [`edge`] | events of a Durable Object, loss of memory included | no panic, and it becomes idle |
//! | [`schnorr`] | claims, valid, invalid and mixed | libsecp256k1 |
//! | [`machine`] | a schedule of clients, shards, writer and faults | the history of the store, then the oracle |
//!
//! Each accepts any bytes, panics only if the relay is wrong, and uses memory in proportion to the bytes. The targets in
//! `fuzz_targets` run them with inputs of libFuzzer, `tests/replay.rs` with the corpora, on stable Rust. [`machine`] is the
//! simulator of [`relay_simulator`] with its choices made by bytes. Nothing here reads a clock or a random source, so the same
//! bytes or seed give the same run.

mod edge;
mod events;
mod filters;
mod frames;
mod index_ops;
mod reconcile;
pub mod reference;
mod schnorr;
mod store_ops;

pub use edge::{edge, edge_seeded};
pub use events::events;
pub use filters::filters;
pub use frames::frames;
pub use index_ops::index_ops;
pub use reconcile::reconcile;
pub use schnorr::schnorr;
pub use store_ops::store_ops;

/// Runs the simulator with its choices made by `data`.
///
/// # Panics
/// If a check fails.
pub fn machine(data: &[u8]) {
    relay_simulator::simulate_bytes(data);
}

/// The main function of a target without libFuzzer: runs it on each file that the command line names.
///
/// # Panics
/// If a file cannot be read, or if the target does.
pub fn replay(target: fn(&[u8])) {
    for file in std::env::args_os().skip(1) {
        let data = std::fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        target(&data);
    }
}
