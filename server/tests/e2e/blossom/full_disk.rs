//! A full disk: 507, nothing is left of what did not fit, and uploads succeed again once there is room.

use super::*;

#[test]
fn what_does_not_fit_is_answered_507_and_leaves_nothing() {
    let Some(mut relay) = RelayProcess::start_on_tmpfs("blobs", 8, "") else { return };
    // The disk is in the relay's namespace, and seen there only.
    let folder = std::path::PathBuf::from(format!("/proc/{}/root", relay.pid()))
        .join(relay.data().strip_prefix("/").unwrap())
        .join("blobs");
    let first = noise(1, 5 << 20);
    assert_eq!(upload(&relay, OWNER, &first).outcome(), (201, ""));
    for (number, length) in [(2, 4 << 20), (3, 12 << 20)] {
        let bytes = noise(number, length);
        let hash = sha256(&bytes);
        let mut stream = begin(&relay, "PUT", "/upload", &announced(OWNER, &hash, length));
        // It may be refused before all of it is sent.
        let _ = stream.write_all(&bytes);
        assert_eq!(Reply::read(stream).outcome(), (507, "this server has no room left"), "{length}");
        assert_eq!(get(&relay, &hash).status, 404);
        until("only the first is there", || files(&folder).len() == 1);
    }
    assert!(get(&relay, &sha256(&first)).body == first, "reading works");
    assert_eq!(delete(&relay, OWNER, &sha256(&first)).status, 204);
    until("its file goes", || files(&folder).is_empty());
    let again = noise(2, 4 << 20);
    assert_eq!(upload(&relay, OWNER, &again).outcome(), (201, ""), "there is room again");
    assert!(relay.stop().success());
}

/// The index is on the full disk too, and a deletion needs some room before it frees any.
#[test]
fn a_disk_without_a_byte_left_can_be_emptied() {
    // The store on files takes more of a disk.
    let options = "--set store.engine=lmdb --set store.reserve_bytes=2097152";
    let Some(relay) = RelayProcess::start_on_tmpfs("", 24, options) else { return };
    let data = std::path::PathBuf::from(format!("/proc/{}/root", relay.pid()))
        .join(relay.data().strip_prefix("/").unwrap());
    let mut stored = Vec::new();
    for number in 1..100 {
        let bytes = noise(number, 500_000);
        match upload(&relay, OWNER, &bytes).outcome() {
            (201, _) => stored.push(sha256(&bytes)),
            (507, _) => break,
            other => panic!("{other:?}"),
        }
    }
    assert!((10..99).contains(&stored.len()), "{} blobs fitted", stored.len());
    let mut filler = std::fs::File::create(data.join("filler")).unwrap();
    for size in [65_536, 4_096, 512, 1] {
        while filler.write_all(&vec![0; size]).is_ok() {}
    }
    for hash in &stored {
        assert_eq!(delete(&relay, OWNER, hash).outcome(), (204, ""));
    }
    assert_eq!(list(&relay, OWNER), Vec::<String>::new());
    until("the files go", || files(&data.join("blobs")).is_empty());
    assert_eq!(upload(&relay, OWNER, &noise(100, 500_000)).outcome(), (201, ""));
}
