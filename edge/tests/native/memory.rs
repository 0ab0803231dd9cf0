//! Memory: what sockets hold for readers that read nothing has a bound, and nobody misses an event by it.

use relay_edge::settings::{ObjectSettings, Settings};
use relay_engine::testing::signing::{event, key};

use super::world::{Forgets, Runtime};

const READERS: usize = 200;
const EVENTS: u64 = 100;
const EVENT_BYTES: usize = 20_000;

#[test]
fn many_slow_readers_hold_little_and_get_everything() {
    // Forever, so that nobody is closed for reading nothing.
    let object = ObjectSettings { write_stall_seconds: 1 << 30, ..ObjectSettings::default() };
    let mut runtime = Runtime::new(Settings { object, ..Settings::default() }, Forgets::Never);
    let writer = runtime.connect().unwrap();
    let t = runtime.now.seconds();
    for n in 0..EVENTS {
        let note = event(&key(1)).at(t - n).content("x".repeat(EVENT_BYTES)).sign();
        runtime.text(writer.key, &format!(r#"["EVENT",{}]"#, note.json()));
    }
    runtime.drive();
    let readers: Vec<_> = (0..READERS).map(|_| runtime.connect().unwrap()).collect();
    for reader in &readers {
        reader.output.borrow_mut().clear();
        runtime.text(reader.key, r#"["REQ","all",{"limit":500}]"#);
    }
    for _ in 0..50 {
        runtime.drive();
    }
    let held: usize =
        readers.iter().map(|reader| reader.output.borrow().iter().map(String::len).sum::<usize>()).sum();
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
