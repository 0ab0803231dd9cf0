//! BUD-06 and BUD-05: `HEAD /upload` and `HEAD /media`, asked before an upload. CORS preflights (OPTIONS) are in `cors.rs`.

use crate::blob::{Blob, png};
use crate::context::Context;
use crate::nostr::Token;
use crate::request::Request;
use crate::suite::Strength::{Must, Practice, Safety, Should};
use crate::suite::{Check, Rule, rule, skip};

use super::integrity::ABSURD;

const UPLOAD: &str = "BUD-06 HEAD /upload";
const STATUS: &str = "BUD-06 status codes";
const MEDIA: &str = "BUD-05 HEAD /media";

pub(super) const RULES: &[Rule] = &[
    rule("head-upload-accepts", UPLOAD, Should, "200 if the upload would be taken", |ctx| {
        offered(ctx, "/upload")?;
        // Skips if the key may not upload at all.
        ctx.blob_of_1000_bytes()?;
        let blob = ctx.blob(100);
        ask(ctx, "/upload", &blob).send()?.expect(&[200]).map(|_| ())
    }),
    rule("head-upload-agrees", UPLOAD, Practice, "what HEAD /upload accepts is then taken", |ctx| {
        offered(ctx, "/upload")?;
        let blob = ctx.blob(100);
        let response = ask(ctx, "/upload", &blob).send()?;
        if response.status != 200 {
            return skip(response.summary());
        }
        ctx.upload(&blob)?.expect(&[201]).map(|_| ())
    }),
    rule("head-upload-stores", UPLOAD, Safety, "HEAD /upload stores nothing", |ctx| {
        offered(ctx, "/upload")?;
        let blob = ctx.blob(100);
        ask(ctx, "/upload", &blob).send()?;
        ctx.expect_absent(&blob.sha256)?;
        let empty = Blob::new(Vec::new(), "application/octet-stream");
        let was_there = ctx.expect_absent(&empty.sha256).is_err();
        ask(ctx, "/upload", &empty).send()?;
        if was_there { Ok(()) } else { ctx.expect_absent(&empty.sha256) }
    }),
    rule("head-upload-exists", UPLOAD, Should, "200 if the blob exists", |ctx| {
        offered(ctx, "/upload")?;
        ask(ctx, "/upload", &ctx.blob_of_1000_bytes()?).send()?.expect(&[200]).map(|_| ())
    }),
    rule("head-upload-length-missing", STATUS, Should, "411 without X-Content-Length", |ctx| {
        offered(ctx, "/upload")?;
        let request = ask(ctx, "/upload", &ctx.blob(100)).without("X-Content-Length");
        request.send()?.expect(&[411]).map(|_| ())
    }),
    rule("head-upload-length-malformed", STATUS, Should, "400 if X-Content-Length is no number", |ctx| {
        offered(ctx, "/upload")?;
        for value in ["abc", "-1", "1.5"] {
            let request = ask(ctx, "/upload", &ctx.blob(100)).without("X-Content-Length");
            request.header("X-Content-Length", value).send()?.expect(&[400])?;
        }
        Ok(())
    }),
    rule(
        "head-upload-length-absurd",
        STATUS,
        Should,
        "2^50 bytes are refused, with 413 if for their size",
        |ctx| {
            offered(ctx, "/upload")?;
            let request = ask(ctx, "/upload", &ctx.blob(100)).without("X-Content-Length");
            let response = request.header("X-Content-Length", &ABSURD.to_string()).send()?;
            response.expect(&[402, 403, 413, 507]).map(|_| ())
        },
    ),
    rule("head-upload-hash-malformed", STATUS, Should, "400 if X-SHA-256 is not 64 hex digits", |ctx| {
        offered(ctx, "/upload")?;
        for value in ["abc", &"g".repeat(64), &"a".repeat(63)] {
            let request = ask(ctx, "/upload", &ctx.blob(100)).without("X-SHA-256");
            request.header("X-SHA-256", value).send()?.expect(&[400])?;
        }
        Ok(())
    }),
    rule("head-upload-token-missing", STATUS, Should, "401 without a token, if uploads need one", |ctx| {
        offered(ctx, "/upload")?;
        if ctx.uploads_are_open()? {
            return skip("uploads need no token here");
        }
        ask(ctx, "/upload", &ctx.blob(100)).without("Authorization").send()?.expect(&[401]).map(|_| ())
    }),
    rule(
        "head-upload-token-x",
        "BUD-11 Endpoint requirements",
        Must,
        "HEAD /upload needs a matching x",
        |ctx| {
            offered(ctx, "/upload")?;
            needs_x(ctx, "/upload", "upload")
        },
    ),
    rule("head-upload-token-t", "BUD-11 Validation 4", Must, "HEAD /upload needs t=upload", |ctx| {
        offered(ctx, "/upload")?;
        needs_verb(ctx, "/upload", "media")
    }),
    rule("head-upload-body", UPLOAD, Must, "errors of HEAD /upload have no body", |ctx| {
        offered(ctx, "/upload")?;
        let request = ask(ctx, "/upload", &ctx.blob(100)).without("X-Content-Length");
        let mut connection = ctx.connect()?;
        let response = request.send_on(&mut connection, &ctx.server)?;
        response.ensure(connection.is_closed(), "bytes after the head")
    }),
    rule("head-media-accepts", MEDIA, Should, "200 if the media would be taken", |ctx| {
        offered(ctx, "/media")?;
        // Skips if the key may not upload at all.
        ctx.blob_of_1000_bytes()?;
        let picture = png(&ctx.blob(30).bytes);
        ask(ctx, "/media", &picture).send()?.expect(&[200]).map(|_| ())
    }),
    rule("head-media-agrees", MEDIA, Practice, "what HEAD /media accepts is then processed", |ctx| {
        offered(ctx, "/media")?;
        ctx.blob_of_1000_bytes()?;
        for picture in [png(&ctx.blob(30).bytes), super::media::jpeg(&ctx.blob(16))] {
            let response = ask(ctx, "/media", &picture).send()?;
            if response.status == 200 {
                super::media::send(ctx, &picture)?.expect(&[200, 201])?;
            }
        }
        Ok(())
    }),
    rule("head-media-length-missing", MEDIA, Should, "411 without X-Content-Length", |ctx| {
        offered(ctx, "/media")?;
        let request = ask(ctx, "/media", &png(&ctx.blob(30).bytes)).without("X-Content-Length");
        request.send()?.expect(&[411]).map(|_| ())
    }),
    rule("head-media-hash-malformed", MEDIA, Should, "400 if X-SHA-256 is malformed", |ctx| {
        offered(ctx, "/media")?;
        let request = ask(ctx, "/media", &png(&ctx.blob(30).bytes)).without("X-SHA-256");
        request.header("X-SHA-256", "abc").send()?.expect(&[400]).map(|_| ())
    }),
    rule("head-media-absurd", MEDIA, Should, "2^50 bytes are refused", |ctx| {
        offered(ctx, "/media")?;
        let request = ask(ctx, "/media", &png(&ctx.blob(30).bytes)).without("X-Content-Length");
        let response = request.header("X-Content-Length", &ABSURD.to_string()).send()?;
        response.expect(&[402, 403, 413, 507]).map(|_| ())
    }),
    rule(
        "head-media-token-x",
        "BUD-11 Endpoint requirements",
        Must,
        "HEAD /media needs a matching x",
        |ctx| {
            offered(ctx, "/media")?;
            needs_x(ctx, "/media", "media")
        },
    ),
    rule("head-media-token-t", "BUD-11 Validation 4", Must, "HEAD /media needs t=media", |ctx| {
        offered(ctx, "/media")?;
        needs_verb(ctx, "/media", "upload")
    }),
];

/// Skips unless the server answers `HEAD` of this path.
fn offered(ctx: &Context, path: &'static str) -> Check {
    let name = if path == "/media" { "HEAD /media" } else { "HEAD /upload" };
    ctx.offered(name, || {
        let blob = if path == "/media" { png(&ctx.blob(30).bytes) } else { ctx.blob(100) };
        ask(ctx, path, &blob).send()
    })
}

/// Asks whether a blob would be taken.
fn ask<'a>(ctx: &'a Context, path: &str, blob: &Blob) -> Request<'a> {
    let verb = if path == "/media" { "media" } else { "upload" };
    ctx.head(path)
        .token(&Token::new(verb).x(&blob.sha256), &ctx.key)
        .header("X-SHA-256", &blob.sha256)
        .header("X-Content-Type", &blob.mime)
        .header("X-Content-Length", &blob.bytes.len().to_string())
}

fn with_token<'a>(ctx: &'a Context, path: &str, token: &Token) -> Request<'a> {
    let blob = png(&ctx.blob(30).bytes);
    ask(ctx, path, &blob).without("Authorization").token(token, &ctx.key)
}

/// A token whose x does not match, or that has none, is refused where tokens are wanted.
fn needs_x(ctx: &Context, path: &str, verb: &str) -> Check {
    if ctx.uploads_are_open()? {
        return skip("uploads need no token here");
    }
    with_token(ctx, path, &Token::new(verb)).send()?.expect_refusal()?;
    with_token(ctx, path, &Token::new(verb).x(&ctx.blob(10).sha256)).send()?.expect_refusal().map(|_| ())
}

fn needs_verb(ctx: &Context, path: &str, verb: &str) -> Check {
    if ctx.uploads_are_open()? {
        return skip("uploads need no token here");
    }
    let picture = png(&ctx.blob(30).bytes);
    let request = ask(ctx, path, &picture).without("Authorization");
    let token = Token::new(verb).x(&picture.sha256);
    request.token(&token, &ctx.key).send()?.expect_refusal().map(|_| ())
}
