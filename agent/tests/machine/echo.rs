//! The shortest way of a job: an agent that needs no call.

use relay_agent::cipher::Cipher;
use relay_agent::job::JobState;
use relay_agent::machine::{Metrics, MetricsDelta};
use relay_agent::testing::Customer;

use crate::world::{START, World, manifest};

#[test]
fn a_request_is_answered_at_once_and_once() {
    let mut world = World::new(&manifest(|_| ()));
    let customer = Customer::new(1);
    let request = customer.sign(&world.request().text("hello"));
    world.deliver(&request);
    assert_eq!(world.statuses(&request.id), ["processing", "result"]);
    assert_eq!(world.last(&customer, &request.id), ("result".to_owned(), "hello".to_owned()));
    let answers = world.host.answers_to(&request.id);
    assert!(answers[0].1.created_at < answers[1].1.created_at);
    assert_eq!(answers[1].1.kind, 6050);
    assert!(world.agent.is_idle());
    assert_eq!(world.agent.poll_timeout(), None);

    world.deliver(&request);
    world.crash();
    world.run();
    world.deliver(&request);
    assert_eq!(world.statuses(&request.id), ["processing", "result"]);
    assert_eq!(world.host.repeated, 2, "only the request itself");
    let job = world.agent.job(&request.id).unwrap().unwrap();
    assert_eq!((job.state, job.attempts, job.received_at), (JobState::Done, 1, START * 1000));
    let metrics = world.agent.metrics();
    assert_eq!((metrics.jobs["done"], metrics.duplicates), (1, 2));
}

#[test]
fn a_job_that_is_answered_at_once_writes_few_rows() {
    let mut world = World::new(&manifest(|_| ()));
    // Once an hour it is looked for what is old, and when that was is a row.
    let request = Customer::new(1).sign(&world.request().text("the first of this hour"));
    world.deliver(&request);
    let before = world.sqlite.rows_written();
    let request = Customer::new(1).sign(&world.request().text("hello"));
    world.deliver(&request);
    let written = world.sqlite.rows_written() - before;
    assert!(written <= 7, "{written}");

    // In a batch, they share the rows of the outbox and of metrics.
    let before = world.sqlite.rows_written();
    let requests: Vec<_> =
        (0..32).map(|n| Customer::new(2 + n).sign(&world.request().text("hello"))).collect();
    world.agent.deliver(world.now, &requests).unwrap();
    world.run();
    let written = world.sqlite.rows_written() - before;
    assert!(written <= 32 * 4 + 3, "{written}");
    for request in &requests {
        assert_eq!(world.statuses(&request.id), ["processing", "result"]);
    }
}

#[test]
fn what_was_not_published_when_the_process_died_is_published_as_it_is() {
    let mut world = World::new(&manifest(|_| ()));
    let customer = Customer::new(1);
    let request = customer.sign(&world.request().text("hello"));
    world.agent.deliver(world.now, std::slice::from_ref(&request)).unwrap();
    let state = |world: &World| world.agent.job(&request.id).unwrap().unwrap().state;
    assert_eq!(state(&world), JobState::Responding);
    // The relay has stored it, and the agent dies before it hears of that.
    let effect = world.agent.poll_effect().expect("to publish");
    let relay_agent::machine::Effect::Publish { events, .. } = effect else { panic!("{effect:?}") };
    world.host.publish(&events, &[]);
    world.now = world.now.plus_millis(60_000);
    world.crash();
    world.run();
    assert_eq!(world.statuses(&request.id), ["processing", "result"]);
    assert_eq!(world.host.repeated, 2, "both again, with the same ids");
    assert_eq!(state(&world), JobState::Done);
}

#[test]
fn an_encrypted_request_is_answered_in_its_cipher() {
    for cipher in [Cipher::Nip44, Cipher::Nip04] {
        let mut world = World::new(&manifest(|_| ()));
        let customer = Customer::new(1);
        let agent = world.pubkey();
        let request = customer.sign(&world.request().text("a secret").encrypted(cipher, &agent));
        world.deliver(&request);
        assert_eq!(world.statuses(&request.id), ["encrypted", "result"]);
        let (_, result) = world.host.answers_to(&request.id).pop().unwrap();
        let json = String::from_utf8_lossy(result.json()).into_owned();
        assert_eq!(json.contains("?iv="), cipher == Cipher::Nip04, "{json}");
        let (_, text) =
            relay_agent::cipher::decrypt(&customer.keys, &agent, &content(&json)).expect("for this customer");
        assert_eq!(text, "a secret");
    }
}

fn content(json: &str) -> String {
    let json: serde_json::Value = serde_json::from_str(json).unwrap();
    json["content"].as_str().unwrap().to_owned()
}

/// What an agent counts while it is open makes up, piece by piece, what it has counted in all; a crash repeats nothing.
#[test]
fn what_is_counted_is_taken_once() {
    let limits = serde_json::json!({"concurrency": 1, "per_customer_per_min": 1000});
    let mut world = World::calling(&manifest(|json| json["limits"] = limits));
    assert_eq!(world.agent.take_metrics_delta(), None);
    let customer = Customer::new(1);
    let ask = |world: &mut World, text: &str| {
        let request = customer.sign(&world.request().text(text));
        world.deliver(&request);
    };
    for text in ["first", "second", "third"] {
        ask(&mut world, text);
    }
    let taken = world.agent.take_metrics_delta().unwrap();
    assert_eq!((taken.attempts, taken.queued, taken.running), (1, 2, 1));
    assert!(taken.jobs.is_empty());
    assert_eq!(world.agent.take_metrics_delta(), None, "nothing has happened since");

    world.answer(200, "done");
    let taken = world.agent.take_metrics_delta().unwrap();
    let done = MetricsDelta {
        jobs: [("done".to_owned(), 1)].into(),
        attempts: 1,
        latency: vec![1],
        queued: 1,
        running: 1,
        ..MetricsDelta::default()
    };
    assert_eq!(taken, done);
    let json = serde_json::to_string(&taken).unwrap();
    assert_eq!(json, r#"{"jobs":{"done":1},"attempts":1,"latency":[1],"queued":1,"running":1}"#);
    assert_eq!(serde_json::from_str::<MetricsDelta>(&json).unwrap(), done);

    world.crash();
    world.run();
    let taken = world.agent.take_metrics_delta().unwrap();
    assert_eq!((taken.jobs.len(), taken.attempts, taken.queued, taken.running), (0, 1, 1, 1));
    world.answer(404, "");
    world.answer(200, "done");
    let taken = world.agent.take_metrics_delta().unwrap();
    assert_eq!(taken.jobs, [("done".to_owned(), 1), ("failed".to_owned(), 1)].into());
    assert_eq!(taken.failures, [("http_status".to_owned(), 1)].into());
    assert_eq!((taken.queued, taken.running), (0, 0));
    let Metrics { attempts, interrupted, .. } = world.agent.metrics();
    assert_eq!((attempts, interrupted), (4, 1));
}
