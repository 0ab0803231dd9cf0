//! One shard: a thread with its own runtime, its own machine, and the connections they serve.
//!
//! The machine sits in a cell that is borrowed for single calls only, never across a wait. Connection tasks
//! feed it and wake the event loop, which alone drains it.

mod event_loop;
mod flush_queue;
mod handles;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use relay_engine::relay::{ClientInfo, Close, ConnId, Relay};
use relay_engine::store::{Backend, Reader as _, StoreError};
use relay_engine::verify::Verifier;
use relay_engine::wire::ReplyTarget;
use tokio::runtime::{Builder, LocalOptions};

use crate::host::{Inbox, ServerState, now};
use crate::log_throttle::LogThrottle;
use crate::metrics::{HostMetrics, ShardSnapshot};
use crate::net::addresses::AddressPermit;
use crate::net::conn::{Conn, State};
use crate::net::ws_read::{Flow, Reader, Received, StreamError};
use crate::net::ws_write;

/// Bytes read from one socket at a time, into one buffer for all.
const READ_BYTES_MAX: usize = 64 << 10;

/// A shard, on its own thread.
pub(crate) struct Shard<B> {
    pub(crate) host: Arc<ServerState>,
    number: usize,
    relay: RefCell<Relay<B>>,
    verifier: Arc<dyn Verifier>,
    conns: RefCell<HashMap<ConnId, Rc<Conn>>>,
    metrics: RefCell<HostMetrics>,
    /// Says now and then that readers stall.
    stalled: LogThrottle,
    store_errors: LogThrottle,
    pub(crate) read_buffer: RefCell<Box<[u8]>>,
    /// Where the frames of an iteration for one connection are rendered.
    scratch: RefCell<Vec<u8>>,
    /// Connections that the machine, or the shard itself, has output for.
    to_flush: RefCell<flush_queue::FlushQueue<ConnId>>,
    /// Connections that have filled the read buffer and are read again in the next iteration.
    pub(crate) more_input: Cell<usize>,
    /// Some shard is behind with live events: sockets are not read.
    is_congested: Cell<bool>,
    /// Commits sent to the writer and not answered.
    commits_out: Cell<usize>,
    stop: Cell<event_loop::Stop>,
    handles: handles::HandleState,
}

/// Runs a shard until it is stopped.
pub(crate) fn run<B: Backend + 'static>(
    host: Arc<ServerState>,
    number: usize,
    store: B,
    verifier: Arc<dyn Verifier>,
) {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).expect("the system gives random bytes");
    let mut relay = Relay::new(Arc::clone(&host.config), store, Arc::clone(&verifier), seed);
    relay.share_address_rates(Arc::clone(&host.address_rates));
    let shard = Rc::new(Shard {
        number,
        relay: RefCell::new(relay),
        verifier,
        conns: RefCell::default(),
        metrics: RefCell::default(),
        stalled: LogThrottle::default(),
        store_errors: LogThrottle::default(),
        read_buffer: RefCell::new(vec![0; READ_BYTES_MAX].into()),
        scratch: RefCell::default(),
        to_flush: RefCell::default(),
        more_input: Cell::new(0),
        is_congested: Cell::new(false),
        commits_out: Cell::new(0),
        stop: Cell::default(),
        handles: handles::HandleState::default(),
        host,
    });
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())
        .expect("a runtime for this thread");
    runtime.block_on(async {
        // A task of its own, so that it runs after the tasks that were ready before it.
        let event_loop = tokio::task::spawn_local(event_loop::run(shard));
        if let Err(error) = event_loop.await {
            std::panic::resume_unwind(error.into_panic());
        }
    });
}

impl<B: Backend> Shard<B> {
    fn inbox(&self) -> &Inbox {
        &self.host.inboxes[self.number]
    }

    fn wake_event_loop(&self) {
        self.inbox().wake.notify_one();
    }

    /// A client has finished its handshake. `None`: all connections are taken.
    pub(crate) fn connect(&self, client: ClientInfo) -> Option<ConnId> {
        self.relay.borrow_mut().connect(now(), client)
    }

    /// The socket of a connection is gone.
    pub(crate) fn disconnect(&self, id: ConnId) {
        self.relay.borrow_mut().disconnect(id);
        self.wake_event_loop();
    }

    /// Takes a connection into the table for as long as the returned value lives.
    pub(crate) fn register<'a>(&'a self, conn: &Rc<Conn>) -> impl Drop + use<'a, B> {
        self.conns.borrow_mut().insert(conn.id, Rc::clone(conn));
        // The machine may have spoken to it during the handshake.
        self.request_flush(conn.id);
        if self.stop.get().is_closing() {
            self.close_for_shutdown(conn);
        }
        Registered { shard: self, id: conn.id }
    }

    /// Whether sockets may be read for the machine.
    pub(crate) fn takes_input(&self) -> bool {
        !self.is_congested.get() && self.stop.get() == event_loop::Stop::No
    }

    /// Bytes of backlog from which on a connection is not read: its answers would only add to it.
    pub(crate) fn backlog_bytes_max(&self) -> usize {
        self.host.settings.network.iteration_bytes_max * 2
    }

    /// The first `len` bytes of the read buffer have come from a client. True if the buffer is full.
    pub(crate) fn receive_read(&self, conn: &Conn, reader: &mut Reader, len: usize) -> bool {
        let buffer = self.read_buffer.borrow();
        self.metrics.borrow_mut().bytes_read += len as u64;
        self.receive(conn, reader, Some(&buffer[..len]));
        len == buffer.len()
    }

    /// Bytes have come from a client, or a pause is over: the machine is given what they mean.
    pub(crate) fn receive(&self, conn: &Conn, reader: &mut Reader, bytes: Option<&[u8]>) {
        let (now, id) = (now(), conn.id);
        let mut output = Vec::new();
        let mut sink = |received: Received| {
            match received {
                Received::Closed => conn.peer_closed(),
                Received::Broken(_) => conn.close_after_fault(),
                _ => {}
            }
            if conn.state.get() != State::Open {
                return Flow::Go;
            }
            let mut relay = self.relay.borrow_mut();
            match received {
                Received::Text(text) => relay.handle_text(now, id, text.as_bytes()),
                Received::Binary => relay.handle_binary(id),
                Received::Oversized(bytes, reply_to) => relay.handle_oversized(id, bytes, reply_to),
                Received::Control | Received::Closed => return Flow::Go,
                Received::Broken(fault) => {
                    match fault {
                        // The connection ends with it: no id need be named.
                        StreamError::TooLong(bytes) => relay.handle_oversized(id, bytes, ReplyTarget::Notice),
                        StreamError::Utf8 => relay.handle_not_utf8(id),
                        StreamError::Protocol => {}
                    }
                    self.metrics.borrow_mut().closed_by_relay += 1;
                    let (code, reason) = fault.close();
                    conn.begin_close(Close { code, reason: reason.to_owned() });
                    self.request_flush(id);
                }
            }
            if relay.wants_input(id) {
                return Flow::Go;
            }
            conn.is_paused.set(true);
            Flow::Pause
        };
        let had_closed = matches!(conn.state.get(), State::Closed(_) | State::Gone);
        match bytes {
            Some(bytes) => reader.feed(bytes, &mut output, &mut sink),
            None => reader.resume(&mut output, &mut sink),
        };
        // Nothing may follow our own close frame, not even the reply to the client's.
        if !output.is_empty() && !had_closed {
            self.send(conn, &output);
        }
        self.wake_event_loop();
    }

    /// Writes now what can be written now. True if that was everything.
    fn send(&self, conn: &Conn, bytes: &[u8]) -> bool {
        let mut written = 0;
        let all = conn.send(bytes, &mut written);
        self.count_written(written);
        all
    }

    /// Drains a connection when its turn comes.
    fn request_flush(&self, id: ConnId) {
        self.to_flush.borrow_mut().push(id);
        self.wake_event_loop();
    }

    /// A connection's backlog has been written: what waits for that can follow.
    pub(crate) fn backlog_emptied(&self, conn: &Conn) {
        self.relay.borrow_mut().handle_backlog(conn.id, 0);
        if conn.has_more.take() || conn.state.get() == State::Closing {
            self.request_flush(conn.id);
        } else {
            // Requests that had waited for this reader may go on.
            self.wake_event_loop();
        }
    }

    /// Renders a connection's output and writes it, once. How many bytes it was.
    fn flush(&self, id: ConnId) -> usize {
        let Some(conn) = self.conns.borrow().get(&id).map(Rc::clone) else { return 0 };
        if matches!(conn.state.get(), State::Closed(_) | State::Gone) {
            return 0;
        }
        let sends_ping = conn.is_ping_queued.take();
        if conn.has_backlog() {
            conn.has_more.set(true);
            return 0;
        }
        let bytes_max = self.host.settings.network.iteration_bytes_max;
        let mut scratch = self.scratch.borrow_mut();
        scratch.clear();
        let has_more =
            self.relay.borrow_mut().drain(id, bytes_max, &mut |frame| ws_write::text(&mut scratch, frame));
        if sends_ping {
            ws_write::ping(&mut scratch);
        }
        if !has_more && let Some(close) = conn.take_close() {
            ws_write::close(&mut scratch, close.code, &close.reason);
        }
        if !scratch.is_empty() {
            let all = self.send(&conn, &scratch);
            if !all {
                self.relay.borrow_mut().handle_backlog(id, conn.backlog_bytes());
            }
            if has_more && all {
                self.request_flush(id);
            } else {
                conn.has_more.set(has_more);
            }
        }
        let bytes = scratch.len();
        // One long message must not hold its memory for ever.
        scratch.clear();
        scratch.shrink_to(2 * bytes_max);
        bytes
    }

    /// The connection ends once what is queued for it is out.
    fn close(&self, id: ConnId, close: Close) {
        let conn = self.conns.borrow().get(&id).map(Rc::clone);
        if let Some(conn) = conn {
            tracing::debug!(code = close.code, reason = close.reason, "closing a connection");
            self.metrics.borrow_mut().closed_by_relay += 1;
            conn.begin_close(close);
            self.request_flush(id);
        }
    }

    fn close_for_shutdown(&self, conn: &Conn) {
        conn.begin_close(Close { code: 1001, reason: "the relay is stopping".to_owned() });
        self.request_flush(conn.id);
    }

    pub(crate) fn with_store<T>(
        &self,
        read: impl FnOnce(&B) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        read(self.relay.borrow().store())
    }

    pub(crate) fn count_written(&self, bytes: usize) {
        if bytes > 0 {
            let mut metrics = self.metrics.borrow_mut();
            metrics.bytes_written += bytes as u64;
            metrics.writes += 1;
        }
    }

    pub(crate) fn count_http_request(&self) {
        self.metrics.borrow_mut().http_requests += 1;
    }

    fn snapshot(&self) -> ShardSnapshot {
        ShardSnapshot {
            shard: self.number,
            relay: self.relay.borrow().metrics().clone(),
            costliest: self.relay.borrow().costliest(now()),
            host: self.metrics.borrow().clone(),
            sockets: self.inbox().sockets.load(Ordering::Relaxed) as u64,
            store: match self.number {
                0 => Some(self.with_store(|store| store.reader()?.stats())),
                _ => None,
            },
            maintenance_failures: self.with_store(|store| Ok(store.maintenance_failures())).unwrap_or(0),
        }
    }
}

struct Registered<'a, B: Backend> {
    shard: &'a Shard<B>,
    id: ConnId,
}

impl<B: Backend> Drop for Registered<'_, B> {
    fn drop(&mut self) {
        self.shard.conns.borrow_mut().remove(&self.id);
        self.shard.wake_event_loop();
    }
}

/// A socket's slot in its shard, released when the socket is gone.
pub(crate) struct SocketSlot<B: Backend> {
    shard: Rc<Shard<B>>,
    _permit: Option<AddressPermit>,
}

impl<B: Backend> SocketSlot<B> {
    pub(crate) fn shard(&self) -> &Rc<Shard<B>> {
        &self.shard
    }

    /// The socket is that of a client with this permit of its address.
    pub(crate) fn set_permit(&mut self, permit: Option<AddressPermit>) {
        self._permit = permit;
    }
}

impl<B: Backend> Drop for SocketSlot<B> {
    fn drop(&mut self) {
        self.shard.inbox().sockets.fetch_sub(1, Ordering::Relaxed);
    }
}
