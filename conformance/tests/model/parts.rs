//! The model's `PATCH /<sha256>` (BUD-14).

use std::time::Duration;

use relay_conformance::nostr::sha256;

use super::blobs::hash_of;
use super::http::{BLOB_BYTES_MAX, Request, Response, number};
use super::store::Parts;
use super::tokens::Hash;
use super::{Bug, Model};

fn refuse<T>(status: u16, reason: &str) -> Result<T, Box<Response>> {
    Err(Box::new(Response::error(status, reason)))
}

impl Model {
    /// Refuses a part by its headers.
    pub(crate) fn refuse_part(&self, request: &Request) -> Result<(), Box<Response>> {
        let (length, _) = placed(request)?;
        if length > BLOB_BYTES_MAX {
            return refuse(413, "too large");
        }
        if request.header("upload-type").is_none() {
            return refuse(400, "Upload-Type is needed");
        }
        if request.header("content-type") != Some("application/octet-stream") {
            return refuse(415, "a part is application/octet-stream");
        }
        let (length, offset) = placed(request)?;
        let size = request.length().unwrap_or_default().unwrap_or_default();
        let fits = offset.checked_add(size).is_some_and(|end| end <= length);
        if !fits && !self.has(Bug::PartsUnbounded) {
            return refuse(416, "the part does not fit");
        }
        Ok(())
    }

    pub(crate) fn part(&self, request: &Request) -> Result<Response, Box<Response>> {
        let Some(hash) = hash_of(&request.path) else { return refuse(400, "no hash") };
        let owner = self.token(request, "upload", &Hash::Required(&hash))?;
        let (length, offset) = placed(request)?;
        let (length, offset) = (length as usize, (offset as usize).min(length as usize));
        let mime = request.header("upload-type").unwrap_or_default().to_owned();
        let by = if self.has(Bug::PartsByAnybody) { None } else { owner.clone() };
        let mut name = (hash.clone(), by.unwrap_or_default());
        if self.has(Bug::PartsShared) {
            name.0 = String::new();
        }
        let new = Parts { bytes: vec![0; length], covered: vec![false; length], sum: 0, mime, count: 0 };
        if self.has(Bug::PartsNotSerialised) {
            let mut parts = self.store().parts.get(&name).cloned().unwrap_or(new);
            std::thread::sleep(Duration::from_millis(5));
            self.fill(&mut parts, request, offset)?;
            self.store().parts.insert(name.clone(), parts);
        } else {
            let mut store = self.store();
            if self.has(Bug::PartsVisible) {
                store.begun.push(hash.clone());
            }
            let parts = store.parts.entry(name.clone()).or_insert(new);
            if parts.bytes.len() != length {
                if !self.has(Bug::PartsLengthChanges) {
                    return refuse(400, "another Upload-Length than before");
                }
                parts.bytes.truncate(length);
                parts.covered.truncate(length);
            }
            self.fill(parts, request, offset)?;
        }
        let mut store = self.store();
        let Some(parts) = store.parts.get(&name).cloned() else { return Ok(Response::new(204)) };
        if !self.is_complete(&parts, length) {
            return Ok(Response::new(204));
        }
        let unverified = self.has(Bug::PartsUnverified) || self.has(Bug::PartsLengthChanges);
        let right = sha256(&parts.bytes) == hash || unverified;
        if right || !self.has(Bug::PartsKeptAfterMismatch) {
            store.parts.remove(&name);
        }
        drop(store);
        if !right {
            return refuse(409, "the parts have another hash");
        }
        let mime = if self.has(Bug::PartsTypeIgnored) { "application/octet-stream" } else { &parts.mime };
        Ok(self.keep(&hash, &parts.bytes, mime, owner.as_deref()))
    }

    fn fill(&self, parts: &mut Parts, request: &Request, offset: usize) -> Result<(), Box<Response>> {
        let end = (offset + request.body.len()).min(parts.bytes.len());
        let body = &request.body[..end - offset.min(end)];
        if self.has(Bug::PartsOnce) && body.iter().enumerate().any(|(at, _)| parts.covered[offset + at]) {
            return refuse(409, "these bytes are there");
        }
        if self.has(Bug::PartsInOrder) && offset > 0 && !parts.covered[offset - 1] {
            return refuse(409, "a part is missing before this one");
        }
        parts.bytes[offset..end].copy_from_slice(body);
        parts.covered[offset..end].fill(true);
        if self.has(Bug::StoresCutBodies) {
            let announced = request.length().unwrap_or_default().unwrap_or_default() as usize;
            parts.covered[offset..offset + announced].fill(true);
        }
        parts.sum += body.len();
        parts.count += 1;
        Ok(())
    }

    fn is_complete(&self, parts: &Parts, length: usize) -> bool {
        if self.has(Bug::PartsSummed) {
            return parts.sum >= length;
        }
        parts.covered.iter().all(|covered| *covered)
    }
}

/// Upload-Length and Upload-Offset.
fn placed(request: &Request) -> Result<(u64, u64), Box<Response>> {
    let field = |name: &str| number(request.header(name)).ok().flatten();
    match (field("upload-length"), field("upload-offset")) {
        (Some(length), Some(offset)) => Ok((length, offset)),
        _ => refuse(400, "Upload-Length and Upload-Offset are needed"),
    }
}
