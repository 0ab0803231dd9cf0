//! BUD-05: `PUT /media`.

use crate::blob::{Blob, png};
use crate::context::Context;
use crate::http::Response;
use crate::nostr::{Token, sha256};
use crate::suite::Strength::{Must, Practice, Safety, Should};
use crate::suite::{Check, Rule, TestError, fail, rule, skip};

const MEDIA: &str = "BUD-05 PUT /media";
const STATUS: &str = "BUD-05 PUT /media status codes";

pub(super) const RULES: &[Rule] = &[
    rule("media-accepts", MEDIA, Must, "a picture is 200 or 201, with a descriptor", |ctx| {
        let response = processed(ctx, &jpeg(&ctx.blob(16)))?;
        result(ctx, &response).map(|_| ())
    }),
    rule("media-result", MEDIA, Must, "the descriptor is of the blob that is served", |ctx| {
        let response = processed(ctx, &jpeg(&ctx.blob(16)))?;
        let bytes = result(ctx, &response)?;
        let found = response.json().unwrap_or_default();
        let right = found["sha256"] == sha256(&bytes).as_str() && found["size"] == bytes.len();
        response.ensure(right, &format!("descriptor {found}, of {} bytes", bytes.len()))
    }),
    rule("media-position", MEDIA, Safety, "the position in a photo is removed", |ctx| {
        let response = processed(ctx, &jpeg(&ctx.blob(16)))?;
        let bytes = result(ctx, &response)?;
        response.ensure(!contains(&bytes, GPS_ENTRY), "the result has the EXIF entry of GPS")
    }),
    rule("media-texts", MEDIA, Practice, "other texts of EXIF are removed too", |ctx| {
        let response = processed(ctx, &jpeg(&ctx.blob(16)))?;
        let bytes = result(ctx, &response)?;
        response.ensure(!contains(&bytes, b"Owner of the camera"), "the result has a text of the original")
    }),
    rule(
        "media-orientation",
        MEDIA,
        Practice,
        "EXIF orientation is applied: a photo on its side is still shown upright",
        |ctx| {
            let response = processed(ctx, &lying(&ctx.blob(16)))?;
            let bytes = result(ctx, &response)?;
            if !bytes.starts_with(&[0xff, 0xd8]) {
                return skip("the result is no JPEG");
            }
            let turned = dimensions(&bytes) == Some((8, 16));
            let tagged = contains(&bytes, ORIENTATION) || contains(&bytes, ORIENTATION_BIG_ENDIAN);
            response
                .ensure(turned || tagged, "neither its pixels are turned, nor has it the EXIF orientation")
        },
    ),
    rule("media-original", MEDIA, Practice, "the original is not served", |ctx| {
        let photo = jpeg(&ctx.blob(16));
        let response = processed(ctx, &photo)?;
        let bytes = result(ctx, &response)?;
        if bytes == photo.bytes {
            return skip("the picture was not changed");
        }
        ctx.expect_absent(&photo.sha256)
    }),
    rule("media-ox", "BUD-08 Returning tags", Practice, "nip94 names the original in ox", |ctx| {
        let photo = jpeg(&ctx.blob(16));
        let response = processed(ctx, &photo)?;
        let found = response.json().unwrap_or_default();
        let Some(tags) = found["nip94"].as_array() else {
            return skip("descriptors have no nip94");
        };
        let ox = tags.iter().find(|tag| tag[0] == "ox").map(|tag| tag[1].clone()).unwrap_or_default();
        response.ensure(ox == photo.sha256.as_str(), &format!("ox: {ox}"))
    }),
    rule("media-again", MEDIA, Must, "the same picture again is a success", |ctx| {
        let photo = jpeg(&ctx.blob(16));
        processed(ctx, &photo)?;
        result(ctx, &processed(ctx, &photo)?).map(|_| ())
    }),
    rule("media-png", MEDIA, Practice, "a PNG is taken too", |ctx| {
        result(ctx, &processed(ctx, &png(&ctx.blob(30).bytes))?).map(|_| ())
    }),
    rule("media-broken", STATUS, Should, "a broken picture is 400, 415 or 422, and not stored", |ctx| {
        offered(ctx)?;
        let start = jpeg(&ctx.blob(16)).bytes[..40].to_vec();
        let broken = ctx.blob_of(&start, "image/jpeg");
        send(ctx, &broken)?.expect(&[400, 415, 422])?;
        ctx.expect_absent(&broken.sha256)
    }),
    rule("media-text", STATUS, Should, "what is no media is 415 or 422, or kept as it is", |ctx| {
        offered(ctx)?;
        let text = ctx.blob_of(b"text ", "text/plain");
        let response = send(ctx, &text)?;
        response.expect(&[200, 201, 400, 415, 422])?;
        if response.is_success() {
            result(ctx, &response).map(|_| ())
        } else {
            ctx.expect_absent(&text.sha256)
        }
    }),
    rule("media-mismatch", STATUS, Should, "409 if X-SHA-256 is not the body's hash", |ctx| {
        offered(ctx)?;
        let (announced, sent) = (jpeg(&ctx.blob(16)), jpeg(&ctx.blob(16)));
        let token = Token::new("media").x(&announced.sha256);
        let request = ctx.put("/media").token(&token, &ctx.key).blob(&announced);
        request.body(&sent.bytes).send()?.expect(&[409]).map(|_| ())
    }),
    rule("media-hash-malformed", STATUS, Should, "400 if X-SHA-256 is malformed", |ctx| {
        offered(ctx)?;
        let photo = jpeg(&ctx.blob(16));
        let token = Token::new("media").x(&photo.sha256);
        let request = ctx.put("/media").token(&token, &ctx.key).blob(&photo).without("X-SHA-256");
        request.header("X-SHA-256", "abc").send()?.expect(&[400]).map(|_| ())
    }),
    rule("media-length-missing", STATUS, Should, "a chunked body is 411, or processed", |ctx| {
        offered(ctx)?;
        let photo = jpeg(&ctx.blob(16));
        let token = Token::new("media").x(&photo.sha256);
        let request = ctx.put("/media").token(&token, &ctx.key).blob(&photo).without_body();
        let request = request.header("Transfer-Encoding", "chunked");
        let mut connection = ctx.connect()?;
        connection.send_body(&request.bytes());
        connection.send_body(format!("{:x}\r\n", photo.bytes.len()).as_bytes());
        connection.send_body(&photo.bytes);
        connection.send_body(b"\r\n0\r\n\r\n");
        request.receive(&mut connection)?.expect(&[200, 201, 411, 422]).map(|_| ())
    }),
];

/// Skips unless the server processes media.
pub(super) fn offered(ctx: &Context) -> Check {
    ctx.blob_of_1000_bytes()?;
    ctx.offered("PUT /media", || send(ctx, &png(&ctx.blob(30).bytes)))
}

pub(super) fn send(ctx: &Context, blob: &Blob) -> Result<Response, TestError> {
    ctx.note(&blob.sha256, &ctx.key);
    let token = Token::new("media").x(&blob.sha256);
    let response = ctx.put("/media").token(&token, &ctx.key).blob(blob).send()?;
    if let Some(found) = response.json().as_ref().and_then(|found| found["sha256"].as_str()) {
        ctx.note(found, &ctx.key);
    }
    Ok(response)
}

/// The response to a picture; skips if the server cannot process it, and says so.
fn processed(ctx: &Context, blob: &Blob) -> Result<Response, TestError> {
    offered(ctx)?;
    let response = send(ctx, blob)?;
    match response.status {
        200 | 201 => Ok(response),
        402 | 403 | 415 | 422 => skip(format!("{}: {} is not processed", response.summary(), blob.mime)),
        _ => fail(format!("{}; expected 200 or 201", response.summary())),
    }
}

/// The blob of the descriptor, as it is served.
fn result(ctx: &Context, response: &Response) -> Result<Vec<u8>, TestError> {
    let Some(found) = response.json() else {
        return fail(format!("{}; the body is no JSON", response.summary()));
    };
    super::upload::well_formed(response, &found)?;
    let served = ctx.download(found["sha256"].as_str().unwrap_or_default())?;
    served.expect(&[200])?;
    Ok(served.body)
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// The entry of EXIF that points to the position: tag 0x8825, LONG, one.
const GPS_ENTRY: &[u8] = &[0x25, 0x88, 4, 0, 1, 0, 0, 0];

/// The entry of EXIF that says that the picture is to be turned right: tag 0x0112, SHORT, one, 6.
const ORIENTATION: &[u8] = &[0x12, 1, 3, 0, 1, 0, 0, 0, 6, 0];
const ORIENTATION_BIG_ENDIAN: &[u8] = &[1, 0x12, 0, 3, 0, 0, 0, 1, 0, 6];

/// A grey JPEG of 8x8 pixels with EXIF: a text that is unique, and a position.
pub(super) fn jpeg(unique: &Blob) -> Blob {
    encode(8, &exif(&unique.bytes), 0x3f)
}

/// A JPEG of 16x8 pixels, to be shown as one of 8x16.
fn lying(unique: &Blob) -> Blob {
    let tiff = [b"Exif\0\0II*\0\x08\0\0\0\x01\0", ORIENTATION, &[0; 6], &unique.bytes].concat();
    encode(16, &tiff, 0x0f)
}

/// Width and height of a JPEG.
fn dimensions(jpeg: &[u8]) -> Option<(u16, u16)> {
    let mut at = 2;
    loop {
        let [0xff, marker, high, low] = *jpeg.get(at..at + 4)? else { return None };
        if (0xc0..=0xc2).contains(&marker) {
            let [a, b, c, d] = *jpeg.get(at + 5..at + 9)? else { return None };
            return Some((u16::from_be_bytes([c, d]), u16::from_be_bytes([a, b])));
        }
        at += 2 + usize::from(u16::from_be_bytes([high, low]));
    }
}

/// A grey JPEG of this width and 8 rows; `data` are its coefficients: two bits for each eight columns, then ones.
fn encode(width: u8, exif: &[u8], data: u8) -> Blob {
    let mut out = vec![0xff, 0xd8];
    segment(&mut out, 0xe1, exif);
    segment(&mut out, 0xdb, &[&[0][..], &[1; 64]].concat());
    segment(&mut out, 0xc0, &[8, 0, 8, 0, width, 1, 1, 0x11, 0]);
    // One code of one bit in each table: no difference, and the end of the block.
    for class in [0x00, 0x10] {
        let mut table = vec![class, 1];
        table.extend([0; 15]);
        table.push(0);
        segment(&mut out, 0xc4, &table);
    }
    segment(&mut out, 0xda, &[1, 1, 0, 0, 63, 0]);
    out.extend([data, 0xff, 0xd9]);
    Blob::new(out, "image/jpeg")
}

fn segment(out: &mut Vec<u8>, marker: u8, data: &[u8]) {
    out.extend([0xff, marker]);
    out.extend((data.len() as u16 + 2).to_be_bytes());
    out.extend_from_slice(data);
}

/// EXIF, little-endian: a description and a pointer to a latitude of 52 degrees north.
fn exif(unique: &[u8]) -> Vec<u8> {
    let text = format!("Owner of the camera {}\0", crate::nostr::hex(unique));
    let text_at = 8 + 2 + 2 * 12 + 4;
    let gps_at = text_at + text.len() as u32;
    let mut tiff = b"II*\0\x08\0\0\0\x02\0".to_vec();
    entry(&mut tiff, 0x010e, 2, text.len() as u32, text_at);
    tiff.extend_from_slice(GPS_ENTRY);
    tiff.extend(gps_at.to_le_bytes());
    tiff.extend([0; 4]);
    tiff.extend(text.bytes());
    tiff.extend([2, 0]);
    entry(&mut tiff, 1, 2, 2, u32::from(b'N'));
    entry(&mut tiff, 2, 5, 3, gps_at + 2 + 2 * 12 + 4);
    tiff.extend([0; 4]);
    for number in [52_u32, 1, 31, 1, 12, 1] {
        tiff.extend(number.to_le_bytes());
    }
    [b"Exif\0\0".as_slice(), &tiff].concat()
}

fn entry(out: &mut Vec<u8>, tag: u16, kind: u16, count: u32, value: u32) {
    out.extend(tag.to_le_bytes());
    out.extend(kind.to_le_bytes());
    out.extend(count.to_le_bytes());
    out.extend(value.to_le_bytes());
}
