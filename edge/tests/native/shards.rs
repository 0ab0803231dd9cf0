//! Two shards: ephemeral events are stored by neither, and reach the subscribers of both.

use relay_edge::settings::Settings;
use relay_engine::testing::signing::{event, key};

use super::world::{Hibernates, Runtime, Socket};

fn message(runtime: &Runtime, kind: u16, content: &str) -> String {
    let event = event(&key(1)).kind(kind).at(runtime.now.seconds()).content(content).sign();
    format!(r#"["EVENT",{}]"#, event.json())
}

/// The contents of the events that its subscription was sent.
fn received(socket: &Socket) -> Vec<String> {
    let frames = socket.output.borrow_mut().drain(..).collect::<Vec<_>>();
    let events = frames.iter().map(|frame| serde_json::from_str::<serde_json::Value>(frame).unwrap());
    let events = events.filter(|frame| frame[0] == "EVENT");
    events.map(|frame| frame[2]["content"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn ephemeral_events_reach_the_other_shard() {
    let mut shards = [0, 1].map(|_| Runtime::new(Settings::default(), Hibernates::Never));
    let readers = shards.each_mut().map(|shard| {
        let reader = shard.connect().unwrap();
        shard.text(reader.key, r#"["REQ","typing",{"kinds":[1,20001]}]"#);
        shard.drive();
        reader
    });
    let [first, second] = &mut shards;
    let writer = first.connect().unwrap();
    for (kind, content) in [(20_001, "one"), (1, "stored"), (20_001, "two")] {
        first.text(writer.key, &message(first, kind, content));
    }
    first.drive();
    let forwarded = first.host.forwarded.take();
    assert_eq!(forwarded.len(), 1, "one request a tick");
    forwarded.into_iter().for_each(|events| second.live(events));
    second.drive();
    // Those in a batch are delivered as they are verified, before the stored one is committed.
    assert_eq!(received(&readers[0]), ["one", "two", "stored"]);
    assert_eq!(received(&readers[1]), ["one", "two"]);
    assert!(second.host.forwarded.borrow().is_empty(), "forwarded events are not forwarded again");
    assert_eq!([first.store.events(), second.store.events()], [1, 0]);
}

#[test]
fn ephemeral_events_reach_a_shard_that_has_just_woken_up() {
    let mut shards = [0, 1].map(|_| Runtime::new(Settings::default(), Hibernates::Never));
    let [first, second] = &mut shards;
    let reader = second.connect().unwrap();
    second.text(reader.key, r##"["REQ","mine",{"kinds":[20001],"#t":["me"]},{"kinds":[20002]}]"##);
    second.drive();
    second.hibernate();
    let writer = first.connect().unwrap();
    for (kind, content) in [(20_001, "another's"), (20_002, "asked for")] {
        first.text(writer.key, &message(first, kind, content));
    }
    first.drive();
    first.host.forwarded.take().into_iter().for_each(|events| second.live(events));
    second.drive();
    assert_eq!(received(&reader), ["asked for"]);
}
