//! A program of the owner's, which answers jobs when the test says so.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};

use serde_json::{Value, json};

use super::super::harness::PATIENCE;

pub(super) struct Webhook {
    address: String,
    calls: Receiver<Call>,
}

/// A job that waits for its answer.
pub(super) struct Call {
    pub(super) job: Value,
    stream: TcpStream,
}

impl Webhook {
    pub(super) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (sender, calls) = channel();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let Some(call) = read(stream) else { continue };
                if sender.send(call).is_err() {
                    return;
                }
            }
        });
        Webhook { address, calls }
    }

    /// Settings of a relay whose agents may call it.
    pub(super) fn settings(&self) -> String {
        format!("[agents]\nallow_private_hosts = [\"{}\"]\n", self.address)
    }

    /// The manifest of an agent that does; `more` precedes its handlers.
    pub(super) fn manifest(&self, more: &str) -> String {
        let url = format!("http://{}/jobs", self.address);
        format!(
            "name = \"worker\"\n{more}[[handlers]]\nkind = 5050\nexecutor = \"webhook\"\nconfig = {{ url = \"{url}\" }}\n"
        )
    }

    pub(super) fn next(&self) -> Call {
        self.calls.recv_timeout(PATIENCE).expect("a call comes")
    }
}

fn read(stream: TcpStream) -> Option<Call> {
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|bytes| *bytes > 0)?;
        if line.trim().is_empty() {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Call { job: serde_json::from_slice(&body).ok()?, stream })
}

impl Call {
    pub(super) fn answer(self, content: &str) {
        self.respond("200 OK", &json!({ "content": content }).to_string());
    }

    /// Asks to be called again after so many seconds.
    pub(super) fn put_off(self, seconds: u64) {
        self.respond(&format!("503 Service Unavailable\r\nretry-after: {seconds}"), "{}");
    }

    fn respond(mut self, status: &str, body: &str) {
        let length = body.len();
        let head = format!(
            "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
        );
        self.stream.write_all((head + body).as_bytes()).unwrap();
    }

    /// Whether the caller closes the connection.
    pub(super) fn is_hung_up(&mut self) -> bool {
        matches!(self.stream.read(&mut [0]), Ok(0)) || {
            // A reset is an end too, a time-out is none.
            let error = self.stream.read(&mut [0]).map_err(|error| error.kind());
            matches!(error, Ok(0) | Err(std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe))
        }
    }
}
