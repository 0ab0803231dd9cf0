//! Stored events: the seam backends fill, and the planners that work on any of them.
//!
//! A [`Backend`] knows events by number ([`Seq`]) and terms ([`Term`]) by their postings, newest first; it
//! decides nothing. What a put replaces, deletes or refuses ([`put`]), and which terms answer a filter in
//! which order ([`scan`]), is planned here once, for all backends.

mod backend;
pub mod keyed;
pub mod sql;
mod terms;

pub use backend::{
    Backend, Bound, Posting, Rank, Reader, Seq, Stats, StoreError, Tombstone, Writer,
};
pub use terms::{Term, TermClasses, terms_of};
