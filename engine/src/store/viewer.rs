//! The viewers of stored events. The rules (NIP-17's read guard, for one) are in `policy`; this trait lets scans, counts
//! and replays apply them, so that a viewer is answered only what it may see.

use crate::types::{CanonicalEvent, Filter, Kind};

/// A client, or part of the host, that asks for stored events.
pub trait Viewer {
    /// The kinds of which it may not see every event.
    fn guarded_kinds(&self) -> &[Kind];

    /// Whether it may see some event of these kinds.
    fn may_see_guarded(&self) -> bool {
        true
    }

    /// Whether it may see every event of this kind. Then events need not be read to know, and
    /// [`Viewer::sees`] is not asked.
    fn sees_all_of(&self, kind: Kind) -> bool {
        !self.guarded_kinds().contains(&kind)
    }

    /// Whether it may see this event.
    fn sees(&self, event: CanonicalEvent<'_>) -> bool;

    /// Whether it may see all that `filter` can match, decided by the filter alone. Where it may not, no answer says
    /// that it is complete, whether or not anything was withheld.
    fn sees_all_matches(&self, filter: &Filter) -> bool;
}

/// The host itself, which may read every event.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unrestricted;

impl Viewer for Unrestricted {
    fn guarded_kinds(&self) -> &[Kind] {
        &[]
    }

    fn sees(&self, _: CanonicalEvent<'_>) -> bool {
        true
    }

    fn sees_all_matches(&self, _: &Filter) -> bool {
        true
    }
}
