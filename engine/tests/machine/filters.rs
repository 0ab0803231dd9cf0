//! The cost of live filters: candidates of an event, and filter values.

use std::sync::Arc;

use relay_engine::relay::{ClientInfo, Config, ConnId, LiveEvent, Relay};
use relay_engine::store::MemoryBackend;
use relay_engine::testing::drained;
use relay_engine::testing::signing::{Signed, event, key};
use relay_engine::types::{Event, Limits, Now};
use relay_engine::verify::Libsecp256k1;

const T: u64 = 1_700_000_000;
/// How far in the future an event may be dated.
const AHEAD: u64 = 900;

fn relay(limits: Limits) -> Relay<MemoryBackend> {
    let config = Config { limits, ..Config::default() };
    Relay::new(Arc::new(config), MemoryBackend::default(), Arc::new(Libsecp256k1), [1; 32])
}

fn connect(relay: &mut Relay<MemoryBackend>) -> ConnId {
    relay.connect(Now::from_seconds(T), ClientInfo::default()).expect("a connection is free")
}

fn send(relay: &mut Relay<MemoryBackend>, seconds: u64, conn: ConnId, text: &str) {
    relay.handle_text(Now::from_seconds(seconds), conn, text.as_bytes());
    while relay.work(Now::from_seconds(seconds)) {}
}

/// A REQ with `filters` filters that have only this `since`.
fn req(id: &str, filters: usize, since: u64) -> String {
    let filters = vec![format!(r#"{{"since":{since}}}"#); filters].join(",");
    format!(r#"["REQ","{id}",{filters}]"#)
}

/// Delivers an ephemeral event from another shard; returns its number of candidates.
fn candidates(relay: &mut Relay<MemoryBackend>, seconds: u64, event: &Signed) -> u64 {
    let before = relay.metrics().fanout_candidates.sum;
    let event = Event::from_canonical(event.json().as_bytes().into());
    relay.handle_live(Now::from_seconds(seconds), &[LiveEvent::ephemeral(event, None)]);
    while relay.work(Now::from_seconds(seconds)) {}
    relay.metrics().fanout_candidates.sum - before
}

fn ephemeral(created_at: u64) -> Signed {
    event(&key(1)).kind(20_000).at(created_at).sign()
}

/// Regression: 4.2 million filters with only a `since` in the future were candidates of every event.
#[test]
fn filters_that_cannot_match_yet_are_no_candidates() {
    // As many values as ten thousand of them have, and more.
    let mut relay = relay(Limits { shard_values_max: 100_000_000, ..Limits::default() });
    let since = T + 86_400;
    let conns: Vec<ConnId> = (0..102).map(|_| connect(&mut relay)).collect();
    for conn in &conns {
        send(&mut relay, T, *conn, &req("later", 98, since));
    }
    send(&mut relay, T, conns[0], &req("first", 1, T + AHEAD));
    let received = |relay: &mut Relay<MemoryBackend>| -> usize {
        let events = conns.iter().flat_map(|conn| drained(relay, *conn));
        events.filter(|frame| frame.starts_with(r#"["EVENT""#)).count()
    };
    assert_eq!(relay.metrics().subscriptions, 103, "none is refused");
    assert_eq!(received(&mut relay), 0);
    assert_eq!(candidates(&mut relay, T, &ephemeral(T)), 1, "the one that an event can match by now");
    assert_eq!(candidates(&mut relay, T + 100, &ephemeral(T + AHEAD)), 1);
    assert_eq!(received(&mut relay), 1);

    // While they wait, one is closed, one is replaced, and one's connection ends.
    send(&mut relay, T, conns[1], r#"["CLOSE","later"]"#);
    send(&mut relay, T, conns[2], &req("later", 1, since + 1_000_000));
    relay.disconnect(conns[3]);
    // One second before, all but a few still wait.
    let before = candidates(&mut relay, since - AHEAD - 1, &ephemeral(T));
    assert!((2..2_500).contains(&before), "{before} have entered early");
    // Now all are in the index, although no timer has run.
    assert_eq!(candidates(&mut relay, since - AHEAD, &ephemeral(since)), 1 + 99 * 98);
    assert_eq!(received(&mut relay), 1 + 99);
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

/// Regression: one event dated years ahead made every filter that came after it a candidate until then.
#[test]
fn an_event_dated_years_ahead_opens_the_index_to_nobody_else() {
    let mut relay = relay(Limits::default());
    let conn = connect(&mut relay);
    send(&mut relay, T, conn, &req("before", 1, T + 86_400));
    assert_eq!(candidates(&mut relay, T, &ephemeral(T + 400_000_000)), 1);
    assert_eq!(drained(&mut relay, conn).len(), 2, "EOSE, and the event");
    send(&mut relay, T, conn, &req("after", 90, T + 86_400));
    assert_eq!(candidates(&mut relay, T, &ephemeral(T)), 1, "the one before it is in the index");
    // They miss nothing: neither such an event nor one that is dated in time.
    assert_eq!(candidates(&mut relay, T, &ephemeral(T + 400_000_001)), 91);
    assert_eq!(drained(&mut relay, conn).len(), 3);
}

/// Streams of the host are subscriptions like those of clients.
#[test]
fn a_stream_with_a_future_since_receives_events_from_then_on() {
    let mut relay = relay(Limits::default());
    let since = T + AHEAD + 100;
    let filter = relay_engine::types::Filter { since: Some(since), ..Default::default() };
    let stream = relay.open_stream(&[filter], None).expect("the store is there");
    assert_eq!(candidates(&mut relay, T, &ephemeral(T)), 0);
    assert_eq!(candidates(&mut relay, since, &ephemeral(since)), 1);
    assert!(relay.poll_stream(stream).is_some());
}

/// The values that a REQ is charged, or `None` if it is refused.
fn charged(relay: &mut Relay<MemoryBackend>, conn: ConnId, id: &str, filters: &str) -> Option<u64> {
    let before = relay.metrics().filter_values;
    send(relay, T, conn, &format!(r#"["REQ","{id}",{filters}]"#));
    let frames = drained(relay, conn);
    let refused = frames.iter().any(|frame| frame.starts_with(r#"["CLOSED""#));
    (!refused).then(|| relay.metrics().filter_values - before)
}

#[test]
fn filters_are_charged_by_candidates_and_by_size() {
    let mut relay = relay(Limits::default());
    let conn = connect(&mut relay);
    let (author, long) = ("a".repeat(64), "x".repeat(1_000));
    let filters = [
        ("{}".to_owned(), 1 + 1_000),
        (r#"{"since":5,"limit":3}"#.to_owned(), 1 + 1_000),
        (r#"{"kinds":[1]}"#.to_owned(), 1 + 1 + 100),
        (r#"{"kinds":[1,6,7]},{}"#.to_owned(), 1 + 3 + 300 + 1 + 1_000),
        (format!(r#"{{"kinds":[1,6],"authors":["{author}"]}}"#), 1 + 3),
        (format!(r#"{{"ids":["{author}"]}}"#), 1 + 1),
        // An id or a public key is one value; other strings count by their length.
        (format!(r##"{{"#e":["{author}"],"kinds":[1]}}"##), 1 + 2),
        (format!(r##"{{"#t":["{long}","short"]}}"##), 1 + 2 + 3),
        // It matches nothing, so it is never a candidate.
        (r#"{"kinds":[]}"#.to_owned(), 1),
    ];
    for (at, (filter, values)) in filters.iter().enumerate() {
        assert_eq!(charged(&mut relay, conn, &at.to_string(), filter), Some(*values), "{filter}");
    }
    relay.disconnect(conn);
    assert_eq!(relay.metrics().filter_values, 0);

    // A COUNT is never a candidate.
    let conn = connect(&mut relay);
    relay.handle_text(Now::from_seconds(T), conn, br#"["COUNT","all",{}]"#);
    assert_eq!(relay.metrics().filter_values, 1);
}

#[test]
fn one_connection_may_have_a_hundredth_of_the_filters_that_are_candidates_of_every_event() {
    let mut relay = relay(Limits { filters_max: 1_000, ..Limits::default() });
    let conn = connect(&mut relay);
    let all = |filters: usize| vec!["{}"; filters].join(",");
    assert_eq!(charged(&mut relay, conn, "many", &all(100)), None, "100,100 values");
    assert_eq!(charged(&mut relay, conn, "many", &all(99)), Some(99 * 1_001));
    assert_eq!(charged(&mut relay, conn, "one more", "{}"), None);
    // So an event has no more candidates than that.
    assert_eq!(candidates(&mut relay, T, &ephemeral(T)), 99);
}

#[test]
fn four_feeds_of_every_event_fit_however_much_others_hold() {
    // Half of the shard's values are in use, by connections with 99 each.
    let mut relay =
        relay(Limits { shard_values_max: 1_000_000, connection_values_max: 10_000, ..Limits::default() });
    // A filter without conditions is charged 100, one with a kind 10.
    while relay.metrics().filter_values < 490_000 {
        let conn = connect(&mut relay);
        assert!(charged(&mut relay, conn, "few", &["{}"; 4].join(",")).is_some());
    }
    let (large, ordinary) = (connect(&mut relay), connect(&mut relay));
    assert_eq!(charged(&mut relay, large, "many", &["{}"; 50].join(",")), None);
    for feed in ["1", "2", "3", "4"] {
        assert_eq!(charged(&mut relay, ordinary, feed, "{}"), Some(101));
    }
}
