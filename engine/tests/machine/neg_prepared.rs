//! The set of all events that is collected before anybody reconciles it (NIP-77, `limits.neg_prepared_events_max`).

use std::sync::Arc;

use relay_engine::relay::{ClientInfo, Config, ConnId, Relay};
use relay_engine::store::{self, MemoryBackend};
use relay_engine::testing::signing::{Signed, event, key};
use relay_engine::testing::{drained, settle};
use relay_engine::types::{Limits, Now};
use relay_engine::verify::Libsecp256k1;

const NOW: Now = Now::from_seconds(1_700_000_000);
const NOTES: u64 = 600;
/// Asks for the ids of all events of the set, as a client does that has none.
const LIST: &str = "6100000200";
/// `step_cost_max`: what a turn may cost, so that a scan of the notes takes several.
const TURN: usize = 100;

type Machine = Relay<Arc<MemoryBackend>>;

fn limits(prepared_events_max: usize) -> Limits {
    Limits { step_cost_max: TURN, neg_prepared_events_max: prepared_events_max, ..Limits::default() }
}

fn note(n: u64) -> Signed {
    event(&key(1)).at(NOW.seconds() - 1_000 + n % 100).content(n.to_string()).sign()
}

fn publish(relay: &mut Machine, now: Now, conn: ConnId, event: &Signed) {
    relay.handle_text(now, conn, format!(r#"["EVENT",{}]"#, event.json()).as_bytes());
    settle(relay, now);
    assert!(drained(relay, conn).concat().contains(",true,"), "{}", event.json());
}

/// A relay that has just started with notes in its store, and a connection.
fn start(limits: Limits) -> (Machine, ConnId) {
    let store = Arc::new(MemoryBackend::default());
    let new = |limits| {
        let config = Arc::new(Config { limits, ..Config::default() });
        Relay::new(config, Arc::clone(&store), Arc::new(Libsecp256k1), [1; 32])
    };
    let mut before = new(Limits::default());
    let conn = before.connect(NOW, ClientInfo::default()).expect("a connection is free");
    (0..NOTES).for_each(|n| publish(&mut before, NOW, conn, &note(n)));
    let mut relay = new(limits);
    let conn = relay.connect(NOW, ClientInfo::default()).expect("a connection is free");
    (relay, conn)
}

/// Does what the machine asks for by its timeouts, as a host does, until `now`. Returns the turns that took.
fn pass_time(relay: &mut Machine, now: Now) -> usize {
    while relay.poll_timeout().is_some_and(|at| at <= now) {
        relay.handle_timeout(now);
        let turns = (0..100_000).find(|_| !relay.work(now)).expect("it comes to an end");
        if turns > 0 {
            return turns;
        }
    }
    0
}

/// The ids that a reconciliation lists, and the turns until its answer.
fn list(relay: &mut Machine, now: Now, conn: ConnId, filter: &str) -> (usize, usize) {
    relay.handle_text(now, conn, format!(r#"["NEG-OPEN","n",{filter},"{LIST}"]"#).as_bytes());
    for turns in 0..100_000 {
        let frames = drained(relay, conn).concat();
        if let Some(hex) = frames.strip_prefix(r#"["NEG-MSG","n",""#) {
            return (hex.len() / 64, turns);
        }
        assert_eq!(frames, "");
        relay.work(now);
    }
    panic!("no answer");
}

#[test]
fn the_first_reconciliation_needs_no_scan() {
    let (mut relay, conn) = start(limits(NOTES as usize));
    assert_eq!(relay.poll_timeout(), Some(Now::default()), "it is due at the start");
    assert!(pass_time(&mut relay, NOW) >= NOTES as usize / TURN, "in turns");
    assert!(relay.metrics().reconciliation_bytes >= 40 * NOTES);
    let (ids, turns) = list(&mut relay, NOW, conn, "{}");
    assert!(ids == NOTES as usize && turns <= 2, "{ids} ids after {turns} turns");
    let (_, turns) = list(&mut relay, NOW, conn, r#"{"kinds":[1]}"#);
    assert!(turns >= NOTES as usize / TURN, "another set needs a scan: {turns} turns");
}

#[test]
fn it_is_kept_and_kept_up_to_date() {
    let (mut relay, conn) = start(limits(2 * NOTES as usize));
    pass_time(&mut relay, NOW);
    let mut now = NOW;
    for minute in 1..=120 {
        now = NOW.plus_millis(minute * 60_000);
        publish(&mut relay, now, conn, &event(&key(2)).at(NOW.seconds()).content(minute.to_string()).sign());
        pass_time(&mut relay, now);
    }
    let (ids, turns) = list(&mut relay, now, conn, "{}");
    assert!(ids == NOTES as usize + 120 && turns <= 2, "{ids} ids after {turns} turns");
    // An event that was removed without a word makes it be collected again.
    store::sweep_older_than(relay.store(), NOW.seconds() - 950, &|_| true, 1_000)
        .expect("memory does not fail");
    pass_time(&mut relay, now.plus_millis(60_000));
    let (ids, turns) = list(&mut relay, now.plus_millis(60_001), conn, "{}");
    assert!(ids < NOTES as usize + 120 && turns <= 2, "{ids} ids after {turns} turns");
}

/// One event more than it may have, and it costs no memory, and no scan for an hour.
#[test]
fn a_set_that_is_too_large_is_given_up() {
    let (mut relay, conn) = start(limits(NOTES as usize - 1));
    assert!(pass_time(&mut relay, NOW) > 0);
    assert_eq!(relay.metrics().reconciliation_bytes, 0);
    assert_eq!(pass_time(&mut relay, NOW.plus_millis(59 * 60_000)), 0);
    assert!(pass_time(&mut relay, NOW.plus_millis(61 * 60_000)) > 0);
    // Clients are answered as ever, and what they wait for is not taken from them.
    let later = NOW.plus_millis(200 * 60_000);
    relay.handle_text(later, conn, format!(r#"["NEG-OPEN","n",{{}},"{LIST}"]"#).as_bytes());
    relay.work(later);
    relay.handle_timeout(later);
    while relay.work(later) {}
    let frames = drained(&mut relay, conn).concat();
    assert!(frames.starts_with(r#"["NEG-MSG","n",""#), "{frames}");
}

#[test]
fn without_the_limit_nothing_is_collected() {
    let (mut relay, _) = start(limits(0));
    assert_eq!(relay.poll_timeout(), None);
    relay.handle_timeout(NOW);
    assert!(!relay.has_work());
}
