//! BUD-12: `DELETE /<sha256>`.

use crate::nostr::Token;
use crate::suite::Strength::{Must, Practice, Safety, Should};
use crate::suite::{Rule, ensure, rule};

use super::tokens::deletable;

const DELETE: &str = "BUD-12 DELETE /sha256";
const STATUS: &str = "BUD-12 DELETE status codes";

pub(super) const RULES: &[Rule] = &[
    rule("delete-accepts", DELETE, Must, "the owner deletes a blob: 200 or 204", |ctx| {
        let blob = ctx.stored(30)?;
        ctx.delete_as(&blob.sha256, &ctx.key)?.expect(&[200, 204]).map(|_| ())
    }),
    rule("delete-gone", DELETE, Must, "a deleted blob is 404", |ctx| {
        let blob = deletable(ctx)?;
        ctx.expect_served(&blob)?;
        ctx.delete_as(&blob.sha256, &ctx.key)?.expect(&[200, 204])?;
        ctx.expect_absent(&blob.sha256)?;
        let head = ctx.read_path("HEAD", &blob.path(), &blob.sha256)?;
        head.send()?.expect(&[404, 410]).map(|_| ())
    }),
    rule("delete-unknown", STATUS, Should, "an unknown blob is 404", |ctx| {
        deletable(ctx)?;
        ctx.delete_as(&ctx.blob(10).sha256, &ctx.key)?.expect(&[404]).map(|_| ())
    }),
    rule("delete-twice", STATUS, Should, "a second DELETE of a blob is 404", |ctx| {
        let blob = deletable(ctx)?;
        ctx.delete_as(&blob.sha256, &ctx.key)?.expect(&[200, 204])?;
        ctx.delete_as(&blob.sha256, &ctx.key)?.expect(&[404]).map(|_| ())
    }),
    rule("delete-stranger", DELETE, Safety, "who did not upload a blob does not delete it", |ctx| {
        let blob = deletable(ctx)?;
        ctx.delete_as(&blob.sha256, &ctx.stranger)?.expect_refusal()?;
        ctx.expect_served(&blob)
    }),
    rule("delete-several-x", DELETE, Must, "several x tags delete one blob: that of the path", |ctx| {
        let (blob, other) = (deletable(ctx)?, ctx.stored(30)?);
        let token = Token::new("delete").x(&other.sha256).x(&blob.sha256);
        let request = ctx.request("DELETE", &blob.path()).token(&token, &ctx.key);
        request.send()?.expect(&[200, 204])?;
        ctx.expect_absent(&blob.sha256)?;
        ctx.expect_served(&other)
    }),
    rule("delete-two-owners", DELETE, Safety, "a blob stays while another owner has it", |ctx| {
        let blob = deletable(ctx)?;
        ctx.store_second(&blob)?;
        ctx.delete_as(&blob.sha256, &ctx.key)?.expect(&[200, 204])?;
        ctx.expect_served(&blob)
    }),
    rule("delete-last-owner", DELETE, Must, "a blob is deleted with its last owner", |ctx| {
        let blob = deletable(ctx)?;
        ctx.store_second(&blob)?;
        ctx.delete_as(&blob.sha256, &ctx.key)?.expect(&[200, 204])?;
        ctx.delete_as(&blob.sha256, &ctx.second)?.expect(&[200, 204])?;
        ctx.expect_absent(&blob.sha256)
    }),
    rule("delete-own-list", DELETE, Must, "a deleted blob is no longer in its owner's list", |ctx| {
        super::list::offered(ctx)?;
        let blob = deletable(ctx)?;
        ctx.store_second(&blob)?;
        ctx.delete_as(&blob.sha256, &ctx.key)?.expect(&[200, 204])?;
        let lists = [super::list::all(ctx, &ctx.key)?, super::list::all(ctx, &ctx.second)?];
        let has = lists.map(|list| list.contains(&blob.sha256));
        ensure(has == [false, true], || format!("in the list of who deleted it, of the other: {has:?}"))
    }),
    rule("delete-not-owner-any-more", DELETE, Safety, "a former owner cannot delete it again", |ctx| {
        let blob = deletable(ctx)?;
        ctx.store_second(&blob)?;
        ctx.delete_as(&blob.sha256, &ctx.key)?.expect(&[200, 204])?;
        ctx.delete_as(&blob.sha256, &ctx.key)?.expect_refusal()?;
        ctx.expect_served(&blob)
    }),
    rule("delete-upload-again", DELETE, Practice, "a deleted blob can be uploaded again", |ctx| {
        let blob = deletable(ctx)?;
        ctx.delete_as(&blob.sha256, &ctx.key)?.expect(&[200, 204])?;
        ctx.upload(&blob)?.expect(&[201])?;
        ctx.expect_served(&blob)
    }),
    rule("delete-malformed", STATUS, Should, "what is no hash is 400, 401 or 404", |ctx| {
        for path in ["/abc", "/upload", "/", "/list"] {
            let token = Token::new("delete").x(&"0".repeat(64));
            let response = ctx.request("DELETE", path).token(&token, &ctx.key).send()?;
            response.expect(&[400, 401, 404, 405])?;
        }
        Ok(())
    }),
];
