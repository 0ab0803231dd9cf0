//! Tests of the router: who gets what, rows, failures, crashes.

mod crashes;
mod removal_records;

use std::sync::Arc;

use relay_engine::testing::event_of_json;
use relay_engine::testing::signing::{Draft, event, key};
use relay_engine::types::{Event, Now, PubKey, Seq};
use serde_json::{Value, json};

use super::{AgentEntry, Delivery, Router};
use crate::machine::AgentState;
use crate::secrets::Secrets;
use crate::testing::Sqlite;

const NOW: u64 = 1_800_000_000;

fn at(seconds: u64) -> Now {
    Now::from_seconds(NOW + seconds)
}

fn pubkey(number: u64) -> PubKey {
    PubKey(key(number).bytes())
}

/// An agent with the key of this number, for these kinds; `more` is merged into its manifest.
fn entry(number: u64, kinds: &[u16], more: Value) -> AgentEntry {
    let handlers: Vec<Value> =
        kinds.iter().map(|kind| json!({"kind": kind, "executor": "echo", "config": {}})).collect();
    let mut manifest = json!({"name": format!("agent {number}"), "handlers": handlers, "announce": false,
        "identity": {"imported": {"secret": format!("AGENT_{number}")}}});
    for (field, value) in more.as_object().unwrap() {
        manifest[field] = value.clone();
    }
    AgentEntry {
        pubkey: pubkey(number),
        owner: pubkey(99),
        state: AgentState::Active,
        version: 1,
        manifest: serde_json::from_value(manifest).unwrap(),
        deployed_at: NOW,
    }
}

/// An agent that is paid by zaps.
fn zapped(number: u64, state: AgentState) -> AgentEntry {
    let payment = json!({"policy": "prepay", "wallet_ref": "AGENT_WALLET", "zap": "x@pay.example"});
    AgentEntry { state, ..entry(number, &[5_050], json!({"payment": payment})) }
}

/// `AGENT_<number>` is the key of this number.
fn secrets() -> Arc<dyn Secrets + Send + Sync> {
    Arc::new(|name: &str| {
        let number: u64 = name.strip_prefix("AGENT_")?.parse().ok()?;
        Some(format!("{number:064x}"))
    })
}

fn open(conn: &Sqlite) -> Router<Sqlite> {
    Router::open(conn.clone(), secrets()).unwrap()
}

/// A router that has confirmed position 0 and knows these agents.
fn router_with(conn: &Sqlite, entries: impl IntoIterator<Item = AgentEntry>) -> Router<Sqlite> {
    let mut router = open(conn);
    router.accept(at(0), Vec::new(), Seq(0));
    entries.into_iter().for_each(|entry| router.put(at(0), entry).unwrap());
    router
}

fn signed(draft: Draft) -> Event {
    event_of_json(&draft.sign().json()).unwrap()
}

fn request(author: u64, kind: u16, serial: u64) -> Draft {
    event(&key(author)).kind(kind).at(NOW).content(serial.to_string())
}

trait To {
    /// Names the key of this number.
    fn to(self, number: u64) -> Self;
}

impl To for Draft {
    fn to(self, number: u64) -> Self {
        self.tag(["p", key(number).hex()])
    }
}

fn deliveries(router: &mut Router<Sqlite>) -> Vec<Delivery> {
    std::iter::from_fn(|| router.poll_delivery()).collect()
}

/// Makes all deliveries, which succeed; returns the agents, sorted.
fn deliver_all(router: &mut Router<Sqlite>) -> Vec<PubKey> {
    let made = deliveries(router);
    for delivery in &made {
        router.handle_delivered(at(0), delivery.id, true);
    }
    assert!(router.is_ready());
    let mut agents: Vec<PubKey> = made.iter().map(|delivery| delivery.agent).collect();
    agents.sort();
    agents
}

/// Those that take no jobs, too: what has come is their customers'.
#[test]
fn zap_receipts_go_to_agents_that_are_paid_by_zaps() {
    let conn = Sqlite::new();
    let mut router = router_with(&conn, [entry(1, &[5_050], json!({}))]);
    let has_receipts = |router: &Router<Sqlite>| {
        let filters = router.filters().unwrap();
        filters[0].kinds.as_ref().unwrap().contains(&9_735)
    };
    assert!(!has_receipts(&router));
    for (number, state) in [(2, AgentState::Active), (3, AgentState::Paused), (4, AgentState::Draining)] {
        router.put(at(0), zapped(number, state)).unwrap();
        assert!(has_receipts(&router));
    }
    let mut position = 0;
    let mut check = |router: &mut Router<Sqlite>, draft: Draft, want: &[u64]| {
        position += 1;
        router.accept(at(0), vec![signed(draft)], Seq(position));
        let mut agents: Vec<PubKey> = want.iter().map(|number| pubkey(*number)).collect();
        agents.sort();
        assert_eq!(deliver_all(router), agents);
    };
    for (serial, named, want) in [(0, 1, &[][..]), (1, 2, &[2]), (2, 3, &[3]), (3, 4, &[4]), (4, 77, &[])] {
        check(&mut router, request(9, 9_735, serial).to(named), want);
    }
    check(&mut router, request(9, 9_735, 5), &[]);
    // It knows them again, and forgets them with the last of them.
    drop(router);
    let mut router = open(&conn);
    assert!(has_receipts(&router));
    router.put(at(0), entry(2, &[5_050], json!({}))).unwrap();
    for number in [3, 4] {
        assert!(has_receipts(&router));
        router.put(at(0), zapped(number, AgentState::Deleted)).unwrap();
    }
    assert!(!has_receipts(&router));
}

#[test]
fn events_go_to_the_agents_they_concern() {
    let conn = Sqlite::new();
    let callers = json!({"access": {"agent_callers": true}});
    let mut router = router_with(
        &conn,
        [
            entry(1, &[5_050, 5_100], json!({})),
            entry(2, &[5_050], json!({"access": {"open_jobs": false}})),
            entry(3, &[5_050], callers),
            AgentEntry { state: AgentState::Paused, ..entry(4, &[5_050], json!({})) },
            AgentEntry { state: AgentState::Draining, ..entry(5, &[5_050], json!({})) },
        ],
    );
    let mut position = 0;
    let mut check = |what: &str, draft: Draft, want: &[u64]| {
        position += 1;
        let event = signed(draft);
        router.accept(at(0), vec![event.clone()], Seq(position));
        let mut agents: Vec<PubKey> = want.iter().map(|number| pubkey(*number)).collect();
        agents.sort();
        assert_eq!(deliver_all(&mut router), agents, "{what}");
        event
    };
    let open =
        check("an open job goes to those that take open jobs of its kind", request(9, 5_050, 0), &[1, 3]);
    check("another kind", request(9, 5_100, 1), &[1]);
    check("a kind that nobody handles", request(9, 5_200, 2), &[]);
    let named = check("a job that names an agent goes to it", request(9, 5_050, 3).to(2), &[2]);
    check("even twice", request(9, 5_050, 4).to(2).to(2), &[2]);
    check("also if the agent has no handler, so that it can say so", request(9, 5_200, 5).to(1), &[1]);
    check("to each that is named", request(9, 5_050, 6).to(1).to(77).to(3), &[1, 3]);
    check("one that names only others is not ours", request(9, 5_050, 7).to(77), &[]);
    check("nor one that names nonsense", request(9, 5_050, 8).tag(["p", "npub1xyz"]), &[]);
    check("nor one whose p tag is empty", request(9, 5_050, 9).tag(["p"]), &[]);
    check("a paused agent that is named says so", request(9, 5_050, 10).to(4), &[4]);
    check("a draining one too", request(9, 5_050, 11).to(5), &[5]);
    check("an agent's request goes to agents that allow it", request(1, 5_050, 12), &[3]);
    check("also if it names others", request(1, 5_050, 13).to(2), &[]);
    check("never to itself", request(3, 5_050, 14).to(3), &[]);
    check("nor if a paused one asks", request(4, 5_050, 15).to(1), &[]);
    check("a ping", request(9, 7_007, 16).to(2), &[2]);
    check("a ping of nobody", request(9, 7_007, 17), &[]);
    check("a ping of a paused one", request(9, 7_007, 20).to(4), &[]);
    check("a result", request(9, 6_050, 18).to(1), &[]);
    let delete = |author: u64, id: String| event(&key(author)).kind(5).at(NOW).tag(["e", &id]);
    check("a cancellation", delete(9, open.id.to_string()), &[1, 3]);
    check("of two", delete(9, open.id.to_string()).tag(["e", &named.id.to_string()]), &[1, 2, 3]);
    check("of another's job", delete(8, open.id.to_string()), &[]);
    check("of what is no job", delete(9, "ab".repeat(32)), &[]);
    check("of nonsense", delete(9, "x".to_owned()), &[]);
    check("a request to vanish", event(&key(9)).kind(62).at(NOW), &[1, 2, 3, 4, 5]);
    check("of somebody who never asked", event(&key(8)).kind(62).at(NOW), &[]);

    // Those that were given a request are remembered, also when they are paused meanwhile.
    drop(router);
    let mut router = super::tests::open(&conn);
    router.put(at(0), AgentEntry { state: AgentState::Paused, ..entry(1, &[5_050], json!({})) }).unwrap();
    router.accept(at(0), vec![signed(delete(9, open.id.to_string()).content("again"))], Seq(position + 1));
    let mut want = vec![pubkey(1), pubkey(3)];
    want.sort();
    assert_eq!(deliver_all(&mut router), want);
}

#[test]
fn an_open_job_goes_to_five_agents_and_jobs_spread() {
    let conn = Sqlite::new();
    let mut router = router_with(&conn, (1..=20).map(|number| entry(number, &[5_050], json!({}))));
    let mut given = std::collections::BTreeMap::new();
    for serial in 0..200 {
        router.accept(at(0), vec![signed(request(99, 5_050, serial))], Seq(serial + 1));
        let agents = deliver_all(&mut router);
        assert_eq!(agents.len(), 5);
        agents.into_iter().for_each(|agent| *given.entry(agent).or_insert(0) += 1);
    }
    assert_eq!(given.len(), 20);
    // 50 each on average.
    assert!(given.values().all(|jobs| (25..=75).contains(jobs)), "{given:?}");
}

#[test]
fn a_batch_writes_one_row_and_one_that_concerns_nobody_none() {
    let conn = Sqlite::new();
    let mut router = router_with(&conn, [entry(1, &[5_050], json!({})), entry(2, &[5_050], json!({}))]);
    conn.take_rows_written();
    let batch =
        |serials: std::ops::Range<u64>| serials.map(|serial| signed(request(9, 5_050, serial))).collect();
    for n in 0..100 {
        router.accept(at(0), batch(10 * n..10 * n + 10), Seq(10 * n + 10));
        assert_eq!(deliver_all(&mut router).len(), 2);
        assert_eq!(conn.take_rows_written(), 1, "batch {n}");
    }
    for seq in 1_001..1_999 {
        router.accept(at(0), vec![signed(request(9, 5_100, seq))], Seq(seq));
        assert_eq!(deliver_all(&mut router), []);
    }
    assert_eq!((conn.take_rows_written(), router.position()), (0, Ok(Some(Seq(1_998)))));
    router.accept(at(0), Vec::new(), Seq(2_000));
    assert_eq!(conn.take_rows_written(), 1, "the position moves on now and then");
    assert_eq!(open(&conn).position(), Ok(Some(Seq(2_000))));
    // The ring of rows does not grow.
    for n in 0..80 {
        router.accept(at(0), batch(10_000 + 200 * n..10_200 + 200 * n), Seq(3_000 + n));
        deliver_all(&mut router);
    }
    assert_eq!(conn.count("agent_router_batch"), 64);
    assert_eq!(open(&conn).position(), Ok(Some(Seq(3_079))));
}

#[test]
fn an_agent_that_fails_holds_up_nobody_and_gets_its_events_in_order() {
    let conn = Sqlite::new();
    let mut router = router_with(&conn, [entry(1, &[5_050], json!({})), entry(2, &[5_050], json!({}))]);
    let events: Vec<Event> = (0..5).map(|serial| signed(request(9, 5_050, serial))).collect();
    for (number, event) in events.iter().enumerate() {
        router.accept(at(0), vec![event.clone()], Seq(number as u64 + 1));
        let made = deliveries(&mut router);
        // Once it has failed, its events wait, and it is left alone.
        assert_eq!(made.len(), if number == 0 { 2 } else { 1 });
        for delivery in made {
            router.handle_delivered(at(0), delivery.id, delivery.agent == pubkey(2));
        }
        assert!(router.is_ready(), "the next batch does not wait for it");
    }
    // Also across a restart.
    drop(router);
    let mut router = open(&conn);
    let mut got = Vec::new();
    let mut now = 0;
    while let Some(delivery) = router.poll_delivery() {
        assert_eq!(delivery.agent, pubkey(1));
        assert!(router.poll_delivery().is_none(), "one at a time");
        let fails = now == 0 || now == 1;
        if fails {
            router.handle_delivered(at(now), delivery.id, false);
            assert!(router.poll_delivery().is_none(), "not before its time");
            let again = router.poll_timeout().unwrap();
            assert!(again > at(now));
            now = again.seconds() - NOW;
            router.handle_timeout(again);
        } else {
            got.extend(delivery.events);
            router.handle_delivered(at(now), delivery.id, true);
        }
        now += u64::from(fails && now == 0);
    }
    assert_eq!(got, events);
    assert_eq!((conn.count("agent_router_outbox"), router.poll_timeout()), (0, None));
}

#[test]
fn a_slow_delivery_is_waited_for_two_seconds() {
    let conn = Sqlite::new();
    let mut router = router_with(&conn, [entry(1, &[5_050], json!({})), entry(2, &[5_050], json!({}))]);
    let (first, second) = (signed(request(9, 5_050, 0)), signed(request(9, 5_050, 1)));
    router.accept(at(0), vec![first], Seq(1));
    let made = deliveries(&mut router);
    let (slow, quick): (Vec<_>, Vec<_>) = made.into_iter().partition(|made| made.agent == pubkey(1));
    router.handle_delivered(at(0), quick[0].id, true);
    assert!(!router.is_ready());
    let due = router.poll_timeout().unwrap();
    assert_eq!(due, at(2));
    router.handle_timeout(due);
    assert!(router.is_ready());
    router.accept(at(2), vec![second.clone()], Seq(2));
    assert_eq!(deliver_all(&mut router), [pubkey(2)], "the slow one has a delivery open");
    router.handle_delivered(at(3), slow[0].id, true);
    let next = router.poll_delivery().unwrap();
    assert_eq!(
        (next.agent, &next.events[..]),
        (pubkey(1), &[second][..]),
        "what is accepted is not repeated"
    );
    router.handle_delivered(at(3), next.id, true);
    assert_eq!((conn.count("agent_router_outbox"), router.poll_timeout()), (0, None));
}

#[test]
fn a_full_disk_holds_the_batch_until_there_is_room() {
    let conn = Sqlite::new();
    let mut router = router_with(&conn, [entry(1, &[5_050], json!({}))]);
    conn.set_full(true);
    let event = signed(request(9, 5_050, 0));
    router.accept(at(0), vec![event.clone()], Seq(1));
    let delivery = router.poll_delivery().unwrap();
    router.handle_delivered(at(0), delivery.id, false);
    assert!(!router.is_ready());
    router.handle_timeout(at(1));
    assert!(!router.is_ready());
    assert_eq!(open(&conn).position(), Ok(Some(Seq(0))));
    assert!(router.put(at(1), entry(2, &[5_050], json!({}))).is_err());
    assert!(router.get(&pubkey(2)).is_none());
    conn.set_full(false);
    router.handle_timeout(at(2));
    assert!(router.is_ready());
    router.handle_timeout(at(3));
    assert_eq!(router.poll_delivery().unwrap().events, [event]);
}

#[test]
fn a_deleted_agent_leaves_nothing() {
    let conn = Sqlite::new();
    let mut router = router_with(&conn, [entry(1, &[5_050], json!({})), entry(2, &[5_050], json!({}))]);
    router.accept(at(0), vec![signed(request(9, 5_050, 0))], Seq(1));
    for delivery in deliveries(&mut router) {
        router.handle_delivered(at(0), delivery.id, false);
    }
    router.accept(at(0), vec![signed(request(9, 5_050, 1))], Seq(2));
    for number in [1, 2] {
        router
            .put(at(0), AgentEntry { state: AgentState::Deleted, ..entry(number, &[], json!({})) })
            .unwrap();
    }
    assert!(router.is_ready() && router.filters().is_none() && router.agents().next().is_none());
    router.handle_timeout(at(100));
    assert!(router.poll_delivery().is_none());
    assert_eq!((conn.count("agent_router_outbox"), conn.count("agent_router_agent")), (0, 0));
}

#[test]
fn entries_survive_a_restart() {
    let conn = Sqlite::new();
    let mut entries =
        vec![entry(1, &[5_050], json!({"name": "b"})), entry(2, &[5_100], json!({"name": "a"}))];
    entries[0].state = AgentState::Draining;
    drop(router_with(&conn, entries.clone()));
    let router = open(&conn);
    entries.reverse();
    assert_eq!(router.agents().cloned().collect::<Vec<_>>(), entries);
    let filters = router.filters().unwrap();
    let mut normal = filters.clone();
    normal.iter_mut().for_each(relay_engine::types::Filter::normalise);
    assert_eq!(filters, normal);
}

#[test]
fn active_announced_agents_have_a_heartbeat_every_four_minutes() {
    let conn = Sqlite::new();
    let announced = json!({"announce": true});
    let mut router = router_with(
        &conn,
        [
            entry(1, &[5_050], announced.clone()),
            entry(2, &[5_050], json!({})),
            AgentEntry { state: AgentState::Paused, ..entry(3, &[5_050], announced.clone()) },
        ],
    );
    let authors =
        |heartbeats: Vec<Event>| heartbeats.iter().map(|heartbeat| heartbeat.pubkey).collect::<Vec<_>>();
    let heartbeats = router.poll_heartbeats(at(0));
    assert_eq!(heartbeats[0].kind, 11_998);
    assert_eq!(heartbeats[0].expires_at, NOW + 600);
    assert_eq!(authors(heartbeats), [pubkey(1)]);
    assert_eq!(router.poll_timeout(), Some(at(240)));
    assert_eq!(router.poll_heartbeats(at(239)), []);
    // A restart does not repeat a round; an agent that becomes active does not wait for one.
    let mut router = open(&conn);
    assert_eq!(router.poll_heartbeats(at(239)), []);
    conn.take_rows_written();
    router.put(at(239), entry(3, &[5_050], announced.clone())).unwrap();
    assert_eq!(router.poll_timeout(), Some(Now::default()));
    assert_eq!(authors(router.poll_heartbeats(at(239))), [pubkey(3)]);
    router.put(at(239), entry(3, &[5_050, 5_100], announced)).unwrap();
    assert_eq!(router.poll_heartbeats(at(239)), [], "a new version is no reason");
    assert_eq!(conn.take_rows_written(), 2);
    assert_eq!(router.poll_heartbeats(router.poll_timeout().unwrap()).len(), 2);
    assert_eq!(conn.take_rows_written(), 1, "a round writes one row");
    router.put(at(300), AgentEntry { state: AgentState::Deleted, ..entry(1, &[], json!({})) }).unwrap();
    router.put(at(300), AgentEntry { state: AgentState::Paused, ..entry(3, &[], json!({})) }).unwrap();
    assert_eq!(router.poll_timeout(), None, "without active announced agents there is no timer");
}

#[test]
fn many_heartbeats_come_in_batches() {
    let conn = Sqlite::new();
    let agents = (1..=250).map(|number| entry(number, &[5_050], json!({"announce": true})));
    let mut router = router_with(&conn, agents);
    let mut batches = Vec::new();
    while router.poll_timeout().unwrap() <= at(0) {
        batches.push(router.poll_heartbeats(at(0)).len());
    }
    assert_eq!(batches, [100, 100, 50]);
}

#[test]
fn heartbeats_go_on_when_a_clock_that_was_ahead_is_set_right() {
    let conn = Sqlite::new();
    let mut router = router_with(&conn, [entry(1, &[5_050], json!({"announce": true}))]);
    assert_eq!(router.poll_heartbeats(at(1_000_000)).len(), 1);
    drop(router);
    let mut router = open(&conn);
    router.accept(at(10), Vec::new(), Seq(1));
    assert_eq!(router.poll_timeout(), Some(at(10)));
    assert_eq!(router.poll_heartbeats(at(10)).len(), 1);
    assert_eq!(router.poll_timeout(), Some(at(240)));
    assert_eq!(router.poll_heartbeats(at(240)).len(), 1);
}

#[test]
fn one_event_is_given_to_sixteen_of_the_agents_it_names() {
    let conn = Sqlite::new();
    let mut router = router_with(&conn, (1..=40).map(|number| entry(number, &[5_050], json!({}))));
    // Those of other hosts do not count, nor is one counted twice.
    let others = request(99, 5_050, 0).to(70).to(40).to(71).to(40);
    let named = signed((1..=39).fold(others, Draft::to));
    let mut want: Vec<PubKey> = (1..=15).chain([40]).map(pubkey).collect();
    want.sort();
    router.accept(at(0), vec![named.clone()], Seq(1));
    assert_eq!(deliver_all(&mut router), want);
    let ping = signed((1..=40).fold(request(99, 7_007, 1), Draft::to));
    router.accept(at(0), vec![ping], Seq(2));
    assert_eq!(deliver_all(&mut router).len(), 16);
    // The sixteen are remembered, also across a restart.
    drop(router);
    let mut router = open(&conn);
    let cancellation = event(&key(99)).kind(5).at(NOW).tag(["e", &named.id.to_string()]);
    router.accept(at(0), vec![signed(cancellation)], Seq(3));
    assert_eq!(deliver_all(&mut router), want);
}

#[test]
fn deliveries_under_way_are_bounded_in_bytes_and_the_batch_does_not_wait_for_room() {
    const BYTES: usize = 300 << 10;
    let conn = Sqlite::new();
    let agents: Vec<u64> = (1..=40).collect();
    let mut router = router_with(&conn, agents.iter().map(|number| entry(*number, &[5_050], json!({}))));
    let large = |number: u64| {
        signed(
            event(&key(99)).kind(5_050).at(NOW).content("x".repeat(BYTES) + &number.to_string()).to(number),
        )
    };
    router.accept(at(0), agents.iter().map(|number| large(*number)).collect(), Seq(1));
    let made = deliveries(&mut router);
    assert_eq!(made.len(), (super::in_flight::BYTES_MAX).div_ceil(BYTES + 5_000));
    assert!(!router.is_ready());
    router.handle_delivered(at(1), made[0].id, true);
    let next = deliveries(&mut router);
    assert_eq!(next.len(), 1, "there is room for one");
    // None of these agents answers in time: the others' events are stored, and the stream goes on.
    assert_eq!(router.poll_timeout(), Some(at(2)));
    router.handle_timeout(at(2));
    assert!(router.is_ready());
    assert_eq!(open(&conn).position(), Ok(Some(Seq(1))));
    assert!(router.poll_delivery().is_none(), "still no room");
    for delivery in made[1..].iter().chain(&next) {
        router.handle_delivered(at(3), delivery.id, true);
    }
    router.handle_timeout(at(10));
    let mut given = made.len() + next.len();
    loop {
        let made = deliveries(&mut router);
        if made.is_empty() {
            break;
        }
        for delivery in made {
            given += 1;
            router.handle_delivered(at(10), delivery.id, true);
        }
    }
    assert_eq!((given, conn.count("agent_router_outbox")), (40, 0));
}

#[test]
fn what_waits_is_bounded_in_bytes_and_what_is_dropped_is_counted() {
    let conn = Sqlite::new();
    let mut router = router_with(&conn, [entry(1, &[5050], json!({}))]);
    let large = |serial| signed(request(9, 5050, serial).content(format!("{serial}{}", "x".repeat(900_000))));
    let fail = |router: &mut Router<Sqlite>| {
        for Delivery { id, .. } in deliveries(router) {
            router.handle_delivered(at(1), id, false);
        }
    };
    for serial in 0..40 {
        router.accept(at(1), vec![large(serial)], Seq(serial + 1));
        fail(&mut router);
        assert!(router.is_ready());
    }
    // The first event that reaches 16 MiB is still kept.
    assert_eq!(conn.count("agent_router_outbox"), 19);
    let dropped = router.take_dropped();
    assert_eq!(dropped.into_iter().collect::<Vec<_>>(), [(pubkey(1), 21)]);
    assert!(router.take_dropped().is_empty(), "told once");

    // Whoever opens it again knows how much waits, and what is delivered makes room.
    drop(router);
    let mut router = open(&conn);
    router.accept(at(2), vec![large(50)], Seq(51));
    assert_eq!(router.take_dropped().values().sum::<u64>(), 1);
    let mut given = 0;
    while let Some(Delivery { id, events, .. }) = router.poll_delivery() {
        given += events.len();
        router.handle_delivered(at(3), id, true);
    }
    assert_eq!((given, conn.count("agent_router_outbox")), (19, 0));
    router.accept(at(4), vec![large(60)], Seq(61));
    assert_eq!((deliver_all(&mut router), router.take_dropped().len()), (vec![pubkey(1)], 0));
}
