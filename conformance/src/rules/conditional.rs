//! RFC 9110, 13: ETags and conditional requests.

use crate::context::Context;
use crate::suite::Strength::Http;
use crate::suite::{Check, Rule, rule, skip};

use super::ranges::strong_etag;
use super::retrieve::{is_http_date, served};

pub(super) const RULES: &[Rule] = &[
    rule("etag-present", "RFC 9110 8.8.3", Http, "a blob has an ETag, in quotes", |ctx| {
        let response = served(ctx, &ctx.blob_of_1000_bytes()?)?;
        let etag = response.header("etag").unwrap_or_default();
        let bare = etag.strip_prefix("W/").unwrap_or(etag);
        let quoted = bare.len() > 2 && bare.starts_with('"') && bare.ends_with('"');
        response.ensure(quoted, &format!("ETag: {etag}"))
    }),
    rule("etag-distinct", "RFC 9110 8.8.3", Http, "two blobs have two ETags", |ctx| {
        let one = strong_etag(ctx, &ctx.blob_of_1000_bytes()?)?;
        let response = served(ctx, &ctx.picture()?)?;
        response.ensure(response.header("etag") != Some(&one), "the same ETag as another blob")
    }),
    rule("etag-304", "RFC 9110 13.1.2", Http, "If-None-Match with the ETag is 304", |ctx| {
        none_match(ctx, |etag| etag.to_owned(), 304)
    }),
    rule("etag-list", "RFC 9110 13.1.2", Http, "the ETag in a list is 304", |ctx| {
        none_match(ctx, |etag| format!("\"x\", {etag} , \"y\""), 304)
    }),
    rule("etag-star", "RFC 9110 13.1.2", Http, "If-None-Match: * is 304", |ctx| {
        none_match(ctx, |_| "*".to_owned(), 304)
    }),
    rule("etag-weak", "RFC 9110 13.1.2", Http, "If-None-Match compares weakly", |ctx| {
        none_match(ctx, |etag| format!("W/{etag}"), 304)
    }),
    rule("etag-other", "RFC 9110 13.1.2", Http, "another ETag gives the blob", |ctx| {
        none_match(ctx, |_| "\"other\", \"another\"".to_owned(), 200)
    }),
    rule("etag-not-inside", "RFC 9110 13.1.2", Http, "an ETag that contains ours is another", |ctx| {
        none_match(ctx, |etag| format!("\"x{}", &etag[1..]), 200)
    }),
    rule("etag-304-headers", "RFC 9110 15.4.5", Http, "304 has the ETag and no body", |ctx| {
        let blob = ctx.blob_of_1000_bytes()?;
        let etag = strong_etag(ctx, &blob)?;
        let request = ctx.read(&blob)?.header("If-None-Match", &etag);
        let mut connection = ctx.connect()?;
        let response = request.send_on(&mut connection, &ctx.server)?;
        response.expect(&[304])?.expect_header("etag", &etag)?;
        response.ensure(connection.is_closed(), "bytes after the head")
    }),
    rule("etag-head", "RFC 9110 13.1.2", Http, "HEAD with If-None-Match is 304", |ctx| {
        let blob = ctx.blob_of_1000_bytes()?;
        let etag = strong_etag(ctx, &blob)?;
        let request = ctx.read_path("HEAD", &blob.path(), &blob.sha256)?;
        request.header("If-None-Match", &etag).send()?.expect(&[304]).map(|_| ())
    }),
    rule("etag-extension", "RFC 9110 8.8.3", Http, "the ETag is the same with an extension", |ctx| {
        let blob = ctx.blob_of_1000_bytes()?;
        let etag = strong_etag(ctx, &blob)?;
        let response = ctx.read_path("GET", &format!("{}.bin", blob.path()), &blob.sha256)?.send()?;
        response.expect(&[200])?.expect_header("etag", &etag).map(|_| ())
    }),
    rule("etag-absent", "RFC 9110 13.2.1", Http, "an unknown blob is 404, whatever the condition", |ctx| {
        let blob = ctx.blob(10);
        ctx.read(&blob)?.header("If-None-Match", "*").send()?.expect(&[404]).map(|_| ())
    }),
    rule("etag-if-match", "RFC 9110 13.1.1", Http, "If-Match with another ETag is 412", |ctx| {
        let blob = ctx.blob_of_1000_bytes()?;
        strong_etag(ctx, &blob)?;
        ctx.read(&blob)?.header("If-Match", "\"other\"").send()?.expect(&[412]).map(|_| ())
    }),
    rule("etag-if-match-same", "RFC 9110 13.1.1", Http, "If-Match with the ETag gives the blob", |ctx| {
        let blob = ctx.blob_of_1000_bytes()?;
        let etag = strong_etag(ctx, &blob)?;
        ctx.read(&blob)?.header("If-Match", &etag).send()?.expect(&[200]).map(|_| ())
    }),
    rule("modified-304", "RFC 9110 13.1.3", Http, "If-Modified-Since with Last-Modified is 304", |ctx| {
        let blob = ctx.blob_of_1000_bytes()?;
        let response = served(ctx, &blob)?;
        let Some(date) = response.header("last-modified") else {
            return skip("no Last-Modified");
        };
        response.ensure(is_http_date(date), &format!("Last-Modified: {date}"))?;
        ctx.read(&blob)?.header("If-Modified-Since", date).send()?.expect(&[304]).map(|_| ())
    }),
    rule("modified-etag", "RFC 9110 13.1.3", Http, "If-None-Match makes If-Modified-Since void", |ctx| {
        let blob = ctx.blob_of_1000_bytes()?;
        let response = served(ctx, &blob)?;
        let Some(date) = response.header("last-modified") else {
            return skip("no Last-Modified");
        };
        let request = ctx.read(&blob)?.header("If-Modified-Since", date);
        request.header("If-None-Match", "\"other\"").send()?.expect(&[200]).map(|_| ())
    }),
];

fn none_match(ctx: &Context, value: impl Fn(&str) -> String, status: u16) -> Check {
    let blob = ctx.blob_of_1000_bytes()?;
    let etag = strong_etag(ctx, &blob)?;
    ctx.read(&blob)?.header("If-None-Match", &value(&etag)).send()?.expect(&[status]).map(|_| ())
}
