//! WebP (RFC 9649): chunks of RIFF.

use bytes::{BufMut as _, Bytes, BytesMut};
use img_parts::ImageEXIF as _;
use img_parts::riff::{RiffChunk, RiffContent};
use img_parts::webp::{
    CHUNK_ALPH, CHUNK_ANIM, CHUNK_ANMF, CHUNK_EXIF, CHUNK_ICCP, CHUNK_VP8, CHUNK_VP8L, CHUNK_VP8X, WebP,
};

use super::orientation;
use super::{MediaError, Stripped};

/// Flags of the extended header.
const EXIF: u8 = 0b1000;
const XMP: u8 = 0b0100;
const HEADER_BYTES: usize = 10;
/// What a frame says of itself, before its chunks.
const FRAME_HEADER_BYTES: usize = 16;

pub(super) fn strip(bytes: &Bytes) -> Result<Stripped, MediaError> {
    let mut webp = WebP::from_bytes(bytes.clone()).map_err(|_| MediaError::Broken)?;
    let size = webp.dimensions().ok_or(MediaError::Broken)?;
    let first = webp.chunks().first().map(RiffChunk::id);
    if !first.is_some_and(|id| matches!(id, CHUNK_VP8 | CHUNK_VP8L | CHUNK_VP8X)) {
        return Err(MediaError::Broken);
    }
    if ![CHUNK_VP8, CHUNK_VP8L, CHUNK_ANMF].into_iter().any(|id| webp.has_chunk(id)) {
        return Err(MediaError::Broken);
    }
    // Only the extended format has EXIF.
    let is_extended = first == Some(CHUNK_VP8X);
    let exif = webp.exif().filter(|_| is_extended);
    let orientation = exif.map_or(orientation::UPRIGHT, |exif| orientation::read(&exif));
    let minimal = orientation::write(orientation);
    let mut kept = Vec::new();
    for chunk in std::mem::take(webp.chunks_mut()) {
        let Some(data) = chunk.content().data() else { continue };
        let data = match chunk.id() {
            CHUNK_VP8X => header(data, minimal.is_some())?,
            CHUNK_ANMF => frame(data)?,
            CHUNK_ICCP | CHUNK_ANIM | CHUNK_ALPH | CHUNK_VP8 | CHUNK_VP8L => data.clone(),
            _ => continue,
        };
        kept.push(RiffChunk::new(chunk.id(), RiffContent::Data(data)));
    }
    kept.extend(minimal.map(|exif| RiffChunk::new(CHUNK_EXIF, RiffContent::Data(exif))));
    *webp.chunks_mut() = kept;
    Stripped::new("image/webp", size, orientation, || webp.encoder().bytes())
}

fn header(data: &Bytes, has_exif: bool) -> Result<Bytes, MediaError> {
    if data.len() < HEADER_BYTES {
        return Err(MediaError::Broken);
    }
    let mut header = BytesMut::from(&data[..HEADER_BYTES]);
    header[0] &= !(EXIF | XMP);
    if has_exif {
        header[0] |= EXIF;
    }
    Ok(header.freeze())
}

/// A frame with the chunks of its pixels alone.
fn frame(data: &Bytes) -> Result<Bytes, MediaError> {
    let mut kept = BytesMut::with_capacity(data.len());
    let mut rest = data.clone();
    kept.put(split(&mut rest, FRAME_HEADER_BYTES)?);
    while !rest.is_empty() {
        let head = split(&mut rest, 8)?;
        let length = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
        let length = usize::try_from(length).map_err(|_| MediaError::Broken)?;
        // With a byte to fill up, which may be missing at the end.
        let padded = length.checked_add(length % 2).ok_or(MediaError::Broken)?;
        let padded = if rest.len() == length { length } else { padded };
        let contents = split(&mut rest, padded)?;
        if [CHUNK_ALPH, CHUNK_VP8, CHUNK_VP8L].iter().any(|id| head.starts_with(id)) {
            kept.put(head);
            kept.put(contents);
        }
    }
    Ok(kept.freeze())
}

fn split(rest: &mut Bytes, length: usize) -> Result<Bytes, MediaError> {
    if length > rest.len() { Err(MediaError::Broken) } else { Ok(rest.split_to(length)) }
}
