//! Reconciliations (NIP-77) in the machine: what collecting sets and answering costs, what is kept, and for how long.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::Arc;

use relay_engine::relay::{ClientInfo, Committed, Config, ConnId, Relay, commit};
use relay_engine::store::{self, MemoryBackend, Op};
use relay_engine::testing::signing::{Signed, event, key};
use relay_engine::testing::{drained, settle};
use relay_engine::types::{ClientAddress, EventId, Limits, Now};
use relay_engine::verify::{Batch, Libsecp256k1, Verdict};
use relay_engine::wire;

const NOW: Now = Now::from_seconds(1_700_000_000);
/// Asks for the ids of all events of the set, as a client does that has none.
const LIST: &str = "6100000200";

type Store = Arc<MemoryBackend>;
type Machine = Relay<Store>;

fn new_relay(store: &Store, limits: Limits) -> Machine {
    let config = Config { limits, ..Config::default() };
    Relay::new(Arc::new(config), Arc::clone(store), Arc::new(Libsecp256k1), [1; 32])
}

fn small_steps() -> Limits {
    Limits { step_cost_max: 100, ..Limits::default() }
}

fn connect(relay: &mut Machine, host: u8) -> ConnId {
    let address = ClientAddress::from(std::net::IpAddr::V4(Ipv4Addr::new(192, 0, 2, host)));
    relay
        .connect(NOW, ClientInfo { address: Some(address), ..ClientInfo::default() })
        .expect("a connection is free")
}

/// Nothing that was scanned before is kept: a reconciliation of nothing, much later.
fn forget_sets(relay: &mut Machine) {
    let later = NOW.plus_millis(11 * 60_000);
    let conn = connect(relay, 99);
    relay.handle_text(later, conn, br#"["NEG-OPEN","n",{"kinds":[9999]},"61"]"#);
    while relay.work(later) {}
    relay.disconnect(conn);
}

fn note(n: u64) -> Signed {
    event(&key(1 + n % 3)).at(NOW.seconds() - 1_000 - n % 100).content(n.to_string()).sign()
}

/// Stores events as another process does, of which the machine is not told.
fn store_silently(store: &Store, events: &[Signed]) {
    let mut batch = Batch::default();
    for event in events {
        let json = event.json();
        batch.push(wire::parse_event(json.as_bytes()).expect("an event").to_event(), ());
    }
    let verified = batch.verify(&Libsecp256k1).into_iter().map(|(verdict, ())| match verdict {
        Verdict::Valid(verified) => Op::Put(verified),
        _ => panic!("it is signed"),
    });
    let ops: Vec<Op> = verified.collect();
    store::commit(store, NOW.seconds(), &ops).expect("memory does not fail");
}

fn publish(relay: &mut Machine, conn: ConnId, event: &Signed) {
    relay.handle_text(NOW, conn, format!(r#"["EVENT",{}]"#, event.json()).as_bytes());
    settle(relay, NOW);
    assert!(drained(relay, conn).concat().contains("true"), "{}", event.json());
}

fn open(relay: &mut Machine, conn: ConnId, filter: &str, message: &str) {
    relay.handle_text(NOW, conn, format!(r#"["NEG-OPEN","n",{filter},"{message}"]"#).as_bytes());
}

/// Works until there is an answer: the frames, and how many turns that took.
fn answered(relay: &mut Machine, conn: ConnId) -> (String, usize) {
    for turns in 0..200_000 {
        let frames = drained(relay, conn);
        if !frames.is_empty() {
            return (frames.concat(), turns);
        }
        relay.work(NOW);
    }
    panic!("no answer");
}

/// The ids that an answer to [`LIST`] names, if all fit into it.
fn listed(frames: &str) -> BTreeSet<String> {
    let hex = frames.strip_prefix(r#"["NEG-MSG","n",""#).and_then(|rest| rest.strip_suffix(r#""]"#));
    let hex = hex.unwrap_or_else(|| panic!("{frames}"));
    let start = hex.len() % 64;
    (start..hex.len()).step_by(64).map(|at| hex[at..at + 64].to_owned()).collect()
}

fn ids<'a>(events: impl IntoIterator<Item = &'a Signed>) -> BTreeSet<String> {
    events.into_iter().map(|event| event.id.clone()).collect()
}

#[test]
fn a_set_that_is_kept_is_brought_up_to_date_without_a_scan() {
    let store = Store::default();
    let notes: Vec<Signed> = (0..1_500).map(note).collect();
    store_silently(&store, &notes);
    let mut relay = new_relay(&store, small_steps());
    let (first, second) = (connect(&mut relay, 1), connect(&mut relay, 2));
    open(&mut relay, first, "{}", LIST);
    let (frames, scan_turns) = answered(&mut relay, first);
    assert_eq!(listed(&frames), ids(&notes));
    assert!(scan_turns >= 15, "{scan_turns} turns for 1,500 events that cost one each");

    // The same set again, for another client.
    open(&mut relay, second, "{}", LIST);
    let (frames, turns) = answered(&mut relay, second);
    assert_eq!(listed(&frames), ids(&notes));
    assert!(turns <= 2, "{turns} turns");

    // With what was published, and without what that replaced or deleted.
    let profile = |at: u64| event(&key(9)).kind(0).at(at).sign();
    let (old, new) = (profile(NOW.seconds() - 9), profile(NOW.seconds() - 8));
    publish(&mut relay, first, &old);
    open(&mut relay, second, "{}", LIST);
    assert!(listed(&answered(&mut relay, second).0).contains(&old.id));
    publish(&mut relay, first, &new);
    let deletion = event(&key(1)).kind(5).at(NOW.seconds()).tag(["e", &notes[0].id]).sign();
    publish(&mut relay, first, &deletion);
    open(&mut relay, second, "{}", LIST);
    let (frames, turns) = answered(&mut relay, second);
    assert_eq!(listed(&frames), ids(notes[1..].iter().chain([&new, &deletion])));
    assert!(turns <= 2, "{turns} turns");
    // The first one's has not changed.
    relay.handle_text(NOW, first, format!(r#"["NEG-MSG","n","{LIST}"]"#).as_bytes());
    assert_eq!(listed(&answered(&mut relay, first).0), ids(&notes));

    // Other filters, and the same one after ten minutes, have scans of their own.
    open(&mut relay, second, r#"{"kinds":[1]}"#, LIST);
    assert!(answered(&mut relay, second).1 >= 15);
    let later = NOW.plus_millis(10 * 60 * 1_000);
    relay.handle_text(later, second, format!(r#"["NEG-OPEN","n",{{}},"{LIST}"]"#).as_bytes());
    let turns = (1..).find(|_| {
        relay.work(later);
        !drained(&mut relay, second).is_empty()
    });
    assert!(turns >= Some(15), "{turns:?}");
}

/// Regression: all events of a set that is kept expired in one second, and were taken out of it in one step.
#[test]
fn what_has_expired_is_taken_out_in_steps() {
    let store = Store::default();
    let expires_at = (NOW.seconds() + 10).to_string();
    let short_lived = (0..1_500).map(|n| event(&key(1)).at(NOW.seconds() - 1_000).content(n.to_string()));
    let short_lived: Vec<Signed> =
        short_lived.map(|event| event.tag(["expiration", &expires_at]).sign()).collect();
    let stays = note(1);
    store_silently(&store, &short_lived);
    store_silently(&store, std::slice::from_ref(&stays));
    let mut relay = new_relay(&store, small_steps());
    let conn = connect(&mut relay, 1);
    open(&mut relay, conn, "{}", LIST);
    assert_eq!(listed(&answered(&mut relay, conn).0), ids(short_lived.iter().chain([&stays])));
    let later = NOW.plus_millis(10_000);
    relay.handle_text(later, conn, format!(r#"["NEG-OPEN","n",{{}},"{LIST}"]"#).as_bytes());
    for turns in 1.. {
        relay.work(later);
        let frames = drained(&mut relay, conn);
        if !frames.is_empty() {
            assert_eq!(listed(&frames.concat()), ids([&stays]));
            assert!((15..25).contains(&turns), "{turns} turns of 100 for 1,500 events");
            break;
        }
    }
}

/// A commit that removes more than a step's worth from a set that is kept: the set is collected again, in steps.
#[test]
fn a_commit_that_removes_very_many_events_ends_a_kept_set() {
    for (removed, is_kept) in [(3, true), (200, false)] {
        let store = Store::default();
        let mut relay = new_relay(&store, small_steps());
        let notes: Vec<Signed> = (0..300)
            .map(|n| event(&key(1)).at(NOW.seconds() - 1_000 - n).content(n.to_string()).sign())
            .collect();
        store_silently(&store, &notes);
        let (one, two) = (connect(&mut relay, 1), connect(&mut relay, 2));
        open(&mut relay, one, "{}", LIST);
        assert_eq!(listed(&answered(&mut relay, one).0), ids(&notes));
        let deletion = notes[..removed]
            .iter()
            .fold(event(&key(1)).kind(5).at(NOW.seconds()), |draft, note| draft.tag(["e", &note.id]));
        let deletion = deletion.sign();
        publish(&mut relay, one, &deletion);
        open(&mut relay, two, "{}", LIST);
        let (left, turns) = answered(&mut relay, two);
        assert_eq!(listed(&left), ids(notes[removed..].iter().chain([&deletion])));
        assert_eq!(turns <= 2, is_kept, "{turns} turns");
    }
}

#[test]
fn those_who_open_at_once_collect_one_set_together() {
    let store = Store::default();
    store_silently(&store, &(0..1_500).map(note).collect::<Vec<_>>());
    let mut relay = new_relay(&store, small_steps());
    let alone = connect(&mut relay, 1);
    open(&mut relay, alone, "{}", LIST);
    let (_, alone_turns) = answered(&mut relay, alone);
    let bytes = relay.metrics().reconciliation_bytes;
    relay.disconnect(alone);
    forget_sets(&mut relay);

    let together: Vec<ConnId> = (1..=8).map(|host| connect(&mut relay, host)).collect();
    for conn in &together {
        open(&mut relay, *conn, "{}", LIST);
    }
    let mut turns = 0;
    while relay.has_work() {
        relay.work(NOW);
        turns += 1;
    }
    assert!(turns <= alone_turns + 3 * together.len(), "{turns} turns, {alone_turns} for one");
    assert!(together.iter().all(|conn| drained(&mut relay, *conn).concat().starts_with(r#"["NEG-MSG""#)));
    assert!(relay.metrics().reconciliation_bytes <= bytes + (8 << 10), "one set in memory");
    assert_eq!(relay.metrics().reconciliations, 8);
    // One who leaves in the middle leaves its share to the others.
    forget_sets(&mut relay);
    open(&mut relay, together[0], "{}", LIST);
    open(&mut relay, together[1], "{}", LIST);
    (0..5).for_each(|_| _ = relay.work(NOW));
    relay.disconnect(together[0]);
    assert!(answered(&mut relay, together[1]).0.starts_with(r#"["NEG-MSG""#));
    together[1..].iter().for_each(|conn| relay.disconnect(*conn));
    assert_eq!(relay.metrics().reconciliations, 0);
}

/// A commit of another shard is not heard of at once: a set has none of what it removed even so.
#[test]
fn a_set_waits_for_commits_that_were_made_before_it_was_opened() {
    let store = Store::default();
    let (mut here, mut there) = (new_relay(&store, small_steps()), new_relay(&store, small_steps()));
    let (reader, writer) = (connect(&mut here, 1), connect(&mut there, 2));
    let profile = |at: u64| event(&key(9)).kind(0).at(at).sign();
    let (old, new) = (profile(NOW.seconds() - 9), profile(NOW.seconds() - 8));
    let commit_there = |there: &mut Machine, event: &Signed| {
        there.handle_text(NOW, writer, format!(r#"["EVENT",{}]"#, event.json()).as_bytes());
        let batch = there.poll_verify(NOW, true).expect("an event");
        there.handle_verified(NOW, batch.verify(&Libsecp256k1));
        let changes = there.poll_commit().expect("an event");
        let Committed { replies, live, .. } = commit(there.store(), NOW, vec![changes]);
        replies.into_iter().for_each(|reply| there.handle_committed(NOW, reply));
        live
    };
    let live = commit_there(&mut there, &old);
    here.handle_live(NOW, &live);
    open(&mut here, reader, "{}", LIST);
    assert_eq!(listed(&answered(&mut here, reader).0), ids([&old]));
    let live = commit_there(&mut there, &new);
    open(&mut here, reader, "{}", LIST);
    for _ in 0..50 {
        here.work(NOW);
        assert!(drained(&mut here, reader).is_empty(), "not before the commit has been heard of");
    }
    here.handle_live(NOW, &live);
    assert_eq!(listed(&answered(&mut here, reader).0), ids([&new]));
}

/// As `relay import` does beside a relay that serves.
#[test]
fn what_another_process_stores_is_found_by_a_scan() {
    let store = Store::default();
    let mut relay = new_relay(&store, small_steps());
    let conn = connect(&mut relay, 1);
    let profile = |at: u64| event(&key(9)).kind(0).at(at).sign();
    let (old, new) = (profile(NOW.seconds() - 9), profile(NOW.seconds() - 8));
    publish(&mut relay, conn, &old);
    open(&mut relay, conn, "{}", LIST);
    assert_eq!(listed(&answered(&mut relay, conn).0), ids([&old]));
    store_silently(&store, std::slice::from_ref(&new));
    for _ in 0..2 {
        open(&mut relay, conn, "{}", LIST);
        assert_eq!(listed(&answered(&mut relay, conn).0), ids([&new]));
    }
    // A commit of the relay's own shows that one was missed.
    let more = note(1);
    publish(&mut relay, conn, &more);
    for _ in 0..2 {
        open(&mut relay, conn, "{}", LIST);
        assert_eq!(listed(&answered(&mut relay, conn).0), ids([&new, &more]));
    }
}

/// As `relay delete` does beside a relay that serves, or a sweep by age: no commit tells of it.
#[test]
fn what_is_removed_without_a_commit_is_in_no_set_that_is_opened_afterwards() {
    let store = Store::default();
    let notes: Vec<Signed> = (0..300).map(note).collect();
    store_silently(&store, &notes);
    let mut relay = new_relay(&store, small_steps());
    let (first, second) = (connect(&mut relay, 1), connect(&mut relay, 2));
    open(&mut relay, first, "{}", LIST);
    assert_eq!(listed(&answered(&mut relay, first).0), ids(&notes));
    let id = |event: &Signed| EventId::from_hex(event.id.as_bytes()).unwrap();

    let gone: Vec<EventId> = notes[..100].iter().map(id).collect();
    assert_eq!(store::remove(&store, &gone), Ok(100));
    for _ in 0..2 {
        open(&mut relay, second, "{}", LIST);
        assert_eq!(listed(&answered(&mut relay, second).0), ids(&notes[100..]));
    }
    // While one is being collected, too; it has what it had when it was opened, and the next one is exact.
    open(&mut relay, second, r#"{"kinds":[1]}"#, LIST);
    relay.work(NOW);
    assert_eq!(store::remove(&store, &[id(&notes[100])]), Ok(1));
    open(&mut relay, first, r#"{"kinds":[1]}"#, LIST);
    assert_eq!(listed(&answered(&mut relay, first).0), ids(&notes[101..]));
    assert!(answered(&mut relay, second).0.starts_with(r#"["NEG-MSG""#));

    let oldest = notes[101..].iter().map(|note| note.created_at).min().unwrap();
    let swept = store::sweep_older_than(&store, oldest + 1, &|_| true, 1_000).unwrap();
    assert!(swept.events > 0);
    open(&mut relay, second, "{}", LIST);
    let left = notes[101..].iter().filter(|note| note.created_at > oldest);
    assert_eq!(listed(&answered(&mut relay, second).0), ids(left));

    // What removes nothing costs no scan.
    assert_eq!(store::remove(&store, &gone), Ok(0));
    open(&mut relay, first, "{}", LIST);
    let (_, turns) = answered(&mut relay, first);
    assert!(turns <= 2, "{turns} turns");
}

#[test]
fn memory_is_bounded_and_idle_reconciliations_make_room() {
    let store = Store::default();
    store_silently(&store, &(0..2_000).map(note).collect::<Vec<_>>());
    // One set of all notes, and little more.
    let limits = Limits { neg_sets_bytes_max: 120_000, ..Limits::default() };
    let mut relay = new_relay(&store, limits);
    let (first, second) = (connect(&mut relay, 1), connect(&mut relay, 2));
    open(&mut relay, first, r#"{"kinds":[1]}"#, "61");
    assert_eq!(answered(&mut relay, first).0, r#"["NEG-MSG","n","61"]"#);
    // An address that has all of it may reconcile the same set again.
    relay.handle_text(NOW, first, br#"["NEG-OPEN","again",{"kinds":[1]},"61"]"#);
    assert_eq!(answered(&mut relay, first).0, r#"["NEG-MSG","again","61"]"#);
    relay.handle_text(NOW, first, br#"["NEG-CLOSE","again"]"#);
    // What it shares costs nothing; another set does not fit, while the first is in use.
    open(&mut relay, second, r#"{"kinds":[1]}"#, "61");
    assert_eq!(answered(&mut relay, second).0, r#"["NEG-MSG","n","61"]"#);
    open(&mut relay, second, "{}", "61");
    assert!(answered(&mut relay, second).0.starts_with(r#"["NEG-ERR","n","blocked: this relay is busy"#));
    assert!(relay.metrics().reconciliation_bytes <= 120_000, "{}", relay.metrics().reconciliation_bytes);
    // After a minute without a message the first is closed, and told so.
    let later = NOW.plus_millis(60_000);
    relay.handle_text(later, second, br#"["NEG-OPEN","n",{},"61"]"#);
    while relay.work(later) {}
    assert_eq!(drained(&mut relay, second).concat(), r#"["NEG-MSG","n","61"]"#);
    assert!(drained(&mut relay, first).concat().starts_with(r#"["NEG-ERR","n","closed: you took too long"#));
    relay.handle_text(later, first, br#"["NEG-MSG","n","61"]"#);
    assert!(drained(&mut relay, first).concat().starts_with(r#"["NEG-ERR","n","closed: "#));
    // What is kept and not in use is dropped for what is wanted.
    relay.handle_text(later, second, br#"["NEG-CLOSE","n"]"#);
    open(&mut relay, first, r#"{"kinds":[1]}"#, "61");
    assert_eq!(answered(&mut relay, first).0, r#"["NEG-MSG","n","61"]"#);
    relay.disconnect(first);
    relay.disconnect(second);
    assert!(relay.metrics().reconciliation_bytes > 40 * 2_000, "one is kept");
    forget_sets(&mut relay);
    assert_eq!(relay.metrics().reconciliation_bytes, 0);
    assert_eq!(relay.metrics().filter_values, 0, "filters are kept only while sets are collected");
}

/// Regression: one NEG-OPEN closed as many idle reconciliations as there were.
#[test]
fn a_request_closes_few_idle_reconciliations() {
    let store = Store::default();
    store_silently(&store, &(0..2_000).map(note).collect::<Vec<_>>());
    let mut relay = new_relay(&store, Limits { neg_sets_bytes_max: 120_000, ..Limits::default() });
    let others: Vec<ConnId> = (1..=40).map(|host| connect(&mut relay, host)).collect();
    for conn in &others {
        for id in 0..5 {
            let text = format!(r#"["NEG-OPEN","{id}",{{"kinds":[1]}},"61"]"#);
            relay.handle_text(NOW, *conn, text.as_bytes());
            while relay.work(NOW) {}
        }
    }
    // All share one set, beside which there is no room.
    assert_eq!(relay.metrics().reconciliations, 200);
    let conn = connect(&mut relay, 99);
    let later = NOW.plus_millis(60_000);
    let mut tries = 0;
    let frames = loop {
        let before = relay.metrics().reconciliations;
        relay.handle_text(later, conn, br#"["NEG-OPEN","n",{},"61"]"#);
        while relay.work(later) {}
        tries += 1;
        let frames = drained(&mut relay, conn).concat();
        if !frames.contains("blocked: this relay is busy") {
            break frames;
        }
        assert_eq!(before - relay.metrics().reconciliations, 64);
    };
    assert_eq!((frames.as_str(), tries), (r#"["NEG-MSG","n","61"]"#, 4));
}

/// What an answer costs is charged in turns, so that others have theirs.
#[test]
fn answers_are_paid_for() {
    let store = Store::default();
    store_silently(&store, &(0..100).map(note).collect::<Vec<_>>());
    let mut relay = new_relay(&store, small_steps());
    let (hostile, honest) = (connect(&mut relay, 1), connect(&mut relay, 2));
    open(&mut relay, hostile, "{}", "61");
    answered(&mut relay, hostile);
    // 4,096 ranges, each of which skips nothing: as many as are answered at once.
    let message = format!("61{}", "010000".repeat(4_096));
    relay.handle_text(NOW, hostile, format!(r#"["NEG-MSG","n","{message}"]"#).as_bytes());
    relay.work(NOW);
    relay.handle_text(NOW, honest, br#"["REQ","r",{"limit":1}]"#);
    let (_, turns) = answered(&mut relay, honest);
    assert!(turns <= 5, "{turns}");
    let (frames, turns) = answered(&mut relay, hostile);
    assert_eq!(frames, r#"["NEG-MSG","n","61"]"#);
    assert!(turns >= 40, "{turns} turns of 100 for 4,096 look-ups in 12,000 bytes");
    // Too many are refused, are charged, and end it.
    let message = format!("61{}", "010000".repeat(300_000));
    relay.handle_text(NOW, hostile, format!(r#"["NEG-MSG","n","{message}"]"#).as_bytes());
    let (frames, turns) = answered(&mut relay, hostile);
    assert!(frames.starts_with(r#"["NEG-ERR","n","blocked: "#), "{frames}");
    assert!(turns >= 280, "{turns} turns of 100 for 900,000 bytes");
    relay.handle_text(NOW, hostile, br#"["NEG-MSG","n","61"]"#);
    assert!(answered(&mut relay, hostile).0.contains("closed: "));
}

#[test]
fn messages_take_turns_with_answers_and_slow_readers_wait() {
    let store = Store::default();
    store_silently(&store, &(0..1_000).map(note).collect::<Vec<_>>());
    let limits = Limits { outbox_pause_bytes: 30_000, ..small_steps() };
    let mut relay = new_relay(&store, limits);
    let conn = connect(&mut relay, 1);
    open(&mut relay, conn, "{}", LIST);
    // Its first step, and no more.
    relay.work(NOW);
    relay.handle_text(NOW, conn, format!(r#"["NEG-MSG","n","{LIST}"]"#).as_bytes());
    while relay.work(NOW) {}
    let frames = drained(&mut relay, conn).concat();
    assert!(frames.starts_with(r#"["NEG-ERR","n","invalid: NEG-MSG came before"#), "{frames}");
    assert!(!frames.contains("NEG-MSG\",\"n"), "it is closed");

    open(&mut relay, conn, "{}", LIST);
    while relay.work(NOW) {}
    // 64 KB of ids wait for the reader: the next answer is not worked out before it has read them.
    relay.handle_text(NOW, conn, format!(r#"["NEG-MSG","n","{LIST}"]"#).as_bytes());
    while relay.work(NOW) {}
    assert!(relay.has_unanswered(conn));
    assert_eq!(drained(&mut relay, conn).len(), 1);
    while relay.work(NOW) {}
    assert_eq!(drained(&mut relay, conn).len(), 1);
    assert!(!relay.has_unanswered(conn));
}

/// A thousand reconciliations, none of them closed: as many as a connection may have are answered, the others refused.
#[test]
fn reconciliations_per_connection_are_limited() {
    let store = Store::default();
    let mut relay = new_relay(&store, Limits::default());
    let conn = connect(&mut relay, 1);
    for n in 0..1_000 {
        relay.handle_text(NOW, conn, format!(r#"["NEG-OPEN","{n}",{{}},"61"]"#).as_bytes());
        while relay.work(NOW) {}
        let frames = drained(&mut relay, conn).concat();
        assert_eq!(frames.contains("blocked: too many reconciliations"), n >= 20, "{frames}");
    }
    assert_eq!(relay.metrics().reconciliations, 20);
}
