//! A realistic mix of live subscriptions over a stream of events.

use crate::corpus::Corpus;
use crate::filter::Filter;
use crate::generate::Rng;

/// `count` subscriptions, each of one or two filters. Of two hundred:
///
/// | share | filters |
/// |---|---|
/// | 40 | a home page: 1 to 200 authors, kinds 1, 6 and sometimes more |
/// | 55 | notifications: `#p` of one's own, kinds 1, 6, 7, 9735 |
/// | 40 | a thread: `#e` of 1 to 30 notes, mostly of kinds 1, 7, 9735 |
/// | 20 | 1 to 10 events by id that are never published |
/// | 25 | profiles and contact lists of 1 to 20 authors |
/// | 13 | own notes and own notifications, as two filters |
/// | 6 | a hashtag or two |
/// | 1 | everyone's notes |
///
/// `authors` are all authors, also those without events in `corpus`. An event of the generator matches about 1% of the
/// subscriptions.
pub fn draw(corpus: &Corpus, authors: &[u32], count: usize, since: u64, rng: &mut Rng) -> Vec<Vec<Filter>> {
    let tagged = |letter: u8| {
        let tags = corpus.events.iter().flat_map(|event| event.tags.iter());
        distinct(tags.filter(|(name, _)| *name == letter).map(|(_, value)| *value))
    };
    let (notes, hashtags) = (tagged(b'e'), tagged(b't'));
    let some = |list: &[u32], wanted: usize, rng: &mut Rng| {
        let drawn = (0..wanted).filter_map(|_| list.get(rng.below(list.len().max(1))).copied());
        distinct(drawn.collect::<Vec<_>>().into_iter())
    };
    // Some home pages watch few people, most watch many.
    const FOLLOWED: &[(usize, usize)] = &[(0, 1), (100, 10), (500, 60), (1000, 200)];
    let base = Filter { since: Some(since), ..Filter::default() };
    let tag = |letter: u8, values: Vec<u32>, kinds: &[u16]| Filter {
        tag: Some((letter, values)),
        kinds: kinds.to_vec(),
        ..base.clone()
    };
    let one = |rng: &mut Rng| match rng.below(200) {
        0..40 => {
            let wanted = rng.quantile(FOLLOWED);
            let kinds = if rng.chance(300) { vec![1, 6, 16, 30023] } else { vec![1, 6] };
            vec![Filter { authors: some(authors, wanted, rng), kinds, ..base.clone() }]
        }
        40..95 => vec![tag(b'p', some(authors, 1, rng), &[1, 6, 7, 9735])],
        95..135 => {
            let kinds: &[u16] = if rng.chance(700) { &[1, 7, 9735] } else { &[] };
            let wanted = 1 + rng.below(30);
            vec![tag(b'e', some(&notes, wanted, rng), kinds)]
        }
        135..155 => {
            let ids = (0..1 + rng.below(10)).map(|_| std::array::from_fn(|_| rng.below(256) as u8)).collect();
            vec![Filter { ids, ..base.clone() }]
        }
        155..180 => {
            let wanted = 1 + rng.below(20);
            vec![Filter { authors: some(authors, wanted, rng), kinds: vec![0, 3, 10002], ..base.clone() }]
        }
        180..193 => {
            let user = some(authors, 1, rng);
            vec![Filter { authors: user.clone(), ..base.clone() }, tag(b'p', user, &[1, 6, 7, 9735])]
        }
        193..199 => {
            let wanted = 1 + rng.below(2);
            vec![tag(b't', some(&hashtags, wanted, rng), &[1])]
        }
        _ => vec![Filter { kinds: vec![1], ..base.clone() }],
    };
    (0..count).map(|_| one(rng)).collect()
}

fn distinct(values: impl Iterator<Item = u32>) -> Vec<u32> {
    let mut values: Vec<u32> = values.collect();
    values.sort_unstable();
    values.dedup();
    values
}
