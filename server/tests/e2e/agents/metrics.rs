//! What operators see in `/metrics`.

use super::super::harness::{metric, until};
use super::webhook::Webhook;
use super::*;

/// Waits until a metric, as it begins a line, has this value.
fn is(relay: &RelayProcess, name: &str, value: f64) {
    until(&format!("{name} {value}"), || metric(relay, name) == value);
}

#[test]
fn agents_are_added_up_while_they_are_opened_and_closed() {
    let webhook = Webhook::start();
    let relay = RelayProcess::start_with(&webhook.settings());
    is(&relay, "relay_agents{state=\"active\"}", 0.0);
    assert!(!relay.data().join("agents").exists(), "reading metrics makes no files");
    let mut client = relay.connect();
    let echo = deploy(&relay, ECHO);
    let worker = deploy(&relay, &webhook.manifest(""));
    is(&relay, "relay_agents{state=\"active\"}", 2.0);

    let waiting = job(CUSTOMER, "waits for an answer", Some(&worker)).sign();
    accepted(&mut client, &waiting);
    let call = webhook.next();
    is(&relay, "relay_agent_jobs_running ", 1.0);
    for round in 1..=2 {
        let request = job(CUSTOMER, &round.to_string(), Some(&echo)).sign();
        accepted(&mut client, &request);
        result(&mut client, &request);
        is(&relay, "relay_agent_jobs_total{state=\"done\"}", f64::from(round));
        // Only the one that works stays open.
        is(&relay, "relay_agents_loaded ", 1.0);
    }
    call.answer("done");
    result(&mut client, &waiting);
    is(&relay, "relay_agent_jobs_total{state=\"done\"}", 3.0);
    is(&relay, "relay_agent_jobs_running ", 0.0);
    is(&relay, "relay_agent_attempts_total ", 3.0);
    is(&relay, "relay_agent_answer_seconds_count ", 3.0);

    agent_json(&relay, &["pause", "echo"]);
    let refused = job(CUSTOMER, "refused", Some(&echo)).sign();
    accepted(&mut client, &refused);
    error(&mut client, &refused);
    is(&relay, "relay_agent_jobs_total{state=\"rejected\"}", 1.0);
    is(&relay, "relay_agent_failures_total{cause=\"state\"}", 1.0);
    is(&relay, "relay_agents{state=\"paused\"}", 1.0);
    agent_json(&relay, &["delete", "echo"]);
    is(&relay, "relay_agents{", 1.0);
    is(&relay, "relay_agent_jobs_total{state=\"done\"}", 3.0);
    assert_eq!(metric(&relay, "relay_agent_jobs_of_busiest"), 0.0, "not for everybody");
    assert_eq!(metric(&relay, "relay_agent_deliveries_failed_total"), 0.0);
}
