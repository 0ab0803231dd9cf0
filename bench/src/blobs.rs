//! Uploads and downloads blobs over keep-alive connections, on a thread each, and measures throughput, and the server's CPU and memory.
//! Each downloaded blob is compared with what was uploaded.

use std::io::{BufReader, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde::Serialize;
use sha2::{Digest, Sha256};

use crate::generate::{Author, Draft, Rng};
use crate::hex;
use crate::process::Process;

/// How long to wait for bytes of a server.
const READ_TIMEOUT: Duration = Duration::from_secs(120);
/// Kind of a token (BUD-11).
const TOKEN: u16 = 24_242;

/// A run.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Bytes of a blob.
    pub bytes: usize,
    /// Blobs.
    pub count: usize,
    /// Connections.
    pub connections: usize,
    /// Downloads of each blob.
    pub downloads: usize,
    /// Seed of the blobs and of the key.
    pub seed: u64,
}

/// A server.
#[derive(Clone, Debug)]
pub struct Server {
    /// `host:port`.
    authority: String,
    process: Option<Process>,
}

impl Server {
    /// Reads `http://host:port`.
    ///
    /// # Errors
    /// For anything else, and unless `allow_remote`, for a host that is not this machine.
    pub fn new(url: &str, process: Option<Process>, allow_remote: bool) -> Result<Self> {
        let authority = url.strip_prefix("http://").context("the URL must start with http://")?;
        let authority = authority.trim_end_matches('/').to_owned();
        let mut addresses = authority.to_socket_addrs().with_context(|| format!("resolving {authority}"))?;
        if !allow_remote && !addresses.all(|address| address.ip().is_loopback()) {
            bail!("{authority} is not this machine; --allow-remote if it is yours");
        }
        Ok(Server { authority, process })
    }
}

/// What was measured of one direction.
#[derive(Debug, Serialize)]
pub struct Measured {
    /// `upload`, `download`, or `download from the peer`.
    pub direction: &'static str,
    /// Blobs moved.
    pub blobs: usize,
    /// Blobs a second.
    pub blobs_per_second: f64,
    /// Megabytes (10^6) a second.
    pub megabytes_per_second: f64,
    /// CPU seconds of the server for a gigabyte (10^9).
    pub cpu_seconds_per_gigabyte: Option<f64>,
    /// CPU microseconds of the server for a blob.
    pub cpu_us_per_blob: Option<f64>,
    /// Growth of its resident memory in bytes.
    pub resident_growth_bytes: Option<i64>,
}

struct Blob {
    sha256: String,
    bytes: Vec<u8>,
    token: String,
}

/// Uploads all blobs and downloads each; then downloads each from `peer`, which serves the same files.
///
/// # Errors
/// If a server cannot be reached, refuses an upload, or serves other bytes.
pub fn run(server: &Server, peer: Option<&Server>, options: &Options) -> Result<Vec<Measured>> {
    let blobs = blobs(options)?;
    let parts: Vec<Vec<&Blob>> = (0..options.connections)
        .map(|at| blobs.iter().skip(at).step_by(options.connections).collect())
        .collect();
    let upload = |client: &mut Client, blob: &Blob| client.upload(blob);
    let download =
        |client: &mut Client, blob: &Blob| (0..options.downloads).try_for_each(|_| client.download(blob));
    let mut measured = vec![measure("upload", server, &parts, options, 1, upload)?];
    measured.push(measure("download", server, &parts, options, options.downloads, download)?);
    if let Some(peer) = peer {
        measured.push(measure("download from the peer", peer, &parts, options, options.downloads, download)?);
        // In turns: the first to run found the files just written.
        measured.push(measure("download", server, &parts, options, options.downloads, download)?);
        measured.push(measure("download from the peer", peer, &parts, options, options.downloads, download)?);
    }
    Ok(measured)
}

fn blobs(options: &Options) -> Result<Vec<Blob>> {
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .context("the clock is before 1970")?
        .as_secs();
    let authors = [Author::derive(options.seed, 0)];
    let mut rng = Rng::new("relay-bench blobs", options.seed);
    let blob = |_| {
        let mut bytes = vec![0; options.bytes];
        bytes.chunks_mut(8).for_each(|chunk| chunk.copy_from_slice(&rng.bits().to_le_bytes()[..chunk.len()]));
        let sha256 = hex::encode(&Sha256::digest(&bytes));
        let tag = |name: &str, value: &str| vec![name.to_owned(), value.to_owned()];
        let tags = vec![tag("t", "upload"), tag("x", &sha256), tag("expiration", &(now + 3_600).to_string())];
        let draft = Draft { author: 0, created_at: now, kind: TOKEN, tags, content: "upload".to_owned() };
        let token = BASE64_URL_SAFE_NO_PAD.encode(draft.finish(&authors).sign(&authors));
        Blob { sha256, bytes, token }
    };
    Ok((0..options.count).map(blob).collect())
}

fn measure(
    direction: &'static str,
    server: &Server,
    parts: &[Vec<&Blob>],
    options: &Options,
    times: usize,
    work: impl Fn(&mut Client, &Blob) -> Result<()> + Sync,
) -> Result<Measured> {
    let mut clients = parts.iter().map(|_| Client::open(server)).collect::<Result<Vec<_>>>()?;
    let before = server.process.map(|process| process.usage()).transpose()?;
    let start = Instant::now();
    std::thread::scope(|scope| {
        let threads: Vec<_> = clients
            .iter_mut()
            .zip(parts)
            .map(|(client, part)| {
                let work = &work;
                scope.spawn(move || part.iter().try_for_each(|blob| work(client, blob)))
            })
            .collect();
        threads.into_iter().try_for_each(|thread| thread.join().expect("no panic"))
    })?;
    let seconds = start.elapsed().as_secs_f64();
    let after = server.process.map(|process| process.usage()).transpose()?;
    let blobs = options.count * times;
    let bytes = (blobs * options.bytes) as f64;
    let used = before.zip(after);
    let cpu = used.as_ref().map(|(before, after)| after.cpu_since(before).as_secs_f64());
    Ok(Measured {
        direction,
        blobs,
        blobs_per_second: blobs as f64 / seconds,
        megabytes_per_second: bytes / seconds / 1e6,
        cpu_seconds_per_gigabyte: cpu.map(|cpu| cpu / bytes * 1e9),
        cpu_us_per_blob: cpu.map(|cpu| cpu / blobs as f64 * 1e6),
        resident_growth_bytes: used
            .map(|(before, after)| after.resident_bytes.cast_signed() - before.resident_bytes.cast_signed()),
    })
}

/// A keep-alive connection.
struct Client {
    authority: String,
    stream: BufReader<TcpStream>,
}

impl Client {
    fn open(server: &Server) -> Result<Self> {
        let stream = TcpStream::connect(&server.authority)
            .with_context(|| format!("connecting to {}", server.authority))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(READ_TIMEOUT))?;
        Ok(Client { authority: server.authority.clone(), stream: BufReader::with_capacity(1 << 18, stream) })
    }

    fn upload(&mut self, blob: &Blob) -> Result<()> {
        let head = format!(
            "PUT /upload HTTP/1.1\r\nhost: {}\r\nauthorization: Nostr {}\r\nx-sha-256: {}\r\ncontent-length: {}\r\n\
             content-type: application/octet-stream\r\n\r\n",
            self.authority,
            blob.token,
            blob.sha256,
            blob.bytes.len()
        );
        let stream = self.stream.get_mut();
        stream.write_all(head.as_bytes())?;
        stream.write_all(&blob.bytes)?;
        let (status, length) = self.head()?;
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        if status != 201 {
            bail!("an upload is answered {status}: {}", String::from_utf8_lossy(&body));
        }
        Ok(())
    }

    fn download(&mut self, blob: &Blob) -> Result<()> {
        let head = format!("GET /{} HTTP/1.1\r\nhost: {}\r\n\r\n", blob.sha256, self.authority);
        self.stream.get_mut().write_all(head.as_bytes())?;
        let (status, length) = self.head()?;
        if status != 200 || length != blob.bytes.len() {
            bail!("a download is answered {status} with {length} bytes");
        }
        let mut piece = vec![0; length.min(1 << 18)];
        for wanted in blob.bytes.chunks(1 << 18) {
            let piece = &mut piece[..wanted.len()];
            self.stream.read_exact(piece)?;
            if piece != wanted {
                bail!("other bytes than were uploaded");
            }
        }
        Ok(())
    }

    /// Status and length of a response.
    fn head(&mut self) -> Result<(u16, usize)> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            self.stream.read_exact(&mut byte).context("the connection ended")?;
            head.push(byte[0]);
            if head.len() > 64 << 10 {
                bail!("an endless head");
            }
        }
        let head = String::from_utf8_lossy(&head).to_lowercase();
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).context("no status")?;
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length:"))
            .context("no content-length")?
            .trim()
            .parse()?;
        Ok((status, length))
    }
}
