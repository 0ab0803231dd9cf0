//! PATCH (BUD-14): uploads in parts.

use bytes::Bytes;
use relay_blossom::exchange::StepError;
use relay_blossom::index::{PartHead, Wanted};
use relay_blossom::testing::{Host, Object, Reply, Request};
use relay_blossom::{Command, Outcome};

use crate::world::{NOW, check, get, hash, host, pubkey, token};

const BLOB: &[u8] = b"0123456789abcdefghij";

/// A part of [`BLOB`]; replaces headers by those given.
fn part(range: std::ops::Range<usize>, other: &[(&str, Option<&str>)]) -> Request {
    let headers = [
        ("content-type", "application/octet-stream".to_owned()),
        ("upload-type", "image/png".to_owned()),
        ("upload-length", "20".to_owned()),
        ("upload-offset", range.start.to_string()),
        ("content-length", range.len().to_string()),
        ("authorization", token(1, "upload", &[hash(BLOB)])),
    ];
    let mut request = Request::new("PATCH", &format!("/{}", hash(BLOB)));
    for (name, value) in headers {
        match other.iter().find(|(own, _)| *own == name) {
            Some((_, Some(value))) => request = request.with(name, value),
            Some((_, None)) => {}
            None => request = request.with(name, &value),
        }
    }
    Request { body: Bytes::from_static(&BLOB[range]), ..request }
}

fn send(host: &mut Host<'_>, range: std::ops::Range<usize>) -> Reply {
    host.send(&part(range, &[]))
}

#[test]
fn parts_in_any_order_with_overlaps_make_a_blob() {
    let orders: [&[(usize, usize)]; 5] = [
        &[(0, 10), (10, 20)],
        &[(10, 20), (0, 10)],
        &[(15, 20), (5, 16), (0, 6)],
        &[(0, 20)],
        &[(0, 5), (0, 5), (5, 20)],
    ];
    for order in orders {
        let mut host = host();
        let mut is_new = std::collections::BTreeSet::new();
        let (last, others) = order.split_last().unwrap();
        for (start, end) in others {
            let reply = send(&mut host, *start..*end);
            check("a part", &reply, 204);
            let steps = ["Ask(BeginPart)", "Receive", "Ask(FinishPart)"];
            let blob_exists = !is_new.insert((start, end));
            assert_eq!(reply.steps, &steps[..if blob_exists { 1 } else { 3 }], "what is here is not read");
            check("not there yet", &get(&mut host, &format!("/{}", hash(BLOB))), 404);
        }
        let reply = send(&mut host, last.0..last.1);
        check("the last part", &reply, 201);
        assert_eq!(reply.json()["type"], "image/png");
        assert_eq!(reply.json()["size"], 20);
        assert_eq!(get(&mut host, &format!("/{}", hash(BLOB))).body, BLOB, "{order:?}");
        assert_eq!(host.objects.len(), 1, "the parts are removed");
        let reply = send(&mut host, 0..10);
        check("it is here", &reply, 200);
        assert_eq!(reply.steps, ["Ask(BeginPart)"]);
    }
}

#[test]
fn heads_of_parts_are_checked() {
    let other = token(1, "upload", &[hash(b"other")]);
    let list = token(1, "list", &[hash(BLOB)]);
    let cases: [(&str, Request, u16); 17] = [
        ("no length", part(0..10, &[("content-length", None)]), 411),
        ("a length that is no number", part(0..10, &[("content-length", Some("x"))]), 400),
        ("no type of the part", part(0..10, &[("content-type", None)]), 400),
        ("another type of the part", part(0..10, &[("content-type", Some("image/png"))]), 400),
        ("no type of the blob", part(0..10, &[("upload-type", None)]), 400),
        ("a malformed type of the blob", part(0..10, &[("upload-type", Some("png"))]), 400),
        ("a refused type", part(0..10, &[("upload-type", Some("text/html"))]), 415),
        ("no length of the blob", part(0..10, &[("upload-length", None)]), 400),
        ("too long a blob", part(0..10, &[("upload-length", Some("1001"))]), 413),
        ("too long a part", part(0..10, &[("content-length", Some("1001"))]), 413),
        ("no offset", part(0..10, &[("upload-offset", None)]), 400),
        ("a negative offset", part(0..10, &[("upload-offset", Some("-1"))]), 400),
        ("past the end", part(0..10, &[("upload-offset", Some("11"))]), 416),
        ("far past the end", part(0..10, &[("upload-offset", Some("99999999999999999999999"))]), 416),
        ("an empty part", part(5..5, &[]), 400),
        ("a token for another blob", part(0..10, &[("authorization", Some(&other))]), 401),
        ("a token for lists", part(0..10, &[("authorization", Some(&list))]), 401),
    ];
    let mut host = host();
    host.settings.blob_bytes_max = 1_000;
    host.settings.deny_types = vec!["text/html".to_owned()];
    for (what, request, status) in cases {
        let reply = host.send(&request);
        check(what, &reply, status);
        assert!(reply.steps.is_empty(), "{what}");
    }
    check("a good part", &send(&mut host, 0..10), 204);
    let other_length = part(10..20, &[("upload-length", Some("21"))]);
    check("another length of the blob", &host.send(&other_length), 400);
    check("the last part", &send(&mut host, 10..20), 201);
}

#[test]
fn a_part_that_fails_is_sent_again() {
    let mut host = host();
    check("first", &send(&mut host, 0..10), 204);
    host.failure = Some(StepError::Incomplete);
    let reply = send(&mut host, 10..20);
    check("broken off", &reply, 400);
    assert_eq!(reply.steps, ["Ask(BeginPart)", "Receive", "Ask(AbortPart)"]);
    check("again", &send(&mut host, 10..20), 201);
    assert_eq!(host.objects.len(), 1);
}

#[test]
fn a_store_that_fails_to_join_keeps_the_parts() {
    let mut host = host();
    check("first", &send(&mut host, 0..10), 204);
    let Outcome::Begun { upload, key } = begin_last(&mut host) else { panic!("begun") };
    host.index.run(NOW, Command::FinishPart { upload, key }).unwrap();
    host.index.run(NOW, Command::Abort { upload }).unwrap();
    let reply = send(&mut host, 10..20);
    check("the last one again", &reply, 201);
    assert_eq!(reply.steps, ["Ask(BeginPart)", "Join", "Ask(Finish)"]);
}

/// Regression: an executable that was declared as `octet-stream` was taken without a look at its bytes.
#[test]
fn joined_parts_are_looked_at() {
    const PNG: &[u8] = b"\x89PNG\r\n\x1a\n and more";
    let parts = |host: &mut Host<'_>, mime: &str| {
        let request = Request::new("PATCH", &format!("/{}", hash(PNG)))
            .with("authorization", &token(1, "upload", &[hash(PNG)]))
            .with("content-type", "application/octet-stream")
            .with("upload-type", mime)
            .with("upload-length", &PNG.len().to_string())
            .with("upload-offset", "0")
            .body(PNG);
        host.send(&request)
    };
    let mut host = host();
    assert_eq!(parts(&mut host, "application/octet-stream").json()["type"], "image/png");
    let mut host = crate::world::host();
    host.settings.deny_types = vec!["image/png".to_owned()];
    let reply = parts(&mut host, "application/octet-stream");
    check("refused", &reply, 415);
    assert_eq!(reply.steps[3..], ["Join", "Ask(AbortParts)"]);
    assert!(host.objects.is_empty());
}

#[test]
fn a_slow_part_is_told_of_the_blob_that_others_have_completed() {
    let mut host = host();
    host.meanwhile = Some(|host| {
        check("first", &send(host, 0..10), 204);
        check("last", &send(host, 10..20), 201);
    });
    let reply = send(&mut host, 5..15);
    check("the slow one", &reply, 200);
    assert_eq!(reply.steps, ["Ask(BeginPart)", "Receive", "Ask(FinishPart)", "Ask(Get)"]);
    host.remove();
    assert_eq!(host.objects.len(), 1, "its bytes are not kept");
}

/// The last part begins and its bytes are stored.
fn begin_last(host: &mut Host<'_>) -> Outcome {
    let wanted = Wanted {
        owner: pubkey(1).to_string(),
        sha256: Some(hash(BLOB)),
        size: 20,
        mime: "image/png".to_owned(),
        key_bytes_max: None,
        total_bytes_max: None,
        abandoned_at: NOW + 3_600,
        expires_at: None,
        unused_seconds: None,
        retention: Vec::new(),
        must_be_paid: false,
        owner_pays: false,
        proof: None,
    };
    let part = PartHead { offset: 10, length: 10 };
    let begun = host.index.run(NOW, Command::BeginPart(wanted, part)).unwrap();
    let Outcome::Begun { key, .. } = &begun else { panic!("begun") };
    let bytes = Bytes::from_static(&BLOB[10..]);
    host.objects.insert(key.clone(), Object { bytes, mime: String::new(), expires_at: None });
    begun
}

#[test]
fn parts_that_are_not_the_blob_are_409() {
    let mut host = host();
    check("first", &send(&mut host, 0..10), 204);
    let wrong = Request { body: Bytes::from_static(b"abcdefghi!"), ..part(10..20, &[]) };
    let reply = host.send(&wrong);
    check("wrong bytes", &reply, 409);
    assert_eq!(reply.steps[3..], ["Join", "Ask(AbortParts)"]);
    check("not there", &get(&mut host, &format!("/{}", hash(BLOB))), 404);
    assert!(host.objects.is_empty(), "nobody knows which part is wrong, so all are gone");
    check("the right ones", &send(&mut host, 10..20), 204);
    check("and all", &send(&mut host, 0..10), 201);
}

#[test]
fn an_empty_blob_comes_in_one_empty_part() {
    let mut host = host();
    let request = Request::new("PATCH", &format!("/{}", hash(b"")))
        .with("content-type", "application/octet-stream")
        .with("upload-type", "text/plain")
        .with("upload-length", "0")
        .with("upload-offset", "0")
        .with("authorization", &token(1, "upload", &[hash(b"")]))
        .body(Bytes::new());
    check("empty", &host.send(&request), 201);
}
