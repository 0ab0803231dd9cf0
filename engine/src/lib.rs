//! A Nostr relay as a pure machine.
//!
//! Bytes, time and randomness go in as arguments and frames come out by polling. Nothing in this crate
//! reads a clock, opens a socket or a file, or spawns a thread; `tests/purity.rs` checks it. A host
//! (`relay-server`) gives the machine sockets, storage and time.
//!
//! | room | role |
//! |---|---|
//! | [`types`] | ids, events, filters, kinds, limits: parsed once, then trusted |
//! | [`wire`] | the borrowed-slice NIP-01 parser, canonical form, errors with offset |
//! | [`verify`] | the batch seam of signature checks; the only maker of [`verify::Verified`] |
//! | [`policy`] | admission, NIP-42, rates |
//! | [`index`] | live subscriptions, inverted by id, author, kind and tag |
//! | [`sql`] | the connection to SQLite that hosts implement |
//! | [`store`] | the backend seam, the put and scan planners, the memory and SQL backends |
//! | [`relay`] | the machine itself: sessions, ingest, requests, fan-out, outbox |
#![doc(test(attr(deny(warnings))))]

pub mod index;
pub mod policy;
pub mod relay;
pub mod sql;
pub mod store;
#[cfg(feature = "testing")]
pub mod testing;
pub mod types;
pub mod verify;
pub mod wire;
