//! Clients that open and close reconciliations (NIP-77) as fast as they can: memory stays as it was, and the work is charged.

use std::sync::Arc;

use relay_engine::relay::{ClientInfo, Config, ConnId, Relay};
use relay_engine::store::MemoryBackend;
use relay_engine::testing::signing::{event, key};
use relay_engine::testing::{drained, settle};
use relay_engine::types::{Limits, Now};
use relay_engine::verify::Libsecp256k1;

const NOW: Now = Now::from_seconds(1_700_000_000);
const NOTES: u64 = 300;
/// `step_cost_max`: what a turn may cost.
const TURN: usize = 100;

type Machine = Relay<Arc<MemoryBackend>>;

/// A relay with notes, and a connection.
fn relay_with_notes(limits: Limits) -> (Machine, ConnId) {
    let config = Arc::new(Config { limits, ..Config::default() });
    let mut relay = Relay::new(config, Arc::default(), Arc::new(Libsecp256k1), [1; 32]);
    let conn = relay.connect(NOW, ClientInfo::default()).expect("a connection is free");
    for n in 0..NOTES {
        let note = event(&key(1)).at(NOW.seconds() - n).content(n.to_string()).sign();
        relay.handle_text(NOW, conn, format!(r#"["EVENT",{}]"#, note.json()).as_bytes());
        settle(&mut relay, NOW);
    }
    assert_eq!(drained(&mut relay, conn).concat().matches(",true,").count(), NOTES as usize);
    (relay, conn)
}

/// Works until nothing is left to do, and says how many turns that took.
fn worked(relay: &mut Machine, now: Now) -> usize {
    (0..).find(|_| !relay.work(now)).expect("it comes to an end")
}

/// One is answered and closed, the next one is closed before its answer, and the next one is never closed but opened anew.
#[test]
fn a_session_per_millisecond_leaves_nothing_behind() {
    const SESSIONS: u64 = 3_000;
    let (mut relay, conn) = relay_with_notes(Limits { step_cost_max: TURN, ..Limits::default() });
    let (mut bytes_max, mut early_bytes_max, mut turns) = (0, 0, 0);
    let mut now = NOW;
    for n in 0..SESSIONS {
        now = now.plus_millis(1);
        // Another set each time: none of them is there already.
        let filter = format!(r#"{{"since":{}}}"#, NOW.seconds() - 200 - n % 1_000);
        let text = format!(r#"["NEG-OPEN","n{}",{filter},"6100000200"]"#, n % 3);
        relay.handle_text(now, conn, text.as_bytes());
        if n % 3 == 1 {
            relay.handle_text(now, conn, br#"["NEG-CLOSE","n1"]"#);
        }
        turns += worked(&mut relay, now);
        let frames = drained(&mut relay, conn).concat();
        assert_eq!(frames.contains("NEG-MSG"), n % 3 != 1, "{frames}");
        if n % 3 == 0 {
            relay.handle_text(now, conn, br#"["NEG-CLOSE","n0"]"#);
        }
        let metrics = relay.metrics();
        assert!(metrics.reconciliations <= 1, "{}", metrics.reconciliations);
        assert_eq!(metrics.filter_values, 0, "no filter is kept");
        bytes_max = bytes_max.max(metrics.reconciliation_bytes);
        if n == SESSIONS / 10 {
            early_bytes_max = bytes_max;
        }
    }
    assert_eq!(bytes_max, early_bytes_max, "memory does not grow with the number of sessions");
    assert!(turns >= 2 * (SESSIONS / 3) as usize, "{turns} turns: two of three are scans of 200 events each");
    relay.disconnect(conn);
    // What is kept is dropped when it is too old.
    let late = now.plus_millis(11 * 60_000);
    let conn = relay.connect(late, ClientInfo::default()).expect("a connection is free");
    relay.handle_text(late, conn, br#"["NEG-OPEN","n",{"kinds":[9999]},"61"]"#);
    worked(&mut relay, late);
    relay.disconnect(conn);
    assert_eq!((relay.metrics().reconciliations, relay.metrics().reconciliation_bytes), (0, 0));
}

/// A filter of very many authors: it is answered, what it costs is paid in turns, and others are answered meanwhile.
#[test]
fn a_filter_of_ten_thousand_authors_is_collected_in_turns() {
    let (mut relay, conn) = relay_with_notes(Limits { step_cost_max: TURN, ..Limits::default() });
    let mut authors: Vec<String> = (0..9_999).map(|n| format!("\"{n:064x}\"")).collect();
    authors.push(format!("\"{}\"", key(1).hex()));
    let text = format!(r#"["NEG-OPEN","n",{{"authors":[{}]}},"6100000200"]"#, authors.join(","));
    relay.handle_text(NOW, conn, text.as_bytes());
    let held = relay.metrics().filter_values;
    assert!(held >= 10_000, "{held} values are counted while the set is collected");
    let other = relay.connect(NOW, ClientInfo::default()).expect("a connection is free");
    relay.handle_text(NOW, other, br#"["REQ","r",{"limit":1}]"#);
    let mut frames = String::new();
    let turns = (1..).find(|_| {
        relay.work(NOW);
        frames = drained(&mut relay, other).concat();
        frames.contains("EOSE")
    });
    assert!(turns <= Some(5), "{turns:?} turns for a REQ beside it");
    let turns = worked(&mut relay, NOW);
    assert!(turns >= 10_000 / TURN, "{turns} turns for a look-up of each author");
    let frames = drained(&mut relay, conn).concat();
    let hex = frames.strip_prefix(r#"["NEG-MSG","n",""#).unwrap_or_else(|| panic!("{frames}"));
    assert!(hex.len() as u64 >= 64 * NOTES, "all notes of the one who has written");
    relay.disconnect(other);
    assert_eq!(relay.metrics().filter_values, 0);
}
