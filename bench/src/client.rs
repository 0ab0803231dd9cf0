//! Connections to a relay, and its frames, of which only the needed parts are parsed.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use tungstenite::client::IntoClientRequest;
use tungstenite::http::HeaderValue;
use tungstenite::protocol::WebSocketConfig;
use tungstenite::{Error, Message, WebSocket};

use crate::hex;

/// Longest wait for anything a relay must answer at once.
pub const ANSWER_WAIT_MAX: Duration = Duration::from_secs(20);

/// Where a relay listens.
#[derive(Clone, Debug)]
pub struct Endpoint {
    url: String,
    addresses: Vec<SocketAddr>,
}

impl Endpoint {
    /// Reads `ws://host:port/path`.
    ///
    /// # Errors
    /// For anything else, and unless `allow_remote`, for a host that is not this machine: a load generator
    /// pointed at someone else's relay is an attack.
    pub fn new(url: &str, allow_remote: bool) -> Result<Self> {
        let rest = url.strip_prefix("ws://").context("the URL must start with ws://")?;
        let authority = rest.split(['/', '?']).next().unwrap_or_default();
        if authority.contains('@') {
            bail!("no user names in the URL");
        }
        let with_port = if authority.ends_with(']') || !authority.contains(':') {
            format!("{authority}:80")
        } else {
            authority.to_owned()
        };
        let addresses: Vec<SocketAddr> =
            with_port.to_socket_addrs().with_context(|| format!("resolving {authority}"))?.collect();
        if addresses.is_empty() {
            bail!("{authority} has no address");
        }
        if !allow_remote && !addresses.iter().all(|address| address.ip().is_loopback()) {
            bail!("{authority} is not this machine; --allow-remote if it is yours");
        }
        Ok(Endpoint { url: url.to_owned(), addresses })
    }

    /// Opens a connection, blocking, with TCP_NODELAY and a read buffer of `read_bytes`.
    ///
    /// # Errors
    /// If nothing listens, or it is not a WebSocket server.
    pub fn connect(&self, read_bytes: usize) -> Result<Connection> {
        self.connect_as(read_bytes, None)
    }

    /// [`Endpoint::connect`] as a proxy does for a client at `client`: with `X-Forwarded-For`, which relays believe
    /// from the proxies they trust, and `CF-Connecting-IP`, which Cloudflare sets for the edge.
    ///
    /// # Errors
    /// If nothing listens, it is no WebSocket server, or it takes no more connections.
    pub fn connect_as(&self, read_bytes: usize, client: Option<IpAddr>) -> Result<Connection> {
        let mut last = None;
        for address in &self.addresses {
            match TcpStream::connect_timeout(address, ANSWER_WAIT_MAX) {
                Ok(stream) => return self.handshake(stream, read_bytes, client),
                Err(error) => last = Some(error),
            }
        }
        Err(last.expect("at least one address")).with_context(|| format!("connecting to {}", self.url))
    }

    fn handshake(&self, stream: TcpStream, read_bytes: usize, client: Option<IpAddr>) -> Result<Connection> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER_WAIT_MAX))?;
        stream.set_write_timeout(Some(ANSWER_WAIT_MAX))?;
        let config = WebSocketConfig::default().read_buffer_size(read_bytes).write_buffer_size(64 << 10);
        let mut request = self.url.as_str().into_client_request()?;
        if let Some(client) = client {
            for name in ["x-forwarded-for", "cf-connecting-ip"] {
                request.headers_mut().insert(name, HeaderValue::try_from(client.to_string())?);
            }
        }
        let (socket, _) = tungstenite::client::client_with_config(request, stream, Some(config))
            .map_err(|error| anyhow::anyhow!("WebSocket handshake with {}: {error}", self.url))?;
        Ok(Connection { socket })
    }
}

/// One open connection.
#[derive(Debug)]
pub struct Connection {
    socket: WebSocket<TcpStream>,
}

/// How a step that must not block ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// All of it is done.
    Done,
    /// The socket accepts or has no more bytes for now.
    Blocked,
}

impl Connection {
    /// Makes the connection non-blocking.
    ///
    /// # Errors
    /// The socket's.
    pub fn set_nonblocking(&self) -> Result<()> {
        Ok(self.stream().set_nonblocking(true)?)
    }

    /// The socket underneath.
    pub fn stream(&self) -> &TcpStream {
        self.socket.get_ref()
    }

    /// Puts a text frame into the write buffer; [`Connection::flush`] sends it.
    ///
    /// # Errors
    /// If the connection is lost.
    pub fn queue(&mut self, frame: Message) -> Result<()> {
        match self.socket.write(frame) {
            // The frame is in the buffer all the same.
            Err(Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => Ok(()),
            other => Ok(other.context("sending")?),
        }
    }

    /// Sends what is queued.
    ///
    /// # Errors
    /// If the connection is lost.
    pub fn flush(&mut self) -> Result<Progress> {
        match self.socket.flush() {
            Ok(()) => Ok(Progress::Done),
            Err(Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => Ok(Progress::Blocked),
            Err(error) => Err(error).context("sending"),
        }
    }

    /// Sends one text frame.
    ///
    /// # Errors
    /// If the connection is lost.
    pub fn send(&mut self, text: String) -> Result<()> {
        self.queue(Message::text(text))?;
        self.flush()?;
        Ok(())
    }

    /// Reads text frames into `take` until there are no more for now; on a blocking connection, until
    /// `take` returns false.
    ///
    /// # Errors
    /// If the connection is lost, or on a blocking one, nothing comes for [`ANSWER_WAIT_MAX`]; and `take`'s.
    pub fn read(&mut self, mut take: impl FnMut(&str) -> Result<bool>) -> Result<Progress> {
        loop {
            match self.socket.read() {
                Ok(Message::Text(text)) => {
                    if !take(&text)? {
                        return Ok(Progress::Done);
                    }
                }
                Ok(Message::Close(reason)) => bail!("the relay closed the connection: {reason:?}"),
                Ok(_) => {}
                Err(Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => {
                    return Ok(Progress::Blocked);
                }
                Err(error) => return Err(error).context("receiving"),
            }
        }
    }
}

/// A frame of a relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// An event for a subscription.
    Event {
        /// The subscription.
        sub: &'a str,
        /// The event's id.
        id: [u8; 32],
    },
    /// The answer to a published event.
    Ok {
        /// The event's id.
        id: [u8; 32],
        /// Whether the relay accepted it.
        accepted: bool,
        /// The rest of the frame after `true` or `false`: the reason as raw JSON.
        reason: &'a str,
    },
    /// All stored events of a subscription have been sent.
    Eose(&'a str),
    /// A subscription is refused or ended.
    Closed(&'a str),
    /// NOTICE, AUTH, COUNT and others.
    Other,
}

impl<'a> Frame<'a> {
    /// Parses the parts of a frame that it returns. Subscription ids must have no escapes; the bench's own have none.
    ///
    /// # Errors
    /// If the frame is not one of NIP-01.
    pub fn read(text: &'a str) -> Result<Self> {
        let bad = || format!("a malformed frame: {}", text.chars().take(200).collect::<String>());
        let (verb, rest) = string(text.strip_prefix('[').with_context(bad)?).with_context(bad)?;
        match verb {
            "EVENT" => {
                let (sub, rest) = string(rest).with_context(bad)?;
                Ok(Frame::Event { sub, id: event_id(rest).with_context(bad)? })
            }
            "OK" => {
                let (id, rest) = string(rest).with_context(bad)?;
                let id = hex::decode32(id.as_bytes()).with_context(bad)?;
                let rest = rest.trim_start();
                let (accepted, reason) = match rest.strip_prefix("true") {
                    Some(reason) => (true, reason),
                    None => (false, rest.strip_prefix("false").with_context(bad)?),
                };
                Ok(Frame::Ok { id, accepted, reason })
            }
            "EOSE" => Ok(Frame::Eose(string(rest).with_context(bad)?.0)),
            "CLOSED" => Ok(Frame::Closed(string(rest).with_context(bad)?.0)),
            _ => Ok(Frame::Other),
        }
    }
}

/// A string without escapes that `json` starts with, and what follows it and its comma.
fn string(json: &str) -> Option<(&str, &str)> {
    let (text, rest) = json.trim_start().strip_prefix('"')?.split_once('"')?;
    let rest = rest.trim_start();
    Some((text, rest.strip_prefix(',').unwrap_or(rest)))
}

/// The id of the event that starts `json`; wherever the field stands.
fn event_id(json: &str) -> Option<[u8; 32]> {
    const FIELD: &str = r#""id":""#;
    // A quote inside a string is escaped, so this text can only be the field itself.
    if let Some(at) = memchr::memmem::find(json.as_bytes(), FIELD.as_bytes()) {
        let from = at + FIELD.len();
        return hex::decode32(json.as_bytes().get(from..from + 64)?);
    }
    let event: Value = serde_json::from_str(json.trim_end().strip_suffix(']')?).ok()?;
    hex::decode32(event.get("id")?.as_str()?.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_loaded() {
        for good in ["ws://127.0.0.1:7777", "ws://localhost:1/", "ws://[::1]:7777/x", "ws://127.8.9.1"] {
            assert!(Endpoint::new(good, false).is_ok(), "{good}");
        }
        for bad in [
            "ws://10.0.0.1:7777",
            "wss://127.0.0.1",
            "http://127.0.0.1",
            "ws://127.0.0.1@10.0.0.1",
            "ws://",
            "ws://0.0.0.0:1",
        ] {
            assert!(Endpoint::new(bad, false).is_err(), "{bad}");
        }
        assert!(Endpoint::new("ws://10.0.0.1:7777", true).is_ok());
    }

    #[test]
    fn frames_read_in_any_order_of_fields() {
        let hex = "ab".repeat(32);
        let id = [0xab; 32];
        let check =
            |text: &str, expected: Frame<'_>| assert_eq!(Frame::read(text).unwrap(), expected, "{text}");
        check(&format!(r#"["EVENT","s1",{{"id":"{hex}","kind":1}}]"#), Frame::Event { sub: "s1", id });
        let quoted = format!(r#"["EVENT","s1",{{"content":"\"id\":\"00","id":"{hex}"}}]"#);
        check(&quoted, Frame::Event { sub: "s1", id });
        check(&format!(r#"["EVENT", "s1", {{"id" : "{hex}"}} ]"#), Frame::Event { sub: "s1", id });
        let ok = format!(r#"["OK","{hex}",false,"blocked: no"]"#);
        check(&ok, Frame::Ok { id, accepted: false, reason: ",\"blocked: no\"]" });
        check(r#"["EOSE","s1",["finish"]]"#, Frame::Eose("s1"));
        check(r#"["CLOSED","s1","error: x"]"#, Frame::Closed("s1"));
        check(r#"["NOTICE","\"OK\""]"#, Frame::Other);
        for bad in ["", "{}", r#"["OK","00",true]"#, r#"["EVENT","s1",{}]"#] {
            assert!(Frame::read(bad).is_err(), "{bad}");
        }
    }
}
