//! What live filters cost the machine, in candidates of an event and in values.

use std::sync::Arc;

use relay_engine::relay::{Config, ConnId, Live, Peer, Relay};
use relay_engine::store::MemoryBackend;
use relay_engine::testing::signing::{Signed, event, key};
use relay_engine::types::{Event, Limits, Now};
use relay_engine::verify::Libsecp256k1;

const T: u64 = 1_700_000_000;
/// How far ahead an event may be dated.
const AHEAD: u64 = 900;

fn relay(limits: Limits) -> Relay<MemoryBackend> {
    let config = Config { limits, ..Config::default() };
    Relay::new(Arc::new(config), MemoryBackend::default(), Arc::new(Libsecp256k1), [1; 32])
}

fn connect(relay: &mut Relay<MemoryBackend>) -> ConnId {
    relay.connect(Now::from_seconds(T), Peer::default()).expect("there is room")
}

fn send(relay: &mut Relay<MemoryBackend>, seconds: u64, conn: ConnId, text: &str) {
    relay.handle_text(Now::from_seconds(seconds), conn, text.as_bytes());
    while relay.work(Now::from_seconds(seconds)) {}
}

/// A REQ of `filters` filters that say this `since`.
fn req(id: &str, filters: usize, since: u64) -> String {
    let filters = vec![format!(r#"{{"since":{since}}}"#); filters].join(",");
    format!(r#"["REQ","{id}",{filters}]"#)
}

/// An ephemeral event comes from another shard: the candidates that it has.
fn candidates(relay: &mut Relay<MemoryBackend>, seconds: u64, event: &Signed) -> u64 {
    let before = relay.metrics().fanout_candidates.sum;
    let event = Event::from_canonical(event.json().as_bytes().into());
    relay.handle_live(Now::from_seconds(seconds), &[Live { seq: None, event }]);
    relay.metrics().fanout_candidates.sum - before
}

fn ephemeral(created_at: u64) -> Signed {
    event(&key(1)).kind(20_000).at(created_at).sign()
}

fn drained(relay: &mut Relay<MemoryBackend>, conn: ConnId) -> Vec<String> {
    let mut frames = Vec::new();
    while relay.drain(conn, usize::MAX, &mut |frame| {
        let mut bytes = Vec::new();
        frame.write_to(&mut bytes);
        frames.push(String::from_utf8(bytes).expect("UTF-8"));
    }) {}
    frames
}

/// 4.2 million filters that said nothing but a `since` in the future were candidates of every event.
#[test]
fn filters_that_cannot_match_yet_are_no_candidates() {
    let mut relay = relay(Limits::default());
    let since = T + 86_400;
    let conn = connect(&mut relay);
    for sub in 0..99 {
        send(&mut relay, T, conn, &req(&sub.to_string(), 99, since));
    }
    send(&mut relay, T, conn, &req("first", 1, T + AHEAD));
    drained(&mut relay, conn);
    assert_eq!(candidates(&mut relay, T, &ephemeral(T)), 1, "the one that an event can match by now");
    assert_eq!(candidates(&mut relay, T + 100, &ephemeral(T + AHEAD)), 1);
    assert_eq!(drained(&mut relay, conn).len(), 1);

    // One ends, one is replaced and one's client goes away while they wait.
    let gone = connect(&mut relay);
    send(&mut relay, T, gone, &req("gone", 50, since));
    relay.disconnect(gone);
    send(&mut relay, T, conn, r#"["CLOSE","0"]"#);
    send(&mut relay, T, conn, &req("1", 1, since + 1_000_000));
    drained(&mut relay, conn);
    // The second before, all but a few are still out: so many are no pause.
    let before = candidates(&mut relay, since - AHEAD - 1, &ephemeral(T));
    assert!((2..2_500).contains(&before), "{before} have entered early");
    // And now every one is there, though no timer has run.
    let all = 1 + 97 * 99;
    assert_eq!(candidates(&mut relay, since - AHEAD, &ephemeral(since)), all);
    assert_eq!(drained(&mut relay, conn).len(), 1 + 97);
}

/// Another shard's clock may be ahead of this one's.
#[test]
fn an_event_dated_later_than_it_could_be_here_misses_nobody() {
    let mut relay = relay(Limits::default());
    let conn = connect(&mut relay);
    send(&mut relay, T, conn, &req("both", 1, T + AHEAD + 100));
    send(&mut relay, T, conn, &req("later", 1, T + AHEAD + 300));
    drained(&mut relay, conn);
    assert_eq!(candidates(&mut relay, T, &ephemeral(T + AHEAD + 30)), 0);
    assert_eq!(candidates(&mut relay, T, &ephemeral(T + AHEAD + 100)), 1);
    assert_eq!(drained(&mut relay, conn).len(), 1);
}

/// Streams of the host are subscriptions like others.
#[test]
fn a_stream_that_begins_later_is_handed_what_is_dated_then() {
    let mut relay = relay(Limits::default());
    let since = T + AHEAD + 100;
    let filter = relay_engine::types::Filter { since: Some(since), ..Default::default() };
    let stream = relay.open_stream(&[filter], None).expect("the store is there");
    assert_eq!(candidates(&mut relay, T, &ephemeral(T)), 0);
    assert_eq!(candidates(&mut relay, since, &ephemeral(since)), 1);
    assert!(relay.poll_stream(stream).is_some());
}
