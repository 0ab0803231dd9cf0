//! BUD-04: `PUT /mirror`, and SSRF protection: the server's own network is not reached.

use std::net::TcpListener;

use serde_json::json;

use crate::blob::Blob;
use crate::context::Context;
use crate::http::{Endpoint, Response};
use crate::nostr::Token;
use crate::origin::{Origin, Reply};
use crate::suite::Strength::{Must, Practice, Safety, Should};
use crate::suite::{Check, Rule, TestError, ensure, fail, rule, skip};

use super::integrity::ABSURD;

const MIRROR: &str = "BUD-04 PUT /mirror";
const STATUS: &str = "BUD-04 status codes";
const SAFE: &str = "BUD-04 integrity";
const SSRF: &str = "BUD-04 SSRF";

/// Most requests that a server may send for one mirror request: the first, three redirects, and as many HEADs.
const REQUESTS_MAX: usize = 8;

pub(super) const RULES: &[Rule] = &[
    rule("mirror-new", MIRROR, Must, "a new blob is 201, with its descriptor, and served", |ctx| {
        let blob = ctx.blob(300);
        let response = mirror(ctx, &blob, &source(ctx, &blob)?)?;
        super::upload::descriptor(response.expect(&[201])?, &blob)?;
        ctx.expect_served(&blob)
    }),
    rule("mirror-again", MIRROR, Must, "a blob that exists is 200, with its descriptor", |ctx| {
        let blob = ctx.blob(300);
        let url = source(ctx, &blob)?;
        mirror(ctx, &blob, &url)?.expect(&[201])?;
        let response = mirror(ctx, &blob, &url)?;
        super::upload::descriptor(response.expect(&[200])?, &blob).map(|_| ())
    }),
    rule("mirror-type", MIRROR, Should, "the type is that of the origin", |ctx| {
        let blob = crate::blob::png(&ctx.blob(30).bytes);
        mirror(ctx, &blob, &source(ctx, &blob)?)?.expect(&[201])?;
        let response = ctx.download(&blob.sha256)?;
        response.expect(&[200])?;
        response.ensure(response.mime() == "image/png", &format!("got {:?}", response.mime()))
    }),
    rule(
        "mirror-untyped",
        MIRROR,
        Should,
        "a type that the origin does not give is found, or unknown",
        |ctx| {
            let blob = ctx.blob(300);
            let url = local(ctx, &blob.path(), Reply::Blob(Vec::new(), blob.bytes.clone()))?;
            mirror(ctx, &blob, &url)?.expect(&[201])?;
            let response = ctx.download(&blob.sha256)?;
            response.expect(&[200])?;
            let right = response.mime() == "application/octet-stream";
            response.ensure(right, &format!("got {:?}", response.mime()))
        },
    ),
    rule("mirror-any-path", MIRROR, Practice, "the url need not contain the hash", |ctx| {
        let blob = ctx.blob(300);
        let url = local(ctx, "/picture", Reply::Blob(Vec::new(), blob.bytes.clone()))?;
        mirror(ctx, &blob, &url)?.expect(&[201])?;
        ctx.expect_served(&blob)
    }),
    rule("mirror-no-length", MIRROR, Practice, "an origin may send no length", |ctx| {
        let blob = ctx.blob(300);
        let url = local(ctx, &blob.path(), Reply::CloseDelimited(blob.bytes.clone()))?;
        mirror(ctx, &blob, &url)?.expect(&[201])?;
        ctx.expect_served(&blob)
    }),
    rule("mirror-mismatch", STATUS, Should, "409 if the blob is not the x of the token", |ctx| {
        let (wanted, sent) = (ctx.blob(300), ctx.blob(300));
        let url = local(ctx, &wanted.path(), Reply::Blob(Vec::new(), sent.bytes.clone()))?;
        mirror(ctx, &wanted, &url)?.expect(&[409]).map(|_| ())
    }),
    rule("mirror-mismatch-stores", SAFE, Safety, "a blob that is not the x is not stored", |ctx| {
        let (wanted, sent) = (ctx.blob(300), ctx.blob(300));
        let url = local(ctx, &wanted.path(), Reply::Blob(Vec::new(), sent.bytes.clone()))?;
        mirror(ctx, &wanted, &url)?.expect(&[400, 401, 403, 409, 502])?;
        ctx.expect_absent(&wanted.sha256)?;
        ctx.expect_absent(&sent.sha256)
    }),
    rule("mirror-origin-error", STATUS, Should, "502 if the origin does not have it", |ctx| {
        for status in [404, 500] {
            let blob = ctx.blob(300);
            let url = local(ctx, &blob.path(), Reply::Status(status))?;
            mirror(ctx, &blob, &url)?.expect(&[502])?;
        }
        Ok(())
    }),
    rule("mirror-origin-dead", STATUS, Should, "502 if the origin does not answer", |ctx| {
        let blob = ctx.blob(300);
        offered(ctx)?;
        if !ctx.options.private_allowed {
            return skip("needs a private address: --private-allowed");
        }
        // A port on which nothing listens any more.
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        mirror(ctx, &blob, &format!("http://127.0.0.1:{port}{}", blob.path()))?.expect(&[502]).map(|_| ())
    }),
    rule("mirror-cut", SAFE, Safety, "what an origin breaks off is not stored", |ctx| {
        let blob = ctx.blob(300);
        let url = local(ctx, &blob.path(), Reply::Cut(blob.bytes.clone()))?;
        let response = mirror(ctx, &blob, &url)?;
        response.ensure(response.status >= 400, "the origin announced 100 bytes more")?;
        ctx.expect_absent(&blob.sha256)
    }),
    rule("mirror-huge", SAFE, Safety, "an origin that announces 2^50 bytes is refused", |ctx| {
        let blob = ctx.blob(300);
        let url = local(ctx, &blob.path(), Reply::Announce(ABSURD))?;
        mirror(ctx, &blob, &url)?.expect(&[402, 403, 413, 502, 507]).map(|_| ())
    }),
    rule("mirror-redirect", MIRROR, Practice, "a redirect of the origin is followed", |ctx| {
        let blob = ctx.blob(300);
        let target = local(ctx, &blob.path(), Reply::Blob(Vec::new(), blob.bytes.clone()))?;
        let url = local(ctx, &format!("{}/from", blob.path()), Reply::To(target))?;
        mirror(ctx, &blob, &url)?.expect(&[201])?;
        ctx.expect_served(&blob)
    }),
    rule("mirror-redirect-loop", SAFE, Safety, "redirects without end are given up soon", |ctx| {
        let blob = ctx.blob(300);
        let url = local(ctx, &blob.path(), Reply::Status(404))?;
        local(ctx, &blob.path(), Reply::To(url.clone()))?;
        let before = ctx.origin.connections();
        let response = mirror(ctx, &blob, &url)?;
        response.ensure(response.status >= 400, "there is no blob")?;
        let count = ctx.origin.connections() - before;
        response.ensure(count <= REQUESTS_MAX, &format!("the origin was asked {count} times"))
    }),
    rule("mirror-redirect-scheme", SSRF, Safety, "a redirect to another scheme is not followed", |ctx| {
        every_scheme(ctx, |blob, target| {
            let url = local(ctx, &ctx.blob(1).path(), Reply::To(target.to_owned()))?;
            let response = mirror(ctx, blob, &url)?;
            response.ensure((400..600).contains(&response.status), &format!("a redirect to {target}"))
        })
    }),
    rule("mirror-x", "BUD-11 Endpoint requirements", Must, "PUT /mirror needs a matching x", |ctx| {
        offered(ctx)?;
        if ctx.uploads_are_open()? {
            return skip("uploads need no token here");
        }
        let blob = ctx.blob(300);
        let url = source(ctx, &blob)?;
        for token in [Token::new("upload"), Token::new("upload").x(&ctx.blob(1).sha256)] {
            ctx.put("/mirror").token(&token, &ctx.key).json(&json!({"url": url})).send()?.expect_refusal()?;
        }
        ctx.expect_absent(&blob.sha256)
    }),
    rule("mirror-token-missing", STATUS, Should, "401 without a token, if uploads need one", |ctx| {
        offered(ctx)?;
        if ctx.uploads_are_open()? {
            return skip("uploads need no token here");
        }
        let url = format!("https://blossom.invalid/{}", "0".repeat(64));
        ctx.put("/mirror").json(&json!({"url": url})).send()?.expect(&[401]).map(|_| ())
    }),
    rule("mirror-body-malformed", STATUS, Should, "400 if the body is no JSON with a url", |ctx| {
        offered(ctx)?;
        for body in ["", "x", "[]", "{}", "null", "{\"url\":1}", "{\"url\":null}", "{\"url\":\"\"}"] {
            let token = Token::new("upload").x(&ctx.blob(1).sha256);
            let request = ctx.put("/mirror").token(&token, &ctx.key);
            request
                .header("Content-Type", "application/json")
                .body(body.as_bytes())
                .send()?
                .expect(&[400])?;
        }
        Ok(())
    }),
    rule("mirror-url-malformed", STATUS, Should, "400 if the url is none", |ctx| {
        offered(ctx)?;
        for url in ["not a url", "http://", "https://", "//host/x", "https://[::1", "/x"] {
            mirror(ctx, &ctx.blob(1), url)?.expect(&[400])?;
        }
        Ok(())
    }),
    rule("mirror-scheme", SSRF, Safety, "only http and https are fetched", |ctx| {
        offered(ctx)?;
        every_scheme(ctx, |blob, url| {
            let response = mirror(ctx, blob, url)?;
            response.expect_refusal()?;
            Ok(())
        })
    }),
    rule("mirror-huge-body", SAFE, Safety, "a body of 2 MB is refused", |ctx| {
        offered(ctx)?;
        let url = format!("https://blossom.invalid/{}", "x".repeat(2 << 20));
        mirror(ctx, &ctx.blob(1), &url)?.expect_refusal()?;
        ctx.expect_alive()
    }),
    rule("ssrf-literal", SSRF, Safety, "127.0.0.1 is not reached", |ctx| {
        refuses_private(ctx, &["127.0.0.1"])
    }),
    rule("ssrf-callback", SSRF, Safety, "the private address of the callback is not reached", |ctx| {
        protects_network(ctx)?;
        if !ctx.origin.is_private() {
            return skip("the callback is a public address");
        }
        if ctx.origin.is_loopback() && !ctx.server.is_loopback() {
            return skip(
                "the server is on another machine: --callback with a private address that it reaches",
            );
        }
        not_reached(ctx, &ctx.origin, ctx.origin.host())
    }),
    rule("ssrf-name", SSRF, Safety, "localhost is not reached", |ctx| {
        refuses_private(ctx, &["localhost", "LOCALHOST", "localhost.", "a.localhost"])
    }),
    rule("ssrf-forms", SSRF, Safety, "other ways to write 127.0.0.1 do not reach it", |ctx| {
        refuses_private(
            ctx,
            &["127.1", "2130706433", "0x7f000001", "0177.0.0.1", "127.000.000.001", "0", "0.0.0.0"],
        )
    }),
    rule("ssrf-v6", SSRF, Safety, "IPv6 forms do not reach it", |ctx| {
        refuses_private(ctx, &["[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::]", "[0:0:0:0:0:0:0:1]"])
    }),
    rule("ssrf-userinfo", SSRF, Safety, "a name before @ does not hide the address", |ctx| {
        refuses_private(
            ctx,
            &["example.com@127.0.0.1", "example.com:80@127.0.0.1", "example.com%2f@127.0.0.1"],
        )
    }),
];

/// Skips unless the server mirrors.
pub(super) fn offered(ctx: &Context) -> Check {
    ctx.blob_of_1000_bytes()?;
    ctx.offered("PUT /mirror", || mirror(ctx, &ctx.blob(1), "not a url"))
}

fn mirror(ctx: &Context, blob: &Blob, url: &str) -> Result<Response, TestError> {
    ctx.note(&blob.sha256, &ctx.key);
    let token = Token::new("upload").x(&blob.sha256);
    ctx.put("/mirror").token(&token, &ctx.key).json(&json!({"url": url})).send()
}

/// The URL at which the callback listener gives this reply, if the server can reach it.
fn local(ctx: &Context, path: &str, reply: Reply) -> Result<String, TestError> {
    offered(ctx)?;
    if ctx.origin.is_private() && !ctx.options.private_allowed {
        return skip("the callback is a private address: --callback with a public one, or --private-allowed");
    }
    if ctx.origin.is_loopback() && !ctx.server.is_loopback() {
        return skip("the server is on another machine, and cannot reach the callback");
    }
    Ok(ctx.origin.serve(path, reply))
}

/// The URL of an origin that has the blob.
fn source(ctx: &Context, blob: &Blob) -> Result<String, TestError> {
    let Some(url) = &ctx.options.mirror_origin else {
        let headers = vec![("Content-Type".to_owned(), blob.mime.clone())];
        return local(ctx, &blob.path(), Reply::Blob(headers, blob.bytes.clone()));
    };
    offered(ctx)?;
    let server = Endpoint::new(url, ctx.options.timeout)?;
    let token = Token::new("upload").x(&blob.sha256);
    let response = ctx.put("/upload").token(&token, &ctx.key).blob(blob).send_to(&server)?;
    if !response.is_success() {
        return skip(format!("{url}: {}", response.summary()));
    }
    Ok(server.url(&blob.path()))
}

/// Tries URLs that are not http: a file of this machine, whose hash is in the token, among others.
fn every_scheme(ctx: &Context, check: impl Fn(&Blob, &str) -> Check) -> Check {
    offered(ctx)?;
    let blob = ctx.blob(300);
    let path = std::env::temp_dir().join(format!("conformance-{}", blob.sha256));
    std::fs::write(&path, &blob.bytes)?;
    let result = check(&blob, &format!("file://{}", path.display()));
    std::fs::remove_file(&path)?;
    result?;
    check(&Blob::new(b"x".to_vec(), "text/plain"), "data:,x")?;
    check(&ctx.blob(1), "ftp://127.0.0.1/x")?;
    check(&ctx.blob(1), "gopher://127.0.0.1:1/x")
}

/// No host of these leads to the listener on loopback, neither over http nor over https.
fn refuses_private(ctx: &Context, hosts: &[&str]) -> Check {
    protects_network(ctx)?;
    if !ctx.server.is_loopback() {
        return skip("the server is on another machine, whose loopback is not watched");
    }
    hosts.iter().try_for_each(|host| not_reached(ctx, &ctx.loopback, host))
}

/// Skips unless the server mirrors and protects its own network.
fn protects_network(ctx: &Context) -> Check {
    offered(ctx)?;
    if ctx.options.private_allowed {
        return skip("the server is set up to fetch from private addresses");
    }
    Ok(())
}

fn not_reached(ctx: &Context, listener: &Origin, host: &str) -> Check {
    let blob = ctx.blob(300);
    listener.serve(&blob.path(), Reply::Blob(Vec::new(), blob.bytes.clone()));
    for scheme in ["http", "https"] {
        let before = listener.connections();
        let url = format!("{scheme}://{host}:{}{}", listener.port, blob.path());
        let response = mirror(ctx, &blob, &url)?;
        if response.is_success() {
            return fail(format!("{} for {url}", response.summary()));
        }
        let count = listener.connections() - before;
        ensure(count == 0, || format!("{url}: the listener saw {count} connections"))?;
    }
    ctx.expect_absent(&blob.sha256)
}
