//! JPEG (ITU-T T.81): segments, and scans of coded data.

use bytes::Bytes;
use img_parts::ImageEXIF as _;
use img_parts::jpeg::{Jpeg, JpegSegment, markers};

use super::orientation;
use super::{MediaError, Stripped};

/// TEM (T.81, B.1.1.3), a marker without a length like RSTn: it does not end coded data.
const TEM: u8 = 0x01;
/// Bytes of a JFIF segment without thumbnail. The last two say how large that is.
const JFIF_BYTES: usize = 14;

pub(super) fn strip(bytes: &Bytes) -> Result<Stripped, MediaError> {
    let mut jpeg = Jpeg::from_bytes(bytes.clone()).map_err(|_| MediaError::Broken)?;
    let (width, height) = jpeg.dimensions().ok_or(MediaError::Broken)?;
    let orientation = jpeg.exif().map_or(orientation::UPRIGHT, |exif| orientation::read(&exif));
    let first =
        jpeg.segments_mut().pop().filter(|last| last.marker() == markers::SOS).ok_or(MediaError::Broken)?;
    let head = std::mem::take(jpeg.segments_mut());
    let mut kept: Vec<_> =
        head.iter().filter_map(|segment| keep(segment.marker(), segment.contents())).collect();
    let coded = first.len_with_entropy() - first.len();
    scans(&mut kept, first, bytes.slice(bytes.len() - coded..))?;
    *jpeg.segments_mut() = kept;
    jpeg.set_exif(orientation::write(orientation));
    let size = (u32::from(width), u32::from(height));
    Stripped::new("image/jpeg", size, orientation, || jpeg.encoder().bytes())
}

/// A segment as it is kept: tables and headers, the density of JFIF, colour profiles, and which colours Adobe's programs mean.
fn keep(marker: u8, contents: &Bytes) -> Option<JpegSegment> {
    let contents = match marker {
        markers::APP0 if contents.starts_with(b"JFIF\0") && contents.len() >= JFIF_BYTES => {
            let mut jfif = contents[..JFIF_BYTES].to_vec();
            jfif[JFIF_BYTES - 2..].fill(0);
            jfif.into()
        }
        markers::APP2 if contents.starts_with(b"ICC_PROFILE\0") => contents.clone(),
        markers::APP14 if contents.starts_with(b"Adobe") => contents.clone(),
        markers::SOF0..=markers::EXP => contents.clone(),
        _ => return None,
    };
    Some(JpegSegment::new_with_contents(marker, contents))
}

/// Adds the header of the first scan, and of the rest of the file scans and segments between them up to the end of the picture.
/// What follows (other pictures, films) goes.
fn scans(kept: &mut Vec<JpegSegment>, first: JpegSegment, mut rest: Bytes) -> Result<(), MediaError> {
    let mut segment = Some((first.marker(), first.contents().clone()));
    loop {
        let end = next_marker(&rest).ok_or(MediaError::Broken)?;
        let coded = rest.split_to(end);
        match segment.take() {
            Some((marker @ markers::SOS, contents)) => {
                kept.push(JpegSegment::new_with_entropy(marker, contents, coded));
            }
            Some((marker, contents)) => kept.extend(keep(marker, &contents)),
            None => {}
        }
        let marker = rest[1];
        if marker == markers::EOI {
            kept.push(JpegSegment::new(markers::EOI));
            return Ok(());
        }
        let length = rest.get(2..4).map(|bytes| usize::from(u16::from_be_bytes([bytes[0], bytes[1]])));
        let length =
            length.filter(|length| *length >= 2 && length + 2 <= rest.len()).ok_or(MediaError::Broken)?;
        let contents = rest.split_to(length + 2).slice(4..);
        segment = Some((marker, contents));
    }
}

/// Where the next marker is that ends coded data.
fn next_marker(bytes: &[u8]) -> Option<usize> {
    let mut from = 0;
    loop {
        let at = from + bytes[from..].iter().position(|byte| *byte == markers::P)?;
        match *bytes.get(at + 1)? {
            markers::Z | TEM | markers::RST0..=markers::RST7 => from = at + 2,
            markers::P => from = at + 1,
            _ => return Some(at),
        }
    }
}
