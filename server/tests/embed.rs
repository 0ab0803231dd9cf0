//! The embedded server: the process publishes events and receives streams, across restarts.

use std::net::TcpStream;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use relay_engine::relay::PublishOutcome;
use relay_engine::store::Seq;
use relay_engine::testing::event_of_json;
use relay_engine::testing::signing::{Signed, event, key};
use relay_engine::types::{Event, Filter, Kind};
use relay_server::config::Settings;
use relay_server::embed::{Item, Server, Stream};
use tungstenite::stream::MaybeTlsStream;
use tungstenite::{Message, WebSocket};

fn settings(data: &tempfile::TempDir) -> Settings {
    Settings { data: data.path().into(), listen: "127.0.0.1:0".into(), shards: 2, ..Settings::default() }
}

fn kinds(kinds: &[Kind]) -> Vec<Filter> {
    vec![Filter { kinds: Some(kinds.into()), ..Filter::default() }]
}

fn signed(kind: Kind, content: &str) -> Signed {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    event(&key(1)).kind(kind).at(now).content(content).sign()
}

fn engine_event(signed: &Signed) -> Event {
    event_of_json(&signed.json()).unwrap()
}

/// The next event; fails after a timeout.
async fn next(stream: &mut Stream) -> (Option<Seq>, String) {
    loop {
        let item = tokio::time::timeout(Duration::from_secs(20), stream.next()).await;
        match item.expect("an event comes").expect("the relay serves") {
            Item::Event(seq, event) => return (seq, event.id.to_string()),
            Item::Position(_) => {}
            Item::Missed(missed) => panic!("{missed} events were missed"),
        }
    }
}

/// Reads until a frame with this prefix.
fn read(client: &mut WebSocket<MaybeTlsStream<TcpStream>>, start: &str) -> String {
    loop {
        let frame = client.read().unwrap().into_text().unwrap().to_string();
        if frame.starts_with(start) {
            return frame;
        }
    }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

#[test]
fn clients_and_the_process_see_each_others_events() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(settings(&data)).unwrap();
    let (mut client, _) = tungstenite::connect(format!("ws://{}", server.address())).unwrap();
    let (job, result) = (signed(5_050, "job"), signed(6_050, "result"));
    block_on(async {
        let mut jobs = server.handle().open_stream(kinds(&[5_050]), None).await.unwrap();
        // Another connection, most likely on the other shard.
        let (mut customer, _) = tungstenite::connect(format!("ws://{}", server.address())).unwrap();
        customer.send(Message::text(format!(r#"["EVENT",{}]"#, job.json()))).unwrap();
        assert_eq!(next(&mut jobs).await, (Some(Seq(1)), job.id.clone()));
    });
    client.send(Message::text(r#"["REQ","s",{"kinds":[6050]}]"#)).unwrap();
    read(&mut client, r#"["EOSE","s""#);
    block_on(async {
        let publish = || server.handle().publish(engine_event(&result));
        assert_eq!(publish().await, Ok(PublishOutcome::Stored(Seq(2))));
        assert_eq!(publish().await, Ok(PublishOutcome::Duplicate));
        let forged = server.handle().publish(engine_event(&signed(1, "x").forged())).await;
        assert!(
            matches!(&forged, Ok(PublishOutcome::Forged(message)) if message.starts_with("invalid: ")),
            "{forged:?}"
        );
    });
    assert!(read(&mut client, r#"["EVENT","s""#).contains(&result.id));
    server.stop().unwrap();
}

#[test]
fn a_returning_consumer_receives_stored_events() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(settings(&data)).unwrap();
    let before: Vec<Signed> = (0..1_000).map(|n| signed(5_050, &format!("before {n}"))).collect();
    let confirmed = block_on(async {
        let mut jobs = server.handle().open_stream(kinds(&[5_050]), Some(Seq(0))).await.unwrap();
        for job in &before {
            server.handle().publish(engine_event(job)).await.unwrap();
        }
        // It receives a part and crashes.
        let mut confirmed = Seq(0);
        for job in &before[..300] {
            let (seq, id) = next(&mut jobs).await;
            assert_eq!(id, job.id);
            confirmed = seq.unwrap();
        }
        confirmed
    });
    server.stop().unwrap();
    let server = Server::start(settings(&data)).unwrap();
    block_on(async {
        let mut jobs = server.handle().open_stream(kinds(&[5_050]), Some(confirmed)).await.unwrap();
        let after = signed(5_050, "after");
        server.handle().publish(engine_event(&after)).await.unwrap();
        for job in before[300..].iter().chain([&after]) {
            assert_eq!(next(&mut jobs).await.1, job.id);
        }
    });
    server.stop().unwrap();
}

#[test]
fn a_folder_is_served_once_and_a_stopped_server_reports_it() {
    let data = tempfile::tempdir().unwrap();
    let server = Server::start(settings(&data)).unwrap();
    let Err(message) = Server::start(settings(&data)) else { panic!("two relays serve one folder") };
    assert!(message.contains("serve"), "{message}");
    let handle = server.handle().clone();
    server.stop().unwrap();
    let outcome = block_on(async {
        tokio::time::timeout(Duration::from_secs(20), handle.publish(engine_event(&signed(1, "late")))).await
    });
    assert_eq!(outcome.expect("an answer comes"), Err(relay_server::embed::Stopped));
}
