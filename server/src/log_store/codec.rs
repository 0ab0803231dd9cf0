//! Bytes of the store's files: little-endian integers, and frames with checksums.
//!
//! ```text
//! frame    = magic:4  length:4  crc:4  head crc:4  payload  zeros up to a multiple of 8
//! ```
//!
//! Checksums are CRC-32C: `crc` of the payload, `head crc` of the twelve bytes before it. No text in UTF-8 holds a magic.

use relay_engine::store::kv::Key;

/// Bytes before a frame's payload.
pub(super) const HEAD_BYTES: usize = 16;

/// Writes integers and bytes.
#[derive(Default)]
pub(super) struct Encoder(pub(super) Vec<u8>);

impl Encoder {
    pub(super) fn u16(&mut self, value: usize) {
        self.0.extend((value as u16).to_le_bytes());
    }

    pub(super) fn u32(&mut self, value: usize) {
        self.0.extend((value as u32).to_le_bytes());
    }

    pub(super) fn u64(&mut self, value: u64) {
        self.0.extend(value.to_le_bytes());
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.u32(bytes.len());
        self.0.extend_from_slice(bytes);
    }

    pub(super) fn key(&mut self, key: &Key) {
        self.0.push(key.as_bytes().len() as u8);
        self.0.extend_from_slice(key.as_bytes());
    }
}

/// Reads what an [`Encoder`] wrote; `None` where there is too little.
pub(super) struct Decoder<'a>(pub(super) &'a [u8]);

impl<'a> Decoder<'a> {
    pub(super) fn take(&mut self, bytes: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(bytes)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    pub(super) fn u16(&mut self) -> Option<usize> {
        Some(usize::from(u16::from_le_bytes(self.array()?)))
    }

    pub(super) fn u32(&mut self) -> Option<usize> {
        Some(u32::from_le_bytes(self.array()?) as usize)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        Some(u64::from_le_bytes(self.array()?))
    }

    pub(super) fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = self.u32()?;
        self.take(len)
    }

    pub(super) fn key(&mut self) -> Option<Key> {
        let [len] = self.array()?;
        Key::read(self.take(usize::from(len))?)
    }

    /// That many values. A count that is far too large ends with the bytes.
    pub(super) fn list<T>(&mut self, mut read: impl FnMut(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let count = self.u32()?;
        let mut found = Vec::with_capacity(count.min(self.0.len()));
        for _ in 0..count {
            found.push(read(self)?);
        }
        Some(found)
    }
}

/// A frame around a payload.
pub(super) fn frame(magic: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(HEAD_BYTES + payload.len() + 8);
    frame.extend(magic);
    frame.extend((payload.len() as u32).to_le_bytes());
    frame.extend(crc32c::crc32c(payload).to_le_bytes());
    frame.extend(crc32c::crc32c(&frame).to_le_bytes());
    frame.extend_from_slice(payload);
    frame.resize(frame.len().next_multiple_of(8), 0);
    frame
}

/// The bytes of a frame with so long a payload.
pub(super) fn frame_bytes(payload: usize) -> usize {
    (HEAD_BYTES + payload).next_multiple_of(8)
}

/// The payload of the frame that `bytes` begin with, and the bytes of the frame; `None` if there is none that is whole.
pub(super) fn read_frame(magic: [u8; 4], bytes: &[u8]) -> Option<(&[u8], usize)> {
    let len = frame_length(magic, bytes)?;
    let payload = bytes.get(HEAD_BYTES..HEAD_BYTES + len)?;
    let crc = u32::from_le_bytes(*bytes[8..].first_chunk()?);
    (crc32c::crc32c(payload) == crc).then_some((payload, frame_bytes(len)))
}

/// The length of the payload of the frame that `bytes` begin with, if its head is whole.
pub(super) fn frame_length(magic: [u8; 4], bytes: &[u8]) -> Option<usize> {
    let head = bytes.first_chunk::<HEAD_BYTES>()?;
    let crc = u32::from_le_bytes(*head[12..].first_chunk()?);
    let is_whole = head[..4] == magic && crc32c::crc32c(&head[..12]) == crc;
    is_whole.then(|| u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize)
}

/// Whether a whole head of a frame is somewhere in `bytes`, at a multiple of 8.
pub(super) fn has_frame(magic: [u8; 4], bytes: &[u8]) -> bool {
    bytes
        .chunks(8)
        .enumerate()
        .any(|(at, chunk)| chunk.starts_with(&magic) && frame_length(magic, &bytes[at * 8..]).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_whole_or_none() {
        let magic = *b"\xffabc";
        let whole = frame(magic, b"some payload");
        assert_eq!(whole.len(), 32);
        assert_eq!(read_frame(magic, &whole), Some((&b"some payload"[..], 32)));
        for at in 0..28 {
            let mut broken = whole.clone();
            broken[at] ^= 4;
            assert_eq!(read_frame(magic, &broken), None, "byte {at}");
            assert_eq!(read_frame(magic, &whole[..at]), None, "{at} bytes");
            assert_eq!(has_frame(magic, &[&[0; 16][..], &broken].concat()), at >= 16, "byte {at}");
        }
        assert!(!has_frame(magic, &[&[0; 15][..], &whole].concat()));
    }

    #[test]
    fn what_was_written_is_read() {
        let mut encoder = Encoder::default();
        let key = Key::read(b"key").expect("short");
        encoder.u16(7);
        encoder.u32(70_000);
        encoder.u64(1 << 40);
        encoder.bytes(b"bytes");
        encoder.key(&key);
        let bytes = encoder.0;
        let mut decoder = Decoder(&bytes);
        assert_eq!((decoder.u16(), decoder.u32(), decoder.u64()), (Some(7), Some(70_000), Some(1 << 40)));
        assert_eq!((decoder.bytes(), decoder.key(), decoder.u16()), (Some(&b"bytes"[..]), Some(key), None));
        assert!(Decoder(&[0xff; 12]).list(|decoder| decoder.u64()).is_none());
    }
}
