//! BUD-01: `GET` and `HEAD /<sha256>`.

use crate::blob::Blob;
use crate::context::Context;
use crate::suite::Strength::{Http, Must, Practice, Should};
use crate::suite::{Check, Rule, ensure, fail, rule, skip};

const GET: &str = "BUD-01 GET /sha256";
const HEAD: &str = "BUD-01 HEAD /sha256";

pub(super) const RULES: &[Rule] = &[
    rule("get-bytes", GET, Must, "GET returns the exact bytes", |ctx| {
        ctx.expect_served(&ctx.blob_of_1000_bytes()?)
    }),
    rule("get-length", GET, Should, "GET gives the Content-Length", |ctx| {
        let blob = ctx.blob_of_1000_bytes()?;
        served(ctx, &blob)?.expect_header("content-length", &blob.bytes.len().to_string()).map(|_| ())
    }),
    rule("get-type", GET, Must, "GET gives the type that was uploaded", |ctx| {
        has_type(ctx, &ctx.picture()?, "", "image/png")
    }),
    rule("get-type-default", GET, Must, "a blob of unknown type is application/octet-stream", |ctx| {
        has_type(ctx, &untyped(ctx)?, "", "application/octet-stream")
    }),
    rule("get-type-parameters", GET, Practice, "text keeps its type when a charset was given", |ctx| {
        let blob =
            ctx.sample("text", || ctx.blob_of("gr\u{fc}n ".as_bytes(), "text/plain; charset=utf-8"))?;
        has_type(ctx, &blob, "", "text/plain")
    }),
    rule("get-extension", GET, Must, "a file extension is accepted and changes nothing", |ctx| {
        for extension in ["png", "bin", "mp4", "PNG"] {
            has_type(ctx, &ctx.picture()?, &format!(".{extension}"), "image/png")?;
        }
        Ok(())
    }),
    rule("get-extension-unknown", GET, Must, "an extension that nobody knows changes nothing", |ctx| {
        for extension in ["zzz", "x", "verylongextension"] {
            has_type(ctx, &ctx.picture()?, &format!(".{extension}"), "image/png")?;
        }
        Ok(())
    }),
    rule("get-extension-lying", GET, Must, "the type is the blob's, not that of the extension", |ctx| {
        has_type(ctx, &untyped(ctx)?, ".html", "application/octet-stream")
    }),
    rule("get-query", GET, Practice, "a query, such as hints of BUD-10, does not hide the blob", |ctx| {
        let blob = ctx.blob_of_1000_bytes()?;
        let path = format!("{}.bin?xs=cdn.example.com&sz=1000", blob.path());
        let response = ctx.read_path("GET", &path, &blob.sha256)?.send()?;
        response.expect(&[200, 307, 308])?;
        response.ensure(response.status != 200 || response.body == blob.bytes, "other bytes came")
    }),
    rule(
        "get-identity",
        GET,
        Practice,
        "compression does not change the bytes, the length or ranges",
        |ctx| {
            let blob = ctx.sample("long text", || ctx.blob_of(&b"text ".repeat(1000), "text/plain"))?;
            let response = ctx.read(&blob)?.header("Accept-Encoding", "gzip, br, zstd").send()?;
            response.here()?.expect(&[200])?;
            let seen = response.all("content-encoding");
            let same = response.body == blob.bytes;
            response
                .ensure(seen.is_empty() && same, &format!("Content-Encoding {seen:?}, same bytes: {same}"))
        },
    ),
    rule(
        "get-preview",
        "BUD-14-previews Preview discovery",
        Should,
        "a preview that is named is an image",
        |ctx| {
            let blob = ctx.picture()?;
            let response = ctx.read(&blob)?.send()?;
            response.here()?.expect(&[200])?;
            let links = response.all("link").join(",");
            let Some(link) = links.split(',').find(|link| link.contains("rel=\"preview\"")) else {
                return skip("no Link with rel=\"preview\"");
            };
            let target = link.split(['<', '>']).nth(1).unwrap_or_default();
            let base = url::Url::parse(&ctx.server.url(&blob.path()));
            let Ok(url) = base.and_then(|base| base.join(target)) else {
                return fail(format!("{}; Link: {link}", response.summary()));
            };
            let server = crate::http::Endpoint::new(url.as_str(), ctx.options.timeout)?;
            let preview = ctx.get(url.path()).send_to(&server)?;
            preview.expect(&[200])?;
            preview.ensure(preview.mime().starts_with("image/"), &format!("got {:?}", preview.mime()))
        },
    ),
    rule("get-unknown", GET, Should, "GET of an unknown blob is 404", |ctx| {
        let blob = ctx.blob(10);
        ctx.read(&blob)?.send()?.expect(&[404]).map(|_| ())
    }),
    rule("get-unknown-extension", GET, Should, "GET of an unknown blob with an extension is 404", |ctx| {
        let blob = ctx.blob(10);
        let path = format!("{}.png", blob.path());
        ctx.read_path("GET", &path, &blob.sha256)?.send()?.expect(&[404]).map(|_| ())
    }),
    rule("get-redirect", "BUD-01 Proxying and Redirection", Must, "a redirect keeps the hash", |ctx| {
        let blob = ctx.blob_of_1000_bytes()?;
        let response = ctx.read(&blob)?.send()?;
        if !(300..400).contains(&response.status) {
            return skip(format!("{}: no redirect", response.summary()));
        }
        let location = response.header("location").unwrap_or_default();
        response.ensure(location.contains(&blob.sha256), &format!("Location: {location}"))
    }),
    rule("get-sunset", "BUD-01 Sunset Header", Should, "a Sunset header is an HTTP date", |ctx| {
        let blob = ctx.blob_of_1000_bytes()?;
        let response = served(ctx, &blob)?;
        let Some(date) = response.header("sunset") else {
            return skip("the server gives no Sunset header");
        };
        response.ensure(is_http_date(date), &format!("Sunset: {date}"))
    }),
    rule("get-date", "RFC 9110 6.6.1", Http, "responses are dated", |ctx| {
        let response = served(ctx, &ctx.blob_of_1000_bytes()?)?;
        let date = response.header("date").unwrap_or_default();
        response.ensure(is_http_date(date), &format!("Date: {date:?}"))
    }),
    rule("get-open", "BUD-11 Validation", Practice, "a bad token on a public GET is no error", |ctx| {
        if ctx.reads_need_token()? {
            return skip("blobs are only served with a token");
        }
        let blob = ctx.blob_of_1000_bytes()?;
        for value in ["Nostr bm90IGpzb24", "Nostr", "Bearer abc"] {
            ctx.get(&blob.path()).header("Authorization", value).send()?.expect(&[200, 307, 308])?;
            ctx.head(&blob.path()).header("Authorization", value).send()?.expect(&[200, 307, 308])?;
        }
        Ok(())
    }),
    rule("head-headers", HEAD, Must, "HEAD has the Content-Type and Content-Length of GET", |ctx| {
        for blob in [ctx.picture()?, ctx.blob_of_1000_bytes()?] {
            let get = ctx.read(&blob)?.send()?;
            get.here()?;
            let head = ctx.read_path("HEAD", &blob.path(), &blob.sha256)?.send()?;
            head.expect(&[get.status])?;
            for name in ["content-type", "content-length"] {
                let (seen, expected) = (head.header(name), get.header(name));
                head.ensure(
                    seen == expected && seen.is_some(),
                    &format!("{name}: {seen:?}, with GET {expected:?}"),
                )?;
            }
        }
        Ok(())
    }),
    rule("head-same", HEAD, Should, "HEAD has the other headers of GET", |ctx| {
        let blob = ctx.blob_of_1000_bytes()?;
        let get = ctx.read(&blob)?.send()?;
        let head = ctx.read_path("HEAD", &blob.path(), &blob.sha256)?.send()?;
        let names =
            ["etag", "last-modified", "accept-ranges", "cache-control", "sunset", "content-disposition"];
        let all = ["link", "location", "content-security-policy", "x-content-type-options", "vary"];
        for name in names.into_iter().chain(all) {
            let (seen, expected) = (head.all(name), get.all(name));
            head.ensure(seen == expected, &format!("{name}: {seen:?}, with GET {expected:?}"))?;
        }
        Ok(())
    }),
    rule("head-no-body", "RFC 9110 9.3.2", Http, "HEAD sends no body", |ctx| {
        let blob = ctx.blob_of_1000_bytes()?;
        let head = ctx.read_path("HEAD", &blob.path(), &blob.sha256)?;
        let mut connection = ctx.connect()?;
        head.send_on(&mut connection, &ctx.server)?;
        ensure(connection.is_closed(), || format!("{}: bytes after the head", head.summary()))
    }),
    rule("head-extension", HEAD, Must, "HEAD accepts a file extension", |ctx| {
        let blob = ctx.picture()?;
        for extension in ["png", "zzz"] {
            let path = format!("{}.{extension}", blob.path());
            let response = ctx.read_path("HEAD", &path, &blob.sha256)?.send()?;
            response.expect(&[200, 307, 308])?;
            response
                .ensure(response.status != 200 || response.mime() == "image/png", "expected image/png")?;
        }
        Ok(())
    }),
    rule("head-unknown", HEAD, Should, "HEAD of an unknown blob is 404", |ctx| {
        let blob = ctx.blob(10);
        ctx.read_path("HEAD", &blob.path(), &blob.sha256)?.send()?.expect(&[404]).map(|_| ())
    }),
    rule("head-twice", HEAD, Practice, "HEAD before the upload does not hide it afterwards", |ctx| {
        let blob = ctx.blob(100);
        ctx.head(&blob.path()).send()?;
        ctx.store_as(&blob, &ctx.key)?;
        ctx.read_path("HEAD", &blob.path(), &blob.sha256)?.send()?.expect(&[200, 307, 308])?;
        ctx.expect_served(&blob)
    }),
];

/// The blob from this server itself.
pub(super) fn served(ctx: &Context, blob: &Blob) -> Result<crate::http::Response, crate::suite::TestError> {
    let response = ctx.read(blob)?.send()?;
    if (300..400).contains(&response.status) {
        return skip(format!("{}: served elsewhere", response.summary()));
    }
    response.expect(&[200])?;
    Ok(response)
}

/// A blob that was uploaded without a type, of bytes that are of no type.
fn untyped(ctx: &Context) -> Result<Blob, crate::suite::TestError> {
    let blob =
        ctx.sample("untyped", || ctx.blob_of(&[0, 1, 2, 3, 0xfe, 0xff], "application/octet-stream"))?;
    Ok(blob)
}

fn has_type(ctx: &Context, blob: &Blob, end: &str, expected: &str) -> Check {
    let response = ctx.read_path("GET", &format!("{}{end}", blob.path()), &blob.sha256)?.send()?;
    if (300..400).contains(&response.status) {
        return skip(format!("{}: served elsewhere", response.summary()));
    }
    response.expect(&[200])?;
    if response.body != blob.bytes {
        return fail(format!("{}: other bytes than were uploaded", response.summary()));
    }
    response.ensure(response.mime() == expected, &format!("expected {expected}, got {:?}", response.mime()))
}

/// Whether a text looks like `Sun, 06 Nov 1994 08:49:37 GMT`.
pub(super) fn is_http_date(text: &str) -> bool {
    let shape = "Www, 00 Www 0000 00:00:00 GMT";
    text.len() == shape.len()
        && text.chars().zip(shape.chars()).all(|(seen, expected)| match expected {
            '0' => seen.is_ascii_digit(),
            'W' => seen.is_ascii_uppercase(),
            'w' => seen.is_ascii_lowercase(),
            other => seen == other,
        })
}
