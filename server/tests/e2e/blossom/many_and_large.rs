//! A thousand uploads at once, and blobs that are larger than the memory that there may be.

use std::io;

use super::super::harness::metric;
use super::*;

/// `RELAY_TEST_BLOB_MIB=2048` for the largest blob that is promised.
fn large_blob_bytes() -> u64 {
    let mib = std::env::var("RELAY_TEST_BLOB_MIB").map_or(512, |mib| mib.parse().unwrap());
    mib << 20
}

const UPLOADS: usize = 1_000;

#[test]
fn a_thousand_uploads_at_once_all_succeed() {
    let mut relay = RelayProcess::start();
    let blobs: Vec<_> = (0..UPLOADS).map(|number| noise(number as u64 + 1, 5_000 + number)).collect();
    // All heads first, so that all of them are under way before any can end.
    let mut streams: Vec<_> = blobs
        .iter()
        .map(|bytes| begin(&relay, "PUT", "/upload", &announced(OWNER, &sha256(bytes), bytes.len())))
        .collect();
    until("all slots are taken and the others wait", || {
        let (taken, waiting) =
            (metric(&relay, "relay_blossom_uploads "), metric(&relay, "relay_blossom_uploads_waiting "));
        taken > 0.0 && (taken + waiting) as usize == UPLOADS
    });
    // The last one first: those that wait must not keep those that have a slot from going on.
    for (stream, bytes) in streams.iter_mut().zip(&blobs).rev() {
        stream.write_all(bytes).unwrap();
    }
    for (stream, bytes) in streams.into_iter().zip(&blobs) {
        let stored = Reply::read(stream);
        assert_eq!(stored.outcome(), (201, ""));
        assert_eq!(stored.json()["sha256"], sha256(bytes));
    }
    assert_eq!(list(&relay, OWNER).len(), UPLOADS);
    assert_eq!(metric(&relay, "relay_blossom_blobs ") as usize, UPLOADS);
    let bytes: usize = blobs.iter().map(Vec::len).sum();
    assert_eq!(metric(&relay, "relay_blossom_stored_bytes ") as usize, bytes);
    assert_eq!(metric(&relay, "relay_blossom_bytes_received_total ") as usize, bytes);
    let by_status = "relay_blossom_requests_total{operation=\"upload\",status=\"2xx\"}";
    assert_eq!(metric(&relay, by_status) as usize, UPLOADS);
    assert_eq!(metric(&relay, "relay_blossom_uploads"), 0.0, "and none waits");
    assert!(relay.stop().success());
}

/// Bytes by their place, as many as needed, without holding them.
struct Pattern {
    at: u64,
    end: u64,
}

impl Read for Pattern {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = buffer.len().min((self.end - self.at) as usize);
        for byte in &mut buffer[..count] {
            *byte = (self.at >> 16) as u8 ^ (self.at as u8).wrapping_mul(31);
            self.at += 1;
        }
        Ok(count)
    }
}

/// Calls `each` with the pieces of a reader.
fn pieces(mut reader: impl Read, mut each: impl FnMut(&[u8])) -> u64 {
    let mut buffer = vec![0; 256 << 10];
    let mut total = 0;
    loop {
        let count = reader.read(&mut buffer).unwrap();
        if count == 0 {
            return total;
        }
        each(&buffer[..count]);
        total += count as u64;
    }
}

#[test]
fn a_large_blob_goes_up_and_down_in_little_memory() {
    let relay = RelayProcess::start();
    // Whatever the first upload allocates once and for all is there.
    let small = noise(1, 1 << 20);
    assert_eq!(upload(&relay, OWNER, &small).status, 201);
    assert_eq!(get(&relay, &sha256(&small)).body.len(), small.len());
    let length = large_blob_bytes();
    let pattern = || Pattern { at: 0, end: length };
    let mut hash = Sha256::new();
    pieces(pattern(), |piece| hash.update(piece));
    let hash = hex(&hash.finalize());

    let before = relay.resident_bytes();
    let mut most = before;
    let headers = format!("{}Content-Length: {length}\r\n", token(OWNER, "upload", &hash));
    let mut stream = begin(&relay, "PUT", "/upload", &headers);
    pieces(pattern(), |piece| {
        stream.write_all(piece).unwrap();
        most = most.max(relay.resident_bytes());
    });
    let stored = Reply::read(stream);
    assert_eq!(stored.outcome(), (201, ""));
    assert_eq!(stored.json()["size"], length);

    let mut from = BufReader::new(begin(&relay, "GET", &format!("/{hash}"), ""));
    assert_eq!(Reply::read_head(&mut from).status, 200);
    let mut found = Sha256::new();
    let received = pieces(&mut from, |piece| {
        found.update(piece);
        most = most.max(relay.resident_bytes());
    });
    assert_eq!((received, hex(&found.finalize())), (length, hash.clone()));
    // The end is sought, not read up to.
    let sent = metric(&relay, "relay_blossom_bytes_sent_total ");
    let range = format!("Range: bytes={}-\r\n", length - 100);
    let range = send(&relay, "GET", &format!("/{hash}"), &range, b"");
    assert_eq!((range.status, range.body.len()), (206, 100));
    assert_eq!(metric(&relay, "relay_blossom_bytes_sent_total ") - sent, 100.0);
    let grown = (most - before) >> 20;
    println!("{} MiB up and down: resident memory grew by {grown} MiB", length >> 20);
    assert!(grown < 32, "resident memory grew by {grown} MiB");
}
