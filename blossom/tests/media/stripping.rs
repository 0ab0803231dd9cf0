//! Metadata goes, and nothing that is shown changes.

use std::io::Cursor;

use bytes::Bytes;
use image::codecs::gif::GifDecoder;
use image::codecs::webp::WebPDecoder;
use image::metadata::Orientation;
use image::{AnimationDecoder, DynamicImage, ImageDecoder, ImageFormat, ImageReader, RgbaImage};
use relay_blossom::exchange::{Processed, StepError};
use relay_blossom::media::process;

use crate::samples::{self, GPS_ENTRY, HEIGHT, PROFILE, SECRET, WIDTH, contains, encode, pixels};

fn processed(what: &str, bytes: &Bytes) -> Processed {
    process(bytes, "application/octet-stream").unwrap_or_else(|failure| panic!("{what}: {failure:?}"))
}

/// All frames as they are coded.
fn frames(bytes: &[u8], mime: &str) -> Vec<RgbaImage> {
    let animated = |frames: image::Frames<'_>| {
        frames.map(|frame| frame.unwrap().into_buffer()).collect::<Vec<RgbaImage>>()
    };
    match mime {
        "image/gif" => animated(GifDecoder::new(Cursor::new(bytes)).unwrap().into_frames()),
        "image/webp" => {
            let decoder = WebPDecoder::new(Cursor::new(bytes)).unwrap();
            match decoder.has_animation() {
                true => animated(decoder.into_frames()),
                false => vec![DynamicImage::from_decoder(decoder).unwrap().into_rgba8()],
            }
        }
        _ => vec![image::load_from_memory(bytes).unwrap().into_rgba8()],
    }
}

/// The orientation and the colour profile that another reader finds.
fn found(bytes: &[u8]) -> (Orientation, Option<Vec<u8>>) {
    let reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format().unwrap();
    let mut decoder = reader.into_decoder().unwrap();
    (decoder.orientation().unwrap(), decoder.icc_profile().unwrap())
}

#[test]
fn metadata_goes_and_pixels_stay() {
    for (what, bytes, mime) in samples::all() {
        assert!(contains(&bytes, SECRET), "{what}");
        let picture = processed(what, &bytes);
        assert_eq!(picture.mime, mime, "{what}");
        assert!(!contains(&picture.bytes, SECRET), "{what}");
        assert!(!contains(&picture.bytes, GPS_ENTRY), "{what}");
        assert!(!contains(&picture.bytes, b"tIME") && !contains(&picture.bytes, b"XMP"), "{what}");
        let (before, after) = (frames(&bytes, mime), frames(&picture.bytes, mime));
        assert_eq!(before, after, "{what}");
        assert_eq!(after.len(), if what.contains("animated") || mime == "image/gif" { 2 } else { 1 });
        assert_eq!(found(&bytes).0, found(&picture.bytes).0, "{what}");
        let again = processed(what, &picture.bytes);
        assert_eq!(again.bytes, picture.bytes, "{what}: nothing is left to be removed");
    }
}

#[test]
fn colour_profiles_density_and_repetitions_stay() {
    for (what, bytes) in [("JPEG", samples::jpeg(1)), ("WebP", samples::webp(1, false))] {
        let picture = processed(what, &bytes);
        assert_eq!(found(&picture.bytes).1.as_deref(), Some(PROFILE), "{what}");
    }
    let gif = processed("GIF", &samples::gif()).bytes;
    assert!(contains(&gif, b"\x21\xff\x0bNETSCAPE2.0\x03\x01\x07\0\0"));
    assert!(contains(&gif, PROFILE));
    let png = processed("PNG", &samples::png(1)).bytes;
    assert!(contains(&png, b"gAMA") && contains(&png, b"pHYs"));
    let jpeg = processed("JPEG", &samples::jpeg(1)).bytes;
    assert!(
        jpeg.starts_with(b"\xff\xd8\xff\xe0\0\x10JFIF\0\x01\x02\0\0\x01\0\x01\0\0\xff"),
        "{:?}",
        &jpeg[..24]
    );
    assert!(jpeg.ends_with(&[0xff, 0xd9]));
}

#[test]
fn the_orientation_stays_and_the_dimensions_are_those_that_are_shown() {
    for orientation in 0..=9 {
        let known = Orientation::from_exif(orientation).unwrap_or(Orientation::NoTransforms);
        let dim = if (5..=8).contains(&orientation) { (HEIGHT, WIDTH) } else { (WIDTH, HEIGHT) };
        for (what, bytes) in [
            ("JPEG", samples::jpeg(orientation)),
            ("PNG", samples::png(orientation)),
            ("WebP", samples::webp(orientation, false)),
            ("lossy WebP", samples::webp(orientation, true)),
        ] {
            let picture = processed(what, &bytes);
            assert_eq!(picture.media.dim, Some(dim), "{what} {orientation}");
            assert_eq!(found(&picture.bytes).0, known, "{what} {orientation}");
            let has_exif = [&b"Exif"[..], b"eXIf", b"EXIF"].iter().any(|name| contains(&picture.bytes, name));
            assert_eq!(has_exif, known != Orientation::NoTransforms, "{what} {orientation}");
        }
    }
    let picture = processed("GIF", &samples::gif());
    assert_eq!(picture.media.dim, Some((WIDTH, HEIGHT)));
}

#[test]
fn pictures_without_metadata_stay_as_they_are() {
    for format in [ImageFormat::Png, ImageFormat::WebP, ImageFormat::Gif, ImageFormat::Jpeg] {
        let bytes = encode(pixels(20, 30, 0), format);
        let picture = processed("plain", &bytes);
        assert_eq!((picture.bytes, picture.media.dim), (bytes, Some((20, 30))), "{format:?}");
    }
}

#[test]
fn other_types_are_refused_with_a_reason() {
    let heic = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic";
    let avif = b"\0\0\0\x18ftypavif\0\0\0\0mif1avif";
    let cases: [(&[u8], &str, &str); 6] = [
        (heic, "image/heic", "this is image/heif"),
        (avif, "image/avif", "this is image/avif"),
        (b"%PDF-1.7\n", "image/png", "this is application/pdf"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image/svg+xml", "this is image/svg+xml"),
        (b"", "image/jpeg", "this is image/jpeg"),
        (b"BM\0\0\0\0", "image/bmp", "this is image/bmp"),
    ];
    for (bytes, declared, want) in cases {
        match process(&Bytes::from_static(bytes), declared) {
            Err(StepError::Unprocessable(why)) => assert!(why.contains(want), "{declared}: {why}"),
            other => panic!("{declared}: {other:?}"),
        }
    }
}
