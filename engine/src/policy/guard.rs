//! The read guard: private messages (NIP-17, NIP-59, NIP-04) are sent to their authors and recipients only.

use crate::types::{CanonicalEvent, Filter, Kind, PubKey};

/// Whether a connection may send these filters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// They may; single events can still be withheld by [`may_see`].
    Open,
    /// They ask for guarded kinds by name, and the client has not authenticated.
    NeedsAuth,
    /// They name guarded kinds, and only events from and to other keys.
    Restricted,
}

/// Decides over all filters of a request. `keys` are those the connection has authenticated.
pub fn access(filters: &[Filter], guarded_kinds: &[Kind], keys: &[PubKey]) -> Access {
    let mut worst = Access::Open;
    for filter in filters {
        let names_guarded =
            filter.kinds.as_ref().is_some_and(|kinds| kinds.iter().any(|kind| guarded_kinds.contains(kind)));
        if !names_guarded {
            continue;
        }
        if keys.is_empty() {
            return Access::NeedsAuth;
        }
        let to_others =
            filter.tags.iter().any(|tag| tag.letter == b'p' && !tag.values.iter().any(is_of(keys)));
        let by_others =
            filter.authors.as_ref().is_none_or(|authors| !authors.iter().any(|author| keys.contains(author)));
        if to_others && by_others {
            worst = Access::Restricted;
        }
    }
    worst
}

/// Whether `filter` can match an event that a connection that has authenticated `keys` may not read ([`may_see`]).
/// Decided by the filter alone: what a reply says of it is the same whether or not there is such an event.
pub fn may_match_withheld(filter: &Filter, guarded_kinds: &[Kind], keys: &[PubKey]) -> bool {
    let asks_guarded = match &filter.kinds {
        Some(kinds) => kinds.iter().any(|kind| guarded_kinds.contains(kind)),
        None => !guarded_kinds.is_empty(),
    };
    let by_me = filter.authors.as_ref().is_some_and(|authors| authors.iter().all(|key| keys.contains(key)));
    let to_me = filter.tags.iter().any(|tag| tag.letter == b'p' && tag.values.iter().all(is_of(keys)));
    asks_guarded && !by_me && !to_me && !filter.matches_nothing()
}

/// Whether the value of a `p` tag is one of `keys`.
fn is_of(keys: &[PubKey]) -> impl Fn(&Box<[u8]>) -> bool {
    |value| PubKey::from_hex(value).is_ok_and(|key| keys.contains(&key))
}

/// Whether a connection that has authenticated `keys` may be sent `event`.
pub fn may_see(event: CanonicalEvent<'_>, guarded_kinds: &[Kind], keys: &[PubKey]) -> bool {
    if !guarded_kinds.contains(&event.kind()) {
        return true;
    }
    if keys.is_empty() {
        return false;
    }
    keys.contains(&event.pubkey())
        || event.tags().indexed().any(|(letter, value)| {
            letter == b'p' && PubKey::from_hex(&value).is_ok_and(|key| keys.contains(&key))
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::TagFilter;

    const ME: PubKey = PubKey([1; 32]);
    const OTHER: PubKey = PubKey([2; 32]);

    fn to(key: PubKey) -> Filter {
        Filter {
            kinds: Some([1059].into()),
            tags: [TagFilter { letter: b'p', values: [key.to_hex()[..].into()].into() }].into(),
            ..Filter::default()
        }
    }

    fn named(kinds: &[Kind]) -> Filter {
        Filter { kinds: Some(kinds.into()), ..Filter::default() }
    }

    #[test]
    fn requests_that_name_guarded_kinds_need_an_author_or_recipient() {
        let guarded = [1059];
        let by_me = Filter { authors: Some([ME].into()), ..to(OTHER) };
        let mixed_to_other = Filter { kinds: Some([4, 1059].into()), ..to(OTHER) };
        let cases: [(&str, Vec<Filter>, &[PubKey], Access); 12] = [
            ("everything", vec![Filter::default()], &[], Access::Open),
            ("open kinds", vec![named(&[1, 7])], &[], Access::Open),
            ("mixed kinds, unauthenticated", vec![named(&[1, 1059])], &[], Access::NeedsAuth),
            ("mixed kinds", vec![named(&[1, 1059])], &[ME], Access::Open),
            ("mine, unauthenticated", vec![to(ME)], &[], Access::NeedsAuth),
            ("mine beside an open one, unauthenticated", vec![named(&[1]), to(ME)], &[], Access::NeedsAuth),
            ("mine", vec![to(ME)], &[ME], Access::Open),
            ("another's", vec![to(OTHER)], &[ME], Access::Restricted),
            ("another's, with open kinds", vec![mixed_to_other], &[ME], Access::Restricted),
            ("another's beside an open one", vec![named(&[1, 1059]), to(OTHER)], &[ME], Access::Restricted),
            ("sent by me", vec![by_me], &[ME], Access::Open),
            ("one of several keys", vec![to(OTHER)], &[ME, OTHER], Access::Open),
        ];
        for (name, filters, keys, expected) in cases {
            assert_eq!(access(&filters, &guarded, keys), expected, "{name}");
        }
    }

    #[test]
    fn a_request_is_unrestricted_if_all_its_matches_are_ones_own_or_of_public_kinds() {
        let guarded = [1059];
        let any_kind_to = |key| Filter { kinds: None, ..to(key) };
        let by = |keys: &[PubKey]| Filter { authors: Some(keys.into()), ..Filter::default() };
        let to_both = Filter {
            tags: [TagFilter { letter: b'p', values: [ME, OTHER].map(|key| key.to_hex()[..].into()).into() }]
                .into(),
            ..Filter::default()
        };
        let cases: [(&str, Filter, &[PubKey], bool); 13] = [
            ("everything", Filter::default(), &[], true),
            ("everything, authenticated", Filter::default(), &[ME], true),
            ("open kinds", named(&[1, 7]), &[], false),
            ("mixed kinds", named(&[1, 1059]), &[ME], true),
            ("to me, unauthenticated", any_kind_to(ME), &[], true),
            ("to me", any_kind_to(ME), &[ME], false),
            ("to another", any_kind_to(OTHER), &[ME], true),
            ("to me and another", to_both.clone(), &[ME], true),
            ("to me and another, who is me too", to_both, &[ME, OTHER], false),
            ("by me", by(&[ME]), &[ME], false),
            ("by me and another", by(&[ME, OTHER]), &[ME], true),
            ("no author at all", by(&[]), &[], false),
            ("no time at all", Filter { since: Some(2), until: Some(1), ..Filter::default() }, &[], false),
        ];
        for (name, filter, keys, expected) in cases {
            assert_eq!(may_match_withheld(&filter, &guarded, keys), expected, "{name}");
            assert!(!may_match_withheld(&filter, &[], keys), "{name}, without a guard");
        }
    }
}
