//! Filters with hundreds of authors and ids, for which the planner makes an ordered scan, compared with sorting all
//! matches.

use std::collections::HashMap;

use super::ask;
use crate::store::{Backend, Completeness, Op, ScanLimits, Unrestricted, commit};
use crate::testing::{Draft, EventGenerator, Rng};
use crate::types::{Event, EventId, Filter, Kind, PubKey, TagFilter, Timestamp};

/// Authors with events; 200 more have none.
const AUTHORS: u64 = 56;

pub(super) fn run<B: Backend>(make: &impl Fn() -> B) {
    let mut rng = Rng::new(11);
    let backend = make();
    let mut drafts: Vec<Draft> = Vec::new();
    for n in 0..2_500 {
        // Authors with low numbers have most events; ten events each have the same time.
        let author = rng.below(AUTHORS).min(rng.below(AUTHORS)).min(rng.below(AUTHORS)) as u8;
        let kind = *rng.pick(&[1, 1, 1, 7, 6, 0]);
        drafts.push(
            Draft::new(author, kind, 1_000 + n / 10)
                .content(&n.to_string())
                .tag(&["t", &format!("{}", n % 97)]),
        );
    }
    // An author with one very old event, which an ordered scan reaches last.
    drafts.extend((0..5).map(|n| Draft::new(200, 1, n)));
    let ops: Vec<Op> = drafts.iter().map(Draft::put).collect();
    for batch in ops.chunks(500) {
        commit(&backend, 0, batch).expect("commit");
    }

    let events = kept(&drafts);
    let key = EventGenerator::pubkey;
    let sets: [(&str, Vec<PubKey>); 4] = [
        ("all", (0..=255).map(key).collect()),
        ("the silent and one who wrote long ago", (100..=255).map(key).collect()),
        ("the rarest and the silent", (48..=255).map(key).collect()),
        ("every second", (0..=255).step_by(2).map(key).collect()),
    ];
    let kind_lists: [Option<&[Kind]>; 4] = [None, Some(&[1]), Some(&[1, 7]), Some(&[0])];
    let limits: [Option<u32>; 4] = [Some(1), Some(40), Some(400), Some(5_000)];
    let times: [(Option<Timestamp>, Option<Timestamp>); 3] =
        [(None, None), (Some(1_100), Some(1_150)), (None, Some(999))];
    for (name, authors) in &sets {
        for (kinds, (since, until)) in kind_lists.iter().flat_map(|k| times.iter().map(move |t| (k, *t))) {
            for limit in limits {
                let authors = Some(authors.clone().into());
                let kinds = kinds.map(Into::into);
                let filter = Filter { authors, kinds, since, until, limit, ..Filter::default() };
                check(&backend, &events, name, filter);
            }
        }
    }
    for limit in limits {
        let values = (0..=90).map(|n: u32| n.to_string().into_bytes().into()).collect();
        let tags = Box::new([TagFilter { letter: b't', values }]);
        check(&backend, &events, "91 tags", Filter { tags, limit, ..Filter::default() });
        let kinds: Box<[Kind]> = (6..300).collect();
        check(&backend, &events, "294 kinds", Filter { kinds: Some(kinds), limit, ..Filter::default() });
        let ids = drafts.iter().step_by(3).map(|draft| draft.event().id).collect();
        check(&backend, &events, "834 ids", Filter { ids: Some(ids), limit, ..Filter::default() });
    }
}

fn check<B: Backend>(backend: &B, events: &[Event], name: &str, mut filter: Filter) {
    filter.normalise();
    let matching = events.iter().filter(|event| filter.matches(event));
    let mut expected: Vec<(std::cmp::Reverse<Timestamp>, EventId)> =
        matching.map(|event| (std::cmp::Reverse(event.created_at), event.id)).collect();
    expected.sort_unstable();
    let limit = filter.limit.unwrap_or(0) as usize;
    let more = expected.len() > limit;
    let expected: Vec<EventId> = expected.into_iter().take(limit).map(|(_, id)| id).collect();
    let limits = ScanLimits { limit_default: 1, limit_max: 5_000 };
    for budget in [50, 1_000_000] {
        let (found, completeness) = ask(backend, &[filter.clone()], limits, 0, budget, &Unrestricted);
        let ids: Vec<EventId> = found.iter().map(|event| event.id).collect();
        let what = format!("{name}, {:?}, {:?}..{:?}", filter.kinds, filter.since, filter.until);
        assert_eq!(ids, expected, "{what}, limit {limit}");
        let allowed = match more {
            true => [Completeness::More, Completeness::Unknown],
            false => [Completeness::Finish, Completeness::Unknown],
        };
        assert!(
            allowed.contains(&completeness),
            "{what}, limit {limit}: {completeness:?}, but more is {more}"
        );
    }
}

/// The events that are not replaced: all but profiles for which there is a newer one, or one of the same second with a lower
/// id.
fn kept(drafts: &[Draft]) -> Vec<Event> {
    let events: Vec<Event> = drafts.iter().map(Draft::event).collect();
    let mut newest: HashMap<PubKey, &Event> = HashMap::new();
    for profile in events.iter().filter(|event| event.kind == 0) {
        let best = newest.entry(profile.pubkey).or_insert(profile);
        if profile.created_at > best.created_at
            || (profile.created_at == best.created_at && profile.id < best.id)
        {
            *best = profile;
        }
    }
    let is_kept = |event: &&Event| event.kind != 0 || newest[&event.pubkey].id == event.id;
    events.iter().filter(is_kept).cloned().collect()
}
