//! The administrators' API, signed by NIP-98.

use relay_blossom::testing::{Host, Request};
use serde_json::json;

use crate::world::{NOW, check, get, hash, host, pubkey, signed, stored, upload};

const BODY: &[u8] = b"a blob";

fn with_admin() -> Host<'static> {
    let mut host = host();
    host.admins = vec![pubkey(9)];
    host
}

#[test]
fn only_administrators_and_each_signature_once() {
    let targets = [
        ("GET", "/blossom/blobs".to_owned()),
        ("GET", format!("/blossom/blobs/{}", hash(BODY))),
        ("DELETE", format!("/blossom/blobs/{}", hash(BODY))),
        ("GET", "/blossom/bans".to_owned()),
        ("PUT", format!("/blossom/bans/{}", hash(BODY))),
        ("DELETE", format!("/blossom/bans/{}", hash(BODY))),
        ("GET", "/blossom/reports".to_owned()),
        ("POST", "/blossom/gc".to_owned()),
    ];
    let mut host = with_admin();
    let path = stored(&mut host, "image/png", BODY);
    for (method, target) in &targets {
        check(target, &host.send(&Request::new(method, target)), 401);
        check(target, &host.send(&signed(1, method, target, b"")), 403);
        let elsewhere = Request { target: format!("{target}?x=1"), ..signed(9, method, target, b"") };
        check(target, &host.send(&elsewhere), 401);
        check(target, &get(&mut host, &path), 200);
    }
    for (method, target) in targets {
        let request = signed(9, method, &target, b"");
        let reply = host.send(&request);
        assert!(matches!(reply.status, 200 | 204 | 404), "{method} {target}: {reply:?}");
        let again = host.send(&request);
        check("replayed", &again, 401);
        assert_eq!(again.steps, ["MarkEventUsed"]);
    }
}

#[test]
fn a_body_is_the_one_that_was_signed() {
    let mut host = with_admin();
    let target = format!("/blossom/bans/{}", hash(BODY));
    let request = signed(9, "PUT", &target, b"{\"reason\":\"eggs\"}");
    let changed = Request { body: b"{\"reason\":\"spam\"}".as_slice().into(), ..request };
    check("changed", &host.send(&changed), 401);
    let cases: [(&'static [u8], u16); 4] =
        [(b"spam", 400), (b"{\"because\":\"spam\"}", 400), (b"{\"reason\":\"spam\"}", 204), (b"", 204)];
    for (body, status) in cases {
        check("body", &host.send(&signed(9, "PUT", &target, body)), status);
    }
    let long = format!("{{\"reason\":\"{}\"}}", "a".repeat(501)).leak();
    check("long", &host.send(&signed(9, "PUT", &target, long.as_bytes())), 400);
}

#[test]
fn blobs_are_listed_shown_and_removed() {
    let mut host = with_admin();
    let path = stored(&mut host, "image/png", BODY);
    check("second owner", &host.send(&upload(2, BODY)), 200);
    let reply = host.send(&signed(9, "GET", "/blossom/blobs?limit=10", b""));
    check("list", &reply, 200);
    assert_eq!(reply.json()["blobs"][0]["sha256"], json!(hash(BODY)));
    let of_nobody = format!("/blossom/blobs?owner={}", pubkey(3));
    assert_eq!(host.send(&signed(9, "GET", &of_nobody, b"")).json(), json!({ "blobs": [] }));
    check("bad", &host.send(&signed(9, "GET", "/blossom/blobs?owner=abc", b"")), 400);
    let target = format!("/blossom/blobs{path}");
    let stat = host.send(&signed(9, "GET", &target, b"")).json();
    assert_eq!(stat["blob"]["size"], 6);
    let owners = stat["owners"].as_array().unwrap();
    assert_eq!(owners.len(), 2);
    check("removed", &host.send(&signed(9, "DELETE", &target, b"")), 204);
    check("gone, whoever owns it", &get(&mut host, &path), 404);
    host.now += 1;
    check("twice", &host.send(&signed(9, "DELETE", "/blossom/blobs/abc", b"")), 400);
    check("it may come again", &host.send(&upload(1, BODY)), 201);
}

#[test]
fn a_ban_holds_until_it_is_lifted() {
    let mut host = with_admin();
    let path = stored(&mut host, "image/png", BODY);
    let target = format!("/blossom/bans{path}");
    check("banned", &host.send(&signed(9, "PUT", &target, b"{\"reason\":\"spam\"}")), 204);
    check("gone", &get(&mut host, &path), 404);
    check("refused", &host.send(&upload(1, BODY)), 403);
    let bans = host.send(&signed(9, "GET", "/blossom/bans", b"")).json();
    assert_eq!(bans, json!({ "bans": [{ "sha256": hash(BODY), "reason": "spam", "at": NOW }] }));
    check("lifted", &host.send(&signed(9, "DELETE", &target, b"")), 204);
    check("taken", &host.send(&upload(1, BODY)), 201);
    host.now += 1;
    // The same request a second later is another event.
    let later = Request { ..signed(9, "GET", "/blossom/reports", b"") };
    assert_eq!(host.send(&later).json(), json!({ "reports": [] }));
    assert!(host.send(&signed(9, "POST", "/blossom/gc", b"")).json().get("next").is_some());
}

#[test]
fn without_a_configured_url_administrators_come_from_this_machine() {
    let mut host = with_admin();
    host.has_url = false;
    let request = signed(9, "GET", "/blossom/bans", b"");
    check("by a name that may be another server's", &host.send(&request), 403);
    host.base_url = "http://127.0.0.1:7777";
    let at_home = crate::world::signed_at(host.base_url, 9, "GET", "/blossom/bans", b"");
    check("at home", &host.send(&at_home), 200);
}
