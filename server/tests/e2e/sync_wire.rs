//! What `relay sync` and a relay say to each other, recorded between them: reconciliations (NIP-77) and what differs, nothing else.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use relay_engine::testing::signing::key;
use serde_json::Value;
use tempfile::TempDir;

use super::harness::{RelayProcess, relay};
use super::sync::{import, notes, stored, sync};

/// Both directions of a connection, as bytes.
type Recorded = [Arc<Mutex<Vec<u8>>>; 2];

/// A proxy in front of a relay that records what passes.
struct Recorder {
    url: String,
    connections: Arc<Mutex<Vec<Recorded>>>,
}

impl Recorder {
    fn before(relay: &RelayProcess) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("ws://{}", listener.local_addr().unwrap());
        let (host, connections) = (relay.host().to_owned(), Arc::new(Mutex::new(Vec::new())));
        let recorded = Arc::clone(&connections);
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(relay) = TcpStream::connect(&host) else { return };
                let both: Recorded = Default::default();
                recorded.lock().unwrap().push(both.clone());
                let [sent, answered] = both;
                copy(client.try_clone().unwrap(), relay.try_clone().unwrap(), sent);
                copy(relay, client, answered);
            }
        });
        Recorder { url, connections }
    }

    /// The messages of all WebSocket connections since the last call: of the client, and of the relay.
    fn taken(&self) -> [Vec<Value>; 2] {
        let connections = std::mem::take(&mut *self.connections.lock().unwrap());
        let mut all = [Vec::new(), Vec::new()];
        for connection in connections {
            let [sent, answered] = connection.map(|bytes| std::mem::take(&mut *bytes.lock().unwrap()));
            if String::from_utf8_lossy(&sent).to_lowercase().contains("upgrade: websocket") {
                all[0].extend(messages(&sent));
                all[1].extend(messages(&answered));
            }
        }
        all
    }
}

fn copy(mut from: TcpStream, mut to: TcpStream, record: Arc<Mutex<Vec<u8>>>) {
    std::thread::spawn(move || {
        let mut buffer = [0; 1 << 16];
        while let Ok(len @ 1..) = from.read(&mut buffer) {
            record.lock().unwrap().extend_from_slice(&buffer[..len]);
            if to.write_all(&buffer[..len]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Write);
    });
}

/// The text messages after the head of an HTTP message (RFC 6455), none of which is in fragments.
fn messages(bytes: &[u8]) -> Vec<Value> {
    let head = bytes.windows(4).position(|four| four == b"\r\n\r\n").expect("a head of HTTP") + 4;
    let (mut rest, mut found) = (&bytes[head..], Vec::new());
    while let [first, second, more @ ..] = rest {
        let (len, more) = match second & 0x7f {
            126 => (usize::from(u16::from_be_bytes(more[..2].try_into().unwrap())), &more[2..]),
            127 => (u64::from_be_bytes(more[..8].try_into().unwrap()) as usize, &more[8..]),
            len => (usize::from(len), more),
        };
        let (mask, more) = if second & 0x80 == 0 { (&[0; 4][..], more) } else { more.split_at(4) };
        let payload: Vec<u8> =
            more[..len].iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
        if first & 0x0f == 1 {
            assert_eq!(first & 0x80, 0x80, "a message in one frame");
            found.push(serde_json::from_slice(&payload).expect("messages are JSON"));
        }
        rest = &more[len..];
    }
    found
}

/// How many messages there are of each name.
fn counted(messages: &[Value]) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    messages.iter().for_each(|message| *counts.entry(message[0].as_str().unwrap()).or_default() += 1);
    counts
}

fn count(messages: &[Value], name: &str) -> usize {
    counted(messages).get(name).copied().unwrap_or(0)
}

/// Every REQ asks for ids, and `ids` of them all together.
fn check_requests(messages: &[Value], ids: usize) {
    let requests: Vec<&Value> = messages.iter().filter(|message| message[0] == "REQ").collect();
    let asked: usize =
        requests.iter().map(|request| request[2]["ids"].as_array().expect("by id").len()).sum();
    assert_eq!(asked, ids, "{requests:?}");
}

#[test]
fn what_differs_is_found_by_one_reconciliation_and_crosses_the_wire_once() {
    const MANY: u64 = 9_000;
    let peer = RelayProcess::start();
    let recorder = Recorder::before(&peer);
    let there = peer.data().display().to_string();
    import(&there, &notes("there", MANY));
    let folder = TempDir::new().unwrap();
    let here = folder.path().join("data").display().to_string();

    // All of many.
    let (code, report, stderr) = sync(&[&recorder.url, "--data", &here, "--dir", "down"]);
    assert_eq!((code, &report["counts"]["stored"]), (Some(0), &MANY.into()), "{stderr}");
    assert_eq!(stored(&here), stored(&there));
    let [sent, answered] = recorder.taken();
    assert_eq!((count(&sent, "NEG-OPEN"), count(&sent, "EVENT")), (1, 0), "{:?}", counted(&sent));
    assert!(count(&sent, "NEG-MSG") >= 1, "more ids than fit into one answer: {:?}", counted(&sent));
    assert_eq!(count(&answered, "NEG-MSG"), 1 + count(&sent, "NEG-MSG"));
    assert_eq!(count(&answered, "EVENT"), MANY as usize);
    check_requests(&sent, MANY as usize);

    // Some on either side, fetched and sent together, then each way alone.
    for (directions, round) in
        [(&["both"][..], "first"), (&["up", "down"], "second"), (&["down", "up"], "third")]
    {
        import(&there, &notes(&format!("only there, {round}"), 7));
        import(&here, &notes(&format!("only here, {round}"), 5));
        for direction in directions {
            let (code, _, stderr) = sync(&[&recorder.url, "--data", &here, "--dir", direction]);
            assert_eq!(code, Some(0), "{stderr}");
            let [sent, answered] = recorder.taken();
            let (down, up) = (*direction != "up", *direction != "down");
            assert_eq!(count(&sent, "NEG-OPEN"), 1, "{direction}: {:?}", counted(&sent));
            assert_eq!(count(&answered, "NEG-MSG"), 1 + count(&sent, "NEG-MSG"), "{direction}");
            assert!(count(&answered, "NEG-MSG") <= 4, "{direction}: {:?}", counted(&answered));
            assert_eq!(count(&answered, "EVENT"), if down { 7 } else { 0 }, "{direction}");
            assert_eq!(count(&sent, "EVENT"), if up { 5 } else { 0 }, "{direction}");
            check_requests(&sent, if down { 7 } else { 0 });
        }
        assert_eq!(stored(&here), stored(&there));
    }
}

/// A set that a relay keeps for reconciliations has nothing of what `relay delete` has removed beside it.
#[test]
fn what_is_deleted_beside_a_serving_relay_is_in_no_reconciliation_any_more() {
    let peer = RelayProcess::start();
    let recorder = Recorder::before(&peer);
    let there = peer.data().display().to_string();
    let folder = TempDir::new().unwrap();
    let here = folder.path().join("data").display().to_string();
    let notes = notes("both", 300);
    import(&there, &notes);
    import(&here, &notes);
    let differing = || {
        let (code, report, stderr) = sync(&[&recorder.url, "--data", &here, "--dry-run"]);
        assert_eq!(code, Some(0), "{stderr}");
        assert_eq!(count(&recorder.taken()[0], "NEG-OPEN"), 1);
        (report["counts"]["need"].clone(), report["counts"]["have"].clone())
    };
    assert_eq!(differing(), (0.into(), 0.into()));
    let author = format!(r#"{{"authors":["{}"]}}"#, key(1).hex());
    assert!(relay(&["delete", &author, "--yes", "--data", &there], b"").status.success());
    assert_eq!(differing(), (0.into(), 100.into()));
}
