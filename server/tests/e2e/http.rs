//! HTTP on the relay's port: NIP-11, the web page, health, metrics, and requests that are not WebSocket upgrades.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use relay_engine::testing::signing::{event, key};
use serde_json::Value;

use super::harness::{PATIENCE, RelayProcess, serve, unix_now};

/// One request on a connection of its own: status, head in lowercase, body.
fn request(relay: &RelayProcess, method: &str, path: &str, headers: &str) -> (u16, String, String) {
    request_at(relay.host(), method, path, headers)
}

fn request_at(host: &str, method: &str, path: &str, headers: &str) -> (u16, String, String) {
    let mut stream = TcpStream::connect(host).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{headers}\r\n").unwrap();
    let mut answer = String::new();
    if headers.contains("Sec-WebSocket-Key") {
        // After the head of a WebSocket there are binary frames without an end.
        let mut lines = BufReader::new(stream).lines();
        while let Some(Ok(line)) =
            lines.next().filter(|line| line.as_ref().is_ok_and(|line| !line.is_empty()))
        {
            answer.push_str(&line);
            answer.push_str("\r\n");
        }
        answer.push_str("\r\n");
    } else {
        stream.read_to_string(&mut answer).unwrap();
    }
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, head.to_lowercase(), body.to_owned())
}

const UPGRADE: &str =
    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

#[test]
fn each_path_is_answered() {
    let relay = RelayProcess::start_with(
        "[info]\nname = 'a <name>'\n[limits]\nlimit_max = 123\nlimit_default = 12\n",
    );
    let nostr = "Accept: application/nostr+json\r\n";
    let cases: Vec<Value> = serde_json::from_str(include_str!("../../../site/tests/routes.json")).unwrap();
    for case in &cases {
        let text = |name: &str| case[name].as_str().unwrap();
        let pairs = |name: &str| case[name].as_object().cloned().unwrap_or_default();
        let mut headers = String::new();
        for (name, value) in pairs("headers") {
            headers.push_str(&format!("{name}: {}\r\n", value.as_str().unwrap()));
        }
        if case["route"] == "Socket" {
            headers.push_str("Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n");
            headers.push_str("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n");
        }
        let (status, head, _) = request(&relay, text("method"), text("path"), &headers);
        assert_eq!(Value::from(status), case["status"], "{case}\n{head}");
        for (name, want) in pairs("answer") {
            let line = head.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
            assert_eq!(line, want.as_str().map(str::to_lowercase).as_deref(), "{name} of {case}\n{head}");
        }
    }
    let cases = [
        ("GET", "/metrics", "", 200, "content-type: application/openmetrics-text"),
        ("GET", "/else/where", UPGRADE, 404, "x-reason: not found"),
        ("GET", "/", UPGRADE, 426, "sec-websocket-version: 13"),
        (
            "GET",
            "/",
            "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n",
            400,
            "x-reason: sec-websocket-key must be 24 characters",
        ),
    ];
    for (method, path, headers, status, line) in cases {
        let (got, head, _) = request(&relay, method, path, headers);
        assert_eq!(got, status, "{method} {path} {headers:?}\n{head}");
        assert!(head.contains(line), "{method} {path} {headers:?}: no {line:?} in\n{head}");
    }
    let document: Value = serde_json::from_str(&request(&relay, "GET", "/", nostr).2).unwrap();
    assert_eq!(document["name"], "a <name>");
    assert_eq!(document["limitation"]["max_limit"], 123);
    assert!(document["supported_nips"].as_array().unwrap().contains(&Value::from(42)));
    let page = request(&relay, "GET", "/", "").2;
    assert!(page.contains("a &lt;name&gt;") && page.contains("up to 123, 12 if no limit is given"));
}

#[test]
fn a_relay_with_a_url_advertises_its_icon() {
    let relay = RelayProcess::start_with("url = 'wss://relay.example.com'\n");
    let nostr = "Accept: application/nostr+json\r\n";
    let document: Value = serde_json::from_str(&request(&relay, "GET", "/", nostr).2).unwrap();
    assert_eq!(document["icon"], "https://relay.example.com/icon.svg");
    assert!(request(&relay, "GET", "/", "").2.contains(r#"<link rel="icon" href="/icon.svg">"#));
    assert!(request(&relay, "GET", "/icon.svg", "").2.starts_with("<svg "));
}

/// Regression: behind a proxy that replaces the Host header no client could authenticate, and the log did not say why.
#[test]
fn a_relay_without_url_warns_at_the_start_and_at_the_first_proxy() {
    let folder = tempfile::TempDir::new().unwrap();
    let mut child = serve(&folder.path().join("data"), None).stderr(Stdio::piped()).spawn().unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
    let mut find =
        |what: &str| log.by_ref().find(|line| line.contains(what)).unwrap_or_else(|| panic!("{what}"));
    let listening = find("listening on ws://");
    let host = listening.rsplit("ws://").next().unwrap().trim().to_owned();
    assert!(find("url is not set").contains("behind a proxy"));
    for _ in 0..2 {
        let headers = format!("{UPGRADE}Sec-WebSocket-Version: 13\r\nX-Forwarded-For: 203.0.113.9\r\n");
        let mut stream = TcpStream::connect(&host).unwrap();
        write!(stream, "GET / HTTP/1.1\r\nHost: upstream\r\n{headers}\r\n").unwrap();
        stream.read_exact(&mut [0; 12]).unwrap();
    }
    assert!(find("come through a proxy").contains("upstream"));
    assert!(Command::new("kill").arg(child.id().to_string()).status().unwrap().success());
    assert!(!log.any(|line| line.contains("come through a proxy")), "it is said once");
    assert!(child.wait().unwrap().success());
}

#[test]
fn metrics_need_the_token_or_a_listed_address() {
    let relay = RelayProcess::start_with("[metrics]\ntoken = 's3cret'\n");
    let (status, head, body) = request(&relay, "GET", "/metrics", "");
    assert!(status == 401 && head.contains("www-authenticate: bearer") && !body.contains("strfry"), "{head}");
    assert_eq!(request(&relay, "GET", "/metrics", "Authorization: Bearer wrong\r\n").0, 401);
    let (status, _, body) = request(&relay, "GET", "/metrics", "Authorization: Bearer s3cret\r\n");
    assert!(status == 200 && body.contains("strfry_connections_current"));

    let relay = RelayProcess::start_with("[metrics]\nallow = ['10.0.0.0/8']\n");
    assert_eq!(request(&relay, "GET", "/metrics", "").0, 403);
    assert_eq!(request(&relay, "GET", "/health", "").0, 200);
    let relay = RelayProcess::start_with("[metrics]\nallow = ['10.0.0.0/8', '127.0.0.1']\n");
    assert_eq!(request(&relay, "GET", "/metrics", "").0, 200);
}

/// An Authorization header of NIP-98 for a GET, by key `number`; each `serial` makes another event.
fn signed(number: u64, url: &str, serial: u64) -> String {
    let event = event(&key(number)).kind(27235).at(unix_now()).content(serial.to_string());
    let event = event.tag(["u", url]).tag(["method", "GET"]).sign().json();
    format!("Authorization: Nostr {}\r\n", BASE64_STANDARD.encode(event))
}

#[test]
fn administrators_sign_for_metrics_and_configuration() {
    let admin = event(&key(1)).sign().pubkey;
    let relay = RelayProcess::start_with(&format!(
        "[metrics]\ntoken = 's3cret'\nallow = ['10.0.0.0/8']\n[policy]\nadmin_pubkeys = ['{admin}']\n"
    ));
    let url = |path: &str| format!("http://{}{path}", relay.host());
    let get = |path, headers: &str| request(&relay, "GET", path, headers);
    assert_eq!(get("/metrics", "Authorization: Bearer s3cret\r\n").0, 403, "the address is not listed");
    let authorization = signed(1, &url("/metrics"), 0);
    let (status, _, body) = get("/metrics", &authorization);
    assert!(status == 200 && body.contains("relay_store_events"), "{body}");
    let (status, head, body) = get("/metrics", &authorization);
    assert!(status == 401 && body.contains("each authorises one request"), "{head}{body}");
    assert_eq!(get("/metrics", &signed(2, &url("/metrics"), 0)).0, 403);
    assert_eq!(get("/metrics?all", &signed(1, &url("/metrics"), 1)).0, 401, "another URL");

    let (status, _, body) = get("/relay/config.json", &signed(1, &url("/relay/config.json"), 2));
    assert_eq!(status, 200, "{body}");
    let config: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(config["policy"]["admin_pubkeys"][0], admin);
    assert_eq!(
        config["limits"]["filters_max"],
        Value::from(relay_engine::types::Limits::default().filters_max)
    );
    assert_eq!(config["host"]["metrics"]["allow"][0], "10.0.0.0/8");
    assert!(config["host"]["metrics"].get("token").is_none() && !body.contains("s3cret"), "{body}");
    let (status, head, body) = get("/relay/config.json", "Authorization: Bearer s3cret\r\n");
    assert!(status == 401 && head.contains("www-authenticate: nostr"), "{head}{body}");

    // Behind a proxy the event must name the public URL.
    let config = format!("url = 'wss://relay.example/nostr'\n[policy]\nadmin_pubkeys = ['{admin}']\n");
    let relay = RelayProcess::start_with(&config);
    let get = |url| request(&relay, "GET", "/relay/config.json", &signed(1, url, 3)).0;
    assert_eq!(get("https://relay.example/nostr/relay/config.json"), 200);
    assert_eq!(get(&format!("http://{}/relay/config.json", relay.host())), 401);
}

#[test]
fn slow_requests_and_idle_connections_are_closed() {
    let relay = RelayProcess::start_with("[network]\nhandshake_seconds = 1\n");
    for sent in ["GET / HTTP/1.1\r\nHost:", "", "GET /health HTTP/1.1\r\nHost: a\r\n\r\n"] {
        let started = Instant::now();
        let mut stream = TcpStream::connect(relay.host()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(sent.as_bytes()).unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).unwrap();
        assert!(started.elapsed() < Duration::from_secs(8), "{sent:?}: {:?}", started.elapsed());
        assert_eq!(response.contains("200 OK"), sent.contains("/health"), "{response}");
    }
    let long = "x".repeat(5_000);
    let (status, head, body) =
        request(&relay, "GET", "/health", &format!("Content-Length: {}\r\n\r\n{long}", long.len()));
    assert!(status == 413 && head.contains("x-reason: body: is longer than 4096 bytes"), "{head}{body}");
}

#[test]
fn metrics_may_have_a_separate_address() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap().to_string();
    drop(free);
    let relay = RelayProcess::start_with(&format!("[metrics]\nlisten = '{address}'\ntoken = 's3cret'\n"));
    assert_eq!(request(&relay, "GET", "/metrics", "Authorization: Bearer s3cret\r\n").0, 404);
    assert_eq!(request_at(&address, "GET", "/metrics", "").0, 401);
    let (status, _, body) = request_at(&address, "GET", "/metrics", "Authorization: Bearer s3cret\r\n");
    assert!(status == 200 && body.contains("relay_store_events 0"), "{body}");
    for path in ["/", "/health"] {
        assert_eq!(request_at(&address, "GET", path, "Authorization: Bearer s3cret\r\n").0, 404);
    }
    assert_eq!(request_at(&address, "POST", "/metrics", "Content-Length: 0\r\n").0, 405);
}

#[test]
fn the_limit_that_is_advertised_is_enforced() {
    let relay = RelayProcess::start_with("[limits]\nlimit_max = 3\nlimit_default = 2\n");
    let mut client = relay.connect();
    for serial in 0..5 {
        let note = event(&key(1)).at(unix_now() - 100 * serial).sign().json();
        assert_eq!(client.publish(&note), (true, String::new()));
    }
    assert_eq!(client.query(r#"{"kinds":[1]}"#).len(), 2);
    assert_eq!(client.query(r#"{"kinds":[1],"limit":500}"#).len(), 3);
    assert_eq!(client.query(r#"{"kinds":[1],"limit":1}"#).len(), 1);
}

#[test]
fn metrics_count_what_happened() {
    let relay = RelayProcess::start();
    let mut client = relay.connect();
    let note = event(&key(1)).at(unix_now()).sign().json();
    client.publish(&note);
    client.publish(&note);
    client.query("{}");
    let text = request(&relay, "GET", "/metrics", "").2;
    let value = |name: &str| -> f64 {
        let line =
            text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name} in\n{text}"));
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    assert_eq!(value(r#"nostr_client_messages_total{verb="EVENT"}"#), 2.0);
    assert_eq!(value(r#"nostr_client_messages_total{verb="REQ"}"#), 1.0);
    assert_eq!(value(r#"nostr_relay_messages_total{verb="OK"}"#), 2.0);
    assert_eq!(value(r#"nostr_events_total{kind="1"}"#), 1.0);
    assert_eq!(value("strfry_write_events_total"), 1.0);
    assert_eq!(value("strfry_connections_current"), 1.0);
    assert_eq!(value("relay_store_events"), 1.0);
    assert_eq!(value("relay_commit_seconds_count"), 1.0);
    assert!(value("process_resident_memory_bytes") > 1e6);
    let health: Value = serde_json::from_str(&request(&relay, "GET", "/health", "").2).unwrap();
    assert_eq!((&health["status"], &health["events"]), (&Value::from("ok"), &Value::from(1)));
}

/// Publishes and asks through a proxy, and says how much.
fn use_for(relay: &RelayProcess, client: &str, author: u64, events: u64) {
    let mut conn = relay.connect_for(client.parse().unwrap()).expect("the binary");
    for n in 0..events {
        let note = event(&key(author)).at(unix_now() - n).content("x".repeat(300)).sign();
        assert!(conn.publish(&note.json()).0);
        conn.query("{}");
    }
}

/// Regression: an administrator who saw a relay busy could not tell for whom.
#[test]
fn metrics_name_who_costs_the_most_for_administrators() {
    let relay = RelayProcess::start_with("shards = 2\n[metrics]\ntoken = 's3cret'\n");
    let many: Vec<String> = (0..12).map(|n| format!("203.0.113.{}", 20 + n)).collect();
    many.iter().for_each(|client| use_for(&relay, client, 2, 1));
    // The costly one, on several connections of its /64.
    (1..5).for_each(|n| use_for(&relay, &format!("2001:db8::{n}"), 1, 20));
    let (status, _, text) = request(&relay, "GET", "/metrics", "Authorization: Bearer s3cret\r\n");
    assert_eq!(status, 200);
    let named = |name: &str| -> Vec<(String, u64)> {
        let rows =
            text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('{')?.split_once("\"} "));
        let rows = rows.map(|(label, value)| {
            (label.split_once("=\"").unwrap().1.to_owned(), value.parse::<u64>().unwrap())
        });
        rows.collect()
    };
    let addresses = named("relay_address_cost");
    assert_eq!((&*addresses[0].0, addresses.len()), ("2001:db8::/64", 10), "{addresses:?}");
    assert!(addresses[0].1 > 5 * addresses[1].1, "{addresses:?}");
    let authors = named("relay_author_bytes");
    let expected = [1, 2].map(|n| event(&key(n)).sign().pubkey);
    assert!(authors.iter().map(|(author, _)| author).eq(&expected), "{authors:?}");

    // Where everybody may read them, nobody is named.
    let open = RelayProcess::start();
    use_for(&open, "203.0.113.9", 1, 3);
    let (status, _, text) = request(&open, "GET", "/metrics", "");
    assert!(status == 200 && text.contains("relay_connections"));
    assert!(!text.contains("203.0.113.9") && !text.contains(&expected[0]), "{text}");
}

/// Regression: when the body of a refused request was left unread, closing the socket reset it, and now and then the answer was
/// lost. The client can send all of the body and then reads why.
#[test]
fn a_client_whose_body_is_not_wanted_reads_the_answer() {
    let relay = RelayProcess::start();
    let import = format!("/agents/{}/import", key(1).hex());
    for (path, bytes, status) in [(&*import, 1_000_000, 401), ("/agents", 12_000_000, 413)] {
        for _ in 0..10 {
            let mut stream = TcpStream::connect(relay.host()).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            let head = format!(
                "POST {path} HTTP/1.1\r\nHost: {}\r\nContent-Length: {bytes}\r\nConnection: close\r\n\r\n",
                relay.host()
            );
            stream.write_all(head.as_bytes()).unwrap();
            stream.write_all(&vec![b' '; bytes]).unwrap();
            let mut line = String::new();
            BufReader::new(stream).read_line(&mut line).unwrap();
            assert_eq!(line.split(' ').nth(1), Some(&*status.to_string()), "{bytes} bytes: {line}");
        }
    }
}
