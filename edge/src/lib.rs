//! The relay on Cloudflare's edge: a Worker entry and a Durable Object around the pure engine.
//!
//! It holds no relay rule. The Worker receives HTTP requests and WebSocket upgrades and passes them to the Durable Object
//! of a shard; the object runs the engine's machine over hibernating sockets and SQLite.
//!
//! | module | role |
//! |---|---|
//! | [`settings`] | the Worker's variables, parsed and validated |
//! | [`relay_key`] | the relay's own key, of which only the public key is shown |
//! | [`shard`] | which shard a public key belongs to, and the name of its object |
//! | [`object`] | the host of one shard, generic over sockets and SQLite; tested and fuzzed natively |
//! | `agent` | the host of one agent, likewise; in builds with the feature `libsecp256k1` |
//! | [`blossom`] | what the Worker and the index of blobs say to each other |
//! | `market` | the object of the registry of job providers, likewise |
//! | [`used_auth_events`] | signed requests that an object has carried out, so that none is carried out twice |
//! | [`metrics`] | the metrics of all shards in Prometheus' text format |
//! | `worker` | (wasm32 only) the above over workerd: entry, sockets, SQL, timers, alarms |
//!
//! A panic in one Durable Object ends every object of its isolate, so nothing here unwraps or indexes.
#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

#[cfg(feature = "libsecp256k1")]
pub mod agent;
pub mod blossom;
#[cfg(feature = "libsecp256k1")]
pub mod market;
pub mod metrics;
pub mod object;
pub mod relay_key;
pub mod settings;
pub mod shard;
pub mod used_auth_events;
#[cfg(target_arch = "wasm32")]
mod worker;
