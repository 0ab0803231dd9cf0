//! The read guard of NIP-17, NIP-59 and NIP-04: private kinds go to their parties only.

use crate::types::{CanonicalEvent, Filter, Kind, PubKey};

/// Whether filters may be asked by a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// They may; single events can still be hidden by [`may_see`].
    Open,
    /// They ask for guarded kinds alone, and nobody has authenticated.
    NeedsAuth,
    /// They ask for guarded kinds of others alone.
    Restricted,
}

/// Decides over all filters of a request. `keys` are those the connection has authenticated.
pub fn access(filters: &[Filter], guarded_kinds: &[Kind], keys: &[PubKey]) -> Access {
    let mut worst = Access::Open;
    for filter in filters {
        let asks_guarded_only = filter
            .kinds
            .as_ref()
            .is_some_and(|kinds| !kinds.is_empty() && kinds.iter().all(|kind| guarded_kinds.contains(kind)));
        if !asks_guarded_only {
            continue;
        }
        if keys.is_empty() {
            return Access::NeedsAuth;
        }
        let names_me = |value: &[u8]| PubKey::from_hex(value).is_ok_and(|key| keys.contains(&key));
        let to_others = filter
            .tags
            .iter()
            .any(|tag| tag.letter == b'p' && !tag.values.iter().any(|value| names_me(value)));
        let by_others =
            filter.authors.as_ref().is_none_or(|authors| !authors.iter().any(|author| keys.contains(author)));
        if to_others && by_others {
            worst = Access::Restricted;
        }
    }
    worst
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

    #[test]
    fn only_questions_for_guarded_kinds_alone_are_refused() {
        let guarded = [1059];
        let mixed = Filter { kinds: Some([1, 1059].into()), ..Filter::default() };
        let by_me = Filter { authors: Some([ME].into()), ..to(OTHER) };
        let cases: [(&str, Vec<Filter>, &[PubKey], Access); 8] = [
            ("everything", vec![Filter::default()], &[], Access::Open),
            ("mixed kinds", vec![mixed.clone()], &[], Access::Open),
            ("mine, unauthenticated", vec![to(ME)], &[], Access::NeedsAuth),
            ("mine", vec![to(ME)], &[ME], Access::Open),
            ("another's", vec![to(OTHER)], &[ME], Access::Restricted),
            ("another's beside an open one", vec![mixed, to(OTHER)], &[ME], Access::Restricted),
            ("sent by me", vec![by_me], &[ME], Access::Open),
            ("one of several keys", vec![to(OTHER)], &[ME, OTHER], Access::Open),
        ];
        for (name, filters, keys, expected) in cases {
            assert_eq!(access(&filters, &guarded, keys), expected, "{name}");
        }
    }
}
