//! Limits by client address: whom a client is taken for, and how many connections it may have.

use std::io::Read;
use std::net::TcpStream;

use tungstenite::client::IntoClientRequest;
use tungstenite::handshake::client::Response;
use tungstenite::{Error, HandshakeError, WebSocket};

use super::harness::{PATIENCE, RelayProcess, metric, until};

/// A WebSocket, or why there is none.
type Connected = Result<WebSocket<TcpStream>, Box<Response>>;

/// Connects as a proxy does for `client`, from loopback.
fn connect_for(relay: &RelayProcess, client: Option<&str>) -> Connected {
    let mut request = relay.url.as_str().into_client_request().unwrap();
    if let Some(client) = client {
        request.headers_mut().insert("x-forwarded-for", client.parse().unwrap());
    }
    let stream = TcpStream::connect(relay.host()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    match tungstenite::client::client(request, stream) {
        Ok((socket, _)) => Ok(socket),
        Err(HandshakeError::Failure(Error::Http(response))) => Err(response),
        Err(error) => panic!("{error}"),
    }
}

fn assert_refused(connected: Connected) {
    let response = connected.map(|_| ()).expect_err("the connection is refused");
    assert_eq!(response.status(), 429);
    assert_eq!(response.headers()["retry-after"], "30");
    assert_eq!(response.headers()["x-reason"], "too many connections from your address");
}

#[test]
fn behind_a_proxy_each_client_has_places_of_its_own() {
    let relay = RelayProcess::start_with("shards = 2\n[network]\nconnections_per_address_max = 3\n");
    let connect = |client| connect_for(&relay, Some(client));
    let mut clients = [(); 3].map(|()| connect("203.0.113.9").unwrap());
    assert_refused(connect("203.0.113.9"));
    // What a client says of itself stands to the left of what its proxy knows.
    assert_refused(connect("198.51.100.1, 203.0.113.9"));
    let _other = connect("203.0.113.10").unwrap();
    let _same_network = ["2001:db8::1", "2001:db8::2", "2001:db8::3"].map(|client| connect(client).unwrap());
    assert_refused(connect("2001:db8::4"));
    assert_eq!(metric(&relay, "relay_connections_refused_by_address_total"), 3.0);
    assert_eq!(metric(&relay, "relay_connections_of_busiest_address"), 3.0);

    clients[0].close(None).unwrap();
    while clients[0].read().is_ok() {}
    until("a free place", || connect("203.0.113.9").is_ok());

    // Loopback itself has no limit.
    let _exempt = [(); 9].map(|()| connect_for(&relay, None).unwrap());
}

#[test]
fn who_is_no_trusted_proxy_is_not_believed() {
    let relay = RelayProcess::start_with(
        "[network]\nconnections_per_address_max = 3\ntrusted_proxies = []\nexempt_addresses = []\n",
    );
    let clients = ["192.0.2.1", "192.0.2.2", "192.0.2.3"].map(|client| connect_for(&relay, Some(client)));
    assert!(clients.iter().all(Result::is_ok));
    assert_refused(connect_for(&relay, Some("192.0.2.4")));
    drop(clients);
    until("free places", || connect_for(&relay, None).is_ok());
}

/// Connections that never said anything were counted by nobody.
#[test]
fn sockets_that_say_nothing_count_too() {
    let relay = RelayProcess::start_with(
        "[network]\nconnections_per_address_max = 3\ntrusted_proxies = []\nexempt_addresses = []\n",
    );
    let silent = [(); 3].map(|()| TcpStream::connect(relay.host()).unwrap());
    // It need not even ask.
    let mut fourth = TcpStream::connect(relay.host()).unwrap();
    fourth.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut told = String::new();
    fourth.read_to_string(&mut told).unwrap();
    assert!(told.starts_with("HTTP/1.1 429 Too Many Requests\r\n"), "{told}");
    assert!(told.ends_with("{\"error\":\"too many connections from your address\"}\n"), "{told}");
    assert_refused(connect_for(&relay, None));
    drop(silent);
    until("free places", || connect_for(&relay, None).is_ok());
}
