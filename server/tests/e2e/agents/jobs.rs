//! What customers see.

use std::fs;

use serde_json::json;

use super::webhook::Webhook;
use super::*;

#[test]
fn an_agent_is_deployed_in_one_command_and_answers() {
    let relay = RelayProcess::start();
    let mut client = relay.connect();
    let threads = || {
        let tasks = fs::read_dir(format!("/proc/{}/task", relay.pid())).unwrap();
        let names = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok());
        names.filter(|name| name.starts_with("relay-agents")).count()
    };
    assert!(!relay.data().join("agents").exists(), "a relay without agents has no files for them");
    assert_eq!(threads(), 0, "and no threads");
    let echo = deploy(&relay, ECHO);
    assert_ne!(threads(), 0);
    for agent in [Some(&*echo), None] {
        let request = job(CUSTOMER, "some text", agent).sign();
        accepted(&mut client, &request);
        let seen = answers(&mut client, &request);
        let kinds: Vec<(u64, &str)> = seen.iter().map(|(kind, status, _)| (*kind, &**status)).collect();
        assert_eq!(kinds, [(7_000, "processing"), (6_050, "success")]);
        assert_eq!(seen[1].2, "some text");
    }
    let shown = agent_json(&relay, &["show", "echo"]);
    assert_eq!((&shown["state"], &shown["jobs"]["done"]), (&json!("active"), &json!(2)));
    let history = agent_json(&relay, &["history", &echo]);
    assert_eq!(history["jobs"].as_array().unwrap().len(), 2);
    // What customers find it by.
    let announced = client.query(&format!(r#"{{"kinds":[0,31990,11998],"authors":["{echo}"]}}"#));
    assert_eq!(announced.len(), 3, "{announced:?}");
}

#[test]
fn an_idle_agent_is_closed_and_its_next_job_opens_it() {
    let relay = RelayProcess::start();
    let mut client = relay.connect();
    let echo = deploy(&relay, ECHO);
    let log = relay.data().join(format!("agents/{echo}.sqlite-wal"));
    for round in 0..2 {
        let request = job(CUSTOMER, &round.to_string(), None).sign();
        accepted(&mut client, &request);
        assert_eq!(result(&mut client, &request), round.to_string());
        // SQLite removes it with the last connection.
        while log.exists() {
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }
}

/// Nothing but its time wakes it.
#[test]
fn a_closed_agent_is_opened_when_a_job_is_to_be_tried_again() {
    let webhook = Webhook::start();
    let relay = RelayProcess::start_with(&webhook.settings());
    let mut client = relay.connect();
    let worker = deploy(&relay, &webhook.manifest(""));
    let request = job(CUSTOMER, "later", Some(&worker)).sign();
    accepted(&mut client, &request);
    webhook.next().put_off(8);
    let log = relay.data().join(format!("agents/{worker}.sqlite-wal"));
    while log.exists() {
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let call = webhook.next();
    assert_eq!(call.job["attempt"], 2);
    call.answer("done");
    assert_eq!(result(&mut client, &request), "done");
}

#[test]
fn a_paused_agent_says_so_and_a_deleted_one_is_gone() {
    let relay = RelayProcess::start();
    let mut client = relay.connect();
    let echo = deploy(&relay, ECHO);
    let mut ask = |text: &str, agent| {
        let request = job(CUSTOMER, text, agent).sign();
        accepted(&mut client, &request);
        request
    };
    for (command, state) in [("pause", "paused"), ("drain", "draining")] {
        assert_eq!(agent_json(&relay, &[command, "echo"])["state"], state);
        let (open, named) = (ask(state, None), ask(state, Some(&*echo)));
        let mut client = relay.connect();
        assert!(error(&mut client, &named).contains(state));
        assert_eq!(count(&mut client, 7_000, &open.id), 0, "an open job is left to others");
    }
    assert_eq!(agent_json(&relay, &["resume", "echo"])["state"], "active");
    let named = ask("again", Some(&*echo));
    let mut client = relay.connect();
    assert_eq!(result(&mut client, &named), "again");
    assert_eq!(agent_json(&relay, &["delete", "echo"])["state"], "deleted");
    assert_eq!(agent_json(&relay, &["list"])["agents"], json!([]));
    let retracted = client.query(&format!(r#"{{"kinds":[31990],"authors":["{echo}"]}}"#));
    assert_eq!(retracted.len(), 0, "{retracted:?}");
    assert_eq!(agent(&relay, &["show", &echo]).status.code(), Some(1));
    // It can be deployed again, and has the same key.
    assert_eq!(deploy(&relay, ECHO), echo);
    let request = job(CUSTOMER, "reborn", None).sign();
    accepted(&mut client, &request);
    assert_eq!(result(&mut client, &request), "reborn");
}

#[test]
fn a_cancelled_job_is_ended_and_never_answered() {
    let webhook = Webhook::start();
    let relay = RelayProcess::start_with(&webhook.settings());
    let mut client = relay.connect();
    let worker = deploy(&relay, &webhook.manifest(""));
    let request = job(CUSTOMER, "slow", Some(&worker)).sign();
    accepted(&mut client, &request);
    let mut call = webhook.next();
    assert_eq!(call.job["inputs"][0]["text"], "slow");
    let delete =
        |author| event(&key(author)).kind(5).at(unix_now()).tag(["e", &request.id]).tag(["k", "5050"]);
    accepted(&mut client, &delete(CUSTOMER + 1).sign());
    let other = job(CUSTOMER, "other", Some(&worker)).sign();
    accepted(&mut client, &other);
    let other_call = webhook.next();
    accepted(&mut client, &delete(CUSTOMER).sign());
    assert!(call.is_hung_up(), "the agent ends its call");
    other_call.answer("done");
    assert_eq!(result(&mut client, &other), "done");
    assert_eq!(count(&mut client, 6_050, &request.id), 0);
    let history = agent_json(&relay, &["history", "worker"]);
    let states: Vec<_> = history["jobs"].as_array().unwrap().iter().map(|job| &job["state"]).collect();
    assert_eq!(states, [&json!("done"), &json!("cancelled")]);
}

/// Two agents that ask each other could keep each other busy for ever.
#[test]
fn agents_do_not_answer_agents_unless_they_are_told_to() {
    let relay = RelayProcess::start();
    let mut client = relay.connect();
    let secrets = relay.data().join("agents/secrets");
    fs::create_dir_all(&secrets).unwrap();
    let manifest = |name: &str, number: u64, more: &str| {
        let secret = format!("AGENT_KEY_{number}");
        fs::write(secrets.join(&secret), format!("{number:064x}\n")).unwrap();
        format!(
            "name = \"{name}\"\nidentity = {{ imported = {{ secret = \"{secret}\" }} }}\n{more}\
             [[handlers]]\nkind = 5050\nexecutor = \"echo\"\n"
        )
    };
    let first = deploy(&relay, &manifest("first", 21, ""));
    assert_eq!(first, key(21).hex());
    let second = deploy(&relay, &manifest("second", 22, ""));
    // A customer gets both.
    let open = job(CUSTOMER, "open", None).sign();
    accepted(&mut client, &open);
    result(&mut client, &open);
    let asked = job(21, "from an agent", Some(&second)).sign();
    accepted(&mut client, &asked);
    let itself = job(21, "from itself", Some(&first)).sign();
    accepted(&mut client, &itself);
    let third = deploy(&relay, &manifest("third", 23, "[access]\nagent_callers = true\n"));
    let allowed = job(21, "allowed", Some(&third)).sign();
    accepted(&mut client, &allowed);
    assert_eq!(result(&mut client, &allowed), "allowed");
    assert_eq!(count(&mut client, 6_050, &open.id), 2);
    for unanswered in [&asked, &itself] {
        assert_eq!(count(&mut client, 6_050, &unanswered.id) + count(&mut client, 7_000, &unanswered.id), 0);
    }
}
