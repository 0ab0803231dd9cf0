//! No accepted job is lost and none is answered twice, whatever ends the process.

use super::webhook::Webhook;
use super::*;

#[test]
fn jobs_survive_kill_9_and_are_answered_once() {
    let mut relay = RelayProcess::start();
    let echo = deploy(&relay, ECHO);
    let mut requests = Vec::new();
    for round in 0..3 {
        let mut client = relay.connect();
        for serial in 0..25 {
            // Every other one is for all.
            let to = (serial % 2 == 0).then_some(&*echo);
            let request = job(100 + round, &format!("{round} {serial}"), to).sign();
            accepted(&mut client, &request);
            requests.push((request, format!("{round} {serial}")));
        }
        relay.kill();
        relay.restart();
    }
    let mut client = relay.connect();
    for (request, text) in &requests {
        assert_eq!(result(&mut client, request), *text);
    }
    // Once more, for whatever a restart would publish.
    relay.kill();
    relay.restart();
    let mut client = relay.connect();
    let last = job(CUSTOMER, "last", None).sign();
    accepted(&mut client, &last);
    result(&mut client, &last);
    for (request, text) in &requests {
        assert_eq!(count(&mut client, 6_050, &request.id), 1, "results of {text}");
        assert_eq!(count(&mut client, 7_000, &request.id), 1, "feedback of {text}");
    }
}

#[test]
fn a_job_that_runs_is_begun_again_after_a_crash_and_after_a_stop() {
    let webhook = Webhook::start();
    let mut relay = RelayProcess::start_with(&webhook.settings());
    let worker = deploy(&relay, &webhook.manifest("[limits]\nattempts = 5\n"));
    let request = job(CUSTOMER, "text", Some(&worker)).sign();
    accepted(&mut relay.connect(), &request);
    let call = webhook.next();
    assert_eq!(call.job["attempt"], 1);
    relay.kill();
    relay.restart();
    let mut call = webhook.next();
    assert_eq!(call.job["attempt"], 2, "it was stored that it had begun");
    assert!(relay.stop().success(), "an orderly stop waits for no job");
    assert!(call.is_hung_up());
    relay.restart();
    webhook.next().answer("done");
    let mut client = relay.connect();
    assert_eq!(result(&mut client, &request), "done");
    assert_eq!(count(&mut client, 6_050, &request.id), 1);
}

/// Whatever a crash comes between: the answer, its last events, its removal record, the removal of its file.
#[test]
fn a_deleted_agent_leaves_no_file_and_is_still_known_to_its_owner() {
    let mut relay = RelayProcess::start();
    let wait_until_gone = |relay: &RelayProcess, agent: &str| {
        let is_there = |suffix| relay.data().join(format!("agents/{agent}.sqlite{suffix}")).exists();
        while ["", "-wal", "-shm"].into_iter().any(is_there) {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    };
    for round in 0..4 {
        let deployed = agent_json(&relay, &["deploy", &written(&relay, "echo.toml", ECHO)]);
        // It is not another agent's first version.
        assert_eq!(deployed["version"], round + 1);
        let echo = deployed["pubkey"].as_str().unwrap();
        assert!(relay.data().join(format!("agents/{echo}.sqlite")).exists());
        assert_eq!(agent_json(&relay, &["delete", echo])["state"], "deleted");
        if round % 2 == 1 {
            relay.kill();
            relay.restart();
        }
        wait_until_gone(&relay, echo);
        // A client that has not got the answer asks again.
        assert_eq!(agent_json(&relay, &["delete", echo])["state"], "deleted");
        assert_eq!(agent(&relay, &["show", echo]).status.code(), Some(1));
        let generated = agent_json(&relay, &["keygen"]);
        let stranger = written(&relay, "stranger.key", generated["nsec"].as_str().unwrap());
        assert_eq!(agent(&relay, &["delete", echo, "--key", &stranger]).status.code(), Some(1));
        wait_until_gone(&relay, echo);
    }
    // A file of an earlier version of this program, which kept those of deleted agents.
    let echo = deploy(&relay, ECHO);
    agent_json(&relay, &["delete", &echo]);
    wait_until_gone(&relay, &echo);
    relay.kill();
    let file = relay.data().join(format!("agents/{echo}.sqlite"));
    std::fs::write(&file, b"").unwrap();
    relay.restart();
    wait_until_gone(&relay, &echo);
    let retracted = relay.connect().query(&format!(r#"{{"kinds":[31990],"authors":["{echo}"]}}"#));
    assert_eq!(retracted.len(), 0, "{retracted:?}");
}

#[test]
fn an_agent_moves_to_another_relay_with_its_key() {
    let start = || {
        RelayProcess::start_by(|data| {
            let mut command = super::super::harness::serve(data, None);
            command.env("AGENT_MASTER_SECRET", "ab".repeat(32));
            command
        })
    };
    let (from, to) = (start(), start());
    let echo = deploy(&from, ECHO);
    let exported = agent(&from, &["export", "echo", "--json"]);
    let file = written(&to, "exported.json", std::str::from_utf8(&exported.stdout).unwrap());
    // The owner is another key there, so only an administrator of both may move it.
    std::fs::copy(from.data().join("owner.key"), to.data().join("owner.key")).unwrap();
    assert_eq!(agent_json(&to, &["deploy", &file])["pubkey"], echo.as_str());
    assert!(!to.data().join("agents/master.key").exists(), "no other secret is made");
}
