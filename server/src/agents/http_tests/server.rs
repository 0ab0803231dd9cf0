//! A server whose every connection follows a script.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

/// What a server does on a connection, after it has read a request.
#[derive(Clone, Debug)]
pub(super) enum Act {
    /// Sends this.
    Send(Vec<u8>),
    /// Sends this for ever.
    Flood(Vec<u8>),
    /// Waits until the client has gone.
    Hang,
    /// Waits until the test calls [`Server::go_on`].
    Wait,
    /// Reads another request of the same connection.
    Read,
}

/// Text to send.
pub(super) fn send(text: impl Into<String>) -> Act {
    Act::Send(text.into().into_bytes())
}

/// A whole response; the connection is closed after it.
pub(super) fn respond(status: &str, headers: &str, body: &str) -> Act {
    send(format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n{headers}\r\n{body}", body.len()))
}

/// What a server has seen.
#[derive(Default)]
struct Seen {
    connections: AtomicUsize,
    /// Heads and bodies of requests.
    requests: Mutex<Vec<String>>,
    /// Bytes that could be sent.
    sent: AtomicUsize,
    /// Connections that the client has closed while they hung or were flooded.
    client_closed: Notify,
    go_on: Notify,
}

/// A listener on loopback. It stops with the test's runtime.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    seen: Arc<Seen>,
}

impl Server {
    /// The nth connection follows the nth script, further ones the last.
    pub(super) async fn start(scripts: Vec<Vec<Act>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Server { address: listener.local_addr().unwrap(), seen: Arc::default() };
        let seen = Arc::clone(&server.seen);
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let connection = seen.connections.fetch_add(1, Ordering::SeqCst);
                let script = scripts.get(connection).or(scripts.last()).cloned().unwrap_or_default();
                let seen = Arc::clone(&seen);
                tokio::spawn(async move {
                    if follow(socket, script, &seen).await.is_none() {
                        seen.client_closed.notify_one();
                    }
                });
            }
        });
        server
    }

    /// One that counts its connections and says nothing.
    pub(super) async fn trap() -> Self {
        Server::start(Vec::new()).await
    }

    pub(super) fn port(&self) -> u16 {
        self.address.port()
    }

    /// `127.0.0.1:<port>`
    pub(super) fn host(&self) -> String {
        self.address.to_string()
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(super) fn connections(&self) -> usize {
        self.seen.connections.load(Ordering::SeqCst)
    }

    pub(super) fn requests(&self) -> Vec<String> {
        self.seen.requests.lock().unwrap().clone()
    }

    pub(super) fn sent(&self) -> usize {
        self.seen.sent.load(Ordering::SeqCst)
    }

    /// Until a client has closed a connection that the script was not through with.
    pub(super) async fn client_closed(&self) {
        self.seen.client_closed.notified().await;
    }

    pub(super) fn go_on(&self) {
        self.seen.go_on.notify_one();
    }
}

/// `None` if the client has gone before the end of the script.
async fn follow(mut socket: TcpStream, script: Vec<Act>, seen: &Seen) -> Option<()> {
    read_request(&mut socket, seen).await?;
    for act in script {
        match act {
            Act::Send(bytes) => {
                socket.write_all(&bytes).await.ok()?;
                seen.sent.fetch_add(bytes.len(), Ordering::SeqCst);
            }
            Act::Flood(bytes) => loop {
                socket.write_all(&bytes).await.ok()?;
                seen.sent.fetch_add(bytes.len(), Ordering::SeqCst);
            },
            Act::Hang => {
                while socket.read(&mut [0; 1024]).await.ok()? > 0 {}
                return None;
            }
            Act::Wait => seen.go_on.notified().await,
            Act::Read => read_request(&mut socket, seen).await?,
        }
    }
    // Everything is delivered before the close.
    socket.shutdown().await.ok()
}

async fn read_request(socket: &mut TcpStream, seen: &Seen) -> Option<()> {
    let mut request = Vec::new();
    loop {
        let mut piece = [0; 4096];
        let read = socket.read(&mut piece).await.ok().filter(|read| *read > 0)?;
        request.extend_from_slice(&piece[..read]);
        let text = String::from_utf8_lossy(&request).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
        if body.len() >= length.unwrap_or(0) {
            seen.requests.lock().unwrap().push(text);
            return Some(());
        }
    }
}
