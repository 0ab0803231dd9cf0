//! Memory limits: output queued for slow readers is bounded, without losing an event, and so are the values of live
//! filters; a request beyond that is answered with CLOSED.

use std::rc::Rc;

use relay_edge::settings::{NetworkSettings, Settings};
use relay_engine::testing::signing::{event, key};

use super::world::{Hibernates, Runtime, Socket};

const READERS: usize = 200;
const EVENTS: u64 = 100;
const EVENT_BYTES: usize = 20_000;

/// Stores [`EVENTS`] large events, and returns their publisher, which stays connected.
fn publish(runtime: &mut Runtime) -> Rc<Socket> {
    let writer = runtime.connect().unwrap();
    let t = runtime.now.seconds();
    for n in 0..EVENTS {
        let note = event(&key(1)).at(t - n).content("x".repeat(EVENT_BYTES)).sign();
        runtime.text(writer.key, &format!(r#"["EVENT",{}]"#, note.json()));
    }
    runtime.drive();
    writer
}

fn queued_bytes(readers: &[Rc<Socket>]) -> usize {
    readers.iter().map(|reader| reader.output.borrow().iter().map(String::len).sum::<usize>()).sum()
}

#[test]
fn output_of_many_slow_readers_is_bounded_and_complete() {
    // Forever, so that no client is closed for reading nothing.
    let network = NetworkSettings { write_stall_seconds: 1 << 30, ..NetworkSettings::default() };
    let mut runtime = Runtime::new(Settings { network, ..Settings::default() }, Hibernates::Never);
    publish(&mut runtime);
    let readers: Vec<_> = (0..READERS).map(|_| runtime.connect().unwrap()).collect();
    for reader in &readers {
        reader.output.borrow_mut().clear();
        runtime.text(reader.key, r#"["REQ","all",{"limit":500}]"#);
    }
    for _ in 0..50 {
        runtime.drive();
    }
    let queued = queued_bytes(&readers);
    let asked = READERS * EVENTS as usize * EVENT_BYTES;
    assert!(queued < 40 << 20, "{queued} bytes of {asked} are queued");
    for reader in [&readers[0], &readers[READERS - 1]] {
        let (mut events, mut is_complete) = (0, false);
        for _ in 0..1_000 {
            for frame in reader.output.borrow_mut().drain(..) {
                events += u64::from(frame.starts_with(r#"["EVENT""#));
                is_complete |= frame.starts_with(r#"["EOSE""#);
            }
            if is_complete {
                break;
            }
            runtime.advance(1);
        }
        assert!(is_complete, "EOSE comes once it reads");
        assert_eq!(events, EVENTS);
    }
}

/// The platform sends a close frame after everything queued, so the output of a reader that reads nothing stays in memory
/// after it is closed, until its client reads it or disconnects. Each new round of such readers gets less output memory, then
/// none; other clients are still served, and the memory is free again when the sockets are gone.
#[test]
fn readers_that_never_read_cannot_fill_the_memory_by_being_closed() {
    let network = NetworkSettings { write_stall_seconds: 10, ..NetworkSettings::default() };
    let mut runtime = Runtime::new(Settings { network, ..Settings::default() }, Hibernates::Never);
    let writer = publish(&mut runtime);
    let mut crowd = Vec::new();
    for round in 0..10 {
        let readers: Vec<_> = (0..20).filter_map(|_| runtime.connect()).collect();
        for reader in &readers {
            runtime.text(reader.key, r#"["REQ","all",{"limit":500}]"#);
        }
        crowd.extend(readers);
        runtime.drive();
        // The count survives hibernation.
        if round % 5 == 4 {
            runtime.hibernate();
        }
        // The first check notes the backlog, the second one closes the reader.
        runtime.advance(1);
        runtime.advance(11);
        runtime.drive();
        let queued = queued_bytes(&crowd);
        assert!(queued < 70 << 20, "round {round}: {queued} bytes are queued");
    }
    assert!(crowd.iter().all(|reader| reader.closed.get() == Some(1008)));
    assert!(queued_bytes(&crowd) > 30 << 20, "{}", queued_bytes(&crowd));

    // The writer has been connected all the time, and reads.
    writer.output.borrow_mut().clear();
    runtime.text(writer.key, r#"["REQ","some",{"limit":5}]"#);
    let mut frames = 0;
    for _ in 0..20 {
        frames += writer.output.borrow_mut().drain(..).count();
        runtime.advance(1);
    }
    assert_eq!(frames, 6, "five events and EOSE");

    let now = runtime.now;
    for reader in &crowd {
        runtime.object().disconnect(now, reader.key);
        reader.output.borrow_mut().clear();
    }
    let reader = runtime.connect().expect("there is room again");
    reader.output.borrow_mut().clear();
    runtime.text(reader.key, r#"["REQ","all",{"limit":500}]"#);
    runtime.drive();
    assert!(queued_bytes(&[reader]) >= 1 << 20, "and as much as at first");
}

fn authors(from: u64, count: u64) -> String {
    let keys: Vec<String> = (from..from + count).map(|n| format!("\"{n:064x}\"")).collect();
    keys.join(",")
}

/// The number of values that were accepted, and the last refusal.
fn subscribe_until_refused(runtime: &mut Runtime, clients: u64, each: u64) -> (u64, Option<String>) {
    let (mut taken, mut refused) = (0, None);
    for n in 0..clients {
        let client = runtime.connect().unwrap();
        client.output.borrow_mut().clear();
        runtime.text(client.key, &format!(r#"["REQ","all",{{"authors":[{}]}}]"#, authors(n * each, each)));
        runtime.drive();
        let frames: Vec<String> = client.output.borrow_mut().drain(..).collect();
        match frames.as_slice() {
            [frame] if frame.starts_with(r#"["EOSE""#) => taken += each,
            [frame] if frame.starts_with(r#"["CLOSED""#) => refused = Some(frame.clone()),
            other => panic!("{other:?}"),
        }
    }
    (taken, refused)
}

#[test]
fn values_of_live_filters_are_bounded_and_the_excess_is_refused() {
    for hibernates in [Hibernates::Never, Hibernates::Always] {
        let mut runtime = Runtime::new(Settings::load(&|_| None).unwrap(), hibernates);
        let (taken, refused) = subscribe_until_refused(&mut runtime, 12, 10_000);
        assert_eq!(taken, 30_000, "a request gets at most a third of what is left of the first half");
        let message = r#"["CLOSED","all","blocked: this relay is busy; for now, a request may name up to 9999 ids, authors, kinds and tag values together"]"#;
        assert_eq!(refused.as_deref(), Some(message));
        let (taken, _) = subscribe_until_refused(&mut runtime, 40, 1_000);
        assert_eq!(taken, 27_000);
        assert_eq!(subscribe_until_refused(&mut runtime, 40, 100), (4_000, None));
        if let Hibernates::Always = hibernates {
            continue;
        }
        let (taken, refused) = subscribe_until_refused(&mut runtime, 130, 499);
        assert_eq!(taken, 117 * 499, "the other half");
        assert!(refused.unwrap().contains("may name up to 430 ids"));
        // Closing a connection makes room.
        let (now, key) = (runtime.now, 1);
        runtime.sockets[&key].closed.set(Some(1005));
        runtime.object().disconnect(now, key);
        assert_eq!(subscribe_until_refused(&mut runtime, 2, 499), (998, None));
    }
}
