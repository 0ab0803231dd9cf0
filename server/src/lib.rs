//! The native host of the relay: sockets, storage, configuration, command line, metrics.
//!
//! It holds no relay rule: those live in `relay-engine`, whose machine this crate feeds and drains.

pub mod cli;
pub mod config;
pub mod lmdb;
