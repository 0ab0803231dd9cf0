//! A full disk: `OK false error:`, reading works, deletions use the reserve, and writing works again once there is room.

use std::process::Command;

use relay_engine::testing::event_of_json;
use relay_engine::testing::signing::{event, key};

use super::harness::{RELAY, RelayProcess, unix_now, without_relay_variables};

fn note(serial: u64) -> String {
    event(&key(7))
        .at(unix_now() - 100_000 + serial)
        .content("x".repeat(4_000) + &serial.to_string())
        .sign()
        .json()
}

/// Sets the largest file that the running relay may write.
fn limit_files(relay: &RelayProcess, bytes: &str) {
    let set = Command::new("prlimit")
        .args([format!("--pid={}", relay.pid()), format!("--fsize={bytes}:unlimited")])
        .status()
        .unwrap();
    assert!(set.success(), "prlimit");
}

#[test]
fn a_full_disk_refuses_events_and_recovers() {
    // Ignored signals stay ignored across exec: writes past the limit fail, as on a full disk, instead of killing the relay.
    let mut relay = RelayProcess::start_by(|data| {
        let mut command = Command::new("sh");
        without_relay_variables(&mut command);
        command
            .args([
                "-c",
                "trap '' XFSZ; exec \"$0\" \"$@\"",
                RELAY,
                "serve",
                "--listen",
                "127.0.0.1:0",
                "--data",
            ])
            .arg(data)
            .current_dir(std::env::temp_dir());
        command
    });
    let mut client = relay.connect();
    for serial in 0..20 {
        assert_eq!(client.publish(&note(serial)), (true, String::new()));
    }
    limit_files(&relay, "1048576");
    let refused = (100..1_000).find(|serial| {
        let (accepted, message) = client.publish(&note(*serial));
        assert!(accepted || message.starts_with("error:"), "{message}");
        !accepted
    });
    let refused = refused.expect("a megabyte does not hold four");
    // No refused event is stored, and all accepted ones are.
    let stored = client.query(
        r#"{"authors":["5cbdf0646e5db4eaa398f365f2ea7a0e3d419b7e0330e39ce92bddedcac4f9bc"],"limit":5000}"#,
    );
    assert_eq!(stored.len() as u64, 20 + refused - 100);
    // A live subscription still works, and so does an ephemeral event.
    let ephemeral = event(&key(7)).kind(20_001).at(unix_now()).sign().json();
    assert_eq!(client.publish(&ephemeral), (true, String::new()));
    limit_files(&relay, "unlimited");
    assert_eq!(client.publish(&note(refused)), (true, String::new()), "room is back");
    assert!(relay.stop().success());
}

#[test]
fn a_full_map_refuses_events() {
    let relay = RelayProcess::start_with("[store]\nengine = \"lmdb\"\nmap_bytes_max = 1048576\n");
    let mut client = relay.connect();
    let message = (0..1_000).find_map(|serial| {
        let (accepted, message) = client.publish(&note(serial));
        (!accepted).then_some(message)
    });
    assert!(message.expect("a megabyte does not hold four").starts_with("error: no space left"));
    assert!(!client.query(r#"{"kinds":[1],"limit":10}"#).is_empty());
}

/// Regression: a deletion needs pages before it frees any, so on a full disk nothing could be deleted to make room.
#[test]
fn a_full_disk_still_accepts_deletions() {
    let options = "--set store.engine=lmdb --set store.reserve_bytes=2097152";
    let Some(mut relay) = RelayProcess::start_on_tmpfs("", 12, options) else { return };
    let mut client = relay.connect();
    let mut serial = 0;
    for round in 0..4 {
        let mut ids = Vec::new();
        loop {
            let line = note(serial);
            serial += 1;
            let (accepted, message) = client.publish(&line);
            if !accepted {
                assert!(message.starts_with("error:"), "{message}");
                break;
            }
            ids.push(event_of_json(&line).unwrap().id.to_string());
        }
        assert!(ids.len() > 100, "round {round}: {} notes fitted", ids.len());
        for ids in ids.chunks(100) {
            let deletion = ids.iter().fold(event(&key(7)).kind(5), |made, id| made.tag(["e", id]));
            let published = client.publish(&deletion.at(unix_now()).sign().json());
            assert_eq!(published, (true, String::new()), "round {round}");
        }
        assert_eq!(client.query(r#"{"kinds":[1],"limit":10}"#).len(), 0);
    }
    assert!(relay.stop().success());
}
