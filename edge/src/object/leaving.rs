//! Sockets that were closed while they held output. The platform sends a close behind what is queued, so the socket
//! of a reader that takes nothing stays, with all its output, until the reader takes it or is gone. Nobody serves it any
//! more, but it is memory: it counts against what readers may leave waiting, and against connections.

use std::collections::HashMap;

use relay_engine::relay::ConnId;

use super::{CountingConn, Host, Key, Object};
use crate::settings::OUTPUT_BYTES_MAX;

/// Sockets on their way out, and bytes that each held when it was closed.
#[derive(Debug, Default)]
pub(super) struct Leaving {
    sockets: HashMap<Key, usize>,
    bytes: usize,
}

/// Bytes of closed sockets from which no client is let in: what readers that read may leave has been given to those
/// that never will, several times over.
const BYTES_MAX: usize = 2 * OUTPUT_BYTES_MAX;

impl Leaving {
    pub(super) fn len(&self) -> usize {
        self.sockets.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn insert(&mut self, key: Key, bytes: usize) {
        if bytes > 0 {
            self.remove(key);
            self.bytes += bytes;
            self.sockets.insert(key, bytes);
        }
    }

    /// Its socket is gone. Until then the platform may go on counting what it held, whether or not it still does.
    pub(super) fn remove(&mut self, key: Key) -> bool {
        let held = self.sockets.remove(&key);
        self.bytes -= held.unwrap_or(0);
        held.is_some()
    }
}

impl<C: CountingConn + 'static, H: Host> Object<C, H> {
    /// Whether closed sockets leave room for another client.
    pub(super) fn has_room(&self) -> bool {
        let sockets = self.conns.len() + self.leaving.len();
        sockets < self.relay.config().limits.connections_max && self.leaving.bytes() < BYTES_MAX
    }

    /// Closes a session's socket, and keeps count of what it holds.
    pub(super) fn close(&mut self, id: ConnId, code: u16, reason: &str) {
        let Some(conn) = self.conns.get(&id) else { return };
        let (key, bytes) = (conn.key, self.host.buffered_bytes(&conn.socket));
        self.host.attach(&conn.socket, &[]);
        self.host.close(&conn.socket, code, reason);
        self.leaving.insert(key, bytes);
        self.forget(id);
    }
}
