//! PNG (W3C, third edition): chunks.

use bytes::Bytes;
use img_parts::ImageEXIF as _;
use img_parts::png::Png;

use super::orientation;
use super::{MediaError, Stripped};

/// Chunks that a viewer needs: pixels, transparency, colours, density, animation.
const KEPT: [[u8; 4]; 17] = [
    *b"IHDR", *b"PLTE", *b"IDAT", *b"IEND", *b"tRNS", *b"cHRM", *b"gAMA", *b"iCCP", *b"sBIT", *b"sRGB",
    *b"cICP", *b"mDCV", *b"cLLI", *b"bKGD", *b"pHYs", *b"acTL", *b"fcTL",
];
/// Pixels of further frames.
const FRAME: [u8; 4] = *b"fdAT";
const HEADER_BYTES: usize = 13;

pub(super) fn strip(bytes: &Bytes) -> Result<Stripped, MediaError> {
    let mut png = Png::from_bytes(bytes.clone()).map_err(|_| MediaError::Broken)?;
    let size = png.dimensions().ok_or(MediaError::Broken)?;
    let chunks = png.chunks();
    let starts = chunks
        .first()
        .is_some_and(|chunk| chunk.kind() == *b"IHDR" && chunk.contents().len() == HEADER_BYTES);
    let ends = chunks.last().is_some_and(|chunk| chunk.kind() == *b"IEND");
    // Viewers refuse files with chunks that they do not know and that are not marked as optional, by a lowercase letter.
    let is_known =
        chunks.iter().all(|chunk| chunk.kind()[0].is_ascii_lowercase() || KEPT.contains(&chunk.kind()));
    if !(starts && ends && is_known) || png.chunk_by_type(*b"IDAT").is_none() {
        return Err(MediaError::Broken);
    }
    let orientation = png.exif().map_or(orientation::UPRIGHT, |exif| orientation::read(&exif));
    png.chunks_mut().retain(|chunk| KEPT.contains(&chunk.kind()) || chunk.kind() == FRAME);
    png.set_exif(orientation::write(orientation));
    Stripped::new("image/png", size, orientation, || png.encoder().bytes())
}
