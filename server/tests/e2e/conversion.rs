//! `relay db convert`: what was stored, deleted and numbered is so in the other engine, and nothing opens a folder in between.

use std::path::PathBuf;
use std::process::Output;

use relay_engine::testing::signing::{Signed, event, key};
use serde_json::Value;
use tempfile::TempDir;

use super::harness::{RelayProcess, relay};

struct Folder {
    _folder: TempDir,
    data: String,
}

impl Folder {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        Folder { data: folder.path().join("data").display().to_string(), _folder: folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from(&self.data).join(name)
    }

    fn run(&self, args: &[&str], stdin: &[u8]) -> Output {
        relay(&[args, &["--data", &self.data]].concat(), stdin)
    }

    fn import(&self, events: &[Signed]) -> Value {
        let lines: String = events.iter().map(|event| event.json() + "\n").collect();
        let output = self.run(&["import", "--json"], lines.as_bytes());
        assert!(output.status.success(), "{}", stderr(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    fn info(&self) -> Value {
        serde_json::from_slice(&self.run(&["info", "--json"], b"").stdout).unwrap()
    }

    fn convert(&self, to: &str) -> Output {
        self.run(&["db", "convert", "--to", to], b"")
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Checks that a command was refused with this exit code, and that its message has these words.
fn check_refused(output: &Output, code: i32, words: &str) {
    let message = stderr(output);
    assert_eq!(output.status.code(), Some(code), "{message}");
    assert!(message.contains(words), "{message}");
}

#[test]
fn a_database_is_converted_and_converted_back() {
    let folder = Folder::new();
    let notes: Vec<Signed> =
        (0..500).map(|n| event(&key(1 + n % 3)).at(1_000 + n).content(n.to_string()).sign()).collect();
    let deletion = event(&key(1)).kind(5).at(5_000).tag(["e", &notes[0].id]).sign();
    let vanished = event(&key(3)).kind(62).at(5_000).tag(["relay", "ALL_RELAYS"]).sign();
    folder.import(&notes);
    folder.import(&[deletion.clone(), vanished]);
    // The last number belongs to no event any more.
    let last = event(&key(2)).at(6_000).sign();
    folder.import(std::slice::from_ref(&last));
    let filter = format!(r#"{{"ids":["{}"]}}"#, last.id);
    assert!(folder.run(&["delete", "--yes", &filter], b"").status.success());
    let (export, ever) = (folder.run(&["export"], b"").stdout, folder.info()["events_ever"].clone());
    assert!(!export.is_empty());

    for (from, to) in [("log", "lmdb"), ("lmdb", "log"), ("log", "lmdb")] {
        check_refused(&folder.convert(from), 2, "already");
        let output = folder.convert(to);
        assert!(output.status.success(), "{}", stderr(&output));
        assert!(stderr(&output).contains("tombstones are the same in both databases"), "{}", stderr(&output));
        assert!(!folder.path("converting").exists());
        assert_eq!(folder.run(&["export"], b"").stdout, export, "{to}");
        assert_eq!(folder.info()["events_ever"], ever, "{to}");
        assert!(folder.run(&["verify-db"], b"").status.success(), "{to}");
        // What was deleted stays deleted.
        let counts = folder.import(&notes);
        assert_eq!((&counts["stored"], &counts["deleted"]), (&0.into(), &167.into()), "{to}: {counts}");
        // The old database is kept until the operator removes it.
        check_refused(&folder.convert(from), 2, "before-conversion");
        std::fs::remove_dir_all(folder.path("before-conversion")).unwrap();
    }
    let args = ["--set", "store.engine=log"];
    check_refused(&folder.run(&[&["info"], &args[..]].concat(), b""), 2, "another engine");
}

#[test]
fn nothing_opens_a_folder_that_is_being_converted() {
    let folder = Folder::new();
    check_refused(&folder.convert("lmdb"), 3, "no database");
    let notes: Vec<Signed> = (0..10).map(|n| event(&key(1)).at(1_000 + n).sign()).collect();
    folder.import(&notes);
    check_refused(
        &folder.run(&["db", "convert", "--to", "lmdb", "--abort"], b""),
        2,
        "no conversion has begun",
    );
    // As a process leaves it that was killed.
    std::fs::create_dir(folder.path("converting")).unwrap();
    for command in [&["serve", "--listen", "127.0.0.1:0"][..], &["import"], &["info"], &["export"]] {
        check_refused(&folder.run(command, b""), 3, "is being converted");
    }
    assert!(folder.run(&["db", "convert", "--to", "lmdb", "--abort"], b"").status.success());
    assert_eq!(folder.info()["events"], 10);
    std::fs::create_dir(folder.path("converting")).unwrap();
    assert!(folder.convert("lmdb").status.success(), "it goes on");
    assert_eq!(folder.info()["events"], 10);
}

#[test]
fn a_served_folder_is_not_converted() {
    let mut relay_process = RelayProcess::start_on("auto");
    let note = event(&key(1)).at(1_000).sign().json();
    assert!(relay_process.connect().publish(&note).0);
    let data = relay_process.data();
    let data = data.to_str().unwrap();
    let convert = || relay(&["db", "convert", "--to", "lmdb", "--data", data], b"");
    check_refused(&convert(), 3, "is served already");
    assert!(relay_process.stop().success());
    let output = convert();
    assert!(output.status.success(), "{}", stderr(&output));
    relay_process.restart();
    assert_eq!(relay_process.connect().query("{}"), [note], "the engine is found by itself");
}

#[test]
fn what_is_whole_in_a_broken_database_goes_into_a_new_one() {
    let (folder, elsewhere) = (Folder::new(), TempDir::new().unwrap());
    let out = elsewhere.path().join("salvaged.jsonl").display().to_string();
    std::fs::write(&out, "of an earlier run").unwrap();
    check_refused(&folder.run(&["verify-db", "--salvage", &out], b""), 3, "no database");
    assert_eq!(std::fs::read(&out).unwrap(), b"of an earlier run");
    let notes: Vec<Signed> = (0..200).map(|n| event(&key(1)).at(1_000 + n).sign()).collect();
    folder.import(&notes);
    assert!(folder.convert("lmdb").status.success());
    check_refused(&folder.run(&["verify-db", "--salvage", &out], b""), 2, "LMDB");
    std::fs::remove_dir_all(folder.path("before-conversion")).unwrap();
    assert!(folder.convert("log").status.success());
    let deletion = event(&key(1)).kind(5).at(5_000).tag(["e", &notes[7].id]).sign();
    folder.import(std::slice::from_ref(&deletion));
    // The list of files is lost, and some bytes of one event.
    let files = std::fs::read_dir(&folder.data).unwrap().map(|entry| entry.unwrap().path());
    for file in files {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        if name.starts_with("manifest") {
            std::fs::remove_file(file).unwrap();
        } else if name.starts_with("log") {
            let mut bytes = std::fs::read(&file).unwrap();
            let id = notes[100].id.as_bytes();
            let at = bytes.windows(id.len()).position(|window| window == id).unwrap();
            bytes[at] = b'x';
            std::fs::write(&file, bytes).unwrap();
        }
    }
    let output = folder.run(&["verify-db", "--salvage", &out, "--json"], b"");
    check_refused(&output, 1, "199 events written, 2 defects found");
    assert!(stderr(&output).contains("the event at byte"), "{}", stderr(&output));
    let counts: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&counts["events"], &counts["defects"]), (&199.into(), &2.into()));

    let salvaged = std::fs::read(&out).unwrap();
    let new = Folder::new();
    let output = new.run(&["import", "--json"], &salvaged);
    let counts: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(counts["stored"], 199, "{counts}");
    // What was deleted stays deleted.
    let counts = new.import(&notes);
    assert_eq!((&counts["stored"], &counts["deleted"]), (&1.into(), &1.into()), "{counts}");
}
