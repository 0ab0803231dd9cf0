//! The client that costs the most is named first, by the work it causes and not by how much it sends.

use std::sync::Arc;

use relay_engine::relay::{ClientInfo, Config, ConnId, Relay, TopCosts};
use relay_engine::store::MemoryBackend;
use relay_engine::testing::signing::{Signed, event, key};
use relay_engine::testing::{drained, settle};
use relay_engine::types::{ClientAddress, Now, PubKey};
use relay_engine::verify::Libsecp256k1;

const NOW: Now = Now::from_seconds(1_700_000_040);
const ATTACKER: ClientAddress = ClientAddress::V4([192, 0, 2, 1]);
const TALKATIVE: ClientAddress = ClientAddress::V4([192, 0, 2, 2]);
const HONEST: ClientAddress = ClientAddress::V4([192, 0, 2, 3]);

type Machine = Relay<MemoryBackend>;

fn new_relay() -> Machine {
    let config = Arc::new(Config::default());
    Relay::new(config, MemoryBackend::default(), Arc::new(Libsecp256k1), [1; 32])
}

fn connect(relay: &mut Machine, address: Option<ClientAddress>) -> ConnId {
    relay.connect(NOW, ClientInfo { address, ..ClientInfo::default() }).expect("a connection is free")
}

fn publish(relay: &mut Machine, conn: ConnId, event: &Signed) {
    relay.handle_text(NOW, conn, format!(r#"["EVENT",{}]"#, event.json()).as_bytes());
    settle(relay, NOW);
}

fn named(relay: &Machine) -> (Vec<ClientAddress>, Vec<PubKey>) {
    let TopCosts { addresses, authors } = TopCosts::of_all([&relay.costliest(NOW)]);
    (addresses.iter().map(|(who, _)| *who).collect(), authors.iter().map(|(who, _)| *who).collect())
}

/// A few requests of a hundred bytes each make a relay look at all that it has.
#[test]
fn work_counts_and_not_bytes() {
    let mut relay = new_relay();
    let host = connect(&mut relay, None);
    for n in 0..1_500 {
        publish(&mut relay, host, &event(&key(1)).at(NOW.seconds() - n).tag(["t", "x"]).sign());
        publish(&mut relay, host, &event(&key(2)).at(NOW.seconds() - n).sign());
    }
    assert_eq!(named(&relay).0, [], "exempt clients are not counted");
    let attackers: Vec<ConnId> = (0..4).map(|_| connect(&mut relay, Some(ATTACKER))).collect();
    for conn in &attackers {
        for n in 0..8 {
            let filter = format!(r##"{{"authors":["{}"],"#t":["x"]}}"##, key(2).hex());
            relay.handle_text(NOW, *conn, format!(r#"["REQ","{n}",{filter}]"#).as_bytes());
            while relay.work(NOW) {}
        }
    }
    let talkative = connect(&mut relay, Some(TALKATIVE));
    for _ in 0..40 {
        // Malformed, and long.
        relay.handle_text(NOW, talkative, "x".repeat(20_000).as_bytes());
    }
    let honest = connect(&mut relay, Some(HONEST));
    relay.handle_text(NOW, honest, br#"["REQ","a",{"limit":10}]"#);
    while relay.work(NOW) {}
    assert_eq!(drained(&mut relay, honest).len(), 11);
    assert_eq!(named(&relay).0, [ATTACKER, TALKATIVE, HONEST]);
    assert_eq!(named(&relay).0, [ATTACKER, TALKATIVE, HONEST], "looking changes nothing");
    let costs = relay.costliest(NOW).addresses;
    assert!(costs[0].1 > 32 * 1_500, "{costs:?}");
    // Some minutes later it is forgotten.
    assert_eq!(relay.costliest(NOW.plus_millis(60 * 60_000)), TopCosts::default());
}

/// An event of a few hundred bytes that is compared with, and sent to, every subscription.
#[test]
fn deliveries_are_costs_of_the_publisher() {
    let mut relay = new_relay();
    let reader = connect(&mut relay, Some(HONEST));
    for n in 0..200 {
        relay.handle_text(NOW, reader, format!(r#"["REQ","{n}",{{"kinds":[1,20001]}}]"#).as_bytes());
        while relay.work(NOW) {}
    }
    let cost_of = |relay: &Machine, address| {
        let costs = relay.costliest(NOW).addresses;
        costs.into_iter().find(|(own, _)| *own == address).map_or(0, |(_, cost)| cost)
    };
    let before = cost_of(&relay, HONEST);
    for (kind, address) in [(1, ATTACKER), (20_001, TALKATIVE)] {
        let conn = connect(&mut relay, Some(address));
        (0..50)
            .for_each(|n| publish(&mut relay, conn, &event(&key(1)).kind(kind).at(NOW.seconds() - n).sign()));
        let cost = cost_of(&relay, address);
        // A candidate and a delivery each, beside a cost of some sixty for the event itself.
        assert!((50 * 400..50 * 500).contains(&cost), "{cost}");
    }
    assert_eq!(cost_of(&relay, HONEST), before, "the reader has asked once");
}

/// Whoever forges events in another's name must not make it look like an abuser.
#[test]
fn authors_are_named_by_what_they_signed() {
    let mut relay = new_relay();
    let conn = connect(&mut relay, Some(HONEST));
    for n in 0..20 {
        let draft = event(&key(3)).at(NOW.seconds() - n).content("x".repeat(10_000));
        publish(&mut relay, conn, &draft.sign().forged());
        publish(&mut relay, conn, &event(&key(1)).at(NOW.seconds() - n).sign());
        publish(
            &mut relay,
            conn,
            &event(&key(2)).kind(20_001).at(NOW.seconds() - n).content("x".repeat(999)).sign(),
        );
    }
    let author = |n| PubKey(key(n).bytes());
    assert_eq!(named(&relay).1, [author(2), author(1)]);
}
