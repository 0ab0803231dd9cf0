//! A client that compares events with a relay (NIP-77) and copies what one side lacks: a machine without clock, socket and store.
//!
//! | module | role |
//! |---|---|
//! | `session` | a state machine for one connection, without the socket: messages in, messages and work for the store out |
//! | `ranges`, `reconcile`, `pages` | what is compared; a reconciliation; pages where there is none |
//! | `download`, `upload` | what is asked for by id; what is sent |
//! | `frames` | messages of clients and relays |
//! | `counts`, `outcome_counts` | what was done; what the store made of events |
//! | `auth` | authentication to a relay (NIP-42) |
//! | `backoff`, `information` | when to connect again; what a relay tells about itself |

pub mod auth;
pub mod backoff;
pub mod counts;
mod download;
pub mod frames;
pub mod information;
pub mod outcome_counts;
mod pages;
pub mod ranges;
mod reconcile;
pub mod session;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;
pub mod upload;
