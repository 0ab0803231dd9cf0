//! A load generator for relays: generates events, drives any relay over its WebSocket, reads the CPU time of any process.
//!
//! Nothing here shares code with the engine, so that the engine's answers are checked by independent code: events are
//! parsed with `serde_json`, filters are matched by plain loops, frames are read by `tungstenite`.

pub mod abuse;
pub mod blobs;
pub mod client;
pub mod corpus;
pub mod fanout;
pub mod filter;
pub mod generate;
pub mod hex;
pub mod jobs;
pub mod load;
pub mod process;
pub mod publish;
pub mod query;
pub mod reconcile;
pub mod shapes;
pub mod stats;
pub mod subscriptions;
