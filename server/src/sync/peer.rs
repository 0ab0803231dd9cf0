//! Connections to other relays as their client, and what they tell about themselves (NIP-11).
//!
//! The operator chooses the relays, so private addresses and `ws://` are allowed.

use std::fmt;
use std::io;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::SplitStream;
use futures_util::{SinkExt as _, StreamExt as _};
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::http::Uri;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Bytes, Error, Message};

use super::information::Information;
use super::session::quoted;
use crate::agents::tls;

/// Longest message of another relay, in bytes: a large event, or a megabyte of ids in hexadecimal.
const MESSAGE_BYTES_MAX: usize = 16 << 20;
/// Messages that wait to be written to the socket.
const OUTGOING_MAX: usize = 64;
/// Longest NIP-11 document, in bytes.
const INFORMATION_BYTES_MAX: usize = 1 << 20;
/// Longest time for it.
const INFORMATION_TIME: Duration = Duration::from_secs(10);
/// Longest time that the other relay may take to close a connection.
const CLOSE_TIME: Duration = Duration::from_secs(2);

/// Where another relay is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RelayUrl {
    text: String,
    host: String,
    port: u16,
    is_tls: bool,
}

impl FromStr for RelayUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text}: expected ws://HOST[:PORT][/PATH] or wss://...");
        let uri: Uri = text.trim().parse().map_err(|_| wrong())?;
        let is_tls = match uri.scheme_str() {
            Some("wss") => true,
            Some("ws") => false,
            _ => return Err(wrong()),
        };
        let authority = uri.authority().ok_or_else(wrong)?;
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        if host.is_empty() || authority.as_str().contains('@') {
            return Err(wrong());
        }
        let port = authority.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        Ok(RelayUrl { text: text.trim().to_owned(), host, port, is_tls })
    }
}

impl fmt::Display for RelayUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl RelayUrl {
    /// As HTTP names it.
    fn http(&self) -> String {
        let (_, rest) = self.text.split_once("://").unwrap_or_default();
        format!("{}://{rest}", if self.is_tls { "https" } else { "http" })
    }
}

/// Any socket.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// What connections to other relays have in common.
pub(crate) struct Connector {
    tls: TlsConnector,
    http: reqwest::Client,
}

impl Connector {
    /// # Errors
    /// If TLS cannot be set up.
    pub(crate) fn new() -> io::Result<Self> {
        let config = tls::config(tls::roots())?;
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(config.clone())
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .timeout(INFORMATION_TIME)
            .build()
            .map_err(io::Error::other)?;
        Ok(Connector { tls: TlsConnector::from(Arc::new(config)), http })
    }

    /// Connects to a relay.
    ///
    /// # Errors
    /// Why not.
    pub(crate) async fn connect(&self, url: &RelayUrl) -> io::Result<Connection> {
        let stream = TcpStream::connect((&*url.host, url.port)).await?;
        stream.set_nodelay(true)?;
        let stream: Box<dyn Stream> = if url.is_tls {
            let name = ServerName::try_from(url.host.clone()).map_err(io::Error::other)?;
            Box::new(self.tls.connect(name, stream).await?)
        } else {
            Box::new(stream)
        };
        let config = WebSocketConfig::default()
            .max_message_size(Some(MESSAGE_BYTES_MAX))
            .max_frame_size(Some(MESSAGE_BYTES_MAX));
        let connected = tokio_tungstenite::client_async_with_config(&url.text, stream, Some(config)).await;
        let (socket, _) = connected.map_err(io::Error::other)?;
        Ok(Connection::new(socket))
    }

    /// What a relay tells about itself; nothing if it does not.
    pub(super) async fn information(&self, url: &RelayUrl) -> Information {
        self.document(url).await.map_or(Information::default(), |document| Information::of(&document))
    }

    async fn document(&self, url: &RelayUrl) -> Option<Value> {
        let request = self.http.get(url.http()).header("accept", "application/nostr+json");
        let mut response = request.send().await.ok()?.error_for_status().ok()?;
        let mut body = Vec::new();
        while let Some(piece) = response.chunk().await.ok()? {
            body.extend_from_slice(&piece);
            if body.len() > INFORMATION_BYTES_MAX {
                return None;
            }
        }
        serde_json::from_slice(&body).ok()
    }
}

/// An open connection, which is cut when it is dropped.
pub(crate) struct Connection {
    pub(crate) incoming: Incoming,
    pub(crate) outgoing: Outgoing,
}

/// What comes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// A text message.
    Text(String),
    /// A ping or a pong.
    SignOfLife,
}

/// Its messages.
pub(crate) struct Incoming(SplitStream<WebSocketStream<Box<dyn Stream>>>);

/// What is written to it, apart from reading, so that neither side waits for the other to read.
pub(crate) struct Outgoing {
    messages: mpsc::Sender<Message>,
    writing: JoinHandle<()>,
}

impl Connection {
    fn new(socket: WebSocketStream<Box<dyn Stream>>) -> Self {
        let (mut sink, incoming) = socket.split();
        let (messages, mut waiting) = mpsc::channel(OUTGOING_MAX);
        let writing = tokio::spawn(async move {
            while let Some(message) = waiting.recv().await {
                if sink.send(message).await.is_err() {
                    return;
                }
            }
            let _ = sink.close().await;
        });
        Connection { incoming: Incoming(incoming), outgoing: Outgoing { messages, writing } }
    }

    /// Closes it once everything is written, and waits a while for the other side.
    pub(crate) async fn close(mut self) {
        let (nowhere, _) = mpsc::channel(1);
        self.outgoing.messages = nowhere;
        let ended = async { while self.incoming.next().await.is_ok() {} };
        let _ = tokio::time::timeout(CLOSE_TIME, ended).await;
    }
}

impl Incoming {
    /// The next text message. Cancel safe.
    ///
    /// # Errors
    /// The connection has ended, and why.
    pub(crate) async fn next(&mut self) -> Result<String, String> {
        loop {
            if let Heard::Text(text) = self.heard().await? {
                return Ok(text);
            }
        }
    }

    /// The next message, of whatever type. Cancel safe.
    ///
    /// # Errors
    /// The connection has ended, and why.
    pub(crate) async fn heard(&mut self) -> Result<Heard, String> {
        loop {
            match self.0.next().await {
                Some(Ok(Message::Text(text))) => return Ok(Heard::Text(text.to_string())),
                Some(Ok(Message::Pong(_) | Message::Ping(_))) => return Ok(Heard::SignOfLife),
                Some(Ok(Message::Close(Some(frame)))) => {
                    let reason = quoted(&frame.reason);
                    return Err(format!("it closes the connection: {} {reason}", frame.code));
                }
                Some(Ok(_)) => {}
                None | Some(Err(Error::ConnectionClosed | Error::AlreadyClosed)) => {
                    return Err("it closes the connection".to_owned());
                }
                Some(Err(error)) => return Err(format!("the connection is cut: {error}")),
            }
        }
    }
}

impl Outgoing {
    /// Room for a message. Cancel safe; `None` if the connection has ended.
    pub(crate) async fn room(&self) -> Option<Room<'_>> {
        self.messages.reserve().await.ok().map(Room)
    }
}

impl Drop for Outgoing {
    fn drop(&mut self) {
        self.writing.abort();
    }
}

/// Room for one message.
pub(crate) struct Room<'a>(mpsc::Permit<'a, Message>);

impl Room<'_> {
    /// Sends a ping, which the other side answers.
    pub(crate) fn ping(self) {
        self.0.send(Message::Ping(Bytes::new()));
    }

    /// Sends a text message.
    pub(crate) fn send(self, text: String) {
        self.0.send(Message::text(text));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_relays_are_read() {
        let read = |text: &str| text.parse::<RelayUrl>().map(|url| (url.host.clone(), url.port, url.http()));
        for (text, host, port, http) in [
            ("ws://127.0.0.1:7777", "127.0.0.1", 7777, "http://127.0.0.1:7777"),
            (" wss://relay.example/x ", "relay.example", 443, "https://relay.example/x"),
            ("ws://[::1]", "::1", 80, "http://[::1]"),
        ] {
            assert_eq!(read(text), Ok((host.to_owned(), port, http.to_owned())));
        }
        for text in
            ["relay.example", "https://relay.example", "ws://", "ws://user:word@relay.example", "", "/x"]
        {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
