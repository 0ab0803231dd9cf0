//! One event against many filters: its tags are read a few times at most, however many conditions ask about them.

use std::borrow::Cow;

use super::CanonicalEvent;
use super::filter::{Filter, TagFilter};

/// Tag conditions that are each checked by a pass over the tags; from the next one on a sorted table is built. For one
/// or two conditions, as most requests have, making it would cost more than it saves.
const PASSES_MAX: usize = 2;

/// The tags of one stored event, as many filters are matched against it; they are read only as far as needed.
///
/// [`EventMatcher::matches`] says what [`Filter::matches_stored`] says. The first conditions on tags read the event's tags; from
/// the third on they are sorted, once, and a condition costs the shorter list of values times the logarithm of the longer.
#[derive(Debug)]
pub struct EventMatcher<'a> {
    event: CanonicalEvent<'a>,
    /// Sorted, without repeats, once there is one.
    table: Option<Vec<(u8, Cow<'a, [u8]>)>>,
    passes: usize,
    cost: MatchCost,
}

/// What matching an event has cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MatchCost {
    /// Bytes of tags read.
    pub bytes: usize,
    /// Comparisons: filters asked, values compared while sorting and searching.
    pub comparisons: usize,
}

impl<'a> EventMatcher<'a> {
    /// Reads nothing yet.
    pub fn new(event: CanonicalEvent<'a>) -> Self {
        EventMatcher { event, table: None, passes: 0, cost: MatchCost::default() }
    }

    /// Whether the event matches `filter`, which is normalised: [`Filter::matches_stored`].
    pub fn matches(&mut self, filter: &Filter) -> bool {
        self.cost.comparisons += 1;
        filter.matches_stored_except_tags(self.event) && filter.tags.iter().all(|wanted| self.meets(wanted))
    }

    /// What all calls have taken together.
    pub fn cost(&self) -> MatchCost {
        self.cost
    }

    fn meets(&mut self, wanted: &TagFilter) -> bool {
        if self.table.is_none() && self.passes < PASSES_MAX {
            self.passes += 1;
            return self.any_tag(|letter, value| letter == wanted.letter && wanted.contains(value));
        }
        if self.table.is_none() {
            self.make_table();
        }
        let table = self.table.as_deref().unwrap_or_default();
        let first = table.partition_point(|(letter, _)| *letter < wanted.letter);
        let len = table[first..].partition_point(|(letter, _)| *letter == wanted.letter);
        let of_letter = &table[first..first + len];
        share_a_value(of_letter, &wanted.values, &mut self.cost.comparisons)
    }

    /// Whether `stop` is true for any tag; reads no further.
    fn any_tag(&mut self, mut stop: impl FnMut(u8, &[u8]) -> bool) -> bool {
        let mut tags = self.event.tags();
        let all = tags.unread();
        let stopped = self.event.indexed_values_in(tags.by_ref()).any(|(letter, value)| stop(letter, &value));
        self.cost.bytes += all - tags.unread();
        stopped
    }

    fn make_table(&mut self) {
        let mut tags = self.event.tags();
        let all = tags.unread();
        let mut table: Vec<_> = self.event.indexed_values_in(tags.by_ref()).collect();
        self.cost.bytes += all - tags.unread();
        table.sort_unstable();
        table.dedup();
        self.cost.comparisons += table.len() * bits(table.len());
        self.table = Some(table);
    }
}

/// Whether two sorted lists share a value. Each of the shorter is looked for in what is left of the longer.
fn share_a_value(tags: &[(u8, Cow<'_, [u8]>)], wanted: &[Box<[u8]>], comparisons: &mut usize) -> bool {
    let (mut tags, mut wanted) = (tags, wanted);
    while let (Some((_, value)), Some(asked)) = (tags.first(), wanted.first()) {
        match (**value).cmp(asked) {
            std::cmp::Ordering::Equal => return true,
            std::cmp::Ordering::Less => {
                tags = &tags[gallop(tags, |(_, tags)| **tags < **asked, comparisons)..]
            }
            std::cmp::Ordering::Greater => {
                wanted = &wanted[gallop(wanted, |asked| **asked < **value, comparisons)..];
            }
        }
    }
    *comparisons += 1;
    false
}

/// How many of the first of `list` are `below`; costs the logarithm of that number.
fn gallop<T>(list: &[T], below: impl Fn(&T) -> bool, comparisons: &mut usize) -> usize {
    let mut end = 1;
    while end < list.len() && below(&list[end]) {
        end *= 2;
    }
    *comparisons += 2 * bits(end) + 1;
    let start = end / 2;
    start + list[start..list.len().min(end)].partition_point(below)
}

fn bits(number: usize) -> usize {
    (usize::BITS - number.leading_zeros()) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Draft, Rng};

    /// Few, so that events and filters meet; empty and escaped ones among them.
    const VALUES: [&str; 8] = ["", "a", "b", "a\"b", "\\", "\n", "\u{1}x", "💜"];

    fn value(rng: &mut Rng) -> String {
        match rng.one_in(2) {
            true => (*rng.pick(&VALUES)).to_owned(),
            false => rng.below(400).to_string(),
        }
    }

    fn draft(rng: &mut Rng) -> Draft {
        let kind = *rng.pick(&[0, 1, 3, 10_002, 30_000, 30_023]);
        let mut draft = Draft::new(rng.below(3) as u8, kind, rng.below(5));
        let most = *rng.pick(&[1, 3, 10, 300]);
        for _ in 0..rng.below(most) {
            let name = *rng.pick(&["d", "e", "p", "P", "t", "title", ""]);
            let value = value(rng);
            let fields = [name, value.as_str(), "more"];
            draft = draft.tag(&fields[..rng.below(4) as usize]);
        }
        draft
    }

    fn filter(rng: &mut Rng) -> Filter {
        let mut filter = Filter::default();
        for letter in [b'd', b'e', b'p', b'P', b't'] {
            if rng.one_in(3) {
                let most = *rng.pick(&[1, 2, 5, 300]);
                let values = (0..=rng.below(most)).map(|_| value(rng).into_bytes().into());
                let condition = TagFilter { letter, values: values.collect() };
                filter.tags = filter.tags.iter().cloned().chain([condition]).collect();
            }
        }
        if rng.one_in(4) {
            filter.kinds = Some([0, 1, 30_023].into());
        }
        if rng.one_in(4) {
            filter.since = Some(rng.below(5));
        }
        filter.normalise();
        filter
    }

    #[test]
    fn matcher_agrees_with_filter_matches() {
        let mut rng = Rng::new(13);
        let (mut matched, mut asked) = (0, 0);
        for _ in 0..2_000 {
            let event = draft(&mut rng).event();
            let mut matcher = EventMatcher::new(event.view());
            for _ in 0..20 {
                let filter = filter(&mut rng);
                let expected = filter.matches_stored(event.view());
                let json = String::from_utf8_lossy(event.json());
                assert_eq!(matcher.matches(&filter), expected, "{filter:?} {json}");
                matched += usize::from(expected);
                asked += 1;
            }
        }
        assert!(matched > asked / 10 && matched < asked * 9 / 10, "{matched} of {asked}");
    }

    #[test]
    fn tags_are_read_three_times_at_most() {
        let tags = (0..10_000).fold(Draft::new(1, 1, 1), |draft, n| draft.tag(&["t", &n.to_string()]));
        let event = tags.event();
        let conditions: Box<[TagFilter]> = (0..52)
            .map(|n| TagFilter { letter: b't', values: Box::new([n.to_string().into_bytes().into()]) })
            .collect();
        let filter = Filter { tags: conditions, ..Filter::default() };
        let mut matcher = EventMatcher::new(event.view());
        for _ in 0..100 {
            assert!(matcher.matches(&filter));
        }
        let MatchCost { bytes, comparisons } = matcher.cost();
        assert!(bytes <= 3 * event.json().len(), "{bytes} of {}", event.json().len());
        assert!(comparisons <= 10_000 * 14 + 100 * 52 * 30 + 100, "{comparisons}");
    }
}
