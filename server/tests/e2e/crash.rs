//! `kill -9` at random moments: every acknowledged event is stored after a restart.

use std::sync::Mutex;
use std::time::Duration;

use relay_engine::testing::Rng;
use relay_engine::testing::signing::{Signed, event, key};
use tungstenite::Message;

use super::harness::{RelayProcess, unix_now};

const KILLS: usize = 50;
const PUBLISHERS: usize = 4;
const EVENTS_PER_ROUND: usize = 400;

/// Publishes until the relay is killed; returns the acknowledged ids.
fn publish_until_death(relay: &RelayProcess, events: &[Signed]) -> Vec<String> {
    // The relay may be killed during the handshake.
    let Some(mut client) = relay.try_connect() else { return Vec::new() };
    for event in events {
        if client.socket.send(Message::text(format!(r#"["EVENT",{}]"#, event.json()))).is_err() {
            break;
        }
    }
    let mut acknowledged = Vec::new();
    while let Ok(message) = client.socket.read() {
        let Message::Text(text) = message else { continue };
        if let Ok((_, id, true, _)) = serde_json::from_str::<(String, String, bool, String)>(&text) {
            acknowledged.push(id);
        }
    }
    acknowledged
}

#[test]
fn no_acknowledged_event_is_lost_in_fifty_kills() {
    let mut rng = Rng::new(20_261_122);
    let mut relay = RelayProcess::start();
    let mut acknowledged = Vec::new();
    let mut serial = 0;
    for round in 0..KILLS {
        let batches: Vec<Vec<Signed>> = (0..PUBLISHERS)
            .map(|publisher| {
                let author = key(publisher as u64 + 1);
                (0..EVENTS_PER_ROUND / PUBLISHERS)
                    .map(|_| {
                        serial += 1;
                        let draft = event(&author).at(unix_now() - 1_000_000 + serial);
                        draft.tag(["t", "crash"]).content(format!("event {serial} of round {round}")).sign()
                    })
                    .collect()
            })
            .collect();
        let found = Mutex::new(Vec::new());
        let pause = Duration::from_micros(rng.below(60_000));
        std::thread::scope(|scope| {
            for batch in &batches {
                let (relay, found) = (&relay, &found);
                scope.spawn(move || {
                    let ids = publish_until_death(relay, batch);
                    found.lock().unwrap().extend(ids);
                });
            }
            std::thread::sleep(pause);
            relay.signal("KILL");
        });
        relay.kill();
        acknowledged.extend(found.into_inner().unwrap());
        relay.restart();
        let mut client = relay.connect();
        for chunk in acknowledged.chunks(500).rev().take(2) {
            assert_stored(&mut client, chunk, round);
        }
    }
    // Finally all of them: no later crash lost an earlier event.
    let mut client = relay.connect();
    for chunk in acknowledged.chunks(500) {
        assert_stored(&mut client, chunk, KILLS);
    }
    assert!(acknowledged.len() > KILLS, "only {} events were acknowledged at all", acknowledged.len());
    println!("{} acknowledged events survived {KILLS} kills", acknowledged.len());
}

fn assert_stored(client: &mut super::harness::RawClient, ids: &[String], round: usize) {
    let found = client.query(&serde_json::json!({ "ids": ids }).to_string());
    assert_eq!(found.len(), ids.len(), "round {round}: acknowledged events are missing");
}
