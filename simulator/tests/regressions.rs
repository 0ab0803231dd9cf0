//! Bugs that the simulator found, each as the shortest test that shows it.

use std::sync::Arc;

use relay_engine::policy::Policy;
use relay_engine::relay::{ClientInfo, Config, Relay, commit};
use relay_engine::store::MemoryBackend;
use relay_engine::testing::{Draft, EventGenerator};
use relay_engine::types::{Limits, Now};
use relay_engine::verify::{Claim, Verifier};

struct Trusting;

impl Verifier for Trusting {
    fn verify(&self, _: &[Claim], valid: &mut [bool]) {
        valid.fill(true);
    }
}

/// Simulator seed 6. A connection could be paused for two reasons at once: its own output was not read, and
/// too many events were in flight. Reading the output did not resume it, because the other reason still held,
/// and the end of the other reason did not, because it was no longer in the list of paused ones: it was never read again.
#[test]
fn a_connection_paused_for_two_reasons_is_resumed_when_both_are_gone() {
    let now = Now::from_seconds(EventGenerator::START);
    let limits = Limits { outbox_pause_bytes: 16, in_flight_events_max: 1, ..Limits::default() };
    let policy = Policy { challenge_on_connect: true, ..Policy::default() };
    let config = Arc::new(Config { limits, policy, ..Config::default() });
    let mut relay = Relay::new(config, MemoryBackend::default(), Arc::new(Trusting), [1; 32]);
    let slow = relay.connect(now, ClientInfo::default()).unwrap();
    let busy = relay.connect(now, ClientInfo::default()).unwrap();

    let event = Draft::new(0, 1, EventGenerator::START).event();
    let message = format!("[\"EVENT\",{}]", String::from_utf8_lossy(event.json()));
    relay.handle_text(now, busy, message.as_bytes());
    // Its challenge alone is more than the output that pauses it, and the one event allowed is in flight.
    assert!(!relay.wants_input(slow));
    while relay.drain(slow, 1 << 20, &mut |_| ()) {}
    assert_eq!(relay.poll_input_resumed(), None, "the event is still in flight");

    let batch = relay.poll_verify(now, true).expect("one event");
    relay.handle_verified(now, batch.verify(&Trusting));
    let changes = relay.poll_commit().expect("one change");
    for reply in commit(relay.store(), now, vec![changes]).replies {
        relay.handle_committed(now, reply);
    }
    assert_eq!(relay.poll_input_resumed(), Some(slow));
    assert!(relay.wants_input(slow));
}

/// Simulator seed 755. Ephemeral events that came while a subscription's scan waited for its slow reader were kept
/// outside the outbox, up to 256 of any size for each subscription, and no bound on bytes counted them.
#[test]
fn ephemeral_events_kept_until_eose_count_against_the_readers_outbox() {
    let now = Now::from_seconds(EventGenerator::START);
    let limits = Limits { outbox_pause_bytes: 16, outbox_bytes_max: 8_000, ..Limits::default() };
    let policy = Policy { challenge_on_connect: true, ..Policy::default() };
    let config = Arc::new(Config { limits, policy, ..Config::default() });
    let mut relay = Relay::new(config, MemoryBackend::default(), Arc::new(Trusting), [1; 32]);
    let slow = relay.connect(now, ClientInfo::default()).unwrap();
    let busy = relay.connect(now, ClientInfo::default()).unwrap();
    // The challenge is not read, so the scan waits.
    relay.handle_text(now, slow, br#"["REQ","s",{"kinds":[20001]}]"#);
    for number in 0..50 {
        let content = format!("{number} {}", "x".repeat(600));
        let event = Draft::new(0, 20_001, EventGenerator::START).content(&content).event();
        let message = format!("[\"EVENT\",{}]", String::from_utf8_lossy(event.json()));
        relay.handle_text(now, busy, message.as_bytes());
        let batch = relay.poll_verify(now, true).expect("one event");
        relay.handle_verified(now, batch.verify(&Trusting));
    }
    let mut frames: Vec<String> = Vec::new();
    let mut bytes_max = 0;
    for _ in 0..4 {
        let before = frames.len();
        relay.drain(slow, usize::MAX, &mut |frame| {
            let mut text = Vec::new();
            frame.write_to(&mut text);
            frames.push(String::from_utf8(text).unwrap());
        });
        bytes_max = bytes_max.max(frames[before..].iter().map(String::len).sum());
        while relay.work(now) {}
    }
    let events = frames.iter().filter(|frame| frame.starts_with("[\"EVENT\"")).count();
    assert!(bytes_max <= 8_000 + 1_024, "{bytes_max} bytes waited");
    assert!((5..50).contains(&events), "{events} events fit");
    let missed = format!("error: {} ephemeral events were not sent", 50 - events);
    assert!(frames.iter().any(|frame| frame.contains(&missed)), "{:?}", frames.last());
}

/// Found right after the fix above: pending ephemeral events made a reader that was not slow count as full, and a stored
/// event that came then was dropped as if it were ephemeral.
#[test]
fn a_stored_event_is_never_missed_because_of_pending_ephemeral_events() {
    let now = Now::from_seconds(EventGenerator::START);
    let limits =
        Limits { outbox_pause_bytes: 4_000, outbox_bytes_max: 4_000, step_cost_max: 1, ..Limits::default() };
    let config = Arc::new(Config { limits, ..Config::default() });
    let mut relay = Relay::new(config, MemoryBackend::default(), Arc::new(Trusting), [1; 32]);
    let reader = relay.connect(now, ClientInfo::default()).unwrap();
    let writer = relay.connect(now, ClientInfo::default()).unwrap();
    let publish = |relay: &mut Relay<MemoryBackend>, kind: u16, content: &str| {
        let event = Draft::new(0, kind, EventGenerator::START).content(content).event();
        let message = format!("[\"EVENT\",{}]", String::from_utf8_lossy(event.json()));
        relay.handle_text(now, writer, message.as_bytes());
        let batch = relay.poll_verify(now, true).expect("one event");
        relay.handle_verified(now, batch.verify(&Trusting));
        if let Some(changes) = relay.poll_commit() {
            let committed = commit(relay.store(), now, vec![changes]);
            for reply in committed.replies {
                relay.handle_committed(now, reply);
            }
            relay.handle_live(now, &committed.live);
        }
    };
    let mut text = Vec::new();
    let mut drain = |relay: &mut Relay<MemoryBackend>| {
        relay.drain(reader, usize::MAX, &mut |frame| frame.write_to(&mut text));
    };
    for number in 0..3 {
        publish(&mut relay, 7, &format!("reaction {number}"));
    }
    relay.handle_text(now, reader, br#"["REQ","live",{"kinds":[1]}]"#);
    while relay.work(now) {}
    drain(&mut relay);
    // One unit of cost a step: this scan is still running while ephemeral events fill the outbox of its reader.
    relay.handle_text(now, reader, br#"["REQ","scanning",{"kinds":[7,20001]}]"#);
    for number in 0..8 {
        publish(&mut relay, 20_001, &format!("{number} {}", "x".repeat(600)));
    }
    publish(&mut relay, 1, "must arrive");
    while relay.work(now) {}
    for _ in 0..4 {
        drain(&mut relay);
        while relay.work(now) {}
    }
    let text = String::from_utf8(text).unwrap();
    assert!(text.contains("ephemeral events were not sent"), "the outbox was full");
    assert_eq!(text.matches("must arrive").count(), 1);
}

/// Messages deferred behind an event were bounded in number only: 256 of a MiB each for every connection.
#[test]
fn deferred_messages_are_bounded_in_bytes() {
    let now = Now::from_seconds(EventGenerator::START);
    let limits = Limits { message_bytes_max: 1_000, ..Limits::default() };
    let config = Arc::new(Config { limits, ..Config::default() });
    let mut relay = Relay::new(config, MemoryBackend::default(), Arc::new(Trusting), [1; 32]);
    let conn = relay.connect(now, ClientInfo::default()).unwrap();
    let event = Draft::new(0, 1, EventGenerator::START).event();
    relay.handle_text(now, conn, format!("[\"EVENT\",{}]", String::from_utf8_lossy(event.json())).as_bytes());
    let mut taken = 0;
    while relay.wants_input(conn) && taken < 50 {
        let padding = " ".repeat(400);
        relay.handle_text(now, conn, format!("[\"REQ\",\"{taken}\",{padding}{{}}]").as_bytes());
        taken += 1;
    }
    assert_eq!(taken, 3, "400 bytes each");
    let batch = relay.poll_verify(now, true).expect("one event");
    relay.handle_verified(now, batch.verify(&Trusting));
    let changes = relay.poll_commit().expect("one change");
    for reply in commit(relay.store(), now, vec![changes]).replies {
        relay.handle_committed(now, reply);
    }
    assert_eq!(relay.poll_input_resumed(), Some(conn));
    assert!(relay.wants_input(conn));
}
