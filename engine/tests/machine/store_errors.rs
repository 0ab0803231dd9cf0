//! A store that fails: what the client is told, and what the operator.

use std::sync::Arc;

use relay_engine::relay::{ClientInfo, Config, ConnId, Output, Relay};
use relay_engine::store::{MemoryBackend, StoreError};
use relay_engine::testing::signing::{event, key};
use relay_engine::testing::{FailingBackend, drained};
use relay_engine::types::{Limits, Now};
use relay_engine::verify::Libsecp256k1;

const NOW: Now = Now::from_seconds(1_700_000_000);

type Machine = Relay<FailingBackend<MemoryBackend>>;

/// A relay with a few events and a client.
fn new_relay() -> (Machine, ConnId) {
    new_relay_with(Limits::default())
}

fn new_relay_with(limits: Limits) -> (Machine, ConnId) {
    let store = FailingBackend::new(MemoryBackend::default());
    let config = Arc::new(Config { limits, ..Config::default() });
    let mut relay = Relay::new(config, store, Arc::new(Libsecp256k1), [1; 32]);
    let conn = relay.connect(NOW, ClientInfo::default()).expect("a connection is free");
    for serial in 0..5 {
        let note = event(&key(1)).at(NOW.seconds() - 10 - serial).sign();
        relay.handle_text(NOW, conn, format!(r#"["EVENT",{}]"#, note.json()).as_bytes());
    }
    relay.run(NOW, 1_000, &mut |_, _| {});
    drained(&mut relay, conn);
    (relay, conn)
}

/// Sends `message` with each operation of the store failing once. Each time the client must get an answer without the words of
/// the store, which the host must get.
#[track_caller]
fn check(message: &str) {
    let mut failures = 0;
    for operation in 1.. {
        let (mut relay, conn) = new_relay();
        relay.store().fail_at(operation);
        relay.handle_text(NOW, conn, message.as_bytes());
        let mut told = Vec::new();
        while relay.run(NOW, 1_000, &mut |_, output| {
            if let Output::StoreFailed(error) = output {
                told.push(error);
            }
        }) {}
        if relay.store().is_armed() {
            break;
        }
        let frames = drained(&mut relay, conn);
        assert!(!frames.iter().any(|frame| frame.contains("told to fail")), "{operation}: {frames:?}");
        let has_failed = frames.iter().any(|frame| frame.contains(r#""error: storage failed""#));
        if has_failed {
            assert_eq!(told, [StoreError::Failed("told to fail".to_owned())], "{operation}: {frames:?}");
        }
        failures += usize::from(has_failed);
    }
    assert!(failures > 0, "no operation of {message} failed");
}

#[test]
fn the_words_of_a_failed_store_are_for_the_operator() {
    check(r#"["REQ","a",{"kinds":[1]}]"#);
    check(r#"["COUNT","a",{"kinds":[1]}]"#);
    check(r#"["NEG-OPEN","a",{"kinds":[1]},"6100000200"]"#);
    let note = event(&key(2)).at(NOW.seconds()).sign();
    check(&format!(r#"["EVENT",{}]"#, note.json()));
}

/// Regression: an error was counted once for each client that waited for the same set.
#[test]
fn an_error_that_many_wait_for_is_one_error() {
    // The scan of a set takes several turns, in which all of them wait for it.
    let (mut relay, _) =
        new_relay_with(Limits { step_cost_max: 2, neg_summed_events_min: 0, ..Limits::default() });
    let conns: Vec<ConnId> =
        (0..5).map(|_| relay.connect(NOW, ClientInfo::default()).expect("a connection is free")).collect();
    for conn in &conns {
        relay.handle_text(NOW, *conn, br#"["NEG-OPEN","a",{"kinds":[1]},"6100000200"]"#);
    }
    let mut failed = 0;
    for operation in 1.. {
        let before = relay.metrics().store_read_errors;
        relay.store().fail_at(operation);
        while relay.work(NOW) {}
        let frames: Vec<String> = conns.iter().flat_map(|conn| drained(&mut relay, *conn)).collect();
        let told = frames.iter().filter(|frame| frame.contains("error: storage failed")).count();
        if relay.store().is_armed() {
            break;
        }
        assert_eq!(relay.metrics().store_read_errors - before, 1, "{frames:?}");
        failed = failed.max(told);
        for conn in &conns {
            relay.handle_text(NOW, *conn, br#"["NEG-OPEN","a",{"kinds":[1]},"6100000200"]"#);
        }
    }
    assert!(failed > 1, "several are told");
}

#[test]
fn failures_between_two_calls_are_one_line_and_counted() {
    let (mut relay, conn) = new_relay();
    for _ in 0..3 {
        relay.store().fail_at(1);
        relay.handle_text(NOW, conn, br#"["REQ","a",{"kinds":[1]}]"#);
    }
    assert_eq!(relay.poll_store_error(), Some(StoreError::Failed("told to fail".to_owned())));
    assert_eq!(relay.poll_store_error(), None);
    assert_eq!(relay.metrics().store_read_errors, 3);
}
