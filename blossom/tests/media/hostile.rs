//! Broken and hostile pictures are refused, or processed without harm.

use bytes::Bytes;
use image::ImageFormat;
use img_parts::png::{Png, PngChunk};
use relay_blossom::exchange::StepError;
use relay_blossom::media::{PIXELS_MAX, process};

use crate::samples::{self, encode, pixels};

#[track_caller]
fn refused(what: &str, bytes: impl Into<Bytes>, want: &str) {
    match process(&bytes.into(), "image/jpeg") {
        Err(StepError::Unprocessable(why)) => assert!(why.contains(want), "{what}: {why}"),
        other => panic!("{what}: {other:?}"),
    }
}

/// A sample without what follows the end of the picture.
fn ended(bytes: &Bytes, mime: &str) -> Bytes {
    match mime {
        "image/jpeg" | "image/gif" => process(bytes, mime).unwrap().bytes,
        _ => bytes.clone(),
    }
}

#[test]
fn pictures_that_end_early_are_refused() {
    for (what, bytes, mime) in samples::all() {
        let whole = ended(&bytes, mime);
        // What follows the end is not missed.
        let end = match mime {
            "image/png" | "image/webp" if !what.contains("animated") => whole.len() - samples::SECRET.len(),
            _ => whole.len(),
        };
        for length in 0..end {
            let result = process(&whole.slice(..length), mime);
            assert!(matches!(result, Err(StepError::Unprocessable(_))), "{what}: {length} of {end}");
        }
        process(&whole.slice(..end), mime).unwrap();
    }
}

#[test]
fn any_bit_may_be_wrong() {
    let mut taken = 0;
    for (what, bytes, mime) in samples::all() {
        for at in 0..bytes.len() {
            for bit in [0, 3, 7] {
                let mut broken = bytes.to_vec();
                broken[at] ^= 1 << bit;
                match process(&broken.into(), mime) {
                    Ok(_) => taken += 1,
                    Err(StepError::Unprocessable(_)) => {}
                    Err(other) => panic!("{what} {at}.{bit}: {other:?}"),
                }
            }
        }
    }
    assert!(taken > 0, "a wrong pixel is no fault");
}

#[test]
fn pictures_of_too_many_pixels_are_refused() {
    let too_large = format!("more than {} megapixels", PIXELS_MAX / 1_000_000);
    let mut jpeg = encode(pixels(8, 8, 0), ImageFormat::Jpeg).to_vec();
    let frame = jpeg.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap();
    jpeg[frame + 5..frame + 9].fill(0xff);
    refused("JPEG", jpeg.clone(), &too_large);
    jpeg[frame + 5..frame + 7].fill(0);
    refused("JPEG without height", jpeg, "broken");

    let mut png = Png::from_bytes(encode(pixels(8, 8, 0), ImageFormat::Png)).unwrap();
    let header = png.chunks()[0].contents().clone();
    for (size, want) in [(0x7fff_ffff_u32, too_large.as_str()), (0, "broken")] {
        let size = size.to_be_bytes();
        let header = [&size[..], &size, &header[8..]].concat();
        png.chunks_mut()[0] = PngChunk::new(*b"IHDR", header.into());
        refused("PNG", png.clone().encoder().bytes(), want);
    }

    let mut webp = samples::webp(1, false).to_vec();
    webp[24..30].fill(0xff);
    refused("WebP", webp, &too_large);

    let mut gif = encode(pixels(8, 8, 0), ImageFormat::Gif).to_vec();
    gif[6..10].fill(0xff);
    refused("GIF", gif, &too_large);
}

#[test]
fn containers_that_are_none_are_refused() {
    let jpeg = encode(pixels(8, 8, 0), ImageFormat::Jpeg);
    let scan = jpeg.windows(2).position(|pair| pair == [0xff, 0xda]).unwrap();
    refused("a JPEG without scan", [&jpeg[..scan], &[0xff, 0xd9]].concat(), "broken");
    refused("a JPEG without frame", [&[0xff, 0xd8][..], &jpeg[scan..]].concat(), "broken");
    let short = [&jpeg[..jpeg.len() - 2], &[0xff, 0xfe, 0, 1, 0xff, 0xd9]].concat();
    refused("a JPEG with a segment shorter than its length", short, "broken");

    let png = Png::from_bytes(encode(pixels(8, 8, 0), ImageFormat::Png)).unwrap();
    let with = |change: fn(&mut Vec<PngChunk>)| {
        let mut png = png.clone();
        change(png.chunks_mut());
        png.encoder().bytes()
    };
    refused("a PNG without pixels", with(|chunks| chunks.retain(|chunk| chunk.kind() != *b"IDAT")), "broken");
    refused("a PNG without end", with(|chunks| chunks.truncate(chunks.len() - 1)), "broken");
    refused("a PNG without header", with(|chunks| drop(chunks.remove(0))), "broken");
    let unknown = with(|chunks| chunks.insert(1, PngChunk::new(*b"HIDE", Bytes::new())));
    refused("a PNG that nobody can show", unknown, "broken");
    let bomb = with(|chunks| chunks[1] = PngChunk::new(*b"IDAT", Bytes::from_static(b"no deflate")));
    refused("a PNG whose pixels are none", bomb, "broken");

    refused("a GIF without picture", b"GIF89a\x08\0\x08\0\0\0\0;".to_vec(), "broken");
    refused(
        "a WebP without picture",
        b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0\x07\0\0\x07\0\0".to_vec(),
        "broken",
    );
}
