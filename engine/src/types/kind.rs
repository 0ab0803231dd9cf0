//! Event kinds and the classes NIP-01 sorts them into.

/// An event kind, 0 to 65535.
pub type Kind = u16;

/// How long events of a kind live, by NIP-01.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Every event is kept.
    Regular,
    /// One event is kept for each (author, kind).
    Replaceable,
    /// Never kept, only delivered live: each time it comes and whatever its age. NIP-01 bounds neither, and a relay that
    /// does not keep events does not know which it has seen. `created_at_age_seconds_max` and NIP-40 hold for them too.
    Ephemeral,
    /// One event is kept for each (author, kind, `d` tag).
    Addressable,
}

impl Class {
    /// The class of `kind`. Kinds that NIP-01 leaves open (40000 and above, 45-999) are regular.
    pub const fn of(kind: Kind) -> Class {
        match kind {
            0 | 3 | 10_000..=19_999 => Class::Replaceable,
            20_000..=29_999 => Class::Ephemeral,
            30_000..=39_999 => Class::Addressable,
            _ => Class::Regular,
        }
    }
}

/// NIP-43, «add user»: the keys in its `p` tags are members of the relay whose key has signed it, until it expires (NIP-40) if it does.
pub const KIND_ADD_USER: Kind = 8_000;
/// NIP-43, «remove user»: the keys in its `p` tags are members no more.
pub const KIND_REMOVE_USER: Kind = 8_001;
/// Job requests (NIP-90) for a membership of the relay: ours, NIP-90 names none.
pub const KIND_MEMBERSHIP_REQUEST: Kind = 5_943;

/// Whether events of this kind ask for other events to go and stay away: deletion requests (NIP-09) and requests to
/// vanish (NIP-62). A store keeps them after their expiration and does not serve them: their effect does not end, and a
/// relay that imports everything that is exported here must refuse what is refused here.
pub const fn is_removal_request(kind: Kind) -> bool {
    matches!(kind, 5 | 62)
}

/// Whether events of this kind are lists, whose tags are what they are about: follows, the replaceable kinds from 10000 on (the
/// standard lists of NIP-51 among them), and the addressable ones that hold lists: NIP-51's sets, calendars (NIP-52), badges worn
/// (NIP-58), administrators and members of a group (NIP-29).
pub const fn is_list(kind: Kind) -> bool {
    matches!(
        kind,
        3 | 10_000..=19_999
            | 30_000..=30_008
            | 30_015
            | 30_030
            | 30_063
            | 30_267
            | 31_924
            | 39_001
            | 39_002
            | 39_089
            | 39_092
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_boundary_falls_on_its_side() {
        let cases = [
            (0, Class::Replaceable),
            (1, Class::Regular),
            (2, Class::Regular),
            (3, Class::Replaceable),
            (4, Class::Regular),
            (9_999, Class::Regular),
            (10_000, Class::Replaceable),
            (19_999, Class::Replaceable),
            (20_000, Class::Ephemeral),
            (29_999, Class::Ephemeral),
            (30_000, Class::Addressable),
            (39_999, Class::Addressable),
            (40_000, Class::Regular),
            (65_535, Class::Regular),
        ];
        for (kind, class) in cases {
            assert_eq!(Class::of(kind), class, "kind {kind}");
        }
    }
}
