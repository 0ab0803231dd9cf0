//! Hostile messages: each is answered, memory stays bounded, and the connection stays open.

use relay_engine::testing::signing::{event, key};

use super::harness::{RawClient, RelayProcess, unix_now};

/// Sends `frame` and expects an answer that starts with `start` and contains `message`; then the connection must still
/// work.
fn check(client: &mut RawClient, frame: impl Into<String>, start: &str, message: &str) {
    let frame = frame.into();
    let shown: String = frame.chars().take(120).collect();
    client.send(frame);
    let answer = client.recv().unwrap_or_else(|| panic!("no answer to {shown}"));
    assert!(answer.starts_with(start) && answer.contains(message), "to {shown}\n came {answer}");
    client.send(r#"["REQ","still alive",{"limit":0}]"#);
    client.recv_starting(r#"["EOSE","still alive""#);
}

/// Limits of content and tags that fit into the message.
const SMALL_MESSAGES: &str =
    "[limits]\nmessage_bytes_max = 8192\ncontent_chars_max = 600\nevent_tags_max = 70\n";

#[test]
fn every_malformed_message_is_answered_and_the_connection_works() {
    let relay = RelayProcess::start();
    let mut client = relay.connect();
    let good = event(&key(1)).at(unix_now()).content("good").sign();
    let (id, notice) = (format!(r#"["OK","{}",false,"invalid:"#, good.id), r#"["NOTICE","invalid:"#);
    let with = |name: &str, value: &str| format!(r#"["EVENT",{}]"#, good.fields().set(name, value).json());
    let (long, upper) = ("x".repeat(65), good.id.to_uppercase());
    let closed_long = format!(r#"["CLOSED","{long}","invalid:"#);
    let ok_upper = format!(r#"["OK","{upper}",false,"invalid:"#);
    let nested = |open: &str, close: &str, depth: usize| open.repeat(depth) + &close.repeat(depth);

    let frames: Vec<(String, &str)> = vec![
        (String::new(), notice),
        ("   ".into(), notice),
        ("hello".into(), notice),
        ("{}".into(), notice),
        ("[]".into(), notice),
        ("[1]".into(), notice),
        (r#"["EVENT"]"#.into(), notice),
        (r#"["EVENT",1]"#.into(), notice),
        (r#"["EVENT",{}]"#.into(), notice),
        (r#"["REQ"]"#.into(), notice),
        (r#"["REQ",""]"#.into(), r#"["CLOSED","","invalid:"#),
        (r#"["REQ","x"]"#.into(), r#"["CLOSED","x","invalid:"#),
        (r#"["REQ","x",1]"#.into(), r#"["CLOSED","x","invalid:"#),
        (r#"["REQ","x",{"kinds":[1.5]}]"#.into(), r#"["CLOSED","x","invalid:"#),
        (r#"["REQ","x",{"kinds":["1"]}]"#.into(), r#"["CLOSED","x","invalid:"#),
        (r#"["REQ","x",{"kinds":[65536]}]"#.into(), r#"["CLOSED","x","invalid:"#),
        (r#"["REQ","x",{"ids":["abc"]}]"#.into(), r#"["CLOSED","x","invalid:"#),
        (format!(r#"["REQ","x",{{"authors":["{}"]}}]"#, "A".repeat(64)), r#"["CLOSED","x","invalid:"#),
        (r#"["REQ","x",{"limit":-1}]"#.into(), r#"["CLOSED","x","invalid:"#),
        (r#"["REQ","x",{"since":"now"}]"#.into(), r#"["CLOSED","x","invalid:"#),
        (r#"["REQ","x",{"search":"cats"}]"#.into(), r#"["CLOSED","x","unsupported:"#),
        (r#"["REQ","x",{"kinds":[1],"kinds":[2]}]"#.into(), r#"["CLOSED","x","invalid:"#),
        (format!(r#"["REQ","{long}",{{}}]"#), closed_long.as_str()),
        (format!(r#"["COUNT","{long}",{{}}]"#), closed_long.as_str()),
        (format!(r#"["REQ","x",{}]"#, nested("[", "]", 50_000)), r#"["CLOSED","x","invalid:"#),
        (nested("[", "]", 200_000), notice),
        (nested(r#"{"a":"#, "}", 50_000), notice),
        (r#"["FROB","x"]"#.into(), r#"["CLOSED","x","unsupported:"#),
        (r#"["FROB",1]"#.into(), r#"["NOTICE","unsupported:"#),
        (r#"["NEG-OPEN","x",{},"6"]"#.into(), r#"["NEG-ERR","x","invalid:"#),
        (r#"["REQ","x",{"kinds":[1]}"#.into(), r#"["CLOSED","x","invalid:"#),
        (r#"["COUNT","x",{"frob":1}]"#.into(), r#"["CLOSED","x","unsupported:"#),
        (with("created_at", "1e9"), id.as_str()),
        (with("created_at", "1.0"), id.as_str()),
        (with("created_at", "-1"), id.as_str()),
        (with("kind", "70000"), id.as_str()),
        (with("kind", "\"1\""), id.as_str()),
        (with("tags", r#"[["e",1]]"#), id.as_str()),
        (with("tags", r#"{"e":1}"#), id.as_str()),
        (with("tags", "null"), id.as_str()),
        (with("content", r#""\ud800""#), id.as_str()),
        (with("content", r#""\ud800\ud800""#), id.as_str()),
        (with("content", "\"raw \u{1} control\""), id.as_str()),
        (with("content", r#""\x""#), id.as_str()),
        (with("content", "\"other\""), id.as_str()),
        (with("sig", &format!("\"{}\"", "0".repeat(128))), id.as_str()),
        (with("sig", &format!("\"{}\"", "g".repeat(128))), id.as_str()),
        (with("pubkey", &format!("\"{}\"", "f".repeat(64))), id.as_str()),
        (with("pubkey", &format!("\"{}\"", good.pubkey.to_uppercase())), id.as_str()),
        (format!(r#"["EVENT",{}]"#, good.fields().push("kind", "1").json()), id.as_str()),
        (format!(r#"["EVENT",{}]"#, good.fields().without("sig").json()), id.as_str()),
        (with("id", &format!("\"{upper}\"")), ok_upper.as_str()),
        (
            format!(r#"["EVENT",{}]"#, good.fields().set("id", format!("\"{}\"", "1".repeat(64))).json()),
            r#"["OK","1111111111111111111111111111111111111111111111111111111111111111",false,"invalid:"#,
        ),
    ];
    for (frame, start) in frames {
        check(&mut client, frame, start, "");
    }
    // Finally the event itself.
    assert_eq!(client.publish(&good.json()), (true, String::new()));
}

#[test]
fn binary_frames_get_a_notice() {
    let relay = RelayProcess::start();
    let mut client = relay.connect();
    client.socket.send(tungstenite::Message::binary(vec![0u8; 100])).unwrap();
    assert!(client.recv().unwrap().starts_with(r#"["NOTICE","invalid:"#));
    assert_eq!(client.query(r#"{"limit":1}"#).len(), 0);
}

#[test]
fn ten_megabyte_filters_are_refused_in_bounded_memory() {
    let relay = RelayProcess::start();
    let before = relay.resident_bytes();
    let authors = vec!["a".repeat(64); 150_000];
    let huge = serde_json::json!(["REQ", "huge", { "authors": authors }]).to_string();
    assert!(huge.len() > 10_000_000);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut client = relay.connect();
                for _ in 0..5 {
                    check(&mut client, huge.as_str(), r#"["CLOSED","huge","invalid:"#, "over the limit");
                }
            });
        }
    });
    let grown = relay.resident_bytes().saturating_sub(before);
    assert!(grown < 64 << 20, "200 MB of filters made the relay grow by {grown} bytes");
}

#[test]
fn a_message_of_exactly_the_limit_passes_and_one_byte_more_does_not() {
    let relay = RelayProcess::start_with(SMALL_MESSAGES);
    let mut client = relay.connect();
    let padded = |len: usize| {
        let head = r#"["REQ","fits",{"limit":0"#;
        format!("{head}{}}}]", " ".repeat(len - head.len() - 2))
    };
    assert_eq!(padded(8192).len(), 8192);
    check(&mut client, padded(8192), r#"["EOSE","fits""#, "");
    check(&mut client, padded(8193), r#"["CLOSED","fits","invalid:"#, "8193");
}

#[test]
fn a_message_in_fragments_is_one_message() {
    use tungstenite::Message;
    use tungstenite::protocol::frame::Frame;
    use tungstenite::protocol::frame::coding::{Data, OpCode};
    let relay = RelayProcess::start_with(SMALL_MESSAGES);
    let mut client = relay.connect();
    let send = |client: &mut RawClient, bytes: &[u8], each: usize| {
        let count = bytes.len().div_ceil(each);
        for (at, piece) in bytes.chunks(each).enumerate() {
            let kind = if at == 0 { Data::Text } else { Data::Continue };
            let frame = Frame::message(piece.to_vec(), OpCode::Data(kind), at + 1 == count);
            client.socket.send(Message::Frame(frame)).unwrap();
            // A ping between fragments is answered at once.
            if at == 1 {
                client.socket.send(Message::Ping(tungstenite::Bytes::from_static(b"meanwhile"))).unwrap();
            }
        }
    };
    // Fragments may split characters.
    let note = event(&key(1)).at(unix_now()).content("grüße ".repeat(100)).sign();
    for (each, message) in [(1, ""), (7, "duplicate: "), (1_000, "duplicate: ")] {
        send(&mut client, format!(r#"["EVENT",{}]"#, note.json()).as_bytes(), each);
        let ok = client.recv_starting(r#"["OK","#);
        assert!(ok.starts_with(&format!(r#"["OK","{}",true,"{message}"#, note.id)), "{ok}");
    }
    // The limit applies to the message, not to a fragment, and the connection stays open.
    send(&mut client, format!(r#"["REQ","large",{{"search":"{}"}}]"#, "x".repeat(9_000)).as_bytes(), 1_000);
    client.recv_starting(r#"["CLOSED","large","invalid:"#);
    assert_eq!(client.query(r#"{"kinds":[1]}"#), [note.json()]);
}

#[test]
fn a_hundred_thousand_authors_and_a_list_of_ten_thousand() {
    let relay = RelayProcess::start_with("[limits]\nmessage_bytes_max = 16777216\n");
    let mut client = relay.connect();
    let authors = |count: u64| {
        let list: Vec<String> = (0..count).map(|number| format!("{number:064x}")).collect();
        serde_json::json!(["REQ", "many", { "authors": list }]).to_string()
    };
    check(&mut client, authors(100_000), r#"["CLOSED","many","invalid:"#, "");
    check(&mut client, authors(10_000), r#"["EOSE","many""#, "");
}

#[test]
fn a_connection_with_only_malformed_messages_is_closed_with_a_reason() {
    let relay = RelayProcess::start_with("[limits]\nmalformed_messages_max = 10\n");
    let mut client = relay.connect();
    for _ in 0..10 {
        client.send("nonsense");
    }
    while client.recv().is_some() {}
    assert_eq!(client.closed, Some(1008));
}

#[test]
fn other_protocols_get_http_or_nothing() {
    use std::io::{Read, Write};
    let relay = RelayProcess::start();
    let talk = |bytes: &[u8]| {
        let mut stream = std::net::TcpStream::connect(relay.host()).unwrap();
        stream.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
        stream.write_all(bytes).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    };
    assert!(talk(b"GET /nowhere HTTP/1.1\r\nhost: x\r\n\r\n").starts_with("HTTP/1.1 404"));
    assert!(talk(b"\x16\x03\x01\x00garbage\r\n\r\n").starts_with("HTTP/1.1 400") || talk(b"\x00").is_empty());
    let upgrade = b"GET / HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n";
    assert!(talk(upgrade).starts_with("HTTP/1.1 4"), "an upgrade without a key is refused");
    assert!(relay.connect().query(r#"{"limit":1}"#).is_empty());
}
