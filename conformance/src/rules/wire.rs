//! RFC 9110 and 9112 on the wire: framing, keep-alive, pipelining, `Expect`, malformed and giant heads.

use crate::context::Context;
use crate::http::Connection;
use crate::request::Request;
use crate::suite::Strength::{Http, Practice, Safety};
use crate::suite::{Check, Rule, TestError, ensure, fail, rule, skip};

use super::integrity::put;

const MESSAGE: &str = "RFC 9112 9.3";
const SYNTAX: &str = "RFC 9112 2.2";

/// More than what sockets buffer, in bytes.
const LARGE: usize = 8 << 20;

pub(super) const RULES: &[Rule] = &[
    rule("keep-alive", MESSAGE, Http, "a connection serves several requests", |ctx| {
        let blob = ctx.blob_of_1000_bytes()?;
        let mut connection = ctx.connect()?;
        for _ in 0..3 {
            let response = ctx.read(&blob)?.keep_alive().send_on(&mut connection, &ctx.server)?;
            response.expect(&[200, 307, 308])?;
        }
        Ok(())
    }),
    rule("keep-alive-errors", MESSAGE, Safety, "after an error the next response is the right one", |ctx| {
        let blob = ctx.blob_of_1000_bytes()?;
        let unknown = ctx.blob(10);
        let first = [
            ctx.read(&unknown)?,
            ctx.read(&blob)?.header("Range", "bytes=5000-"),
            ctx.read_path("HEAD", &unknown.path(), &unknown.sha256)?,
            ctx.read_path("HEAD", &blob.path(), &blob.sha256)?,
            ctx.request("DELETE", &blob.path()),
            ctx.request("OPTIONS", "/upload"),
            ctx.request("POST", "/upload").body(&blob.bytes),
            put(ctx, &unknown).without("Authorization").header("Authorization", "Nostr x"),
            put(ctx, &unknown).without("X-SHA-256").header("X-SHA-256", "x"),
            put(ctx, &blob),
            ctx.put("/no/such/path").body(&blob.bytes),
            ctx.put("/mirror").body(b"x"),
            ctx.put("/report").body(b"x"),
        ];
        first.into_iter().try_for_each(|request| then_right(ctx, &request.keep_alive()))
    }),
    rule("pipelining", "RFC 9112 9.3.2", Http, "pipelined requests are answered in order", |ctx| {
        let (one, other) = (ctx.blob_of_1000_bytes()?, ctx.picture()?);
        let requests = [
            ctx.read(&one)?.keep_alive(),
            ctx.read_path("HEAD", &other.path(), &other.sha256)?.keep_alive(),
            ctx.read(&ctx.blob(10))?.keep_alive(),
            ctx.read(&other)?,
        ];
        let mut connection = ctx.connect()?;
        let bytes: Vec<u8> = requests.iter().flat_map(Request::bytes).collect();
        connection.send_body(&bytes);
        let mut bodies = Vec::new();
        for request in &requests {
            let response = request.receive(&mut connection)?;
            if (300..400).contains(&response.status) {
                return skip("the server redirects");
            }
            bodies.push(response.body);
        }
        ensure(bodies[0] == one.bytes && bodies[3] == other.bytes, || {
            "GET, HEAD, GET of an unknown blob and GET in one write were not answered in order".to_owned()
        })
    }),
    rule(
        "pipelined-uploads",
        "RFC 9112 9.3.2",
        Http,
        "pipelined uploads are stored, each by itself",
        |ctx| {
            ctx.blob_of_1000_bytes()?;
            let blobs = [ctx.blob(100), ctx.blob(200), ctx.blob(300)];
            let mut connection = ctx.connect()?;
            let requests: Vec<Request<'_>> = blobs.iter().map(|blob| put(ctx, blob).keep_alive()).collect();
            let bytes: Vec<u8> = requests.iter().flat_map(Request::bytes).collect();
            connection.send_body(&bytes);
            for (request, blob) in requests.iter().zip(&blobs) {
                ctx.note(&blob.sha256, &ctx.key);
                request.receive(&mut connection)?.expect(&[201])?;
            }
            blobs.iter().try_for_each(|blob| ctx.expect_served(blob))
        },
    ),
    rule("close", "RFC 9112 9.6", Http, "Connection: close closes after the response", |ctx| {
        let mut connection = ctx.connect()?;
        let request = ctx.head("/");
        request.send_on(&mut connection, &ctx.server)?;
        ensure(connection.is_closed(), || format!("{}: still open", request.summary()))
    }),
    rule(
        "close-refused",
        "RFC 9112 9.6",
        Practice,
        "a refused upload of 8 MB is answered, not reset",
        |ctx| {
            ctx.blob_of_1000_bytes()?;
            let request = put(ctx, &ctx.blob(10)).without("X-SHA-256").header("X-SHA-256", "nonsense");
            read_to_the_end(ctx, &request.body(&vec![0; LARGE]), &[400])
        },
    ),
    rule(
        "close-exists",
        "RFC 9112 9.6",
        Practice,
        "an upload of 8 MB that the server already has is answered, not reset",
        |ctx| {
            ctx.blob_of_1000_bytes()?;
            let blob = ctx.blob(LARGE);
            let response = ctx.upload(&blob)?;
            if matches!(response.status, 402 | 413) {
                return skip(response.summary());
            }
            response.expect(&[200, 201])?;
            read_to_the_end(ctx, &put(ctx, &blob), &[200])
        },
    ),
    rule("no-content-length", "RFC 9110 8.6", Http, "204 has no Content-Length", |ctx| {
        let blob = ctx.stored(30)?;
        let deleted = ctx.delete_as(&blob.sha256, &ctx.key)?;
        let preflight = ctx.request("OPTIONS", "/upload").send()?;
        let empty: Vec<_> =
            [deleted, preflight].into_iter().filter(|response| response.status == 204).collect();
        if empty.is_empty() {
            return skip("neither DELETE nor OPTIONS is answered with 204");
        }
        empty.iter().try_for_each(|response| {
            response.ensure(response.header("content-length").is_none(), "there is a Content-Length")
        })
    }),
    rule(
        "expect-continue",
        "RFC 9110 10.1.1",
        Http,
        "Expect: 100-continue is answered before the body",
        |ctx| {
            ctx.blob_of_1000_bytes()?;
            let blob = ctx.blob(100);
            ctx.note(&blob.sha256, &ctx.key);
            continues(ctx, &put(ctx, &blob))
        },
    ),
    rule(
        "expect-refused",
        "RFC 9110 10.1.1",
        Practice,
        "what is refused is refused before the body",
        |ctx| {
            ctx.blob_of_1000_bytes()?;
            let request = put(ctx, &ctx.blob(100)).without("X-SHA-256").header("X-SHA-256", "nonsense");
            let request = request.header("Expect", "100-continue");
            let mut connection = ctx.connect()?;
            connection.send_body(&request.head_bytes(&ctx.server));
            match connection.status()? {
                100 => fail(format!("{} -> 100; expected the refusal", request.summary())),
                400..=499 => Ok(()),
                status => fail(format!("{} -> {status}; expected a refusal", request.summary())),
            }
        },
    ),
    rule("expect-unknown", "RFC 9110 10.1.1", Http, "an unknown expectation is ignored or 417", |ctx| {
        let blob = ctx.blob_of_1000_bytes()?;
        ctx.read(&blob)?.header("Expect", "nonsense").send()?.expect(&[200, 307, 308, 417]).map(|_| ())
    }),
    rule("method-unknown", "RFC 9110 9.1", Http, "an unknown method is 501, 405, 404 or 400", |ctx| {
        ctx.request("BREW", "/upload").send()?.expect(&[400, 404, 405, 501]).map(|_| ())
    }),
    rule("method-allow", "RFC 9110 15.5.6", Http, "405 lists the methods in Allow", |ctx| {
        let response = ctx.request("POST", "/upload").body(b"x").send()?;
        if response.status != 405 {
            return skip(format!("{}: not 405", response.summary()));
        }
        response.ensure(response.lists("allow", "PUT"), "Allow does not list PUT")
    }),
    rule("method-trace", "RFC 9110 9.3.8", Safety, "TRACE does not send a token back", |ctx| {
        let request = ctx.request("TRACE", "/").header("Authorization", "Nostr c2VjcmV0");
        let response = request.send()?;
        let text = String::from_utf8_lossy(&response.body);
        response.ensure(!text.contains("c2VjcmV0"), "the token is in the body")
    }),
    rule("host-missing", "RFC 9112 3.2", Http, "400 without Host", |ctx| {
        malformed(ctx, b"GET / HTTP/1.1\r\n\r\n")
    }),
    rule("host-twice", "RFC 9112 3.2", Http, "400 with two Hosts", |ctx| {
        malformed(ctx, b"GET / HTTP/1.1\r\nHost: one.example\r\nHost: two.example\r\n\r\n")
    }),
    rule("target-absolute", "RFC 9112 3.2.2", Http, "a target that is a whole URL is accepted", |ctx| {
        let blob = ctx.blob_of_1000_bytes()?;
        let path = ctx.server.url(&blob.path());
        let response = ctx.read_path("GET", &path, &blob.sha256)?.send()?;
        response.expect(&[200, 307, 308])?;
        response.ensure(response.status != 200 || response.body == blob.bytes, "other bytes came")
    }),
    rule("http-1-0", "RFC 9110 6.2", Http, "an HTTP/1.0 client gets the blob without chunks", |ctx| {
        let blob = ctx.blob_of_1000_bytes()?;
        let request = ctx.read(&blob)?;
        let text = String::from_utf8_lossy(&request.bytes()).replacen("HTTP/1.1", "HTTP/1.0", 1);
        let mut connection = ctx.connect()?;
        connection.send_body(text.as_bytes());
        let response = request.receive(&mut connection)?;
        response.expect(&[200, 307, 308])?;
        response.ensure(response.header("transfer-encoding").is_none(), "Transfer-Encoding for HTTP/1.0")?;
        response.ensure(response.status != 200 || response.body == blob.bytes, "other bytes came")
    }),
    rule("head-colon-space", "RFC 9112 5.1", Http, "400 with a space before a colon", |ctx| {
        malformed(ctx, &with_line(ctx, "X-Name : value"))
    }),
    rule("head-no-colon", SYNTAX, Http, "400 with a line that is no header", |ctx| {
        malformed(ctx, &with_line(ctx, "this is no header"))
    }),
    rule("head-nul", SYNTAX, Safety, "400 with a NUL in a header", |ctx| {
        malformed(ctx, &with_line(ctx, "X-Name: a\0b"))
    }),
    rule("head-garbage", SYNTAX, Safety, "what is no HTTP is refused, or the connection closed", |ctx| {
        for text in ["\r\n\r\nx\r\n\r\n", "GET\r\n\r\n", "GET / HTTP/9.9\r\n\r\n", "\u{1}\u{2}\u{3}\r\n\r\n"]
        {
            malformed(ctx, text.as_bytes())?;
        }
        ctx.expect_alive()
    }),
    rule(
        "head-giant",
        "RFC 9110 5.4",
        Safety,
        "a header of 2 MB is refused, or the connection closed",
        |ctx| {
            malformed(ctx, &with_line(ctx, &format!("X-Name: {}", "x".repeat(2 << 20))))?;
            ctx.expect_alive()
        },
    ),
    rule(
        "head-many",
        "RFC 9110 5.4",
        Safety,
        "20,000 headers are refused, or the connection closed",
        |ctx| {
            let lines: Vec<String> = (0..20_000).map(|at| format!("X-{at}: x")).collect();
            malformed(ctx, &with_line(ctx, &lines.join("\r\n")))?;
            ctx.expect_alive()
        },
    ),
    rule("head-slow", MESSAGE, Practice, "a head that comes byte by byte is answered", |ctx| {
        let request = ctx.head("/");
        let bytes = request.bytes();
        let mut connection = ctx.connect()?;
        for piece in bytes.chunks(bytes.len().div_ceil(8)) {
            connection.send_body(piece);
            std::thread::sleep(ctx.options.body_pause / 4);
        }
        request.receive(&mut connection)?.expect_no_breakdown().map(|_| ())
    }),
];

/// Sends the head with `Expect: 100-continue`, and the body only when the server asks for it.
pub(super) fn continues(ctx: &Context, request: &Request<'_>) -> Check {
    let request = request.clone().header("Expect", "100-continue");
    let mut connection = ctx.connect()?;
    let head = request.head_bytes(&ctx.server);
    connection.send_body(&head);
    match connection.status() {
        Ok(100) => {}
        Ok(status) => return fail(format!("{} -> {status}; expected 100", request.summary())),
        Err(error) => return fail(format!("{}: {error}; expected 100", request.summary())),
    }
    connection.send_body(&request.bytes()[head.len()..]);
    request.receive(&mut connection)?.expect(&[201]).map(|_| ())
}

/// Sends the request with a large body, as browsers do: first all of it, whatever the server answers meanwhile. If
/// the connection is reset, they show an error instead of the response.
fn read_to_the_end(ctx: &Context, request: &Request<'_>, statuses: &[u16]) -> Check {
    let mut connection = ctx.connect()?;
    if let Err(error) = connection.send(&request.bytes()) {
        return fail(format!("{}: {error}, while the body was sent", request.summary()));
    }
    request.receive(&mut connection)?.expect(statuses).map(|_| ())
}

/// Behind the response to `request` the same connection serves a blob, or is closed.
fn then_right(ctx: &Context, request: &Request<'_>) -> Check {
    let mut connection = ctx.connect()?;
    let response = request.send_on(&mut connection, &ctx.server)?;
    if response.lists("connection", "close") {
        return Ok(());
    }
    let blob = ctx.blob_of_1000_bytes()?;
    let next = ctx.read(&blob)?;
    connection.send_body(&next.bytes());
    match next.receive(&mut connection) {
        Ok(response) if (300..400).contains(&response.status) => Ok(()),
        Ok(response) => response.ensure(
            response.status == 200 && response.body == blob.bytes,
            &format!("it came after {} on one connection", request.summary()),
        ),
        Err(TestError::Fail(text)) if text.contains("closed without a response") => Ok(()),
        Err(TestError::Fail(text)) => fail(format!("{text}; it came after {}", request.summary())),
        skip => skip.map(|_| ()),
    }
}

/// A request for `/` with one more line in its head.
fn with_line(ctx: &Context, line: &str) -> Vec<u8> {
    format!("GET / HTTP/1.1\r\nHost: {}\r\n{line}\r\n\r\n", ctx.server.authority).into_bytes()
}

/// The answer to these bytes is 4xx (or 501, 505), or the end of the connection.
fn malformed(ctx: &Context, bytes: &[u8]) -> Check {
    let mut connection: Connection = ctx.connect()?;
    connection.send_body(bytes);
    connection.finish_sending();
    let seen: String = String::from_utf8_lossy(&bytes[..bytes.len().min(120)]).into_owned();
    match connection.status() {
        Ok(400..=499 | 501 | 505) => Ok(()),
        Ok(status) => fail(format!("{seen:?} -> {status}; expected 400, or the end of the connection")),
        Err(error) if error.kind() == std::io::ErrorKind::TimedOut => {
            fail(format!("{seen:?}: {error}, and the connection is still open"))
        }
        Err(_) => Ok(()),
    }
}
