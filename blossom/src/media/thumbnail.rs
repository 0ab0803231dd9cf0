//! A blurhash and a thumbnail, from the pixels.

use std::io::Cursor;

use bytes::Bytes;
use image::codecs::jpeg::JpegEncoder;
use image::codecs::webp::WebPEncoder;
use image::metadata::Orientation;
use image::{
    DynamicImage, ExtendedColorType, ImageDecoder as _, ImageEncoder as _, ImageError, ImageFormat,
    ImageReader, ImageResult, Limits, RgbaImage,
};
use img_parts::jpeg::{Jpeg, markers};

use super::{MediaError, Stripped, Thumbnail};

/// Bytes that decoding a picture may take.
const DECODED_BYTES_MAX: u64 = 256 << 20;
/// The longest side of the thumbnail, in pixels.
const SIDE: u32 = 512;
const QUALITY: u8 = 80;
/// Bytes of a colour profile that the thumbnail takes over.
const PROFILE_BYTES_MAX: usize = 16 << 10;
/// The longest side of what the blurhash is made from.
const BLURRED_SIDE: u32 = 48;

/// What is made from the pixels of a picture: none of it if its pixels take too much memory, or are coded in a way that the
/// decoder does not know.
///
/// # Errors
/// If the pixels are broken.
pub(super) fn thumbnail(stripped: &Stripped) -> Result<Thumbnail, MediaError> {
    match decode(stripped) {
        Ok(Some((picture, profile))) => Ok(of(stripped, picture, profile)),
        Ok(None) | Err(ImageError::Unsupported(_) | ImageError::Limits(_)) => Ok(Thumbnail::default()),
        Err(_) => Err(MediaError::Broken),
    }
}

/// The pixels, no more than fit the thumbnail, and the colour profile.
fn decode(stripped: &Stripped) -> ImageResult<Option<(DynamicImage, Option<Vec<u8>>)>> {
    let bytes = &stripped.bytes;
    // `times`: how often the decoded size is in memory at once. WebP and GIF have a frame beside the canvas, progressive JPEG its
    // coefficients beside the pixels.
    let (format, times) = match stripped.mime {
        "image/jpeg" if is_progressive(bytes) => (ImageFormat::Jpeg, 3),
        "image/jpeg" => (ImageFormat::Jpeg, 1),
        "image/png" => (ImageFormat::Png, 1),
        "image/webp" => (ImageFormat::WebP, 2),
        _ => (ImageFormat::Gif, 2),
    };
    let mut reader = ImageReader::with_format(Cursor::new(&bytes[..]), format);
    let mut limits = Limits::default();
    limits.max_alloc = Some(DECODED_BYTES_MAX);
    reader.limits(limits);
    let mut decoder = reader.into_decoder()?;
    if decoder.total_bytes().saturating_mul(times) > DECODED_BYTES_MAX {
        return Ok(None);
    }
    let profile = decoder.icc_profile().ok().flatten();
    let picture = DynamicImage::from_decoder(decoder)?;
    Ok(Some((fit(picture, SIDE), profile)))
}

fn is_progressive(bytes: &Bytes) -> bool {
    Jpeg::from_bytes(bytes.clone()).is_ok_and(|jpeg| jpeg.segment_by_marker(markers::SOF2).is_some())
}

/// A picture whose longer side is no longer than this.
fn fit(picture: DynamicImage, side: u32) -> DynamicImage {
    match picture.width().max(picture.height()) > side {
        true => picture.thumbnail(side, side),
        false => picture,
    }
}

fn of(stripped: &Stripped, mut picture: DynamicImage, profile: Option<Vec<u8>>) -> Thumbnail {
    picture
        .apply_orientation(Orientation::from_exif(stripped.orientation).unwrap_or(Orientation::NoTransforms));
    let picture = picture.into_rgba8();
    let thumbnail = encode(&picture, profile).filter(|(bytes, _)| bytes.len() < stripped.bytes.len() / 2);
    Thumbnail { blurhash: blurhash(picture), thumbnail }
}

/// JPEG, or WebP if something is transparent.
fn encode(picture: &RgbaImage, profile: Option<Vec<u8>>) -> Option<(Bytes, String)> {
    let (width, height) = picture.dimensions();
    // Pixels have been converted from grey and CMYK; their profiles would be wrong.
    let fits = |profile: &Vec<u8>| profile.len() <= PROFILE_BYTES_MAX && profile.get(16..20) == Some(b"RGB ");
    let profile = profile.filter(fits);
    let mut bytes = Vec::new();
    if picture.pixels().all(|pixel| pixel.0[3] == u8::MAX) {
        let rgb: Vec<u8> = picture.pixels().flat_map(|pixel| [pixel.0[0], pixel.0[1], pixel.0[2]]).collect();
        let mut encoder = JpegEncoder::new_with_quality(&mut bytes, QUALITY);
        profile.map(|profile| encoder.set_icc_profile(profile)).transpose().ok()?;
        encoder.write_image(&rgb, width, height, ExtendedColorType::Rgb8).ok()?;
        return Some((bytes.into(), "image/jpeg".to_owned()));
    }
    let mut encoder = WebPEncoder::new_lossless(&mut bytes);
    profile.map(|profile| encoder.set_icc_profile(profile)).transpose().ok()?;
    encoder.write_image(picture, width, height, ExtendedColorType::Rgba8).ok()?;
    Some((bytes.into(), "image/webp".to_owned()))
}

/// With four components for the longer side and three for the other; transparent pixels are on white.
fn blurhash(picture: RgbaImage) -> Option<String> {
    let mut picture = fit(picture.into(), BLURRED_SIDE).into_rgba8();
    for pixel in picture.pixels_mut() {
        let alpha = u16::from(pixel.0[3]);
        for value in &mut pixel.0[..3] {
            *value = ((u16::from(*value) * alpha + 255 * (255 - alpha)) / 255) as u8;
        }
    }
    let (width, height) = picture.dimensions();
    let (x, y) = if width < height { (3, 4) } else { (4, 3) };
    blurhash::encode(x, y, width, height, &picture).ok()
}
