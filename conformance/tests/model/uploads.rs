//! The model's `PUT /upload`, `PUT /<sha256>` and `HEAD /upload`, and what all requests with a body share.

use std::time::Duration;

use relay_conformance::nostr::sha256;

use super::blobs::hash_of;
use super::http::{BLOB_BYTES_MAX, Request, Response, number};
use super::tokens::Hash;
use super::{Bug, Model};

/// Longest body of a mirror request or a report.
const JSON_BYTES_MAX: u64 = 1 << 20;

/// Whether a text is a hash: 64 lowercase hex digits.
pub(crate) fn is_hash(text: &str) -> bool {
    hash_of(&format!("/{text}")).is_some() && text.len() == 64
}

fn refuse<T>(status: u16, reason: &str) -> Result<T, Box<Response>> {
    Err(Box::new(Response::error(status, reason)))
}

impl Model {
    /// Refuses what can be refused before the body is read.
    pub(crate) fn refuse_body(&self, request: &Request) -> Result<Option<Response>, Box<Response>> {
        if request.is_chunked() && !self.has(Bug::ChunksLost) {
            return refuse(411, "a length is needed");
        }
        let length = match request.length() {
            Err(()) if self.has(Bug::LengthUnchecked) => None,
            Err(()) => return refuse(400, "the length is no number"),
            Ok(length) => length,
        };
        let is_json = matches!(request.path.as_str(), "/mirror" | "/report");
        let max = if is_json { JSON_BYTES_MAX } else { BLOB_BYTES_MAX };
        if length.is_some_and(|length| length > max) && !self.has(Bug::LengthUnlimited) {
            return refuse(413, "too large");
        }
        if is_json {
            return Ok(None);
        }
        if request.method == "PATCH" {
            self.refuse_part(request)?;
        }
        let announced = self.announced(request)?;
        self.authorize(request, announced.as_deref())?;
        Ok(announced.filter(|_| self.has(Bug::ClosesAtOnce)).and_then(|hash| self.known(&hash)))
    }

    /// The answer to an upload of what is there, without reading it, for a fault.
    fn known(&self, hash: &str) -> Option<Response> {
        let store = self.store();
        store.blobs.contains_key(hash).then(|| Response::json(200, &self.descriptor(&store, hash)))
    }

    /// The hash that a request announces, in its path or in `X-SHA-256`.
    fn announced(&self, request: &Request) -> Result<Option<String>, Box<Response>> {
        if let Some(hash) = hash_of(&request.path) {
            let exact = request.method == "PATCH" || request.path.len() == 65;
            return if exact { Ok(Some(hash)) } else { refuse(400, "no extension here") };
        }
        match request.header("x-sha-256") {
            Some(text) if is_hash(text) => Ok(Some(text.to_owned())),
            Some(_) => refuse(400, "X-SHA-256 is no hash"),
            None if self.has(Bug::HashNeeded) => refuse(400, "X-SHA-256 is needed"),
            None => Ok(None),
        }
    }

    /// The owner of what is uploaded: 401 without a valid token, unless the server is open.
    fn authorize(&self, request: &Request, announced: Option<&str>) -> Result<Option<String>, Box<Response>> {
        let verb = if request.path == "/media" { "media" } else { "upload" };
        let hash = announced.map_or(Hash::Later, Hash::Required);
        let owner = match self.token(request, verb, &hash) {
            Err(_) if self.setup.open && self.has(Bug::BadTokenOwns) => Some(self.claimed(request)),
            other => other?,
        };
        if owner.is_none() && !self.setup.open {
            return refuse(401, "a token is needed");
        }
        if self.setup.priced {
            return refuse_unpaid(request);
        }
        Ok(owner)
    }

    /// The key that a token claims, whoever signed it.
    fn claimed(&self, request: &Request) -> String {
        use base64::Engine as _;
        let text = request.header("authorization").unwrap_or_default().trim_start_matches("Nostr ");
        let bytes = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(text).unwrap_or_default();
        let event: serde_json::Value = serde_json::from_slice(&bytes).unwrap_or_default();
        event["pubkey"].as_str().unwrap_or_default().to_owned()
    }

    /// `PUT /upload` and `PUT /<sha256>`, with the body.
    pub(crate) fn upload(&self, request: &Request) -> Result<Response, Box<Response>> {
        let announced = self.announced(request)?;
        let mut body = request.body.clone();
        if self.has(Bug::LosesExtraBytes) {
            body.retain(|byte| *byte != b'\r');
        }
        if self.has(Bug::StripsExif) && body.starts_with(&[0xff, 0xd8]) {
            body = super::media::without_exif(&body, &[]);
        }
        let mut hash = sha256(&body);
        let changed = body != request.body;
        if let Some(announced) = &announced
            && *announced != hash
            && !changed
        {
            if !self.has(Bug::StoresMismatches) && !self.has(Bug::StoresCutBodies) {
                return refuse(409, "the body has another hash");
            }
            hash.clone_from(announced);
        }
        let expected = if changed { sha256(&request.body) } else { hash.clone() };
        let owner = self.authorize(request, Some(&expected))?;
        if self.has(Bug::StaleRefusal) && self.store().refused_once {
            return refuse(400, "HEAD /upload was refused");
        }
        let mime = request.header("content-type").unwrap_or("application/octet-stream");
        Ok(self.keep(&hash, &body, mime, owner.as_deref()))
    }

    /// Stores a blob and answers with its descriptor.
    pub(crate) fn keep(&self, hash: &str, body: &[u8], mime: &str, owner: Option<&str>) -> Response {
        if self.has(Bug::DeletedStaysBlocked) && self.store().deleted.contains_key(hash) {
            return Response::error(403, "it was deleted");
        }
        if self.has(Bug::LimitedConcurrency) {
            self.store().running += 1;
            std::thread::sleep(Duration::from_millis(20));
            let running = self.store().running;
            self.store().running -= 1;
            if running > 10 {
                return Response::error(503, "busy");
            }
        }
        let was_there = self.store().blobs.contains_key(hash);
        if self.has(Bug::NotAtomic) {
            std::thread::sleep(Duration::from_millis(3));
        }
        if self.has(Bug::DeleteNotAtomic) {
            std::thread::sleep(Duration::from_millis(1));
        }
        let owner = if self.has(Bug::OwnersNotAdded) && was_there { None } else { owner };
        let mut store = self.store();
        let new = store.add(hash, body, mime, owner);
        let new = if self.has(Bug::NotAtomic) { !was_there } else { new };
        let new = new || (self.has(Bug::OwnersNotAdded) && owner.is_none());
        Response::json(if new { 201 } else { 200 }, &self.descriptor(&store, hash))
    }

    /// An upload has begun; a fault serves the blob from now on.
    pub(crate) fn begin_visibly(&self, request: &Request) {
        if let Some(hash) = request.header("x-sha-256") {
            self.store().begun.push(hash.to_owned());
        }
    }

    /// An upload broke off; a fault takes the blob along.
    pub(crate) fn cut(&self, request: &Request) {
        if self.has(Bug::CutBreaksOther)
            && let Some(hash) = request.header("x-sha-256")
        {
            self.store().blobs.remove(hash);
        }
    }

    /// `HEAD /upload` and `HEAD /media`.
    pub(crate) fn head_upload(&self, request: &Request) -> Result<Response, Box<Response>> {
        let result = self.judge_head_upload(request);
        self.store().refused_once |= result.is_err();
        result
    }

    fn judge_head_upload(&self, request: &Request) -> Result<Response, Box<Response>> {
        let announced = self.announced(request)?;
        match number(request.header("x-content-length")) {
            Ok(None) => return refuse(411, "X-Content-Length is needed"),
            Err(()) => return refuse(400, "X-Content-Length is no number"),
            Ok(Some(length)) if length > BLOB_BYTES_MAX => return refuse(413, "too large"),
            Ok(Some(_)) => {}
        }
        let Some(announced) = announced else { return refuse(400, "X-SHA-256 is needed") };
        let owner = self.authorize(request, Some(&announced))?;
        if self.has(Bug::StoresOnHeadUpload) {
            self.store().add(&announced, b"", "application/octet-stream", owner.as_deref());
        }
        Ok(Response::new(200))
    }
}

fn refuse_unpaid<T>(request: &Request) -> Result<T, Box<Response>> {
    let proof = request.header("x-lightning").or(request.header("x-cashu"));
    if proof.is_some() && request.method != "HEAD" {
        return refuse(400, "the proof is not valid");
    }
    let mut response = Response::error(402, "100 bytes are 1 sat");
    response.set("x-lightning", "lnbc10n1example");
    response.set("x-cashu", "creqAexample");
    Err(Box::new(response))
}
