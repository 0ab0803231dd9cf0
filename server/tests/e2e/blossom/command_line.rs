//! `relay blossom`: what it prints, exit codes, and who may.

use std::process::{Command, Output};

use super::super::harness::{RELAY, without_relay_variables};
use super::*;

fn blossom(relay: &RelayProcess, args: &[&str]) -> Output {
    let mut command = Command::new(RELAY);
    without_relay_variables(&mut command);
    command
        .arg("blossom")
        .args(args)
        .args(["--url", &format!("http://{}", relay.host()), "--data"])
        .arg(relay.data())
        .current_dir(std::env::temp_dir());
    let output = command.output().unwrap();
    println!("relay blossom {args:?}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    output
}

/// The JSON that it prints, which must succeed.
fn json(relay: &RelayProcess, args: &[&str]) -> Value {
    let output = blossom(relay, &[args, &["--json"]].concat());
    assert!(output.status.success(), "{args:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

pub(super) fn code(relay: &RelayProcess, args: &[&str]) -> i32 {
    blossom(relay, args).status.code().unwrap()
}

#[test]
fn an_administrator_manages_blobs() {
    let relay = RelayProcess::start();
    let (first, second) = (noise(1, 100), noise(2, 200));
    let (one, two) = (sha256(&first), sha256(&second));
    assert_eq!(upload(&relay, OWNER, &first).status, 201);
    assert_eq!(upload(&relay, OWNER + 1, &second).status, 201);
    let listed = |args: &[&str]| -> Vec<String> {
        let blobs = json(&relay, args)["blobs"].as_array().unwrap().clone();
        blobs.iter().map(|blob| blob["sha256"].as_str().unwrap().to_owned()).collect()
    };
    let mut all = listed(&["list"]);
    all.sort();
    let mut want = [one.clone(), two.clone()];
    want.sort();
    assert_eq!(all, want);
    assert_eq!(listed(&["list", "--owner", key(OWNER).hex()]), [&*one]);
    assert_eq!(listed(&["list", "--limit", "1"]).len(), 1);
    let words = blossom(&relay, &["list", "--owner", key(OWNER).hex()]);
    let words = String::from_utf8(words.stdout).unwrap();
    assert!(words.starts_with(&one) && words.contains(" 100  application/octet-stream"), "{words}");

    let known = json(&relay, &["stat", &one]);
    assert_eq!(known["owners"][0], key(OWNER).hex());
    assert_eq!(known["banned"], Value::Null);
    assert_eq!(code(&relay, &["ban", &one, "--reason", "against the law"]), 0);
    assert_eq!(get(&relay, &one).status, 404);
    assert_eq!(upload(&relay, OWNER, &first).outcome(), (403, "this blob is banned here"));
    assert_eq!(json(&relay, &["stat", &one])["banned"], "against the law");
    assert_eq!(json(&relay, &["bans"])["bans"][0]["reason"], "against the law");
    assert_eq!(code(&relay, &["unban", &one]), 0);
    assert_eq!(code(&relay, &["unban", &one]), 1, "it is not banned");
    assert_eq!(upload(&relay, OWNER, &first).status, 201);

    let report = event(&key(5)).kind(1984).at(unix_now()).tag(["x", &two, "spam"]).content("bad").sign();
    let reported = send(
        &relay,
        "PUT",
        "/report",
        &format!("Content-Length: {}\r\n", report.json().len()),
        report.json().as_bytes(),
    );
    assert!((200..300).contains(&reported.status), "{:?}", reported.outcome());
    let reports = json(&relay, &["reports"]);
    assert_eq!(
        (&reports["reports"][0]["sha256"], &reports["reports"][0]["category"]),
        (&two.into(), &"spam".into())
    );
    // What is refused of several does not keep the others.
    let (gone, two) = (sha256(b"gone"), sha256(&second));
    assert_eq!(code(&relay, &["delete", &gone, &two]), 1);
    assert_eq!(get(&relay, &two).status, 404);
    assert_eq!(code(&relay, &["delete", &one]), 0);
    assert_eq!(json(&relay, &["list"])["blobs"].as_array().unwrap().len(), 0);
    assert_eq!(json(&relay, &["gc"])["next"], Value::Null);
    until("the files go", || files(&relay.data().join("blobs")).is_empty());
}

#[test]
fn strangers_and_wrong_usage_are_refused() {
    let mut relay = RelayProcess::start();
    let bytes = noise(1, 100);
    let hash = sha256(&bytes);
    assert_eq!(upload(&relay, OWNER, &bytes).status, 201);
    let file = relay.data().with_file_name("stranger.key");
    std::fs::write(&file, format!("{:064x}", 99)).unwrap();
    let stranger = file.to_str().unwrap();
    for args in [
        &["list"][..],
        &["stat", &hash],
        &["delete", &hash],
        &["ban", &hash],
        &["unban", &hash],
        &["bans"],
        &["reports"],
        &["gc"],
    ] {
        assert_eq!(code(&relay, &[args, &["--key", stranger]].concat()), 1, "{args:?}");
    }
    assert_eq!(get(&relay, &hash).status, 200);
    assert_eq!(code(&relay, &["stat", "abc"]), 2);
    assert_eq!(code(&relay, &["delete"]), 2);
    assert_eq!(code(&relay, &["list", "--owner", "me"]), 2);
    assert_eq!(code(&relay, &["stat", &sha256(b"absent")]), 1);
    relay.kill();
    assert_eq!(code(&relay, &["list"]), 3);
}
