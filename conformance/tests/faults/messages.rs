//! Faults in messages: headers that are not seen or not sent, other statuses, other bodies.

use serde_json::{Value, json};

use super::{CLOSED, Case, bug, seen, sent};
use crate::model::Bug::{LaxHeads, OneAtATime};
use crate::model::{Request, Response, Setup};

const MIRRORS: Setup = Setup { private_allowed: true, ..CLOSED };

pub(super) fn all() -> Vec<Case> {
    let mut all = cors();
    all.extend(retrieval());
    all.extend(ranges());
    all.extend(conditions());
    all.extend(uploads());
    all.extend(scripts());
    all.extend(preflights());
    all.extend(others());
    all.extend(parts());
    all.extend(heads());
    all
}

fn is_blob(request: &Request) -> bool {
    matches!(request.method.as_str(), "GET" | "HEAD")
        && request.path.len() > 60
        && !request.path.contains("list")
}

fn is_upload(request: &Request) -> bool {
    request.method == "PUT" && request.path == "/upload"
}

fn is_listed(request: &Request) -> bool {
    request.path.starts_with("/list")
}

/// Answers with this status and no body.
fn become_status(response: &mut Response, status: u16) {
    *response = Response::error(status, "a fault");
}

fn cors() -> Vec<Case> {
    vec![
        sent(
            "no CORS on blobs",
            |request, response| {
                if is_blob(request) && response.status < 300 {
                    response.remove("access-control-allow-origin");
                }
            },
            &["cors-get", "cors-head", "cors-partial"],
        ),
        sent(
            "no CORS on errors",
            |_, response| {
                if response.status >= 400 {
                    response.remove("access-control-allow-origin");
                }
            },
            &[
                "cors-unsatisfiable",
                "cors-not-found",
                "cors-unknown-path",
                "cors-unauthorized",
                "cors-method",
                "cors-everywhere",
            ],
        ),
        sent(
            "CORS for one origin, and twice",
            |request, response| {
                if request.method == "PUT" {
                    response.set("access-control-allow-origin", "https://client.example");
                } else if request.method == "OPTIONS" {
                    response.headers.push(("access-control-allow-origin".to_owned(), "*".to_owned()));
                }
            },
            &["cors-upload", "options-origin"],
        ),
        sent("no *", |_, r| r.set("access-control-allow-headers", "Authorization"), &["options-headers"]),
        sent("no Authorization", |_, r| r.set("access-control-allow-headers", "*"), &["options-headers"]),
        sent(
            "no HEAD",
            |_, r| r.set("access-control-allow-methods", "GET, PUT, DELETE, PATCH"),
            &["options-methods"],
        ),
        sent(
            "no PATCH",
            |_, r| r.set("access-control-allow-methods", "GET, HEAD, PUT, DELETE"),
            &["parts-cors"],
        ),
        sent(
            "OPTIONS needs a token",
            |request, response| {
                if request.method == "OPTIONS" {
                    become_status(response, 401);
                }
            },
            &["options-status"],
        ),
        sent("no max age", |_, r| r.remove("access-control-max-age"), &["options-max-age"]),
        sent("nothing exposed", |_, r| r.remove("access-control-expose-headers"), &["expose-headers"]),
        sent(
            "no reasons",
            |_, r| r.remove("x-reason"),
            &["reason-not-found", "reason-unauthorized", "reason-head"],
        ),
        sent(
            "no HEAD /",
            |request, response| {
                if request.path == "/" {
                    become_status(response, 404);
                }
            },
            &["root-head"],
        ),
        sent("no WWW-Authenticate", |_, r| r.remove("www-authenticate"), &["token-challenge"]),
        sent(
            "403 for tokens",
            |_, response| {
                if response.status == 401 {
                    response.status = 403;
                }
            },
            &[
                "token-defects-401",
                "token-missing-401",
                "preflight-token-missing",
                "mirror-token-missing",
                "parts-token-missing",
            ],
        ),
    ]
}

fn retrieval() -> Vec<Case> {
    vec![
        sent(
            "a byte less",
            |request, response| {
                if is_blob(request) {
                    response.body.pop();
                }
            },
            &["get-bytes", "upload-large"],
        ),
        sent(
            "chunked blobs",
            |request, response| {
                if is_blob(request) && request.method == "GET" && response.status == 200 {
                    let chunk = format!("{:x}\r\n", response.body.len()).into_bytes();
                    response.body =
                        [chunk, std::mem::take(&mut response.body), b"\r\n0\r\n\r\n".to_vec()].concat();
                    response.set("transfer-encoding", "chunked");
                    response.set("content-length", "0");
                }
            },
            &["http-1-0"],
        ),
        sent(
            "length hidden",
            |request, response| {
                if is_blob(request) {
                    response.close = true;
                    response.no_length = true;
                }
            },
            &["get-length", "head-headers", "range-announced"],
        ),
        sent(
            "everything is octets",
            |request, response| {
                if is_blob(request) {
                    response.set("content-type", "application/octet-stream");
                }
            },
            &["get-type", "get-type-parameters", "get-extension", "get-extension-unknown", "put-type"],
        ),
        sent(
            "no type is text",
            |request, response| {
                if is_blob(request) && response.header("content-type") == Some("application/octet-stream") {
                    response.set("content-type", "text/plain");
                }
            },
            &["get-type-default", "get-extension-lying"],
        ),
        sent(
            "the type is that of the extension",
            |request, response| {
                if request.path.ends_with(".html") {
                    response.set("content-type", "text/html");
                }
            },
            &["get-extension-lying"],
        ),
        seen(
            "no extensions",
            |request| {
                if is_blob(request) && request.path.contains('.') {
                    request.path = "/none".to_owned();
                }
            },
            &[
                "get-extension",
                "get-extension-unknown",
                "head-extension",
                "range-extension",
                "etag-extension",
                "descriptor-url",
            ],
        ),
        seen(
            "queries are paths",
            |request| {
                if is_blob(request) {
                    let query = std::mem::take(&mut request.query);
                    request.path.push_str(&query);
                }
            },
            &["get-query"],
        ),
        sent(
            "unknown is 200",
            |request, response| {
                if is_blob(request) && response.status == 404 {
                    *response = Response::new(200);
                }
            },
            &[
                "get-unknown",
                "get-unknown-extension",
                "head-unknown",
                "path-short",
                "path-long",
                "path-not-hex",
                "etag-absent",
                "delete-gone",
            ],
        ),
        sent(
            "a redirect elsewhere",
            |request, response| {
                if is_blob(request) && response.status == 307 {
                    response.set("location", "/elsewhere");
                }
            },
            &["get-redirect"],
        )
        .on(Setup { redirects: true, ..CLOSED }),
        sent("Sunset in seconds", |_, r| r.set("sunset", "1794395471"), &["get-sunset"]),
        sent("no Date", |_, r| r.remove("date"), &["get-date"]),
        sent(
            "reads judge tokens",
            |request, response| {
                if is_blob(request) && request.header("authorization").is_some() {
                    become_status(response, 401);
                }
            },
            &["get-open"],
        ),
        sent(
            "HEAD has no ETag",
            |request, response| {
                if request.method == "HEAD" {
                    response.remove("etag");
                }
            },
            &["head-same"],
        ),
        sent(
            "HEAD sends the body",
            |request, response| {
                response.force_body = request.method == "HEAD";
            },
            &["head-no-body"],
        ),
        sent(
            "HEAD has another type",
            |request, response| {
                if request.method == "HEAD" {
                    response.set("content-type", "text/plain");
                }
            },
            &["head-headers", "head-extension"],
        ),
        seen(
            "unknown blobs are remembered",
            |request| {
                if request.method == "PUT" && request.header("x-sha-256").is_some() {
                    request.path = "/upload".to_owned();
                }
                if request.method == "HEAD" {
                    request.path = "/none".to_owned();
                }
            },
            &["head-twice"],
        ),
        sent(
            "uppercase is another blob",
            |request, response| {
                if request.path.contains('A') || request.path.contains('B') || request.path.contains('C') {
                    *response = Response::new(200);
                }
            },
            &["path-uppercase"],
        ),
        sent(
            "system files",
            |request, response| {
                if request.path.contains("passwd") {
                    *response = Response::new(200);
                    response.body = b"root:x:0:0:root:/root:/bin/sh".to_vec();
                }
            },
            &["path-dots", "path-dots-encoded"],
        ),
        sent(
            "odd paths break it",
            |request, response| {
                if request.path.contains('%') || request.target.len() > 5000 {
                    become_status(response, 500);
                }
            },
            &["path-odd", "path-dots-encoded"],
        ),
        sent(
            "an encoded digit is another blob",
            |request, response| {
                if request.path.starts_with("/%") {
                    *response = Response::new(200);
                }
            },
            &["path-percent-hash"],
        ),
        sent(
            "long paths are served",
            |request, response| {
                if request.method == "?" {
                    *response = Response::new(200);
                }
            },
            &["path-very-long"],
        ),
    ]
}

fn ranges() -> Vec<Case> {
    vec![
        sent("no Accept-Ranges", |_, r| r.remove("accept-ranges"), &["range-announced"]),
        seen(
            "no ranges",
            |request| request.remove("range"),
            &[
                "range-first",
                "range-middle",
                "range-open",
                "range-all",
                "range-two-bytes",
                "range-one-byte",
                "range-suffix",
                "range-suffix-long",
                "range-past-end",
            ],
        ),
        sent(
            "the end is exclusive",
            |_, response| {
                if response.status == 206 {
                    response.body.pop();
                }
            },
            &["range-first", "range-extension", "range-pieces", "range-if-etag"],
        ),
        sent(
            "Content-Range is short",
            |_, response| {
                if response.status == 206 {
                    response.set("content-range", "bytes 0-1/*");
                }
            },
            &["range-middle", "range-open"],
        ),
        sent(
            "416 is 200",
            |_, response| {
                if response.status == 416 {
                    response.status = 200;
                }
            },
            &["range-beyond", "range-suffix-zero"],
        ),
        sent(
            "416 without the length",
            |_, response| {
                if response.status == 416 {
                    response.remove("content-range");
                }
            },
            &["range-beyond-length"],
        ),
        sent(
            "bad ranges break it",
            |request, response| {
                let range = request.header("range").unwrap_or_default();
                if range == "bytes=abc" || range.len() > 30 {
                    become_status(response, 500);
                }
            },
            &["range-malformed", "range-huge"],
        ),
        seen(
            "any unit is bytes",
            |request| {
                if request.header("range").is_some_and(|range| range.starts_with("items")) {
                    request.set("range", "bytes=0-5");
                }
            },
            &["range-unit"],
        ),
        seen(
            "HEAD has ranges",
            |request| {
                if request.method == "HEAD" && request.header("range").is_some() {
                    request.path = "/none".to_owned();
                }
            },
            &["range-head"],
        ),
        seen(
            "several ranges are their first",
            |request| {
                let first =
                    request.header("range").and_then(|range| range.split(',').next()).map(str::to_owned);
                if let Some(first) = first {
                    request.set("range", &first);
                }
            },
            &["range-several"],
        ),
        sent(
            "several ranges one behind the other",
            |request, response| {
                if request.header("range").is_some_and(|range| range.len() > 1000) {
                    response.body = response.body.repeat(1000);
                }
            },
            &["range-flood"],
        ),
        seen(
            "no If-Range",
            |request| request.remove("if-range"),
            &["range-if-other", "range-if-weak", "range-if-date"],
        ),
        seen(
            "If-Range is weak",
            |request| {
                let bare = request.header("if-range").map(|value| value.trim_start_matches("W/").to_owned());
                if let Some(bare) = bare {
                    request.set("if-range", &bare);
                }
            },
            &["range-if-weak"],
        ),
        seen(
            "If-Range never fits",
            |request| {
                if request.header("if-range").is_some() {
                    request.remove("range");
                }
            },
            &["range-if-etag"],
        ),
        sent(
            "206 without ETag",
            |_, response| {
                if response.status == 206 {
                    response.remove("etag");
                }
            },
            &["range-etag"],
        ),
        seen(
            "ranges first",
            |request| {
                if request.header("range").is_some() {
                    request.remove("if-none-match");
                }
            },
            &["range-not-modified"],
        ),
        sent(
            "ranges of nothing",
            |request, response| {
                if request.header("range").is_some() && response.status == 416 {
                    response.status = 206;
                }
            },
            &["range-empty", "range-beyond"],
        ),
    ]
}

fn conditions() -> Vec<Case> {
    vec![
        sent("no ETag", |_, r| r.remove("etag"), &["etag-present"]),
        sent(
            "one ETag for all",
            |request, response| {
                if is_blob(request) {
                    response.set("etag", "\"one\"");
                }
            },
            &["etag-distinct"],
        ),
        seen(
            "no If-None-Match",
            |request| request.remove("if-none-match"),
            &["etag-304", "etag-list", "etag-star", "etag-weak", "etag-304-headers", "etag-head"],
        ),
        sent(
            "everything is 304",
            |request, response| {
                if request.header("if-none-match").is_some() {
                    become_status(response, 304);
                }
            },
            &["etag-other", "etag-not-inside", "etag-absent", "modified-etag", "etag-304-headers"],
        ),
        sent(
            "304 with a body",
            |_, response| {
                if response.status == 304 {
                    response.body = b"body".to_vec();
                    response.force_body = true;
                }
            },
            &["etag-304-headers"],
        ),
        seen("no If-Match", |request| request.remove("if-match"), &["etag-if-match"]),
        sent(
            "If-Match never fits",
            |request, response| {
                if request.header("if-match").is_some() {
                    become_status(response, 412);
                }
            },
            &["etag-if-match-same"],
        ),
        seen("no If-Modified-Since", |request| request.remove("if-modified-since"), &["modified-304"]),
    ]
}

fn uploads() -> Vec<Case> {
    vec![
        sent(
            "201 is 200",
            |_, response| {
                if response.status == 201 {
                    response.status = 200;
                }
            },
            &["upload-new", "put-new", "parts-in-order", "parts-one"],
        ),
        sent(
            "mirrored is 200",
            |request, response| {
                if request.path == "/mirror" && response.status == 201 {
                    response.status = 200;
                }
            },
            &["mirror-new"],
        )
        .on(MIRRORS),
        sent(
            "200 is 201",
            |request, response| {
                if response.status == 200 && request.method != "GET" {
                    response.status = 201;
                }
            },
            &["upload-again", "upload-again-unannounced", "upload-second-owner", "put-again", "parts-exists"],
        ),
        sent(
            "mirrored is 201",
            |request, response| {
                if request.path == "/mirror" && response.status == 200 {
                    response.status = 201;
                }
            },
            &["mirror-again"],
        )
        .on(MIRRORS),
        seen(
            "gzip is decoded",
            |request| {
                if request.header("content-encoding").is_some() {
                    request.set("x-sha-256", &"0".repeat(64));
                }
            },
            &["upload-encoded"],
        ),
        sent(
            "types are needed",
            |request, response| {
                if is_upload(request) && request.header("content-type").is_none() {
                    become_status(response, 400);
                }
            },
            &["upload-untyped"],
        ),
        sent(
            "few types are taken",
            |request, response| {
                if is_upload(request) && request.header("content-type") == Some("text/markdown") {
                    become_status(response, 415);
                }
            },
            &["upload-any-type"],
        ),
        sent(
            "the empty blob is refused",
            |request, response| {
                if is_upload(request) && request.header("content-length") == Some("0") {
                    become_status(response, 400);
                }
            },
            &["upload-empty"],
        ),
        sent(
            "uploaded in milliseconds",
            |_, r| r.change(|body| body["uploaded"] = json!(1_794_395_471_000_u64)),
            &["descriptor-fields"],
        ),
        sent(
            "no size",
            |_, response| {
                response.change(|body| {
                    body.as_object_mut().map(|body| body.remove("size"));
                });
            },
            &["descriptor-fields", "upload-again", "media-accepts", "parts-one"],
        ),
        sent(
            "unknown types are empty",
            |_, r| r.change(|body| body["type"] = json!("a/b")),
            &["descriptor-type-default", "descriptor-fields"],
        ),
        sent(
            "urls without extension",
            |_, response| {
                response.change(|body| {
                    let url = body["url"].as_str().unwrap_or_default();
                    body["url"] = json!(url.rsplit_once('.').map_or(url, |(start, _)| start));
                });
            },
            &["descriptor-extension", "descriptor-extension-fits"],
        ),
        sent(
            "urls of another port",
            |_, response| {
                response.change(|body| {
                    let hash = body["sha256"].as_str().unwrap_or_default();
                    body["url"] = json!(format!("http://127.0.0.1:1/{hash}.bin"));
                });
            },
            &["descriptor-url"],
        ),
        sent("JSON is text", |_, r| r.set("content-type", "text/plain"), &["descriptor-json"]),
        sent(
            "types are not escaped",
            |request, response| {
                if request.header("content-type").is_some_and(|mime| mime.contains('"')) {
                    response.body = b"{\"type\": \"a/b\"},{\"sha256\":\"\\\"}".to_vec();
                }
            },
            &["descriptor-type-hostile"],
        ),
        sent(
            "nip94 is an object",
            |_, r| r.change(|body| body["nip94"] = json!({"x": "y"})),
            &["nip94-pairs", "nip94-values"],
        ),
        sent(
            "malformed hashes are ignored",
            |request, response| {
                if request.header("x-sha-256").is_some_and(|hash| hash.len() != 64)
                    && request.method != "HEAD"
                {
                    become_status(response, 409);
                }
            },
            &["hash-malformed", "media-hash-malformed"],
        ),
        sent(
            "no length breaks it",
            |request, response| {
                if request.method == "PUT" && request.header("content-length").is_none() {
                    become_status(response, 500);
                }
            },
            &["length-none"],
        ),
        sent(
            "411 is 201",
            |_, response| {
                if response.status == 411 {
                    response.status = 201;
                }
            },
            &["chunks-truncated", "chunks-malformed", "length-missing"],
        ),
        bug(
            LaxHeads,
            &[
                "length-twice",
                "length-and-chunks",
                "host-missing",
                "host-twice",
                "head-colon-space",
                "head-no-colon",
                "head-nul",
            ],
        ),
        sent(
            "HEAD /upload says yes",
            |request, response| {
                if is_upload(request) && request.header("expect").is_some() {
                    become_status(response, 200);
                }
            },
            &["expect-refused"],
        ),
    ]
}

fn scripts() -> Vec<Case> {
    vec![
        sent(
            "no sandbox",
            |_, r| r.remove("content-security-policy"),
            &["script-html", "script-svg", "script-xml", "script-odd-type"],
        ),
        sent(
            "a sandbox with scripts",
            |_, r| r.set("content-security-policy", "sandbox allow-scripts"),
            &["script-html", "script-svg"],
        ),
        sent(
            "no sandbox in ranges",
            |_, response| {
                if response.status == 206 {
                    response.remove("content-security-policy");
                }
            },
            &["script-partial"],
        ),
        sent("sniffing", |_, r| r.remove("x-content-type-options"), &["nosniff", "script-html"]),
        sent(
            "paths in errors",
            |request, response| {
                if response.status == 404 || response.status == 400 {
                    response.set("content-type", "text/html");
                    response.body = format!("<p>{}</p>", request.path).into_bytes();
                }
            },
            &["script-in-error"],
        ),
        sent(
            "bad types break it",
            |request, response| {
                let mime = request.header("content-type").unwrap_or_default();
                if request.method == "?" || mime.len() > 5000 {
                    become_status(response, 500);
                }
            },
            &["type-injection", "type-long"],
        ),
    ]
}

fn preflights() -> Vec<Case> {
    vec![
        sent(
            "204 for 200",
            |request, response| {
                if request.method == "HEAD" && response.status == 200 {
                    response.status = 204;
                }
            },
            &["preflight-accepts", "preflight-exists", "media-preflight-accepts"],
        ),
        sent(
            "uploads are refused",
            |request, response| {
                if is_upload(request) && request.header("content-length") == Some("100") {
                    become_status(response, 403);
                }
            },
            &["preflight-agrees"],
        ),
        sent(
            "everything is accepted",
            |request, response| {
                if request.method == "HEAD" && matches!(request.path.as_str(), "/upload" | "/media") {
                    *response = Response::new(200);
                }
            },
            &[
                "preflight-length-missing",
                "preflight-length-malformed",
                "preflight-length-absurd",
                "preflight-hash-malformed",
                "preflight-token-missing",
                "preflight-token-x",
                "preflight-token-t",
                "media-preflight-length-missing",
                "media-preflight-hash-malformed",
                "media-preflight-absurd",
                "media-preflight-token-x",
                "media-preflight-token-t",
            ],
        ),
        sent(
            "errors have bodies",
            |request, response| {
                if request.method == "HEAD" && response.status == 411 {
                    response.body = b"X-Content-Length is needed".to_vec();
                    response.force_body = true;
                }
            },
            &["preflight-body"],
        ),
    ]
}

fn others() -> Vec<Case> {
    let priced = Setup { priced: true, ..CLOSED };
    vec![
        sent(
            "no way to pay",
            |_, response| {
                response.remove("x-cashu");
                response.remove("x-lightning");
            },
            &["payment-methods", "payment-head"],
        )
        .on(priced),
        sent("no reason to pay", |_, r| r.remove("x-reason"), &["payment-reason", "payment-bad-proof"])
            .on(priced),
        sent(
            "402 for a bad proof",
            |request, response| {
                if request.header("x-lightning").is_some() {
                    become_status(response, 402);
                }
            },
            &["payment-bad-proof"],
        )
        .on(priced),
        sent(
            "no DELETE",
            |request, response| {
                if request.method == "DELETE" {
                    become_status(response, 405);
                }
            },
            &["delete-accepts", "token-valid"],
        ),
        sent(
            "unknown is deleted",
            |request, response| {
                if request.method == "DELETE" && response.status == 404 {
                    *response = Response::new(204);
                }
            },
            &["delete-unknown", "delete-twice", "delete-malformed"],
        ),
        sent(
            "changed tokens",
            |request, response| {
                if request.method == "DELETE" && response.status == 401 {
                    *response = Response::new(204);
                }
            },
            &["token-changed", "token-huge"],
        ),
        sent(
            "lists are objects",
            |request, response| {
                if is_listed(request) {
                    response.change(|body| *body = json!({"items": body.clone()}));
                }
            },
            &["list-descriptors", "list-unknown-key"],
        ),
        sent(
            "lists of hashes",
            |request, response| {
                if is_listed(request) {
                    response.change(|body| {
                        for item in body.as_array_mut().into_iter().flatten() {
                            *item = Value::from(item["sha256"].as_str().unwrap_or_default());
                        }
                    });
                }
            },
            &["list-descriptors"],
        ),
        seen(
            "bad parameters are ignored",
            |request| {
                if is_listed(request) && request.parameter("limit").or(request.parameter("cursor")).is_some()
                {
                    request.query.clear();
                }
            },
            &["list-bad-limit", "list-bad-cursor"],
        ),
        sent(
            "lists break",
            |request, response| {
                let odd = request.query.contains('%') || request.query.contains("99999");
                let unknown = request.parameter("cursor").is_some() && response.body == b"[]";
                if is_listed(request) && (odd || unknown) {
                    become_status(response, 500);
                }
            },
            &["list-injection", "list-huge-limit", "list-cursor-unknown"],
        ),
        sent(
            "any key has a list",
            |request, response| {
                if is_listed(request) && response.status == 400 {
                    *response = Response::json(200, &json!([]));
                }
            },
            &["list-bad-key", "list-bad-limit"],
        ),
        sent(
            "media gives the original's hash",
            |request, response| {
                if request.path == "/media" {
                    response.change(|body| body["size"] = json!(7));
                }
            },
            &["media-result"],
        ),
        sent(
            "media twice is 409",
            |request, response| {
                if request.path == "/media" && request.method == "PUT" && response.status == 200 {
                    become_status(response, 409);
                }
            },
            &["media-again", "media-accepts", "media-png"],
        ),
        sent(
            "media takes all",
            |request, response| {
                if request.path == "/media" && response.status >= 400 {
                    *response = Response::json(200, &json!({}));
                }
            },
            &["media-broken", "media-text", "media-mismatch", "media-hash-malformed"],
        ),
        sent(
            "bad origins are 500",
            |request, response| {
                if request.path == "/mirror" && response.status == 502 {
                    become_status(response, 500);
                }
            },
            &["mirror-origin-error", "mirror-origin-dead"],
        )
        .on(MIRRORS),
        sent(
            "bad urls are 500",
            |request, response| {
                if request.path == "/mirror" && response.status == 400 {
                    become_status(response, 500);
                }
            },
            &["mirror-body-malformed", "mirror-url-malformed"],
        ),
        sent(
            "long bodies break it",
            |request, response| {
                if request.header("content-length").is_some_and(|length| length.len() > 6) {
                    become_status(response, 500);
                }
            },
            &["mirror-huge-body"],
        ),
        sent(
            "no reports",
            |request, response| {
                if request.path == "/report" {
                    become_status(response, if response.status == 204 { 400 } else { 500 });
                }
            },
            &["report-accepts", "report-several", "report-unknown"],
        ),
        sent(
            "every report",
            |request, response| {
                if request.path == "/report" {
                    *response = Response::new(204);
                }
            },
            &["report-kind", "report-no-x", "report-bad-x", "report-garbage"],
        ),
        seen(
            "uppercase paths",
            |request| {
                if request.method == "PUT" && request.path.len() > 60 {
                    request.path = request.path.to_lowercase()[..65].to_owned();
                }
            },
            &["put-path-malformed"],
        ),
        seen(
            "paths have no type",
            |request| {
                if request.method == "PUT" && request.path.len() > 60 {
                    request.remove("content-type");
                }
            },
            &["put-type"],
        ),
    ]
}

fn parts() -> Vec<Case> {
    vec![
        sent(
            "no Allow",
            |request, response| {
                if request.method == "OPTIONS" {
                    response.remove("allow");
                }
            },
            &["parts-announced"],
        ),
        sent(
            "200 for a part",
            |request, response| {
                if request.method == "PATCH" && response.status == 204 {
                    response.status = 200;
                }
            },
            &["parts-in-order", "parts-empty", "parts-hidden"],
        ),
        sent(
            "no extension for parts",
            |request, response| {
                if request.method == "PATCH" && request.path.contains('.') {
                    become_status(response, 400);
                }
            },
            &["parts-extension"],
        ),
        seen(
            "defaults for parts",
            |request| {
                for (name, value) in
                    [("upload-length", "300"), ("upload-offset", "0"), ("upload-type", "a/b")]
                {
                    let bad = request
                        .header(name)
                        .is_none_or(|text| !text.contains('/') && text.parse::<u64>().is_err());
                    if request.method == "PATCH" && bad {
                        request.set(name, value);
                    }
                }
            },
            &["parts-headers-missing", "parts-headers-malformed"],
        ),
        seen(
            "any length for parts",
            |request| {
                if request.header("upload-length").is_some_and(|length| length.len() > 10) {
                    request.set("upload-length", "300");
                }
            },
            &["parts-length-absurd"],
        ),
        seen(
            "any type for parts",
            |request| {
                if request.method == "PATCH" {
                    request.set("content-type", "application/octet-stream");
                }
            },
            &["parts-content-type"],
        ),
        sent(
            "411 for parts is 500",
            |request, response| {
                if request.method == "PATCH" && response.status == 411 {
                    become_status(response, 500);
                }
            },
            &["parts-chunked"],
        ),
    ]
}

fn heads() -> Vec<Case> {
    vec![
        bug(OneAtATime, &["race-slow-reader", "race-slow-writer"]),
        sent(
            "connections end",
            |_, response| response.close = true,
            &["keep-alive", "pipelining", "pipelined-uploads"],
        ),
        sent(
            "unread bodies are requests",
            |request, response| {
                if response.status == 404 && request.method == "GET" {
                    response.noise = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_vec();
                }
            },
            &["pipelining"],
        ),
        seen("close is ignored", |request| request.remove("connection"), &["close"]),
        sent(
            "any expectation is 417 or 500",
            |request, response| {
                if request.header("expect") == Some("nonsense") {
                    become_status(response, 500);
                }
            },
            &["expect-unknown"],
        ),
        sent(
            "any method",
            |request, response| {
                if request.method == "BREW" {
                    *response = Response::new(200);
                }
            },
            &["method-unknown"],
        ),
        sent("no Allow", |_, r| r.remove("allow"), &["method-allow"]),
        sent(
            "TRACE",
            |request, response| {
                if request.method == "TRACE" {
                    response.body = request.header("authorization").unwrap_or_default().as_bytes().to_vec();
                }
            },
            &["method-trace"],
        ),
        sent(
            "no absolute targets",
            |request, response| {
                if request.target.starts_with("http") {
                    become_status(response, 400);
                }
            },
            &["target-absolute"],
        ),
        sent(
            "malformed heads are taken",
            |request, response| {
                if request.method == "?" {
                    *response = Response::new(200);
                }
            },
            &["head-garbage", "head-giant", "head-many"],
        ),
        sent(
            "slow heads",
            |request, response| {
                if request.path == "/" {
                    become_status(response, 500);
                }
            },
            &["head-slow"],
        ),
    ]
}
