//! Lines of a file or of standard input, read by a thread of its own: a signal must end the command even while a read from a
//! pipe blocks.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread;
use std::time::Duration;

use super::exit::Failure;
use crate::signals::Interrupt;

/// Lines in a batch.
const BATCH_LINES: usize = 8_192;
/// Longer lines are skipped: no event is as long as this.
const LINE_BYTES_MAX: usize = 16 << 20;
/// Some editors and other systems' exports begin a file with it.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
/// Interval at which the signal is polled.
const POLL: Duration = Duration::from_millis(50);

/// Lines that are not empty, each with its line number, counted from 1.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) lines: Vec<(u64, Vec<u8>)>,
    /// Bytes of the input that these lines take, line ends and empty lines included.
    pub(super) bytes: u64,
}

/// A JSON lines input that is being read.
#[derive(Debug)]
pub(super) struct JsonLines {
    receiver: Receiver<io::Result<Batch>>,
    /// Length of the input, if it is a file.
    pub(super) bytes: Option<u64>,
}

impl JsonLines {
    /// Opens a file, or standard input if there is none or it is `-`.
    pub(super) fn open(file: Option<&Path>) -> Result<Self, Failure> {
        let (input, bytes) = input(file)?;
        let (sender, receiver) = sync_channel(1);
        thread::spawn(move || {
            let mut reader = LineReader { input, line: 0 };
            loop {
                let batch = reader.batch();
                let is_last = !matches!(&batch, Ok(batch) if batch.bytes > 0);
                if sender.send(batch).is_err() || is_last {
                    return;
                }
            }
        });
        Ok(JsonLines { receiver, bytes })
    }

    /// The next batch; `None` at the end of the input, or after a signal.
    pub(super) fn next(&self, interrupt: &Interrupt) -> io::Result<Option<Batch>> {
        while !interrupt.has_come() {
            match self.receiver.recv_timeout(POLL) {
                Ok(batch) => return batch.map(|batch| (batch.bytes > 0).then_some(batch)),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(None),
            }
        }
        Ok(None)
    }
}

fn input(file: Option<&Path>) -> Result<(Box<dyn BufRead + Send>, Option<u64>), Failure> {
    match file {
        Some(path) if path != Path::new("-") => {
            let cannot = |error| Failure::External(format!("cannot read {}: {error}", path.display()));
            let file = File::open(path).map_err(cannot)?;
            let bytes = file.metadata().ok().filter(|data| data.is_file()).map(|data| data.len());
            Ok((Box::new(BufReader::with_capacity(1 << 20, file)), bytes))
        }
        _ => Ok((Box::new(BufReader::with_capacity(1 << 20, io::stdin())), None)),
    }
}

struct LineReader<R> {
    input: R,
    line: u64,
}

impl<R: BufRead> LineReader<R> {
    /// Without bytes at the end of the input.
    fn batch(&mut self) -> io::Result<Batch> {
        let mut batch = Batch::default();
        while batch.lines.len() < BATCH_LINES && batch.bytes < LINE_BYTES_MAX as u64 {
            let mut text = Vec::new();
            let read = read_line(&mut self.input, &mut text)?;
            if read == 0 {
                break;
            }
            self.line += 1;
            batch.bytes += read;
            if self.line == 1 && text.starts_with(BYTE_ORDER_MARK) {
                text.drain(..BYTE_ORDER_MARK.len());
            }
            if !text.iter().all(u8::is_ascii_whitespace) {
                batch.lines.push((self.line, text));
            }
        }
        Ok(batch)
    }
}

/// Reads one line without its line end. Of an overlong line only the first byte is kept, so that it is refused as malformed.
/// Returns the bytes read from the input, 0 at its end.
fn read_line(input: &mut dyn BufRead, line: &mut Vec<u8>) -> io::Result<u64> {
    let mut taken = (&mut *input).take(LINE_BYTES_MAX as u64).read_until(b'\n', line)? as u64;
    if line.last() == Some(&b'\n') {
        line.pop();
    } else if taken == LINE_BYTES_MAX as u64 {
        line.truncate(1);
        taken += skip_line(input)?;
    }
    Ok(taken)
}

fn skip_line(input: &mut dyn BufRead) -> io::Result<u64> {
    let mut skipped = 0;
    loop {
        let buffer = input.fill_buf()?;
        let end = buffer.iter().position(|byte| *byte == b'\n').map(|at| at + 1);
        let len = end.unwrap_or(buffer.len());
        if len == 0 {
            return Ok(skipped);
        }
        input.consume(len);
        skipped += len as u64;
        if end.is_some() {
            return Ok(skipped);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(input: &[u8]) -> Vec<(u64, String)> {
        let mut reader = LineReader { input, line: 0 };
        let mut lines = Vec::new();
        let mut bytes = 0;
        loop {
            let batch = reader.batch().unwrap();
            if batch.bytes == 0 {
                assert_eq!(bytes, input.len() as u64, "every byte is counted");
                return lines;
            }
            bytes += batch.bytes;
            lines
                .extend(batch.lines.into_iter().map(|(line, text)| (line, String::from_utf8(text).unwrap())));
        }
    }

    #[test]
    fn an_overlong_line_is_skipped_and_the_next_one_read() {
        let mut input = vec![b'x'; LINE_BYTES_MAX + 5];
        input.extend_from_slice(b"\nsecond\n\nfourth");
        assert_eq!(read(&input), [(1, "x".into()), (2, "second".into()), (4, "fourth".into())]);
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_the_first_line() {
        assert_eq!(read(b"\xef\xbb\xbfone\ntwo"), [(1, "one".into()), (2, "two".into())]);
        assert_eq!(read(b"\xef\xbb\xbf\ntwo"), [(2, "two".into())]);
        assert_eq!(read(b"one\n\xef\xbb\xbftwo")[1].1, "\u{feff}two", "elsewhere it is part of the line");
    }
}
