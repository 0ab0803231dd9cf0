//! Blobs to upload: unique bytes, a PNG that any decoder reads, a JPEG with a position in it.

use sha2::{Digest, Sha256};

use crate::nostr::sha256;

/// Bytes with their hash and type.
#[derive(Clone, Debug)]
pub(crate) struct Blob {
    pub(crate) bytes: Vec<u8>,
    pub(crate) sha256: String,
    pub(crate) mime: String,
}

impl Blob {
    pub(crate) fn new(bytes: Vec<u8>, mime: &str) -> Self {
        Blob { sha256: sha256(&bytes), bytes, mime: mime.to_owned() }
    }

    /// `length` pseudo-random bytes of a run and a number.
    pub(crate) fn unique(run: &[u8; 8], number: u64, length: usize) -> Self {
        let mut bytes = Vec::with_capacity(length + 32);
        let mut block: [u8; 32] = Sha256::digest([run.as_slice(), &number.to_le_bytes()].concat()).into();
        while bytes.len() < length {
            bytes.extend_from_slice(&block);
            block = Sha256::digest(block).into();
        }
        bytes.truncate(length);
        Blob::new(bytes, "application/octet-stream")
    }

    pub(crate) fn path(&self) -> String {
        format!("/{}", self.sha256)
    }
}

/// A PNG of one row whose grey pixels are these bytes.
pub(crate) fn png(pixels: &[u8]) -> Blob {
    let mut out = b"\x89PNG\r\n\x1a\n".to_vec();
    let mut header = (pixels.len() as u32).to_be_bytes().to_vec();
    header.extend([0, 0, 0, 1, 8, 0, 0, 0, 0]);
    chunk(&mut out, b"IHDR", &header);
    // One stored block of deflate: the row's filter (none) and its pixels.
    let row = [&[0], pixels].concat();
    let length = row.len() as u16;
    let mut data = vec![0x78, 1, 1];
    data.extend(length.to_le_bytes());
    data.extend((!length).to_le_bytes());
    data.extend_from_slice(&row);
    data.extend(adler32(&row).to_be_bytes());
    chunk(&mut out, b"IDAT", &data);
    chunk(&mut out, b"IEND", &[]);
    Blob::new(out, "image/png")
}

fn chunk(out: &mut Vec<u8>, name: &[u8; 4], data: &[u8]) {
    out.extend((data.len() as u32).to_be_bytes());
    let covered = [name.as_slice(), data].concat();
    out.extend_from_slice(&covered);
    out.extend(crc32(&covered).to_be_bytes());
}

fn adler32(bytes: &[u8]) -> u32 {
    let (mut low, mut high) = (1, 0);
    for byte in bytes {
        low = (low + u32::from(*byte)) % 65521;
        high = (high + low) % 65521;
    }
    high << 16 | low
}

fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
        }
    }
    !crc
}
