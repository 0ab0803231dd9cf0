//! Faults in the messages of uploads: statuses, descriptors, scripts, upload requirements (HEAD).

use serde_json::json;

use super::{Case, MIRRORS, become_status, bug, is_upload, seen, sent};
use crate::model::Bug::LaxHeads;
use crate::model::Response;

pub(super) fn all() -> Vec<Case> {
    let mut all = uploads();
    all.extend(scripts());
    all.extend(upload_requirements());
    all
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
            "types are paths",
            |request, response| {
                if request.header("content-type").is_some_and(|mime| mime.contains("..")) {
                    response.change(|body| {
                        let hash = body["sha256"].as_str().unwrap_or_default();
                        body["url"] = json!(format!("http://localhost/{hash}.../../etc/x"));
                    });
                }
            },
            &["descriptor-type-path"],
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

fn upload_requirements() -> Vec<Case> {
    vec![
        sent(
            "204 for 200",
            |request, response| {
                if request.method == "HEAD" && response.status == 200 {
                    response.status = 204;
                }
            },
            &["head-upload-accepts", "head-upload-exists", "head-media-accepts"],
        ),
        sent(
            "uploads are refused",
            |request, response| {
                if is_upload(request) && request.header("content-length") == Some("100") {
                    become_status(response, 403);
                }
            },
            &["head-upload-agrees"],
        ),
        sent(
            "everything is accepted",
            |request, response| {
                if request.method == "HEAD" && matches!(request.path.as_str(), "/upload" | "/media") {
                    *response = Response::new(200);
                }
            },
            &[
                "head-upload-length-missing",
                "head-upload-length-malformed",
                "head-upload-length-absurd",
                "head-upload-hash-malformed",
                "head-upload-token-missing",
                "head-upload-token-x",
                "head-upload-token-t",
                "head-media-length-missing",
                "head-media-hash-malformed",
                "head-media-absurd",
                "head-media-token-x",
                "head-media-token-t",
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
            &["head-upload-body"],
        ),
    ]
}
