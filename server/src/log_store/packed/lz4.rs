//! Compression into blocks of LZ4 with a dictionary that many blocks share. The crate `lz4_flex` reads them; it would index the
//! dictionary anew for each block that it writes.
//!
//! ```text
//! block     = sequence*      the last one ends with its literals
//! sequence  = lengths:1  more of them  literals  offset:2  more of the match's length
//! ```

/// Matches are at least this long.
const MATCH_MIN: usize = 4;
/// The last match begins so many bytes before the end of a block, at least.
const MATCH_LIMIT: usize = 12;
/// The last bytes of a block are literals.
const LAST_LITERALS: usize = 5;
/// Most bytes of a dictionary: with an event of as many, any of it can be reached.
pub(super) const DICTIONARY_BYTES_MAX: usize = 32 << 10;
/// How far back a match may be.
const OFFSET_MAX: usize = 0xffff;
/// Earlier places that are compared.
const TRIES: usize = 32;
const HASH_BITS: u32 = 13;
const NONE: u32 = u32::MAX;

/// Where four bytes have been before, newest first.
struct Index {
    heads: Vec<u32>,
    /// The place before each one, of the same hash.
    before: Vec<u32>,
}

impl Index {
    fn new() -> Self {
        Index { heads: vec![NONE; 1 << HASH_BITS], before: Vec::new() }
    }

    fn clear(&mut self) {
        self.heads.fill(NONE);
        self.before.clear();
    }

    /// The next place, which `bytes` begin at.
    fn push(&mut self, bytes: &[u8]) {
        let head = &mut self.heads[hash(bytes)];
        self.before.push(*head);
        *head = self.before.len() as u32 - 1;
    }

    /// Places that `bytes` may have been at.
    fn places(&self, bytes: &[u8]) -> impl Iterator<Item = usize> {
        let next = |place: u32| (place != NONE).then_some(place);
        let first = next(self.heads[hash(bytes)]);
        std::iter::successors(first, move |place| next(self.before[*place as usize]))
            .take(TRIES)
            .map(|place| place as usize)
    }
}

fn hash(bytes: &[u8]) -> usize {
    let four = bytes.first_chunk().map_or(0, |four| u32::from_le_bytes(*four));
    (four.wrapping_mul(2_654_435_761) >> (32 - HASH_BITS)) as usize
}

/// How many bytes two slices have in common at their beginning.
fn common(a: &[u8], b: &[u8]) -> usize {
    let words = |bytes: &[u8], at: usize| bytes[at..].first_chunk().map(|word| u64::from_le_bytes(*word));
    let mut len = 0;
    while let (Some(a), Some(b)) = (words(a, len), words(b, len)) {
        if a != b {
            return len + (a ^ b).trailing_zeros() as usize / 8;
        }
        len += 8;
    }
    len + a[len..].iter().zip(&b[len..]).take_while(|(a, b)| a == b).count()
}

#[derive(Clone, Copy, Default)]
struct Match {
    len: usize,
    offset: usize,
}

/// Compresses blocks with one dictionary.
pub(super) struct Compressor<'a> {
    dictionary: &'a [u8],
    of_dictionary: Index,
    of_block: Index,
}

impl<'a> Compressor<'a> {
    /// `dictionary`: at most [`DICTIONARY_BYTES_MAX`].
    pub(super) fn new(dictionary: &'a [u8]) -> Self {
        let mut of_dictionary = Index::new();
        dictionary.windows(MATCH_MIN).for_each(|bytes| of_dictionary.push(bytes));
        Compressor { dictionary, of_dictionary, of_block: Index::new() }
    }

    /// Appends the block of `bytes`.
    pub(super) fn compress(&mut self, bytes: &[u8], out: &mut Vec<u8>) {
        self.of_block.clear();
        let (mut at, mut literals) = (0, 0);
        let last = bytes.len().saturating_sub(MATCH_LIMIT);
        while at < last {
            let mut found = self.longest(bytes, at);
            if found.len < MATCH_MIN {
                self.of_block.push(&bytes[at..]);
                at += 1;
                continue;
            }
            // One that begins at the next byte may be longer.
            while at + 1 < last {
                self.of_block.push(&bytes[at..]);
                let next = self.longest(bytes, at + 1);
                if next.len <= found.len + 1 {
                    break;
                }
                (found, at) = (next, at + 1);
            }
            push_sequence(&bytes[literals..at], Some(found), out);
            let end = at + found.len;
            while self.of_block.before.len() < end.min(last) {
                self.of_block.push(&bytes[self.of_block.before.len()..]);
            }
            (at, literals) = (end, end);
        }
        push_sequence(&bytes[literals..], None, out);
    }

    /// The longest match for what is at `at`.
    fn longest(&self, bytes: &[u8], at: usize) -> Match {
        let end = bytes.len() - LAST_LITERALS;
        let rest = &bytes[at..end];
        let mut best = Match::default();
        for place in self.of_block.places(rest).skip_while(|place| *place >= at) {
            let (len, offset) = (common(rest, &bytes[place..end]), at - place);
            if len > best.len && offset <= OFFSET_MAX {
                best = Match { len, offset };
            }
        }
        for place in self.of_dictionary.places(rest) {
            let (len, offset) = (common(rest, &self.dictionary[place..]), self.dictionary.len() - place + at);
            if len > best.len && offset <= OFFSET_MAX {
                best = Match { len, offset };
            }
        }
        best
    }
}

fn push_sequence(literals: &[u8], found: Option<Match>, out: &mut Vec<u8>) {
    let more = found.map_or(0, |found| found.len - MATCH_MIN);
    out.push((literals.len().min(15) << 4 | more.min(15)) as u8);
    push_length(literals.len(), out);
    out.extend_from_slice(literals);
    if let Some(Match { offset, .. }) = found {
        out.extend_from_slice(&(offset as u16).to_le_bytes());
        push_length(more, out);
    }
}

/// What of a length does not fit into four bits.
fn push_length(length: usize, out: &mut Vec<u8>) {
    if let Some(mut rest) = length.checked_sub(15) {
        while rest >= 255 {
            out.push(255);
            rest -= 255;
        }
        out.push(rest as u8);
    }
}

#[cfg(test)]
mod tests {
    use lz4_flex::block::decompress_with_dict;
    use relay_engine::testing::Rng;

    use super::*;

    /// Text of few words, so that much of it repeats, or of any bytes.
    fn text(rng: &mut Rng, bytes: u64) -> Vec<u8> {
        let (mut text, words) = (Vec::new(), 1 + rng.below(300));
        while (text.len() as u64) < bytes {
            let word = rng.below(words) * 7_919;
            match rng.below(40) {
                0 => text.extend((0..rng.below(30)).map(|n| (n * word) as u8)),
                1 => text.extend(vec![b'a'; rng.below(700) as usize]),
                _ => text.extend(format!("word{word}, ").bytes()),
            }
        }
        text.truncate(bytes as usize);
        text
    }

    #[test]
    fn what_was_compressed_is_read() {
        let mut rng = Rng::new(1);
        let mut saved = 0;
        for round in 0..60 {
            let dictionary = text(&mut rng, [0, 3, 900, DICTIONARY_BYTES_MAX as u64][round % 4]);
            let mut compressor = Compressor::new(&dictionary);
            for bytes in (0..40).chain([63, 64, 300, 900, 5_000, 70_000]) {
                let text = text(&mut rng, bytes);
                let mut block = Vec::new();
                compressor.compress(&text, &mut block);
                let read = decompress_with_dict(&block, text.len(), &dictionary);
                assert!(read.is_ok_and(|read| read == text), "round {round}, {bytes} bytes");
                saved += text.len() as i64 - block.len() as i64;
            }
        }
        assert!(saved > 60 * 30_000, "{saved}");
    }
}
