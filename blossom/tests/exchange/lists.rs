//! GET /list/<pubkey> (BUD-12).

use relay_blossom::testing::Request;
use serde_json::Value;

use crate::world::{NOW, check, get, hash, host, pubkey, token, upload};

fn hashes(document: &Value) -> Vec<String> {
    document.as_array().unwrap().iter().map(|blob| blob["sha256"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn blobs_of_a_key_newest_first_page_by_page() {
    let mut host = host();
    let mut newest_first = Vec::new();
    for n in 0..7_u8 {
        let body = vec![n; 4];
        newest_first.insert(0, hash(&body).to_string());
        check("upload", &host.send(&upload(1, body)), 201);
        host.now += 10;
    }
    check("of another", &host.send(&upload(2, b"other".as_slice())), 201);
    let target = format!("/list/{}", pubkey(1));
    let all = get(&mut host, &target);
    check("all", &all, 200);
    assert_eq!(hashes(&all.json()), newest_first);
    assert_eq!(all.json()[0]["type"], "application/octet-stream");
    assert!(all.json()[0]["nip94"].is_array());
    let head = host.send(&Request::new("HEAD", &target));
    assert_eq!(head.header("content-length"), all.header("content-length"));

    let mut seen = Vec::new();
    let mut page = format!("{target}?limit=3");
    for want in [3, 3, 1, 0] {
        let list = hashes(&get(&mut host, &page).json());
        assert_eq!(list.len(), want);
        seen.extend(list);
        page = format!("{target}?limit=3&cursor={}", seen.last().unwrap());
    }
    assert_eq!(seen, newest_first);
    let between = format!("{target}?since={}&until={}", NOW + 10, NOW + 30);
    assert_eq!(hashes(&get(&mut host, &between).json()), newest_first[3..6]);
    let nobody = get(&mut host, &format!("/list/{}", pubkey(3)));
    check("nobody", &nobody, 200);
    assert_eq!(nobody.json(), Value::Array(Vec::new()));
}

#[test]
fn bad_parameters_are_400() {
    let mut host = host();
    check("upload", &host.send(&upload(1, b"one".as_slice())), 201);
    let key = pubkey(1).to_string();
    let unknown = "0".repeat(64);
    let cases = [
        (format!("/list/{key}?limit=0"), 400),
        (format!("/list/{key}?limit=-1"), 400),
        (format!("/list/{key}?limit=ten"), 400),
        (format!("/list/{key}?limit="), 400),
        (format!("/list/{key}?limit=99999999999999999999"), 200),
        (format!("/list/{key}?cursor=abc"), 400),
        (format!("/list/{key}?cursor={unknown}"), 400),
        (format!("/list/{key}?cursor={}", hash(b"one").to_string().to_uppercase()), 400),
        (format!("/list/{key}?since=yesterday"), 400),
        (format!("/list/{key}?until=1.5"), 400),
        (format!("/list/{key}?since=99999999999999999999&until=99999999999999999999"), 200),
        (format!("/list/{key}?since=5&until=1&page=7"), 200),
        (format!("/list/{}", key.to_uppercase()), 400),
        ("/list/npub1abc".to_owned(), 400),
        (format!("/list/{}", &key[1..]), 400),
        ("/list".to_owned(), 404),
    ];
    for (target, status) in cases {
        check(&target, &get(&mut host, &target), status);
    }
}

#[test]
fn a_private_list_is_for_its_key() {
    let mut host = host();
    host.settings.list_public = false;
    host.admins = vec![pubkey(9)];
    check("upload", &host.send(&upload(1, b"one".as_slice())), 201);
    let target = format!("/list/{}", pubkey(1));
    let ask = |number, verb| Request::new("GET", &target).with("authorization", &token(number, verb, &[]));
    check("nobody", &get(&mut host, &target), 401);
    check("the key", &host.send(&ask(1, "list")), 200);
    check("an administrator", &host.send(&ask(9, "list")), 200);
    check("another key", &host.send(&ask(2, "list")), 403);
    check("another verb", &host.send(&ask(1, "get")), 401);
}
