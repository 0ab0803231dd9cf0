//! What `/media` does to pictures (BUD-05): metadata is removed and the pixels stay as they are coded; dimensions, blurhash and a
//! thumbnail are found out. Bytes in, bytes out.
//!
//! Containers are rewritten from lists of what a viewer needs. Whatever is not listed goes: EXIF, XMP, IPTC, comments, times,
//! thumbnails inside, what programs add, what follows the end of the picture. Colour profiles stay, and of EXIF the orientation.
//!
//! | module | role |
//! |---|---|
//! | `jpeg`, `png`, `webp`, `gif` | one container each |
//! | `orientation` | the one tag of EXIF that is read and kept |
//! | `thumbnail` | blurhash and thumbnail (feature `thumbnails`; without it there are none) |

mod gif;
mod jpeg;
mod orientation;
mod png;
#[cfg(feature = "thumbnails")]
mod thumbnail;
mod webp;

use bytes::Bytes;

use crate::blob::{Media, Sha256};
use crate::exchange::{Processed, StepError};
use crate::mime;

/// Most pixels of a picture (of one frame, if it is animated).
pub const PIXELS_MAX: u64 = 100_000_000;

/// Why a picture is not processed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MediaError {
    /// It ends early, or is not what its format says.
    Broken,
    TooLarge,
}

/// A picture without metadata.
#[derive(Clone, Debug)]
struct Stripped {
    bytes: Bytes,
    mime: &'static str,
    /// Width and height as they are coded.
    size: (u32, u32),
    orientation: u8,
}

impl Stripped {
    fn new(
        mime: &'static str,
        (width, height): (u32, u32),
        orientation: u8,
        encode: impl FnOnce() -> Bytes,
    ) -> Result<Self, MediaError> {
        if width == 0 || height == 0 {
            return Err(MediaError::Broken);
        }
        if u64::from(width) * u64::from(height) > PIXELS_MAX {
            return Err(MediaError::TooLarge);
        }
        Ok(Stripped { bytes: encode(), mime, size: (width, height), orientation })
    }

    /// Width and height as they are shown.
    fn dim(&self) -> (u32, u32) {
        let (width, height) = self.size;
        if orientation::is_turned(self.orientation) { (height, width) } else { (width, height) }
    }
}

/// Processes a picture: JPEG, PNG, WebP or GIF, as its bytes tell; `declared` is the type that its uploader declares, for the
/// reason of a refusal. `media.original` of the result is not set.
///
/// Takes as much memory as the picture has bytes. With the feature `thumbnails` also what its pixels take, at most 256 MiB;
/// pictures that would take more have neither blurhash nor thumbnail.
///
/// # Errors
/// [`StepError::Unprocessable`] with the reason.
pub fn process(bytes: &Bytes, declared: &str) -> Result<Processed, StepError> {
    let sniffed = mime::sniff(bytes);
    let strip = match sniffed {
        Some("image/jpeg") => jpeg::strip,
        Some("image/png" | "image/apng") => png::strip,
        Some("image/webp") => webp::strip,
        Some("image/gif") => gif::strip,
        other => {
            let mime = other.unwrap_or(mime::essence(declared));
            return Err(StepError::Unprocessable(format!(
                "/media takes JPEG, PNG, WebP and GIF, and this is {mime}; /upload takes it as it is"
            )));
        }
    };
    let processed = strip(bytes).and_then(|stripped| {
        let thumbnail = thumbnail(&stripped)?;
        let media = Media {
            original: Sha256([0; 32]),
            dim: Some(stripped.dim()),
            blurhash: thumbnail.blurhash,
            thumbnail: None,
        };
        let Stripped { bytes, mime, .. } = stripped;
        Ok(Processed { bytes, mime: mime.to_owned(), media, thumbnail: thumbnail.thumbnail })
    });
    processed.map_err(|error| {
        StepError::Unprocessable(match error {
            MediaError::Broken => "the picture is broken or incomplete".to_owned(),
            MediaError::TooLarge => {
                format!("the picture has more than {} megapixels", PIXELS_MAX / 1_000_000)
            }
        })
    })
}

/// What is made from the pixels.
#[derive(Clone, Debug, Default)]
struct Thumbnail {
    blurhash: Option<String>,
    /// Bytes and type.
    thumbnail: Option<(Bytes, String)>,
}

#[cfg(feature = "thumbnails")]
use self::thumbnail::thumbnail;

#[cfg(not(feature = "thumbnails"))]
fn thumbnail(_: &Stripped) -> Result<Thumbnail, MediaError> {
    Ok(Thumbnail::default())
}
