//! Limits of what one connection can make the machine store: when one is reached, the host stops reading from it.

use std::sync::Arc;

use relay_engine::relay::{ClientInfo, Config, ConnId, Relay, commit};
use relay_engine::store::MemoryBackend;
use relay_engine::testing::signing::{event, key};
use relay_engine::testing::{drained, settle};
use relay_engine::types::{Limits, Now};
use relay_engine::verify::Libsecp256k1;

const NOW: Now = Now::from_seconds(1_700_000_000);

fn relay(limits: Limits) -> (Relay<MemoryBackend>, ConnId) {
    let config = Config { limits, ..Config::default() };
    let mut relay = Relay::new(Arc::new(config), MemoryBackend::default(), Arc::new(Libsecp256k1), [1; 32]);
    let conn = relay.connect(NOW, ClientInfo::default()).expect("a connection is free");
    (relay, conn)
}

/// Sends `text` until the machine wants no more input; returns how often it was sent.
fn sent_until_full(relay: &mut Relay<MemoryBackend>, conn: ConnId, text: &str) -> usize {
    (1..=1_000)
        .find(|_| {
            relay.handle_text(NOW, conn, text.as_bytes());
            !relay.wants_input(conn)
        })
        .expect("it has had enough")
}

/// Regression: copies of an event in flight were not counted, so reading never stopped.
#[test]
fn copies_of_an_event_in_flight_count() {
    // One connection may fill half.
    let (mut relay, conn) = relay(Limits { in_flight_events_max: 10, ..Limits::default() });
    let message = format!(r#"["EVENT",{}]"#, event(&key(1)).at(NOW.seconds()).sign().json());
    assert_eq!(sent_until_full(&mut relay, conn, &message), 5);
    let batch = relay.poll_verify(NOW, true).expect("a batch");
    assert_eq!(batch.len(), 1);
    relay.handle_verified(NOW, batch.verify(&Libsecp256k1));
    let changes = relay.poll_commit().expect("a commit");
    let reply = commit(relay.store(), NOW, vec![changes]).replies.pop().expect("a reply");
    relay.handle_committed(NOW, reply);
    assert_eq!(relay.poll_input_resumed(), Some(conn));
    let oks = drained(&mut relay, conn);
    let oks: Vec<_> = oks.iter().filter(|frame| frame.starts_with(r#"["OK""#)).collect();
    assert_eq!(oks.len(), 5);
    assert_eq!(oks.iter().filter(|ok| ok.ends_with(r#",true,""]"#)).count(), 1, "{oks:?}");
}

#[test]
fn bytes_in_flight_count() {
    let (mut relay, conn) = relay(Limits { in_flight_bytes_max: 20_000, ..Limits::default() });
    let mut serial = 0;
    let sent = (1..100).find(|_| {
        serial += 1;
        let event = event(&key(1)).at(NOW.seconds() - serial).content("x".repeat(3_000)).sign();
        relay.handle_text(NOW, conn, format!(r#"["EVENT",{}]"#, event.json()).as_bytes());
        !relay.wants_input(conn)
    });
    assert_eq!(sent, Some(3), "three are more than 9,000 bytes of content");
}

/// Regression: each REQ took its first step when it was read, so that many REQs in one read blocked a shard for seconds.
#[test]
fn a_connection_may_have_few_requests_that_wait_for_their_turn() {
    let limits = Limits { deferred_messages_max: 10, ..Limits::default() };
    let (mut relay, conn) = relay(limits);
    assert_eq!(sent_until_full(&mut relay, conn, r#"["REQ","same",{"kinds":[1]}]"#), 11);
    assert!(drained(&mut relay, conn).is_empty(), "no step yet");
    while relay.work(NOW) {}
    assert_eq!(relay.poll_input_resumed(), Some(conn));
    let answers = drained(&mut relay, conn);
    assert_eq!(answers, vec![r#"["EOSE","same"]"#; 11]);
}

/// Regression: a REQ of 380 KB that waited was parsed again after each step of the one before it.
#[test]
fn a_message_that_waits_is_parsed_once() {
    let (mut relay, conn) = relay(Limits::default());
    let values = vec!["\"a value\""; 10_000].join(",");
    let mut sent = 0;
    for serial in 0..5 {
        let text = format!(r##"["REQ","{serial}",{{"#t":[{values}]}}]"##);
        relay.handle_text(NOW, conn, text.as_bytes());
        sent += text.len() as u64;
    }
    assert_eq!(relay.metrics().bytes_parsed, sent / 5, "the others wait as they came");
    assert_eq!(relay.metrics().deferred_bytes, sent * 4 / 5);
    for answered in 1..=5 {
        relay.work(NOW);
        assert_eq!(relay.metrics().bytes_parsed, sent * 5.min(answered + 1) / 5);
    }
    assert_eq!(relay.metrics().deferred_bytes, 0);
    assert_eq!(drained(&mut relay, conn).len(), 5);
}

/// Regression: each connection could have megabytes waiting, and ten thousand of them had no bound together.
#[test]
fn messages_that_wait_have_a_bound_together() {
    const BYTES_MAX: usize = 1_000_000;
    let (mut relay, first) = relay(Limits { deferred_bytes_max: BYTES_MAX, ..Limits::default() });
    let connect = |relay: &mut Relay<MemoryBackend>| {
        relay.connect(NOW, ClientInfo::default()).expect("a connection is free")
    };
    let values = vec!["\"a value\""; 100].join(",");
    let text = format!(r##"["REQ","sub",{{"#t":[{values}]}}]"##);
    let mut conns = vec![first];
    conns.extend((1..10).map(|_| connect(&mut relay)));
    let mut sent: Vec<usize> = conns.iter().map(|conn| sent_until_full(&mut relay, *conn, &text)).collect();
    assert!(sent.is_sorted_by(|before, after| before >= after), "the less is left: {sent:?}");
    let waiting = relay.metrics().deferred_bytes as usize;
    assert!((BYTES_MAX * 8 / 10..BYTES_MAX).contains(&waiting), "{waiting}");

    // One that has a little to say is read, and so is one that has less waiting than others.
    let modest = connect(&mut relay);
    for _ in 0..3 {
        relay.handle_text(NOW, modest, br#"["REQ","sub",{"kinds":[1]}]"#);
        assert!(relay.wants_input(modest));
    }
    // However many come, no more than that is kept.
    for _ in 0..100 {
        let conn = connect(&mut relay);
        sent.push(sent_until_full(&mut relay, conn, &text));
        conns.push(conn);
    }
    let waiting = relay.metrics().deferred_bytes as usize;
    assert!(waiting < BYTES_MAX + text.len(), "{waiting}");
    assert_eq!(sent.last(), Some(&1), "and one is always heard");
    relay.disconnect(first);
    assert!(relay.metrics().deferred_bytes < waiting as u64);

    while relay.work(NOW) {}
    assert_eq!(relay.metrics().deferred_bytes, 0);
    let resumed: Vec<_> = std::iter::from_fn(|| relay.poll_input_resumed()).collect();
    for (conn, sent) in conns.into_iter().zip(sent).skip(1) {
        assert!(resumed.contains(&conn), "it is read on");
        assert_eq!(drained(&mut relay, conn).len(), sent, "and everything is answered");
    }
}

/// The number of requests with many steps of a connection is limited too: the next waits until one of them is done.
#[test]
fn long_requests_of_a_connection_are_limited() {
    let (mut relay, conn) = relay(Limits { step_cost_max: 1, ..Limits::default() });
    for serial in 0..200 {
        let event = event(&key(1)).at(NOW.seconds() - serial).sign();
        relay.handle_text(NOW, conn, format!(r#"["EVENT",{}]"#, event.json()).as_bytes());
    }
    settle(&mut relay, NOW);
    let begun = (0..100).find(|serial| {
        let text = format!(r#"["REQ","{serial}",{{"kinds":[1]}}]"#);
        relay.handle_text(NOW, conn, text.as_bytes());
        // A round in which each takes a step.
        for _ in 0..=*serial {
            relay.work(NOW);
        }
        !relay.wants_input(conn)
    });
    assert_eq!(begun, Some(31), "the thirty-second is one too many");
    while relay.work(NOW) || relay.has_work() {
        drained(&mut relay, conn);
    }
    assert_eq!(relay.poll_input_resumed(), Some(conn));
}

/// A REQ or COUNT with this many values; the answer if it is refused.
fn ask(
    relay: &mut Relay<MemoryBackend>,
    conn: ConnId,
    verb: &str,
    id: &str,
    values: usize,
) -> Option<String> {
    // The filter itself counts as a value. No kind is guarded.
    let kinds: Vec<String> = (2_000..1_999 + values).map(|kind| kind.to_string()).collect();
    let text = format!(r#"["{verb}","{id}",{{"kinds":[{}]}}]"#, kinds.join(","));
    relay.handle_text(NOW, conn, text.as_bytes());
    if verb == "REQ" {
        while relay.work(NOW) {}
    }
    drained(relay, conn).into_iter().find(|frame| frame.starts_with(r#"["CLOSED""#))
}

#[test]
fn values_of_all_filters_have_a_bound_that_leaves_room_for_small_ones() {
    let (mut relay, first) = relay(Limits { shard_values_max: 12_000, ..Limits::default() });
    let join = |relay: &mut Relay<MemoryBackend>| {
        relay.connect(NOW, ClientInfo::default()).expect("a connection is free")
    };
    let second = join(&mut relay);
    let refusal = |id: &str, free: usize| {
        let message = match free {
            0 => "blocked: this relay is busy; try again later".to_owned(),
            _ => format!(
                "blocked: this relay is busy; for now, a request may name up to {free} ids, authors, kinds and tag values together"
            ),
        };
        Some(format!(r#"["CLOSED","{id}","{message}"]"#))
    };
    // One connection may have a third of the free half.
    assert_eq!(ask(&mut relay, first, "REQ", "a", 2_001), refusal("a", 2_000));
    assert_eq!(ask(&mut relay, first, "REQ", "a", 2_000), None);
    assert_eq!(ask(&mut relay, second, "REQ", "b", 1_334), refusal("b", 1_333));
    assert_eq!(ask(&mut relay, second, "REQ", "b", 1_333), None);
    // A replacement of the same size needs no room; a larger one is refused, and the replaced subscription has ended.
    assert_eq!(ask(&mut relay, first, "REQ", "a", 2_000), None);
    assert_eq!(relay.metrics().filter_values, 3_333);
    assert_eq!(ask(&mut relay, first, "REQ", "a", 2_001), refusal("a", 1_555));
    assert_eq!(relay.metrics().filter_values, 1_333);
    // Connections with few values are accepted up to the limit.
    let small: Vec<ConnId> = (0..21).map(|_| join(&mut relay)).collect();
    for conn in &small {
        assert_eq!(ask(&mut relay, *conn, "REQ", "c", 500), None);
    }
    assert_eq!(ask(&mut relay, first, "REQ", "d", 168), refusal("d", 167));
    assert_eq!(ask(&mut relay, first, "COUNT", "d", 167), None);
    assert_eq!(ask(&mut relay, second, "REQ", "e", 2), refusal("e", 0), "one COUNT holds the rest");
    while relay.work(NOW) {}
    assert_eq!(ask(&mut relay, small[0], "REQ", "e", 2), refusal("e", 0), "it holds 500");
    assert_eq!(ask(&mut relay, first, "REQ", "e", 167), None);
    // A connection that closes frees its values, also during a COUNT.
    relay.disconnect(small[0]);
    assert_eq!(ask(&mut relay, first, "COUNT", "f", 300), None);
    relay.disconnect(first);
    relay.disconnect(second);
    small[1..].iter().for_each(|conn| relay.disconnect(*conn));
    assert_eq!(relay.metrics().filter_values, 0);
    let last = join(&mut relay);
    assert_eq!(ask(&mut relay, last, "REQ", "a", 2_000), None);
}

/// Regression: scans of ended subscriptions, with their filters, stayed in memory until the reader caught up, and were not
/// counted.
#[test]
fn replaced_scans_of_a_slow_reader_are_let_go() {
    let (mut relay, conn) = relay(Limits { outbox_pause_bytes: 4_000, ..Limits::default() });
    for serial in 0..40 {
        let note = event(&key(1)).at(NOW.seconds() - serial).content("x".repeat(1_000)).sign();
        relay.handle_text(NOW, conn, format!(r#"["EVENT",{}]"#, note.json()).as_bytes());
    }
    settle(&mut relay, NOW);
    drained(&mut relay, conn);
    let steps =
        |relay: &mut Relay<MemoryBackend>| (1..1_000).find(|_| !relay.work(NOW)).expect("it comes to rest");
    for _ in 0..100 {
        relay.handle_text(NOW, conn, br#"["REQ","all",{"kinds":[1]}]"#);
        steps(&mut relay);
        // The client reads enough for the next REQ to be read, but not enough for the scan to continue.
        relay.drain(conn, 1, &mut |_| {});
    }
    relay.handle_text(NOW, conn, br#"["CLOSE","all"]"#);
    drained(&mut relay, conn);
    assert_eq!(steps(&mut relay), 1, "nothing is left of a hundred scans");
}

/// Regression: sixty events with ten thousand tags each were written in one transaction, which needs more memory than a Durable
/// Object has.
#[test]
fn a_commit_ends_at_a_mebibyte() {
    let limits = Limits {
        event_bytes_max: 1 << 20,
        message_bytes_max: 2 << 20,
        content_chars_max: 1 << 20,
        ..Limits::default()
    };
    let (mut relay, conn) = relay(limits);
    for n in 0..10 {
        let note = event(&key(1)).at(NOW.seconds() - n).content("x".repeat(300_000)).sign();
        relay.handle_text(NOW, conn, format!(r#"["EVENT",{}]"#, note.json()).as_bytes());
    }
    let batch = relay.poll_verify(NOW, true).expect("a batch");
    assert_eq!(batch.len(), 10);
    relay.handle_verified(NOW, batch.verify(&Libsecp256k1));
    let mut lens = Vec::new();
    while let Some(changes) = relay.poll_commit() {
        lens.push(changes.len());
        for reply in commit(relay.store(), NOW, vec![changes]).replies {
            relay.handle_committed(NOW, reply);
        }
    }
    assert_eq!(lens, [4, 4, 2]);
    let oks = drained(&mut relay, conn);
    assert_eq!(oks.iter().filter(|frame| frame.ends_with(r#",true,""]"#)).count(), 10, "{oks:?}");
}

/// Regression: what a closed connection had waiting was never taken off the total, and at last no connection was read that had to
/// wait.
#[test]
fn a_closed_connection_gives_back_what_it_had_waiting() {
    let (mut relay, conn) = relay(Limits { malformed_messages_max: 3, ..Limits::default() });
    relay.handle_text(NOW, conn, br#"["REQ","a",{"kinds":[1]}]"#);
    relay.handle_text(NOW, conn, br#"["REQ","b",{"kinds":[1]}]"#);
    assert!(relay.metrics().deferred_bytes > 0);
    (0..3).for_each(|_| relay.handle_binary(conn));
    assert_eq!(relay.metrics().deferred_bytes, 0);
    relay.disconnect(conn);
    assert_eq!(relay.metrics().deferred_bytes, 0);
}
