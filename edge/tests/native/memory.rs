//! Memory: what sockets hold for readers that read nothing has a bound, and nobody misses an event by it; live
//! filters have one, and whoever meets it is told.

use std::rc::Rc;

use relay_edge::settings::{ObjectSettings, Settings};
use relay_engine::testing::signing::{event, key};

use super::world::{Forgets, Runtime, Socket};

const READERS: usize = 200;
const EVENTS: u64 = 100;
const EVENT_BYTES: usize = 20_000;

/// Stores [`EVENTS`] large events; who published them stays.
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

fn held(readers: &[Rc<Socket>]) -> usize {
    readers.iter().map(|reader| reader.output.borrow().iter().map(String::len).sum::<usize>()).sum()
}

#[test]
fn many_slow_readers_hold_little_and_get_everything() {
    // Forever, so that nobody is closed for reading nothing.
    let object = ObjectSettings { write_stall_seconds: 1 << 30, ..ObjectSettings::default() };
    let mut runtime = Runtime::new(Settings { object, ..Settings::default() }, Forgets::Never);
    publish(&mut runtime);
    let readers: Vec<_> = (0..READERS).map(|_| runtime.connect().unwrap()).collect();
    for reader in &readers {
        reader.output.borrow_mut().clear();
        runtime.text(reader.key, r#"["REQ","all",{"limit":500}]"#);
    }
    for _ in 0..50 {
        runtime.drive();
    }
    let held = held(&readers);
    let asked = READERS * EVENTS as usize * EVENT_BYTES;
    assert!(held < 40 << 20, "{held} bytes of {asked} wait in sockets");
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

/// The platform sends a close behind what is queued: a reader that takes nothing is closed, and everything that was
/// sent to it stays in memory until its client takes it or is gone. A crowd of such readers that comes again and again
/// finds less each time, then nothing; others go on, and when the crowd is gone so is what it held.
#[test]
fn readers_that_never_read_cannot_fill_the_memory_by_being_closed() {
    let object = ObjectSettings { write_stall_seconds: 10, ..ObjectSettings::default() };
    let mut runtime = Runtime::new(Settings { object, ..Settings::default() }, Forgets::Never);
    let writer = publish(&mut runtime);
    let mut crowd = Vec::new();
    for round in 0..10 {
        let readers: Vec<_> = (0..20).filter_map(|_| runtime.connect()).collect();
        for reader in &readers {
            runtime.text(reader.key, r#"["REQ","all",{"limit":500}]"#);
        }
        crowd.extend(readers);
        runtime.drive();
        // Losing the memory does not lose the count.
        if round % 5 == 4 {
            runtime.forget();
        }
        // One look finds that it takes nothing, another that it has not for long.
        runtime.advance(1);
        runtime.advance(11);
        runtime.drive();
        assert!(held(&crowd) < 70 << 20, "round {round}: {} bytes are held", held(&crowd));
    }
    assert!(crowd.iter().all(|reader| reader.closed.get() == Some(1008)));
    assert!(held(&crowd) > 30 << 20, "{}", held(&crowd));

    // The writer is there all the while, and reads.
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
    assert!(held(&[reader]) >= 1 << 20, "and as much of it as ever");
}

fn authors(from: u64, count: u64) -> String {
    let keys: Vec<String> = (from..from + count).map(|n| format!("\"{n:064x}\"")).collect();
    keys.join(",")
}

/// Values that were taken, and the words of the last refusal.
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
fn live_filters_of_all_sockets_have_a_bound_and_who_meets_it_is_told() {
    for forgets in [Forgets::Never, Forgets::Always] {
        let mut runtime = Runtime::new(Settings::load(&|_| None).unwrap(), forgets);
        let (taken, refused) = subscribe_until_refused(&mut runtime, 12, 10_000);
        assert_eq!(taken, 30_000, "a third of what is left of half");
        let words = r#"["CLOSED","all","blocked: this relay is busy; for now, a request may name 9999 ids, authors, kinds and tags"]"#;
        assert_eq!(refused.as_deref(), Some(words));
        let (taken, _) = subscribe_until_refused(&mut runtime, 40, 1_000);
        assert_eq!(taken, 27_000);
        assert_eq!(subscribe_until_refused(&mut runtime, 40, 100), (4_000, None));
        if let Forgets::Always = forgets {
            continue;
        }
        let (taken, refused) = subscribe_until_refused(&mut runtime, 130, 499);
        assert_eq!(taken, 117 * 499, "the other half");
        assert!(refused.unwrap().contains("may name 430 ids"));
        // What ends makes room.
        let (now, key) = (runtime.now, 1);
        runtime.sockets[&key].closed.set(Some(1005));
        runtime.object().disconnect(now, key);
        assert_eq!(subscribe_until_refused(&mut runtime, 2, 499), (998, None));
    }
}
