//! Pull-through: blobs that are not here come from the servers that the request names (BUD-10).

use bytes::Bytes;
use relay_blossom::exchange::{RELAY_OWNER, StepError};
use relay_blossom::index::Wanted;
use relay_blossom::testing::{Host, Request};
use relay_blossom::{Command, Outcome};

use crate::world::{NOW, PNG, check, get, hash, host, pubkey};

fn with_origin(url: &str, bytes: &'static [u8]) -> Host<'static> {
    let mut host = host();
    host.settings.pull_through = true;
    host.origins.insert(url.to_owned(), Ok((Bytes::from_static(bytes), Some("image/png".to_owned()))));
    host
}

#[test]
fn a_named_server_is_asked() {
    let path = format!("/{}", hash(PNG));
    let url = format!("https://away.example{path}");
    for hint in [
        "xs=away.example",
        "xs=https://away.example",
        "xs=https%3A%2F%2Faway.example%2F",
        "xs=nowhere.example&xs=away.example",
    ] {
        let mut host = with_origin(&url, PNG);
        let reply = get(&mut host, &format!("{path}?{hint}&sz={}", PNG.len()));
        check(hint, &reply, 200);
        assert_eq!(reply.body, PNG);
        assert_eq!(reply.steps, ["Ask(Get)", "Ask(BeginPull)", "Fetch", "Ask(Finish)"]);
        check("it is here now", &get(&mut host, &path), 200);
        let list = get(&mut host, &format!("/list/{RELAY_OWNER}"));
        assert_eq!(list.json()[0]["sha256"], hash(PNG).to_string());
    }
    let mut host = with_origin(&format!("{url}.png"), PNG);
    let target = format!("{path}.png?xs=away.example");
    let reply = host.send(&Request::new("GET", &target).with("range", "bytes=1-3"));
    check("a range of it", &reply, 206);
    assert_eq!(reply.body, "PNG");
}

#[test]
fn the_servers_of_an_author_are_asked() {
    let path = format!("/{}", hash(PNG));
    let mut host = with_origin(&format!("https://home.example{path}"), PNG);
    host.servers.insert(pubkey(5).to_string(), vec!["https://home.example/".to_owned()]);
    let target = format!("{path}?as={}&as=npub", pubkey(5));
    let reply = get(&mut host, &target);
    check("found", &reply, 200);
    assert_eq!(reply.steps, ["Ask(Get)", "FindServers", "Ask(BeginPull)", "Fetch", "Ask(Finish)"]);
    let mut host = with_origin("https://home.example/", PNG);
    check("no list", &get(&mut host, &target), 404);
}

#[test]
fn what_is_not_pulled() {
    let path = format!("/{}", hash(PNG));
    let url = format!("https://away.example{path}");
    let cases: [(&str, &'static [u8], usize); 9] = [
        ("xs=nowhere.example", PNG, 4),
        ("xs=away.example", b"other bytes", 4),
        ("xs=away.example&sz=5", PNG, 4),
        ("xs=away.example&sz=99999999999999999999", PNG, 1),
        ("xs=http://away.example", PNG, 1),
        ("xs=file:///etc", PNG, 1),
        ("xs=https://user@away.example", PNG, 1),
        ("xs=cdn.example.com", PNG, 1),
        ("xs=", PNG, 1),
    ];
    for (hint, bytes, steps) in cases {
        let mut host = with_origin(&url, bytes);
        let reply = get(&mut host, &format!("{path}?{hint}"));
        check(hint, &reply, 404);
        assert_eq!(reply.steps.len(), steps, "{hint}: {:?}", reply.steps);
        assert!(host.objects.is_empty(), "{hint}");
    }
    let mut host = with_origin(&url, PNG);
    host.settings.pull_through = false;
    let reply = get(&mut host, &format!("{path}?xs=away.example"));
    check("turned off", &reply, 404);
    assert_eq!(reply.steps, ["Ask(Get)"]);
    host.settings.pull_through = true;
    host.failure = Some(StepError::Full);
    check("no room", &get(&mut host, &format!("{path}?xs=away.example")), 507);
    host.settings.blob_bytes_max = 3;
    check("too long", &get(&mut host, &format!("{path}?xs=away.example")), 404);
}

/// Regression: a request of a few bytes made the relay fetch a blob of gigabytes from whomever it named, as often as it came.
#[test]
fn one_request_fetches_and_misses_are_remembered() {
    let path = format!("/{}", hash(PNG));
    let mut host = with_origin(&format!("https://away.example{path}"), b"other bytes");
    let wrong = format!("{path}?xs=away.example&xs=nowhere.example");
    let reply = get(&mut host, &wrong);
    check("other bytes", &reply, 404);
    assert_eq!(reply.steps, ["Ask(Get)", "Ask(BeginPull)", "Fetch", "Ask(AbortPull)"]);
    let reply = get(&mut host, &wrong);
    check("again", &reply, 404);
    assert_eq!(reply.steps, ["Ask(Get)", "Ask(BeginPull)"], "nothing is fetched");
    // Another server may have it, whatever was named before.
    host.origins.insert(format!("https://home.example{path}"), Ok((Bytes::from_static(PNG), None)));
    let begun = Command::BeginPull(wanted(), vec!["https://home.example/".to_owned()]);
    let Ok(Outcome::Begun { upload, .. }) = host.index.run(NOW, begun.clone()) else { panic!() };
    assert_eq!(host.index.run(NOW + 119, begun.clone()), Ok(Outcome::Pulling), "one fetches");
    let reply = get(&mut host, &format!("{path}?xs=home.example"));
    check("the host has waited for it", &reply, 503);
    assert_eq!(reply.header("retry-after"), Some("5"));
    assert!(reply.header("x-reason").is_some_and(|words| words.contains("being fetched")), "{reply:?}");
    let Ok(Outcome::Begun { upload: next, .. }) = host.index.run(NOW + 120, begun) else {
        panic!("the first may have died")
    };
    host.index.run(NOW, Command::Abort { upload }).unwrap();
    host.index.run(NOW, Command::Abort { upload: next }).unwrap();
    check("found", &get(&mut host, &format!("{path}?xs=home.example")), 200);
    // After five minutes the first may have it too.
    let other = hash(b"other bytes");
    let path = format!("/{other}?xs=away.example");
    check("missed", &get(&mut host, &path), 404);
    host.origins
        .insert(format!("https://away.example/{other}"), Ok((Bytes::from_static(b"other bytes"), None)));
    host.now += 299;
    check("still missed", &get(&mut host, &path), 404);
    host.now += 1;
    check("asked again", &get(&mut host, &path), 200);
}

#[test]
fn head_fetches_nothing() {
    let path = format!("/{}", hash(PNG));
    let mut host = with_origin(&format!("https://away.example{path}"), PNG);
    let target = format!("{path}?xs=away.example");
    let reply = host.send(&Request::new("HEAD", &target));
    check("not here", &reply, 404);
    assert_eq!(reply.steps, ["Ask(Get)"]);
    check("fetched", &get(&mut host, &target), 200);
    check("here", &host.send(&Request::new("HEAD", &target)), 200);
}

fn wanted() -> Wanted {
    Wanted {
        owner: RELAY_OWNER.to_owned(),
        sha256: Some(hash(PNG)),
        size: 0,
        mime: "image/png".to_owned(),
        key_bytes_max: None,
        total_bytes_max: None,
        abandoned_at: NOW + 100,
        expires_at: None,
        unused_seconds: None,
        retention: Vec::new(),
        must_be_paid: false,
        owner_pays: false,
        proof: None,
    }
}
