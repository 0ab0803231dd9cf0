//! Internal streams: what a host that lives beside the relay is handed, and that clients see nothing of it.

use relay_engine::relay::{Config, StreamId};
use relay_engine::testing::semantics::{Client, MachineWorld, Tuning, World};
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

fn polled(world: &mut MachineWorld, shard: usize) -> Vec<(StreamId, String)> {
    world.with_shard(shard, |relay| {
        std::iter::from_fn(|| relay.poll_stream())
            .map(|(stream, event)| (stream, event.id.to_string()))
            .collect()
    })
}

#[test]
fn a_stream_is_handed_what_matches_from_every_shard_once() {
    let mut world = world();
    let streams = world.with_shard(0, |relay| {
        [
            relay.open_stream(&[kinds(&[5_000, 7_000])]),
            relay.open_stream(&[kinds(&[7_000]), Filter::default()]),
        ]
    });
    let now = world.now();
    // The first client is of shard 0, the second of shard 1.
    let mut clients = [world.connect(), world.connect()];
    let job = event(&key(1)).kind(5_000).at(now).sign();
    let answer = event(&key(2)).kind(7_000).at(now).sign();
    let note = event(&key(3)).at(now).sign();
    let ephemeral = event(&key(3)).kind(20_000).at(now).sign();
    for (place, event) in [&job, &answer, &note, &ephemeral].into_iter().enumerate() {
        publish(&mut *clients[place % 2], event);
    }
    // Again, from the other shard: duplicates are no news.
    publish_duplicate(&mut *clients[1], &job);
    let expected: Vec<(StreamId, String)> = [
        (streams[0], &job),
        (streams[1], &job),
        (streams[0], &answer),
        (streams[1], &answer),
        (streams[1], &note),
        (streams[1], &ephemeral),
    ]
    .map(|(stream, event)| (stream, event.id.clone()))
    .into();
    let mut seen = polled(&mut world, 0);
    // Streams that match one event are served in any order.
    seen.sort_by_key(|pair| expected.iter().position(|other| other == pair));
    assert_eq!(seen, expected);
    assert!(polled(&mut world, 1).is_empty(), "the other shard has no stream");
}

fn publish_duplicate(client: &mut dyn Client, event: &Signed) {
    client.send(&format!(r#"["EVENT",{}]"#, event.json()));
    let ok = format!(r#"["OK","{}",true,"duplicate: "#, event.id);
    assert!(std::iter::from_fn(|| client.recv()).any(|frame| frame.starts_with(&ok)), "no {ok} came");
}

#[test]
fn the_read_guard_is_for_clients() {
    let mut world = world();
    world.with_shard(0, |relay| relay.open_stream(&[kinds(&[1059])]));
    let wrap = event(&key(1)).kind(1059).at(world.now()).tag(["p", key(2).hex()]).sign();
    let mut client = world.connect();
    publish(&mut *client, &wrap);
    assert_eq!(polled(&mut world, 0).len(), 1);
}

#[test]
fn what_is_refused_or_forged_is_never_handed_on() {
    let mut world = world();
    world.with_shard(0, |relay| relay.open_stream(&[Filter::default()]));
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
    assert!(polled(&mut world, 0).is_empty());
}

#[test]
fn a_closed_stream_is_handed_no_more_and_its_name_is_not_used_again() {
    let mut world = world();
    let now = world.now();
    let mut client = world.connect();
    let first = world.with_shard(0, |relay| relay.open_stream(&[kinds(&[1])]));
    let before = event(&key(1)).at(now).content("before").sign();
    publish(&mut *client, &before);
    let second = world.with_shard(0, |relay| {
        relay.close_stream(first);
        relay.close_stream(first);
        relay.open_stream(&[kinds(&[1])])
    });
    assert_ne!(first, second);
    let after = event(&key(1)).at(now).content("after").sign();
    publish(&mut *client, &after);
    // What it held when it was closed still comes.
    assert_eq!(polled(&mut world, 0), [(first, before.id), (second, after.id)]);
}

#[test]
fn streams_and_subscriptions_are_counted_and_matched_side_by_side() {
    let mut world = world();
    let now = world.now();
    let mut client = world.connect();
    client.send(r#"["REQ","sub",{"kinds":[1]}]"#);
    while client.recv().is_some() {}
    let stream = world.with_shard(0, |relay| relay.open_stream(&[kinds(&[1])]));
    assert_eq!(world.with_shard(0, |relay| relay.metrics().subscriptions), 1, "clients' subscriptions");
    let note = event(&key(1)).at(now).sign();
    client.send(&format!(r#"["EVENT",{}]"#, note.json()));
    let frames: Vec<String> = std::iter::from_fn(|| client.recv()).collect();
    assert_eq!(
        frames.iter().filter(|frame| frame.starts_with(r#"["EVENT","sub","#)).count(),
        1,
        "{frames:?}"
    );
    assert_eq!(polled(&mut world, 0), [(stream, note.id)]);
    drop(client);
    assert_eq!(world.with_shard(0, |relay| relay.metrics().subscriptions), 0);
    // The stream lives on.
    let mut other = world.connect();
    publish(&mut *other, &event(&key(2)).at(now).sign());
    world.settle();
    assert_eq!(polled(&mut world, 0).len(), 1);
}
