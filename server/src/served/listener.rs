//! The relay's side: it listens in the folder, and gives requests to the writer.

use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener as StdListener;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::Waiting;
use super::path::{NAME, with_short_path};
use super::protocol::{Answer, FRAME_BYTES_MAX, Request};
use crate::writer::ToWriter;

/// Commands that are connected at a time.
const CONNECTIONS_MAX: usize = 16;
/// Longest time from the first byte of a request to its last one, and for an answer to be taken.
const FRAME_TIME: Duration = Duration::from_secs(60);
/// Wait after a connection that could not be accepted.
const RETRY: Duration = Duration::from_millis(100);

/// The socket while the relay serves; removed when dropped.
#[derive(Debug)]
pub(crate) struct CommandSocket {
    path: PathBuf,
    accepting: JoinHandle<()>,
}

impl Drop for CommandSocket {
    fn drop(&mut self) {
        self.accepting.abort();
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Takes requests from now on. The caller has the right to serve the folder, so a socket that is there is one of a process that was
/// killed.
///
/// # Errors
/// If there can be no socket in the folder.
pub(crate) fn listen(
    folder: &Path,
    on: &Handle,
    writer: mpsc::Sender<ToWriter>,
) -> io::Result<CommandSocket> {
    let path = folder.join(NAME);
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = with_short_path(folder, |path| StdListener::bind(path))?;
    // Who connects before that is asked for its user (`run`).
    std::fs::set_permissions(&path, Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    let _guard = on.enter();
    let listener = UnixListener::from_std(listener)?;
    Ok(CommandSocket { path, accepting: on.spawn(run(listener, writer)) })
}

async fn run(listener: UnixListener, writer: mpsc::Sender<ToWriter>) {
    let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let own = rustix::process::geteuid().as_raw();
    loop {
        let Ok((mut stream, _)) = listener.accept().await else {
            tokio::time::sleep(RETRY).await;
            continue;
        };
        if !stream.peer_cred().is_ok_and(|peer| peer.uid() == own || peer.uid() == 0) {
            continue;
        }
        let Ok(permit) = Arc::clone(&connections).try_acquire_owned() else {
            let why = format!("{CONNECTIONS_MAX} commands are connected to the relay already");
            // A socket that nobody has written to takes that at once.
            let _ = stream.try_write(&Answer::Failed(why).frame());
            let _ = stream.shutdown().await;
            continue;
        };
        let writer = writer.clone();
        tokio::spawn(async move {
            let _permit = permit;
            if let Err(why) = serve(&mut stream, &writer).await {
                tracing::debug!(why, "a command's request is refused");
                let _ = timeout(FRAME_TIME, stream.write_all(&Answer::Failed(why).frame())).await;
                let _ = stream.shutdown().await;
            }
        });
    }
}

/// Answers requests until the command has no more.
async fn serve(stream: &mut UnixStream, writer: &mpsc::Sender<ToWriter>) -> Result<(), String> {
    loop {
        let mut first = [0];
        match stream.read(&mut first).await {
            Ok(1) => {}
            _ => return Ok(()),
        }
        let read = timeout(FRAME_TIME, read_frame(stream, first[0])).await;
        let frame = match read.map_err(|_| "the request does not come to an end".to_owned())?? {
            Some(frame) => frame,
            None => return Ok(()),
        };
        let request = Request::read(&frame)?;
        drop(frame);
        let (answer, answered) = oneshot::channel();
        let sent = writer.send(ToWriter::Served(Waiting { request, answer }));
        // Without an answer the writer has ended.
        let answer = match sent {
            Ok(()) => answered.await.map_err(|_| ()),
            Err(_) => Err(()),
        };
        let answer = answer.unwrap_or_else(|()| Answer::Failed("the relay is stopping".to_owned()));
        match timeout(FRAME_TIME, stream.write_all(&answer.frame())).await {
            Ok(Ok(())) => {}
            _ => return Ok(()),
        }
    }
}

/// The rest of a frame; `None` if the connection ends before. Memory is taken only for what has come.
async fn read_frame(stream: &mut UnixStream, first: u8) -> Result<Option<Vec<u8>>, String> {
    let mut bytes = [first, 0, 0, 0];
    if stream.read_exact(&mut bytes[1..]).await.is_err() {
        return Ok(None);
    }
    let bytes = u32::from_le_bytes(bytes) as usize;
    if bytes > FRAME_BYTES_MAX {
        return Err(format!("a request of {bytes} bytes is longer than {FRAME_BYTES_MAX}"));
    }
    let mut frame = Vec::new();
    let read = stream.take(bytes as u64).read_to_end(&mut frame).await;
    Ok((read.is_ok() && frame.len() == bytes).then_some(frame))
}
