//! The model's HTTP/1.1: strict parsing, one response after the other.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use serde_json::Value;

use super::{Bug, Model};

const HEAD_BYTES_MAX: usize = 256 << 10;
const HEADERS_MAX: usize = 200;
/// Longest blob that the model takes.
pub(crate) const BLOB_BYTES_MAX: u64 = 64 << 20;

/// A request whose body has not been read, or has.
#[derive(Clone, Debug, Default)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) version: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn remove(&mut self, name: &str) {
        self.headers.retain(|(key, _)| key != name);
    }

    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.remove(name);
        self.headers.push((name.to_owned(), value.to_owned()));
    }

    pub(crate) fn parameter(&self, name: &str) -> Option<&str> {
        self.query
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .find(|(key, _)| *key == name)
            .map(|p| p.1)
    }

    pub(crate) fn is_chunked(&self) -> bool {
        self.header("transfer-encoding").is_some()
    }

    /// The announced length; `Err` if it is no number.
    pub(crate) fn length(&self) -> Result<Option<u64>, ()> {
        number(self.header("content-length"))
    }
}

/// A header that is a number of digits alone.
pub(crate) fn number(text: Option<&str>) -> Result<Option<u64>, ()> {
    match text {
        None => Ok(None),
        Some(text) if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) => {
            text.parse().map(Some).map_err(|_| ())
        }
        Some(_) => Err(()),
    }
}

/// A response.
#[derive(Clone, Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// The connection ends behind it.
    pub(crate) close: bool,
    /// The body is sent with HEAD and 304 too.
    pub(crate) force_body: bool,
    /// No Content-Length is sent.
    pub(crate) no_length: bool,
    /// Sent before the head.
    pub(crate) noise: Vec<u8>,
}

impl Response {
    pub(crate) fn new(status: u16) -> Self {
        let mut response = Response {
            status,
            headers: Vec::new(),
            body: Vec::new(),
            close: false,
            force_body: false,
            no_length: false,
            noise: Vec::new(),
        };
        response.set("access-control-allow-origin", "*");
        response.set("access-control-expose-headers", "*");
        response.set("date", "Sun, 06 Nov 1994 08:49:37 GMT");
        response
    }

    pub(crate) fn error(status: u16, reason: &str) -> Self {
        let mut response = Response::new(status);
        response.set("x-reason", reason);
        if status == 401 {
            response.set("www-authenticate", "Nostr");
        }
        response
    }

    pub(crate) fn json(status: u16, value: &Value) -> Self {
        let mut response = Response::new(status);
        response.set("content-type", "application/json");
        response.body = value.to_string().into_bytes();
        response
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn remove(&mut self, name: &str) {
        self.headers.retain(|(key, _)| key != name);
    }

    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.remove(name);
        self.headers.push((name.to_owned(), value.to_owned()));
    }

    /// Changes the JSON of the body.
    pub(crate) fn change(&mut self, act: impl FnOnce(&mut Value)) {
        if let Ok(mut value) = serde_json::from_slice(&self.body) {
            act(&mut value);
            self.body = value.to_string().into_bytes();
        }
    }
}

/// Serves one connection to its end.
pub(crate) fn serve(model: &Model, mut socket: TcpStream) {
    let _ = socket.set_read_timeout(Some(Duration::from_secs(10)));
    let _ = socket.set_nodelay(true);
    let _alone = model.has(Bug::OneAtATime).then(|| model.alone.lock());
    let mut unread = Vec::new();
    loop {
        let request = match head(&mut socket, &mut unread, model.has(Bug::LaxHeads)) {
            Ok(Some(request)) => request,
            Ok(None) => return,
            Err(status) => {
                let mut response = Response::error(status, "malformed");
                response.close = true;
                model.spoil(&Request { method: "?".to_owned(), ..Request::default() }, &mut response);
                send(&mut socket, "GET", &response);
                return end(model, &socket);
            }
        };
        let (request, mut response) = match answer(model, request, &mut socket, &mut unread) {
            Some(both) => both,
            None => return,
        };
        model.spoil(&request, &mut response);
        let asked = request.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
        response.close |= asked || request.version == "HTTP/1.0";
        send(&mut socket, &request.method, &response);
        if response.close {
            return end(model, &socket);
        }
    }
}

/// `None` ends the connection without a response.
fn answer(
    model: &Model,
    mut request: Request,
    socket: &mut TcpStream,
    unread: &mut Vec<u8>,
) -> Option<(Request, Response)> {
    model.spoil_request(&mut request);
    let has_body = request.is_chunked() || request.length().is_ok_and(|length| length.is_some_and(|n| n > 0));
    let early = model.refuse(&request);
    if let Some(mut response) = early {
        response.close |= has_body && !model.has(Bug::KeepsUnreadBody);
        return Some((request, response));
    }
    if request.is_chunked() {
        request.body = chunks(model, socket, unread)?;
        let response = model.complete(&request);
        return Some((request, response));
    }
    let length = request.length().ok()?.unwrap_or(0) as usize;
    if request.header("expect").is_some() && !model.has(Bug::NoContinue) {
        socket.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").ok()?;
    }
    if model.has(Bug::ImpatientBody) {
        let _ = socket.set_read_timeout(Some(Duration::from_millis(3)));
    }
    if model.has(Bug::ServesBeforeComplete) && length > 0 {
        model.begin_visibly(&request);
    }
    while unread.len() < length {
        let read = read_more(socket, unread);
        if read != Some(true) {
            if !model.has(Bug::StoresCutBodies) {
                model.cut(&request);
                return None;
            }
            break;
        }
    }
    request.body = unread.drain(..length.min(unread.len())).collect();
    let response = model.complete(&request);
    Some((request, response))
}

/// A chunked body, which only faults read: the model refuses it.
fn chunks(model: &Model, socket: &mut TcpStream, unread: &mut Vec<u8>) -> Option<Vec<u8>> {
    while read_more(socket, unread) == Some(true) && !unread.ends_with(b"0\r\n\r\n") {}
    let mut body = std::mem::take(unread);
    if model.has(Bug::ChunksLost) {
        body.clear();
    }
    Some(body)
}

fn read_more(socket: &mut TcpStream, unread: &mut Vec<u8>) -> Option<bool> {
    let mut buffer = [0; 64 << 10];
    let count = socket.read(&mut buffer).ok()?;
    unread.extend_from_slice(&buffer[..count]);
    Some(count > 0)
}

fn head(socket: &mut TcpStream, unread: &mut Vec<u8>, lax: bool) -> Result<Option<Request>, u16> {
    let end = loop {
        if let Some(end) = unread.windows(4).position(|four| four == b"\r\n\r\n") {
            break end;
        }
        if unread.len() > HEAD_BYTES_MAX {
            return Err(431);
        }
        if read_more(socket, unread) != Some(true) {
            return Ok(None);
        }
    };
    let bytes: Vec<u8> = unread.drain(..end + 4).collect();
    let text = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let mut lines = text.split("\r\n");
    let mut words = lines.next().unwrap_or_default().split(' ');
    let (Some(method), Some(target), Some(version), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(400);
    };
    if !matches!(version, "HTTP/1.1" | "HTTP/1.0") {
        return Err(505);
    }
    if target.len() > 8 << 10 {
        return Err(414);
    }
    let mut headers = Vec::new();
    for line in lines {
        let Some((name, value)) = line.split_once(':') else {
            if lax {
                continue;
            }
            return Err(400);
        };
        let bad_name = name.is_empty() || name.bytes().any(|byte| byte <= b' ' || byte == 127);
        let bad_value = value.bytes().any(|byte| byte < b' ' && byte != b'\t' || byte == 127);
        if headers.len() == HEADERS_MAX {
            return Err(431);
        }
        if (bad_name || bad_value) && !lax {
            return Err(400);
        }
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let count = |name: &str| headers.iter().filter(|(key, _)| key == name).count();
    let both = count("transfer-encoding") > 0 && count("content-length") > 0;
    if both
        || count("content-length") > 1
        || count("host") > 1
        || (count("host") == 0 && version == "HTTP/1.1")
    {
        if !lax {
            return Err(400);
        }
        // The length is believed, the last one.
        headers.retain(|(name, _)| name != "transfer-encoding");
        headers.reverse();
    }
    let local =
        target.split_once("://").map_or(target, |(_, rest)| rest.find('/').map_or("/", |at| &rest[at..]));
    let (path, query) = local.split_once('?').unwrap_or((local, ""));
    Ok(Some(Request {
        method: method.to_owned(),
        target: target.to_owned(),
        path: path.to_owned(),
        query: query.to_owned(),
        version: version.to_owned(),
        headers,
        body: Vec::new(),
    }))
}

fn send(socket: &mut TcpStream, method: &str, response: &Response) {
    let mut head = format!("HTTP/1.1 {} Status\r\n", response.status);
    for (name, value) in &response.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    let has_length = response.headers.iter().any(|(name, _)| name == "content-length");
    if !has_length && !response.no_length && !matches!(response.status, 204 | 304) {
        head.push_str(&format!("content-length: {}\r\n", response.body.len()));
    }
    if response.close {
        head.push_str("connection: close\r\n");
    }
    head.push_str("\r\n");
    let bodiless = (method == "HEAD" || matches!(response.status, 204 | 304)) && !response.force_body;
    let mut bytes = [response.noise.as_slice(), head.as_bytes()].concat();
    if !bodiless {
        bytes.extend_from_slice(&response.body);
    }
    let _ = socket.write_all(&bytes);
}

/// Ends a connection so that the client can still read the response, whatever it is sending.
fn end(model: &Model, mut socket: &TcpStream) {
    if model.has(Bug::ClosesAtOnce) {
        return;
    }
    let _ = socket.shutdown(Shutdown::Write);
    let _ = socket.set_read_timeout(Some(Duration::from_millis(200)));
    let mut buffer = [0; 64 << 10];
    while matches!(socket.read(&mut buffer), Ok(1..)) {}
}
