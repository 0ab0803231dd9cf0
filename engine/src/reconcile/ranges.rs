//! The ranges of a client's message, counted before the crate `negentropy` answers it, and told by their mode.
//!
//! The crate reads a message in one call, and a range of mode Skip takes three bytes of it: 350,000 of them fit into a message of
//! two mebibytes in hex. Counting reads no set.
//!
//! Of very many ranges the first are answered, and the rest as the protocol has it where a frame is full: as one range. It is
//! put in the place of the others, with a fingerprint that fits no events, so the crate answers it with 16 fingerprints of
//! the relay's events there, or with their ids if they are fewer than 32, and the client goes on from these.

use std::borrow::Cow;

/// Most ranges of a message. Clients of NIP-77 send up to 60,000 bytes of the protocol, the frame limit of rust-nostr, nostr-tools
/// and `strfry sync`, so that a message in hex is less than 128 KiB. These are 3,157 ranges with a fingerprint, of 19 bytes at
/// least. A client's ranges of ids, of 4 bytes at least, and of Skip, of 3, stand for a fingerprint of the relay's answer each,
/// which has up to 6,578 ([`SPLIT_BYTES_MAX`](super::SPLIT_BYTES_MAX)). So there are some 9,800 ranges at most, whatever the sets
/// are. What strfry answers with, up to 500,000 bytes, is for clients and not for relays.
pub const RANGES_MAX: usize = 12_288;

/// Estimated look-ups of the ranges that are answered at once, counted before the crate is called: one for a range of Skip and
/// two for others. Enough for 60,000 bytes of fingerprints (6,314); some 6 ms in a set of a million events if all of them are the
/// relay's too.
pub const LOOKUPS_MAX: usize = 6_400;

/// A range to infinity, without an id, with a fingerprint of zeros, which no set of events has.
const REST: [u8; 3 + FINGERPRINT_BYTES] = {
    let mut range = [0; 3 + FINGERPRINT_BYTES];
    range[2] = 1;
    range
};

/// The version of the protocol whose messages have ranges; others are answered without reading them.
const VERSION: u8 = 0x61;
const ID_BYTES: usize = 32;
const FINGERPRINT_BYTES: usize = 16;

/// What a range of a message has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// Nothing.
    Skip,
    /// The fingerprint of the client's events.
    Fingerprint,
    /// Their ids.
    IdList,
}

/// The part of a message that is answered.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answered<'a> {
    /// The message, or its first ranges and one for the rest.
    pub(super) message: Cow<'a, [u8]>,
    /// Of its ranges, up to where it is malformed: the crate finds that too, if it comes so far.
    pub(super) modes: Vec<Mode>,
}

/// A message has more than [`RANGES_MAX`] ranges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooMany;

/// Counts the ranges of `message`; those beyond `lookups_max` look-ups become one. Costs some nanoseconds a range.
pub(super) fn first_ranges(message: &[u8], lookups_max: usize) -> Result<Answered<'_>, TooMany> {
    let (mut modes, mut ranges, mut lookups, mut end) = (Vec::new(), 0, 0, message.len());
    let mut rest = match message.split_first() {
        Some((&VERSION, rest)) => rest,
        _ => &[],
    };
    while !rest.is_empty() {
        let begins = message.len() - rest.len();
        let Some(mode) = read_range(&mut rest) else { break };
        ranges += 1;
        if ranges > RANGES_MAX {
            return Err(TooMany);
        }
        lookups += if mode == Mode::Skip { 1 } else { 2 };
        if lookups <= lookups_max {
            modes.push(mode);
        } else {
            end = end.min(begins);
        }
    }
    let mut message = Cow::Borrowed(&message[..end]);
    if lookups > lookups_max {
        message.to_mut().extend(REST);
        modes.push(Mode::Fingerprint);
    }
    Ok(Answered { message, modes })
}

/// Takes a range off the front. `None` if its bound or mode is malformed; of a payload that is cut off nothing is left.
fn read_range(rest: &mut &[u8]) -> Option<Mode> {
    read_number(rest);
    // As the crate reads it, which on a target of 32 bits takes the lower bits of a length.
    let prefix = read_number(rest) as usize;
    *rest = rest.get(prefix..).filter(|_| prefix <= ID_BYTES)?;
    let (mode, payload) = match read_number(rest) {
        0 => (Mode::Skip, Some(0)),
        1 => (Mode::Fingerprint, Some(FINGERPRINT_BYTES)),
        2 => {
            (Mode::IdList, usize::try_from(read_number(rest)).ok().and_then(|ids| ids.checked_mul(ID_BYTES)))
        }
        _ => return None,
    };
    *rest = payload.and_then(|bytes| rest.get(bytes..)).unwrap_or_default();
    Some(mode)
}

/// Takes a number off the front, seven bits a byte, the highest first. One that is cut off is what there is of it.
fn read_number(rest: &mut &[u8]) -> u64 {
    let mut number = 0;
    while let Some((&byte, after)) = rest.split_first() {
        *rest = after;
        number = number << 7 | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            break;
        }
    }
    number
}

#[cfg(test)]
mod tests {
    use super::Mode::{Fingerprint, IdList, Skip};
    use super::*;

    fn message(ranges: &[&[u8]]) -> Vec<u8> {
        [&[VERSION], &*ranges.concat()].concat()
    }

    #[track_caller]
    fn check(message: &[u8], expected: &[Mode]) {
        let answered = first_ranges(message, LOOKUPS_MAX).expect("not too many");
        assert_eq!((&*answered.message, &*answered.modes), (message, expected));
    }

    #[test]
    fn ranges_are_told_by_their_mode() {
        let prefix = [&[5, 3][..], &[9; 3], &[0]].concat();
        let fingerprint = [&[0x81, 0x00, 0, 1][..], &[7; FINGERPRINT_BYTES]].concat();
        let ids = [&[0, 0, 2, 2][..], &[2; 2 * ID_BYTES]].concat();
        check(&message(&[&[1, 0, 0]]), &[Skip]);
        check(&message(&[&prefix]), &[Skip]);
        check(&message(&[&fingerprint]), &[Fingerprint]);
        check(&message(&[&ids]), &[IdList]);
        check(&message(&[&[0, 0, 2, 0]]), &[IdList]);
        // A number may have more digits than it needs.
        check(&message(&[&[0x80, 0x80, 0x01, 0x80, 0x00, 0x80, 0x00]]), &[Skip]);
        check(&message(&[&prefix, &fingerprint, &ids, &[1, 0, 0]]), &[Skip, Fingerprint, IdList, Skip]);
    }

    #[test]
    fn what_is_cut_off_or_malformed_ends_the_message() {
        let full =
            message(&[&[1, 0, 0], &[&[2, 1, 9, 1][..], &[7; FINGERPRINT_BYTES]].concat(), &[0, 0, 2, 0]]);
        // Of a number that is cut off nothing may be left, which is zero: the last range may seem to be of mode Skip.
        for len in 0..full.len() {
            let mut found = first_ranges(&full[..len], LOOKUPS_MAX).unwrap().modes;
            let last = found.pop();
            let expected = [Skip, Fingerprint, IdList];
            assert!(expected.starts_with(&found), "{len}: {found:?}");
            assert!(last.is_none_or(|last| last == Skip || last == expected[found.len()]), "{len}: {last:?}");
        }
        for (ranges, expected) in [
            (&[0x80][..], &[Skip][..]),
            (&[0x81, 0x80], &[Skip]),
            (&[1, 1], &[]),
            (&[1, 0x81], &[]),
            (&[1, 0, 0x82], &[IdList]),
            (&[1, 0, 3], &[]),
            (&[1, 0, 2, 0x8f], &[IdList]),
            (&[1, 0, 2, 0x81, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0, 1, 0, 0], &[IdList]),
            (&[&[1, 33][..], &[0; 34]].concat(), &[]),
            (&[&[1, 32][..], &[0; 33]].concat(), &[Skip]),
        ] {
            check(&message(&[ranges]), expected);
        }
        for other_version in [&[][..], &[0x60, 1, 0, 0], &[0x62, 1, 0, 0], &[0, 1, 0, 0]] {
            check(other_version, &[]);
        }
    }

    #[test]
    fn ranges_of_a_message_are_limited() {
        let of_modes: [(Mode, usize, &[u8]); 3] = [
            (Skip, LOOKUPS_MAX, &[1, 0, 0]),
            (Fingerprint, LOOKUPS_MAX / 2, &[&[1, 0, 1][..], &[7; FINGERPRINT_BYTES]].concat()),
            (IdList, LOOKUPS_MAX / 2, &[1, 0, 2, 0]),
        ];
        for (mode, answered, range) in of_modes {
            let full = message(&[&range.repeat(answered)]);
            check(&full, &vec![mode; answered]);
            for count in [answered + 1, RANGES_MAX] {
                let cut = first_ranges(&message(&[&range.repeat(count)]), LOOKUPS_MAX)
                    .map(|cut| (cut.message.into_owned(), cut.modes));
                let with_rest = [&*full, &REST].concat();
                assert_eq!(
                    cut,
                    Ok((with_rest, [vec![mode; answered], vec![Fingerprint]].concat())),
                    "{count}"
                );
            }
            for count in [RANGES_MAX + 1, 3 * RANGES_MAX] {
                let message = message(&[&range.repeat(count)]);
                assert_eq!(first_ranges(&message, LOOKUPS_MAX), Err(TooMany), "{count} of {mode:?}");
            }
        }
        // A range of two look-ups that one is left for.
        let odd = message(&[&[1, 0, 0].repeat(LOOKUPS_MAX - 1), &[1, 0, 2, 0], &[1, 0, 0]]);
        let cut = first_ranges(&odd, LOOKUPS_MAX).expect("not too many");
        assert_eq!(*cut.message, [&odd[..1 + 3 * (LOOKUPS_MAX - 1)], &REST].concat());
    }
}
