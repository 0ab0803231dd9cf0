//! The model's `GET` and `HEAD /<sha256>`: ranges and conditions.

use super::http::{Request, Response};
use super::tokens::Hash;
use super::{Bug, Model};

/// The hash of a path `/<sha256>[.ext]`, in lower case.
pub(crate) fn hash_of(path: &str) -> Option<String> {
    let name = path.strip_prefix('/')?;
    let (hash, extension) = name.split_once('.').unwrap_or((name, "bin"));
    let digits = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    let plain = extension.bytes().all(|byte| byte.is_ascii_alphanumeric());
    (hash.len() == 64 && hash.bytes().all(digits) && plain).then(|| hash.to_owned())
}

impl Model {
    pub(crate) fn blob(&self, request: &Request) -> Result<Response, Box<Response>> {
        if request.path.starts_with("/previews/") {
            let mut response = Response::new(200);
            response.set("content-type", "image/png");
            return Ok(response);
        }
        let (path, is_moved) = match request.path.strip_prefix("/moved") {
            Some(path) => (path, true),
            None => (request.path.as_str(), false),
        };
        let Some(hash) = hash_of(path) else {
            return Ok(Response::error(404, "no such path"));
        };
        if self.setup.private {
            match self.token(request, "get", &Hash::Optional(&hash))? {
                None => return Ok(Response::error(401, "a token is needed")),
                Some(_key) => {}
            }
        }
        if self.has(Bug::DeleteReadsTorn) {
            return Ok(self.torn(&hash));
        }
        let store = self.store();
        let early = self.has(Bug::ServesBeforeComplete) || self.has(Bug::PartsVisible);
        let Some((blob, bytes)) = store.blobs.get(&hash).zip(store.bytes.get(&hash)) else {
            if early && store.begun.contains(&hash) {
                return Ok(Response::new(200));
            }
            if store.blobs.contains_key(&hash) {
                return Ok(Response::error(500, "the bytes are gone"));
            }
            return Ok(Response::error(404, "no such blob"));
        };
        if self.setup.redirects && !is_moved {
            let mut response = Response::new(307);
            response.set("location", &format!("/moved/{hash}.bin"));
            return Ok(response);
        }
        let mut response = serve(request, &hash, &blob.mime, bytes);
        if blob.mime == "image/png" {
            response.set("link", &format!("</previews/{hash}.png>; rel=\"preview\""));
        }
        Ok(response)
    }

    /// Looks the blob up, and reads it later.
    fn torn(&self, hash: &str) -> Response {
        if !self.store().blobs.contains_key(hash) {
            return Response::error(404, "no such blob");
        }
        std::thread::sleep(std::time::Duration::from_millis(3));
        let mut response = Response::new(200);
        response.body = self.store().bytes.get(hash).cloned().unwrap_or_default();
        response
    }
}

fn serve(request: &Request, hash: &str, mime: &str, bytes: &[u8]) -> Response {
    let etag = format!("\"{hash}\"");
    let modified = "Sun, 06 Nov 1994 00:00:00 GMT";
    let mut response = Response::new(200);
    response.set("content-type", mime);
    response.set("etag", &etag);
    response.set("last-modified", modified);
    response.set("accept-ranges", "bytes");
    response.set("sunset", "Wed, 11 Nov 2099 11:11:11 GMT");
    response.set("x-content-type-options", "nosniff");
    response.set("content-security-policy", "sandbox; default-src 'none'");
    let lists = |value: &str, weak: bool| {
        value.split(',').map(str::trim).any(|tag| {
            let bare = if weak { tag.strip_prefix("W/").unwrap_or(tag) } else { tag };
            tag == "*" || bare == etag
        })
    };
    if request.header("if-match").is_some_and(|value| !lists(value, false)) {
        return Response::error(412, "another ETag");
    }
    let unchanged = match request.header("if-none-match") {
        Some(value) => lists(value, true),
        None => request.header("if-modified-since") == Some(modified),
    };
    if unchanged {
        response.status = 304;
        response.remove("content-type");
        return response;
    }
    response.body = bytes.to_vec();
    let condition = request.header("if-range").is_none_or(|value| value == etag || value == modified);
    if request.method == "GET"
        && condition
        && let Some(range) = request.header("range").and_then(|text| text.strip_prefix("bytes="))
    {
        partial(&mut response, range, bytes);
    }
    response
}

/// Turns a 200 into a 206 or a 416; leaves it as it is if the range is malformed, or there are several.
fn partial(response: &mut Response, range: &str, bytes: &[u8]) {
    let length = bytes.len() as u128;
    let Some((first, last)) = range.split_once('-') else { return };
    let number = |text: &str| {
        let digits = !text.is_empty() && text.len() < 36 && text.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| text.parse::<u128>().ok()).flatten()
    };
    let (first, last) = match (number(first), number(last)) {
        (Some(first), None) if last.is_empty() => (first, length.saturating_sub(1)),
        (Some(first), Some(last)) if first <= last => (first, last.min(length.saturating_sub(1))),
        (None, Some(suffix)) if first.is_empty() => {
            let start = if suffix == 0 { length } else { length.saturating_sub(suffix) };
            (start, length.saturating_sub(1))
        }
        _ => return,
    };
    if first >= length {
        response.status = 416;
        response.body = Vec::new();
        response.remove("content-type");
        response.set("content-range", &format!("bytes */{length}"));
        response.set("x-reason", "past the end");
        return;
    }
    response.status = 206;
    response.set("content-range", &format!("bytes {first}-{last}/{length}"));
    response.body = bytes[first as usize..=last as usize].to_vec();
}
