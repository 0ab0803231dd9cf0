//! The native host of the relay.

pub mod lmdb;
