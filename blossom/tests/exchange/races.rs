//! What happens to an upload while its bytes come.

use bytes::Bytes;
use relay_blossom::testing::{Object, Request};
use relay_blossom::{Command, Outcome};

use crate::world::{NOW, check, get, hash, host, token, upload};

const BODY: &[u8] = b"a slow upload";

fn delete(number: u64) -> Request {
    let token = token(number, "delete", &[hash(BODY)]);
    Request::new("DELETE", &format!("/{}", hash(BODY))).with("authorization", &token)
}

#[test]
fn of_two_uploads_of_a_blob_one_is_first() {
    let mut host = host();
    host.meanwhile = Some(|host| check("the fast one", &host.send(&upload(2, BODY)), 201));
    check("the slow one", &host.send(&upload(1, BODY)), 200);
    assert_eq!(host.objects.len(), 1);
    check("first owner deletes", &host.send(&delete(2)), 204);
    assert_eq!(get(&mut host, &format!("/{}", hash(BODY))).body, BODY, "it is the other's");
    check("second deletes", &host.send(&delete(1)), 204);
    assert!(host.objects.is_empty());
}

/// A slow upload of another type must not change how a blob is served that is live, nor may the index say another type than a store
/// that has the bytes of an upload that is not finished yet.
#[test]
fn the_type_of_bytes_that_were_there_already_is_the_blobs() {
    let plain = |request: Request| request.with("content-type", "text/plain");
    let staged = || {
        let token = token(1, "upload", &[hash(BODY), hash(b"other")]);
        Request::new("PUT", "/upload").with("authorization", &token).body(BODY)
    };
    let path = format!("/{}", hash(BODY));
    for (what, request) in [("slow", plain(upload(1, BODY))), ("staged", plain(staged()))] {
        let mut host = host();
        host.meanwhile = Some(|host| {
            let video = upload(2, BODY).with("content-type", "video/mp4");
            check("the fast one", &host.send(&video), 201);
        });
        check(what, &host.send(&request), 200);
        assert_eq!(get(&mut host, &path).header("content-type"), Some("video/mp4"), "{what}");
        assert_eq!(host.objects[&hash(BODY).to_string()].mime, "video/mp4", "{what}");

        let mut host = crate::world::host();
        host.meanwhile = Some(|host| {
            // Of an upload whose end the index has not been told.
            let (mime, bytes) = ("video/mp4".to_owned(), Bytes::from_static(BODY));
            host.objects.insert(hash(BODY).to_string(), Object { bytes, mime, expires_at: None });
        });
        check(what, &host.send(&request), 201);
        let found = host.index.run(NOW, Command::Get(hash(BODY))).unwrap();
        assert!(matches!(&found, Outcome::Blob(blob) if blob.mime == "video/mp4"), "{what}: {found:?}");
    }
}

#[test]
fn a_delete_by_the_last_owner_ends_uploads_that_are_under_way() {
    let mut host = host();
    host.meanwhile = Some(|host| {
        check("the fast one", &host.send(&upload(2, BODY)), 201);
        check("is deleted", &host.send(&delete(2)), 204);
    });
    check("the slow one", &host.send(&upload(1, BODY)), 503);
    check("not there", &get(&mut host, &format!("/{}", hash(BODY))), 404);
    assert!(host.objects.is_empty());
    check("again", &host.send(&upload(1, BODY)), 201);
    assert_eq!(get(&mut host, &format!("/{}", hash(BODY))).body, BODY);
}

#[test]
fn a_ban_during_an_upload_wins() {
    let staged = || {
        let token = token(1, "upload", &[hash(BODY), hash(b"other")]);
        Request::new("PUT", "/upload").with("authorization", &token).body(BODY)
    };
    for request in [upload(1, BODY), staged()] {
        let mut host = host();
        host.meanwhile = Some(|host| {
            let ban = Command::Ban { sha256: hash(BODY), reason: "spam".to_owned() };
            host.index.run(NOW, ban).unwrap();
        });
        let reply = host.send(&request);
        check("banned", &reply, 403);
        check("not there", &get(&mut host, &format!("/{}", hash(BODY))), 404);
        assert!(host.objects.is_empty(), "{:?}", reply.steps);
    }
}

#[test]
fn an_upload_that_was_given_up_is_503() {
    let mut host = host();
    host.meanwhile = Some(|host| {
        host.index.run(NOW, Command::Restart).unwrap();
    });
    check("given up", &host.send(&upload(1, BODY)), 503);
    assert!(host.objects.is_empty());
    check("again", &host.send(&upload(1, BODY)), 201);
}
