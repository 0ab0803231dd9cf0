//! Agents store large results on the relay's Blossom server, and read inputs from it.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};

use super::super::harness::PATIENCE;
use super::*;

const LARGE_ECHO: &str = "name = \"echo\"\nlimits = { input_bytes = 1048576, output_bytes = 1048576 }\n\
    network = { max_fetch_bytes = 400000 }\n[[handlers]]\nkind = 5050\nexecutor = \"echo\"\n";

/// A request over HTTP: status, head in lowercase, body.
pub(super) fn http(relay: &RelayProcess, head: &str, body: &[u8]) -> (u16, String, Vec<u8>) {
    let mut stream = TcpStream::connect(relay.host()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "{head}Host: {}\r\nConnection: close\r\n\r\n", relay.host()).unwrap();
    stream.write_all(body).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("a head");
    let head = String::from_utf8(answer[..end].to_vec()).unwrap().to_lowercase();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), head, answer[end + 4..].to_vec())
}

fn download(relay: &RelayProcess, url: &str) -> (String, Vec<u8>) {
    let path = url.strip_prefix(&format!("http://{}", relay.host())).expect("a URL of this relay");
    let (status, head, body) = http(relay, &format!("GET {path} HTTP/1.1\r\n"), b"");
    assert_eq!(status, 200, "{head}");
    (head, body)
}

/// The customer uploads a blob; its URL.
fn upload(relay: &RelayProcess, bytes: &[u8], mime: &str) -> String {
    let hash: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    let token = event(&key(CUSTOMER)).kind(24_242).at(unix_now()).tag(["t", "upload"]).tag(["x", &hash]);
    let token = token.tag(["expiration", &(unix_now() + 600).to_string()]).content("upload").sign();
    let token = BASE64_URL_SAFE_NO_PAD.encode(token.json());
    let length = bytes.len();
    let head = format!(
        "PUT /upload HTTP/1.1\r\nAuthorization: Nostr {token}\r\nContent-Type: {mime}\r\nContent-Length: {length}\r\n"
    );
    let (status, head, body) = http(relay, &head, bytes);
    assert_eq!(status, 201, "{head}\n{}", String::from_utf8_lossy(&body));
    serde_json::from_slice::<Value>(&body).unwrap()["url"].as_str().unwrap().to_owned()
}

/// A job whose input is at a URL.
fn reading(url: &str, agent: &str) -> Draft {
    event(&key(CUSTOMER)).kind(5_050).at(unix_now()).tag(["i", url, "url"]).tag(["p", agent])
}

#[test]
fn a_large_result_is_a_blob_and_a_blob_is_an_input() {
    let relay = RelayProcess::start_with("[blossom]\nlist_public = true\n");
    let mut client = relay.connect();
    let echo = deploy(&relay, LARGE_ECHO);
    let text: String = (0..30_000).map(|number| format!("{number:09}\n")).collect();
    let request = job(CUSTOMER, &text, Some(&echo)).sign();
    accepted(&mut client, &request);
    let seen = answers(&mut client, &request);
    let kinds: Vec<(u64, &str)> = seen.iter().map(|(kind, status, _)| (*kind, &**status)).collect();
    assert_eq!(kinds, [(7_000, "processing"), (6_050, "success")]);
    let url = &seen[1].2;
    assert!(url.ends_with(".txt"), "{url}");
    let (head, body) = download(&relay, url);
    assert!(head.contains("content-type: text/plain; charset=utf-8\r\n"), "{head}");
    assert!(body == text.as_bytes(), "{} bytes", body.len());
    // It is the agent's.
    let (status, _, listed) = http(&relay, &format!("GET /list/{echo} HTTP/1.1\r\n"), b"");
    assert_eq!(status, 200);
    assert!(String::from_utf8_lossy(&listed).contains(url.as_str()));
    // The result is the input of another job, whose result is the same blob.
    let request = reading(url, &echo).sign();
    accepted(&mut client, &request);
    assert_eq!(result(&mut client, &request), *url);
    assert_eq!(agent_json(&relay, &["show", "echo"])["jobs"]["done"], 2);
}

#[test]
fn blobs_of_customers_are_inputs_by_the_rules_of_urls() {
    let relay = RelayProcess::start();
    let mut client = relay.connect();
    let echo = deploy(&relay, LARGE_ECHO);
    let small = upload(&relay, "grüße".as_bytes(), "text/plain");
    let port = relay.host().rsplit_once(':').unwrap().1;
    let by_name = small.replace("127.0.0.1", "localhost");
    assert_ne!(small, by_name);
    let without_extension = small.strip_suffix(".txt").unwrap();
    for url in [&*small, &*by_name, without_extension] {
        let request = reading(url, &echo).sign();
        accepted(&mut client, &request);
        assert_eq!(result(&mut client, &request), "grüße", "{url}");
    }
    let binary = upload(&relay, b"\x00\x01", "application/octet-stream");
    let not_utf8 = upload(&relay, b"\xff\xfe", "text/plain");
    let large = upload(&relay, &vec![b'x'; 400_001], "text/plain");
    let missing = format!("http://127.0.0.1:{port}/{}.txt", "0".repeat(64));
    for (url, words) in [
        (&*binary, "the URL does not serve a text"),
        (&not_utf8, "the text of the URL is not UTF-8"),
        (&large, "the text of the URL is too large"),
        (&missing, "the URL answers with status 404"),
        // Anything else on this machine is as far away as ever.
        (&format!("http://127.0.0.1:{port}/metrics"), "the URL is not read: not https"),
        (&small.replace(port, "1"), "the URL is not read: not https"),
    ] {
        let request = reading(url, &echo).sign();
        accepted(&mut client, &request);
        assert_eq!(error(&mut client, &request), words, "{url}");
    }
}

#[test]
fn a_result_that_blossom_does_not_take_is_an_error_in_words() {
    for (settings, words) in [
        ("[blossom]\nenabled = false\n", "and this agent has none"),
        ("[blossom]\nblob_bytes_max = 200000\n", "a blob has 200000 bytes at most here"),
        ("[blossom]\nkey_bytes_max = 200000\n", "storage quota exceeded"),
        ("[blossom]\ntotal_bytes_max = 200000\n", "this server has no room left"),
        ("[blossom]\ndeny_types = [\"text/*\"]\n", "blobs of type text/plain are not taken"),
    ] {
        let relay = RelayProcess::start_with(settings);
        let mut client = relay.connect();
        let echo = deploy(&relay, LARGE_ECHO);
        let request = job(CUSTOMER, &"x".repeat(300_000), Some(&echo)).sign();
        accepted(&mut client, &request);
        let said = error(&mut client, &request);
        assert!(said.ends_with(words), "{settings}: {said}");
        let request = job(CUSTOMER, "small", Some(&echo)).sign();
        accepted(&mut client, &request);
        assert_eq!(result(&mut client, &request), "small");
    }
}
