//! `relay sync` as an operator runs it: with other relays of the same binary, beside a serving relay and without one.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::process::{Command, Stdio};

use relay_engine::testing::signing::{Signed, event, key};
use serde_json::Value;
use tempfile::TempDir;

use super::harness::{ENGINES, RELAY, RelayProcess, relay, unix_now, without_relay_variables};

pub(super) fn notes(name: &str, count: u64) -> Vec<Signed> {
    let newest = unix_now() - 1_000;
    let note = |n| event(&key(1 + n % 3)).at(newest - n / 3).content(format!("{name} {n}")).sign();
    (0..count).map(note).collect()
}

pub(super) fn import(data: &str, events: &[Signed]) {
    let lines: String = events.iter().map(|event| event.json() + "\n").collect();
    assert!(relay(&["import", "--data", data], lines.as_bytes()).status.success());
}

/// What a folder holds, read beside whoever serves it.
pub(super) fn stored(data: &str) -> BTreeSet<String> {
    let output = relay(&["export", "--data", data], b"");
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

/// The exit code, the result with the only relay, and standard error.
pub(super) fn sync(args: &[&str]) -> (Option<i32>, Value, String) {
    let output = relay(&[&["sync", "--json"], args].concat(), b"");
    let stderr = String::from_utf8(output.stderr).unwrap();
    let document: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    (output.status.code(), document["peers"][0].clone(), stderr)
}

#[test]
fn two_relays_have_the_same_events_afterwards() {
    ENGINES.iter().for_each(|engine| two_relays_converge_on(engine));
}

fn two_relays_converge_on(engine: &str) {
    let peer = RelayProcess::start_on(engine);
    let serving = RelayProcess::start_on(engine);
    let offline = TempDir::new().unwrap();
    let (common, there) = (notes("common", 400), notes("there", 700));
    let there_data = peer.data().display().to_string();
    import(&there_data, &common);
    import(&there_data, &there);
    for data in [serving.data(), offline.path().join("data")] {
        let data = data.display().to_string();
        let here = notes(&format!("here {data}"), 300);
        import(&data, &common);
        import(&data, &here);
        // The other relay has what the first round has brought it.
        let (ours, theirs) = (stored(&data), stored(&there_data));
        let (need, have) = (theirs.difference(&ours).count(), ours.difference(&theirs).count());
        let (code, dry, stderr) = sync(&[&peer.url, "--data", &data, "--dry-run"]);
        assert_eq!(code, Some(0), "{stderr}");
        assert_eq!(
            (&dry["counts"]["need"], &dry["counts"]["have"]),
            (&need.into(), &have.into()),
            "{stderr}"
        );
        assert_eq!((stored(&data), stored(&there_data)), (ours.clone(), theirs.clone()));
        // One way, then the other.
        let (code, down, stderr) = sync(&[&peer.url, "--data", &data, "--dir", "down"]);
        assert_eq!((code, &down["counts"]["stored"]), (Some(0), &need.into()), "{stderr}");
        assert_eq!(stored(&there_data), theirs);
        let (code, up, stderr) = sync(&[&peer.url, "--data", &data]);
        assert_eq!((code, &up["counts"]["sent"]), (Some(0), &have.into()), "{stderr}");
        assert_eq!(up["counts"]["stored"], 0);
        assert_eq!(stored(&data), stored(&there_data));
        assert!(stderr.contains(&format!("{}: 0 stored, {have} sent", peer.url)), "{stderr}");
        // There is nothing left to do.
        let (code, nothing, _) = sync(&[&peer.url, "--data", &data]);
        assert_eq!(code, Some(0));
        assert_eq!((&nothing["counts"]["stored"], &nothing["counts"]["sent"]), (&0.into(), &0.into()));
    }
    // Whoever asks the serving relay is given what has come beside it.
    let found = serving.connect().query(r#"{"limit":1000}"#).len();
    assert_eq!(found, 1_000);
}

#[test]
fn only_events_of_the_filter_and_the_time_are_copied() {
    let peer = RelayProcess::start();
    let notes = notes("there", 300);
    import(&peer.data().display().to_string(), &notes);
    let folder = TempDir::new().unwrap();
    let data = folder.path().join("data").display().to_string();
    // Three events a second, one of each author.
    let author = format!(r#"{{"authors":["{}"]}}"#, key(1).hex());
    let until = (notes[0].created_at - 30).to_string();
    let args = [&peer.url, "--data", &data, "--filter", &author];
    let (code, report, stderr) = sync(&[&args[..], &["--until", &until]].concat());
    assert_eq!((code, &report["counts"]["stored"]), (Some(0), &70.into()), "{stderr}");
    let (code, report, stderr) = sync(&[&args[..], &["--since", "7d"]].concat());
    assert_eq!((code, &report["counts"]["stored"]), (Some(0), &30.into()), "{stderr}");
    assert_eq!(stored(&data).len(), 100);
}

#[test]
fn what_cannot_be_done_is_said_and_has_an_exit_code() {
    let folder = TempDir::new().unwrap();
    let data = folder.path().join("data").display().to_string();
    for (args, why) in [
        (&["relay.example"][..], "expected ws://"),
        (&["wss://relay.example", "--filter", "{"], "--filter"),
        (&["wss://relay.example", "--filter", r#"{"limit":1}"#], "`limit` has no meaning"),
        (&["wss://relay.example", "--since", "tomorrow"], "--since tomorrow"),
        (&["wss://relay.example", "--until", "7x"], "--until 7x"),
        (&["wss://relay.example", "--since", "1d", "--until", "2d"], "no event"),
        (&["wss://relay.example", "--dir", "sideways"], "--dir"),
        (&["wss://relay.example", "--timeout", "0"], "--timeout"),
        (&[], "URL"),
    ] {
        let (code, _, stderr) = sync(&[args, &["--data", &data]].concat());
        assert_eq!(code, Some(2), "{args:?}: {stderr}");
        assert!(stderr.contains(why), "{args:?}: {stderr}");
    }
    assert!(!folder.path().join("data").exists(), "nothing was done");
    // Nobody listens there any more.
    let nobody = format!("ws://{}", TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap());
    let (code, report, stderr) = sync(&[&nobody, "--data", &data, "--tries", "1"]);
    assert_eq!((code, &report["result"]), (Some(3), &"failed".into()), "{stderr}");
    assert!(stderr.contains("cannot connect") && stderr.contains("1 of 1 relays failed"), "{stderr}");
}

#[test]
fn what_another_relay_refuses_is_told() {
    let peer = RelayProcess::start_with("[limits]\ncontent_chars_max = 100\n");
    let folder = TempDir::new().unwrap();
    let data = folder.path().join("data").display().to_string();
    let long = event(&key(1)).at(unix_now() - 10).content("x".repeat(200)).sign();
    let short = event(&key(1)).at(unix_now() - 10).content("x").sign();
    import(&data, &[long.clone(), short.clone()]);
    let nobody = format!("ws://{}", TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap());
    let (code, report, stderr) = sync(&[&peer.url, "--data", &data]);
    assert_eq!(code, Some(1), "{stderr}");
    assert_eq!((&report["counts"]["sent"], &report["counts"]["refused"]), (&1.into(), &1.into()));
    assert!(stderr.contains(&format!("it refuses {}", long.id)), "{stderr}");
    assert_eq!(stored(&peer.data().display().to_string()), BTreeSet::from([short.json()]));
    // A relay that cannot be reached keeps none from the next one.
    let output = relay(&["sync", &nobody, &peer.url, "--data", &data, "--tries", "1", "--dry-run"], b"");
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(3), "{stderr}");
    assert!(stderr.contains(&format!("{}: 0 to fetch, 1 to send", peer.url)), "{stderr}");
}

#[test]
fn a_signal_ends_it_with_its_code() {
    let folder = TempDir::new().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("ws://{}", listener.local_addr().unwrap());
    let mut command = Command::new(RELAY);
    without_relay_variables(&mut command);
    command.args(["sync", &url, "--data"]).arg(folder.path().join("data")).current_dir(std::env::temp_dir());
    let child = command.stderr(Stdio::piped()).spawn().unwrap();
    // It is connected to and does not answer.
    let _stream = listener.accept().unwrap();
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-s", "INT", &pid]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(130), "{stderr}");
    assert!(stderr.contains("ended by a signal"), "{stderr}");
}
