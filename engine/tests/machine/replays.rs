//! A reader that fell behind catches up in one replay of the log, however many subscriptions it has.

use std::net::IpAddr;
use std::sync::Arc;

use relay_engine::relay::{ClientInfo, Config, ConnId, Relay};
use relay_engine::store::MemoryBackend;
use relay_engine::testing::settle;
use relay_engine::testing::signing::{event, key};
use relay_engine::types::{Limits, Now};
use relay_engine::verify::Libsecp256k1;

const NOW: Now = Now::from_seconds(1_700_000_000);
const SUBS: usize = 290;

type Machine = Relay<MemoryBackend>;

fn new_relay(limits: Limits) -> Machine {
    new_relay_with(Config { limits, ..Config::default() })
}

fn new_relay_with(config: Config) -> Machine {
    Relay::new(Arc::new(config), MemoryBackend::default(), Arc::new(Libsecp256k1), [1; 32])
}

/// Publishes notes with these tags, numbered by their content, each committed by itself.
fn publish_notes<T: AsRef<str>>(relay: &mut Machine, from: ConnId, notes: impl Iterator<Item = Vec<T>>) {
    for (n, tags) in notes.enumerate() {
        let note = event(&key(1)).at(NOW.seconds()).content(n.to_string());
        let note = tags.iter().fold(note, |note, tag| note.tag(["t", tag.as_ref()])).sign();
        relay.handle_text(NOW, from, format!(r#"["EVENT",{}]"#, note.json()).as_bytes());
        settle(relay, NOW);
        drained(relay, from);
    }
}

/// [`publish_notes`] with a tag each.
fn publish(relay: &mut Machine, from: ConnId, tags: impl Iterator<Item = usize>) {
    publish_notes(relay, from, tags.map(|tag| vec![tag.to_string()]));
}

/// Subscription and content of each event that has come.
fn drained(relay: &mut Machine, conn: ConnId) -> Vec<(String, usize)> {
    let mut events = Vec::new();
    while relay.drain(conn, usize::MAX, &mut |frame| {
        let mut bytes = Vec::new();
        frame.write_to(&mut bytes);
        let frame: serde_json::Value = serde_json::from_slice(&bytes).expect("JSON");
        if frame[0] == "EVENT" {
            let content = frame[2]["content"].as_str().unwrap().parse().unwrap();
            events.push((frame[1].as_str().unwrap().to_owned(), content));
        }
    }) {}
    events
}

fn subscribe(relay: &mut Machine, conn: ConnId) {
    for sub in 0..SUBS {
        let text = format!(r##"["REQ","{sub}",{{"#t":["{sub}"]}}]"##);
        relay.handle_text(NOW, conn, text.as_bytes());
        while relay.work(NOW) {}
    }
    drained(relay, conn);
}

/// Regression: each of 290 subscriptions read the whole log for itself.
#[test]
fn subscriptions_that_fell_behind_share_a_replay() {
    let mut relay = new_relay(Limits { step_cost_max: 10, outbox_pause_bytes: 20_000, ..Limits::default() });
    let connect =
        |relay: &mut Machine| relay.connect(NOW, ClientInfo::default()).expect("a connection is free");
    let (reader, publisher) = (connect(&mut relay), connect(&mut relay));
    subscribe(&mut relay, reader);
    let tags = |n: usize| n * 7 % SUBS;
    publish(&mut relay, publisher, (0..1_000).map(tags));
    assert!(relay.metrics().subscriptions_lagged >= SUBS as u64 - 10, "nearly all are behind");
    assert!(!relay.has_work(), "the reader does not read");

    let mut got = drained(&mut relay, reader);
    let mut steps = 0;
    while relay.has_work() {
        relay.work(NOW);
        got.extend(drained(&mut relay, reader));
        steps += 1;
    }
    // A thousand events and 290 subscriptions are 129 steps of ten.
    assert!(steps <= 150, "{steps}");
    assert_eq!(got.len(), 1_000);
    for sub in 0..SUBS {
        let mine: Vec<usize> =
            got.iter().filter(|(name, _)| *name == sub.to_string()).map(|(_, n)| *n).collect();
        let wanted: Vec<usize> = (0..1_000).filter(|n| tags(*n) == sub).collect();
        assert_eq!(mine, wanted, "{sub}");
    }
    // All are live again.
    publish(&mut relay, publisher, (0..5).map(|n| n + 3));
    assert!(!relay.has_work());
    assert_eq!(drained(&mut relay, reader).len(), 5);
}

/// One event is for many, the reader pauses in the middle of them, some end, and all others get it once.
#[test]
fn a_reader_that_pauses_within_an_event_misses_none() {
    let mut relay = new_relay(Limits { step_cost_max: 10, outbox_pause_bytes: 2_000, ..Limits::default() });
    let connect =
        |relay: &mut Machine| relay.connect(NOW, ClientInfo::default()).expect("a connection is free");
    let (reader, publisher) = (connect(&mut relay), connect(&mut relay));
    for sub in 0..40 {
        relay.handle_text(NOW, reader, format!(r#"["REQ","{sub}",{{"kinds":[1]}}]"#).as_bytes());
        while relay.work(NOW) {}
    }
    drained(&mut relay, reader);
    publish(&mut relay, publisher, 0..20);
    let mut got = Vec::new();
    loop {
        let came = drained(&mut relay, reader);
        assert!(came.len() <= 6, "a pause at 2,000 bytes: {}", came.len());
        if got.is_empty() {
            (30..40).for_each(|sub| {
                relay.handle_text(NOW, reader, format!(r#"["CLOSE","{sub}"]"#).as_bytes());
            });
        }
        got.extend(came);
        if !relay.has_work() {
            break;
        }
        relay.work(NOW);
    }
    for sub in 0..30 {
        let mine: Vec<usize> =
            got.iter().filter(|(name, _)| *name == sub.to_string()).map(|(_, n)| *n).collect();
        assert_eq!(mine, (0..20).collect::<Vec<_>>(), "{sub}");
    }
}

/// Events of a thousand tags, which a condition asks about, cost more than one unit each.
#[test]
fn a_replay_is_charged_for_what_matching_takes() {
    let mut relay = new_relay(Limits { step_cost_max: 100, ..Limits::default() });
    let connect =
        |relay: &mut Machine| relay.connect(NOW, ClientInfo::default()).expect("a connection is free");
    let (reader, publisher) = (connect(&mut relay), connect(&mut relay));
    relay.handle_text(NOW, reader, br##"["REQ","all",{"kinds":[1]},{"#t":["none"]}]"##);
    relay.work(NOW);
    drained(&mut relay, reader);
    relay.handle_backlog(reader, 1 << 20);
    let tags = || (0..1_000).map(|n| format!("{n:0>20}")).collect();
    publish_notes(&mut relay, publisher, std::iter::repeat_with(tags).take(20));
    relay.handle_backlog(reader, 0);
    let mut steps = 0;
    while relay.has_work() {
        relay.work(NOW);
        steps += 1;
    }
    // An event is 27,000 bytes, nearly all of them tags: a cost of some 60, of which there are two to a step.
    assert!((9..=11).contains(&steps), "{steps}");
    assert_eq!(drained(&mut relay, reader).len(), 20);
}

/// Regression: on a host whose sockets take a call for each frame, 290 subscriptions that had missed every event were sent a
/// thousand frames in a step.
#[test]
fn a_replay_is_charged_for_what_sending_takes() {
    const FRAME_COST: usize = 5;
    let limits = Limits { step_cost_max: 100, ..Limits::default() };
    let mut relay = new_relay_with(Config { limits, frame_cost: FRAME_COST, ..Config::default() });
    let connect = |relay: &mut Machine| relay.connect(NOW, ClientInfo::default()).expect("there is room");
    let (reader, publisher) = (connect(&mut relay), connect(&mut relay));
    for sub in 0..50 {
        relay.handle_text(NOW, reader, format!(r#"["REQ","{sub}",{{"kinds":[1]}}]"#).as_bytes());
        while relay.work(NOW) {}
    }
    drained(&mut relay, reader);
    relay.handle_backlog(reader, 1 << 20);
    publish(&mut relay, publisher, 0..20);
    relay.handle_backlog(reader, 0);
    let (mut got, mut steps) = (Vec::new(), 0);
    while relay.has_work() {
        relay.work(NOW);
        let came = drained(&mut relay, reader);
        assert!(came.len() <= 100 / FRAME_COST, "{}", came.len());
        got.extend(came);
        steps += 1;
    }
    // A thousand frames that cost five each, and each event is read and matched once more for every step that ends within it.
    assert!((50..=70).contains(&steps), "{steps}");
    got.sort();
    let mut wanted: Vec<_> = (0..50).flat_map(|sub| (0..20).map(move |n| (sub.to_string(), n))).collect();
    wanted.sort();
    assert_eq!(got, wanted);
}

/// The stored part of an answer, likewise.
#[test]
fn a_scan_is_charged_for_what_sending_takes() {
    let steps = |frame_cost: usize| {
        let limits = Limits { step_cost_max: 60, ..Limits::default() };
        let mut relay = new_relay_with(Config { limits, frame_cost, ..Config::default() });
        let connect = |relay: &mut Machine| relay.connect(NOW, ClientInfo::default()).expect("there is room");
        let (reader, publisher) = (connect(&mut relay), connect(&mut relay));
        publish(&mut relay, publisher, 0..100);
        relay.handle_text(NOW, reader, br#"["REQ","all",{"kinds":[1]}]"#);
        let mut steps = 1;
        while relay.work(NOW) {
            steps += 1;
        }
        assert_eq!(drained(&mut relay, reader).len(), 100);
        steps
    };
    let (without, with) = (steps(0), steps(5));
    assert_eq!(with - without, 100 * 5 / 60, "{without} and {with} steps");
}

/// Regression: of a thousand connections that were behind and read again at once, each began its replay, whatever they held
/// together.
#[test]
fn replays_that_begin_at_once_wait_for_room() {
    let bytes_max = 1 << 20;
    let limits = Limits { step_cost_max: 10, query_bytes_max: bytes_max, ..Limits::default() };
    let mut relay = new_relay(limits);
    let publisher = relay.connect(NOW, ClientInfo::default()).expect("there is room");
    let readers: Vec<ConnId> = (0..60)
        .map(|n| {
            let address = Some(IpAddr::from([192, 0, 2, n / 3]).into());
            let conn =
                relay.connect(NOW, ClientInfo { address, ..ClientInfo::default() }).expect("there is room");
            relay.handle_text(NOW, conn, br#"["REQ","all",{"kinds":[1]}]"#);
            while relay.work(NOW) {}
            drained(&mut relay, conn);
            relay.handle_backlog(conn, 1 << 20);
            conn
        })
        .collect();
    publish(&mut relay, publisher, 0..100);
    while relay.work(NOW) {}
    readers.iter().for_each(|conn| relay.handle_backlog(*conn, 0));
    let mut most = 0;
    while relay.work(NOW) {
        most = most.max(relay.metrics().query_bytes as usize);
    }
    assert!((bytes_max / 2..=bytes_max).contains(&most), "{most}");
    assert_eq!(relay.metrics().query_bytes, 0);
    for conn in readers {
        let wanted: Vec<_> = (0..100).map(|n| ("all".to_owned(), n)).collect();
        assert_eq!(drained(&mut relay, conn), wanted);
    }
}

/// The index of a replay takes a bounded number of values: a subscription that does not fit has the next replay.
#[test]
fn wide_subscriptions_catch_up_in_several_replays() {
    let mut relay = new_relay(Limits { outbox_pause_bytes: 2_000, ..Limits::default() });
    let connect =
        |relay: &mut Machine| relay.connect(NOW, ClientInfo::default()).expect("a connection is free");
    let (reader, publisher) = (connect(&mut relay), connect(&mut relay));
    for sub in 0..5 {
        let values: Vec<String> = (0..9_000).map(|n| format!("\"{sub}-{n}\"")).collect();
        let text = format!(r##"["REQ","{sub}",{{"#t":[{}]}}]"##, values.join(","));
        relay.handle_text(NOW, reader, text.as_bytes());
        while relay.work(NOW) {}
    }
    drained(&mut relay, reader);
    publish_notes(&mut relay, publisher, (0..40).map(|n| vec![format!("{}-{n}", n % 5)]));
    let mut got = drained(&mut relay, reader);
    while relay.has_work() {
        relay.work(NOW);
        got.extend(drained(&mut relay, reader));
    }
    got.sort();
    let wanted: Vec<_> = (0..5).flat_map(|sub| (0..8).map(move |n| (sub.to_string(), n * 5 + sub))).collect();
    assert_eq!(got, wanted);
}
