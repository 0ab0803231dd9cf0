//! BUD-09: `PUT /report`.

use serde_json::{Value, json};

use crate::context::Context;
use crate::http::Response;
use crate::nostr::now;
use crate::suite::Strength::{Must, Practice, Safety};
use crate::suite::{Check, Rule, TestError, rule, skip};

const REPORT: &str = "BUD-09 PUT /report";

pub(super) const RULES: &[Rule] = &[
    rule("report-accepts", REPORT, Must, "a signed report of a blob is answered with success", |ctx| {
        offered(ctx)?;
        let hash = ctx.blob_of_1000_bytes()?.sha256;
        let response = send(ctx, &report(ctx, 1984, &[&hash]))?;
        response.ensure(response.is_success(), "expected 2xx")
    }),
    rule("report-several", REPORT, Must, "a report may name several blobs", |ctx| {
        offered(ctx)?;
        let hashes = [ctx.blob_of_1000_bytes()?.sha256, ctx.picture()?.sha256];
        let response = send(ctx, &report(ctx, 1984, &[&hashes[0], &hashes[1]]))?;
        response.ensure(response.is_success(), "expected 2xx")
    }),
    rule("report-signature", REPORT, Must, "a wrong signature is refused", |ctx| {
        offered(ctx)?;
        let mut event = report(ctx, 1984, &[&ctx.blob_of_1000_bytes()?.sha256]);
        event["sig"] = Value::from("0".repeat(128));
        send(ctx, &event)?.expect_refusal().map(|_| ())
    }),
    rule("report-id", REPORT, Must, "a changed report is refused", |ctx| {
        offered(ctx)?;
        let mut event = report(ctx, 1984, &[&ctx.blob_of_1000_bytes()?.sha256]);
        event["content"] = Value::from("changed");
        send(ctx, &event)?.expect_refusal().map(|_| ())
    }),
    rule("report-kind", REPORT, Must, "a kind other than 1984 is refused", |ctx| {
        offered(ctx)?;
        send(ctx, &report(ctx, 1, &[&ctx.blob_of_1000_bytes()?.sha256]))?.expect_refusal().map(|_| ())
    }),
    rule("report-no-x", REPORT, Must, "a report without x is refused", |ctx| {
        offered(ctx)?;
        send(ctx, &report(ctx, 1984, &[]))?.expect_refusal().map(|_| ())
    }),
    rule("report-bad-x", REPORT, Must, "a report whose x is no hash is refused", |ctx| {
        offered(ctx)?;
        send(ctx, &report(ctx, 1984, &["abc"]))?.expect_refusal().map(|_| ())
    }),
    rule("report-garbage", REPORT, Must, "what is no event is refused, and below 500", |ctx| {
        offered(ctx)?;
        for body in ["", "x", "[]", "{}", "null", "{\"kind\":1984}", "\u{0}", &"[".repeat(5000)] {
            ctx.put("/report").body(body.as_bytes()).send()?.expect_refusal()?;
        }
        Ok(())
    }),
    rule("report-unknown", REPORT, Practice, "a report of an unknown blob is 404, or taken", |ctx| {
        offered(ctx)?;
        let response = send(ctx, &report(ctx, 1984, &[&ctx.blob(5).sha256]))?;
        response.ensure(response.is_success() || response.status == 404, "expected 404 or 2xx")
    }),
    rule("report-keeps", REPORT, Safety, "a stranger's report does not remove a blob", |ctx| {
        offered(ctx)?;
        let blob = ctx.stored(30)?;
        send(ctx, &report(ctx, 1984, &[&blob.sha256]))?;
        ctx.expect_served(&blob)
    }),
    rule("report-huge", REPORT, Safety, "a report of 4 MB is refused", |ctx| {
        offered(ctx)?;
        let tags = [vec!["x".to_owned(), ctx.blob_of_1000_bytes()?.sha256, "spam".to_owned()]];
        let event = ctx.stranger.sign(1984, now() - 2, &tags, &"x".repeat(4 << 20));
        send(ctx, &event)?.expect_refusal()?;
        ctx.expect_alive()
    }),
];

fn offered(ctx: &Context) -> Check {
    ctx.offered("PUT /report", || {
        let response = ctx.put("/report").json(&json!({})).send()?;
        Ok(response)
    })
}

/// A report of these blobs by a stranger.
fn report(ctx: &Context, kind: u64, hashes: &[&str]) -> Value {
    let tag = |hash: &&str| vec!["x".to_owned(), (*hash).to_owned(), "spam".to_owned()];
    let tags: Vec<Vec<String>> = hashes.iter().map(tag).collect();
    ctx.stranger.sign(kind, now() - 2, &tags, "Conformance test")
}

/// Sends a report; skips if the server has rules about who may report.
fn send(ctx: &Context, event: &Value) -> Result<Response, TestError> {
    let response = ctx.put("/report").json(event).send()?;
    if response.status == 403 {
        return skip(format!("{}: not everybody may report", response.summary()));
    }
    Ok(response)
}
