//! When file descriptors run out, new connections are answered 503, and open ones are served.

use std::io::Read;
use std::net::TcpStream;
use std::process::Command;

use relay_engine::testing::signing::{event, key};

use super::harness::{
    PATIENCE, RELAY, RawClient, RelayProcess, metric, unix_now, until, without_relay_variables,
};

fn start_with_files(files: u32) -> RelayProcess {
    RelayProcess::start_by(|data| {
        let mut command = Command::new("sh");
        without_relay_variables(&mut command);
        let script = format!("ulimit -n {files}; exec \"$0\" \"$@\"");
        command
            .args(["-c", &script, RELAY, "serve", "--listen", "127.0.0.1:0", "--shards", "1", "--data"])
            .arg(data)
            .current_dir(std::env::temp_dir());
        command
    })
}

/// Number of open file descriptors of the relay.
fn open_files(relay: &RelayProcess) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", relay.pid())).unwrap().count()
}

/// Opens up to `count` silent connections, until one is sent something; returns the connections and that text.
fn fill(relay: &RelayProcess, count: usize) -> (Vec<TcpStream>, String) {
    let open = |_| {
        let stream = TcpStream::connect(relay.host()).unwrap();
        stream.set_nonblocking(true).unwrap();
        stream
    };
    let mut silent: Vec<TcpStream> = (0..count).map(open).collect();
    let mut answered = None;
    until("a client that is refused", || {
        answered = silent.iter().position(|stream| stream.peek(&mut [0]).is_ok());
        answered.is_some()
    });
    let stream = silent.remove(answered.unwrap());
    stream.set_nonblocking(false).unwrap();
    (silent, read_all(stream))
}

fn read_all(mut stream: TcpStream) -> String {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    response
}

fn assert_works(client: &mut RawClient, serial: u64) {
    let note = event(&key(1)).at(unix_now()).content(serial.to_string()).sign().json();
    assert_eq!(client.publish(&note), (true, String::new()));
}

fn assert_answered_503(response: &str) {
    assert!(response.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{response}");
    assert!(response.contains("\r\nretry-after: 30\r\n"), "{response}");
    assert!(response.ends_with("{\"error\":\"too many connections\"}\n"), "{response}");
}

#[test]
fn connections_max_stays_below_the_limit_on_open_files() {
    let files = 96;
    let relay = start_with_files(files);
    let mut client = relay.connect();
    let (silent, response) = fill(&relay, files as usize);
    assert_answered_503(&response);
    assert!(open_files(&relay) < files as usize, "{}", open_files(&relay));
    assert_works(&mut client, 1);
    drop(silent);
    until("room", || relay.try_connect().is_some());
    assert_works(&mut client, 2);
}

#[test]
fn without_free_descriptors_new_connections_are_answered_503() {
    let relay = start_with_files(1024);
    let mut client = relay.connect();
    // Other files use all descriptors but two: fewer are left than connections allowed.
    let left = open_files(&relay) + 2;
    let set = Command::new("prlimit")
        .args([format!("--pid={}", relay.pid()), format!("--nofile={left}:1024")])
        .status()
        .unwrap();
    assert!(set.success(), "prlimit");
    let (silent, response) = fill(&relay, 8);
    assert_answered_503(&response);
    // Repeatedly: the spare descriptor is reserved again each time.
    for serial in 0..20 {
        assert_answered_503(&read_all(TcpStream::connect(relay.host()).unwrap()));
        assert_works(&mut client, serial);
    }
    drop(silent);
    until("room", || relay.try_connect().is_some());
    assert_works(&mut client, 100);
    assert!(metric(&relay, "relay_sockets_refused_total") >= 21.0);
}
