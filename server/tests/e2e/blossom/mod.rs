//! Blobs in the real binary: uploads, ranges, deletes, kills, a full disk, a bucket, and what the relay's events end.

mod command_line;
mod crashes;
mod events;
mod full_disk;
mod many_and_large;
mod policy;
mod pulls;
mod s3;
mod uploads;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use relay_engine::testing::signing::{event, key};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::harness::{PATIENCE, RelayProcess, unix_now, until};

/// Who uploads.
const OWNER: u64 = 11;

/// A response.
struct Reply {
    status: u16,
    /// Names in lowercase.
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Reply {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(own, _)| own == name).map(|(_, value)| &**value)
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// The status, and the reason of an error.
    fn outcome(&self) -> (u16, &str) {
        (self.status, self.header("x-reason").unwrap_or_default())
    }

    /// Reads status and headers.
    fn read_head(from: &mut impl BufRead) -> Self {
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            assert!(from.read_line(&mut line).unwrap() > 0, "the response ends within its head: {lines:?}");
            match line.trim_end() {
                "" => break,
                line => lines.push(line.to_owned()),
            }
        }
        let status = lines[0].split(' ').nth(1).unwrap().parse().unwrap();
        let header = |line: &String| {
            let (name, value) = line.split_once(':').unwrap();
            (name.to_lowercase(), value.trim().to_owned())
        };
        Reply { status, headers: lines[1..].iter().map(header).collect(), body: Vec::new() }
    }

    fn read(from: impl Read) -> Self {
        let mut from = BufReader::new(from);
        let mut reply = Self::read_head(&mut from);
        from.read_to_end(&mut reply.body).unwrap();
        reply
    }
}

/// A connection with a request whose body is still to be sent.
fn begin(relay: &RelayProcess, method: &str, path: &str, headers: &str) -> TcpStream {
    let host = relay.host();
    let mut stream = TcpStream::connect(host).unwrap();
    stream.set_read_timeout(Some(PATIENCE * 4)).unwrap();
    stream.set_write_timeout(Some(PATIENCE * 4)).unwrap();
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{headers}\r\n").unwrap();
    stream
}

/// One request on a connection of its own.
fn send(relay: &RelayProcess, method: &str, path: &str, headers: &str, body: &[u8]) -> Reply {
    let mut stream = begin(relay, method, path, headers);
    stream.write_all(body).unwrap();
    Reply::read(stream)
}

fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The header with a token (BUD-11) of a key for a verb and a blob.
fn token(signer: u64, verb: &str, sha256: &str) -> String {
    let expiration = (unix_now() + 600).to_string();
    let draft = event(&key(signer)).kind(24_242).at(unix_now() - 1).content("test");
    let draft = draft.tag(["t", verb]).tag(["expiration", &expiration]).tag(["x", sha256]);
    format!("Authorization: Nostr {}\r\n", BASE64_URL_SAFE_NO_PAD.encode(draft.sign().json()))
}

/// The headers of an upload.
fn announced(signer: u64, sha256: &str, length: usize) -> String {
    let token = token(signer, "upload", sha256);
    format!("{token}Content-Type: application/octet-stream\r\nContent-Length: {length}\r\n")
}

fn upload(relay: &RelayProcess, signer: u64, bytes: &[u8]) -> Reply {
    send(relay, "PUT", "/upload", &announced(signer, &sha256(bytes), bytes.len()), bytes)
}

fn get(relay: &RelayProcess, sha256: &str) -> Reply {
    send(relay, "GET", &format!("/{sha256}"), "", b"")
}

fn delete(relay: &RelayProcess, signer: u64, sha256: &str) -> Reply {
    send(relay, "DELETE", &format!("/{sha256}"), &token(signer, "delete", sha256), b"")
}

/// The blobs of a key, newest first.
fn list(relay: &RelayProcess, owner: u64) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    loop {
        let cursor = all.last().map_or(String::new(), |last| format!("?cursor={last}"));
        let listed = send(relay, "GET", &format!("/list/{}{cursor}", key(owner).hex()), "", b"");
        assert_eq!(listed.outcome(), (200, ""));
        let page = listed.json();
        let page = page.as_array().unwrap();
        if page.is_empty() {
            return all;
        }
        all.extend(page.iter().map(|blob| blob["sha256"].as_str().unwrap().to_owned()));
    }
}

/// Bytes that no compression shortens and no other number gives.
fn noise(number: u64, length: usize) -> Vec<u8> {
    let mut rng = relay_engine::testing::Rng::new(number);
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        bytes.extend_from_slice(&rng.bits().to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// The files below a folder.
fn files(folder: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut found = Vec::new();
    for entry in entries {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => found.push(path.display().to_string()),
        }
    }
    found
}
