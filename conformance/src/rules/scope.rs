//! BUD-11: what `server` and `x` tags limit a token to.

use crate::blob::png;
use crate::context::Context;
use crate::nostr::Token;
use crate::request::Request;
use crate::suite::Strength::{Must, Practice, Safety};
use crate::suite::{Check, Rule, fail, rule, skip};

use super::tokens::deletable;

const SERVER: &str = "BUD-11 Validation 5";
const X: &str = "BUD-11 Validation 6";
const ENDPOINTS: &str = "BUD-11 Endpoint requirements";

pub(super) const RULES: &[Rule] = &[
    rule("server-same", SERVER, Must, "a server tag with the domain is taken", |ctx| {
        taken(ctx, &[&host(ctx)])
    }),
    rule("server-other", SERVER, Must, "a token for another server is refused", |ctx| {
        refused(ctx, &["other.example"])
    }),
    rule("server-several", SERVER, Must, "the domain may be one of several", |ctx| {
        taken(ctx, &["other.example", &host(ctx), "third.example"])
    }),
    rule(
        "server-several-others",
        SERVER,
        Must,
        "several servers, none of them this one, are refused",
        |ctx| refused(ctx, &["other.example", "third.example"]),
    ),
    rule("server-url", SERVER, Practice, "a URL is taken for its domain", |ctx| {
        taken(ctx, &[&ctx.server.url("")])?;
        taken(ctx, &[&ctx.server.url("/")])
    }),
    rule("server-port", SERVER, Practice, "host:port is taken for its domain", |ctx| {
        taken(ctx, &[&ctx.server.authority])
    }),
    rule("server-case", SERVER, Practice, "the domain counts in any case", |ctx| {
        taken(ctx, &[&host(ctx).to_uppercase()])
    }),
    rule("server-lookalike", SERVER, Safety, "a domain that only contains ours is refused", |ctx| {
        let host = host(ctx);
        for other in [
            format!("{host}.evil.example"),
            format!("evil-{host}"),
            format!("https://evil.example/{host}"),
            format!("https://{host}@evil.example"),
            format!("https://evil.example?{host}"),
            host[1..].to_owned(),
            String::new(),
        ] {
            refused(ctx, &[&other])?;
        }
        Ok(())
    }),
    rule("x-delete-missing", ENDPOINTS, Must, "DELETE needs an x", |ctx| {
        let blob = deletable(ctx)?;
        let request = ctx.request("DELETE", &blob.path()).token(&Token::new("delete"), &ctx.key);
        request.send()?.expect_refusal()?;
        ctx.expect_served(&blob)
    }),
    rule("x-delete-other", X, Must, "DELETE with the x of another blob is refused", |ctx| {
        let blob = deletable(ctx)?;
        let token = Token::new("delete").x(&ctx.blob(10).sha256);
        ctx.request("DELETE", &blob.path()).token(&token, &ctx.key).send()?.expect_refusal()?;
        ctx.expect_served(&blob)
    }),
    rule("x-delete-second-value", X, Safety, "only the value of an x counts, not what follows it", |ctx| {
        let blob = deletable(ctx)?;
        let mut token = Token::new("delete");
        token.tags.push(vec!["x".to_owned(), "0".repeat(64), blob.sha256.clone()]);
        token.tags.push(vec!["X".to_owned(), blob.sha256.clone()]);
        ctx.request("DELETE", &blob.path()).token(&token, &ctx.key).send()?.expect_refusal()?;
        ctx.expect_served(&blob)
    }),
    rule("x-upload-missing", ENDPOINTS, Must, "PUT /upload needs an x", |ctx| {
        let blob = ctx.blob(30);
        upload_refused(ctx, &Token::new("upload"), &blob)
    }),
    rule("x-upload-other", X, Must, "PUT /upload with the x of another blob is refused", |ctx| {
        let token = Token::new("upload").x(&ctx.blob(10).sha256);
        upload_refused(ctx, &token, &ctx.blob(30))
    }),
    rule("x-upload-unannounced", X, Must, "without X-SHA-256 the x is compared with the body", |ctx| {
        needs_token(ctx)?;
        let blob = ctx.blob(30);
        let token = Token::new("upload").x(&ctx.blob(10).sha256);
        let request = ctx.put("/upload").token(&token, &ctx.key).blob(&blob).without("X-SHA-256");
        request.send()?.expect_refusal()?;
        ctx.expect_absent(&blob.sha256)
    }),
    rule("x-upload-lying", X, Safety, "a token for one blob does not upload another", |ctx| {
        ctx.blob_of_1000_bytes()?;
        let (granted, sent) = (ctx.blob(30), ctx.blob(30));
        let request = ctx.put("/upload").token(&Token::new("upload").x(&granted.sha256), &ctx.key);
        request.blob(&granted).body(&sent.bytes).send()?.expect_refusal()?;
        ctx.expect_absent(&sent.sha256)
    }),
    rule("x-upload-several", X, Must, "one x of several is enough for an upload", |ctx| {
        ctx.blob_of_1000_bytes()?;
        let blob = ctx.blob(30);
        ctx.note(&blob.sha256, &ctx.key);
        let token = Token::new("upload").x(&ctx.blob(10).sha256).x(&blob.sha256);
        let request = ctx.put("/upload").token(&token, &ctx.key).blob(&blob);
        request.send()?.expect(&[201]).map(|_| ())
    }),
    rule(
        "x-upload-several-unannounced",
        X,
        Must,
        "one x of several is enough without X-SHA-256 too",
        |ctx| {
            ctx.blob_of_1000_bytes()?;
            let blob = ctx.blob(30);
            ctx.note(&blob.sha256, &ctx.key);
            let token = Token::new("upload").x(&ctx.blob(10).sha256).x(&blob.sha256);
            let request = ctx.put("/upload").token(&token, &ctx.key).blob(&blob).without("X-SHA-256");
            request.send()?.expect(&[201])?;
            ctx.expect_served(&blob)
        },
    ),
    rule("x-media", ENDPOINTS, Must, "PUT /media needs a matching x", |ctx| {
        super::media::offered(ctx)?;
        needs_token(ctx)?;
        let picture = png(&ctx.blob(30).bytes);
        for token in [Token::new("media"), Token::new("media").x(&ctx.blob(10).sha256)] {
            ctx.put("/media").token(&token, &ctx.key).blob(&picture).send()?.expect_refusal()?;
        }
        Ok(())
    }),
    rule("x-get", ENDPOINTS, Must, "a get token needs no x, but one of another blob is refused", |ctx| {
        if !ctx.reads_need_token()? {
            return skip("blobs are served without a token");
        }
        let blob = ctx.blob_of_1000_bytes()?;
        let send = |token: &Token| ctx.get(&blob.path()).token(token, &ctx.key).send();
        send(&Token::new("get"))?.expect(&[200, 307, 308])?;
        send(&Token::new("get").x(&blob.sha256))?.expect(&[200, 307, 308])?;
        send(&Token::new("get").x(&ctx.blob(10).sha256))?.expect_refusal().map(|_| ())
    }),
    rule("x-list", ENDPOINTS, Practice, "a list token may have an x", |ctx| {
        super::list::offered(ctx)?;
        let token = Token::new("list").x(&ctx.blob(10).sha256);
        let path = format!("/list/{}", ctx.key.pubkey);
        ctx.get(&path).token(&token, &ctx.key).send()?.expect(&[200]).map(|_| ())
    }),
];

fn host(ctx: &Context) -> String {
    ctx.server.host.to_lowercase()
}

fn scoped<'a>(ctx: &'a Context, sha256: &str, servers: &[&str]) -> Request<'a> {
    let mut token = Token::new("delete").x(sha256);
    for server in servers {
        token = token.tag("server", server);
    }
    ctx.request("DELETE", &format!("/{sha256}")).token(&token, &ctx.key)
}

fn taken(ctx: &Context, servers: &[&str]) -> Check {
    let blob = deletable(ctx)?;
    scoped(ctx, &blob.sha256, servers).send()?.expect(&[200, 204]).map(|_| ())
}

fn refused(ctx: &Context, servers: &[&str]) -> Check {
    let blob = deletable(ctx)?;
    scoped(ctx, &blob.sha256, servers).send()?.expect_refusal()?;
    ctx.expect_served(&blob)
}

fn needs_token(ctx: &Context) -> Check {
    ctx.blob_of_1000_bytes()?;
    if ctx.uploads_are_open()? { skip("uploads need no token here") } else { Ok(()) }
}

fn upload_refused(ctx: &Context, token: &Token, blob: &crate::blob::Blob) -> Check {
    needs_token(ctx)?;
    let response = ctx.put("/upload").token(token, &ctx.key).blob(blob).send()?;
    if response.is_success() {
        return fail(format!("{}; the token does not name this blob", response.summary()));
    }
    ctx.expect_absent(&blob.sha256)
}
