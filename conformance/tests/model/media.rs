//! The model's `PUT /media`: it removes EXIF from JPEG, and keeps PNG as it is.

use relay_conformance::nostr::sha256;

use super::http::{Request, Response};
use super::tokens::Hash;
use super::{Bug, Model};

/// A JPEG without its EXIF segment, or with this in its place.
pub(crate) fn without_exif(bytes: &[u8], instead: &[u8]) -> Vec<u8> {
    let length = 2 + usize::from(bytes[4]) * 256 + usize::from(bytes[5]);
    [&bytes[..2], instead, &bytes[2 + length..]].concat()
}

/// A segment of EXIF with nothing but the orientation.
const UPRIGHT: &[u8] =
    b"\xff\xe1\0\x22Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";

/// Whether a JPEG is to be turned.
fn lies(jpeg: &[u8]) -> bool {
    jpeg.windows(9).any(|window| window == [0x12, 1, 3, 0, 1, 0, 0, 0, 6])
}

impl Model {
    pub(crate) fn media(&self, request: &Request) -> Result<Response, Box<Response>> {
        let hash = sha256(&request.body);
        let owner = self.token(request, "media", &Hash::Required(&hash));
        let announced = request.header("x-sha-256");
        if announced.is_some_and(|announced| announced != hash) {
            return Err(Box::new(Response::error(409, "the body has another hash")));
        }
        let owner = owner?;
        let bytes = &request.body;
        let is_jpeg = bytes.starts_with(&[0xff, 0xd8]) && bytes.ends_with(&[0xff, 0xd9]);
        let is_png = bytes.starts_with(b"\x89PNG") && bytes.ends_with(&[0xae, 0x42, 0x60, 0x82]);
        let mime = match (is_jpeg, is_png) {
            (true, _) => "image/jpeg",
            (_, true) => "image/png",
            _ => return Err(Box::new(Response::error(422, "no picture"))),
        };
        let result = match is_jpeg {
            true if self.has(Bug::KeepsPosition) => bytes.clone(),
            true if self.has(Bug::KeepsTexts) => without_exif(bytes, b"\xff\xfe\x00\x15Owner of the camera"),
            true if lies(bytes) && !self.has(Bug::LosesOrientation) => without_exif(bytes, UPRIGHT),
            true => without_exif(bytes, &[]),
            false => bytes.clone(),
        };
        if self.has(Bug::KeepsOriginal) {
            self.store().add(&hash, bytes, mime, owner.as_deref());
        }
        let made = sha256(&result);
        self.keep(&made, &result, mime, owner.as_deref());
        let mut store = self.store();
        if let Some(blob) = store.blobs.get_mut(&made) {
            blob.original = Some(hash);
        }
        Ok(Response::json(200, &self.descriptor(&store, &made)))
    }
}
