//! DELETE (BUD-12).

use relay_blossom::Sha256;
use relay_blossom::testing::Request;

use crate::world::{check, get, hash, host, stored, token, upload};

const BODY: &[u8] = b"to be deleted";

fn delete(number: u64, target: &str, verb: &str, hashes: &[Sha256]) -> Request {
    Request::new("DELETE", target).with("authorization", &token(number, verb, hashes))
}

#[test]
fn an_owner_deletes_a_blob() {
    let mut host = host();
    let path = stored(&mut host, "image/png", BODY);
    let (own, other) = (hash(BODY), hash(b"other"));
    let cases = [
        ("no token", Request::new("DELETE", &path), 401),
        ("a token to upload", delete(1, &path, "upload", &[own]), 401),
        ("a token without x", delete(1, &path, "delete", &[]), 401),
        ("a token for another blob", delete(1, &path, "delete", &[other]), 401),
        ("not the owner", delete(2, &path, "delete", &[own]), 403),
        ("another blob", delete(1, &format!("/{other}"), "delete", &[other]), 404),
        ("a malformed hash", delete(1, &path[..64], "delete", &[own]), 400),
        ("a word", delete(1, "/word", "delete", &[own]), 404),
    ];
    for (what, request, status) in cases {
        check(what, &host.send(&request), status);
        check(what, &get(&mut host, &path), 200);
    }
    let request = delete(1, &format!("{path}.png"), "delete", &[own]);
    let reply = host.send(&request);
    check("deleted", &reply, 204);
    assert!(reply.body.is_empty() && reply.header("content-length").is_none());
    check("gone", &get(&mut host, &path), 404);
    assert!(host.objects.is_empty(), "its bytes too");
    check("twice", &host.send(&request), 404);
    check("it may come again", &host.send(&upload(1, BODY)), 201);
}

#[test]
fn a_blob_is_deleted_with_its_last_owner() {
    let mut host = host();
    let path = stored(&mut host, "image/png", BODY);
    check("second owner", &host.send(&upload(2, BODY)), 200);
    check("first deletes", &host.send(&delete(1, &path, "delete", &[hash(BODY)])), 204);
    check("still here", &get(&mut host, &path), 200);
    check("no longer an owner", &host.send(&delete(1, &path, "delete", &[hash(BODY)])), 403);
    check("second deletes", &host.send(&delete(2, &path, "delete", &[hash(BODY)])), 204);
    check("gone", &get(&mut host, &path), 404);
}

#[test]
fn several_x_tags_delete_one_blob() {
    let mut host = host();
    let path = stored(&mut host, "image/png", BODY);
    let kept = stored(&mut host, "image/png", b"kept");
    let hashes = [hash(b"kept"), hash(BODY)];
    check("deleted", &host.send(&delete(1, &path, "delete", &hashes)), 204);
    check("gone", &get(&mut host, &path), 404);
    check("kept", &get(&mut host, &kept), 200);
}
