//! Uploads, ranges and deletes as clients see them, and who may.

use super::*;

#[test]
fn a_blob_comes_and_goes() {
    let mut relay = RelayProcess::start();
    // Answered in one piece, and in several.
    for (number, length) in [(1, 1), (2, 64 << 10), (3, (64 << 10) + 1), (4, 3_000_000)] {
        let bytes = noise(number, length);
        let hash = sha256(&bytes);
        let stored = upload(&relay, OWNER, &bytes);
        assert_eq!(stored.outcome(), (201, ""));
        assert_eq!(stored.json()["sha256"], hash);
        let found = get(&relay, &hash);
        assert!(found.status == 200 && found.body == bytes, "{length}");
        assert_eq!(found.header("content-length"), Some(&*length.to_string()));
        let head = send(&relay, "HEAD", &format!("/{hash}.bin"), "", b"");
        assert_eq!((head.status, head.body.len()), (200, 0));
        assert_eq!(head.header("content-length"), Some(&*length.to_string()));
        let (from, to) = (length / 3, length - 1);
        let range = format!("Range: bytes={from}-{to}\r\n");
        let range = send(&relay, "GET", &format!("/{hash}"), &range, b"");
        assert!(range.status == 206 && range.body == bytes[from..], "{length}");
        assert_eq!(list(&relay, OWNER), [&*hash]);
        assert_eq!(delete(&relay, OWNER + 1, &hash).status, 403, "it is another's");
        assert_eq!(delete(&relay, OWNER, &hash).status, 204);
        assert_eq!(get(&relay, &hash).status, 404);
        until("the file goes", || files(&relay.data().join("blobs")).is_empty());
    }
    assert!(relay.stop().success());
}
