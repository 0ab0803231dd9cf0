//! Measures relays: generates events, drives any relay over its WebSocket, reads the CPU of any process.
//!
//! Nothing here shares code with the engine, so that an answer checked here is checked by other hands:
//! events are read with `serde_json`, filters are plain loops, frames go through `tungstenite`.

pub mod abuse;
pub mod client;
pub mod corpus;
pub mod fanout;
pub mod filter;
pub mod generate;
pub mod hex;
pub mod load;
pub mod process;
pub mod publish;
pub mod query;
pub mod shapes;
pub mod stats;
pub mod subscriptions;
