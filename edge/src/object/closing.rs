//! Closed sockets that still hold output. The platform sends the close frame after everything that is queued, so the
//! socket of a client that reads nothing remains, with all its output, until the client reads it or disconnects. The
//! session is over, but the memory is not free: its bytes count against the output memory that readers share, and
//! the socket counts as a connection, of its client address too.

use std::collections::HashMap;

use relay_engine::relay::ConnId;
use relay_engine::types::ClientAddress;

use super::{Host, Key, Object, RowCountingConn, attachment};
use crate::settings::OUTPUT_BYTES_MAX;

/// Closing sockets.
#[derive(Debug, Default)]
pub(super) struct ClosingSockets {
    sockets: HashMap<Key, ClosingSocket>,
    bytes: usize,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct ClosingSocket {
    /// Bytes that were queued when it was closed.
    bytes: usize,
    pub(super) address: Option<ClientAddress>,
}

/// With this many bytes in closing sockets, new clients are refused. Twice [`OUTPUT_BYTES_MAX`], because clients that read
/// may have that much queued, and all of it stays when they stop reading and are closed.
const BYTES_MAX: usize = 2 * OUTPUT_BYTES_MAX;

impl ClosingSockets {
    pub(super) fn len(&self) -> usize {
        self.sockets.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    fn insert(&mut self, key: Key, socket: ClosingSocket) {
        self.bytes += socket.bytes;
        self.sockets.insert(key, socket);
    }

    /// The socket has closed. Before that its bytes count in full, even if its client has read some of them: the
    /// platform may count them so, too. `None`: it was not closing.
    fn remove(&mut self, key: Key) -> Option<ClosingSocket> {
        let socket = self.sockets.remove(&key)?;
        self.bytes -= socket.bytes;
        Some(socket)
    }
}

impl<C: RowCountingConn + 'static, H: Host> Object<C, H> {
    /// Whether connections and closing sockets leave room for another client.
    pub(super) fn has_room(&self) -> bool {
        let sockets = self.conns.len() + self.closing.len();
        sockets < self.relay.config().limits.connections_max && self.closing.bytes() < BYTES_MAX
    }

    /// Closes a session's socket, and counts its queued bytes until it has closed.
    pub(super) fn close(&mut self, id: ConnId, code: u16, reason: &str) {
        let Some(conn) = self.conns.get(&id) else { return };
        let (key, address, bytes) = (conn.key, conn.address, self.host.buffered_bytes(&conn.socket));
        self.host.attach(&conn.socket, &attachment::ended(address));
        self.host.close(&conn.socket, code, reason);
        self.keep_closing(key, address, bytes);
        self.end_session(id);
    }

    /// Counts a socket until it has closed. One with nothing queued is not counted: it closes at once.
    pub(super) fn keep_closing(&mut self, key: Key, address: Option<ClientAddress>, bytes: usize) {
        if bytes > 0 {
            self.forget_closing(key);
            self.closing.insert(key, ClosingSocket { bytes, address });
            self.addresses.restore(address);
        }
    }

    /// A socket has closed. Returns whether it was counted.
    pub(super) fn forget_closing(&mut self, key: Key) -> bool {
        let socket = self.closing.remove(key);
        self.addresses.close(socket.and_then(|socket| socket.address));
        socket.is_some()
    }
}
