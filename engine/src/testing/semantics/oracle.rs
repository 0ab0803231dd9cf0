//! The simple version of a query: plain loops over events and filters as JSON.

use serde_json::{Value, json};

use super::conn::{Conn, as_list};
use crate::testing::signing::Signed;

/// Whether `event` matches; `limit` plays no part.
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
            tag => event.tags.iter().any(|own| match &own[..] {
                [name, value, ..] => *name == tag[1..] && any(&|wanted| *wanted == *value),
                _ => false,
            }),
        }
    })
}

/// In the order of answers.
pub(super) fn sorted(mut events: Vec<&Signed>) -> Vec<&Signed> {
    events.sort_by(|a, b| b.created_at.cmp(&a.created_at).then_with(|| a.id.cmp(&b.id)));
    events.dedup();
    events
}

/// What a REQ over `events` must be answered with: ids in order, and whether that is all that matches.
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

/// Asks, and holds the answer against the simple version: order, limits, no repeats, whole events, and a
/// hint that is there and right.
#[track_caller]
pub(super) fn check(conn: &mut Conn, filters: Value, events: &[Signed]) {
    let answer = conn.ask(filters.clone());
    let filters = as_list(filters);
    let (ids, is_all) = expected(&filters, events);
    assert_eq!(answer.ids(), ids, "the answer to {}", json!(filters));
    for event in &answer.events {
        let own = events.iter().find(|own| event["id"] == own.id).expect("an event of the case");
        assert_eq!(*event, own.value(), "the event as it was published");
    }
    // `limit: 0` asks for an EOSE at once, so nobody need have looked; what is said must be right all the same.
    let may_be_left_out = answer.hint.is_none() && filters.iter().any(|filter| filter["limit"] == 0);
    let hint = if is_all { "finish" } else { "more" };
    assert!(
        may_be_left_out || answer.hint.as_deref() == Some(hint),
        "{:?} where {hint:?} should be the hint (NIP-67) of {}",
        answer.hint,
        json!(filters)
    );
}
