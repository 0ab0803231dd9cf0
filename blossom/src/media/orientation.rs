//! The orientation in EXIF: how a picture is to be turned and mirrored before it is shown.

use bytes::Bytes;

/// The tag in the first directory.
const TAG: u16 = 0x0112;
/// The type of its value: 16 bits.
const SHORT: u16 = 3;

/// As it is coded.
pub(super) const UPRIGHT: u8 = 1;

/// The orientation, 1 to 8, in an EXIF block with or without its prefix; 1 if there is none.
pub(super) fn read(exif: &[u8]) -> u8 {
    find(exif).filter(|value| (1..=8).contains(value)).unwrap_or(UPRIGHT)
}

fn find(exif: &[u8]) -> Option<u8> {
    let tiff = exif.strip_prefix(b"Exif\0\0").unwrap_or(exif);
    let is_little = match tiff.get(..4)? {
        b"II*\0" => true,
        b"MM\0*" => false,
        _ => return None,
    };
    let short = |bytes: &[u8]| {
        let bytes: [u8; 2] = bytes.get(..2)?.try_into().ok()?;
        Some(if is_little { u16::from_le_bytes(bytes) } else { u16::from_be_bytes(bytes) })
    };
    let at: [u8; 4] = tiff.get(4..8)?.try_into().ok()?;
    let at = if is_little { u32::from_le_bytes(at) } else { u32::from_be_bytes(at) };
    let directory = tiff.get(usize::try_from(at).ok()?..)?;
    let mut entries = directory.get(2..)?.chunks_exact(12).take(usize::from(short(directory)?));
    let entry = entries.find(|entry| short(entry) == Some(TAG))?;
    if short(&entry[2..]) != Some(SHORT) {
        return None;
    }
    u8::try_from(short(&entry[8..])?).ok()
}

/// An EXIF block, without prefix, that has an orientation and nothing else; none if the picture is upright.
pub(super) fn write(orientation: u8) -> Option<Bytes> {
    let mut exif = *b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x01\0\0\0\0\0\0\0";
    exif[18] = orientation;
    (orientation != UPRIGHT).then(|| Bytes::copy_from_slice(&exif))
}

/// Whether width and height are exchanged.
pub(super) fn is_turned(orientation: u8) -> bool {
    matches!(orientation, 5..=8)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        assert_eq!(write(UPRIGHT), None);
        for orientation in 2..=8 {
            let exif = write(orientation).unwrap();
            assert_eq!(read(&exif), orientation);
            assert_eq!(read(&[b"Exif\0\0", &exif[..]].concat()), orientation);
            assert_eq!(is_turned(orientation), orientation >= 5);
        }
    }

    #[test]
    fn blocks_of_cameras_and_broken_ones() {
        let big =
            b"MM\0*\0\0\0\x08\0\x02\x01\x0f\0\x02\0\0\0\x01a\0\0\0\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0";
        let mut long = *b"II*\0\x08\0\0\0\x01\0\x12\x01\x04\0\x01\0\0\0\x06\0\0\0\0\0\0\0";
        let mut cases: Vec<(&str, &[u8], u8)> = vec![
            ("big-endian, the second entry", big, 6),
            ("32 bits", &long, 1),
            ("empty", b"", 1),
            ("no EXIF", b"what is this", 1),
            ("a directory beyond the end", b"II*\0\xff\xff\xff\xff", 1),
            ("a directory at the end", b"II*\0\x08\0\0\0", 1),
            ("more entries than bytes", b"II*\0\x08\0\0\0\xff\xff\x12\x01\x03\0", 1),
        ];
        let mut unknown = long;
        unknown[12] = 3;
        for (value, want) in [(0, 1), (9, 1), (8, 8)] {
            unknown[18] = value;
            assert_eq!(read(&unknown), want, "{value}");
        }
        unknown[19] = 1;
        cases.push(("more than 8 bits", &unknown, 1));
        for (what, exif, want) in cases {
            assert_eq!(read(exif), want, "{what}");
        }
        // Any byte may be wrong.
        for at in 0..long.len() {
            for value in [0, 1, 127, 255] {
                let old = std::mem::replace(&mut long[at], value);
                assert!((1..=8).contains(&read(&long)) && (1..=8).contains(&read(&long[..at])));
                long[at] = old;
            }
        }
    }
}
