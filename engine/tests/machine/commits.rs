//! Commits: how much is written at once, and whose events wait for whose.

use std::sync::Arc;

use relay_engine::relay::{ClientInfo, Commit, Config, ConnId, Relay, commit};
use relay_engine::store::MemoryBackend;
use relay_engine::testing::drained;
use relay_engine::testing::signing::{event, key};
use relay_engine::types::{ClientAddress, Limits, Now};
use relay_engine::verify::Libsecp256k1;

const NOW: Now = Now::from_seconds(1_700_000_000);
const ATTACKER: ClientAddress = ClientAddress::V4([192, 0, 2, 1]);
const HONEST: ClientAddress = ClientAddress::V4([192, 0, 2, 2]);

type Machine = Relay<MemoryBackend>;

fn new_relay(limits: Limits) -> Machine {
    let config = Config { limits, ..Config::default() };
    Relay::new(Arc::new(config), MemoryBackend::default(), Arc::new(Libsecp256k1), [1; 32])
}

fn connect(relay: &mut Machine, address: ClientAddress) -> ConnId {
    relay
        .connect(NOW, ClientInfo { address: Some(address), ..ClientInfo::default() })
        .expect("a connection is free")
}

/// Sends an event with `tags` tags; `serial` makes it a different one.
fn send(relay: &mut Machine, conn: ConnId, serial: u64, tags: usize) {
    let note = event(&key(1)).at(NOW.seconds() - serial);
    let note = (0..tags).fold(note, |note, tag| note.tag(["t", &tag.to_string()])).sign();
    relay.handle_text(NOW, conn, format!(r#"["EVENT",{}]"#, note.json()).as_bytes());
}

fn verify(relay: &mut Machine) {
    while let Some(batch) = relay.poll_verify(NOW, true) {
        relay.handle_verified(NOW, batch.verify(&Libsecp256k1));
    }
}

fn carry_out(relay: &mut Machine, changes: Commit) {
    for reply in commit(relay.store(), NOW, vec![changes]).replies {
        relay.handle_committed(NOW, reply);
    }
}

fn accepted(relay: &mut Machine, conn: ConnId) -> usize {
    drained(relay, conn).iter().filter(|frame| frame.ends_with(r#",true,""]"#)).count()
}

/// Short tags make a mebibyte of events a hundred thousand keys, and a transaction that takes a second.
#[test]
fn a_commit_ends_by_its_keys() {
    let mut relay = new_relay(Limits::default());
    let conn = connect(&mut relay, ATTACKER);
    (0..20).for_each(|serial| send(&mut relay, conn, serial, 2_000));
    verify(&mut relay);
    let mut lens = Vec::new();
    while let Some(changes) = relay.poll_commit() {
        assert!(changes.cost() < 16_384 + 2_500, "{}", changes.cost());
        lens.push(changes.len());
        carry_out(&mut relay, changes);
    }
    assert_eq!(lens.iter().sum::<usize>(), 20);
    assert_eq!(accepted(&mut relay, conn), 20);
    assert!(lens.iter().all(|len| *len <= 8), "{lens:?}");
}

/// Regression: everything verified went to the writer at once, so that an honest event was written after all that others had
/// sent.
#[test]
fn a_shard_has_two_commits_under_way() {
    let mut relay = new_relay(Limits::default());
    let conn = connect(&mut relay, ATTACKER);
    (0..40).for_each(|serial| send(&mut relay, conn, serial, 2_000));
    verify(&mut relay);
    let mut waiting: Vec<Commit> = std::iter::from_fn(|| relay.poll_commit()).collect();
    assert_eq!(waiting.len(), 2);
    carry_out(&mut relay, waiting.remove(0));
    assert!(relay.poll_commit().is_some());
    assert!(relay.poll_commit().is_none());
}

#[test]
fn the_next_commit_has_something_of_everybody() {
    let mut relay = new_relay(Limits::default());
    let attackers: Vec<_> = (0..10).map(|_| connect(&mut relay, ATTACKER)).collect();
    for serial in 0..60 {
        send(&mut relay, attackers[serial as usize % 10], serial, 2_000);
    }
    let honest = connect(&mut relay, HONEST);
    (100..103).for_each(|serial| send(&mut relay, honest, serial, 3));
    verify(&mut relay);
    let first = relay.poll_commit().expect("a commit");
    carry_out(&mut relay, first);
    assert_eq!(accepted(&mut relay, honest), 3, "in their order, before what costs more");
    // And what was left is written in the order of each connection.
    while let Some(changes) = relay.poll_commit() {
        carry_out(&mut relay, changes);
    }
    for conn in attackers {
        assert_eq!(accepted(&mut relay, conn), 6);
    }
}

/// Regression: ten connections had all of what may be in flight, and others waited for one of their events to be written.
#[test]
fn who_has_few_events_in_flight_is_read() {
    let limits = Limits { in_flight_events_max: 1_024, ..Limits::default() };
    let mut relay = new_relay(limits);
    let flooding = connect(&mut relay, ATTACKER);
    let sent = (0..2_000)
        .find(|serial| {
            send(&mut relay, flooding, *serial, 0);
            !relay.wants_input(flooding)
        })
        .expect("it has had enough");
    assert_eq!(sent + 1, 512, "half of what may be in flight");
    let honest = connect(&mut relay, HONEST);
    assert!(relay.wants_input(honest));
    send(&mut relay, honest, 5_000, 0);
    assert!(relay.wants_input(honest));
    verify(&mut relay);
    while let Some(changes) = relay.poll_commit() {
        carry_out(&mut relay, changes);
    }
    assert_eq!(relay.poll_input_resumed(), Some(flooding));
    assert_eq!(accepted(&mut relay, flooding), 512);
}

/// Regression: an event of many tags came after all that cost less, and waited as long as enough addresses sent such.
#[test]
fn the_oldest_event_is_in_the_next_commit() {
    let mut relay = new_relay(Limits::default());
    let honest = connect(&mut relay, HONEST);
    send(&mut relay, honest, 0, 2_400);
    for host in 10..30 {
        let conn = connect(&mut relay, ClientAddress::V4([192, 0, 2, host]));
        (0..2).for_each(|serial| send(&mut relay, conn, 1_000 * u64::from(host) + serial, 1_000));
    }
    verify(&mut relay);
    let first = relay.poll_commit().expect("a commit");
    carry_out(&mut relay, first);
    assert_eq!(accepted(&mut relay, honest), 1);
}
