//! BUD-13 (a draft): `PUT /<sha256>`.

use crate::blob::Blob;
use crate::context::Context;
use crate::nostr::Token;
use crate::request::Request;
use crate::suite::Strength::{Http, Must, Safety, Should};
use crate::suite::{Check, Rule, rule, skip};

use super::integrity::ABSURD;

const PUT: &str = "BUD-13 PUT /sha256";
const STATUS: &str = "BUD-13 PUT /sha256 status codes";

pub(super) const RULES: &[Rule] = &[
    rule("put-new", PUT, Must, "a new blob is 201, with its descriptor, and served", |ctx| {
        offered(ctx)?;
        let blob = ctx.blob(100);
        let response = put(ctx, &blob).send()?;
        super::upload::descriptor(response.expect(&[201])?, &blob)?;
        ctx.expect_served(&blob)
    }),
    rule("put-again", PUT, Must, "a blob that exists is 200, with its descriptor", |ctx| {
        offered(ctx)?;
        let blob = ctx.blob_of_1000_bytes()?;
        let response = put(ctx, &blob).send()?;
        super::upload::descriptor(response.expect(&[200])?, &blob).map(|_| ())
    }),
    rule("put-type", PUT, Must, "the type of the request is the blob's", |ctx| {
        offered(ctx)?;
        let picture = crate::blob::png(&ctx.blob(30).bytes);
        put(ctx, &picture).send()?.expect(&[201])?;
        let response = ctx.download(&picture.sha256)?;
        response.expect(&[200])?;
        response.ensure(response.mime() == "image/png", &format!("got {:?}", response.mime()))
    }),
    rule("put-mismatch", PUT, Must, "a body of another hash is 409", |ctx| {
        offered(ctx)?;
        put(ctx, &ctx.blob(30)).body(&ctx.blob(30).bytes).send()?.expect(&[409]).map(|_| ())
    }),
    rule("put-mismatch-stores", PUT, Must, "a body of another hash is not stored", |ctx| {
        offered(ctx)?;
        let (named, sent) = (ctx.blob(30), ctx.blob(30));
        put(ctx, &named).body(&sent.bytes).send()?.expect_refusal()?;
        ctx.expect_absent(&named.sha256)?;
        ctx.expect_absent(&sent.sha256)
    }),
    rule("put-path-malformed", PUT, Must, "the path is a lowercase hash of 64 digits", |ctx| {
        offered(ctx)?;
        let blob = ctx.blob(30);
        let upper = format!("/{}", blob.sha256.to_uppercase());
        for path in [upper, "/abc".to_owned(), format!("/{}", "g".repeat(64)), format!("{}0", blob.path())] {
            let token = Token::new("upload").x(&blob.sha256);
            ctx.put(&path).token(&token, &ctx.key).body(&blob.bytes).send()?.expect_refusal()?;
        }
        ctx.expect_absent(&blob.sha256)
    }),
    rule("put-length-missing", STATUS, Should, "a chunked body is 411, or stored exactly", |ctx| {
        offered(ctx)?;
        let blob = ctx.blob(50);
        let request = put(ctx, &blob).without_body().header("Transfer-Encoding", "chunked");
        let mut connection = ctx.connect()?;
        connection.send_body(&request.bytes());
        connection.send_body(b"32\r\n");
        connection.send_body(&blob.bytes);
        connection.send_body(b"\r\n0\r\n\r\n");
        let response = request.receive(&mut connection)?;
        response.expect(&[200, 201, 411])?;
        if response.status == 411 { ctx.expect_absent(&blob.sha256) } else { ctx.expect_served(&blob) }
    }),
    rule("put-length-absurd", STATUS, Should, "2^50 bytes are refused before they are sent", |ctx| {
        offered(ctx)?;
        let request = put(ctx, &ctx.blob(10)).without_body().header("Content-Length", &ABSURD.to_string());
        request.send()?.expect(&[402, 403, 413, 507]).map(|_| ())
    }),
    rule("put-token-x", "BUD-11 Validation 6", Must, "the x is that of the path", |ctx| {
        offered(ctx)?;
        if ctx.uploads_are_open()? {
            return skip("uploads need no token here");
        }
        let blob = ctx.blob(30);
        for token in [Token::new("upload"), Token::new("upload").x(&ctx.blob(1).sha256)] {
            let request = ctx.put(&blob.path()).token(&token, &ctx.key).body(&blob.bytes);
            request.send()?.expect_refusal()?;
        }
        ctx.expect_absent(&blob.sha256)
    }),
    rule("put-token-t", "BUD-11 Validation 4", Must, "the verb is upload", |ctx| {
        offered(ctx)?;
        if ctx.uploads_are_open()? {
            return skip("uploads need no token here");
        }
        let blob = ctx.blob(30);
        let token = Token::new("delete").x(&blob.sha256);
        ctx.put(&blob.path()).token(&token, &ctx.key).body(&blob.bytes).send()?.expect_refusal()?;
        ctx.expect_absent(&blob.sha256)
    }),
    rule("put-short", PUT, Safety, "a body that ends early stores nothing", |ctx| {
        offered(ctx)?;
        let blob = ctx.blob(100);
        let request = put(ctx, &blob).without_body().header("Content-Length", "100");
        let mut connection = ctx.connect()?;
        connection.send_body(&request.bytes());
        connection.send_body(&blob.bytes[..60]);
        drop(connection);
        std::thread::sleep(ctx.options.body_pause);
        ctx.expect_absent(&blob.sha256)?;
        put(ctx, &blob).send()?.expect(&[201])?;
        ctx.expect_served(&blob)
    }),
    rule("put-expect", "RFC 9110 10.1.1", Http, "Expect: 100-continue is answered before the body", |ctx| {
        offered(ctx)?;
        super::wire::continues(ctx, &put(ctx, &ctx.blob(50)))
    }),
];

/// Skips unless the server takes uploads by path.
pub(super) fn offered(ctx: &Context) -> Check {
    ctx.blob_of_1000_bytes()?;
    ctx.offered("PUT /<sha256>", || put(ctx, &ctx.blob(30)).send())
}

fn put<'a>(ctx: &'a Context, blob: &Blob) -> Request<'a> {
    ctx.note(&blob.sha256, &ctx.key);
    let request = ctx.put(&blob.path()).token(&Token::new("upload").x(&blob.sha256), &ctx.key);
    request.header("Content-Type", &blob.mime).body(&blob.bytes)
}
