//! A black-box conformance suite for Blossom servers: one test per rule of the BUDs, of HTTP, and of safety.
//!
//! [`run`] tests any server that is reached over HTTP or HTTPS. `README.md` says how to run it and what its results
//! mean; `tests/` breaks a model server on purpose, rule by rule, to show that each test can fail.

mod blob;
mod context;
pub mod http;
pub mod nostr;
mod origin;
pub mod report;
mod request;
mod rules;
mod suite;

pub use suite::{Check, Options, Rule, Strength, TestError, Tested, rules, run};
