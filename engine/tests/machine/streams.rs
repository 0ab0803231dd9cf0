//! Streams: the events that a host receives, and that clients do not notice streams.

use relay_engine::relay::{Config, StreamId};
use relay_engine::store::Seq;
use relay_engine::testing::semantics::{Client, MachineWorld, RelayUnderTest, Tuning};
use relay_engine::testing::signing::{Signed, event, key};
use relay_engine::types::{Filter, Kind};

fn world() -> MachineWorld {
    MachineWorld::new(Config::default(), Tuning::default())
}

fn kinds(kinds: &[Kind]) -> Filter {
    Filter { kinds: Some(kinds.into()), ..Filter::default() }
}

fn publish(client: &mut dyn Client, event: &Signed) {
    client.send(&format!(r#"["EVENT",{}]"#, event.json()));
    let ok = format!(r#"["OK","{}",true,"""#, event.id);
    while let Some(frame) = client.recv() {
        if frame.starts_with(&ok) {
            return;
        }
    }
    panic!("no {ok}] came");
}

/// Opens a live stream on a shard.
fn open(world: &mut MachineWorld, shard: usize, filters: &[Filter]) -> StreamId {
    world.with_shard(shard, |relay| relay.open_stream(filters, None)).expect("memory does not fail")
}

/// Opens a stream after this sequence number.
fn open_after(world: &mut MachineWorld, filters: &[Filter], after: u64) -> StreamId {
    world.with_shard(0, |relay| relay.open_stream(filters, Some(Seq(after)))).expect("memory does not fail")
}

/// Ids of the received events.
fn polled(world: &mut MachineWorld, stream: StreamId) -> Vec<String> {
    numbered(world, stream).into_iter().map(|(_, id)| id).collect()
}

/// Sequence numbers and ids of the received events.
fn numbered(world: &mut MachineWorld, stream: StreamId) -> Vec<(Option<u64>, String)> {
    world.settle();
    world.with_shard(0, |relay| {
        std::iter::from_fn(|| relay.poll_stream(stream))
            .map(|(seq, event)| (seq.map(|seq| seq.0), event.id.to_string()))
            .collect()
    })
}

fn position(world: &mut MachineWorld, stream: StreamId) -> u64 {
    world.with_shard(0, |relay| relay.stream_position(stream)).expect("it is open").0
}

#[test]
fn a_stream_receives_matches_of_every_shard_once() {
    let mut world = world();
    let jobs = open(&mut world, 0, &[kinds(&[5_000, 7_000])]);
    let all = open(&mut world, 0, &[kinds(&[7_000]), Filter::default()]);
    let now = world.now();
    // The first client is on shard 0, the second on shard 1.
    let mut clients = [world.connect(), world.connect()];
    let job = event(&key(1)).kind(5_000).at(now).sign();
    let answer = event(&key(2)).kind(7_000).at(now).sign();
    let note = event(&key(3)).at(now).sign();
    let ephemeral = event(&key(3)).kind(20_000).at(now).sign();
    for (index, event) in [&job, &answer, &note, &ephemeral].into_iter().enumerate() {
        publish(&mut *clients[index % 2], event);
    }
    // The same event from the other shard is a duplicate and not delivered.
    publish_duplicate(&mut *clients[1], &job);
    let stored = |n: u64, event: &Signed| (Some(n), event.id.clone());
    assert_eq!(numbered(&mut world, jobs), [stored(1, &job), stored(2, &answer)]);
    let all = numbered(&mut world, all);
    let (ephemeral_ones, stored_ones): (Vec<_>, Vec<_>) = all.into_iter().partition(|(seq, _)| seq.is_none());
    assert_eq!(stored_ones, [stored(1, &job), stored(2, &answer), stored(3, &note)]);
    assert_eq!(ephemeral_ones, [(None, ephemeral.id)]);
}

fn publish_duplicate(client: &mut dyn Client, event: &Signed) {
    client.send(&format!(r#"["EVENT",{}]"#, event.json()));
    let ok = format!(r#"["OK","{}",true,"duplicate: "#, event.id);
    assert!(std::iter::from_fn(|| client.recv()).any(|frame| frame.starts_with(&ok)), "no {ok} came");
}

#[test]
fn the_read_guard_does_not_apply_to_streams() {
    let mut world = world();
    let stream = open(&mut world, 0, &[kinds(&[1059])]);
    let wrap = event(&key(1)).kind(1059).at(world.now()).tag(["p", key(2).hex()]).sign();
    let mut client = world.connect();
    publish(&mut *client, &wrap);
    assert_eq!(polled(&mut world, stream).len(), 1);
}

#[test]
fn refused_and_forged_events_are_not_delivered() {
    let mut world = world();
    let stream = open(&mut world, 0, &[Filter::default()]);
    let now = world.now();
    let mut client = world.connect();
    let refused = [
        event(&key(1)).at(now).sign().forged(),
        event(&key(1)).kind(22242).at(now).sign(),
        event(&key(1)).at(now + 1_000_000).sign(),
        event(&key(1)).at(now).tag(["expiration", "1"]).sign(),
        event(&key(1)).kind(20_000).at(now).sign().forged(),
    ];
    for event in &refused {
        client.send(&format!(r#"["EVENT",{}]"#, event.json()));
    }
    let refusals = std::iter::from_fn(|| client.recv()).filter(|frame| frame.contains(",false,")).count();
    assert_eq!(refusals, refused.len());
    assert!(polled(&mut world, stream).is_empty());
}

#[test]
fn a_closed_stream_receives_nothing_and_its_id_is_not_reused() {
    let mut world = world();
    let now = world.now();
    let mut client = world.connect();
    let first = open(&mut world, 0, &[kinds(&[1])]);
    let before = event(&key(1)).at(now).content("before").sign();
    publish(&mut *client, &before);
    world.with_shard(0, |relay| {
        relay.close_stream(first);
        relay.close_stream(first);
    });
    let second = open(&mut world, 0, &[kinds(&[1])]);
    assert_ne!(first, second);
    let after = event(&key(1)).at(now).content("after").sign();
    publish(&mut *client, &after);
    assert_eq!(polled(&mut world, first), Vec::<String>::new());
    assert_eq!(polled(&mut world, second), [after.id]);
}

#[test]
fn streams_and_subscriptions_are_counted_and_matched_side_by_side() {
    let mut world = world();
    let now = world.now();
    let mut client = world.connect();
    client.send(r#"["REQ","sub",{"kinds":[1]}]"#);
    while client.recv().is_some() {}
    let stream = open(&mut world, 0, &[kinds(&[1])]);
    assert_eq!(world.with_shard(0, |relay| relay.metrics().subscriptions), 1, "clients' subscriptions");
    let note = event(&key(1)).at(now).sign();
    client.send(&format!(r#"["EVENT",{}]"#, note.json()));
    let frames: Vec<String> = std::iter::from_fn(|| client.recv()).collect();
    assert_eq!(
        frames.iter().filter(|frame| frame.starts_with(r#"["EVENT","sub","#)).count(),
        1,
        "{frames:?}"
    );
    assert_eq!(polled(&mut world, stream), [note.id]);
    drop(client);
    assert_eq!(world.with_shard(0, |relay| relay.metrics().subscriptions), 0);
    // The stream stays open.
    let mut other = world.connect();
    publish(&mut *other, &event(&key(2)).at(now).sign());
    assert_eq!(polled(&mut world, stream).len(), 1);
}

/// `n` notes with ascending `created_at`, published by one client.
fn notes(world: &mut MachineWorld, n: usize) -> Vec<Signed> {
    let now = world.now();
    let mut client = world.connect();
    let notes: Vec<Signed> =
        (0..n).map(|n| event(&key(1)).at(now).content(format!("note {n}, at {now}")).sign()).collect();
    for note in &notes {
        publish(&mut *client, note);
    }
    notes
}

fn ids(events: &[Signed]) -> Vec<String> {
    events.iter().map(|event| event.id.clone()).collect()
}

#[test]
fn a_stream_opened_after_a_sequence_number_receives_stored_events_and_goes_live_without_a_gap() {
    let mut world = world();
    let before = notes(&mut world, 10);
    let all = open_after(&mut world, &[kinds(&[1])], 0);
    let some = open_after(&mut world, &[kinds(&[1])], 7);
    let now = world.now() + 1;
    world.advance(1);
    // Some are published while the streams read stored events, some when they are live.
    let mut client = world.connect();
    let later: Vec<Signed> =
        (0..4).map(|n| event(&key(2)).at(now).content(format!("later {n}")).sign()).collect();
    for note in &later[..2] {
        publish(&mut *client, note);
    }
    let mut seen = polled(&mut world, all);
    for note in &later[2..] {
        publish(&mut *client, note);
    }
    seen.extend(polled(&mut world, all));
    assert_eq!(seen, [ids(&before), ids(&later)].concat());
    assert_eq!(polled(&mut world, some), [ids(&before[7..]), ids(&later)].concat());
    assert_eq!(position(&mut world, all), 14);
}

#[test]
fn a_slow_consumer_costs_bounded_memory_and_misses_nothing_that_is_stored() {
    let mut config = Config::default();
    config.limits.outbox_pause_bytes = 2_000;
    config.limits.outbox_bytes_max = 4_000;
    let mut world = MachineWorld::new(config, Tuning::default());
    let stream = open(&mut world, 0, &[Filter::default()]);
    let sent = notes(&mut world, 100);
    let now = world.now();
    let mut client = world.connect();
    for n in 0..40 {
        publish(&mut *client, &event(&key(3)).kind(20_000).at(now).content(n.to_string()).sign());
    }
    // It has received nothing yet, and its queue is a fraction of the stored events.
    let (mut stored, mut ephemeral) = (Vec::new(), 0);
    let mut most = 0;
    loop {
        world.settle();
        let came: Vec<_> =
            world.with_shard(0, |relay| std::iter::from_fn(|| relay.poll_stream(stream)).collect());
        if came.is_empty() {
            break;
        }
        most = most.max(came.iter().map(|(_, event)| event.json().len()).sum());
        for (seq, event) in came {
            if seq.is_some() { stored.push(event.id.to_string()) } else { ephemeral += 1 }
        }
    }
    assert_eq!(stored, ids(&sent), "all of them, in order");
    assert!(most <= 4_000 + 1_000, "{most} bytes waited");
    let missed = world.with_shard(0, |relay| relay.stream_missed(stream));
    assert_eq!((ephemeral + missed, missed > 0), (40, true), "what could not wait is counted");
    assert_eq!(world.with_shard(0, |relay| relay.stream_missed(stream)), 0, "once");
}

#[test]
fn the_position_advances_past_events_that_do_not_match() {
    let mut world = world();
    let stream = open_after(&mut world, &[kinds(&[7_000])], 0);
    notes(&mut world, 5);
    assert!(polled(&mut world, stream).is_empty());
    assert_eq!(position(&mut world, stream), 5);
    let job = event(&key(1)).kind(7_000).at(world.now()).sign();
    publish(&mut *world.connect(), &job);
    world.settle();
    assert_eq!(position(&mut world, stream), 5, "one that matches waits");
    assert_eq!(polled(&mut world, stream), [job.id]);
    assert_eq!(position(&mut world, stream), 6);
    assert_eq!(world.with_shard(1, |relay| relay.stream_position(stream)), None, "it is of the other shard");
}

#[test]
fn events_removed_while_a_consumer_was_away_are_not_delivered() {
    let mut world = world();
    let [kept, deleted, expiring] =
        [("kept", None), ("deleted", None), ("expiring", Some(10))].map(|(content, left)| {
            let draft = event(&key(1)).at(world.now()).content(content);
            match left {
                Some(left) => draft.tag(["expiration", &(world.now() + left).to_string()]).sign(),
                None => draft.sign(),
            }
        });
    let mut client = world.connect();
    for event in [&kept, &deleted, &expiring] {
        publish(&mut *client, event);
    }
    let deletion = event(&key(1)).kind(5).at(world.now()).tag(["e", &deleted.id]).sign();
    publish(&mut *client, &deletion);
    world.advance(11);
    let stream = open_after(&mut world, &[Filter::default()], 0);
    assert_eq!(polled(&mut world, stream), [kept.id, deletion.id]);
    assert_eq!(position(&mut world, stream), 4);
}
