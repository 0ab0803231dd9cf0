//! The commands' side: requests, one after another.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use relay_engine::store::Op;
use relay_engine::types::EventId;

use super::Numbered;
use super::path::with_short_path;
use super::protocol::{
    Answer, FRAME_BYTES_MAX, IDS_MAX, commit_frame, events_of_request, remove_frame, remove_pending_frame,
};
use crate::cli::exit::Failure;

/// Longest time that the relay takes for an answer. It may wait for shards that are behind, and for the disk.
const ANSWER_TIME: Duration = Duration::from_secs(300);

/// The relay that serves a folder.
#[derive(Debug)]
pub(crate) struct Client {
    folder: PathBuf,
    /// `None` after a failure: the next request connects again.
    stream: Mutex<Option<UnixStream>>,
}

impl Client {
    /// # Errors
    /// If no relay serves the folder, or this process may not ask it.
    pub(crate) fn connect(folder: &Path) -> io::Result<Self> {
        let stream = connect(folder)?;
        Ok(Client { folder: folder.to_owned(), stream: Mutex::new(Some(stream)) })
    }

    /// Stores events, in several steps if there are many.
    ///
    /// # Errors
    /// If the relay has ended, or its store fails. What was stored before stays; `done` has it.
    pub(crate) fn commit(&self, ops: &[Op], done: &mut Vec<Numbered>) -> Result<(), Failure> {
        let mut left = ops;
        while !left.is_empty() {
            let (now, later) = left.split_at(events_of_request(left));
            match self.ask(&commit_frame(now))? {
                Answer::Committed(outcomes) if outcomes.len() == now.len() => done.extend(outcomes),
                answer => return Err(self.unexpected(&answer)),
            }
            left = later;
        }
        Ok(())
    }

    /// Removes events.
    ///
    /// # Errors
    /// As those of `commit`.
    pub(crate) fn remove(&self, ids: &[EventId], done: &mut usize) -> Result<(), Failure> {
        for ids in ids.chunks(IDS_MAX) {
            match self.ask(&remove_frame(ids))? {
                Answer::Removed(events) => *done += events as usize,
                answer => return Err(self.unexpected(&answer)),
            }
        }
        Ok(())
    }

    /// A step of removing what was deleted. Whether there is more.
    ///
    /// # Errors
    /// As those of `commit`.
    pub(crate) fn remove_pending(&self) -> Result<bool, Failure> {
        match self.ask(&remove_pending_frame())? {
            Answer::RemovedPending { more } => Ok(more),
            answer => Err(self.unexpected(&answer)),
        }
    }

    fn ask(&self, request: &[u8]) -> Result<Answer, Failure> {
        if request.len() - 4 > FRAME_BYTES_MAX {
            let message =
                format!("an event of more than {FRAME_BYTES_MAX} bytes can't be given to the relay");
            return Err(Failure::External(message));
        }
        let mut connected = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        let mut stream = match connected.take() {
            Some(stream) => stream,
            None => connect(&self.folder).map_err(|error| {
                Failure::External(format!("no relay serves {} any more: {error}", self.folder.display()))
            })?,
        };
        let answer = exchange(&mut stream, request).map_err(|error| self.ended(&error))?;
        match answer {
            // The relay may close the connection then.
            Answer::Failed(why) => Err(Failure::External(why)),
            answer => {
                *connected = Some(stream);
                Ok(answer)
            }
        }
    }

    fn ended(&self, error: &io::Error) -> Failure {
        let folder = self.folder.display();
        Failure::External(match error.kind() {
            io::ErrorKind::InvalidData => format!("the relay that serves {folder}: {error}"),
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                format!(
                    "the relay that serves {folder} has not answered for {} seconds; it may have stored what it was given last",
                    ANSWER_TIME.as_secs()
                )
            }
            _ => format!(
                "the relay that serves {folder} has ended, or closed the connection ({error}); it may have stored what it was given last"
            ),
        })
    }

    fn unexpected(&self, answer: &Answer) -> Failure {
        Failure::External(format!(
            "the relay that serves {} answered what was not asked: {answer:?}",
            self.folder.display()
        ))
    }
}

fn connect(folder: &Path) -> io::Result<UnixStream> {
    let stream = with_short_path(folder, |path| UnixStream::connect(path))?;
    stream.set_read_timeout(Some(ANSWER_TIME))?;
    stream.set_write_timeout(Some(ANSWER_TIME))?;
    Ok(stream)
}

fn exchange(stream: &mut UnixStream, request: &[u8]) -> io::Result<Answer> {
    let invalid = |why: String| io::Error::new(io::ErrorKind::InvalidData, why);
    // A relay that refuses a request may have closed the connection before it is read; its answer says why.
    let written = stream.write_all(request);
    let mut bytes = [0; 4];
    if let Err(error) = stream.read_exact(&mut bytes) {
        return Err(written.err().unwrap_or(error));
    }
    let bytes = u32::from_le_bytes(bytes) as usize;
    if bytes > FRAME_BYTES_MAX {
        return Err(invalid(format!("an answer of {bytes} bytes")));
    }
    let mut frame = Vec::new();
    stream.take(bytes as u64).read_to_end(&mut frame)?;
    if frame.len() < bytes {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Answer::read(&frame).map_err(invalid)
}
