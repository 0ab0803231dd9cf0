//! The relay on Cloudflare's edge: a Worker entry and a Durable Object around the pure engine.
//!
//! It holds no relay rule. A Worker takes HTTP and WebSocket and passes them to the Durable Object of a shard;
//! the object feeds the machine and carries out what it asks for, over hibernating sockets and SQLite.
//!
//! | room | role |
//! |---|---|
//! | [`settings`] | variables of the Worker, checked |
//! | [`own_key`] | the relay's own key, of which only the public half is told |
//! | [`shard`] | which shard a public key belongs to, and what its object is called |
//! | [`object`] | one shard's host, over any sockets and any SQLite; tested and fuzzed natively |
//! | [`metrics`] | numbers of shards, as Prometheus reads them |
//! | `worker` | (wasm32 only) the same over workerd: entry, sockets, SQL, timers, alarms |
//!
//! A panic in one Durable Object takes every object of its isolate with it: nothing here unwraps.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

pub mod metrics;
pub mod object;
pub mod own_key;
pub mod settings;
pub mod shard;
#[cfg(target_arch = "wasm32")]
mod worker;
