//! What the simulator found, each as the shortest story that shows it.

use std::sync::Arc;

use relay_engine::relay::{Config, Peer, Relay, commit};
use relay_engine::store::MemoryBackend;
use relay_engine::testing::{Draft, World};
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
/// and the end of the other reason did not, because it was on nobody's list: it was never read again.
#[test]
fn a_connection_paused_for_two_reasons_is_resumed_when_both_are_gone() {
    let now = Now::from_seconds(World::START);
    let limits = Limits { outbox_bytes_pause: 16, in_flight_events_max: 1, ..Limits::default() };
    let config = Arc::new(Config { limits, ..Config::default() });
    let mut relay = Relay::new(config, MemoryBackend::default(), Arc::new(Trusting), [1; 32]);
    let slow = relay.connect(now, Peer::default()).unwrap();
    let busy = relay.connect(now, Peer::default()).unwrap();

    let event = Draft::new(0, 1, World::START).event();
    let message = format!("[\"EVENT\",{}]", String::from_utf8_lossy(event.json()));
    relay.handle_text(now, busy, message.as_bytes());
    // Its challenge alone is more than the output that pauses it, and the one event allowed is in flight.
    assert!(!relay.wants_input(slow));
    while relay.drain(slow, 1 << 20, &mut |_| ()) {}
    assert_eq!(relay.poll_input_resumed(), None, "the event is still in flight");

    let batch = relay.poll_verify(now, true).expect("one event");
    relay.handle_verified(now, batch.check(&Trusting));
    let changes = relay.poll_commit().expect("one change");
    for reply in commit(relay.store(), now, vec![changes]).replies {
        relay.handle_committed(now, reply);
    }
    assert_eq!(relay.poll_input_resumed(), Some(slow));
    assert!(relay.wants_input(slow));
}
