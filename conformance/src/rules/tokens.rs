//! BUD-11: authorization tokens, each validation by itself. `DELETE` is where they are tested, because every server
//! wants a token there; that the other endpoints check tokens likewise is a rule each.

use serde_json::{Value, json};

use crate::blob::{Blob, png};
use crate::context::Context;
use crate::http::Response;
use crate::nostr::{Form, Token, header, now};
use crate::suite::Strength::{Http, Must, Practice, Safety, Should};
use crate::suite::{Check, Rule, TestError, fail, rule, skip};

const KIND: &str = "BUD-11 Validation 1";
const CREATED: &str = "BUD-11 Validation 2";
const EXPIRATION: &str = "BUD-11 Validation 3";
const VERB: &str = "BUD-11 Validation 4";
const SIGNED: &str = "BUD-11 Authorization tokens";
const HEADER: &str = "BUD-11 HTTP Authorization Header";
const STATUS: &str = "BUD-12 DELETE status codes";

pub(super) const RULES: &[Rule] = &[
    rule("token-valid", SIGNED, Must, "a valid token is taken", |ctx| {
        let blob = ctx.stored(30)?;
        ctx.delete_as(&blob.sha256, &ctx.key)?.expect(&[200, 204]).map(|_| ())
    }),
    rule("token-missing", SIGNED, Must, "deleting needs a token", |ctx| {
        let blob = deletable(ctx)?;
        ctx.request("DELETE", &blob.path()).send()?.expect_refusal()?;
        ctx.expect_served(&blob)
    }),
    rule("token-kind", KIND, Must, "a kind other than 24242 is refused", |ctx| refused(ctx, "kind")),
    rule("token-future", CREATED, Must, "created_at in the future is refused", |ctx| refused(ctx, "future")),
    rule("token-no-expiration", EXPIRATION, Must, "no expiration is refused", |ctx| {
        refused(ctx, "no expiration")
    }),
    rule("token-expired", EXPIRATION, Must, "an expiration in the past is refused", |ctx| {
        refused(ctx, "expired")
    }),
    rule("token-expiration-text", EXPIRATION, Must, "an expiration that is no number is refused", |ctx| {
        refused(ctx, "expiration text")
    }),
    rule("token-no-t", VERB, Must, "no t is refused", |ctx| refused(ctx, "no t")),
    rule("token-t", VERB, Must, "another verb is refused", |ctx| refused(ctx, "verb")),
    rule("token-signature", SIGNED, Safety, "a wrong signature is refused", |ctx| refused(ctx, "signature")),
    rule("token-signature-of-other", SIGNED, Safety, "another key's signature is refused", |ctx| {
        refused(ctx, "signature of another")
    }),
    rule("token-changed", SIGNED, Safety, "tags changed after signing are refused", |ctx| {
        refused(ctx, "changed")
    }),
    rule("token-id", SIGNED, Safety, "an id that is not the event's is refused", |ctx| refused(ctx, "id")),
    rule("token-garbage", HEADER, Must, "what is no token is refused, and below 500", |ctx| {
        let blob = deletable(ctx)?;
        let no_event = [json!([]), json!(null), json!("x"), json!({}), json!({"kind": 24242})];
        let events = no_event.iter().map(|value| header(value, Form::Url));
        let texts = ["Nostr", "Nostr ", "Nostr !!!", "Nostr bm90IGpzb24", "Nostr /w==", "Bearer abc", "x"];
        for value in events.chain(texts.map(str::to_owned)) {
            let request = ctx.request("DELETE", &blob.path()).header("Authorization", &value);
            request.send()?.expect_refusal()?;
        }
        ctx.expect_served(&blob)
    }),
    rule("token-fields", HEADER, Safety, "fields of wrong types are refused, and below 500", |ctx| {
        let blob = deletable(ctx)?;
        let good = Token::new("delete").x(&blob.sha256).event(&ctx.key);
        let wrong = [json!(null), json!(-1), json!("x"), json!([[1]]), json!({}), json!(1e300)];
        for field in ["id", "pubkey", "created_at", "kind", "tags", "content", "sig"] {
            for value in &wrong {
                let mut event = good.clone();
                event[field] = value.clone();
                ctx.request("DELETE", &blob.path()).event(&event).send()?.expect_refusal()?;
            }
        }
        ctx.expect_served(&blob)
    }),
    rule("token-huge", HEADER, Safety, "a token of 200 KB is refused, and below 500", |ctx| {
        let blob = deletable(ctx)?;
        let mut token = Token::new("delete");
        token.content = "x".repeat(150_000);
        let request = ctx.request("DELETE", &blob.path()).token(&token, &ctx.key);
        // The server may also close the connection.
        if let Ok(response) = request.send() {
            response.expect_refusal()?;
        }
        ctx.expect_served(&blob)
    }),
    rule("token-deep", HEADER, Safety, "deeply nested JSON is refused, and below 500", |ctx| {
        let blob = deletable(ctx)?;
        let text = "[".repeat(4000);
        let value = format!("Nostr {}", crate::nostr::base64(text.as_bytes(), Form::Url));
        let request = ctx.request("DELETE", &blob.path()).header("Authorization", &value);
        request.send()?.expect_refusal()?;
        ctx.expect_served(&blob)
    }),
    rule("token-many-tags", HEADER, Practice, "a token for a hundred blobs is taken", |ctx| {
        let blob = deletable(ctx)?;
        let mut token = Token::new("delete");
        for at in 0..99 {
            token = token.x(&format!("{at:064x}"));
        }
        let request = ctx.request("DELETE", &blob.path());
        request.token(&token.x(&blob.sha256), &ctx.key).send()?.expect(&[200, 204]).map(|_| ())
    }),
    rule("token-base64url", HEADER, Must, "base64url without padding is taken", |ctx| form(ctx, Form::Url)),
    rule("token-base64url-padded", HEADER, Practice, "base64url with padding is taken", |ctx| {
        form(ctx, Form::UrlPadded)
    }),
    rule("token-base64", HEADER, Practice, "standard base64 is taken: many clients send it", |ctx| {
        form(ctx, Form::Standard)
    }),
    rule("token-base64-unpadded", HEADER, Practice, "standard base64 without padding is taken", |ctx| {
        form(ctx, Form::StandardUnpadded)
    }),
    rule("token-scheme-case", "RFC 9110 11.1", Http, "the scheme is Nostr in any case", |ctx| {
        let blob = deletable(ctx)?;
        let value = Token::new("delete").x(&blob.sha256).header(&ctx.key).replacen("Nostr", "nostr", 1);
        let request = ctx.request("DELETE", &blob.path()).header("Authorization", &value);
        request.send()?.expect(&[200, 204]).map(|_| ())
    }),
    rule("token-content-empty", SIGNED, Practice, "an empty content is taken: clients send it", |ctx| {
        let blob = deletable(ctx)?;
        let mut token = Token::new("delete").x(&blob.sha256);
        token.content.clear();
        let request = ctx.request("DELETE", &blob.path()).token(&token, &ctx.key);
        request.send()?.expect(&[200, 204]).map(|_| ())
    }),
    rule("token-fresh", CREATED, Practice, "a token of this very second is taken", |ctx| {
        let blob = deletable(ctx)?;
        let mut token = Token::new("delete").x(&blob.sha256);
        token.created_at = now();
        let request = ctx.request("DELETE", &blob.path()).token(&token, &ctx.key);
        request.send()?.expect(&[200, 204]).map(|_| ())
    }),
    rule("token-long-lived", EXPIRATION, Practice, "a token that is valid for a year is taken", |ctx| {
        let blob = deletable(ctx)?;
        let token = Token::new("delete").x(&blob.sha256);
        let token = token.with("expiration", &(now() + 31_536_000).to_string());
        let request = ctx.request("DELETE", &blob.path()).token(&token, &ctx.key);
        request.send()?.expect(&[200, 204]).map(|_| ())
    }),
    rule("token-defects-401", STATUS, Should, "every defect is 401: clients sign again only then", |ctx| {
        let blob = deletable(ctx)?;
        let mut others = Vec::new();
        for (name, value) in defects(ctx, "delete", &blob.sha256) {
            let status = ctx.request("DELETE", &blob.path()).header("Authorization", &value).send()?.status;
            if status != 401 {
                others.push(format!("{name}: {status}"));
            }
        }
        if others.is_empty() { Ok(()) } else { fail(format!("other statuses: {}", others.join(", "))) }
    }),
    rule("token-missing-401", STATUS, Should, "no token is 401", |ctx| {
        let blob = deletable(ctx)?;
        ctx.request("DELETE", &blob.path()).send()?.expect(&[401]).map(|_| ())
    }),
    rule("token-challenge", "RFC 9110 15.5.2", Http, "401 names the scheme in WWW-Authenticate", |ctx| {
        let response = ctx.request("DELETE", &deletable(ctx)?.path()).send()?;
        response.expect(&[401])?;
        response.ensure(response.header("www-authenticate").is_some(), "no WWW-Authenticate")
    }),
    rule("token-upload", VERB, Must, "PUT /upload validates tokens", |ctx| {
        needed_for_uploads(ctx)?;
        each_refused(ctx, "upload", ctx.blob(30), |blob, value| {
            ctx.put("/upload").header("Authorization", value).blob(blob).send()
        })
    }),
    rule("token-media", VERB, Must, "PUT /media validates tokens", |ctx| {
        super::media::offered(ctx)?;
        needed_for_uploads(ctx)?;
        each_refused(ctx, "media", png(&ctx.blob(30).bytes), |blob, value| {
            ctx.put("/media").header("Authorization", value).blob(blob).send()
        })
    }),
    rule("token-mirror", VERB, Must, "PUT /mirror validates tokens", |ctx| {
        super::mirror::offered(ctx)?;
        needed_for_uploads(ctx)?;
        let send = |blob: &Blob, value: &str| {
            let url = format!("https://blossom.invalid/{}", blob.sha256);
            ctx.put("/mirror").header("Authorization", value).json(&json!({"url": url})).send()
        };
        // How the server answers once the token is taken: there is no such origin.
        let blob = ctx.blob(30);
        let taken = send(&blob, &Token::new("upload").x(&blob.sha256).header(&ctx.key))?.status;
        each_refused(ctx, "upload", blob, |blob, value| {
            let response = send(blob, value)?;
            let refused = response.status == 401 || response.status != taken;
            response.ensure(refused, "the same answer as to a valid token").map(|()| response)
        })
    }),
    rule("token-list", VERB, Must, "GET /list validates tokens, if it wants them", |ctx| {
        super::list::offered(ctx)?;
        let path = format!("/list/{}", ctx.key.pubkey);
        if ctx.get(&path).send()?.status != 401 {
            return skip("lists need no token");
        }
        for (name, value) in defects(ctx, "list", &ctx.blob(1).sha256) {
            let response = ctx.get(&path).header("Authorization", &value).send()?;
            response.ensure(response.status >= 400, &format!("taken: {name}"))?;
        }
        Ok(())
    }),
    rule(
        "token-open-upload",
        SIGNED,
        Safety,
        "on an open server a forged token does not make its key an owner",
        |ctx| {
            if !ctx.uploads_are_open()? {
                return skip("uploads need a token here");
            }
            super::list::offered(ctx)?;
            let blob = ctx.blob(30);
            ctx.note(&blob.sha256, &ctx.key);
            let mut event = Token::new("upload").x(&blob.sha256).event(&ctx.key);
            event["sig"] = Value::from("0".repeat(128));
            let response = ctx.put("/upload").event(&event).blob(&blob).send()?;
            response.expect_no_breakdown()?;
            let list = super::list::list(ctx, &ctx.key, "")?;
            let listed = list.iter().any(|found| found["sha256"] == blob.sha256.as_str());
            response.ensure(!listed, "the blob is in the list of the key that did not sign")
        },
    ),
];

/// A stored blob that its owner may delete.
pub(super) fn deletable(ctx: &Context) -> Result<Blob, TestError> {
    ctx.offered("DELETE", || {
        let blob = ctx.stored(30)?;
        ctx.delete_as(&blob.sha256, &ctx.key)
    })?;
    ctx.stored(30)
}

fn refused(ctx: &Context, name: &str) -> Check {
    let blob = deletable(ctx)?;
    let all = defects(ctx, "delete", &blob.sha256);
    let Some((_, value)) = all.iter().find(|(known, _)| *known == name) else {
        return fail(format!("the suite has no defect {name}"));
    };
    let request = ctx.request("DELETE", &blob.path()).header("Authorization", value);
    request.send()?.expect_refusal()?;
    ctx.expect_served(&blob)
}

fn needed_for_uploads(ctx: &Context) -> Check {
    ctx.blob_of_1000_bytes()?;
    if ctx.uploads_are_open()? { skip("uploads need no token here") } else { Ok(()) }
}

fn each_refused(
    ctx: &Context,
    verb: &str,
    blob: Blob,
    send: impl Fn(&Blob, &str) -> Result<Response, TestError>,
) -> Check {
    for (name, value) in defects(ctx, verb, &blob.sha256) {
        ctx.note(&blob.sha256, &ctx.key);
        let response = send(&blob, &value)?;
        response.ensure((400..500).contains(&response.status), &format!("taken: {name}"))?;
    }
    ctx.expect_absent(&blob.sha256)
}

/// A header for each defect of a token that is otherwise valid for `verb` and this hash.
fn defects(ctx: &Context, verb: &str, sha256: &str) -> Vec<(&'static str, String)> {
    let good = Token::new(verb).x(sha256);
    let signed = |token: Token| token.header(&ctx.key);
    let event = good.event(&ctx.key);
    let changed = |field: &str, value: Value| {
        let mut event = event.clone();
        event[field] = value;
        header(&event, Form::Url)
    };
    let other_verb = if verb == "get" { "upload" } else { "get" };
    let mut tags = good.tags.clone();
    tags.push(vec!["x".to_owned(), "0".repeat(64)]);
    let stranger = good.event(&ctx.stranger);
    let other_id = Token::new(verb).x(&"1".repeat(64)).event(&ctx.key);
    vec![
        ("kind", signed(Token { kind: 27235, ..good.clone() })),
        ("future", signed(Token { created_at: now() + 3600, ..good.clone() })),
        ("no expiration", signed(good.clone().without("expiration"))),
        ("expired", signed(good.clone().with("expiration", &(now() - 600).to_string()))),
        ("expiration text", signed(good.clone().with("expiration", "tomorrow"))),
        ("no t", signed(good.clone().without("t"))),
        ("verb", signed(good.clone().with("t", other_verb))),
        ("signature", changed("sig", Value::from("0".repeat(128)))),
        ("signature of another", changed("sig", stranger["sig"].clone())),
        ("changed", changed("tags", json!(tags))),
        ("id", {
            let mut event = other_id.clone();
            event["tags"] = json!(good.tags);
            header(&event, Form::Url)
        }),
    ]
}

/// A token in this form of base64 deletes a blob, and uploads one.
fn form(ctx: &Context, form: Form) -> Check {
    let blob = deletable(ctx)?;
    let value = Token::new("delete").x(&blob.sha256).header_in(&ctx.key, form);
    let request = ctx.request("DELETE", &blob.path()).header("Authorization", &value);
    request.send()?.expect(&[200, 204])?;
    let blob = ctx.blob(30);
    ctx.note(&blob.sha256, &ctx.key);
    let value = Token::new("upload").x(&blob.sha256).header_in(&ctx.key, form);
    ctx.put("/upload").header("Authorization", &value).blob(&blob).send()?.expect(&[201]).map(|_| ())
}
