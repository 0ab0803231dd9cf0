//! What is to be compared: a filter, ranges of time of it, and the ids that are here.

use std::collections::HashSet;

use negentropy::{Bound, Error, Item, NegentropyStorageBase};
use relay_engine::types::{EventId, Filter, Timestamp};
use relay_engine::wire;
use serde_json::{Map, Value};

/// Seconds from `since` to `until`, both inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The first second.
    pub since: Timestamp,
    /// The last second.
    pub until: Timestamp,
}

impl Range {
    /// Whether it has this second.
    pub fn contains(self, second: Timestamp) -> bool {
        (self.since..=self.until).contains(&second)
    }

    /// Those of `items`, which are sorted, that are in it.
    pub fn of(self, items: &[Item]) -> &[Item] {
        let begin = items.partition_point(|item| item.timestamp < self.since);
        let end = items.partition_point(|item| item.timestamp <= self.until);
        &items[begin..end.max(begin)]
    }

    /// The older and the newer part: cut at the median of the events here if there are 64 or more, else in the middle of
    /// the time up to `now`. `None` for one second.
    pub fn halves(self, items: &[Item], now: Timestamp) -> Option<(Range, Range)> {
        /// Fewer events do not tell where those of the other relay are.
        const TELLING: usize = 64;
        let Range { since, until } = self;
        if since >= until {
            return None;
        }
        let here = self.of(items);
        let median = here.get(here.len() / 2).map_or(since, |item| item.timestamp);
        let middle = if here.len() >= TELLING && median > since {
            median - 1
        } else {
            let end = if since < now { until.min(now) } else { until };
            since + (end - since) / 2
        };
        let middle = middle.clamp(since, until - 1);
        Some((Range { since, until: middle }, Range { since: middle + 1, until }))
    }
}

/// The events that are to be on both sides.
#[derive(Clone, Debug)]
pub struct Scope {
    fields: Map<String, Value>,
    filter: Filter,
}

impl Scope {
    /// Reads a filter (NIP-01) and narrows it to these times.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new(json: &str, since: Option<Timestamp>, until: Option<Timestamp>) -> Result<Self, String> {
        let wrong = |why: String| format!("{json}: {why}");
        let mut filter = wire::parse_filter(json.as_bytes())
            .map_err(|error| wrong(format!("{}: {error}", error.prefix())))?;
        let fields = serde_json::from_str(json).map_err(|error| wrong(error.to_string()))?;
        if filter.limit.is_some() {
            return Err(wrong("`limit` has no meaning here; since and until narrow a filter".to_owned()));
        }
        filter.since = filter.since.max(since);
        filter.until = [filter.until, until].into_iter().flatten().min();
        filter.normalise();
        if filter.matches_nothing() {
            return Err(wrong("it matches no event".to_owned()));
        }
        Ok(Scope { fields, filter })
    }

    /// The filter.
    pub fn filter(&self) -> &Filter {
        &self.filter
    }

    /// All of its time.
    pub fn range(&self) -> Range {
        Range {
            since: self.filter.since.unwrap_or(0),
            until: self.filter.until.unwrap_or(wire::CREATED_AT_MAX),
        }
    }

    /// The filter as JSON, narrowed to a range, with a limit.
    pub fn json(&self, range: Range, limit: Option<u32>) -> String {
        let mut fields = self.fields.clone();
        fields.remove("since");
        fields.remove("until");
        if range.since > 0 {
            fields.insert("since".to_owned(), range.since.into());
        }
        if range.until < wire::CREATED_AT_MAX {
            fields.insert("until".to_owned(), range.until.into());
        }
        if let Some(limit) = limit {
            fields.insert("limit".to_owned(), limit.into());
        }
        Value::Object(fields).to_string()
    }
}

/// The ids of the local events.
#[derive(Debug, Default)]
pub struct LocalEvents {
    /// In the order of NIP-77: by time, then id. Reconciliations tell them to the other relay.
    pub items: Vec<Item>,
    /// Of these, the ones that are not sent.
    pub withheld: HashSet<EventId>,
    /// Others that are not sent either, and that the other relay is not told of. They are not asked for.
    pub hidden: HashSet<EventId>,
}

/// Items of a range, as the `negentropy` crate reads them.
pub(crate) struct Slice<'a>(pub(crate) &'a [Item]);

impl NegentropyStorageBase for Slice<'_> {
    fn size(&self) -> Result<usize, Error> {
        Ok(self.0.len())
    }

    fn get_item(&self, i: usize) -> Result<Option<Item>, Error> {
        Ok(self.0.get(i).copied())
    }

    fn iterate(
        &self,
        begin: usize,
        end: usize,
        take: &mut dyn FnMut(Item, usize) -> Result<bool, Error>,
    ) -> Result<(), Error> {
        let items = self.0.get(begin..end).ok_or(Error::BadRange)?;
        for (item, at) in items.iter().zip(begin..) {
            if !take(*item, at)? {
                break;
            }
        }
        Ok(())
    }

    fn find_lower_bound(&self, first: usize, last: usize, bound: &Bound) -> usize {
        self.0
            .get(first..last)
            .map_or(first, |items| first + items.partition_point(|item| *item < bound.item))
    }
}

#[cfg(test)]
mod tests {
    use negentropy::Id;

    use super::*;

    fn items(seconds: impl IntoIterator<Item = Timestamp>) -> Vec<Item> {
        seconds.into_iter().map(|at| Item::with_timestamp_and_id(at, Id::from_byte_array([0; 32]))).collect()
    }

    #[test]
    fn a_range_is_halved_until_it_is_a_second() {
        let now = 1_800_000_000;
        let many = items((0..1_000).map(|at| 1_000 + at / 10));
        for items in [items([]), many] {
            let mut ranges = vec![Range { since: 0, until: wire::CREATED_AT_MAX }];
            let mut depth_max = 0;
            // The way to the newest second before now, and to some others.
            for goal in [now - 1, 1_050, 0, now + 40_000_000] {
                let (mut range, mut depth) = (ranges[0], 0);
                while let Some((older, newer)) = range.halves(&items, now) {
                    assert!(older.since == range.since && newer.until == range.until);
                    assert_eq!(older.until + 1, newer.since, "nothing is between them");
                    range = if older.contains(goal) { older } else { newer };
                    depth += 1;
                }
                assert_eq!(range, Range { since: goal, until: goal });
                depth_max = depth_max.max(depth);
                ranges.push(range);
            }
            assert!(depth_max < 100, "{depth_max}");
        }
    }

    #[test]
    fn a_range_of_many_events_is_halved_by_events() {
        let items = items((0..1_000).map(|at| 1_000 + at));
        let all = Range { since: 0, until: wire::CREATED_AT_MAX };
        let (older, newer) = all.halves(&items, 1_800_000_000).unwrap();
        assert_eq!((older.of(&items).len(), newer.of(&items).len()), (500, 500));
    }

    #[test]
    fn a_filter_is_narrowed() {
        let scope = |json: &str, since, until| Scope::new(json, since, until);
        let narrowed = scope(r#"{"kinds":[1],"since":5,"until":90}"#, Some(10), Some(80)).unwrap();
        assert_eq!(narrowed.range(), Range { since: 10, until: 80 });
        assert_eq!(narrowed.json(narrowed.range(), None), r#"{"kinds":[1],"since":10,"until":80}"#);
        let wider = scope(r#"{"since":5,"until":90}"#, Some(1), Some(100)).unwrap();
        assert_eq!(wider.range(), Range { since: 5, until: 90 });
        let all = scope("{}", None, None).unwrap();
        assert_eq!(all.json(all.range(), Some(7)), r#"{"limit":7}"#);
        for (json, why) in [
            (r#"{"limit":1}"#, "limit"),
            (r#"{"kinds":[]}"#, "no event"),
            (r#"{"search":"x"}"#, "unsupported"),
            ("[]", "invalid"),
        ] {
            let error = scope(json, None, None).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
        assert!(scope("{}", Some(2), Some(1)).unwrap_err().contains("no event"));
    }
}
