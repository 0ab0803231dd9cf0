//! Blobs that are fetched from other servers for whoever asks for them.

use std::net::TcpListener;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use super::*;

/// Regression: whoever asked for a blob that was being fetched was told after five seconds that it was being removed.
#[test]
fn who_asks_for_a_blob_that_is_being_fetched_gets_it_when_it_is_here() {
    let relay = RelayProcess::start_with("[blossom]\npull_through = true\nallow_private_addresses = true\n");
    let bytes = noise(5, 100_000);
    let origin = TcpListener::bind("127.0.0.1:0").unwrap();
    let server = format!("http://{}", origin.local_addr().unwrap());
    let (asked, is_asked) = channel();
    let (go, may_go) = channel::<()>();
    let sent = bytes.clone();
    let serving = thread::spawn(move || {
        let (mut stream, _) = origin.accept().unwrap();
        let mut head = String::new();
        let mut lines = BufReader::new(stream.try_clone().unwrap());
        while !head.ends_with("\r\n\r\n") {
            lines.read_line(&mut head).unwrap();
        }
        asked.send(()).unwrap();
        may_go.recv().unwrap();
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", sent.len())
            .unwrap();
        stream.write_all(&sent).unwrap();
        origin.set_nonblocking(true).unwrap();
        assert!(origin.accept().is_err(), "it is fetched once");
    });
    let path = format!("/{}?xs={server}", sha256(&bytes));
    thread::scope(|scope| {
        let pull = || send(&relay, "GET", &path, "", b"");
        let first = scope.spawn(pull);
        is_asked.recv().unwrap();
        let others = [scope.spawn(pull), scope.spawn(pull)];
        // Longer than whoever waits for a removal does.
        thread::sleep(Duration::from_secs(6));
        assert!(others.iter().all(|other| !other.is_finished()), "they wait");
        go.send(()).unwrap();
        for reply in [first].into_iter().chain(others) {
            let reply = reply.join().unwrap();
            assert_eq!(reply.outcome(), (200, ""));
            assert!(reply.body == bytes);
        }
    });
    serving.join().unwrap();
}
