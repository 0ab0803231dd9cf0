//! One connection: bytes out as they are, responses in, each read to its end and no further.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};

use rustls::{ClientConnection, StreamOwned};

use super::Response;
use super::response::Head;

/// Longest head that is read.
const HEAD_BYTES_MAX: usize = 1 << 20;

/// A connection to a server.
#[derive(Debug)]
pub struct Connection {
    stream: Stream,
    /// What was received after the last response.
    unread: Vec<u8>,
    ended: bool,
}

#[derive(Debug)]
enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Connection {
    pub(super) fn plain(socket: TcpStream) -> Self {
        Connection { stream: Stream::Plain(socket), unread: Vec::new(), ended: false }
    }

    pub(super) fn tls(stream: StreamOwned<ClientConnection, TcpStream>) -> Self {
        Connection { stream: Stream::Tls(Box::new(stream)), unread: Vec::new(), ended: false }
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// If the server has closed the connection, or takes nothing for the endpoint's timeout.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.stream {
            Stream::Plain(socket) => socket.write_all(bytes),
            Stream::Tls(stream) => {
                stream.write_all(bytes)?;
                stream.flush()
            }
        }
    }

    /// Sends a body, or as much of it as the server takes: a server may answer and close before it has read all.
    pub fn send_body(&mut self, bytes: &[u8]) {
        let _ = self.send(bytes);
    }

    /// Ends our half of the connection; answers can still be read.
    pub fn finish_sending(&mut self) {
        let socket = match &mut self.stream {
            Stream::Plain(socket) => socket,
            Stream::Tls(stream) => {
                stream.conn.send_close_notify();
                let _ = stream.flush();
                &mut stream.sock
            }
        };
        let _ = socket.shutdown(Shutdown::Write);
    }

    /// Reads one response to a request with `method`, after any interim ones (1xx).
    ///
    /// # Errors
    /// If the connection ends within the response or before it, nothing comes for the endpoint's timeout, or what
    /// comes is no HTTP/1.1.
    pub fn response(&mut self, method: &str) -> io::Result<Response> {
        let mut interim = Vec::new();
        let head = loop {
            let head = self.head()?;
            if !(100..200).contains(&head.status) || head.status == 101 {
                break head;
            }
            interim.push(head.status);
        };
        let body = self.body(&head, method)?;
        Ok(Response {
            status: head.status,
            headers: head.headers,
            body,
            interim,
            version: head.version,
            request: String::new(),
        })
    }

    /// The next interim or final status, without reading a body.
    ///
    /// # Errors
    /// As [`Connection::response`].
    pub fn status(&mut self) -> io::Result<u16> {
        Ok(self.head()?.status)
    }

    /// Whether the server has closed the connection, or does within the endpoint's timeout, sending nothing more.
    pub fn is_closed(&mut self) -> bool {
        self.unread.is_empty() && matches!(self.fill(), Ok(0))
    }

    fn head(&mut self) -> io::Result<Head> {
        loop {
            if let Some(end) = self.unread.windows(4).position(|four| four == b"\r\n\r\n") {
                let head: Vec<u8> = self.unread.drain(..end + 4).collect();
                return Head::parse(&head[..end]);
            }
            if self.unread.len() > HEAD_BYTES_MAX {
                return Err(io::Error::other("the head of the response does not end"));
            }
            if self.fill()? == 0 {
                let seen = String::from_utf8_lossy(&self.unread[..self.unread.len().min(60)]).into_owned();
                let text = if seen.is_empty() {
                    "the connection was closed without a response".to_owned()
                } else {
                    format!("the connection was closed within a response, after {seen:?}")
                };
                return Err(io::Error::new(ErrorKind::UnexpectedEof, text));
            }
        }
    }

    fn body(&mut self, head: &Head, method: &str) -> io::Result<Vec<u8>> {
        if method == "HEAD" || matches!(head.status, 101 | 204 | 304) {
            return Ok(Vec::new());
        }
        if head.has("transfer-encoding", "chunked") {
            return self.chunks();
        }
        if let Some(length) = head.length()? {
            return self.exactly(length);
        }
        while self.fill()? != 0 {}
        Ok(std::mem::take(&mut self.unread))
    }

    fn exactly(&mut self, length: usize) -> io::Result<Vec<u8>> {
        while self.unread.len() < length {
            if self.fill()? == 0 {
                let text = format!("the body ended after {} of {length} bytes", self.unread.len());
                return Err(io::Error::new(ErrorKind::UnexpectedEof, text));
            }
        }
        Ok(self.unread.drain(..length).collect())
    }

    fn chunks(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let line = self.line()?;
            let digits = line.split(';').next().unwrap_or_default().trim();
            let length = usize::from_str_radix(digits, 16)
                .map_err(|_| io::Error::other(format!("{line:?} is no chunk size")))?;
            if length == 0 {
                while !self.line()?.is_empty() {}
                return Ok(body);
            }
            body.extend(self.exactly(length)?);
            if self.exactly(2)? != b"\r\n" {
                return Err(io::Error::other("no line end after a chunk"));
            }
        }
    }

    fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = self.unread.windows(2).position(|two| two == b"\r\n") {
                let line: Vec<u8> = self.unread.drain(..end + 2).collect();
                return Ok(String::from_utf8_lossy(&line[..end]).into_owned());
            }
            if self.fill()? == 0 {
                return Err(io::Error::new(ErrorKind::UnexpectedEof, "the chunked body did not end"));
            }
        }
    }

    /// Reads more; 0 at the end.
    fn fill(&mut self) -> io::Result<usize> {
        if self.ended {
            return Ok(0);
        }
        let mut buffer = [0; 64 << 10];
        let read = match &mut self.stream {
            Stream::Plain(socket) => socket.read(&mut buffer),
            Stream::Tls(stream) => stream.read(&mut buffer),
        };
        let count = match read {
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::Interrupted => return self.fill(),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Err(io::Error::new(ErrorKind::TimedOut, "no answer in time"));
            }
            // A server that does not read all of a request resets the connection when it closes it.
            Err(error) if error.kind() == ErrorKind::ConnectionReset => 0,
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => 0,
            Err(error) => return Err(error),
        };
        self.ended = count == 0;
        self.unread.extend_from_slice(&buffer[..count]);
        Ok(count)
    }
}
