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
