//! A client that compares events with a relay (NIP-77) and copies what one side lacks: a machine without clock, socket and store.
//!
//! | module | role |
//! |---|---|
//! | `session` | a connection without the connection: messages in, messages and work for the store out |
//! | `ranges`, `reconcile`, `pages` | what is compared; a reconciliation; pages where there is none |
//! | `download`, `upload` | what is asked for by id; what is sent |
//! | `frames`, `counts` | messages of clients and relays; what was done |
//! | `backoff`, `information` | when to connect again; what a relay tells about itself |

pub mod backoff;
pub mod counts;
mod download;
pub mod frames;
pub mod information;
mod pages;
pub mod ranges;
mod reconcile;
pub mod session;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;
mod upload;
