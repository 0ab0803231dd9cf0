//! BUD-01: cross-origin headers, preflight requests, and reasons of errors.

use crate::context::{Context, lock};
use crate::http::Response;
use crate::suite::Strength::{Must, Practice};
use crate::suite::{Check, Rule, TestError, fail, rule};

const SECTION: &str = "BUD-01 Cross origin headers";
const ERRORS: &str = "BUD-01 Error responses";

pub(super) const RULES: &[Rule] = &[
    rule("cors-get", SECTION, Must, "GET of a blob allows any origin", |ctx| {
        let blob = ctx.blob_of_1000_bytes()?;
        allows_origin(&ctx.read(&blob)?.send()?)
    }),
    rule("cors-head", SECTION, Must, "HEAD of a blob allows any origin", |ctx| {
        let blob = ctx.blob_of_1000_bytes()?;
        allows_origin(&ctx.read_path("HEAD", &blob.path(), &blob.sha256)?.send()?)
    }),
    rule("cors-partial", SECTION, Must, "206 allows any origin", |ctx| {
        let blob = ctx.blob_of_1000_bytes()?;
        allows_origin(&ctx.read(&blob)?.header("Range", "bytes=0-9").send()?)
    }),
    rule("cors-unsatisfiable", SECTION, Must, "416 allows any origin", |ctx| {
        let blob = ctx.blob_of_1000_bytes()?;
        allows_origin(&ctx.read(&blob)?.header("Range", "bytes=5000-").send()?)
    }),
    rule("cors-not-found", SECTION, Must, "404 of a blob allows any origin", |ctx| {
        allows_origin(&ctx.get(&ctx.blob(10).path()).send()?)
    }),
    rule("cors-unknown-path", SECTION, Must, "404 of any path allows any origin", |ctx| {
        allows_origin(&ctx.get("/no/such/path").send()?)
    }),
    rule("cors-unauthorized", SECTION, Must, "401 allows any origin", |ctx| {
        allows_origin(&ctx.request("DELETE", &ctx.blob(10).path()).send()?)
    }),
    rule("cors-method", SECTION, Must, "a method that is not allowed is answered for any origin", |ctx| {
        allows_origin(&ctx.request("POST", "/upload").body(b"x").send()?)
    }),
    rule("cors-upload", SECTION, Must, "the response to an upload allows any origin", |ctx| {
        allows_origin(&ctx.upload(&ctx.blob(10))?)
    }),
    rule("cors-too-large", SECTION, Practice, "414 and 431 allow any origin too", |ctx| {
        let response = ctx.get(&format!("/{}", "a".repeat(100_000))).send()?;
        if !matches!(response.status, 414 | 431) {
            return Err(TestError::Skip(format!("{}: neither 414 nor 431", response.summary())));
        }
        allows_origin(&response)
    }),
    rule("options-origin", SECTION, Must, "a preflight request is allowed for any origin", |ctx| {
        every_preflight(ctx, allows_origin)
    }),
    rule("options-headers", SECTION, Must, "a preflight allows the headers Authorization and *", |ctx| {
        every_preflight(ctx, |response| {
            let lists = |name| response.lists("access-control-allow-headers", name);
            response.ensure(
                lists("Authorization") && lists("*"),
                "Access-Control-Allow-Headers must list Authorization and *",
            )
        })
    }),
    rule("options-methods", SECTION, Must, "a preflight allows GET, HEAD, PUT and DELETE", |ctx| {
        every_preflight(ctx, |response| {
            let lists = |name: &&str| response.lists("access-control-allow-methods", name);
            response.ensure(
                ["GET", "HEAD", "PUT", "DELETE"].iter().all(lists),
                "Access-Control-Allow-Methods must list GET, HEAD, PUT and DELETE",
            )
        })
    }),
    rule("options-status", SECTION, Practice, "a preflight is answered with 2xx, without a token", |ctx| {
        every_preflight(ctx, |response| {
            response.ensure(response.is_success(), "browsers send the request only after 2xx")
        })
    }),
    rule("options-max-age", SECTION, Practice, "browsers may remember a preflight", |ctx| {
        every_preflight(ctx, |response| {
            let seconds = response.header("access-control-max-age").and_then(|text| text.parse::<u64>().ok());
            response.ensure(
                seconds.is_some_and(|seconds| seconds >= 600),
                "Access-Control-Max-Age (86400 in BUD-01) saves a request before every upload",
            )
        })
    }),
    rule("expose-headers", SECTION, Practice, "scripts may read X-Reason", |ctx| {
        let response = ctx.get(&ctx.blob(10).path()).send()?;
        let exposed = |name| response.lists("access-control-expose-headers", name);
        response.ensure(exposed("*") || exposed("X-Reason"), "Access-Control-Expose-Headers lacks it")
    }),
    rule("reason-not-found", ERRORS, Practice, "404 says why in X-Reason", |ctx| {
        has_reason(&ctx.get(&ctx.blob(10).path()).send()?)
    }),
    rule("reason-unauthorized", ERRORS, Practice, "401 says why in X-Reason", |ctx| {
        has_reason(&ctx.request("DELETE", &ctx.blob(10).path()).send()?)
    }),
    rule("reason-head", ERRORS, Practice, "HEAD, which has no body, says why in X-Reason", |ctx| {
        has_reason(&ctx.head(&ctx.blob(10).path()).send()?)
    }),
    rule("root-head", "BUD-01 Endpoints", Practice, "HEAD / is answered with 2xx: clients probe it", |ctx| {
        let response = ctx.head("/").send()?;
        response.ensure(response.is_success(), "expected 2xx")
    }),
];

pub(super) const LAST: &[Rule] =
    &[rule("cors-everywhere", SECTION, Must, "every response of this run allows any origin", |ctx| {
        // Alone it would have nothing to judge.
        for (method, path) in [("GET", "/"), ("GET", "/list/x"), ("PUT", "/mirror"), ("PUT", "/report")] {
            ctx.request(method, path).send()?;
        }
        let seen = lock(&ctx.without_cors);
        if seen.is_empty() {
            return Ok(());
        }
        // One of each status.
        let mut shown: Vec<&String> = Vec::new();
        for text in seen.iter() {
            let status = text.rsplit("-> ").next();
            if !shown.iter().any(|other| other.rsplit("-> ").next() == status) {
                shown.push(text);
            }
        }
        fail(format!("{} responses did not: {shown:?}", seen.len()))
    })];

fn allows_origin(response: &Response) -> Check {
    let seen = response.all("access-control-allow-origin");
    response.ensure(seen == ["*"], &format!("expected one Access-Control-Allow-Origin: *, got {seen:?}"))
}

fn has_reason(response: &Response) -> Check {
    if response.status < 400 {
        return Err(TestError::Skip(format!("{} is no error", response.summary())));
    }
    response.ensure(
        response.header("x-reason").is_some_and(|reason| !reason.is_empty()),
        "clients show X-Reason, and nothing else",
    )
}

fn every_preflight(ctx: &Context, check: impl Fn(&Response) -> Check) -> Check {
    let blob = format!("/{}.png", ctx.blob(10).sha256);
    let list = format!("/list/{}", ctx.key.pubkey);
    for path in ["/upload", &blob, "/mirror", "/media", "/report", &list] {
        let response = ctx
            .request("OPTIONS", path)
            .header("Origin", "https://client.example")
            .header("Access-Control-Request-Method", "PUT")
            .header("Access-Control-Request-Headers", "authorization,content-type,x-sha-256")
            .send()?;
        check(&response)?;
    }
    Ok(())
}
