//! Blossom (BUD-01 to BUD-12, and the drafts BUD-13 and BUD-14) as a pure machine: what requests mean, who may do what, which
//! blobs there are. No clock, no I/O, no threads. Hosts move the bytes.
//!
//! | module | role |
//! |---|---|
//! | [`blob`] | hashes and blobs |
//! | [`media`] | what `/media` does to pictures |
//! | [`mime`] | MIME types and extensions |
//! | [`descriptor`] | what responses say about a blob (BUD-02, NIP-94) |
//! | [`token`] | tokens (BUD-11) |
//! | [`page`] | the page for browsers |
//! | [`exchange`] | one request, from its head to its response, as steps that a host carries out |
//! | [`index`] | which blobs there are and whose, over SQL; all changes are serialised by it |
//! | `testing` | an SQLite database and a host in memory, for tests of this crate and of others (feature `testing`) |

pub mod blob;
pub mod descriptor;
pub mod exchange;
pub mod index;
pub mod media;
pub mod mime;
pub mod page;
#[cfg(feature = "testing")]
pub mod testing;
pub mod token;

#[cfg(all(doctest, feature = "testing"))]
#[doc = include_str!("../README.md")]
struct Readme;

pub use blob::{Blob, Sha256};
pub use exchange::{Context, Exchange, Head, Input, Step};
pub use index::{Command, Index, Outcome};
