//! BUD-02 and BUD-08: `PUT /upload` and blob descriptors.

use serde_json::Value;

use crate::blob::{Blob, png};
use crate::context::Context;
use crate::http::Response;
use crate::nostr::{Token, now};
use crate::suite::Strength::{Http, Must, Practice, Safety, Should};
use crate::suite::{Check, Rule, TestError, fail, rule, skip};

const PUT: &str = "BUD-02 PUT /upload";
const DESCRIPTOR: &str = "BUD-02 Blob Descriptor";
const NIP94: &str = "BUD-08 Returning tags";

/// Greatest difference between the server's clock and ours, in seconds.
const CLOCK_SKEW_MAX: u64 = 3600;

pub(super) const RULES: &[Rule] = &[
    rule("upload-new", PUT, Must, "a new blob is 201", |ctx| {
        let blob = ctx.blob(100);
        ctx.store_as(&blob, &ctx.key)?;
        ctx.upload(&ctx.blob(100))?.expect(&[201]).map(|_| ())
    }),
    rule("upload-again", PUT, Must, "a blob that exists is 200, with its descriptor", |ctx| {
        let blob = ctx.blob_of_1000_bytes()?;
        let response = ctx.upload(&blob)?;
        descriptor(response.expect(&[200])?, &blob).map(|_| ())
    }),
    rule("upload-again-unannounced", PUT, Must, "a second upload without X-SHA-256 is 200", |ctx| {
        let blob = ctx.blob_of_1000_bytes()?;
        let token = Token::new("upload").x(&blob.sha256);
        let request = ctx.put("/upload").token(&token, &ctx.key).blob(&blob).without("X-SHA-256");
        descriptor(request.send()?.expect(&[200])?, &blob).map(|_| ())
    }),
    rule("upload-unannounced", PUT, Must, "X-SHA-256 may be left out", |ctx| {
        ctx.blob_of_1000_bytes()?;
        let blob = ctx.blob(100);
        ctx.note(&blob.sha256, &ctx.key);
        let token = Token::new("upload").x(&blob.sha256);
        let request = ctx.put("/upload").token(&token, &ctx.key).blob(&blob).without("X-SHA-256");
        request.send()?.expect(&[201])?;
        ctx.expect_served(&blob)
    }),
    rule("upload-second-owner", PUT, Must, "a blob that another key has uploaded is 200", |ctx| {
        let blob = ctx.stored(100)?;
        ctx.store_second(&ctx.blob(10))?;
        ctx.upload_as(&blob, &ctx.second)?.expect(&[200]).map(|_| ())
    }),
    rule("upload-exact", PUT, Must, "every byte value is stored as it is", |ctx| {
        let mut bytes: Vec<u8> = (0..=255).cycle().take(2048).collect();
        bytes.extend(b"\r\n.\r\n0\r\n\r\n\x00\xff\xfe\xef\xbb\xbf");
        let blob = ctx.blob_of(&bytes, "application/octet-stream");
        ctx.store_as(&blob, &ctx.key)?;
        ctx.expect_served(&blob)
    }),
    rule("upload-media-exact", PUT, Must, "pictures are not changed: /upload keeps EXIF", |ctx| {
        let picture = super::media::jpeg(&ctx.blob(16));
        ctx.store_as(&picture, &ctx.key)?;
        ctx.expect_served(&picture)
    }),
    rule("upload-encoded", PUT, Must, "a body with Content-Encoding is hashed as it was sent", |ctx| {
        ctx.blob_of_1000_bytes()?;
        // An empty gzip member and bytes after it: a server that decodes it has other bytes, or an error.
        let start = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let blob = ctx.blob_of(&start, "application/gzip");
        ctx.note(&blob.sha256, &ctx.key);
        let token = Token::new("upload").x(&blob.sha256);
        let request = ctx.put("/upload").token(&token, &ctx.key).blob(&blob);
        let response = request.header("Content-Encoding", "gzip").send()?;
        if matches!(response.status, 400 | 415) {
            return Ok(());
        }
        response.expect(&[201])?;
        ctx.expect_served(&blob)
    }),
    rule("upload-after-refusal", PUT, Must, "a refused HEAD /upload does not hinder an upload", |ctx| {
        let blob = ctx.blob(100);
        ctx.head("/upload").header("X-SHA-256", "nonsense").send()?;
        ctx.store_as(&blob, &ctx.key)?;
        ctx.expect_served(&blob)
    }),
    rule("upload-untyped", PUT, Practice, "an upload without Content-Type is taken", |ctx| {
        ctx.blob_of_1000_bytes()?;
        let blob = ctx.blob(100);
        ctx.note(&blob.sha256, &ctx.key);
        let token = Token::new("upload").x(&blob.sha256);
        let request = ctx.put("/upload").token(&token, &ctx.key).blob(&blob).without("Content-Type");
        let response = request.send()?;
        descriptor(response.expect(&[201])?, &blob).map(|_| ())
    }),
    rule("upload-any-type", PUT, Practice, "every type is taken, application/octet-stream first", |ctx| {
        ctx.blob_of_1000_bytes()?;
        for mime in
            ["application/octet-stream", "application/x-of-nobody", "text/markdown", "model/gltf+json"]
        {
            ctx.upload(&ctx.blob_of(b"\x00\x01", mime))?.expect(&[201])?;
        }
        Ok(())
    }),
    rule("upload-empty", PUT, Practice, "the empty blob can be stored", |ctx| {
        ctx.blob_of_1000_bytes()?;
        let blob = Blob::new(Vec::new(), "application/octet-stream");
        let response = ctx.upload(&blob)?;
        descriptor(response.expect(&[200, 201])?, &blob)?;
        ctx.expect_served(&blob)
    }),
    rule("upload-large", PUT, Practice, "a blob of --large-blob-bytes comes back whole", |ctx| {
        ctx.blob_of_1000_bytes()?;
        let blob = ctx.blob(ctx.options.large_blob_bytes);
        let response = ctx.upload(&blob)?;
        if matches!(response.status, 402 | 413) {
            return skip(format!("{}; give --large-blob-bytes a smaller size", response.summary()));
        }
        descriptor(response.expect(&[201])?, &blob)?;
        ctx.expect_served(&blob)
    }),
    rule("descriptor-fields", DESCRIPTOR, Must, "url, sha256, size, type and uploaded are right", |ctx| {
        ctx.blob_of_1000_bytes()?;
        let blob = png(&ctx.blob(30).bytes);
        let response = ctx.upload(&blob)?;
        let found = descriptor(response.expect(&[200, 201])?, &blob)?;
        let uploaded = found["uploaded"].as_u64().unwrap_or_default();
        response.ensure(uploaded.abs_diff(now()) <= CLOCK_SKEW_MAX, &format!("uploaded: {uploaded}"))?;
        response.ensure(found["type"] == "image/png", &format!("type: {}", found["type"]))
    }),
    rule("descriptor-type-default", DESCRIPTOR, Must, "an unknown type is application/octet-stream", |ctx| {
        let blob = ctx.blob_of_1000_bytes()?;
        let response = ctx.upload(&blob)?;
        let found = descriptor(response.expect(&[200])?, &blob)?;
        let expected = found["type"] == "application/octet-stream";
        response.ensure(expected, &format!("type: {}", found["type"]))
    }),
    rule("descriptor-extension", DESCRIPTOR, Must, "the url has a file extension", |ctx| {
        for blob in [ctx.picture()?, ctx.blob_of_1000_bytes()?] {
            let response = ctx.upload(&blob)?;
            let found = descriptor(response.expect(&[200])?, &blob)?;
            let url = found["url"].as_str().unwrap_or_default();
            let end = url.split_once(&blob.sha256).map_or("", |(_, end)| end);
            let extension = end.split(['?', '#']).next().unwrap_or_default();
            response.ensure(extension.len() > 1 && extension.starts_with('.'), &format!("url: {url}"))?;
        }
        Ok(())
    }),
    rule(
        "descriptor-extension-fits",
        DESCRIPTOR,
        Practice,
        "the url ends in .png for a PNG, .bin if the type is unknown",
        |ctx| {
            for (blob, end) in [(ctx.picture()?, ".png"), (ctx.blob_of_1000_bytes()?, ".bin")] {
                let response = ctx.upload(&blob)?;
                let found = descriptor(response.expect(&[200])?, &blob)?;
                let url = found["url"].as_str().unwrap_or_default();
                response.ensure(url.ends_with(end), &format!("url: {url}, expected {end}"))?;
            }
            Ok(())
        },
    ),
    rule("descriptor-url", DESCRIPTOR, Must, "the url serves the blob", |ctx| {
        let blob = ctx.picture()?;
        let response = ctx.upload(&blob)?;
        let found = descriptor(response.expect(&[200])?, &blob)?;
        let text = found["url"].as_str().unwrap_or_default();
        let Ok(url) = url::Url::parse(text) else {
            return fail(format!("{}; url: {text} is no absolute URL", response.summary()));
        };
        let path = url.path().to_owned();
        let server = crate::http::Endpoint::new(text, ctx.options.timeout);
        let server = server.map_err(|error| TestError::Fail(format!("url: {text}: {error}")))?;
        let served = ctx.read_path("GET", &path, &blob.sha256)?.send_to(&server)?;
        served.expect(&[200, 307, 308])?;
        served.ensure(served.status != 200 || served.body == blob.bytes, "other bytes came")
    }),
    rule("descriptor-uploaded", DESCRIPTOR, Practice, "a second upload does not change uploaded", |ctx| {
        let blob = ctx.blob_of_1000_bytes()?;
        let mut seen = Vec::new();
        for _ in 0..2 {
            let response = ctx.upload(&blob)?;
            seen.push(descriptor(response.expect(&[200])?, &blob)?["uploaded"].clone());
            std::thread::sleep(std::time::Duration::from_millis(1010));
        }
        if seen[0] == seen[1] { Ok(()) } else { fail(format!("uploaded: {} then {}", seen[0], seen[1])) }
    }),
    rule("descriptor-json", "RFC 9110 8.3", Http, "descriptors are application/json", |ctx| {
        let response = ctx.upload(&ctx.blob_of_1000_bytes()?)?;
        response.ensure(response.mime() == "application/json", &format!("got {:?}", response.mime()))
    }),
    rule(
        "descriptor-type-hostile",
        DESCRIPTOR,
        Must,
        "a hostile type leaves the descriptor valid JSON",
        |ctx| {
            ctx.blob_of_1000_bytes()?;
            let blob = ctx.blob_of(b"x", "a/b\"},{\"sha256\":\"\\");
            let response = ctx.upload(&blob)?;
            if response.status >= 400 {
                return response.expect_refusal().map(|_| ());
            }
            descriptor(&response, &blob).map(|_| ())
        },
    ),
    rule(
        "descriptor-type-path",
        DESCRIPTOR,
        Safety,
        "a type with dots and slashes leads the url nowhere",
        |ctx| {
            ctx.blob_of_1000_bytes()?;
            let blob = ctx.blob_of(b"x", "image/../../../etc/x?y#z");
            let response = ctx.upload(&blob)?;
            if response.status >= 400 {
                return response.expect_refusal().map(|_| ());
            }
            let found = descriptor(&response, &blob)?;
            let url = found["url"].as_str().unwrap_or_default();
            let end = url.split_once(&blob.sha256).map_or("", |(_, end)| end);
            response
                .ensure(!end.contains(['/', '?', '#', '%']) && !end.contains(".."), &format!("url: {url}"))
        },
    ),
    rule("nip94-pairs", NIP94, Should, "nip94 is an array of [key, value]", |ctx| {
        let blob = ctx.picture()?;
        let (response, tags) = nip94(ctx, &blob)?;
        let is_pair = |tag: &Value| {
            tag.as_array().is_some_and(|tag| tag.len() >= 2 && tag.iter().all(Value::is_string))
        };
        let pairs = tags.as_array().is_some_and(|tags| tags.iter().all(is_pair));
        response.ensure(pairs, &format!("nip94: {tags}"))
    }),
    rule("nip94-values", NIP94, Should, "nip94 has url, m, x and size of the blob", |ctx| {
        let blob = ctx.picture()?;
        let (response, tags) = nip94(ctx, &blob)?;
        let value = |name: &str| {
            let tag = tags.as_array()?.iter().find(|tag| tag[0] == name)?;
            tag[1].as_str().map(str::to_owned)
        };
        let size = blob.bytes.len().to_string();
        for (name, expected) in [("x", blob.sha256.as_str()), ("m", "image/png"), ("size", &size)] {
            response.ensure(value(name).as_deref() == Some(expected), &format!("{name} in nip94: {tags}"))?;
        }
        let url = value("url").unwrap_or_default();
        response.ensure(url.contains(&blob.sha256), &format!("url in nip94: {tags}"))
    }),
];

/// Checks that a response is a descriptor of this blob.
pub(super) fn descriptor(response: &Response, blob: &Blob) -> Result<Value, TestError> {
    let Some(found) = response.json() else {
        return fail(format!("{}; the body is no JSON", response.summary()));
    };
    well_formed(response, &found)?;
    let size = blob.bytes.len();
    let right = found["sha256"] == blob.sha256.as_str() && found["size"].as_u64() == Some(size as u64);
    response.ensure(right, &format!("descriptor {found}, of a blob {} of {size} bytes", blob.sha256))?;
    Ok(found)
}

/// Checks that a value has the fields of a descriptor, of the right types.
pub(super) fn well_formed(response: &Response, found: &Value) -> Check {
    let hash = found["sha256"].as_str().unwrap_or_default();
    let is_url = found["url"].as_str().is_some_and(|url| url.contains(hash) && url.starts_with("http"));
    let right = is_url
        && hash.len() == 64
        && found["size"].is_u64()
        && found["uploaded"].is_u64()
        && found["type"].as_str().is_some_and(|mime| mime.contains('/'));
    response.ensure(right, &format!("no descriptor: {found}"))
}

fn nip94(ctx: &Context, blob: &Blob) -> Result<(Response, Value), TestError> {
    let response = ctx.upload(blob)?;
    let found = descriptor(response.expect(&[200])?, blob)?;
    match found.get("nip94") {
        None | Some(Value::Null) => skip("descriptors have no nip94"),
        Some(tags) => Ok((response, tags.clone())),
    }
}
