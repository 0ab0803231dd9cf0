//! The listener for mirror requests: an origin server that misbehaves as its path says, and counts who comes.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::context::lock;

/// How the origin answers for one path.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    /// 200 with these headers and this body, framed by its length.
    Blob(Vec<(String, String)>, Vec<u8>),
    /// 200 without a length: the body ends with the connection.
    CloseDelimited(Vec<u8>),
    /// 200 with a length that is longer than the body.
    Cut(Vec<u8>),
    /// 200 with a length and nothing after it.
    Announce(u64),
    /// A status without a body.
    Status(u16),
    /// A redirect.
    To(String),
}

/// A listener that answers until the suite ends.
#[derive(Debug)]
pub(crate) struct Origin {
    ip: IpAddr,
    pub(crate) port: u16,
    host: String,
    replies: Mutex<HashMap<String, Reply>>,
    connections: AtomicUsize,
}

impl Origin {
    /// Listens on `host:port`; on all addresses, if the host is not one of this machine (behind a NAT, say).
    pub(crate) fn listen(callback: &str) -> io::Result<Arc<Self>> {
        let (host, port) = callback.rsplit_once(':').unwrap_or((callback, "0"));
        let resolved = callback.to_socket_addrs()?.next();
        let listener =
            TcpListener::bind(callback).or_else(|_| TcpListener::bind(format!("0.0.0.0:{port}")))?;
        let port = listener.local_addr()?.port();
        let ip = resolved.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |address| address.ip());
        let origin = Arc::new(Origin {
            ip,
            port,
            host: host.to_owned(),
            replies: Mutex::default(),
            connections: AtomicUsize::new(0),
        });
        origin.accept(listener);
        // What is written as an IPv6 address must not lead here either.
        if ip.is_loopback()
            && let Ok(listener) = TcpListener::bind(("::1", port))
        {
            origin.accept(listener);
        }
        Ok(origin)
    }

    fn accept(self: &Arc<Self>, listener: TcpListener) {
        let server = Arc::clone(self);
        std::thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                server.connections.fetch_add(1, Ordering::SeqCst);
                let server = Arc::clone(&server);
                std::thread::spawn(move || server.answer(&socket));
            }
        });
    }

    /// Whether a server with SSRF protection must not come here.
    pub(crate) fn is_private(&self) -> bool {
        match self.ip {
            IpAddr::V4(ip) => {
                ip.is_loopback() || ip.is_private() || ip.is_link_local() || ip.is_unspecified()
            }
            IpAddr::V6(ip) => ip.is_loopback() || ip.is_unique_local() || ip.is_unspecified(),
        }
    }

    /// Whether only this machine reaches the listener.
    pub(crate) fn is_loopback(&self) -> bool {
        self.ip.is_loopback()
    }

    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// Sets the answer for a path and gives its URL.
    pub(crate) fn serve(&self, path: &str, reply: Reply) -> String {
        lock(&self.replies).insert(path.to_owned(), reply);
        format!("http://{}:{}{path}", self.host, self.port)
    }

    fn answer(&self, socket: &TcpStream) {
        let _ = socket.set_read_timeout(Some(Duration::from_secs(10)));
        let mut lines = BufReader::new(socket).lines();
        let Some(Ok(first)) = lines.next() else { return };
        while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
        let path = first.split(' ').nth(1).unwrap_or_default();
        let reply = lock(&self.replies).get(path).cloned().unwrap_or(Reply::Status(404));
        let _ = write_reply(socket, first.starts_with("HEAD"), &reply);
    }
}

fn write_reply(mut socket: &TcpStream, is_head: bool, reply: &Reply) -> io::Result<()> {
    const END: &str = "Connection: close\r\n\r\n";
    let (head, body): (String, &[u8]) = match reply {
        Reply::Blob(headers, body) => {
            let lines: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
            (format!("HTTP/1.1 200 OK\r\n{lines}Content-Length: {}\r\n{END}", body.len()), body)
        }
        Reply::CloseDelimited(body) => (format!("HTTP/1.1 200 OK\r\n{END}"), body),
        Reply::Cut(body) => {
            (format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n{END}", body.len() + 100), body)
        }
        Reply::Announce(length) => (format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n{END}"), &[]),
        Reply::Status(status) => (format!("HTTP/1.1 {status} Status\r\nContent-Length: 0\r\n{END}"), &[]),
        Reply::To(url) => {
            (format!("HTTP/1.1 302 Found\r\nLocation: {url}\r\nContent-Length: 0\r\n{END}"), &[])
        }
    };
    socket.write_all(head.as_bytes())?;
    if !is_head {
        socket.write_all(body)?;
    }
    socket.flush()
}
