//! Retention of events: by age and kind, and by number, on both stores.

use relay_engine::testing::signing::{event, key};

use super::harness::{RelayProcess, metric, unix_now, until};

const DAY: u64 = 86_400;

#[test]
fn old_events_are_removed_by_the_first_rule_of_their_kind() {
    for engine in ["lmdb", "log"] {
        let config = format!(
            "[store]\nengine = \"{engine}\"\n\
             [[store.retention]]\nkinds = [7, 30023]\nage_seconds = {DAY}\n\
             [[store.retention]]\nkinds = [1984]\nage_seconds = 0\n\
             [[store.retention]]\nage_seconds = {}\n",
            10 * DAY
        );
        let mut relay = RelayProcess::start_with(&config);
        let mut client = relay.connect();
        let now = unix_now();
        let mut sent = Vec::new();
        for days in [0, 2, 20] {
            for kind in [1, 7, 1_984, 30_023, 0, 5] {
                // A profile is of somebody else each time.
                let who = key(if kind == 0 { 10 + days } else { 7 });
                let one =
                    event(&who).kind(kind).at(now - days * DAY - 60).tag(["d", &days.to_string()]).sign();
                assert_eq!(client.publish(&one.json()), (true, String::new()), "{kind}");
                sent.push((kind, days, one.id));
            }
        }
        assert_eq!(client.query("{}").len(), sent.len(), "it is swept at the start, and then once a minute");
        relay.kill();
        relay.restart();
        let mut client = relay.connect();
        let stays = |kind: u16, days: u64| match kind {
            7 | 30_023 => days < 1,
            1 => days < 10,
            _ => true,
        };
        let kept = sent.iter().filter(|(kind, days, _)| stays(*kind, *days)).count();
        until("old events are removed", || client.query("{}").len() == kept);
        let left = client.query("{}");
        for (kind, days, id) in &sent {
            let is_there = left.iter().any(|json| json.contains(id.as_str()));
            assert_eq!(is_there, stays(*kind, *days), "{engine}: kind {kind}, {days} days");
        }
        assert_eq!(
            metric(&relay, "relay_events_removed_by_retention") as usize,
            sent.len() - kept,
            "{engine}"
        );
        assert!(relay.stop().success());
    }
}

#[test]
fn of_too_many_events_those_go_that_were_stored_first() {
    for engine in ["lmdb", "log"] {
        let config = format!(
            "[store]\nengine = \"{engine}\"\nretention_events_max = 300\n\
             [[store.retention]]\nkinds = [1984]\nage_seconds = 0\n"
        );
        let mut relay = RelayProcess::start_with(&config);
        let mut client = relay.connect();
        let now = unix_now();
        // What comes later may be dated earlier.
        let one = |kind: u16, serial: u64| event(&key(7)).kind(kind).at(now - serial).sign();
        for kind in [1, 0, 1_984] {
            assert_eq!(client.publish(&one(kind, 0).json()), (true, String::new()));
        }
        for serial in 1..=450 {
            assert_eq!(client.publish(&one(1, serial).json()), (true, String::new()));
        }
        relay.kill();
        relay.restart();
        let mut client = relay.connect();
        let mut left = || client.query(r#"{"kinds":[1],"limit":5000}"#);
        until("the first are removed", || left().len() == 298);
        let left = left();
        for (serial, is_there) in [(0, false), (1, false), (152, false), (153, true), (450, true)] {
            let id = one(1, serial).id;
            assert_eq!(left.iter().any(|json| json.contains(&id)), is_there, "{engine}: {serial}");
        }
        assert_eq!(client.query(r#"{"kinds":[0,1984]}"#).len(), 2, "{engine}");
        assert_eq!(metric(&relay, "relay_events_removed_by_retention") as u64, 153, "{engine}");
        assert!(relay.stop().success());
    }
}
