//! BUD-02: what is refused stores nothing: wrong hashes, lying lengths, bodies that end early.

use std::time::Duration;

use crate::blob::Blob;
use crate::context::Context;
use crate::nostr::Token;
use crate::request::Request;
use crate::suite::Strength::{Practice, Safety, Should};
use crate::suite::{Check, Rule, TestError, fail, rule};

const PUT: &str = "BUD-02 PUT /upload";
const STATUS: &str = "BUD-02 PUT /upload status codes";
const SAFE: &str = "BUD-02 integrity";

/// A length that no server takes: 2^50 bytes.
pub(super) const ABSURD: u64 = 1 << 50;

pub(super) const RULES: &[Rule] = &[
    rule("hash-mismatch", STATUS, Should, "409 if X-SHA-256 is not the body's hash", |ctx| {
        mismatch(ctx)?.0.expect(&[409]).map(|_| ())
    }),
    rule("hash-mismatch-stores", SAFE, Safety, "a body of another hash is not stored", |ctx| {
        let (response, announced, sent) = mismatch(ctx)?;
        response.expect_refusal()?;
        ctx.expect_absent(&announced.sha256)?;
        ctx.expect_absent(&sent.sha256)
    }),
    rule("hash-malformed", STATUS, Should, "400 if X-SHA-256 is not 64 hex digits", |ctx| {
        ctx.blob_of_1000_bytes()?;
        for value in ["abc", "not a hash", &"g".repeat(64), &"a".repeat(63), &"a".repeat(65)] {
            let blob = ctx.blob(20);
            let request = put(ctx, &blob).without("X-SHA-256").header("X-SHA-256", value);
            request.send()?.expect(&[400])?;
            ctx.expect_absent(&blob.sha256)?;
        }
        Ok(())
    }),
    rule("length-missing", STATUS, Should, "a chunked body is 411, or stored exactly", |ctx| {
        ctx.blob_of_1000_bytes()?;
        let blob = ctx.blob(50);
        let head = put(ctx, &blob).without_body().header("Transfer-Encoding", "chunked");
        let mut connection = ctx.connect()?;
        connection.send_body(&head.bytes());
        connection.send_body(b"14\r\n");
        connection.send_body(&blob.bytes[..20]);
        connection.send_body(b"\r\n1e;name=value\r\n");
        connection.send_body(&blob.bytes[20..]);
        connection.send_body(b"\r\n0\r\n\r\n");
        let response = head.receive(&mut connection)?;
        response.expect(&[200, 201, 411])?;
        if response.status == 411 { ctx.expect_absent(&blob.sha256) } else { ctx.expect_served(&blob) }
    }),
    rule("length-none", STATUS, Should, "no length and no body is 411, 400, or the empty blob", |ctx| {
        ctx.blob_of_1000_bytes()?;
        let blob = Blob::new(Vec::new(), "application/octet-stream");
        let request = put(ctx, &blob).without_body();
        request.send()?.expect(&[200, 201, 400, 411]).map(|_| ())
    }),
    rule("length-absurd", STATUS, Should, "2^50 bytes are refused, with 413 if for their size", |ctx| {
        ctx.blob_of_1000_bytes()?;
        announce(ctx, &ABSURD.to_string())?.expect(&[402, 403, 411, 413, 507]).map(|_| ())
    }),
    rule("length-overflow", SAFE, Safety, "a length beyond 64 bits is refused, and below 500", |ctx| {
        ctx.blob_of_1000_bytes()?;
        for length in ["99999999999999999999999999", "18446744073709551615", "18446744073709551616"] {
            announce(ctx, length)?.expect_refusal()?;
        }
        ctx.expect_alive()
    }),
    rule("length-malformed", SAFE, Safety, "a length that is no number is refused", |ctx| {
        ctx.blob_of_1000_bytes()?;
        for length in ["-1", "abc", "1.5", "0x10", "+5", "5, 6"] {
            announce(ctx, length)?.expect_refusal()?;
        }
        ctx.expect_alive()
    }),
    rule("length-twice", SAFE, Safety, "two lengths that differ are refused", |ctx| {
        ctx.blob_of_1000_bytes()?;
        let blob = ctx.blob(20);
        let request = put(ctx, &blob).header("Content-Length", "10").malformed();
        request.send()?.expect_refusal()?;
        ctx.expect_absent(&blob.sha256)?;
        ctx.expect_absent(&Blob::new(blob.bytes[..10].to_vec(), "").sha256)
    }),
    rule("length-too-long", SAFE, Safety, "a body shorter than its length stores nothing", |ctx| {
        let blob = begun(ctx, 100, |connection, blob| {
            connection.send_body(&blob.bytes);
            connection.finish_sending();
            // The answer, if there is one, is not a success.
            match connection.status() {
                Ok(status @ 200..300) => fail(format!("100 of 200 announced bytes were taken: {status}")),
                _ => Ok(()),
            }
        })?;
        ctx.expect_absent(&blob.sha256)
    }),
    rule("length-too-short", SAFE, Safety, "a body longer than its length stores nothing of it", |ctx| {
        ctx.blob_of_1000_bytes()?;
        let blob = ctx.blob(100);
        let request = put(ctx, &blob).without_body().header("Content-Length", "60");
        let mut connection = ctx.connect()?;
        connection.send_body(&request.bytes());
        connection.send_body(&blob.bytes);
        request.receive(&mut connection)?.expect_refusal()?;
        ctx.expect_absent(&blob.sha256)?;
        ctx.expect_absent(&Blob::new(blob.bytes[..60].to_vec(), "").sha256)
    }),
    rule("body-aborted", SAFE, Safety, "an upload that is broken off stores nothing", |ctx| {
        let blob = begun(ctx, 100, |connection, blob| {
            connection.send_body(&blob.bytes[..50]);
            Ok(())
        })?;
        ctx.expect_absent(&blob.sha256)?;
        ctx.expect_absent(&Blob::new(blob.bytes[..50].to_vec(), "").sha256)?;
        // It does not stand in the way of a second try.
        ctx.upload(&blob)?.expect(&[201])?;
        ctx.expect_served(&blob)
    }),
    rule("body-early", SAFE, Safety, "a blob is not served before it is complete", |ctx| {
        ctx.blob_of_1000_bytes()?;
        let blob = ctx.blob(1000);
        ctx.note(&blob.sha256, &ctx.key);
        let request = put(ctx, &blob);
        let mut connection = ctx.connect()?;
        connection.send_body(&request.head_bytes(&ctx.server));
        connection.send_body(&blob.bytes[..900]);
        std::thread::sleep(ctx.options.body_pause);
        ctx.expect_absent(&blob.sha256)?;
        connection.send_body(&blob.bytes[900..]);
        request.receive(&mut connection)?.expect(&[201])?;
        ctx.expect_served(&blob)
    }),
    rule("body-slow", PUT, Practice, "a slow upload succeeds", |ctx| {
        ctx.blob_of_1000_bytes()?;
        let blob = ctx.blob(1000);
        ctx.note(&blob.sha256, &ctx.key);
        let request = put(ctx, &blob);
        let mut connection = ctx.connect()?;
        connection.send_body(&request.head_bytes(&ctx.server));
        for piece in blob.bytes.chunks(125) {
            std::thread::sleep(ctx.options.body_pause);
            connection.send_body(piece);
        }
        request.receive(&mut connection)?.expect(&[201])?;
        ctx.expect_served(&blob)
    }),
    rule("chunks-truncated", SAFE, Safety, "a chunked body without its end stores nothing", |ctx| {
        chunked(ctx, |connection, blob| {
            connection.send_body(b"32\r\n");
            connection.send_body(&blob.bytes);
            connection.send_body(b"\r\n");
            connection.finish_sending();
        })
    }),
    rule("chunks-malformed", SAFE, Safety, "a chunk size that is no number stores nothing", |ctx| {
        chunked(ctx, |connection, blob| {
            connection.send_body(b"zz\r\n");
            connection.send_body(&blob.bytes);
            connection.send_body(b"\r\n0\r\n\r\n");
            connection.finish_sending();
        })
    }),
    rule(
        "length-and-chunks",
        "RFC 9112 6.1",
        Safety,
        "with both framings the length is not believed",
        |ctx| {
            ctx.blob_of_1000_bytes()?;
            // Taken for a body by its length, the framing would be part of the blob.
            let framed = format!("5\r\nhello\r\n0\r\n\r\n{}", crate::nostr::hex(&ctx.blob(8).bytes));
            let blob = Blob::new(framed.into_bytes(), "application/octet-stream");
            let request = put(ctx, &blob).header("Transfer-Encoding", "chunked").malformed();
            request.send()?.expect_refusal()?;
            ctx.expect_absent(&blob.sha256)
        },
    ),
];

/// An upload with a valid token.
pub(super) fn put<'a>(ctx: &'a Context, blob: &Blob) -> Request<'a> {
    ctx.put("/upload").token(&Token::new("upload").x(&blob.sha256), &ctx.key).blob(blob)
}

/// Uploads a blob under the name of another; gives both.
fn mismatch(ctx: &Context) -> Result<(crate::http::Response, Blob, Blob), TestError> {
    ctx.blob_of_1000_bytes()?;
    let (announced, sent) = (ctx.blob(30), ctx.blob(30));
    let response = put(ctx, &announced).body(&sent.bytes).send()?;
    Ok((response, announced, sent))
}

/// Announces a length, and sends no body.
fn announce(ctx: &Context, length: &str) -> Result<crate::http::Response, TestError> {
    let request = put(ctx, &ctx.blob(10)).without_body().header("Content-Length", length).malformed();
    match request.send() {
        Err(TestError::Fail(text)) => {
            Err(TestError::Fail(format!("{text}; it is refused only when it has been sent")))
        }
        other => other,
    }
}

/// Announces 200 bytes, sends some with `act`, drops the connection and waits.
fn begun(
    ctx: &Context,
    length: usize,
    act: impl FnOnce(&mut crate::http::Connection, &Blob) -> Check,
) -> Result<Blob, TestError> {
    ctx.blob_of_1000_bytes()?;
    let blob = ctx.blob(length);
    ctx.note(&blob.sha256, &ctx.key);
    let request = put(ctx, &blob).without_body().header("Content-Length", "200");
    let mut connection = ctx.connect()?;
    connection.send_body(&request.head_bytes(&ctx.server));
    act(&mut connection, &blob)?;
    drop(connection);
    std::thread::sleep(ctx.options.body_pause.min(Duration::from_millis(200)));
    Ok(blob)
}

fn chunked(ctx: &Context, act: impl FnOnce(&mut crate::http::Connection, &Blob)) -> Check {
    ctx.blob_of_1000_bytes()?;
    let blob = ctx.blob(50);
    let request = put(ctx, &blob).without_body().header("Transfer-Encoding", "chunked");
    let mut connection = ctx.connect()?;
    connection.send_body(&request.bytes());
    act(&mut connection, &blob);
    if let Ok(status @ 200..300) = connection.status() {
        return fail(format!("{} -> {status}; the body was not complete", request.summary()));
    }
    ctx.expect_absent(&blob.sha256)
}
