//! Publishing on other relays: those that a customer names, and those of a manifest.
//!
//! It is done once and in the background: this relay has the events, and is what is relied on. The rules for addresses are
//! those of a stranger's URL: public addresses only, on the ports of `relay_agent::fetch`. A relay that asks for
//! authentication is not answered.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

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
/// Longest message of another relay, in bytes.
const MESSAGE_BYTES_MAX: usize = 64 << 10;

/// Publishes on other relays.
#[derive(Clone)]
pub(super) struct Relays(Arc<Shared>);

struct Shared {
    tls: TlsConnector,
    connections: Arc<Semaphore>,
}

impl Relays {
    /// # Errors
    /// If TLS cannot be set up.
    pub(super) fn new() -> io::Result<Self> {
        let tls = TlsConnector::from(Arc::new(tls::config(tls::roots())?));
        let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        Ok(Relays(Arc::new(Shared { tls, connections })))
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
        let (host, addresses) = resolve(relay).await?;
        let name = ServerName::try_from(host).map_err(io::Error::other)?;
        let stream = TcpStream::connect(&*addresses).await?;
        let stream = self.tls.connect(name, stream).await?;
        exchange(relay, stream, events).await.map_err(io::Error::other)
    }
}

/// The host of a relay and its addresses, all of which must be public.
async fn resolve(relay: &str) -> io::Result<(String, Vec<SocketAddr>)> {
    let forbidden = |why: String| io::Error::new(io::ErrorKind::PermissionDenied, why);
    let https = relay.strip_prefix("wss://").map(|rest| format!("https://{rest}"));
    let https = https.ok_or_else(|| forbidden("not wss".to_owned()))?;
    let destination = check_url(&https, Access::Public, &PrivateHosts::default(), &[])
        .map_err(|Forbidden(why)| forbidden(why))?;
    let url = destination.url;
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
    let port = url.port_or_known_default().unwrap_or(443);
    let addresses: Vec<SocketAddr> = tokio::net::lookup_host((&*host, port)).await?.collect();
    let is_private = |address: IpAddr| !is_public(address);
    if let Some(private) = addresses.iter().find(|address| is_private(address.ip())) {
        return Err(forbidden(format!("{} is not a public address", private.ip())));
    }
    Ok((host, addresses))
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
            let error = resolve(relay).await.map(|(host, _)| host).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{relay}: {error}");
        }
    }
}
