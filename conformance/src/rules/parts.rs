//! BUD-14 (a draft): `PATCH /<sha256>[.ext]`, uploads in parts.

use crate::blob::{Blob, png};
use crate::context::Context;
use crate::http::Response;
use crate::nostr::Token;
use crate::request::Request;
use crate::suite::Strength::{Must, Practice, Safety, Should};
use crate::suite::{Check, Rule, TestError, fail, rule, skip};

use super::integrity::ABSURD;

const PATCH: &str = "BUD-14 PATCH /sha256";
const CHUNKING: &str = "BUD-14 Chunking strategy";
const HEADERS: &str = "BUD-14 Request headers";
const COMPLETION: &str = "BUD-14 Completion";

pub(super) const RULES: &[Rule] = &[
    rule("parts-announced", "BUD-14 Signaling support", Should, "OPTIONS is 204, Allow lists PATCH", |ctx| {
        offered(ctx)?;
        let blob = ctx.blob(1);
        for path in [blob.path(), format!("{}.bin", blob.path())] {
            let response = ctx.request("OPTIONS", &path).send()?;
            response.expect(&[204])?;
            response.ensure(response.lists("allow", "PATCH"), "Allow lacks PATCH")?;
        }
        Ok(())
    }),
    rule("parts-cors", "BUD-01 Cross origin headers", Practice, "a preflight allows PATCH", |ctx| {
        offered(ctx)?;
        let response = ctx.request("OPTIONS", &ctx.blob(1).path()).send()?;
        let allowed = response.lists("access-control-allow-methods", "PATCH");
        response.ensure(allowed, "Access-Control-Allow-Methods lacks PATCH")
    }),
    rule("parts-in-order", COMPLETION, Must, "parts are 204, the last one 201 with the descriptor", |ctx| {
        let blob = begin(ctx, 300)?;
        part(ctx, &blob, 0, 100).send()?.expect(&[204])?;
        part(ctx, &blob, 100, 200).send()?.expect(&[204])?;
        let response = part(ctx, &blob, 200, 300).send()?;
        super::upload::descriptor(response.expect(&[201])?, &blob)?;
        ctx.expect_served(&blob)
    }),
    rule("parts-one", COMPLETION, Must, "one part may be the whole blob", |ctx| {
        let blob = begin(ctx, 300)?;
        let response = part(ctx, &blob, 0, 300).send()?;
        super::upload::descriptor(response.expect(&[201])?, &blob)?;
        ctx.expect_served(&blob)
    }),
    rule("parts-any-order", CHUNKING, Must, "parts may come in any order", |ctx| {
        let blob = begin(ctx, 300)?;
        finish(ctx, &blob, &[(200, 300), (0, 100), (100, 200)])
    }),
    rule("parts-overlapping", CHUNKING, Must, "parts may overlap", |ctx| {
        let blob = begin(ctx, 300)?;
        finish(ctx, &blob, &[(0, 150), (100, 250), (50, 120), (200, 300)])
    }),
    rule("parts-overlap-gap", CHUNKING, Must, "lengths that add up do not make up for a gap", |ctx| {
        let blob = begin(ctx, 300)?;
        for (from, to) in [(0, 150), (50, 200), (0, 100)] {
            part(ctx, &blob, from, to).send()?.expect(&[204])?;
        }
        ctx.expect_absent(&blob.sha256)?;
        finish(ctx, &blob, &[(200, 300)])
    }),
    rule("parts-repeated", CHUNKING, Must, "a part may be sent twice", |ctx| {
        let blob = begin(ctx, 300)?;
        part(ctx, &blob, 0, 150).send()?.expect(&[204])?;
        part(ctx, &blob, 0, 150).send()?.expect(&[204])?;
        finish(ctx, &blob, &[(150, 300)])
    }),
    rule("parts-concurrent", CHUNKING, Should, "parts may be sent at once", |ctx| {
        let blob = begin(ctx, 2000)?;
        let results: Vec<Result<Response, TestError>> = std::thread::scope(|scope| {
            let send = |from: usize| part(ctx, &blob, from, from + 200).send();
            let threads: Vec<_> =
                (0..2000).step_by(200).map(|from| scope.spawn(move || send(from))).collect();
            threads.into_iter().filter_map(|thread| thread.join().ok()).collect()
        });
        for result in results {
            result?.expect(&[200, 201, 204])?;
        }
        ctx.expect_served(&blob)
    }),
    rule("parts-two-blobs", CHUNKING, Must, "the parts of two blobs are kept apart", |ctx| {
        let (one, other) = (begin(ctx, 300)?, begin(ctx, 300)?);
        part(ctx, &one, 0, 150).send()?.expect(&[204])?;
        part(ctx, &other, 150, 300).send()?.expect(&[204])?;
        finish(ctx, &one, &[(150, 300)])?;
        finish(ctx, &other, &[(0, 150)])
    }),
    rule("parts-hidden", PATCH, Must, "the blob is not there before the last part", |ctx| {
        let blob = begin(ctx, 300)?;
        part(ctx, &blob, 0, 299).send()?.expect(&[204])?;
        ctx.expect_absent(&blob.sha256)?;
        let head = ctx.read_path("HEAD", &blob.path(), &blob.sha256)?;
        head.send()?.expect(&[404])?;
        finish(ctx, &blob, &[(299, 300)])
    }),
    rule("parts-extension", PATCH, Must, "an extension is accepted, and names the same blob", |ctx| {
        let blob = begin(ctx, 300)?;
        at(ctx, &format!("{}.mp4", blob.path()), &blob, 0, 150).send()?.expect(&[204])?;
        finish(ctx, &blob, &[(150, 300)])
    }),
    rule("parts-type", HEADERS, Must, "Upload-Type is the type of the blob", |ctx| {
        offered(ctx)?;
        let picture = png(&ctx.blob(30).bytes);
        let response = part(ctx, &picture, 0, picture.bytes.len()).send()?;
        super::upload::descriptor(response.expect(&[201])?, &picture)?;
        let served = ctx.download(&picture.sha256)?;
        served.expect(&[200])?;
        served.ensure(served.mime() == "image/png", &format!("got {:?}", served.mime()))
    }),
    rule("parts-exists", COMPLETION, Must, "a blob that exists is 200, when it is complete again", |ctx| {
        offered(ctx)?;
        let blob = ctx.blob_of_1000_bytes()?;
        let mut response = part(ctx, &blob, 0, 500).send()?;
        if response.status == 204 {
            response = part(ctx, &blob, 500, 1000).send()?;
        }
        super::upload::descriptor(response.expect(&[200])?, &blob).map(|_| ())
    }),
    rule("parts-mismatch", COMPLETION, Must, "parts of another hash are 409, and no blob", |ctx| {
        let blob = begin(ctx, 300)?;
        let other = Blob { sha256: ctx.blob(1).sha256, ..blob.clone() };
        part(ctx, &other, 0, 150).send()?.expect(&[204])?;
        part(ctx, &other, 150, 300).send()?.expect(&[409])?;
        ctx.expect_absent(&other.sha256)?;
        ctx.expect_absent(&blob.sha256)
    }),
    rule("parts-after-mismatch", COMPLETION, Practice, "after a mismatch the right parts succeed", |ctx| {
        let blob = begin(ctx, 300)?;
        let wrong = Blob { bytes: ctx.blob(300).bytes, ..blob.clone() };
        part(ctx, &wrong, 0, 300).send()?.expect(&[409])?;
        part(ctx, &blob, 0, 150).send()?.expect(&[204])?;
        finish(ctx, &blob, &[(150, 300)])
    }),
    rule("parts-beyond", HEADERS, Must, "a part that does not fit is refused, with 416 or 400", |ctx| {
        let blob = begin(ctx, 300)?;
        let placed = |offset: &str| {
            part(ctx, &blob, 0, 100).without("Upload-Offset").header("Upload-Offset", offset).send()
        };
        for offset in ["201", "300", "99999", "18446744073709551615", "18446744073709551600"] {
            placed(offset)?.expect(&[400, 413, 416])?;
        }
        ctx.expect_absent(&blob.sha256)
    }),
    rule("parts-headers-missing", HEADERS, Should, "400 without Upload-Length, -Offset or -Type", |ctx| {
        let blob = begin(ctx, 300)?;
        for name in ["Upload-Length", "Upload-Offset", "Upload-Type"] {
            part(ctx, &blob, 0, 100).without(name).send()?.expect(&[400, 411])?;
        }
        Ok(())
    }),
    rule("parts-headers-malformed", HEADERS, Should, "400 if Upload-Length or -Offset is no number", |ctx| {
        let blob = begin(ctx, 300)?;
        for name in ["Upload-Length", "Upload-Offset"] {
            for value in ["abc", "-1", "1.5", "", "0x10"] {
                let request = part(ctx, &blob, 0, 100).without(name).header(name, value);
                request.send()?.expect(&[400, 416])?;
            }
        }
        Ok(())
    }),
    rule(
        "parts-length-changed",
        HEADERS,
        Safety,
        "a part with another Upload-Length makes no wrong blob",
        |ctx| {
            let blob = begin(ctx, 300)?;
            part(ctx, &blob, 0, 150).send()?.expect(&[204])?;
            let request = part(ctx, &blob, 150, 200).without("Upload-Length").header("Upload-Length", "200");
            let response = request.send()?;
            response.ensure(!matches!(response.status, 200 | 201), "200 of 300 bytes are no blob")?;
            ctx.expect_absent(&blob.sha256)
        },
    ),
    rule("parts-length-absurd", HEADERS, Should, "an Upload-Length of 2^50 is refused, with 413", |ctx| {
        let blob = begin(ctx, 300)?;
        let request = part(ctx, &blob, 0, 100).without("Upload-Length");
        let response = request.header("Upload-Length", &ABSURD.to_string()).send()?;
        response.expect(&[402, 403, 413, 507]).map(|_| ())
    }),
    rule("parts-content-type", HEADERS, Should, "a part is application/octet-stream, or 400 or 415", |ctx| {
        let blob = begin(ctx, 300)?;
        let request = part(ctx, &blob, 0, 100).without("Content-Type");
        request.header("Content-Type", "text/html").send()?.expect(&[400, 415]).map(|_| ())
    }),
    rule("parts-empty", HEADERS, Practice, "an empty part completes nothing", |ctx| {
        let blob = begin(ctx, 300)?;
        part(ctx, &blob, 0, 0).send()?.expect(&[204, 400, 416])?;
        ctx.expect_absent(&blob.sha256)?;
        finish(ctx, &blob, &[(0, 150), (150, 300)])
    }),
    rule("parts-short", CHUNKING, Safety, "of an interrupted part at most the received bytes count", |ctx| {
        let blob = begin(ctx, 300)?;
        part(ctx, &blob, 0, 100).send()?.expect(&[204])?;
        let request = part(ctx, &blob, 100, 300);
        let mut connection = ctx.connect()?;
        connection.send_body(&request.head_bytes(&ctx.server));
        connection.send_body(&blob.bytes[100..150]);
        drop(connection);
        std::thread::sleep(ctx.options.body_pause);
        ctx.expect_absent(&blob.sha256)?;
        // The upload is resumed.
        finish(ctx, &blob, &[(100, 300)])
    }),
    rule("parts-chunked", HEADERS, Should, "a part without a length is 411, or taken as it is", |ctx| {
        let blob = begin(ctx, 300)?;
        let request = part(ctx, &blob, 0, 100).without_body().header("Transfer-Encoding", "chunked");
        let mut connection = ctx.connect()?;
        connection.send_body(&request.bytes());
        connection.send_body(b"64\r\n");
        connection.send_body(&blob.bytes[..100]);
        connection.send_body(b"\r\n0\r\n\r\n");
        request.receive(&mut connection)?.expect(&[204, 411])?;
        finish(ctx, &blob, &[(0, 200), (200, 300)])
    }),
    rule(
        "parts-token-missing",
        "BUD-14 Authorization",
        Should,
        "401 without a token, if uploads need one",
        |ctx| {
            let blob = closed(ctx)?;
            part(ctx, &blob, 0, 100).without("Authorization").send()?.expect(&[401]).map(|_| ())
        },
    ),
    rule("parts-token-x", "BUD-14 Authorization", Must, "the x is the blob's hash", |ctx| {
        let blob = closed(ctx)?;
        for token in [Token::new("upload"), Token::new("upload").x(&ctx.blob(1).sha256)] {
            let request = part(ctx, &blob, 0, 300).without("Authorization").token(&token, &ctx.key);
            request.send()?.expect_refusal()?;
        }
        ctx.expect_absent(&blob.sha256)
    }),
    rule("parts-token-t", "BUD-14 Authorization", Must, "the verb is upload", |ctx| {
        let blob = closed(ctx)?;
        let token = Token::new("delete").x(&blob.sha256);
        let request = part(ctx, &blob, 0, 300).without("Authorization").token(&token, &ctx.key);
        request.send()?.expect_refusal()?;
        ctx.expect_absent(&blob.sha256)
    }),
    rule(
        "parts-stranger",
        "BUD-14 Authorization",
        Safety,
        "another key's parts do not spoil an upload",
        |ctx| {
            let blob = begin(ctx, 300)?;
            part(ctx, &blob, 0, 100).send()?.expect(&[204])?;
            let spoilt = Blob { bytes: ctx.blob(300).bytes, ..blob.clone() };
            let token = Token::new("upload").x(&blob.sha256);
            let request = part(ctx, &spoilt, 0, 100).without("Authorization").token(&token, &ctx.stranger);
            request.send()?.expect_no_breakdown()?;
            finish(ctx, &blob, &[(100, 300)])
        },
    ),
];

/// Skips unless the server takes parts.
fn offered(ctx: &Context) -> Check {
    ctx.blob_of_1000_bytes()?;
    ctx.offered("PATCH /<sha256>", || {
        let blob = ctx.blob(30);
        part(ctx, &blob, 0, 30).send()
    })
}

/// A blob to upload.
fn begin(ctx: &Context, length: usize) -> Result<Blob, TestError> {
    offered(ctx)?;
    Ok(ctx.blob(length))
}

/// A blob to upload to a server that wants tokens.
fn closed(ctx: &Context) -> Result<Blob, TestError> {
    let blob = begin(ctx, 300)?;
    if ctx.uploads_are_open()? { skip("uploads need no token here") } else { Ok(blob) }
}

fn part<'a>(ctx: &'a Context, blob: &Blob, from: usize, to: usize) -> Request<'a> {
    at(ctx, &blob.path(), blob, from, to)
}

fn at<'a>(ctx: &'a Context, path: &str, blob: &Blob, from: usize, to: usize) -> Request<'a> {
    ctx.note(&blob.sha256, &ctx.key);
    ctx.request("PATCH", path)
        .token(&Token::new("upload").x(&blob.sha256), &ctx.key)
        .header("Upload-Type", &blob.mime)
        .header("Upload-Length", &blob.bytes.len().to_string())
        .header("Upload-Offset", &from.to_string())
        .header("Content-Type", "application/octet-stream")
        .body(&blob.bytes[from..to])
}

/// Sends the last parts: all but one are 204, the last is 201, and then the blob is served.
fn finish(ctx: &Context, blob: &Blob, parts: &[(usize, usize)]) -> Check {
    let Some(((from, to), others)) = parts.split_last() else { return fail("no parts") };
    for (from, to) in others {
        part(ctx, blob, *from, *to).send()?.expect(&[204])?;
    }
    part(ctx, blob, *from, *to).send()?.expect(&[201])?;
    ctx.expect_served(blob)
}
