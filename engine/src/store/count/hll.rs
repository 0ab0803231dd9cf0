//! HyperLogLog registers as NIP-45 defines them, for the queries that it names.

use sha2::{Digest, Sha256};

use crate::types::{EventId, Filter, Kind, PubKey};

/// Registers of one HyperLogLog value, a byte each.
pub const HLL_REGISTERS: usize = 256;

/// The queries NIP-45 names: tag letter and kinds.
const QUERIES: [(u8, &[Kind]); 6] =
    [(b'e', &[7]), (b'e', &[6]), (b'q', &[1, 1111]), (b'e', &[1]), (b'E', &[1111]), (b'p', &[3])];

/// The registers of one query.
#[derive(Clone, Debug)]
pub(super) struct Hll {
    offset: usize,
    registers: [u8; HLL_REGISTERS],
}

impl Hll {
    /// Empty registers, if `filters` are one of the queries that have them.
    pub(super) fn for_query(filters: &[Filter]) -> Option<Self> {
        let [Filter { ids: None, authors: None, kinds: Some(kinds), tags, since: None, until: None, .. }] =
            filters
        else {
            return None;
        };
        let [tag] = &**tags else { return None };
        let [value] = &*tag.values else { return None };
        QUERIES
            .contains(&(tag.letter, kinds))
            .then(|| Hll { offset: offset(value), registers: [0; HLL_REGISTERS] })
    }

    /// Counts an author.
    pub(super) fn add(&mut self, author: &PubKey) {
        let register = &mut self.registers[usize::from(author.0[self.offset])];
        let mut zeros = 0;
        for byte in &author.0[self.offset + 1..] {
            zeros += byte.leading_zeros() as u8;
            if *byte != 0 {
                break;
            }
        }
        *register = (*register).max(zeros + 1);
    }

    pub(super) fn registers(&self) -> &[u8; HLL_REGISTERS] {
        &self.registers
    }
}

/// Which byte of authors names the register: 8 to 23, by the tag value's 33rd hex digit.
fn offset(value: &[u8]) -> usize {
    let bytes = EventId::from_hex(value)
        .ok()
        .map(|id| id.0)
        .or_else(|| address_pubkey(value))
        .unwrap_or_else(|| Sha256::digest(value).into());
    usize::from(bytes[16] >> 4) + 8
}

/// The public key of `<kind>:<pubkey>:<d>`.
fn address_pubkey(value: &[u8]) -> Option<[u8; 32]> {
    let mut parts = value.splitn(3, |&byte| byte == b':');
    let (kind, pubkey, _d) = (parts.next()?, parts.next()?, parts.next()?);
    let is_kind = !kind.is_empty() && kind.iter().all(u8::is_ascii_digit);
    is_kind.then(|| PubKey::from_hex(pubkey).ok().map(|key| key.0)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::TagFilter;

    fn query(letter: u8, value: &str, kinds: &[Kind]) -> Filter {
        let tag = TagFilter { letter, values: Box::new([value.as_bytes().into()]) };
        Filter { kinds: Some(kinds.into()), tags: Box::new([tag]), ..Filter::default() }
    }

    #[test]
    fn only_the_named_queries_have_registers() {
        let id = "ab".repeat(32);
        let has = |filters: &[Filter]| Hll::for_query(filters).is_some();
        for (letter, kinds) in QUERIES {
            assert!(has(&[query(letter, &id, kinds)]), "#{} {kinds:?}", letter as char);
        }
        let good = query(b'e', &id, &[7]);
        let two_values = TagFilter { letter: b'e', values: Box::new([b"a"[..].into(), b"b"[..].into()]) };
        for bad in [
            query(b'p', &id, &[7]),
            query(b'e', &id, &[7, 8]),
            query(b'q', &id, &[1]),
            Filter { since: Some(1), ..good.clone() },
            Filter { authors: Some(Box::default()), ..good.clone() },
            Filter { tags: Box::new([two_values]), ..good.clone() },
            Filter { tags: Box::default(), ..good.clone() },
        ] {
            assert!(!has(std::slice::from_ref(&bad)), "{bad:?}");
        }
        assert!(!has(&[good.clone(), good]));
        assert!(!has(&[]));
    }

    #[test]
    fn the_offset_comes_from_the_33rd_digit() {
        // Worked by hand from NIP-45; the third value is the SHA-256 of `x`, 2d71...a6d9 with digit 0 at 32.
        let mut hex = "0".repeat(64);
        assert_eq!(offset(hex.as_bytes()), 8);
        hex.replace_range(32..33, "f");
        assert_eq!(offset(hex.as_bytes()), 23);
        assert_eq!(offset(format!("30023:{hex}:d:e").as_bytes()), 23);
        let digest: String = Sha256::digest(b"x").iter().map(|byte| format!("{byte:02x}")).collect();
        let digit = digest.as_bytes()[32] as char;
        assert_eq!(offset(b"x"), 8 + digit.to_digit(16).unwrap() as usize);
        assert_eq!(offset(b""), 8 + 2, "e3b0c44298fc1c149afbf4c8996fb924 then 2");
    }

    #[test]
    fn registers_keep_the_longest_run_of_zeros() {
        let mut hll = Hll { offset: 8, registers: [0; HLL_REGISTERS] };
        let mut key = [0xff; 32];
        (key[8], key[9]) = (7, 0b0001_0000);
        hll.add(&PubKey(key));
        assert_eq!(hll.registers[7], 4);
        (key[9], key[10]) = (0, 0b0100_0000);
        hll.add(&PubKey(key));
        assert_eq!(hll.registers[7], 10);
        key[9] = 0xff;
        hll.add(&PubKey(key));
        assert_eq!(hll.registers[7], 10, "a shorter run changes nothing");
        key[8] = 8;
        hll.add(&PubKey(key));
        assert_eq!((hll.registers[8], hll.registers.iter().filter(|&&r| r > 0).count()), (1, 2));
    }
}
