//! Paths that are no blob, or try to be something else.

use crate::context::Context;
use crate::suite::Strength::{Practice, Safety, Should};
use crate::suite::{Check, Rule, fail, rule};

const STATUS: &str = "BUD-01 GET /sha256 status codes";
const SAFE: &str = "BUD-01 paths";

pub(super) const RULES: &[Rule] = &[
    rule("path-short", STATUS, Should, "63 hex digits are 400 or 404", |ctx| no_blob(ctx, 63, "a")),
    rule("path-long", STATUS, Should, "65 hex digits are 400 or 404", |ctx| no_blob(ctx, 65, "a")),
    rule("path-not-hex", STATUS, Should, "64 characters that are not hex are 400 or 404", |ctx| {
        no_blob(ctx, 64, "g")
    }),
    rule("path-uppercase", STATUS, Practice, "an uppercase hash is the same blob, 400 or 404", |ctx| {
        let blob = ctx.blob_of_1000_bytes()?;
        let path = blob.path().to_uppercase();
        let response = ctx.read_path("GET", &path, &blob.sha256)?.send()?;
        response.expect(&[200, 301, 307, 308, 400, 404])?;
        response.ensure(response.status != 200 || response.body == blob.bytes, "other bytes came")
    }),
    rule("path-dots", SAFE, Safety, "dot segments lead nowhere", |ctx| {
        let hash = ctx.blob_of_1000_bytes()?.sha256;
        for path in [
            "/../../../../etc/passwd".to_owned(),
            "/..".to_owned(),
            format!("/{hash}/../../../etc/passwd"),
            format!("/{hash}.png/../../../../etc/passwd"),
            format!("/{hash}./../../etc/passwd"),
            "/./../etc/passwd".to_owned(),
        ] {
            leads_nowhere(ctx, &path)?;
        }
        Ok(())
    }),
    rule("path-dots-encoded", SAFE, Safety, "encoded dot segments lead nowhere", |ctx| {
        let hash = ctx.blob_of_1000_bytes()?.sha256;
        for path in [
            "/%2e%2e/%2e%2e/%2e%2e/etc/passwd".to_owned(),
            "/..%2f..%2f..%2fetc%2fpasswd".to_owned(),
            "/%252e%252e%252fetc%252fpasswd".to_owned(),
            "/..%5c..%5cetc%5cpasswd".to_owned(),
            format!("/{hash}%2f..%2f..%2fetc%2fpasswd"),
            format!("/{hash}.%2e%2f%2e%2e%2fetc%2fpasswd"),
            "/%c0%ae%c0%ae/etc/passwd".to_owned(),
        ] {
            leads_nowhere(ctx, &path)?;
        }
        Ok(())
    }),
    rule("path-odd", SAFE, Safety, "odd paths are answered, and below 500", |ctx| {
        let hash = ctx.blob_of_1000_bytes()?.sha256;
        for path in [
            format!("//{hash}"),
            format!("/{hash}/"),
            format!("/{hash}."),
            format!("/{hash}%00.png"),
            format!("/{hash}.png%0d%0aX-Injected:%20yes"),
            format!("/{hash};v=1"),
            format!("/{hash}.{}", "x".repeat(300)),
            format!("/{}", &hash[..10]),
            "/%".to_owned(),
            "/%zz".to_owned(),
            "/%ff%fe".to_owned(),
            "/.git/config".to_owned(),
            "/list".to_owned(),
            "/list/".to_owned(),
            "/?".to_owned(),
        ] {
            let response = ctx.get(&path).send()?;
            response.expect_no_breakdown()?;
            response.ensure(response.header("x-injected").is_none(), "a header was injected")?;
        }
        Ok(())
    }),
    rule("path-very-long", SAFE, Safety, "a path of 16 KB is refused with 4xx", |ctx| {
        ctx.get(&format!("/{}", "a".repeat(16 << 10))).send()?.expect_refusal()?;
        ctx.expect_alive()
    }),
    rule("path-percent-hash", SAFE, Practice, "an encoded digit is the same path, 400 or 404", |ctx| {
        let blob = ctx.blob_of_1000_bytes()?;
        let path = format!("/%{:02x}{}", blob.sha256.as_bytes()[0], &blob.sha256[1..]);
        let response = ctx.read_path("GET", &path, &blob.sha256)?.send()?;
        response.expect(&[200, 301, 307, 308, 400, 404])?;
        response.ensure(response.status != 200 || response.body == blob.bytes, "other bytes came")
    }),
];

fn no_blob(ctx: &Context, length: usize, digit: &str) -> Check {
    let path = format!("/{}", digit.repeat(length));
    ctx.get(&path).send()?.expect(&[400, 404])?;
    ctx.head(&path).send()?.expect(&[400, 404]).map(|_| ())
}

fn leads_nowhere(ctx: &Context, path: &str) -> Check {
    let response = ctx.get(path).send()?;
    response.expect_no_breakdown()?;
    let text = String::from_utf8_lossy(&response.body);
    if text.contains("root:x:") || text.contains("root:*:") {
        return fail(format!("{}; a file of the system was served", response.summary()));
    }
    Ok(())
}
