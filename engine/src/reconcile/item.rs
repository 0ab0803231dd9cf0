//! What a set has of an event.

use crate::types::{EventId, Timestamp};

/// An event in a set, ordered by `created_at`, then by id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Item {
    /// Its `created_at`.
    pub created_at: Timestamp,
    /// Its id.
    pub id: EventId,
}
