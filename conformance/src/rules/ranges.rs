//! BUD-01 and RFC 9110, 14: ranges.

use crate::blob::Blob;
use crate::context::Context;
use crate::http::Response;
use crate::suite::Strength::{Http, Practice, Safety, Should};
use crate::suite::{Check, Rule, TestError, rule, skip};

const BUD: &str = "BUD-01 Range requests";

pub(super) const RULES: &[Rule] = &[
    rule("range-announced", BUD, Should, "HEAD has Accept-Ranges: bytes and Content-Length", |ctx| {
        let blob = ctx.blob_of_1000_bytes()?;
        let response = ctx.read_path("HEAD", &blob.path(), &blob.sha256)?.send()?;
        response.here()?.expect(&[200])?;
        response.expect_header("accept-ranges", "bytes")?.expect_header("content-length", "1000").map(|_| ())
    }),
    rule("range-first", BUD, Should, "bytes=0-99 gives the first hundred bytes", |ctx| {
        part(ctx, "bytes=0-99", 0, 99)
    }),
    rule("range-middle", BUD, Should, "bytes=500-749 gives these bytes", |ctx| {
        part(ctx, "bytes=500-749", 500, 749)
    }),
    rule("range-open", BUD, Should, "bytes=900- goes to the end", |ctx| part(ctx, "bytes=900-", 900, 999)),
    rule("range-all", BUD, Practice, "bytes=0- is 206: players decide by it whether they may seek", |ctx| {
        part(ctx, "bytes=0-", 0, 999)
    }),
    rule("range-two-bytes", BUD, Practice, "bytes=0-1 is 206: iOS plays no video otherwise", |ctx| {
        part(ctx, "bytes=0-1", 0, 1)
    }),
    rule("range-one-byte", BUD, Should, "bytes=999-999 is the last byte", |ctx| {
        part(ctx, "bytes=999-999", 999, 999)
    }),
    rule("range-suffix", "RFC 9110 14.1.2", Http, "bytes=-100 gives the last hundred bytes", |ctx| {
        part(ctx, "bytes=-100", 900, 999)
    }),
    rule("range-suffix-long", "RFC 9110 14.1.2", Http, "a suffix longer than the blob is all of it", |ctx| {
        part(ctx, "bytes=-5000", 0, 999)
    }),
    rule("range-past-end", "RFC 9110 14.1.2", Http, "a range that ends past the end ends there", |ctx| {
        part(ctx, "bytes=900-99999", 900, 999)
    }),
    rule("range-extension", BUD, Should, "ranges work with a file extension", |ctx| {
        let blob = supported(ctx)?;
        let request = ctx.read_path("GET", &format!("{}.mp4", blob.path()), &blob.sha256)?;
        expect_part(&request.header("Range", "bytes=10-19").send()?, &blob, 10, 19)
    }),
    rule("range-pieces", BUD, Practice, "pieces put together are the blob", |ctx| {
        let blob = supported(ctx)?;
        let mut whole = Vec::new();
        for start in (0..1000).step_by(300) {
            let range = format!("bytes={start}-{}", start + 299);
            whole.extend(ctx.read(&blob)?.header("Range", &range).send()?.expect(&[206])?.body.clone());
        }
        if whole == blob.bytes { Ok(()) } else { Err(TestError::Fail("the pieces are not the blob".into())) }
    }),
    rule("range-beyond", BUD, Should, "a range that starts past the end is 416", |ctx| {
        let blob = supported(ctx)?;
        for range in ["bytes=1000-", "bytes=1000-1001", "bytes=5000-6000"] {
            ctx.read(&blob)?.header("Range", range).send()?.expect(&[416])?;
        }
        Ok(())
    }),
    rule("range-beyond-length", "RFC 9110 15.5.17", Http, "416 tells the length of the blob", |ctx| {
        let blob = supported(ctx)?;
        let response = ctx.read(&blob)?.header("Range", "bytes=1000-").send()?;
        response.expect(&[416])?.expect_header("content-range", "bytes */1000").map(|_| ())
    }),
    rule("range-suffix-zero", "RFC 9110 14.1.2", Http, "bytes=-0 is not satisfiable", |ctx| {
        ctx.read(&supported(ctx)?)?.header("Range", "bytes=-0").send()?.expect(&[416]).map(|_| ())
    }),
    rule("range-malformed", "RFC 9110 14.2", Http, "a malformed range is ignored or refused", |ctx| {
        let blob = supported(ctx)?;
        let malformed =
            ["bytes=abc", "bytes=9-2", "bytes=", "bytes=--5", "bytes 0-5", "bytes=1-x", "bytes=-"];
        for range in malformed {
            let response = ctx.read(&blob)?.header("Range", range).send()?;
            response.expect(&[200, 400, 416])?;
            response.ensure(response.status != 200 || response.body == blob.bytes, "not the whole blob")?;
        }
        Ok(())
    }),
    rule("range-huge", "RFC 9110 14.2", Safety, "numbers of any size are answered below 500", |ctx| {
        let blob = supported(ctx)?;
        let huge = "9".repeat(30);
        for range in [format!("bytes=0-{huge}"), format!("bytes={huge}-"), format!("bytes=-{huge}")] {
            let response = ctx.read(&blob)?.header("Range", &range).send()?;
            response.expect(&[200, 206, 400, 416])?;
        }
        let max = u64::MAX;
        for range in [format!("bytes=0-{max}"), format!("bytes=-{max}"), format!("bytes={max}-{max}")] {
            ctx.read(&blob)?.header("Range", &range).send()?.expect(&[200, 206, 400, 416])?;
        }
        Ok(())
    }),
    rule("range-unit", "RFC 9110 14.2", Http, "a unit other than bytes is ignored", |ctx| {
        whole(ctx, "GET", "items=0-5")
    }),
    rule("range-head", "RFC 9110 14.2", Http, "HEAD ignores ranges", |ctx| {
        let blob = ctx.blob_of_1000_bytes()?;
        let request = ctx.read_path("HEAD", &blob.path(), &blob.sha256)?;
        let response = request.header("Range", "bytes=0-9").send()?;
        response.here()?.expect(&[200])?.expect_header("content-length", "1000").map(|_| ())
    }),
    rule(
        "range-several",
        "RFC 9110 15.3.7.2",
        Http,
        "several ranges are multipart, or the whole blob",
        |ctx| {
            let blob = supported(ctx)?;
            let response = ctx.read(&blob)?.header("Range", "bytes=0-1,10-11").send()?;
            response.expect(&[200, 206])?;
            let whole = response.status == 200 && response.body == blob.bytes;
            let multipart = response.status == 206 && response.mime() == "multipart/byteranges";
            response.ensure(whole || multipart, "neither the whole blob nor multipart/byteranges")
        },
    ),
    rule("range-flood", "RFC 9110 17.15", Safety, "a thousand ranges do not multiply the answer", |ctx| {
        let blob = supported(ctx)?;
        let ranges = format!("bytes={}", vec!["0-"; 1000].join(","));
        let response = ctx.read(&blob)?.header("Range", &ranges).send()?;
        response.expect_no_breakdown()?;
        response.ensure(response.body.len() < 10_000, &format!("{} bytes came", response.body.len()))
    }),
    rule("range-if-etag", "RFC 9110 13.1.5", Http, "If-Range with the right ETag gives the range", |ctx| {
        let blob = supported(ctx)?;
        let etag = strong_etag(ctx, &blob)?;
        let request = ctx.read(&blob)?.header("Range", "bytes=0-9").header("If-Range", &etag);
        expect_part(&request.send()?, &blob, 0, 9)
    }),
    rule("range-if-other", "RFC 9110 13.1.5", Http, "If-Range with another ETag gives everything", |ctx| {
        if_range(ctx, "\"other\"")
    }),
    rule("range-if-weak", "RFC 9110 13.1.5", Http, "If-Range with a weak ETag gives everything", |ctx| {
        let etag = strong_etag(ctx, &supported(ctx)?)?;
        if_range(ctx, &format!("W/{etag}"))
    }),
    rule("range-if-date", "RFC 9110 13.1.5", Http, "If-Range with another date gives everything", |ctx| {
        if_range(ctx, "Sun, 06 Nov 1994 08:49:37 GMT")
    }),
    rule("range-etag", "RFC 9110 15.3.7", Http, "206 has the ETag of 200", |ctx| {
        let blob = supported(ctx)?;
        let etag = strong_etag(ctx, &blob)?;
        let response = ctx.read(&blob)?.header("Range", "bytes=0-9").send()?;
        response.expect(&[206])?.expect_header("etag", &etag).map(|_| ())
    }),
    rule("range-not-modified", "RFC 9110 13.2.2", Http, "If-None-Match counts before Range", |ctx| {
        let blob = supported(ctx)?;
        let etag = strong_etag(ctx, &blob)?;
        let request = ctx.read(&blob)?.header("Range", "bytes=0-9").header("If-None-Match", &etag);
        request.send()?.expect(&[304]).map(|_| ())
    }),
    rule("range-empty", "RFC 9110 14.1.2", Http, "an empty blob has no range: 416, or 200", |ctx| {
        let blob = empty(ctx)?;
        for range in ["bytes=0-", "bytes=0-0", "bytes=-5"] {
            let response = ctx.read(&blob)?.header("Range", range).send()?;
            response.here()?.expect(&[200, 416])?;
            response.ensure(response.status != 200 || response.body.is_empty(), "bytes came")?;
        }
        Ok(())
    }),
];

/// The empty blob, on the server.
pub(super) fn empty(ctx: &Context) -> Result<Blob, TestError> {
    match ctx.sample("empty", || Blob::new(Vec::new(), "application/octet-stream")) {
        Err(TestError::Fail(why)) => skip(format!("the empty blob is not taken: {why}")),
        other => other,
    }
}

/// A blob of 1,000 bytes of a server that knows ranges; whether it does is what `range-first` tests.
fn supported(ctx: &Context) -> Result<Blob, TestError> {
    let blob = ctx.blob_of_1000_bytes()?;
    let response = ctx.read(&blob)?.header("Range", "bytes=0-99").send()?;
    match response.status {
        200 => skip("the server does not serve ranges"),
        300..400 => skip("the server redirects"),
        _ => Ok(blob),
    }
}

fn part(ctx: &Context, range: &str, first: usize, last: usize) -> Check {
    let blob = ctx.blob_of_1000_bytes()?;
    let response = ctx.read(&blob)?.header("Range", range).send()?;
    if (300..400).contains(&response.status) {
        return skip("the server redirects");
    }
    expect_part(&response, &blob, first, last)
}

fn expect_part(response: &Response, blob: &Blob, first: usize, last: usize) -> Check {
    response.expect(&[206])?;
    let length = blob.bytes.len();
    response.expect_header("content-range", &format!("bytes {first}-{last}/{length}"))?;
    response.expect_header("content-length", &(last - first + 1).to_string())?;
    response.ensure(response.body == blob.bytes[first..=last], "other bytes than asked for")
}

fn whole(ctx: &Context, method: &str, range: &str) -> Check {
    let blob = ctx.blob_of_1000_bytes()?;
    let response = ctx.read_path(method, &blob.path(), &blob.sha256)?.header("Range", range).send()?;
    response.here()?.expect(&[200])?;
    response.ensure(response.body == blob.bytes, "not the whole blob")
}

fn if_range(ctx: &Context, validator: &str) -> Check {
    let blob = supported(ctx)?;
    let request = ctx.read(&blob)?.header("Range", "bytes=0-9").header("If-Range", validator);
    let response = request.send()?;
    response.expect(&[200])?;
    response.ensure(response.body == blob.bytes, "not the whole blob")
}

/// The blob's ETag; skips if it has none, or a weak one.
pub(super) fn strong_etag(ctx: &Context, blob: &Blob) -> Result<String, TestError> {
    let response = super::retrieve::served(ctx, blob)?;
    match response.header("etag") {
        Some(etag) if etag.starts_with('"') => Ok(etag.to_owned()),
        other => skip(format!("no strong ETag: {other:?}")),
    }
}
