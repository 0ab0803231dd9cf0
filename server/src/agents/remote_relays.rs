//! Other relays: publishing on those that a customer names, and those of a manifest; asking remote signers and wallets on theirs.
//!
//! Publishing is done once and in the background: this relay has the events, and is what is relied on. The rules for addresses are
//! those of a stranger's URL: public addresses only, on the ports of `relay_agent::fetch`. The relays of a signer or wallet are the
//! operator's choice: any port, and the private addresses that the settings allow, those also without TLS. A relay that asks
//! for authentication is not answered.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use relay_agent::exchange::{Answers, Frames};
use relay_agent::executor::Access;
use relay_agent::fetch::{Forbidden, PrivateHosts, check_url, is_public};
use relay_agent::nip90::RELAYS_MAX;
use relay_engine::types::Event;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_rustls::TlsConnector;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::tls;

/// Connections that are open at a time. What comes while there are as many is not published elsewhere.
const CONNECTIONS_MAX: usize = 64;
/// Longest time for one relay.
const TIME: Duration = Duration::from_secs(20);
/// Longest message of another relay, in bytes; and in an exchange.
const MESSAGE_BYTES_MAX: usize = 64 << 10;
const EXCHANGE_MESSAGE_BYTES_MAX: usize = 256 << 10;

/// Publishes on other relays.
#[derive(Clone)]
pub(super) struct RemoteRelays(Arc<Shared>);

struct Shared {
    tls: TlsConnector,
    connections: Arc<Semaphore>,
    private_hosts: PrivateHosts,
}

impl RemoteRelays {
    /// # Errors
    /// If TLS cannot be set up.
    pub(super) fn new(private_hosts: PrivateHosts) -> io::Result<Self> {
        let tls = TlsConnector::from(Arc::new(tls::config(tls::roots())?));
        let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        Ok(RemoteRelays(Arc::new(Shared { tls, connections, private_hosts })))
    }

    /// Asks somebody on a relay, and tells each event that comes. Goes on until the connection ends.
    ///
    /// # Errors
    /// Always: why there is no connection, or why it has ended.
    pub(super) async fn ask(
        &self,
        relay: &str,
        answers: &Answers,
        requests: &[Event],
        tell: impl FnMut(Event),
    ) -> io::Result<()> {
        let connection = Arc::clone(&self.0.connections).try_acquire_owned();
        let _connection = connection.map_err(|_| io::Error::other("too many connections to other relays"))?;
        let found = resolve(relay, Access::Configured, &self.0.private_hosts).await?;
        let stream = TcpStream::connect(&*found.addresses).await?;
        let messages = answers.messages(requests);
        let asked = if found.is_tls {
            let name = ServerName::try_from(found.host).map_err(io::Error::other)?;
            let stream = self.0.tls.connect(name, stream).await?;
            ask(relay, stream, answers, &messages, tell).await
        } else {
            ask(relay, stream, answers, &messages, tell).await
        };
        asked.map_err(io::Error::other)
    }

    /// Publishes events on relays, on the current runtime.
    pub(super) fn publish(&self, mut relays: Vec<String>, events: &[Event]) {
        relays.sort_unstable();
        relays.dedup();
        relays.truncate(RELAYS_MAX);
        for relay in relays {
            let Ok(connection) = Arc::clone(&self.0.connections).try_acquire_owned() else {
                tracing::debug!(relay, "too many connections to other relays: nothing is published there");
                continue;
            };
            let (shared, events) = (Arc::clone(&self.0), events.to_vec());
            tokio::spawn(async move {
                let _connection = connection;
                match tokio::time::timeout(TIME, shared.send(&relay, &events)).await {
                    Ok(Ok(accepted)) => tracing::debug!(relay, accepted, "published on another relay"),
                    Ok(Err(error)) => tracing::debug!(relay, %error, "not published on another relay"),
                    Err(_) => tracing::debug!(relay, "another relay takes too long"),
                }
            });
        }
    }
}

impl Shared {
    async fn send(&self, relay: &str, events: &[Event]) -> io::Result<usize> {
        let found = resolve(relay, Access::Public, &PrivateHosts::default()).await?;
        let name = ServerName::try_from(found.host).map_err(io::Error::other)?;
        let stream = TcpStream::connect(&*found.addresses).await?;
        let stream = self.tls.connect(name, stream).await?;
        exchange(relay, stream, events).await.map_err(io::Error::other)
    }
}

/// Where a relay is.
struct Found {
    host: String,
    addresses: Vec<SocketAddr>,
    is_tls: bool,
}

/// Finds a relay. All its addresses must be public, unless it is one of `private`.
async fn resolve(relay: &str, access: Access, private: &PrivateHosts) -> io::Result<Found> {
    let forbidden = |why: String| io::Error::new(io::ErrorKind::PermissionDenied, why);
    let http = match relay.split_once("://") {
        Some(("wss", rest)) => format!("https://{rest}"),
        Some(("ws", rest)) if access == Access::Configured => format!("http://{rest}"),
        _ => return Err(forbidden("not wss".to_owned())),
    };
    let destination = check_url(&http, access, private, &[]).map_err(|Forbidden(why)| forbidden(why))?;
    let is_private_allowed = destination.is_private;
    let url = destination.url;
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let port = url.port_or_known_default().unwrap_or(443);
    let addresses: Vec<SocketAddr> = tokio::net::lookup_host((&*host, port)).await?.collect();
    let is_private = |address: IpAddr| !is_private_allowed && !is_public(address);
    if let Some(private) = addresses.iter().find(|address| is_private(address.ip())) {
        return Err(forbidden(format!("{} is not a public address", private.ip())));
    }
    Ok(Found { host, addresses, is_tls: url.scheme() == "https" })
}

/// Sends messages, and tells each event that comes.
async fn ask<S>(
    relay: &str,
    stream: S,
    answers: &Answers,
    messages: &[String],
    mut tell: impl FnMut(Event),
) -> Result<(), Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    use futures_util::{SinkExt as _, StreamExt as _};
    let config = WebSocketConfig::default()
        .max_message_size(Some(EXCHANGE_MESSAGE_BYTES_MAX))
        .max_frame_size(Some(EXCHANGE_MESSAGE_BYTES_MAX));
    let (mut socket, _) = tokio_tungstenite::client_async_with_config(relay, stream, Some(config)).await?;
    for message in messages {
        socket.send(Message::text(message.as_str())).await?;
    }
    let failed = |why: String| Error::Io(io::Error::other(why));
    // The first message is the subscription.
    let mut frames = Frames::new(answers, messages.len() - 1);
    while let Some(message) = socket.next().await {
        if let Message::Text(text) = message?
            && let Some(event) = frames.handle(&text).map_err(failed)?
        {
            tell(event);
        }
    }
    Err(failed("it has closed".to_owned()))
}

/// Sends events and waits for their OKs. Returns how many were accepted.
async fn exchange<S>(relay: &str, stream: S, events: &[Event]) -> Result<usize, Error>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    use futures_util::{SinkExt as _, StreamExt as _};
    let config = WebSocketConfig::default()
        .max_message_size(Some(MESSAGE_BYTES_MAX))
        .max_frame_size(Some(MESSAGE_BYTES_MAX));
    let (mut socket, _) = tokio_tungstenite::client_async_with_config(relay, stream, Some(config)).await?;
    for event in events {
        let json = String::from_utf8_lossy(event.json());
        socket.send(Message::text(format!(r#"["EVENT",{json}]"#))).await?;
    }
    let (mut answered, mut accepted) = (0, 0);
    while answered < events.len()
        && let Some(message) = socket.next().await
    {
        if let Message::Text(text) = message?
            && let Ok(("OK", id, is_accepted, _)) =
                serde_json::from_str::<(&str, &str, bool, serde_json::Value)>(&text)
            && events.iter().any(|event| event.id.to_string() == id)
        {
            answered += 1;
            accepted += usize::from(is_accepted);
        }
    }
    let _ = socket.close(None).await;
    Ok(accepted)
}

#[cfg(test)]
mod tests {
    use futures_util::{SinkExt as _, StreamExt as _};
    use relay_agent::exchange::Wanted;
    use relay_engine::testing::event_of_json;
    use relay_engine::testing::signing::{event, key};

    use super::*;

    #[tokio::test]
    async fn events_are_sent_and_their_oks_counted() {
        let (client, server) = tokio::io::duplex(4_096);
        let events: Vec<Event> =
            (0..3).map(|at| event_of_json(&event(&key(1)).at(at).sign().json()).unwrap()).collect();
        let relay = tokio::spawn(async move {
            let mut socket = tokio_tungstenite::accept_async(server).await.unwrap();
            let mut got = Vec::new();
            socket.send(Message::text(r#"["NOTICE","hello"]"#)).await.unwrap();
            while let Some(Ok(message)) = socket.next().await {
                let Ok(text) = message.to_text() else { continue };
                let Some(json) = text.strip_prefix(r#"["EVENT","#) else { continue };
                let event = event_of_json(json.strip_suffix(']').unwrap()).unwrap();
                let ok = format!(r#"["OK","{}",{},""]"#, event.id, got.len() != 1);
                socket.send(Message::text(ok)).await.unwrap();
                got.push(event);
            }
            got
        });
        let accepted = exchange("wss://relay.example", client, &events).await.unwrap();
        assert_eq!((accepted, relay.await.unwrap()), (2, events));
    }

    #[tokio::test]
    async fn no_private_address_is_connected_to() {
        for relay in [
            "ws://relay.example",
            "wss://127.0.0.1",
            "wss://[::1]:8443",
            "wss://localhost:8443",
            "wss://192.168.1.1",
            "wss://user:password@relay.example",
            "wss://8.8.8.8:22",
            "wss://",
            "https://relay.example",
        ] {
            let found = resolve(relay, Access::Public, &PrivateHosts::default()).await;
            let error = found.map(|found| found.host).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{relay}: {error}");
        }
    }

    #[tokio::test]
    async fn the_relay_of_an_exchange_is_public_or_one_that_the_operator_allows() {
        let private = PrivateHosts::parse(&["127.0.0.1:7777"]).unwrap();
        for relay in ["ws://127.0.0.1:7778", "wss://[::1]:7777", "ws://8.8.8.8:7777", "ws://localhost:7777"] {
            let found = resolve(relay, Access::Configured, &private).await;
            let error = found.map(|found| found.host).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{relay}: {error}");
        }
        for (relay, is_tls) in
            [("ws://127.0.0.1:7777", false), ("wss://127.0.0.1:7777", true), ("wss://8.8.8.8:4848", true)]
        {
            let found = resolve(relay, Access::Configured, &private).await.unwrap();
            assert_eq!((found.addresses.len(), found.is_tls), (1, is_tls), "{relay}");
        }
    }

    #[tokio::test]
    async fn a_signer_is_asked_until_the_relay_does_not_go_on() {
        let answer = event_of_json(&event(&key(1)).kind(24_133).sign().json()).unwrap();
        let request = event_of_json(&event(&key(2)).kind(24_133).sign().json()).unwrap();
        let client = request.pubkey.to_string();
        let wanted = vec![Wanted { kinds: vec![24_133], tag: Some(('p', vec![client])) }];
        let answers = Answers { author: answer.pubkey, wanted, unasked_max: 0 };
        let sends = |frames: Vec<String>| {
            let (client, server) = tokio::io::duplex(4_096);
            let relay = tokio::spawn(async move {
                let mut socket = tokio_tungstenite::accept_async(server).await.unwrap();
                let mut got = Vec::new();
                for _ in 0..2 {
                    got.push(socket.next().await.unwrap().unwrap().into_text().unwrap().to_string());
                }
                for frame in frames {
                    // Whoever asks may have heard enough.
                    if socket.send(Message::text(frame)).await.is_err() {
                        return got;
                    }
                }
                let _ = socket.close(None).await;
                while let Some(Ok(_)) = socket.next().await {}
                got
            });
            (client, relay)
        };
        let event = format!(r#"["EVENT","answers",{}]"#, String::from_utf8_lossy(answer.json()));
        let refused = format!(r#"["OK","{}",false,"blocked: no"]"#, request.id);
        for (frames, told, why) in [
            (vec![r#"["EOSE","answers"]"#.to_owned(), event.clone(), event.clone()], 2, "it has closed"),
            (vec![event.clone(); 30], 20, "too many events"),
            (vec![refused], 0, "it refuses the requests: blocked: no"),
            (vec![event, r#"["CLOSED","answers","auth-required: x"]"#.to_owned()], 1, "auth-required: x"),
        ] {
            let (client, relay) = sends(frames);
            let mut got = Vec::new();
            let messages = answers.messages(std::slice::from_ref(&request));
            let asked =
                ask("wss://relay.example", client, &answers, &messages, |event| got.push(event)).await;
            let error = asked.unwrap_err().to_string();
            assert!(error.contains(why), "{error}, {why}");
            assert_eq!(got, vec![answer.clone(); told], "{why}");
            assert_eq!(relay.await.unwrap(), messages);
        }
    }
}
