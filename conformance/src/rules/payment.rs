//! BUD-07: 402, where a server asks for it.

use crate::context::Context;
use crate::http::Response;
use crate::nostr::Token;
use crate::suite::Strength::{Must, Practice};
use crate::suite::{Rule, TestError, rule, skip};

const REQUIRED: &str = "BUD-07 Payment Required";

pub(super) const RULES: &[Rule] = &[
    rule("payment-methods", REQUIRED, Must, "402 names a way to pay: X-Cashu or X-Lightning", |ctx| {
        let response = unpaid(ctx)?;
        let cashu = response.header("x-cashu").is_some_and(|text| text.starts_with("creq"));
        let lightning = response.header("x-lightning").is_some_and(|text| text.starts_with("ln"));
        response.ensure(cashu || lightning, "neither a NUT-24 request nor a BOLT-11 invoice")
    }),
    rule("payment-head", "BUD-07 HEAD requests", Must, "HEAD /upload shows the price of PUT", |ctx| {
        unpaid(ctx)?;
        let blob = ctx.blob(100);
        let token = Token::new("upload").x(&blob.sha256);
        let request = ctx.head("/upload").token(&token, &ctx.key).header("X-SHA-256", &blob.sha256);
        let response =
            request.header("X-Content-Length", "100").header("X-Content-Type", &blob.mime).send()?;
        if matches!(response.status, 404 | 405 | 501) {
            return skip(format!("{}: not offered", response.summary()));
        }
        response.expect(&[402])?;
        let priced = response.header("x-cashu").or(response.header("x-lightning")).is_some();
        response.ensure(priced, "no way to pay")
    }),
    rule("payment-bad-proof", "BUD-07 Error handling", Must, "a bad proof is 400 with X-Reason", |ctx| {
        let response = unpaid(ctx)?;
        for (name, proof) in [("x-lightning", "0".repeat(64)), ("x-cashu", "cashuBnothing".to_owned())] {
            if response.header(name).is_none() {
                continue;
            }
            let blob = ctx.blob(100);
            let again = super::integrity::put(ctx, &blob).header(name, &proof).send()?;
            again.expect(&[400])?;
            again.ensure(again.header("x-reason").is_some(), "no X-Reason")?;
            ctx.expect_absent(&blob.sha256)?;
        }
        Ok(())
    }),
    rule("payment-reason", REQUIRED, Practice, "402 says what the price is for", |ctx| {
        let response = unpaid(ctx)?;
        response.ensure(response.header("x-reason").is_some(), "no X-Reason")
    }),
];

/// The 402 that answers an upload; skips if uploads are free.
fn unpaid(ctx: &Context) -> Result<Response, TestError> {
    let response = ctx.upload(&ctx.blob(100))?;
    if response.status == 402 {
        return Ok(response);
    }
    skip(format!("{}: uploads are not paid for", response.summary()))
}
