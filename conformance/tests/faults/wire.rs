//! Faults of parts, and of HTTP on the wire.

use super::{Case, become_status, bug, seen, sent};
use crate::model::Bug::OneAtATime;
use crate::model::Response;

pub(super) fn all() -> Vec<Case> {
    let mut all = parts();
    all.extend(heads());
    all
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
        sent(
            "204 with a length",
            |_, response| {
                if response.status == 204 {
                    response.set("content-length", "0");
                }
            },
            &["no-content-length"],
        ),
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
