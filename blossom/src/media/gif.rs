//! GIF (87a and 89a): blocks. No library takes them apart without decoding the pixels.

use bytes::Bytes;

use super::orientation::UPRIGHT;
use super::{MediaError, Stripped};

const IMAGE: u8 = 0x2c;
const EXTENSION: u8 = 0x21;
const TRAILER: u8 = 0x3b;
const CONTROL: u8 = 0xf9;
const APPLICATION: u8 = 0xff;
/// Extensions of applications that are kept: how often it is played, the colour profile.
const KEPT: [&[u8]; 3] = [b"NETSCAPE2.0", b"ANIMEXTS1.0", b"ICCRGBG1012"];

pub(super) fn strip(bytes: &Bytes) -> Result<Stripped, MediaError> {
    let mut blocks = Blocks { bytes, at: 0 };
    let head = blocks.take(13)?;
    let size = (u32::from(head[6]) | u32::from(head[7]) << 8, u32::from(head[8]) | u32::from(head[9]) << 8);
    blocks.colours(head[10])?;
    let mut kept = Vec::with_capacity(bytes.len());
    kept.extend_from_slice(&bytes[..blocks.at]);
    // How the next image is shown; it goes with the image.
    let mut control: &[u8] = &[];
    let mut has_image = false;
    loop {
        let start = blocks.at;
        match blocks.byte()? {
            IMAGE => {
                let flags = blocks.take(9)?[8];
                blocks.colours(flags)?;
                blocks.byte()?;
                blocks.data()?;
                kept.extend_from_slice(std::mem::take(&mut control));
                kept.extend_from_slice(&bytes[start..blocks.at]);
                has_image = true;
            }
            EXTENSION => {
                let label = blocks.byte()?;
                let first = blocks.at + 1;
                blocks.data()?;
                let contents = &bytes[first..blocks.at];
                match label {
                    CONTROL => control = &bytes[start..blocks.at],
                    APPLICATION if KEPT.iter().any(|name| contents.starts_with(name)) => {
                        kept.extend_from_slice(&bytes[start..blocks.at]);
                    }
                    _ => {}
                }
            }
            TRAILER if has_image => break,
            _ => return Err(MediaError::Broken),
        }
    }
    kept.push(TRAILER);
    Stripped::new("image/gif", size, UPRIGHT, || kept.into())
}

struct Blocks<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Blocks<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], MediaError> {
        let taken = self.bytes.get(self.at..self.at + length).ok_or(MediaError::Broken)?;
        self.at += length;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, MediaError> {
        Ok(self.take(1)?[0])
    }

    /// A table of colours, if these flags say so.
    fn colours(&mut self, flags: u8) -> Result<(), MediaError> {
        if flags & 0x80 != 0 {
            self.take(3 << ((flags & 7) + 1))?;
        }
        Ok(())
    }

    /// Sub-blocks and their end.
    fn data(&mut self) -> Result<(), MediaError> {
        while let length @ 1.. = self.byte()? {
            self.take(usize::from(length))?;
        }
        Ok(())
    }
}
