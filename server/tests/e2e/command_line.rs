//! The offline commands as scripts use them: output and exit codes.

use relay_engine::testing::signing::{Signed, event, key};
use serde_json::Value;
use tempfile::TempDir;

use super::harness::relay;

struct Folder {
    _folder: TempDir,
    data: String,
}

fn folder() -> Folder {
    let folder = TempDir::new().unwrap();
    Folder { data: folder.path().join("data").display().to_string(), _folder: folder }
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn notes() -> Vec<Signed> {
    (0..10).map(|n| event(&key(1 + n % 2)).at(1_000 + n).content(n.to_string()).sign()).collect()
}

fn jsonl(events: &[Signed]) -> Vec<u8> {
    events.iter().map(|event| event.json() + "\n").collect::<String>().into_bytes()
}

#[test]
fn import_names_refused_lines_and_imports_the_rest() {
    let folder = folder();
    let events = notes();
    let input =
        format!("{}\nnonsense\n\n{}\n{}", events[0].json(), events[1].forged().json(), events[2].json());
    let output = relay(&["import", "--data", &folder.data, "-"], input.as_bytes());
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("line 2: invalid:") && stderr.contains("line 4: invalid:"), "{stderr}");
    assert!(stderr.contains("2 stored") && stderr.contains("2 refused"), "{stderr}");
}

/// Regression: the first line of a file that an editor had saved with a byte order mark was refused.
#[test]
fn a_byte_order_mark_is_skipped() {
    let folder = folder();
    let events = notes();
    let mut input = b"\xef\xbb\xbf".to_vec();
    input.extend(jsonl(&events));
    let output = relay(&["import", "--data", &folder.data], &input);
    assert!(
        output.status.success() && text(&output.stderr).contains("10 stored"),
        "{}",
        text(&output.stderr)
    );
}

/// Regression: Kubernetes sets these for a Service named `relay`, and the relay refused to start.
#[test]
fn variables_of_kubernetes_are_ignored_and_a_typo_is_refused() {
    let run = |name: &str, value: &str| {
        let mut command = std::process::Command::new(super::harness::RELAY);
        super::harness::without_relay_variables(&mut command);
        command.args(["config"]).env("RELAY_SERVICE_HOST", "10.96.0.12").env(name, value).output().unwrap()
    };
    for (name, value) in [
        ("RELAY_PORT", "tcp://10.96.0.12:7777"),
        ("RELAY_SERVICE_PORT", "7777"),
        ("RELAY_SERVICE_PORT_WS", "7777"),
        ("RELAY_PORT_7777_TCP", "tcp://10.96.0.12:7777"),
        ("RELAY_PORT_7777_TCP_ADDR", "10.96.0.12"),
        ("RELAY_PORT_7777_TCP_PORT", "7777"),
        ("RELAY_PORT_7777_TCP_PROTO", "tcp"),
    ] {
        let output = run(name, value);
        assert!(output.status.success(), "{name}: {}", text(&output.stderr));
    }
    let output = run("RELAY_PORT", "7777");
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("RELAY_PORT: unknown key"), "{}", text(&output.stderr));
}

#[test]
fn a_scan_is_explained() {
    let folder = folder();
    let events = notes();
    assert!(relay(&["import", "--data", &folder.data], &jsonl(&events)).status.success());
    let explained = |filter: &str| {
        let output = relay(&["scan", "--data", &folder.data, "--explain", filter], b"");
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout)
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect()
    };
    let lines: Vec<String> = explained(&format!(r#"{{"authors":["{}"],"limit":3}}"#, key(1).hex()));
    assert_eq!(lines[0], "postings of terms reads postings");
    assert_eq!(lines[1], "author 1 1 5", "three, and two to see whether that is all");
    assert_eq!(lines[2], "ids looked up: 0");
    assert!(lines[3].starts_with("events read: 4 ("), "one more, to see whether there are more: {lines:?}");
    assert!(lines[4].starts_with("answer: 3 events ("), "{lines:?}");
    let lines: Vec<String> = explained(&format!(r#"{{"ids":["{}","{}"]}}"#, events[0].id, "f".repeat(64)));
    assert_eq!(lines[1], "ids looked up: 2");
    assert!(lines[3].starts_with("answer: 1 events ("), "{lines:?}");
}

#[test]
fn scan_export_delete_and_info_agree() {
    let folder = folder();
    let events = notes();
    assert!(relay(&["import", "--data", &folder.data], &jsonl(&events)).status.success());

    let author = format!(r#"{{"authors":["{}"]}}"#, key(1).hex());
    let scanned = relay(&["scan", "--data", &folder.data, &author], b"");
    let newest_first: Vec<String> =
        events.iter().rev().filter(|e| e.pubkey == key(1).hex()).map(Signed::json).collect();
    assert_eq!(text(&scanned.stdout).lines().collect::<Vec<_>>(), newest_first);

    let file = format!("{}.jsonl", folder.data);
    assert!(relay(&["export", "--data", &folder.data, "--out", &file], b"").status.success());
    assert_eq!(std::fs::read(&file).unwrap(), jsonl(&events), "in the order they were stored");
    std::fs::remove_file(&file).unwrap();

    let asked = relay(&["delete", "--data", &folder.data, &author], b"");
    assert_eq!(asked.status.code(), Some(2), "nothing is deleted without --yes");
    let dry = relay(&["delete", "--data", &folder.data, "--dry-run", &author], b"");
    assert!(dry.status.success() && text(&dry.stderr).contains("5 events match"));
    assert!(relay(&["delete", "--data", &folder.data, "--yes", &author], b"").status.success());
    let left = relay(&["scan", "--data", &folder.data, "{}"], b"");
    assert_eq!(text(&left.stdout).lines().count(), 5);

    let info = relay(&["info", "--data", &folder.data, "--json"], b"");
    let info: Value = serde_json::from_slice(&info.stdout).unwrap();
    assert_eq!((&info["events"], &info["events_ever"]), (&5.into(), &10.into()));
    // What an operator deletes may be published again.
    assert!(relay(&["import", "--data", &folder.data], &jsonl(&events)).status.success());
    let info = relay(&["info", "--data", &folder.data, "--json"], b"");
    assert_eq!(serde_json::from_slice::<Value>(&info.stdout).unwrap()["events"], 10);
}

/// What `relay import --json` says of these lines.
fn import(folder: &Folder, lines: &[u8], more: &[&str]) -> (Value, String) {
    let output = relay(&[&["import", "--json", "--data", &folder.data], more].concat(), lines);
    assert!(output.status.success(), "{}", text(&output.stderr));
    (serde_json::from_slice(&output.stdout).unwrap(), text(&output.stderr).to_owned())
}

/// Regression: what a large deletion left was in the file until the relay next served, which could be long after the import.
#[test]
fn an_import_removes_all_that_it_deletes() {
    let folder = folder();
    let notes: Vec<Signed> = (0..150)
        .map(|n| {
            (0..50).fold(event(&key(1)).at(1_000 + n), |note, tag| note.tag(["t", &tag.to_string()])).sign()
        })
        .collect();
    let request =
        notes.iter().fold(event(&key(1)).kind(5).at(2_000), |request, note| request.tag(["e", &note.id]));
    import(&folder, &jsonl(&notes), &[]);
    import(&folder, &jsonl(&[request.sign()]), &[]);
    let info = relay(&["info", "--data", &folder.data, "--json"], b"");
    let info: Value = serde_json::from_slice(&info.stdout).unwrap();
    assert_eq!((&info["events"], &info["pending_removal"]), (&1.into(), &0.into()));
}

/// A relay is moved by `relay export | relay import`: what its users deleted stays deleted.
#[test]
fn what_was_deleted_stays_deleted_where_an_export_is_imported() {
    let (here, there) = (folder(), folder());
    let expired = ["expiration", "1700000000"];
    let note = event(&key(1)).at(1_000).sign();
    let profile = event(&key(2)).kind(0).at(1_000).content("{}").sign();
    let message = event(&key(3)).at(1_000).sign();
    let requests = [
        event(&key(1)).kind(5).at(2_000).tag(["e", &note.id]).tag(expired).sign(),
        event(&key(2)).kind(62).at(2_000).tag(["relay", "ALL_RELAYS"]).tag(expired).sign(),
        event(&key(3)).kind(62).at(2_000).tag(["relay", "wss://relay.example.com"]).tag(expired).sign(),
    ];
    let gone = [note, profile, message];
    let url = ["--set", "url=wss://relay.example.com"];
    import(&here, &jsonl(&gone), &url);
    let (counts, message) = import(&here, &jsonl(&requests), &url);
    assert_eq!((&counts["stored"], &counts["vanish_elsewhere"]), (&3.into(), &0.into()), "{message}");
    let served = relay(&["scan", "--data", &here.data, "{}"], b"");
    assert_eq!(text(&served.stdout), "", "what has expired is not served");

    let export = relay(&["export", "--data", &here.data], b"");
    assert_eq!(export.stdout, jsonl(&requests), "and is kept");
    let (counts, message) = import(&there, &export.stdout, &[]);
    assert_eq!((&counts["stored"], &counts["vanish_elsewhere"]), (&3.into(), &1.into()));
    assert!(message.contains("1 requests to vanish") && message.contains("without `url`"), "{message}");
    let (counts, _) = import(&there, &jsonl(&gone), &[]);
    assert_eq!((&counts["deleted"], &counts["stored"]), (&2.into(), &1.into()), "one named a relay");
    // With the URL the same request counts, for events imported in between too.
    let (counts, message) = import(&there, &export.stdout, &url);
    assert_eq!((&counts["duplicate"], &counts["vanish_elsewhere"]), (&3.into(), &0.into()), "{message}");
    let (counts, _) = import(&there, &jsonl(&gone), &[]);
    assert_eq!((&counts["deleted"], &counts["stored"]), (&3.into(), &0.into()));
    let (_, message) = import(&folder(), &export.stdout, &["--set", "url=wss://other.example.com"]);
    assert!(
        message.contains("1 requests to vanish") && message.contains("relays other than wss://other"),
        "{message}"
    );

    let delete = relay(&["delete", "--data", &there.data, "--yes", "{}"], b"");
    assert!(text(&delete.stderr).contains("3 of them are deletion requests"), "{}", text(&delete.stderr));
    assert!(text(&delete.stderr).contains("3 events deleted"), "{}", text(&delete.stderr));
    assert_eq!(import(&there, &jsonl(&gone), &[]).0["deleted"], 3, "they stay refused here");
}

#[test]
fn errors_have_exit_codes() {
    let folder = folder();
    let cases: [(&[&str], i32, &str); 10] = [
        (&["scan", "--data", &folder.data, "{}"], 3, "there is no database"),
        (&["scan", "--data", &folder.data, r#"{"kinds":"all"}"#], 2, "invalid:"),
        (&["scan", "--data", &folder.data, r#"{"search":"x"}"#], 2, "unsupported:"),
        (&["import", "--data", &folder.data, "/no/such/file"], 3, "/no/such/file"),
        (&["frobnicate"], 2, "frobnicate"),
        (&["serve", "--set", "limits.limt_max=1"], 2, "limits.limit_max"),
        // What `serve` refuses, `config` refuses.
        (&["config", "--set", "log.filter=a=b=c"], 2, "log.filter"),
        (&["serve", "--set", "log.filter=a=b=c"], 2, "log.filter"),
        (&["config", "--url", "wss://"], 2, "`url` must be"),
        (&["config", "--listen", "nowhere"], 2, "`listen` must be"),
    ];
    for (args, code, message) in cases {
        let output = relay(args, b"");
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
        assert!(stderr.contains(message), "{args:?}: {stderr}");
    }
}

#[test]
fn a_closed_pipe_is_no_failure() {
    let folder = folder();
    let events: Vec<Signed> =
        (0..300).map(|n| event(&key(1)).at(n).content("x".repeat(2_000)).sign()).collect();
    assert!(relay(&["import", "--data", &folder.data, "--no-verify"], &jsonl(&events)).status.success());
    let script =
        format!("set -o pipefail; {} scan --data {} '{{}}' | head -n 1", super::harness::RELAY, folder.data);
    let output = std::process::Command::new("bash").args(["-c", &script]).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(text(&output.stdout).lines().count(), 1);
}

#[test]
fn config_prints_values_and_their_sources() {
    let output = relay(&["config", "--set", "limits.limit_max=777"], b"");
    let printed = text(&output.stdout);
    assert!(output.status.success());
    assert!(printed.contains("limit_max = 777") && printed.contains("--set"), "{printed}");
    assert!(printed.contains("listen = \"127.0.0.1:7777\""), "{printed}");
}
