//! Sockets of the host: shards, slow readers, silent clients, connections_max.

use std::io::Read;

use relay_engine::testing::signing::{event, key};
use tungstenite::Message;

use super::harness::{RawClient, RelayProcess, metric, unix_now, until};

/// A live subscription, past its EOSE.
fn subscribe(relay: &RelayProcess, filter: &str) -> RawClient {
    let mut client = relay.connect();
    client.send(format!(r#"["REQ","live",{filter}]"#));
    client.recv_starting(r#"["EOSE","live""#);
    client
}

#[test]
fn events_reach_subscriptions_of_every_shard() {
    let relay = RelayProcess::start_with("shards = 3\n");
    let mut readers: Vec<_> = (0..6).map(|_| subscribe(&relay, r#"{"limit":0}"#)).collect();
    let mut writers: Vec<_> = (0..3).map(|_| relay.connect()).collect();
    let now = unix_now();
    for (serial, writer) in writers.iter_mut().enumerate() {
        for kind in [1, 20_001] {
            let sent = event(&key(1)).kind(kind).at(now - serial as u64).sign().json();
            assert_eq!(writer.publish(&sent), (true, String::new()));
            for reader in &mut readers {
                assert_eq!(reader.recv_starting(r#"["EVENT","#), format!(r#"["EVENT","live",{sent}]"#));
            }
        }
    }
    for shard in 0..3 {
        assert_eq!(metric(&relay, &format!("relay_connections{{shard=\"{shard}\"}}")), 3.0);
    }
}

/// A round writes to 256 connections; the others have their turn in the next one.
#[test]
fn events_reach_more_connections_than_a_round_writes_to() {
    let relay = RelayProcess::start_with("shards = 1\n");
    let mut readers: Vec<_> = (0..300).map(|_| subscribe(&relay, r#"{"limit":0}"#)).collect();
    let mut writer = relay.connect();
    let events: Vec<_> = (0..3)
        .map(|serial| event(&key(1)).at(unix_now()).content(serial.to_string()).sign().json())
        .collect();
    for sent in &events {
        assert_eq!(writer.publish(sent), (true, String::new()));
    }
    for reader in &mut readers {
        for sent in &events {
            assert_eq!(reader.recv_starting(r#"["EVENT","#), format!(r#"["EVENT","live",{sent}]"#));
        }
    }
}

#[test]
fn a_slow_reader_misses_nothing_and_costs_others_nothing() {
    const EVENTS: u64 = 600;
    let relay = RelayProcess::start_with("shards = 1\n");
    let mut slow = subscribe(&relay, r#"{"kinds":[1],"limit":0}"#);
    let mut quick = subscribe(&relay, r#"{"kinds":[1],"limit":0}"#);
    let mut writer = relay.connect();
    let (content, now) = ("x".repeat(50_000), unix_now());
    // 30 MB: more than the buffers of the sockets and the outbox hold.
    for serial in 0..EVENTS {
        let sent = event(&key(1)).at(now - EVENTS + serial).content(content.clone()).sign().json();
        assert_eq!(writer.publish(&sent), (true, String::new()));
        assert!(quick.recv_starting(r#"["EVENT","#).contains(&sent));
    }
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..EVENTS {
        let text = slow.recv_starting(r#"["EVENT","#);
        let id = text[text.find(r#""id":""#).unwrap() + 6..][..64].to_owned();
        assert!(seen.insert(id), "an event was sent twice");
    }
    assert_eq!(seen.len() as u64, EVENTS);
}

#[test]
fn a_client_that_reads_nothing_is_closed_and_counted() {
    let relay = RelayProcess::start_with("shards = 1\n[network]\nwrite_stall_seconds = 1\n");
    let mut writer = relay.connect();
    let (content, now) = ("x".repeat(100_000), unix_now());
    let events: Vec<_> = (0..200)
        .map(|serial| event(&key(1)).at(now - serial).content(content.clone()).sign().json())
        .collect();
    for sent in &events {
        assert_eq!(writer.publish(sent), (true, String::new()));
    }
    let mut stalled = relay.connect();
    stalled.send(r#"["REQ","all",{"kinds":[1],"limit":1000}]"#);
    until("the end of a stalled connection", || {
        metric(&relay, "relay_connections_closed_stalled_total") >= 1.0
    });
    assert_eq!(metric(&relay, "strfry_connections_current"), 1.0);
}

#[test]
fn clients_that_answer_no_pings_are_disconnected() {
    let relay = RelayProcess::start_with("shards = 1\n[network]\nping_seconds = 3\n");
    let mut dead = relay.connect();
    let mut alive = relay.connect();
    // Reading the raw stream answers no pings; it ends when the relay disconnects it.
    let mut rest = Vec::new();
    let answering = std::thread::scope(|scope| {
        let answering = scope.spawn(|| {
            // tungstenite answers pings while it reads; this client reads until there is an answer.
            let mut pings = 0;
            while pings < 3 {
                if let Message::Ping(_) = alive.socket.read().unwrap() {
                    pings += 1;
                }
            }
            alive.socket.flush().unwrap();
        });
        dead.socket.get_mut().read_to_end(&mut rest).unwrap();
        answering.join()
    });
    answering.unwrap();
    assert!(rest.windows(2).any(|bytes| bytes == [0x89, 0]), "it had been pinged");
    assert!(alive.query("{}").is_empty());
    assert_eq!(metric(&relay, "relay_connections_closed_unresponsive_total"), 1.0);
}

/// Regression: a shard that always had work never checked its timers.
#[test]
fn a_busy_shard_disconnects_dead_clients() {
    let relay =
        RelayProcess::start_with("shards = 1\n[network]\nping_seconds = 1\n[limits]\nstep_cost_max = 1\n");
    let mut writer = relay.connect();
    let now = unix_now();
    for serial in 0..300 {
        writer.publish(&event(&key(1)).at(now - serial).sign().json());
    }
    drop(writer);
    let mut dead = relay.connect();
    let is_over = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut busy = relay.connect();
                let count = r##"["COUNT","c",{"#t":["none"],"kinds":[1]},{"kinds":[1]}]"##;
                (0..8).for_each(|_| busy.send(count));
                while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                    busy.recv_starting(r#"["COUNT","#);
                    busy.send(count);
                }
            });
        }
        let mut rest = Vec::new();
        let closed = dead.socket.get_mut().read_to_end(&mut rest);
        is_over.store(true, std::sync::atomic::Ordering::Relaxed);
        closed.expect("the relay closes it");
    });
    assert_eq!(metric(&relay, "relay_connections_closed_unresponsive_total"), 1.0);
}

/// Regression: endless pipelined requests whose answers were not read kept a socket open for ever.
#[test]
fn plain_http_does_not_keep_a_socket() {
    let relay =
        RelayProcess::start_with("shards = 1\n[network]\nhandshake_seconds = 1\nwrite_stall_seconds = 1\n");
    let mut stream = std::net::TcpStream::connect(relay.host()).unwrap();
    stream.set_write_timeout(Some(std::time::Duration::from_millis(200))).unwrap();
    let request = "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".repeat(1_000);
    while std::io::Write::write_all(&mut stream, request.as_bytes()).is_ok() {}
    // The socket of this request counts too.
    until("a free connection", || metric(&relay, "relay_sockets{") <= 1.0);
}

/// Regression: each shard accepted connections_max, so two shards accepted twice as many.
#[test]
fn connections_beyond_connections_max_get_503() {
    for shards in 1..=3 {
        let relay = RelayProcess::start_with(&format!("shards = {shards}\n[limits]\nconnections_max = 4\n"));
        let mut clients: Vec<_> = (0..4).map(|_| relay.connect()).collect();
        let stream = std::net::TcpStream::connect(relay.host()).unwrap();
        let refused = tungstenite::client::client(format!("{}/", relay.url), stream);
        let Err(tungstenite::HandshakeError::Failure(tungstenite::Error::Http(response))) = refused else {
            panic!("the fifth connection is refused");
        };
        assert_eq!(response.status(), 503);
        drop(clients.pop());
        // The place is free as soon as the relay has seen the end of the connection.
        until("a free connection", || metric(&relay, "relay_connections{") <= 3.0);
        assert!(relay.connect().query("{}").is_empty());
    }
}

#[test]
fn a_close_is_answered_and_ends_the_connection() {
    let relay = RelayProcess::start();
    let mut client = relay.connect();
    client.socket.close(None).unwrap();
    while client.recv().is_some() {}
    assert_eq!(client.closed, Some(1005));
}

#[test]
fn text_that_is_no_utf8_ends_with_1007_and_garbage_with_1002() {
    use tungstenite::protocol::frame::Frame;
    use tungstenite::protocol::frame::coding::{Data, OpCode};
    let relay = RelayProcess::start();
    let mut client = relay.connect();
    let frame = Frame::message(b"\xff".to_vec(), OpCode::Data(Data::Text), true);
    client.socket.send(Message::Frame(frame)).unwrap();
    client.recv_starting(r#"["NOTICE","#);
    assert!(client.recv().is_none());
    assert_eq!(client.closed, Some(1007));

    let mut client = relay.connect();
    std::io::Write::write_all(client.socket.get_mut(), &[0x83, 0x80, 0, 0, 0, 0]).unwrap();
    while client.recv().is_some() {}
    assert_eq!(client.closed, Some(1002));
}
