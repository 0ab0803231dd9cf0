//! A graceful stop: messages sent before the signal are answered, close frames follow, exit code 0.

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, Stdio};

use relay_engine::testing::signing::{event, key};

use super::harness::{RELAY, RelayProcess, relay, serve, unix_now, until, without_relay_variables};

#[test]
fn pending_messages_are_answered_before_the_close_frame() {
    for signal in ["TERM", "INT"] {
        let mut relay = RelayProcess::start();
        let mut client = relay.connect();
        // The connection is open and is being read.
        assert!(client.query(r#"{"limit":1}"#).is_empty());
        // The clock is read once: otherwise a change of the second could make two events equal.
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

/// Repeats a test that depends on the time between two signals, because a busy machine may deliver them with other delays.
fn in_some_attempt(mut attempt: impl FnMut() -> bool) {
    assert!((0..4).any(|_| attempt()), "not in any attempt");
}

/// Regression: `timeout` sends its signal to the process and then to its process group; the second one ended the relay at once.
#[test]
fn two_signals_at_the_same_time_count_as_one() {
    in_some_attempt(|| {
        let mut relay = RelayProcess::start();
        let mut client = relay.connect();
        assert!(client.query(r#"{"limit":1}"#).is_empty());
        let pid = relay.pid().to_string();
        let twice = format!("kill -s TERM {pid}; kill -s TERM {pid}; kill -s INT {pid}");
        let _ = Command::new("sh").args(["-c", &twice]).stderr(Stdio::null()).status().unwrap();
        while client.recv().is_some() {}
        relay.ended().success() && client.closed == Some(1001)
    });
}

#[test]
fn a_second_signal_after_a_moment_ends_it_at_once() {
    in_some_attempt(|| {
        let mut relay = RelayProcess::start_with("[network]\nshutdown_seconds = 60\n");
        // A client that does not answer the close frame delays the end by three seconds.
        let mut client = relay.connect();
        assert!(client.query(r#"{"limit":1}"#).is_empty());
        relay.signal("TERM");
        std::thread::sleep(std::time::Duration::from_millis(1_100));
        relay.signal("TERM");
        relay.ended().code() == Some(130)
    });
}

/// Regression: log rotation and reloads send SIGHUP, and it ended the relay.
#[test]
fn sighup_is_ignored() {
    let mut relay = RelayProcess::start();
    let mut client = relay.connect();
    for _ in 0..3 {
        relay.signal("HUP");
        assert!(client.query(r#"{"limit":1}"#).is_empty());
    }
    assert!(relay.stop().success());
}

/// Regression: logging to a closed pipe was a panic.
#[test]
fn the_pipe_of_the_log_may_be_closed() {
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
fn a_port_in_use_is_an_error() {
    let relay = RelayProcess::start();
    let folder = tempfile::TempDir::new().unwrap();
    let output = serve(&folder.path().join("data"), None).args(["--listen", relay.host()]).output();
    // Either the last flag is used, or it is a usage error; both fail, and the port is not shared.
    let output = output.unwrap();
    assert!(!output.status.success());
    assert!(relay.connect().query(r#"{"limit":1}"#).is_empty());
}

/// Regression: Ctrl-C ended an import without a report of what it had stored.
#[test]
fn an_interrupted_import_reports_its_progress() {
    for signal in ["INT", "TERM", "HUP"] {
        let folder = tempfile::TempDir::new().unwrap();
        let data = folder.path().join("data");
        let mut command = Command::new(RELAY);
        without_relay_variables(&mut command);
        let mut child = command
            .args(["import", "--json", "--data"])
            .arg(&data)
            .current_dir(std::env::temp_dir())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // The pipe stays open: one batch of lines is read, and no other follows.
        let mut pipe = child.stdin.take().unwrap();
        let mut lines: String = (0..2).map(|n| event(&key(1)).at(1_000 + n).sign().json() + "\n").collect();
        lines.push_str(&"nonsense\n".repeat(8_192));
        std::io::Write::write_all(&mut pipe, lines.as_bytes()).unwrap();
        let data = data.to_str().unwrap().to_owned();
        until("two stored events", || {
            let info = relay(&["info", "--data", &data], b"");
            String::from_utf8_lossy(&info.stdout).contains("events              2")
        });
        let sent = Command::new("kill").args(["-s", signal, &child.id().to_string()]).status().unwrap();
        assert!(sent.success());
        let status = child.wait().unwrap();
        let (mut out, mut err) = (String::new(), String::new());
        child.stdout.take().unwrap().read_to_string(&mut out).unwrap();
        child.stderr.take().unwrap().read_to_string(&mut err).unwrap();
        assert_eq!(status.code(), Some(130), "{signal}: {err}");
        assert!(
            err.contains("ended by a signal after line 8192") && err.contains("2 stored"),
            "{signal}: {err}"
        );
        assert!(out.contains(r#""stored":2"#), "{signal}: {out}");
        drop(pipe);
    }
}
