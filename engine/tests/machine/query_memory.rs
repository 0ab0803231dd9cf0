//! Running requests have a bound on what they hold: what is over it waits for its turn, and holds nothing while it waits.

use std::net::Ipv4Addr;
use std::sync::Arc;

use relay_engine::relay::{ClientInfo, Config, ConnId, Relay};
use relay_engine::store::MemoryBackend;
use relay_engine::testing::signing::{event, key};
use relay_engine::testing::{drained, settle};
use relay_engine::types::{ClientAddress, Limits, Now};
use relay_engine::verify::Libsecp256k1;

const NOW: Now = Now::from_seconds(1_700_000_000);
const BYTES_MAX: usize = 8 << 20;

type Machine = Relay<MemoryBackend>;

fn new_relay(limits: Limits) -> Machine {
    let config = Config { limits, ..Config::default() };
    Relay::new(Arc::new(config), MemoryBackend::default(), Arc::new(Libsecp256k1), [1; 32])
}

fn connect_from(relay: &mut Machine, host: u8) -> ConnId {
    let address = ClientAddress::from(std::net::IpAddr::V4(Ipv4Addr::new(192, 0, 2, host)));
    relay
        .connect(NOW, ClientInfo { address: Some(address), ..ClientInfo::default() })
        .expect("a connection is free")
}

/// A request for `values` tag values.
fn large(name: &str, id: usize, values: usize) -> String {
    let values: Vec<String> = (0..values).map(|n| format!("\"{n}\"")).collect();
    format!(r##"["{name}","{id}",{{"#t":[{}]}}]"##, values.join(","))
}

fn running(relay: &Machine) -> usize {
    relay.metrics().query_bytes as usize
}

/// Steps until a client has an answer, with what runs at most meanwhile.
fn steps_until_answered(relay: &mut Machine, conn: ConnId) -> usize {
    for step in 1..=100_000 {
        relay.work(NOW);
        assert!(running(relay) <= BYTES_MAX / 2 + (1 << 20), "{}", running(relay));
        if !drained(relay, conn).is_empty() {
            return step;
        }
    }
    panic!("no answer");
}

/// Regression: 8 connections with 16 requests of thousands of cursors each held all of them at once.
#[test]
fn wide_requests_wait_for_room_and_keep_nobody_from_it() {
    let mut relay = new_relay(Limits { step_cost_max: 100, query_bytes_max: BYTES_MAX, ..Limits::default() });
    let attackers: Vec<ConnId> = (0..8).map(|_| connect_from(&mut relay, 1)).collect();
    for conn in &attackers {
        for id in 0..16 {
            relay.handle_text(NOW, *conn, large("COUNT", id, 3_000).as_bytes());
        }
    }
    // A request may hold about a megabyte, and an address a quarter of eight.
    for _ in 0..200 {
        relay.work(NOW);
        assert!(running(&relay) <= BYTES_MAX / 4, "{}", running(&relay));
    }
    assert!(running(&relay) > BYTES_MAX / 8, "{}", running(&relay));

    // A client that asks for little has its turn after one of each other address; so has one that asks for much, and then
    // its own steps.
    let honest = connect_from(&mut relay, 2);
    relay.handle_text(NOW, honest, br#"["REQ","a",{"kinds":[1]}]"#);
    assert!(steps_until_answered(&mut relay, honest) <= 5);
    relay.handle_text(NOW, honest, large("COUNT", 0, 3_000).as_bytes());
    let steps = steps_until_answered(&mut relay, honest);
    assert!(steps <= 3 * 31, "{steps}");

    // Everything is answered, one whose client goes away apart, and nothing is held.
    relay.disconnect(attackers[0]);
    while relay.work(NOW) {}
    for conn in &attackers[1..] {
        assert_eq!(drained(&mut relay, *conn).len(), 16);
    }
    assert_eq!(running(&relay), 0);
}

/// No bound is too small for a request.
#[test]
fn one_request_always_fits() {
    let mut relay = new_relay(Limits { query_bytes_max: 1, ..Limits::default() });
    let conns: Vec<ConnId> = (0..4).map(|host| connect_from(&mut relay, host)).collect();
    for conn in &conns {
        relay.handle_text(NOW, *conn, large("REQ", 0, 5_000).as_bytes());
        relay.handle_text(NOW, *conn, large("COUNT", 1, 5_000).as_bytes());
        relay.handle_text(NOW, *conn, br#"["REQ","small",{"kinds":[1]}]"#);
    }
    while relay.work(NOW) {}
    for conn in conns {
        assert_eq!(drained(&mut relay, conn).len(), 3);
    }
    assert_eq!(running(&relay), 0);
}

/// Regression: a client that did not read kept its cursors for as long.
#[test]
fn a_scan_whose_reader_is_slow_holds_nothing() {
    let mut relay = new_relay(Limits { outbox_pause_bytes: 2_000, ..Limits::default() });
    let (publisher, reader) = (connect_from(&mut relay, 1), connect_from(&mut relay, 2));
    for n in 0..100_u64 {
        let note = event(&key(1)).at(NOW.seconds() - n).content(n.to_string()).tag(["t", &n.to_string()]);
        relay.handle_text(NOW, publisher, format!(r#"["EVENT",{}]"#, note.sign().json()).as_bytes());
    }
    settle(&mut relay, NOW);
    relay.handle_text(NOW, reader, large("REQ", 0, 500).as_bytes());
    let mut got = Vec::new();
    loop {
        while relay.work(NOW) {}
        assert_eq!(running(&relay), 0, "it waits for its reader, or is done");
        let came = drained(&mut relay, reader);
        if came.is_empty() {
            break;
        }
        assert!(came.len() <= 8, "{}", came.len());
        got.extend(came);
    }
    assert_eq!(got.len(), 101, "every event once, and EOSE");
    for (n, frame) in got[..100].iter().enumerate() {
        assert!(frame.contains(&format!(r#""content":"{n}""#)), "{frame}");
    }
}

/// Regression: when running requests had all the memory, no client's first step was taken until they were done, which took
/// minutes.
#[test]
fn small_requests_are_answered_while_all_memory_is_taken() {
    let bytes_max = 1 << 20;
    let mut relay = new_relay(Limits { step_cost_max: 20, query_bytes_max: bytes_max, ..Limits::default() });
    for host in 1..=8 {
        for _ in 0..4 {
            let conn = connect_from(&mut relay, host);
            for id in 0..8 {
                relay.handle_text(NOW, conn, large("COUNT", id, 600).as_bytes());
            }
        }
    }
    for _ in 0..1_000 {
        relay.work(NOW);
        assert!(running(&relay) <= bytes_max + (256 << 10), "a query more at most: {}", running(&relay));
    }
    let honest = connect_from(&mut relay, 200);
    relay.handle_text(NOW, honest, br#"["REQ","a",{"kinds":[1],"limit":1}]"#);
    let answered = (0..20).any(|_| {
        relay.work(NOW);
        !drained(&mut relay, honest).is_empty()
    });
    assert!(answered, "within a few turns");
    while relay.work(NOW) {}
    assert_eq!(running(&relay), 0);
}
