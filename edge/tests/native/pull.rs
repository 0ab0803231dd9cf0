//! Copying from other relays: everything arrives whatever is cut, lost or refused, and a relay that lies or floods is cut off.

use std::collections::VecDeque;

use relay_edge::metrics::{render, without_names};
use relay_edge::object::{PEER_MESSAGE_BYTES_MAX, PeerConn, PeerEvent, RowCountingConn};
use relay_edge::settings::{PeerSettings, Settings, SyncSettings};
use relay_edge::shard::Shards;
use relay_engine::testing::event_of_json;
use relay_engine::testing::signing::{event, key};
use relay_engine::types::CanonicalEvent;
use relay_sync::information::Information;
use relay_sync::testing::{Events, FakeRelay, Lie, Random, Without, both, events};
use serde_json::{Value, json};

use super::world::{Hibernates, Runtime, ToPeer};

const URL: &str = "wss://peer.example";
/// Seconds of events, all in the past.
const FIRST: u64 = 1_700_000_000;

fn settings(filter: Value, every_seconds: u64) -> Settings {
    let peers = vec![PeerSettings { url: URL.into(), filter, every_seconds }];
    Settings { sync: SyncSettings { peers }, ..Settings::default() }
}

/// An object that copies, and the relay that it copies from.
struct World {
    runtime: Runtime,
    relay: FakeRelay,
    conn: Option<PeerConn>,
    back: VecDeque<String>,
    /// Whether connections are refused.
    is_down: bool,
    connections: usize,
    /// Milliseconds that a message takes.
    ms: u64,
    random: Random,
    /// One in so many messages: the object loses its memory, or the connection is cut; 0: none.
    lost_one_in: u64,
    cut_one_in: u64,
    /// Whether messages come without a tick between them.
    is_fast: bool,
}

impl World {
    fn new(there: &Events, settings: Settings) -> Self {
        Self::with(&Events::new(), there, settings)
    }

    /// Whose relay has some events before it is told to copy others.
    fn with(here: &Events, there: &Events, settings: Settings) -> Self {
        let mut runtime =
            Runtime::new(Settings { sync: SyncSettings::default(), ..settings.clone() }, Hibernates::Never);
        let socket = runtime.connect().unwrap().key;
        for event in here.values() {
            let json = String::from_utf8_lossy(event.json()).into_owned();
            runtime.text(socket, &format!(r#"["EVENT",{json}]"#));
        }
        runtime.drive();
        runtime.reconfigure(settings);
        World {
            runtime,
            relay: FakeRelay::with(there),
            conn: None,
            back: VecDeque::new(),
            is_down: false,
            connections: 0,
            ms: 0,
            random: Random(0x9e37_79b9_7f4a_7c15),
            lost_one_in: 0,
            cut_one_in: 0,
            is_fast: false,
        }
    }

    fn tell(&mut self, conn: PeerConn, event: PeerEvent<'_>) {
        let now = self.runtime.now;
        self.runtime.next = self.runtime.object().peer(now, conn, event);
        if !self.is_fast {
            self.runtime.drive();
        }
    }

    fn evict(&mut self) {
        self.runtime.evict();
        (self.conn, self.back) = (None, VecDeque::new());
        self.runtime.host.to_peers.borrow_mut().clear();
    }

    /// One message arrives. False if there is none.
    fn step(&mut self) -> bool {
        let asked = self.runtime.host.to_peers.borrow_mut().pop_front();
        match asked {
            Some((conn, ToPeer::Connect(url))) => {
                assert_eq!(url, URL);
                self.connections += 1;
                if self.is_down {
                    self.tell(conn, PeerEvent::Closed("refused".into()));
                } else {
                    (self.conn, self.back) = (Some(conn), self.relay.connect().into());
                    self.tell(conn, PeerEvent::Opened(Information::default()));
                }
            }
            Some((conn, ToPeer::Send(text))) => {
                if self.conn == Some(conn) {
                    self.back.extend(self.relay.handle(&text));
                }
            }
            Some((conn, ToPeer::Close)) => {
                if self.conn == Some(conn) {
                    (self.conn, self.back) = (None, VecDeque::new());
                }
            }
            None => {
                let Some(conn) = self.conn else { return false };
                let Some(text) = self.back.pop_front() else {
                    if self.relay.has_hung_up {
                        self.conn = None;
                        self.tell(conn, PeerEvent::Closed("gone".into()));
                        return true;
                    }
                    return false;
                };
                self.runtime.now = self.runtime.now.plus_millis(self.ms);
                self.tell(conn, PeerEvent::Text(&text));
                if self.lost_one_in > 0 && self.random.below(self.lost_one_in) == 0 {
                    self.evict();
                } else if self.cut_one_in > 0 && self.random.below(self.cut_one_in) == 0 {
                    (self.conn, self.back) = (None, VecDeque::new());
                    self.tell(conn, PeerEvent::Closed("cut".into()));
                }
            }
        }
        true
    }

    /// Everything goes on for so many seconds.
    fn run(&mut self, seconds: u64) {
        let end = self.runtime.now.plus_millis(seconds * 1_000);
        self.runtime.drive();
        while self.runtime.now < end {
            while self.step() {}
            self.runtime.advance(1);
        }
    }

    /// Until the log says so.
    fn run_until(&mut self, words: &str) {
        for _ in 0..100 {
            self.run(60);
            if self.count(words) > 0 {
                return;
            }
        }
        panic!("{words} is not in {:?}", self.runtime.host.log.borrow());
    }

    /// Lines of the log with these words.
    fn count(&self, words: &str) -> usize {
        self.runtime.host.log.borrow().iter().filter(|line| line.contains(words)).count()
    }

    fn stored(&self) -> Events {
        let lines = self.runtime.store.lines();
        let stored = lines.iter().map(|line| event_of_json(&String::from_utf8_lossy(line)).unwrap());
        stored.map(|event| (event.id, event)).collect()
    }

    fn metrics(&mut self, with_names: bool) -> String {
        let now = self.runtime.now;
        let families = Ok(self.runtime.object().families(now));
        let families = if with_names { families } else { without_names(families) };
        render(&[(Shards::ONE.for_connection(), families)])
    }
}

#[test]
fn what_is_missing_arrives_and_nothing_else_is_asked_for() {
    let shared = events("shared", (0..150).map(|n| FIRST + n / 3));
    let there = both(&shared, &events("there", (0..250).map(|n| FIRST + n)));
    let here = both(&shared, &events("here", [FIRST + 7, FIRST + 8]));
    for without in [None, Some(Without::Notice("unknown message")), Some(Without::HangUp)] {
        let mut world = World::with(&here, &there, settings(json!({}), 600));
        world.relay.without = without;
        world.run_until("compared; 250 events stored");
        assert_eq!(world.stored(), both(&there, &here), "{without:?}");
        if without.is_none() {
            assert_eq!((world.connections, world.relay.asked_ids), (1, 250));
        }
        assert_eq!(world.conn, None, "an open connection would keep the object awake");
        // What is published there comes with the next comparison.
        world.run(300);
        let (sent, more) = (world.relay.sent, events("later", [FIRST + 3_000]));
        world.relay.events.extend(more.clone());
        assert_eq!(world.count("compared; "), 1, "{without:?}: {:?}", world.runtime.host.log.borrow());
        world.run(400);
        assert_eq!(world.stored(), both(&both(&there, &here), &more), "{without:?}");
        assert!(without.is_some() || world.relay.sent == sent + 1);
        assert_eq!(world.count("compared; "), 2, "{without:?}");
        let metrics = world.metrics(true);
        assert!(
            metrics.contains("relay_pull_events_stored_total{peer=\"wss://peer.example\"} 251"),
            "{metrics}"
        );
        assert!(!world.metrics(false).contains("peer.example"), "URLs are for administrators");
    }
}

#[test]
fn only_events_of_the_filter_are_copied() {
    let there = events("there", (0..100).map(|n| FIRST + n));
    let filter = json!({"since": FIRST + 20, "until": FIRST + 59});
    let mut world = World::new(&there, settings(filter, 600));
    world.run_until("compared; 40 events stored");
}

#[test]
fn memory_may_be_lost_and_connections_cut_at_any_moment() {
    let there = events("there", (0..2_000).map(|n| FIRST + n / 2));
    let here = events("there", (0..500).map(|n| FIRST + n / 2));
    for (lost_one_in, cut_one_in) in [(150, 0), (0, 150), (300, 300)] {
        for without in [None, Some(Without::NegErr("invalid: unknown"))] {
            let mut world = World::with(&here, &there, settings(json!({}), 86_400));
            (world.relay.without, world.relay.limit_max) = (without, Some(100));
            (world.lost_one_in, world.cut_one_in) = (lost_one_in, cut_one_in);
            world.run_until("compared; ");
            let case = format!("{lost_one_in} {cut_one_in} {without:?}: {} connections", world.connections);
            assert_eq!(world.stored().len(), there.len(), "{case}");
            assert!(world.connections > 3, "{case}");
            // A batch that was on its way, and a page, may come again each time.
            let most = there.len() + world.connections * 1_000;
            assert!(world.relay.sent <= most, "{case}: {} sent", world.relay.sent);
        }
    }
}

#[test]
fn a_slice_ends_after_some_seconds_and_the_next_one_goes_on() {
    let there = events("there", (0..1_000).map(|n| FIRST + n));
    for without in [None, Some(Without::Closed("error: unknown"))] {
        let mut world = World::new(&there, settings(json!({}), 86_400));
        // A slice has time for 200 messages.
        (world.ms, world.relay.without) = (100, without);
        let written = world.runtime.store.rows().written;
        world.run_until("compared; 1000 events stored");
        assert_eq!(world.stored(), there);
        // A page is 500 events, which take longer than a slice is meant to last.
        let expected = if without.is_none() { 5..20 } else { 2..5 };
        assert!(expected.contains(&world.connections), "{without:?}: {}", world.connections);
        assert!(world.relay.sent < 2_500, "{without:?}: {} sent", world.relay.sent);
        assert_eq!(world.count("again in"), 0, "the end of a slice is no failure");
        assert!(world.runtime.store.rows().written > written);
        assert_eq!(world.runtime.store.count("edge_pull"), 1);
    }
}

/// Regression: a slice that had brought nothing by its end was followed by the next one after a second, for ever.
#[test]
fn a_relay_too_slow_to_bring_anything_is_asked_ever_more_rarely() {
    let there = events("there", (0..10).map(|n| FIRST + n));
    let mut world = World::new(&there, settings(json!({}), 86_400));
    // The answer to NEG-OPEN comes when the slice is over.
    world.ms = 25_000;
    world.run(86_400);
    assert!((20..150).contains(&world.connections), "{} connections", world.connections);
    assert!(world.count("its slice has ended, and nothing was copied; again in") >= world.connections - 1);
    assert_eq!(world.stored(), Events::new());
    world.ms = 0;
    world.run(3_700);
    assert_eq!(world.stored(), there);
}

#[test]
fn ranges_of_many_events_are_compared_one_after_another() {
    // More than a range has, of which the relay there lacks none and this one lacks a few.
    let there = events("there", (0..40_000).map(|n| FIRST + n / 7));
    let here: Events = there
        .iter()
        .filter(|(id, _)| (id.0[0], id.0[1] > 60) != (0, false))
        .map(|(id, event)| (*id, event.clone()))
        .collect();
    let mut world = World::with(&here, &there, settings(json!({}), 86_400));
    world.run_until("compared; ");
    assert_eq!(world.runtime.store.events() as usize, there.len());
    assert_eq!(world.relay.count("NEG-OPEN"), 2, "two ranges");
    assert!(world.relay.asked_ids < there.len() - here.len() + 20, "{}", world.relay.asked_ids);
}

#[test]
fn a_relay_that_lies_or_floods_is_cut_off_in_words() {
    let there = events("there", (0..400).map(|n| FIRST + n));
    for (lie, words) in [
        (Lie::Forged, "invalid, not asked for, or not of the filter"),
        (Lie::OtherEvents, "invalid, not asked for, or not of the filter"),
        (Lie::Flood, "invalid, not asked for, or not of the filter"),
        (Lie::Malformed, "a message of its reconciliation is malformed"),
        (Lie::Endless, "comes to no end"),
    ] {
        let mut world = World::new(&there, settings(json!({"kinds": [1]}), 60));
        world.relay.lie = lie;
        world.run_until("cut off: ");
        assert_eq!(world.count(words), 1, "{lie:?}: {:?}", world.runtime.host.log.borrow());
        for event in world.stored().values() {
            assert!(there.contains_key(&event.id) && lie != Lie::Forged, "{lie:?}");
        }
        let connections = world.connections;
        world.run(1_800);
        assert_eq!((world.connections, world.conn), (connections, None), "{lie:?}: it is left alone");
        // An honest one is given another chance.
        world.relay.lie = Lie::None;
        world.run_until("compared; ");
        assert_eq!(world.stored(), there, "{lie:?}");
        assert!(world.metrics(true).contains("relay_pull_cut_offs_total{peer=\"wss://peer.example\"} 1"));
    }
}

/// Regression: a relay on a fast network sent 95,000 events before the first was stored. They were all asked for and waited in 77 MB of the 128 MB
/// that an object has.
#[test]
fn no_more_is_asked_for_than_fits_into_memory() {
    let there = events("there", (0..12_000).map(|n| FIRST + n));
    let bytes: usize = there.values().map(|event| event.json().len()).sum();
    assert!(bytes > 4 << 20);
    for without in [None, Some(Without::Notice("unknown message"))] {
        let mut world = World::new(&there, settings(json!({}), 600));
        world.relay.without = without;
        world.run(0);
        // All that was asked for arrives before a tick.
        world.is_fast = true;
        while world.step() {}
        assert!((2_000..8_000).contains(&world.relay.sent), "{} events, {without:?}", world.relay.sent);
        world.is_fast = false;
        world.run_until("compared; 12000 events stored");
        assert_eq!(world.stored(), there, "{without:?}");
    }
}

#[test]
fn messages_without_end_and_large_ones_end_a_slice() {
    let there = events("there", [FIRST]);
    for is_large in [false, true] {
        let mut world = World::new(&there, settings(json!({}), 60));
        world.relay.without = Some(Without::Silence);
        world.run(1);
        let conn = world.conn.expect("it waits for an answer");
        if is_large {
            world.tell(conn, PeerEvent::TooLong);
        } else {
            for _ in 0..2_000 {
                world.tell(conn, PeerEvent::Text(r#"["NOTICE","hello"]"#));
            }
        }
        let words = match is_large {
            true => format!("a message of more than {PEER_MESSAGE_BYTES_MAX} bytes"),
            false => "messages without end".to_owned(),
        };
        assert_eq!(
            world.count(&format!("cut off: it sends {words}")),
            1,
            "{:?}",
            world.runtime.host.log.borrow()
        );
        assert!(world.runtime.host.log.borrow().len() < 15, "the log is not flooded");
    }
}

#[test]
fn rules_for_clients_apply_and_what_they_refuse_is_asked_for_once() {
    let note = |n: u64| event(&key(2)).at(FIRST + n);
    let signed = [
        note(0).sign(),
        note(1).kind(7).sign(),
        note(2).tag(["-"]).sign(),
        note(3).kind(1_059).tag(["p", key(3).hex()]).sign(),
        note(4).tag(["expiration", "1700000100"]).sign(),
    ];
    let parsed = signed.iter().map(|event| event_of_json(&event.json()).unwrap());
    let there: Events = parsed.map(|event| (event.id, event)).collect();
    let mut settings = settings(json!({}), 60);
    settings.policy.deny_kinds = vec![7];
    settings.limits.events_per_minute_max = 1;
    let mut world = World::new(&there, settings);
    world.run_until("compared; 2 events stored");
    let lines = world.runtime.store.lines();
    let kinds: Vec<_> = lines.iter().map(|line| CanonicalEvent::trusted(line).kind()).collect();
    assert_eq!(kinds.len(), 2);
    assert!(kinds.contains(&1) && kinds.contains(&1_059), "{kinds:?}: guarded events are copied too");
    let metrics = world.metrics(true);
    assert!(metrics.contains("relay_pull_events_refused_total{peer=\"wss://peer.example\"} "), "{metrics}");
    assert!((3..=5).contains(&world.relay.asked_ids), "{} ids", world.relay.asked_ids);
}

/// Regression: what this relay did not take was asked for with each comparison.
#[test]
fn what_is_refused_is_not_asked_for_with_the_next_comparison() {
    let now = World::new(&Events::new(), Settings::default()).runtime.now.seconds();
    let note = |n: u64| event(&key(2)).at(FIRST + n);
    // Of a kind that is refused; an older version; protected; too new for now.
    let signed = [
        note(0).sign(),
        note(1).kind(7).sign(),
        note(2).kind(0).sign(),
        note(3).tag(["-"]).sign(),
        event(&key(2)).at(now + 7_200).sign(),
    ];
    let newer = event_of_json(&note(4).kind(0).sign().json()).unwrap();
    let parsed = signed.iter().map(|event| event_of_json(&event.json()).unwrap());
    let there: Events = parsed.map(|event| (event.id, event)).collect();
    let mut settings = settings(json!({}), 600);
    settings.policy.deny_kinds = vec![7];
    let mut world = World::with(&[(newer.id, newer)].into(), &there, settings.clone());
    world.run(3_500);
    let (compared, asked) = (world.count("compared; "), world.relay.asked_ids);
    assert!(compared >= 5, "{:?}", world.runtime.host.log.borrow());
    assert_eq!(asked, 4 + compared, "once each, and each time the one that is too new");
    assert_eq!(world.runtime.store.count("edge_pull_refused"), 1);
    let written = world.runtime.store.rows().written;
    world.evict();
    world.run(3_500);
    assert!(world.relay.asked_ids < asked + 10, "also without memory: {}", world.relay.asked_ids);
    assert!(world.runtime.store.rows().written <= written + 20, "positions alone");
    // Its time comes.
    world.run(3_600);
    assert_eq!(world.stored().len(), 3);
    // Under other rules they are asked for once more.
    settings.policy.deny_kinds = Vec::new();
    world.runtime.reconfigure(settings);
    world.run(1_300);
    assert_eq!(world.stored().len(), 4);
}

/// Regression: when all 64 events of a tick were refused at admission, nothing brought about the next tick, and the slice stood
/// still until its end.
#[test]
fn what_admission_refuses_does_not_hold_up_the_rest() {
    let refused = (0..640).map(|n| event(&key(2)).kind(7).at(FIRST + 1_000 + n).sign());
    let refused = refused.map(|event| event_of_json(&event.json()).unwrap());
    let taken = events("there", (0..100).map(|n| FIRST + n));
    let there = both(&refused.map(|event| (event.id, event)).collect(), &taken);
    for without in [None, Some(Without::Notice("unknown"))] {
        let mut settings = settings(json!({}), 86_400);
        settings.policy.deny_kinds = vec![7];
        let mut world = World::new(&there, settings);
        world.relay.without = without;
        world.run(10);
        assert_eq!(world.count("compared; 100 events stored"), 1, "{:?}", world.runtime.host.log.borrow());
        assert_eq!((world.stored(), world.connections), (taken.clone(), 1), "{without:?}");
    }
}

/// Regression: what the retention had removed was fetched, stored and removed again with each comparison.
#[test]
fn what_the_retention_has_removed_is_not_copied_again() {
    const HOUR: u64 = 3_600;
    for filter in [json!({}), json!({"kinds": [0, 1, 30]})] {
        for without in [None, Some(Without::Notice("unknown"))] {
            let mut settings = settings(filter.clone(), 3_600);
            settings.store.retention_seconds = 24 * HOUR;
            settings.store.retention_kinds_spared = vec![30];
            let mut world = World::new(&Events::new(), settings);
            let now = world.runtime.now.seconds();
            // A profile and an event of a spared kind of long ago; notes of each ten minutes of a day and a half.
            let kept = [event(&key(2)).kind(0), event(&key(2)).kind(30)];
            let kept = kept.map(|draft| event_of_json(&draft.at(FIRST).sign().json()).unwrap());
            let kept: Events = kept.into_iter().map(|event| (event.id, event)).collect();
            let notes = events("there", (0..36 * 6).map(|n| now - n * 600));
            world.relay.events = both(&kept, &notes);
            world.relay.without = without;
            world.run(12 * HOUR);
            let newest = notes.iter().filter(|(_, note)| note.created_at > now - 10 * HOUR);
            let stored = world.stored();
            assert!(newest.clone().count() >= 60);
            assert!(newest.chain(&kept).all(|(id, _)| stored.contains_key(id)), "{filter} {without:?}");
            assert!(stored.len() < 82, "{filter} {without:?}: {} are stored", stored.len());
            if without.is_none() {
                assert!((146..=147).contains(&world.relay.sent), "{filter}: {} sent", world.relay.sent);
            }
            let metrics = world.metrics(true);
            let copied = "relay_pull_events_stored_total{peer=\"wss://peer.example\"} 14";
            assert!(metrics.contains(copied), "{metrics}");
        }
    }
}

/// Regression: reconciliations told the other relay the ids of guarded events.
#[test]
fn ids_of_guarded_events_do_not_reach_the_other_relay() {
    let wrap = event(&key(2)).at(FIRST + 3).kind(1_059).tag(["p", key(3).hex()]).sign();
    let wrap = event_of_json(&wrap.json()).unwrap();
    let here = both(&events("here", [FIRST + 1]), &[(wrap.id, wrap.clone())].into());
    let there = events("there", [FIRST + 2]);
    for has_it in [false, true] {
        for without in [None, Some(Without::Notice("unknown"))] {
            let there = if has_it { both(&there, &here) } else { there.clone() };
            let mut world = World::with(&here, &there, settings(json!({}), 600));
            world.relay.without = without;
            world.run_until("compared; 1 events stored");
            world.run(700);
            assert!(!world.relay.was_told_of(&wrap), "{has_it} {without:?}");
            let asked = usize::from(without.is_none());
            assert_eq!(world.relay.asked_ids, asked, "{has_it} {without:?}: what is here is not asked for");
        }
    }
}

#[test]
fn a_relay_that_is_down_is_tried_ever_more_rarely_also_without_memory() {
    let there = events("there", [FIRST]);
    let mut world = World::new(&there, settings(json!({}), 60));
    world.is_down = true;
    let begun = world.runtime.now;
    let mut tries = Vec::new();
    while world.runtime.now.millis_since(begun) < 86_400_000 {
        let before = world.connections;
        world.run(1);
        if world.connections > before {
            tries.push(world.runtime.now.seconds());
            world.evict();
        }
    }
    let waits: Vec<_> = tries.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!((25..150).contains(&waits.len()), "{waits:?}");
    assert!(waits[0] <= 6 && waits.iter().all(|wait| *wait <= 3_602), "{waits:?}");
    assert!(waits.iter().any(|wait| *wait > 1_000), "{waits:?}");
    assert!(world.count("refused; again in") >= waits.len());
    world.is_down = false;
    world.run(3_700);
    assert_eq!(world.stored(), there);
}

#[test]
fn a_store_that_fails_loses_nothing() {
    let there = events("there", (0..300).map(|n| FIRST + n));
    for without in [None, Some(Without::Notice("unknown"))] {
        let mut world = World::new(&there, settings(json!({}), 86_400));
        world.relay.without = without;
        world.runtime.drive();
        for _ in 0..120 {
            world.step();
        }
        world.runtime.store.is_broken.set(true);
        while world.step() {}
        world.runtime.store.is_broken.set(false);
        assert_eq!(world.count("this relay cannot store"), 1, "{:?}", world.runtime.host.log.borrow());
        world.run_until("compared; ");
        assert_eq!(world.stored(), there, "{without:?}");
    }
}

#[test]
fn without_relays_to_copy_from_there_is_no_row_and_no_alarm() {
    let mut runtime = Runtime::new(Settings::default(), Hibernates::Never);
    runtime.drive();
    assert!(!runtime.object().needs_alarms());
    assert_eq!(runtime.host.alarm.get(), None);
    assert!(runtime.host.to_peers.borrow().is_empty());
}
