//! A graceful stop: what was sent before the signal is answered, close frames follow, exit code 0.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use relay_engine::testing::signing::{event, key};

use super::harness::{RelayProcess, serve, unix_now};

#[test]
fn what_is_under_way_is_answered_before_the_close_frame() {
    for signal in ["TERM", "INT"] {
        let mut relay = RelayProcess::start();
        let mut client = relay.connect();
        // The connection is set up and read from.
        assert!(client.query(r#"{"limit":1}"#).is_empty());
        // One look at the clock: a second that ends meanwhile would make two events the same.
        let now = unix_now();
        let events: Vec<_> = (0..200).map(|n| event(&key(3)).at(now - n).sign()).collect();
        for event in &events {
            client
                .socket
                .write(tungstenite::Message::text(format!(r#"["EVENT",{}]"#, event.json())))
                .unwrap();
        }
        client.socket.flush().unwrap();
        client.recv_starting(r#"["OK","#);
        relay.signal(signal);
        let mut accepted = 1;
        while let Some(text) = client.recv() {
            accepted += usize::from(text.starts_with(r#"["OK","#) && text.contains("true"));
        }
        assert_eq!(client.closed, Some(1001), "{signal}");
        assert!(relay.ended().success(), "{signal}");
        relay.restart();
        let stored = relay.connect().query(r#"{"kinds":[1],"limit":1000}"#).len();
        assert_eq!(stored, accepted, "{signal}: acknowledged on the right, stored on the left");
    }
}

/// Logging to a pipe that nobody reads any more was a panic.
#[test]
fn the_reader_of_the_log_may_leave() {
    let folder = tempfile::TempDir::new().unwrap();
    let mut child = serve(&folder.path().join("data"), None).stderr(Stdio::piped()).spawn().unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("listening on") {
        line.clear();
        assert!(log.read_line(&mut line).unwrap() > 0, "it starts");
    }
    drop(log);
    assert!(Command::new("kill").arg(child.id().to_string()).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn a_port_that_is_taken_is_said_so() {
    let relay = RelayProcess::start();
    let folder = tempfile::TempDir::new().unwrap();
    let output = serve(&folder.path().join("data"), None).args(["--listen", relay.host()]).output();
    // The flag given last, or a usage error: both end it, and neither shares the port.
    let output = output.unwrap();
    assert!(!output.status.success());
    assert!(relay.connect().query(r#"{"limit":1}"#).is_empty());
}
