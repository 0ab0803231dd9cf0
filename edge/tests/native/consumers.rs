//! Consumers of streams: they receive every event at least once and in order, whatever memory is lost and whichever part fails.

use relay_edge::object::RowCountingConn;
use relay_edge::settings::{ConsumerSettings, Settings};
use relay_engine::testing::signing::{Signed, event, key};
use serde_json::json;

use super::world::{Hibernates, Runtime};

const NAME: &str = "AGENTS/echo";

fn settings() -> Settings {
    let consumer = ConsumerSettings {
        binding: "AGENTS".into(),
        object: "echo".into(),
        filters: vec![json!({"kinds": [5_050]}), json!({"kinds": [20_000]})],
        replay: None,
    };
    Settings { consumers: vec![consumer], ..Settings::default() }
}

fn publish(runtime: &mut Runtime, kind: u16, n: u64) -> Signed {
    let key_of_socket = match runtime.sockets.keys().next() {
        Some(key) => *key,
        None => runtime.connect().unwrap().key,
    };
    let t = runtime.now.seconds();
    let event = event(&key(1)).kind(kind).at(t).content(n.to_string()).sign();
    runtime.text(key_of_socket, &format!(r#"["EVENT",{}]"#, event.json()));
    runtime.drive();
    event
}

/// Answers the next batch, and returns the ids of its events.
fn answer_batch(runtime: &mut Runtime, accepted: bool) -> Vec<String> {
    let Some((name, events)) = runtime.host.deliveries.borrow_mut().pop_front() else { return Vec::new() };
    assert_eq!(name, NAME);
    let now = runtime.now;
    runtime.object().acknowledge(now, NAME, accepted);
    runtime.drive();
    events.into_iter().map(|(_, event)| event.id.to_string()).collect()
}

#[test]
fn a_consumer_receives_matching_events_one_batch_at_a_time() {
    let mut runtime = Runtime::new(settings(), Hibernates::Never);
    publish(&mut runtime, 1, 0);
    let first = publish(&mut runtime, 5_050, 1);
    // While a batch is in flight, later events wait.
    let second = publish(&mut runtime, 5_050, 2);
    let third = publish(&mut runtime, 5_050, 3);
    assert_eq!(runtime.host.deliveries.borrow().len(), 1);
    assert_eq!(answer_batch(&mut runtime, true), [first.id]);
    assert_eq!(answer_batch(&mut runtime, true), [second.id, third.id]);
    let beat = publish(&mut runtime, 20_000, 4);
    let (_, events) = runtime.host.deliveries.borrow()[0].clone();
    assert_eq!(events[0].0, None, "an ephemeral event has no sequence number");
    assert_eq!(answer_batch(&mut runtime, true), [beat.id]);
    assert!(answer_batch(&mut runtime, true).is_empty());
}

#[test]
fn a_new_consumer_receives_no_older_events() {
    let mut runtime = Runtime::new(Settings::default(), Hibernates::Never);
    publish(&mut runtime, 5_050, 0);
    runtime.reconfigure(settings());
    let later = publish(&mut runtime, 5_050, 1);
    assert_eq!(answer_batch(&mut runtime, true), [later.id]);
}

#[test]
fn a_consumer_that_is_to_have_all_receives_older_events_and_again_when_its_number_changes() {
    let with = |replay| {
        let mut settings = settings();
        settings.consumers[0].replay = Some(replay);
        settings
    };
    let mut runtime = Runtime::new(Settings::default(), Hibernates::Never);
    let jobs: Vec<String> = (0..70).map(|n| publish(&mut runtime, 5_050, n).id.to_string()).collect();
    runtime.reconfigure(with(1));
    runtime.drive();
    assert_eq!(answer_batch(&mut runtime, true), jobs[..64]);
    // In flight, and never answered.
    runtime.host.deliveries.borrow_mut().clear();
    runtime.evict();
    runtime.drive();
    assert_eq!(answer_batch(&mut runtime, true), jobs[64..]);
    runtime.evict();
    runtime.drive();
    assert!(answer_batch(&mut runtime, true).is_empty());
    runtime.reconfigure(with(2));
    runtime.drive();
    assert_eq!(answer_batch(&mut runtime, true), jobs[..64]);
    assert_eq!(answer_batch(&mut runtime, true), jobs[64..]);
}

#[test]
fn a_batch_that_was_in_flight_when_memory_was_lost_is_sent_again() {
    let mut runtime = Runtime::new(settings(), Hibernates::Never);
    let first = publish(&mut runtime, 5_050, 1);
    assert_eq!(answer_batch(&mut runtime, true), [&*first.id]);
    let second = publish(&mut runtime, 5_050, 2);
    // In flight, and never answered.
    runtime.host.deliveries.borrow_mut().clear();
    runtime.evict();
    let alarm = runtime.host.alarm.get().expect("an alarm would wake it");
    assert!(alarm.seconds() <= runtime.now.seconds() + 120);
    runtime.advance(120);
    assert_eq!(answer_batch(&mut runtime, true), [second.id]);
    runtime.evict();
    runtime.drive();
    assert!(answer_batch(&mut runtime, true).is_empty(), "confirmed events are not sent again");
}

#[test]
fn a_consumer_that_fails_is_retried_with_exponential_backoff() {
    let mut runtime = Runtime::new(settings(), Hibernates::Never);
    let job = publish(&mut runtime, 5_050, 1);
    let mut waits = Vec::new();
    for _ in 0..6 {
        assert_eq!(answer_batch(&mut runtime, false), [&*job.id]);
        let failed_at = runtime.now;
        while runtime.host.deliveries.borrow().is_empty() {
            runtime.now = runtime.now.plus_millis(500);
            runtime.drive();
        }
        waits.push(runtime.now.millis_since(failed_at) / 1_000);
    }
    assert_eq!(waits, [1, 2, 4, 8, 16, 32]);
    assert_eq!(answer_batch(&mut runtime, true), [job.id]);
    let next = publish(&mut runtime, 5_050, 2);
    assert_eq!(answer_batch(&mut runtime, true), [next.id]);
}

#[test]
fn all_events_are_delivered_in_order_while_memory_is_lost() {
    let mut runtime = Runtime::new(settings(), Hibernates::Never);
    let mut jobs = Vec::new();
    for n in 0..100 {
        jobs.push(publish(&mut runtime, 5_050, n).id);
        if n % 7 == 0 {
            // The batch in flight is never answered.
            runtime.host.deliveries.borrow_mut().clear();
            runtime.evict();
        }
    }
    runtime.host.deliveries.borrow_mut().clear();
    runtime.evict();
    runtime.drive();
    let mut seen = Vec::new();
    while !runtime.host.deliveries.borrow().is_empty() {
        seen.extend(answer_batch(&mut runtime, true));
    }
    assert_eq!(seen, jobs);
}

#[test]
fn an_idle_consumer_costs_no_rows_and_what_does_not_match_costs_one_a_thousand() {
    let mut runtime = Runtime::new(settings(), Hibernates::Never);
    publish(&mut runtime, 1, 0);
    let written = runtime.store.rows().written;
    let mut plain = Runtime::new(Settings::default(), Hibernates::Never);
    publish(&mut plain, 1, 0);
    let plain_written = plain.store.rows().written;
    for n in 1..=1_500 {
        publish(&mut runtime, 1, n);
        publish(&mut plain, 1, n);
    }
    let (with, without) =
        (runtime.store.rows().written - written, plain.store.rows().written - plain_written);
    assert_eq!(with - without, 1);
}
