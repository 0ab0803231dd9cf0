//! A naive oracle of queries: loops over events and filters as JSON.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::conn::{Conn, as_list};
use crate::testing::signing::Signed;
use crate::types::Kind;

/// Whether `event` matches; `limit` is ignored.
pub(super) fn matches(filter: &Value, event: &Signed) -> bool {
    let fields = filter.as_object().expect("a filter");
    fields.iter().all(|(name, wanted)| {
        let any = |found: &dyn Fn(&Value) -> bool| wanted.as_array().expect("a list").iter().any(found);
        match name.as_str() {
            "ids" => any(&|id| *id == event.id),
            "authors" => any(&|author| *author == event.pubkey),
            "kinds" => any(&|kind| *kind == event.kind),
            "since" => event.created_at >= wanted.as_u64().expect("a second"),
            "until" => event.created_at <= wanted.as_u64().expect("a second"),
            "limit" => true,
            "#d" if has_empty_d(event) && any(&|d| *d == "") => true,
            tag => event.tags.iter().any(|tag_of_event| match &tag_of_event[..] {
                [name, value, ..] => *name == tag[1..] && any(&|wanted| *wanted == *value),
                _ => false,
            }),
        }
    })
}

/// Whether the event's address (NIP-01) has an empty `d`, which an empty `#d` matches even without the tag.
fn has_empty_d(event: &Signed) -> bool {
    let d = event.tags.iter().find(|tag| tag.len() > 1 && tag[0] == "d").map_or("", |tag| &tag[1]);
    match event.kind {
        0 | 3 | 10_000..20_000 => true,
        30_000..40_000 => d.is_empty(),
        _ => false,
    }
}

/// The events that the read guard withholds from a connection: those of guarded kinds of which none of its keys is the
/// author or in a `p` tag.
pub(super) struct Guard {
    pub(super) kinds: Vec<Kind>,
    /// Authenticated keys of the connection.
    pub(super) keys: Vec<String>,
}

impl Guard {
    /// Whether `filter` can match such an event, whatever is stored.
    fn may_match_withheld(&self, filter: &Value) -> bool {
        let list = |name: &str| filter.get(name).map(|list| list.as_array().expect("a list"));
        let asks_guarded = match list("kinds") {
            Some(kinds) => kinds.iter().any(|kind| self.kinds.iter().any(|guarded| *kind == *guarded)),
            None => !self.kinds.is_empty(),
        };
        let is_mine = |key: &Value| self.keys.iter().any(|viewer_key| *key == *viewer_key);
        let names_me_alone = |name: &str| list(name).is_some_and(|list| list.iter().all(is_mine));
        let matches_nothing = filter.as_object().expect("a filter").values().any(|value| *value == json!([]))
            || filter["since"].as_u64().unwrap_or(0) > filter["until"].as_u64().unwrap_or(u64::MAX);
        asks_guarded && !matches_nothing && !names_me_alone("authors") && !names_me_alone("#p")
    }

    /// Whether an answer to `filters` may be incomplete, as far as a client can know; `events` are all that it may see. If all
    /// requested ids were sent, it is complete.
    fn may_be_incomplete(&self, filters: &[Value], events: &[Signed]) -> bool {
        filters.iter().any(|filter| {
            let found = events.iter().filter(|event| matches(filter, event)).count();
            self.may_match_withheld(filter) && ids_of(filter).is_none_or(|ids| ids.len() != found)
        })
    }

    /// Whether a count may be incomplete.
    pub(super) fn may_lack_of_count(&self, filters: &[Value], count: usize) -> bool {
        let ids: Option<Vec<BTreeSet<String>>> = filters.iter().map(ids_of).collect();
        let ids: Option<BTreeSet<String>> = ids.map(|lists| lists.into_iter().flatten().collect());
        filters.iter().any(|filter| self.may_match_withheld(filter))
            && ids.is_none_or(|ids| ids.len() != count)
    }
}

fn ids_of(filter: &Value) -> Option<BTreeSet<String>> {
    let ids = filter.get("ids")?.as_array().expect("a list");
    Some(ids.iter().map(|id| id.as_str().expect("an id").to_owned()).collect())
}

/// Sorts in the order of answers.
pub(super) fn sorted(mut events: Vec<&Signed>) -> Vec<&Signed> {
    events.sort_by(|a, b| b.created_at.cmp(&a.created_at).then_with(|| a.id.cmp(&b.id)));
    events.dedup();
    events
}

/// The expected answer to a REQ over `events`: ids in order, and whether these are all matches.
pub(super) fn expected(filters: &[Value], events: &[Signed]) -> (Vec<String>, bool) {
    let mut picked = Vec::new();
    let mut all = Vec::new();
    for filter in filters {
        let found = sorted(events.iter().filter(|event| matches(filter, event)).collect());
        all.extend(found.iter().copied());
        let limit = filter["limit"].as_u64().map_or(usize::MAX, |limit| limit as usize);
        picked.extend(found.into_iter().take(limit));
    }
    let (picked, all) = (sorted(picked), sorted(all));
    (picked.iter().map(|event| event.id.clone()).collect(), picked.len() == all.len())
}

/// Sends a REQ and compares the answer with the oracle's: order, limits, no duplicates, whole events, and the right hint.
#[track_caller]
pub(super) fn check(conn: &mut Conn, filters: Value, events: &[Signed]) {
    let answer = conn.ask(filters.clone());
    let filters = as_list(filters);
    let (ids, is_all) = expected(&filters, events);
    assert_eq!(answer.ids(), ids, "the answer to {}", json!(filters));
    for event in &answer.events {
        let expected =
            events.iter().find(|expected| event["id"] == expected.id).expect("an event of the case");
        assert_eq!(*event, expected.value(), "the event as it was published");
    }
    // With `limit: 0` the relay need not read the store, but a hint must be right.
    let may_be_left_out = answer.hint.is_none() && filters.iter().any(|filter| filter["limit"] == 0);
    let hint = match is_all {
        true if conn.guard.may_be_incomplete(&filters, events) => None,
        true => Some("finish"),
        false => Some("more"),
    };
    assert!(
        may_be_left_out || answer.hint.as_deref() == hint,
        "{:?} where {hint:?} should be the hint (NIP-67) of {}",
        answer.hint,
        json!(filters)
    );
}
