//! What many events have in common, as a dictionary for LZ4.
//!
//! Only strings that events of several authors share get into it. So when an event is removed, nothing that it alone said is left.

use std::collections::HashMap;

use memchr::memmem;

/// Most bytes of a dictionary: with an event of as many, any of it can be reached.
pub(super) const DICTIONARY_BYTES_MAX: usize = 32 << 10;
/// So many authors must have used a string.
const AUTHORS_MIN: u32 = 8;
/// Bytes of a string.
const STRING_BYTES_MIN: usize = 5;
const STRING_BYTES_MAX: usize = 64;
/// Words and what is between them, of which a string has at most so many.
const PARTS_MAX: usize = 6;
/// Bytes of an event that are looked at.
pub(super) const TEXT_BYTES_MAX: usize = 2_000;
/// Different strings that are counted. The table takes 40 MB then.
const STRINGS_MAX: usize = 900_000;

/// A text whose author is this.
pub(super) type Sample<'a> = (&'a [u8], &'a [u8]);

/// How often a string was found, and by how many authors; the number of the last one.
#[derive(Clone, Copy, Default)]
struct Found {
    times: u32,
    authors: u32,
    last: u32,
}

/// The strings of these texts.
fn strings(mut samples: Vec<Sample<'_>>) -> HashMap<&[u8], Found> {
    samples.sort_unstable();
    let mut strings: HashMap<&[u8], Found> = HashMap::new();
    let (mut author, mut number) = (&[][..], 0);
    for (next, text) in samples {
        if author != next || number == 0 {
            (author, number) = (next, number + 1);
        }
        let text = &text[..text.len().min(TEXT_BYTES_MAX)];
        let ends = ends_of_parts(text);
        let begins = std::iter::once(0).chain(ends.iter().copied());
        for (part, begin) in begins.enumerate() {
            for end in ends.iter().skip(part).take(PARTS_MAX) {
                let string = &text[begin..*end];
                if string.len() > STRING_BYTES_MAX {
                    break;
                }
                if string.len() < STRING_BYTES_MIN {
                    continue;
                }
                let is_full = strings.len() >= STRINGS_MAX;
                let found = match strings.get_mut(string) {
                    Some(found) => found,
                    None if is_full => continue,
                    None => strings.entry(string).or_default(),
                };
                found.times += 1;
                if found.last != number {
                    (found.last, found.authors) = (number, found.authors + 1);
                }
            }
        }
    }
    strings
}

/// The dictionary for texts like these.
pub(super) fn train(samples: Vec<Sample<'_>>) -> Vec<u8> {
    let shared = strings(samples).into_iter().filter(|(_, found)| found.authors >= AUTHORS_MIN);
    // A match takes three bytes.
    let saved = |string: &[u8], found: &Found| u64::from(found.times) * (string.len() as u64 - 3);
    let mut shared: Vec<(u64, &[u8])> =
        shared.map(|(string, found)| (saved(string, &found), string)).collect();
    shared.sort_unstable_by(|a, b| b.cmp(a));
    let (mut dictionary, mut taken) = (Vec::new(), Vec::new());
    for (_, string) in shared {
        if dictionary.len() + string.len() <= DICTIONARY_BYTES_MAX
            && memmem::find(&dictionary, string).is_none()
        {
            dictionary.extend_from_slice(string);
            taken.push(string);
        }
    }
    // Those that save most are last: who compresses remembers few places, and the last ones longest.
    taken.into_iter().rev().flatten().copied().collect()
}

/// Where words and what is between them end.
fn ends_of_parts(text: &[u8]) -> Vec<usize> {
    // Letters of other alphabets are words too; 0xff is in no text.
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || (0x80..0xff).contains(&byte);
    let changes = text.windows(2).enumerate().filter(|(_, pair)| is_word(pair[0]) != is_word(pair[1]));
    changes.map(|(at, _)| at + 1).chain((!text.is_empty()).then_some(text.len())).collect()
}

#[cfg(test)]
mod tests {
    use relay_engine::testing::Rng;

    use super::*;

    /// What is removed may have been in a sample: nothing may stay that few authors said.
    #[test]
    fn only_what_many_authors_say_is_in_it() {
        let text =
            |n: usize| format!(r#"["client","amethyst"]],"content":"gm, says author-{n} to few-{}"#, n / 7);
        let texts: Vec<(String, String)> =
            (0..70).flat_map(|n| (0..9).map(move |_| (format!("{n}"), text(n)))).collect();
        let samples = texts.iter().map(|(author, text)| (author.as_bytes(), text.as_bytes())).collect();
        let dictionary = train(samples);
        let has = |string: &str| memmem::find(&dictionary, string.as_bytes()).is_some();
        assert!(has(r#""]],"content":"gm, says"#), "{:?}", String::from_utf8_lossy(&dictionary));
        assert!(has("says author-"));
        assert!(!(0..70).any(|n| has(&format!("author-{n}"))));
        assert!(!(0..10).any(|n| has(&format!("few-{n}"))));
        assert!(dictionary.len() < 400);
    }

    /// Regression: somebody who wrote strings that are all different made them take hundreds of megabytes.
    #[test]
    fn not_more_strings_are_counted_than_may_be() {
        let mut rng = Rng::new(1);
        let mut any = |bytes: &[u8]| char::from(bytes[rng.below(bytes.len() as u64) as usize]);
        let (word, other) =
            (&b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMN0123456789"[..], &b" .,:;!?/-+*#()"[..]);
        let mut text = || (0..TEXT_BYTES_MAX / 2).flat_map(|_| [any(word), any(other)]).collect::<String>();
        let texts: Vec<String> = (0..525).map(|_| text()).collect();
        let samples = texts.iter().map(|text| (&b"author"[..], text.as_bytes())).collect();
        assert_eq!(strings(samples).len(), STRINGS_MAX);
    }

    #[test]
    fn it_is_not_longer_than_may_be() {
        let text = |n: u64| {
            (0..200).map(|word| format!("{} ", (n % 9 * 200 + word) * 7_919 * 7_919)).collect::<String>()
        };
        let texts: Vec<(String, String)> = (0..900).map(|n| (format!("{}", n / 9), text(n))).collect();
        let samples = texts.iter().map(|(author, text)| (author.as_bytes(), text.as_bytes())).collect();
        let bytes = train(samples).len();
        assert!((DICTIONARY_BYTES_MAX - 100..=DICTIONARY_BYTES_MAX).contains(&bytes), "{bytes}");
        assert!(train(Vec::new()).is_empty());
    }
}
