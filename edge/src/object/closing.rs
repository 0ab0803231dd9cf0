//! Closed sockets that still hold output. The platform sends the close frame after everything that is queued, so the
//! socket of a client that reads nothing remains, with all its output, until the client reads it or disconnects. The
//! session is over, but the memory is not free: its bytes count against the output memory that readers share, and
//! the socket counts as a connection.

use std::collections::HashMap;

use relay_engine::relay::ConnId;

use super::{Host, Key, Object, RowCountingConn};
use crate::settings::OUTPUT_BYTES_MAX;

/// Closing sockets, each with the bytes that were queued when it was closed.
#[derive(Debug, Default)]
pub(super) struct ClosingSockets {
    sockets: HashMap<Key, usize>,
    bytes: usize,
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

    /// A socket with nothing queued is not added: it closes at once.
    pub(super) fn insert(&mut self, key: Key, bytes: usize) {
        if bytes > 0 {
            self.remove(key);
            self.bytes += bytes;
            self.sockets.insert(key, bytes);
        }
    }

    /// The socket has closed. Before that its bytes count in full, even if its client has read some of them: the
    /// platform may count them so, too. Returns whether it was closing.
    pub(super) fn remove(&mut self, key: Key) -> bool {
        let bytes = self.sockets.remove(&key);
        self.bytes -= bytes.unwrap_or(0);
        bytes.is_some()
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
        let (key, bytes) = (conn.key, self.host.buffered_bytes(&conn.socket));
        self.host.attach(&conn.socket, &[]);
        self.host.close(&conn.socket, code, reason);
        self.closing.insert(key, bytes);
        self.end_session(id);
    }
}
