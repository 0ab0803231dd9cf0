//! Blurhashes and thumbnails.

use bytes::Bytes;
use image::{GenericImageView as _, ImageFormat, Rgba, RgbaImage};
use relay_blossom::exchange::Processed;
use relay_blossom::media::process;

use crate::samples::{self, PROFILE, contains, encode, pixels};

fn processed(bytes: &Bytes) -> Processed {
    process(bytes, "image/png").unwrap()
}

/// Two colours, left and right.
fn halves(width: u32, height: u32, alpha: u8) -> RgbaImage {
    RgbaImage::from_fn(width, height, |x, y| match x * 2 < width {
        // Noise, so that no format makes it small.
        true => Rgba([200 + (x * y % 50) as u8, 0, 0, 255]),
        false => Rgba([0, 0, 200 + (x * y % 50) as u8, alpha]),
    })
}

/// Red, or blue: the larger of both.
fn is_red(pixel: Rgba<u8>) -> bool {
    pixel.0[0] > pixel.0[2]
}

#[test]
fn large_pictures_have_a_thumbnail_of_512_pixels() {
    for (width, height, want) in [(1_024, 512, (512, 256)), (600, 900, (341, 512)), (3_000, 10, (512, 2))] {
        let picture = processed(&encode(halves(width, height, 255), ImageFormat::Png));
        let (bytes, mime) = picture.thumbnail.unwrap();
        assert_eq!(mime, "image/jpeg");
        let small = image::load_from_memory_with_format(&bytes, ImageFormat::Jpeg).unwrap();
        assert_eq!(small.dimensions(), want, "{width}x{height}");
        assert!(is_red(small.get_pixel(0, 0)) && !is_red(small.get_pixel(want.0 - 1, want.1 - 1)));
        assert_eq!(picture.media.dim, Some((width, height)));
    }
}

#[test]
fn transparent_pictures_have_a_transparent_thumbnail() {
    let (bytes, mime) = processed(&encode(halves(700, 700, 0), ImageFormat::Png)).thumbnail.unwrap();
    assert_eq!(mime, "image/webp");
    let small = image::load_from_memory_with_format(&bytes, ImageFormat::WebP).unwrap();
    assert_eq!((small.dimensions(), small.get_pixel(511, 0).0[3]), ((512, 512), 0));
}

#[test]
fn thumbnails_are_upright() {
    let encoded = encode(halves(1_200, 600, 255), ImageFormat::Jpeg);
    let exif = [b"Exif\0\0", &samples::exif(6)[..]].concat();
    let turned = [&encoded[..2], &samples::segment(0xe1, &exif), &encoded[2..]].concat();
    let picture = processed(&turned.into());
    assert_eq!(picture.media.dim, Some((600, 1_200)));
    let (bytes, _) = picture.thumbnail.unwrap();
    let small = image::load_from_memory(&bytes).unwrap();
    assert_eq!(small.dimensions(), (256, 512));
    // Turned clockwise, left is at the top.
    assert!(is_red(small.get_pixel(128, 0)) && !is_red(small.get_pixel(128, 511)));
    assert!(!contains(&bytes, b"Exif"));
}

#[test]
fn a_picture_that_is_small_already_has_none() {
    assert_eq!(processed(&encode(pixels(16, 16, 0), ImageFormat::Png)).thumbnail, None);
    let (bytes, _) = processed(&encode(halves(300, 300, 255), ImageFormat::Gif)).thumbnail.unwrap();
    assert_eq!(
        image::load_from_memory(&bytes).unwrap().dimensions(),
        (300, 300),
        "fewer bytes, not fewer pixels"
    );
}

#[test]
fn colours_of_the_thumbnail_are_the_same() {
    let encoded = encode(halves(1_200, 600, 255), ImageFormat::Jpeg);
    let profile = samples::segment(0xe2, &[b"ICC_PROFILE\0\x01\x01", PROFILE].concat());
    let picture = processed(&[&encoded[..2], &profile, &encoded[2..]].concat().into());
    assert!(contains(&picture.thumbnail.unwrap().0, PROFILE));
}

#[test]
fn blurhashes_are_those_of_the_picture_as_it_is_shown() {
    let of = |picture| processed(&encode(picture, ImageFormat::Png)).media.blurhash.unwrap();
    let shown = |hash: &str, x: usize| -> [u8; 3] {
        let pixels = blurhash::decode(hash, 20, 20, 1.0).unwrap();
        pixels[(20 * 10 + x) * 4..][..3].try_into().unwrap()
    };
    let hash = of(halves(90, 60, 255));
    let (left, right) = (shown(&hash, 2), shown(&hash, 17));
    assert!(left[0] > 150 && left[2] < 100 && right[0] < 100 && right[2] > 150, "{left:?} {right:?}");
    let right = shown(&of(halves(90, 60, 0)), 17);
    assert!(right.iter().all(|value| *value > 200), "transparent is white: {right:?}");
    // The first digit is the number of components: four for the longer side.
    assert!(hash.starts_with('L') && of(halves(60, 90, 255)).starts_with('T'));
    for (what, bytes, _) in samples::all() {
        let hash = processed(&bytes).media.blurhash.unwrap();
        assert_eq!(hash.len(), 28, "{what}: {hash}");
    }
}

#[test]
fn pixels_that_take_too_much_memory_are_not_decoded() {
    // 16 bits of four colours: 8 bytes for a pixel, and more than 256 MiB.
    let mut header = Vec::from(6_000_u32.to_be_bytes());
    header.extend(6_000_u32.to_be_bytes());
    header.extend([16, 6, 0, 0, 0]);
    let chunk = |kind: &[u8; 4], contents: Vec<u8>| img_parts::png::PngChunk::new(*kind, contents.into());
    let mut png = img_parts::png::Png::from_bytes(encode(pixels(1, 1, 0), ImageFormat::Png)).unwrap();
    *png.chunks_mut() = vec![chunk(b"IHDR", header), chunk(b"IDAT", vec![0; 9]), chunk(b"IEND", vec![])];
    let picture = processed(&png.encoder().bytes());
    assert_eq!((picture.media.dim, picture.media.blurhash), (Some((6_000, 6_000)), None));
}
