//! A Nostr relay as a pure machine.
//!
//! Bytes, time and randomness go in as arguments and frames come out by polling. Nothing in this crate
//! reads a clock, opens a socket or a file, or spawns a thread; `tests/purity.rs` checks it. A host
//! (`relay-server`) gives the machine sockets, storage and time.
//!
//! | module | role |
//! |---|---|
//! | [`types`] | ids, events, filters, kinds, limits: parsed once, then trusted |
//! | [`wire`] | the borrowed-slice NIP-01 parser, canonical form, errors with offset |
//! | [`verify`] | batches of signature checks and the [`verify::Verifier`] trait; the only place that makes [`verify::Verified`] |
//! | [`policy`] | admission, NIP-42, the read guard, rates and connections by client address |
//! | [`index`] | live subscriptions, inverted by id, author, kind and tag |
//! | [`sql`] | the connection to SQLite that hosts implement |
//! | [`store`] | the [`store::Backend`] trait, the put and scan planners, the memory and SQL backends |
//! | [`reconcile`] | sets of events for NIP-77, and answers about them |
//! | [`relay`] | the machine itself: sessions, ingest, requests, fan-out, outbox |
#![doc(test(attr(deny(warnings))))]

pub mod index;
pub mod policy;
pub mod reconcile;
pub mod relay;
pub mod sql;
pub mod store;
#[cfg(feature = "testing")]
pub mod testing;
pub mod types;
pub mod verify;
pub mod wire;

/// The example of the README, as a doc test.
#[cfg(all(doctest, feature = "libsecp256k1"))]
#[doc = include_str!("../README.md")]
pub struct Readme;
