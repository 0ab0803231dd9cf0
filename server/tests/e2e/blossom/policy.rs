//! Who may upload, by the address that the relay listens on and by settings.

use super::*;

/// An upload as this Host, with more headers.
fn upload_as(relay: &RelayProcess, host: &str, headers: &str, signer: u64) -> u16 {
    let bytes = noise(signer, 100);
    let announced = announced(signer, &sha256(&bytes), bytes.len());
    let mut stream = TcpStream::connect(relay.host()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "PUT /upload HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{headers}{announced}\r\n")
        .unwrap();
    stream.write_all(&bytes).unwrap();
    Reply::read(stream).status
}

#[test]
fn anybody_on_this_machine_may_upload_and_nobody_from_elsewhere() {
    let listed = key(OWNER + 1);
    let relay = RelayProcess::start_with(&format!("[blossom]\nupload_pubkeys = ['{}']\n", listed.hex()));
    let host = relay.host().to_owned();
    assert_eq!(upload_as(&relay, &host, "", OWNER), 201);
    // A proxy on this machine makes its clients look local; a name that leads here makes pages of others so.
    for (host, headers) in [
        (&*host, "X-Forwarded-For: 203.0.113.7\r\n"),
        (&*host, "Forwarded: for=203.0.113.7\r\n"),
        (&*host, "Via: 1.1 proxy\r\n"),
        ("files.example", ""),
    ] {
        assert_eq!(upload_as(&relay, host, headers, OWNER), 403, "{host} {headers}");
        assert!([200, 201].contains(&upload_as(&relay, host, headers, OWNER + 1)), "{host} {headers}");
    }
}

#[test]
fn on_a_public_address_only_listed_keys_may_upload_unless_it_is_opened() {
    let (admin, allowed) = (key(OWNER + 1), key(OWNER + 2));
    let closed = format!(
        "url = 'wss://relay.example'\n[policy]\nadmin_pubkeys = ['{}']\nallow_pubkeys = ['{}']\n",
        admin.hex(),
        allowed.hex()
    );
    let relay = RelayProcess::start_with(&closed);
    for (signer, status) in [(OWNER, 403), (OWNER + 1, 201), (OWNER + 2, 201)] {
        assert_eq!(upload_as(&relay, "relay.example", "", signer), status, "{signer}");
    }
    let denied = key(OWNER + 3);
    let open = format!(
        "url = 'wss://relay.example'\n[blossom]\nopen = true\n[policy]\ndeny_pubkeys = ['{}']\n",
        denied.hex()
    );
    let relay = RelayProcess::start_with(&open);
    for (signer, status) in [(OWNER, 201), (OWNER + 3, 403)] {
        assert_eq!(upload_as(&relay, "relay.example", "", signer), status, "{signer}");
    }
    let shut = RelayProcess::start_with("[blossom]\nopen = false\n");
    assert_eq!(upload_as(&shut, shut.host(), "", OWNER), 403, "not even on this machine");
    let off = RelayProcess::start_with("[blossom]\nenabled = false\n");
    assert_eq!(upload_as(&off, off.host(), "", OWNER), 404);
}

/// A rule by last access: whoever downloads a blob keeps it.
#[test]
fn downloads_keep_a_blob() {
    let relay = RelayProcess::start_with("[[blossom.retention]]\nunused_seconds = 2\n");
    let (used, unused) = (noise(1, 1_000), noise(2, 100_000));
    for bytes in [&used, &unused] {
        assert_eq!(upload(&relay, OWNER, bytes).status, 201);
    }
    until("the one that nobody downloads goes", || {
        assert_eq!(get(&relay, &sha256(&used)).status, 200, "the other stays meanwhile");
        // A sweep that does not wait for its minute.
        assert_eq!(command_line::code(&relay, &["gc"]), 0);
        list(&relay, OWNER) == [sha256(&used)]
    });
    until("it goes too when nobody downloads it any more", || {
        assert_eq!(command_line::code(&relay, &["gc"]), 0);
        list(&relay, OWNER).is_empty()
    });
}
