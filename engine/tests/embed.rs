//! Runs `examples/embed.rs` and uses it as a client.

use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use relay_engine::testing::signing::{event, key};
use tungstenite::stream::MaybeTlsStream;
use tungstenite::{Message, WebSocket};

#[allow(dead_code)]
#[path = "../examples/embed.rs"]
mod embed;

type Client = WebSocket<MaybeTlsStream<TcpStream>>;

/// Reads until a frame with this prefix.
fn wait_for(client: &mut Client, start: &str) -> String {
    loop {
        let frame = client.read().expect("the relay answers").into_text().expect("in text").to_string();
        if frame.starts_with(start) {
            return frame;
        }
    }
}

#[test]
fn two_clients_publish_ask_and_listen() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let url = format!("ws://{}", listener.local_addr().expect("it is bound"));
    let goes_on = Arc::new(AtomicBool::new(true));
    let relay = {
        let goes_on = Arc::clone(&goes_on);
        std::thread::spawn(move || embed::serve(&listener, || goes_on.load(Ordering::Relaxed)))
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let [first, second] = ["one", "two"].map(|content| event(&key(1)).at(now).content(content).sign());

    let (mut writer, _) = tungstenite::connect(&url).expect("the relay takes connections");
    writer.send(Message::text(format!(r#"["EVENT",{}]"#, first.json()))).expect("sent");
    wait_for(&mut writer, &format!(r#"["OK","{}",true"#, first.id));

    let (mut reader, _) = tungstenite::connect(&url).expect("the relay takes connections");
    reader.send(Message::text(r#"["REQ","s",{"kinds":[1]}]"#)).expect("sent");
    assert!(wait_for(&mut reader, r#"["EVENT","s""#).contains(&first.id));
    wait_for(&mut reader, r#"["EOSE","s""#);
    writer.send(Message::text(format!(r#"["EVENT",{}]"#, second.json()))).expect("sent");
    assert!(wait_for(&mut reader, r#"["EVENT","s""#).contains(&second.id));
    let forged = second.forged();
    writer.send(Message::text(format!(r#"["EVENT",{}]"#, forged.json()))).expect("sent");
    wait_for(&mut writer, &format!(r#"["OK","{}",true"#, second.id));
    wait_for(&mut writer, &format!(r#"["OK","{}",true,"duplicate"#, forged.id));

    goes_on.store(false, Ordering::Relaxed);
    relay.join().expect("no panic").expect("no error");
}
