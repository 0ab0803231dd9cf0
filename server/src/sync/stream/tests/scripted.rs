//! A relay on loopback that does what a script says on its live connections, and is honest on all others.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use relay_engine::types::Event;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast;
use tokio_tungstenite::tungstenite::Message;

use super::super::super::testing::{Events, FakeRelay, text_of};

/// What happens on a live connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Live {
    Honest,
    /// It is not accepted.
    Refused,
    /// The handshake is not answered.
    Deaf,
    /// Neither REQ nor pings are answered.
    Stalled,
    /// It is cut after so many events.
    CutAfter(usize),
    /// It is closed in order after so many events.
    ClosedAfter(usize),
    /// REQ is answered by CLOSED with these words.
    Closes(&'static str),
    /// So many of these messages come after EOSE.
    Says(String, usize),
}

/// A scripted relay that listens.
pub(super) struct Scripted {
    pub(super) url: String,
    pub(super) relay: Arc<Mutex<FakeRelay>>,
    live: broadcast::Sender<String>,
}

impl Scripted {
    /// The script is that of one live connection after another; then they are honest.
    pub(super) async fn start(relay: FakeRelay, script: &[Live]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}", listener.local_addr().unwrap());
        let relay = Arc::new(Mutex::new(relay));
        let (live, _) = broadcast::channel(10_000);
        let script = Arc::new(Mutex::new(script.iter().cloned().collect::<VecDeque<_>>()));
        let (shared, sender) = (Arc::clone(&relay), live.clone());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut head = [0; 2_048];
                let Ok(len) = stream.peek(&mut head).await else { continue };
                if String::from_utf8_lossy(&head[..len]).to_lowercase().contains("upgrade: websocket") {
                    let (relay, sender, script) = (Arc::clone(&shared), sender.clone(), Arc::clone(&script));
                    tokio::spawn(talk(stream, relay, sender, script));
                } else {
                    let _ = tokio::io::AsyncReadExt::read(&mut stream, &mut [0; 2_048]).await;
                    let body = r#"{"supported_nips":[1,77]}"#;
                    let head = format!(
                        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                        body.len()
                    );
                    let _ = stream.write_all(format!("{head}{body}").as_bytes()).await;
                    let _ = stream.shutdown().await;
                }
            }
        });
        Scripted { url, relay, live }
    }

    pub(super) fn events(&self) -> Events {
        self.relay.lock().unwrap().events.clone()
    }

    /// How often a message of this name came.
    pub(super) fn count(&self, name: &str) -> usize {
        self.relay.lock().unwrap().count(name)
    }

    /// Somebody publishes an event there.
    pub(super) fn publish(&self, event: &Event) {
        self.relay.lock().unwrap().events.insert(event.id, event.clone());
        // Nobody may be connected.
        let _ = self.live.send(text_of(event));
    }
}

/// One connection. The first message decides whether it is live: a comparison begins with NEG-OPEN.
async fn talk(
    stream: TcpStream,
    relay: Arc<Mutex<FakeRelay>>,
    sender: broadcast::Sender<String>,
    script: Arc<Mutex<VecDeque<Live>>>,
) {
    // Refused and Deaf act before the first message, which is what tells a live connection from a comparison. A comparison begins
    // only beside a live connection, so this one is live if none is.
    let is_early = |live: &Live| matches!(live, Live::Refused | Live::Deaf);
    let early = {
        let mut script = script.lock().unwrap();
        if script.front().is_some_and(is_early) { script.pop_front() } else { None }
    };
    match early {
        Some(Live::Refused) => return,
        Some(_) => return std::future::pending().await,
        None => {}
    }
    let Ok(mut socket) = tokio_tungstenite::accept_async(stream).await else { return };
    let mut published = sender.subscribe();
    let mut is_live = false;
    let mut events_left = usize::MAX;
    let mut ends_in_order = false;
    let first = relay.lock().unwrap().connect();
    for message in first {
        let _ = socket.feed(Message::text(message)).await;
    }
    let _ = socket.flush().await;
    loop {
        let text = tokio::select! {
            message = socket.next() => match message {
                Some(Ok(Message::Text(text))) => text.to_string(),
                Some(Ok(_)) => continue,
                _ => return,
            },
            event = published.recv(), if is_live => {
                let Ok(event) = event else { return };
                if events_left == 0 {
                    if ends_in_order {
                        let _ = socket.close(None).await;
                    }
                    return;
                }
                events_left -= 1;
                let message = format!(r#"["EVENT","live",{event}]"#);
                if socket.send(Message::text(message)).await.is_err() {
                    return;
                }
                continue;
            }
        };
        let message: Value = serde_json::from_str(&text).unwrap();
        let is_subscription = message[0] == "REQ" && message[1] == "live";
        if message[0] == "EVENT" {
            // As relays do, also to the one that has published it.
            let _ = sender.send(message[1].to_string());
        }
        let mut answers = Vec::new();
        if is_subscription {
            let live = script.lock().unwrap().pop_front().unwrap_or(Live::Honest);
            match live {
                Live::Stalled => return std::future::pending().await,
                Live::Closes(words) => {
                    let answer = json!(["CLOSED", "live", words]).to_string();
                    let _ = socket.send(Message::text(answer)).await;
                    continue;
                }
                Live::CutAfter(events) => events_left = events,
                Live::ClosedAfter(events) => (events_left, ends_in_order) = (events, true),
                Live::Says(words, times) => answers = vec![words; times],
                Live::Honest | Live::Refused | Live::Deaf => {}
            }
            is_live = true;
        }
        let first = relay.lock().unwrap().handle(&text);
        for answer in first.into_iter().chain(answers) {
            if socket.send(Message::text(answer)).await.is_err() {
                return;
            }
        }
    }
}

/// Waits until `holds`.
pub(super) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..3_000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what} does not come about");
}
