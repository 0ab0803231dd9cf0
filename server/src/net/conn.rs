//! One WebSocket connection: its task reads and waits, its backlog holds what the socket did not take.
//!
//! The task itself writes only the replies that the WebSocket protocol requires (pong, close); other output comes from the
//! shard's event loop, one write an iteration.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use relay_engine::relay::{Close, ConnId};
use relay_engine::store::Backend;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use super::ws_read::Reader;
use crate::shard::Shard;

/// How long a client may take to read the output before a close frame, and to answer it.
const CLOSE_WAIT: Duration = Duration::from_secs(3);
/// A backlog larger than this is given back when it is empty.
const BACKLOG_KEPT_BYTES: usize = 4096;

/// How far closing a connection has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Closing has not begun.
    Open,
    /// A close frame will follow what is queued.
    Closing,
    /// The last frame is written or in the backlog; the socket goes at this time at the latest.
    Closed(Instant),
    /// The socket is of no more use.
    Gone,
}

/// The part of a connection that its task and the event loop share.
pub(crate) struct Conn {
    pub(crate) id: ConnId,
    write: OwnedWriteHalf,
    backlog: RefCell<Backlog>,
    /// Output waits in the machine for the backlog to empty.
    pub(crate) has_more: Cell<bool>,
    /// A ping goes out in its turn, with what else there is.
    pub(crate) is_ping_queued: Cell<bool>,
    /// The machine wants no input now.
    pub(crate) is_paused: Cell<bool>,
    pub(crate) state: Cell<State>,
    close: RefCell<Option<Close>>,
    /// The client has sent a close frame; only the reply is still to be sent.
    peer_closed: Cell<bool>,
    /// Its stream cannot be parsed any more, so no answer to the close frame can be read: after it the sending side is
    /// shut down, which shows the client that this was all.
    has_fault: Cell<bool>,
    waker: RefCell<Option<Waker>>,
    is_signalled: Cell<bool>,
    /// When bytes last came, or a full socket accepted some again: both are signs of life. An idle socket
    /// that accepts bytes is not one.
    alive_at: Cell<Instant>,
    /// When bytes last left.
    progress_at: Cell<Instant>,
    pinged_at: Cell<Instant>,
}

/// Bytes that were rendered and not taken by the socket.
#[derive(Default)]
struct Backlog {
    bytes: Vec<u8>,
    written: usize,
}

impl Backlog {
    fn len(&self) -> usize {
        self.bytes.len() - self.written
    }

    /// Adds bytes. What has been written is given back first once it is half of all: a reader that never
    /// quite catches up must not make this grow.
    fn push(&mut self, bytes: &[u8]) {
        if self.written * 2 >= self.bytes.len() {
            self.bytes.drain(..self.written);
            self.written = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }
}

/// Why the task runs.
enum WakeReason {
    Read(usize),
    Writable,
    Signal,
    Gone,
}

impl Conn {
    pub(crate) fn new(id: ConnId, write: OwnedWriteHalf) -> Self {
        let now = Instant::now();
        Conn {
            id,
            write,
            backlog: RefCell::default(),
            has_more: Cell::new(false),
            is_ping_queued: Cell::new(false),
            is_paused: Cell::new(false),
            state: Cell::new(State::Open),
            close: RefCell::new(None),
            peer_closed: Cell::new(false),
            has_fault: Cell::new(false),
            waker: RefCell::new(None),
            is_signalled: Cell::new(false),
            alive_at: Cell::new(now),
            progress_at: Cell::new(now),
            pinged_at: Cell::new(now),
        }
    }

    /// Wakes the task that serves this connection.
    pub(crate) fn signal(&self) {
        self.is_signalled.set(true);
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    pub(crate) fn backlog_bytes(&self) -> usize {
        self.backlog.borrow().len()
    }

    pub(crate) fn has_backlog(&self) -> bool {
        self.backlog.borrow().len() > 0
    }

    /// Writes what the socket takes and keeps the rest. True if it took everything; bytes that reached the
    /// socket are counted into `written`.
    pub(crate) fn send(&self, bytes: &[u8], written: &mut usize) -> bool {
        let mut backlog = self.backlog.borrow_mut();
        let mut taken = 0;
        if backlog.len() == 0 {
            match self.write.try_write(bytes) {
                Ok(count) => taken = count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => {
                    tracing::debug!(%error, "a connection can't be written to");
                    drop(backlog);
                    self.end();
                    return false;
                }
            }
            // The clock of a stall starts when something begins to wait.
            self.progress_at.set(Instant::now());
        }
        *written += taken;
        if taken == bytes.len() {
            return true;
        }
        backlog.push(&bytes[taken..]);
        drop(backlog);
        self.signal();
        false
    }

    /// Writes from the backlog. True if it is empty now.
    fn send_backlog(&self, written: &mut usize) -> bool {
        let mut backlog = self.backlog.borrow_mut();
        match self.write.try_write(&backlog.bytes[backlog.written..]) {
            Ok(count) => {
                backlog.written += count;
                *written += count;
                let now = Instant::now();
                self.alive_at.set(now);
                self.progress_at.set(now);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => {
                tracing::debug!(%error, "a connection can't be written to");
                drop(backlog);
                self.end();
                return false;
            }
        }
        if backlog.len() > 0 {
            return false;
        }
        backlog.written = 0;
        backlog.bytes.clear();
        backlog.bytes.shrink_to(BACKLOG_KEPT_BYTES);
        true
    }

    /// A close frame is to follow what is queued; the first reason counts.
    pub(crate) fn begin_close(&self, close: Close) {
        if self.state.get() == State::Open {
            self.enter(State::Closing);
            *self.close.borrow_mut() = Some(close);
        }
    }

    /// The client's stream makes no sense any more: the close frame is the last thing between the two.
    pub(crate) fn close_after_fault(&self) {
        self.has_fault.set(true);
        self.signal();
    }

    /// The close frame, to be sent now; nothing may follow it.
    pub(crate) fn take_close(&self) -> Option<Close> {
        let close = self.close.borrow_mut().take()?;
        self.enter(State::Closed(Instant::now() + CLOSE_WAIT));
        Some(close)
    }

    /// Enters another state. The task is woken, since what kept it from reading may not count there: a
    /// connection that was paused when it was closed did not see the client's answer until its time was up.
    fn enter(&self, state: State) {
        self.state.set(state);
        self.signal();
    }

    /// The client has sent a close frame and the reply is queued.
    pub(crate) fn peer_closed(&self) {
        self.peer_closed.set(true);
        *self.close.borrow_mut() = None;
        if !matches!(self.state.get(), State::Closed(_) | State::Gone) {
            self.enter(State::Closed(Instant::now() + CLOSE_WAIT));
        }
    }

    /// Ends the connection without sending anything more.
    pub(crate) fn end(&self) {
        self.enter(State::Gone);
    }

    /// How long there has been no sign of life.
    pub(crate) fn silence(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.alive_at.get())
    }

    /// How long the backlog has not moved.
    pub(crate) fn stall(&self, now: Instant) -> Duration {
        match self.has_backlog() {
            true => now.saturating_duration_since(self.progress_at.get()),
            false => Duration::ZERO,
        }
    }

    /// Whether a ping is due, which is taken as sent then.
    pub(crate) fn is_ping_due(&self, now: Instant, every: Duration) -> bool {
        let due = self.silence(now) >= every && now.saturating_duration_since(self.pinged_at.get()) >= every;
        if due {
            self.pinged_at.set(now);
        }
        due
    }

    fn poll<B: Backend>(
        &self,
        shard: &Shard<B>,
        read: &mut OwnedReadHalf,
        context: &mut Context<'_>,
    ) -> Poll<WakeReason> {
        let backlog_len = self.backlog.borrow().len();
        let is_done = match self.state.get() {
            State::Gone => true,
            State::Closed(_) => self.peer_closed.get() && backlog_len == 0,
            State::Open | State::Closing => false,
        };
        if is_done {
            return Poll::Ready(WakeReason::Gone);
        }
        if self.is_signalled.take() {
            return Poll::Ready(WakeReason::Signal);
        }
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(context.waker())) {
            *waker = Some(context.waker().clone());
        }
        drop(waker);
        if backlog_len > 0 && self.write.as_ref().poll_write_ready(context).is_ready() {
            return Poll::Ready(WakeReason::Writable);
        }
        if matches!(self.state.get(), State::Closed(_)) && backlog_len == 0 && self.has_fault.take() {
            let socket: &TcpStream = self.write.as_ref();
            if let Err(error) = rustix::net::shutdown(socket, rustix::net::Shutdown::Write) {
                tracing::debug!(%error, "a connection can't be shut down");
                return Poll::Ready(WakeReason::Gone);
            }
        }
        let has_space = backlog_len < shard.backlog_bytes_max();
        // Once closing, input is read only to be dropped: unread input would reset the connection and the
        // client would never see why it was closed. After our close frame nothing is answered, so that input adds
        // nothing to the backlog.
        let wants_input = match self.state.get() {
            State::Open => shard.takes_input() && !self.is_paused.get() && has_space,
            State::Closing => has_space,
            State::Closed(_) | State::Gone => true,
        };
        if wants_input {
            let mut buffer = shard.read_buffer.borrow_mut();
            let mut buffer = ReadBuf::new(&mut buffer);
            return Poll::Ready(match ready!(Pin::new(read).poll_read(context, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => WakeReason::Read(buffer.filled().len()),
                Ok(()) => WakeReason::Gone,
                Err(error) => {
                    tracing::debug!(%error, "a connection can't be read");
                    WakeReason::Gone
                }
            });
        }
        Poll::Pending
    }
}

/// Serves a connection until it ends; `first` is what came after the handshake.
pub(crate) async fn run<B: Backend>(shard: &Rc<Shard<B>>, id: ConnId, stream: TcpStream, first: &[u8]) {
    let (mut read, write) = stream.into_split();
    let conn = Rc::new(Conn::new(id, write));
    let mut reader = Reader::new(shard.host.settings.limits.message_bytes_max);
    let _registered = shard.register(&conn);
    if !first.is_empty() {
        shard.receive(&conn, &mut reader, Some(first));
    }
    loop {
        match poll_fn(|context| conn.poll(shard, &mut read, context)).await {
            WakeReason::Gone => break,
            WakeReason::Read(len) => {
                conn.alive_at.set(Instant::now());
                let is_full = shard.receive_read(&conn, &mut reader, len);
                if is_full {
                    // There is more, and others want their turn: the batch at hand need not be closed yet.
                    shard.more_input.set(shard.more_input.get() + 1);
                    tokio::task::yield_now().await;
                    shard.more_input.set(shard.more_input.get() - 1);
                }
            }
            WakeReason::Writable => {
                let mut written = 0;
                let is_empty = conn.send_backlog(&mut written);
                shard.count_written(written);
                if is_empty {
                    shard.backlog_emptied(&conn);
                }
            }
            WakeReason::Signal => {
                // The client's answer to a close frame may be among what came before the pause.
                let resumes = match conn.state.get() {
                    State::Open => shard.takes_input() && !conn.is_paused.get(),
                    State::Closing | State::Closed(_) => true,
                    State::Gone => false,
                };
                if resumes && reader.has_pending() {
                    shard.receive(&conn, &mut reader, None);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Regression: while pings kept coming and their pongs were never quite read, the written part was kept for ever.
    #[test]
    fn a_backlog_that_is_never_empty_does_not_grow() {
        let mut backlog = Backlog::default();
        backlog.push(&[0; 1000]);
        for turn in 0..10_000_u32 {
            backlog.push(&turn.to_le_bytes().repeat(25));
            backlog.written += 100;
            assert_eq!(backlog.len(), 1000);
            assert!(backlog.bytes.len() <= 2200, "{}", backlog.bytes.len());
        }
        assert_eq!(backlog.bytes[backlog.written..][..4], 9990_u32.to_le_bytes());
    }
}
