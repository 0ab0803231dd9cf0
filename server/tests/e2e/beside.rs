//! Commands that change a folder of the store on files while a relay serves it: the relay makes the changes.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use relay_engine::testing::signing::{event, key};
use serde_json::Value;

use super::harness::{RELAY, RelayProcess, relay, serve, unix_now, until, without_relay_variables};

fn start() -> RelayProcess {
    RelayProcess::start_on("log")
}

fn socket(relay: &RelayProcess) -> PathBuf {
    relay.data().join("commands.sock")
}

/// Runs a command on the folder of a relay.
fn beside(process: &RelayProcess, args: &[&str], stdin: &[u8]) -> Output {
    let data = process.data().display().to_string();
    relay(&[args, &["--data", &data]].concat(), stdin)
}

fn words(output: &Output) -> (Option<i32>, String) {
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn note(n: u64) -> String {
    event(&key(1)).at(unix_now() - 10_000 + n).content(format!("note {n}")).sign().json()
}

/// Events with ids of their own, for `--no-verify`.
fn unsigned(count: u64) -> String {
    let signed = event(&key(1)).at(unix_now() - 10_000).content("x").sign();
    let (json, id) = (signed.json(), signed.id.to_string());
    (0..count).map(|n| json.replace(&id, &format!("{n:064x}")) + "\n").collect()
}

#[test]
fn an_import_is_stored_counted_and_delivered_as_without_a_relay() {
    let process = start();
    let mut live = process.connect();
    live.send(r#"["REQ","live",{"kinds":[1],"limit":0}]"#);
    live.recv_starting(r#"["EOSE""#);
    let replaced =
        |n: u64| event(&key(2)).kind(0).at(unix_now() - 100 + n).content(format!("{n}")).sign().json();
    let request = event(&key(1)).kind(5).at(unix_now()).tag(["k", "1"]);
    let deleted = event(&key(1)).at(unix_now() - 50).content("deleted").sign();
    let request = request.tag(["e", &deleted.id]).sign().json();
    let expired = event(&key(3)).at(1_000).tag(["expiration", "2000"]).sign().json();
    let ephemeral = event(&key(3)).kind(20_001).at(unix_now()).sign().json();
    let notes: Vec<String> = (0..1_500).map(note).collect();
    let mut lines = notes.clone();
    lines.extend([notes[3].clone(), replaced(2), replaced(1), request, deleted.json()]);
    lines.extend([expired, ephemeral, "no event".to_owned()]);
    let lines = lines.join("\n");
    let output = beside(&process, &["import", "--json"], lines.as_bytes());
    let (code, stderr) = words(&output);
    assert_eq!(code, Some(1), "{stderr}");
    let counts: Value = serde_json::from_slice(&output.stdout).unwrap();
    let alone = tempfile::TempDir::new().unwrap();
    let alone = alone.path().join("data").display().to_string();
    let args = ["import", "--json", "--data", &alone, "--set", "store.engine=log"];
    let expected: Value = serde_json::from_slice(&relay(&args, lines.as_bytes()).stdout).unwrap();
    assert_eq!(counts, expected);
    assert_eq!((&counts["stored"], &counts["duplicate"]), (&1_502.into(), &1.into()), "{counts}");
    // In the order of the import, each once.
    for want in &notes {
        assert_eq!(live.recv_starting(r#"["EVENT""#), format!(r#"["EVENT","live",{want}]"#));
    }
    let last = note(9_000);
    assert!(process.connect().publish(&last).0);
    assert_eq!(live.recv_starting(r#"["EVENT""#), format!(r#"["EVENT","live",{last}]"#));
    let exported = beside(&process, &["export"], b"");
    assert_eq!(String::from_utf8_lossy(&exported.stdout).lines().count(), 1_503);
    // A deletion that reaches what was imported, by a request that is.
    let id: Value = serde_json::from_str(&notes[7]).unwrap();
    let id = id["id"].as_str().unwrap();
    let query = || process.connect().query(&format!(r#"{{"ids":["{id}"]}}"#));
    assert_eq!(query(), [notes[7].clone()]);
    let request = event(&key(1)).kind(5).at(unix_now()).tag(["e", id]).sign().json();
    assert_eq!(words(&beside(&process, &["import"], request.as_bytes())).0, Some(0));
    assert!(query().is_empty());
}

#[test]
fn a_deletion_beside_the_relay_is_seen_by_it_and_leaves_no_tombstones() {
    let process = start();
    let notes: Vec<String> = (0..600).map(note).collect();
    assert_eq!(words(&beside(&process, &["import"], notes.join("\n").as_bytes())).0, Some(0));
    let filter = format!(r#"{{"authors":["{}"]}}"#, key(1).hex());
    let (code, stderr) = words(&beside(&process, &["delete", "--dry-run", &filter], b""));
    assert!(code == Some(0) && stderr.contains("600 events match"), "{stderr}");
    let (code, stderr) = words(&beside(&process, &["delete", "--yes", &filter], b""));
    assert!(code == Some(0) && stderr.contains("600 events deleted"), "{stderr}");
    let mut client = process.connect();
    assert!(client.query(&filter).is_empty());
    assert_eq!(client.publish(&notes[5]), (true, String::new()), "it may come again");
    // No filter, no folder.
    assert_eq!(words(&beside(&process, &["delete", "--yes", "{"], b"")).0, Some(2));
}

#[test]
fn the_socket_is_the_users_own_and_ends_with_the_relay() {
    let mut process = start();
    let path = socket(&process);
    let metadata = std::fs::metadata(&path).unwrap();
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    // One that was killed leaves it; the next one replaces it.
    process.kill();
    assert!(path.exists());
    let args = ["import"];
    let (code, stderr) = words(&beside(&process, &args, note(1).as_bytes()));
    assert_eq!(code, Some(0), "no relay is there, so it writes itself: {stderr}");
    process.restart();
    let (code, stderr) = words(&beside(&process, &args, note(2).as_bytes()));
    assert_eq!(code, Some(0), "{stderr}");
    assert_eq!(process.connect().query("{}").len(), 2);
    assert!(process.stop().success());
    assert!(!path.exists());
    // Without a relay, a second command that writes is refused.
    let mut command = Command::new(RELAY);
    without_relay_variables(&mut command);
    command.args(["import", "--data"]).arg(process.data()).current_dir(std::env::temp_dir());
    let mut first = command.stdin(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    until("the first one has the folder", || {
        let (code, stderr) = words(&beside(&process, &args, b""));
        code == Some(3) && stderr.contains("one process writes such a database at a time")
    });
    drop(first.stdin.take());
    assert!(first.wait().unwrap().success());
    // Nor does one with LMDB need it.
    let lmdb = RelayProcess::start_on("lmdb");
    assert!(!socket(&lmdb).exists());
}

/// A socket's address has room for 108 bytes.
#[test]
fn a_folder_may_have_a_long_name() {
    let long = |data: &std::path::Path| data.join("a".repeat(100)).join("b".repeat(100));
    let mut data = PathBuf::new();
    let process = RelayProcess::start_by(|folder| {
        data = long(folder);
        let mut command = serve(&data, None);
        command.args(["--set", "store.engine=log"]);
        command
    });
    let (data, line) = (data.display().to_string(), note(1));
    let (code, stderr) = words(&relay(&["import", "--data", &data], line.as_bytes()));
    assert_eq!(code, Some(0), "{stderr}");
    assert_eq!(process.connect().query("{}"), [line]);
}

#[test]
fn a_relay_that_is_killed_ends_an_import_which_says_how_far_it_came() {
    let mut process = start();
    let lines = unsigned(20_000);
    let mut live = process.connect();
    live.send(r#"["REQ","live",{"limit":0}]"#);
    live.recv_starting(r#"["EOSE""#);
    let output = std::thread::scope(|scope| {
        let data = process.data().display().to_string();
        let lines = &lines;
        let importing =
            scope.spawn(move || relay(&["import", "--no-verify", "--data", &data], lines.as_bytes()));
        live.recv_starting(r#"["EVENT""#);
        process.kill();
        importing.join().unwrap()
    });
    let (code, stderr) = words(&output);
    assert_eq!(code, Some(3), "{stderr}");
    assert!(stderr.contains("has ended") && stderr.contains("events were stored and 0 were"), "{stderr}");
    let told: u64 = stderr
        .lines()
        .find(|line| line.contains("events were stored"))
        .and_then(|line| line.split(' ').next()?.parse().ok())
        .unwrap_or_else(|| panic!("{stderr}"));
    // All that it says is stored is, and the rest can be imported.
    process.restart();
    let output = beside(&process, &["import", "--no-verify", "--json"], lines.as_bytes());
    let counts: Value = serde_json::from_slice(&output.stdout).unwrap();
    let (stored, duplicate) = (counts["stored"].as_u64().unwrap(), counts["duplicate"].as_u64().unwrap());
    assert_eq!(stored + duplicate, 20_000);
    assert!(duplicate >= told && stored > 0, "{duplicate} of {told}, {stored}");
}

#[test]
fn an_import_goes_on_while_clients_publish_and_the_relay_stops_in_order() {
    let mut process = start();
    let lines = unsigned(8_000);
    let output = std::thread::scope(|scope| {
        let data = process.data().display().to_string();
        let lines = &lines;
        let importing = scope
            .spawn(move || relay(&["import", "--no-verify", "--json", "--data", &data], lines.as_bytes()));
        let mut client = process.connect();
        for n in 0..200 {
            let published = event(&key(5)).at(unix_now() - n).content(format!("{n}")).sign();
            assert_eq!(client.publish(&published.json()), (true, String::new()));
        }
        importing.join().unwrap()
    });
    let (code, stderr) = words(&output);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(process.stop().success());
    let info = beside(&process, &["info", "--json"], b"");
    let info: Value = serde_json::from_slice(&info.stdout).unwrap();
    assert_eq!(info["events"], 8_200);
}

/// A frame, its version and kind.
fn frame(kind: u8, rest: &[u8]) -> Vec<u8> {
    [&(rest.len() as u32 + 2).to_le_bytes()[..], &[1, kind], rest].concat()
}

/// What a peer answers until it closes the connection.
fn answer(process: &RelayProcess, bytes: &[u8]) -> String {
    let mut stream = UnixStream::connect(socket(process)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    // It may be refused before all has been written.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn what_is_no_request_hurts_nothing() {
    let process = start();
    let event = note(1);
    let cut = [&[0][..], &(event.len() as u32).to_le_bytes(), &event.as_bytes()[..event.len() / 2]].concat();
    let lying = [&[0][..], &u32::MAX.to_le_bytes(), event.as_bytes()].concat();
    let bad = [&[0][..], &(event.len() as u32).to_le_bytes(), event.replace("note", "no\u{1}e").as_bytes()]
        .concat();
    for (bytes, why) in [
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), "is longer than"),
        (vec![0xff; 100_000], "is longer than"),
        (vec![0; 100_000], "an empty frame"),
        (frame(1, &cut), "event 0 is cut off"),
        (frame(1, &lying), "event 0 is cut off"),
        (frame(1, &bad), "event 0: invalid"),
        (frame(2, &[7; 33]), "the last id is cut off"),
        (frame(77, &[]), "there is no request 77"),
        (vec![2, 0, 0, 0, 9, 1], "version 9"),
        // A length of which nothing comes, or only a part.
        ((16u32 << 20).to_le_bytes().to_vec(), ""),
        (frame(3, &[])[..5].to_vec(), ""),
        (vec![1], ""),
    ] {
        let found = answer(&process, &bytes);
        assert!(found.contains(why), "{why}: {found}");
        assert_eq!(found.is_empty(), why.is_empty(), "{found}");
    }
    assert!(process.connect().query("{}").is_empty(), "nothing was stored");
    let before = process.resident_bytes();
    // More than may be connected: those that are too many are told, also a command.
    let mut held: Vec<UnixStream> = (0..40)
        .map(|_| {
            let mut stream = UnixStream::connect(socket(&process)).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
            // Says that much will come.
            let _ = stream.write_all(&(20u32 << 20).to_le_bytes());
            stream
        })
        .collect();
    let mut told = String::new();
    let _ = held.pop().unwrap().read_to_string(&mut told);
    assert!(told.contains("16 commands are connected"), "{told}");
    let (code, stderr) = words(&beside(&process, &["import"], note(2).as_bytes()));
    assert!(code == Some(3) && stderr.contains("16 commands are connected"), "{stderr}");
    assert_eq!(process.connect().publish(&note(3)), (true, String::new()), "clients are served");
    let grown = process.resident_bytes().saturating_sub(before);
    assert!(grown < 16 << 20, "{grown} bytes were taken for what has not come");
    drop(held);
    until("there is room again", || beside(&process, &["import"], note(2).as_bytes()).status.success());
    assert_eq!(process.connect().query("{}").len(), 2);
}
