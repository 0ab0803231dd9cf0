//! Small pictures with all the metadata that they can have, made here.

use bytes::Bytes;
use image::codecs::gif::{GifEncoder, Repeat};
use image::{DynamicImage, Frame, ImageFormat, Rgba, RgbaImage};
use img_parts::png::{Png, PngChunk};
use img_parts::riff::{RiffChunk, RiffContent};
use img_parts::webp::WebP;

/// It is in all metadata, and in no picture.
pub(crate) const SECRET: &[u8] = b"Owner of the camera";
/// The entry of EXIF that points to the position.
pub(crate) const GPS_ENTRY: &[u8] = &[0x25, 0x88, 4, 0, 1, 0, 0, 0];
/// What the profile of these samples has.
pub(crate) const PROFILE: &[u8] = b"0123456789abcdefRGB a colour profile";

pub(crate) const WIDTH: u32 = 24;
pub(crate) const HEIGHT: u32 = 16;

/// A picture before it is encoded. `shift` tells frames apart.
pub(crate) fn pixels(width: u32, height: u32, shift: u32) -> RgbaImage {
    RgbaImage::from_fn(width, height, |x, y| {
        let [x8, y8] = [x * 255 / width, y * 255 / height].map(|value| value as u8);
        Rgba([x8, y8, ((x ^ y) + shift) as u8, 255])
    })
}

pub(crate) fn encode(picture: RgbaImage, format: ImageFormat) -> Bytes {
    let mut bytes = std::io::Cursor::new(Vec::new());
    let picture = match format {
        ImageFormat::Jpeg => DynamicImage::from(picture).into_rgb8().into(),
        _ => DynamicImage::from(picture),
    };
    picture.write_to(&mut bytes, format).unwrap();
    bytes.into_inner().into()
}

fn plain(format: ImageFormat) -> Bytes {
    encode(pixels(WIDTH, HEIGHT, 0), format)
}

/// EXIF with a text, a latitude and an orientation.
pub(crate) fn exif(orientation: u8) -> Vec<u8> {
    let mut tiff = b"II*\0\x08\0\0\0\x03\0".to_vec();
    let text_at = 8 + 2 + 3 * 12 + 4;
    let gps_at = text_at + SECRET.len() as u32;
    let mut entry = |tag: u16, kind: u16, count: u32, value: u32| {
        tiff.extend(tag.to_le_bytes());
        tiff.extend(kind.to_le_bytes());
        tiff.extend(count.to_le_bytes());
        tiff.extend(value.to_le_bytes());
    };
    entry(0x010e, 2, SECRET.len() as u32, text_at);
    entry(0x0112, 3, 1, u32::from(orientation));
    entry(0x8825, 4, 1, gps_at);
    tiff.extend([0; 4]);
    tiff.extend_from_slice(SECRET);
    tiff.extend([1, 0, 1, 0, 2, 0, 2, 0, 0, 0, b'N', 0, 0, 0, 0, 0, 0, 0]);
    tiff
}

pub(crate) fn segment(marker: u8, contents: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0xff, marker];
    bytes.extend((contents.len() as u16 + 2).to_be_bytes());
    bytes.extend_from_slice(contents);
    bytes
}

/// A JPEG with EXIF, XMP, IPTC, a comment, a list of further pictures with one of them after the end, a thumbnail in JFIF, and a
/// colour profile.
pub(crate) fn jpeg(orientation: u8) -> Bytes {
    let plain = plain(ImageFormat::Jpeg);
    assert_eq!(plain[2..4], [0xff, 0xe0], "JFIF comes first");
    let after_jfif = 4 + usize::from(u16::from_be_bytes([plain[4], plain[5]]));
    let mut bytes = plain[..2].to_vec();
    let jfif = [&b"JFIF\0\x01\x02\0\0\x01\0\x01\x08\x01"[..], &SECRET.repeat(2)[..24]].concat();
    bytes.extend(segment(0xe0, &jfif));
    bytes.extend(segment(0xe0, &[b"JFXX\0\x10", SECRET].concat()));
    bytes.extend(segment(0xe1, &[b"Exif\0\0", &exif(orientation)[..]].concat()));
    bytes.extend(segment(0xe1, &[b"http://ns.adobe.com/xap/1.0/\0", SECRET].concat()));
    bytes.extend(segment(0xe2, &[b"ICC_PROFILE\0\x01\x01", PROFILE].concat()));
    bytes.extend(segment(0xe2, &[b"MPF\0", SECRET].concat()));
    bytes.extend(segment(0xed, &[b"Photoshop 3.0\0", SECRET].concat()));
    bytes.extend(segment(0xfe, SECRET));
    bytes.extend_from_slice(&plain[after_jfif..]);
    bytes.extend_from_slice(&[&[0xff, 0xd8], &segment(0xfe, SECRET)[..], &[0xff, 0xd9]].concat());
    bytes.into()
}

/// A JPEG of several scans, with comments between all of them.
pub(crate) fn progressive() -> Bytes {
    let plain = include_bytes!("progressive.jpg");
    let mut bytes = Vec::new();
    let mut scans = 0;
    for (at, byte) in plain.iter().enumerate() {
        if *byte == 0xff && matches!(plain.get(at + 1), Some(0xc4 | 0xda)) {
            bytes.extend(segment(0xfe, SECRET));
            bytes.extend(segment(0xe1, &[b"Exif\0\0", SECRET].concat()));
            scans += u32::from(plain[at + 1] == 0xda);
        }
        bytes.push(*byte);
    }
    assert!(scans > 5, "{scans}");
    bytes.into()
}

/// A PNG with EXIF, texts, XMP, a time, and chunks that nobody knows.
pub(crate) fn png(orientation: u8) -> Bytes {
    let mut png = Png::from_bytes(plain(ImageFormat::Png)).unwrap();
    let chunk = |kind: &[u8; 4], contents: &[u8]| PngChunk::new(*kind, Bytes::copy_from_slice(contents));
    let before = [
        chunk(b"gAMA", &[0, 0, 0xb1, 0x8f]),
        chunk(b"pHYs", &[0, 0, 0, 1, 0, 0, 0, 1, 0]),
        chunk(b"eXIf", &exif(orientation)),
        chunk(b"tEXt", &[b"Comment\0", SECRET].concat()),
        chunk(b"zTXt", &[b"Comment\0\0", SECRET].concat()),
        chunk(b"iTXt", &[b"XML:com.adobe.xmp\0\0\0\0\0", SECRET].concat()),
        chunk(b"tIME", &[7, 0xe8, 1, 2, 3, 4, 5]),
        chunk(b"prIv", SECRET),
    ];
    png.chunks_mut().splice(1..1, before);
    let end = png.chunks().len() - 1;
    png.chunks_mut().insert(end, chunk(b"tEXt", &[b"Author\0", SECRET].concat()));
    [&png.encoder().bytes()[..], SECRET].concat().into()
}

/// A JPEG with restart markers in its scan, and before its end a comment and bytes to fill up.
pub(crate) fn restarts() -> Bytes {
    let plain = include_bytes!("restarts.jpg");
    assert!(contains(plain, &[0xff, 0xd0]) && contains(plain, &[0xff, 0]));
    [&plain[..plain.len() - 2], &[0xff], &segment(0xfe, SECRET), &[0xff, 0xff, 0xff, 0xd9]].concat().into()
}

fn riff(id: &[u8; 4], contents: &[u8]) -> RiffChunk {
    RiffChunk::new(*id, RiffContent::Data(Bytes::copy_from_slice(contents)))
}

fn webp_of(chunks: Vec<RiffChunk>) -> Bytes {
    let riff = RiffChunk::new(*b"RIFF", RiffContent::List { kind: Some(*b"WEBP"), subchunks: chunks });
    WebP::new(riff).unwrap().encoder().bytes()
}

fn extended(flags: u8) -> RiffChunk {
    riff(b"VP8X", &[flags, 0, 0, 0, WIDTH as u8 - 1, 0, 0, HEIGHT as u8 - 1, 0, 0])
}

/// The chunk with the pixels of a simple WebP.
fn image_chunk(bytes: Bytes) -> RiffChunk {
    WebP::from_bytes(bytes).unwrap().chunks()[0].clone()
}

/// A WebP with EXIF, XMP, a chunk that nobody knows, and a colour profile.
pub(crate) fn webp(orientation: u8, is_lossy: bool) -> Bytes {
    let image = match is_lossy {
        true => image_chunk(Bytes::from_static(include_bytes!("lossy.webp"))),
        false => image_chunk(plain(ImageFormat::WebP)),
    };
    let bytes = webp_of(vec![
        extended(0b10_1100),
        riff(b"ICCP", PROFILE),
        image,
        riff(b"EXIF", &exif(orientation)),
        riff(b"XMP ", SECRET),
        riff(b"note", SECRET),
    ]);
    [&bytes[..], SECRET].concat().into()
}

/// An animated WebP, with chunks that nobody knows in its frames.
pub(crate) fn animated_webp() -> Bytes {
    let frame = |shift| {
        let image = encode(pixels(WIDTH, HEIGHT, shift), ImageFormat::WebP);
        let mut contents = vec![0; 6];
        contents.extend([WIDTH as u8 - 1, 0, 0, HEIGHT as u8 - 1, 0, 0, 100, 0, 0, 0]);
        contents.extend_from_slice(&image_chunk(image).encoder().bytes());
        contents.extend_from_slice(&riff(b"note", SECRET).encoder().bytes());
        contents.extend_from_slice(&riff(b"XMP ", SECRET).encoder().bytes());
        riff(b"ANMF", &contents)
    };
    webp_of(vec![
        extended(0b1110),
        riff(b"ANIM", &[0; 6]),
        frame(0),
        frame(99),
        riff(b"EXIF", &exif(1)),
        riff(b"XMP ", SECRET),
    ])
}

/// An animated GIF with comments, XMP, a text to be shown, and how often it is played.
pub(crate) fn gif() -> Bytes {
    let mut plain = Vec::new();
    let mut encoder = GifEncoder::new(&mut plain);
    encoder.set_repeat(Repeat::Finite(7)).unwrap();
    for shift in [0, 99] {
        encoder.encode_frame(Frame::new(pixels(WIDTH, HEIGHT, shift))).unwrap();
    }
    drop(encoder);
    let extension = |label: u8, parts: &[&[u8]]| {
        let mut bytes = vec![0x21, label];
        for part in parts {
            bytes.push(part.len() as u8);
            bytes.extend_from_slice(part);
        }
        bytes.push(0);
        bytes
    };
    let mut added = extension(0xfe, &[SECRET, SECRET]);
    // XMP is no sub-blocks; what follows it makes those of any reader end.
    added.extend([0x21, 0xff, 11]);
    added.extend_from_slice(b"XMP DataXMP<x>");
    added.extend_from_slice(SECRET);
    added.push(1);
    added.extend((0..=255).rev().collect::<Vec<u8>>());
    added.push(0);
    added.extend(extension(0xff, &[b"ICCRGBG1012", PROFILE]));
    added.extend(extension(0xf9, &[&[0, 9, 0, 0]]));
    added.extend(extension(0x01, &[&[0; 12], SECRET]));
    let start = 13 + if plain[10] & 0x80 == 0 { 0 } else { 3 << ((plain[10] & 7) + 1) };
    let mut bytes = [&plain[..start], &added, &plain[start..]].concat();
    bytes.extend_from_slice(SECRET);
    bytes.into()
}

/// A sample of each kind: name, bytes, type.
pub(crate) fn all() -> Vec<(&'static str, Bytes, &'static str)> {
    vec![
        ("JPEG", jpeg(1), "image/jpeg"),
        ("JPEG on its side", jpeg(6), "image/jpeg"),
        ("progressive JPEG", progressive(), "image/jpeg"),
        ("JPEG with restarts", restarts(), "image/jpeg"),
        ("PNG", png(1), "image/png"),
        ("PNG upside down", png(3), "image/png"),
        ("lossless WebP", webp(1, false), "image/webp"),
        ("lossy WebP on its side", webp(8, true), "image/webp"),
        ("animated WebP", animated_webp(), "image/webp"),
        ("GIF", gif(), "image/gif"),
    ]
}

pub(crate) fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}
