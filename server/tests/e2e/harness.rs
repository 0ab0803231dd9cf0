//! Starting and stopping the binary, and a client that sends and receives raw messages.
//!
//! With `RELAY_E2E_COMMAND` another host is tested instead: a program with the options `--persist FOLDER` and `--config FILE`
//! (JSON with `info`, `limits`, `policy`, `url`) that logs where it listens as the binary does, and ends on SIGTERM, such as
//! `edge/tests/host.mjs`. Tests of features that only the binary has fail then. With `RELAY_E2E_ENGINE=log` the binary keeps its events
//! with that engine; tests of LMDB's files fail then.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc::channel;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tempfile::TempDir;
use tungstenite::client::IntoClientRequest;
use tungstenite::handshake::client::Request;
use tungstenite::protocol::WebSocketConfig;
use tungstenite::{Message, WebSocket};

/// The engines that keep events on the disk.
pub(crate) const ENGINES: [&str; 2] = ["lmdb", "log"];

/// Longer than any answer takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The binary under test.
pub(crate) const RELAY: &str = env!("CARGO_BIN_EXE_relay");

/// A running relay and its folder.
pub(crate) struct RelayProcess {
    child: Child,
    pub(crate) url: String,
    folder: TempDir,
    config: Option<PathBuf>,
}

impl RelayProcess {
    /// On a free port, with an empty folder.
    pub(crate) fn start() -> Self {
        Self::start_with("")
    }

    /// With this engine.
    pub(crate) fn start_on(engine: &str) -> Self {
        Self::start_with(&format!("[store]\nengine = \"{engine}\"\n"))
    }

    /// With this configuration file.
    pub(crate) fn start_with(toml: &str) -> Self {
        let folder = TempDir::new().unwrap();
        let config = folder.path().join("relay.toml");
        let text = if other_host().is_some() { as_json(toml) } else { toml.to_owned() };
        std::fs::write(&config, text).unwrap();
        let mut command = serve(&folder.path().join("data"), Some(&config));
        let (child, url) = launch(&mut command);
        RelayProcess { child, url, folder, config: Some(config) }
    }

    /// By a custom command; `make` is given the folder of the database.
    pub(crate) fn start_by(make: impl FnOnce(&Path) -> Command) -> Self {
        let folder = TempDir::new().unwrap();
        let (child, url) = launch(&mut make(&folder.path().join("data")));
        RelayProcess { child, url, folder, config: None }
    }

    /// With `subfolder` of its folder on a disk of `megabytes`, a tmpfs in a namespace of its own. `None`, and said so, where the
    /// machine lets nobody mount one.
    pub(crate) fn start_on_tmpfs(subfolder: &str, megabytes: u32, options: &str) -> Option<Self> {
        let in_namespace = |data: &Path, script: &str| {
            let mut command = Command::new("unshare");
            without_relay_variables(&mut command);
            let mount = format!("mkdir -p \"$D\" && mount -t tmpfs -o size={megabytes}m tmpfs \"$D\"");
            command.args(["-rm", "sh", "-c", &format!("{mount} && {script}")]);
            command.env("D", data.join(subfolder)).env("DATA", data).env("R", RELAY);
            command.current_dir(std::env::temp_dir());
            command
        };
        let probe = TempDir::new().unwrap();
        if !in_namespace(probe.path(), "true").status().is_ok_and(|status| status.success()) {
            println!("skipped: this machine lets nobody mount tmpfs");
            return None;
        }
        let serve = format!("exec \"$R\" serve --listen 127.0.0.1:0 {options} --data \"$DATA\"");
        Some(Self::start_by(|data| in_namespace(data, &serve)))
    }

    /// The folder of the database.
    pub(crate) fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Host and port.
    pub(crate) fn host(&self) -> &str {
        self.url.strip_prefix("ws://").unwrap()
    }

    /// SIGKILL: no handler runs, nothing is flushed.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts again on the same folder.
    pub(crate) fn restart(&mut self) {
        let mut command = serve(&self.data(), self.config.as_deref());
        (self.child, self.url) = launch(&mut command);
    }

    /// Sends SIGTERM and waits for the end.
    pub(crate) fn stop(&mut self) -> ExitStatus {
        self.signal("TERM");
        self.ended()
    }

    /// Waits for the end, without another signal, since a second one would end it at once.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }

    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.pid().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// Resident memory, in bytes.
    pub(crate) fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }

    pub(crate) fn connect(&self) -> RawClient {
        RawClient::connect(self.host())
    }

    /// As a proxy on this machine does for a client. `None` where another host goes by other headers.
    pub(crate) fn connect_for(&self, client: IpAddr) -> Option<RawClient> {
        if other_host().is_some() {
            return None;
        }
        let mut request = self.url.as_str().into_client_request().unwrap();
        request.headers_mut().insert("x-forwarded-for", client.to_string().parse().unwrap());
        Some(RawClient::try_connect_with(self.host(), request).expect("the relay takes connections"))
    }

    /// `None` if the relay does not listen or closes the connection.
    pub(crate) fn try_connect(&self) -> Option<RawClient> {
        RawClient::try_connect(self.host())
    }
}

impl Drop for RelayProcess {
    fn drop(&mut self) {
        if let Ok(Some(status)) = self.child.try_wait() {
            println!("relay: {} ended with {status}", self.url);
        }
        // Another host may have child processes.
        match other_host() {
            Some(_) => self.signal("TERM"),
            None => drop(self.child.kill()),
        }
        let _ = self.child.wait();
    }
}

/// `relay serve` on a folder, with only the given configuration.
pub(crate) fn serve(data: &Path, config: Option<&Path>) -> Command {
    let mut command = match other_host() {
        Some(words) => {
            let mut words = words.split_whitespace();
            let mut command = Command::new(words.next().expect("RELAY_E2E_COMMAND names a program"));
            command.args(words).arg("--persist").arg(data);
            command
        }
        None => {
            let mut command = Command::new(RELAY);
            command.arg("serve").args(["--listen", "127.0.0.1:0", "--data"]).arg(data);
            if let Ok(engine) = std::env::var("RELAY_E2E_ENGINE") {
                command.args(["--set", &format!("store.engine={engine}")]);
            }
            command
        }
    };
    without_relay_variables(&mut command);
    if other_host().is_none() {
        // A failed test shows the relay's backtrace.
        command.env("RELAY_LOG__FILTER", "info,relay_server=debug");
    }
    if let Some(config) = config {
        command.arg("--config").arg(config);
    }
    // Without a relay.toml of the working directory.
    command.current_dir(std::env::temp_dir());
    command
}

fn other_host() -> Option<String> {
    std::env::var("RELAY_E2E_COMMAND").ok()
}

/// The settings that every host has, as JSON.
fn as_json(toml: &str) -> String {
    let mut config: serde_json::Map<String, serde_json::Value> = toml::from_str(toml).unwrap();
    config.retain(|key, _| ["info", "limits", "policy", "url"].contains(&key.as_str()));
    serde_json::Value::Object(config).to_string()
}

/// Removes variables that would configure the relay or be refused as unknown.
pub(crate) fn without_relay_variables(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("RELAY_") {
            command.env_remove(name);
        }
    }
}

/// Starts a relay and waits for the log line with its address.
fn launch(command: &mut Command) -> (Child, String) {
    let mut child = command.stderr(Stdio::piped()).stdin(Stdio::null()).spawn().unwrap();
    let stderr = BufReader::new(child.stderr.take().unwrap());
    let (found, url) = channel();
    std::thread::spawn(move || {
        for line in stderr.lines().map_while(Result::ok) {
            if let Some(at) = line.find("listening on ws://") {
                let url = line[at + "listening on ".len()..].split_whitespace().next().unwrap();
                let _ = found.send(url.trim_end_matches('/').to_owned());
            }
            // Captured by cargo and shown if the test fails.
            println!("relay: {line}");
        }
    });
    let url = url.recv_timeout(PATIENCE).expect("the relay says where it listens");
    (child, url)
}

/// Runs a command of the binary.
pub(crate) fn relay(args: &[&str], stdin: &[u8]) -> Output {
    let mut command = Command::new(RELAY);
    without_relay_variables(&mut command);
    let mut child = command
        .args(args)
        .current_dir(std::env::temp_dir())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut pipe = child.stdin.take().unwrap();
    let stdin = stdin.to_owned();
    let writing = std::thread::spawn(move || {
        let _ = pipe.write_all(&stdin);
    });
    let output = child.wait_with_output().unwrap();
    writing.join().unwrap();
    output
}

/// Waits until `holds`.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = std::time::Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "{what} does not come about");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A metric, summed over all shards.
pub(crate) fn metric(relay: &RelayProcess, name: &str) -> f64 {
    let mut stream = TcpStream::connect(relay.host()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let head = "GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let lines = text.lines().filter(|line| line.starts_with(name));
    lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
}

/// Seconds since the Unix epoch.
pub(crate) fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// A socket with timeouts. System calls that are interrupted because this process was stopped and continued are repeated.
#[derive(Debug)]
pub(crate) struct Patient(TcpStream);

impl Read for Patient {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        uninterrupted(|| self.0.read(buffer))
    }
}

impl Write for Patient {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        uninterrupted(|| self.0.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

fn uninterrupted(mut call: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

/// A WebSocket client without knowledge of Nostr.
pub(crate) struct RawClient {
    host: String,
    pub(crate) socket: WebSocket<Patient>,
    pub(crate) closed: Option<u16>,
}

impl RawClient {
    pub(crate) fn connect(host: &str) -> Self {
        Self::try_connect(host).expect("the relay takes connections")
    }

    pub(crate) fn try_connect(host: &str) -> Option<Self> {
        Self::try_connect_with(host, format!("ws://{host}/").into_client_request().unwrap())
    }

    fn try_connect_with(host: &str, request: Request) -> Option<Self> {
        let stream = TcpStream::connect(host).ok()?;
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        let config = WebSocketConfig::default().max_message_size(None).max_frame_size(None);
        let (socket, _) =
            tungstenite::client::client_with_config(request, Patient(stream), Some(config)).ok()?;
        Some(RawClient { host: host.to_owned(), socket, closed: None })
    }

    /// Whether a ping is answered before the connection closes; earlier messages are passed to `text`.
    pub(crate) fn answers_ping(&mut self, mut text: impl FnMut(String)) -> bool {
        // Sending a ping on a closed connection fails; reading reports the end.
        let _ = self.socket.send(Message::Ping(tungstenite::Bytes::new()));
        loop {
            match self.socket.read() {
                Ok(Message::Pong(_)) => return true,
                Ok(Message::Text(found)) => text(found.to_string()),
                Ok(Message::Close(frame)) => {
                    self.closed = Some(frame.map_or(1005, |frame| frame.code.into()));
                }
                Ok(_) => {}
                Err(_) => return false,
            }
        }
    }

    pub(crate) fn send(&mut self, text: impl Into<String>) {
        self.socket.send(Message::text(text.into())).unwrap();
    }

    /// The next text message; `None` if the relay closed the connection or sent nothing until the timeout.
    pub(crate) fn recv(&mut self) -> Option<String> {
        loop {
            match self.socket.read() {
                Ok(Message::Text(text)) => return Some(text.to_string()),
                Ok(Message::Close(frame)) => {
                    self.closed = Some(frame.map_or(1005, |frame| frame.code.into()));
                }
                Ok(_) => {}
                Err(error) => {
                    // Captured by cargo and shown if the test fails.
                    println!("client: no more comes from {}: {error}", self.host);
                    return None;
                }
            }
        }
    }

    /// The next message with this prefix; others are skipped.
    pub(crate) fn recv_starting(&mut self, start: &str) -> String {
        loop {
            let text = self.recv().unwrap_or_else(|| panic!("nothing that starts with {start}"));
            if text.starts_with(start) {
                return text;
            }
        }
    }

    /// Publishes an event; returns whether it was accepted, and the message.
    pub(crate) fn publish(&mut self, event: &str) -> (bool, String) {
        self.send(format!(r#"["EVENT",{event}]"#));
        let ok: (String, String, bool, String) =
            serde_json::from_str(&self.recv_starting(r#"["OK","#)).unwrap();
        (ok.2, ok.3)
    }

    /// The stored events that match, as JSON texts.
    pub(crate) fn query(&mut self, filters: &str) -> Vec<String> {
        self.send(format!(r#"["REQ","q",{filters}]"#));
        let mut events = Vec::new();
        loop {
            let text = self.recv().expect("an answer");
            if let Some(event) = text.strip_prefix(r#"["EVENT","q","#) {
                events.push(event.strip_suffix(']').unwrap().to_owned());
            } else if text.starts_with(r#"["EOSE","q""#) {
                self.send(r#"["CLOSE","q"]"#);
                return events;
            } else {
                assert!(!text.starts_with(r#"["CLOSED""#), "{text}");
            }
        }
    }
}
