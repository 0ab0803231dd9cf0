//! Blobs that a browser would run as a page of the server's own origin.

use crate::context::Context;
use crate::http::Response;
use crate::suite::Strength::Safety;
use crate::suite::{Check, Rule, rule};

const SCRIPTS: &str = "BUD-01 stored scripts";

pub(super) const RULES: &[Rule] = &[
    rule("script-html", SCRIPTS, Safety, "HTML cannot run: a sandbox, or an attachment", |ctx| {
        inert(ctx, "script-html", b"<!doctype html><script>alert(1)</script>", "text/html")
    }),
    rule("script-svg", SCRIPTS, Safety, "SVG cannot run", |ctx| {
        let svg = b"<svg xmlns=\"http://www.w3.org/2000/svg\"><script>alert(1)</script></svg>";
        inert(ctx, "script-svg", svg, "image/svg+xml")
    }),
    rule("script-xml", SCRIPTS, Safety, "XHTML and XML cannot run", |ctx| {
        let page = b"<html xmlns=\"http://www.w3.org/1999/xhtml\"><script>alert(1)</script></html>";
        inert(ctx, "script-xhtml", page, "application/xhtml+xml")?;
        inert(ctx, "script-xml", page, "text/xml")
    }),
    rule("script-odd-type", SCRIPTS, Safety, "HTML cannot run if its type is written oddly", |ctx| {
        let page = b"<script>alert(2)</script>";
        inert(ctx, "script-upper", page, "TEXT/HTML")?;
        inert(ctx, "script-charset", page, "text/html;charset=utf-7")
    }),
    rule("script-partial", SCRIPTS, Safety, "a range of HTML cannot run either", |ctx| {
        let page = b"<!doctype html><script>alert(1)</script>";
        let blob = ctx.sample("script-html", || ctx.blob_of(page, "text/html"))?;
        let response = ctx.read(&blob)?.header("Range", "bytes=15-").send()?;
        response.expect(&[200, 206, 307, 308])?;
        if response.status >= 300 { Ok(()) } else { cannot_run(&response) }
    }),
    rule("nosniff", SCRIPTS, Safety, "no blob is taken for another type: nosniff", |ctx| {
        for blob in [ctx.blob_of_1000_bytes()?, ctx.picture()?] {
            let response = ctx.read(&blob)?.send()?;
            let seen = response.header("x-content-type-options").unwrap_or_default();
            let nosniff = seen.eq_ignore_ascii_case("nosniff") || response.status >= 300;
            response.ensure(nosniff, "expected X-Content-Type-Options: nosniff")?;
        }
        Ok(())
    }),
    rule("script-in-error", SCRIPTS, Safety, "errors do not repeat a path as HTML", |ctx| {
        for path in
            ["/<script>alert(1)</script>", "/%3Cscript%3Ealert(1)%3C/script%3E", "/list/<script>alert(1)"]
        {
            // Some of these are no valid targets.
            let response = ctx.get(path).malformed().send()?;
            let text = String::from_utf8_lossy(&response.body).to_ascii_lowercase();
            let page = response.mime().contains("html") || response.mime().is_empty();
            response.ensure(!(page && text.contains("<script>alert")), "the script is in the page")?;
        }
        Ok(())
    }),
    rule("type-injection", SCRIPTS, Safety, "a type cannot inject headers", |ctx| {
        ctx.blob_of_1000_bytes()?;
        for mime in ["text/plain\r X-Injected: yes", "text/plain\u{0}", "text/plain\u{7f}; a=\u{1}"] {
            let blob = ctx.blob_of(b"x", mime);
            let request = super::integrity::put(ctx, &blob);
            let mut connection = ctx.connect()?;
            connection.send_body(&request.bytes());
            // A bare CR or NUL may end the connection, too.
            if let Ok(status) = connection.status() {
                if status >= 500 {
                    return crate::suite::fail(format!("{} -> {status}", request.summary()));
                }
                let response = ctx.download(&blob.sha256)?;
                response.ensure(response.header("x-injected").is_none(), "a header was injected")?;
            }
        }
        ctx.expect_alive()
    }),
    rule("type-long", SCRIPTS, Safety, "a type of 7 KB is refused, or served back", |ctx| {
        ctx.blob_of_1000_bytes()?;
        let blob = ctx.blob_of(b"x", &format!("text/{}", "x".repeat(7000)));
        let response = ctx.upload(&blob)?;
        response.expect_no_breakdown()?;
        if response.is_success() { ctx.expect_served(&blob) } else { ctx.expect_absent(&blob.sha256) }
    }),
];

fn inert(ctx: &Context, name: &'static str, start: &[u8], mime: &str) -> Check {
    let blob = ctx.sample(name, || ctx.blob_of(start, mime))?;
    let response = ctx.read(&blob)?.send()?;
    if (300..400).contains(&response.status) {
        return crate::suite::skip(format!("{}: served elsewhere", response.summary()));
    }
    response.expect(&[200])?;
    cannot_run(&response)
}

fn cannot_run(response: &Response) -> Check {
    let nosniff = response.header("x-content-type-options").unwrap_or_default();
    let policy = response.all("content-security-policy").join(";").to_ascii_lowercase();
    let sandboxed = policy.split([';', ',']).any(|directive| {
        let mut words = directive.split_whitespace();
        words.next() == Some("sandbox") && words.all(|word| word != "allow-scripts")
    });
    let disposition = response.header("content-disposition").unwrap_or_default().to_ascii_lowercase();
    let attached = disposition.starts_with("attachment");
    let plain = matches!(response.mime().as_str(), "text/plain" | "application/octet-stream");
    response.ensure(
        nosniff.eq_ignore_ascii_case("nosniff") && (sandboxed || attached || plain),
        &format!(
            "type {:?}, nosniff {nosniff:?}, policy {policy:?}, disposition {disposition:?}",
            response.mime()
        ),
    )
}
