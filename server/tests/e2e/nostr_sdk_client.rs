//! The relay with nostr-sdk, the client library of native apps.

use std::time::Duration;

use nostr_sdk::prelude::*;

use super::harness::RelayProcess;

const PATIENCE: Duration = Duration::from_secs(20);

async fn client(relay: &RelayProcess, keys: Keys) -> Client {
    let client = Client::builder().signer(keys).build();
    client.add_relay(&relay.url).await.unwrap();
    client.connect().await;
    client.wait_for_connection(PATIENCE).await;
    client
}

fn on_runtime(work: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work);
}

#[test]
fn notes_metadata_and_deletion() {
    on_runtime(async {
        let relay = RelayProcess::start();
        let keys = Keys::generate();
        let alice = client(&relay, keys.clone()).await;

        let mut ids = Vec::new();
        for number in 0..30 {
            let builder = EventBuilder::text_note(format!("note {number} \u{1f919} \"quoted\"\n"))
                .tag(Tag::hashtag("sdk"));
            let output = alice.send_event_builder(builder).await.unwrap();
            assert!(output.failed.is_empty(), "{:?}", output.failed);
            ids.push(output.val);
        }
        let filter = Filter::new().author(keys.public_key()).kind(Kind::TextNote).hashtag("sdk");
        let fetched = alice.fetch_events(filter.clone(), PATIENCE).await.unwrap();
        assert_eq!(fetched.len(), 30);
        for event in fetched.iter() {
            event.verify().unwrap();
        }

        alice.set_metadata(&Metadata::new().name("first")).await.unwrap();
        tokio::time::sleep(Duration::from_millis(1_100)).await;
        alice.set_metadata(&Metadata::new().name("second")).await.unwrap();
        let found = alice.fetch_metadata(keys.public_key(), PATIENCE).await.unwrap().unwrap();
        assert_eq!(found.name.as_deref(), Some("second"));

        let deletion = EventBuilder::delete(EventDeletionRequest::new().id(ids[0]));
        alice.send_event_builder(deletion).await.unwrap();
        assert_eq!(alice.fetch_events(filter, PATIENCE).await.unwrap().len(), 29);
        alice.shutdown().await;
    });
}

#[test]
fn live_events_reach_another_client() {
    on_runtime(async {
        let relay = RelayProcess::start();
        let author = Keys::generate();
        let (alice, bob) = (client(&relay, author.clone()).await, client(&relay, Keys::generate()).await);
        let mut notifications = bob.notifications();
        bob.subscribe(Filter::new().author(author.public_key()).kind(Kind::TextNote), None).await.unwrap();
        // The subscription is live after its EOSE.
        bob.fetch_events(Filter::new().limit(1), PATIENCE).await.unwrap();
        let mut sent = Vec::new();
        for number in 0..20 {
            sent.push(
                alice.send_event_builder(EventBuilder::text_note(format!("{number}"))).await.unwrap().val,
            );
        }
        let mut seen = Vec::new();
        tokio::time::timeout(PATIENCE, async {
            while seen.len() < sent.len() {
                if let RelayPoolNotification::Event { event, .. } = notifications.recv().await.unwrap() {
                    seen.push(event.id);
                }
            }
        })
        .await
        .expect("all live events arrive");
        seen.sort();
        sent.sort();
        assert_eq!(seen, sent);
        alice.shutdown().await;
        bob.shutdown().await;
    });
}

#[test]
fn nostr_sdk_answers_auth() {
    on_runtime(async {
        let relay = RelayProcess::start_with("[policy]\nauth_required = true\n");
        let keys = Keys::generate();
        let alice = client(&relay, keys.clone()).await;
        let output = alice.send_event_builder(EventBuilder::text_note("let me in")).await.unwrap();
        assert!(output.failed.is_empty(), "{:?}", output.failed);
        let found = alice.fetch_events(Filter::new().author(keys.public_key()), PATIENCE).await.unwrap();
        assert_eq!(found.len(), 1);
        alice.shutdown().await;
    });
}
