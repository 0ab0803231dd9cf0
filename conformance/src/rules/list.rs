//! BUD-12: `GET /list/<pubkey>`.

use serde_json::Value;

use crate::context::Context;
use crate::http::Response;
use crate::nostr::{Key, Token};
use crate::suite::Strength::{Must, Practice, Safety, Should};
use crate::suite::{Check, Rule, TestError, ensure, fail, rule};

const LIST: &str = "BUD-12 GET /list";
const STATUS: &str = "BUD-12 GET /list status codes";

pub(super) const RULES: &[Rule] = &[
    rule("list-descriptors", LIST, Must, "a list is an array of blob descriptors", |ctx| {
        offered(ctx)?;
        ctx.blob_of_1000_bytes()?;
        let response = request(ctx, &ctx.key, "")?;
        let found = array(&response)?;
        found.iter().try_for_each(|item| super::upload::well_formed(&response, item))
    }),
    rule("list-own", LIST, Must, "what a key has uploaded is in its list, once", |ctx| {
        offered(ctx)?;
        let blob = ctx.stored(40)?;
        ctx.upload(&blob)?;
        let count = all(ctx, &ctx.key)?.iter().filter(|sha256| **sha256 == blob.sha256).count();
        ensure(count == 1, || format!("{} is in the list {count} times", blob.sha256))
    }),
    rule("list-others", LIST, Must, "a blob of another key is not in the list", |ctx| {
        offered(ctx)?;
        let blob = ctx.blob(40);
        ctx.store_second(&blob)?;
        let own = all(ctx, &ctx.key)?.contains(&blob.sha256);
        ensure(!own, || format!("{} was uploaded by another key", blob.sha256))
    }),
    rule("list-both", LIST, Must, "a blob of two owners is in both lists", |ctx| {
        offered(ctx)?;
        let blob = ctx.stored(40)?;
        ctx.store_second(&blob)?;
        let lists = [all(ctx, &ctx.key)?, all(ctx, &ctx.second)?];
        ensure(lists.iter().all(|list| list.contains(&blob.sha256)), || {
            format!("{} is not in the lists of both owners", blob.sha256)
        })
    }),
    rule("list-order", LIST, Must, "a list is sorted by uploaded, the newest first", |ctx| {
        offered(ctx)?;
        ctx.stored(40)?;
        std::thread::sleep(std::time::Duration::from_millis(1010));
        ctx.stored(40)?;
        let times: Vec<u64> =
            list(ctx, &ctx.key, "")?.iter().filter_map(|item| item["uploaded"].as_u64()).collect();
        ensure(times.is_sorted_by(|one, other| one >= other), || format!("uploaded: {times:?}"))
    }),
    rule("list-limit", LIST, Must, "`limit` bounds the list", |ctx| {
        several(ctx)?;
        for limit in 1..=3 {
            let found = list(ctx, &ctx.key, &format!("limit={limit}"))?.len();
            ensure(found == limit, || format!("limit={limit} gave {found} of at least 5 blobs"))?;
        }
        Ok(())
    }),
    rule("list-cursor", LIST, Must, "the page after a cursor does not contain it", |ctx| {
        several(ctx)?;
        let first = hashes(&list(ctx, &ctx.key, "limit=2")?);
        let next = hashes(&list(ctx, &ctx.key, &format!("limit=2&cursor={}", first[1]))?);
        ensure(!next.is_empty() && !next.iter().any(|hash| first.contains(hash)), || {
            format!("the first page is {first:?}, the next {next:?}")
        })
    }),
    rule("list-pages", LIST, Must, "pages together are the list: none missing, none twice", |ctx| {
        several(ctx)?;
        // Blobs of one second: a cursor by time alone loses some of them.
        let whole = hashes(&list(ctx, &ctx.key, "limit=50")?);
        let mut pages: Vec<String> = Vec::new();
        while pages.len() < whole.len() {
            let after = pages.last().map_or_else(String::new, |last| format!("&cursor={last}"));
            let page = hashes(&list(ctx, &ctx.key, &format!("limit=2{after}"))?);
            if page.is_empty() {
                break;
            }
            pages.extend(page);
        }
        pages.truncate(whole.len());
        ensure(pages == whole, || format!("pages of 2 gave {pages:?}, the list is {whole:?}"))
    }),
    rule("list-cursor-last", LIST, Must, "after the last blob there is nothing", |ctx| {
        several(ctx)?;
        let Some(last) = all(ctx, &ctx.key)?.pop() else { return fail("the list is empty") };
        let found = list(ctx, &ctx.key, &format!("cursor={last}"))?;
        ensure(found.is_empty(), || format!("{} blobs after the last", found.len()))
    }),
    rule("list-unknown-key", LIST, Must, "the list of a key without blobs is empty", |ctx| {
        offered(ctx)?;
        let found = list(ctx, &ctx.stranger, "")?;
        ensure(found.is_empty(), || format!("{} blobs", found.len()))
    }),
    rule("list-deleted", LIST, Must, "a deleted blob is in no list", |ctx| {
        offered(ctx)?;
        let blob = super::tokens::deletable(ctx)?;
        ctx.delete_as(&blob.sha256, &ctx.key)?.expect(&[200, 204])?;
        let listed = all(ctx, &ctx.key)?.contains(&blob.sha256);
        ensure(!listed, || format!("{} is still in the list", blob.sha256))
    }),
    rule("list-bad-limit", STATUS, Should, "400 if limit is no number", |ctx| {
        offered(ctx)?;
        for limit in ["abc", "-1", "1.5", "1e3"] {
            request(ctx, &ctx.key, &format!("limit={limit}"))?.expect(&[400])?;
        }
        Ok(())
    }),
    rule("list-bad-cursor", STATUS, Should, "400 if the cursor is no hash", |ctx| {
        offered(ctx)?;
        for cursor in ["abc", "1700000000", &"g".repeat(64)] {
            request(ctx, &ctx.key, &format!("cursor={cursor}"))?.expect(&[400])?;
        }
        Ok(())
    }),
    rule("list-cursor-unknown", STATUS, Practice, "a cursor that is gone is answered below 500", |ctx| {
        offered(ctx)?;
        let cursor = ctx.blob(1).sha256;
        request(ctx, &ctx.key, &format!("cursor={cursor}"))?.expect(&[200, 400, 404]).map(|_| ())
    }),
    rule("list-huge-limit", LIST, Safety, "limits of any size are answered below 500", |ctx| {
        offered(ctx)?;
        for limit in ["0", "1000000", "18446744073709551615", &"9".repeat(40)] {
            request(ctx, &ctx.key, &format!("limit={limit}"))?.expect_no_breakdown()?;
        }
        Ok(())
    }),
    rule("list-bad-key", STATUS, Should, "400 or 404 if the key is not 64 hex digits", |ctx| {
        offered(ctx)?;
        for key in [
            "abc",
            &"g".repeat(64),
            &"a".repeat(63),
            "npub1qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqq",
        ] {
            let token = Token::new("list");
            let response = ctx.get(&format!("/list/{key}")).token(&token, &ctx.key).send()?;
            response.expect(&[400, 404])?;
        }
        Ok(())
    }),
    rule("list-injection", LIST, Safety, "quotes and SQL in parameters change nothing", |ctx| {
        offered(ctx)?;
        let before = ctx.stored(40)?;
        for text in ["'%20OR%201=1--", "%22%3B%20DROP%20TABLE%20blobs%3B--", "%00", "%ff", "1%27"] {
            for name in ["limit", "cursor", "since", "until"] {
                request(ctx, &ctx.key, &format!("{name}={text}"))?.expect_no_breakdown()?;
            }
        }
        ctx.expect_served(&before)
    }),
];

/// Skips unless the server lists blobs.
pub(super) fn offered(ctx: &Context) -> Check {
    ctx.offered("GET /list", || request(ctx, &ctx.key, ""))
}

fn request(ctx: &Context, key: &Key, query: &str) -> Result<Response, TestError> {
    let end = if query.is_empty() { String::new() } else { format!("?{query}") };
    let path = format!("/list/{}{end}", key.pubkey);
    let response = ctx.get(&path).send()?;
    if matches!(response.status, 401 | 403) {
        return ctx.get(&path).token(&Token::new("list"), key).send();
    }
    Ok(response)
}

/// One page of a key's list.
pub(super) fn list(ctx: &Context, key: &Key, query: &str) -> Result<Vec<Value>, TestError> {
    let response = request(ctx, key, query)?;
    array(&response)
}

fn array(response: &Response) -> Result<Vec<Value>, TestError> {
    response.expect(&[200])?;
    match response.json() {
        Some(Value::Array(items)) => Ok(items),
        _ => fail(format!("{}; no JSON array", response.summary())),
    }
}

fn hashes(items: &[Value]) -> Vec<String> {
    items.iter().filter_map(|item| item["sha256"].as_str()).map(str::to_owned).collect()
}

/// All of a key's list, page by page.
pub(super) fn all(ctx: &Context, key: &Key) -> Result<Vec<String>, TestError> {
    let mut all: Vec<String> = hashes(&list(ctx, key, "")?);
    let mut last = all.last().cloned();
    for _ in 0..200 {
        let Some(cursor) = last else { break };
        let page = hashes(&list(ctx, key, &format!("cursor={cursor}"))?);
        last = page.last().cloned();
        all.extend(page);
    }
    Ok(all)
}

/// Makes sure that the key has at least five blobs.
fn several(ctx: &Context) -> Check {
    offered(ctx)?;
    for _ in list(ctx, &ctx.key, "")?.len()..5 {
        ctx.stored(40)?;
    }
    Ok(())
}
