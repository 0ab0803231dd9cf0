//! Faults of ranges and conditional requests.

use super::{Case, become_status, is_blob, seen, sent};

pub(super) fn all() -> Vec<Case> {
    let mut all = ranges();
    all.extend(conditions());
    all
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
