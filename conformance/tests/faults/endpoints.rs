//! Faults in the messages of the other endpoints: payment, deletes, lists, media, mirrors, reports.

use serde_json::{Value, json};

use super::{CLOSED, Case, MIRRORS, become_status, is_listed, seen, sent};
use crate::model::{Response, Setup};

pub(super) fn all() -> Vec<Case> {
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
            &["head-media-agrees", "media-again", "media-accepts", "media-png"],
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
