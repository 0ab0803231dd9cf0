//! Limits by client address: which address a client has, and how many connections.

use std::io::{Read, Write};
use std::net::TcpStream;

use tungstenite::client::IntoClientRequest;
use tungstenite::handshake::client::Response;
use tungstenite::{Error, HandshakeError, WebSocket};

use super::harness::{PATIENCE, RelayProcess, metric, until};

/// A WebSocket, or why there is none.
type Connected = Result<WebSocket<TcpStream>, Box<Response>>;

/// Connects as a proxy does for `client`, from loopback.
fn connect_for(relay: &RelayProcess, client: Option<&str>) -> Connected {
    connect_after(relay, b"", client)
}

/// Connects with these bytes ahead of the handshake.
fn connect_after(relay: &RelayProcess, first: &[u8], client: Option<&str>) -> Connected {
    let mut request = relay.url.as_str().into_client_request().unwrap();
    if let Some(client) = client {
        request.headers_mut().insert("x-forwarded-for", client.parse().unwrap());
    }
    let mut stream = TcpStream::connect(relay.host()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(first).unwrap();
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
fn behind_a_proxy_each_client_has_a_limit_of_its_own() {
    let relay = RelayProcess::start_with("shards = 2\n[network]\nconnections_per_address_max = 3\n");
    let connect = |client| connect_for(&relay, Some(client));
    let mut clients = [(); 3].map(|()| connect("203.0.113.9").unwrap());
    assert_refused(connect("203.0.113.9"));
    // An address that the client claims is to the left of the one that the proxy appends.
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
fn forwarded_for_of_an_untrusted_peer_is_ignored() {
    let relay = RelayProcess::start_with(
        "[network]\nconnections_per_address_max = 3\ntrusted_proxies = []\nexempt_addresses = []\n",
    );
    let clients = ["192.0.2.1", "192.0.2.2", "192.0.2.3"].map(|client| connect_for(&relay, Some(client)));
    assert!(clients.iter().all(Result::is_ok));
    assert_refused(connect_for(&relay, Some("192.0.2.4")));
    drop(clients);
    until("free places", || connect_for(&relay, None).is_ok());
}

/// Regression: connections that never sent anything were not counted.
#[test]
fn silent_sockets_count_too() {
    let relay = RelayProcess::start_with(
        "[network]\nconnections_per_address_max = 3\ntrusted_proxies = []\nexempt_addresses = []\n",
    );
    let silent = [(); 3].map(|()| TcpStream::connect(relay.host()).unwrap());
    // It is refused even before it sends a request.
    let mut fourth = TcpStream::connect(relay.host()).unwrap();
    fourth.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut response = String::new();
    fourth.read_to_string(&mut response).unwrap();
    assert!(response.starts_with("HTTP/1.1 429 Too Many Requests\r\n"), "{response}");
    assert!(response.ends_with("{\"error\":\"too many connections from your address\"}\n"), "{response}");
    assert_refused(connect_for(&relay, None));
    drop(silent);
    until("free places", || connect_for(&relay, None).is_ok());
}

/// A header of version 1 for this client, and one of version 2.
fn proxy_headers(client: [u8; 4]) -> [Vec<u8>; 2] {
    let [a, b, c, d] = client;
    let text = format!("PROXY TCP4 {a}.{b}.{c}.{d} 192.0.2.200 49152 7777\r\n");
    let mut binary = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    binary.extend([a, b, c, d, 192, 0, 2, 200, 0xc0, 0, 0x1e, 0x61]);
    [text.into(), binary]
}

/// What comes back on a connection that says this.
fn ask(relay: &RelayProcess, said: &[u8]) -> String {
    let mut stream = TcpStream::connect(relay.host()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(said).unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    response
}

const INFORMATION: &[u8] =
    b"GET / HTTP/1.1\r\nHost: x\r\nAccept: application/nostr+json\r\nConnection: close\r\n\r\n";

#[test]
fn a_proxy_that_passes_bytes_on_names_its_client_first() {
    let relay =
        RelayProcess::start_with("[network]\nproxy_protocol = true\nconnections_per_address_max = 3\n");
    let [text, binary] = proxy_headers([203, 0, 113, 9]);
    let connect = |header: &[u8]| connect_after(&relay, header, None);
    let clients = [connect(&text).unwrap(), connect(&binary).unwrap()];
    // Sockets that say nothing else count too. The next one may be there first: then this one is turned away.
    let mut silent = None;
    until("the silent one is counted", || {
        let mut socket = TcpStream::connect(relay.host()).unwrap();
        socket.write_all(&binary).unwrap();
        silent = Some(socket);
        connect(&text).is_err()
    });
    assert_refused(connect(&binary));
    let refused = ask(&relay, &[&text, INFORMATION].concat());
    assert!(refused.starts_with("HTTP/1.1 429 Too Many Requests\r\n"), "{refused}");
    // A client of a proxy is not a proxy, whatever it says.
    assert_refused(connect_after(&relay, &text, Some("198.51.100.1")));

    let [other, _] = proxy_headers([203, 0, 113, 10]);
    let answered = ask(&relay, &[&other, INFORMATION].concat());
    assert!(answered.starts_with("HTTP/1.1 200 OK\r\n"), "{answered}");
    drop(silent);
    drop(clients);
    until("free places", || connect(&text).is_ok());
    // The proxy itself, which looks whether the relay is there: loopback is exempt.
    let itself = b"PROXY UNKNOWN\r\n";
    let _exempt = [(); 9].map(|()| connect(itself).unwrap());
}

/// Regression: each client over its limit kept its socket slot for a second if it sent nothing: with three hundred of them there
/// was no slot for others.
#[test]
fn clients_over_their_limit_keep_no_slot() {
    let relay = RelayProcess::start_with(
        "[network]\nproxy_protocol = true\nconnections_per_address_max = 1\n[limits]\nconnections_max = 1\n",
    );
    let [text, _] = proxy_headers([203, 0, 113, 9]);
    let client = connect_after(&relay, &text, None).unwrap();
    let refused: Vec<TcpStream> = (0..300)
        .map(|_| {
            let mut socket = TcpStream::connect(relay.host()).unwrap();
            socket.set_read_timeout(Some(PATIENCE)).unwrap();
            socket.write_all(&text).unwrap();
            let mut head = [0; 12];
            socket.read_exact(&mut head).unwrap();
            assert_eq!(head, *b"HTTP/1.1 429");
            socket
        })
        .collect();
    let [other, _] = proxy_headers([203, 0, 113, 10]);
    let answered = ask(&relay, &[&other, INFORMATION].concat());
    assert!(answered.starts_with("HTTP/1.1 200 OK\r\n"), "{answered}");
    drop(refused);
    drop(client);
}

#[test]
fn a_trusted_proxy_that_names_nobody_is_told_so() {
    let relay = RelayProcess::start_with("[network]\nproxy_protocol = true\nhandshake_seconds = 1\n");
    for said in [INFORMATION, b"PROXY TCP4 nobody\r\n", b"PROXY TCP4 203.0.113.9 192.0.2.200 1 2 3 4\r\n"] {
        let answered = ask(&relay, said);
        assert!(answered.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{answered}");
        assert!(answered.contains("a PROXY protocol header is expected from this address"), "{answered}");
    }
    // Nor may it take its time.
    assert_eq!(ask(&relay, b"PROXY TCP4 203."), "");
}

/// Else every client could claim any address.
#[test]
fn a_header_of_somebody_else_is_malformed_http() {
    let headers = proxy_headers([203, 0, 113, 9]);
    for network in ["proxy_protocol = true\ntrusted_proxies = ['192.0.2.1']", "proxy_protocol = false"] {
        let relay = RelayProcess::start_with(&format!("[network]\n{network}\n"));
        for header in &headers {
            let answered = ask(&relay, &[header, INFORMATION].concat());
            assert!(answered.is_empty() || answered.starts_with("HTTP/1.1 400 "), "{answered}");
        }
        assert!(ask(&relay, INFORMATION).starts_with("HTTP/1.1 200 OK\r\n"), "without one it is served");
    }
}

/// Regression: requests behind a proxy were not counted.
#[test]
fn requests_through_a_proxy_have_the_connection_limit_of_their_client() {
    let relay = RelayProcess::start_with("[network]\nconnections_per_address_max = 2\n");
    let clients = [(); 2].map(|()| connect_for(&relay, Some("203.0.113.9")).unwrap());
    let ask = |client: &str| {
        ask(
            &relay,
            format!(
                "GET /health HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: {client}\r\nConnection: close\r\n\r\n"
            )
            .as_bytes(),
        )
    };
    let refused = ask("203.0.113.9");
    assert!(refused.starts_with("HTTP/1.1 429 Too Many Requests\r\n"), "{refused}");
    assert!(ask("203.0.113.10").starts_with("HTTP/1.1 200 OK\r\n"));
    drop(clients);
    until("free places", || ask("203.0.113.9").starts_with("HTTP/1.1 200 OK\r\n"));
}
