//! Ticks: what one of them does at most, so that messages are received in between.

use relay_edge::settings::Settings;
use relay_engine::testing::signing::{event, key};

use super::world::{Hibernates, Runtime};

/// Four steps of a cost of 250; a frame that is sent costs five, and reading its event one.
const FRAMES_MAX: usize = 4 * 250 / 6 + 4;

/// Regression: a tick sent a thousand frames, and workerd wrote them before it received another message.
#[test]
fn a_tick_sends_a_bounded_number_of_frames() {
    let settings = Settings::load(&|_| None).expect("the defaults are valid");
    let mut runtime = Runtime::new(settings, Hibernates::Never);
    let (writer, reader) = (runtime.connect().unwrap(), runtime.connect().unwrap());
    let t = runtime.now.seconds();
    for n in 0..1_000 {
        let note = event(&key(1)).at(t - n).sign();
        runtime.text(writer.key, &format!(r#"["EVENT",{}]"#, note.json()));
    }
    runtime.drive();
    runtime.text(reader.key, r#"["REQ","all",{"limit":1000}]"#);
    let mut ticks = Vec::new();
    while ticks.iter().sum::<usize>() < 1_001 {
        let now = runtime.now;
        runtime.object().tick(now);
        ticks.push(reader.output.borrow_mut().drain(..).count());
        assert!(ticks.iter().all(|frames| (1..=FRAMES_MAX).contains(frames)), "{ticks:?}");
    }
}
