//! The close handshake: the relay closes TCP as soon as the client's answer to its close frame has come.
//!
//! Who does not answer is given three seconds. So a connection that was told first and does not answer is still
//! there when the one under test, which answers, has ended: that is how these tests tell an answer that was heard from
//! a time that ran out. A machine that was busy elsewhere for those seconds is asked again.

use std::io::{Read, Write};

use relay_engine::testing::signing::{event, key};
use tungstenite::Message;

use super::harness::{RawClient, RelayProcess, metric, unix_now, until};

const TOO_MANY: &str = "shards = 1\n[limits]\nbad_messages_max = 3\n";

/// A connection that has been told to go, and says nothing to it.
fn silent(relay: &RelayProcess) -> RawClient {
    let mut silent = relay.connect();
    misbehave(&mut silent);
    while let Some(first) = next_frame(&mut silent) {
        if first == CLOSE {
            return silent;
        }
    }
    panic!("no close frame");
}

fn misbehave(client: &mut RawClient) {
    for _ in 0..10 {
        client.socket.write(Message::text("nonsense")).unwrap();
    }
    client.socket.flush().unwrap();
}

const CLOSE: u8 = 0x88;

/// The first byte of the next frame, read from the socket itself, which answers nothing. None at the end.
fn next_frame(client: &mut RawClient) -> Option<u8> {
    let stream = client.socket.get_mut();
    let mut head = [0; 2];
    stream.read_exact(&mut head).ok()?;
    let mut length = [0; 8];
    let length = match head[1] {
        126 => {
            stream.read_exact(&mut length[6..]).unwrap();
            u64::from_be_bytes(length)
        }
        127 => {
            stream.read_exact(&mut length).unwrap();
            u64::from_be_bytes(length)
        }
        short => u64::from(short),
    };
    std::io::copy(&mut stream.take(length), &mut std::io::sink()).unwrap();
    Some(head[0])
}

/// Reads until the close frame and answers it.
fn answer(client: &mut RawClient) {
    while next_frame(client).expect("a close frame") != CLOSE {}
    say_goodbye(client);
}

fn say_goodbye(client: &mut RawClient) {
    // Masked, with code 1000. The relay may have given up waiting.
    let _ = client.socket.get_mut().write_all(&[CLOSE, 0x82, 0, 0, 0, 0, 0x03, 0xe8]);
}

/// Reads to the end of the connection. Whether so many were there then.
fn ends_before(relay: &RelayProcess, client: &mut RawClient, others: f64) -> bool {
    let mut rest = Vec::new();
    client.socket.get_mut().read_to_end(&mut rest).unwrap();
    assert!(rest.is_empty(), "nothing comes behind a close frame");
    metric(relay, "relay_connections{") == others
}

/// Whose time ran out is never the first to go.
fn in_some_attempt(mut ends_first: impl FnMut() -> bool) {
    assert!((0..4).any(|_| ends_first()), "it ends when its time is up, not when it has answered");
}

#[test]
fn a_client_that_was_told_to_go_is_let_go_when_it_answers() {
    in_some_attempt(|| {
        let relay = RelayProcess::start_with(TOO_MANY);
        let _other = silent(&relay);
        let mut client = relay.connect();
        misbehave(&mut client);
        answer(&mut client);
        ends_before(&relay, &mut client, 1.0)
    });
}

/// Its reading was paused when it was told, and nothing woke it.
#[test]
fn so_is_one_that_was_paused_by_its_own_requests() {
    in_some_attempt(|| {
        let relay = RelayProcess::start_with(
            "shards = 1\n[limits]\nbad_messages_max = 3\nscan_rows_max = 1\ndeferred_messages_max = 2\n",
        );
        let mut writer = relay.connect();
        for serial in 0..50 {
            writer.publish(&event(&key(1)).at(unix_now() - 10 * serial).sign().json());
        }
        drop(writer);
        until("the writer's end", || metric(&relay, "relay_connections{") == 0.0);
        let _other = silent(&relay);
        let mut client = relay.connect();
        for serial in 0..40 {
            client.socket.write(Message::text(format!(r#"["COUNT","c{serial}",{{"kinds":[1]}}]"#))).unwrap();
        }
        misbehave(&mut client);
        answer(&mut client);
        ends_before(&relay, &mut client, 1.0)
    });
}

/// The answer lay behind what was not read, and nobody looked at it again.
#[test]
fn so_is_one_that_has_said_goodbye_already() {
    in_some_attempt(|| {
        let relay = RelayProcess::start_with(TOO_MANY);
        let _other = silent(&relay);
        let mut client = relay.connect();
        misbehave(&mut client);
        say_goodbye(&mut client);
        while next_frame(&mut client).expect("a close frame") != CLOSE {}
        ends_before(&relay, &mut client, 1.0)
    });
}

/// What comes behind a fault cannot be read, so there is no answer to wait for.
#[test]
fn who_breaks_the_protocol_sees_the_end_behind_the_close_frame() {
    for garbage in [
        // A reserved opcode; text that is no UTF-8; a length beyond all measure.
        &[0x83, 0x80, 0, 0, 0, 0][..],
        &[0x81, 0x81, 0, 0, 0, 0, 0xff],
        &[0x81, 0xff, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    ] {
        in_some_attempt(|| {
            let relay = RelayProcess::start_with(TOO_MANY);
            let _other = silent(&relay);
            let mut client = relay.connect();
            client.socket.get_mut().write_all(garbage).unwrap();
            answer(&mut client);
            // The client has not closed its own side, so that it is still there too.
            ends_before(&relay, &mut client, 2.0)
        });
    }
}

#[test]
fn a_stop_waits_for_no_client_that_has_answered() {
    let mut relay = RelayProcess::start_with("shards = 2\n[network]\nshutdown_seconds = 60\n");
    let mut clients: Vec<_> = (0..4).map(|_| relay.connect()).collect();
    for client in &mut clients {
        assert!(client.query(r#"{"limit":1}"#).is_empty());
    }
    relay.signal("TERM");
    for client in &mut clients {
        while client.recv().is_some() {}
        assert_eq!(client.closed, Some(1001));
    }
    assert!(relay.ended().success());
}
