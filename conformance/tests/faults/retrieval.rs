//! Faults of CORS, and of `GET` and `HEAD /<sha256>`.

use super::{CLOSED, Case, become_status, is_blob, seen, sent};
use crate::model::{Response, Setup};

pub(super) fn all() -> Vec<Case> {
    let mut all = cors();
    all.extend(retrieval());
    all
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
                "cors-too-large",
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
                "head-upload-token-missing",
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
        sent(
            "previews are text",
            |request, response| {
                if request.path.starts_with("/previews") {
                    response.set("content-type", "text/html");
                }
            },
            &["get-preview"],
        ),
        sent(
            "texts are compressed",
            |request, response| {
                if request.header("accept-encoding").is_some() {
                    response.set("content-encoding", "gzip");
                }
            },
            &["get-identity"],
        ),
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
