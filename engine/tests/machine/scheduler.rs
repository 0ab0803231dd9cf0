//! Fairness: turns are shared by client address, not by request or connection.

use std::collections::BTreeMap;
use std::sync::Arc;

use relay_engine::relay::{ClientInfo, Config, ConnId, Relay};
use relay_engine::store::MemoryBackend;
use relay_engine::testing::signing::{event, key};
use relay_engine::testing::{drained, settle};
use relay_engine::types::{ClientAddress, Limits, Now};
use relay_engine::verify::Libsecp256k1;

const NOW: Now = Now::from_seconds(1_700_000_000);
const ATTACKER: ClientAddress = ClientAddress::V4([192, 0, 2, 1]);
const HONEST: ClientAddress = ClientAddress::V4([192, 0, 2, 2]);
/// Events of each of the two authors.
const EVENTS: u64 = 1_000;

type Machine = Relay<MemoryBackend>;

fn new_relay(limits: Limits) -> Machine {
    let config = Config { limits, ..Config::default() };
    Relay::new(Arc::new(config), MemoryBackend::default(), Arc::new(Libsecp256k1), [1; 32])
}

/// Events of two authors; only those of the first have the tag value `x`.
fn filled_relay(step_cost_max: usize) -> Machine {
    let mut relay = new_relay(Limits { step_cost_max, ..Limits::default() });
    fill(&mut relay);
    relay
}

fn fill(relay: &mut Machine) {
    // The relay's own clients have no address.
    let publisher = relay.connect(NOW, ClientInfo::default()).expect("a connection is free");
    for n in 0..EVENTS {
        let tagged = event(&key(1)).at(NOW.seconds() - n).tag(["t", "x"]).sign();
        let bare = event(&key(2)).at(NOW.seconds() - n).sign();
        for event in [tagged, bare] {
            relay.handle_text(NOW, publisher, format!(r#"["EVENT",{}]"#, event.json()).as_bytes());
        }
    }
    settle(relay, NOW);
    relay.disconnect(publisher);
}

fn connect(relay: &mut Machine, address: ClientAddress) -> ConnId {
    relay
        .connect(NOW, ClientInfo { address: Some(address), ..ClientInfo::default() })
        .expect("a connection is free")
}

/// A filter that costs a thousand without a match: neither its author nor its tag is rare.
fn fruitless() -> String {
    format!(r##"{{"authors":["{}"],"#t":["x"]}}"##, key(2).hex())
}

/// Steps until the connection has output.
fn steps_until_answered(relay: &mut Machine, conn: ConnId) -> usize {
    (1..100_000)
        .find(|_| {
            relay.work(NOW);
            !drained(relay, conn).is_empty()
        })
        .expect("it is answered")
}

/// Sends the same request on each connection, as many as it may have, and runs their first steps.
fn attack(relay: &mut Machine, conns: &[ConnId], verb: &str, each: usize, filter: &str) {
    for n in 0..each {
        for conn in conns {
            relay.handle_text(NOW, *conn, format!(r#"["{verb}","{n}",{filter}]"#).as_bytes());
        }
    }
    // Four of five turns are first steps.
    for _ in 0..2 * each * conns.len() {
        relay.work(NOW);
    }
}

/// Regression: each step of an honest client's request waited for a step of each of 1,240 scans.
#[test]
fn scans_on_forty_connections_delay_no_other_client() {
    let mut relay = filled_relay(10);
    let attackers: Vec<ConnId> = (0..40).map(|_| connect(&mut relay, ATTACKER)).collect();
    attack(&mut relay, &attackers, "REQ", 31, &fruitless());
    let honest = connect(&mut relay, HONEST);
    for id in ["a", "b"] {
        relay.handle_text(NOW, honest, format!(r#"["REQ","{id}",{{"kinds":[7]}}]"#).as_bytes());
        let steps = steps_until_answered(&mut relay, honest);
        assert!(steps <= 3, "{steps}");
    }
    // Alone it takes about twenty steps; now every other step is its own.
    relay.handle_text(NOW, honest, br#"["REQ","c",{"kinds":[1],"limit":100}]"#);
    let mut frames = Vec::new();
    for _ in 0..60 {
        relay.work(NOW);
        frames.extend(drained(&mut relay, honest));
    }
    assert_eq!(frames.len(), 101, "{:?}", frames.last());
    assert!(relay.work(NOW), "the attack goes on");
}

#[test]
fn counts_on_forty_connections_delay_no_other_client() {
    let mut relay = filled_relay(10);
    let attackers: Vec<ConnId> = (0..40).map(|_| connect(&mut relay, ATTACKER)).collect();
    attack(&mut relay, &attackers, "COUNT", 16, &fruitless());
    let honest = connect(&mut relay, HONEST);
    for verb in ["REQ", "COUNT"] {
        relay.handle_text(NOW, honest, format!(r#"["{verb}","a",{{"kinds":[7]}}]"#).as_bytes());
        let steps = steps_until_answered(&mut relay, honest);
        assert!(steps <= 3, "{steps}");
    }
    assert!(relay.work(NOW), "the attack goes on");
}

/// First steps have priority, but not always.
#[test]
fn a_stream_of_new_requests_does_not_stop_a_scan() {
    let mut relay = filled_relay(10);
    let honest = connect(&mut relay, HONEST);
    relay.handle_text(NOW, honest, br#"["REQ","all",{"kinds":[1],"limit":100}]"#);
    relay.work(NOW);
    let attackers: Vec<ConnId> = (0..10).map(|_| connect(&mut relay, ATTACKER)).collect();
    let mut frames = drained(&mut relay, honest);
    let mut steps = 0;
    while !frames.iter().any(|frame| frame.starts_with(r#"["EOSE""#)) {
        for conn in &attackers {
            relay.handle_text(NOW, *conn, br#"["REQ","new",{"kinds":[7]}]"#);
            drained(&mut relay, *conn);
        }
        relay.work(NOW);
        steps += 1;
        frames.extend(drained(&mut relay, honest));
        assert!(steps < 150, "some twenty steps of the scan, one in five");
    }
    assert_eq!(frames.len(), 101);
}

#[test]
fn an_address_gets_the_same_from_one_connection_as_from_thirty() {
    let mut relay = filled_relay(10);
    let many: Vec<ConnId> = (0..30).map(|_| connect(&mut relay, ATTACKER)).collect();
    let one = connect(&mut relay, HONEST);
    for conn in many.iter().chain([&one]) {
        relay.handle_text(NOW, *conn, br#"["REQ","all",{"kinds":[1],"limit":2000}]"#);
    }
    let mut served = (0, 0);
    for _ in 0..500 {
        relay.work(NOW);
        served.0 += many.iter().map(|conn| drained(&mut relay, *conn).len()).sum::<usize>();
        served.1 += drained(&mut relay, one).len();
    }
    let (most, least) = (served.0.max(served.1), served.0.min(served.1));
    assert!(least > 1_000 && most * 2 < least * 3, "{served:?}");
}

/// Regression: each query of a closed connection took another turn before it was dropped.
#[test]
fn queries_of_closed_connections_take_no_turns() {
    let mut relay = filled_relay(10);
    let attackers: Vec<ConnId> = (0..40).map(|_| connect(&mut relay, ATTACKER)).collect();
    attack(&mut relay, &attackers, "REQ", 31, &fruitless());
    attackers.into_iter().for_each(|conn| relay.disconnect(conn));
    assert!(!relay.has_work());
}

/// How many of these are being answered: they have been sent something, and not all.
fn under_way(relay: &mut Machine, frames: &mut BTreeMap<ConnId, Vec<String>>) -> usize {
    for (conn, frames) in frames.iter_mut() {
        frames.extend(drained(relay, *conn));
    }
    let ended = |frames: &Vec<String>| frames.iter().any(|frame| frame.starts_with(r#"["EOSE""#));
    frames.values().filter(|frames| !frames.is_empty() && !ended(frames)).count()
}

/// Regression: scans hold cursors from their first step on; an address had as many as its connections could ask for.
#[test]
fn scans_of_an_address_are_limited_and_the_others_wait() {
    let mut relay = new_relay(Limits { step_cost_max: 10, address_queries_max: 5, ..Limits::default() });
    fill(&mut relay);
    let mut attackers: BTreeMap<ConnId, Vec<String>> =
        (0..30).map(|_| (connect(&mut relay, ATTACKER), Vec::new())).collect();
    for conn in attackers.keys() {
        relay.handle_text(NOW, *conn, br#"["REQ","all",{"kinds":[1],"limit":100}]"#);
    }
    let mut most = 0;
    for _ in 0..100 {
        relay.work(NOW);
        most = most.max(under_way(&mut relay, &mut attackers));
    }
    assert_eq!(most, 5);
    // Another address does not wait for them, nor do clients that have none.
    let honest = connect(&mut relay, HONEST);
    relay.handle_text(NOW, honest, br#"["REQ","a",{"kinds":[7]}]"#);
    assert!(steps_until_answered(&mut relay, honest) <= 3);
    let mut exempt: BTreeMap<ConnId, Vec<String>> =
        (0..30).map(|_| (relay.connect(NOW, ClientInfo::default()).unwrap(), Vec::new())).collect();
    for conn in exempt.keys() {
        relay.handle_text(NOW, *conn, br#"["REQ","all",{"kinds":[1],"limit":100}]"#);
    }
    for _ in 0..60 {
        relay.work(NOW);
    }
    assert!(under_way(&mut relay, &mut exempt) > 20);
    // A client that leaves holds nothing up though it waits, and all are answered in the end.
    let (first, _) = attackers.pop_first().unwrap();
    relay.disconnect(first);
    while relay.work(NOW) {
        assert!(under_way(&mut relay, &mut attackers) <= 5);
    }
    under_way(&mut relay, &mut attackers);
    assert!(attackers.values().all(|frames| frames.len() == 101));
}
