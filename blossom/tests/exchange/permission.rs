//! Who may upload.

use crate::world::{check, hash, host, pubkey, token, upload};
use relay_blossom::testing::Request;

#[test]
fn who_may_upload_by_settings_and_lists() {
    // Keys: 1 administrator, 2 may publish, 3 in upload_pubkeys, 4 denied, 5 a stranger.
    let cases = [
        ("open by default on loopback", None, true, [true, true, true, false, true]),
        ("closed by default elsewhere", None, false, [true, true, true, false, false]),
        ("opened", Some(true), false, [true, true, true, false, true]),
        ("closed on loopback", Some(false), true, [true, true, true, false, false]),
    ];
    for (what, open, is_local, may) in cases {
        let mut host = host();
        host.settings.open = open;
        host.is_local = is_local;
        host.admins = vec![pubkey(1)];
        host.allowed = Some(vec![pubkey(2), pubkey(4)]);
        host.settings.upload_pubkeys = vec![pubkey(3), pubkey(4)];
        host.denied = vec![pubkey(4)];
        for (number, may) in (1..).zip(may) {
            let body: &[u8] = b"bytes";
            let hashes = [hash(body)];
            let token = |verb: &str| token(number, verb, &hashes);
            let with = |method: &str, target: &str, verb: &str| {
                Request::new(method, target).with("authorization", &token(verb)).body(body)
            };
            let ask = |target: &str, verb: &str| {
                Request::new("HEAD", target).with("authorization", &token(verb)).with("x-content-length", "5")
            };
            let part = with("PATCH", &format!("/{}", hashes[0]), "upload")
                .with("content-type", "application/octet-stream")
                .with("upload-type", "text/plain")
                .with("upload-length", "5")
                .with("upload-offset", "0");
            let requests = [
                ("HEAD /upload", ask("/upload", "upload"), 200),
                ("HEAD /media", ask("/media", "media"), 422),
                ("PATCH", part, 201),
                ("PUT /upload", upload(number, body), 200),
                ("PUT /mirror", with("PUT", "/mirror", "upload"), 400),
                ("PUT /media", with("PUT", "/media", "media"), 422),
            ];
            for (request, sent, status) in requests {
                let reply = host.send(&sent);
                let status = match (may, request) {
                    (false, _) => 403,
                    // The first key that may has stored it.
                    (true, "PATCH") if number > 1 => 200,
                    _ => status,
                };
                check(&format!("{what}: {request} by key {number}"), &reply, status);
                assert!(may || reply.steps.is_empty(), "{what}: {:?}", reply.steps);
            }
        }
    }
}

#[test]
fn nobody_uploads_without_a_token() {
    let mut host = host();
    for (method, target) in [
        ("PUT", "/upload"),
        ("PUT", "/media"),
        ("PUT", "/mirror"),
        ("PUT", "/0000000000000000000000000000000000000000000000000000000000000000"),
        ("HEAD", "/upload"),
        ("HEAD", "/media"),
        ("DELETE", "/0000000000000000000000000000000000000000000000000000000000000000"),
    ] {
        let request = Request::new(method, target).body(b"a".as_slice()).with("x-content-length", "1");
        let reply = host.send(&request);
        check(&format!("{method} {target}"), &reply, 401);
        assert!(reply.steps.is_empty());
    }
}
