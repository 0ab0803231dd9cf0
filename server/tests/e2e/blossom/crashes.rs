//! `kill -9`: what was being uploaded leaves nothing, what was acknowledged stays.

use relay_engine::testing::Rng;

use super::*;

/// What the index says is under way.
fn uploads_under_way(relay: &RelayProcess) -> f64 {
    super::super::harness::metric(relay, "relay_blossom_uploads ")
}

#[test]
fn a_killed_upload_leaves_no_file_and_no_row() {
    let mut relay = RelayProcess::start();
    let blobs = relay.data().join("blobs");
    for (number, length, sent) in [(1, 100_000, 1_000), (2, 3_000_000, 2_900_000)] {
        let bytes = noise(number, length);
        let hash = sha256(&bytes);
        let mut known = begin(&relay, "PUT", "/upload", &announced(OWNER, &hash, length));
        known.write_all(&bytes[..sent]).unwrap();
        // With two hashes in the token it is not known which one comes, so the bytes are staged.
        let other = sha256(b"other");
        let two = two_hashes(OWNER, &hash, &other);
        let mut unknown = begin(&relay, "PUT", "/upload", &format!("{two}Content-Length: {length}\r\n"));
        unknown.write_all(&bytes[..sent]).unwrap();
        until("both are under way", || uploads_under_way(&relay) == 2.0);
        relay.kill();
        relay.restart();
        until("what was staged goes", || files(&blobs).is_empty());
        assert_eq!(get(&relay, &hash).status, 404);
        assert_eq!(list(&relay, OWNER), Vec::<String>::new());
        assert_eq!(uploads_under_way(&relay), 0.0);
        assert_eq!(upload(&relay, OWNER, &bytes).outcome(), (201, ""), "it can be uploaded again");
        assert_eq!(delete(&relay, OWNER, &hash).status, 204);
        until("the file goes", || files(&blobs).is_empty());
    }
}

/// A token that names two blobs.
fn two_hashes(signer: u64, one: &str, other: &str) -> String {
    let expiration = (unix_now() + 600).to_string();
    let draft = event(&key(signer)).kind(24_242).at(unix_now() - 1).content("test").tag(["t", "upload"]);
    let draft = draft.tag(["expiration", &expiration]).tag(["x", one]).tag(["x", other]);
    format!("Authorization: Nostr {}\r\n", BASE64_URL_SAFE_NO_PAD.encode(draft.sign().json()))
}

#[test]
fn no_acknowledged_blob_is_lost_and_no_other_is_there_after_kills() {
    let mut rng = Rng::new(20_261_129);
    let mut relay = RelayProcess::start();
    let mut acknowledged = Vec::new();
    for round in 0..10_u64 {
        let found = std::sync::Mutex::new(Vec::new());
        let pause = std::time::Duration::from_micros(rng.below(80_000));
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let (relay, found) = (&relay, &found);
                scope.spawn(move || {
                    for number in 0..100 {
                        let bytes = noise((round << 32) | (thread << 16) | number, 20_000);
                        let hash = sha256(&bytes);
                        let head = announced(OWNER, &hash, bytes.len());
                        match try_send(relay, &head, &bytes) {
                            Some(201) => found.lock().unwrap().push(hash),
                            Some(status) => panic!("status {status}"),
                            None => return,
                        }
                    }
                });
            }
            std::thread::sleep(pause);
            relay.signal("KILL");
        });
        relay.kill();
        acknowledged.extend(found.into_inner().unwrap());
        relay.restart();
        for hash in acknowledged.iter().rev().take(20) {
            assert_eq!(get(&relay, hash).status, 200, "round {round}");
        }
    }
    let listed = list(&relay, OWNER);
    for hash in &acknowledged {
        assert!(listed.contains(hash), "an acknowledged blob is missing");
    }
    // A blob may be live whose client was not told any more; but all that is there is live.
    let stored = || files(&relay.data().join("blobs")).len();
    until("there are the files of the index only", || stored() == listed.len());
    for hash in &listed {
        assert_eq!(sha256(&get(&relay, hash).body), *hash);
    }
    println!("{} acknowledged blobs survived, {} are there", acknowledged.len(), listed.len());
}

/// The status; `None` if the relay dies meanwhile.
fn try_send(relay: &RelayProcess, headers: &str, body: &[u8]) -> Option<u16> {
    let host = relay.host();
    let mut stream = TcpStream::connect(host).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let head = format!("PUT /upload HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{headers}\r\n");
    stream.write_all(head.as_bytes()).ok()?;
    stream.write_all(body).ok()?;
    let mut text = Vec::new();
    stream.read_to_end(&mut text).ok()?;
    let text = String::from_utf8(text).unwrap();
    text.split(' ').nth(1)?.parse().ok()
}

/// The sweep at the start removes what the index does not know: without an index that would be everything.
#[test]
fn blobs_whose_index_is_lost_are_kept() {
    let mut relay = RelayProcess::start();
    let bytes = noise(1, 1_000);
    let hash = sha256(&bytes);
    assert_eq!(upload(&relay, OWNER, &bytes).status, 201);
    assert!(relay.stop().success());
    let file = relay.data().join("blossom.sqlite");
    let aside = relay.data().join("aside");
    std::fs::rename(&file, &aside).unwrap();
    relay.restart();
    assert_eq!(get(&relay, &hash).outcome(), (503, "the store of blobs is not open"));
    assert_eq!(files(&relay.data().join("blobs")).len(), 1);
    assert!(relay.stop().success());
    std::fs::rename(&aside, &file).unwrap();
    relay.restart();
    assert!(get(&relay, &hash).body == bytes);
}
