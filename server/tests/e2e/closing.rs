//! The close handshake: the relay closes the TCP connection as soon as it receives the client's close frame.
//!
//! A client that does not answer the relay's close frame is disconnected after three seconds. So a silent connection that was
//! closed earlier must still be open when the one under test has ended: then its end is due to the answer and not to the timeout.
//! If the machine was busy for those seconds, the test is repeated.

use std::io::{Read, Write};

use relay_engine::testing::signing::{event, key};
use tungstenite::Message;

use super::harness::{RawClient, RelayProcess, metric, unix_now, until};

const TOO_MANY: &str = "shards = 1\n[limits]\nmalformed_messages_max = 3\n";

/// A connection that has been sent a close frame and does not answer.
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

/// The first byte of the next frame, read from the raw socket, so that nothing is answered. `None` at the end.
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
    send_close(client);
}

fn send_close(client: &mut RawClient) {
    // Masked, with code 1000. The relay may already have closed the connection.
    let _ = client.socket.get_mut().write_all(&[CLOSE, 0x82, 0, 0, 0, 0, 0x03, 0xe8]);
}

/// Reads to the end of the connection. Whether `others` connections were still open then.
fn ends_before(relay: &RelayProcess, client: &mut RawClient, others: f64) -> bool {
    let mut rest = Vec::new();
    client.socket.get_mut().read_to_end(&mut rest).unwrap();
    assert!(rest.is_empty(), "nothing comes behind a close frame");
    metric(relay, "relay_connections{") == others
}

/// Repeats a test whose timeout may have ended first; fails if no attempt succeeds.
fn in_some_attempt(mut ends_first: impl FnMut() -> bool) {
    assert!((0..4).any(|_| ends_first()), "it ends when its time is up, not when it has answered");
}

#[test]
fn a_client_is_disconnected_when_it_answers_the_close_frame() {
    in_some_attempt(|| {
        let relay = RelayProcess::start_with(TOO_MANY);
        let _other = silent(&relay);
        let mut client = relay.connect();
        misbehave(&mut client);
        answer(&mut client);
        ends_before(&relay, &mut client, 1.0)
    });
}

/// Regression: reading was paused when the close frame was sent, and nothing resumed it.
#[test]
fn a_client_whose_reading_was_paused_is_disconnected_when_it_answers_the_close_frame() {
    in_some_attempt(|| {
        let relay = RelayProcess::start_with(
            "shards = 1\n[limits]\nmalformed_messages_max = 3\nstep_cost_max = 1\ndeferred_messages_max = 2\n",
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

/// Regression: the close frame was in the buffer after unread messages, and the buffer was not read again.
#[test]
fn a_client_that_has_already_sent_its_close_frame_is_disconnected() {
    in_some_attempt(|| {
        let relay = RelayProcess::start_with(TOO_MANY);
        let _other = silent(&relay);
        let mut client = relay.connect();
        misbehave(&mut client);
        send_close(&mut client);
        while next_frame(&mut client).expect("a close frame") != CLOSE {}
        ends_before(&relay, &mut client, 1.0)
    });
}

/// After a protocol error nothing can be read, so the relay does not wait for an answer.
#[test]
fn after_a_protocol_error_the_connection_ends_with_the_close_frame() {
    for garbage in [
        // A reserved opcode; text that is not UTF-8; a length beyond any limit.
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
            // The client has not closed its side.
            ends_before(&relay, &mut client, 2.0)
        });
    }
}

#[test]
fn stopping_does_not_wait_for_clients_that_have_answered() {
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
